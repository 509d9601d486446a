//! Checking everything that is stored of a replica.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use hashbrown::{HashMap, HashSet};
use roaring::{MultiOps, RoaringBitmap};

use super::generation::{self, Known};
use super::{StoredReplica, dump, labels_rows};
use crate::activity::{self, span_of};
use crate::error::StorageError;
use crate::flushed::{activity_range, state_range};
use crate::meta::ShardMeta;
use crate::metrics::Metrics;
use crate::recover::{scan, unlisted};
use crate::rows::{Db, trailing_span};
use crate::series_rows::{SeriesState, decode_states};
use crate::slab::metric_number;

/// Problems listed at most; more are counted.
const PROBLEMS_MAX: usize = 100;

/// What a check of a replica found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaReport {
    /// Registered series.
    pub series: u64,
    /// Generations checked.
    pub generations: u64,
    /// Samples that a reader would see.
    pub samples: u64,
    /// What is wrong, each with its place; the first hundred.
    pub problems: Vec<String>,
    /// How many there are in all.
    pub problems_total: u64,
    /// Families with rows that a crash left over; opening deletes them. Not a problem.
    pub leftovers: Vec<&'static str>,
}

/// Collects problems.
pub(super) struct Problems<'a>(&'a mut ReplicaReport);

impl Problems<'_> {
    pub(super) fn add(&mut self, problem: String) {
        self.0.problems_total += 1;
        if self.0.problems.len() < PROBLEMS_MAX {
            self.0.problems.push(problem);
        }
    }
}

/// Checks all rows of a replica: every checksum, that labels, states, slabs and timestamps are there and agree
/// with each other and with the meta row. An error means that the database could not be read.
pub fn verify(db: &Db, replica: &StoredReplica) -> Result<ReplicaReport, StorageError> {
    let mut report = ReplicaReport {
        leftovers: unlisted(db, replica.key(), replica.meta.as_ref())?
            .iter()
            .map(|range| range.cf)
            .collect(),
        ..ReplicaReport::default()
    };
    let Some(meta) = &replica.meta else {
        return Ok(report);
    };
    let active = check_activity(db, replica, meta, &mut Problems(&mut report))?;
    let live = active.values().union();
    if live.len() != meta.series {
        let what = format!(
            "{} series are registered, activity rows name {}",
            meta.series,
            live.len()
        );
        Problems(&mut report).add(what);
    }
    let metrics = check_labels(db, replica, &live, &mut Problems(&mut report))?;
    let states = check_states(db, replica, meta, &live, &mut Problems(&mut report))?;
    report.series = live.len();
    report.generations = meta.generations.len() as u64;
    let known = Known {
        db,
        key: replica.key(),
        meta,
        metrics: &metrics,
    };
    for checked in &meta.generations {
        generation::check(&known, checked, &mut Problems(&mut report))?;
    }
    // With damaged rows the samples can't be put together.
    if report.problems.is_empty() {
        check_samples(db, replica, &states, &active, &mut report)?;
    }
    Ok(report)
}

fn check_labels(
    db: &Db,
    replica: &StoredReplica,
    live: &RoaringBitmap,
    problems: &mut Problems<'_>,
) -> Result<Metrics, StorageError> {
    let mut metrics = Metrics::default();
    let mut expected = live.iter();
    let mut seen: HashSet<u128> = HashSet::new();
    let read = labels_rows(db, replica, live, |id, tenant, labels| {
        for missing in expected.by_ref().map(u64::from).take_while(|other| *other != id) {
            problems.add(format!("series {missing}: it has no label row"));
        }
        let mut identity = tenant.as_bytes().to_vec();
        identity.push(0xff);
        identity.extend_from_slice(labels.as_bytes());
        if !seen.insert(xxhash_rust::xxh3::xxh3_128(&identity)) {
            problems.add(format!("series {id}: another one has the labels {labels}"));
        }
        metrics.set(id, metric_number(tenant, &labels));
        Ok(ControlFlow::Continue(()))
    });
    if let Err(error) = read {
        problems.add(error.to_string());
    }
    for missing in expected {
        problems.add(format!("series {missing}: it has no label row"));
    }
    Ok(metrics)
}

fn check_states(
    db: &Db,
    replica: &StoredReplica,
    meta: &ShardMeta,
    live: &RoaringBitmap,
    problems: &mut Problems<'_>,
) -> Result<HashMap<u64, SeriesState>, StorageError> {
    let range = state_range(replica.key(), meta.epoch, meta.state_generation);
    let mut states = Vec::new();
    scan(db, replica.shard, &range, |_, value| {
        match decode_states(value) {
            Ok(block) => states.extend(block),
            Err(detail) => problems.add(format!("the state row after series {}: {detail}", states.len())),
        }
        Ok(())
    })?;
    if states.len() as u64 != live.len() {
        problems.add(format!(
            "{} series are registered, {} have states",
            live.len(),
            states.len()
        ));
    }
    Ok(live.iter().map(u64::from).zip(states).collect())
}

/// The active series of each span.
fn check_activity(
    db: &Db,
    replica: &StoredReplica,
    meta: &ShardMeta,
    problems: &mut Problems<'_>,
) -> Result<BTreeMap<i64, RoaringBitmap>, StorageError> {
    let range = activity_range(replica.key(), meta.epoch, meta.state_generation);
    let mut active = BTreeMap::new();
    scan(db, replica.shard, &range, |key, value| {
        let span = trailing_span(key).unwrap_or(i64::MAX);
        match activity::decode(value) {
            Ok(ids) if ids.max().is_some_and(|id| u64::from(id) >= meta.next_id) => {
                problems.add(format!(
                    "the activity row of span {span}: it names a series that is not registered"
                ));
            }
            Ok(ids) => {
                active.insert(span, ids);
            }
            Err(detail) => problems.add(format!("the activity row of span {span}: {detail}")),
        }
        Ok(())
    })?;
    if active.len() as u64 != meta.activity_rows {
        problems.add(format!(
            "{} activity rows were written, {} are there",
            meta.activity_rows,
            active.len()
        ));
    }
    Ok(active)
}

/// Samples are within the bounds that the state of their series gives and in spans that know of it, and none
/// is stored twice.
fn check_samples(
    db: &Db,
    replica: &StoredReplica,
    states: &HashMap<u64, SeriesState>,
    active: &BTreeMap<i64, RoaringBitmap>,
    report: &mut ReplicaReport,
) -> Result<(), StorageError> {
    let mut samples = 0;
    let mut problems = Problems(report);
    dump(db, replica, &[], &mut |series| {
        let timestamps = &series.samples.timestamps;
        samples += timestamps.len() as u64;
        let (Some(first), Some(last)) = (timestamps.first(), timestamps.last()) else {
            return ControlFlow::Continue(());
        };
        if timestamps.windows(2).any(|two| two[0] == two[1]) {
            problems.add(format!("series {}: two samples have the same time", series.id));
        }
        let known = |t: &i64| {
            let ids = active.get(&span_of(*t));
            ids.is_some_and(|ids| u32::try_from(series.id).is_ok_and(|id| ids.contains(id)))
        };
        if let Some(t) = timestamps.iter().find(|t| !known(t)) {
            problems.add(format!(
                "series {}: no activity row knows of its sample at {t}",
                series.id
            ));
        }
        let state = states.get(&series.id);
        if state.is_none_or(|state| *first < state.oldest_ms || *last > state.newest_ms) {
            problems.add(format!(
                "series {}: it has samples from {first} to {last}, its state is {state:?}",
                series.id
            ));
        }
        ControlFlow::Continue(())
    })?;
    report.samples = samples;
    Ok(())
}
