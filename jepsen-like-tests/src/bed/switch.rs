//! A switch in this process: delays, loses, duplicates and reorders frames by link, from a seed.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::names::{Names, in_hex};
use super::network::{outer_end, set_up_inner_end};
use super::{Disturbance, Peer, Switched, command, tap};

/// How soon the thread notices that it should end.
const LOOK: Duration = Duration::from_millis(50);
/// How much later than its turn a frame comes that is reordered.
const REORDERED: Duration = Duration::from_millis(5);
/// Frames held at a time. A real switch has buffers, too, and drops what doesn't fit.
const MOST_HELD: usize = 50_000;
/// Frames taken from one port before the others have their turn.
const BURST: usize = 64;
const FRAME_BYTES: usize = 65_536;

#[derive(Debug)]
pub(super) struct Switch {
    rules: Arc<Rules>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread goes by.
#[derive(Debug, Default)]
struct Rules {
    links: Mutex<Links>,
    ended: AtomicBool,
    lost: AtomicU64,
    cut: AtomicU64,
    delayed: AtomicU64,
    duplicated: AtomicU64,
    reordered: AtomicU64,
}

#[derive(Debug, Default)]
struct Links {
    cut: BTreeSet<(Peer, Peer)>,
    down: BTreeSet<Peer>,
    all: Option<Disturbance>,
    single: HashMap<(Peer, Peer), Disturbance>,
}

impl Links {
    fn is_cut(&self, from: Peer, to: Peer) -> bool {
        self.down.contains(&from) || self.down.contains(&to) || self.cut.contains(&(from, to))
    }

    /// What is said of the link itself beats what is said of all.
    fn disturbance(&self, from: Peer, to: Peer) -> Option<Disturbance> {
        self.single.get(&(from, to)).copied().or(self.all)
    }
}

impl Switch {
    pub(super) fn create(names: &Names, nodes: &[u64], seed: u64) -> Result<Switch> {
        let mut ports = Vec::new();
        for node in nodes {
            let (port, namespace) = (names.port(*node), names.namespace(*node));
            command::run("ip", &["netns", "add", &namespace])?;
            ports.push(Port::open(Peer::Node(*node), &port, names)?);
            let address = in_hex(names.hardware_address(Some(*node)));
            let moved =
                format!("link set {port} address {address}\nlink set {port} netns {namespace} name eth0\n");
            command::feed("ip", &["-batch", "-"], &moved)?;
            set_up_inner_end(names, *node, nodes)?;
        }
        let device = names.bridge();
        ports.push(Port::open(Peer::Clients, &device, names)?);
        let address = in_hex(names.hardware_address(None));
        let outer = format!("link set {device} address {address}\n{}", outer_end(names, nodes));
        command::feed("ip", &["-batch", "-"], &outer)?;
        let rules = Arc::new(Rules::default());
        let forwarding = Forwarding::new(ports, seed, Arc::clone(&rules));
        let thread = std::thread::Builder::new().name("switch".to_owned());
        let thread = thread.spawn(move || forwarding.run())?;
        Ok(Switch {
            rules,
            thread: Mutex::new(Some(thread)),
        })
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.rules.links()
    }

    pub(super) fn cut(&self, pairs: &[(Peer, Peer)]) -> Result<()> {
        self.links().cut.extend(pairs);
        Ok(())
    }

    pub(super) fn heal(&self, pairs: &[(Peer, Peer)]) -> Result<()> {
        self.links().cut.retain(|pair| !pairs.contains(pair));
        Ok(())
    }

    pub(super) fn heal_all(&self) -> Result<()> {
        let mut links = self.links();
        links.cut.clear();
        links.down.clear();
        Ok(())
    }

    pub(super) fn set_link(&self, node: u64, up: bool) -> Result<()> {
        let mut links = self.links();
        if up {
            links.down.remove(&Peer::Node(node));
        } else {
            links.down.insert(Peer::Node(node));
        }
        Ok(())
    }

