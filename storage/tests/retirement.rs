//! Series without a sample within retention go: from memory, from the index, from the disk, from what a
//! tenant's quota counts, on every replica alike.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::ops::ControlFlow;

use quorate_storage::inspect;
use quorate_storage::{
    ACTIVITY_SPAN_MS, ApplyOutcome, CF_SERIES, Limits, LogPosition, MatchOp, Matcher, Merge, PartBuilder,
    Quota, RejectReason, SelectLimits, encode_limits_entry, encode_quota_entry, encode_write_entry,
};
use support::{BASE_MS, Disk, Node, labels};

const SPAN: i64 = ACTIVITY_SPAN_MS;
const TENANT: &str = "acme";

/// A shard whose samples are kept for two spans.
struct World {
    node: Node,
    log: Vec<bytes::Bytes>,
}

impl World {
    fn on(disk: &Disk, quota_epoch: u64) -> Self {
        let mut world = Self {
            node: disk.open(),
            log: Vec::new(),
        };
        let limits = Limits {
            retention_ms: 2 * SPAN as u64,
            quota_epoch,
            ..Limits::default()
        };
        world.append(encode_limits_entry(BASE_MS, &limits));
        world
    }

    fn append(&mut self, entry: bytes::Bytes) -> ApplyOutcome {
        self.log.push(entry);
        apply(&self.node, &self.log, self.log.len())
    }

    /// A sample of each series, a thousand spans' milliseconds apart.
    fn write(&mut self, now_ms: i64, series: std::ops::Range<usize>) -> ApplyOutcome {
        let mut part = PartBuilder::new(TENANT, 1);
        for series in series {
            let ordinal = part.series(labels(series).as_bytes());
            part.sample(ordinal, now_ms, series as f64);
        }
        self.append(encode_write_entry(now_ms, &[part.finish()]))
    }

    fn label_rows(&self) -> u64 {
        let family = self.node.db.cf_handle(CF_SERIES).unwrap();
        let rows = self.node.db.iterator_cf(&family, rocksdb::IteratorMode::Start);
        rows.filter(|row| row.as_ref().unwrap().0[20] == b'L').count() as u64
    }

    fn verify(&self) {
        for replica in inspect::replicas(&self.node.db).unwrap() {
            let report = inspect::verify(&self.node.db, &replica).unwrap();
            assert_eq!(report.problems, Vec::<String>::new());
            assert_eq!(report.series, self.node.shard.stats().series);
        }
    }

    fn merge(&self) {
        let merged = self
            .node
            .shard
            .merge(Merge::All, &mut |_| ControlFlow::Continue(()));
        if let Some(merged) = merged.unwrap() {
            let pending = self.node.shard.begin_swap(merged).unwrap().unwrap();
            self.node.write_rows(&pending);
            self.node.shard.commit_flush(pending).unwrap();
        }
    }
}

fn apply(node: &Node, log: &[bytes::Bytes], index: usize) -> ApplyOutcome {
    let position = LogPosition {
        term: 1,
        index: index as u64,
    };
    node.shard.apply(position, &log[index - 1]).unwrap()
}

#[test]
fn churn_leaves_nothing_behind() {
    let disk = Disk::new();
    let mut world = World::on(&disk, 0);
    // One series stays, thousands come and go.
    let generation = 3_000;
    let mut last_id = 0;
    for round in 0..8i64 {
        let now_ms = BASE_MS + round * SPAN;
        let first = 1 + round as usize * generation;
        world.write(now_ms, 0..1);
        let outcome = world.write(now_ms, first..first + generation);
        let ids = &outcome.parts[0].new_ids;
        assert!(ids.iter().all(|id| *id > last_id), "an id is used again");
        last_id = *ids.iter().max().unwrap();
        if round % 2 == 1 {
            world.node.flush();
            world.verify();
            assert_eq!(world.label_rows(), world.node.shard.stats().series);
        }
        if round == 5 {
            world.merge();
            world.verify();
        }
    }
    let stats = world.node.shard.stats();
    let kept = 1 + 3 * generation as u64;
    assert_eq!(
        (stats.series, stats.retired_series),
        (kept, 5 * generation as u64)
    );
    let shard = &world.node.shard;
    let everything = [Matcher::new(MatchOp::Eq, "__name__", "m").unwrap()];
    let found = shard.select(TENANT, &everything, i64::MIN, i64::MAX, &SelectLimits::default());
    assert_eq!(found.unwrap().len() as u64, kept);
    let values = shard.label_values(TENANT, "s", &[], i64::MIN, i64::MAX).unwrap();
    assert_eq!(
        values.len() as u64,
        kept,
        "values of retired series are forgotten"
    );
    // Another replica that never flushed agrees, and so does this one after a restart.
    let other = Disk::new();
    let fresh = other.open();
    (1..=world.log.len()).for_each(|index| {
        apply(&fresh, &world.log, index);
    });
    let checksum = fresh.shard.checksum().unwrap();
    assert_eq!(world.node.shard.checksum().unwrap(), checksum);
    let World { node, log } = world;
    drop(node);
    let node = disk.open();
    let from = node.shard.durable().position.unwrap().index as usize;
    (from + 1..=log.len()).for_each(|index| {
        apply(&node, &log, index);
    });
    assert_eq!(node.shard.checksum().unwrap(), checksum);
    assert_eq!(node.shard.stats().series, kept);
}

