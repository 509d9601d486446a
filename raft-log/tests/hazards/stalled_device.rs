//! A device that does not answer: no error comes, only silence.

use std::time::{Duration, Instant};

use quorate_raft_log::{ProposeError, ReadError, TransferError};

use crate::support::Cluster;
use crate::support::cluster::LIMIT;
use crate::{Rt, THREAD};

const PATIENT: Duration = Duration::from_secs(60);

async fn with_stall_timeout(nodes: u64, stall_ms: u64, abort_ms: u64) -> (Cluster<Rt>, u64) {
    let mut cluster = Cluster::<Rt>::new(nodes, THREAD);
    cluster.options.stall_timeout_ms = stall_ms;
    cluster.options.stall_abort_ms = abort_ms;
    let leader = cluster.form().await;
    cluster.commit("one").await;
    (cluster, leader)
}

/// RFT-12
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_disk_hangs_hands_over_and_recovers() {
    let (cluster, leader) = with_stall_timeout(3, 400, 600_000).await;
    let (group, log) = (cluster.group(leader), cluster.log(leader));
    let mut stalled = log.stalled();
    cluster.disk(leader).hold_syncs();
    // Under way when the disk hangs: its followers may commit it, it must not wait for ever here.
    let under_way = tokio::spawn({
        let group = group.clone();
        async move { group.propose_within("two".into(), PATIENT).await }
    });
    let started = Instant::now();
    tokio::time::timeout(LIMIT, stalled.wait_for(|stalled| *stalled))
        .await
        .expect("a hung disk was not noticed")
        .unwrap();
    assert!(
        started.elapsed() >= Duration::from_millis(350),
        "after {:?}",
        started.elapsed()
    );
    let stats = log.stats();
    assert_eq!((stats.stalled, stats.stalls), (true, 1));
    let under_way = tokio::time::timeout(LIMIT, under_way).await.unwrap().unwrap();
    assert!(
        matches!(under_way, Ok(_) | Err(ProposeError::OutcomeUnknown(_))),
        "{under_way:?}"
    );
    assert_eq!(
        group.propose_within("three".into(), PATIENT).await,
        Err(ProposeError::Stalled)
    );
    assert_eq!(group.read_index(PATIENT).await, Err(ReadError::Stalled));

    // The others take over although this node can't even store that they did.
    let rest = cluster.others(leader);
    let to = cluster.replica(rest[0]);
    let handed = group.transfer_leader(to, Duration::from_secs(2)).await;
    assert!(
        matches!(handed, Ok(()) | Err(TransferError::NotTaken { .. })),
        "{handed:?}"
    );
    let next = cluster.leader_among(&rest).await;
    cluster.group(next).propose("four".into()).await.unwrap();
    assert!(log.stats().stalled);
    assert!(cluster.fatals.lock().is_empty());

    cluster.disk(leader).release_syncs();
    tokio::time::timeout(LIMIT, stalled.wait_for(|stalled| !stalled))
        .await
        .expect("a disk that works again was not noticed")
        .unwrap();
    cluster.commit("five").await;
    let all = cluster.converge(&[1, 2, 3]).await;
    assert!(!all.contains(&"three".into()), "refused and stored: {all:?}");
    assert_eq!(all.last().unwrap(), "five");
    assert_eq!(log.stats().stalls, 1);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_follower_disk_does_not_stop_the_others() {
    let (cluster, leader) = with_stall_timeout(3, 400, 600_000).await;
    let follower = cluster.others(leader)[0];
    let mut stalled = cluster.log(follower).stalled();
    cluster.disk(follower).hold_syncs();
    cluster.commit("two").await;
    tokio::time::timeout(LIMIT, stalled.wait_for(|stalled| *stalled))
        .await
        .unwrap()
        .unwrap();
    // Its leader is well, and it hears from it: a hung disk is no lost quorum.
    let until = Instant::now() + Duration::from_millis(3 * cluster.config.quorum_timeout_ms);
    while Instant::now() < until {
        cluster.group(leader).propose("x".into()).await.unwrap();
        cluster.group(leader).read_index(LIMIT).await.unwrap();
        assert_eq!(cluster.group(follower).quorum_lost(), None);
    }
    cluster.disk(follower).release_syncs();
    cluster.commit("three").await;
    cluster.converge(&[1, 2, 3]).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_never_answers_is_fatal_in_the_end() {
    let (cluster, leader) = with_stall_timeout(1, 100, 500).await;
    cluster.disk(leader).hold_syncs();
    let proposed = cluster.group(leader).propose_within("two".into(), PATIENT).await;
    assert!(
        matches!(proposed, Err(ProposeError::OutcomeUnknown(_))),
        "{proposed:?}"
    );
    let fatal = async {
        while cluster.fatals.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await; // between looks; the condition decides
        }
    };
    tokio::time::timeout(LIMIT, fatal).await.expect("waits for ever");
    let reason = cluster.fatals.lock()[0].clone();
    assert!(reason.contains("has not answered for"), "{reason}");
    cluster.disk(leader).release_syncs();
    cluster.shutdown().await;
}