    pub(super) fn disturb(&self, disturbance: Disturbance) -> Result<()> {
        let mut links = self.links();
        match disturbance.only {
            Some(pair) => {
                links.single.insert(pair, disturbance);
            }
            None => links.all = Some(disturbance),
        }
        Ok(())
    }

    pub(super) fn calm(&self) {
        let mut links = self.links();
        links.all = None;
        links.single.clear();
    }

    pub(super) fn counts(&self) -> Switched {
        let rules = &self.rules;
        Switched {
            lost: rules.lost.load(Relaxed),
            cut: rules.cut.load(Relaxed),
            delayed: rules.delayed.load(Relaxed),
            duplicated: rules.duplicated.load(Relaxed),
            reordered: rules.reordered.load(Relaxed),
        }
    }

    /// Ends the thread; its ports go with it.
    pub(super) fn stop(&self) {
        self.rules.ended.store(true, Relaxed);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ended = thread.join();
        }
    }
}

impl Rules {
    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Port {
    peer: Peer,
    hardware_address: [u8; 6],
    tap: File,
    /// Not once its device is gone.
    alive: bool,
}

impl Port {
    fn open(peer: Peer, device: &str, names: &Names) -> Result<Port> {
        let node = match peer {
            Peer::Node(node) => Some(node),
            Peer::Clients => None,
        };
        Ok(Port {
            peer,
            hardware_address: names.hardware_address(node),
            tap: tap::open(device).with_context(|| format!("can't make the device {device}"))?,
            alive: true,
        })
    }
}

/// What the thread has to itself.
struct Forwarding {
    ports: Vec<Port>,
    by_address: HashMap<[u8; 6], usize>,
    rules: Arc<Rules>,
    /// One for each link, so that traffic on one doesn't change what happens on another.
    random: HashMap<(usize, usize), StdRng>,
    seed: u64,
    held: BinaryHeap<Reverse<Held>>,
    /// When the last frame in order on a link is due: jitter doesn't reorder.
    last_due: HashMap<(usize, usize), Instant>,
    sequence: u64,
}

/// A frame on its way. Ordered by when it is due.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    due: Instant,
    sequence: u64,
    from: usize,
    to: usize,
    frame: Vec<u8>,
}

impl Forwarding {
    fn new(ports: Vec<Port>, seed: u64, rules: Arc<Rules>) -> Forwarding {
        let by_address = ports.iter().enumerate();
        let by_address = by_address
            .map(|(index, port)| (port.hardware_address, index))
            .collect();
        Forwarding {
            ports,
            by_address,
            rules,
            random: HashMap::new(),
            seed,
            held: BinaryHeap::new(),
            last_due: HashMap::new(),
            sequence: 0,
        }
    }

    fn run(mut self) {
        let mut buffer = vec![0; FRAME_BYTES];
        while !self.rules.ended.load(Relaxed) {
            for index in self.readable() {
                for _ in 0..BURST {
                    let Some(length) = self.receive(index, &mut buffer) else {
                        break;
                    };
                    self.take(index, buffer.get(..length).unwrap_or_default());
                }
            }
            self.deliver_due();
        }
    }

    /// Waits for frames, for one that is due, or a moment, and says which ports have some.
    fn readable(&self) -> Vec<usize> {
        let due = self
            .held
            .peek()
            .map(|Reverse(held)| held.due.saturating_duration_since(Instant::now()));
        let limit = due.unwrap_or(LOOK).min(LOOK);
        let limit = Timespec::try_from(limit).ok();
        let alive: Vec<usize> = (0..self.ports.len())
            .filter(|index| self.ports.get(*index).is_some_and(|port| port.alive))
            .collect();
        let mut polled: Vec<PollFd<'_>> = alive
            .iter()
            .filter_map(|index| self.ports.get(*index))
            .map(|port| PollFd::from_borrowed_fd(port.tap.as_fd(), PollFlags::IN))
            .collect();
        // An interrupted wait is as good as a short one.
        let _ready = poll(&mut polled, limit.as_ref());
        let ready = alive
            .iter()
            .zip(&polled)
            .filter(|(_, polled)| !polled.revents().is_empty());
        ready.map(|(index, _)| *index).collect()
    }

