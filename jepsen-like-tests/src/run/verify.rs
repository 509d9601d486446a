//! The end of a run: everything is healed, the cluster has to come together again, and what it holds is read
//! in every way there is; once more after all nodes were restarted.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::bed::{Bed, Clock, DiskFault};
use crate::checker::Verdict;
use crate::cluster::{Node, await_ready, client_of_all};
use crate::history::{Action, Recorder, Stage};
use crate::nemesis::scene::Scene;
use crate::{readback, wait};

/// How long a healed cluster may take until it is whole.
const HEAL: Duration = Duration::from_secs(120);

/// Undoes every fault once more, whatever state its end left, and waits until all nodes are ready.
pub(super) fn heal(bed: &Bed, scene: &Scene<'_>) -> Result<()> {
    bed.heal_network()?;
    bed.calm()?;
    for id in bed.ids() {
        bed.link_up(id)?;
        bed.clock(id, Clock::TRUE)?;
        bed.disk_fault(id, DiskFault::None)?;
        bed.free_disk(id)?;
        if bed.is_running(id) {
            bed.resume(id)?;
            bed.feed_cpu(id)?;
        }
    }
    for id in bed.ids() {
        scene.revive(id)?;
    }
    all_ready(&bed.nodes())?;
    scene.await_complete(&bed.ids())
}

fn all_ready(nodes: &[Node]) -> Result<()> {
    nodes
        .iter()
        .try_for_each(|node| await_ready(&node.http, HEAL).with_context(|| format!("node {}", node.id)))
}

/// Waits until some node knows a leader of every group, and returns the number of shards.
pub(super) async fn await_leaders(nodes: &[Node]) -> Result<u32> {
    let client = client_of_all(nodes).timeout(Duration::from_secs(5)).connect()?;
    wait::until_async("a leader of every group", HEAL, async || {
        let status = client.status().await?;
        let orphans = status.groups.iter().filter(|group| group.leader_node.is_none());
        let orphans: Vec<u32> = orphans.map(|group| group.group).collect();
        ensure!(
            status.groups.len() > 1 && orphans.is_empty(),
            "groups {orphans:?} of {}",
            status.groups.len()
        );
        Ok(crate::cluster::shards(&status))
    })
    .await
}

/// Waits until every shard has acknowledged a write that was sent after `from` (an index of the history).
pub(super) async fn await_writes(recorder: &Recorder, from: usize, shards: u32) -> Result<()> {
    for shard in 1..=shards {
        wait::until_async(format_args!("shard {shard} to take writes"), HEAL, async || {
            let acked = recorder.any_since(from, |operation| match &operation.action {
                Action::Write { receipts, .. } if operation.stage == Stage::Ok => {
                    receipts.iter().any(|receipt| receipt.shard == shard)
                }
                _ => false,
            });
            ensure!(acked, "none is acknowledged");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Reads everything back from every node in every way.
pub(super) async fn read_all(nodes: &[Node], recorder: &Recorder) -> Result<Verdict> {
    readback::final_check(nodes, recorder, HEAL).await
}

/// Ends all processes, in order or not, starts them, and reads each replica again.
pub(super) fn restart_all(scene: &Scene<'_>, in_order: bool) -> Result<()> {
    let ids = scene.ids();
    scene.will_be_down(&ids);
    if in_order {
        for id in &ids {
            scene.bed.stop_node(*id, Duration::from_secs(40))?;
        }
    } else {
        scene.bed.kill_all()?;
    }
    scene.start_all_sound(&ids)?;
    scene.await_complete(&ids)
}
