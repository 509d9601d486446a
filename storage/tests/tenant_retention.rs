//! A tenant that keeps samples for a shorter time than others sees no older ones, on every replica alike,
//! and merges drop them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use proptest::prelude::*;
use quorate_storage::{
    ACTIVITY_SPAN_MS, Limits, LogPosition, MatchOp, Matcher, Merge, PartBuilder, RejectReason, SampleColumns,
    SelectLimits, TenantRetentions, encode_limits_entry, encode_retentions_entry, encode_write_entry,
    inspect,
};
use support::{BASE_MS, Disk, Node, labels};

const MINUTE_MS: i64 = 60_000;
const TENANTS: [&str; 3] = ["long", "other", "short"];
const RETENTION_MS: i64 = 40 * 60 * MINUTE_MS;

#[derive(Clone, Debug)]
enum Op {
    /// Lets time pass, then writes a sample of a series to each tenant, so long before now.
    Write(i64, usize, i64),
    /// Minutes, by tenant.
    Retentions(BTreeMap<usize, i64>),
    Flush,
    Merge,
    Crash,
    Move,
}

fn op() -> impl Strategy<Value = Op> {
    let span = ACTIVITY_SPAN_MS / MINUTE_MS;
    let write = (0..span, 0usize..4, prop_oneof![3 => 0i64..10, 1 => 0..4 * span]);
    prop_oneof![
        10 => write.prop_map(|(pause, series, age)| Op::Write(pause, series, age)),
        2 => proptest::collection::btree_map(0usize..3, 60i64..3600, 0..3).prop_map(Op::Retentions),
        3 => Just(Op::Flush),
        2 => Just(Op::Merge),
        1 => Just(Op::Crash),
        1 => Just(Op::Move),
    ]
}

struct World {
    disk: Disk,
    node: Node,
    log: Vec<Bytes>,
    now_ms: i64,
    /// By tenant: own retention, and the cut, which never goes back.
    retentions: BTreeMap<usize, i64>,
    cuts: [i64; 3],
    samples: BTreeMap<(usize, usize), BTreeMap<i64, u64>>,
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
            retentions: BTreeMap::new(),
            cuts: [i64::MIN; 3],
            samples: BTreeMap::new(),
        };
        let limits = Limits {
            retention_ms: RETENTION_MS as u64,
            ooo_window_ms: RETENTION_MS as u64,
            ..Limits::default()
        };
        world.append(encode_limits_entry(BASE_MS, &limits));
        world.pass(0);
        world
    }

    fn append(&mut self, entry: Bytes) -> quorate_storage::ApplyOutcome {
        self.log.push(entry);
        apply(&self.node, &self.log, self.log.len())
    }

    fn pass(&mut self, ms: i64) {
        self.now_ms += ms;
        for (tenant, cut_ms) in self.cuts.iter_mut().enumerate() {
            let own = self.retentions.get(&tenant).copied().unwrap_or(RETENTION_MS);
            *cut_ms = (*cut_ms).max(self.now_ms - own.min(RETENTION_MS));
        }
        for ((tenant, _), samples) in &mut self.samples {
            *samples = samples.split_off(&self.cuts[*tenant]);
        }
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Write(pause, series, age) => {
                self.pass(pause * MINUTE_MS);
                for tenant in 0..3 {
                    self.write(tenant, *series, self.now_ms - age * MINUTE_MS);
                }
            }
            Op::Retentions(minutes) => {
                let own = minutes.iter();
                self.retentions = own
                    .map(|(tenant, minutes)| (*tenant, minutes * MINUTE_MS))
                    .collect();
                let own = self.retentions.iter();
                let own: TenantRetentions = own
                    .map(|(tenant, ms)| (TENANTS[*tenant].to_owned(), *ms as u64))
                    .collect();
                self.append(encode_retentions_entry(self.now_ms, &own));
                assert!(self.node.shard.has_retentions(&own));
                self.pass(0);
            }
            Op::Flush => self.node.flush(),
            Op::Merge => {
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
            Op::Crash => {
                let empty = Disk::new();
                self.node = empty.open();
                self.node = self.disk.open();
                self.replay();
            }
            Op::Move if self.node.shard.durable().position.is_some() => {
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
                (self.node, self.disk) = (node, disk);
                self.replay();
            }
            Op::Move => {}
        }
    }

    fn write(&mut self, tenant: usize, series: usize, t: i64) {
        let mut part = PartBuilder::new(TENANTS[tenant], 1);
        let ordinal = part.series(labels(series).as_bytes());
        part.sample(ordinal, t, series as f64);
        let outcome = self.append(encode_write_entry(self.now_ms, &[part.finish()]));
        let samples = self.samples.entry((tenant, series)).or_default();
        let part = &outcome.parts[0];
        if t < self.cuts[tenant] {
            assert_eq!(part.rejections[0].reason, RejectReason::TooOld);
        } else {
            let known = u64::from(samples.insert(t, (series as f64).to_bits()).is_some());
            assert_eq!(
                (part.stored, part.duplicates),
                (1 - known, known),
                "{:?}",
                part.rejections
            );
        }
    }

    fn replay(&self) {
        let from = self
            .node
            .shard
            .durable()
            .position
            .map_or(0, |position| position.index) as usize;
        (from + 1..=self.log.len()).for_each(|index| {
            apply(&self.node, &self.log, index);
        });
    }

    fn check(&self) {
        let everything = [Matcher::new(MatchOp::Eq, "__name__", "m").unwrap()];
        let mut columns = SampleColumns::new();
        for (tenant, name) in TENANTS.iter().enumerate() {
            let shard = &self.node.shard;
            let mut found = BTreeMap::new();
            for series in shard
                .select(name, &everything, i64::MIN, i64::MAX, &SelectLimits::default())
                .unwrap()
            {
                series.samples(&mut columns).unwrap();
                let samples: Vec<_> = columns.iter().map(|(t, value)| (t, value.to_bits())).collect();
                if !samples.is_empty() {
                    found.insert(series.labels.clone(), samples);
                }
            }
            let own = self
                .samples
                .iter()
                .filter(|((of, _), samples)| *of == tenant && !samples.is_empty());
            let expected: BTreeMap<_, Vec<_>> = own
                .map(|((_, series), samples)| {
                    (labels(*series), samples.iter().map(|(t, v)| (*t, *v)).collect())
                })
                .collect();
            assert_eq!(found, expected, "{name}");
        }
    }
}

