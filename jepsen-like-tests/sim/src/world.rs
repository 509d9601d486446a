//! The world of a run: its nodes with their disks, the network, the observer. It outlives every process.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use quorate_raft_log::{AsyncRuntime, ReplicaId, Role};
use quorate_storage::Shard;
use tokio::sync::Notify;

use crate::disk::{Db, Disk, Survival};
use crate::network::{Hub, Place};
use crate::node::{self, Running};
use crate::observer::Observer;
use crate::plan::{Plan, Point};
use crate::random::Random;
use crate::runtime::{Death, Life, NodeRuntime as R};
use crate::series::Catalogue;
use crate::trace::Trace;

/// Unix milliseconds at which a run begins.
pub const BASE_MS: i64 = 1_700_000_000_000;

/// What happened in a run, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Processes killed.
    pub kills: u64,
    /// Power cuts, each of one node.
    pub power_cuts: u64,
    /// Bytes that power cuts took from write-ahead logs.
    pub lost_bytes: u64,
    /// Processes that ended themselves after a failed sync.
    pub aborts: u64,
    /// Links cut by partitions.
    pub partitions: u64,
    /// Flushes that became visible.
    pub flushes: u64,
    /// Purges asked for.
    pub purges: u64,
    /// Snapshots installed.
    pub snapshots: u64,
    /// Processes that crashed while they received a snapshot.
    pub snapshot_crashes: u64,
    /// Processes that crashed near a point of their work.
    pub near: u64,
    /// Disks replaced.
    pub wipes: u64,
    /// Leaderships handed over.
    pub transfers: u64,
    /// Other faults.
    pub others: u64,
}

/// A node, running or not.
pub struct Slot {
    /// Its disk.
    pub disk: Arc<Disk>,
    /// Its replica of the group.
    pub replica: ReplicaId,
    /// How far its clock is off.
    pub clock_offset_ms: i64,
    /// How long it stays down after the next death.
    down: Duration,
    /// Whether its replica was ever a member from the start.
    founder: bool,
    process: Process,
    /// The open database, for the crash.
    db: Option<Arc<Db>>,
    /// A failed sync was ordered, so that it may abort.
    may_abort: bool,
    /// At which point to crash after how many polls.
    crash_near: Option<(Point, u64, Death)>,
    /// At which snapshot frame, counted down, to crash after how many polls.
    crash_in_snapshot: Option<(u64, u64)>,
}

enum Process {
    Down,
    Starting(Arc<Life>),
    Up(Box<Running>),
}

/// Everything of a run.
pub struct World {
    /// What is to happen.
    pub plan: Plan,
    /// The network.
    pub hub: Arc<Hub>,
    /// The workload's series.
    pub catalogue: Arc<Catalogue>,
    life: Arc<Life>,
    slots: Mutex<BTreeMap<Place, Slot>>,
    observer: Mutex<Observer>,
    trace: Mutex<Trace>,
    counts: Mutex<Counts>,
    next_replica: Mutex<ReplicaId>,
    /// Set when processes that end are not started again.
    closing: AtomicBool,
    /// Clients write nothing meanwhile.
    writes_held: AtomicBool,
    halted: Notify,
}

impl World {
    /// Nodes 1 to n with empty disks below `root`, none started. `life` is the world's own.
    pub fn new(
        plan: Plan,
        root: &Path,
        life: Arc<Life>,
        catalogue: Arc<Catalogue>,
        keep_trace: bool,
    ) -> anyhow::Result<Arc<Self>> {
        let random = Random::new(plan.seed);
        let mut slots = BTreeMap::new();
        for node in 1..=plan.nodes {
            let disk = Disk::new(root.join(node.to_string()), random.fork("disk", node), plan.mood)?;
            slots.insert(node, Slot::new(disk, 100 + node));
        }
        let nodes = plan.nodes;
        let world = Arc::new_cyclic(|world| Self {
            hub: Hub::new(world.clone(), plan.conditions, random.fork("network", 0)),
            plan,
            catalogue,
            life,
            slots: Mutex::new(slots),
            observer: Mutex::default(),
            trace: Mutex::new(Trace::new(keep_trace)),
            counts: Mutex::default(),
            next_replica: Mutex::new(100 + nodes),
            closing: AtomicBool::new(false),
            writes_held: AtomicBool::new(false),
            halted: Notify::new(),
        });
        for node in 1..=nodes {
            world.hub.home(100 + node, node);
        }
        Ok(world)
    }

