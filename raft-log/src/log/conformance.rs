//! openraft's own suite for log stores, over both devices.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use parking_lot::Mutex;
use rocksdb::{DBWithThreadMode, MultiThreaded, Options};
use tempfile::TempDir;

use super::{LogDevice, LogStore, LogView, LogWriter, MemDisk, RocksDevice, column_families, tune_database};
use crate::config::{GroupConfig, LogOptions};
use crate::machine::{Machine, MachineState};
use crate::position::LogKey;
use crate::runtime::TokioRuntime;
use crate::test_machine::{MachineDisk, TestMachine};
use crate::type_config::TypeConfig;

type Rt = TokioRuntime;

pub(crate) const LOG: LogKey = LogKey { group: 1, replica: 0 };

pub(crate) fn open_rocks(dir: &TempDir) -> Arc<RocksDevice> {
    Arc::new(RocksDevice::new(open_database(dir)).unwrap())
}

fn open_database(dir: &TempDir) -> Arc<DBWithThreadMode<MultiThreaded>> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    tune_database(&mut options);
    let db = DBWithThreadMode::<MultiThreaded>::open_cf_descriptors(&options, dir.path(), column_families())
        .unwrap();
    Arc::new(db)
}

pub(crate) fn store(device: Arc<dyn LogDevice>, options: &LogOptions) -> LogStore<Rt> {
    let recovered = device.recover(LOG).unwrap();
    let never = Arc::new(|reason: &str| panic!("{reason}"));
    let writer = Arc::new(LogWriter::start::<Rt>(device.clone(), options, never).unwrap());
    let view = Arc::new(LogView::new(LOG, device, options.tail_bytes, recovered));
    LogStore::new(view, writer, GroupConfig::default().max_append_bytes)
}

#[derive(Default)]
struct Builder {
    rocks: bool,
    tail_bytes: usize,
    opened: Mutex<Vec<Arc<DBWithThreadMode<MultiThreaded>>>>,
}

impl Builder {
    /// Waits until nobody else uses the databases, and closes them: one that is still being closed when
    /// the process exits trips over RocksDB's destroyed statics.
    fn close(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        for db in self.opened.lock().drain(..) {
            while Arc::strong_count(&db) > 1 {
                assert!(Instant::now() < deadline, "a database is still in use");
                std::thread::yield_now();
            }
        }
    }
}

impl StoreBuilder<TypeConfig<Rt>, LogStore<Rt>, Machine<Rt>, Option<TempDir>> for Arc<Builder> {
    async fn build(
        &self,
    ) -> Result<(Option<TempDir>, LogStore<Rt>, Machine<Rt>), StorageError<TypeConfig<Rt>>> {
        let options = LogOptions {
            tail_bytes: self.tail_bytes,
            ..LogOptions::default()
        };
        let machine =
            Machine::new(MachineState::open(TestMachine::open_flushing(MachineDisk::default())).unwrap());
        if !self.rocks {
            return Ok((None, store(MemDisk::new().mount(), &options), machine));
        }
        let dir = tempfile::tempdir().unwrap();
        let db = open_database(&dir);
        self.opened.lock().push(db.clone());
        let device = Arc::new(RocksDevice::new(db).unwrap());
        Ok((Some(dir), store(device, &options), machine))
    }
}

async fn passes(rocks: bool, tail_bytes: usize) {
    let builder = Arc::new(Builder {
        rocks,
        tail_bytes,
        ..Builder::default()
    });
    Suite::test_all(builder.clone()).await.unwrap();
    builder.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_device_in_memory_passes_openrafts_suite() {
    passes(false, 1 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rocksdb_passes_openrafts_suite() {
    passes(true, 1 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rocksdb_passes_openrafts_suite_without_a_tail_in_memory() {
    passes(true, 0).await;
}