fn apply(node: &Node, log: &[Bytes], index: usize) -> quorate_storage::ApplyOutcome {
    let position = LogPosition {
        term: 1,
        index: index as u64,
    };
    node.shard.apply(position, &log[index - 1]).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn each_tenant_sees_what_it_keeps(ops in proptest::collection::vec(op(), 1..50)) {
        let mut world = World::new();
        for op in &ops {
            world.step(op);
            world.check();
        }
        world.node.flush();
        for replica in inspect::replicas(&world.node.db).unwrap() {
            let report = inspect::verify(&world.node.db, &replica).unwrap();
            prop_assert_eq!(report.problems, Vec::<String>::new());
        }
        let disk = Disk::new();
        let fresh = disk.open();
        (1..=world.log.len()).for_each(|index| {
            apply(&fresh, &world.log, index);
        });
        let checksum = fresh.shard.checksum().unwrap();
        prop_assert_eq!(world.node.shard.checksum().unwrap(), checksum);
        prop_assert_eq!(world.node.shard.stats().series, fresh.shard.stats().series);
        let samples: usize = world.samples.values().map(BTreeMap::len).sum();
        prop_assert_eq!(checksum.samples, samples as u64);
    }
}

/// What is hidden does not stay on disk when its generations are merged, and its series are retired.
#[test]
fn merges_drop_what_a_tenant_does_not_keep() {
    let mut world = World::new();
    for step in 0..4 {
        world.step(&Op::Write(5, step, 0));
        world.step(&Op::Flush);
    }
    assert_eq!(
        (
            world.node.shard.stats().series,
            world.node.shard.stats().flushed_samples
        ),
        (12, 12)
    );
    world.step(&Op::Retentions([(2, 60)].into()));
    world.step(&Op::Write(6 * 60, 0, 0));
    world.step(&Op::Flush);
    let stats = world.node.shard.stats();
    // Of the short tenant one series is left, which came again.
    assert_eq!(
        (stats.series, stats.retired_series, stats.flushed_samples),
        (9, 4, 15)
    );
    world.check();
    // The bucket may end in between.
    world.step(&Op::Merge);
    world.step(&Op::Merge);
    assert_eq!(world.node.shard.stats().flushed_samples, 11);
    world.check();
}
