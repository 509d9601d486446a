//! Sending a batch by any protocol, and what an answer says of it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use quorate_client::{Client, ClientError, ErrorCode, PendingWrite, Series, WriteResult, WriteStream};
use tokio::sync::OwnedSemaphorePermit;

use super::pace::MAX_IN_FLIGHT;
use crate::cluster::{Node, client_of_all};
use crate::history::{Action, Counts, Receipt, Recorder, Stage};
use crate::http::{Answer, Http};
use crate::remote_write::{self, TimeSeries};
use crate::values::{Batch, Entry};

/// How long a client tries one batch.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it waits for one node.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a remote write is sent again, to another node each time, while its outcome is unknown. Every
/// third batch is never sent again, so that some outcomes stay unknown.
const RESENDS: usize = 2;

/// How a writer reaches the cluster.
#[derive(Clone)]
pub(super) enum Target {
    /// One call a batch.
    Unary(Client),
    /// One stream for all.
    Stream(Arc<WriteStream>),
    /// Remote write to this node first, then to the ones after it.
    Http(Arc<Vec<Http>>, usize),
}

impl Target {
    /// All nodes, by a protocol that depends on the writer.
    pub(super) fn new(nodes: &[Node], writer: u32) -> Result<Target> {
        let client = || {
            client_of_all(nodes)
                .timeout(CALL_TIMEOUT)
                .attempt_timeout(ATTEMPT_TIMEOUT)
                .connect()
        };
        Ok(match writer % 3 {
            0 => Target::Unary(client()?),
            1 => Target::Stream(Arc::new(client()?.write_stream(MAX_IN_FLIGHT))),
            _ => {
                let nodes = nodes.iter().map(|node| Http::new(&node.http, CALL_TIMEOUT));
                Target::Http(Arc::new(nodes.collect()), (writer / 3) as usize)
            }
        })
    }

    /// One node by gRPC and one by HTTP.
    pub(super) fn of_node(node: &Node) -> Result<[Target; 2]> {
        let client = Client::builder()
            .endpoint(node.grpc.as_str())
            .timeout(CALL_TIMEOUT)
            .attempt_timeout(ATTEMPT_TIMEOUT)
            .connect()?;
        let http = Http::new(&node.http, CALL_TIMEOUT);
        Ok([Target::Unary(client), Target::Http(Arc::new(vec![http]), 0)])
    }
}

/// A batch as the client's series.
pub fn series_of(batch: Batch) -> Vec<Series> {
    let series = |entry: Entry| {
        Series::from_labels(entry.series.labels()).sample(entry.timestamp_ms, f64::from_bits(entry.bits))
    };
    batch.entries().map(series).collect()
}

fn remote_series_of(batch: Batch) -> Vec<TimeSeries> {
    let series = |entry: Entry| {
        let sample = (entry.timestamp_ms, f64::from_bits(entry.bits));
        TimeSeries::new(entry.series.labels(), [sample])
    };
    batch.entries().map(series).collect()
}

/// Sends a batch; its outcome is recorded in the background, and then the slot is free.
pub(super) async fn send(batch: Batch, target: &Target, recorder: &Recorder, slot: OwnedSemaphorePermit) {
    let recorder = recorder.clone();
    match target.clone() {
        Target::Unary(client) => {
            recorder.record(Stage::Invoke, write(batch, None));
            tokio::spawn(async move {
                conclude(batch, client.write(series_of(batch)).await, &recorder);
                drop(slot);
            });
        }
        Target::Stream(stream) => {
            recorder.record(Stage::Invoke, write(batch, None));
            let pending: Result<PendingWrite, ClientError> = stream.send(series_of(batch)).await;
            tokio::spawn(async move {
                let result = match pending {
                    Ok(pending) => pending.await,
                    Err(error) => Err(error),
                };
                conclude(batch, result, &recorder);
                drop(slot);
            });
        }
        Target::Http(nodes, first) => {
            tokio::task::spawn_blocking(move || {
                remote_write_until_known(batch, &nodes, first, &recorder);
                drop(slot);
            });
        }
    }
}

/// Records the outcome of a write through the client.
pub fn conclude(batch: Batch, result: Result<WriteResult, ClientError>, recorder: &Recorder) {
    let (stage, receipts, counts, error) = match result {
        Ok(result) => {
            let refused: Vec<(String, u64)> = result
                .rejections
                .iter()
                .map(|rejection| (rejection.reason.clone(), rejection.samples))
                .collect();
            let stage = stage_of(batch, &refused);
            let error = (stage != Stage::Ok).then(|| format!("refused: {:?}", result.rejections));
            let counts = Counts {
                stored: result.samples_stored,
                duplicate: result.samples_duplicate,
                refused,
            };
            let receipts = result.receipts.iter().map(receipt).collect();
            (stage, receipts, Some(counts), error)
        }
        Err(error) => {
            let code = match &error {
                ClientError::Server { code, .. } => Some(*code),
                _ => None,
            };
            let stage = match code {
                Some(code) if is_refusal(code) => Stage::Fail,
                _ => Stage::Info,
            };
            // An answer after which an honest client gives up.
            let gives_up = code.filter(|code| !code.retryable() && *code != ErrorCode::Canceled);
            let counts = gives_up.map(|code| refused_whole(batch, code.name()));
            (stage, Vec::new(), counts, Some(error.to_string()))
        }
    };
    recorder.record(
        stage,
        Action::Write {
            batch,
            receipts,
            counts,
            error,
        },
    );
}

