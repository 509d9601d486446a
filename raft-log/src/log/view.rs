//! What one replica's log looks like to readers, including what the writer has not written yet.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::device::{LogDevice, RecoveredLog, StoredVote};
use super::record::Record;
use crate::position::{LogKey, LogPosition};

/// The replica's log as it will be once the writer caught up. The newest entries are in memory:
/// all that are not written yet, and written ones up to a bound.
pub(crate) struct LogView {
    pub(crate) log: LogKey,
    device: Arc<dyn LogDevice>,
    tail_bytes: usize,
    state: Mutex<State>,
}

struct State {
    vote: Option<StoredVote>,
    committed: Option<LogPosition>,
    purged: Option<LogPosition>,
    /// Index of the oldest entry, or of the first one that will be.
    first: u64,
    /// The newest entry, or `purged` if there is none.
    last: Option<LogPosition>,
    /// The newest entries without holes, ending at `last`; each with the number of its append.
    tail: VecDeque<(Record, u64)>,
    tail_bytes: usize,
    /// Number of the newest append.
    appended: u64,
    /// Number of the newest append the device has.
    written: u64,
}

/// Where a read finds its entries.
enum Found {
    Memory(Vec<Record>),
    Device(Range<u64>),
}

impl LogView {
    pub(crate) fn new(
        log: LogKey,
        device: Arc<dyn LogDevice>,
        tail_bytes: usize,
        from: RecoveredLog,
    ) -> Self {
        let RecoveredLog {
            vote,
            committed,
            purged,
            first,
            last,
        } = from;
        let first = first.unwrap_or_else(|| purged.map_or(0, |purged| purged.index + 1));
        let state = State {
            vote,
            committed,
            purged,
            first,
            last: last.max(purged),
            tail: VecDeque::new(),
            tail_bytes: 0,
            appended: 0,
            written: 0,
        };
        Self {
            log,
            device,
            tail_bytes,
            state: Mutex::new(state),
        }
    }

    pub(crate) fn vote(&self) -> Option<StoredVote> {
        self.state.lock().vote
    }

    pub(crate) fn set_vote(&self, vote: StoredVote) {
        self.state.lock().vote = Some(vote);
    }

    pub(crate) fn committed(&self) -> Option<LogPosition> {
        self.state.lock().committed
    }

    pub(crate) fn set_committed(&self, committed: Option<LogPosition>) {
        self.state.lock().committed = committed;
    }

    /// (last purged, last entry or last purged)
    pub(crate) fn bounds(&self) -> (Option<LogPosition>, Option<LogPosition>) {
        let state = self.state.lock();
        (state.purged, state.last)
    }

    /// Indexes of the existing entries in `range`.
    pub(crate) fn existing(&self, range: &Range<u64>) -> Range<u64> {
        let state = self.state.lock();
        let end = state.last.map_or(state.first, |last| last.index + 1);
        range.start.max(state.first)..range.end.min(end)
    }

    /// Makes `records` readable and returns the number of this append. Refuses a hole.
    pub(crate) fn append(&self, records: &[Record]) -> io::Result<u64> {
        let mut state = self.state.lock();
        for record in records {
            match state.last {
                Some(last) if record.position.index != last.index + 1 => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidInput,
                        format!("{}: entry {} cannot follow {last}", self.log, record.position),
                    ));
                }
                Some(_) => {}
                // Raft begins at 0; openraft's test suite does not.
                None => state.first = record.position.index,
            }
            state.last = Some(record.position);
            state.tail_bytes += record.cost();
            let number = state.appended + 1;
            state.tail.push_back((record.clone(), number));
        }
        state.appended += 1;
        Ok(state.appended)
    }

    /// Tells that the device has everything up to this append; lets go of what exceeds the bound.
    pub(crate) fn written(&self, append: u64) {
        let mut state = self.state.lock();
        state.written = state.written.max(append);
        while state.tail_bytes > self.tail_bytes
            && state
                .tail
                .front()
                .is_some_and(|(_, number)| *number <= state.written)
        {
            if let Some((record, _)) = state.tail.pop_front() {
                state.tail_bytes -= record.cost();
            }
        }
    }

    /// Forgets the entries after `last`, if there are any. Returns the first index forgotten.
    pub(crate) fn truncate(&self, last: Option<LogPosition>) -> u64 {
        let mut state = self.state.lock();
        let from = last.map_or(0, |last| last.index + 1);
        if state.last.is_none_or(|newest| newest.index < from) {
            return from;
        }
        while state
            .tail
            .back()
            .is_some_and(|(record, _)| record.position.index >= from)
        {
            if let Some((record, _)) = state.tail.pop_back() {
                state.tail_bytes -= record.cost();
            }
        }
        state.last = last.max(state.purged);
        from
    }

    /// Forgets entries up to `upto`; returns the indexes that were not purged before.
    pub(crate) fn purge(&self, upto: LogPosition) -> Range<u64> {
        let mut state = self.state.lock();
        let from = state.first;
        while state
            .tail
            .front()
            .is_some_and(|(record, _)| record.position.index <= upto.index)
        {
            if let Some((record, _)) = state.tail.pop_front() {
                state.tail_bytes -= record.cost();
            }
        }
        state.purged = state.purged.max(Some(upto));
        state.first = upto.index + 1;
        if state.last.is_none_or(|last| last.index <= upto.index) {
            state.last = Some(upto);
            // What is left in memory, if anything, is older than the purge.
            state.tail.clear();
            state.tail_bytes = 0;
        }
        from..(upto.index + 1).max(from)
    }

    /// Existing entries from `range.start` on, up to `max_bytes` but at least one.
    pub(crate) async fn read(
        self: &Arc<Self>,
        range: Range<u64>,
        max_bytes: usize,
    ) -> io::Result<Vec<Record>> {
        match self.find(range, max_bytes) {
            Found::Memory(records) => Ok(records),
            Found::Device(range) => {
                let view = self.clone();
                crate::offload::run(move || view.device.read(view.log, range, max_bytes)).await?
            }
        }
    }

    fn find(&self, range: Range<u64>, max_bytes: usize) -> Found {
        let state = self.state.lock();
        let end = state
            .last
            .map_or(state.first, |last| last.index + 1)
            .min(range.end);
        let start = range.start.max(state.first);
        if start >= end {
            return Found::Memory(Vec::new());
        }
        let in_memory = state
            .tail
            .front()
            .map_or(u64::MAX, |(record, _)| record.position.index);
        if start < in_memory {
            return Found::Device(start..end.min(in_memory));
        }
        let mut bytes = 0;
        let mut records = Vec::new();
        // The tail has no holes, so an entry's place follows from its index.
        for (record, _) in state
            .tail
            .range((start - in_memory) as usize..(end - in_memory) as usize)
        {
            bytes += record.cost();
            if bytes > max_bytes && !records.is_empty() {
                break;
            }
            records.push(record.clone());
        }
        Found::Memory(records)
    }
}
