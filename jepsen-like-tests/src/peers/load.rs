//! Remote write at a set pace, as agents send it: each writer one request after another, the same again until it is
//! answered 2xx.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::http::Http;
use crate::remote_write::{self, TimeSeries};
use crate::values::{Batch, FIRST_PROBE};
use crate::wait;
use crate::workload::now_ms;

/// How long a writer waits for an answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long it waits before it sends again what was not taken.
const AGAIN: Duration = Duration::from_millis(50);

/// How much load.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// Of all writers together, in samples a second.
    pub samples_per_second: u64,
    /// Concurrent writers, each with series of its own.
    pub writers: u32,
    /// Series of each writer; a request has a sample of each.
    pub series: u32,
}

/// Writers between and during loads: their series go on after a strike, as those of real agents do.
#[derive(Debug)]
pub struct Writers {
    options: LoadOptions,
    idle: Vec<Writer>,
}

#[derive(Debug)]
struct Writer {
    next: Batch,
    interval: Duration,
}

/// A batch that was sent at least once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sent {
    /// What it holds.
    pub batch: Batch,
    /// When it was answered 2xx. None if it never was: it may be stored or not.
    pub acked_at: Option<Instant>,
}

impl Sent {
    /// How many samples of it are acknowledged.
    pub fn acked_samples(&self) -> u64 {
        self.acked_at.map_or(0, |_| u64::from(self.batch.series))
    }
}

/// Writers at work.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    any_acked: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(Writer, Result<Vec<Sent>>)>>,
}

impl Writers {
    /// Writers that have sent nothing yet.
    pub fn new(options: LoadOptions) -> Writers {
        let batches_per_second = options.samples_per_second as f64 / f64::from(options.series);
        let interval = Duration::from_secs_f64(f64::from(options.writers) / batches_per_second);
        // The values of probes are small whole numbers, which no server rounds.
        let writer = |number| Writer {
            interval,
            next: Batch {
                writer: FIRST_PROBE + number,
                number: 0,
                series: options.series,
                timestamp_ms: 0,
            },
        };
        Writers {
            options,
            idle: (0..options.writers).map(writer).collect(),
        }
    }

    /// Their ids.
    pub fn ids(&self) -> Vec<u32> {
        (FIRST_PROBE..).take(self.options.writers as usize).collect()
    }

    /// Starts writing. A writer stays with one address while that takes what it sends.
    pub fn start(&mut self, addresses: &[String]) -> Result<Load> {
        ensure!(
            self.idle.len() == self.options.writers as usize,
            "they write already"
        );
        let (stop, any_acked): (Arc<AtomicBool>, Arc<AtomicBool>) = Default::default();
        let servers: Vec<Http> = addresses
            .iter()
            .map(|address| Http::new(address, ANSWER))
            .collect();
        let threads = self.idle.drain(..).enumerate().map(|(at, writer)| {
            let (servers, stop, any_acked) = (servers.clone(), stop.clone(), any_acked.clone());
            std::thread::spawn(move || write(writer, &servers, at, &stop, &any_acked))
        });
        let threads = threads.collect();
        Ok(Load {
            stop,
            any_acked,
            threads,
        })
    }
}

impl Load {
    /// Waits until something is acknowledged: a server that is ready may still elect a leader.
    pub fn await_first_ack(&self, limit: Duration) -> Result<()> {
        wait::until("the first acknowledgement", limit, || {
            ensure!(self.any_acked.load(Ordering::Relaxed), "there is none");
            Ok(())
        })
    }

    /// Stops sending, gives the writers back and returns everything sent since the start.
    pub fn stop(mut self, writers: &mut Writers) -> Result<Vec<Sent>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        let mut outcome = Ok(());
        for thread in std::mem::take(&mut self.threads) {
            let (writer, sent) = thread.join().map_err(|_| anyhow!("a writer panicked"))?;
            writers.idle.push(writer);
            match sent {
                Ok(sent) => all.extend(sent),
                Err(error) => outcome = Err(error),
            }
        }
        outcome.map(|()| all)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Writers of a load that nobody stops, since something failed, end as well.
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn write(
    mut writer: Writer,
    servers: &[Http],
    first: usize,
    stop: &AtomicBool,
    any_acked: &AtomicBool,
) -> (Writer, Result<Vec<Sent>>) {
    let mut sent = Vec::new();
    let mut servers = servers
        .iter()
        .cycle()
        .skip(first % servers.len().max(1))
        .peekable();
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        // What was missed is not made up for.
        due = (due + writer.interval).max(Instant::now());
        let mut batch = writer.next;
        batch.timestamp_ms = now_ms().max(batch.timestamp_ms + 1);
        writer.next = Batch {
            number: batch.number + 1,
            ..batch
        };
        match deliver(batch, &mut servers, stop) {
            Ok(acked_at) => {
                any_acked.fetch_or(acked_at.is_some(), Ordering::Relaxed);
                sent.push(Sent { batch, acked_at });
            }
            Err(error) => return (writer, Err(error)),
        }
    }
    (writer, Ok(sent))
}

/// Sends a batch until it is acknowledged, or the load ends. A server that refuses it is one that this load does not
/// suit, and nothing is learned from going on.
fn deliver<'a>(
    batch: Batch,
    servers: &mut std::iter::Peekable<impl Iterator<Item = &'a Http>>,
    stop: &AtomicBool,
) -> Result<Option<Instant>> {
    let series = batch.entries().map(|entry| {
        let sample = (entry.timestamp_ms, f64::from_bits(entry.bits));
        TimeSeries::new(entry.series.labels(), [sample])
    });
    let body = remote_write::encode(series.collect())?;
    loop {
        let server = servers.peek().context("no server to write to")?;
        match remote_write::send(server, &body) {
            Ok(answer) if answer.status / 100 == 2 => return Ok(Some(Instant::now())),
            Ok(answer) if answer.status / 100 == 4 => {
                return Err(anyhow!(
                    "a write was refused: {} {}",
                    answer.status,
                    answer.text()
                ));
            }
            _ if stop.load(Ordering::Relaxed) => return Ok(None),
            _ => {
                servers.next();
                std::thread::sleep(AGAIN);
            }
        }
    }
}
