//! Sends the fleet's scrapes over remote write as fast as the servers take them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;

use crate::fleet::{Hosts, SERIES_PER_HOST, Stamps};

/// A retryable refusal is retried so often, and after this pause.
const MAX_RETRIES: u32 = 500;
const RETRY_PAUSE: Duration = Duration::from_millis(20);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// How much is sent, and how.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// Rounded up to whole hosts.
    pub series: usize,
    /// Samples of each series.
    pub scrapes: u32,
    /// Between scrapes, in milliseconds.
    pub interval_ms: i64,
    /// Samples of a request.
    pub batch: usize,
    /// Concurrent connections, each with one request at a time.
    pub connections: usize,
    /// Time of the first scrape, milliseconds since the Unix epoch.
    pub start_ms: i64,
    /// Which timestamps the samples of a scrape have.
    pub stamps: Stamps,
    /// Series replaced by new ones before each scrape but the first, in percent.
    pub churn_percent: u32,
    /// Samples per second; `None`: as many as the servers take.
    pub rate: Option<f64>,
}

/// What was sent.
#[derive(Debug)]
pub struct Sent {
    /// Acknowledged samples.
    pub acked: u64,
    /// From the first request to the last answer.
    pub wall: Duration,
    /// Of requests with all their retries, in microseconds.
    pub latency_us: Histogram<u64>,
    /// Requests that were refused for the moment.
    pub retries: u64,
    /// Bytes of all bodies as sent.
    pub sent_bytes: u64,
}

impl LoadOptions {
    /// Hosts in the fleet.
    pub fn hosts(&self) -> usize {
        self.series.div_ceil(SERIES_PER_HOST)
    }

    /// Time of the last scrape's end, milliseconds since the Unix epoch.
    pub fn end_ms(&self) -> i64 {
        self.start_ms + i64::from(self.scrapes) * self.interval_ms
    }

    /// Sends everything. Connections take turns in the targets, `host:port` each. Stops at the first refusal for good.
    pub fn send(&self, targets: &[String]) -> Result<Sent> {
        let hosts = self.hosts();
        let share = |connection: usize| {
            let from = hosts * connection / self.connections;
            Hosts::new(
                from..hosts * (connection + 1) / self.connections,
                self.interval_ms,
                self.stamps,
            )
        };
        let fleets: Vec<Hosts> = (0..self.connections).map(share).collect();
        let started = Instant::now();
        let sent = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (fleet, target) in fleets.into_iter().zip(targets.iter().cycle()) {
                threads.push(scope.spawn(|| self.send_share(fleet, target)));
            }
            let joined = threads
                .into_iter()
                .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a sender panicked"))?);
            joined.collect::<Result<Vec<Sent>>>()
        })?;
        let mut total = Sent::new()?;
        for part in sent {
            total.acked += part.acked;
            total.retries += part.retries;
            total.sent_bytes += part.sent_bytes;
            total.latency_us.add(&part.latency_us)?;
        }
        total.wall = started.elapsed();
        Ok(total)
    }

    /// When a connection that has sent so many samples sends on.
    fn due(&self, begun: Instant, sent: u64) -> Instant {
        match self.rate {
            Some(rate) => begun + Duration::from_secs_f64(sent as f64 * self.connections as f64 / rate),
            None => begun,
        }
    }

    fn send_share(&self, mut hosts: Hosts, target: &str) -> Result<Sent> {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(REQUEST_TIMEOUT))
            .http_status_as_error(false);
        let agent: ureq::Agent = config.build().into();
        let url = format!("http://{target}/api/v1/write");
        let mut encoder = snap::raw::Encoder::new();
        let (mut body, mut compressed) = (Vec::new(), Vec::new());
        let mut sent = Sent::new()?;
        let begun = Instant::now();
        for scrape in 0..self.scrapes {
            if scrape > 0 && self.churn_percent > 0 {
                hosts.churn(self.churn_percent, self.hosts());
            }
            let scrape_ms = self.start_ms + i64::from(scrape) * self.interval_ms;
            for from in (0..hosts.len()).step_by(self.batch) {
                let to = (from + self.batch).min(hosts.len());
                hosts.scrape(from..to, scrape_ms, &mut body);
                compressed.resize(snap::raw::max_compress_len(body.len()), 0);
                let length = encoder.compress(&body, &mut compressed)?;
                let request = compressed.get(..length).unwrap_or_default();
                let due = self.due(begun, sent.acked);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                // Of a request that is late because the one before it was slow, the wait counts too.
                let started = match self.rate {
                    Some(_) => due,
                    None => Instant::now(),
                };
                sent.retries += u64::from(post(&agent, &url, request)?);
                sent.latency_us
                    .saturating_record(started.elapsed().as_micros() as u64);
                sent.acked += (to - from) as u64;
                sent.sent_bytes += length as u64;
            }
        }
        Ok(sent)
    }
}

impl Sent {
    fn new() -> Result<Sent> {
        let latency_us =
            Histogram::new_with_bounds(1, 600_000_000, 3).context("a histogram with these bounds")?;
        Ok(Sent {
            acked: 0,
            wall: Duration::ZERO,
            latency_us,
            retries: 0,
            sent_bytes: 0,
        })
    }
}

/// Sends one request until it is acknowledged, and returns how often it was refused for the moment.
fn post(agent: &ureq::Agent, url: &str, body: &[u8]) -> Result<u32> {
    for retries in 0..=MAX_RETRIES {
        let request = agent
            .post(url)
            .header("content-type", "application/x-protobuf")
            .header("content-encoding", "snappy")
            .header("x-prometheus-remote-write-version", "0.1.0");
        let mut response = request.send(body).with_context(|| format!("POST {url}"))?;
        let status = response.status().as_u16();
        // Read to its end, so that the connection can be used again.
        let text = response.body_mut().read_to_string()?;
        match status {
            200..=299 => return Ok(retries),
            429 | 500..=599 => std::thread::sleep(RETRY_PAUSE),
            _ => bail!("{url} refused a request: {status} {text}"),
        }
    }
    bail!("{url} refused a request {MAX_RETRIES} times")
}
