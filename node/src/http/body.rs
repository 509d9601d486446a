//! Request bodies, read within bounds of size and time; response bodies, written in pieces.

use std::io::Write;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, EXPECT};
use http_body_util::BodyExt;
use quorate_proto::ErrorCode;

use crate::api::ApiError;
use crate::inflight::{BytesInFlight, Charge};

/// Responses smaller than this aren't compressed.
const MIN_GZIP_BYTES: usize = 1_024;
/// How much of a refused request's body is read and thrown away, so that the client gets to read the
/// answer instead of a reset connection.
const DRAIN_BYTES: usize = 1 << 20;
/// How long that may take.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Bounds of one request body.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimits {
    pub(super) max_bytes: u64,
    pub(super) timeout: Duration,
}

/// Reads a body into memory, charging `budget` before memory is taken.
pub(super) async fn read_charged(
    headers: &HeaderMap,
    body: Body,
    limits: BodyLimits,
    budget: &BytesInFlight,
) -> Result<(Bytes, Charge), ApiError> {
    let declared = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if let Some(declared) = declared.filter(|declared| *declared > limits.max_bytes) {
        refuse(headers, body).await;
        return Err(too_large(limits, declared));
    }
    let mut charge = match budget.charge(declared.unwrap_or(0)) {
        Ok(charge) => charge,
        Err(error) => {
            refuse(headers, body).await;
            return Err(error);
        }
    };
    let received = tokio::time::timeout(limits.timeout, collect(body, limits, &mut charge)).await;
    let bytes = received.unwrap_or_else(|_| {
        Err(ApiError::new(
            ErrorCode::RequestTimeout,
            format!(
                "the request's body took more than {} ms to arrive",
                limits.timeout.as_millis()
            ),
        ))
    })?;
    Ok((bytes, charge))
}

/// Reads a body into memory that is small enough not to be charged to anything.
pub(super) async fn read(headers: &HeaderMap, body: Body, limits: BodyLimits) -> Result<Bytes, ApiError> {
    let unshared = BytesInFlight::new(limits.max_bytes);
    let (bytes, _charge) = read_charged(headers, body, limits, &unshared).await?;
    Ok(bytes)
}

async fn collect(mut body: Body, limits: BodyLimits, charge: &mut Charge) -> Result<Bytes, ApiError> {
    let declared = usize::try_from(charge.bytes()).unwrap_or(0);
    let mut first = Bytes::new();
    let mut received: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            ApiError::new(
                ErrorCode::BadData,
                format!("the request's body broke off: {error}"),
            )
        })?;
        let Ok(data) = frame.into_data() else { continue };
        let total = first.len() + received.len() + data.len();
        if total as u64 > limits.max_bytes {
            return Err(too_large(limits, total as u64));
        }
        charge.grow((total as u64).saturating_sub(charge.bytes()))?;
        if first.is_empty() && received.is_empty() {
            // Most bodies come in one piece, which needs no copy.
            first = data;
            continue;
        }
        if received.is_empty() {
            received.reserve_exact(declared.max(total));
            received.extend_from_slice(&first);
            first = Bytes::new();
        }
        received.extend_from_slice(&data);
    }
    Ok(if received.is_empty() {
        first
    } else {
        received.into()
    })
}

fn too_large(limits: BodyLimits, found: u64) -> ApiError {
    ApiError::new(
        ErrorCode::TooLarge,
        format!(
            "expected a body of at most {} bytes, found {found} or more",
            limits.max_bytes
        ),
    )
}

/// Reads and throws away the body of a request that is refused unread, within bounds.
pub(super) async fn refuse(headers: &HeaderMap, mut body: Body) {
    if headers.contains_key(EXPECT) {
        // The client waits for our word before it sends the body.
        return;
    }
    let drain = async {
        let mut drained = 0;
        while drained < DRAIN_BYTES {
            match body.frame().await {
                Some(Ok(frame)) => drained += frame.data_ref().map_or(0, Bytes::len),
                _ => return,
            }
        }
    };
    // Either way the answer is sent next.
    let _elapsed = tokio::time::timeout(DRAIN_TIMEOUT, drain).await;
}

