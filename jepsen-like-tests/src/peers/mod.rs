//! The same question to other servers: how much of what they acknowledged is gone after a power cut, or a SIGKILL?
//!
//! Each server runs on a [`Bed`](crate::bed::Bed) with its default settings, takes remote write at a set pace
//! ([`load`]), and is struck at a random moment of it ([`server`]). It is started again, and once it says that it is
//! ready, everything is read back through its own HTTP API ([`readback`]) and compared with what was answered 2xx
//! ([`judge`]). Nothing else counts as acknowledged.

pub mod judge;
pub mod load;
pub mod readback;
pub mod server;
pub mod table;

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use self::judge::Judge;
use self::load::{LoadOptions, Writers};
use self::server::{Server, Subject};
use crate::bed::Medium;

/// How long a server that is ready may take to acknowledge something.
const FIRST_ACK: Duration = Duration::from_secs(60);

/// How a server is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strike {
    /// What was not synced is gone, on all nodes at once.
    PowerCut,
    /// SIGKILL of all nodes at once. The kernel lives, and keeps what was written.
    Kill,
    /// SIGTERM to all nodes at once: the control. Whatever is missing after it, the harness has not found.
    Stop,
}

impl Strike {
    /// As shown.
    pub fn name(self) -> &'static str {
        match self {
            Strike::PowerCut => "power cut",
            Strike::Kill => "SIGKILL",
            Strike::Stop => "orderly stop",
        }
    }
}

/// What is done to a server.
#[derive(Debug, Clone)]
pub struct Options {
    /// How it is struck.
    pub strike: Strike,
    /// How often.
    pub strikes: usize,
    /// How much it is given to keep.
    pub load: LoadOptions,
    /// How long it is loaded before each strike, in seconds. The moment is random, and the same for all.
    pub loaded_s: RangeInclusive<f64>,
    /// Where its disks are.
    pub medium: Medium,
    /// The moments follow from it.
    pub seed: u64,
}

/// One strike and what it cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Struck {
    /// Samples acknowledged since the strike before.
    pub acked: u64,
    /// Acknowledged samples that were there before and are gone now, or that never were there.
    pub lost: u64,
    /// How long before the strike the oldest of them was acknowledged, in seconds; 0 if none is lost.
    pub reach_s: f64,
    /// From the start after the strike until it was ready, in seconds.
    pub ready_s: f64,
    /// Samples that nobody sent, or with other values than were sent.
    pub wrong: u64,
}

/// Loads a server and strikes it as often as wanted. Says what it does through `say`.
pub fn run(subject: Subject, options: &Options, say: impl Fn(String)) -> Result<Vec<Struck>> {
    let mut random = StdRng::seed_from_u64(options.seed);
    let server = Server::start(subject, options.medium)?;
    let mut writers = Writers::new(options.load);
    let mut judge = Judge::default();
    let mut results = Vec::new();
    for number in 1..=options.strikes {
        let loaded_s = random.random_range(options.loaded_s.clone());
        let struck = strike(&server, options, loaded_s, &mut writers, &mut judge);
        let struck =
            struck.with_context(|| format!("{} {number} of {}", options.strike.name(), subject.name()));
        let struck = struck.with_context(|| server.logs())?;
        say(format!(
            "{}, {} {number} after {loaded_s:.0} s: {} acknowledged, {} lost, back to {:.1} s before it; ready in {:.1} s",
            subject.name(),
            options.strike.name(),
            struck.acked,
            struck.lost,
            struck.reach_s,
            struck.ready_s
        ));
        results.push(struck);
    }
    server.stop()?;
    Ok(results)
}

fn strike(
    server: &Server,
    options: &Options,
    loaded_s: f64,
    writers: &mut Writers,
    judge: &mut Judge,
) -> Result<Struck> {
    let load = writers.start(&server.addresses())?;
    load.await_first_ack(FIRST_ACK)?;
    std::thread::sleep(Duration::from_secs_f64(loaded_s));
    server.ensure_running()?;
    let struck_at = Instant::now();
    server.strike(options.strike)?;
    let sent = load.stop(writers)?;
    let acked: u64 = sent.iter().map(load::Sent::acked_samples).sum();
    ensure!(acked > 0, "nothing was acknowledged, so nothing could be lost");
    judge.sent(sent);

    let started = Instant::now();
    server.start_again()?;
    let ready_s = started.elapsed().as_secs_f64();
    let window_ms = judge.window_ms().context("nothing was sent")?;
    let mut found = Vec::new();
    for address in server.addresses() {
        let entries = readback::read_all(server.subject(), &address, &writers.ids(), window_ms);
        found.push(entries.with_context(|| format!("reading back from {address}"))?);
    }
    let verdict = judge.judge(found);
    let reach_s = verdict
        .oldest_lost
        .map_or(0.0, |acked_at| struck_at.duration_since(acked_at).as_secs_f64());
    Ok(Struck {
        acked,
        lost: verdict.lost,
        reach_s,
        ready_s,
        wrong: verdict.wrong,
    })
}
