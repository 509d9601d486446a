//! Random operations against a map, over a real RocksDB: the store holds and decides what the rules
//! say, whatever is flushed, lost in a crash, or copied to another store.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use proptest::prelude::*;
use quorate_storage::histogram::Span;
use quorate_storage::{
    ACTIVITY_SPAN_MS, ApplyOutcome, CounterResetHint, Deletion, Histogram, Labels, Limits, LogPosition,
    MatchOp, Matcher, Merge, PartBuilder, Quota, RejectReason, SampleColumns, SelectLimits, Shard,
    encode_deletion_entry, encode_limits_entry, encode_quota_entry, encode_write_entry,
};
use support::{BASE_MS, Disk, Node, labels};

const TENANTS: [&str; 2] = ["acme", "zoo"];

/// What a sample says: the bits of a float, or those that a histogram is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Float(u64),
    Histogram(u64),
}

/// Different bits, different histograms; a few layouts, and stale markers.
fn histogram(bits: u64) -> Histogram {
    if bits.is_multiple_of(7) {
        return Histogram::stale();
    }
    let width = bits % 3;
    let buckets = (0..width).map(|bucket| ((bits >> 32) % 100 + bucket) as f64);
    let hints = [
        CounterResetHint::Unknown,
        CounterResetHint::Reset,
        CounterResetHint::NotReset,
        CounterResetHint::Gauge,
    ];
    Histogram {
        counter_reset_hint: hints[bits as usize / 3 % 4],
        schema: (bits % 5) as i32,
        count: (bits % 1000) as f64,
        sum: f64::from_bits(bits),
        positive_spans: vec![Span {
            offset: -1,
            length: width as u32,
        }],
        positive_buckets: buckets.collect(),
        ..Histogram::default()
    }
}

/// The rules, written as plainly as possible.
#[derive(Default)]
struct Model {
    series: BTreeMap<(usize, usize), BTreeMap<i64, Value>>,
    /// Survives the retention cut, as the order rule needs it.
    newest: BTreeMap<(usize, usize), i64>,
    /// No sample was ever older, since the series was deleted as a whole.
    oldest: BTreeMap<(usize, usize), i64>,
    now_ms: i64,
    cut_ms: i64,
    limits: Limits,
    /// By tenant; all are of the epoch in force.
    quotas: BTreeMap<usize, u64>,
    /// Of the series that are not retired.
    ids: BTreeMap<(usize, usize), u64>,
    /// The last id of each retired series.
    retired: BTreeMap<(usize, usize), u64>,
    /// Ids given out.
    last_id: u64,
    /// Spans in which a series was registered or got a sample.
    spans: BTreeMap<(usize, usize), BTreeSet<i64>>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    stored: u64,
    duplicates: u64,
    rejected: BTreeMap<RejectReason, u64>,
}

impl Model {
    fn advance(&mut self, now_ms: i64) {
        self.now_ms = self.now_ms.max(now_ms);
        self.cut_ms = self.cut_ms.max(self.now_ms - self.limits.retention_ms as i64);
        for samples in self.series.values_mut() {
            *samples = samples.split_off(&self.cut_ms);
        }
        let first = self.cut_ms.div_euclid(ACTIVITY_SPAN_MS);
        self.spans.retain(|key, spans| {
            *spans = spans.split_off(&first);
            if spans.is_empty() {
                let id = self.ids.remove(key).unwrap();
                self.retired.insert(*key, id);
                self.series.remove(key);
                self.newest.remove(key);
                self.oldest.remove(key);
            }
            !spans.is_empty()
        });
    }

    fn span_of(t: i64) -> i64 {
        t.div_euclid(ACTIVITY_SPAN_MS)
    }

    /// The id by which a write names a series that may have been retired.
    fn known_id(&self, key: (usize, usize)) -> Option<u64> {
        self.ids.get(&key).or_else(|| self.retired.get(&key)).copied()
    }

