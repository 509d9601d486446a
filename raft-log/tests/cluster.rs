//! Three nodes in one process: what users of the log see.

#![allow(clippy::unwrap_used)] // clippy knows test functions only, not what they call

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use bytes::Bytes;
use quorate_raft_log::{MembershipChangeError, ProposeError, ReadError, Role, TokioRuntime, WriterMode};
use support::cluster::LIMIT;
use support::{Cluster, GROUP};

type Rt = TokioRuntime;
const THREAD: WriterMode = WriterMode::Thread;

fn numbered(prefix: &str, n: u64) -> Bytes {
    format!("{prefix}-{n}").into()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_many_tasks_reach_every_node_in_one_order() {
    let (cluster, leader) = Cluster::<Rt>::formed(3, THREAD).await;
    let tasks: Vec<_> = (0..50)
        .map(|task| {
            let group = cluster.group(leader);
            tokio::spawn(async move {
                for n in 0..20 {
                    let committed = group.propose(numbered(&format!("t{task}"), n)).await.unwrap();
                    assert_eq!(committed.reply.len(), 8);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let commands = cluster.converge(&[1, 2, 3]).await;
    assert_eq!(commands.len(), 1000);
    let unique: BTreeSet<_> = commands.iter().collect();
    assert_eq!(unique.len(), 1000);
    // Group commit: far fewer syncs than commands.
    let stats = cluster.log(leader).stats();
    assert!(
        stats.sync.count < 900,
        "{} syncs for 1000 commands",
        stats.sync.count
    );
    assert_eq!((stats.queued_bytes, stats.failed), (0, false));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_commands_survive_a_power_cut_of_all_nodes() {
    let (mut cluster, _) = Cluster::<Rt>::formed(3, THREAD).await;
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let leader = cluster.leader().await;
        let tasks: Vec<_> = (0..20)
            .map(|n| {
                let group = cluster.group(leader);
                let command = numbered(&format!("round{round}"), n);
                tokio::spawn(async move { group.propose(command.clone()).await.map(|_| command) })
            })
            .collect();
        // Cut while some of them are under way.
        let mut tasks = tasks.into_iter();
        for task in tasks.by_ref().take(10) {
            acknowledged.extend(task.await.unwrap());
        }
        for node in cluster.ids() {
            cluster.power_cut(node, 0).await;
        }
        for task in tasks {
            acknowledged.extend(task.await.unwrap());
        }
        for node in cluster.ids() {
            cluster.start(node).await;
        }
    }
    let commands: BTreeSet<Bytes> = cluster.converge(&[1, 2, 3]).await.into_iter().collect();
    assert!(acknowledged.len() >= 30);
    for command in acknowledged {
        assert!(
            commands.contains(&command),
            "{command:?} was acknowledged and is gone"
        );
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_group_goes_on_without_its_leader_and_takes_it_back() {
    let (mut cluster, leader) = Cluster::<Rt>::formed(3, THREAD).await;
    cluster.commit("before").await;
    cluster.power_cut(leader, 0).await;
    let rest = cluster.others(leader);
    let next = cluster.leader_among(&rest).await;
    assert_ne!(next, leader);
    cluster.group(next).propose("during".into()).await.unwrap();
    cluster.start(leader).await;
    assert_eq!(cluster.converge(&[1, 2, 3]).await, ["before", "during"]);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_names_the_leader_and_reads_through_it() {
    let (cluster, leader) = Cluster::<Rt>::formed(3, THREAD).await;
    let index = cluster.commit("one").await;
    let follower = cluster.others(leader)[0];
    let refused = cluster.group(follower).propose("two".into()).await.unwrap_err();
    assert_eq!(
        refused,
        ProposeError::NotLeader {
            leader: Some(cluster.replica(leader))
        }
    );
    // A follower that was told the read index and applied it sees the command.
    let group = cluster.group(follower);
    let reads = (0..20).map(|_| group.read_index(LIMIT));
    for read in futures_util::future::join_all(reads).await {
        assert!(read.unwrap() >= index);
    }
    group.wait_applied(index, LIMIT).await.unwrap();
    assert_eq!(cluster.machine(follower).applied().commands, ["one"]);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_a_quorum_answers_no_read() {
    let (cluster, leader) = Cluster::<Rt>::formed(3, THREAD).await;
    cluster.hub.isolate(leader);
    let read = cluster.group(leader).read_index(Duration::from_millis(700)).await;
    assert!(
        matches!(read, Err(ReadError::NoQuorum(_) | ReadError::NotLeader { .. })),
        "{read:?}"
    );
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_on_request() {
    let (cluster, leader) = Cluster::<Rt>::formed(3, THREAD).await;
    cluster.commit("one").await;
    let to = cluster.others(leader)[0];
    cluster
        .group(leader)
        .transfer_leader(cluster.replica(to), LIMIT)
        .await
        .unwrap();
    assert_eq!(cluster.leader().await, to);
    cluster.group(to).propose("two".into()).await.unwrap();
    assert_eq!(cluster.converge(&[1, 2, 3]).await, ["one", "two"]);
    cluster.shutdown().await;
}

/// Makes everything durable on all running nodes, purges it from every log, and waits for that.
async fn flush_and_purge(cluster: &Cluster<Rt>, nodes: &[u64]) {
    for node in nodes {
        let group = cluster.group(*node);
        cluster.machine(*node).flush();
        let durable = group.applied().unwrap().index;
        assert_eq!(group.purge(u64::MAX).await.unwrap(), Some(durable));
        let purged = |s: &quorate_raft_log::GroupStatus| s.purged.is_some_and(|p| p.index >= durable);
        group.wait_for("purged", LIMIT, purged).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_needs_purged_entries_gets_a_snapshot() {
    let (mut cluster, leader) = Cluster::<Rt>::formed(3, THREAD).await;
    let lagging = cluster.others(leader)[0];
    cluster.power_cut(lagging, 0).await;
    let rest = cluster.others(lagging);
    for n in 0..50 {
        cluster.group(leader).propose(numbered("c", n)).await.unwrap();
    }
    cluster.converge(&rest).await;
    flush_and_purge(&cluster, &rest).await;
    cluster.start(lagging).await;
    assert_eq!(cluster.converge(&[1, 2, 3]).await.len(), 50);
    assert!(cluster.machine(lagging).snapshots_installed.load(SeqCst) >= 1);
    // What was installed is durable, and the log goes on behind it after a restart.
    cluster.power_cut(lagging, 0).await;
    cluster.commit("after").await;
    cluster.start(lagging).await;
    assert_eq!(cluster.converge(&[1, 2, 3]).await.len(), 51);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_dies_midway_gets_another_snapshot() {
    let (mut cluster, leader) = Cluster::<Rt>::formed(3, THREAD).await;
    let lagging = cluster.others(leader)[0];
    cluster.power_cut(lagging, 0).await;
    let rest = cluster.others(lagging);
    for n in 0..50 {
        cluster.group(leader).propose(numbered("c", n)).await.unwrap();
    }
    cluster.converge(&rest).await;
    flush_and_purge(&cluster, &rest).await;
    cluster.hub.gate_snapshots(Some(3));
    cluster.start(lagging).await;
    let mut frames = cluster.hub.snapshot_frames.subscribe();
    tokio::time::timeout(LIMIT, frames.wait_for(|frames| *frames >= 3))
        .await
        .unwrap()
        .unwrap();
    cluster.power_cut(lagging, 0).await;
    assert_eq!(
        cluster.machine_disk(lagging).load().commands.len(),
        0,
        "half a snapshot was installed"
    );
    cluster.hub.gate_snapshots(None);
    cluster.start(lagging).await;
    assert_eq!(cluster.converge(&[1, 2, 3]).await.len(), 50);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_replaced_under_new_replica_ids() {
    let (mut cluster, leader) = Cluster::<Rt>::formed(3, THREAD).await;
    for n in 0..20 {
        cluster.commit(numbered("c", n)).await;
    }
    cluster.machine(leader).flush();
    let gone = cluster.others(leader)[0];
    cluster.power_cut(gone, 0).await;
    cluster.add(4, 204);
    cluster.start(4).await;
    let group = cluster.group(leader);
    let kept = cluster.others(leader).into_iter().find(|n| *n != 4).unwrap();
    let voters = [cluster.replica(leader), cluster.replica(kept), 204];
    let early = group.change_membership(&voters, LIMIT).await;
    assert!(
        matches!(early, Err(MembershipChangeError::Refused(_))),
        "a voter must be a learner first: {early:?}"
    );
    group.add_learner(204, LIMIT).await.unwrap();
    group.change_membership(&voters, LIMIT).await.unwrap();
    group.change_membership(&voters, LIMIT).await.unwrap();
    let status = group.status();
    let mut expected = voters.to_vec();
    expected.sort_unstable();
    assert_eq!((status.voters, status.learners), (vec![expected], vec![]));
    // The new node counts: it makes a quorum with either of the others.
    cluster.hub.isolate(kept);
    let pair = [leader, 4];
    cluster.leader_among(&pair).await;
    cluster.hub.heal();
    assert_eq!(cluster.converge(&[leader, kept, 4]).await.len(), 20);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn initializing_again_changes_nothing() {
    let (mut cluster, leader) = Cluster::<Rt>::formed(3, THREAD).await;
    cluster.commit("one").await;
    for node in cluster.ids() {
        cluster.group(node).initialize(&[101, 102, 103]).await.unwrap();
    }
    let other = cluster.others(leader)[0];
    cluster.power_cut(other, 0).await;
    cluster.start(other).await;
    cluster.group(other).initialize(&[101, 102, 103]).await.unwrap();
    assert_eq!(cluster.converge(&[1, 2, 3]).await, ["one"]);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_replica_leaves_nothing() {
    let (cluster, leader) = Cluster::<Rt>::formed(3, THREAD).await;
    cluster.commit("one").await;
    let node = cluster.others(leader)[0];
    let log = cluster.log(node);
    assert_eq!(log.stored_replicas().await.unwrap().len(), 1);
    log.erase_group(GROUP, cluster.replica(node)).await.unwrap();
    assert_eq!(log.stored_replicas().await.unwrap(), []);
    assert_eq!(
        cluster
            .group(node)
            .wait_for("stopped", LIMIT, |s| s.role == Role::Stopped)
            .await
            .unwrap()
            .fatal,
        None
    );
    cluster.shutdown().await;
}
