//! What faults have to work with: the bed, who leads, who is up, and whether the others would miss a node.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use quorate_client::{Client, GroupStatus, StatusResponse};
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use tokio::runtime::Handle;

use super::claims::Claims;
use crate::bed::Bed;
use crate::cluster::{Node, led_by};
use crate::history::{Action, Orphan, Recorder, Stage};
use crate::http::Http;
use crate::wait;

/// How long a node may take to answer how it stands.
const STATUS: Duration = Duration::from_secs(1);
/// How long a node may take from its start until it is ready, while other faults go on.
pub const BACK: Duration = Duration::from_secs(90);
/// How long the rest of the cluster may take to be complete before data of a node is destroyed.
const COMPLETE: Duration = Duration::from_secs(90);
/// How long reading all that a node stores may take.
const RESCAN: Duration = Duration::from_secs(60);
/// Log entries that a node keeps behind what it has flushed; purging goes on beyond them.
const KEPT_ENTRIES: u64 = 512;

/// Everything that faults share.
#[derive(Debug)]
pub struct Scene<'a> {
    /// Where the nodes live.
    pub bed: &'a Bed,
    /// Where faults are noted.
    pub recorder: Recorder,
    /// Claims of the faults at work.
    pub claims: Claims,
    /// The file by which a node is told to crash at a named place, if the binary has such places.
    pub crash_file: Option<PathBuf>,
    runtime: Handle,
    clients: BTreeMap<u64, Client>,
    /// Nodes that are down, or may go down at any moment, because a fault wants it so.
    down: Mutex<BTreeSet<u64>>,
    /// Nodes with bytes on their disk that the product has not looked at since they were damaged.
    damaged: Mutex<BTreeSet<u64>>,
}

/// How a start went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started {
    /// The node is ready.
    Ready,
    /// The process ended and said why, or said that its data is damaged, and was ended.
    Refused(String),
}

impl<'a> Scene<'a> {
    /// A scene over a started bed. `runtime` runs the calls to nodes; faults have threads of their own.
    pub fn new(bed: &'a Bed, recorder: Recorder, runtime: Handle) -> Result<Scene<'a>> {
        let mut clients = BTreeMap::new();
        // A connection is made when it is first used, within the runtime that drives it.
        let _inside = runtime.enter();
        for node in bed.nodes() {
            let client = Client::builder().endpoint(node.grpc.as_str());
            clients.insert(node.id, client.timeout(STATUS).max_attempts(1).connect()?);
        }
        Ok(Scene {
            bed,
            recorder,
            claims: Claims::default(),
            crash_file: None,
            runtime,
            clients,
            down: Mutex::default(),
            damaged: Mutex::default(),
        })
    }

    /// All node ids.
    pub fn ids(&self) -> Vec<u64> {
        self.bed.ids()
    }

    /// All node ids but some.
    pub fn others(&self, than: &[u64]) -> Vec<u64> {
        self.ids().into_iter().filter(|id| !than.contains(id)).collect()
    }

    fn node(&self, id: u64) -> Result<Node> {
        let mut nodes = self.bed.nodes().into_iter();
        nodes
            .find(|node| node.id == id)
            .with_context(|| format!("no node {id}"))
    }

    /// The cluster as one node sees it.
    pub fn status(&self, id: u64) -> Result<StatusResponse> {
        let client = self.clients.get(&id).with_context(|| format!("no node {id}"))?;
        let answer = self.runtime.block_on(client.status());
        answer.with_context(|| format!("status of node {id}"))
    }

    /// Asks a node to move a group's leader.
    pub fn transfer_leader(&self, asked: u64, group: u32, to: u64) -> Result<()> {
        let client = self
            .clients
            .get(&asked)
            .with_context(|| format!("no node {asked}"))?;
        Ok(self.runtime.block_on(client.transfer_leader(group, to))?)
    }

    /// What a node leads by its own word. Nothing if it does not answer.
    pub fn led(&self, id: u64) -> Vec<Orphan> {
        self.status(id)
            .map_or_else(|_| Vec::new(), |status| led_by(&status, id))
    }

    /// What several nodes lead.
    pub fn led_by_any(&self, ids: &[u64]) -> Vec<Orphan> {
        ids.iter().flat_map(|id| self.led(*id)).collect()
    }

    /// A node that leads some shard, by its own word. If none answers, any.
    pub fn some_leader(&self, rng: &mut StdRng) -> u64 {
        let mut ids = self.ids();
        ids.shuffle(rng);
        let leads = |id: &&u64| self.bed.is_running(**id) && !self.led(**id).is_empty();
        let leader = ids.iter().find(leads).or(ids.first());
        leader.copied().unwrap_or(1)
    }

    /// Any node.
    pub fn some_node(&self, rng: &mut StdRng) -> u64 {
        let ids = self.ids();
        let at = rng.random_range(0..ids.len().max(1));
        ids.get(at).copied().unwrap_or(1)
    }

    /// Notes that these nodes are down on purpose.
    pub fn will_be_down(&self, ids: &[u64]) {
        let mut down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        down.extend(ids);
    }

    /// Notes that these nodes have to be up from now on.
    pub fn must_be_up(&self, ids: &[u64]) {
        let mut down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        down.retain(|id| !ids.contains(id));
    }

    /// Whether a node is down, or may be, because a fault wants it so.
    pub fn is_down_on_purpose(&self, id: u64) -> bool {
        self.down
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&id)
    }

