//! A selection over a window looks at the series that were active in the spans it touches, and at no
//! others; what it answers is what it would answer if it looked at all.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use bytes::Bytes;
use proptest::prelude::*;
use quorate_storage::{
    ACTIVITY_SPAN_MS, Deletion, Labels, Limits, LogPosition, MatchOp, Matcher, Merge, PartBuilder,
    SampleColumns, SelectLimits, encode_deletion_entry, encode_limits_entry, encode_write_entry,
};
use support::{BASE_MS, Disk, Node, labels};

const SPAN: i64 = ACTIVITY_SPAN_MS;
const TENANT: &str = "acme";
const RETENTION_MS: i64 = 12 * SPAN;

#[derive(Clone, Debug)]
enum Op {
    /// Lets time pass, then writes a sample of each series, so long before now.
    Write(i64, Vec<(usize, i64)>),
    Delete(usize),
    Flush,
    /// Begins a flush and loses the process; the flag says whether the meta row was durable.
    Crash(bool),
    Merge,
    Move,
}

fn op() -> impl Strategy<Value = Op> {
    let age = prop_oneof![4 => 0..1_000i64, 1 => 0..3 * SPAN];
    let samples = proptest::collection::vec((0usize..12, age), 1..6);
    prop_oneof![
        8 => (0..2 * SPAN, samples).prop_map(|(pause, samples)| Op::Write(pause, samples)),
        1 => (0usize..12).prop_map(Op::Delete),
        3 => Just(Op::Flush),
        1 => any::<bool>().prop_map(Op::Crash),
        1 => Just(Op::Merge),
        1 => Just(Op::Move),
    ]
}

/// What is known of a series, without any index.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Spans in which it was registered or got a sample.
    spans: BTreeSet<i64>,
    samples: BTreeMap<i64, u64>,
    bounds: Option<(i64, i64)>,
}

struct World {
    disk: Disk,
    node: Node,
    log: Vec<Bytes>,
    now_ms: i64,
    known: BTreeMap<usize, Known>,
}

impl World {
    fn new() -> Self {
        let disk = Disk::new();
        let node = disk.open();
        let mut world = Self {
            disk,
            node,
            log: Vec::new(),
            now_ms: BASE_MS,
            known: BTreeMap::new(),
        };
        let limits = Limits {
            retention_ms: RETENTION_MS as u64,
            ooo_window_ms: 2 * SPAN as u64,
            ..Limits::default()
        };
        world.append(encode_limits_entry(BASE_MS, &limits));
        world
    }

    fn append(&mut self, entry: Bytes) -> u64 {
        self.log.push(entry);
        self.apply(self.log.len())
    }

    fn apply(&self, index: usize) -> u64 {
        let position = LogPosition {
            term: 1,
            index: index as u64,
        };
        let outcome = self.node.shard.apply(position, &self.log[index - 1]).unwrap();
        outcome.parts.iter().map(|part| part.stored).sum()
    }

    fn replay(&self) {
        let durable = self.node.shard.durable().position;
        let from = durable.map_or(0, |position| position.index) as usize;
        (from + 1..=self.log.len()).for_each(|index| {
            self.apply(index);
        });
    }

    fn cut_ms(&self) -> i64 {
        self.now_ms - RETENTION_MS
    }

    fn write(&mut self, pause_ms: i64, samples: &[(usize, i64)]) {
        self.now_ms += pause_ms;
        for (series, age_ms) in samples {
            let t = self.now_ms - age_ms;
            let mut part = PartBuilder::new(TENANT, 1);
            let ordinal = part.series(labels(*series).as_bytes());
            part.sample(ordinal, t, *series as f64);
            let stored = self.append(encode_write_entry(self.now_ms, &[part.finish()]));
            let first = self.cut_ms().div_euclid(SPAN);
            self.known.retain(|_, known| {
                known.spans = known.spans.split_off(&first);
                !known.spans.is_empty()
            });
            let now_span = self.now_ms.div_euclid(SPAN);
            let known = self.known.entry(*series).or_insert_with(|| Known {
                spans: [now_span].into(),
                ..Known::default()
            });
            if stored == 1 {
                known.samples.insert(t, (*series as f64).to_bits());
                known.spans.insert(t.div_euclid(SPAN));
                let (oldest, newest) = known.bounds.unwrap_or((t, t));
                known.bounds = Some((oldest.min(t), newest.max(t)));
            }
        }
    }

    fn delete(&mut self, series: usize) {
        let deletion = Deletion {
            tenant: TENANT.to_owned(),
            matcher_sets: vec![vec![
                Matcher::new(MatchOp::Eq, "s", &format!("v{series}")).unwrap(),
            ]],
            start_ms: i64::MIN,
            end_ms: i64::MAX,
        };
        self.append(encode_deletion_entry(self.now_ms, &deletion));
        if let Some(known) = self.known.get_mut(&series) {
            known.samples.clear();
            known.bounds = None;
        }
    }

    fn crash(&mut self, durable: bool) {
        if let Some(pending) = self.node.shard.begin_flush().unwrap() {
            if durable {
                self.node.write_rows(&pending);
            }
            drop(pending);
        }
        let empty = Disk::new();
        self.node = empty.open();
        self.node = self.disk.open();
        self.replay();
    }

