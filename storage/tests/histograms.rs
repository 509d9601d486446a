//! Native histograms as samples: beside floats in one series, flushed, merged, moved, deleted, damaged.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::ops::ControlFlow;

use quorate_storage::histogram::Span;
use quorate_storage::{
    CF_CHUNKS, CounterResetHint, Deletion, Histogram, LogPosition, MAX_HISTOGRAM_CELLS, MatchOp, Matcher,
    Merge, PartBuilder, PartOutcome, RejectReason, SampleColumns, SelectLimits, check_part,
    encode_deletion_entry, encode_write_entry, inspect,
};
use support::{BASE_MS, Disk, Node, labels};

/// What a scrape gives at a step: counts grow, and once there is a new bucket.
fn histogram(step: i64) -> Histogram {
    let mut buckets = vec![step as f64, (step * 3) as f64];
    if step > 90 {
        buckets.push((step - 90) as f64);
    }
    Histogram {
        counter_reset_hint: match step {
            7 => CounterResetHint::Reset,
            _ => CounterResetHint::Unknown,
        },
        schema: 3,
        zero_threshold: 0.001,
        count: buckets.iter().sum(),
        sum: step as f64 * 0.75,
        positive_spans: vec![Span {
            offset: -2,
            length: buckets.len() as u32,
        }],
        positive_buckets: buckets,
        ..Histogram::default()
    }
}

fn time(step: i64) -> i64 {
    BASE_MS + step * 15_000
}

/// Applies a part of one series, which comes with its labels.
fn write(node: &Node, series: usize, fill: impl FnOnce(&mut PartBuilder, u32)) -> PartOutcome {
    let mut part = PartBuilder::new("acme", 1);
    let ordinal = part.series(labels(series).as_bytes());
    fill(&mut part, ordinal);
    let part = part.finish();
    check_part(&part).unwrap();
    let index = node.shard.applied().map_or(1, |applied| applied.index + 1);
    let entry = encode_write_entry(time(400), &[part]);
    let outcome = node.shard.apply(LogPosition { term: 1, index }, &entry).unwrap();
    outcome.parts.into_iter().next().unwrap()
}

/// Steps of floats and of histograms in turn, fifty each, and a stale marker at the end of each run.
fn fill(node: &Node, series: usize, steps: std::ops::Range<i64>) {
    for step in steps {
        let outcome = write(node, series, |part, ordinal| match (step / 50 % 2, step % 50) {
            (0, _) => part.sample(ordinal, time(step), step as f64),
            (_, 49) => part.histogram(ordinal, time(step), &Histogram::stale()),
            _ => part.histogram(ordinal, time(step), &histogram(step)),
        });
        assert_eq!((outcome.stored, &outcome.rejections[..]), (1, &[][..]));
    }
}

/// Time, and what is there: a number or a histogram.
type Row = (i64, Result<u64, Histogram>);

fn expected(steps: std::ops::Range<i64>) -> Vec<Row> {
    let row = |step: i64| {
        let value = match (step / 50 % 2, step % 50) {
            (0, _) => Ok((step as f64).to_bits()),
            (_, 49) => Err(Histogram::stale()),
            _ => Err(histogram(step)),
        };
        (time(step), value)
    };
    steps.map(row).collect()
}

fn read(node: &Node, series: usize, start_ms: i64, end_ms: i64) -> Vec<Row> {
    let matcher = Matcher::new(MatchOp::Eq, "s", &format!("v{series}")).unwrap();
    let selected = node
        .shard
        .select("acme", &[matcher], start_ms, end_ms, &SelectLimits::default())
        .unwrap();
    let mut columns = SampleColumns::new();
    match selected.first() {
        Some(series) => series.samples(&mut columns).unwrap(),
        None => return Vec::new(),
    }
    let rows = (0..).zip(columns.iter());
    rows.map(|(at, (t, value))| {
        let histogram = columns.histogram(at).map(|h| Histogram::clone(h));
        (t, histogram.map_or(Ok(value.to_bits()), Err))
    })
    .collect()
}

fn merge(node: &Node) {
    let merged = node
        .shard
        .merge(Merge::All, &mut |_| ControlFlow::Continue(()))
        .unwrap()
        .unwrap();
    let pending = node.shard.begin_swap(merged).unwrap().unwrap();
    node.write_rows(&pending);
    node.shard.commit_flush(pending).unwrap();
}

