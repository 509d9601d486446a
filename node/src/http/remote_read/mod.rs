//! `POST /api/v1/read`: Prometheus remote read, as samples or as a stream of XOR chunks.

mod messages;
mod xor;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use futures_util::stream;
use http::HeaderValue;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use prost::Message as _;
use quorate_proto::ErrorCode;
use quorate_storage::{MatchOp, Matcher};

use super::query::{self, Asked};
use super::{App, body};
use crate::api::{ApiError, RawParams, RawSeries};
use messages::{
    Chunk, ChunkedReadResponse, ChunkedSeries, Label, LabelMatcher, Query, QueryResult, ReadRequest,
    ReadResponse, SAMPLES, STREAMED_XOR_CHUNKS, Sample, TimeSeries, XOR,
};

/// Most bytes of a request after decompression.
const MAX_REQUEST_BYTES: usize = 4 << 20;
/// Most queries of a request.
const MAX_QUERIES: usize = 100;
/// Size from which a frame of the stream is closed, in bytes of chunks.
const FRAME_BYTES: usize = 1 << 20;

pub(super) async fn read(State(app): State<App>, request: Request) -> Response {
    match answer(&app, request).await {
        Ok(response) => response,
        Err(error) => query::failure(&error),
    }
}

async fn answer(app: &App, request: Request) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, app.limits.query_body).await?;
    let request = decode(&bytes)?;
    // The body is no form: what is left are the parameters of the URL.
    parts.method = http::Method::GET;
    let (asked, _) = query::ask(app, Request::from_parts(parts, Body::empty())).await?;
    let mut results = Vec::with_capacity(request.queries.len());
    for query in &request.queries {
        results.push(select(&asked, query).await?);
    }
    let accepted = &request.accepted_response_types;
    let wanted = accepted
        .iter()
        .find(|kind| [SAMPLES, STREAMED_XOR_CHUNKS].contains(kind));
    match wanted {
        Some(&STREAMED_XOR_CHUNKS) => Ok(streamed(results)),
        Some(_) => samples(results),
        None if accepted.is_empty() => samples(results),
        None => Err(ApiError::new(
            ErrorCode::BadData,
            format!(
                "expected SAMPLES or STREAMED_XOR_CHUNKS among the accepted response types, found {accepted:?}"
            ),
        )),
    }
}

fn decode(bytes: &[u8]) -> Result<ReadRequest, ApiError> {
    let bad = |what: String| ApiError::new(ErrorCode::BadData, what);
    let length =
        snap::raw::decompress_len(bytes).map_err(|e| bad(format!("the body is no snappy block: {e}")))?;
    if length > MAX_REQUEST_BYTES {
        let message = format!("expected a request of at most {MAX_REQUEST_BYTES} bytes, found {length}");
        return Err(ApiError::new(ErrorCode::TooLarge, message));
    }
    let plain = snap::raw::Decoder::new()
        .decompress_vec(bytes)
        .map_err(|e| bad(format!("the body is no snappy block: {e}")))?;
    let request = ReadRequest::decode(plain.as_slice())
        .map_err(|e| bad(format!("the body is no prometheus.ReadRequest: {e}")))?;
    if request.queries.len() > MAX_QUERIES {
        return Err(bad(format!(
            "expected at most {MAX_QUERIES} queries, found {}",
            request.queries.len()
        )));
    }
    Ok(request)
}

async fn select(asked: &Asked, query: &Query) -> Result<Vec<RawSeries>, ApiError> {
    let matchers = query
        .matchers
        .iter()
        .map(matcher)
        .collect::<Result<Vec<_>, _>>()?;
    if matchers.iter().all(Matcher::matches_empty) {
        let message = "expected at least one matcher that does not match the empty string";
        return Err(ApiError::new(ErrorCode::BadData, message));
    }
    let params = RawParams {
        matchers: vec![matchers],
        start_ms: query.start_ms,
        end_ms: query.end_ms,
        read: asked.params.read_options()?,
    };
    Ok(asked.apis.query.raw(asked.caller.clone(), params).await?.value)
}

fn matcher(matcher: &LabelMatcher) -> Result<Matcher, ApiError> {
    let bad = |what: String| ApiError::new(ErrorCode::BadData, what);
    let op = match matcher.op {
        0 => MatchOp::Eq,
        1 => MatchOp::Ne,
        2 => MatchOp::Re,
        3 => MatchOp::Nre,
        other => return Err(bad(format!("expected a matcher type from 0 to 3, found {other}"))),
    };
    Matcher::new(op, &matcher.name, &matcher.value).map_err(|e| bad(e.to_string()))
}

