//! What a shard must hold and answer, written as plainly as possible, for every index of its log.

use std::collections::{BTreeMap, BTreeSet};

use quorate_storage::{Limits, PartOutcome, RejectReason, entry::UNREGISTERED};

/// Number of a series of the workload.
pub type Series = u32;

/// How a sample names its series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// By the ordinal of a series that came with its labels.
    Labels(usize),
    /// By the id that an earlier outcome gave.
    Id(u64),
}

/// A part as it was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Number of the tenant.
    pub tenant: usize,
    /// Series that come with labels.
    pub series: Vec<Series>,
    /// Series, timestamp, bits.
    pub samples: Vec<(Named, i64, u64)>,
}

/// An entry as it was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Samples.
    Write {
        /// The leader's clock.
        now_ms: i64,
        /// The parts.
        parts: Vec<Part>,
    },
    /// New limits.
    Limits {
        /// The leader's clock.
        now_ms: i64,
        /// The limits.
        limits: Limits,
    },
}

/// What an outcome says, without its texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    stored: u64,
    duplicates: u64,
    rejected: BTreeMap<RejectReason, u64>,
    new_ids: Vec<u64>,
    unknown_ids: BTreeSet<u64>,
}

impl Expected {
    /// Whether every sample is stored, by this part or an earlier one.
    pub fn is_stored(&self) -> bool {
        self.rejected.is_empty() && self.unknown_ids.is_empty()
    }

    /// The id of each series that came with labels.
    pub fn new_ids(&self) -> &[u64] {
        &self.new_ids
    }
}

impl From<&PartOutcome> for Expected {
    fn from(outcome: &PartOutcome) -> Self {
        let rejected = outcome.rejections.iter().map(|r| (r.reason, r.samples));
        Self {
            stored: outcome.stored,
            duplicates: outcome.duplicates,
            rejected: rejected.collect(),
            new_ids: outcome.new_ids.clone(),
            unknown_ids: outcome.unknown_ids.iter().copied().collect(),
        }
    }
}

/// Samples of series in time order, as a read gives them; series without samples are left out.
pub type Samples = BTreeMap<Series, Vec<(i64, u64)>>;

#[derive(Default)]
struct Stored {
    id: u64,
    newest_ms: Option<i64>,
    /// Bits, and the index that stored them.
    samples: BTreeMap<i64, (u64, u64)>,
}

/// The shard after every index applied so far.
pub struct Model {
    limits: Limits,
    now_ms: i64,
    cut_ms: i64,
    /// From which index on which retention cut counts.
    cuts: Vec<(u64, i64)>,
    series: BTreeMap<Series, Stored>,
    /// Tenant and series by id; the first id is 1.
    ids: Vec<(usize, Series)>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            now_ms: i64::MIN,
            cut_ms: i64::MIN,
            cuts: Vec::new(),
            series: BTreeMap::new(),
            ids: Vec::new(),
        }
    }
}

impl Model {
    /// Applies an entry and tells what its outcome must be.
    pub fn apply(&mut self, index: u64, content: &Content) -> Vec<Expected> {
        match content {
            Content::Limits { now_ms, limits } => {
                self.advance(index, *now_ms);
                self.limits = *limits;
                self.advance(index, *now_ms);
                Vec::new()
            }
            Content::Write { now_ms, parts } => {
                self.advance(index, *now_ms);
                parts.iter().map(|part| self.part(index, part)).collect()
            }
        }
    }

    fn advance(&mut self, index: u64, now_ms: i64) {
        self.now_ms = self.now_ms.max(now_ms);
        let cut_ms = self.now_ms.saturating_sub_unsigned(self.limits.retention_ms);
        if cut_ms > self.cut_ms {
            self.cut_ms = cut_ms;
            self.cuts.push((index, cut_ms));
        }
    }

