//! openraft's log storage of one group over the shared writer.

use std::fmt::Debug;
use std::io;
use std::marker::PhantomData;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use futures_util::{Stream, TryStreamExt, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{AsyncRuntime, OptionalSend, RaftLogReader};

use super::device::{DeviceOp, StoredVote};
use super::record::{Record, from_record, to_record};
use super::view::LogView;
use super::writer::LogWriter;
use crate::type_config::{Entry, LeaderId, LogId, TypeConfig, Vote, log_id, position};

/// Bytes one read of the apply loop takes from the log.
const APPLY_READ_BYTES: usize = 1 << 20;

/// One group's log. Cheap to clone: clones share the log.
pub(crate) struct LogStore<R> {
    view: Arc<LogView>,
    writer: Arc<LogWriter>,
    /// Bytes of payload [`RaftLogReader::limited_get_log_entries`] returns at most.
    max_append_bytes: usize,
    runtime: PhantomData<fn() -> R>,
}

impl<R> Clone for LogStore<R> {
    fn clone(&self) -> Self {
        let (view, writer) = (self.view.clone(), self.writer.clone());
        Self {
            view,
            writer,
            max_append_bytes: self.max_append_bytes,
            runtime: PhantomData,
        }
    }
}

impl<R> LogStore<R> {
    pub(crate) fn new(view: Arc<LogView>, writer: Arc<LogWriter>, max_append_bytes: usize) -> Self {
        Self {
            view,
            writer,
            max_append_bytes,
            runtime: PhantomData,
        }
    }

    /// Like [`LogView::read`], but an entry that should be there and is not is an error.
    async fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Record>> {
        let records = self.view.read(range.clone(), max_bytes).await?;
        // Asked again after the read, because a purge or truncation may have come between.
        let existing = self.view.existing(&range);
        let found = records.first().map(|record| record.position.index);
        if !existing.is_empty() && found.is_none_or(|found| found > existing.start) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{}: entry {} is missing from the log",
                    self.view.log, existing.start
                ),
            ));
        }
        Ok(records)
    }

    async fn read_all(&self, range: Range<u64>) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut start = range.start;
        while start < range.end {
            let records = self.read(start..range.end, APPLY_READ_BYTES).await?;
            let Some(last) = records.last() else { break };
            start = last.position.index + 1;
            for record in records {
                entries.push(from_record(record)?);
            }
        }
        Ok(entries)
    }
}

fn to_range(range: impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl<R: AsyncRuntime> RaftLogReader<TypeConfig<R>> for LogStore<R> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read_all(to_range(range)).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.view.vote().map(|vote| Vote {
            leader_id: LeaderId {
                term: vote.term,
                voted_for: vote.voted_for,
            },
            committed: vote.committed,
        }))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let records = self.read(start..end, self.max_append_bytes).await?;
        records.into_iter().map(from_record).collect()
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // The default reads the whole committed range into memory first.
        let chunks = stream::try_unfold((self.clone(), to_range(range)), |(log, rest)| async move {
            if rest.is_empty() {
                return Ok::<_, io::Error>(None);
            }
            let records = log.read(rest.clone(), APPLY_READ_BYTES).await?;
            let Some(last) = records.last() else {
                return Ok(None);
            };
            let next = last.position.index + 1;
            let entries = records.into_iter().map(from_record);
            Ok(Some((stream::iter(entries), (log, next..rest.end))))
        });
        Box::pin(chunks.try_flatten())
    }
}

impl<R: AsyncRuntime> RaftLogStorage<TypeConfig<R>> for LogStore<R> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig<R>>, io::Error> {
        let (purged, last) = self.view.bounds();
        Ok(LogState {
            last_purged_log_id: purged.map(log_id),
            last_log_id: last.map(log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let vote = StoredVote {
            term: vote.leader_id.term,
            voted_for: vote.leader_id.voted_for,
            committed: vote.committed,
        };
        // Durable before it is visible: RFT-2.
        if mutant!("vote_not_fsynced") {
            self.writer.order(DeviceOp::Vote(self.view.log, vote))?;
        } else {
            self.writer.durable(DeviceOp::Vote(self.view.log, vote)).await?;
        }
        self.view.set_vote(vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let committed = committed.as_ref().map(position);
        self.view.set_committed(committed);
        self.writer.order(DeviceOp::Committed(self.view.log, committed))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.view.committed().map(log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig<R>>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records: Vec<Record> = entries.into_iter().map(to_record).collect();
        let bytes = records.iter().map(Record::cost).sum();
        let permits = self.writer.reserve(bytes).await?;
        let append = self.view.append(&records)?;
        self.writer.append(
            DeviceOp::Append(self.view.log, records),
            bytes,
            permits,
            (self.view.clone(), append),
            Box::new(move |result| callback.io_completed(result)),
        )
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        // Needs its place in the WAL, not a sync: the append that follows brings one.
        let from = self.view.truncate(last.as_ref().map(position));
        self.writer.order(DeviceOp::Truncate(self.view.log, from))
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let upto = position(&upto);
        if self.view.bounds().0.is_some_and(|purged| purged >= upto) {
            return Ok(());
        }
        let range = self.view.purge(upto);
        crash_point!("log_before_purge");
        self.writer.order(DeviceOp::Purge(self.view.log, range, upto))
    }
}
