//! Merging generations: what it keeps, what it drops, and what a crash at each step leaves.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::ops::ControlFlow;

use quorate_storage::{
    CF_CHUNKS, Histogram, LogPosition, MatchOp, Matcher, Merge, MergedGeneration, PartBuilder, SampleColumns,
    SelectLimits, SelectedSeries, encode_write_entry,
};
use support::{BASE_MS, Disk, Node, labels};

const DAY_MS: i64 = 24 * 3600 * 1000;
/// A moment after midnight, so that an hour of samples lies in one bucket.
const MORNING_MS: i64 = BASE_MS - BASE_MS % DAY_MS + 3600 * 1000;

/// Applies samples of a few series at `times`, which may be out of order.
fn write(node: &Node, times: impl Iterator<Item = i64>) {
    let mut part = PartBuilder::new("acme", 1);
    let ordinals: Vec<_> = (0..5)
        .map(|series| part.series(labels(series).as_bytes()))
        .collect();
    let mut newest_ms = 0;
    for t in times {
        newest_ms = newest_ms.max(t);
        // The last series has histograms.
        for ordinal in &ordinals[..4] {
            part.sample(*ordinal, t, (t % 1000) as f64);
        }
        let count = (t % 1000) as f64;
        let histogram = Histogram {
            count,
            zero_count: count,
            sum: count / 4.0,
            ..Histogram::default()
        };
        part.histogram(ordinals[4], t, &histogram);
    }
    let index = node.shard.applied().map_or(1, |applied| applied.index + 1);
    let entry = encode_write_entry(newest_ms, &[part.finish()]);
    node.shard.apply(LogPosition { term: 1, index }, &entry).unwrap();
}

/// Flushes of some minutes each; late samples in every second one.
fn fill(node: &Node, flushes: i64) {
    for flush in 0..flushes {
        let from = MORNING_MS + flush * 600_000;
        write(node, (0..40).map(|step| from + step * 15_000));
        if flush % 2 == 1 {
            write(node, (0..20).map(|step| from - 600_000 + 7 + step * 15_000));
        }
        node.flush();
    }
}

fn merge(node: &Node) -> Option<MergedGeneration> {
    node.shard
        .merge(Merge::All, &mut |_| ControlFlow::Continue(()))
        .unwrap()
}

fn merge_and_swap(node: &Node) {
    let merged = merge(node).unwrap();
    let pending = node.shard.begin_swap(merged).unwrap().unwrap();
    node.write_rows(&pending);
    node.shard.commit_flush(pending).unwrap();
}

fn select(node: &Node) -> Vec<SelectedSeries> {
    let everything = [Matcher::new(MatchOp::Eq, "__name__", "m").unwrap()];
    node.shard
        .select("acme", &everything, i64::MIN, i64::MAX, &SelectLimits::default())
        .unwrap()
}

fn read(selected: &[SelectedSeries]) -> Vec<(i64, u64)> {
    let mut columns = SampleColumns::new();
    selected[0].samples(&mut columns).unwrap();
    columns.iter().map(|(t, value)| (t, value.to_bits())).collect()
}

/// Numbers of the generations that have rows.
fn generations_on_disk(node: &Node) -> Vec<u64> {
    let cf = node.db.cf_handle(CF_CHUNKS).unwrap();
    let mut rows = node.db.raw_iterator_cf(&cf);
    rows.seek_to_first();
    let mut found = Vec::new();
    while let Some(key) = rows.key() {
        found.push(u64::from_be_bytes(key[12..20].try_into().unwrap()));
        rows.next();
    }
    found.dedup();
    found
}

#[test]
fn a_merge_keeps_every_sample_and_its_inputs_go() {
    let disk = Disk::new();
    let node = disk.open();
    fill(&node, 6);
    let (before, content) = (read(&select(&node)), node.shard.checksum().unwrap());
    assert_eq!(node.shard.stats().generations, 6);
    merge_and_swap(&node);
    let stats = node.shard.stats();
    assert_eq!((stats.generations, stats.flushed_samples), (1, content.samples));
    assert_eq!(read(&select(&node)), before);
    assert_eq!(node.shard.checksum().unwrap(), content);
    assert_eq!(generations_on_disk(&node).len(), 1, "the inputs are gone");
    assert!(merge(&node).is_none(), "nothing is left to merge");
    drop(node);
    let node = disk.open();
    assert_eq!(node.shard.checksum().unwrap(), content);
}

