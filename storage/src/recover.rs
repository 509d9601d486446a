//! Opening a replica: its meta row says what counts, everything else of it is deleted.

use std::ops::ControlFlow;
use std::sync::Arc;

use roaring::RoaringBitmap;
use rocksdb::{DBRawIteratorWithThreadMode, ReadOptions};

use crate::activity::Activity;
use crate::entry::Columns;
use crate::error::StorageError;
use crate::flushed::{
    Flushed, LookupCache, RowRange, activity_range, cf, chunk_range, label_range, state_range,
};
use crate::meta::{Clock, ShardMeta};
use crate::metrics::Metrics;
use crate::quota::Quotas;
use crate::retention::Retentions;
use crate::rows::{self, CF_CHUNKS, CF_SERIES, CF_SHARD_META, Db, ReplicaKey};
use crate::series::SeriesTable;
use crate::series_rows::{BLOCK_SERIES, decode_labels_row, decode_states};
use crate::shard::{State, delete_range, delete_rows};
use crate::slab::metric_number;

/// Reads the meta row, deletes unlisted rows, and loads the state at the durable position.
pub(crate) fn open(db: &Db, key: ReplicaKey) -> Result<State, StorageError> {
    let meta_cf = cf(db, key.shard, CF_SHARD_META)?;
    let row = db
        .get_cf(&meta_cf, key.prefix())
        .map_err(StorageError::rocks(key.shard, "reading the meta row"))?;
    let Some(row) = row else {
        delete_unlisted(db, key, None)?;
        return Ok(empty_state());
    };
    let meta =
        ShardMeta::decode(&row).map_err(|detail| StorageError::corrupt(key.shard, "the meta row", detail))?;
    delete_unlisted(db, key, Some(&meta))?;
    load(db, key, meta)
}

fn empty_state() -> State {
    State {
        applied: None,
        membership: None,
        clock: Clock::START,
        table: SeriesTable::default(),
        activity: Activity::default(),
        frozen: None,
        flushed: Arc::new(Flushed::nothing()),
        head_samples: 0,
        head_bytes: 0,
        next_generation: 1,
        next_epoch: 1,
        columns: Columns::default(),
        lookups: LookupCache::default(),
        tombstones: Arc::default(),
        vacant: RoaringBitmap::new(),
        quotas: Quotas::default(),
        retentions: Retentions::default(),
        tenant_cuts_due_ms: i64::MIN,
        retired: RoaringBitmap::new(),
        retired_series: 0,
        with_histograms: RoaringBitmap::new(),
    }
}

/// Builds the state that a meta row describes, with an empty head.
pub(crate) fn load(db: &Db, key: ReplicaKey, meta: ShardMeta) -> Result<State, StorageError> {
    let activity = load_activity(db, key, &meta)?;
    let live = activity.live();
    if live.len() != meta.series {
        let detail = format!("{} series were expected, {} found", meta.series, live.len());
        return Err(StorageError::corrupt(key.shard, "the activity rows", &detail));
    }
    let loaded = load_labels(db, key, &meta, &live)?;
    let mut table = loaded.table;
    load_states(db, key, &meta, &live, &mut table)?;
    Ok(State {
        applied: Some(meta.position),
        membership: meta.membership.clone(),
        clock: meta.clock,
        tombstones: Arc::new(meta.tombstones.clone()),
        vacant: meta.vacant.clone(),
        quotas: meta.quotas.clone(),
        with_histograms: meta.with_histograms.clone(),
        retentions: meta.retentions.clone(),
        table,
        activity,
        retired: loaded.retired,
        next_generation: meta.next_generation,
        next_epoch: meta.epoch + 1,
        flushed: Arc::new(Flushed::of(
            key,
            meta,
            Arc::new(loaded.metrics),
            &Flushed::nothing(),
        )),
        ..empty_state()
    })
}

/// What label rows say.
#[derive(Default)]
struct Loaded {
    table: SeriesTable,
    metrics: Metrics,
    /// Series that have rows and are retired.
    retired: RoaringBitmap,
}

fn load_labels(
    db: &Db,
    key: ReplicaKey,
    meta: &ShardMeta,
    live: &RoaringBitmap,
) -> Result<Loaded, StorageError> {
    let mut loaded = Loaded::default();
    let mut expected = live.iter();
    let range = RowRange {
        to: key.labels(meta.epoch, meta.next_id),
        ..label_range(key, meta.epoch)
    };
    scan(db, key.shard, &range, |row_key, value| {
        let id = rows::trailing_u64(row_key).unwrap_or(0);
        let damaged =
            |detail: &str| StorageError::corrupt(key.shard, format!("the label row of series {id}"), detail);
        let short = u32::try_from(id).map_err(|_| damaged("no series can have this id"))?;
        if !live.contains(short) {
            loaded.retired.insert(short);
            return Ok(());
        }
        if expected.next() != Some(short) {
            return Err(damaged("a row before it is missing"));
        }
        let (tenant, labels) = decode_labels_row(value).map_err(damaged)?;
        loaded.table.skip_to(id);
        let registered = loaded.table.register(tenant, labels.as_bytes());
        match registered {
            Some(new) if new == id => {}
            Some(_) => return Err(damaged("another series has the same labels")),
            None => return Err(damaged("there are too many series")),
        }
        loaded.metrics.set(id, metric_number(tenant, &labels));
        Ok(())
    })?;
    if expected.next().is_some() {
        let detail = format!(
            "{} series were expected, {} found",
            live.len(),
            loaded.table.len()
        );
        return Err(StorageError::corrupt(key.shard, "the label rows", &detail));
    }
    loaded.table.skip_to(meta.next_id);
    Ok(loaded)
}

