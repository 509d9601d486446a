//! Many seeds on several threads, until one fails.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::observer::Violation;
use crate::plan::Plan;
use crate::run::{Outcome, RunOptions, run};
use crate::series::Catalogue;

/// What many runs came to.
#[derive(Debug, Default)]
pub struct Summary {
    /// Runs that ended.
    pub seeds: u64,
    /// Virtual time of all runs.
    pub simulated: Duration,
    /// Real time.
    pub took: Duration,
    /// Kills, power cuts, aborts.
    pub crashes: (u64, u64, u64),
    /// Partitions, flushes, snapshots installed, disks replaced.
    pub others: (u64, u64, u64, u64),
    /// Crashes in the middle of a snapshot.
    pub snapshot_crashes: u64,
    /// Crashes near a point of a node's work.
    pub near: u64,
    /// Acknowledged requests and samples.
    pub acked: (u64, u64),
    /// Reads that were compared, and linearizable ones among them.
    pub reads: (u64, u64),
    /// Entries committed.
    pub entries: u64,
    /// Checksums compared.
    pub compared: u64,
    /// The first seed that broke a rule.
    pub failed: Option<(u64, Violation)>,
}

impl Summary {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.simulated += outcome.simulated;
        let counts = outcome.counts;
        self.crashes.0 += counts.kills;
        self.crashes.1 += counts.power_cuts;
        self.crashes.2 += counts.aborts;
        self.others.0 += counts.partitions;
        self.others.1 += counts.flushes;
        self.others.2 += counts.snapshots;
        self.others.3 += counts.wipes;
        self.snapshot_crashes += counts.snapshot_crashes;
        self.near += counts.near;
        self.acked.0 += outcome.acked.0;
        self.acked.1 += outcome.acked.1;
        self.reads.0 += outcome.reads.0;
        self.reads.1 += outcome.reads.1;
        self.entries += outcome.entries;
        self.compared += outcome.compared;
    }

    /// Runs in a second.
    pub fn seeds_per_second(&self) -> f64 {
        self.seeds as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// Virtual seconds in a second.
    pub fn speed(&self) -> f64 {
        self.simulated.as_secs_f64() / self.took.as_secs_f64().max(1e-9)
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kills, cuts, aborts) = self.crashes;
        let (partitions, flushes, snapshots, wipes) = self.others;
        writeln!(
            f,
            "{} seeds in {:.1} s: {:.2} seeds/s, {:.0} simulated seconds per second",
            self.seeds,
            self.took.as_secs_f64(),
            self.seeds_per_second(),
            self.speed()
        )?;
        writeln!(
            f,
            "{kills} kills, {cuts} power cuts, {aborts} failed syncs, {partitions} partitions, {wipes} disks replaced; \
             {flushes} flushes, {snapshots} snapshots installed; {} crashes in a snapshot, {} near a flush, purge, vote, cut or install",
            self.snapshot_crashes, self.near
        )?;
        write!(
            f,
            "{} entries, {} requests with {} samples acknowledged; {} reads compared, {} of them linearizable; \
             {} checksums compared",
            self.entries, self.acked.0, self.acked.1, self.reads.0, self.reads.1, self.compared
        )
    }
}

/// Runs seeds from the range, in order, until it is empty, time is up, or one fails.
pub fn run_seeds(seeds: Range<u64>, limit: Option<Duration>, threads: usize) -> anyhow::Result<Summary> {
    let started = Instant::now();
    let catalogue = Arc::new(Catalogue::new());
    let (next, stop) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let summary: Mutex<Summary> = Mutex::default();
    let work = || -> anyhow::Result<()> {
        while !stop.load(SeqCst) && limit.is_none_or(|limit| started.elapsed() < limit) {
            let seed = next.fetch_add(1, SeqCst);
            if seed >= seeds.end {
                return Ok(());
            }
            let outcome = run(Plan::new(seed), &catalogue, RunOptions::default());
            let outcome = outcome.inspect_err(|_| stop.store(true, SeqCst))?;
            let mut summary = summary.lock();
            summary.add(&outcome);
            if let Some(violation) = outcome.violation {
                stop.store(true, SeqCst);
                let earlier = summary.failed.as_ref().is_some_and(|(other, _)| *other < seed);
                if !earlier {
                    summary.failed = Some((seed, violation));
                }
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a thread of the simulation panicked"))??;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let mut summary = summary.into_inner();
    summary.took = started.elapsed();
    Ok(summary)
}
