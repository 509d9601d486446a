//! Everything that runs in the background, by name, so that a task that ends too early is noticed and a
//! shutdown can say who it waits for.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What the end of a task means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The node can't go on without it: its end before the shutdown stops the node.
    Essential,
    /// It may end when its work is done. Only an error is a failure.
    Passing,
}

/// The registry of tasks. Clones share it.
#[derive(Clone, Default)]
pub struct Tasks {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stop: CancellationToken,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    next_id: u64,
    running: BTreeMap<u64, String>,
    failure: Option<String>,
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Tasks {
        Tasks::default()
    }

    /// Spawns a task. `make` gets the token that tells it to stop; after that, an error is only logged.
    pub fn spawn<F>(&self, name: impl Into<String>, kind: Kind, make: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let mut task = Task {
            shared: self.shared.clone(),
            kind,
            id: 0,
            outcome: None,
        };
        {
            let mut state = self.shared.state.lock();
            state.next_id += 1;
            task.id = state.next_id;
            state.running.insert(task.id, name.into());
        }
        let future = make(self.shared.stop.clone());
        tokio::spawn(async move {
            let outcome = future.await;
            task.ended(outcome);
        });
    }

    /// Tells every task to stop.
    pub fn stop(&self) {
        self.shared.stop.cancel();
    }

    /// Cancelled by [`Tasks::stop`].
    pub fn stopping(&self) -> &CancellationToken {
        &self.shared.stop
    }

    /// The names of running tasks.
    pub fn running(&self) -> Vec<String> {
        self.shared.state.lock().running.values().cloned().collect()
    }

    /// Waits until no task runs.
    pub async fn finished(&self) {
        self.when(|state| state.running.is_empty().then_some(())).await;
    }

    /// Waits for the first failure and describes it.
    pub async fn failure(&self) -> String {
        self.when(|state| state.failure.clone()).await
    }

    async fn when<T>(&self, ask: impl Fn(&State) -> Option<T>) -> T {
        loop {
            let changed = self.shared.changed.notified();
            if let Some(answer) = ask(&self.shared.state.lock()) {
                return answer;
            }
            changed.await;
        }
    }
}

/// A running task; its drop is its end, however it came about.
struct Task {
    shared: Arc<Shared>,
    kind: Kind,
    id: u64,
    /// `None` if the task panicked or its runtime is gone.
    outcome: Option<anyhow::Result<()>>,
}

impl Task {
    fn ended(mut self, outcome: anyhow::Result<()>) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        let name = state.running.remove(&self.id).unwrap_or_default();
        let stopping = self.shared.stop.is_cancelled();
        let failure = match &self.outcome {
            None if stopping && !std::thread::panicking() => None,
            None => Some(format!("task {name} was cut off")),
            Some(Err(error)) => Some(format!("task {name} failed: {error:#}")),
            Some(Ok(())) if self.kind == Kind::Essential && !stopping => {
                Some(format!("task {name} ended unexpectedly"))
            }
            Some(Ok(())) => None,
        };
        if let Some(failure) = failure {
            match stopping {
                true => tracing::warn!(failure, "while stopping"),
                false => tracing::error!(failure),
            }
            state.failure.get_or_insert(failure);
        }
        drop(state);
        self.shared.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stopped_tasks_end_quietly() {
        let tasks = Tasks::new();
        for name in ["a", "b"] {
            tasks.spawn(name, Kind::Essential, async |stop: CancellationToken| {
                stop.cancelled().await;
                Ok(())
            });
        }
        assert_eq!(tasks.running(), ["a", "b"]);
        tasks.stop();
        tasks.finished().await;
        assert!(tasks.shared.state.lock().failure.is_none());
    }

    #[tokio::test]
    async fn early_ends_and_errors_are_failures() {
        let tasks = Tasks::new();
        tasks.spawn("short", Kind::Passing, async |_| Ok(()));
        tasks.finished().await;
        assert!(tasks.shared.state.lock().failure.is_none());
        tasks.spawn("ticker", Kind::Essential, async |_| Ok(()));
        assert_eq!(tasks.failure().await, "task ticker ended unexpectedly");
        let tasks = Tasks::new();
        tasks.spawn("disk", Kind::Passing, async |_| Err(anyhow::anyhow!("no space")));
        assert_eq!(tasks.failure().await, "task disk failed: no space");
        let tasks = Tasks::new();
        tasks.spawn("bug", Kind::Passing, async |_| panic!("a bug"));
        assert_eq!(tasks.failure().await, "task bug was cut off");
    }
}
