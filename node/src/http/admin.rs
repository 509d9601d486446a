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

/// What a Prometheus without rules, targets and alertmanagers answers, by path.
pub(super) const EMPTY: [(&str, &str); 8] = [
    ("/api/v1/alerts", "{\"alerts\":[]}"),
    ("/api/v1/rules", "{\"groups\":[]}"),
    (
        "/api/v1/targets",
        "{\"activeTargets\":[],\"droppedTargets\":[],\"droppedTargetCounts\":{}}",
    ),
    ("/api/v1/targets/metadata", "[]"),
    (
        "/api/v1/alertmanagers",
        "{\"activeAlertmanagers\":[],\"droppedAlertmanagers\":[]}",
    ),
    ("/api/v1/scrape_pools", "{\"scrapePools\":[]}"),
    ("/api/v1/notifications", "[]"),
    ("/api/v1/status/walreplay", "{\"min\":0,\"max\":0,\"current\":0}"),
];

/// The process, as far as Prometheus's shape has room for it.
pub(super) async fn runtime_info(State(app): State<App>) -> Response {
    let now = jiff::Timestamp::from_millisecond(app.clock.now_ms()).unwrap_or_default();
    let started = jiff::Timestamp::from_millisecond(app.started_ms).unwrap_or_default();
    let setting = |name: &str| {
        let found = app.limits.settings.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value.as_str()).to_owned()
    };
    let directory = std::env::current_dir().unwrap_or_default();
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let data = serde_json::json!({
        "startTime": started.to_string(),
        "CWD": directory.display().to_string(),
        "hostname": hostname,
        "serverTime": now.to_string(),
        "reloadConfigSuccess": true,
        "lastConfigTime": started.to_string(),
        "corruptionCount": 0,
        "goroutineCount": 0,
        "GOMAXPROCS": std::thread::available_parallelism().map_or(1, usize::from),
        "GOMEMLIMIT": i64::MAX,
        "GOGC": "",
        "GODEBUG": "",
        "storageRetention": setting("limits.retention"),
    });
    query::constant(data.to_string())
}

/// The configuration in force, as YAML.
pub(super) async fn config(State(app): State<App>) -> Response {
    let mut yaml = String::new();
    let mut section = "";
    for (path, value) in app.limits.settings.iter() {
        let (outer, name) = path.rsplit_once('.').unwrap_or(("", path));
        if outer != section && !outer.is_empty() {
            yaml.push_str(&format!("{outer}:\n"));
        }
        section = outer;
        let indent = if outer.is_empty() { "" } else { "  " };
        let value = serde_json::Value::from(value.as_str());
        yaml.push_str(&format!("{indent}{name}: {value}\n"));
    }
    query::constant(serde_json::json!({"yaml": yaml}).to_string())
}

/// The same as flags.
pub(super) async fn flags(State(app): State<App>) -> Response {
    let flags: serde_json::Map<String, serde_json::Value> = app
        .limits
        .settings
        .iter()
        .map(|(path, value)| {
            let flag = crate::config::flag(path);
            (flag.trim_start_matches('-').to_owned(), value.as_str().into())
        })
        .collect();
    query::constant(serde_json::Value::from(flags).to_string())
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
