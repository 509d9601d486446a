//! tokio, with sleeps that end together.
//!
//! openraft wakes each group some sixty times a second to see whether a heartbeat or an election is due. A node
//! with nine groups would be woken six hundred times for it, and a wake-up costs more than the look. Here
//! sleeps end on a grid that all tasks of the process share.

use std::future::Future;
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use openraft::async_runtime::{Select2, Select3, Select4};
use openraft::{AsyncRuntime, Instant, OptionalSend};

#[allow(deprecated)] // openraft deprecates the re-export, not the type; a direct dependency would add a pin
type Tokio = openraft::impls::TokioRuntime;
type TokioInstant = <Tokio as AsyncRuntime>::Instant;

/// Sleeps end up to this much later than asked for.
const GRID: Duration = Duration::from_millis(15);

/// Sleeps shorter than this end when they were asked to. A tick's sleep is short when its task was late.
const EXACT_BELOW: Duration = Duration::from_millis(1);

/// The production runtime.
#[derive(Debug)]
pub struct TokioRuntime(Tokio);

/// The first point of the grid at or after `deadline`, for a sleep that begins at `now`.
fn on_grid(now: TokioInstant, deadline: TokioInstant) -> TokioInstant {
    static EPOCH: OnceLock<TokioInstant> = OnceLock::new();
    let epoch = *EPOCH.get_or_init(TokioInstant::now);
    if deadline.saturating_duration_since(now) < EXACT_BELOW {
        return deadline;
    }
    let since = deadline.saturating_duration_since(epoch).as_nanos();
    let over = since % GRID.as_nanos();
    match over {
        0 => deadline,
        over => deadline + (GRID - Duration::from_nanos(over as u64)),
    }
}

impl AsyncRuntime for TokioRuntime {
    type JoinError = <Tokio as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <Tokio as AsyncRuntime>::Sleep;
    type Instant = TokioInstant;
    type TimeoutError = <Tokio as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <Tokio as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <Tokio as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <Tokio as AsyncRuntime>::Mpsc;
    type Watch = <Tokio as AsyncRuntime>::Watch;
    type Oneshot = <Tokio as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        Tokio::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Self::sleep_until(TokioInstant::now() + duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Tokio::sleep_until(on_grid(TokioInstant::now(), deadline))
    }

    fn timeout<R, F>(duration: Duration, future: F) -> Self::Timeout<R, F>
    where
        F: Future<Output = R> + OptionalSend,
    {
        Tokio::timeout(duration, future)
    }

    fn timeout_at<R, F>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F>
    where
        F: Future<Output = R> + OptionalSend,
    {
        Tokio::timeout_at(deadline, future)
    }

    fn select2<A, B>(a: A, b: B) -> impl Future<Output = Select2<A::Output, B::Output>> + OptionalSend
    where
        A: Future + OptionalSend,
        B: Future + OptionalSend,
    {
        Tokio::select2(a, b)
    }

    fn select3<A, B, C>(
        a: A,
        b: B,
        c: C,
    ) -> impl Future<Output = Select3<A::Output, B::Output, C::Output>> + OptionalSend
    where
        A: Future + OptionalSend,
        B: Future + OptionalSend,
        C: Future + OptionalSend,
    {
        Tokio::select3(a, b, c)
    }

    fn select4<A, B, C, D>(
        a: A,
        b: B,
        c: C,
        d: D,
    ) -> impl Future<Output = Select4<A::Output, B::Output, C::Output, D::Output>> + OptionalSend
    where
        A: Future + OptionalSend,
        B: Future + OptionalSend,
        C: Future + OptionalSend,
        D: Future + OptionalSend,
    {
        Tokio::select4(a, b, c, d)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        Tokio::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        Tokio::thread_rng()
    }

    fn new(threads: usize) -> Self {
        Self(Tokio::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    fn spawn_blocking<F, T>(f: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        Tokio::spawn_blocking(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_end_together_and_never_early() {
        let now = TokioInstant::now();
        let ends: Vec<_> = (20..200u64)
            .map(|ms| {
                let deadline = now + Duration::from_millis(ms);
                let end = on_grid(now, deadline);
                assert!(end >= deadline && end < deadline + GRID);
                end
            })
            .collect();
        let mut distinct = ends.clone();
        distinct.dedup();
        assert!(distinct.len() <= 14, "{}", distinct.len());
        let soon = now + Duration::from_micros(900);
        assert_eq!(on_grid(now, soon), soon);
    }
}