fn labels(series: &RawSeries) -> Vec<Label> {
    let label = |(name, value): (&str, &str)| Label {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    series.labels.iter().map(label).collect()
}

/// Everything in one message.
fn samples(results: Vec<Vec<RawSeries>>) -> Result<Response, ApiError> {
    let series = |series: RawSeries| TimeSeries {
        labels: labels(&series),
        samples: series
            .samples
            .iter()
            .map(|(timestamp_ms, value)| Sample { value, timestamp_ms })
            .collect(),
    };
    let result = |all: Vec<RawSeries>| QueryResult {
        timeseries: all.into_iter().map(series).collect(),
    };
    let message = ReadResponse {
        results: results.into_iter().map(result).collect(),
    };
    let compressed = snap::raw::Encoder::new()
        .compress_vec(&message.encode_to_vec())
        .map_err(|e| ApiError::new(ErrorCode::Internal, format!("can't compress the answer: {e}")))?;
    let mut response = Response::new(Body::from(compressed));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("snappy"));
    Ok(response)
}

/// Frames of chunks, each made when the client has taken the one before. A frame holds chunks of one series.
fn streamed(results: Vec<Vec<RawSeries>>) -> Response {
    let frames = results.into_iter().enumerate().flat_map(|(index, all)| {
        all.into_iter()
            .flat_map(move |series| frames(series, index as i64))
    });
    let frames = frames.map(|frame| Ok::<_, std::io::Error>(bytes::Bytes::from(frame)));
    let mut response = Response::new(Body::from_stream(stream::iter(frames)));
    let media = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse";
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

fn frames(series: RawSeries, query_index: i64) -> impl Iterator<Item = Vec<u8>> {
    let labels = labels(&series);
    let mut at = 0;
    std::iter::from_fn(move || {
        let mut chunks = Vec::new();
        let mut size = 0;
        while at < series.samples.len() && size < FRAME_BYTES {
            let end = (at + xor::SAMPLES_PER_CHUNK).min(series.samples.len());
            let times = &series.samples.timestamps[at..end];
            let data = xor::encode(times, &series.samples.values[at..end]);
            size += data.len();
            chunks.push(Chunk {
                min_time_ms: times.first().copied().unwrap_or_default(),
                max_time_ms: times.last().copied().unwrap_or_default(),
                encoding: XOR,
                data,
            });
            at = end;
        }
        let message = ChunkedReadResponse {
            chunked_series: vec![ChunkedSeries {
                labels: labels.clone(),
                chunks,
            }],
            query_index,
        };
        (size > 0).then(|| frame(&message))
    })
}

/// Length, checksum, message.
fn frame(message: &ChunkedReadResponse) -> Vec<u8> {
    let body = message.encode_to_vec();
    let mut out = Vec::with_capacity(body.len() + 9);
    prost::encoding::encode_varint(body.len() as u64, &mut out);
    out.extend(crc32c::crc32c(&body).to_be_bytes());
    out.extend(body);
    out
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use quorate_storage::{Labels, SampleColumns};

    use super::*;
    use crate::cli::import::decode_xor_chunk;

    fn series(name: &str, count: i64) -> RawSeries {
        let mut samples = SampleColumns::new();
        (0..count).for_each(|index| samples.push(index * 1_000, index as f64 / 3.0));
        RawSeries {
            labels: Labels::from_pairs([("__name__", name)]).unwrap(),
            samples,
        }
    }

    #[tokio::test]
    async fn a_stream_of_chunks_holds_every_sample() {
        let response = streamed(vec![
            vec![series("a", 300), series("b", 1)],
            vec![series("c", 120)],
        ]);
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let mut rest = bytes.as_ref();
        let mut found = Vec::new();
        while !rest.is_empty() {
            let length = prost::encoding::decode_varint(&mut rest).unwrap() as usize;
            let (crc, tail) = rest.split_first_chunk::<4>().unwrap();
            let (body, tail) = tail.split_at(length);
            assert_eq!(crc32c::crc32c(body), u32::from_be_bytes(*crc));
            let message = ChunkedReadResponse::decode(body).unwrap();
            let only = &message.chunked_series[0];
            let mut samples = Vec::new();
            for chunk in &only.chunks {
                let first = samples.len();
                decode_xor_chunk(&chunk.data, &mut samples).unwrap();
                assert_eq!(chunk.min_time_ms, samples[first].0);
                assert_eq!(chunk.max_time_ms, samples[samples.len() - 1].0);
            }
            found.push((
                message.query_index,
                only.labels[0].value.clone(),
                only.chunks.len(),
                samples.len(),
            ));
            rest = tail;
        }
        let expected = [(0, "a", 3, 300), (0, "b", 1, 1), (1, "c", 1, 120)];
        assert_eq!(
            found,
            expected.map(|(query, name, chunks, samples)| (query, name.to_owned(), chunks, samples))
        );
    }

    #[tokio::test]
    async fn samples_come_in_one_message() {
        let response = samples(vec![vec![series("a", 3)], Vec::new()]).unwrap();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let plain = snap::raw::Decoder::new().decompress_vec(&bytes).unwrap();
        let message = ReadResponse::decode(plain.as_slice()).unwrap();
        assert_eq!(message.results.len(), 2);
        assert_eq!(message.results[0].timeseries[0].samples[2].timestamp_ms, 2_000);
    }
}
