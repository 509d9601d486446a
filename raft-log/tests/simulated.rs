//! The same cluster in virtual time, on one thread: power cuts at arbitrary moments, many seeds.

#![allow(clippy::unwrap_used)] // clippy knows test functions only, not what they call

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use openraft_rt_sim::SimRuntime;
use quorate_raft_log::{AsyncRuntime, WriterMode};
use support::Cluster;
use support::cluster::LIMIT;

type Rt = SimRuntime;

async fn power_cuts(seed: u64) {
    let mut random = seed;
    let mut next = move |below: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let mut cluster = Cluster::<Rt>::new(3, WriterMode::Task);
    for node in cluster.ids() {
        cluster
            .disk(node)
            .set_sync_delay(Duration::from_millis(1 + next(20)));
    }
    cluster.form().await;
    let mut acknowledged: Vec<Bytes> = Vec::new();
    for round in 0..5 {
        let leader = cluster.leader().await;
        let proposals: Vec<_> = (0..10)
            .map(|n| {
                let group = cluster.group(leader);
                let command = Bytes::from(format!("{round}-{n}"));
                Rt::spawn(async move {
                    group
                        .propose_within(command.clone(), LIMIT)
                        .await
                        .map(|_| command)
                })
            })
            .collect();
        Rt::sleep(Duration::from_millis(next(60))).await; // virtual: the moment of the cut
        let cut: Vec<u64> = cluster.ids().into_iter().filter(|_| next(3) > 0).collect();
        for node in &cut {
            // A part of what was not synced may have reached the disk.
            cluster.power_cut(*node, next(4) as usize).await;
        }
        for node in cut {
            cluster.start(node).await;
        }
        for proposal in proposals {
            acknowledged.extend(proposal.await.unwrap());
        }
    }
    cluster.commit("last").await;
    let commands: BTreeSet<Bytes> = cluster.converge(&[1, 2, 3]).await.into_iter().collect();
    for command in acknowledged {
        assert!(
            commands.contains(&command),
            "seed {seed}: {command:?} was acknowledged and is gone"
        );
    }
    cluster.shutdown().await;
}

#[test]
fn acknowledged_commands_survive_power_cuts_in_every_simulated_run() {
    for seed in 0..30 {
        SimRuntime::with_seed(seed).block_on(power_cuts(seed));
    }
}
