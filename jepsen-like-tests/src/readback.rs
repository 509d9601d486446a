//! Reads everything back from every node, and compares replicas.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quorate_client::{Client, GroupChecksum, LabelOptions, ReadLevel};
use tokio::time::Instant;

use crate::checker::{self, Verdict};
use crate::cluster::{Node, client_of};
use crate::history::{Action, Found, GroupSum, Level, Operation, Outcomes, Recorder, Sorter, Stage};
use crate::values::SeriesId;
use crate::wait;
use crate::workload;

/// Before and after everything that is ever written.
const ALL_TIME: (i64, i64) = (0, i64::MAX / 2);
/// How long one node may take to return one writer's samples.
const READ_LIMIT: Duration = Duration::from_secs(120);

/// Judges what each node returns, at the given read level, and the history itself.
pub async fn judge(nodes: &[Node], level: ReadLevel, history: &[Operation]) -> Result<Verdict> {
    let outcomes = Outcomes::of(history);
    let own = match level {
        ReadLevel::Bounded(_) => Level::Bounded,
        ReadLevel::Local => Level::Local,
        ReadLevel::Linearizable | ReadLevel::ServerDefault => Level::Linearizable,
    };
    let recorder = Recorder::default();
    for node in nodes {
        let stored = read_node(node, own, &outcomes).await?;
        stored.record(&recorder);
    }
    let mut all = history.to_vec();
    all.extend(recorder.operations());
    Ok(checker::check_history(&all))
}

/// Judges a run whose faults are healed and whose load has stopped: replicas are the same, every node returns
/// everything at every level, PromQL answers fit, and the history contradicts nothing. All that it reads is recorded,
/// so that the file of the recorder can be judged again without the cluster.
///
/// An error means that the cluster could not be judged, not that it did wrong.
pub async fn final_check(nodes: &[Node], recorder: &Recorder, limit: Duration) -> Result<Verdict> {
    let outcomes = Outcomes::of(&recorder.operations());
    let deadline = Instant::now() + limit;
    loop {
        let before = settled_sums(nodes, limit).await?;
        let mut stored = Vec::new();
        for node in nodes {
            for level in [Level::Linearizable, Level::Local] {
                stored.push(read_node(node, level, &outcomes).await?);
            }
        }
        let after = settled_sums(nodes, limit).await?;
        if before != after {
            // A write that nobody waited for any more came late, and sums and samples are of different times.
            ensure!(Instant::now() < deadline, "content still changes after {limit:?}");
            continue;
        }
        record_sums(&after, recorder);
        stored.iter().for_each(|stored| stored.record(recorder));
        break;
    }
    workload::ask_in_the_end(nodes, recorder).await?;
    recorder.flush()?;
    Ok(checker::check_history(&recorder.operations()))
}

/// What a node returned.
#[derive(Debug)]
struct Stored {
    node: u64,
    found: Vec<Found>,
    strangers: Vec<String>,
}

impl Stored {
    fn record(&self, recorder: &Recorder) {
        for found in &self.found {
            recorder.record(Stage::Ok, Action::Found(Box::new(found.clone())));
        }
        if !self.strangers.is_empty() {
            let (node, series) = (self.node, self.strangers.clone());
            recorder.record(Stage::Ok, Action::Strangers { node, series });
        }
    }
}

async fn read_node(node: &Node, level: Level, outcomes: &Outcomes) -> Result<Stored> {
    let of_node = || format!("reading node {} at {level:?}", node.id);
    let client = client_of(node)?.with_timeout(READ_LIMIT);
    let mut found = Vec::new();
    for (writer, _) in outcomes.writers() {
        found.push(
            read_writer(&client, node.id, level, writer, outcomes)
                .await
                .with_context(of_node)?,
        );
    }
    let strangers = read_strangers(&client, level, outcomes)
        .await
        .with_context(of_node)?;
    Ok(Stored {
        node: node.id,
        found,
        strangers,
    })
}

