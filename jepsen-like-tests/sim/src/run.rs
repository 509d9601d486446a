//! One run: faults and clients, then healing, then the proof that everything is there and works again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quorate_raft_log::AsyncRuntime;

use crate::clients::Worker;
use crate::model::Samples;
use crate::nemesis;
use crate::network::Conditions;
use crate::node;
use crate::observer::Violation;
use crate::plan::{Client, Plan};
use crate::runtime::{Death, Life, NodeRuntime as R};
use crate::series::Catalogue;
use crate::world::{Counts, World};

/// How long the healed cluster may take to agree again.
const CONVERGE_LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

/// How to run.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunOptions {
    /// Keep the lines of the trace.
    pub keep_trace: bool,
    /// Record what the executor does as well: every poll, wake, timer and random number.
    pub keep_schedule: bool,
}

/// What came out of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The rule that was broken, if any.
    pub violation: Option<Violation>,
    /// Virtual time.
    pub simulated: Duration,
    /// What happened.
    pub counts: Counts,
    /// Acknowledged requests and samples.
    pub acked: (u64, u64),
    /// Reads that were compared, and linearizable ones among them.
    pub reads: (u64, u64),
    /// Entries that were applied.
    pub entries: u64,
    /// Checksums of replicas that were compared.
    pub compared: u64,
    /// Digest of the trace, and its lines' number.
    pub digest: (u64, u64),
    /// The trace, if kept.
    pub trace: Option<String>,
    /// The executor's trace, if kept.
    pub schedule: Vec<String>,
}

/// Where disks are: in memory if possible.
pub fn scratch() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    }
}

/// Runs a plan on this thread.
pub fn run(plan: Plan, catalogue: &Arc<Catalogue>, options: RunOptions) -> anyhow::Result<Outcome> {
    let directory = tempfile::Builder::new()
        .prefix("quorate-sim-")
        .tempdir_in(scratch())?;
    let (seed, root, catalogue) = (plan.seed, directory.path().to_owned(), catalogue.clone());
    let simulation = async move {
        let life = Life::current().unwrap_or_else(|| panic!("the world has no life"));
        let world = World::new(plan, &root, life, catalogue, options.keep_trace)?;
        Ok::<_, anyhow::Error>(history(world).await)
    };
    let (outcome, schedule) = R::simulate(seed, options.keep_schedule, simulation);
    let mut outcome = outcome.map_err(|death| anyhow::anyhow!("the simulation failed: {death:?}"))??;
    outcome.schedule = schedule;
    Ok(outcome)
}

async fn history(world: Arc<World>) -> Outcome {
    let script = world.clone();
    let (tell, done) = tokio::sync::oneshot::channel();
    world.spawn(async move {
        act(&script).await;
        let _ = tell.send(()); // nobody waits when a rule was broken first
    });
    let halted = Box::pin(world.halted());
    futures_util::future::select(Box::pin(done), halted).await;
    world.close();
    for node in world.nodes() {
        if let Some(life) = world.life_of(node) {
            life.kill(Death::Stopped);
        }
    }
    let observer = world.observer();
    let mut trace = world.trace_of();
    Outcome {
        violation: observer.violation().cloned(),
        simulated: R::now(),
        counts: *world.counts(),
        acked: (observer.acked_requests, observer.acked_samples),
        reads: (observer.reads, observer.linearizable),
        entries: observer.applied_len(),
        compared: observer.compared,
        digest: trace.digest(),
        trace: trace.take(),
        schedule: Vec::new(),
    }
}

/// Everything that happens, in order.
async fn act(world: &Arc<World>) {
    for node in world.nodes() {
        world.start(node).await;
    }
    world.spawn(nemesis::reconcile(world.clone()));
    propose_limits(world).await;
    let mut doing = Vec::new();
    for (at, fault) in world.plan.faults.clone() {
        doing.push(R::spawn(nemesis::inflict(world.clone(), at, fault)));
    }
    let until = R::now() + world.plan.lasts;
    for client in world.plan.clients.clone() {
        doing.push(R::spawn(Worker::new(world.clone(), client).work(until)));
    }
    R::sleep(world.plan.lasts).await;
    for task in doing {
        let _ = task.await;
    }
    heal(world).await;
    prove(world, "after healing").await;
    flush_all(world).await;
    world.trace(format_args!("power cut of all nodes"));
    for node in world.nodes() {
        world.with_slot(node, |slot| slot.set_down(Duration::from_millis(100)));
        if let Some(life) = world.life_of(node) {
            life.kill(Death::PowerCut);
        }
    }
    prove(world, "after the last power cut").await;
}