    fn write(&mut self, write: &Write) -> Counts {
        self.advance(write.now_ms);
        let mut counts = Counts::default();
        let sent: Vec<(usize, i64, Value)> = write
            .samples
            .iter()
            .copied()
            .filter(|(series, ..)| !self.is_stale(write, *series))
            .collect();
        for &(series, ..) in &sent {
            let key = (write.tenant, series);
            let full = self.ids.len() as u64 >= self.limits.max_series_per_shard;
            let room = !full && self.series_of(write.tenant) < self.quota_of(write.tenant);
            if !self.ids.contains_key(&key) && room {
                self.last_id += 1;
                self.ids.insert(key, self.last_id);
                self.spans.insert(key, [Self::span_of(self.now_ms)].into());
            }
        }
        // Of a part, floats count as sent before histograms.
        let is_float = |sample: &&(usize, i64, Value)| matches!(sample.2, Value::Float(_));
        let floats = sent.iter().filter(is_float);
        let histograms = sent.iter().filter(|sample| !is_float(sample));
        for &(series, timestamp_ms, value) in floats.chain(histograms) {
            match self.sample((write.tenant, series), timestamp_ms, value) {
                Ok(true) => counts.stored += 1,
                Ok(false) => counts.duplicates += 1,
                Err(reason) => *counts.rejected.entry(reason).or_default() += 1,
            }
        }
        counts
    }

    /// Whether a write names a series by an id that was retired.
    fn is_stale(&self, write: &Write, series: usize) -> bool {
        let key = (write.tenant, series);
        write.by_id && !self.ids.contains_key(&key) && self.retired.contains_key(&key)
    }

    /// Whether the sample was new.
    fn sample(&mut self, key: (usize, usize), t: i64, value: Value) -> Result<bool, RejectReason> {
        if !self.ids.contains_key(&key) {
            let full = self.ids.len() as u64 >= self.limits.max_series_per_shard;
            return Err(match full {
                true => RejectReason::SeriesLimit,
                false => RejectReason::TenantSeriesLimit,
            });
        }
        if t < self.cut_ms {
            return Err(RejectReason::TooOld);
        }
        let samples = self.series.entry(key).or_default();
        match samples.get(&t) {
            Some(stored) if same(*stored, value) => return Ok(false),
            Some(_) => return Err(RejectReason::DuplicateTimestamp),
            None => {}
        }
        let newest = self.newest.get(&key).copied().unwrap_or(i64::MIN);
        if t < newest.saturating_sub_unsigned(self.limits.ooo_window_ms) {
            return Err(RejectReason::OutOfOrder);
        }
        if t > self.now_ms + self.limits.max_ahead_ms as i64 {
            return Err(RejectReason::TooFarAhead);
        }
        samples.insert(t, value);
        self.spans.entry(key).or_default().insert(Self::span_of(t));
        self.newest.insert(key, newest.max(t));
        let oldest = self.oldest.entry(key).or_insert(t);
        *oldest = t.min(*oldest);
        Ok(true)
    }

    fn series_of(&self, tenant: usize) -> u64 {
        self.ids.keys().filter(|id| id.0 == tenant).count() as u64
    }

    fn quota_of(&self, tenant: usize) -> u64 {
        match self.limits.quota_epoch {
            0 => u64::MAX,
            _ => self.quotas.get(&tenant).copied().unwrap_or(0),
        }
    }

    fn quota(&mut self, tenant: usize, quota: Quota) {
        if quota.epoch == self.limits.quota_epoch {
            let held = self.quotas.get(&tenant).copied();
            let held = held.unwrap_or_else(|| self.series_of(tenant));
            self.quotas.insert(tenant, held.max(quota.series));
        }
    }

