//! A node's process: production's log and store put together as the node does it, and what it answers.

use std::ops::ControlFlow;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use quorate_raft_log::{
    AsyncRuntime, DeviceOp, Group, GroupConfig, Hooks, LogDevice, LogKey, LogOptions, LogPosition,
    ProposeError, RaftLog, ReplicaId, RiderRow, WriterMode,
};
use quorate_storage::{
    LogPosition as StoragePosition, MatchOp, Matcher, Merge, SampleColumns, SelectLimits, Shard,
    StorageError, encode_write_entry,
};

use crate::disk::{Disk, FaultyDevice, Watcher};
use crate::machine::ShardMachine;
use crate::model::{Content, Part, Samples};
use crate::network::{Attached, GROUP, Link, Place};
use crate::plan::Point;
use crate::random::Random;
use crate::runtime::{Life, NodeRuntime as R, abort};
use crate::series::{TENANTS, labels};
use crate::world::World;

/// What runs on a node.
#[derive(Clone)]
pub struct Running {
    /// The process.
    pub life: Arc<Life>,
    /// Its log.
    pub log: Arc<RaftLog<R>>,
    /// Its Raft group.
    pub group: Group<R>,
    /// Its shard.
    pub shard: Arc<Shard>,
    gate: Arc<tokio::sync::Mutex<()>>,
}

/// Tells the observer what is written to the log.
struct Writes {
    world: Weak<World>,
    node: Place,
    shard: Weak<Shard>,
}

impl Watcher for Writes {
    fn writing(&self, device: &dyn LogDevice, ops: &[DeviceOp]) {
        if let (Some(world), Some(shard)) = (self.world.upgrade(), self.shard.upgrade()) {
            let durable = shard.durable().position.map(|position| position.index);
            world.observer().writing(self.node, device, ops, durable);
            for op in ops {
                match op {
                    DeviceOp::Vote(..) => world.at_point(self.node, Point::Vote),
                    DeviceOp::Truncate(..) => world.at_point(self.node, Point::Truncate),
                    _ => {}
                }
            }
        }
    }
}

/// Opens everything of a node, in the order in which the node does.
pub async fn open(
    world: Arc<World>,
    node: Place,
    replica: ReplicaId,
    founder: bool,
    disk: Arc<Disk>,
    life: Arc<Life>,
) -> anyhow::Result<Running> {
    let mounted = disk.mount().context("opening the database")?;
    world.mounted(node, mounted.db.clone());
    let shard = mounted.store.open_shard(GROUP, replica)?;
    let durable = shard.durable().position.map(|position| position.index);
    world.observer().stands(node, durable);
    check_recovered(&world, node, &shard, "a restart");
    let watcher = Arc::new(Writes {
        world: Arc::downgrade(&world),
        node,
        shard: Arc::downgrade(&shard),
    });
    let device = FaultyDevice::new(&mounted, disk.clone(), watcher)?;
    let found = device.recover(LogKey {
        group: GROUP,
        replica,
    })?;
    world.observer().recovered(node, replica, &found);
    let gate: Arc<tokio::sync::Mutex<()>> = Arc::default();
    let link = Arc::new(Link {
        hub: world.hub.clone(),
        node,
    });
    let group_fatal = Arc::new(move |_, _, reason: &str| abort(&format!("the group stopped: {reason}")));
    let hooks = Hooks {
        on_fatal: Arc::new(abort),
        on_group_fatal: group_fatal,
    };
    let options = LogOptions {
        writer: WriterMode::Task,
        ..LogOptions::default()
    };
    let log = Arc::new(RaftLog::open(device, link, options, hooks)?);
    world.hub.attach(
        node,
        Attached {
            log: log.clone(),
            life: life.clone(),
            gate: gate.clone(),
        },
    );
    let machine = Arc::new(ShardMachine {
        shard: shard.clone(),
        disk,
        node,
        world: Arc::downgrade(&world),
    });
    let config = GroupConfig {
        purge_hold_ms: world.plan.purge_hold.as_millis() as u64,
        ..GroupConfig::default()
    };
    let group = log.open_group(GROUP, replica, machine, config).await?;
    if founder {
        let voters: Vec<ReplicaId> = (1..=world.plan.nodes).map(|n| 100 + n).collect();
        group.initialize(&voters).await?;
    }
    let running = Running {
        life,
        log,
        group,
        shard,
        gate,
    };
    drop(R::spawn(flushes(
        Arc::downgrade(&world),
        node,
        running.clone(),
        world.plan.flush_every,
    )));
    Ok(running)
}

