//! Writers that load all nodes at a set pace, over every protocol, and record what came of each batch.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use quorate_client::{Client, ClientError, ErrorCode, PendingWrite, Series, WriteResult, WriteStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cluster::{Node, client_of_all};
use crate::history::{Action, Counts, Receipt, Recorder, Stage};
use crate::http::Http;
use crate::remote_write::{self, TimeSeries};
use crate::values::{Batch, Entry};

/// Batches of a writer that wait for their outcome at most.
const MAX_IN_FLIGHT: usize = 8;
/// How long a client tries one batch.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it waits for one node.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a remote write is sent again, to another node each time, while its outcome is unknown. Every
/// third batch is never sent again, so that some outcomes stay unknown.
const RESENDS: usize = 2;

/// How much load.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// Of all writers together, in samples per second.
    pub samples_per_second: u64,
    /// Concurrent writers; they take turns in the protocol they speak.
    pub writers: u32,
    /// Series of each writer; a batch has a sample of each.
    pub series: u32,
}

/// A running load. Stop it, or it goes on while the runtime lives.
#[derive(Debug)]
pub struct Load {
    stop: watch::Sender<bool>,
    writers: JoinSet<()>,
}

impl Load {
    /// Starts writing to all nodes.
    pub fn start(nodes: &[Node], options: LoadOptions, recorder: &Recorder) -> Result<Load> {
        let (stop, stopped) = watch::channel(false);
        let mut writers = JoinSet::new();
        let batches_per_second = options.samples_per_second as f64 / f64::from(options.series);
        let interval = Duration::from_secs_f64(f64::from(options.writers) / batches_per_second);
        for writer in 0..options.writers {
            let target = Target::new(nodes, writer)?;
            let pace = Pace {
                writer,
                series: options.series,
                interval,
            };
            writers.spawn(write_paced(pace, target, recorder.clone(), stopped.clone()));
        }
        Ok(Load { stop, writers })
    }

    /// Stops sending and waits for the outcome of what was sent.
    pub async fn stop(mut self) -> Result<()> {
        self.stop.send_replace(true);
        while let Some(ended) = self.writers.join_next().await {
            ended?;
        }
        Ok(())
    }
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
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
        TimeSeries::new(
            entry.series.labels(),
            [(entry.timestamp_ms, f64::from_bits(entry.bits))],
        )
    };
    batch.entries().map(series).collect()
}

/// How a writer reaches the cluster.
#[derive(Clone)]
enum Target {
    /// One call a batch.
    Unary(Client),
    /// One stream for all.
    Stream(Arc<WriteStream>),
    /// Remote write to this node first, then to the ones after it.
    Http(Arc<Vec<Http>>, usize),
}

impl Target {
    fn new(nodes: &[Node], writer: u32) -> Result<Target> {
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
}

struct Pace {
    writer: u32,
    series: u32,
    interval: Duration,
}

async fn write_paced(pace: Pace, target: Target, recorder: Recorder, mut stopped: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    let mut due = Instant::now();
    let mut batch = Batch {
        writer: pace.writer,
        number: 0,
        series: pace.series,
        timestamp_ms: 0,
    };
    loop {
        let slot = tokio::select! {
            slot = next_slot(&slots, due) => slot,
            _ = stopped.changed() => break,
        };
        let Some(slot) = slot else { break };
        // What was missed while the cluster stood still is not made up for.
        due = (due + pace.interval).max(Instant::now());
        batch.timestamp_ms = now_ms().max(batch.timestamp_ms + 1);
        send(batch, &target, &recorder, slot).await;
        batch.number += 1;
    }
    // Free slots mean that every outcome is recorded.
    let _all = slots.acquire_many(MAX_IN_FLIGHT as u32).await;
}

async fn next_slot(slots: &Arc<Semaphore>, due: Instant) -> Option<OwnedSemaphorePermit> {
    tokio::time::sleep_until(due).await;
    slots.clone().acquire_owned().await.ok()
}

/// Sends a batch; its outcome is recorded in the background.
async fn send(batch: Batch, target: &Target, recorder: &Recorder, slot: OwnedSemaphorePermit) {
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
    match result {
        // Which samples were refused is not said, so nothing is known of any of them.
        Ok(result) if !result.rejections.is_empty() => {
            recorder.record(
                Stage::Info,
                write(batch, Some(format!("refused in part: {:?}", result.rejections))),
            );
        }
        Ok(result) => {
            let receipt = |receipt: &quorate_client::Receipt| Receipt {
                shard: receipt.shard,
                epoch: receipt.epoch,
                term: receipt.term,
                index: receipt.index,
                samples: receipt.samples,
            };
            let receipts = result.receipts.iter().map(receipt).collect();
            let counts = Counts {
                stored: result.samples_stored,
                duplicate: result.samples_duplicate,
                refused: Vec::new(),
            };
            recorder.record(
                Stage::Ok,
                Action::Write {
                    batch,
                    receipts,
                    counts: Some(counts),
                    error: None,
                },
            );
        }
        Err(error) => {
            let refused = match &error {
                ClientError::Server { code, .. } => is_refusal(*code),
                _ => false,
            };
            let stage = if refused { Stage::Fail } else { Stage::Info };
            recorder.record(stage, write(batch, Some(error.to_string())));
        }
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
        let (stage, error) = match remote_write::send(node, &body) {
            Ok(answer) if answer.status / 100 == 2 => (Stage::Ok, None),
            Ok(answer) => {
                // A 400 may have stored a part.
                let refused = matches!(answer.status, 413 | 415);
                let stage = if refused { Stage::Fail } else { Stage::Info };
                (stage, Some(format!("{} {}", answer.status, answer.text())))
            }
            Err(error) => (Stage::Info, Some(format!("{error:#}"))),
        };
        recorder.record(stage, write(batch, error));
        if stage == Stage::Ok {
            return;
        }
    }
}

fn write(batch: Batch, error: Option<String>) -> Action {
    Action::Write {
        batch,
        receipts: Vec::new(),
        counts: None,
        error,
    }
}