    fn delete(&mut self, delete: &Delete) {
        self.advance(delete.now_ms);
        for series in &delete.series {
            let key = (delete.tenant, *series);
            let window = delete.start_ms..=delete.end_ms;
            let (Some(&oldest), Some(&newest)) = (self.oldest.get(&key), self.newest.get(&key)) else {
                continue;
            };
            if let Some(samples) = self.series.get_mut(&key) {
                samples.retain(|t, _| !window.contains(t));
            }
            if delete.start_ms <= oldest.max(self.cut_ms) && delete.end_ms >= newest {
                self.newest.remove(&key);
                self.oldest.remove(&key);
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Write {
    tenant: usize,
    now_ms: i64,
    /// Series, timestamp, value.
    samples: Vec<(usize, i64, Value)>,
    /// Series that have an id travel by it.
    by_id: bool,
}

#[derive(Clone, Debug)]
struct Delete {
    tenant: usize,
    now_ms: i64,
    series: Vec<usize>,
    start_ms: i64,
    end_ms: i64,
}

impl Delete {
    fn entry(&self) -> bytes::Bytes {
        let set = |series: &usize| vec![Matcher::new(MatchOp::Eq, "s", &format!("v{series}")).unwrap()];
        let deletion = Deletion {
            tenant: TENANTS[self.tenant].to_owned(),
            matcher_sets: self.series.iter().map(set).collect(),
            start_ms: self.start_ms,
            end_ms: self.end_ms,
        };
        encode_deletion_entry(self.now_ms, &deletion)
    }
}

#[derive(Clone, Debug)]
enum Op {
    /// Lets time pass.
    Pause(i64),
    Write(Write),
    /// Sends an earlier write again, with labels or by id.
    Resend(usize, bool),
    Limits(i64, Limits),
    Delete(Delete),
    Quota(usize, Quota),
    Blank,
    Membership,
    Begin,
    Commit,
    Abort,
    /// All steps of a flush, or of a merge of a bucket, at once.
    Flush,
    Compact,
    /// Merges all generations of a bucket, without showing the result.
    Merge,
    /// Begins to show a merged generation.
    Swap,
    /// Loses what is in memory; the flag says whether a pending flush's rows had become durable.
    Crash(bool),
    /// Goes on in an empty store that takes a snapshot in.
    Move,
}

fn op() -> impl Strategy<Value = Op> {
    let minute = 60_000i64;
    let timestamp = prop_oneof![
        6 => (0i64..40).prop_map(|step| step * 15_000),
        2 => 0i64..600_000,
        1 => -90 * minute..90 * minute,
    ];
    let bits = prop_oneof![4 => (0u32..3).prop_map(|v| f64::from(v).to_bits()), 1 => any::<u64>()];
    let value = prop_oneof![2 => bits.clone().prop_map(Value::Float), 1 => bits.prop_map(Value::Histogram)];
    let sample = (0usize..5, timestamp, value);
    let write = (
        0usize..2,
        0i64..60,
        proptest::collection::vec(sample, 0..12),
        any::<bool>(),
    )
        .prop_map(move |(tenant, now, samples, by_id)| {
            let now_ms = BASE_MS + now * minute;
            let samples = samples
                .into_iter()
                .map(|(s, t, b)| (s, now_ms + t - 5 * minute, b))
                .collect();
            Op::Write(Write {
                tenant,
                now_ms,
                samples,
                by_id,
            })
        });
    let bound = prop_oneof![
        1 => Just(0),
        3 => (0i64..40).prop_map(|step| step * 15_000),
        2 => -90 * minute..90 * minute,
    ];
    let delete = (
        0usize..2,
        0i64..60,
        proptest::collection::vec(0usize..5, 0..4),
        bound.clone(),
        bound,
        prop_oneof![2 => Just((false, false)), 1 => any::<(bool, bool)>()],
    )
        .prop_map(move |(tenant, now, series, from, to, (all_before, all_after))| {
            let now_ms = BASE_MS + now * minute;
            let around = |t: i64| now_ms + t - 5 * minute;
            Op::Delete(Delete {
                tenant,
                now_ms,
                series,
                start_ms: if all_before {
                    i64::MIN
                } else {
                    around(from.min(to))
                },
                end_ms: if all_after { i64::MAX } else { around(from.max(to)) },
            })
        });
    let limits = (
        0u64..3,
        1u64..4,
        0u64..3,
        prop_oneof![3 => Just(1000u64), 1 => 2u64..6],
        prop_oneof![3 => Just(0u64), 2 => 1u64..3],
    )
        .prop_map(
            |(ooo, retention, ahead, max_series_per_shard, quota_epoch)| Limits {
                ooo_window_ms: ooo * 600_000,
                retention_ms: retention * 3_000_000,
                max_ahead_ms: ahead * 300_000,
                max_series_per_shard,
                quota_epoch,
            },
        );
    prop_oneof![
        12 => write,
        4 => (0usize..100, any::<bool>()).prop_map(|(which, by_id)| Op::Resend(which, by_id)),
        1 => (0i64..60, limits).prop_map(move |(now, limits)| Op::Limits(BASE_MS + now * minute, limits)),
        3 => delete,
        2 => (0usize..2, 1u64..3, prop_oneof![4 => 0u64..5, 1 => Just(u64::MAX)])
            .prop_map(|(tenant, epoch, series)| Op::Quota(tenant, Quota { epoch, series })),
        2 => (0i64..5).prop_map(|spans| Op::Pause(spans * ACTIVITY_SPAN_MS / 2)),
        1 => Just(Op::Blank),
        1 => Just(Op::Membership),
        3 => Just(Op::Begin),
        3 => Just(Op::Commit),
        1 => Just(Op::Abort),
        4 => Just(Op::Flush),
        3 => Just(Op::Compact),
        2 => Just(Op::Merge),
        2 => Just(Op::Swap),
        2 => any::<bool>().prop_map(Op::Crash),
        1 => Just(Op::Move),
    ]
}

/// A sample that was read: time, bits of the number or of the histogram's sum, and the histogram.
type Row = (i64, u64, Option<Histogram>);

fn row(t: i64, value: Value) -> Row {
    match value {
        Value::Float(bits) => (t, bits, None),
        Value::Histogram(bits) => {
            let histogram = histogram(bits);
            (t, histogram.sum.to_bits(), Some(histogram))
        }
    }
}

/// Whether two values can't be told apart.
fn same(a: Value, b: Value) -> bool {
    row(0, a) == row(0, b)
}

/// What the log holds.
#[derive(Clone)]
enum Logged {
    Entry(bytes::Bytes),
    Blank,
    Membership(bytes::Bytes),
}

fn apply(shard: &Shard, index: u64, logged: &Logged) -> ApplyOutcome {
    let position = LogPosition { term: 1, index };
    match logged {
        Logged::Entry(entry) => return shard.apply(position, entry).unwrap(),
        Logged::Blank => shard.apply_blank(position).unwrap(),
        Logged::Membership(bytes) => shard.apply_membership(position, bytes.clone()).unwrap(),
    }
    ApplyOutcome::default()
}

/// A store under test with its log.
struct World {
    disk: Disk,
    node: Node,
    pending: Option<quorate_storage::PendingFlush>,
    merged: Option<quorate_storage::MergedGeneration>,
    log: Vec<(Logged, ApplyOutcome)>,
    writes: Vec<Write>,
    model: Model,
    /// How much time was let pass.
    paused_ms: i64,
}

impl World {
    fn new() -> Self {
        let disk = Disk::new();
        let node = disk.open();
        let model = Model {
            now_ms: i64::MIN / 2,
            cut_ms: i64::MIN / 2,
            ..Model::default()
        };
        Self {
            disk,
            node,
            pending: None,
            merged: None,
            log: Vec::new(),
            writes: Vec::new(),
            model,
            paused_ms: 0,
        }
    }

    fn append(&mut self, logged: Logged) -> ApplyOutcome {
        let outcome = apply(&self.node.shard, self.log.len() as u64 + 1, &logged);
        self.log.push((logged, outcome.clone()));
        outcome
    }

    fn write(&mut self, write: &Write) {
        // The entry's time comes first, and may retire a series that it names.
        self.model.advance(write.now_ms);
        let mut part = PartBuilder::new(TENANTS[write.tenant], 1);
        let mut ordinals = BTreeMap::new();
        let stale = write.samples.iter().map(|(series, ..)| *series);
        let stale: BTreeSet<u64> = stale
            .filter(|series| self.model.is_stale(write, *series))
            .map(|series| self.model.retired[&(write.tenant, series)])
            .collect();
        for &(series, t, value) in &write.samples {
            let key = (write.tenant, series);
            let known = self.model.known_id(key).filter(|_| write.by_id);
            if let Some(id) = known {
                match value {
                    Value::Float(bits) => part.known(id, t, f64::from_bits(bits)),
                    Value::Histogram(bits) => part.known_histogram(id, t, &histogram(bits)),
                }
            } else {
                let ordinal = *ordinals
                    .entry(series)
                    .or_insert_with(|| part.series(labels(series).as_bytes()));
                match value {
                    Value::Float(bits) => part.sample(ordinal, t, f64::from_bits(bits)),
                    Value::Histogram(bits) => part.histogram(ordinal, t, &histogram(bits)),
                }
            }
        }
        let outcome = self.append(Logged::Entry(encode_write_entry(write.now_ms, &[part.finish()])));
        let expected = self.model.write(write);
        let part = &outcome.parts[0];
        let rejected = part.rejections.iter().map(|r| (r.reason, r.samples)).collect();
        let counts = Counts {
            stored: part.stored,
            duplicates: part.duplicates,
            rejected,
        };
        assert_eq!(counts, expected);
        assert_eq!(part.unknown_ids, stale.into_iter().collect::<Vec<_>>());
        let shard = &self.node.shard;
        assert_eq!(shard.stats().series, self.model.ids.len() as u64);
        for (key, id) in &self.model.ids {
            let found = shard.find_series(TENANTS[key.0], labels(key.1).as_bytes());
            assert_eq!(found, Some(*id));
        }
    }

    fn crash(&mut self, durable: bool) {
        if let Some(pending) = self.pending.take() {
            if durable {
                self.node.write_rows(&pending);
            }
            drop(pending);
        }
        self.merged = None;
        // Two nodes never have the database open at once: the old one goes first.
        let empty = Disk::new();
        self.node = empty.open();
        self.node = self.disk.open();
        self.replay();
    }

    /// Applies the log from behind the durable position; every decision is the same as before.
    fn replay(&self) {
        let from = self
            .node
            .shard
            .durable()
            .position
            .map_or(0, |position| position.index);
        for (index, (logged, outcome)) in self.log.iter().enumerate().skip(from as usize) {
            assert_eq!(&apply(&self.node.shard, index as u64 + 1, logged), outcome);
        }
    }

    fn take_snapshot_elsewhere(&mut self) {
        if self.node.shard.durable().position.is_none() {
            return;
        }
        if let Some(pending) = self.pending.take() {
            self.node.write_rows(&pending);
            self.node.shard.commit_flush(pending).unwrap();
        }
        self.merged = None;
        let disk = Disk::new();
        let node = disk.open();
        let mut snapshot = self.node.shard.snapshot().unwrap();
        let mut install = node.shard.begin_install().unwrap();
        while let Some(chunk) = snapshot.next_chunk().unwrap() {
            for piece in chunk.chunks(1 + chunk.len() / 3) {
                install.write(piece).unwrap();
            }
        }
        install
            .finish(snapshot.position, snapshot.membership.clone())
            .unwrap();
        assert_eq!(node.shard.durable(), self.node.shard.durable());
        drop(snapshot);
        self.node = node;
        self.disk = disk;
        self.replay();
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Pause(ms) => self.paused_ms += ms,
            Op::Write(mut write) => {
                write.now_ms += self.paused_ms;
                write
                    .samples
                    .iter_mut()
                    .for_each(|(_, t, _)| *t += self.paused_ms);
                self.write(&write);
                self.writes.push(write);
            }
            Op::Resend(which, by_id) => {
                if let Some(write) = self.writes.get(which % self.writes.len().max(1)).cloned() {
                    self.write(&Write { by_id, ..write });
                }
            }
            Op::Limits(now_ms, limits) => {
                let now_ms = now_ms + self.paused_ms;
                self.append(Logged::Entry(encode_limits_entry(now_ms, &limits)));
                self.model.advance(now_ms);
                if limits.quota_epoch != self.model.limits.quota_epoch {
                    self.model.quotas.clear();
                }
                self.model.limits = limits;
                self.model.advance(now_ms);
            }
            Op::Quota(tenant, quota) => {
                let now_ms = self.model.now_ms.max(0);
                self.append(Logged::Entry(encode_quota_entry(now_ms, TENANTS[tenant], quota)));
                self.model.advance(now_ms);
                self.model.quota(tenant, quota);
            }
            Op::Delete(mut delete) => {
                delete.now_ms += self.paused_ms;
                delete.start_ms = delete.start_ms.saturating_add(self.paused_ms);
                delete.end_ms = delete.end_ms.saturating_add(self.paused_ms);
                self.append(Logged::Entry(delete.entry()));
                self.model.delete(&delete);
            }
            Op::Blank => {
                self.append(Logged::Blank);
            }
            Op::Membership => {
                let bytes = bytes::Bytes::from(format!("members at {}", self.log.len()));
                self.append(Logged::Membership(bytes));
            }
            Op::Begin => {
                let begun = self.node.shard.begin_flush().unwrap();
                assert!(begun.is_none() || self.pending.is_none(), "two flushes at once");
                self.pending = self.pending.take().or(begun);
            }
            Op::Commit => {
                if let Some(pending) = self.pending.take() {
                    self.node.write_rows(&pending);
                    self.node.shard.commit_flush(pending).unwrap();
                }
            }
            Op::Flush => {
                if self.pending.is_none() {
                    self.node.flush();
                }
            }
            Op::Compact => {
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
            Op::Merge => {
                let merged = self
                    .node
                    .shard
                    .merge(Merge::All, &mut |_| ControlFlow::Continue(()));
                self.merged = merged.unwrap().or(self.merged.take());
            }
            Op::Swap => {
                if let Some(merged) = self.merged.take() {
                    let begun = self.node.shard.begin_swap(merged).unwrap();
                    assert!(begun.is_none() || self.pending.is_none(), "two changes at once");
                    self.pending = self.pending.take().or(begun);
                }
            }
            Op::Abort => {
                if let Some(pending) = self.pending.take() {
                    self.node.shard.abort_flush(pending).unwrap();
                }
            }
            Op::Crash(durable) => self.crash(durable),
            Op::Move => self.take_snapshot_elsewhere(),
        }
    }

    fn check_reads(&self) {
        let everything = [Matcher::new(MatchOp::Eq, "__name__", "m").unwrap()];
        for (tenant, name) in TENANTS.iter().enumerate() {
            let base_ms = BASE_MS + self.paused_ms;
            for (start_ms, end_ms) in [(i64::MIN, i64::MAX), (base_ms + 600_000, base_ms + 1_800_000)] {
                let limits = SelectLimits::default();
                let selected = self
                    .node
                    .shard
                    .select(name, &everything, start_ms, end_ms, &limits)
                    .unwrap();
                let mut columns = SampleColumns::new();
                let mut found = BTreeMap::new();
                for series in &selected {
                    series.samples(&mut columns).unwrap();
                    let rows: Vec<Row> = (0..)
                        .zip(columns.iter())
                        .map(|(at, (t, v))| {
                            (t, v.to_bits(), columns.histogram(at).map(|h| Histogram::clone(h)))
                        })
                        .collect();
                    if !rows.is_empty() {
                        found.insert(series.labels.clone(), rows);
                    }
                }
                let expected: BTreeMap<Labels, Vec<Row>> = self
                    .model
                    .series
                    .iter()
                    .filter(|((t, _), _)| *t == tenant)
                    .map(|((_, s), rows)| {
                        (
                            labels(*s),
                            rows.range(start_ms..=end_ms).map(|(t, v)| row(*t, *v)).collect(),
                        )
                    })
                    .filter(|(_, rows): &(_, Vec<_>)| !rows.is_empty())
                    .collect();
                assert_eq!(found, expected);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_rules_say(ops in proptest::collection::vec(op(), 1..40)) {
        let mut world = World::new();
        let retention_ms = 3_000_000;
        world.step(Op::Limits(BASE_MS, Limits { retention_ms, ..Limits::default() }));
        for op in ops {
            world.step(op);
            world.check_reads();
        }
        // A store that never flushed and was never interrupted decides and holds the same.
        let disk = Disk::new();
        let fresh = disk.open();
        for (index, (logged, outcome)) in world.log.iter().enumerate() {
            prop_assert_eq!(&apply(&fresh.shard, index as u64 + 1, logged), outcome);
        }
        let checksum = fresh.shard.checksum().unwrap();
        prop_assert_eq!(world.node.shard.checksum().unwrap(), checksum);
        let samples: usize = world.model.series.values().map(BTreeMap::len).sum();
        prop_assert_eq!(checksum.samples, samples as u64);
        prop_assert_eq!(fresh.shard.membership(), world.node.shard.membership());
    }
}