    /// Starts a task that no crash ends.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.life.spawn(task));
    }

    /// The observer. Not to be held across anything that may call it too.
    pub fn observer(&self) -> MutexGuard<'_, Observer> {
        self.observer.lock()
    }

    /// Adds a line to the trace.
    pub fn trace(&self, what: std::fmt::Arguments<'_>) {
        self.trace.lock().add(what);
        if self.observer.lock().violation().is_some() {
            self.halted.notify_one();
        }
    }

    /// The trace itself.
    pub fn trace_of(&self) -> MutexGuard<'_, Trace> {
        self.trace.lock()
    }

    /// Notes a broken rule, which ends the run.
    pub fn violate(&self, checker: &'static str, detail: String) {
        self.trace(format_args!("violation {checker}: {detail}"));
        self.observer.lock().violate(checker, detail);
        self.halted.notify_one();
    }

    /// Returns when a rule was broken.
    pub async fn halted(&self) {
        self.halted.notified().await;
    }

    /// What was counted so far.
    pub fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock()
    }

    /// Numbers of all nodes.
    pub fn nodes(&self) -> Vec<Place> {
        self.slots.lock().keys().copied().collect()
    }

    /// A node's clock, Unix milliseconds.
    pub fn clock_ms(&self, node: Place) -> i64 {
        let offset = self
            .slots
            .lock()
            .get(&node)
            .map_or(0, |slot| slot.clock_offset_ms);
        BASE_MS + R::now().as_millis() as i64 + offset
    }

    /// Changes something of a node.
    pub fn with_slot<T>(&self, node: Place, change: impl FnOnce(&mut Slot) -> T) -> T {
        change(
            self.slots
                .lock()
                .get_mut(&node)
                .unwrap_or_else(|| panic!("no node {node}")),
        )
    }

    /// What runs on a node, once it is up.
    pub fn running(&self, node: Place) -> Option<Running> {
        self.with_slot(node, |slot| match &slot.process {
            Process::Up(running) => Some((**running).clone()),
            _ => None,
        })
    }

    /// The life of a node's process, also while it starts.
    pub fn life_of(&self, node: Place) -> Option<Arc<Life>> {
        self.with_slot(node, |slot| match &slot.process {
            Process::Up(running) => Some(running.life.clone()),
            Process::Starting(life) => Some(life.clone()),
            Process::Down => None,
        })
    }

    /// The node that leads with the highest term, as far as the nodes know.
    pub fn leader(&self) -> Option<Place> {
        let leading = self.nodes().into_iter().filter_map(|node| {
            let status = self.running(node)?.group.status();
            (status.role == Role::Leader).then_some((status.term, node))
        });
        leading.max().map(|(_, node)| node)
    }

    /// A replica id that was never used.
    pub fn new_replica(&self) -> ReplicaId {
        let mut next = self.next_replica.lock();
        *next += 1;
        *next
    }

    /// Keeps clients from writing, or lets them.
    pub fn hold_writes(&self, hold: bool) {
        self.writes_held.store(hold, SeqCst);
    }

    /// Whether clients must not write now.
    pub fn writes_are_held(&self) -> bool {
        self.writes_held.load(SeqCst)
    }

    /// A node's process is at this point.
    pub fn at_point(&self, node: Place, point: Point) {
        let due = self.with_slot(node, |slot| match &slot.crash_near {
            Some((at, ..)) if *at == point => slot.crash_near.take(),
            _ => None,
        });
        if let (Some((_, polls, death)), Some(life)) = (due, self.life_of(node)) {
            self.counts().near += 1;
            life.kill_after(polls, death);
        }
    }

    /// Nothing is started any more by itself.
    pub fn close(&self) {
        self.closing.store(true, SeqCst);
    }

    /// Starts a node that is down; returns when it is up, or dead again.
    pub async fn start(self: &Arc<Self>, node: Place) {
        let world = self.clone();
        let started = self.with_slot(node, |slot| {
            if !matches!(slot.process, Process::Down) {
                return None;
            }
            let owner = Arc::downgrade(&world);
            let life = Life::new(move |death| match owner.upgrade() {
                Some(world) => world.died(node, death),
                None => Box::new(()),
            });
            slot.process = Process::Starting(life.clone());
            Some((life, slot.disk.clone(), slot.replica, slot.founder))
        });
        let Some((life, disk, replica, founder)) = started else {
            return;
        };
        if let Err(error) = disk.forget_old() {
            self.violate("harness", format!("the disk of node {node}: {error}"));
        }
        self.trace(format_args!("node {node} starts as replica {replica}"));
        let opening = life.spawn(node::open(world, node, replica, founder, disk, life.clone()));
        match opening.await {
            Ok(Ok(running)) => {
                self.with_slot(node, |slot| slot.process = Process::Up(Box::new(running)));
                self.trace(format_args!("node {node} is up"));
            }
            Ok(Err(error)) => {
                self.violate("crashed", format!("node {node} can't start: {error:#}"));
                life.kill(Death::Stopped);
            }
            // It died while it started, and was counted then.
            Err(_) => {}
        }
    }

    /// Notes that a starting node has its database open.
    pub fn mounted(&self, node: Place, db: Arc<Db>) {
        self.with_slot(node, |slot| slot.db = Some(db));
    }

    /// The end of a node's process: what its disk keeps is settled before anything of it is dropped.
    fn died(self: &Arc<Self>, node: Place, death: Death) -> Box<dyn Any + Send> {
        let (process, db, disk, down, may_abort) = self.with_slot(node, |slot| {
            let process = std::mem::replace(&mut slot.process, Process::Down);
            let may_abort = std::mem::take(&mut slot.may_abort);
            slot.crash_in_snapshot = None;
            slot.crash_near = None;
            (process, slot.db.take(), slot.disk.clone(), slot.down, may_abort)
        });
        let survival = match &death {
            Death::Killed | Death::Stopped => Survival::Written,
            Death::PowerCut | Death::Aborted(_) | Death::Panicked(_) => Survival::Synced,
        };
        let lost = match &db {
            None => 0,
            Some(db) => disk.crash(db, survival).unwrap_or_else(|error| {
                self.violate("harness", format!("the disk of node {node}: {error:#}"));
                0
            }),
        };
        {
            let mut counts = self.counts();
            counts.lost_bytes += lost;
            match &death {
                Death::Killed => counts.kills += 1,
                Death::PowerCut => counts.power_cuts += 1,
                Death::Aborted(_) => counts.aborts += 1,
                Death::Panicked(_) | Death::Stopped => {}
            }
        }
        self.trace(format_args!(
            "node {node} died: {death:?}, {lost} bytes of the log lost"
        ));
        match &death {
            Death::Aborted(reason) if !may_abort => {
                self.violate("crashed", format!("node {node} aborted: {reason}"));
            }
            Death::Panicked(message) => {
                self.violate("crashed", format!("node {node} panicked: {message}"));
            }
            _ => {}
        }
        let attached = self.hub.detach(node);
        if !self.closing.load(SeqCst) && death != Death::Stopped {
            let world = self.clone();
            self.spawn(async move {
                R::sleep(down).await;
                world.start(node).await;
            });
        }
        Box::new((process, attached, db))
    }

    /// Counts a frame of a snapshot that reached a node.
    pub fn snapshot_frame(&self, node: Place) {
        let crash = self.with_slot(node, |slot| match &mut slot.crash_in_snapshot {
            Some((0, polls)) => Some(*polls),
            Some((frames, _)) => {
                *frames -= 1;
                None
            }
            None => None,
        });
        if let (Some(polls), Some(life)) = (crash, self.life_of(node)) {
            self.with_slot(node, |slot| slot.crash_in_snapshot = None);
            self.counts().snapshot_crashes += 1;
            life.kill_after(polls, Death::PowerCut);
        }
    }

    /// A node replaced its state by a snapshot's.
    pub fn snapshot_installed(&self, node: Place, index: u64, shard: &Shard) {
        self.counts().snapshots += 1;
        self.at_point(node, Point::Install);
        self.observer.lock().stands(node, Some(index));
        node::check_recovered(self, node, shard, "an installed snapshot");
    }
}

