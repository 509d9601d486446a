//! Column families and row keys.
//!
//! Every key starts with `shard u32 | replica u64`, big endian, so that the rows of one replica are one
//! range. Slab rows: `prefix | generation u64 | 'S' or 'H' | metric u32 | series u64 | first timestamp`. Times
//! rows: `prefix | generation u64 | 'T' | row u64`. Label rows: `prefix | epoch u64 | 'L' | series u64`.
//! State rows: `prefix | epoch u64 | 'T' | generation u64 | block u64`. Activity rows: `prefix | epoch u64 |
//! 'A' | generation u64 | span`. Meta row: the prefix alone.

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBWithThreadMode, MultiThreaded,
    Options,
};

/// The database handle that all crates of a node share.
pub(crate) type Db = DBWithThreadMode<MultiThreaded>;

/// Slabs and timestamps of flushed generations.
pub const CF_CHUNKS: &str = "chunks";
/// Labels of series, and the state and activity that recovery needs.
pub const CF_SERIES: &str = "series";
/// One row per replica of a shard: what is durable.
pub const CF_SHARD_META: &str = "shard_meta";

const BLOCK_BYTES: usize = 32 * 1024;

/// The column families of the store with their options, sharing a block cache if one is given.
pub(crate) fn column_families(cache: Option<&Cache>) -> Vec<ColumnFamilyDescriptor> {
    vec![
        ColumnFamilyDescriptor::new(CF_CHUNKS, table_options(cache)),
        ColumnFamilyDescriptor::new(CF_SERIES, table_options(cache)),
        ColumnFamilyDescriptor::new(CF_SHARD_META, Options::default()),
    ]
}

/// Options of an ingested family, also those that its SST files are written with.
pub(crate) fn table_options(cache: Option<&Cache>) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_size(BLOCK_BYTES);
    table.set_format_version(6);
    if let Some(cache) = cache {
        table.set_block_cache(cache);
    }
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Zstd);
    // Only range deletions pass through the memtable.
    options.set_write_buffer_size(1 << 20);
    options
}

/// The prefix of all rows of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ReplicaKey {
    pub(crate) shard: u32,
    pub(crate) replica: u64,
}

pub(crate) const KIND_ACTIVITY: u8 = b'A';
pub(crate) const KIND_LABELS: u8 = b'L';
pub(crate) const KIND_STATE: u8 = b'T';
const KIND_VALUES: u8 = b'S';
const KIND_HISTOGRAMS: u8 = b'H';
pub(crate) const KIND_TIMES: u8 = b'T';

/// What the columns of a slab hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlabKind {
    Values,
    Histograms,
}

impl SlabKind {
    /// In the order of their rows.
    pub(crate) const ALL: [Self; 2] = [Self::Histograms, Self::Values];

    fn byte(self) -> u8 {
        match self {
            Self::Values => KIND_VALUES,
            Self::Histograms => KIND_HISTOGRAMS,
        }
    }

    /// The kind of slab rows with this byte in their keys.
    pub(crate) fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.byte() == byte)
    }
}

impl ReplicaKey {
    pub(crate) fn prefix(self) -> Vec<u8> {
        let mut key = Vec::with_capacity(40);
        key.extend_from_slice(&self.shard.to_be_bytes());
        key.extend_from_slice(&self.replica.to_be_bytes());
        key
    }

    /// The first key behind all rows of the replica.
    pub(crate) fn end(self) -> Vec<u8> {
        successor(self.prefix())
    }

    pub(crate) fn generation(self, generation: u64) -> Vec<u8> {
        let mut key = self.prefix();
        key.extend_from_slice(&generation.to_be_bytes());
        key
    }

    /// The prefix of a generation's slabs of one kind.
    pub(crate) fn slabs(self, generation: u64, kind: SlabKind) -> Vec<u8> {
        let mut key = self.generation(generation);
        key.push(kind.byte());
        key
    }

    /// The key of a slab by its first column.
    pub(crate) fn slab(self, generation: u64, kind: SlabKind, first: SlabKey) -> Vec<u8> {
        let mut key = self.slabs(generation, kind);
        key.extend_from_slice(&first.metric.to_be_bytes());
        key.extend_from_slice(&first.series.to_be_bytes());
        key.extend_from_slice(&ordered(first.first_ms).to_be_bytes());
        key
    }

    /// The key of a row of timestamps.
    pub(crate) fn times(self, generation: u64, row: u64) -> Vec<u8> {
        let mut key = self.generation(generation);
        key.push(KIND_TIMES);
        key.extend_from_slice(&row.to_be_bytes());
        key
    }

