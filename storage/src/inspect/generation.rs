//! Checking the rows of one generation against each other and against the meta row.

use super::verify::Problems;
use crate::codec::histograms::HistogramsDecoder;
use crate::codec::values::ValuesDecoder;
use crate::error::StorageError;
use crate::flushed::{chunk_range, slab_range};
use crate::meta::{Generation, ShardMeta};
use crate::metrics::Metrics;
use crate::recover::scan;
use crate::rows::{Db, KIND_TIMES, ReplicaKey, SlabKey, SlabKind, parse_slab_key, trailing_u64};
use crate::slab::{BUCKET_MS, Slab, TimesRow};

/// What is known of the shard besides.
pub(super) struct Known<'a> {
    pub(super) db: &'a Db,
    pub(super) key: ReplicaKey,
    pub(super) meta: &'a ShardMeta,
    /// Metric numbers of the registered series.
    pub(super) metrics: &'a Metrics,
}

/// What a pass over the rows counts.
struct Pass<'a> {
    known: &'a Known<'a>,
    generation: &'a Generation,
    times: Vec<TimesRow>,
    decoder: ValuesDecoder,
    histograms: HistogramsDecoder,
    found: Generation,
    /// The last column: where it is sorted, and its latest sample.
    last: Option<(SlabKey, i64)>,
}

/// Checks all rows of a generation.
pub(super) fn check(
    known: &Known<'_>,
    generation: &Generation,
    problems: &mut Problems<'_>,
) -> Result<(), StorageError> {
    let mut pass = Pass {
        known,
        generation,
        times: Vec::new(),
        decoder: ValuesDecoder::new(),
        histograms: HistogramsDecoder::default(),
        found: Generation::empty(generation.number, generation.level),
        last: None,
    };
    pass.read_times(problems)?;
    for kind in SlabKind::ALL {
        pass.last = None;
        pass.read_slabs(kind, problems)?;
    }
    let Pass { found, .. } = pass;
    if found != *generation {
        problems.add(format!(
            "generation {}: the meta row says {generation:?}, its rows say {found:?}",
            generation.number
        ));
    }
    let bucket = |ms: i64| ms.div_euclid(BUCKET_MS);
    if bucket(generation.min_ms) != bucket(generation.max_ms) {
        problems.add(format!(
            "generation {}: it lies in two buckets",
            generation.number
        ));
    }
    Ok(())
}

impl Pass<'_> {
    fn read_times(&mut self, problems: &mut Problems<'_>) -> Result<(), StorageError> {
        let (known, number) = (self.known, self.generation.number);
        let mut range = chunk_range(known.key, number);
        range.from.push(KIND_TIMES);
        scan(known.db, known.key.shard, &range, |key, value| {
            let row = trailing_u64(key).unwrap_or(u64::MAX);
            let what = format!("generation {number}, row {row} of timestamps");
            if row != self.found.time_rows {
                problems.add(format!("{what}: a row before it is missing"));
            }
            match TimesRow::parse(value.to_vec()) {
                Ok(parsed) => {
                    for place in 0..parsed.len() {
                        if let Err(detail) = parsed.column(place) {
                            problems.add(format!("{what}, column {place}: {detail}"));
                        }
                    }
                    self.times.push(parsed);
                }
                Err(detail) => problems.add(format!("{what}: {detail}")),
            }
            self.found.time_rows += 1;
            self.found.bytes += value.len() as u64;
            Ok(())
        })
    }

    fn read_slabs(&mut self, kind: SlabKind, problems: &mut Problems<'_>) -> Result<(), StorageError> {
        let (known, number) = (self.known, self.generation.number);
        let range = slab_range(known.key, number, kind);
        scan(known.db, known.key.shard, &range, |key, value| {
            match kind {
                SlabKind::Values => self.found.slabs += 1,
                SlabKind::Histograms => self.found.histogram_slabs += 1,
            }
            let Some(key) = parse_slab_key(key) else {
                problems.add(format!("generation {number}: a slab's key is malformed"));
                return Ok(());
            };
            match Slab::parse(value.to_vec()) {
                Ok(slab) => self.slab(key, &slab, kind, problems),
                Err(detail) => problems.add(format!(
                    "generation {number}, the slab that begins with series {}: {detail}",
                    key.series
                )),
            }
            Ok(())
        })
    }

    fn slab(&mut self, key: SlabKey, slab: &Slab, kind: SlabKind, problems: &mut Problems<'_>) {
        for (at, column) in slab.columns().iter().enumerate() {
            let what = format!("generation {}, series {}", self.generation.number, column.series);
            let data = slab.data(column);
            let place = (column.times / 256, column.times % 256);
            let times = usize::try_from(place.0).ok().and_then(|row| self.times.get(row));
            let times = match times.map_or(Err("its row is missing"), |row| row.column(place.1)) {
                Ok(times) => times,
                Err(detail) => {
                    problems.add(format!("{what}: its timestamps: {detail}"));
                    continue;
                }
            };
            let decoded = match kind {
                SlabKind::Values => self.decoder.decode(data, times.len(), &mut Vec::new()),
                SlabKind::Histograms => {
                    self.found.histograms += times.len() as u64;
                    self.histograms.decode(data, times.len(), &mut Vec::new())
                }
            };
            if let Err(error) = decoded {
                problems.add(format!("{what}: {error}"));
            }
            self.found.columns += 1;
            self.found.samples += times.len() as u64;
            self.found.bytes += data.len() as u64;
            let (Some(first_ms), Some(last_ms)) = (times.first(), times.last()) else {
                continue;
            };
            self.found.min_ms = self.found.min_ms.min(*first_ms);
            self.found.max_ms = self.found.max_ms.max(*last_ms);
            let Some(metric) = self.known.metrics.get(column.series) else {
                let meta = self.known.meta;
                if column.series >= meta.next_id || *last_ms >= meta.retentions.latest_cut_ms(&meta.clock) {
                    problems.add(format!("{what}: no such series is registered"));
                }
                // It is retired.
                continue;
            };
            let own = SlabKey {
                metric,
                series: column.series,
                first_ms: *first_ms,
            };
            if at == 0 && own != key {
                problems.add(format!("{what}: it begins a slab whose key says {key:?}"));
            }
            if self.last.is_some_and(|(last, last_ms)| {
                own <= last || (own.series == last.series && *first_ms <= last_ms)
            }) {
                problems.add(format!("{what}: it is out of order"));
            }
            self.last = Some((own, *last_ms));
        }
    }
}
