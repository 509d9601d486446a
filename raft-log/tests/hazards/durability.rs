//! What is written before what is said, and what may be forgotten.

use std::sync::atomic::Ordering::SeqCst;

use futures_util::FutureExt;
use quorate_raft_log::{
    DeviceOp, EntryKind, GroupStatus, LogDevice, LogKey, LogPosition, OpenError, Record, Role,
};

use crate::support::Cluster;
use crate::support::cluster::LIMIT;
use crate::{Rt, THREAD};

/// RFT-3
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_before_its_sync_returned() {
    let (mut cluster, _) = Cluster::<Rt>::formed(1, THREAD).await;
    let disk = cluster.disk(1);
    disk.hold_syncs();
    let group = cluster.group(1);
    let mut proposal = tokio::spawn(async move { group.propose("one".into()).await });
    assert!(
        tokio::task::spawn_blocking({
            let disk = disk.clone();
            move || disk.wait_for_held_sync(LIMIT)
        })
        .await
        .unwrap()
    );
    assert!(
        (&mut proposal).now_or_never().is_none(),
        "acknowledged while its sync was running"
    );
    assert_eq!(
        cluster.machine(1).applied().commands.len(),
        0,
        "applied while its sync was running"
    );
    cluster.power_cut(1, 0).await;
    assert!(proposal.await.unwrap().is_err(), "acknowledged and lost");
    cluster.start(1).await;
    cluster
        .group(1)
        .wait_for("leads", LIMIT, |s| s.role == Role::Leader)
        .await
        .unwrap();
    cluster.commit("two").await;
    assert_eq!(cluster.converge(&[1]).await, ["two"]);
    cluster.shutdown().await;
}

/// RFT-2
#[tokio::test(flavor = "multi_thread")]
async fn a_vote_counts_only_when_it_is_durable() {
    let mut cluster = Cluster::<Rt>::new(1, THREAD);
    cluster.start(1).await;
    let disk = cluster.disk(1);
    disk.hold_syncs();
    let group = cluster.group(1);
    let initialize = tokio::spawn(async move { group.initialize(&[101]).await });
    assert!(
        tokio::task::spawn_blocking({
            let disk = disk.clone();
            move || disk.wait_for_held_sync(LIMIT)
        })
        .await
        .unwrap()
    );
    assert_ne!(
        cluster.group(1).status().role,
        Role::Leader,
        "elected itself by a vote that may be lost"
    );
    disk.release_syncs();
    initialize.await.unwrap().unwrap();
    cluster
        .group(1)
        .wait_for("leads", LIMIT, |s| s.role == Role::Leader)
        .await
        .unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_write_is_fatal_and_nothing_after_it_is_acknowledged() {
    let (cluster, _) = Cluster::<Rt>::formed(1, THREAD).await;
    cluster.disk(1).fail_writes();
    assert!(cluster.group(1).propose("one".into()).await.is_err());
    assert_eq!(
        cluster.fatals.lock().len(),
        1,
        "the hook that aborts the process was not called once"
    );
    assert!(cluster.fatals.lock()[0].contains("injected write failure"));
    let status = cluster
        .group(1)
        .wait_for("stopped", LIMIT, |s| s.role == Role::Stopped)
        .await
        .unwrap();
    assert!(status.fatal.is_some());
    assert!(cluster.log(1).stats().failed);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_died_is_seen() {
    let (cluster, _) = Cluster::<Rt>::formed(1, THREAD).await;
    cluster.machine(1).fail_apply.store(true, SeqCst);
    assert!(cluster.group(1).propose("one".into()).await.is_err());
    let status = cluster
        .group(1)
        .wait_for("stopped", LIMIT, |s| s.role == Role::Stopped)
        .await
        .unwrap();
    assert!(status.fatal.unwrap().contains("injected apply failure"));
    assert_eq!(cluster.group_fatals.lock().len(), 1);
    assert!(
        cluster.fatals.lock().is_empty(),
        "one group's death is not the log's"
    );
    cluster.shutdown().await;
}

/// RFT-5
#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_durable_is_purged() {
    let (mut cluster, _) = Cluster::<Rt>::formed(1, THREAD).await;
    cluster.commit("one").await;
    let group = cluster.group(1);
    assert_eq!(
        group.purge(u64::MAX).await.unwrap(),
        None,
        "purged what is nowhere else"
    );
    cluster.machine(1).flush();
    let durable = group.applied().unwrap().index;
    cluster.commit("two").await;
    assert_eq!(group.purge(u64::MAX).await.unwrap(), Some(durable));
    group
        .wait_for("purged", LIMIT, |s| s.purged.is_some_and(|p| p.index == durable))
        .await
        .unwrap();
    // The restart needs exactly what was kept.
    cluster.commit("three").await;
    cluster.power_cut(1, 0).await;
    cluster.start(1).await;
    assert_eq!(cluster.converge(&[1]).await, ["one", "two", "three"]);
    cluster.shutdown().await;
}

/// RFT-5
#[tokio::test(flavor = "multi_thread")]
async fn a_state_machine_behind_the_purge_is_refused_at_open() {
    let (mut cluster, _) = Cluster::<Rt>::formed(1, THREAD).await;
    cluster.commit("one").await;
    cluster.machine(1).flush();
    let purged = cluster.group(1).purge(u64::MAX).await.unwrap().unwrap();
    cluster
        .group(1)
        .wait_for("purged", LIMIT, |s| s.purged.is_some_and(|p| p.index == purged))
        .await
        .unwrap();
    cluster.commit("two").await; // its sync makes the purge durable too
    cluster.power_cut(1, 0).await;
    cluster.machine_disk(1).wipe();
    let refused = cluster.try_start(1).await.unwrap_err();
    assert!(
        matches!(refused, OpenError::AppliedBehindPurged { durable: None, .. }),
        "{refused}"
    );
}

/// A leader that lost its term writes what nobody else has; a snapshot of the next term replaces it; the power goes
/// after the snapshot is durable, and before the log's cut is.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_contradicts_an_installed_snapshot_is_dropped_at_open() {
    let (mut cluster, old) = Cluster::<Rt>::formed(3, THREAD).await;
    cluster.commit("one").await;
    cluster.converge(&[1, 2, 3]).await;
    let status = cluster.group(old).status();
    let (term, last) = (status.term, status.last_log.unwrap());
    cluster.power_cut(old, 0).await;
    let rest = cluster.others(old);
    let leader = cluster.leader_among(&rest).await;
    cluster.commit("two").await;
    cluster.converge(&rest).await;
    cluster.machine(leader).flush();
    let log = LogKey {
        group: cluster.group(leader).group(),
        replica: cluster.replica(old),
    };
    let alone = (last + 1..last + 9).map(|index| Record {
        position: LogPosition { term, index },
        kind: EntryKind::Command,
        payload: "never committed".into(),
    });
    let device = cluster.disk(old).mount();
    device
        .write(&[DeviceOp::Append(log, alone.collect())], true)
        .unwrap();
    cluster.machine_disk(old).copy_from(&cluster.machine_disk(leader));
    cluster.start(old).await;
    cluster.commit("three").await;
    assert_eq!(cluster.converge(&[1, 2, 3]).await, ["one", "two", "three"]);
    cluster.shutdown().await;
}