fn receipt(receipt: &quorate_client::Receipt) -> Receipt {
    Receipt {
        shard: receipt.shard,
        epoch: receipt.epoch,
        term: receipt.term,
        index: receipt.index,
        samples: receipt.samples,
    }
}

/// What refusals make of an answer. Which samples are refused is not said: unless all of them are, nothing is
/// known of any.
fn stage_of(batch: Batch, refused: &[(String, u64)]) -> Stage {
    let samples: u64 = refused.iter().map(|(_, samples)| samples).sum();
    match samples {
        0 => Stage::Ok,
        all if all == u64::from(batch.series) => Stage::Fail,
        _ => Stage::Info,
    }
}

fn refused_whole(batch: Batch, reason: &str) -> Counts {
    Counts {
        refused: vec![(reason.to_owned(), u64::from(batch.series))],
        ..Counts::default()
    }
}

/// Whether nothing of the request can have been stored.
fn is_refusal(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::BadData | ErrorCode::UnsupportedMedia | ErrorCode::TooLarge
    )
}

fn remote_write_until_known(batch: Batch, nodes: &[Http], first: usize, recorder: &Recorder) {
    let body = match remote_write::encode(remote_series_of(batch)) {
        Ok(body) => body,
        Err(error) => {
            return recorder.record(Stage::Fail, write(batch, Some(format!("never sent: {error}"))));
        }
    };
    let resends = if batch.number % 3 == 2 { 0 } else { RESENDS };
    for node in nodes.iter().cycle().skip(first).take(1 + resends) {
        recorder.record(Stage::Invoke, write(batch, None));
        let (stage, counts, error) = match remote_write::send(node, &body) {
            Ok(answer) if answer.status / 100 == 2 => (Stage::Ok, None, None),
            Ok(answer) => {
                let (stage, counts) = remote_refusal(batch, &answer);
                (
                    stage,
                    counts,
                    Some(format!("{} {}", answer.status, answer.text())),
                )
            }
            Err(error) => (Stage::Info, None, Some(format!("{error:#}"))),
        };
        let receipts = Vec::new();
        recorder.record(
            stage,
            Action::Write {
                batch,
                receipts,
                counts,
                error,
            },
        );
        if stage != Stage::Info {
            return;
        }
    }
}

/// What a status that isn't a success says. Agents drop their data on a 4xx, but for "too slow" and
/// "the client went away".
fn remote_refusal(batch: Batch, answer: &Answer) -> (Stage, Option<Counts>) {
    if answer.status / 100 != 4 || matches!(answer.status, 408 | 499) {
        return (Stage::Info, None);
    }
    let refused = reasons_in(&answer.text());
    if refused.is_empty() {
        // A 400 may have stored a part.
        let stage = match answer.status {
            413 | 415 => Stage::Fail,
            _ => Stage::Info,
        };
        return (
            stage,
            Some(refused_whole(batch, &format!("http_{}", answer.status))),
        );
    }
    let counts = Counts {
        refused,
        ..Counts::default()
    };
    (stage_of(batch, &counts.refused), Some(counts))
}

/// Reasons with numbers of samples, in the words of the server: "...; 3 too_old, first: ...; 1 series_limit, first: ...".
fn reasons_in(text: &str) -> Vec<(String, u64)> {
    let reasons = text.split("; ").skip(1).filter_map(|part| {
        let (samples, reason) = part.split_once(", first: ")?.0.split_once(' ')?;
        Some((reason.to_owned(), samples.parse().ok()?))
    });
    reasons.collect()
}

fn write(batch: Batch, error: Option<String>) -> Action {
    Action::Write {
        batch,
        receipts: Vec::new(),
        counts: None,
        error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_read_from_the_answer() {
        let text = "4 of 5 samples were refused, the others are stored; 3 duplicate_timestamp, first: \
                    a{b=\"c\"} at 5: another value is stored at this timestamp; 1 too_old, first: x at 1: older\n";
        let reasons = [("duplicate_timestamp".to_owned(), 3), ("too_old".to_owned(), 1)];
        assert_eq!(reasons_in(text), reasons);
        assert!(reasons_in("bad_data: the body is not snappy").is_empty());
    }

    #[test]
    fn a_refusal_of_a_part_leaves_all_unknown() {
        let batch = Batch {
            writer: 1,
            number: 1,
            series: 3,
            timestamp_ms: 1,
        };
        let refused = |samples| [("too_old".to_owned(), samples)];
        assert_eq!(stage_of(batch, &[]), Stage::Ok);
        assert_eq!(stage_of(batch, &refused(2)), Stage::Info);
        assert_eq!(stage_of(batch, &refused(3)), Stage::Fail);
    }
}
