//! Damage, snapshots, retention and removal, over a real RocksDB.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;

use quorate_storage::{
    Limits, LogPosition, MatchOp, Matcher, PartBuilder, SampleColumns, SelectLimits, Store, StoreOptions,
    encode_limits_entry, encode_write_entry,
};
use support::{BASE_MS, Disk, Node, labels};

/// One series with `samples` samples in order, in entries of 10, flushed after each entry if asked.
fn fill(node: &Node, samples: i64, flush: bool) {
    for batch in 0..samples / 10 {
        let mut part = PartBuilder::new("acme", 1);
        let ordinal = part.series(labels(0).as_bytes());
        for step in batch * 10..batch * 10 + 10 {
            part.sample(ordinal, BASE_MS + step * 1000, step as f64);
        }
        let index = batch as u64 + 1;
        let entry = encode_write_entry(BASE_MS + batch * 10_000, &[part.finish()]);
        node.shard.apply(LogPosition { term: 1, index }, &entry).unwrap();
        if flush {
            node.flush();
        }
    }
}

#[test]
fn a_damaged_meta_row_refuses_to_open() {
    let disk = Disk::new();
    {
        let node = disk.open();
        fill(&node, 20, true);
        let cf = node.db.cf_handle(quorate_storage::CF_SHARD_META).unwrap();
        let mut rows = node.db.raw_iterator_cf(&cf);
        rows.seek_to_first();
        let (key, mut value) = (rows.key().unwrap().to_vec(), rows.value().unwrap().to_vec());
        value[9] ^= 1;
        node.db.put_cf(&cf, &key, value).unwrap();
    }
    let db = {
        let options = rocksdb::Options::default();
        rocksdb::DBWithThreadMode::open_cf_descriptors(
            &options,
            disk.dir.path().join("db"),
            Store::column_families(),
        )
        .unwrap()
    };
    let store = Store::open(
        Arc::new(db),
        &disk.dir.path().join("scratch"),
        StoreOptions::default(),
    )
    .unwrap();
    let error = store.open_shard(1, 5).unwrap_err().to_string();
    assert!(error.contains("the meta row is damaged"), "{error}");
}

#[test]
fn a_damaged_chunk_is_an_error_not_a_wrong_answer() {
    let disk = Disk::new();
    let node = disk.open();
    fill(&node, 20, true);
    let cf = node.db.cf_handle(quorate_storage::CF_CHUNKS).unwrap();
    let mut rows = node.db.raw_iterator_cf(&cf);
    rows.seek_to_first();
    let (key, mut value) = (rows.key().unwrap().to_vec(), rows.value().unwrap().to_vec());
    value[5] ^= 1;
    node.db.put_cf(&cf, &key, value).unwrap();
    let everything = [Matcher::new(MatchOp::Eq, "__name__", "m").unwrap()];
    let selected = node
        .shard
        .select("acme", &everything, i64::MIN, i64::MAX, &SelectLimits::default())
        .unwrap();
    let error = selected[0]
        .samples(&mut SampleColumns::new())
        .unwrap_err()
        .to_string();
    assert!(error.contains("checksum"), "{error}");
    assert!(node.shard.checksum().is_err());
}

#[test]
fn missing_label_rows_refuse_to_open() {
    let disk = Disk::new();
    {
        let node = disk.open();
        fill(&node, 10, true);
        let cf = node.db.cf_handle(quorate_storage::CF_SERIES).unwrap();
        let mut rows = node.db.raw_iterator_cf(&cf);
        rows.seek_to_first();
        while rows.key().unwrap()[20] != b'L' {
            rows.next();
        }
        node.db.delete_cf(&cf, rows.key().unwrap()).unwrap();
    }
    let options = rocksdb::Options::default();
    let db = rocksdb::DBWithThreadMode::open_cf_descriptors(
        &options,
        disk.dir.path().join("db"),
        Store::column_families(),
    )
    .unwrap();
    let store = Store::open(
        Arc::new(db),
        &disk.dir.path().join("scratch"),
        StoreOptions::default(),
    )
    .unwrap();
    let error = store.open_shard(1, 5).unwrap_err().to_string();
    assert!(error.contains("1 series were expected, 0 found"), "{error}");
}

#[test]
fn an_unreadable_entry_stops_the_shard() {
    let disk = Disk::new();
    let node = disk.open();
    fill(&node, 10, false);
    let mut entry = encode_write_entry(BASE_MS, &[]).to_vec();
    entry[5] ^= 1;
    assert!(
        node.shard
            .apply(LogPosition { term: 1, index: 2 }, &entry)
            .is_err()
    );
    let again = node
        .shard
        .apply_blank(LogPosition { term: 1, index: 2 })
        .unwrap_err();
    assert!(matches!(again, quorate_storage::StorageError::Poisoned { .. }));
}

#[test]
fn a_damaged_snapshot_changes_nothing() {
    let (source_disk, disk) = (Disk::new(), Disk::new());
    let (source, node) = (source_disk.open(), disk.open());
    fill(&source, 50, true);
    fill(&node, 10, true);
    let before = node.shard.checksum().unwrap();
    let mut snapshot = source.shard.snapshot().unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = snapshot.next_chunk().unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    for at in (0..bytes.len()).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let mut install = node.shard.begin_install().unwrap();
        let result = install
            .write(&damaged)
            .and_then(|()| install.finish(snapshot.position, None));
        assert!(result.is_err(), "byte {at}");
    }
    let mut install = node.shard.begin_install().unwrap();
    install.write(&bytes[..bytes.len() - 1]).unwrap();
    assert!(install.finish(snapshot.position, None).is_err(), "cut");
    assert_eq!(node.shard.checksum().unwrap(), before);
    let mut install = node.shard.begin_install().unwrap();
    install.write(&bytes).unwrap();
    install.finish(snapshot.position, None).unwrap();
    assert_eq!(node.shard.checksum().unwrap(), source.shard.checksum().unwrap());
}

