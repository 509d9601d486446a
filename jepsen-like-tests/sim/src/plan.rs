//! What happens in a run: everything here follows from the seed, and a shrunk run is the same plan with parts
//! left out.

use std::time::Duration;

use quorate_storage::Limits;

use crate::disk::DiskMood;
use crate::network::{Conditions, Place};
use crate::random::Random;

/// Whom a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// Whoever leads at that moment.
    Leader,
    /// This node.
    Node(Place),
}

/// How a process is made to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// SIGKILL.
    Kill,
    /// The power is cut.
    Power,
}

/// A point of a node's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The rows of a flush are in RocksDB, its meta row is about to be written.
    Flush,
    /// A flush is visible, the log is about to be purged.
    Purge,
    /// A vote is about to be written.
    Vote,
    /// Entries that conflict with a leader's are about to be cut off.
    Truncate,
    /// A snapshot was installed.
    Install,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A process ends at its `polls`-th poll from then on.
    CrashAt {
        /// Whose.
        victim: Victim,
        /// How.
        crash: Crash,
        /// At which poll.
        polls: u64,
        /// How long it stays down.
        down: Duration,
    },
    /// Several processes end at once.
    CrashTogether {
        /// Whose.
        nodes: Vec<Place>,
        /// How.
        crash: Crash,
        /// How long each stays down.
        down: Duration,
    },
    /// Links are cut, each one way.
    Cut {
        /// From whom to whom.
        links: Vec<(Place, Place)>,
        /// For how long.
        lasts: Duration,
    },
    /// Whoever leads then is cut off from the others.
    CutLeader {
        /// For how long.
        lasts: Duration,
        /// Only what it sends is lost.
        one_way: bool,
        /// Clients don't hear from it either. Otherwise they go on asking a leader that is none any more.
        clients: bool,
    },
    /// While nothing is written, a follower is cut off until it stands for election; then the others restart,
    /// and are cut off from the leader too. If they voted at once, two would lead within the old one's lease.
    LeaseTrap {
        /// How long the follower is cut off first.
        first: Duration,
    },
    /// A process ends soon after it reaches a point of its work.
    CrashNear {
        /// Whose.
        victim: Victim,
        /// The point.
        point: Point,
        /// At which poll after it.
        polls: u64,
        /// How.
        crash: Crash,
        /// How long it stays down.
        down: Duration,
    },
    /// Links are worse for a while.
    Weather {
        /// How.
        conditions: Conditions,
        /// For how long.
        lasts: Duration,
    },
    /// Syncs of a node take long.
    SlowDisk {
        /// Whose.
        victim: Victim,
        /// How long each takes at most.
        sync: Duration,
        /// For how long.
        lasts: Duration,
    },
    /// A sync of a node fails.
    FailSync {
        /// Whose.
        victim: Victim,
        /// How long the node stays down.
        down: Duration,
    },
    /// A process stands still.
    Pause {
        /// Whose.
        victim: Victim,
        /// For how long.
        lasts: Duration,
    },
    /// A node's clock is off from then on.
    Clock {
        /// Whose.
        node: Place,
        /// By how much.
        offset_ms: i64,
    },
    /// Leadership is handed on, again and again.
    Transfers {
        /// How often.
        times: u64,
    },
    /// All nodes are stopped and started in turn.
    RollingRestart,
    /// A node is down for long, then crashes again while it receives a snapshot.
    CrashInSnapshot {
        /// Which.
        node: Place,
        /// How long it is down first.
        down: Duration,
        /// At which frame.
        frame: u64,
        /// How many polls after that frame.
        polls: u64,
    },
    /// A node's disk is replaced by an empty one; the node comes back under a new replica id.
    Wipe {
        /// Which.
        node: Place,
    },
}

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its stream of random numbers.
    pub number: u64,
    /// Between two requests, at most.
    pub pause: Duration,
}

