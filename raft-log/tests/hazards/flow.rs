//! What waits for what, and how much of it.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_raft_log::{GroupStatus, ProposeError, Role};

use crate::support::Cluster;
use crate::support::cluster::LIMIT;
use crate::support::network::{PRE_VOTE, VOTE};
use crate::{Rt, THREAD};

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
    let mut cluster = Cluster::<Rt>::new(3, THREAD);
    // A lease is over long before a quorum counts as lost.
    cluster.config.quorum_timeout_ms = 60_000;
    let leader = cluster.form().await;
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
