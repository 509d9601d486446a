//! Reads everything back from every node, and compares replicas.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quorate_client::{Client, GroupChecksum, LabelOptions, ReadLevel};

use crate::checker::{self, Verdict, Violation};
use crate::cluster::{Node, client_of};
use crate::history::{Operation, Outcomes, Recorder};
use crate::values::{Entry, SeriesId};
use crate::wait;

/// Before and after everything that is ever written.
const ALL_TIME: (i64, i64) = (0, i64::MAX / 2);

/// Judges what each node returns, at the given read level, against the history. All verdicts are merged.
pub async fn judge(nodes: &[Node], level: ReadLevel, history: &[Operation]) -> Result<Verdict> {
    let outcomes = Outcomes::of(history);
    let mut verdict = Verdict::default();
    for node in nodes {
        let client = client_of(node)?.with_timeout(Duration::from_secs(120));
        let mut found = Vec::new();
        let unknown = read_all(&client, level, &outcomes, &mut found).await;
        let unknown = unknown.with_context(|| format!("reading node {} at {level:?}", node.id))?;
        let mut own = checker::check_samples(&outcomes, &mut found);
        unknown
            .into_iter()
            .for_each(|series| own.blame(Violation::UnknownSeries(series)));
        verdict = worse(verdict, own);
    }
    verdict.blame_all(checker::check_terms(history));
    verdict.blame_all(checker::check_reads(history));
    Ok(verdict)
}

/// Judges a run whose faults are healed and whose load has stopped: replicas are the same, every node returns
/// everything at every level, and the history contradicts nothing.
///
/// An error means that the cluster could not be judged, not that it did wrong.
pub async fn final_check(nodes: &[Node], recorder: &Recorder, limit: Duration) -> Result<Verdict> {
    compare_replicas(nodes, limit).await?;
    let history = recorder.operations();
    let linearizable = judge(nodes, ReadLevel::Linearizable, &history).await?;
    let local = judge(nodes, ReadLevel::Local, &history).await?;
    recorder.flush()?;
    Ok(worse(linearizable, local))
}

fn worse(left: Verdict, right: Verdict) -> Verdict {
    if right.violations > left.violations || left.acked == 0 {
        right
    } else {
        left
    }
}

/// Collects every sample of the writers in the history; returns the series of nobody.
async fn read_all(
    client: &Client,
    level: ReadLevel,
    outcomes: &Outcomes,
    found: &mut Vec<Entry>,
) -> Result<Vec<String>> {
    let (start_ms, end_ms) = ALL_TIME;
    let batches = outcomes
        .acked
        .iter()
        .chain(&outcomes.unknown)
        .chain(&outcomes.refused);
    let writers: BTreeSet<u32> = batches.map(|batch| batch.writer).collect();
    for writer in &writers {
        let mut stream = client
            .read_stream(&SeriesId::selector_of(*writer), start_ms, end_ms, level)
            .await?;
        while let Some(piece) = stream.next().await? {
            let Some(series) = SeriesId::from_labels(piece.labels.iter()) else {
                continue;
            };
            found.extend(piece.samples().map(|sample| Entry {
                series,
                timestamp_ms: sample.timestamp_ms,
                bits: sample.value.to_bits(),
            }));
        }
    }
    let matches = vec!["{__name__!=\"\"}".to_owned()];
    let everything = LabelOptions {
        matches,
        start_ms,
        end_ms,
        read: level,
        ..LabelOptions::default()
    };
    let (series, _) = client.series(&everything).await?;
    let is_known = |id: SeriesId| writers.contains(&id.writer);
    let strange = series
        .iter()
        .filter(|labels| !SeriesId::from_labels(labels.iter()).is_some_and(is_known));
    Ok(strange.map(ToString::to_string).collect())
}

/// Waits until all nodes have applied the same entries of every data shard, and compares what storage holds there.
/// Returns the samples of all shards, each counted once.
pub async fn compare_replicas(nodes: &[Node], limit: Duration) -> Result<u64> {
    let mut clients = Vec::new();
    for node in nodes {
        clients.push((node.id, client_of(node)?.with_timeout(limit)));
    }
    let sums = wait::until_async("equal applied indexes on all nodes", limit, async || {
        let mut by_group: BTreeMap<u32, Vec<(u64, GroupChecksum)>> = BTreeMap::new();
        for (node, client) in &clients {
            for sum in client
                .checksum(&[])
                .await?
                .groups
                .into_iter()
                .filter(|sum| sum.group != 0)
            {
                by_group.entry(sum.group).or_default().push((*node, sum));
            }
        }
        ensure!(!by_group.is_empty(), "no node reports a data shard");
        for (group, sums) in &by_group {
            ensure!(
                sums.len() == nodes.len(),
                "shard {group} is on {} nodes only",
                sums.len()
            );
            let first = sums.first().map(|(_, sum)| sum.applied_index);
            let equal = sums.iter().all(|(_, sum)| Some(sum.applied_index) == first);
            ensure!(
                equal,
                "shard {group}: {:?}",
                sums.iter()
                    .map(|(node, sum)| (node, sum.applied_index))
                    .collect::<Vec<_>>()
            );
        }
        Ok(by_group)
    });
    let mut samples = 0;
    for (group, sums) in sums.await? {
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
