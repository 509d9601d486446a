//! The orderly stop: named phases, each bounded in time, with word in the log on who is waited for.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Core, Tasks};
use crate::http::Backend;

/// How often the log says who is waited for.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);

/// The part of the time that is left which each phase may use, in percent. Later phases always keep some.
const STOP_TAKING_PERCENT: u32 = 40;
const HAND_OVER_PERCENT: u32 = 40;
const FLUSH_PERCENT: u32 = 60;
const CLOSE_PERCENT: u32 = 100;

/// A shutdown under way.
pub(super) struct Shutdown {
    begun: Instant,
    deadline: Instant,
    unfinished: Vec<&'static str>,
}

impl Shutdown {
    /// Starts the clock.
    pub(super) fn begin(timeout: Duration) -> Shutdown {
        let begun = Instant::now();
        Shutdown {
            begun,
            deadline: begun + timeout,
            unfinished: Vec::new(),
        }
    }

    /// Runs every phase. Without a core, the node was still starting.
    pub(super) async fn run(
        &mut self,
        core: Option<&dyn Core>,
        backend: &Backend,
        tasks: &Tasks,
        http_stop: CancellationToken,
        http: JoinHandle<()>,
    ) {
        // Not ready from here on.
        backend.stop();
        let core_pending = || core.map(Core::still_pending).unwrap_or_default();
        let taking = async {
            backend.drained().await;
            if let Some(core) = core {
                core.stop_taking().await;
            }
            Ok(())
        };
        let running = || {
            let http = backend
                .still_running()
                .into_iter()
                .map(|(name, count)| format!("{count} of {name}"));
            http.chain(core_pending()).collect()
        };
        self.phase("answering running requests", STOP_TAKING_PERCENT, taking, running)
            .await;
        if let Some(core) = core {
            let handing = async {
                core.hand_over().await;
                Ok(())
            };
            self.phase(
                "handing leadership over",
                HAND_OVER_PERCENT,
                handing,
                core_pending,
            )
            .await;
            self.phase("flushing", FLUSH_PERCENT, core.flush(), core_pending)
                .await;
        }
        http_stop.cancel();
        tasks.stop();
        let closing = async {
            if let Some(core) = core {
                core.close().await?;
            }
            tasks.finished().await;
            http.await.map_err(|error| error.to_string())
        };
        let waiting = || {
            let tasks = tasks.running().into_iter().map(|name| format!("task {name}"));
            tasks.chain(core_pending()).collect()
        };
        self.phase("closing", CLOSE_PERCENT, closing, waiting).await;
    }

    async fn phase(
        &mut self,
        name: &'static str,
        percent: u32,
        work: impl Future<Output = Result<(), String>>,
        pending: impl Fn() -> Vec<String>,
    ) {
        let began = Instant::now();
        let left = self.deadline.saturating_duration_since(began);
        let limit = began + left * percent / 100;
        tracing::info!(
            phase = name,
            limit_ms = (limit - began).as_millis() as u64,
            "shutting down"
        );
        tokio::pin!(work);
        let outcome = loop {
            let report_at = limit.min(Instant::now() + REPORT_INTERVAL);
            match tokio::time::timeout_at(report_at, work.as_mut()).await {
                Ok(outcome) => break outcome,
                Err(_) if Instant::now() >= limit => {
                    break Err(format!(
                        "not finished in time, waiting for: {}",
                        pending().join(", ")
                    ));
                }
                Err(_) => tracing::info!(phase = name, waiting_for = pending().join(", "), "still waiting"),
            }
        };
        let took_ms = began.elapsed().as_millis() as u64;
        match outcome {
            Ok(()) => tracing::info!(phase = name, took_ms, "done"),
            Err(reason) => {
                tracing::warn!(phase = name, took_ms, reason, "gave up");
                self.unfinished.push(name);
            }
        }
    }

    /// Ends the shutdown; the phases that did not finish.
    pub(super) fn finish(self) -> Vec<&'static str> {
        let took_ms = self.begun.elapsed().as_millis() as u64;
        tracing::info!(took_ms, unfinished = self.unfinished.join(", "), "stopped");
        self.unfinished
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::future::BoxFuture;
    use parking_lot::Mutex;

    use super::super::Kind;
    use super::*;
    use crate::http::Apis;

    /// Notes the phases it goes through and never finishes `stuck`.
    struct Recorder {
        seen: Arc<Mutex<Vec<&'static str>>>,
        stuck: &'static str,
    }

    impl Recorder {
        fn phase(&self, name: &'static str) -> BoxFuture<'_, ()> {
            self.seen.lock().push(name);
            match name == self.stuck {
                true => Box::pin(std::future::pending()),
                false => Box::pin(std::future::ready(())),
            }
        }
    }

    impl Core for Recorder {
        fn apis(&self) -> Apis {
            panic!("not needed to stop")
        }
        fn stop_taking(&self) -> BoxFuture<'_, ()> {
            self.phase("stop_taking")
        }
        fn hand_over(&self) -> BoxFuture<'_, ()> {
            self.phase("hand_over")
        }
        fn flush(&self) -> BoxFuture<'_, Result<(), String>> {
            let phase = self.phase("flush");
            Box::pin(async {
                phase.await;
                Ok(())
            })
        }
        fn close(&self) -> BoxFuture<'_, Result<(), String>> {
            let phase = self.phase("close");
            Box::pin(async {
                phase.await;
                Ok(())
            })
        }
        fn still_pending(&self) -> Vec<String> {
            vec!["group 3".into()]
        }
    }

    async fn stop(stuck: &'static str) -> (Vec<&'static str>, Vec<&'static str>, Duration) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let core = Recorder {
            seen: seen.clone(),
            stuck,
        };
        let (backend, tasks) = (Backend::new(), Tasks::new());
        tasks.spawn("ticker", Kind::Essential, async |stop: CancellationToken| {
            stop.cancelled().await;
            Ok(())
        });
        let http_stop = CancellationToken::new();
        let http = tokio::spawn({
            let stop = http_stop.clone();
            async move { stop.cancelled().await }
        });
        let began = Instant::now();
        let mut shutdown = Shutdown::begin(Duration::from_secs(20));
        shutdown.run(Some(&core), &backend, &tasks, http_stop, http).await;
        let took = began.elapsed();
        let seen = seen.lock().clone();
        (seen, shutdown.finish(), took)
    }

    const ALL: [&str; 4] = ["stop_taking", "hand_over", "flush", "close"];

    #[tokio::test(start_paused = true)]
    async fn phases_run_in_order() {
        let (seen, unfinished, took) = stop("").await;
        assert_eq!(seen, ALL);
        assert_eq!(unfinished, [""; 0]);
        assert_eq!(took, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_phase_is_given_up_and_the_rest_still_runs() {
        for (stuck, named) in [
            ("stop_taking", "answering running requests"),
            ("hand_over", "handing leadership over"),
            ("flush", "flushing"),
            ("close", "closing"),
        ] {
            let (seen, unfinished, took) = stop(stuck).await;
            assert_eq!(seen, ALL, "{stuck}");
            assert_eq!(unfinished, [named]);
            assert!(
                took > Duration::from_secs(1) && took <= Duration::from_secs(21),
                "{stuck} {took:?}"
            );
        }
    }
}