    fn receive(&mut self, index: usize, buffer: &mut [u8]) -> Option<usize> {
        let port = self.ports.get_mut(index)?;
        match port.tap.read(buffer) {
            Ok(length) => Some(length),
            Err(error) => {
                // Down for now is reported as EIO; a device that is gone, as EBADFD.
                port.alive = matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted
                ) || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
                None
            }
        }
    }

    /// A frame arrives at the switch.
    fn take(&mut self, from: usize, frame: &[u8]) {
        let Some(address) = frame.first_chunk::<6>() else {
            return;
        };
        match self.by_address.get(address) {
            Some(to) => self.pass(from, *to, frame),
            None => (0..self.ports.len())
                .filter(|to| *to != from)
                .for_each(|to| self.pass(from, to, frame)),
        }
    }

    fn pass(&mut self, from: usize, to: usize, frame: &[u8]) {
        let (Some(sender), Some(receiver)) = (self.ports.get(from), self.ports.get(to)) else {
            return;
        };
        let disturbance = self.rules.links().disturbance(sender.peer, receiver.peer);
        let Some(disturbance) = disturbance else {
            return self.deliver(from, to, frame);
        };
        let seed = self.seed ^ ((from as u64) << 32 | to as u64);
        let random = self
            .random
            .entry((from, to))
            .or_insert_with(|| StdRng::seed_from_u64(seed));
        let mut happens = |percent: f64| percent > 0.0 && random.random_bool((percent / 100.0).min(1.0));
        if happens(disturbance.loss_percent) {
            self.rules.lost.fetch_add(1, Relaxed);
            return;
        }
        let twice = happens(disturbance.duplicate_percent);
        let reordered = happens(disturbance.reorder_percent);
        let jitter_us = disturbance.jitter_ms * 1_000;
        let jitter = Duration::from_micros(random.random_range(0..=jitter_us));
        let mut due = Instant::now() + Duration::from_millis(disturbance.delay_ms) + jitter;
        if reordered {
            self.rules.reordered.fetch_add(1, Relaxed);
            due += REORDERED + jitter;
        } else {
            let last = self.last_due.entry((from, to)).or_insert(due);
            due = due.max(*last);
            *last = due;
        }
        if twice {
            self.rules.duplicated.fetch_add(1, Relaxed);
            self.hold(due, from, to, frame);
        }
        if disturbance.delay_ms > 0 || jitter_us > 0 {
            self.rules.delayed.fetch_add(1, Relaxed);
        }
        self.hold(due, from, to, frame);
    }

    fn hold(&mut self, due: Instant, from: usize, to: usize, frame: &[u8]) {
        if self.held.len() >= MOST_HELD {
            self.rules.lost.fetch_add(1, Relaxed);
            return;
        }
        self.sequence += 1;
        let (sequence, frame) = (self.sequence, frame.to_vec());
        self.held.push(Reverse(Held {
            due,
            sequence,
            from,
            to,
            frame,
        }));
    }

    fn deliver_due(&mut self) {
        let now = Instant::now();
        while self.held.peek().is_some_and(|Reverse(held)| held.due <= now) {
            if let Some(Reverse(held)) = self.held.pop() {
                self.deliver(held.from, held.to, &held.frame);
            }
        }
    }

    /// Cuts also end what is on its way.
    fn deliver(&self, from: usize, to: usize, frame: &[u8]) {
        let (Some(sender), Some(receiver)) = (self.ports.get(from), self.ports.get(to)) else {
            return;
        };
        if self.rules.links().is_cut(sender.peer, receiver.peer) {
            self.rules.cut.fetch_add(1, Relaxed);
            return;
        }
        // What the receiver's kernel doesn't take is lost, as on any wire.
        let _taken = (&receiver.tap).write(frame);
    }
}