    pub(crate) fn labels(self, epoch: u64, series: u64) -> Vec<u8> {
        let mut key = self.generation(epoch);
        key.push(KIND_LABELS);
        key.extend_from_slice(&series.to_be_bytes());
        key
    }

    /// The key of a row of active series.
    pub(crate) fn activity(self, epoch: u64, generation: u64, span: i64) -> Vec<u8> {
        let mut key = self.generation(epoch);
        key.push(KIND_ACTIVITY);
        key.extend_from_slice(&generation.to_be_bytes());
        key.extend_from_slice(&ordered(span).to_be_bytes());
        key
    }

    pub(crate) fn state(self, epoch: u64, generation: u64, block: u64) -> Vec<u8> {
        let mut key = self.generation(epoch);
        key.push(KIND_STATE);
        key.extend_from_slice(&generation.to_be_bytes());
        key.extend_from_slice(&block.to_be_bytes());
        key
    }
}

/// What the key of a slab says of its first column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SlabKey {
    pub(crate) metric: u32,
    pub(crate) series: u64,
    pub(crate) first_ms: i64,
}

/// Reads the key of a slab.
pub(crate) fn parse_slab_key(key: &[u8]) -> Option<SlabKey> {
    let (kind, tail) = key.get(20..)?.split_first()?;
    SlabKind::of(*kind)?;
    let (metric, tail) = tail.split_first_chunk::<4>()?;
    let (series, tail) = tail.split_first_chunk::<8>()?;
    let first: &[u8; 8] = tail.try_into().ok()?;
    Some(SlabKey {
        metric: u32::from_be_bytes(*metric),
        series: u64::from_be_bytes(*series),
        first_ms: (u64::from_be_bytes(*first) ^ (1 << 63)) as i64,
    })
}

/// The last eight bytes of a key as a number.
pub(crate) fn trailing_u64(key: &[u8]) -> Option<u64> {
    key.last_chunk::<8>().map(|tail| u64::from_be_bytes(*tail))
}

/// The last eight bytes of an activity row's key as the number of its span.
pub(crate) fn trailing_span(key: &[u8]) -> Option<i64> {
    trailing_u64(key).map(|span| (span ^ (1 << 63)) as i64)
}

/// Maps `i64` to `u64` keeping the order.
fn ordered(value: i64) -> u64 {
    value as u64 ^ (1 << 63)
}

/// The first key behind every key that starts with `prefix`.
pub(crate) fn successor(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.pop() {
        if last < u8::MAX {
            prefix.push(last + 1);
            return prefix;
        }
    }
    // Unreachable for our keys: a shard number of all ones is not given out.
    vec![u8::MAX; 48]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_series_and_time() {
        let key = ReplicaKey {
            shard: 3,
            replica: 0x0102,
        };
        let slab_of = |kind, generation, metric, series, first_ms| {
            let first = SlabKey {
                metric,
                series,
                first_ms,
            };
            key.slab(generation, kind, first)
        };
        let slab =
            |generation, metric, series, first| slab_of(SlabKind::Values, generation, metric, series, first);
        let histograms = |generation, metric| slab_of(SlabKind::Histograms, generation, metric, 8, -9);
        assert!(key.generation(1) < histograms(1, 0));
        assert!(histograms(1, u32::MAX) < slab(1, 0, 0, i64::MIN));
        assert!(slab(1, 5, 2, -5) < slab(1, 5, 2, 5));
        assert!(slab(1, 5, 2, i64::MAX) < slab(1, 5, 3, i64::MIN));
        assert!(slab(1, 5, u64::MAX, 0) < slab(1, 6, 0, 0));
        assert!(slab(1, u32::MAX, u64::MAX, i64::MAX) < key.times(1, 0));
        assert!(key.times(1, u64::MAX) < slab(2, 0, 0, i64::MIN));
        assert!(slab(9, 9, 9, 9) < key.end());
        let parsed = SlabKey {
            metric: 7,
            series: 8,
            first_ms: -9,
        };
        assert_eq!(parse_slab_key(&slab(1, 7, 8, -9)), Some(parsed));
        assert_eq!(parse_slab_key(&histograms(1, 7)), Some(parsed));
        assert_eq!(parse_slab_key(&key.times(1, 7)), None);
        assert_eq!(parse_slab_key(&key.prefix()), None);
        assert_eq!(trailing_u64(&key.labels(1, 77)), Some(77));
        assert_eq!(trailing_span(&key.activity(1, 2, -77)), Some(-77));
        assert!(key.activity(1, 2, -1) < key.activity(1, 2, 0));
        assert!(key.activity(1, u64::MAX, i64::MAX) < key.labels(1, 0));
        assert_eq!(successor(vec![1, 0xff]), vec![2]);
    }
}
