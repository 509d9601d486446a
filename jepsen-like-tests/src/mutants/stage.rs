//! A cluster of `quorate-mutant` under load, ready for a scenario.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quorate_client::StatusResponse;
use tokio::sync::Mutex;

use super::Scenario;
use crate::bed::{Bed, BedOptions, Peer};
use crate::cluster::{self, Node, client_of, client_of_all};
use crate::history::{Recorder, Stage as Outcome};
use crate::probes::Probes;
use crate::wait;
use crate::workload::{Load, LoadOptions};

/// How long a cluster may take to form, and to come back.
pub(super) const READY: Duration = Duration::from_secs(30);
/// Enough for a batch every few milliseconds, so that something is always under way.
const LOAD: LoadOptions = LoadOptions {
    samples_per_second: 7_500,
    writers: 3,
    series: 50,
};
/// As many samples in more batches, for scenarios that need a long log.
const SMALL_BATCHES: LoadOptions = LoadOptions {
    samples_per_second: 6_000,
    writers: 6,
    series: 15,
};

/// A cluster, its load and what is recorded of it.
pub(super) struct Stage {
    pub(super) scenario: Scenario,
    pub(super) bed: Bed,
    pub(super) recorder: Recorder,
    pub(super) seed: u64,
    load: Mutex<Option<Load>>,
    probes: Mutex<Option<Probes>>,
}

impl Stage {
    /// Starts the cluster, waits until it takes writes, and puts load on it.
    pub(super) async fn set(
        scenario: Scenario,
        mutant: Option<&str>,
        program: &Path,
        seed: u64,
    ) -> Result<Stage> {
        let settings = scenario.settings().into_iter();
        let bed = Bed::start(BedOptions {
            binary: program.to_owned(),
            settings: settings.map(|(key, value)| (key.into(), value.into())).collect(),
            environment: vec![("QUORATE_MUTANT".into(), mutant.unwrap_or_default().into())],
            seed,
            ..BedOptions::default()
        })?;
        let nodes = bed.nodes();
        led(&nodes, scenario.shards()).await.with_context(|| bed.logs())?;
        let recorder = Recorder::default();
        let probes = match scenario.has_probes() {
            true => Some(Probes::start(&nodes, scenario.shards(), &recorder).await?),
            false => None,
        };
        let load = match scenario.has_load() {
            true => {
                let load = if scenario.needs_long_log() {
                    SMALL_BATCHES
                } else {
                    LOAD
                };
                Some(Load::start(&nodes, load, &recorder)?)
            }
            false => None,
        };
        let stage = Stage {
            scenario,
            bed,
            recorder,
            seed,
            load: Mutex::new(load),
            probes: Mutex::new(probes),
        };
        if scenario.has_load() {
            stage.acknowledged(30).await?;
        }
        Ok(stage)
    }

    /// Waits for so many acknowledgements more.
    pub(super) async fn acknowledged(&self, wanted: usize) -> Result<()> {
        let from = self.recorder.len();
        wait::until_async("acknowledgements", READY, async || {
            let acked = self
                .recorder
                .count_since(from, |operation| operation.stage == Outcome::Ok);
            ensure!(acked >= wanted, "only {acked} of {wanted}");
            Ok(())
        })
        .await
    }

    /// The node with this id.
    pub(super) fn node(&self, id: u64) -> Result<Node> {
        let node = self.bed.nodes().into_iter().find(|node| node.id == id);
        node.with_context(|| format!("no node {id}"))
    }

    /// What a node says of the cluster.
    pub(super) async fn status_of(&self, id: u64) -> Result<StatusResponse> {
        let client = client_of(&self.node(id)?)?.with_timeout(Duration::from_secs(2));
        Ok(client.status().await?)
    }

    /// The node that leads a shard, as some node has it.
    pub(super) async fn leader_of(&self, shard: u32) -> Result<u64> {
        let client = client_of_all(&self.bed.nodes())
            .timeout(Duration::from_secs(5))
            .connect()?;
        wait::until_async(format_args!("a leader of shard {shard}"), READY, async || {
            let status = client.status().await?;
            let group = status.groups.iter().find(|group| group.group == shard);
            group.and_then(|group| group.leader_node).context("nobody leads")
        })
        .await
    }

    /// Every node but this one.
    pub(super) fn others(&self, id: u64) -> Vec<u64> {
        self.bed.ids().into_iter().filter(|other| *other != id).collect()
    }

    /// Starts nodes that were killed, and waits until they and everybody are back.
    pub(super) async fn start(&self, ids: &[u64]) -> Result<()> {
        ids.iter().try_for_each(|id| self.bed.start_node(*id))?;
        self.settled().await
    }

    /// Waits until all nodes are ready and every group has a leader that all know.
    pub(super) async fn settled(&self) -> Result<()> {
        let nodes = self.bed.nodes();
        led(&nodes, self.scenario.shards()).await
    }

    /// Whether load is on.
    pub(super) async fn is_loaded(&self) -> bool {
        self.load.lock().await.is_some()
    }

    /// Stops load and probes once all that was sent is answered or given up.
    pub(super) async fn quiet(&self) -> Result<()> {
        if let Some(load) = self.load.lock().await.take() {
            load.stop().await?;
        }
        if let Some(probes) = self.probes.lock().await.take() {
            probes.stop().await?;
        }
        Ok(())
    }
}

/// Both ways between two nodes.
pub(super) fn between(left: u64, right: u64) -> [(Peer, Peer); 2] {
    let (left, right) = (Peer::Node(left), Peer::Node(right));
    [(left, right), (right, left)]
}

/// Waits until each of `nodes` is ready and names a leader of every group.
pub(super) async fn led(nodes: &[Node], shards: u32) -> Result<()> {
    for node in nodes {
        let node = node.clone();
        tokio::task::spawn_blocking(move || cluster::await_ready(&node.http, READY)).await??;
    }
    for node in nodes {
        let client = client_of(node)?.with_timeout(Duration::from_secs(2));
        wait::until_async(
            format_args!("node {} to know all leaders", node.id),
            READY,
            async || {
                let status = client.status().await?;
                let led = status
                    .groups
                    .iter()
                    .filter(|group| group.leader_node.is_some())
                    .count();
                ensure!(led > shards as usize, "{led} of {} groups are led", shards + 1);
                Ok(())
            },
        )
        .await?;
    }
    Ok(())
}
