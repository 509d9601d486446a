//! What is known about each batch after all its attempts.

use std::collections::BTreeMap;

use super::{Action, Counts, Operation, Receipt, Stage};
use crate::values::{Batch, Kind, LIFE};

/// What a client knows of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Acknowledged at least once: all of it is stored.
    Acked,
    /// Sent, with no answer that decides. It may be stored in part, and it may come late.
    Unknown,
    /// Refused for good, as a whole: nothing of it is stored, ever.
    Refused,
}

/// Where a batch's samples in a shard were committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// The shard.
    pub shard: u32,
    /// From this log index on, all of them are there.
    pub all_at: u64,
    /// Before this log index, none of them is. 0 when an attempt may have stored them without saying where.
    pub none_before: u64,
}

/// A batch and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchOutcome {
    /// The batch.
    pub batch: Batch,
    /// What is known.
    pub state: State,
    /// When it was first sent, since the history's start.
    pub sent_us: u64,
    /// When it was first acknowledged.
    pub acked_us: Option<u64>,
    /// Where it was committed, as far as answers told: a commit a shard.
    pub commits: Vec<Commit>,
    sent: u32,
    refused: u32,
    overruled: bool,
}

/// All batches of a writer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriterOutcomes {
    /// In the order of their numbers.
    batches: Vec<BatchOutcome>,
    /// Positions in `batches`, in the order of timestamps.
    by_time: Vec<u32>,
}

/// What is known about each batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcomes {
    writers: BTreeMap<u32, WriterOutcomes>,
}

impl Outcomes {
    /// Sums up all attempts of each batch. One without an answer is unknown.
    pub fn of(history: &[Operation]) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for operation in history {
            let Action::Write {
                batch,
                receipts,
                counts,
                ..
            } = &operation.action
            else {
                continue;
            };
            let writer = outcomes.writers.entry(batch.writer).or_default();
            let known = writer.entry(*batch, operation.time_us);
            match operation.stage {
                Stage::Invoke => known.sent += 1,
                Stage::Fail => known.refused += 1,
                Stage::Info => {}
                Stage::Ok => {
                    known.acked_us.get_or_insert(operation.time_us);
                    known.add_commits(receipts, counts.as_ref());
                }
            }
            // Whoever came first at this time stays, so no earlier or later attempt can have stored it.
            known.overruled |= operation.stage == Stage::Fail && counts.as_ref().is_some_and(is_overruled);
        }
        for writer in outcomes.writers.values_mut() {
            writer.conclude();
        }
        outcomes
    }

    /// Writers with their batches, by number.
    pub fn writers(&self) -> impl Iterator<Item = (u32, &WriterOutcomes)> {
        self.writers.iter().map(|(writer, outcomes)| (*writer, outcomes))
    }

    /// The batches of a writer.
    pub fn writer(&self, writer: u32) -> Option<&WriterOutcomes> {
        self.writers.get(&writer)
    }

    /// What is known of a batch.
    pub fn find(&self, batch: &Batch) -> Option<&BatchOutcome> {
        let writer = self.writers.get(&batch.writer)?;
        let at = writer
            .batches
            .binary_search_by_key(batch, |known| known.batch)
            .ok()?;
        writer.batches.get(at)
    }

    /// All batches.
    pub fn batches(&self) -> impl Iterator<Item = &BatchOutcome> {
        self.writers.values().flat_map(|writer| &writer.batches)
    }

    /// How many samples are in this state.
    pub fn samples(&self, state: State) -> u64 {
        let of_state = self.batches().filter(|known| known.state == state);
        of_state.map(|known| u64::from(known.batch.series)).sum()
    }
}

fn is_overruled(counts: &Counts) -> bool {
    !counts.refused.is_empty()
        && counts
            .refused
            .iter()
            .all(|(reason, _)| reason == "duplicate_timestamp")
}

impl WriterOutcomes {
    /// Batches in the order of their numbers.
    pub fn batches(&self) -> &[BatchOutcome] {
        &self.batches
    }

    /// Batches in the order of timestamps.
    pub fn by_time(&self) -> impl DoubleEndedIterator<Item = &BatchOutcome> + ExactSizeIterator {
        // Positions are of this vector.
        self.by_time.iter().map(|at| &self.batches[*at as usize])
    }

