//! One test per hazard of the consensus library that this crate removes. Each fails without it.

#![allow(clippy::unwrap_used)] // clippy knows test functions only, not what they call

mod support;

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use quorate_raft_log::{
    GroupStatus, NetworkError, OpenError, ProposeError, Role, TokioRuntime, TransferError, WriterMode,
    describe_membership,
};
use support::cluster::LIMIT;
use support::network::{PRE_VOTE, VOTE};
use support::{Cluster, GROUP};

type Rt = TokioRuntime;
const THREAD: WriterMode = WriterMode::Thread;

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

/// RFT-6
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_replica_gives_no_vote_for_one_lease() {
    let (mut cluster, leader) = Cluster::<Rt>::formed(3, THREAD).await;
    cluster.commit("one").await;
    let voter = cluster.others(leader)[0];
    // A real question of the last election, to be asked again; both kinds of it look the same.
    let question = cluster.hub.recorded(VOTE)[0].1.clone();
    let asked = [PRE_VOTE, VOTE].map(|kind| (kind, question.clone()));
    for node in cluster.ids() {
        cluster.power_cut(node, 0).await;
    }
    cluster.start(voter).await;
    let started = Instant::now();
    let log = cluster.log(voter);
    let ask = async |kind, payload: &Bytes| {
        log.handle_control(GROUP, cluster.replica(voter), kind, payload.clone())
            .await
    };
    for (kind, payload) in &asked {
        let answer = ask(*kind, payload).await;
        if started.elapsed() < Duration::from_millis(cluster.config.election_timeout_max_ms) {
            assert!(
                matches!(answer, Err(NetworkError::Refused(_))),
                "kind {kind}: {answer:?}"
            );
        }
    }
    let answered = async {
        while ask(PRE_VOTE, &asked[0].1).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, answered)
        .await
        .expect("refuses votes for ever");
    let guard = Duration::from_millis(cluster.config.election_timeout_max_ms);
    assert!(
        started.elapsed() + Duration::from_millis(50) >= guard,
        "gave a vote after {:?}",
        started.elapsed()
    );
    cluster.shutdown().await;
}

