//! The storage of a script: shards over a database in a temporary directory, without a log before them.

use std::sync::Arc;

use anyhow::Context as _;
use quorate_query::promqltest::{ScriptError, TestStorage};
use quorate_query::source::{SampleColumns, SelectRequest, SeriesCursor, Source, SourceError};
use quorate_storage::{
    Labels, Limits, LogPosition, PartBuilder, PendingFlush, SelectLimits, Shard, Store, StoreOptions,
    encode_limits_entry, encode_write_entry,
};
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64;

use crate::Db;
use crate::read::LocalCursor;

/// The tenant of the series.
const TENANT: &str = "test";

/// Nothing is too old, too new or too much.
const LIMITS: Limits = Limits {
    ooo_window_ms: u64::MAX,
    retention_ms: u64::MAX,
    max_ahead_ms: u64::MAX,
    max_series_per_shard: u64::MAX,
    quota_epoch: 0,
};

/// Shards that a script loads into. Of what it adds to a series, the first half is flushed and the rest stays in
/// memory, so that queries read both and where they meet.
pub(super) struct ScriptStorage {
    /// Each `clear` goes on with new replicas.
    replica: u64,
    shards: Vec<Arc<Shard>>,
    next_index: u64,
    store: Arc<Store>,
    db: Arc<Db>,
    /// Goes last.
    _dir: TempDir,
}

impl ScriptStorage {
    /// Creates so many empty shards.
    pub(super) fn open(shards: u32) -> anyhow::Result<ScriptStorage> {
        let dir = tempfile::tempdir().context("can't create a temporary directory")?;
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let db = Db::open_cf_descriptors(&options, dir.path().join("db"), Store::column_families())
            .context("can't create a database")?;
        let db = Arc::new(db);
        let store = Store::open(db.clone(), &dir.path().join("scratch"), StoreOptions::default())?;
        let mut storage = ScriptStorage {
            replica: 0,
            shards: Vec::new(),
            next_index: 1,
            store,
            db,
            _dir: dir,
        };
        storage.begin(shards)?;
        Ok(storage)
    }

    /// Goes on with new, empty replicas.
    fn begin(&mut self, shards: u32) -> anyhow::Result<()> {
        self.replica += 1;
        self.shards = (0..shards)
            .map(|shard| self.store.open_shard(shard, self.replica))
            .collect::<Result<_, _>>()?;
        let entry = encode_limits_entry(0, &LIMITS);
        let position = self.next_position();
        for shard in &self.shards {
            shard.apply(position, &entry)?;
        }
        Ok(())
    }

    fn next_position(&mut self) -> LogPosition {
        let index = self.next_index;
        self.next_index += 1;
        LogPosition { term: 1, index }
    }

    fn shard_of(&self, labels: &Labels) -> usize {
        // The remainder is below the number of shards, which fits.
        (xxh3_64(labels.as_bytes()) % self.shards.len() as u64) as usize
    }

    /// Applies the samples that `part_of` picks, in one entry for each shard.
    fn apply(
        &mut self,
        series: &[(Labels, SampleColumns)],
        part_of: impl Fn(usize) -> std::ops::Range<usize>,
    ) -> anyhow::Result<()> {
        let mut parts: Vec<PartBuilder> = (0..self.shards.len())
            .map(|_| PartBuilder::new(TENANT, 1))
            .collect();
        for (labels, columns) in series {
            let part = &mut parts[self.shard_of(labels)];
            let picked = part_of(columns.len());
            if picked.is_empty() {
                continue;
            }
            let ordinal = part.series(labels.as_bytes());
            let start = picked.start;
            let mut histograms = columns
                .histograms
                .iter()
                .skip_while(|(at, _)| *at < start)
                .peekable();
            for at in picked {
                match histograms.next_if(|(index, _)| *index == at) {
                    Some((_, histogram)) => part.histogram(ordinal, columns.timestamps[at], histogram),
                    None => part.sample(ordinal, columns.timestamps[at], columns.values[at]),
                }
            }
        }
        let position = self.next_position();
        for (shard, part) in self.shards.iter().zip(parts) {
            if part.is_empty() {
                continue;
            }
            let outcome = shard.apply(position, &encode_write_entry(0, &[part.finish()]))?;
            for part in &outcome.parts {
                if let Some(rejection) = part.rejections.first() {
                    anyhow::bail!("a sample was refused: {}", rejection.first);
                }
            }
        }
        Ok(())
    }

    fn flush(&self) -> anyhow::Result<()> {
        for shard in &self.shards {
            if let Some(pending) = shard.begin_flush()? {
                self.write_rows(&pending)?;
                shard.commit_flush(pending)?;
            }
        }
        Ok(())
    }

    /// What the log does for a flush: makes its rows durable.
    fn write_rows(&self, pending: &PendingFlush) -> anyhow::Result<()> {
        for row in &pending.rows {
            let family = self.db.cf_handle(row.cf).context("a column family is missing")?;
            match &row.value {
                Some(value) => self.db.put_cf(&family, &row.key, value)?,
                None => self.db.delete_cf(&family, &row.key)?,
            }
        }
        Ok(())
    }
}

fn script_error(error: anyhow::Error) -> ScriptError {
    ScriptError::new(format_args!("{error:#}"))
}

impl TestStorage for ScriptStorage {
    fn clear(&mut self) -> Result<(), ScriptError> {
        // As many as `open` was asked for.
        let shards = u32::try_from(self.shards.len()).unwrap_or(1);
        self.begin(shards).map_err(script_error)
    }

    fn append(&mut self, series: &[(Labels, SampleColumns)]) -> Result<(), ScriptError> {
        self.apply(series, |samples| 0..samples / 2)
            .and_then(|()| self.flush())
            .and_then(|()| self.apply(series, |samples| samples / 2..samples))
            .map_err(script_error)
    }

    fn source(&self) -> &dyn Source {
        self
    }
}

impl Source for ScriptStorage {
    fn select(&self, request: &SelectRequest<'_>) -> Result<Vec<Box<dyn SeriesCursor>>, SourceError> {
        let mut all: Vec<Box<dyn SeriesCursor>> = Vec::new();
        for shard in &self.shards {
            let selected = shard
                .select(
                    TENANT,
                    request.matchers,
                    request.start_ms,
                    request.end_ms,
                    &SelectLimits::default(),
                )
                .map_err(SourceError::new)?;
            for series in selected {
                all.push(Box::new(LocalCursor::new(series)));
            }
        }
        all.sort_by(|a, b| a.labels().cmp(b.labels()));
        Ok(all)
    }
}