/// A run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed that it follows from.
    pub seed: u64,
    /// How many nodes.
    pub nodes: u64,
    /// How long faults and clients go on.
    pub lasts: Duration,
    /// Links between faults.
    pub conditions: Conditions,
    /// Disks between faults.
    pub mood: DiskMood,
    /// Time between flushes of a node.
    pub flush_every: Duration,
    /// Entries kept by a purge.
    pub keep_entries: u64,
    /// How long the log is kept for the receiver of a snapshot.
    pub purge_hold: Duration,
    /// Limits of the shard.
    pub limits: Limits,
    /// How many series there are at first.
    pub series: u32,
    /// Faults with their times, in order.
    pub faults: Vec<(Duration, Fault)>,
    /// Clients.
    pub clients: Vec<Client>,
}

/// Which parts of a plan to keep; `None` keeps all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Faults by their place in the plan.
    pub faults: Option<Vec<usize>>,
    /// Clients by their place in the plan.
    pub clients: Option<Vec<usize>>,
    /// How long faults and clients go on.
    pub lasts: Option<Duration>,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed).fork("plan", 0);
        let r = &mut random;
        let nodes = if r.permille(150) { 5 } else { 3 };
        let lasts = Duration::from_millis(r.between(6_000, 14_000));
        let delay_min = Duration::from_micros(r.between(50, 2_000));
        let conditions = Conditions {
            delay_min,
            delay_max: delay_min + Duration::from_micros(r.between(100, 12_000)),
            loss_permille: *r.pick(&[0, 0, 2, 10]),
            duplicate_permille: *r.pick(&[0, 5, 30]),
        };
        let sync_min = Duration::from_micros(r.between(100, 2_000));
        let mood = DiskMood {
            sync_min,
            sync_max: sync_min + Duration::from_micros(r.between(0, 15_000)),
            fail_next_sync: false,
        };
        let short = r.permille(300);
        let limits = Limits {
            ooo_window_ms: *r.pick(&[2_000, 60_000, 30 * 60_000]),
            retention_ms: if short { 20_000 } else { 15 * 24 * 3_600_000 },
            max_ahead_ms: 120_000,
            max_series_per_shard: if r.permille(100) { 25 } else { 10_000 },
            quota_epoch: 0,
        };
        let mut faults: Vec<(Duration, Fault)> = (0..r.between(2, 9))
            .map(|_| {
                let at = Duration::from_millis(r.between(800, lasts.as_millis() as u64));
                (at, fault(r, nodes, conditions))
            })
            .collect();
        faults.sort_by_key(|(at, _)| *at);
        // What a majority had may be lost with two disks: one is replaced at most.
        let mut wiped = false;
        faults.retain(|(_, fault)| {
            !matches!(fault, Fault::Wipe { .. }) || !std::mem::replace(&mut wiped, true)
        });
        let clients = (0..r.between(1, 4))
            .map(|number| Client {
                number,
                pause: Duration::from_millis(*r.pick(&[10, 30, 80])),
            })
            .collect();
        Self {
            seed,
            nodes,
            lasts,
            conditions,
            mood,
            flush_every: Duration::from_millis(*r.pick(&[500, 1_500, 4_000])),
            keep_entries: *r.pick(&[0, 5, 50, 512]),
            purge_hold: Duration::from_millis(*r.pick(&[0, 1_000, 60_000])),
            limits,
            series: *r.pick(&[4, 20, 60]),
            faults,
            clients,
        }
    }

    /// The plan with only the selected parts.
    pub fn select(mut self, selection: &Selection) -> Self {
        fn keep<T: Clone>(items: &mut Vec<T>, kept: &Option<Vec<usize>>) {
            if let Some(kept) = kept {
                *items = kept.iter().filter_map(|at| items.get(*at).cloned()).collect();
            }
        }
        keep(&mut self.faults, &selection.faults);
        keep(&mut self.clients, &selection.clients);
        self.lasts = selection.lasts.unwrap_or(self.lasts).min(self.lasts);
        self
    }
}

fn victim(r: &mut Random, nodes: u64) -> Victim {
    if r.permille(450) {
        Victim::Leader
    } else {
        Victim::Node(r.between(1, nodes))
    }
}

fn crash(r: &mut Random) -> Crash {
    *r.pick(&[Crash::Kill, Crash::Power, Crash::Power])
}

