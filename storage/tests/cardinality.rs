//! Cardinality of shards: who counts, and for how much.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use quorate_storage::{Cardinality, Labels, LogPosition, PartBuilder, Shard, encode_write_entry};
use support::{BASE_MS, Disk};

/// One sample of each series at a time.
fn write(shard: &Shard, index: u64, tenant: &str, series: &[(&str, &str)], at_ms: i64) {
    let mut part = PartBuilder::new(tenant, 1);
    for (metric, instance) in series {
        let labels = Labels::from_pairs([("__name__", *metric), ("instance", *instance)]).unwrap();
        let ordinal = part.series(labels.as_bytes());
        part.sample(ordinal, at_ms, 1.0);
    }
    let position = LogPosition { term: 1, index };
    let entry = encode_write_entry(at_ms, &[part.finish()]);
    shard.apply(position, &entry).unwrap();
}

fn count(shard: &Shard, tenant: &str, since_ms: i64) -> Cardinality {
    let mut all = Cardinality::default();
    all.add(shard, tenant, since_ms);
    all
}

#[test]
fn only_active_series_of_the_tenant_count() {
    let disk = Disk::new();
    let node = disk.open();
    let shard = &node.shard;
    write(shard, 1, "acme", &[("up", "old:1")], BASE_MS);
    write(
        shard,
        2,
        "acme",
        &[("up", "a:1"), ("up", "b:1"), ("load", "a:1")],
        BASE_MS + 60_000,
    );
    write(shard, 3, "zoo", &[("up", "other:1")], BASE_MS + 60_000);

    let recent = count(shard, "acme", BASE_MS + 1);
    assert_eq!((recent.active_series, recent.registered_series), (3, 4));
    assert_eq!(recent.newest_ms, Some((BASE_MS + 60_000, BASE_MS + 60_000)));
    assert_eq!(recent.label_pairs(), 4);
    assert_eq!(recent.head_chunks, 5, "chunks are of all tenants");
    let pairs = |list: Vec<(String, u64)>| -> Vec<String> {
        list.into_iter()
            .map(|(what, count)| format!("{what} {count}"))
            .collect()
    };
    assert_eq!(pairs(recent.series_by_metric(10)), ["up 2", "load 1"]);
    assert_eq!(pairs(recent.values_by_label(10)), ["__name__ 2", "instance 2"]);
    assert_eq!(
        pairs(recent.value_bytes_by_label(10)),
        ["instance 9", "__name__ 8"]
    );
    assert_eq!(
        pairs(recent.series_by_pair(2)),
        ["__name__=up 2", "instance=a:1 2"]
    );

    let all = count(shard, "acme", BASE_MS);
    assert_eq!((all.active_series, all.label_pairs()), (4, 5));
    assert_eq!(count(shard, "nobody", BASE_MS).active_series, 0);
}

#[test]
fn a_flush_takes_the_samples_out_of_memory_and_a_restart_keeps_the_counts() {
    let disk = Disk::new();
    let node = disk.open();
    let hosts: Vec<String> = (0..2000).map(|host| format!("host-{host}:9100")).collect();
    let series: Vec<(&str, &str)> = hosts.iter().map(|host| ("up", host.as_str())).collect();
    write(&node.shard, 1, "acme", &series, BASE_MS);
    let before = count(&node.shard, "acme", BASE_MS);
    assert!(before.memory.chunks >= 2000 * 16, "{:?}", before.memory);
    assert!(before.memory.total() < 2000 * 400, "{:?}", before.memory);
    node.flush();
    let flushed = count(&node.shard, "acme", BASE_MS);
    assert_eq!((flushed.memory.chunks, flushed.head_chunks), (0, 0));
    drop(node);
    let after = count(&disk.open().shard, "acme", BASE_MS);
    assert_eq!(after.active_series, 2000);
    assert_eq!(after.series_by_pair(3000), before.series_by_pair(3000));
}
