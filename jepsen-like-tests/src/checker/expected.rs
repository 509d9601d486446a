//! The model: which samples a read must see and which it may see, from what clients knew and from log indexes.

use std::collections::{BTreeMap, HashMap};

use super::freshness::{Drifts, promised_us};
use super::placement::Placement;
use crate::history::{BatchOutcome, Level, Outcomes, Question, Read, ShardRead, State, WriterOutcomes};
use crate::values::{Batch, Kind, SeriesId};

/// Prometheus's stale marker, which PromQL never returns.
pub(super) const STALE_BITS: u64 = 0x7ff0_0000_0000_0002;

/// A sample that a read may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) timestamp_ms: i64,
    pub(super) bits: u64,
    /// Why the read has to see it, if it has to.
    pub(super) must: Option<Why>,
}

/// Why a read has to see a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// It was committed at or below the log index that was read at.
    Prefix,
    /// The read's level promises it.
    Level,
}

/// A sample of a batch that no client knew to be stored, and the earliest time at which a read had returned it.
pub(super) type Seen = HashMap<(SeriesId, i64), (u64, u64)>;

/// What is known besides a read itself.
#[derive(Debug)]
pub(super) struct Model<'a> {
    pub(super) outcomes: &'a Outcomes,
    pub(super) placement: &'a Placement,
    pub(super) drifts: &'a Drifts,
    pub(super) seen: Seen,
    labels: HashMap<SeriesId, Vec<(&'static str, String)>>,
}

impl<'a> Model<'a> {
    pub(super) fn new(outcomes: &'a Outcomes, placement: &'a Placement, drifts: &'a Drifts) -> Model<'a> {
        Model {
            outcomes,
            placement,
            drifts,
            seen: Seen::new(),
            labels: HashMap::new(),
        }
    }

    /// Whether a question is about a series.
    pub(super) fn takes(&mut self, question: &Question, series: SeriesId) -> bool {
        let labels = self.labels.entry(series).or_insert_with(|| series.labels());
        question.matchers.iter().all(|matcher| {
            let labels = labels.iter().map(|(name, value)| (*name, value.as_str()));
            matcher.takes(labels)
        })
    }

    /// The samples in a window that a read may have seen, by series, each in the order of time.
    pub(super) fn candidates(
        &mut self,
        read: &Read,
        ended_us: u64,
        (after_ms, until_ms): (i64, i64),
    ) -> BTreeMap<SeriesId, Vec<Candidate>> {
        let mut candidates = BTreeMap::new();
        let outcomes = self.outcomes;
        for (writer, known) in outcomes
            .writers()
            .filter(|(writer, _)| may_take(&read.question, *writer))
        {
            let may_exist = |known: &&BatchOutcome| known.state != State::Refused && known.sent_us < ended_us;
            let batches: Vec<&BatchOutcome> = known.between(after_ms, until_ms).filter(may_exist).collect();
            for number in numbers(known, &batches) {
                let series = SeriesId { writer, number };
                if !self.takes(&read.question, series) {
                    continue;
                }
                let view = self.view(read, series);
                let of_series: Vec<Candidate> = batches
                    .iter()
                    .filter_map(|known| {
                        let bits = known.batch.bits_of(number)?;
                        if view.hides(known) {
                            return None;
                        }
                        let timestamp_ms = known.batch.timestamp_ms;
                        let must = view
                            .why(known)
                            .or_else(|| self.was_seen(read, series, timestamp_ms, bits));
                        Some(Candidate {
                            timestamp_ms,
                            bits,
                            must,
                        })
                    })
                    .collect();
                if !of_series.is_empty() {
                    candidates.insert(series, of_series);
                }
            }
        }
        candidates
    }

    /// What an earlier read returned, a linearizable one returns too.
    fn was_seen(&self, read: &Read, series: SeriesId, timestamp_ms: i64, bits: u64) -> Option<Why> {
        let (seen_bits, seen_us) = self.seen.get(&(series, timestamp_ms))?;
        let is_due = read.level == Level::Linearizable && *seen_us < read.began_us && *seen_bits == bits;
        is_due.then_some(Why::Level)
    }

    pub(super) fn view<'r>(&self, read: &'r Read, series: SeriesId) -> View<'r> {
        let own = self.placement.shard_of(series);
        let shard = own.and_then(|own| read.shards.iter().find(|shard| shard.shard == own));
        let shards = match shard {
            Some(shard) => std::slice::from_ref(shard),
            None => &read.shards,
        };
        // Its end is not needed: ages are taken while the read goes on.
        let drifts = |shard: &&ShardRead| self.drifts.touch(shard.node, read.began_us, read.began_us);
        let promised_us = match read.level {
            Level::Linearizable => Some(read.began_us),
            _ if shards.iter().any(|shard| drifts(&shard)) => None,
            _ => {
                let promises = shards.iter().map(|shard| promised_us(read, shard));
                promises.min().flatten()
            }
        };
        View {
            shards,
            is_own: shard.is_some(),
            promised_us,
        }
    }
}

