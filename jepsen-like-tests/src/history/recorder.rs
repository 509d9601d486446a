//! Collects what concurrent clients do, in memory and on disk.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Result;

use super::file::Sink;
use super::{Action, Operation, Stage};

/// Collects operations of concurrent clients.
#[derive(Debug, Clone)]
pub struct Recorder {
    started: Instant,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    operations: Vec<Operation>,
    sink: Option<Sink>,
}

impl Default for Recorder {
    fn default() -> Self {
        Recorder {
            started: Instant::now(),
            inner: Arc::default(),
        }
    }
}

impl Recorder {
    /// One that writes to a file as well, as it goes.
    pub fn to_file(path: &Path) -> Result<Recorder> {
        let recorder = Recorder::default();
        recorder.lock().sink = Some(Sink::create(path)?);
        Ok(recorder)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Microseconds since the start.
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Adds an operation, at its time. Faults are on disk when it returns.
    pub fn record(&self, stage: Stage, action: Action) {
        let mut inner = self.lock();
        // The time is taken under the lock, so that times grow with the index.
        let (index, time_us) = (inner.operations.len() as u64, self.now_us());
        let operation = Operation {
            index,
            time_us,
            stage,
            action,
        };
        if let Some(sink) = &mut inner.sink {
            sink.add(&operation);
        }
        inner.operations.push(operation);
    }

    /// Hands everything recorded so far to the kernel. An error means that the file is not complete.
    pub fn flush(&self) -> Result<()> {
        self.lock().sink.as_mut().map_or(Ok(()), Sink::flush)
    }

    /// Ends the file; what is recorded later is in memory only.
    pub fn finish(&self) -> Result<()> {
        let sink = self.lock().sink.take();
        sink.map_or(Ok(()), Sink::finish)
    }

    /// Whether some operation since `from` (an index) satisfies `wanted`.
    pub fn any_since(&self, from: usize, wanted: impl Fn(&Operation) -> bool) -> bool {
        self.lock().operations.iter().skip(from).any(wanted)
    }

    /// How many operations since `from` (an index) satisfy `wanted`.
    pub fn count_since(&self, from: usize, wanted: impl Fn(&Operation) -> bool) -> usize {
        let inner = self.lock();
        let operations = inner.operations.iter().skip(from);
        operations.filter(|operation| wanted(operation)).count()
    }

    /// How many operations there are.
    pub fn len(&self) -> usize {
        self.lock().operations.len()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All operations so far.
    pub fn operations(&self) -> Vec<Operation> {
        self.lock().operations.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{FaultKind, Phase, read_file};

    fn fault(id: u64) -> Action {
        Action::Fault {
            id,
            kind: FaultKind::Pause,
            phase: Phase::Begin,
            victims: vec![1],
            detail: String::new(),
            orphaned: Vec::new(),
        }
    }

    #[test]
    fn the_file_has_what_memory_has() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.jsonl.zst");
        let recorder = Recorder::to_file(&path).unwrap();
        for node in 0..1_000 {
            recorder.record(Stage::Info, Action::Restart { node });
        }
        recorder.finish().unwrap();
        let recorded = read_file(&path).unwrap();
        assert_eq!(recorded.operations, recorder.operations());
        assert!(!recorded.cut_short);
    }

    #[test]
    fn a_fault_is_on_disk_before_it_happens() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.jsonl.zst");
        let recorder = Recorder::to_file(&path).unwrap();
        recorder.record(Stage::Info, Action::Restart { node: 1 });
        recorder.record(Stage::Info, fault(5));
        recorder.record(Stage::Info, Action::Restart { node: 2 });
        // As if this process died now.
        let recorded = read_file(&path).unwrap();
        assert!(recorded.cut_short);
        assert_eq!(recorded.operations.last().unwrap().action, fault(5));
    }

    #[test]
    fn plain_lines_are_read_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.jsonl");
        let recorder = Recorder::default();
        recorder.record(Stage::Info, fault(1));
        super::super::write_lines(&recorder.operations(), std::fs::File::create(&path).unwrap()).unwrap();
        assert_eq!(read_file(&path).unwrap().operations, recorder.operations());
    }
}