/// The limits travel in the log, so they are proposed like everything else.
async fn propose_limits(world: &Arc<World>) {
    let limits = world.plan.limits;
    let deadline = R::now() + CONVERGE_LIMIT;
    while R::now() < deadline {
        R::sleep(LOOK).await;
        let Some((node, running)) = world.leader().and_then(|n| Some((n, world.running(n)?))) else {
            continue;
        };
        let now_ms = world.clock_ms(node);
        let command = quorate_storage::encode_limits_entry(now_ms, &limits);
        let content = crate::model::Content::Limits { now_ms, limits };
        world.observer().proposing(&command, content);
        let group = running.group.clone();
        let proposed = running.life.spawn(async move { group.propose(command).await });
        if let Ok(Ok(_)) = proposed.await {
            return;
        }
    }
    world.violate("not_live", "the new cluster has no leader that commits".into());
}

/// Ends everything that faults left behind.
async fn heal(world: &Arc<World>) {
    world.trace(format_args!("healing"));
    let calm = Conditions {
        loss_permille: 0,
        ..world.plan.conditions
    };
    world.hub.set_conditions(calm);
    for node in world.nodes() {
        world.with_slot(node, |slot| {
            slot.set_down(Duration::from_millis(100));
            slot.spare();
        });
        if let Some(life) = world.life_of(node) {
            life.spare();
        }
    }
}

/// Waits until the cluster agrees, then uses and reads all of it.
async fn prove(world: &Arc<World>, when: &str) {
    if let Err(last) = converge(world).await {
        return world.violate("not_live", format!("{when}: {last}"));
    }
    let client = Client {
        number: 1_000,
        pause: LOOK,
    };
    if !Worker::new(world.clone(), client).is_served().await {
        return world.violate("not_live", format!("{when}: the cluster doesn't serve"));
    }
    if let Err(last) = converge(world).await {
        return world.violate("not_live", format!("{when}, having served: {last}"));
    }
    let mut sums = Vec::new();
    for node in world.nodes() {
        let Some(running) = world.running(node) else {
            return world.violate("not_live", format!("{when}: node {node} went away"));
        };
        let read = node::scan(world, &running.shard).and_then(|all| Ok((all, running.shard.checksum()?)));
        let (all, sum): (Samples, _) = match read {
            Ok(read) => read,
            Err(error) => return world.violate("crashed", format!("{when}: node {node}: {error}")),
        };
        let index = sum.position.map(|position| position.index);
        let what = format!("node {node} {when}");
        let mut observer = world.observer();
        let expected = observer.model.read(index, |_| true, i64::MIN, i64::MAX);
        observer.read(&what, index, &all, &expected);
        observer.scanned(&what, &all);
        drop(observer);
        sums.push((index, sum.checksum, sum.samples));
        world.trace(format_args!("{what}: {sum:?}"));
    }
    if sums.windows(2).any(|pair| pair[0] != pair[1]) {
        world.violate("diverged", format!("{when}: {sums:?}"));
    }
}

/// Waits until every node is up, agrees on the members and a leader, and has applied everything.
async fn converge(world: &Arc<World>) -> Result<(), String> {
    let deadline = R::now() + CONVERGE_LIMIT;
    loop {
        let last = match agreed(world).await {
            Ok(()) => return Ok(()),
            Err(last) => last,
        };
        if R::now() >= deadline {
            return Err(last);
        }
        R::sleep(LOOK).await;
    }
}

async fn agreed(world: &Arc<World>) -> Result<(), String> {
    let mut running = Vec::new();
    for node in world.nodes() {
        running.push(
            world
                .running(node)
                .ok_or_else(|| format!("node {node} is down"))?,
        );
    }
    let wanted = nemesis::wanted(world);
    let leader = world.leader().ok_or("no node leads")?;
    let leader = world.running(leader).ok_or("the leader went away")?;
    let status = leader.group.status();
    let voters: std::collections::BTreeSet<u64> = status.voters.iter().flatten().copied().collect();
    if voters != wanted || status.is_joint() {
        return Err(format!(
            "the members are {:?}, wanted are {wanted:?}",
            status.voters
        ));
    }
    let group = leader.group.clone();
    let asked = leader
        .life
        .spawn(async move { group.read_index(Duration::from_secs(2)).await });
    drop(leader);
    let index = asked
        .await
        .map_err(|_| "the leader died".to_owned())?
        .map_err(|error| format!("no read index: {error}"))?;
    for one in &running {
        let applied = one.group.applied().map(|position| position.index);
        if applied != Some(index) {
            let replica = one.group.replica();
            return Err(format!(
                "replica {replica} applied {applied:?} of {index}: {:?}",
                one.group.status()
            ));
        }
    }
    Ok(())
}

async fn flush_all(world: &Arc<World>) {
    for node in world.nodes() {
        let Some(running) = world.running(node) else {
            continue;
        };
        let (life, world) = (running.life.clone(), world.clone());
        let flushed = life.spawn(async move { node::flush(&world, node, &running).await });
        let _ = flushed.await;
    }
}
