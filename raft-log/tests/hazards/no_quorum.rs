//! What a replica says when its quorum is gone.

use std::time::{Duration, Instant};

use quorate_raft_log::{Group, ProposeError, ReadError};

use crate::support::Cluster;
use crate::support::cluster::LIMIT;
use crate::{Rt, THREAD};

/// Callers wait far longer than the quorum timeout.
const PATIENT: Duration = Duration::from_secs(60);
/// More than the quorum timeout and two elections, less than any deadline.
const SOON: Duration = Duration::from_secs(5);

/// Three nodes of which one is left.
async fn lone_survivor(leads: bool) -> (Cluster<Rt>, u64) {
    let (mut cluster, leader) = Cluster::<Rt>::formed(3, THREAD).await;
    cluster.commit("one").await;
    let survivor = match leads {
        true => leader,
        false => cluster.others(leader)[0],
    };
    for node in cluster.others(survivor) {
        cluster.power_cut(node, 0).await;
    }
    (cluster, survivor)
}

/// The status is gathered for some milliseconds, so a quorum is found a little after it works.
async fn found_again(group: &Group<Rt>) {
    let found = async {
        while group.quorum_lost().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await; // between looks; the condition decides
        }
    };
    let found = tokio::time::timeout(LIMIT, found).await;
    assert!(found.is_ok(), "lost for {:?}", group.quorum_lost());
}

/// RFT-12
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_quorum_says_so_soon() {
    let (mut cluster, leader) = lone_survivor(true).await;
    let group = cluster.group(leader);
    let limit = Duration::from_millis(cluster.config.quorum_timeout_ms);
    let started = Instant::now();
    // Both are under way while the quorum is lost. The proposal may have been taken before.
    let (read, proposed) = tokio::join!(
        group.read_index(PATIENT),
        group.propose_within("two".into(), PATIENT)
    );
    assert!(
        matches!(read, Err(ReadError::QuorumLost(age)) if age > limit),
        "{read:?}"
    );
    assert!(
        matches!(
            proposed,
            Err(ProposeError::QuorumLost(_) | ProposeError::OutcomeUnknown(_))
        ),
        "{proposed:?}"
    );
    assert!(started.elapsed() < SOON, "after {:?}", started.elapsed());
    assert!(group.quorum_lost().is_some());
    // Known by now: nobody waits any more.
    let started = Instant::now();
    let read = group.read_index(PATIENT).await;
    assert!(matches!(read, Err(ReadError::QuorumLost(_))), "{read:?}");
    let proposed = group.propose_within("three".into(), PATIENT).await;
    assert!(
        matches!(proposed, Err(ProposeError::QuorumLost(_))),
        "{proposed:?}"
    );
    assert!(
        started.elapsed() < Duration::from_millis(500),
        "{:?}",
        started.elapsed()
    );

    let back = cluster.ids().into_iter().find(|n| *n != leader).unwrap();
    cluster.start(back).await;
    cluster.commit("four").await;
    found_again(&group).await;
    let all = cluster.converge(&[leader, back]).await;
    assert_eq!(all.first().unwrap(), "one");
    assert_eq!(all.last().unwrap(), "four");
    assert!(!all.contains(&"three".into()), "refused and stored: {all:?}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_of_nobody_says_so() {
    let (mut cluster, follower) = lone_survivor(false).await;
    let group = cluster.group(follower);
    let limit = Duration::from_millis(cluster.config.quorum_timeout_ms);
    let elections = Duration::from_millis(2 * cluster.config.election_timeout_max_ms);
    let age = tokio::time::timeout(LIMIT, group.until_quorum_lost())
        .await
        .unwrap();
    assert!(age > limit + elections, "gave up an election after {age:?}");

    let back = cluster.ids().into_iter().find(|n| *n != follower).unwrap();
    cluster.start(back).await;
    cluster.commit("two").await;
    found_again(&group).await;
    cluster.shutdown().await;
}

/// An election is no lost quorum: nobody is told so when one leader dies.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_leader_is_no_lost_quorum() {
    let (mut cluster, leader) = Cluster::<Rt>::formed(3, THREAD).await;
    cluster.commit("one").await;
    cluster.power_cut(leader, 0).await;
    let rest = cluster.others(leader);
    let [a, b] = [cluster.group(rest[0]), cluster.group(rest[1])];
    tokio::select! {
        _ = cluster.leader_among(&rest) => {}
        age = a.until_quorum_lost() => panic!("node {} gave up after {age:?}", rest[0]),
        age = b.until_quorum_lost() => panic!("node {} gave up after {age:?}", rest[1]),
    }
    cluster.commit("two").await;
    assert_eq!(cluster.converge(&rest).await, ["one", "two"]);
    cluster.shutdown().await;
}

/// The only voter is its own majority, however long nothing happens.
#[tokio::test(flavor = "multi_thread")]
async fn a_single_voter_never_lost_its_quorum() {
    let (cluster, leader) = Cluster::<Rt>::formed(1, THREAD).await;
    let group = cluster.group(leader);
    let limit = Duration::from_millis(cluster.config.quorum_timeout_ms);
    let lost = tokio::time::timeout(2 * limit, group.until_quorum_lost()).await;
    assert!(lost.is_err(), "after {lost:?}");
    group.read_index(LIMIT).await.unwrap();
    cluster.shutdown().await;
}