    fn part(&mut self, index: u64, part: &Part) -> Expected {
        let mut expected = Expected::default();
        for series in &part.series {
            expected.new_ids.push(self.register(part.tenant, *series));
        }
        for (named, t, bits) in &part.samples {
            let series = match named {
                Named::Labels(ordinal) => {
                    if expected.new_ids[*ordinal] == UNREGISTERED {
                        *expected.rejected.entry(RejectReason::SeriesLimit).or_default() += 1;
                        continue;
                    }
                    part.series[*ordinal]
                }
                Named::Id(id) => {
                    let found = self.ids.get((*id as usize).wrapping_sub(1));
                    match found.filter(|(tenant, _)| *tenant == part.tenant) {
                        Some((_, series)) => *series,
                        None => {
                            expected.unknown_ids.insert(*id);
                            continue;
                        }
                    }
                }
            };
            match self.sample(index, series, *t, *bits) {
                Ok(true) => expected.stored += 1,
                Ok(false) => expected.duplicates += 1,
                Err(reason) => *expected.rejected.entry(reason).or_default() += 1,
            }
        }
        expected
    }

    fn register(&mut self, tenant: usize, series: Series) -> u64 {
        if let Some(stored) = self.series.get(&series) {
            return stored.id;
        }
        if self.ids.len() as u64 >= self.limits.max_series_per_shard {
            return UNREGISTERED;
        }
        self.ids.push((tenant, series));
        let id = self.ids.len() as u64;
        let stored = Stored {
            id,
            ..Stored::default()
        };
        self.series.insert(series, stored);
        id
    }

    /// Whether the sample is new.
    fn sample(&mut self, index: u64, series: Series, t: i64, bits: u64) -> Result<bool, RejectReason> {
        if t < self.cut_ms {
            return Err(RejectReason::TooOld);
        }
        let stored = self.series.entry(series).or_default();
        match stored.samples.get(&t) {
            Some((there, _)) if *there == bits => return Ok(false),
            Some(_) => return Err(RejectReason::DuplicateTimestamp),
            None => {}
        }
        let newest = stored.newest_ms.unwrap_or(i64::MIN);
        if t < newest.saturating_sub_unsigned(self.limits.ooo_window_ms) {
            return Err(RejectReason::OutOfOrder);
        }
        if t > self.now_ms.saturating_add_unsigned(self.limits.max_ahead_ms) {
            return Err(RejectReason::TooFarAhead);
        }
        stored.samples.insert(t, (bits, index));
        stored.newest_ms = Some(newest.max(t));
        Ok(true)
    }

    /// The retention cut after an index.
    fn cut_at(&self, index: u64) -> i64 {
        let after = self.cuts.partition_point(|(from, _)| *from <= index);
        after.checked_sub(1).map_or(i64::MIN, |at| self.cuts[at].1)
    }

    /// What a read of these series in this inclusive window must give after `index`.
    pub fn read(
        &self,
        index: Option<u64>,
        wanted: impl Fn(Series) -> bool,
        start_ms: i64,
        end_ms: i64,
    ) -> Samples {
        let Some(index) = index else {
            return Samples::new();
        };
        let start_ms = start_ms.max(self.cut_at(index));
        let mut all = Samples::new();
        for (series, stored) in self.series.iter().filter(|(series, _)| wanted(**series)) {
            if start_ms > end_ms {
                break;
            }
            let samples: Vec<(i64, u64)> = stored
                .samples
                .range(start_ms..=end_ms)
                .filter(|(_, (_, stored_at))| *stored_at <= index)
                .map(|(t, (bits, _))| (*t, *bits))
                .collect();
            if !samples.is_empty() {
                all.insert(*series, samples);
            }
        }
        all
    }

    /// The retention cut now.
    pub fn cut_ms(&self) -> i64 {
        self.cut_ms
    }

    /// The newest sample of a series, if it has one.
    pub fn newest_ms(&self, series: Series) -> Option<i64> {
        self.series.get(&series)?.newest_ms
    }
}
