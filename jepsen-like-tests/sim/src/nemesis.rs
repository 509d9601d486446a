//! Carries out the faults of a plan, and keeps the group's members to the replicas that the nodes have.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use quorate_raft_log::{AsyncRuntime, ReplicaId, Role};

use crate::clients::Worker;
use crate::network::{CLIENTS, Place};
use crate::node::Running;
use crate::plan::{Client, Crash, Fault, Victim};
use crate::runtime::{Death, NodeRuntime as R};
use crate::world::World;

const LOOK: Duration = Duration::from_millis(50);
/// How long a node may take to stop or to come up before the next is restarted.
const RESTART_LIMIT: Duration = Duration::from_secs(5);

fn death(crash: Crash) -> Death {
    match crash {
        Crash::Kill => Death::Killed,
        Crash::Power => Death::PowerCut,
    }
}

fn place(world: &World, victim: Victim) -> Option<Place> {
    match victim {
        Victim::Node(node) => Some(node),
        Victim::Leader => world.leader(),
    }
}

/// Does one fault and takes it back; returns when it is over.
pub async fn inflict(world: Arc<World>, at: Duration, fault: Fault) {
    R::sleep(at).await;
    world.trace(format_args!("fault {fault:?}"));
    match fault {
        Fault::CrashAt {
            victim,
            crash,
            polls,
            down,
        } => {
            let Some(node) = place(&world, victim) else { return };
            world.with_slot(node, |slot| slot.set_down(down));
            if let Some(life) = world.life_of(node) {
                life.kill_after(polls, death(crash));
            }
        }
        Fault::CrashTogether { nodes, crash, down } => {
            for node in nodes {
                world.with_slot(node, |slot| slot.set_down(down));
                if let Some(life) = world.life_of(node) {
                    life.kill(death(crash));
                }
            }
        }
        Fault::Cut { links, lasts } => cut(&world, &links, lasts).await,
        Fault::CutLeader {
            lasts,
            one_way,
            clients,
        } => {
            let Some(leader) = world.leader() else { return };
            let others = world.nodes().into_iter().filter(|node| *node != leader);
            let mut links: Vec<(Place, Place)> = others.map(|other| (leader, other)).collect();
            if !one_way {
                let back: Vec<_> = links.iter().map(|(from, to)| (*to, *from)).collect();
                links.extend(back);
            }
            if clients {
                links.push((leader, CLIENTS));
            }
            cut(&world, &links, lasts).await;
        }
        Fault::Weather { conditions, lasts } => {
            world.counts().others += 1;
            world.hub.set_conditions(conditions);
            R::sleep(lasts).await;
            world.hub.set_conditions(world.plan.conditions);
        }
        Fault::SlowDisk { victim, sync, lasts } => {
            let Some(node) = place(&world, victim) else { return };
            world.counts().others += 1;
            let disk = world.with_slot(node, |slot| slot.disk.clone());
            disk.set_mood(|mood| mood.sync_max = sync);
            R::sleep(lasts).await;
            disk.set_mood(|mood| mood.sync_max = world.plan.mood.sync_max);
        }
        Fault::FailSync { victim, down } => {
            let Some(node) = place(&world, victim) else { return };
            world.with_slot(node, |slot| {
                slot.set_down(down);
                slot.fail_sync();
            });
        }
        Fault::Pause { victim, lasts } => {
            let Some(life) = place(&world, victim).and_then(|node| world.life_of(node)) else {
                return;
            };
            world.counts().others += 1;
            life.pause();
            R::sleep(lasts).await;
            life.resume();
        }
        Fault::Clock { node, offset_ms } => {
            world.counts().others += 1;
            world.with_slot(node, |slot| slot.clock_offset_ms = offset_ms);
        }
        Fault::LeaseTrap { first } => lease_trap(&world, first).await,
        Fault::CrashNear {
            victim,
            point,
            polls,
            crash,
            down,
        } => {
            let Some(node) = place(&world, victim) else { return };
            world.with_slot(node, |slot| {
                slot.set_down(down);
                slot.crash_near(point, polls, death(crash));
            });
        }
        Fault::Transfers { times } => transfers(&world, times).await,
        Fault::RollingRestart => rolling_restart(&world).await,
        Fault::CrashInSnapshot {
            node,
            down,
            frame,
            polls,
        } => {
            world.with_slot(node, |slot| slot.set_down(down));
            if let Some(life) = world.life_of(node) {
                life.kill(Death::PowerCut);
            }
            R::sleep(down).await;
            world.with_slot(node, |slot| {
                slot.set_down(Duration::from_millis(200));
                slot.crash_in_snapshot(frame, polls);
            });
        }
        Fault::Wipe { node } => wipe(&world, node).await,
    }
}

async fn cut(world: &World, links: &[(Place, Place)], lasts: Duration) {
    world.counts().partitions += 1;
    world.hub.cut(links);
    R::sleep(lasts).await;
    world.hub.heal(links);
    world.trace(format_args!("healed {links:?}"));
}