    /// Notes a process that ended without a reason.
    pub fn blame_crash(&self, node: u64) {
        let detail = self.bed.exit_of(node).unwrap_or_else(|| "unknown".to_owned());
        self.recorder.record(Stage::Info, Action::Crash { node, detail });
    }

    /// Notes that bytes of a node's disk are damaged, and may be met at any later time.
    pub fn note_damage(&self, id: u64) {
        self.damaged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id);
    }

    /// Notes that a node's disk is new.
    pub fn forget_damage(&self, id: u64) {
        self.damaged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
    }

    /// Whether a node may meet damaged bytes, and so refuse to go on, loudly.
    pub fn is_damaged(&self, id: u64) -> bool {
        self.damaged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&id)
    }

    /// Starts a node and waits until it is ready, or has ended.
    pub fn start(&self, id: u64) -> Result<Started> {
        self.bed.start_node(id)?;
        let http = Http::new(&self.node(id)?.http, STATUS);
        let started = wait::until(format_args!("node {id} to be ready"), BACK, || {
            if !self.bed.is_running(id) {
                let exit = self.bed.exit_of(id).unwrap_or_else(|| "ended".to_owned());
                return Ok(Started::Refused(exit));
            }
            let answer = http.get("/-/ready")?;
            let text = answer.text();
            // Some of its shards may be sound, so the node goes on, and says what its operator has to do.
            if answer.status == 503 && text.contains("is damaged") {
                return Ok(Started::Refused(text));
            }
            ensure!(answer.status == 200, "{}: {text}", answer.status);
            Ok(Started::Ready)
        })?;
        match &started {
            Started::Ready => self.must_be_up(&[id]),
            Started::Refused(_) if self.bed.is_running(id) => {
                self.will_be_down(&[id]);
                self.bed.kill(id)?;
            }
            Started::Refused(_) => {}
        }
        Ok(started)
    }

    /// Starts a node that has no reason to refuse.
    pub fn start_sound(&self, id: u64) -> Result<()> {
        match self.start(id)? {
            Started::Ready => Ok(()),
            Started::Refused(why) if self.is_damaged(id) => self.replace_disk(id, &why),
            Started::Refused(why) => {
                self.blame_crash(id);
                bail!("node {id} refused to start although its data was not touched: {why}")
            }
        }
    }

    /// What an operator does when a node says that its data is damaged: a new disk. The node comes back by
    /// itself, under new replica ids.
    pub fn replace_disk(&self, id: u64, why: &str) -> Result<()> {
        self.await_complete(&self.others(&[id]))?;
        self.bed.wipe(id)?;
        self.forget_damage(id);
        let started = self.start(id)?;
        ensure!(
            started == Started::Ready,
            "node {id} refused to start ({why}), and with a new disk too: {started:?}"
        );
        self.await_complete(&self.ids())
    }

    /// Starts several nodes at once. None of them has a reason to refuse.
    pub fn start_all_sound(&self, ids: &[u64]) -> Result<()> {
        std::thread::scope(|scope| {
            let starts: Vec<_> = ids
                .iter()
                .map(|id| scope.spawn(|| self.start_sound(*id)))
                .collect();
            let mut results = starts.into_iter().map(|start| start.join());
            results.try_for_each(|result| result.unwrap_or_else(|_| Err(anyhow!("a start panicked"))))
        })
    }

    /// Brings a node back that a fault may have ended, or may still end: what it met an instant ago may take a
    /// moment to reach whoever decides to stop. Once it is up it has to stay up.
    pub fn revive_after(&self, id: u64, aftermath: Duration) -> Result<()> {
        self.hold(aftermath, || !self.bed.is_running(id));
        self.revive(id)
    }

    /// Starts a node that a fault may have ended. Once it is up it has to stay up.
    pub fn revive(&self, id: u64) -> Result<()> {
        if self.bed.is_running(id) {
            self.must_be_up(&[id]);
            return Ok(());
        }
        self.start_sound(id)
    }

    /// Has a node read all that its replicas store.
    pub fn rescan(&self, id: u64) -> Result<()> {
        let client = self.clients.get(&id).with_context(|| format!("no node {id}"))?;
        let client = client.with_timeout(RESCAN);
        self.runtime.block_on(client.checksum(&[]))?;
        Ok(())
    }

    /// Waits until the beginning of every shard's log is gone on these nodes, so that whoever has nothing needs a
    /// snapshot.
    pub fn await_purged(&self, ids: &[u64]) -> Result<()> {
        wait::until(format_args!("purged logs on nodes {ids:?}"), COMPLETE, || {
            for status in self.statuses(ids)? {
                let shards = status.groups.iter().filter(|group| group.group != 0);
                for shard in shards {
                    ensure!(
                        shard.flushed_index > KEPT_ENTRIES,
                        "shard {} on node {} is flushed up to {} only",
                        shard.group,
                        status.node,
                        shard.flushed_index
                    );
                }
            }
            Ok(())
        })
    }

    /// Waits for a moment that passes fast.
    pub fn until_quickly(&self, what: &str, mut check: impl FnMut() -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + BACK;
        loop {
            match check() {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    return Err(error).with_context(|| format!("waited {BACK:?} for {what}"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// Waits until these nodes have applied everything that any of them knew to be committed, and each group
    /// has one leader among them that all name: with every other disk lost, nothing would be.
    pub fn await_complete(&self, ids: &[u64]) -> Result<()> {
        let goal = wait::until(format_args!("nodes {ids:?} to answer"), COMPLETE, || {
            committed(&self.statuses(ids)?)
        })?;
        wait::until(format_args!("nodes {ids:?} to be complete"), COMPLETE, || {
            complete(&self.statuses(ids)?, &goal)
        })
    }

    fn statuses(&self, ids: &[u64]) -> Result<Vec<StatusResponse>> {
        ids.iter().map(|id| self.status(*id)).collect()
    }

    /// The positions up to which a node has applied its shards.
    pub fn applied(&self, id: u64) -> Result<BTreeMap<u32, u64>> {
        let shards = self
            .status(id)?
            .groups
            .into_iter()
            .filter(|group| group.group != 0);
        Ok(shards.map(|shard| (shard.group, shard.applied_index)).collect())
    }

    /// Lasts for a fault's time, in small steps, and ends early when `ended` says so.
    pub fn hold(&self, hold: Duration, mut ended: impl FnMut() -> bool) {
        const STEP: Duration = Duration::from_millis(20);
        let until = Instant::now() + hold;
        while Instant::now() < until && !ended() {
            std::thread::sleep(STEP.min(until.saturating_duration_since(Instant::now())));
        }
    }
}

/// The newest committed position of each group that any of the nodes knows.
fn committed(statuses: &[StatusResponse]) -> Result<BTreeMap<u32, u64>> {
    let mut goal: BTreeMap<u32, u64> = BTreeMap::new();
    for group in statuses.iter().flat_map(|status| &status.groups) {
        let newest = goal.entry(group.group).or_default();
        *newest = (*newest).max(group.committed_index);
    }
    ensure!(goal.len() > 1, "no node knows the shards");
    Ok(goal)
}

fn complete(statuses: &[StatusResponse], goal: &BTreeMap<u32, u64>) -> Result<()> {
    for (group, goal) in goal {
        let mut leaders = BTreeSet::new();
        for status in statuses {
            let own: Option<&GroupStatus> = status.groups.iter().find(|own| own.group == *group);
            let own = own.with_context(|| format!("node {} knows no group {group}", status.node))?;
            ensure!(
                own.applied_index >= *goal,
                "group {group} on node {}: {} of {goal}",
                status.node,
                own.applied_index
            );
            let leader = own
                .leader_node
                .with_context(|| format!("group {group} has no leader"))?;
            leaders.insert((leader, own.term));
        }
        ensure!(leaders.len() == 1, "group {group} has the leaders {leaders:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(node: u64, groups: &[(u32, u64, u64, Option<u64>)]) -> StatusResponse {
        let group = |(group, committed_index, applied_index, leader_node): &(u32, u64, u64, Option<u64>)| {
            GroupStatus {
                group: *group,
                committed_index: *committed_index,
                applied_index: *applied_index,
                leader_node: *leader_node,
                ..GroupStatus::default()
            }
        };
        StatusResponse {
            node,
            groups: groups.iter().map(group).collect(),
            ..StatusResponse::default()
        }
    }

    #[test]
    fn a_node_that_lags_is_not_complete() {
        let leader = status(1, &[(0, 3, 3, Some(1)), (1, 10, 10, Some(1))]);
        let lags = status(2, &[(0, 3, 3, Some(1)), (1, 8, 8, Some(1))]);
        let goal = committed(&[leader.clone(), lags.clone()]).unwrap();
        assert_eq!(goal, BTreeMap::from([(0, 3), (1, 10)]));
        assert!(complete(&[leader.clone(), lags], &goal).is_err());
        let there = status(2, &[(0, 3, 3, Some(1)), (1, 12, 11, Some(1))]);
        assert!(complete(&[leader.clone(), there], &goal).is_ok());
        let disagrees = status(2, &[(0, 3, 3, Some(1)), (1, 12, 11, Some(2))]);
        assert!(complete(&[leader.clone(), disagrees], &goal).is_err());
        let lost = status(2, &[(0, 3, 3, None), (1, 12, 11, None)]);
        assert!(complete(&[leader, lost], &goal).is_err());
    }
}