/// Whether the client takes gzip.
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| {
            value.split(',').any(|offer| {
                let mut parts = offer.split(';').map(str::trim);
                let name = parts.next().unwrap_or_default();
                let refused = parts.any(|part| {
                    let weight = part.strip_prefix("q=").map(str::parse::<f32>);
                    matches!(weight, Some(Ok(weight)) if weight == 0.0)
                });
                (name.eq_ignore_ascii_case("gzip") || name == "*") && !refused
            })
        })
}

/// A body made of `pieces`, each produced when the client has taken the one before. Compressed if
/// `gzip`, unless it is small; the answer says whether it is.
pub(super) fn write(pieces: impl Iterator<Item = String> + Send + 'static, gzip: bool) -> (Body, bool) {
    let mut pieces = pieces.peekable();
    let first_bytes = pieces.peek().map_or(0, String::len);
    if !gzip || first_bytes < MIN_GZIP_BYTES {
        let pieces = pieces.map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece)));
        return (Body::from_stream(stream::iter(pieces)), false);
    }
    let encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let compressed = Compressed {
        pieces,
        encoder: Some(encoder),
    };
    (Body::from_stream(stream::iter(compressed)), true)
}

struct Compressed<I> {
    pieces: I,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl<I: Iterator<Item = String>> Iterator for Compressed<I> {
    type Item = std::io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        let encoder = self.encoder.as_mut()?;
        for piece in self.pieces.by_ref() {
            if let Err(error) = encoder.write_all(piece.as_bytes()) {
                return Some(Err(error));
            }
            if !encoder.get_ref().is_empty() {
                return Some(Ok(std::mem::take(encoder.get_mut()).into()));
            }
        }
        Some(self.encoder.take()?.finish().map(Bytes::from))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn accepted_encodings() {
        for (value, takes) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("*", true),
            ("gzip;q=0", false),
            ("deflate", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, value.parse().unwrap())]);
            assert_eq!(takes_gzip(&headers), takes, "{value}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn large_answers_are_compressed() {
        let pieces: Vec<String> = (0..50).map(|piece| format!("{piece:05000}")).collect();
        let text = pieces.concat();
        let (body, compressed) = write(pieces.into_iter(), true);
        assert!(compressed);
        let bytes = body.collect().await.unwrap().to_bytes();
        assert!(bytes.len() < text.len() / 10);
        let mut plain = String::new();
        flate2::read::GzDecoder::new(bytes.as_ref())
            .read_to_string(&mut plain)
            .unwrap();
        assert_eq!(plain, text);
    }

    #[tokio::test]
    async fn small_answers_are_not() {
        let (body, compressed) = write(["small".to_string()].into_iter(), true);
        assert!(!compressed);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "small");
    }

    #[tokio::test]
    async fn bodies_without_a_declared_length_are_bounded_and_charged() {
        let limits = BodyLimits {
            max_bytes: 100,
            timeout: Duration::from_secs(5),
        };
        let budget = BytesInFlight::new(80);
        let body = |pieces: usize| {
            Body::from_stream(stream::iter(
                (0..pieces).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(&[7; 30]))),
            ))
        };
        let none = HeaderMap::new();
        let (bytes, charge) = read_charged(&none, body(2), limits, &budget).await.unwrap();
        assert_eq!((bytes.len(), charge.bytes(), budget.used()), (60, 60, 60));
        drop(charge);
        let error = read_charged(&none, body(3), limits, &budget).await.unwrap_err();
        assert_eq!((error.code, budget.used()), (ErrorCode::Overloaded, 0));
        let wide = BytesInFlight::new(1_000);
        let error = read_charged(&none, body(4), limits, &wide).await.unwrap_err();
        assert_eq!((error.code, wide.used()), (ErrorCode::TooLarge, 0));
    }
}
