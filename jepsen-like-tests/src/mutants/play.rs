//! What each scenario does to its cluster. Nothing in here judges; what a clean cluster does at any step is as
//! good as what a broken one does, unless the cluster cannot be brought to the step at all.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quorate_client::StatusResponse;

use super::stage::{READY, Stage, between};
use super::table::Scenario;
use crate::bed::{Clock, DiskFault, Rot};
use crate::cluster::{client_of, client_of_all};
use crate::history::{Action, Level, Stage as Outcome};
use crate::http::Http;
use crate::probes;
use crate::remote_write::{self, TimeSeries};
use crate::values::{Batch, Entry, FIRST_PROBE, Kind};
use crate::wait;
use crate::workload::{conclude, now_ms, series_of};

/// How long something may take that happens only to some clusters.
const PERHAPS: Duration = Duration::from_secs(8);
/// Writers of the scenarios themselves; the load's are lower.
const OWN_WRITER: u32 = 900;
/// The node that things happen to, where it is not the leader.
const VICTIM: u64 = 3;

/// What a scenario saw that is in no history.
#[derive(Debug, Default)]
pub(super) struct Extra {
    /// Batches in requests that were answered 400 because of something else in them.
    pub(super) given_up: Vec<Batch>,
}

pub(super) async fn play(stage: &Stage) -> Result<Extra> {
    let mut extra = Extra::default();
    match stage.scenario {
        Scenario::Calm => stage.acknowledged(1_000).await?,
        Scenario::Overwrites => overwrites(stage).await?,
        Scenario::PowerCuts => power_cuts(stage).await?,
        Scenario::SyncFails => sync_fails(stage).await?,
        Scenario::KillAfterFlush => kill_after_flush(stage).await?,
        Scenario::DeafLeader => deaf_leader(stage).await?,
        Scenario::ForgottenLease => forgotten_lease(stage).await?,
        Scenario::ForgottenVote => forgotten_vote(stage).await?,
        Scenario::WipedDisk => wiped_disk(stage).await?,
        Scenario::CrashInInstall => crash_in_install(stage).await?,
        Scenario::CrashInFlush => crash_in_flush(stage).await?,
        Scenario::WipedDiskMeetsStraggler => wiped_disk_meets_straggler(stage).await?,
        Scenario::RottenLog => rotten_log(stage).await?,
        Scenario::FarClock => far_clock(stage).await?,
        Scenario::PartsFail => extra.given_up = parts_fail(stage).await?,
    }
    Ok(extra)
}

/// Waits for what happens only to some clusters. Whether it did is no matter.
async fn perhaps(what: &str, check: impl AsyncFnMut() -> Result<()>) {
    let _either = wait::until_async(what, PERHAPS, check).await;
}

/// Each batch is followed by another one with the same times and other values, which has to be refused.
async fn overwrites(stage: &Stage) -> Result<()> {
    let client = client_of_all(&stage.bed.nodes()).connect()?;
    for number in 0..40 {
        let first = Batch {
            writer: Kind::Overwrite.writer(0),
            number: 2 * number,
            series: 20,
            timestamp_ms: now_ms(),
        };
        let second = Batch {
            number: first.number + 1,
            ..first
        };
        for batch in [first, second] {
            stage.recorder.record(Outcome::Invoke, write(batch));
            conclude(batch, client.write(series_of(batch)).await, &stage.recorder);
        }
    }
    Ok(())
}

async fn power_cuts(stage: &Stage) -> Result<()> {
    let ids = stage.bed.ids();
    for round in 0..3 {
        for id in &ids {
            stage.bed.disk_fault(*id, DiskFault::Slow { ms: 60 })?;
        }
        stage.acknowledged(20).await?;
        // The moment of the cut is anywhere in a sync.
        tokio::time::sleep(Duration::from_millis((stage.seed * 7 + round * 23) % 60)).await;
        stage.bed.power_cut(&ids)?;
        for id in &ids {
            stage.bed.disk_fault(*id, DiskFault::None)?;
        }
        stage.start(&ids).await?;
    }
    Ok(())
}