/// RFT-6: its own candidacy would break the same lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_replica_is_no_candidate_for_one_lease() {
    let (mut cluster, _) = Cluster::<Rt>::formed(1, THREAD).await;
    cluster.commit("one").await;
    cluster.power_cut(1, 0).await;
    let started = Instant::now();
    cluster.start(1).await;
    cluster
        .group(1)
        .wait_for("leads", LIMIT, |s| s.role == Role::Leader)
        .await
        .unwrap();
    let guard = Duration::from_millis(cluster.config.election_timeout_max_ms);
    assert!(
        started.elapsed() >= guard,
        "leads {:?} after its restart",
        started.elapsed()
    );
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_leader_leads_only_after_another_election() {
    let (mut cluster, _) = Cluster::<Rt>::formed(1, THREAD).await;
    cluster.commit("one").await;
    let before = cluster.group(1).status().term;
    cluster.power_cut(1, 0).await;
    cluster.start(1).await;
    let status = cluster
        .group(1)
        .wait_for("leads", LIMIT, |s| s.role == Role::Leader)
        .await
        .unwrap();
    assert!(status.term > before, "resumed as leader of term {before}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joint_configuration_left_by_a_dead_leader_is_finished() {
    let (mut cluster, leader) = Cluster::<Rt>::formed(3, THREAD).await;
    cluster.commit("one").await;
    cluster.add(4, 204);
    cluster.start(4).await;
    cluster.group(leader).add_learner(204, LIMIT).await.unwrap();
    // The leader is cut off as soon as it applied the joint configuration: the second half of the
    // change cannot leave it.
    let hub = cluster.hub.clone();
    cluster.machine(leader).on_membership(move |bytes| {
        if describe_membership(bytes).unwrap().0.len() == 2 {
            hub.isolate(leader);
        }
    });
    let voters: Vec<u64> = cluster
        .others(leader)
        .into_iter()
        .map(|n| cluster.replica(n))
        .collect();
    let change = cluster
        .group(leader)
        .change_membership(&voters, Duration::from_secs(2))
        .await;
    assert!(change.is_err(), "{change:?}");
    cluster.power_cut(leader, 0).await;
    cluster.hub.heal();
    let rest = cluster.others(leader);
    let next = cluster.leader_among(&rest).await;
    let group = cluster.group(next);
    group
        .wait_for("joint", LIMIT, GroupStatus::is_joint)
        .await
        .unwrap();
    assert!(
        group.change_membership(&voters, LIMIT).await.is_err(),
        "a second change on top of a joint one"
    );
    assert!(group.finish_joint(LIMIT).await.unwrap());
    let mut expected = voters.clone();
    expected.sort_unstable();
    assert_eq!(group.status().voters, [expected]);
    assert!(!group.finish_joint(LIMIT).await.unwrap());
    cluster.commit("two").await;
    assert_eq!(cluster.converge(&rest).await, ["one", "two"]);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_not_offered_to_a_replica_that_lags() {
    let (cluster, leader) = Cluster::<Rt>::formed(3, THREAD).await;
    let lagging = cluster.others(leader)[0];
    cluster.hub.isolate(lagging);
    cluster.group(leader).propose("one".into()).await.unwrap();
    let to = cluster.replica(lagging);
    let offered = cluster
        .group(leader)
        .transfer_leader(to, Duration::from_secs(1))
        .await;
    assert!(
        matches!(offered, Err(TransferError::Lagging { .. })),
        "{offered:?}"
    );
    assert!(matches!(
        cluster.group(leader).transfer_leader(999, LIMIT).await,
        Err(TransferError::NotVoter(999))
    ));
    // It still leads, at once.
    cluster.group(leader).propose("two".into()).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_and_reads_pass_stalled_bulk() {
    let (cluster, leader) = Cluster::<Rt>::formed(3, THREAD).await;
    cluster.commit("one").await;
    let group = cluster.group(leader);
    let term = group.status().term;
    cluster.hub.stall_bulk(true);
    let stalled = tokio::spawn({
        let group = group.clone();
        async move { group.propose(vec![0; 1 << 20].into()).await }
    });
    // Three leases long.
    let until = Instant::now() + Duration::from_millis(3 * cluster.config.election_timeout_max_ms);
    while Instant::now() < until {
        group
            .read_index(LIMIT)
            .await
            .expect("lost its quorum behind bulk");
    }
    assert_eq!((group.status().role, group.status().term), (Role::Leader, term));
    assert!(!stalled.is_finished());
    cluster.hub.stall_bulk(false);
    stalled.await.unwrap().unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_in_flight_are_bounded_even_when_callers_give_up() {
    let mut cluster = Cluster::<Rt>::new(3, THREAD);
    cluster.config.max_inflight_bytes = 1 << 20;
    cluster.config.max_command_bytes = 512 << 10;
    let leader = cluster.form().await;
    cluster.commit("one").await;
    cluster.hub.stall_bulk(true);
    let group = cluster.group(leader);
    let command = Bytes::from(vec![0; 400 << 10]);
    for _ in 0..2 {
        // Gives up at once; the bytes stay in flight.
        let given_up = group
            .propose_within(command.clone(), Duration::from_millis(20))
            .await;
        assert!(
            matches!(given_up, Err(ProposeError::OutcomeUnknown(_))),
            "{given_up:?}"
        );
    }
    assert_eq!(group.inflight_bytes(), 800 << 10);
    let refused = group.propose(command.clone()).await.unwrap_err();
    assert_eq!(
        refused,
        ProposeError::Overloaded {
            bytes: 400 << 10,
            limit: 1 << 20
        }
    );
    assert!(
        refused
            .to_string()
            .contains("1048576 B in flight (max_inflight_bytes)")
    );
    let too_large = group.propose(vec![0; 600 << 10].into()).await.unwrap_err();
    assert_eq!(
        too_large,
        ProposeError::TooLarge {
            bytes: 600 << 10,
            limit: 512 << 10
        }
    );
    cluster.hub.stall_bulk(false);
    let all = |s: &GroupStatus| s.applied.map(|at| at.index) == s.last_log;
    group.wait_for("all applied", LIMIT, all).await.unwrap();
    assert_eq!(cluster.converge(&[1, 2, 3]).await.len(), 3);
    assert_eq!(group.inflight_bytes(), 0);
    group.propose(command).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_lease_is_waited_out_on_the_same_node() {
    let (cluster, leader) = Cluster::<Rt>::formed(3, THREAD).await;
    cluster.commit("one").await;
    let group = cluster.group(leader);
    let term = group.status().term;
    // Nobody can be elected, and the leader hears from nobody.
    cluster.hub.lose(&[VOTE, PRE_VOTE]);
    cluster.hub.isolate(leader);
    // Taken while the lease lasts; refused, in the end as "no quorum", when it is over.
    let expired = async {
        loop {
            match group
                .propose_within("early".into(), Duration::from_millis(50))
                .await
            {
                Err(ProposeError::OutcomeUnknown(_)) => {}
                other => return other,
            }
        }
    };
    let expired = tokio::time::timeout(LIMIT, expired).await.unwrap();
    assert_eq!(expired, Err(ProposeError::NoQuorum(Duration::from_millis(50))));
    let proposal = tokio::spawn({
        let group = group.clone();
        async move { group.propose("three".into()).await }
    });
    tokio::task::yield_now().await;
    cluster.hub.heal();
    proposal.await.unwrap().expect("LeaseExpired reached the caller");
    assert_eq!(group.status().term, term);
    cluster.hub.lose(&[]);
    assert_eq!(cluster.converge(&[1, 2, 3]).await.last().unwrap(), "three");
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

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_peer_is_not_hammered() {
    let (mut cluster, leader) = Cluster::<Rt>::formed(3, THREAD).await;
    let down = cluster.others(leader)[0];
    cluster.power_cut(down, 0).await;
    let group = cluster.group(leader);
    let before = cluster.hub.opened_streams.load(SeqCst);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        group.propose("x".into()).await.unwrap();
    }
    // 25 to 50 ms at first, up to a second later: about ten tries in two seconds, thousands without.
    let tries = cluster.hub.opened_streams.load(SeqCst) - before;
    assert!((1..=40).contains(&tries), "{tries} tries in two seconds");
    cluster.shutdown().await;
}
