//! Runs work that blocks away from the runtime's workers.

use std::io;

/// Runs `work` on tokio's blocking pool, or in place when no tokio runtime is there: the simulator has
/// one thread and must keep its order.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    match tokio::runtime::Handle::try_current() {
        Ok(handle) => handle
            .spawn_blocking(work)
            .await
            .map_err(|e| io::Error::other(format!("blocking work failed: {e}"))),
        Err(_) => Ok(work()),
    }
}