async fn sync_fails(stage: &Stage) -> Result<()> {
    let ids = stage.bed.ids();
    for id in &ids {
        stage.bed.disk_fault(*id, DiskFault::FsyncEio)?;
    }
    // A node that takes its disk seriously ends. Others go on to acknowledge. The last node alone is asked for no sync.
    let from = stage.recorder.len();
    wait::until("a majority to end, or to go on", READY, || {
        let running = ids.iter().filter(|id| stage.bed.is_running(**id)).count();
        let ended = running <= ids.len() / 2;
        let acked = stage
            .recorder
            .count_since(from, |operation| operation.stage == Outcome::Ok);
        ensure!(ended || acked > 150, "{acked} acknowledgements since syncs fail");
        Ok(())
    })?;
    stage.bed.power_cut(&ids)?;
    for id in &ids {
        stage.bed.disk_fault(*id, DiskFault::None)?;
    }
    stage.start(&ids).await
}

/// Syncs are slow, so that much is applied between what a flush holds and its end.
async fn kill_after_flush(stage: &Stage) -> Result<()> {
    for id in stage.bed.ids() {
        stage.bed.disk_fault(id, DiskFault::Slow { ms: 30 })?;
    }
    let flushed = flushed_to(stage, 100).await?;
    flushed_to(stage, flushed + 1).await?;
    stage.bed.kill_all()?;
    for id in stage.bed.ids() {
        stage.bed.disk_fault(id, DiskFault::None)?;
    }
    stage.start(&stage.bed.ids()).await
}

/// Waits until every node has flushed shard 1 up to this index, and says how far the last one is.
async fn flushed_to(stage: &Stage, index: u64) -> Result<u64> {
    wait::until_async(
        format_args!("entry {index} to be flushed everywhere"),
        READY,
        async || {
            let mut least = u64::MAX;
            for id in stage.bed.ids() {
                let status = stage.status_of(id).await?;
                let shard = status.groups.iter().find(|group| group.group == 1);
                least = least.min(shard.context("no shard 1")?.flushed_index);
            }
            ensure!(least >= index, "one is at {least}");
            Ok(least)
        },
    )
    .await
}

async fn deaf_leader(stage: &Stage) -> Result<()> {
    let leader = stage.leader_of(1).await?;
    let others = stage.others(leader);
    for other in &others {
        stage.bed.cut(&between(leader, *other))?;
    }
    led_by_another(stage, &others, leader).await?;
    // Both sides have clients.
    stage.acknowledged(150).await
}

/// Waits until one of `asked` says that shard 1 is led by somebody else than `than`.
async fn led_by_another(stage: &Stage, asked: &[u64], than: u64) -> Result<()> {
    wait::until_async(format_args!("another leader than {than}"), READY, async || {
        for id in asked {
            let status = stage.status_of(*id).await?;
            let shard = status
                .groups
                .iter()
                .find(|group| group.group == 1)
                .context("no shard 1")?;
            let leader = shard.leader_node.context("nobody leads")?;
            if leader != than {
                return Ok(());
            }
        }
        anyhow::bail!("it still leads")
    })
    .await
}

/// The leader is cut off from one follower, and the other one, which had just promised not to elect anybody
/// else for a while, restarts and is cut off as well. Nobody writes until the two elect a leader, so that
/// both have all of the log.
async fn forgotten_lease(stage: &Stage) -> Result<()> {
    let leader = stage.leader_of(1).await?;
    let others = stage.others(leader);
    let (candidate, voter) = (others[0], others[1]);
    probe(stage, leader, 0).await?;
    same_log(stage).await?;
    stage.bed.cut(&between(leader, candidate))?;
    // Until the candidate no longer believes in the leader; the voter hears from it to the last moment. From then
    // on the leader's lease goes on for as long again.
    tokio::time::sleep(super::table::LEASE + Duration::from_millis(300)).await;
    stage.bed.cut(&between(leader, voter))?;
    stage.bed.kill(voter)?;
    stage.bed.start_node(voter)?;
    led_by_another(stage, &[candidate], leader).await?;
    for number in 1..=6 {
        probe(stage, candidate, number).await?;
        look(stage, leader).await;
    }
    Ok(())
}

/// Waits until all nodes have applied the same entries.
async fn same_log(stage: &Stage) -> Result<()> {
    wait::until_async("equal logs", READY, async || {
        let mut applied = Vec::new();
        for id in stage.bed.ids() {
            let status = stage.status_of(id).await?;
            applied.push(
                status
                    .groups
                    .iter()
                    .map(|group| group.applied_index)
                    .collect::<Vec<_>>(),
            );
        }
        ensure!(applied.windows(2).all(|two| two[0] == two[1]), "{applied:?}");
        Ok(())
    })
    .await
}