fn problems(disk: &Disk, node: Node) -> Vec<String> {
    drop(node);
    let node = disk.open();
    let replicas = inspect::replicas(&node.db).unwrap();
    inspect::verify(&node.db, &replicas[0]).unwrap().problems
}

#[test]
fn a_series_may_hold_floats_and_histograms_in_turn() {
    let disk = Disk::new();
    let node = disk.open();
    fill(&node, 0, 0..130);
    assert_eq!(
        read(&node, 0, i64::MIN, i64::MAX),
        expected(0..130),
        "from memory"
    );
    assert_eq!(read(&node, 0, time(40), time(60)), expected(40..61), "a window");
    node.flush();
    assert_eq!(read(&node, 0, i64::MIN, i64::MAX), expected(0..130), "flushed");
    assert_eq!(node.shard.stats().flushed_histograms, 50);
    fill(&node, 0, 130..220);
    fill(&node, 1, 0..60);
    let pending = node.shard.begin_flush().unwrap().unwrap();
    fill(&node, 0, 220..260);
    assert_eq!(
        read(&node, 0, i64::MIN, i64::MAX),
        expected(0..260),
        "flushed, frozen and in memory"
    );
    node.shard.abort_flush(pending).unwrap();
    assert_eq!(
        read(&node, 0, i64::MIN, i64::MAX),
        expected(0..260),
        "after an abort"
    );
    node.flush();
    let content = node.shard.checksum().unwrap();
    merge(&node);
    assert_eq!(node.shard.checksum().unwrap(), content);
    assert_eq!(read(&node, 0, time(140), time(170)), expected(140..171), "merged");
    drop(node);
    let node = disk.open();
    assert_eq!(
        read(&node, 0, i64::MIN, i64::MAX),
        expected(0..260),
        "opened again"
    );
    assert_eq!(read(&node, 1, i64::MIN, i64::MAX), expected(0..60));
    assert_eq!(node.shard.checksum().unwrap(), content);
    assert_eq!(problems(&disk, node), Vec::<String>::new());
}

#[test]
fn order_and_duplicates_are_decided_over_both_kinds() {
    let disk = Disk::new();
    let node = disk.open();
    for flushed in [false, true] {
        let float =
            |step: i64, value: f64| write(&node, 0, |part, ordinal| part.sample(ordinal, time(step), value));
        let sent = |step: i64, like: i64| {
            write(&node, 0, |part, ordinal| {
                part.histogram(ordinal, time(step), &histogram(like))
            })
        };
        if !flushed {
            assert_eq!(float(10, 1.0).stored, 1);
            assert_eq!(sent(20, 20).stored, 1);
            assert_eq!(sent(5, 5).stored, 1, "late, within the window");
            assert_eq!(float(15, 3.0).stored, 1, "late, before a histogram");
        } else {
            node.flush();
        }
        let reasons = |outcome: PartOutcome| outcome.rejections.iter().map(|r| r.reason).collect::<Vec<_>>();
        let duplicate = vec![RejectReason::DuplicateTimestamp];
        assert_eq!(sent(20, 20).duplicates, 1, "the newest again");
        assert_eq!(sent(5, 5).duplicates, 1, "a late one again");
        assert_eq!(float(15, 3.0).duplicates, 1);
        assert_eq!(float(10, 1.0).duplicates, 1);
        assert_eq!(reasons(sent(20, 21)), duplicate, "another histogram");
        assert_eq!(reasons(float(20, 20.0)), duplicate, "a float over a histogram");
        assert_eq!(reasons(float(5, 0.0)), duplicate, "a float over a late histogram");
        assert_eq!(reasons(sent(10, 10)), duplicate, "a histogram over a float");
        assert_eq!(reasons(sent(-500, 1)), [RejectReason::OutOfOrder]);
        assert_eq!(reasons(sent(1_000_000, 1)), [RejectReason::TooFarAhead]);
    }
    let times: Vec<i64> = read(&node, 0, i64::MIN, i64::MAX)
        .iter()
        .map(|row| row.0)
        .collect();
    assert_eq!(times, [time(5), time(10), time(15), time(20)]);
}