/// A disk lost what it had synced, as with a torn write-ahead log, and nothing is proposed afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lost_acknowledged_entries_gets_them_again() {
    let (mut cluster, leader) = Cluster::<Rt>::formed(3, THREAD).await;
    cluster.commit("one").await;
    cluster.commit("two").await;
    cluster.converge(&[1, 2, 3]).await;
    let torn = cluster.others(leader)[0];
    let last = cluster.group(torn).status().last_log.unwrap();
    let all = |s: &GroupStatus| s.matched.values().all(|m| *m == Some(last));
    let group = cluster.group(leader);
    group.wait_for("all acknowledged", LIMIT, all).await.unwrap();
    cluster.power_cut(torn, 0).await;
    let log = LogKey {
        group: group.group(),
        replica: cluster.replica(torn),
    };
    let device = cluster.disk(torn).mount();
    let kept = device
        .recover(log)
        .unwrap()
        .committed
        .filter(|at| at.index < last);
    device
        .write(
            &[DeviceOp::Truncate(log, last), DeviceOp::Committed(log, kept)],
            true,
        )
        .unwrap();
    cluster.start(torn).await;
    assert_eq!(cluster.converge(&[1, 2, 3]).await, ["one", "two"]);
    assert_eq!(cluster.leader().await, leader, "not because another leads now");
    cluster.shutdown().await;
}

/// RFT-7
#[tokio::test(flavor = "multi_thread")]
async fn the_log_behind_a_snapshot_is_kept_while_it_travels() {
    let (mut cluster, leader) = Cluster::<Rt>::formed(3, THREAD).await;
    let lagging = cluster.others(leader)[0];
    cluster.power_cut(lagging, 0).await;
    let rest = cluster.others(lagging);
    let group = cluster.group(leader);
    for n in 0..20 {
        group.propose(format!("c{n}").into()).await.unwrap();
    }
    cluster.machine(leader).flush();
    let first = group.purge(u64::MAX).await.unwrap().unwrap();
    group
        .wait_for("purged", LIMIT, |s| s.purged.is_some_and(|p| p.index == first))
        .await
        .unwrap();
    cluster.hub.gate_snapshots(Some(1));
    cluster.start(lagging).await;
    let mut frames = cluster.hub.snapshot_frames.subscribe();
    tokio::time::timeout(LIMIT, frames.wait_for(|frames| *frames >= 1))
        .await
        .unwrap()
        .unwrap();
    // The log moves on while the snapshot is under way, and wants to be purged.
    for n in 20..40 {
        group.propose(format!("c{n}").into()).await.unwrap();
    }
    cluster.converge(&rest).await;
    cluster.machine(leader).flush();
    let held = group.purge(u64::MAX).await.unwrap();
    assert_eq!(held, None, "purged what the receiver needs next");
    let sent = cluster.machine(leader).snapshots_taken.load(SeqCst);
    cluster.hub.gate_snapshots(None);
    assert_eq!(cluster.converge(&[1, 2, 3]).await.len(), 40);
    assert_eq!(
        cluster.machine(leader).snapshots_taken.load(SeqCst),
        sent,
        "needed another snapshot"
    );
    // Caught up: the hold is over.
    let all = |s: &GroupStatus| s.matched.values().all(|m| *m == s.last_log);
    group.wait_for("all caught up", LIMIT, all).await.unwrap();
    assert!(group.purge(u64::MAX).await.unwrap().is_some());
    cluster.shutdown().await;
}
