//! `POST /api/v1/write`: Prometheus remote write 1.0.

use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use quorate_proto::ErrorCode;

use super::{App, body, tenant};
use crate::api::{ApiError, Caller, RemoteWrite, WriteReport};

pub(super) async fn remote_write(State(app): State<App>, request: Request) -> Response {
    match receive(&app, request).await {
        Ok(report) if report.rejections.is_empty() => plain(StatusCode::NO_CONTENT, String::new()),
        Ok(report) => plain(StatusCode::BAD_REQUEST, refusals(&report)),
        Err(error) => refused(&error),
    }
}

async fn receive(app: &App, request: Request) -> Result<WriteReport, ApiError> {
    let (parts, body) = request.into_parts();
    let deadline = Instant::now() + app.limits.write_timeout;
    // The media type is judged before the body is looked at: a message of another protocol would
    // otherwise be answered as a broken one, and dropped by the sender.
    let checked = check_media(&parts.headers).and_then(|()| {
        let tenant = tenant(&parts.headers)?;
        Ok((tenant, app.backend.apis()?.write.clone()))
    });
    let (tenant, api) = match checked {
        Ok(checked) => checked,
        Err(error) => {
            body::refuse(&parts.headers, body).await;
            return Err(error);
        }
    };
    let (body, charge) = body::read_charged(
        &parts.headers,
        body,
        app.limits.write_body,
        app.metrics.bytes_in_flight(),
    )
    .await?;
    let write = RemoteWrite {
        caller: Caller { tenant, deadline },
        body,
        charge,
    };
    let resolved = tokio::time::timeout_at(deadline.into(), api.remote_write(write)).await;
    resolved.unwrap_or_else(|_| {
        let ms = app.limits.write_timeout.as_millis();
        Err(ApiError::new(
            ErrorCode::Timeout,
            format!("the write took more than {ms} ms"),
        ))
    })
}

/// Checks that the body claims to be a snappy-compressed remote-write 1.0 message. Like Prometheus,
/// takes a missing header for that.
fn check_media(headers: &HeaderMap) -> Result<(), ApiError> {
    let unsupported = |message: String| Err(ApiError::new(ErrorCode::UnsupportedMedia, message));
    if let Some(value) = headers.get(CONTENT_TYPE) {
        let text = String::from_utf8_lossy(value.as_bytes());
        let mut parts = text.split(';').map(str::trim);
        if !parts
            .next()
            .unwrap_or_default()
            .eq_ignore_ascii_case("application/x-protobuf")
        {
            return unsupported(format!(
                "expected Content-Type application/x-protobuf, found {text}"
            ));
        }
        for part in parts {
            let Some((name, message)) = part.split_once('=') else {
                continue;
            };
            let known = message.trim_matches('"') == "prometheus.WriteRequest";
            if name.trim().eq_ignore_ascii_case("proto") && !known {
                return unsupported(format!(
                    "expected the message prometheus.WriteRequest (remote write 1.0), found {message}"
                ));
            }
        }
    }
    match headers.get(CONTENT_ENCODING) {
        Some(value) if !value.as_bytes().eq_ignore_ascii_case(b"snappy") => {
            let found = String::from_utf8_lossy(value.as_bytes());
            unsupported(format!("expected Content-Encoding snappy, found {found}"))
        }
        _ => Ok(()),
    }
}

/// What was refused, for the sender's log: totals first, then each reason with its first case.
fn refusals(report: &WriteReport) -> String {
    let refused: u64 = report.rejections.iter().map(|refused| refused.samples).sum();
    let all = refused
        .saturating_add(report.stored)
        .saturating_add(report.duplicates);
    let mut out = format!("{refused} of {all} samples were refused, the others are stored");
    for rejection in &report.rejections {
        out.push_str(&format!(
            "; {} {}, first: {}",
            rejection.samples, rejection.reason, rejection.first
        ));
    }
    out
}

fn refused(error: &ApiError) -> Response {
    let status = StatusCode::from_u16(error.code.http()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let mut response = plain(status, error.to_string());
    add_retry_after(&mut response, error);
    response
}

/// Adds `Retry-After`, in whole seconds and at least one, to the answer of a passing failure.
pub(super) fn add_retry_after(response: &mut Response, error: &ApiError) {
    if error.code.retryable() {
        let seconds = error.retry_after_ms.unwrap_or(1_000).div_ceil(1_000).max(1);
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
}

fn plain(status: StatusCode, mut text: String) -> Response {
    if !text.is_empty() {
        text.push('\n');
    }
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    if status != StatusCode::NO_CONTENT {
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, plain);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media() {
        let check = |content_type: Option<&str>, encoding: Option<&str>| {
            let pairs = [(CONTENT_TYPE, content_type), (CONTENT_ENCODING, encoding)];
            let given = pairs
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?.parse().unwrap())));
            check_media(&given.collect()).map_err(|error| error.code)
        };
        let unsupported = Err(ErrorCode::UnsupportedMedia);
        let protobuf = Some("application/x-protobuf");
        for good in [
            "application/x-protobuf",
            "Application/X-Protobuf; charset=x",
            "application/x-protobuf;proto=prometheus.WriteRequest",
            "application/x-protobuf; proto=\"prometheus.WriteRequest\"",
        ] {
            assert_eq!(check(Some(good), Some("snappy")), Ok(()), "{good}");
        }
        for bad in [
            "application/json",
            "",
            "text/plain",
            "application/x-protobuf;proto=io.prometheus.write.v2.Request",
            "application/x-protobuf;proto=",
        ] {
            assert_eq!(check(Some(bad), Some("snappy")), unsupported, "{bad}");
        }
        for bad in ["gzip", "", "zstd", "snappy, gzip"] {
            assert_eq!(check(protobuf, Some(bad)), unsupported, "{bad}");
        }
        assert_eq!(check(None, None), Ok(()));
    }
}
