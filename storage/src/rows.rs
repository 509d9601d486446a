//! Column families and row keys.
//!
//! Every key starts with `shard u32 | replica u64`, big endian, so that the rows of one replica are one
//! range. Chunk rows: `prefix | generation u64 | series u64 | first timestamp`. Label rows:
//! `prefix | epoch u64 | 'L' | series u64`. State rows: `prefix | epoch u64 | 'T' | generation u64 |
//! block u64`. Meta row: the prefix alone.

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBWithThreadMode, MultiThreaded,
    Options,
};

/// The database handle that all crates of a node share.
pub(crate) type Db = DBWithThreadMode<MultiThreaded>;

/// Chunks of flushed generations.
pub const CF_CHUNKS: &str = "chunks";
/// Labels of series and the state that recovery needs.
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

const KIND_LABELS: u8 = b'L';
const KIND_STATE: u8 = b'T';

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

    pub(crate) fn chunk(self, generation: u64, series: u64, first_ms: i64) -> Vec<u8> {
        let mut key = self.generation(generation);
        key.extend_from_slice(&series.to_be_bytes());
        key.extend_from_slice(&ordered(first_ms).to_be_bytes());
        key
    }

    pub(crate) fn labels(self, epoch: u64, series: u64) -> Vec<u8> {
        let mut key = self.generation(epoch);
        key.push(KIND_LABELS);
        key.extend_from_slice(&series.to_be_bytes());
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

/// Series and first timestamp of a chunk row's key.
pub(crate) fn parse_chunk_key(key: &[u8]) -> Option<(u64, i64)> {
    let tail: &[u8; 16] = key.get(20..36)?.try_into().ok().filter(|_| key.len() == 36)?;
    let (series, first) = tail.split_first_chunk::<8>()?;
    let first = u64::from_be_bytes(first.try_into().ok()?) ^ (1 << 63);
    Some((u64::from_be_bytes(*series), first as i64))
}

/// The last eight bytes of a key as a number.
pub(crate) fn trailing_u64(key: &[u8]) -> Option<u64> {
    key.last_chunk::<8>().map(|tail| u64::from_be_bytes(*tail))
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
        let chunk = |generation, series, first| key.chunk(generation, series, first);
        assert!(chunk(1, 2, -5) < chunk(1, 2, 5));
        assert!(chunk(1, 2, i64::MAX) < chunk(1, 3, i64::MIN));
        assert!(chunk(1, u64::MAX, 0) < chunk(2, 0, 0));
        assert!(chunk(9, 9, 9) < key.end());
        assert_eq!(parse_chunk_key(&chunk(1, 7, -9)), Some((7, -9)));
        assert_eq!(parse_chunk_key(&key.prefix()), None);
        assert_eq!(trailing_u64(&key.labels(1, 77)), Some(77));
        assert_eq!(successor(vec![1, 0xff]), vec![2]);
    }
}