/// Writes a probe at a node.
async fn probe(stage: &Stage, at: u64, number: u64) -> Result<()> {
    let batch = Batch {
        writer: FIRST_PROBE,
        number,
        series: 1,
        timestamp_ms: now_ms(),
    };
    let client = client_of(&stage.node(at)?)?.with_timeout(Duration::from_secs(1));
    stage.recorder.record(Outcome::Invoke, write(batch));
    conclude(batch, client.write(series_of(batch)).await, &stage.recorder);
    Ok(())
}

/// Looks for the newest probe, as a linearizable read of one node.
async fn look(stage: &Stage, node: u64) {
    let began_us = stage.recorder.now_us();
    let answer = match stage.node(node).and_then(|node| client_of(&node)) {
        Ok(client) => {
            let client = client.with_timeout(Duration::from_secs(1));
            probes::newest(&client, Level::Linearizable)
                .await
                .map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    let (outcome, newest, error) = match answer {
        Ok(newest) => (Outcome::Ok, newest, None),
        Err(error) => (Outcome::Info, Vec::new(), Some(error)),
    };
    stage.recorder.record(
        outcome,
        Action::Query {
            node,
            level: Level::Linearizable,
            began_us,
            newest,
            error,
        },
    );
}

/// The disk of a follower hangs while it helps to elect another leader; then its power goes, and all it has
/// left is the old leader.
async fn forgotten_vote(stage: &Stage) -> Result<()> {
    let leader = stage.leader_of(1).await?;
    let others = stage.others(leader);
    let (voter, candidate) = (others[0], others[1]);
    stage.bed.disk_fault(voter, DiskFault::Hang)?;
    stage.bed.cut(&between(leader, voter))?;
    stage.bed.cut(&between(leader, candidate))?;
    perhaps("a leader of two, one of whose disks hangs", async || {
        led_by_another(stage, &[candidate], leader).await
    })
    .await;
    stage.bed.cut(&between(candidate, voter))?;
    stage.bed.power_cut(&[voter])?;
    stage.bed.disk_fault(voter, DiskFault::None)?;
    stage.bed.heal(&between(leader, voter))?;
    stage.bed.start_node(voter)?;
    // The candidate cannot store anything, so somebody else can.
    stage.acknowledged(60).await
}

/// The log is purged, so a node that lost its disk gets a snapshot.
async fn wiped_disk(stage: &Stage) -> Result<()> {
    flushed_to(stage, 600).await?;
    stage.bed.kill(VICTIM)?;
    stage.bed.wipe(VICTIM)?;
    stage.start(&[VICTIM]).await
}

/// The node dies when the snapshot takes effect. The leader that sent it would send another, and that would heal
/// what is wrong with the first; so it is another leader that finds out how far the node is. Nobody writes
/// meanwhile, so that the new leader still has the log that follows.
async fn crash_in_install(stage: &Stage) -> Result<()> {
    flushed_to(stage, 600).await?;
    stage.quiet().await?;
    stage.bed.kill(VICTIM)?;
    stage.bed.wipe(VICTIM)?;
    crash(stage, VICTIM, "install_after_switch").await?;
    let leader = stage.leader_of(1).await?;
    stage.bed.kill(leader)?;
    stage.start(&[leader, VICTIM]).await
}

/// Starts a node and waits for its death at a crash point.
async fn crash(stage: &Stage, id: u64, point: &str) -> Result<()> {
    stage
        .bed
        .start_node_with(id, &[("QUORATE_CRASH_AT".into(), point.into())])?;
    let end = stage.bed.await_exit(id, READY)?;
    let log = std::fs::read_to_string(stage.bed.log(id)?)?;
    let name = point.split(':').next().unwrap_or(point);
    ensure!(
        log.contains(&format!("crash point {name} reached")),
        "node {id} ended otherwise: {end}"
    );
    Ok(())
}

async fn crash_in_flush(stage: &Stage) -> Result<()> {
    stage.bed.kill(VICTIM)?;
    crash(stage, VICTIM, "flush_before_ingest:3").await?;
    stage.start(&[VICTIM]).await
}

/// One node misses writes. Of the two that have them, one loses its disk and the other is down: what is left
/// must not take itself for a majority.
async fn wiped_disk_meets_straggler(stage: &Stage) -> Result<()> {
    let (straggler, wiped, away) = (3, 2, 1);
    stage.bed.kill(straggler)?;
    stage.acknowledged(60).await?;
    stage.bed.kill(away)?;
    stage.bed.kill(wiped)?;
    stage.bed.wipe(wiped)?;
    stage.bed.start_node(wiped)?;
    stage.bed.start_node(straggler)?;
    let from = stage.recorder.len();
    perhaps("a majority without the writes", async || {
        let acked = stage
            .recorder
            .count_since(from, |operation| operation.stage == Outcome::Ok);
        ensure!(acked > 20, "none yet");
        Ok(())
    })
    .await;
    stage.bed.start_node(away)
}

/// A node whose log is damaged may refuse to start. Then it does what its message says: it comes back empty.
async fn rotten_log(stage: &Stage) -> Result<()> {
    stage.acknowledged(300).await?;
    stage.bed.kill(VICTIM)?;
    stage.bed.rot(VICTIM, Rot::Wal, stage.seed)?;
    stage.bed.start_node(VICTIM)?;
    let back = wait::until_async("the node to be ready, or to refuse", READY, async || {
        if !stage.bed.is_running(VICTIM) {
            return Ok(false);
        }
        stage.status_of(VICTIM).await.map(|_| true)
    });
    if back.await? {
        return Ok(());
    }
    stage.bed.wipe(VICTIM)?;
    stage.start(&[VICTIM]).await
}

/// A node replays its log while its clock is an hour behind.
async fn far_clock(stage: &Stage) -> Result<()> {
    stage.bed.kill(VICTIM)?;
    stage.bed.clock(
        VICTIM,
        Clock {
            offset_ms: -3_600_000,
            ..Clock::TRUE
        },
    )?;
    stage.bed.start_node(VICTIM)?;
    let leader = stage.leader_of(1).await?;
    let applied = |status: &StatusResponse| {
        status
            .groups
            .iter()
            .find(|group| group.group == 1)
            .map(|group| group.applied_index)
    };
    let wanted = applied(&stage.status_of(leader).await?);
    wait::until_async("the node to catch up", READY, async || {
        let status = stage.status_of(VICTIM).await?;
        ensure!(
            applied(&status) >= wanted,
            "it is at {:?} of {wanted:?}",
            applied(&status)
        );
        Ok(())
    })
    .await
}

/// Of a request to a node that does not reach a leader, a part fails for a while. Another part of some
/// requests is refused for good. Returns what was given up because of a 400.
async fn parts_fail(stage: &Stage) -> Result<Vec<Batch>> {
    let (first, second) = (stage.leader_of(1).await?, leader_of_2_elsewhere(stage).await?);
    ensure!(first != second, "node {first} leads both shards");
    stage.bed.cut(&between(first, second))?;
    let http = Http::new(&stage.node(first)?.http, Duration::from_secs(10));
    let mut given_up = Vec::new();
    for round in 0..4 {
        let mut requests = Vec::new();
        for number in 0..8 {
            let batch = Batch {
                writer: OWN_WRITER,
                number: round * 8 + number,
                series: 20,
                timestamp_ms: now_ms() + number as i64,
            };
            stage.recorder.record(Outcome::Invoke, write(batch));
            let http = http.clone();
            requests.push(tokio::task::spawn_blocking(move || {
                send_with_a_bad_one(&http, batch)
            }));
        }
        for request in requests {
            given_up.extend(request.await??);
        }
    }
    Ok(given_up)
}

/// The leader of shard 2, after it was moved away from that of shard 1 if it was the same.
async fn leader_of_2_elsewhere(stage: &Stage) -> Result<u64> {
    let (first, second) = (stage.leader_of(1).await?, stage.leader_of(2).await?);
    if first != second {
        return Ok(second);
    }
    let to = stage.others(first)[0];
    client_of(&stage.node(second)?)?.transfer_leader(2, to).await?;
    Ok(to)
}

/// Sends a batch and a sample that no server may take. Gives the batch back if the answer is a 400.
fn send_with_a_bad_one(http: &Http, batch: Batch) -> Result<Option<Batch>> {
    const DAY_MS: i64 = 24 * 3_600_000;
    let series = |entry: Entry, ahead_ms: i64| {
        TimeSeries::new(
            entry.series.labels(),
            [(entry.timestamp_ms + ahead_ms, f64::from_bits(entry.bits))],
        )
    };
    let mut all: Vec<TimeSeries> = batch.entries().map(|entry| series(entry, 0)).collect();
    all.extend(batch.entries().take(2).map(|entry| series(entry, DAY_MS)));
    let answer = remote_write::send(http, &remote_write::encode(all)?)?;
    Ok((answer.status == 400).then_some(batch))
}

fn write(batch: Batch) -> Action {
    Action::Write {
        batch,
        receipts: Vec::new(),
        counts: None,
        error: None,
    }
}
