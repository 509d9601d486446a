//! `status/tsdb`: which metrics and labels have the most series.

use axum::extract::{Request, State};
use axum::response::Response;
use http::request::Parts;
use quorate_proto::ErrorCode;
use serde_json::{Value, json};

use super::params::Params;
use super::{App, query, tenant};
use crate::api::ApiError;
use crate::cardinality::NodeCardinality;

const DEFAULT_LIMIT: usize = 10;
/// Prometheus's bound.
const MAX_LIMIT: usize = 10_000;

/// Of the replicas on this node, in Prometheus's shape.
pub(super) async fn tsdb(State(app): State<App>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    match counted(&app, &head).await {
        Ok(text) => query::constant(text),
        Err(error) => query::failure(&error),
    }
}

async fn counted(app: &App, head: &Parts) -> Result<String, ApiError> {
    let limit = limit(head.uri.query().unwrap_or_default())?;
    let tenant = tenant(&head.headers)?;
    let count = app.backend.apis()?.cardinality.clone();
    let counted = tokio::task::spawn_blocking(move || count(&tenant)).await;
    let counted = counted.map_err(|_| ApiError::new(ErrorCode::ShuttingDown, "the node is stopping"))?;
    Ok(head_stats(&counted, limit).to_string())
}

fn limit(url_query: &str) -> Result<usize, ApiError> {
    let params = Params::new(&[], url_query)?;
    let Some(text) = params.get("limit") else {
        return Ok(DEFAULT_LIMIT);
    };
    let limit = text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
    limit.ok_or_else(|| {
        let message = format!("limit must be a number from 1 to {MAX_LIMIT}, not {text:?}");
        ApiError::new(ErrorCode::BadData, message)
    })
}

fn head_stats(counted: &NodeCardinality, limit: usize) -> Value {
    let list = |entries: Vec<(String, u64)>| -> Value {
        let entry = |(name, value)| json!({"name": name, "value": value});
        entries.into_iter().map(entry).collect()
    };
    let series = &counted.series;
    // An empty head of Prometheus has these bounds.
    let (min_ms, max_ms) = series.newest_ms.unwrap_or((i64::MAX, i64::MIN));
    json!({
        "headStats": {
            "numSeries": series.active_series,
            "numLabelPairs": series.label_pairs(),
            "chunkCount": series.head_chunks,
            "minTime": min_ms,
            "maxTime": max_ms,
        },
        "seriesCountByMetricName": list(series.series_by_metric(limit)),
        "labelValueCountByLabelName": list(series.values_by_label(limit)),
        "memoryInBytesByLabelName": list(series.value_bytes_by_label(limit)),
        "seriesCountByLabelValuePair": list(series.series_by_pair(limit)),
    })
}
