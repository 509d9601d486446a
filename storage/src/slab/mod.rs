//! What flushed samples look like on disk.
//!
//! A generation is an immutable set of rows. Slab rows hold value columns: up to [`SLAB_COLUMNS`] of
//! them, ordered by metric, series and time, so that one metric over all targets lies side by side.
//! Times rows hold timestamp columns, each stored once however many series it belongs to: the series
//! of a target are scraped together and share theirs.

mod block;
mod cache;
mod reader;
mod scan;
mod times;
mod writer;

use xxhash_rust::xxh3::Xxh3;

use crate::labels::Labels;

pub(crate) use block::Slab;
pub(crate) use reader::{SeriesKey, SlabReader, Window};
pub(crate) use scan::SlabScan;
pub(crate) use times::TimesRow;
pub(crate) use writer::{GenerationWriter, WrittenGeneration};

/// The most columns of one slab.
const SLAB_COLUMNS: usize = 256;
/// A slab or a row of timestamps is closed when it has this many bytes.
const ROW_BYTES: usize = 32 * 1024;
/// The most samples of one column.
const COLUMN_SAMPLES: usize = 2048;
/// Generations never reach across a multiple of it, so that retention drops whole generations.
pub(crate) const BUCKET_MS: i64 = 24 * 3600 * 1000;

/// Orders series on disk: a hash of tenant and metric name. Two metrics with the same number are
/// mingled and nothing else.
pub(crate) fn metric_number(tenant: &str, labels: &Labels) -> u32 {
    let mut hasher = Xxh3::new();
    hasher.update(tenant.as_bytes());
    // No tenant and no name holds this byte.
    hasher.update(&[0xff]);
    hasher.update(labels.get("__name__").unwrap_or_default().as_bytes());
    hasher.digest() as u32
}