    fn merge(&mut self) {
        let merged = self
            .node
            .shard
            .merge(Merge::All, &mut |_| ControlFlow::Continue(()));
        if let Some(merged) = merged.unwrap()
            && let Some(pending) = self.node.shard.begin_swap(merged).unwrap()
        {
            self.node.write_rows(&pending);
            self.node.shard.commit_flush(pending).unwrap();
        }
    }

    fn take_snapshot_elsewhere(&mut self) {
        if self.node.shard.durable().position.is_none() {
            return;
        }
        let disk = Disk::new();
        let node = disk.open();
        let mut snapshot = self.node.shard.snapshot().unwrap();
        let mut install = node.shard.begin_install().unwrap();
        while let Some(chunk) = snapshot.next_chunk().unwrap() {
            install.write(&chunk).unwrap();
        }
        install
            .finish(snapshot.position, snapshot.membership.clone())
            .unwrap();
        drop(snapshot);
        self.node = node;
        self.disk = disk;
        self.replay();
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Write(pause_ms, samples) => self.write(*pause_ms, samples),
            Op::Delete(series) => self.delete(*series),
            Op::Flush => self.node.flush(),
            Op::Crash(durable) => self.crash(*durable),
            Op::Merge => self.merge(),
            Op::Move => self.take_snapshot_elsewhere(),
        }
    }

    fn check(&self, start_ms: i64, end_ms: i64, matchers: &[Matcher]) {
        let visible_ms = start_ms.max(self.cut_ms());
        let touches = |known: &Known| {
            let spans = &known.spans;
            visible_ms <= end_ms
                && spans
                    .range(visible_ms.div_euclid(SPAN)..=end_ms.div_euclid(SPAN))
                    .next()
                    .is_some()
                && known
                    .bounds
                    .is_some_and(|(oldest, newest)| oldest <= end_ms && newest >= visible_ms)
        };
        let passes = |series: &usize| {
            let labels = labels(*series);
            matchers
                .iter()
                .all(|m| m.matches(labels.get(m.name()).unwrap_or("")))
        };
        let chosen = || self.known.iter().filter(|(series, _)| passes(series));
        let expected: BTreeSet<Labels> = chosen()
            .filter(|(_, known)| touches(known))
            .map(|(series, _)| labels(*series))
            .collect();
        let shard = &self.node.shard;
        let found = shard
            .series(TENANT, &[matchers.to_vec()], start_ms, end_ms)
            .unwrap();
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
        let expected: BTreeMap<Labels, Vec<(i64, u64)>> = chosen()
            .filter(|_| visible_ms <= end_ms)
            .map(|(series, known)| {
                let samples = known.samples.range(visible_ms..=end_ms);
                (labels(*series), samples.map(|(t, bits)| (*t, *bits)).collect())
            })
            .filter(|(_, samples): &(_, Vec<_>)| !samples.is_empty())
            .collect();
        let mut columns = SampleColumns::new();
        let mut found = BTreeMap::new();
        for series in shard
            .select(TENANT, matchers, start_ms, end_ms, &SelectLimits::default())
            .unwrap()
        {
            series.samples(&mut columns).unwrap();
            if !columns.is_empty() {
                let samples = columns.iter().map(|(t, value)| (t, value.to_bits()));
                found.insert(series.labels.clone(), samples.collect::<Vec<_>>());
            }
        }
        assert_eq!(found, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn selections_agree_with_looking_at_every_series(
        ops in proptest::collection::vec(op(), 1..40),
        windows in proptest::collection::vec((-15 * SPAN..2 * SPAN, -1..6 * SPAN), 1..6),
    ) {
        let mut world = World::new();
        let any = Matcher::new(MatchOp::Eq, "__name__", "m").unwrap();
        let some = Matcher::new(MatchOp::Re, "s", "v1.?").unwrap();
        let not = Matcher::new(MatchOp::Ne, "s", "v3").unwrap();
        for op in &ops {
            world.step(op);
            for (start, length) in &windows {
                let start_ms = world.now_ms + start;
                world.check(start_ms, start_ms + length, std::slice::from_ref(&any));
                world.check(start_ms, start_ms + length, &[some.clone(), not.clone()]);
            }
            world.check(i64::MIN, i64::MAX, &[]);
        }
    }
}

/// The rows are as many as the meta row says, or the shard does not open.
#[test]
fn a_missing_row_refuses_to_open() {
    let mut world = World::new();
    world.write(0, &[(1, 0)]);
    world.write(2 * SPAN, &[(2, 0)]);
    world.node.flush();
    let key = {
        let family = world.node.db.cf_handle(quorate_storage::CF_SERIES).unwrap();
        let mut rows = world.node.db.raw_iterator_cf(&family);
        rows.seek_to_first();
        let key = rows.key().unwrap().to_vec();
        assert_eq!(key[20], b'A');
        drop(rows);
        world.node.db.delete_cf(&family, &key).unwrap();
        key
    };
    let empty = Disk::new();
    world.node = empty.open();
    let path = world.disk.dir.path();
    let db = rocksdb::DBWithThreadMode::open_cf_descriptors(
        &rocksdb::Options::default(),
        path.join("db"),
        quorate_storage::Store::column_families(),
    )
    .unwrap();
    let options = quorate_storage::StoreOptions::default();
    let store =
        quorate_storage::Store::open(std::sync::Arc::new(db), &path.join("scratch"), options).unwrap();
    let error = store.open_shard(1, 5).unwrap_err().to_string();
    assert!(
        error.contains("the activity rows is damaged: 2 were expected, 1 found"),
        "{error} {key:?}"
    );
}
