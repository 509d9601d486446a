//! One round of gathering, on threads that may block, in a bounded time.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::points::Points;
use super::process::Target;
use super::{host, process};

/// A blocking source with at most one read under way: one that hangs costs its figures, not the round.
#[derive(Debug)]
pub(super) struct Patient<T>(Option<JoinHandle<T>>);

impl<T: Send + 'static> Patient<T> {
    pub(super) fn new() -> Self {
        Self(None)
    }

    /// What `read` returns, or none when it, or an earlier read that still runs, takes longer than `patience`.
    pub(super) async fn read(
        &mut self,
        patience: Duration,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let fresh = self.0.is_none();
        let running = self.0.get_or_insert_with(|| tokio::task::spawn_blocking(read));
        let ended = within(patience, running).await?;
        self.0 = None;
        // The result of an earlier read is from an earlier time.
        ended.ok().filter(|_| fresh)
    }
}

async fn within<F: Future>(patience: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(patience, pin!(future)).await.ok()
}

/// The figures of this machine and of all targets, with `job`, `instance` and `up`.
pub(super) struct Gatherer {
    pub(super) host_instance: String,
    host: Patient<(Points, Points)>,
    file_systems: Patient<Points>,
}

impl Gatherer {
    pub(super) fn new(host_instance: String) -> Self {
        Self {
            host_instance,
            host: Patient::new(),
            file_systems: Patient::new(),
        }
    }

    pub(super) async fn gather(&mut self, targets: &[Target], now_ms: i64, patience: Duration) -> Points {
        let targets = targets.to_vec();
        let read = self.host.read(patience, move || {
            let mut points = Points::default();
            for target in targets {
                points.extend(of_node(&target));
            }
            (host::gather(now_ms), points)
        });
        let (host, file_systems) =
            tokio::join!(read, self.file_systems.read(patience, host::gather_file_systems));
        let mut all = Points::default();
        let mut own = Points::default();
        own.plain("up", f64::from(u8::from(host.is_some())));
        if let Some((host, nodes)) = host {
            own.extend(host);
            all.extend(nodes);
        }
        if let Some(file_systems) = file_systems {
            own.extend(file_systems);
        }
        all.extend(own.of_target("node", &self.host_instance));
        all
    }
}

fn of_node(target: &Target) -> Points {
    let figures = target.pid.and_then(process::gather);
    let mut points = Points::default();
    points.plain("up", f64::from(u8::from(figures.is_some())));
    points.extend(figures.unwrap_or_default());
    points.of_target("quorate", &target.instance)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_source_that_hangs_is_asked_once_and_comes_back() {
        let (release, blocked) = mpsc::channel::<()>();
        let mut source = Patient::new();
        let hang = move || {
            blocked.recv().unwrap();
            1
        };
        assert_eq!(source.read(SHORT, hang).await, None);
        assert_eq!(source.read(SHORT, || 2).await, None, "the first read still runs");
        release.send(()).unwrap();
        assert_eq!(source.read(LONG, || 3).await, None, "the late result is dropped");
        assert_eq!(source.read(LONG, || 4).await, Some(4));
    }

    #[tokio::test]
    async fn every_target_has_up_and_a_dead_one_nothing_else() {
        let targets = [
            Target {
                instance: "127.0.0.1:1".into(),
                pid: Some(std::process::id()),
            },
            Target {
                instance: "127.0.0.1:2".into(),
                pid: None,
            },
        ];
        let mut gatherer = Gatherer::new("here:9100".into());
        let points = gatherer.gather(&targets, 5, LONG).await;
        let of = |instance: &str| {
            let wanted = ("instance", instance.to_owned());
            let names = points.iter().filter(|(name, _)| name.labels.contains(&wanted));
            names
                .map(|(name, value)| (name.metric.clone(), value))
                .collect::<Vec<_>>()
        };
        assert_eq!(of("127.0.0.1:2"), [("up".to_owned(), 0.0)]);
        assert!(of("127.0.0.1:1").contains(&("up".to_owned(), 1.0)));
        assert!(
            of("127.0.0.1:1")
                .iter()
                .any(|(metric, _)| metric == "process_open_fds")
        );
        assert!(of("here:9100").contains(&("up".to_owned(), 1.0)));
        assert!(
            points
                .iter()
                .all(|(name, _)| name.labels.iter().any(|(label, _)| *label == "job"))
        );
    }
}