/// Every sample of a writer.
async fn read_writer(
    client: &Client,
    node: u64,
    level: Level,
    writer: u32,
    outcomes: &Outcomes,
) -> Result<Found> {
    let (start_ms, end_ms) = ALL_TIME;
    let known = outcomes.writer(writer).context("a writer of the history")?;
    let mut sorter = Sorter::new(known);
    let selector = SeriesId::selector_of(writer);
    let mut stream = client
        .read_stream(&selector, start_ms, end_ms, workload::read_level(level))
        .await?;
    let mut own: Option<u32> = None;
    let mut points = Vec::new();
    while let Some(piece) = stream.next().await? {
        // Others are found by their names.
        let Some(series) = SeriesId::from_labels(piece.labels.iter()) else {
            continue;
        };
        if own != Some(series.number) {
            if let Some(own) = own {
                sorter.add(own, &mut points);
            }
            points.clear();
            own = Some(series.number);
        }
        points.extend(
            piece
                .samples()
                .map(|sample| (sample.timestamp_ms, sample.value.to_bits())),
        );
    }
    if let Some(own) = own {
        sorter.add(own, &mut points);
    }
    Ok(sorter.finish(node, Some(level), writer))
}

/// Series of nobody.
async fn read_strangers(client: &Client, level: Level, outcomes: &Outcomes) -> Result<Vec<String>> {
    let (start_ms, end_ms) = ALL_TIME;
    let everything = LabelOptions {
        matches: vec!["{__name__!=\"\"}".to_owned()],
        start_ms,
        end_ms,
        read: workload::read_level(level),
        ..LabelOptions::default()
    };
    let (series, _) = client.series(&everything).await?;
    let is_known = |id: SeriesId| outcomes.writer(id.writer).is_some();
    let strange = series
        .iter()
        .filter(|labels| !SeriesId::from_labels(labels.iter()).is_some_and(is_known));
    Ok(strange.map(ToString::to_string).collect())
}

type Sums = BTreeMap<u32, Vec<(u64, GroupChecksum)>>;

fn record_sums(sums: &Sums, recorder: &Recorder) {
    let nodes: BTreeSet<u64> = sums.values().flatten().map(|(node, _)| *node).collect();
    for node in nodes {
        let own = sums.values().flatten().filter(|(own, _)| *own == node);
        let sum = |(_, sum): &(u64, GroupChecksum)| GroupSum {
            shard: sum.group,
            applied: sum.applied_index,
            checksum: sum.checksum,
            series: sum.series,
            samples: sum.samples,
        };
        let groups = own.map(sum).collect();
        recorder.record(Stage::Info, Action::Checksums { node, groups });
    }
}

/// Waits until all nodes have applied the same entries of every data shard, and compares what storage holds there.
/// Returns the samples of all shards, each counted once.
pub async fn compare_replicas(nodes: &[Node], limit: Duration) -> Result<u64> {
    let mut samples = 0;
    for (group, sums) in settled_sums(nodes, limit).await? {
        let content = |sum: &GroupChecksum| (sum.checksum, sum.series, sum.samples);
        let first = sums.first().map(|(_, sum)| content(sum));
        let equal = sums.iter().all(|(_, sum)| Some(content(sum)) == first);
        ensure!(
            equal,
            "replicas of shard {group} differ at the same index: {sums:#?}"
        );
        samples += first.map_or(0, |(_, _, samples)| samples);
    }
    Ok(samples)
}

/// Checksums of every data shard from every node that holds it, once all of them have applied the same.
async fn settled_sums(nodes: &[Node], limit: Duration) -> Result<Sums> {
    let mut clients = Vec::new();
    for node in nodes {
        clients.push((node.id, client_of(node)?.with_timeout(limit)));
    }
    wait::until_async("equal applied indexes on all nodes", limit, async || {
        let mut by_group: Sums = BTreeMap::new();
        let mut holders: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
        for (node, client) in &clients {
            for group in client.status().await?.groups {
                let nodes = group.replicas.iter().map(|replica| replica.node);
                holders.entry(group.group).or_default().extend(nodes);
            }
            for sum in client.checksum(&[]).await?.groups {
                by_group.entry(sum.group).or_default().push((*node, sum));
            }
        }
        by_group.remove(&0);
        ensure!(!by_group.is_empty(), "no node reports a data shard");
        for (group, sums) in &by_group {
            let own: BTreeSet<u64> = sums.iter().map(|(node, _)| *node).collect();
            let expected = holders.remove(group).unwrap_or_default();
            ensure!(
                own == expected,
                "shard {group} is on {own:?}, and should be on {expected:?}"
            );
            let first = sums.first().map(|(_, sum)| sum.applied_index);
            let equal = sums.iter().all(|(_, sum)| Some(sum.applied_index) == first);
            let applied = || sums.iter().map(|(node, sum)| (node, sum.applied_index));
            ensure!(equal, "shard {group}: {:?}", applied().collect::<Vec<_>>());
        }
        Ok(by_group)
    })
    .await
}
