//! A checksum of what a shard holds logically, equal on all replicas at the same log position whatever
//! they have flushed and whichever ids their series have.

use xxhash_rust::xxh3::Xxh3;

use crate::chunk;
use crate::columns::SampleColumns;
use crate::error::StorageError;
use crate::head::HeadCopy;
use crate::histogram_chunk::HistogramSample;
use crate::histogram_head::encoded;
use crate::labels::Labels;
use crate::select::copy_head;
use crate::shard::{LogPosition, Shard};
use crate::slab::{SlabReader, Window};

/// Bytes of rows kept while all series are read.
const READER_BYTES_MAX: usize = 32 << 20;

/// A shard's content in a few numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogicalChecksum {
    /// The last entry contained.
    pub position: Option<LogPosition>,
    /// xxh3 over tenants, labels, timestamps, value bits and encoded histograms in canonical order.
    pub checksum: u64,
    /// Series with samples.
    pub series: u64,
    /// Samples.
    pub samples: u64,
}

struct Row {
    tenant: String,
    labels: Labels,
    id: u64,
    head: HeadCopy,
    cut_ms: i64,
}

impl Shard {
    /// Reads every sample within the retention, from RocksDB and from memory, and digests it.
    /// The lock is held while unflushed chunks are copied.
    pub fn checksum(&self) -> Result<LogicalChecksum, StorageError> {
        self.check_poison()?;
        let (mut rows, position, flushed, tombstones) = {
            let state = self.state.read();
            let rows: Vec<Row> = state
                .table
                .ids()
                .filter_map(|id| {
                    let labels = state.table.labels(id)?;
                    let tenant = state.table.tenant_name(state.table.tenant_of(id)?).to_owned();
                    let cut_ms = state.cut_ms(&tenant);
                    let head = copy_head(&state, id, cut_ms, i64::MAX);
                    Some(Row {
                        tenant,
                        labels,
                        id,
                        head,
                        cut_ms,
                    })
                })
                .collect();
            let tombstones = state.tombstones.clone();
            (rows, state.applied, state.flushed.clone(), tombstones)
        };
        rows.sort_by(|a, b| (&a.tenant, a.labels.as_bytes()).cmp(&(&b.tenant, b.labels.as_bytes())));
        let mut reader = SlabReader::new(self.key, READER_BYTES_MAX, false);
        let mut columns = SampleColumns::new();
        let mut digest = Digest {
            hasher: Xxh3::new(),
            series: 0,
            samples: 0,
        };
        let mut samples = Vec::new();
        let mut histograms = Vec::new();
        for row in &rows {
            samples.clear();
            histograms.clear();
            let damaged = || StorageError::chunk(self.key.shard, row.id);
            if let Some(key) = flushed.series_key(row.id) {
                let mask = tombstones.over(row.id);
                let window = Window {
                    start_ms: row.cut_ms,
                    end_ms: i64::MAX,
                    mask: &mask,
                };
                columns.clear();
                for generation in flushed.generations() {
                    reader.read(&self.db, generation, key, window, &mut columns)?;
                    reader.read_histograms(&self.db, generation, key, window, &mut histograms)?;
                }
                samples.extend(columns.iter().map(|(t, value)| (t, value.to_bits())));
            }
            let mut add = |t: i64, bits: u64| {
                if t >= row.cut_ms {
                    samples.push((t, bits));
                }
                true
            };
            for chunk in &row.head.chunks {
                chunk::decode(&chunk.bytes, &mut add).map_err(damaged())?;
            }
            samples.extend_from_slice(&row.head.late);
            let unflushed = row.head.histograms.decode(row.cut_ms, i64::MAX);
            histograms.append(&mut unflushed.map_err(damaged())?);
            digest.add(&row.tenant, &row.labels, &mut samples, &mut histograms);
        }
        Ok(LogicalChecksum {
            position,
            checksum: digest.hasher.digest(),
            series: digest.series,
            samples: digest.samples,
        })
    }
}

struct Digest {
    hasher: Xxh3,
    series: u64,
    samples: u64,
}

impl Digest {
    /// Adds a series; one without samples leaves no trace.
    fn add(
        &mut self,
        tenant: &str,
        labels: &Labels,
        samples: &mut [(i64, u64)],
        histograms: &mut [HistogramSample],
    ) {
        if samples.is_empty() && histograms.is_empty() {
            return;
        }
        samples.sort_unstable();
        histograms.sort_by_key(|(t, _)| *t);
        for bytes in [tenant.as_bytes(), labels.as_bytes()] {
            self.hasher.update(&(bytes.len() as u64).to_le_bytes());
            self.hasher.update(bytes);
        }
        self.hasher.update(&(samples.len() as u64).to_le_bytes());
        for (t, bits) in samples.iter() {
            self.hasher.update(&t.to_le_bytes());
            self.hasher.update(&bits.to_le_bytes());
        }
        for (t, histogram) in histograms.iter() {
            let encoded = encoded(histogram);
            self.hasher.update(&t.to_le_bytes());
            self.hasher.update(&(encoded.len() as u64).to_le_bytes());
            self.hasher.update(&encoded);
        }
        self.series += 1;
        self.samples += (samples.len() + histograms.len()) as u64;
    }
}