#[test]
fn a_crash_at_any_step_leaves_the_old_or_the_new_generations() {
    let disk = Disk::new();
    let node = disk.open();
    fill(&node, 3);
    let content = node.shard.checksum().unwrap();
    let mut left = Vec::new();
    // While it is written, after each series.
    let merged = node.shard.merge(Merge::All, &mut |_| {
        left.push(("writing", 3, disk.after_a_crash()));
        ControlFlow::Continue(())
    });
    let merged = merged.unwrap().unwrap();
    assert_eq!(generations_on_disk(&node).len(), 4);
    left.push(("ingested", 3, disk.after_a_crash()));
    let pending = node.shard.begin_swap(merged).unwrap().unwrap();
    left.push(("proposed", 3, disk.after_a_crash()));
    node.write_rows(&pending);
    left.push(("durable", 1, disk.after_a_crash()));
    node.shard.commit_flush(pending).unwrap();
    left.push(("committed", 1, disk.after_a_crash()));
    for (step, generations, disk) in left {
        let node = disk.open();
        assert_eq!(node.shard.checksum().unwrap(), content, "{step}");
        assert_eq!(node.shard.stats().generations, generations, "{step}");
        assert_eq!(generations_on_disk(&node).len() as u64, generations, "{step}");
        // It goes on from there.
        write(&node, (0..10).map(|t| MORNING_MS + 3 * 600_000 + t));
        node.flush();
        merge_and_swap(&node);
        assert_eq!(node.shard.stats().flushed_samples, content.samples + 50, "{step}");
    }
}

#[test]
fn an_aborted_swap_changes_nothing() {
    let disk = Disk::new();
    let node = disk.open();
    fill(&node, 3);
    let content = node.shard.checksum().unwrap();
    let pending = node.shard.begin_swap(merge(&node).unwrap()).unwrap().unwrap();
    assert!(
        node.shard.begin_flush().unwrap().is_none(),
        "one change at a time"
    );
    node.shard.abort_flush(pending).unwrap();
    assert_eq!(node.shard.checksum().unwrap(), content);
    assert_eq!(generations_on_disk(&node).len(), 3);
    merge_and_swap(&node);
    assert_eq!(node.shard.checksum().unwrap(), content);
}

#[test]
fn a_merge_that_is_broken_off_leaves_nothing() {
    let disk = Disk::new();
    let node = disk.open();
    fill(&node, 3);
    let mut told = 0;
    let broken = node.shard.merge(Merge::All, &mut |bytes| {
        told += bytes;
        ControlFlow::Break(())
    });
    assert!(broken.unwrap().is_none() && told > 0);
    assert_eq!(generations_on_disk(&node).len(), 3);
}

#[test]
fn a_reader_keeps_the_inputs_of_a_merge() {
    let disk = Disk::new();
    let node = disk.open();
    fill(&node, 4);
    let selected = select(&node);
    let before = read(&select(&node));
    merge_and_swap(&node);
    assert_eq!(generations_on_disk(&node).len(), 5);
    assert_eq!(read(&selected), before);
    drop(selected);
    write(&node, [MORNING_MS + 4 * 600_000].into_iter());
    node.flush();
    assert_eq!(generations_on_disk(&node).len(), 2);
}

#[test]
fn what_is_written_during_a_merge_stays() {
    let disk = Disk::new();
    let node = disk.open();
    fill(&node, 4);
    let merged = merge(&node).unwrap();
    // A flush, with samples between those that are merged.
    write(
        &node,
        (0..40).map(|step| MORNING_MS + 4 * 600_000 + step * 15_000),
    );
    write(
        &node,
        (0..40).map(|step| MORNING_MS + 3 * 600_000 + 11 + step * 15_000),
    );
    node.flush();
    let content = node.shard.checksum().unwrap();
    let pending = node.shard.begin_swap(merged).unwrap().unwrap();
    node.write_rows(&pending);
    node.shard.commit_flush(pending).unwrap();
    assert_eq!(node.shard.stats().generations, 2);
    assert_eq!(node.shard.checksum().unwrap(), content);
    merge_and_swap(&node);
    assert_eq!(node.shard.checksum().unwrap(), content);
}

#[test]
fn a_merge_of_what_a_snapshot_replaced_is_given_up() {
    let (source_disk, disk) = (Disk::new(), Disk::new());
    let (source, node) = (source_disk.open(), disk.open());
    fill(&source, 6);
    fill(&node, 3);
    let merged = merge(&node).unwrap();
    let mut snapshot = source.shard.snapshot().unwrap();
    let mut install = node.shard.begin_install().unwrap();
    while let Some(chunk) = snapshot.next_chunk().unwrap() {
        install.write(&chunk).unwrap();
    }
    install.finish(snapshot.position, None).unwrap();
    assert!(node.shard.begin_swap(merged).unwrap().is_none());
    assert_eq!(node.shard.checksum().unwrap(), source.shard.checksum().unwrap());
    assert_eq!(generations_on_disk(&node).len(), 6);
}

#[test]
fn generations_end_with_their_day() {
    let disk = Disk::new();
    let node = disk.open();
    let midnight = MORNING_MS - 3600 * 1000 + DAY_MS;
    write(&node, (-100..100).map(|step| midnight + step * 15_000));
    node.flush();
    assert_eq!(node.shard.stats().generations, 2);
    write(&node, (100..120).map(|step| midnight + step * 15_000));
    node.flush();
    assert_eq!(node.shard.stats().generations, 3);
    merge_and_swap(&node);
    assert_eq!(node.shard.stats().generations, 2);
    assert_eq!(read(&select(&node)).len(), 220);
}