fn load_states(
    db: &Db,
    key: ReplicaKey,
    meta: &ShardMeta,
    live: &RoaringBitmap,
    table: &mut SeriesTable,
) -> Result<(), StorageError> {
    let range = state_range(key, meta.epoch, meta.state_generation);
    let mut found = 0;
    let mut ids = live.iter();
    scan(db, key.shard, &range, |row_key, value| {
        let block = rows::trailing_u64(row_key).unwrap_or(u64::MAX);
        let damaged = |detail: &str| StorageError::corrupt(key.shard, format!("state row {block}"), detail);
        if block.checked_mul(BLOCK_SERIES as u64) != Some(found) {
            return Err(damaged("a row before it is missing"));
        }
        for state in decode_states(value).map_err(damaged)? {
            if !ids.next().is_some_and(|id| table.restore(u64::from(id), state)) {
                return Err(damaged("it holds more series than were registered"));
            }
            found += 1;
        }
        Ok(())
    })?;
    if found != live.len() {
        let detail = format!("{} series were expected, {found} found", live.len());
        return Err(StorageError::corrupt(key.shard, "the state rows", &detail));
    }
    Ok(())
}

pub(crate) fn load_activity(db: &Db, key: ReplicaKey, meta: &ShardMeta) -> Result<Activity, StorageError> {
    let mut activity = Activity::default();
    let range = activity_range(key, meta.epoch, meta.state_generation);
    scan(db, key.shard, &range, |row_key, value| {
        let span = rows::trailing_span(row_key).unwrap_or(i64::MAX);
        activity.restore(span, value, meta.next_id).map_err(|detail| {
            StorageError::corrupt(key.shard, format!("the activity row of span {span}"), detail)
        })
    })?;
    if activity.len() != meta.activity_rows {
        let detail = format!("{} were expected, {} found", meta.activity_rows, activity.len());
        return Err(StorageError::corrupt(key.shard, "the activity rows", &detail));
    }
    Ok(activity)
}

/// Calls `visit` with every row of a range, in order.
pub(crate) fn scan(
    db: &Db,
    shard: u32,
    range: &RowRange,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    scan_while(db, shard, range, |key, value| {
        visit(key, value).map(ControlFlow::Continue)
    })
}

/// The same until it breaks off.
pub(crate) fn scan_while(
    db: &Db,
    shard: u32,
    range: &RowRange,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, StorageError>,
) -> Result<(), StorageError> {
    let mut rows = range_iterator(db, shard, range)?;
    rows.seek(&range.from);
    while let Some((key, value)) = rows.item() {
        if visit(key, value)?.is_break() {
            return Ok(());
        }
        rows.next();
    }
    rows.status().map_err(StorageError::rocks(shard, "reading rows"))
}

/// An iterator that ends at the range's end and does not fill the block cache.
pub(crate) fn range_iterator<'db>(
    db: &'db Db,
    shard: u32,
    range: &RowRange,
) -> Result<DBRawIteratorWithThreadMode<'db, Db>, StorageError> {
    let handle = cf(db, shard, range.cf)?;
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(range.to.clone());
    options.fill_cache(false);
    Ok(db.raw_iterator_cf_opt(&handle, options))
}

/// Deletes rows that the meta row does not list: leftovers of flushes and installs cut off by a crash.
fn delete_unlisted(db: &Db, key: ReplicaKey, meta: Option<&ShardMeta>) -> Result<(), StorageError> {
    for gap in unlisted(db, key, meta)? {
        if gap.cf == CF_CHUNKS {
            delete_range(db, key.shard, &gap)?;
        } else {
            // The first state row that is kept has the key where the gap ends.
            delete_rows(db, key.shard, &gap)?;
        }
    }
    Ok(())
}

/// Ranges that hold rows which the meta row does not list.
pub(crate) fn unlisted(
    db: &Db,
    key: ReplicaKey,
    meta: Option<&ShardMeta>,
) -> Result<Vec<RowRange>, StorageError> {
    let (mut chunks, mut series) = (Vec::new(), Vec::new());
    if let Some(meta) = meta {
        chunks.extend(meta.generations.iter().map(|g| chunk_range(key, g.number)));
        series.push(activity_range(key, meta.epoch, meta.state_generation));
        let labels = label_range(key, meta.epoch);
        series.push(RowRange {
            to: key.labels(meta.epoch, meta.next_id),
            ..labels
        });
        series.push(state_range(key, meta.epoch, meta.state_generation));
    }
    let mut found = gaps(db, key, CF_CHUNKS, chunks)?;
    found.extend(gaps(db, key, CF_SERIES, series)?);
    Ok(found)
}

/// Ranges of the replica in one family that hold rows and are none of the `kept` ones, which ascend.
fn gaps(
    db: &Db,
    key: ReplicaKey,
    cf: &'static str,
    kept: Vec<RowRange>,
) -> Result<Vec<RowRange>, StorageError> {
    let mut from = key.prefix();
    let mut gaps = Vec::new();
    for range in kept {
        gaps.push(RowRange {
            cf,
            from,
            to: range.from,
        });
        from = range.to;
    }
    gaps.push(RowRange {
        cf,
        from,
        to: key.end(),
    });
    let mut found = Vec::new();
    for gap in gaps.into_iter().filter(|gap| gap.from < gap.to) {
        let mut rows = range_iterator(db, key.shard, &gap)?;
        rows.seek(&gap.from);
        rows.status()
            .map_err(StorageError::rocks(key.shard, "looking for leftover rows"))?;
        let holds_rows = rows.valid();
        drop(rows);
        if holds_rows {
            found.push(gap);
        }
    }
    Ok(found)
}
