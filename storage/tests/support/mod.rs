//! A store on a disk of its own.

#![allow(dead_code, reason = "every test binary uses a part of it")]
#![allow(unreachable_pub, reason = "shared by test binaries")]

use std::sync::Arc;

use quorate_storage::{Labels, Shard, Store, StoreOptions};

pub const BASE_MS: i64 = 1_700_000_000_000;

pub fn labels(series: usize) -> Labels {
    Labels::from_pairs([("__name__", "m"), ("s", &format!("v{series}"))]).unwrap()
}

/// A database on disk that can be closed and opened again.
pub struct Disk {
    pub dir: tempfile::TempDir,
}

impl Disk {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub fn open(&self) -> Node {
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let db = Arc::new(
            rocksdb::DBWithThreadMode::open_cf_descriptors(
                &options,
                self.dir.path().join("db"),
                Store::column_families(),
            )
            .unwrap(),
        );
        let store = Store::open(
            db.clone(),
            &self.dir.path().join("scratch"),
            StoreOptions::default(),
        )
        .unwrap();
        let shard = store.open_shard(1, 5).unwrap();
        Node { db, store, shard }
    }

    /// What a crash of the process would leave right now, while the database is open.
    pub fn after_a_crash(&self) -> Self {
        let copy = Self::new();
        for sub in ["db", "scratch"] {
            let to = copy.dir.path().join(sub);
            std::fs::create_dir(&to).unwrap();
            for file in std::fs::read_dir(self.dir.path().join(sub)).unwrap() {
                let file = file.unwrap();
                std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
            }
        }
        copy
    }

    /// Whether a column family holds no row.
    pub fn is_empty(&self, node: &Node, family: &str) -> bool {
        let cf = node.db.cf_handle(family).unwrap();
        let mut rows = node.db.raw_iterator_cf(&cf);
        rows.seek_to_first();
        !rows.valid()
    }
}

pub struct Node {
    pub db: Arc<rocksdb::DBWithThreadMode<rocksdb::MultiThreaded>>,
    pub store: Arc<Store>,
    pub shard: Arc<Shard>,
}

impl Node {
    /// Makes the rows of a flush durable, as the log does.
    pub fn write_rows(&self, pending: &quorate_storage::PendingFlush) {
        for row in &pending.rows {
            let cf = self.db.cf_handle(row.cf).unwrap();
            match &row.value {
                Some(value) => self.db.put_cf(&cf, &row.key, value).unwrap(),
                None => self.db.delete_cf(&cf, &row.key).unwrap(),
            }
        }
    }

    pub fn flush(&self) {
        if let Some(pending) = self.shard.begin_flush().unwrap() {
            self.write_rows(&pending);
            self.shard.commit_flush(pending).unwrap();
        }
    }
}
