//! Who leads, after restarts and changes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_raft_log::{GroupStatus, NetworkError, Role, TransferError, describe_membership};

use crate::support::cluster::LIMIT;
use crate::support::network::{PRE_VOTE, VOTE};
use crate::support::{Cluster, GROUP};
use crate::{Rt, THREAD};

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
