//! The samples of a replica as a reader would see them after a restart, without the log.

use std::ops::ControlFlow;

use super::{StoredReplica, labels_rows};
use crate::columns::SampleColumns;
use crate::error::StorageError;
use crate::labels::Labels;
use crate::matcher::Matcher;
use crate::recover::load_activity;
use crate::rows::Db;
use crate::slab::{SeriesKey, SlabReader, Window, metric_number};

/// Bytes of rows kept while all series are read.
const READER_BYTES_MAX: usize = 32 << 20;

/// A series and its flushed samples.
#[derive(Debug)]
pub struct DumpedSeries<'a> {
    /// Whose.
    pub tenant: &'a str,
    /// Its id in the shard.
    pub id: u64,
    /// Its labels.
    pub labels: &'a Labels,
    /// What is flushed, neither deleted nor before the retention cut, in order of time.
    pub samples: &'a SampleColumns,
}

/// Calls `visit` with every series that passes all matchers, in order of ids, until it breaks off.
pub fn dump(
    db: &Db,
    replica: &StoredReplica,
    matchers: &[Matcher],
    visit: &mut dyn FnMut(DumpedSeries<'_>) -> ControlFlow<()>,
) -> Result<(), StorageError> {
    let Some(meta) = &replica.meta else { return Ok(()) };
    let live = load_activity(db, replica.key(), meta)?.live();
    let mut reader = SlabReader::new(replica.key(), READER_BYTES_MAX, false);
    let mut samples = SampleColumns::new();
    let mut histograms = Vec::new();
    labels_rows(db, replica, &live, |series, tenant, labels| {
        let value_of = |name: &str| labels.get(name).unwrap_or_default();
        if !matchers.iter().all(|m| m.matches(value_of(m.name()))) {
            return Ok(ControlFlow::Continue(()));
        }
        let mask = meta.tombstones.over(series);
        let window = Window {
            start_ms: meta.retentions.cut_ms(tenant, &meta.clock),
            end_ms: i64::MAX,
            mask: &mask,
        };
        let metric = metric_number(tenant, &labels);
        samples.clear();
        for generation in &meta.generations {
            let key = SeriesKey { metric, series };
            reader.read(db, generation, key, window, &mut samples)?;
            reader.read_histograms(db, generation, key, window, &mut histograms)?;
        }
        for (t, histogram) in histograms.drain(..) {
            samples.push_histogram(t, histogram);
        }
        samples.put_in_order();
        Ok(visit(DumpedSeries {
            tenant,
            id: series,
            labels: &labels,
            samples: &samples,
        }))
    })
}
