//! The one writer of a node's log: gathers the operations of all groups, writes them as one batch,
//! syncs once, then answers in order. While it syncs the next batch gathers in the queue.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use openraft::AsyncRuntime;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use super::device::{DeviceOp, LogDevice};
use super::queue::Queue;
use super::stats::{Counters, WriterStats};
use super::view::LogView;
use super::watchdog;
use crate::config::{LogOptions, WriterMode};
use crate::position::LogKey;

/// Called once when a write or sync failed, with the reason. Production aborts the process: after a
/// failed fsync the kernel may have dropped the pages, so trying again would acknowledge lost data.
pub(crate) type OnFatal = Arc<dyn Fn(&str) + Send + Sync>;

/// Told when the operation is written and, if it asked for it, durable.
pub(crate) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

pub(super) struct Request {
    op: DeviceOp,
    pub(super) sync: bool,
    pub(super) bytes: usize,
    /// Permits of the queue this request holds.
    permits: u32,
    /// The view to tell which append is written.
    append: Option<(Arc<LogView>, u64)>,
    done: Option<Done>,
}

impl Request {
    pub(super) fn new(op: DeviceOp, sync: bool, bytes: usize) -> Request {
        Request {
            op,
            sync,
            bytes,
            permits: 0,
            append: None,
            done: None,
        }
    }
}

/// The sending side of the writer.
pub(crate) struct LogWriter {
    queue: Arc<Queue>,
    room: Arc<Semaphore>,
    max_queue_bytes: usize,
    counters: Arc<Counters>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    stalled: watch::Receiver<bool>,
}

impl LogWriter {
    pub(crate) fn start<R: AsyncRuntime>(
        device: Arc<dyn LogDevice>,
        options: &LogOptions,
        on_fatal: OnFatal,
    ) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        // Permits are counted in KiB, so that any queue size fits tokio's semaphore.
        let room = Arc::new(Semaphore::new(options.max_queue_bytes.div_ceil(1024)));
        let counters = Arc::new(Counters::default());
        let stalled = watchdog::start::<R>(&counters, options, on_fatal.clone());
        let worker = Worker {
            device,
            queue: queue.clone(),
            room: room.clone(),
            counters: counters.clone(),
            max_batch_bytes: options.max_batch_bytes,
            on_fatal,
            failed: None,
        };
        let thread = match options.writer {
            WriterMode::Thread => {
                let builder = std::thread::Builder::new().name("raft-log".into());
                Some(builder.spawn(move || worker.run_thread())?)
            }
            WriterMode::Task => {
                drop(R::spawn(worker.run_task::<R>()));
                None
            }
        };
        Ok(Self {
            queue,
            room,
            max_queue_bytes: options.max_queue_bytes,
            counters,
            thread: Mutex::new(thread),
            stalled,
        })
    }

    /// Waits until the queue has room for `bytes` of entries, for [`append`](Self::append).
    pub(crate) async fn reserve(&self, bytes: usize) -> io::Result<u32> {
        let permits = bytes.min(self.max_queue_bytes).div_ceil(1024) as u32;
        let permit = self.room.acquire_many(permits).await.map_err(|_| stopped())?;
        permit.forget();
        Ok(permits)
    }

    /// Queues entries; `done` is told when they are durable. `permits` are from [`reserve`](Self::reserve).
    pub(crate) fn append(
        &self,
        op: DeviceOp,
        bytes: usize,
        permits: u32,
        view: (Arc<LogView>, u64),
        done: Done,
    ) -> io::Result<()> {
        self.push(Request {
            permits,
            append: Some(view),
            done: Some(done),
            ..Request::new(op, true, bytes)
        })
    }

    /// Queues an operation that needs order, not durability. It is written along with the next one that
    /// becomes durable, or after a second.
    pub(crate) fn order(&self, op: DeviceOp) -> io::Result<()> {
        self.push(Request::new(op, false, 0))
    }

    /// Queues an operation and waits until it is durable.
    pub(crate) async fn durable(&self, op: DeviceOp) -> io::Result<()> {
        let (tx, rx) = tokio::sync::oneshot::channel();
        let done: Done = Box::new(move |result| {
            // The waiting side may have been cancelled; the write happened all the same.
            let _ = tx.send(result);
        });
        self.push(Request {
            done: Some(done),
            ..Request::new(op, true, 0)
        })?;
        rx.await.map_err(|_| stopped())?
    }

    fn push(&self, request: Request) -> io::Result<()> {
        let bytes = request.bytes;
        self.counters.queued(bytes);
        if self.queue.push(request) {
            return Ok(());
        }
        self.counters.refused(bytes);
        Err(stopped())
    }

    /// True while the device does not answer.
    pub(crate) fn stalled(&self) -> watch::Receiver<bool> {
        self.stalled.clone()
    }

    pub(crate) fn stats(&self) -> WriterStats {
        self.counters.snapshot()
    }

    /// Writes what is queued and ends the writer. Blocks until its thread ended.
    pub(crate) fn stop(&self) {
        self.queue.close();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic of the writer was reported through `on_fatal` already.
            let _ = thread.join();
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.queue.close();
    }
}

fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the log writer has stopped")
}

struct Worker {
    device: Arc<dyn LogDevice>,
    queue: Arc<Queue>,
    room: Arc<Semaphore>,
    counters: Arc<Counters>,
    max_batch_bytes: usize,
    on_fatal: OnFatal,
    /// Why nothing is written any more.
    failed: Option<String>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        // A writer that dies with callbacks pending would leave every group waiting for ever.
        if std::thread::panicking() {
            (self.on_fatal)("the log writer panicked");
        }
        self.queue.abandon();
    }
}

struct Batch {
    ops: Vec<DeviceOp>,
    answers: Vec<Answer>,
    sync: bool,
    bytes: usize,
}

struct Answer {
    permits: u32,
    append: Option<(Arc<LogView>, u64)>,
    done: Option<Done>,
}

fn gather(requests: Vec<Request>) -> Batch {
    let mut batch = Batch {
        ops: Vec::with_capacity(requests.len()),
        answers: Vec::with_capacity(requests.len()),
        sync: false,
        bytes: 0,
    };
    for request in requests {
        batch.bytes += request.bytes;
        batch.sync |= request.sync;
        batch.ops.push(request.op);
        batch.answers.push(Answer {
            permits: request.permits,
            append: request.append,
            done: request.done,
        });
    }
    keep_newest_commits(&mut batch.ops);
    batch
}

/// Drops commit indexes that are replaced later in the same batch.
fn keep_newest_commits(ops: &mut Vec<DeviceOp>) {
    let mut seen: Vec<LogKey> = Vec::new();
    let mut kept: Vec<DeviceOp> = Vec::with_capacity(ops.len());
    for op in ops.drain(..).rev() {
        if let DeviceOp::Committed(log, _) = &op {
            if seen.contains(log) {
                continue;
            }
            seen.push(*log);
        }
        kept.push(op);
    }
    kept.reverse();
    *ops = kept;
}

impl Worker {
    fn run_thread(mut self) {
        while let Some(requests) = self.queue.next_blocking(self.max_batch_bytes) {
            let batch = gather(requests);
            self.counters.writes();
            let started = Instant::now();
            let result = self.write(&batch.ops, batch.sync);
            let took = batch.sync.then(|| started.elapsed());
            self.counters.wrote(batch.answers.len(), batch.bytes, took);
            self.answer(batch, result);
        }
    }

    async fn run_task<R: AsyncRuntime>(mut self) {
        while let Some(requests) = self.queue.next::<R>(self.max_batch_bytes).await {
            let batch = gather(requests);
            self.counters.writes();
            let started = <R::Instant as openraft::Instant>::now();
            let mut result = self.write(&batch.ops, false);
            if batch.sync && result.is_ok() {
                let delay = self.device.simulated_sync();
                if !delay.is_zero() {
                    R::sleep(delay).await;
                }
                result = self.write(&[], true);
            }
            let took = batch.sync.then(|| openraft::Instant::elapsed(&started));
            self.counters.wrote(batch.answers.len(), batch.bytes, took);
            self.answer(batch, result);
        }
    }

    fn write(&mut self, ops: &[DeviceOp], sync: bool) -> io::Result<()> {
        if let Some(reason) = &self.failed {
            return Err(io::Error::other(reason.clone()));
        }
        crash_point!("log_before_write");
        crash_point!("log_before_sync", self.device.write(ops, false));
        let sync = sync && !mutant!("ack_before_fsync");
        let mut result = self.device.write(ops, sync);
        crash_point!("log_after_sync");
        if mutant!("eio_ignored") {
            result = Ok(());
        }
        if let Err(error) = &result {
            let reason = format!("the log could not be written: {error}");
            self.counters.failed();
            self.failed = Some(reason.clone());
            (self.on_fatal)(&reason);
        }
        result
    }

    fn answer(&self, batch: Batch, result: io::Result<()>) {
        for answer in batch.answers {
            if let (Some((view, append)), Ok(())) = (&answer.append, &result) {
                view.written(*append);
            }
            self.room.add_permits(answer.permits as usize);
            if let Some(done) = answer.done {
                // io::Error is not Clone: each waiter gets its own.
                done(
                    result
                        .as_ref()
                        .copied()
                        .map_err(|e| io::Error::new(e.kind(), e.to_string())),
                );
            }
        }
    }
}
