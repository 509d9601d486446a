//! What waits for the log writer.
//!
//! An operation that must become durable wakes the writer. One that only needs its place in the order, like
//! a commit index, waits for the next that does: a write of its own would cost a system call and two context
//! switches for nothing.

use std::collections::VecDeque;
use std::time::Duration;

use openraft::AsyncRuntime;
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use super::writer::Request;

/// How long operations without urgency wait for one that has it, about.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Wakes a writer that is a thread.
    thread: Condvar,
    /// Wakes a writer that is a task.
    task: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Request>,
    /// Of them, those that ask for a sync.
    urgent: usize,
    closed: bool,
}

/// What a look into the queue found.
enum Look {
    Batch(Vec<Request>),
    /// Nothing that can't wait.
    Patience,
    Closed,
}

impl Queue {
    /// Adds an operation. False if the writer has ended.
    pub(super) fn push(&self, request: Request) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        // The first of several wakes the writer for all.
        let wakes = request.sync && state.urgent == 0;
        state.urgent += usize::from(request.sync);
        state.waiting.push_back(request);
        drop(state);
        if wakes {
            self.thread.notify_one();
            self.task.notify_one();
        }
        true
    }

    /// Takes no more. What waits is still handed out.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.thread.notify_one();
        self.task.notify_one();
    }

    /// Drops what waits, because nobody will write it.
    pub(super) fn abandon(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.urgent = 0;
        let waiting = std::mem::take(&mut state.waiting);
        // Whoever waits for one of them is told by the drop, and must not find the queue locked.
        drop(state);
        drop(waiting);
    }

    /// The next operations, in order, of about `max_bytes`; `None` once the queue is closed and empty. Blocks
    /// the thread.
    pub(super) fn next_blocking(&self, max_bytes: usize) -> Option<Vec<Request>> {
        let mut state = self.state.lock();
        let mut patient = true;
        loop {
            match state.look(max_bytes, patient) {
                Look::Batch(batch) => return Some(batch),
                Look::Closed => return None,
                Look::Patience => patient = !self.thread.wait_for(&mut state, PATIENCE).timed_out(),
            }
        }
    }

    /// Like [`next_blocking`](Self::next_blocking), for a task.
    pub(super) async fn next<R: AsyncRuntime>(&self, max_bytes: usize) -> Option<Vec<Request>> {
        let mut patient = true;
        loop {
            let look = self.state.lock().look(max_bytes, patient);
            match look {
                Look::Batch(batch) => return Some(batch),
                Look::Closed => return None,
                Look::Patience => patient = R::timeout(PATIENCE, self.task.notified()).await.is_ok(),
            }
        }
    }
}

impl State {
    fn look(&mut self, max_bytes: usize, patient: bool) -> Look {
        if self.waiting.is_empty() && self.closed {
            return Look::Closed;
        }
        let due = self.urgent > 0 || self.closed || !patient;
        if self.waiting.is_empty() || !due {
            return Look::Patience;
        }
        let mut batch = Vec::with_capacity(self.waiting.len());
        let mut bytes = 0;
        while bytes < max_bytes
            && let Some(request) = self.waiting.pop_front()
        {
            bytes += request.bytes;
            self.urgent -= usize::from(request.sync);
            batch.push(request);
        }
        Look::Batch(batch)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::TokioRuntime;
    use crate::log::DeviceOp;
    use crate::position::LogKey;

    fn request(sync: bool, bytes: usize) -> Request {
        let log = LogKey { group: 1, replica: 1 };
        Request::new(DeviceOp::Committed(log, None), sync, bytes)
    }

    #[tokio::test]
    async fn what_can_wait_goes_with_what_cannot() {
        let queue = Arc::new(Queue::default());
        assert!(queue.push(request(false, 0)) && queue.push(request(false, 0)));
        let taking = queue.clone();
        let taken = tokio::spawn(async move { taking.next::<TokioRuntime>(1_000).await });
        assert!(queue.push(request(true, 10)));
        assert_eq!(taken.await.unwrap().map(|batch| batch.len()), Some(3));
    }

    #[test]
    fn a_batch_ends_at_its_size_and_a_closed_queue_is_emptied() {
        let queue = Queue::default();
        for _ in 0..5 {
            assert!(queue.push(request(true, 400)));
        }
        assert!(queue.push(request(false, 0)));
        queue.close();
        assert!(!queue.push(request(true, 1)), "nothing is taken any more");
        let mut sizes = Vec::new();
        while let Some(batch) = queue.next_blocking(1_000) {
            sizes.push(batch.len());
        }
        assert_eq!(sizes, [3, 3]);
    }

    #[test]
    fn what_can_wait_does_not_wait_for_ever() {
        let queue = Queue::default();
        assert!(queue.push(request(false, 0)));
        assert_eq!(queue.next_blocking(1_000).map(|batch| batch.len()), Some(1));
    }
}
