//! The judgement at the end of a scenario: what each replica holds, against all that was acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quorate_client::{GroupChecksum, ReadLevel};
use tokio::task::JoinSet;

use super::play::Extra;
use super::stage::Stage;
use crate::bed::{Clock, DiskFault};
use crate::checker::check_samples;
use crate::cluster::{Node, client_of};
use crate::history::{Operation, Outcomes};
use crate::readback;
use crate::values::{Entry, Kind, SeriesId};
use crate::wait;

/// How long replicas may take to apply the same entries.
const CONVERGE: Duration = Duration::from_secs(10);
/// How long the nodes may take to come back and to elect leaders.
const SETTLE: Duration = Duration::from_secs(25);
/// How long it may take to read a node.
const READ: Duration = Duration::from_secs(12);

/// Broken rules by the name of the checker, with how often at most one look saw each broken.
#[derive(Debug, Default, Clone)]
pub struct Findings(BTreeMap<String, u64>);

impl Findings {
    /// Notes that a look found a rule broken so often.
    pub fn add(&mut self, checker: impl Into<String>, times: u64) {
        if times > 0 {
            let known = self.0.entry(checker.into()).or_default();
            *known = times.max(*known);
        }
    }

    /// The rules that are broken.
    pub fn checkers(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Display for Findings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let counted: Vec<String> = self
            .0
            .iter()
            .map(|(name, times)| format!("{name} {times}"))
            .collect();
        f.write_str(&counted.join(", "))
    }
}

/// Heals everything, lets load go on for a moment, stops it, and looks at every node. An error means that there
/// is no verdict. A node that died by itself is a finding, and the others are looked at all the same.
pub(super) async fn judge(stage: &Stage, extra: Extra) -> Result<(Findings, String)> {
    let mut findings = Findings::default();
    let mut trouble = Vec::new();
    heal(stage)?;
    let settled = match tokio::time::timeout(SETTLE, stage.settled()).await {
        Ok(settled) => settled,
        Err(_) => Err(anyhow::anyhow!("the cluster did not settle within {SETTLE:?}")),
    };
    match &settled {
        Err(error) => trouble.push(format!("{error:#}")),
        Ok(()) if stage.is_loaded().await => stage.acknowledged(20).await?,
        Ok(()) => {}
    }
    stage.quiet().await?;
    let dead: Vec<u64> = stage
        .bed
        .ids()
        .into_iter()
        .filter(|id| !stage.bed.is_running(*id))
        .collect();
    findings.add("crashed", dead.len() as u64);
    let nodes: Vec<Node> = stage
        .bed
        .nodes()
        .into_iter()
        .filter(|node| !dead.contains(&node.id))
        .collect();
    let history = stage.recorder.operations();

    let mut levels = vec![ReadLevel::Linearizable];
    if settled.is_ok() {
        match compare(&nodes).await {
            Ok(diverged) => {
                findings.add("diverged", diverged);
                // What all have applied, each must have.
                levels.push(ReadLevel::Local);
            }
            Err(error) => trouble.push(format!("{error:#}")),
        }
    }
    let (history, extra) = (Arc::new(history), Arc::new(extra));
    let mut looks = JoinSet::new();
    for node in &nodes {
        for level in &levels {
            let look = look(node.clone(), *level, history.clone(), extra.clone());
            looks.spawn(tokio::time::timeout(READ, look));
        }
    }
    while let Some(seen) = looks.join_next().await {
        match seen? {
            Ok(Ok(seen)) => seen
                .0
                .into_iter()
                .for_each(|(checker, times)| findings.add(checker, times)),
            Ok(Err(error)) => trouble.push(format!("{error:#}")),
            Err(_) => trouble.push(format!("a node could not be read within {READ:?}")),
        }
    }
    if findings.is_empty() && !trouble.is_empty() {
        anyhow::bail!("no verdict: {}", trouble.join("; "));
    }
    let detail = format!(
        "{findings}{}{}",
        if trouble.is_empty() { "" } else { "; " },
        trouble.join("; ")
    );
    Ok((findings, detail))
}

fn heal(stage: &Stage) -> Result<()> {
    stage.bed.heal_network()?;
    for id in stage.bed.ids() {
        stage.bed.clock(id, Clock::TRUE)?;
        stage.bed.disk_fault(id, DiskFault::None)?;
    }
    Ok(())
}

/// Shards whose replicas hold different content after the same entries.
async fn compare(nodes: &[Node]) -> Result<u64> {
    let sums = wait::until_async("equal applied indexes on all nodes", CONVERGE, async || {
        let mut by_shard: BTreeMap<u32, Vec<GroupChecksum>> = BTreeMap::new();
        for node in nodes {
            let answer = client_of(node)?.with_timeout(READ).checksum(&[]).await?;
            for sum in answer.groups.into_iter().filter(|sum| sum.group != 0) {
                by_shard.entry(sum.group).or_default().push(sum);
            }
        }
        for (shard, sums) in &by_shard {
            let indexes: Vec<u64> = sums.iter().map(|sum| sum.applied_index).collect();
            let equal = indexes.windows(2).all(|two| two[0] == two[1]);
            ensure!(
                equal && sums.len() == nodes.len(),
                "shard {shard} is at {indexes:?}"
            );
        }
        Ok(by_shard)
    })
    .await?;
    let content = |sum: &GroupChecksum| (sum.checksum, sum.series, sum.samples);
    let differ = |sums: &&Vec<GroupChecksum>| sums.windows(2).any(|two| content(&two[0]) != content(&two[1]));
    Ok(sums.values().filter(differ).count() as u64)
}

/// Reads everything from one node, by one matcher and by two.
async fn look(
    node: Node,
    level: ReadLevel,
    history: Arc<Vec<Operation>>,
    extra: Arc<Extra>,
) -> Result<Findings> {
    let mut findings = Findings::default();
    let verdict = readback::judge(std::slice::from_ref(&node), level, &history).await?;
    verdict
        .by_checker
        .iter()
        .for_each(|(checker, times)| findings.add(*checker, *times));

    let outcomes = Outcomes::of(&history);
    let mut found = Vec::new();
    for (writer, _) in outcomes.writers() {
        let job = Kind::of(writer).job();
        let selector = format!("{{job=\"{job}\",instance=\"writer-{writer}\"}}");
        found.extend(read(&node, &selector, level).await?);
    }
    let by_two = check_samples(&outcomes, &mut found);
    by_two
        .by_checker
        .iter()
        .for_each(|(checker, times)| findings.add(*checker, *times));

    // Samples of requests that were answered 400: their senders will not send them again.
    found.sort_unstable();
    let given_up = extra.given_up.iter().flat_map(|batch| batch.entries());
    let missing = given_up
        .filter(|entry| found.binary_search(entry).is_err())
        .count();
    findings.add("refused_retryable", missing as u64);
    Ok(findings)
}

async fn read(node: &Node, selector: &str, level: ReadLevel) -> Result<Vec<Entry>> {
    let client = client_of(node)?.with_timeout(READ);
    let mut stream = client.read_stream(selector, 0, i64::MAX / 2, level).await?;
    let mut found = Vec::new();
    while let Some(piece) = stream
        .next()
        .await
        .with_context(|| format!("{selector} of node {}", node.id))?
    {
        let Some(series) = SeriesId::from_labels(piece.labels.iter()) else {
            continue;
        };
        found.extend(piece.samples().map(|sample| Entry {
            series,
            timestamp_ms: sample.timestamp_ms,
            bits: sample.value.to_bits(),
        }));
    }
    Ok(found)
}
