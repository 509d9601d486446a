//! What the series of shards look like: how many per metric and label, and where their memory goes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use roaring::RoaringBitmap;

use crate::shard::Shard;

/// The label that names the metric.
const METRIC: &str = "__name__";

/// Bytes of memory that series take, by part. Estimates: allocators round up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeriesMemory {
    /// State of series, and the table that finds a series by its labels.
    pub series: u64,
    /// Each series' list of label pairs.
    pub labels: u64,
    /// Label names and values, each kept once a shard.
    pub symbols: u64,
    /// Label pair → series.
    pub postings: u64,
    /// Samples that are not flushed.
    pub chunks: u64,
}

impl SeriesMemory {
    /// All parts together.
    pub fn total(&self) -> u64 {
        self.series + self.labels + self.symbols + self.postings + self.chunks
    }
}

/// The values of one label.
#[derive(Clone, Debug, Default)]
struct Label {
    /// Series by value.
    values: HashMap<String, u64>,
    /// Length of the value, summed over series.
    value_bytes: u64,
}

/// Cardinality of the series of one tenant, summed over shards with [`Self::add`].
#[derive(Clone, Debug, Default)]
pub struct Cardinality {
    /// Series that got a sample since the time asked for.
    pub active_series: u64,
    /// All series of the tenant that the shards know.
    pub registered_series: u64,
    /// Unflushed chunks, of all tenants.
    pub head_chunks: u64,
    /// Memory, of all tenants.
    pub memory: SeriesMemory,
    /// Bounds of the active series' newest samples, Unix milliseconds; `None` without active series.
    pub newest_ms: Option<(i64, i64)>,
    labels: BTreeMap<String, Label>,
}

impl Cardinality {
    /// Adds the series of `tenant` in a shard that got a sample at or after `since_ms` (Unix
    /// milliseconds). The shard is locked while one label's values are counted, not for all at once.
    pub fn add(&mut self, shard: &Shard, tenant: &str, since_ms: i64) {
        let mut active = RoaringBitmap::new();
        let names: Vec<String> = {
            let state = shard.state.read();
            let memory = state.table.memory();
            self.head_chunks += memory.chunk_count;
            self.memory.series += memory.series;
            self.memory.labels += memory.labels;
            self.memory.symbols += memory.symbols;
            self.memory.postings += memory.postings + state.activity.memory_bytes();
            self.memory.chunks += memory.chunks;
            let Some(index) = state
                .table
                .tenant(tenant)
                .and_then(|number| state.table.index(number))
            else {
                return;
            };
            for id in index.all() {
                let newest_ms = state
                    .table
                    .head(u64::from(id))
                    .map_or(i64::MIN, |head| head.newest_ms);
                if newest_ms >= since_ms && newest_ms > i64::MIN {
                    active.insert(id);
                    let (low, high) = self.newest_ms.unwrap_or((newest_ms, newest_ms));
                    self.newest_ms = Some((low.min(newest_ms), high.max(newest_ms)));
                }
            }
            self.registered_series += index.all().len();
            index.names(None).map(str::to_owned).collect()
        };
        self.active_series += active.len();
        for name in names {
            let state = shard.state.read();
            let Some(index) = state
                .table
                .tenant(tenant)
                .and_then(|number| state.table.index(number))
            else {
                return;
            };
            let label = self.labels.entry(name.clone()).or_default();
            index.count_values(&name, &active, |value, count| {
                label.value_bytes += value.len() as u64 * count;
                match label.values.get_mut(value) {
                    Some(series) => *series += count,
                    None => {
                        label.values.insert(value.to_owned(), count);
                    }
                }
            });
        }
        self.labels.retain(|_, label| !label.values.is_empty());
    }

    /// Distinct label pairs of active series.
    pub fn label_pairs(&self) -> u64 {
        self.labels.values().map(|label| label.values.len() as u64).sum()
    }

    /// The metrics with the most series, most first.
    pub fn series_by_metric(&self, limit: usize) -> Vec<(String, u64)> {
        let values = self
            .labels
            .get(METRIC)
            .into_iter()
            .flat_map(|label| &label.values);
        top(
            limit,
            values.map(|(metric, series)| (*series, metric.as_str())),
            str::to_owned,
        )
    }

    /// The labels with the most values, most first.
    pub fn values_by_label(&self, limit: usize) -> Vec<(String, u64)> {
        let labels = self.labels.iter();
        top(
            limit,
            labels.map(|(name, label)| (label.values.len() as u64, name.as_str())),
            str::to_owned,
        )
    }

    /// The labels whose values are the longest, summed over series; most first.
    pub fn value_bytes_by_label(&self, limit: usize) -> Vec<(String, u64)> {
        let labels = self.labels.iter();
        top(
            limit,
            labels.map(|(name, label)| (label.value_bytes, name.as_str())),
            str::to_owned,
        )
    }

    /// The pairs (`name=value`) with the most series, most first.
    pub fn series_by_pair(&self, limit: usize) -> Vec<(String, u64)> {
        let pairs = self.labels.iter().flat_map(|(name, label)| {
            label
                .values
                .iter()
                .map(move |(value, series)| (*series, (name.as_str(), value.as_str())))
        });
        top(limit, pairs, |(name, value)| format!("{name}={value}"))
    }
}

/// The `limit` entries with the highest counts; equal counts in order of their keys.
fn top<K: Ord>(
    limit: usize,
    entries: impl Iterator<Item = (u64, K)>,
    text: impl Fn(K) -> String,
) -> Vec<(String, u64)> {
    let mut kept = BinaryHeap::with_capacity(limit.min(10_000) + 1);
    for (count, key) in entries {
        kept.push((Reverse(count), key));
        if kept.len() > limit {
            kept.pop();
        }
    }
    kept.into_sorted_vec()
        .into_iter()
        .map(|(Reverse(count), key)| (text(key), count))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_counts_come_first_and_ties_by_name() {
        let entries = [(1, "d"), (7, "b"), (7, "a"), (3, "c"), (0, "e")];
        let found = top(3, entries.into_iter(), str::to_owned);
        assert_eq!(
            found,
            [("a".to_owned(), 7), ("b".to_owned(), 7), ("c".to_owned(), 3)]
        );
        assert!(top(0, entries.into_iter(), str::to_owned).is_empty());
    }
}