    /// Batches with timestamps later than `after_ms` and up to `until_ms`, in their order.
    pub fn between(&self, after_ms: i64, until_ms: i64) -> impl Iterator<Item = &BatchOutcome> {
        let position = |ms: i64| {
            self.by_time
                .partition_point(|at| self.batches[*at as usize].batch.timestamp_ms <= ms)
        };
        let (first, end) = (position(after_ms), position(until_ms));
        self.by_time
            .get(first..end.max(first))
            .unwrap_or_default()
            .iter()
            .map(|at| &self.batches[*at as usize])
    }

    /// Batches that may write to a series, in the order of timestamps.
    pub fn of_series(&self, series: u32) -> impl Iterator<Item = &BatchOutcome> {
        let (mut first, mut end) = (0, self.by_time.len());
        if let Some(known) = self.batches.first()
            && Kind::of(known.batch.writer) == Kind::Churn
        {
            // These writers' timestamps grow with the numbers.
            let life = u64::from(series / known.batch.series.max(1)) * LIFE;
            first = self.batches.partition_point(|known| known.batch.number < life);
            end = self
                .batches
                .partition_point(|known| known.batch.number < life + LIFE);
        }
        let some = self.by_time.get(first..end).unwrap_or_default();
        some.iter().map(|at| &self.batches[*at as usize])
    }

    fn entry(&mut self, batch: Batch, time_us: u64) -> &mut BatchOutcome {
        let is_next = self.batches.last().is_none_or(|last| last.batch < batch);
        let found = match is_next {
            true => Err(self.batches.len()),
            false => self.batches.binary_search_by_key(&batch, |known| known.batch),
        };
        let at = found.unwrap_or_else(|at| {
            let known = BatchOutcome {
                batch,
                state: State::Unknown,
                sent_us: time_us,
                acked_us: None,
                commits: Vec::new(),
                sent: 0,
                refused: 0,
                overruled: false,
            };
            self.batches.insert(at, known);
            at
        });
        &mut self.batches[at]
    }

    fn conclude(&mut self) {
        for known in &mut self.batches {
            let is_refused = known.refused >= known.sent || known.overruled;
            known.state = match (known.acked_us, is_refused) {
                (Some(_), _) => State::Acked,
                (None, true) => State::Refused,
                (None, false) => State::Unknown,
            };
        }
        self.by_time = (0..self.batches.len() as u32).collect();
        self.by_time.sort_by_key(|at| {
            let batch = &self.batches[*at as usize].batch;
            (batch.timestamp_ms, batch.number)
        });
    }
}

impl BatchOutcome {
    /// What an acknowledged attempt says of its place in each shard's log.
    fn add_commits(&mut self, receipts: &[Receipt], counts: Option<&Counts>) {
        // Only an attempt that found nothing stored before is the first.
        let is_first = counts.is_some_and(|counts| counts.duplicate == 0);
        let mut own: Vec<Commit> = Vec::with_capacity(receipts.len());
        for receipt in receipts {
            let (shard, index) = (receipt.shard, receipt.index);
            match own.iter_mut().find(|commit| commit.shard == shard) {
                Some(commit) => {
                    commit.all_at = commit.all_at.max(index);
                    commit.none_before = commit.none_before.min(index);
                }
                None => own.push(Commit {
                    shard,
                    all_at: index,
                    none_before: index,
                }),
            }
        }
        for mut commit in own {
            if !is_first {
                commit.none_before = 0;
            }
            match self.commits.iter_mut().find(|known| known.shard == commit.shard) {
                Some(known) => {
                    known.all_at = known.all_at.min(commit.all_at);
                    known.none_before = known.none_before.max(commit.none_before);
                }
                None => self.commits.push(commit),
            }
        }
    }

