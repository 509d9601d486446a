//! What leaders do to keep their groups as the meta state wants them: membership, limits, the
//! preferred leader. Also the hand-over of leadership before a node stops.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_raft_log::{GroupStatus, ReplicaId, Role};
use quorate_storage::{Limits, Shard, encode_limits_entry, encode_retentions_entry};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::meta::{GroupInfo, META_GROUP};
use super::view::View;
use crate::node::Node;
use crate::raft::Group;

const ROUND: Duration = Duration::from_secs(1);
/// A round while a shard waits for its first limits.
const FIRST_ROUND: Duration = Duration::from_millis(50);
/// Longest step of a membership change; the next round goes on where it stopped.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(2);
/// Leadership goes to the preferred node only after it was reachable for so long, so that a node that
/// flaps does not take every group with it.
const STEADY: Duration = Duration::from_secs(5);

/// Runs until cancelled. All of it is repeatable: what fails is tried again in the next round.
pub async fn reconcile(core: Arc<Node>, stop: CancellationToken) {
    // Apart from each other, because a replica may take long to catch up.
    tokio::select! {
        () = stop.cancelled() => {}
        () = keep_groups(&core) => {}
        () = place_leaders(&core) => {}
    }
}

async fn keep_groups(core: &Node) {
    loop {
        tokio::time::sleep(pause(core)).await;
        let Some(view) = core.view().get() else { continue };
        let groups = core.groups();
        let kept = groups.iter().map(|group| keep(core, &view, group));
        futures_util::future::join_all(kept).await;
    }
}

/// A new shard takes no samples before it has limits.
fn pause(core: &Node) -> Duration {
    let shards = core.shards().all();
    let waits = shards.iter().any(|r| r.leads() && r.storage().limits().is_none());
    match waits || shards.is_empty() {
        true => FIRST_ROUND,
        false => ROUND,
    }
}

async fn place_leaders(core: &Node) {
    let mut steady_since = BTreeMap::new();
    loop {
        tokio::time::sleep(ROUND).await;
        let Some(view) = core.view().get() else { continue };
        for node in view.nodes.keys() {
            match core.peers().may_lead(*node) {
                true => {
                    steady_since.entry(*node).or_insert_with(Instant::now);
                }
                false => {
                    steady_since.remove(node);
                }
            }
        }
        let steady = |node: u64| {
            steady_since
                .get(&node)
                .is_some_and(|at: &Instant| at.elapsed() >= STEADY)
        };
        if core.gate().check().is_err() {
            hand_over(core).await;
            continue;
        }
        // One transfer a round: a moved leader has to warm up, and clients have to notice.
        for group in core.groups() {
            if let Some(to) = better_leader(core, &view, &group, &steady)
                && transfer(&group, to).await
            {
                break;
            }
        }
    }
}

/// Brings a group that is led here to its wanted membership, and its limits into its log.
async fn keep(core: &Node, view: &View, group: &Group) {
    let status = group.status();
    if status.role != Role::Leader {
        return;
    }
    let Some(wanted) = view.groups.get(&group.group()) else {
        return;
    };
    if let Err(e) = membership(group, &status, wanted).await {
        tracing::warn!(group = group.group(), error = %e, "the membership is not as wanted yet");
    }
    if group.group() != META_GROUP {
        keep_limits(core, view, group.group()).await;
    }
}

/// The replica that should lead a group instead of the one here, which does.
fn better_leader(
    core: &Node,
    view: &View,
    group: &Group,
    steady: &impl Fn(u64) -> bool,
) -> Option<ReplicaId> {
    let status = group.status();
    if status.role != Role::Leader {
        return None;
    }
    let wanted = view.groups.get(&group.group())?;
    let preferred = wanted.preferred_leader;
    let elsewhere = preferred != core.peers().own() && steady(preferred);
    elsewhere.then(|| wanted.on(preferred)).flatten()
}