/// Compares what a replica holds with what it must hold at its position.
pub fn check_recovered(world: &World, node: Place, shard: &Shard, what: &str) {
    let index = shard.applied().map(|position| position.index);
    match scan(world, shard) {
        Ok(all) => {
            let mut observer = world.observer();
            let expected = observer.model.read(index, |_| true, i64::MIN, i64::MAX);
            observer.read(&format!("node {node} after {what}"), index, &all, &expected);
        }
        Err(error) => world.violate(
            "crashed",
            format!("node {node} can't be read after {what}: {error}"),
        ),
    }
}

/// Every sample of a replica.
pub fn scan(world: &World, shard: &Shard) -> Result<Samples, StorageError> {
    let mut all = Samples::new();
    for tenant in 0..TENANTS.len() {
        select(world, shard, tenant, &[], (i64::MIN, i64::MAX), &mut all)?;
    }
    Ok(all)
}

fn select(
    world: &World,
    shard: &Shard,
    tenant: usize,
    matchers: &[Matcher],
    window: (i64, i64),
    into: &mut Samples,
) -> Result<(), StorageError> {
    let limits = SelectLimits::default();
    let mut columns = SampleColumns::new();
    for selected in shard.select(TENANTS[tenant], matchers, window.0, window.1, &limits)? {
        selected.samples(&mut columns)?;
        if columns.is_empty() {
            continue;
        }
        // A series that nobody wrote shows as invented.
        let series = world.catalogue.find(tenant, &selected.labels).unwrap_or(u32::MAX);
        let samples = columns.iter().map(|(t, value)| (t, value.to_bits())).collect();
        into.insert(series, samples);
    }
    Ok(())
}

/// After one flush of so many, by their index, everything that is flushed is merged.
const FLUSHES_FOR_A_MERGE: u64 = 3;

/// Flushes from time to time and purges the log, until the process ends.
async fn flushes(world: Weak<World>, node: Place, running: Running, every: Duration) {
    let mut random = match world.upgrade() {
        Some(world) => Random::new(world.plan.seed).fork("flushes", node),
        None => return,
    };
    loop {
        let half = every.as_millis() as u64 / 2;
        R::sleep(Duration::from_millis(half + random.between(0, 2 * half))).await;
        let Some(world) = world.upgrade() else { return };
        flush(&world, node, &running).await;
    }
}

/// Flushes once, as `node/src/shards/flush.rs` does.
pub async fn flush(world: &World, node: Place, running: &Running) {
    match flush_steps(world, node, running).await {
        Ok(Some(index)) => {
            world.at_point(node, Point::Purge);
            let keep_from = index.saturating_sub(world.plan.keep_entries);
            if let Ok(Some(upto)) = running.group.purge(keep_from).await {
                world.counts().purges += 1;
                world.trace(format_args!("node {node} purges up to {upto}"));
            }
        }
        Ok(None) => {}
        Err(error) => abort(&format!("a flush failed: {error}")),
    }
}

async fn flush_steps(world: &World, node: Place, running: &Running) -> Result<Option<u64>, StorageError> {
    let _alone = running.gate.lock().await;
    let Some(pending) = running.shard.begin_flush()? else {
        return Ok(None);
    };
    let index = pending.position.index;
    world.with_slot(node, |slot| slot.disk.note_ingested());
    world.trace(format_args!("node {node} flushes up to {index}"));
    world.at_point(node, Point::Flush);
    let rows = pending.rows.iter().cloned().map(|row| RiderRow {
        cf: row.cf,
        key: row.key,
        value: row.value,
    });
    if running.log.write_rider(rows.collect()).await.is_err() {
        return Ok(None);
    }
    running.shard.commit_flush(pending)?;
    world.counts().flushes += 1;
    world.trace(format_args!("node {node} flushed up to {index}"));
    if index % FLUSHES_FOR_A_MERGE == 0 {
        merge(world, node, running).await?;
    }
    Ok(Some(index))
}

