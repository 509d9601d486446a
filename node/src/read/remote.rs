//! Reads of replicas on other nodes: the asking and the answering side.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_proto::ErrorCode;
use quorate_proto::internal::peer_client::PeerClient;
use quorate_proto::internal::{MatcherProto, ReadShardRequest, ReadShardResponse, ShardSeries};
use quorate_query::source::{SampleColumns, SeriesCursor};
use quorate_storage::{Histogram, Labels, MatchOp, Matcher};
use tokio::sync::mpsc;
use tonic::Status;

use super::local::{self, Selection, storage_error};
use super::reader::{Reader, ShardQuery};
use super::session::{Promise, Session};
use super::source::RemoteCursor;
use crate::api::{ApiError, ShardRead};
use crate::cluster::{MAX_MESSAGE_BYTES, Peers, Purpose};
use crate::grpc::{code_of, status};

/// Samples after which a message is closed.
const SAMPLES_PER_MESSAGE: usize = 64 * 1024;
/// A native histogram takes about as much as so many numbers.
const SAMPLES_PER_HISTOGRAM: usize = 10;
/// Series after which a message is closed.
const SERIES_PER_MESSAGE: usize = 4 * 1024;

/// Asks `node` for series of its replica. At most `max_samples` are taken.
pub(super) async fn read(
    peers: &Peers,
    session: &Session,
    query: ShardQuery<'_>,
    node: u64,
    max_samples: u64,
) -> Result<Vec<Box<dyn SeriesCursor>>, ApiError> {
    let remaining = session.remaining()?;
    let failed = |e: Status| ApiError::new(code_of(&e), format!("read at node {node}: {}", e.message()));
    let request = ReadShardRequest {
        shard: query.shard,
        tenant: session.tenant.to_string(),
        matchers: query.matchers.iter().map(to_proto).collect(),
        start_ms: query.start_ms,
        end_ms: query.end_ms,
        min_applied: session.min_applied(query.shard),
        timeout_ms: u32::try_from(remaining.as_millis()).unwrap_or(u32::MAX),
        samples: query.samples,
        max_staleness_ms: match session.promise_of(query.shard) {
            Promise::Bounded(bound) => Some(u64::try_from(bound.as_millis()).unwrap_or(u64::MAX)),
            Promise::Linearizable | Promise::Local => None,
        },
    };
    let channel = peers.channel(node, Purpose::Read).map_err(failed)?;
    let mut client = PeerClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut stream = client
        .read_shard(peers.request(request, Some(remaining)))
        .await
        .map_err(failed)?
        .into_inner();
    let mut series: Vec<Box<dyn SeriesCursor>> = Vec::new();
    let mut samples = 0u64;
    while let Some(message) = stream.message().await.map_err(failed)? {
        for one in message.series {
            samples += one.timestamps.len() as u64;
            if samples > max_samples {
                return Err(ApiError::new(
                    ErrorCode::QueryLimit,
                    format!(
                        "query processing would load too many samples into memory: the limit is read.max_samples={max_samples}"
                    ),
                ));
            }
            series.push(Box::new(cursor(one, node)?));
        }
        if message.last {
            peers.answered(node);
            session.note(ShardRead {
                shard: query.shard,
                node,
                applied_before: message.applied_before,
                applied_after: message.applied_after,
                staleness_ms: match session.promise_of(query.shard) {
                    Promise::Linearizable => Some(0),
                    Promise::Bounded(_) | Promise::Local => message.staleness_ms,
                },
            });
            return Ok(series);
        }
    }
    Err(ApiError::new(
        ErrorCode::NoLeader,
        format!("node {node} broke off its answer"),
    ))
}

fn cursor(series: ShardSeries, node: u64) -> Result<RemoteCursor, ApiError> {
    let labels = Labels::from_canonical(&series.labels)
        .map_err(|e| ApiError::new(ErrorCode::Internal, format!("labels from node {node}: {e}")))?;
    let malformed = |what: &str| {
        let message = format!("{what} from node {node}");
        ApiError::new(ErrorCode::Internal, message)
    };
    let samples = series.timestamps.len();
    if samples != series.value_bits.len() || series.histogram_at.len() != series.histograms.len() {
        return Err(malformed("columns of unequal length"));
    }
    let mut histograms: Vec<(usize, Arc<Histogram>)> = Vec::with_capacity(series.histograms.len());
    for (at, encoded) in series.histogram_at.into_iter().zip(&series.histograms) {
        let at = at as usize;
        if at >= samples || histograms.last().is_some_and(|(last, _)| *last >= at) {
            return Err(malformed("histograms out of order"));
        }
        let histogram = Histogram::decode(encoded).map_err(|e| malformed(&e.to_string()))?;
        histograms.push((at, Arc::new(histogram)));
    }
    Ok(RemoteCursor {
        labels,
        columns: SampleColumns {
            timestamps: series.timestamps,
            values: series.value_bits.into_iter().map(f64::from_bits).collect(),
            histograms,
        },
    })
}

/// A series as it is sent.
fn shard_series(labels: &Labels, columns: SampleColumns) -> ShardSeries {
    let encode = |histogram: &Histogram| {
        let mut encoded = Vec::new();
        histogram.encode(&mut encoded);
        encoded.into()
    };
    let (at, histograms) = columns
        .histograms
        .iter()
        .map(|(at, histogram)| (*at as u32, encode(histogram)))
        .unzip();
    ShardSeries {
        labels: labels.as_bytes().to_vec().into(),
        timestamps: columns.timestamps,
        value_bits: columns.values.into_iter().map(f64::to_bits).collect(),
        histogram_at: at,
        histograms,
    }
}