impl Slot {
    fn new(disk: Arc<Disk>, replica: ReplicaId) -> Self {
        Self {
            disk,
            replica,
            clock_offset_ms: 0,
            down: Duration::from_millis(500),
            founder: true,
            process: Process::Down,
            db: None,
            may_abort: false,
            crash_in_snapshot: None,
            crash_near: None,
        }
    }

    /// How long the node stays down after its next death.
    pub fn set_down(&mut self, down: Duration) {
        self.down = down;
    }

    /// The next sync fails.
    pub fn fail_sync(&mut self) {
        self.may_abort = true;
        self.disk.set_mood(|mood| mood.fail_next_sync = true);
    }

    /// Takes back what was ordered and didn't happen yet.
    pub fn spare(&mut self) {
        self.crash_in_snapshot = None;
        self.crash_near = None;
        self.may_abort = false;
        self.disk.set_mood(|mood| mood.fail_next_sync = false);
    }

    /// The node crashes when a snapshot's frame reaches it.
    pub fn crash_in_snapshot(&mut self, frame: u64, polls: u64) {
        self.crash_in_snapshot = Some((frame, polls));
    }

    /// The node crashes soon after this point.
    pub fn crash_near(&mut self, point: Point, polls: u64, death: Death) {
        self.crash_near = Some((point, polls, death));
    }

    /// A new disk, and a new replica that has to be taken in.
    pub fn replace(&mut self, replica: ReplicaId) {
        self.disk.wipe();
        self.replica = replica;
        self.founder = false;
    }

    /// Whether no process runs or starts.
    pub fn is_down(&self) -> bool {
        matches!(self.process, Process::Down)
    }
}
