//! What stands behind the frontends: nothing while the node starts, then the core, then nothing again
//! while it stops. Frontends listen all the while, so that readiness can be asked and senders are told
//! to come back instead of meeting a closed port.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use quorate_proto::ErrorCode;
use tokio::sync::Notify;

use crate::api::{AdminApi, ApiError, QueryApi, WriteApi};
use crate::cardinality::NodeCardinality;
use crate::cluster::Readiness;

/// How long clients are asked to wait for a node that starts or stops, in milliseconds.
const RETRY_AFTER_MS: u64 = 1_000;

/// What the core offers to frontends.
#[derive(Clone)]
pub struct Apis {
    /// The way in.
    pub write: Arc<dyn WriteApi>,
    /// The way out.
    pub query: Arc<dyn QueryApi>,
    /// Administration.
    pub admin: Arc<dyn AdminApi>,
    /// What the node still waits for before it is ready, a reason each; empty when ready.
    pub pending: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// Cardinality of a tenant's series on this node. Blocks while it counts.
    pub cardinality: Arc<dyn Fn(&str) -> NodeCardinality + Send + Sync>,
}

/// The core, when it is there, and the requests that are in it.
#[derive(Default)]
pub struct Backend {
    starting: Arc<Readiness>,
    apis: OnceLock<Apis>,
    stopping: AtomicBool,
    running: Mutex<BTreeMap<&'static str, usize>>,
    finished: Notify,
}

impl Backend {
    /// Nothing behind it yet.
    pub fn new() -> Arc<Backend> {
        Arc::new(Backend::default())
    }

    /// Nothing behind it yet; `readiness` knows what is waited for.
    pub fn starting(readiness: Arc<Readiness>) -> Arc<Backend> {
        Arc::new(Backend {
            starting: readiness,
            ..Backend::default()
        })
    }

    /// Opens the frontends to the core. Only the first call counts.
    pub fn open(&self, apis: Apis) {
        if self.apis.set(apis).is_err() {
            tracing::warn!("the backend was opened twice");
        }
    }

    /// From now on new requests are refused and the node is not ready. Running requests go on.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.finished.notify_waiters();
    }

    /// Whether [`Backend::stop`] was called.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// What the node waits for; empty when it is ready.
    pub fn pending(&self) -> Vec<String> {
        match self.apis.get() {
            _ if self.stopping() => vec!["shutting down".into()],
            None => {
                let starting = std::iter::once("starting".into());
                starting.chain(self.starting.pending()).collect()
            }
            Some(apis) => (apis.pending)(),
        }
    }

    /// The core's interfaces. [`ErrorCode::Starting`] or [`ErrorCode::ShuttingDown`] without it.
    pub fn apis(&self) -> Result<&Apis, ApiError> {
        if self.stopping() {
            let error = ApiError::new(ErrorCode::ShuttingDown, "the node is stopping, use another");
            return Err(error.retry_after(RETRY_AFTER_MS));
        }
        self.apis.get().ok_or_else(|| {
            ApiError::new(ErrorCode::Starting, "the node is starting").retry_after(RETRY_AFTER_MS)
        })
    }

    /// Counts a request as running until the guard is dropped.
    pub fn running(self: &Arc<Self>, name: &'static str) -> Running {
        *self.running.lock().entry(name).or_default() += 1;
        Running {
            backend: self.clone(),
            name,
        }
    }

    /// The running requests by name.
    pub fn still_running(&self) -> BTreeMap<&'static str, usize> {
        self.running.lock().clone()
    }

    /// Waits until no request is running. Meaningful after [`Backend::stop`].
    pub async fn drained(&self) {
        loop {
            let finished = self.finished.notified();
            if self.running.lock().is_empty() {
                return;
            }
            finished.await;
        }
    }
}

/// A running request.
pub struct Running {
    backend: Arc<Backend>,
    name: &'static str,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = self.backend.running.lock();
        if let Some(count) = running.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                running.remove(self.name);
            }
        }
        if running.is_empty() {
            self.backend.finished.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn says_what_is_missing_and_waits_for_running_requests() {
        let readiness = Arc::new(Readiness::default());
        let backend = Backend::starting(readiness.clone());
        assert_eq!(backend.pending(), ["starting"]);
        readiness.wait_for("cluster", "node 2");
        assert_eq!(backend.pending(), ["starting", "cluster: node 2"]);
        assert_eq!(
            backend.apis().err().map(|error| error.code),
            Some(ErrorCode::Starting)
        );
        let (first, second) = (backend.running("write"), backend.running("write"));
        backend.stop();
        assert_eq!(backend.pending(), ["shutting down"]);
        assert_eq!(
            backend.apis().err().map(|error| error.code),
            Some(ErrorCode::ShuttingDown)
        );
        let waiting = tokio::spawn({
            let backend = backend.clone();
            async move { backend.drained().await }
        });
        drop(first);
        assert_eq!(backend.still_running().get("write"), Some(&1));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(second);
        waiting.await.unwrap();
    }
}
