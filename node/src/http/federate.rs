//! `GET /federate`: the newest sample of each selected series, in Prometheus's text format.

use std::fmt::Write as _;

use axum::extract::{Request, State};
use axum::response::Response;
use http::HeaderValue;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, VARY};
use quorate_proto::ErrorCode;
use quorate_query::parse_selector;
use quorate_storage::Labels;

use super::query;
use super::{App, body};
use crate::api::{ApiError, RawParams, RawSeries};

const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;

pub(super) async fn federate(State(app): State<App>, request: Request) -> Response {
    let gzip = body::takes_gzip(request.headers());
    match latest(&app, request).await {
        Ok(series) => text(&series, gzip),
        Err(error) => query::failure(&error),
    }
}

/// The series with a sample within the lookback that says something, and that sample.
async fn latest(app: &App, request: Request) -> Result<Vec<(Labels, i64, f64)>, ApiError> {
    let (asked, _) = query::ask(app, request).await?;
    let bad = |what: String| ApiError::new(ErrorCode::BadData, what);
    let mut matchers = Vec::new();
    for selector in asked.params.all("match[]") {
        matchers.push(parse_selector(&selector).map_err(|e| bad(e.to_string()))?);
    }
    let now_ms = app.clock.now_ms();
    let lookback_ms = asked.params.lookback_ms()?.unwrap_or(app.limits.lookback_ms);
    if matchers.is_empty() {
        return Ok(Vec::new());
    }
    let params = RawParams {
        matchers,
        start_ms: now_ms.saturating_sub(lookback_ms).saturating_add(1),
        end_ms: now_ms,
        read: asked.params.read_options()?,
    };
    let answer = asked.apis.query.raw(asked.caller, params).await?;
    let mut found: Vec<(Labels, i64, f64)> = answer.value.into_iter().filter_map(newest).collect();
    found.sort_by(|(a, ..), (b, ..)| (name_of(a), a).cmp(&(name_of(b), b)));
    Ok(found)
}

fn newest(series: RawSeries) -> Option<(Labels, i64, f64)> {
    let (time_ms, value) = (series.samples.timestamps.last()?, series.samples.values.last()?);
    let says_something = value.to_bits() != STALE_NAN_BITS && !name_of(&series.labels).is_empty();
    says_something.then_some((series.labels, *time_ms, *value))
}

fn name_of(labels: &Labels) -> &str {
    labels.get("__name__").unwrap_or_default()
}

fn text(series: &[(Labels, i64, f64)], gzip: bool) -> Response {
    let mut pieces = Vec::new();
    for family in series.chunk_by(|(a, ..), (b, ..)| name_of(a) == name_of(b)) {
        let mut piece = String::new();
        let name = family.first().map_or("", |(labels, ..)| name_of(labels));
        let _infallible = writeln!(piece, "# TYPE {} untyped", quoted_unless_plain(name));
        for (labels, time_ms, value) in family {
            push_line(&mut piece, name, labels, *time_ms, *value);
        }
        pieces.push(piece);
    }
    let (body, compressed) = body::write(pieces.into_iter(), gzip);
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    let media = "text/plain; version=0.0.4; charset=utf-8";
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    if compressed {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// `name{label="value",…} value milliseconds`. Like Prometheus, gives each series an `instance`, so that the one that
/// federates does not add its own.
fn push_line(out: &mut String, name: &str, labels: &Labels, time_ms: i64, value: f64) {
    let plain = is_plain(name);
    let mut pairs: Vec<String> = Vec::new();
    if plain {
        out.push_str(name);
    } else {
        pairs.push(quoted_unless_plain(name));
    }
    let others = labels.iter().filter(|(label, _)| *label != "__name__");
    pairs
        .extend(others.map(|(label, value)| format!("{}=\"{}\"", quoted_unless_plain(label), escape(value))));
    if labels.get("instance").is_none() {
        pairs.push("instance=\"\"".to_owned());
    }
    let _infallible = writeln!(out, "{{{}}} {} {time_ms}", pairs.join(","), number(value));
}

fn is_plain(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
    !name.is_empty() && name.bytes().all(word) && !name.starts_with(|first: char| first.is_ascii_digit())
}

fn quoted_unless_plain(name: &str) -> String {
    match is_plain(name) {
        true => name.to_owned(),
        false => format!("\"{}\"", escape(name)),
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace('"', "\\\"")
}

/// Go's `%g`.
fn number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let size: i32 = exponent.parse().unwrap_or(0);
    if value == 0.0 || (-4..6).contains(&size) {
        return format!("{value}");
    }
    let sign = if size < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", size.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let line = |pairs: &[(&str, &str)], value: f64| {
            let labels = Labels::from_pairs(pairs.iter().copied()).unwrap();
            let mut out = String::new();
            push_line(&mut out, name_of(&labels), &labels, 1_500, value);
            out
        };
        let up = [("__name__", "up"), ("instance", "a"), ("job", "x\"y\\z\n")];
        assert_eq!(
            line(&up, 1.0),
            "up{instance=\"a\",job=\"x\\\"y\\\\z\\n\"} 1 1500\n"
        );
        let dotted = [("__name__", "a.b"), ("c d", "e")];
        assert_eq!(
            line(&dotted, 1e-7),
            "{\"a.b\",\"c d\"=\"e\",instance=\"\"} 1e-07 1500\n"
        );
    }
}
