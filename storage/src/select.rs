//! Reading: selection of series, and their samples merged from RocksDB and memory.

use std::sync::Arc;

use parking_lot::Mutex;
use roaring::RoaringBitmap;
use smallvec::SmallVec;

use crate::chunk;
use crate::columns::SampleColumns;
use crate::error::StorageError;
use crate::flushed::Flushed;
use crate::head::HeadCopy;
use crate::labels::Labels;
use crate::matcher::Matcher;
use crate::rows::{Db, ReplicaKey};
use crate::series::SeriesTable;
use crate::shard::{Shard, State};
use crate::slab::{SlabReader, Window};
use crate::tombstones::Tombstones;

/// Bytes of rows that a selection keeps between its series.
const READER_BYTES_MAX: usize = 16 << 20;

/// Bounds of one selection.
#[derive(Clone, Copy, Debug)]
pub struct SelectLimits {
    /// The most series that may match.
    pub max_series: u64,
    /// The most bytes of unflushed chunks copied.
    pub max_head_bytes: u64,
}

impl Default for SelectLimits {
    fn default() -> Self {
        Self {
            max_series: 1_000_000,
            max_head_bytes: 1 << 30,
        }
    }
}

/// A series that matched, with a view of its samples that later writes do not change.
#[derive(Clone, Debug)]
pub struct SelectedSeries {
    /// The series' labels.
    pub labels: Labels,
    id: u64,
    /// Whether it may have native histograms.
    with_histograms: bool,
    head: HeadCopy,
    view: Arc<View>,
}

/// What the series of one selection share.
#[derive(Debug)]
struct View {
    db: Arc<Db>,
    key: ReplicaKey,
    /// Pins the rows that samples are read from.
    flushed: Arc<Flushed>,
    tombstones: Arc<Tombstones>,
    start_ms: i64,
    end_ms: i64,
    reader: Mutex<SlabReader>,
}

impl SelectedSeries {
    /// Replaces `out` by the samples in the selection's window, in time order, with their exact bits.
    pub fn samples(&self, out: &mut SampleColumns) -> Result<(), StorageError> {
        out.clear();
        let view = &self.view;
        let (start_ms, end_ms) = (view.start_ms, view.end_ms);
        let mut ends = SmallVec::<[usize; 8]>::new();
        if let Some(key) = view.flushed.series_key(self.id) {
            let mask = view.tombstones.over(self.id);
            let window = Window {
                start_ms,
                end_ms,
                mask: &mask,
            };
            let mut reader = view.reader.lock();
            for generation in view.flushed.generations() {
                reader.read(&view.db, generation, key, window, out)?;
                ends.push(out.len());
            }
        }
        // A column ascends; where two meet is looked at.
        let mut sorted = ends.iter().all(|end| {
            let two = end
                .checked_sub(1)
                .and_then(|before| out.timestamps.get(before..end + 1));
            two.is_none_or(|two| two[0] < two[1])
        });
        let mut add = |t: i64, bits: u64| {
            if (start_ms..=end_ms).contains(&t) {
                sorted &= out.timestamps.last().is_none_or(|last| *last < t);
                out.push(t, f64::from_bits(bits));
            }
            t <= end_ms
        };
        let damaged = || StorageError::chunk(view.key.shard, self.id);
        for chunk in &self.head.chunks {
            chunk::decode(&chunk.bytes, &mut add).map_err(damaged())?;
        }
        for (t, bits) in &self.head.late {
            add(*t, *bits);
        }
        if self.with_histograms {
            sorted &= !self.histograms(out)?;
        }
        if !sorted {
            out.put_in_order();
        }
        Ok(())
    }

    /// Appends the native histograms in the window; whether there are any.
    fn histograms(&self, out: &mut SampleColumns) -> Result<bool, StorageError> {
        let view = &self.view;
        let (start_ms, end_ms) = (view.start_ms, view.end_ms);
        let mut found = Vec::new();
        if let Some(key) = view.flushed.series_key(self.id) {
            let mask = view.tombstones.over(self.id);
            let window = Window {
                start_ms,
                end_ms,
                mask: &mask,
            };
            let mut reader = view.reader.lock();
            for generation in view.flushed.generations() {
                reader.read_histograms(&view.db, generation, key, window, &mut found)?;
            }
        }
        let unflushed = self.head.histograms.decode(start_ms, end_ms);
        found.append(&mut unflushed.map_err(StorageError::chunk(view.key.shard, self.id))?);
        let any = !found.is_empty();
        for (t, histogram) in found {
            out.push_histogram(t, histogram);
        }
        Ok(any)
    }
}