#[test]
fn a_retired_id_asks_for_labels_and_gets_a_new_one() {
    let disk = Disk::new();
    let mut world = World::on(&disk, 0);
    let old = world.write(BASE_MS, 0..2).parts[0].new_ids.clone();
    assert_eq!(old, [1, 2]);
    let now_ms = BASE_MS + 4 * SPAN;
    world.write(now_ms, 1..2);
    let mut part = PartBuilder::new(TENANT, 1);
    part.known(1, now_ms, 5.0);
    let outcome = world.append(encode_write_entry(now_ms, &[part.finish()]));
    assert_eq!(
        (outcome.parts[0].stored, &outcome.parts[0].unknown_ids[..]),
        (0, &[1][..])
    );
    assert_eq!(world.node.shard.labels_of(1), None);
    let outcome = world.write(now_ms, 0..2);
    assert_eq!(outcome.parts[0].new_ids, [4, 3]);
    assert_eq!((outcome.parts[0].stored, outcome.parts[0].duplicates), (1, 1));
}

#[test]
fn a_quota_counts_the_series_that_are_left() {
    let disk = Disk::new();
    let mut world = World::on(&disk, 1);
    let quota = Quota { epoch: 1, series: 3 };
    world.append(encode_quota_entry(BASE_MS, TENANT, quota));
    let outcome = world.write(BASE_MS, 0..4);
    assert_eq!(
        outcome.parts[0].rejections[0].reason,
        RejectReason::TenantSeriesLimit
    );
    assert_eq!(world.node.shard.tenant_series(TENANT), (3, Some(3)));
    let outcome = world.write(BASE_MS + 4 * SPAN, 4..7);
    assert_eq!(outcome.parts[0].rejections, []);
    assert_eq!(world.node.shard.tenant_series(TENANT), (3, Some(3)));
}

/// Who reads by an older meta row finds the labels that it promises.
#[test]
fn labels_stay_for_a_snapshot_that_was_begun() {
    let disk = Disk::new();
    let mut world = World::on(&disk, 0);
    world.write(BASE_MS, 0..50);
    world.node.flush();
    let mut snapshot = world.node.shard.snapshot().unwrap();
    world.write(BASE_MS + 4 * SPAN, 50..60);
    world.node.flush();
    assert_eq!(world.node.shard.stats().series, 10);
    assert_eq!(world.label_rows(), 60, "a reader is left");
    let other = Disk::new();
    let receiver = other.open();
    let mut install = receiver.shard.begin_install().unwrap();
    while let Some(chunk) = snapshot.next_chunk().unwrap() {
        install.write(&chunk).unwrap();
    }
    install
        .finish(snapshot.position, snapshot.membership.clone())
        .unwrap();
    assert_eq!(receiver.shard.stats().series, 50);
    drop(snapshot);
    world.write(BASE_MS + 4 * SPAN + 1, 50..51);
    world.node.flush();
    assert_eq!(world.label_rows(), 10);
    // The receiver goes on to the same state.
    let from = receiver.shard.durable().position.unwrap().index as usize;
    (from + 1..=world.log.len()).for_each(|index| {
        apply(&receiver, &world.log, index);
    });
    assert_eq!(
        receiver.shard.checksum().unwrap(),
        world.node.shard.checksum().unwrap()
    );
}

/// A crash between the flush and the deletion of label rows: they are skipped, and go with a later flush.
#[test]
fn rows_that_a_crash_left_are_skipped_and_deleted() {
    let disk = Disk::new();
    let mut world = World::on(&disk, 0);
    world.write(BASE_MS, 0..50);
    world.node.flush();
    let reader = world.node.shard.snapshot().unwrap();
    world.write(BASE_MS + 4 * SPAN, 49..60);
    world.node.flush();
    assert_eq!(world.label_rows(), 61);
    let crashed = disk.after_a_crash();
    drop(reader);
    let World { node, log } = world;
    drop(node);
    let mut world = World {
        node: crashed.open(),
        log,
    };
    assert_eq!(world.node.shard.stats().series, 11);
    assert_eq!(world.label_rows(), 61);
    world.verify();
    world.write(BASE_MS + 4 * SPAN + 1, 50..51);
    world.node.flush();
    assert_eq!(world.label_rows(), 11);
    world.verify();
}