/// What a read promises of one series.
#[derive(Debug)]
pub(super) struct View<'r> {
    /// The series' own shard, or every shard that was read.
    shards: &'r [ShardRead],
    is_own: bool,
    /// What was acknowledged before is seen.
    promised_us: Option<u64>,
}

impl View<'_> {
    /// Why the batch's samples of the series must be seen.
    fn why(&self, known: &BatchOutcome) -> Option<Why> {
        let acked_us = known.acked_us?;
        let is_below = |shard: &ShardRead, all_at: u64| all_at <= shard.before;
        let by_prefix = match (self.is_own, self.shards) {
            (true, [shard]) => known
                .commit_in(shard.shard)
                .is_some_and(|commit| is_below(shard, commit.all_at)),
            // In whichever of them the series is, it is there.
            _ => {
                !known.commits.is_empty()
                    && known.commits.iter().all(|commit| {
                        let read = self.shards.iter().find(|shard| shard.shard == commit.shard);
                        read.is_some_and(|shard| is_below(shard, commit.all_at))
                    })
            }
        };
        if by_prefix {
            return Some(Why::Prefix);
        }
        let is_promised = self.promised_us.is_some_and(|promised_us| acked_us < promised_us);
        is_promised.then_some(Why::Level)
    }

    /// Whether the batch's samples of the series were committed after what was read.
    pub(super) fn hides(&self, known: &BatchOutcome) -> bool {
        match (self.is_own, self.shards) {
            (true, [shard]) => known
                .commit_in(shard.shard)
                .is_some_and(|commit| commit.none_before > shard.after),
            _ => {
                !known.commits.is_empty()
                    && known.commits.iter().all(|commit| {
                        let read = self.shards.iter().find(|shard| shard.shard == commit.shard);
                        read.is_some_and(|shard| commit.none_before > shard.after)
                    })
            }
        }
    }
}

/// Whether a question may be about a series of this writer, by the labels that all of them have.
fn may_take(question: &Question, writer: u32) -> bool {
    let instance = format!("writer-{writer}");
    let of_writer = [("instance", instance.as_str()), ("job", Kind::of(writer).job())];
    question
        .matchers
        .iter()
        .filter(|matcher| of_writer.iter().any(|(label, _)| matcher.label == *label))
        .all(|matcher| matcher.takes(of_writer))
}

/// The numbers of all series of these batches.
fn numbers(known: &WriterOutcomes, batches: &[&BatchOutcome]) -> Vec<u32> {
    let range = |batch: Batch| batch.first_series()..batch.first_series().saturating_add(batch.series);
    let is_churn = known
        .batches()
        .first()
        .is_some_and(|known| Kind::of(known.batch.writer) == Kind::Churn);
    if !is_churn {
        let end = batches.iter().map(|known| known.batch.series).max();
        return (0..end.unwrap_or(0)).collect();
    }
    let mut numbers: Vec<u32> = batches.iter().flat_map(|known| range(known.batch)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}