#[test]
fn a_reader_keeps_its_rows_while_they_are_replaced() {
    let (source_disk, disk) = (Disk::new(), Disk::new());
    let (source, node) = (source_disk.open(), disk.open());
    fill(&source, 200, true);
    fill(&node, 100, true);
    let everything = [Matcher::new(MatchOp::Eq, "__name__", "m").unwrap()];
    let selected = node
        .shard
        .select("acme", &everything, i64::MIN, i64::MAX, &SelectLimits::default())
        .unwrap();
    let mut snapshot = source.shard.snapshot().unwrap();
    let mut install = node.shard.begin_install().unwrap();
    while let Some(chunk) = snapshot.next_chunk().unwrap() {
        install.write(&chunk).unwrap();
    }
    install.finish(snapshot.position, None).unwrap();
    let mut columns = SampleColumns::new();
    selected[0].samples(&mut columns).unwrap();
    assert_eq!(columns.len(), 100);
    drop(selected);
    node.flush();
    assert_eq!(node.shard.stats().flushed_samples, 200);
}

#[test]
fn generations_before_the_cut_are_dropped() {
    let disk = Disk::new();
    let node = disk.open();
    fill(&node, 100, true);
    assert_eq!(node.shard.stats().generations, 10);
    let index = node.shard.applied().unwrap().index + 1;
    let limits = Limits {
        retention_ms: 50_000,
        ..Limits::default()
    };
    let entry = encode_limits_entry(BASE_MS + 100_000, &limits);
    node.shard.apply(LogPosition { term: 1, index }, &entry).unwrap();
    assert_eq!(node.shard.checksum().unwrap().samples, 50);
    node.flush();
    assert_eq!(node.shard.stats().generations, 5);
    assert_eq!(node.shard.checksum().unwrap().samples, 50);
}

#[test]
fn a_dropped_replica_leaves_nothing() {
    let disk = Disk::new();
    let node = disk.open();
    fill(&node, 30, true);
    node.store.drop_shard(1, 5).unwrap();
    assert!(node.shard.begin_flush().is_err(), "an open handle refuses work");
    drop(node);
    let node = disk.open();
    assert_eq!(node.shard.applied(), None);
    assert_eq!(node.shard.stats().series, 0);
}

#[test]
fn rows_of_a_flush_cut_off_by_a_crash_are_deleted() {
    let disk = Disk::new();
    {
        let node = disk.open();
        fill(&node, 50, false);
        let pending = node.shard.begin_flush().unwrap().unwrap();
        assert!(!disk.is_empty(&node, quorate_storage::CF_CHUNKS));
        // Its rows never become durable.
        drop(pending);
    }
    let node = disk.open();
    assert_eq!(node.shard.durable().position, None);
    assert!(disk.is_empty(&node, quorate_storage::CF_CHUNKS));
    assert!(disk.is_empty(&node, quorate_storage::CF_SERIES));
}

#[test]
fn resending_many_chunks_finds_every_sample() {
    let disk = Disk::new();
    let node = disk.open();
    let entry = |add: f64| {
        let mut part = PartBuilder::new("acme", 1);
        let ordinal = part.series(labels(0).as_bytes());
        for step in 0..1000 {
            part.sample(ordinal, BASE_MS + step * 1000, step as f64 + add);
        }
        encode_write_entry(BASE_MS + 1_000_000, &[part.finish()])
    };
    let mut index = 0;
    let mut apply = |entry: &[u8]| {
        index += 1;
        node.shard
            .apply(LogPosition { term: 1, index }, entry)
            .unwrap()
            .parts
            .remove(0)
    };
    assert_eq!(apply(&entry(0.0)).stored, 1000);
    for flushed in [false, true] {
        if flushed {
            node.flush();
        }
        assert_eq!(apply(&entry(0.0)).duplicates, 1000);
        let conflicting = apply(&entry(0.5));
        assert_eq!((conflicting.stored, conflicting.duplicates), (0, 0));
        assert_eq!(conflicting.rejections[0].samples, 1000);
        assert!(
            conflicting.rejections[0]
                .first
                .contains("another value is stored")
        );
    }
}

#[test]
fn unknown_ids_ask_for_labels() {
    let disk = Disk::new();
    let node = disk.open();
    fill(&node, 10, false);
    let mut part = PartBuilder::new("other", 1);
    part.known(1, BASE_MS, 1.0);
    part.known(77, BASE_MS, 1.0);
    part.known(77, BASE_MS + 1, 1.0);
    let entry = encode_write_entry(BASE_MS, &[part.finish()]);
    let outcome = node
        .shard
        .apply(LogPosition { term: 1, index: 9 }, &entry)
        .unwrap()
        .parts
        .remove(0);
    assert_eq!(outcome.unknown_ids, [1, 77], "series 1 belongs to another tenant");
    assert_eq!(outcome.stored, 0);
}
