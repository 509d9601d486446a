//! The collector's loop: gather, push, count.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorate_client::Client;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use super::gather::Gatherer;
use super::points::Points;
use super::process::Target;

/// Rounds that may wait for their acknowledgement, while a shard elects a leader for example. A round that comes on
/// top is dropped and counted.
const MAX_PUSHES_IN_FLIGHT: usize = 60;

/// Longest wait for what was pushed when the collector stops.
const LAST_PUSHES_TIMEOUT: Duration = Duration::from_secs(1);

/// How the collector works.
#[derive(Debug, Clone)]
pub struct CollectorOptions {
    /// Between rounds.
    pub interval: Duration,
    /// The label `instance` of this machine's figures, by habit `hostname:9100`.
    pub host_instance: String,
}

/// What became of the rounds so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CollectorStats {
    /// Rounds acknowledged.
    pub pushed: u64,
    /// Rounds given up by the client after its retries.
    pub failed: u64,
    /// Rounds not pushed because too many were waiting.
    pub dropped: u64,
    /// Samples refused by the cluster.
    pub rejected_samples: u64,
}

#[derive(Debug, Default)]
struct Counters {
    pushed: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    rejected_samples: AtomicU64,
}

/// A running collector. It stops when this is dropped.
#[derive(Debug)]
pub struct Collector {
    counters: Arc<Counters>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Collector {
    /// Starts to gather and push. `targets` are the node processes to watch, as they change.
    pub fn start(client: Client, targets: watch::Receiver<Vec<Target>>, options: CollectorOptions) -> Self {
        let counters = Arc::new(Counters::default());
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(run(client, targets, options, counters.clone(), stopped));
        Self { counters, stop, task }
    }

    /// What became of the rounds so far.
    pub fn stats(&self) -> CollectorStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CollectorStats {
            pushed: load(&self.counters.pushed),
            failed: load(&self.counters.failed),
            dropped: load(&self.counters.dropped),
            rejected_samples: load(&self.counters.rejected_samples),
        }
    }

    /// Stops after a short wait for what was pushed already.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        // A panic in the loop has been reported by the panic hook.
        let _ended = self.task.await;
    }
}

async fn run(
    client: Client,
    targets: watch::Receiver<Vec<Target>>,
    options: CollectorOptions,
    counters: Arc<Counters>,
    mut stopped: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(MAX_PUSHES_IN_FLIGHT));
    let mut gatherer = Gatherer::new(options.host_instance);
    let mut before = Points::default();
    let mut pushes = JoinSet::new();
    let mut ticks = tokio::time::interval(options.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // Also when the handle was dropped.
            _ = stopped.changed() => break,
        }
        while pushes.try_join_next().is_some() {}
        let watched = targets.borrow().clone();
        let now_ms = now_ms();
        let mut points = gatherer.gather(&watched, now_ms, options.interval).await;
        points.extend(own_figures(&counters).of_target("quorate-collector", &gatherer.host_instance));
        let Ok(place) = places.clone().try_acquire_owned() else {
            counters.dropped.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let series = points.to_series(&before, now_ms);
        before = points;
        let (client, counters) = (client.clone(), counters.clone());
        pushes.spawn(async move {
            match client.write(series).await {
                Ok(written) => {
                    counters.pushed.fetch_add(1, Ordering::Relaxed);
                    counters
                        .rejected_samples
                        .fetch_add(written.samples_rejected(), Ordering::Relaxed);
                }
                Err(error) => {
                    counters.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%error, "a round of host metrics was lost");
                }
            }
            drop(place);
        });
    }
    let last = async { while pushes.join_next().await.is_some() {} };
    // Whatever is left is aborted with the set.
    let _all_in_time = tokio::time::timeout(LAST_PUSHES_TIMEOUT, last).await;
}

fn own_figures(counters: &Counters) -> Points {
    let mut points = Points::default();
    for (metric, counter) in [
        ("quorate_collector_pushes_total", &counters.pushed),
        ("quorate_collector_push_failures_total", &counters.failed),
        ("quorate_collector_dropped_rounds_total", &counters.dropped),
        (
            "quorate_collector_rejected_samples_total",
            &counters.rejected_samples,
        ),
    ] {
        points.plain(metric, counter.load(Ordering::Relaxed) as f64);
    }
    points
}

fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unreachable_cluster_is_counted_and_never_blocks() {
        let address = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().to_string()
        };
        let client = Client::builder()
            .endpoint(address)
            .timeout(Duration::from_millis(50))
            .connect()
            .unwrap();
        let (_targets, watched) = watch::channel(Vec::new());
        let options = CollectorOptions {
            interval: Duration::from_millis(5),
            host_instance: "here:9100".into(),
        };
        let collector = Collector::start(client, watched, options);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while collector.stats().failed < 3 {
            assert!(tokio::time::Instant::now() < deadline, "{:?}", collector.stats());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(collector.stats().pushed, 0);
        collector.stop().await;
    }
}
