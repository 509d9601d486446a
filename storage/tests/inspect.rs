//! Looking at a database from outside finds what is wrong with it, and nothing when nothing is.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::ops::ControlFlow;

use quorate_storage::inspect::{self, ReplicaReport};
use quorate_storage::{
    CF_CHUNKS, CF_SERIES, CF_SHARD_META, LogPosition, MatchOp, Matcher, Merge, PartBuilder,
    encode_write_entry,
};
use support::{BASE_MS, Disk, Node, labels};

/// Three flushes of 20 series, whose timestamps differ in every second one.
fn fill(node: &Node) {
    for flush in 0..3i64 {
        let mut part = PartBuilder::new("acme", 1);
        for series in 0..20 {
            let ordinal = part.series(labels(series).as_bytes());
            for step in 0..30 {
                let t = BASE_MS + (flush * 30 + step) * 1000 + series as i64 % 2;
                part.sample(ordinal, t, (step * series as i64) as f64);
            }
        }
        let entry = encode_write_entry(BASE_MS + flush * 30_000, &[part.finish()]);
        let index = flush as u64 + 1;
        node.shard.apply(LogPosition { term: 1, index }, &entry).unwrap();
        node.flush();
    }
}

fn verify(node: &Node) -> ReplicaReport {
    let replicas = inspect::replicas(&node.db).unwrap();
    assert_eq!(replicas.len(), 1);
    assert_eq!((replicas[0].shard, replicas[0].replica), (1, 5));
    inspect::verify(&node.db, &replicas[0]).unwrap()
}

/// All rows of a family.
fn rows(node: &Node, family: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let cf = node.db.cf_handle(family).unwrap();
    let rows = node.db.iterator_cf(&cf, rocksdb::IteratorMode::Start);
    rows.map(|row| row.unwrap())
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}

#[test]
fn a_sound_database_has_no_problems() {
    let disk = Disk::new();
    let node = disk.open();
    fill(&node);
    let report = verify(&node);
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!((report.series, report.generations, report.samples), (20, 3, 1800));
    assert!(report.leftovers.is_empty());
    let merged = node
        .shard
        .merge(Merge::All, &mut |_| ControlFlow::Continue(()))
        .unwrap()
        .unwrap();
    // The result of a merge that has not taken effect is left over.
    assert_eq!(verify(&node).leftovers, [CF_CHUNKS]);
    let pending = node.shard.begin_swap(merged).unwrap().unwrap();
    node.write_rows(&pending);
    node.shard.commit_flush(pending).unwrap();
    let report = verify(&node);
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!((report.generations, report.samples), (1, 1800));
}

#[test]
fn any_damaged_byte_is_found() {
    let disk = Disk::new();
    let node = disk.open();
    fill(&node);
    for family in [CF_CHUNKS, CF_SERIES] {
        let cf = node.db.cf_handle(family).unwrap();
        for (key, value) in rows(&node, family) {
            for at in [0, value.len() / 2, value.len() - 1] {
                let mut damaged = value.clone();
                damaged[at] ^= 0x11;
                node.db.put_cf(&cf, &key, &damaged).unwrap();
                let report = verify(&node);
                assert!(report.problems_total > 0, "{family}, byte {at} of {key:02x?}");
            }
            node.db.put_cf(&cf, &key, &value).unwrap();
        }
    }
    assert_eq!(verify(&node).problems_total, 0);
    let cf = node.db.cf_handle(CF_SHARD_META).unwrap();
    let (key, mut value) = rows(&node, CF_SHARD_META).remove(0);
    value[6] ^= 1;
    node.db.put_cf(&cf, &key, value).unwrap();
    let error = inspect::replicas(&node.db).unwrap_err().to_string();
    assert!(error.contains("the meta row is damaged"), "{error}");
}

#[test]
fn any_missing_row_is_found() {
    let disk = Disk::new();
    let node = disk.open();
    fill(&node);
    for family in [CF_CHUNKS, CF_SERIES] {
        let cf = node.db.cf_handle(family).unwrap();
        for (key, value) in rows(&node, family) {
            node.db.delete_cf(&cf, &key).unwrap();
            let report = verify(&node);
            assert!(report.problems_total > 0, "{family}, {key:02x?}");
            node.db.put_cf(&cf, &key, &value).unwrap();
        }
    }
    assert_eq!(verify(&node).problems_total, 0);
}

/// Sound rows, but another generation's.
#[test]
fn timestamps_in_the_wrong_place_are_found() {
    let disk = Disk::new();
    let node = disk.open();
    fill(&node);
    let all = rows(&node, CF_CHUNKS);
    let times: Vec<_> = all.iter().filter(|(key, _)| key[20] == b'T').collect();
    let cf = node.db.cf_handle(CF_CHUNKS).unwrap();
    node.db.put_cf(&cf, &times[1].0, &times[0].1).unwrap();
    let report = verify(&node);
    assert!(
        report.problems.iter().any(|p| p.contains("the meta row says")),
        "{:?}",
        report.problems
    );
}

#[test]
fn a_dump_shows_what_a_reader_would_see() {
    let disk = Disk::new();
    let node = disk.open();
    fill(&node);
    let replica = inspect::replicas(&node.db).unwrap().remove(0);
    assert_eq!((replica.position(), replica.series()), (Some((1, 3)), 20));
    assert_eq!(replica.generations().len(), 3);
    let matchers = [Matcher::new(MatchOp::Eq, "s", "v7").unwrap()];
    let mut seen = Vec::new();
    inspect::dump(&node.db, &replica, &matchers, &mut |series| {
        assert_eq!((series.tenant, series.id, series.labels), ("acme", 8, &labels(7)));
        seen.extend(series.samples.iter());
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(seen.len(), 90);
    assert_eq!(seen[31], (BASE_MS + 31_001, 7.0));
    let mut series = 0;
    inspect::dump(&node.db, &replica, &[], &mut |_| {
        series += 1;
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(series, 20);
    inspect::dump(&node.db, &replica, &[], &mut |_| {
        series += 1;
        ControlFlow::Break(())
    })
    .unwrap();
    assert_eq!(series, 21, "it has to end when it is told to");
}