impl Shard {
    /// The series of a tenant that pass all matchers and may have samples in the inclusive window of
    /// Unix milliseconds, sorted by labels.
    pub fn select(
        &self,
        tenant: &str,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
        limits: &SelectLimits,
    ) -> Result<Vec<SelectedSeries>, StorageError> {
        self.check_poison()?;
        let mut selected = Vec::new();
        {
            let state = self.state.read();
            let start_ms = start_ms.max(state.cut_ms(tenant));
            let ids = self.resolve(&state, tenant, matchers, start_ms, end_ms);
            if ids.len() > limits.max_series {
                return Err(StorageError::TooMuch {
                    what: "series",
                    max: limits.max_series,
                });
            }
            let view = Arc::new(View {
                db: self.db.clone(),
                key: self.key,
                flushed: state.flushed.clone(),
                tombstones: state.tombstones.clone(),
                start_ms,
                end_ms,
                reader: Mutex::new(SlabReader::new(self.key, READER_BYTES_MAX, true)),
            });
            let mut bytes = 0;
            selected.reserve(ids.len() as usize);
            for id in ids.iter().map(u64::from) {
                let Some(labels) = state.table.labels(id) else {
                    continue;
                };
                let head = copy_head(&state, id, start_ms, end_ms);
                bytes += head.bytes();
                if bytes > limits.max_head_bytes {
                    return Err(StorageError::TooMuch {
                        what: "bytes of recent samples",
                        max: limits.max_head_bytes,
                    });
                }
                selected.push(SelectedSeries {
                    labels,
                    id,
                    // Ids fit, see `SERIES_MAX`.
                    with_histograms: state.with_histograms.contains(id as u32),
                    head,
                    view: view.clone(),
                });
            }
        }
        selected.sort_by(|a, b| a.labels.cmp(&b.labels));
        Ok(selected)
    }

    /// The label sets that pass any of the matcher sets and may have samples in the inclusive window,
    /// sorted. No matcher set selects every series of the tenant.
    pub fn series(
        &self,
        tenant: &str,
        matcher_sets: &[Vec<Matcher>],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<Labels>, StorageError> {
        self.check_poison()?;
        let state = self.state.read();
        let ids = self.resolve_any(&state, tenant, matcher_sets, start_ms, end_ms);
        let mut labels: Vec<Labels> = ids
            .iter()
            .filter_map(|id| state.table.labels(u64::from(id)))
            .collect();
        drop(state);
        labels.sort();
        Ok(labels)
    }

    /// The label names of those series, sorted.
    pub fn label_names(
        &self,
        tenant: &str,
        matcher_sets: &[Vec<Matcher>],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<String>, StorageError> {
        self.check_poison()?;
        let state = self.state.read();
        let ids = self.resolve_any(&state, tenant, matcher_sets, start_ms, end_ms);
        let Some(index) = state
            .table
            .tenant(tenant)
            .and_then(|number| state.table.index(number))
        else {
            return Ok(Vec::new());
        };
        let within = index.unless_all(&ids);
        let mut names: Vec<String> = index.names(within).map(str::to_owned).collect();
        drop(state);
        names.sort_unstable();
        Ok(names)
    }

    /// The values of a label on those series, sorted.
    pub fn label_values(
        &self,
        tenant: &str,
        name: &str,
        matcher_sets: &[Vec<Matcher>],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Vec<String>, StorageError> {
        self.check_poison()?;
        let state = self.state.read();
        let ids = self.resolve_any(&state, tenant, matcher_sets, start_ms, end_ms);
        let Some(index) = state
            .table
            .tenant(tenant)
            .and_then(|number| state.table.index(number))
        else {
            return Ok(Vec::new());
        };
        let within = index.unless_all(&ids);
        Ok(index.values(name, within).map(str::to_owned).collect())
    }

    fn resolve_any(
        &self,
        state: &State,
        tenant: &str,
        matcher_sets: &[Vec<Matcher>],
        start_ms: i64,
        end_ms: i64,
    ) -> RoaringBitmap {
        let start_ms = start_ms.max(state.cut_ms(tenant));
        if matcher_sets.is_empty() {
            return self.resolve(state, tenant, &[], start_ms, end_ms);
        }
        let mut all = RoaringBitmap::new();
        for matchers in matcher_sets {
            all |= self.resolve(state, tenant, matchers, start_ms, end_ms);
        }
        all
    }

    fn resolve(
        &self,
        state: &State,
        tenant: &str,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> RoaringBitmap {
        let table: &SeriesTable = &state.table;
        let Some(index) = table.tenant(tenant).and_then(|number| table.index(number)) else {
            return RoaringBitmap::new();
        };
        let active = state.activity.within(start_ms, end_ms);
        let ids = index.resolve(matchers, Some(&*active), |id| table.pairs_of(u64::from(id)));
        let in_window = |id: &u32| {
            let id = u64::from(*id);
            let newest_ms = table.head(id).map_or(i64::MIN, |head| head.newest_ms);
            let oldest_ms = table.oldest_ms(id).unwrap_or(i64::MAX);
            oldest_ms <= end_ms && newest_ms >= start_ms
        };
        ids.into_iter().filter(in_window).collect()
    }
}

/// Copies what memory holds of a series in the window, frozen chunks first.
pub(crate) fn copy_head(state: &State, id: u64, start_ms: i64, end_ms: i64) -> HeadCopy {
    let mut copy = HeadCopy::default();
    if let Some(frozen) = &state.frozen {
        let chunks = frozen.chunks_of(id).iter();
        copy.chunks
            .extend(chunks.filter(|chunk| chunk.overlaps(start_ms, end_ms)).cloned());
        let histograms = frozen.histograms_of(id).iter();
        let histograms = histograms.filter(|chunk| chunk.overlaps(start_ms, end_ms));
        copy.histograms.chunks.extend(histograms.cloned());
    }
    state.table.copy_head(id, start_ms, end_ms, &mut copy);
    copy
}