#[test]
fn histograms_are_deleted_wherever_they_lie() {
    let disk = Disk::new();
    let node = disk.open();
    fill(&node, 0, 50..80);
    node.flush();
    fill(&node, 0, 80..99);
    let deletion = Deletion {
        tenant: "acme".to_owned(),
        matcher_sets: vec![vec![Matcher::new(MatchOp::Eq, "s", "v0").unwrap()]],
        start_ms: time(70),
        end_ms: time(90),
    };
    let index = node.shard.applied().unwrap().index + 1;
    let entry = encode_deletion_entry(time(400), &deletion);
    node.shard.apply(LogPosition { term: 1, index }, &entry).unwrap();
    let left = [expected(50..70), expected(91..99)].concat();
    assert_eq!(read(&node, 0, i64::MIN, i64::MAX), left);
    node.flush();
    merge(&node);
    assert_eq!(read(&node, 0, i64::MIN, i64::MAX), left);
    assert_eq!(node.shard.stats().flushed_histograms, left.len() as u64);
    assert_eq!(problems(&disk, node), Vec::<String>::new());
}

#[test]
fn a_snapshot_carries_histograms() {
    let disk = Disk::new();
    let node = disk.open();
    fill(&node, 0, 0..120);
    node.flush();
    let other = Disk::new();
    let receiver = other.open();
    let mut snapshot = node.shard.snapshot().unwrap();
    let mut install = receiver.shard.begin_install().unwrap();
    while let Some(chunk) = snapshot.next_chunk().unwrap() {
        install.write(&chunk).unwrap();
    }
    install.finish(snapshot.position, None).unwrap();
    assert_eq!(read(&receiver, 0, i64::MIN, i64::MAX), expected(0..120));
    assert_eq!(receiver.shard.checksum().unwrap(), node.shard.checksum().unwrap());
    // What is known of the series there decides as on the sender.
    let outcome = write(&receiver, 0, |part, ordinal| {
        part.histogram(ordinal, time(60), &histogram(60))
    });
    assert_eq!(outcome.duplicates, 1);
}

#[test]
fn a_damaged_slab_of_histograms_is_an_error_not_a_wrong_answer() {
    let disk = Disk::new();
    let node = disk.open();
    fill(&node, 0, 50..99);
    node.flush();
    let cf = node.db.cf_handle(CF_CHUNKS).unwrap();
    let mut rows = node.db.raw_iterator_cf(&cf);
    rows.seek_to_first();
    let (key, value) = (rows.key().unwrap().to_vec(), rows.value().unwrap().to_vec());
    assert_eq!(key[20], b'H');
    for at in [0, 5, value.len() / 2, value.len() - 1] {
        let mut damaged = value.clone();
        damaged[at] ^= 1;
        node.db.put_cf(&cf, &key, damaged).unwrap();
        assert!(node.shard.checksum().is_err(), "byte {at}");
    }
    node.db.delete_cf(&cf, &key).unwrap();
    drop(rows);
    drop(cf);
    let problems = problems(&disk, node);
    assert!(
        problems.iter().any(|p| p.contains("the meta row says")),
        "{problems:?}"
    );
}

#[test]
fn parts_with_impossible_histograms_are_refused() {
    let part = |histogram: &Histogram| {
        let mut part = PartBuilder::new("acme", 1);
        part.known(1, 5, 1.0);
        part.known_histogram(7, 5, histogram);
        part.finish()
    };
    let good = part(&histogram(3));
    let info = check_part(&good).unwrap();
    assert_eq!((info.samples, info.new_series), (2, 0));
    let unknown = Histogram {
        schema: 9,
        ..histogram(3)
    };
    assert!(check_part(&part(&unknown)).is_err());
    let wide = Histogram {
        positive_spans: vec![Span {
            offset: 0,
            length: MAX_HISTOGRAM_CELLS as u32,
        }],
        positive_buckets: vec![1.0; MAX_HISTOGRAM_CELLS],
        ..Histogram::default()
    };
    let error = check_part(&part(&wide)).unwrap_err().to_string();
    assert!(error.contains("too many buckets"), "{error}");
    for cut in 1..good.len() {
        assert!(check_part(&good[..cut]).is_err(), "{cut}");
    }
}
