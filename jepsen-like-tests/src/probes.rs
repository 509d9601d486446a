//! Small, steady requests that show when each shard and each node answers: one writer for each shard, one
//! reader for each node and read level.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use quorate_client::{Client, ClientError, QueryOptions, Value};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::cluster::{Node, client_of_all};
use crate::history::{Action, Level, Recorder, Stage};
use crate::values::{Batch, FIRST_PROBE, PROBE_METRIC, SeriesId};
use crate::workload::{conclude, now_ms, read_level, series_of};

/// How exactly outages are measured.
const WRITE_INTERVAL: Duration = Duration::from_millis(25);
const QUERY_INTERVAL: Duration = Duration::from_millis(100);
/// Requests of one probe that wait for their answer at most: the shard may stand still for a while.
const MAX_IN_FLIGHT: usize = 200;
/// Probes tried to find one in each shard.
const MAX_CANDIDATES: u32 = 2_000;
/// How old the newest sample of a probe may be: older than any run. Some are written once, to find a shard.
const LOOKBACK: Duration = Duration::from_secs(24 * 3_600);
/// How far ahead of now the newest sample of a probe may be: each is later than the last.
const NEWEST_AHEAD_MS: i64 = 1_000;
/// After this time a query has failed.
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(2);

/// Running probes. Stop them, or they go on while the runtime lives.
#[derive(Debug)]
pub struct Probes {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Probes {
    /// Finds a series in each of the shards 1 to `shards` and starts writing to them and reading them.
    pub async fn start(nodes: &[Node], shards: u32, recorder: &Recorder) -> Result<Probes> {
        let client = client_of_all(nodes)
            .timeout(Duration::from_secs(10))
            .attempt_timeout(Duration::from_secs(2))
            .connect()?;
        let writers = one_in_each_shard(&client, shards, recorder).await?;
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for batch in writers {
            tasks.spawn(write_steadily(
                batch,
                client.clone(),
                recorder.clone(),
                stopped.clone(),
            ));
        }
        for node in nodes {
            let client = Client::builder()
                .endpoint(node.grpc.as_str())
                .max_attempts(1)
                .timeout(QUERY_TIMEOUT)
                .connect()?;
            for level in [Level::Linearizable, Level::Bounded] {
                tasks.spawn(query_steadily(
                    node.id,
                    level,
                    client.clone(),
                    recorder.clone(),
                    stopped.clone(),
                ));
            }
        }
        Ok(Probes { stop, tasks })
    }

    /// Stops sending and waits for all answers.
    pub async fn stop(mut self) -> Result<()> {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended?;
        }
        Ok(())
    }
}

/// The first batch of a writer for each shard; more writers than needed have written one.
async fn one_in_each_shard(client: &Client, shards: u32, recorder: &Recorder) -> Result<Vec<Batch>> {
    let mut found: BTreeMap<u32, Batch> = BTreeMap::new();
    for writer in FIRST_PROBE..FIRST_PROBE + MAX_CANDIDATES {
        let batch = Batch {
            writer,
            number: 0,
            series: 1,
            timestamp_ms: now_ms(),
        };
        recorder.record(
            Stage::Invoke,
            Action::Write {
                batch,
                receipts: Vec::new(),
                counts: None,
                error: None,
            },
        );
        let result = client.write(series_of(batch)).await;
        let shard = result
            .as_ref()
            .ok()
            .and_then(|result| result.receipts.first())
            .map(|receipt| receipt.shard);
        conclude(batch, result, recorder);
        found.extend(shard.map(|shard| (shard, batch)));
        if (1..=shards).all(|shard| found.contains_key(&shard)) {
            return Ok(found.into_values().collect());
        }
    }
    bail!(
        "{MAX_CANDIDATES} series reached only the shards {:?} of {shards}",
        found.keys()
    );
}

async fn write_steadily(
    mut batch: Batch,
    client: Client,
    recorder: Recorder,
    mut stopped: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    let mut ticks = ticks(WRITE_INTERVAL);
    while !*stopped.borrow() {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped.changed() => break,
        }
        let Ok(slot) = slots.clone().acquire_owned().await else {
            break;
        };
        batch.number += 1;
        batch.timestamp_ms = now_ms().max(batch.timestamp_ms + 1);
        let (client, recorder) = (client.clone(), recorder.clone());
        recorder.record(
            Stage::Invoke,
            Action::Write {
                batch,
                receipts: Vec::new(),
                counts: None,
                error: None,
            },
        );
        tokio::spawn(async move {
            conclude(batch, client.write(series_of(batch)).await, &recorder);
            drop(slot);
        });
    }
    let _all = slots.acquire_many(MAX_IN_FLIGHT as u32).await;
}

async fn query_steadily(
    node: u64,
    level: Level,
    client: Client,
    recorder: Recorder,
    mut stopped: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    let mut ticks = ticks(QUERY_INTERVAL);
    while !*stopped.borrow() {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped.changed() => break,
        }
        let Ok(slot) = slots.clone().acquire_owned().await else {
            break;
        };
        let (client, recorder) = (client.clone(), recorder.clone());
        tokio::spawn(async move {
            let began_us = recorder.now_us();
            let (stage, newest, error) = match newest(&client, level).await {
                Ok(newest) => (Stage::Ok, newest, None),
                Err(error) => (Stage::Info, Vec::new(), Some(error.to_string())),
            };
            recorder.record(
                stage,
                Action::Query {
                    node,
                    level,
                    began_us,
                    newest,
                    error,
                },
            );
            drop(slot);
        });
    }
    let _all = slots.acquire_many(MAX_IN_FLIGHT as u32).await;
}

/// The newest value of each probe, which is its batch number.
pub(crate) async fn newest(client: &Client, level: Level) -> Result<Vec<(u32, u64)>, ClientError> {
    // At a time of this process, which gave the samples theirs, and not the server's, whose clock may be wrong.
    let answer = client
        .instant(
            PROBE_METRIC,
            &QueryOptions {
                read: read_level(level),
                time_ms: Some(now_ms() + NEWEST_AHEAD_MS),
                lookback: Some(LOOKBACK),
                ..QueryOptions::default()
            },
        )
        .await?;
    let Value::Vector(samples) = answer.value else {
        return Ok(Vec::new());
    };
    let newest = samples.into_iter().filter_map(|(labels, sample)| {
        let series = SeriesId::from_labels(labels.iter())?;
        Some((series.writer, sample.value as u64))
    });
    Ok(newest.collect())
}

fn ticks(interval: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
