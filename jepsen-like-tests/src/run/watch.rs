//! What is looked at all the time while faults go on: who leads, and whether processes end on their own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate_client::StatusResponse;

use crate::history::{Action, Stage};
use crate::nemesis::claims::Claim;
use crate::nemesis::scene::Scene;

/// Between two looks at who leads.
const LEADERS: Duration = Duration::from_secs(1);
/// Between two looks at the processes.
const PROCESSES: Duration = Duration::from_millis(100);
/// How long whoever uses a node that has died may take to let go of it.
const PATIENCE: Duration = Duration::from_secs(300);

/// Notes who leads until told to stop.
pub(super) fn leaders(scene: &Scene<'_>, stop: &AtomicBool) {
    let stopped = || stop.load(Ordering::Relaxed);
    while !stopped() {
        let running = scene.ids().into_iter().filter(|id| scene.bed.is_running(*id));
        let statuses: Vec<StatusResponse> = running.filter_map(|id| scene.status(id).ok()).collect();
        let leaders = newest_leaders(&statuses);
        scene.recorder.record(Stage::Info, Action::Leaders { leaders });
        scene.hold(LEADERS, stopped);
    }
}

/// Of each shard the leader of the newest term, by the word of whoever knows that term, and the leader itself
/// before others.
fn newest_leaders(statuses: &[StatusResponse]) -> Vec<(u32, Option<u64>, u64)> {
    let mut best: std::collections::BTreeMap<u32, (u64, bool, Option<u64>)> = Default::default();
    for status in statuses {
        for group in status.groups.iter().filter(|group| group.group != 0) {
            let itself = group.leader_node == Some(status.node);
            let known = (group.term, itself, group.leader_node);
            let so_far = best.entry(group.group).or_insert(known);
            // A term, then the leader's own word, then anybody's.
            let rank = |(term, itself, leader): (u64, bool, Option<u64>)| (term, itself, leader.is_some());
            if rank(known) > rank(*so_far) {
                *so_far = known;
            }
        }
    }
    let leader = |(shard, (term, _, leader))| (shard, leader, term);
    best.into_iter().map(leader).collect()
}

/// Notes processes that end although no fault made them, and starts them again as a supervisor would.
pub(super) fn processes(scene: &Scene<'_>, stop: &AtomicBool) -> Vec<String> {
    let mut troubles = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        for id in scene.ids() {
            if has_ended(scene, id)
                && let Err(error) = bring_back(scene, id)
            {
                troubles.push(format!("node {id} did not come back: {error:#}"));
                return troubles;
            }
        }
        scene.hold(PROCESSES, || stop.load(Ordering::Relaxed));
    }
    troubles
}

/// In this order: whoever ends a process says so first.
fn has_ended(scene: &Scene<'_>, id: u64) -> bool {
    !scene.bed.is_running(id) && !scene.is_down_on_purpose(id)
}

fn bring_back(scene: &Scene<'_>, id: u64) -> anyhow::Result<()> {
    if !scene.is_damaged(id) {
        scene.blame_crash(id);
    }
    scene.will_be_down(&[id]);
    let Some(_held) = scene.claims.take(vec![Claim::Process(id)], PATIENCE) else {
        anyhow::bail!("a fault held it for {PATIENCE:?}");
    };
    scene.revive(id)
}

#[cfg(test)]
mod tests {
    use quorate_client::GroupStatus;

    use super::*;

    fn view(node: u64, term: u64, leader_node: Option<u64>) -> StatusResponse {
        let group = GroupStatus {
            group: 4,
            term,
            leader_node,
            ..GroupStatus::default()
        };
        StatusResponse {
            node,
            groups: vec![group],
            ..StatusResponse::default()
        }
    }

    #[test]
    fn the_newest_term_counts_and_in_it_whoever_leads() {
        let old = view(1, 3, Some(1));
        let (follower, leader) = (view(2, 4, None), view(3, 4, Some(3)));
        assert_eq!(
            newest_leaders(&[old.clone(), follower.clone(), leader]),
            [(4, Some(3), 4)]
        );
        assert_eq!(newest_leaders(&[old, follower]), [(4, None, 4)]);
    }
}