/// Answers a peer's read, in messages of bounded size.
pub async fn serve_shard(
    reader: Arc<Reader>,
    node: u64,
    request: ReadShardRequest,
    out: mpsc::Sender<Result<ReadShardResponse, Status>>,
) {
    if let Err(e) = serve(reader, node, request, &out).await {
        // The asker may have gone.
        let _ = out.send(Err(status(e.code, e.message))).await;
    }
}

async fn serve(
    reader: Arc<Reader>,
    node: u64,
    request: ReadShardRequest,
    out: &mpsc::Sender<Result<ReadShardResponse, Status>>,
) -> Result<(), ApiError> {
    let deadline = Instant::now() + Duration::from_millis(request.timeout_ms.into());
    let matchers = request
        .matchers
        .iter()
        .map(from_proto)
        .collect::<Result<Vec<_>, _>>()?;
    let replica = reader.shards().get(request.shard).ok_or_else(|| {
        ApiError::new(
            ErrorCode::Starting,
            format!("no open replica of shard {}", request.shard),
        )
    })?;
    let promise = match (request.max_staleness_ms, request.min_applied) {
        (Some(ms), _) => Promise::Bounded(Duration::from_millis(ms)),
        (None, 0) => Promise::Local,
        (None, _) => Promise::Linearizable,
    };
    let remaining = deadline.saturating_duration_since(Instant::now());
    local::fresh_enough(
        &replica,
        reader.freshness(),
        promise,
        request.min_applied,
        remaining,
    )
    .await?;
    let out = out.clone();
    let work = tokio::task::spawn_blocking(move || -> Result<(), ApiError> {
        let selection = Selection {
            tenant: &request.tenant,
            matchers: &matchers,
            start_ms: request.start_ms,
            end_ms: request.end_ms,
            limits: reader.limits(),
        };
        let (selected, read) = local::select(&replica, reader.freshness(), promise, node, selection)?;
        let mut message = ReadShardResponse::default();
        let mut samples = 0;
        for series in selected {
            let mut columns = SampleColumns::default();
            if request.samples {
                series.samples(&mut columns).map_err(|e| storage_error(&e))?;
            }
            samples += columns.timestamps.len();
            samples += columns.histograms.len() * SAMPLES_PER_HISTOGRAM;
            message.series.push(shard_series(&series.labels, columns));
            if samples >= SAMPLES_PER_MESSAGE || message.series.len() >= SERIES_PER_MESSAGE {
                samples = 0;
                if out.blocking_send(Ok(std::mem::take(&mut message))).is_err() {
                    return Ok(());
                }
            }
        }
        message.last = true;
        message.applied_before = read.applied_before;
        message.applied_after = read.applied_after;
        message.staleness_ms = read.staleness_ms;
        // An asker that has gone needs no answer.
        let _ = out.blocking_send(Ok(message));
        Ok(())
    });
    work.await
        .map_err(|_| ApiError::new(ErrorCode::ShuttingDown, "the node is stopping"))?
}

pub(crate) fn to_proto(matcher: &Matcher) -> MatcherProto {
    let op = match matcher.op() {
        MatchOp::Eq => 0,
        MatchOp::Ne => 1,
        MatchOp::Re => 2,
        MatchOp::Nre => 3,
    };
    MatcherProto {
        op,
        name: matcher.name().to_string(),
        value: matcher.value().to_string(),
    }
}

pub(crate) fn from_proto(matcher: &MatcherProto) -> Result<Matcher, ApiError> {
    let op = match matcher.op {
        0 => MatchOp::Eq,
        1 => MatchOp::Ne,
        2 => MatchOp::Re,
        3 => MatchOp::Nre,
        other => {
            return Err(ApiError::new(
                ErrorCode::BadData,
                format!("matcher operator {other}"),
            ));
        }
    };
    Matcher::new(op, &matcher.name, &matcher.value)
        .map_err(|e| ApiError::new(ErrorCode::BadData, e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_travel_between_numbers() {
        let labels = Labels::from_pairs([("__name__", "m")]).unwrap();
        let mut columns = SampleColumns::new();
        columns.push(1, 2.0);
        columns.push_histogram(2, Arc::new(Histogram::stale()));
        columns.push(3, f64::NAN);
        let sent = shard_series(&labels, columns.clone());
        let mut out = SampleColumns::new();
        cursor(sent.clone(), 1).unwrap().samples(&mut out).unwrap();
        assert_eq!(out.histograms, columns.histograms);
        assert_eq!(out.timestamps, [1, 2, 3]);
        let bits = |columns: &SampleColumns| columns.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&out), bits(&columns));
        for broken in [
            ShardSeries {
                histogram_at: vec![3],
                ..sent.clone()
            },
            ShardSeries {
                histogram_at: vec![],
                ..sent.clone()
            },
            ShardSeries {
                histograms: vec![vec![1, 2].into()],
                ..sent.clone()
            },
            ShardSeries {
                value_bits: vec![],
                ..sent.clone()
            },
        ] {
            assert!(cursor(broken, 1).is_err());
        }
    }
}
