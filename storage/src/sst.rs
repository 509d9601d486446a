//! Writing rows as SST files and handing them to RocksDB, past its log and memtables.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rocksdb::{IngestExternalFileOptions, Options, SstFileWriter};

use crate::error::StorageError;
use crate::flushed::cf;
use crate::rows::{Db, table_options};
use crate::shard::Shard;

/// A file is ingested when it holds this much; the next row begins another.
const FILE_BYTES_MAX: usize = 256 << 20;

/// Rows of one column family, put in ascending order of their keys.
pub(crate) struct SstFile {
    db: Arc<Db>,
    shard: u32,
    cf: &'static str,
    scratch_dir: PathBuf,
    name: String,
    ordinal: u64,
    current: Option<Current>,
}

struct Current {
    writer: SstFileWriter<'static>,
    path: PathBuf,
    bytes: usize,
}

impl SstFile {
    /// `name` is unique among the files of the replica and family.
    pub(crate) fn new(shard: &Shard, cf: &'static str, name: &str) -> Self {
        Self {
            db: shard.db.clone(),
            shard: shard.key.shard,
            cf,
            scratch_dir: shard.scratch_dir.clone(),
            name: format!("{}-{}-{cf}-{name}", shard.key.shard, shard.key.replica),
            ordinal: 0,
            current: None,
        }
    }

    /// Whether no row was ever put.
    pub(crate) fn is_empty(&self) -> bool {
        self.ordinal == 0 && self.current.is_none()
    }

    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        if self
            .current
            .as_ref()
            .is_some_and(|current| current.bytes >= FILE_BYTES_MAX)
        {
            self.ingest()?;
        }
        let current = match &mut self.current {
            Some(current) => current,
            None => {
                let path = self
                    .scratch_dir
                    .join(format!("{}-{}.sst", self.name, self.ordinal));
                let writer = SstFileWriter::create(options());
                writer
                    .open(&path)
                    .map_err(StorageError::rocks(self.shard, "creating an SST file"))?;
                self.current.insert(Current {
                    writer,
                    path,
                    bytes: 0,
                })
            }
        };
        current.bytes += key.len() + value.len();
        current
            .writer
            .put(key, value)
            .map_err(StorageError::rocks(self.shard, "writing an SST file"))
    }

    /// Ingests the rows put so far; durable on return. Without rows nothing happens.
    pub(crate) fn ingest(&mut self) -> Result<(), StorageError> {
        Self::ingest_all(std::slice::from_mut(self))
    }

    /// Ingests the rows of several files of one family, whose ranges don't overlap, in one step:
    /// RocksDB holds writers up for each.
    pub(crate) fn ingest_all(files: &mut [Self]) -> Result<(), StorageError> {
        let mut finished = Vec::new();
        for file in files.iter_mut() {
            if let Some(mut current) = file.current.take() {
                file.ordinal += 1;
                current
                    .writer
                    .finish()
                    .map_err(StorageError::rocks(file.shard, "finishing an SST file"))?;
                finished.push(current);
            }
        }
        let Some(file) = files.first().filter(|_| !finished.is_empty()) else {
            return Ok(());
        };
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        let handle = cf(&file.db, file.shard, file.cf)?;
        let paths: Vec<&PathBuf> = finished.iter().map(|current| &current.path).collect();
        file.db
            .ingest_external_file_cf_opts(&handle, &options, paths)
            .map_err(StorageError::rocks(file.shard, "ingesting an SST file"))
    }
}

impl Drop for Current {
    /// Removes what is left in the scratch directory: a link after an ingestion, or an unused file.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The writer borrows its options for as long as it lives.
fn options() -> &'static Options {
    static OPTIONS: OnceLock<Options> = OnceLock::new();
    OPTIONS.get_or_init(|| table_options(None))
}