/// Brings Raft's membership to the wanted replicas: new ones learn first, then one joint change.
async fn membership(
    group: &Group,
    status: &GroupStatus,
    wanted: &GroupInfo,
) -> Result<(), quorate_raft_log::MembershipChangeError> {
    if group.finish_joint(CHANGE_TIMEOUT).await? {
        tracing::info!(
            group = group.group(),
            "finished a membership change that was half way"
        );
        return Ok(());
    }
    let target: BTreeSet<ReplicaId> = wanted.replicas.iter().map(|r| r.replica).collect();
    let voters: BTreeSet<ReplicaId> = status.voters.iter().flatten().copied().collect();
    if voters.is_empty() {
        return Ok(());
    }
    // Added for a node that came back empty once more before it had a vote.
    let stray: Vec<ReplicaId> = status
        .learners
        .iter()
        .copied()
        .filter(|r| !target.contains(r))
        .collect();
    if !stray.is_empty() {
        group.remove_learners(&stray, CHANGE_TIMEOUT).await?;
        tracing::info!(
            group = group.group(),
            ?stray,
            "removed replicas that are not wanted any more"
        );
    }
    if voters == target {
        return Ok(());
    }
    for replica in target.difference(&voters) {
        tracing::info!(group = group.group(), replica, "adding a replica");
        group.add_learner(*replica, CHANGE_TIMEOUT).await?;
    }
    let target: Vec<ReplicaId> = target.into_iter().collect();
    group.change_membership(&target, CHANGE_TIMEOUT).await?;
    tracing::info!(group = group.group(), ?target, "the membership is as wanted");
    Ok(())
}

/// Writes the cluster's limits into the shard's log when they differ: apply knows no others.
async fn keep_limits(core: &Node, view: &View, shard: u32) {
    let Some(replica) = core.shards().get(shard) else {
        return;
    };
    let Ok(missing) = missing_limits(replica.storage(), view, || core.gate().stamp()) else {
        return;
    };
    for entry in missing {
        if let Err(e) = replica.group().propose(entry).await {
            tracing::warn!(shard, error = %e, "the limits are not in the shard's log yet");
        }
    }
}

/// The entries that bring a shard's log to the limits and retentions of the cluster; none when it has them.
/// `stamp` is the time of the log, asked for when one is needed.
pub fn missing_limits<E>(
    shard: &Shard,
    view: &View,
    stamp: impl Fn() -> Result<i64, E>,
) -> Result<Vec<Bytes>, E> {
    let mut entries = Vec::new();
    let wanted = storage_limits(view);
    if shard.limits() != Some(wanted) {
        entries.push(encode_limits_entry(stamp()?, &wanted));
    }
    if !shard.has_retentions(&view.retentions) {
        entries.push(encode_retentions_entry(stamp()?, &view.retentions));
    }
    Ok(entries)
}

/// What shards have to know of the limits.
fn storage_limits(view: &View) -> Limits {
    let limits = &view.limits;
    Limits {
        ooo_window_ms: limits.ooo_window_ms,
        retention_ms: limits.retention_ms,
        max_ahead_ms: limits.max_ahead_ms,
        max_series_per_shard: limits.max_series_per_shard,
        quota_epoch: view.quota_epoch(),
    }
}

async fn transfer(group: &Group, to: ReplicaId) -> bool {
    // A group whose disk hangs may not even take the wish.
    let transfer = tokio::time::timeout(2 * TRANSFER_TIMEOUT, group.transfer_leader(to, TRANSFER_TIMEOUT));
    let Ok(transferred) = transfer.await else {
        return false;
    };
    match transferred {
        Ok(()) => {
            tracing::info!(group = group.group(), to, "handed leadership over");
            true
        }
        Err(e) => {
            tracing::debug!(group = group.group(), to, error = %e, "leadership stays for now");
            false
        }
    }
}

/// Of the voters whose nodes can lead, the one that has most of the log.
fn any_other(core: &Node, status: &GroupStatus) -> Option<ReplicaId> {
    let view = core.view().get()?;
    let able = |replica: &ReplicaId| {
        let node = view.node_of(status.group, *replica);
        node.is_some_and(|node| node != core.peers().own() && core.peers().may_lead(node))
    };
    let voters = status.voters.iter().flatten().copied().filter(able);
    voters.max_by_key(|r| status.matched.get(r).copied().flatten())
}

/// Hands every group that this node leads to another voter: because it stops, or may take no writes.
/// Groups in parallel: the caller bounds the time.
pub async fn hand_over(core: &Node) {
    let all = core.groups();
    let transfers = all.iter().map(|group| async move {
        let status = group.status();
        if status.role == Role::Leader
            && let Some(to) = any_other(core, &status)
        {
            transfer(group, to).await;
        }
    });
    futures_util::future::join_all(transfers).await;
}