/// Merges everything that is flushed, as `node/src/shards/compact.rs` does with a part of it.
async fn merge(world: &World, node: Place, running: &Running) -> Result<(), StorageError> {
    let Some(merged) = running
        .shard
        .merge(Merge::All, &mut |_| ControlFlow::Continue(()))?
    else {
        return Ok(());
    };
    world.with_slot(node, |slot| slot.disk.note_ingested());
    world.trace(format_args!("node {node} merged {} generations", merged.inputs()));
    world.at_point(node, Point::Flush);
    let Some(pending) = running.shard.begin_swap(merged)? else {
        return Ok(());
    };
    let rows = pending.rows.iter().cloned().map(|row| RiderRow {
        cf: row.cf,
        key: row.key,
        value: row.value,
    });
    if running.log.write_rider(rows.collect()).await.is_ok() {
        running.shard.commit_flush(pending)?;
    }
    Ok(())
}

/// A command, and what it carries.
pub struct Write {
    /// The encoded parts.
    pub encoded: Vec<Bytes>,
    /// The same as built.
    pub parts: Vec<Part>,
}

/// What a node answers to a write.
pub enum WriteAnswer {
    /// Committed, with the command and the reply.
    Done(LogPosition, Bytes, Bytes),
    /// Ask the node where this replica lives, if it is known. Nothing was proposed.
    NotLeader(Option<ReplicaId>),
    /// Nothing was proposed.
    Refused,
    /// It may be committed, or not.
    Unknown,
}

/// Takes a write: stamps it with the node's clock and proposes it.
pub async fn write(
    world: Arc<World>,
    node: Place,
    group: Group<R>,
    write: Write,
    limit: Duration,
) -> WriteAnswer {
    let now_ms = world.clock_ms(node);
    let command = encode_write_entry(now_ms, &write.encoded);
    let content = Content::Write {
        now_ms,
        parts: write.parts,
    };
    world.observer().proposing(&command, content);
    match group.propose_within(command.clone(), limit).await {
        Ok(committed) => WriteAnswer::Done(committed.position, command, committed.reply),
        Err(ProposeError::NotLeader { leader }) => WriteAnswer::NotLeader(leader),
        // Nothing was proposed.
        Err(
            ProposeError::Overloaded { .. }
            | ProposeError::TooLarge { .. }
            | ProposeError::NoQuorum(_)
            | ProposeError::QuorumLost(_)
            | ProposeError::Stalled,
        ) => WriteAnswer::Refused,
        Err(ProposeError::OutcomeUnknown(_) | ProposeError::Stopped(_)) => WriteAnswer::Unknown,
    }
}

/// What to read.
#[derive(Debug, Clone)]
pub struct Query {
    /// The tenant.
    pub tenant: usize,
    /// Label names and values that must be, or must not be, equal.
    pub matchers: Vec<(&'static str, String, bool)>,
    /// Inclusive window.
    pub window: (i64, i64),
    /// Whether to ask the leader for the read index first.
    pub linearizable: bool,
}

impl Query {
    /// Whether a series is asked for, decided without the index.
    pub fn wants(&self, series: u32) -> bool {
        let (name, job, instance) = labels(series);
        let of_tenant = series as usize % TENANTS.len() == self.tenant;
        of_tenant
            && self.matchers.iter().all(|(label, value, equal)| {
                let there = match *label {
                    "__name__" => &name,
                    "job" => &job,
                    _ => &instance,
                };
                (there == value) == *equal
            })
    }
}

/// Reads, and what had been applied at that moment. `None` if the read index could not be had in time.
pub async fn read(
    world: Arc<World>,
    group: Group<R>,
    shard: Arc<Shard>,
    query: Query,
    limit: Duration,
) -> Option<Result<(Option<u64>, Samples), StorageError>> {
    if query.linearizable {
        let index = group.read_index(limit).await.ok()?;
        group.wait_applied(index, limit).await.ok()?;
    }
    let matchers: Vec<Matcher> = query
        .matchers
        .iter()
        .filter_map(|(name, value, equal)| {
            let op = if *equal { MatchOp::Eq } else { MatchOp::Ne };
            Matcher::new(op, name, value).ok()
        })
        .collect();
    let mut samples = Samples::new();
    let applied = shard.applied().map(|StoragePosition { index, .. }| index);
    let selected = select(
        &world,
        &shard,
        query.tenant,
        &matchers,
        query.window,
        &mut samples,
    );
    Some(selected.map(|()| (applied, samples)))
}