fn millis(r: &mut Random, low: u64, high: u64) -> Duration {
    Duration::from_millis(r.between(low, high))
}

fn fault(r: &mut Random, nodes: u64, calm: Conditions) -> Fault {
    let polls = if r.permille(500) {
        r.below(40)
    } else {
        r.below(2_000)
    };
    match r.below(100) {
        0..16 => Fault::CrashAt {
            victim: victim(r, nodes),
            crash: crash(r),
            polls,
            down: millis(r, 0, 3_000),
        },
        16..26 => {
            let mut all: Vec<Place> = (1..=nodes).collect();
            r.shuffle(&mut all);
            let several = r.between(nodes / 2 + 1, nodes) as usize;
            Fault::CrashTogether {
                nodes: all[..several].to_vec(),
                crash: crash(r),
                down: millis(r, 0, 1_500),
            }
        }
        26..38 => Fault::CutLeader {
            lasts: millis(r, 200, 4_000),
            one_way: r.permille(300),
            clients: r.permille(400),
        },
        38..46 => Fault::Cut {
            links: links(r, nodes),
            lasts: millis(r, 200, 4_000),
        },
        46..51 => Fault::Weather {
            conditions: Conditions {
                delay_min: calm.delay_min,
                delay_max: millis(r, 20, 150),
                loss_permille: r.between(0, 250),
                duplicate_permille: r.between(0, 300),
            },
            lasts: millis(r, 500, 4_000),
        },
        51..56 => Fault::SlowDisk {
            victim: victim(r, nodes),
            sync: millis(r, 50, 2_500),
            lasts: millis(r, 300, 3_000),
        },
        56..62 => Fault::FailSync {
            victim: victim(r, nodes),
            down: millis(r, 0, 1_500),
        },
        62..68 => Fault::Pause {
            victim: victim(r, nodes),
            lasts: millis(r, 300, 3_000),
        },
        68..71 => Fault::Clock {
            node: r.between(1, nodes),
            offset_ms: r.between(0, 100_000) as i64 - 50_000,
        },
        71..75 => Fault::Transfers {
            times: r.between(1, 6),
        },
        75..78 => Fault::RollingRestart,
        78..83 => Fault::CrashInSnapshot {
            node: r.between(1, nodes),
            down: millis(r, 1_500, 4_000),
            frame: r.below(4),
            polls: r.below(30),
        },
        83..88 => Fault::LeaseTrap {
            first: millis(r, 600, 1_600),
        },
        88..97 => Fault::CrashNear {
            victim: victim(r, nodes),
            point: *r.pick(&[
                Point::Flush,
                Point::Flush,
                Point::Purge,
                Point::Vote,
                Point::Truncate,
                Point::Install,
            ]),
            polls: r.below(8),
            crash: crash(r),
            down: millis(r, 0, 1_500),
        },
        _ => Fault::Wipe {
            node: r.between(1, nodes),
        },
    }
}

/// Links to cut: a minority from the rest, a bridge, the clients, or a few at random.
fn links(r: &mut Random, nodes: u64) -> Vec<(Place, Place)> {
    let mut all: Vec<Place> = (1..=nodes).collect();
    r.shuffle(&mut all);
    let both = |a: &[Place], b: &[Place]| -> Vec<(Place, Place)> {
        let pairs = a.iter().flat_map(|a| b.iter().map(move |b| (*a, *b)));
        pairs.flat_map(|(a, b)| [(a, b), (b, a)]).collect()
    };
    match r.below(4) {
        0 => {
            let (few, rest) = all.split_at(nodes as usize / 2);
            both(few, rest)
        }
        // Two sides that only the bridge still reaches.
        1 => {
            let (left, right) = all[1..].split_at(nodes as usize / 2);
            both(left, right)
        }
        2 => both(&[crate::network::CLIENTS], &all[..1]),
        _ => (0..r.between(1, 4))
            .map(|_| (r.between(1, nodes), r.between(1, nodes)))
            .filter(|(from, to)| from != to)
            .collect(),
    }
}