/// See [`Fault::LeaseTrap`].
async fn lease_trap(world: &Arc<World>, first: Duration) {
    let Some(leader) = world.leader() else { return };
    let mut others: Vec<Place> = world.nodes().into_iter().filter(|n| *n != leader).collect();
    let candidate = others.remove(0);
    let both = |a: Place, b: Place| [(a, b), (b, a)];
    world.counts().others += 1;
    // Whoever stands for election must have the whole log.
    world.hold_writes(true);
    R::sleep(LOOK * 8).await;
    let to_candidate = both(leader, candidate);
    world.hub.cut(&to_candidate);
    R::sleep(first).await;
    let to_others: Vec<_> = others.iter().flat_map(|other| both(leader, *other)).collect();
    world.hub.cut(&to_others);
    for node in others {
        // It comes back at once, and stands for election itself too.
        world.with_slot(node, |slot| slot.set_down(Duration::ZERO));
        if let Some(life) = world.life_of(node) {
            life.kill(Death::Killed);
        }
    }
    world.hold_writes(false);
    let until = R::now() + Duration::from_secs(1);
    let client = |number| {
        let pause = Duration::from_millis(5);
        Worker::new(world.clone(), Client { number, pause }).impatient()
    };
    let mut asking = Vec::new();
    for node in world.nodes() {
        let number = 2_000 + node * 10;
        if node != leader {
            asking.push(R::spawn(client(number).write_at(node, until)));
            continue;
        }
        for reader in 0..3 {
            asking.push(R::spawn(client(number + reader).read_at(leader, until)));
        }
    }
    for asked in asking {
        let _ = asked.await;
    }
    world.hub.heal(&to_candidate);
    world.hub.heal(&to_others);
}

async fn transfers(world: &Arc<World>, times: u64) {
    for turn in 0..times {
        if let Some(running) = world.leader().and_then(|leader| world.running(leader)) {
            let voters = running.group.status().voters;
            let others: Vec<ReplicaId> = voters
                .into_iter()
                .flatten()
                .filter(|replica| *replica != running.group.replica())
                .collect();
            if !others.is_empty() {
                let to = others[turn as usize % others.len()];
                let group = running.group.clone();
                let handed = running
                    .life
                    .spawn(async move { group.transfer_leader(to, Duration::from_secs(2)).await });
                drop(running);
                if let Ok(Ok(())) = handed.await {
                    world.counts().transfers += 1;
                }
            }
        }
        R::sleep(Duration::from_millis(150)).await;
    }
}

async fn rolling_restart(world: &Arc<World>) {
    world.counts().others += 1;
    for node in world.nodes() {
        if let Some(Running { life, log, .. }) = world.running(node) {
            let stopping = life.spawn(async move { log.shutdown().await });
            // A node that is killed meanwhile doesn't stop, and is started by whoever killed it.
            let _ = R::timeout(RESTART_LIMIT, stopping).await;
            life.kill(Death::Stopped);
        }
        if world.with_slot(node, |slot| slot.is_down()) {
            let _ = R::timeout(RESTART_LIMIT, world.start(node)).await;
        }
        R::sleep(LOOK * 4).await;
    }
}

/// Replaces a node's disk. Only when every other node is there: what a majority has may then be on this disk
/// and one more.
async fn wipe(world: &Arc<World>, node: Place) {
    if let Some(life) = world.life_of(node) {
        // Its supervisor would start it again with the old replica.
        life.kill(Death::Stopped);
    }
    if !world.with_slot(node, |slot| slot.is_down()) {
        return;
    }
    let replica = world.new_replica();
    world.counts().wipes += 1;
    world.with_slot(node, |slot| slot.replace(replica));
    world.hub.home(replica, node);
    world.trace(format_args!("node {node} has a new disk and replica {replica}"));
    world.start(node).await;
}

/// Replicas that the group is to have.
pub fn wanted(world: &World) -> BTreeSet<ReplicaId> {
    let nodes = world.nodes();
    nodes
        .into_iter()
        .map(|node| world.with_slot(node, |slot| slot.replica))
        .collect()
}

/// Brings the group's members to those that are wanted, as the leader's node does.
pub async fn reconcile(world: Arc<World>) {
    let limit = Duration::from_secs(3);
    loop {
        R::sleep(LOOK * 4).await;
        let wanted = wanted(&world);
        let Some(running) = world.leader().and_then(|leader| world.running(leader)) else {
            continue;
        };
        let status = running.group.status();
        let voters: BTreeSet<ReplicaId> = status.voters.iter().flatten().copied().collect();
        if status.role != Role::Leader || (voters == wanted && !status.is_joint()) {
            continue;
        }
        let group = running.group.clone();
        let change = running.life.spawn(async move {
            if status.is_joint() {
                return group.finish_joint(limit).await.map(drop);
            }
            for replica in wanted.difference(&voters) {
                if !status.learners.contains(replica) {
                    group.add_learner(*replica, limit).await?;
                }
            }
            let voters: Vec<ReplicaId> = wanted.iter().copied().collect();
            group.change_membership(&voters, limit).await
        });
        drop(running);
        if let Ok(changed) = change.await {
            world.trace(format_args!("members: {changed:?}"));
        }
    }
}
