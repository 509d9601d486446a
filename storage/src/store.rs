//! All shards of a node over one database.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use hashbrown::HashMap;
use parking_lot::Mutex;
use rocksdb::{Cache, ColumnFamilyDescriptor, WriteBatch, WriteOptions};

use crate::error::StorageError;
use crate::flushed::cf;
use crate::recover;
use crate::rows::{self, CF_CHUNKS, CF_SERIES, CF_SHARD_META, Db, ReplicaKey};
use crate::shard::Shard;

/// Options of the store.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StoreOptions {}

/// The shards of a node. The database belongs to the node; the store uses the families that
/// [`Store::column_families`] names.
pub struct Store {
    db: Arc<Db>,
    scratch_dir: PathBuf,
    open: Mutex<HashMap<ReplicaKey, Weak<Shard>>>,
}

impl Store {
    /// The column families that the database has to be opened with.
    pub fn column_families() -> Vec<ColumnFamilyDescriptor> {
        rows::column_families(None)
    }

    /// [`Self::column_families`] with a block cache that they share with other families of the node.
    pub fn column_families_with_cache(cache: &Cache) -> Vec<ColumnFamilyDescriptor> {
        rows::column_families(Some(cache))
    }

    /// The names of [`Self::column_families`].
    pub const COLUMN_FAMILIES: [&'static str; 3] = [CF_CHUNKS, CF_SERIES, CF_SHARD_META];

    /// Opens the store. `scratch_dir` is created if need be and should be on the database's file system,
    /// so that files move instead of being copied; SST files left there by a crash are removed.
    pub fn open(db: Arc<Db>, scratch_dir: &Path, _options: StoreOptions) -> Result<Arc<Self>, StorageError> {
        let failed = || StorageError::io(0, "preparing the scratch directory");
        for name in Self::COLUMN_FAMILIES {
            cf(&db, 0, name)?;
        }
        std::fs::create_dir_all(scratch_dir).map_err(failed())?;
        for file in std::fs::read_dir(scratch_dir).map_err(failed())? {
            let path = file.map_err(failed())?.path();
            if path.extension().is_some_and(|extension| extension == "sst") {
                std::fs::remove_file(&path).map_err(failed())?;
            }
        }
        let open = Mutex::new(HashMap::new());
        Ok(Arc::new(Self {
            db,
            scratch_dir: scratch_dir.to_owned(),
            open,
        }))
    }

    /// Opens a replica of a shard, empty if it was never flushed. The caller then replays the log from
    /// behind [`Shard::durable`]. A replica that is open already is returned as it is.
    pub fn open_shard(&self, shard: u32, replica: u64) -> Result<Arc<Shard>, StorageError> {
        let key = ReplicaKey { shard, replica };
        let mut open = self.open.lock();
        open.retain(|_, shard| shard.strong_count() > 0);
        if let Some(shard) = open.get(&key).and_then(Weak::upgrade) {
            return Ok(shard);
        }
        let state = recover::open(&self.db, key)?;
        let shard = Arc::new(Shard::new(key, self.db.clone(), self.scratch_dir.clone(), state));
        open.insert(key, Arc::downgrade(&shard));
        Ok(shard)
    }

    /// Deletes all rows of a replica; durable on return. If it is open, it refuses all further work.
    pub fn drop_shard(&self, shard: u32, replica: u64) -> Result<(), StorageError> {
        let key = ReplicaKey { shard, replica };
        if let Some(open) = self.open.lock().remove(&key).and_then(|open| open.upgrade()) {
            open.poison("the replica was dropped");
        }
        let mut batch = WriteBatch::default();
        batch.delete_cf(&cf(&self.db, shard, CF_SHARD_META)?, key.prefix());
        for family in [CF_CHUNKS, CF_SERIES] {
            batch.delete_range_cf(&cf(&self.db, shard, family)?, key.prefix(), key.end());
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db
            .write_opt(batch, &options)
            .map_err(StorageError::rocks(shard, "dropping a replica"))
    }
}
