//! openraft's own suite for log stores, over both devices.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use rocksdb::{DBWithThreadMode, MultiThreaded, Options};
use tempfile::TempDir;

use super::{LogDevice, LogStore, LogView, LogWriter, MemDisk, RocksDevice, column_families, tune_database};
use crate::config::{GroupConfig, LogOptions};
use crate::machine::{Machine, MachineState};
use crate::position::LogKey;
use crate::test_machine::{MachineDisk, TestMachine};
use crate::type_config::{TokioRuntime, TypeConfig};

type Rt = TokioRuntime;

pub(crate) const LOG: LogKey = LogKey { group: 1, replica: 0 };

pub(crate) fn open_rocks(dir: &TempDir) -> Arc<RocksDevice> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    tune_database(&mut options);
    let db = DBWithThreadMode::<MultiThreaded>::open_cf_descriptors(&options, dir.path(), column_families())
        .unwrap();
    Arc::new(RocksDevice::new(Arc::new(db)).unwrap())
}

pub(crate) fn store(device: Arc<dyn LogDevice>, options: &LogOptions) -> LogStore<Rt> {
    let recovered = device.recover(LOG).unwrap();
    let never = Arc::new(|reason: &str| panic!("{reason}"));
    let writer = Arc::new(LogWriter::start::<Rt>(device.clone(), options, never).unwrap());
    let view = Arc::new(LogView::new(LOG, device, options.tail_bytes, recovered));
    LogStore::new(view, writer, GroupConfig::default().max_append_bytes)
}

struct Builder {
    rocks: bool,
    tail_bytes: usize,
}

impl StoreBuilder<TypeConfig<Rt>, LogStore<Rt>, Machine<Rt>, Option<TempDir>> for Builder {
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
        let device = open_rocks(&dir);
        Ok((Some(dir), store(device, &options), machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_device_in_memory_passes_openrafts_suite() {
    Suite::test_all(Builder {
        rocks: false,
        tail_bytes: 1 << 20,
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rocksdb_passes_openrafts_suite() {
    Suite::test_all(Builder {
        rocks: true,
        tail_bytes: 1 << 20,
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rocksdb_passes_openrafts_suite_without_a_tail_in_memory() {
    Suite::test_all(Builder {
        rocks: true,
        tail_bytes: 0,
    })
    .await
    .unwrap();
}
