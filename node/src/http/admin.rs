//! Health, readiness, figures, and what Grafana asks before it trusts a data source.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use http::{HeaderMap, HeaderValue, StatusCode};
use quorate_proto::ErrorCode;

use super::{App, body, query};
use crate::api::ApiError;

/// The Prometheus whose API this is. Grafana switches features by it.
const BUILD_INFO: &str = concat!(
    "{\"version\":\"3.14.0\",\"revision\":\"quorate-",
    env!("CARGO_PKG_VERSION"),
    "\",\"branch\":\"\",\"buildUser\":\"\",\"buildDate\":\"\",\"goVersion\":\"\"}"
);

/// The process runs. Says nothing about whether it can serve: restarting it wouldn't help.
pub(super) async fn healthy() -> Response {
    "quorate is healthy.\n".into_response()
}

/// Whether requests should be sent here; if not, what the node waits for, a line each.
pub(super) async fn ready(State(app): State<App>) -> Response {
    let pending = app.backend.pending();
    match pending.is_empty() {
        true => "quorate is ready.\n".into_response(),
        false => {
            let text = format!("quorate is not ready:\n{}\n", pending.join("\n"));
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

pub(super) async fn metrics(State(app): State<App>, headers: HeaderMap) -> Response {
    let Ok(text) = app.metrics.render() else {
        return query::failure(&ApiError::new(
            ErrorCode::Internal,
            "the figures can't be written",
        ));
    };
    let accepted = headers
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let media = match accepted.contains("application/openmetrics-text") {
        true => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        false => "text/plain; version=0.0.4; charset=utf-8",
    };
    let (body, compressed) = body::write(std::iter::once(text), body::takes_gzip(&headers));
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
        .headers_mut()
        .insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    if compressed {
        response
            .headers_mut()
            .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

pub(super) async fn build_info() -> Response {
    query::constant(BUILD_INFO)
}

/// Metric metadata isn't kept.
pub(super) async fn metadata() -> Response {
    query::constant("{}")
}

/// Answer to an `OPTIONS` request; the headers are added for every response.
pub(super) async fn preflight() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// Nothing lives at this path.
pub(super) async fn nothing_here() -> Response {
    query::failure(&ApiError::new(
        ErrorCode::NotFound,
        "no such page or API endpoint",
    ))
}

/// The path exists, for another method.
pub(super) async fn wrong_method() -> Response {
    (
        StatusCode::METHOD_NOT_ALLOWED,
        "this method is not allowed here\n",
    )
        .into_response()
}