    /// What is known of its place in this shard's log.
    pub fn commit_in(&self, shard: u32) -> Option<Commit> {
        self.commits.iter().find(|commit| commit.shard == shard).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Recorder;

    fn batch(number: u64) -> Batch {
        Batch {
            writer: 1,
            number,
            series: 2,
            timestamp_ms: 1_000 + number as i64,
        }
    }

    fn write(number: u64, receipts: Vec<Receipt>, counts: Option<Counts>) -> Action {
        Action::Write {
            batch: batch(number),
            receipts,
            counts,
            error: None,
        }
    }

    fn receipt(shard: u32, index: u64) -> Receipt {
        Receipt {
            shard,
            index,
            ..Receipt::default()
        }
    }

    #[test]
    fn what_is_not_known_is_neither_acked_nor_refused() {
        let recorder = Recorder::default();
        for (number, stages) in [
            (1, vec![Stage::Invoke, Stage::Ok]),
            (2, vec![Stage::Invoke, Stage::Info]),
            (3, vec![Stage::Invoke]),
            (4, vec![Stage::Invoke, Stage::Fail]),
            (5, vec![Stage::Invoke, Stage::Info, Stage::Invoke, Stage::Ok]),
            (6, vec![Stage::Invoke, Stage::Info, Stage::Invoke, Stage::Fail]),
            (7, vec![Stage::Invoke, Stage::Fail, Stage::Invoke]),
        ] {
            for stage in stages {
                recorder.record(stage, write(number, Vec::new(), None));
            }
        }
        let outcomes = Outcomes::of(&recorder.operations());
        let numbers = |state| {
            let of_state = outcomes.batches().filter(move |known| known.state == state);
            of_state.map(|known| known.batch.number).collect::<Vec<_>>()
        };
        assert_eq!(numbers(State::Acked), [1, 5]);
        assert_eq!(numbers(State::Unknown), [2, 3, 6, 7]);
        assert_eq!(numbers(State::Refused), [4]);
        assert_eq!(outcomes.samples(State::Acked), 4);
    }

    #[test]
    fn who_was_second_at_a_timestamp_stays_second() {
        let recorder = Recorder::default();
        let refused = Counts {
            refused: vec![("duplicate_timestamp".into(), 2)],
            ..Counts::default()
        };
        for (stage, counts) in [
            (Stage::Invoke, None),
            (Stage::Info, None),
            (Stage::Invoke, None),
            (Stage::Fail, Some(refused)),
        ] {
            recorder.record(stage, write(1, Vec::new(), counts));
        }
        let outcomes = Outcomes::of(&recorder.operations());
        assert_eq!(outcomes.samples(State::Refused), 2);
    }

    #[test]
    fn places_in_logs_are_bounded_by_all_attempts() {
        let recorder = Recorder::default();
        let counts = |stored, duplicate| {
            Some(Counts {
                stored,
                duplicate,
                refused: Vec::new(),
            })
        };
        recorder.record(Stage::Invoke, write(1, Vec::new(), None));
        // Labels had to be sent in a second round.
        let first = vec![receipt(1, 10), receipt(2, 7), receipt(1, 12)];
        recorder.record(Stage::Ok, write(1, first, counts(2, 0)));
        let again = vec![receipt(1, 20), receipt(2, 30)];
        recorder.record(Stage::Ok, write(1, again.clone(), counts(0, 2)));
        recorder.record(Stage::Invoke, write(2, Vec::new(), None));
        recorder.record(Stage::Ok, write(2, again, counts(1, 1)));
        let outcomes = Outcomes::of(&recorder.operations());
        let commit = |number: usize, shard| {
            let known = &outcomes.writer(1).unwrap().batches()[number - 1];
            let commit = known.commit_in(shard).unwrap();
            (commit.none_before, commit.all_at)
        };
        assert_eq!((commit(1, 1), commit(1, 2)), ((10, 12), (7, 7)));
        assert_eq!((commit(2, 1), commit(2, 2)), ((0, 20), (0, 30)));
    }

    #[test]
    fn batches_are_found_by_time_and_series() {
        let recorder = Recorder::default();
        let churn = |number: u64| Batch {
            writer: Kind::Churn.writer(0),
            number,
            series: 10,
            timestamp_ms: number as i64,
        };
        for number in 0..30 {
            let (batch, receipts, counts, error) = (churn(number), Vec::new(), None, None);
            recorder.record(
                Stage::Invoke,
                Action::Write {
                    batch,
                    receipts,
                    counts,
                    error,
                },
            );
        }
        let outcomes = Outcomes::of(&recorder.operations());
        let writer = outcomes.writer(Kind::Churn.writer(0)).unwrap();
        let numbers = |batches: Vec<&BatchOutcome>| {
            let numbers = batches.into_iter().map(|known| known.batch.number);
            numbers.collect::<Vec<_>>()
        };
        assert_eq!(numbers(writer.between(3, 6).collect()), [4, 5, 6]);
        assert!(numbers(writer.between(6, 3).collect()).is_empty());
        assert_eq!(
            numbers(writer.of_series(10).collect()),
            (LIFE..2 * LIFE).collect::<Vec<_>>()
        );
    }
}
