//! Which generations are merged next.
//!
//! Flushes are merged a few at a time, results of that again, and once a bucket is over, all that it
//! holds. So every sample is rewritten about twice, and a bucket that is over is one generation.

use std::collections::BTreeMap;

use crate::meta::{Generation, Level};
use crate::slab::BUCKET_MS;

/// So many flushes of a bucket are merged into one generation: two hours of flushes every 15 minutes.
const FLUSHES: usize = 8;
/// So many merged generations of a bucket that is not over are merged again.
const MERGED: usize = 12;
/// A bucket is over this long after its end: out-of-order samples come late.
const CLOSED_AFTER_MS: i64 = 2 * 3600 * 1000;
/// Beside a bucket's large generation there may be so many small ones, which hold late samples.
const LATE: usize = 4;
/// Small ones are merged with a large one when they have this part of its bytes together.
const WORTHWHILE: u64 = 4;

/// How eager to merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// What pays in the long run.
    Due,
    /// Every bucket into one generation.
    All,
}

/// Generations of one bucket to be merged, ascending by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) inputs: Vec<Generation>,
    pub(super) level: Level,
}

/// The first bucket with something to merge. `now_ms` is the log's time.
pub(super) fn plan(generations: &[Generation], now_ms: i64, merge: Merge) -> Option<Plan> {
    let mut buckets: BTreeMap<i64, Vec<Generation>> = BTreeMap::new();
    for generation in generations {
        let bucket = generation.min_ms.div_euclid(BUCKET_MS);
        buckets.entry(bucket).or_default().push(*generation);
    }
    buckets.into_iter().find_map(|(bucket, generations)| {
        let end_ms = bucket.saturating_add(1).saturating_mul(BUCKET_MS);
        let closed = now_ms >= end_ms.saturating_add(CLOSED_AFTER_MS);
        match merge {
            Merge::All => whole(generations),
            Merge::Due if closed => whole(generations).filter(|plan| pays(&plan.inputs)),
            Merge::Due => part(generations),
        }
    })
}

fn whole(inputs: Vec<Generation>) -> Option<Plan> {
    let level = Level::Bucket;
    (inputs.len() > 1).then_some(Plan { inputs, level })
}

/// Whether merging a bucket that is over is worth rewriting its largest generation.
fn pays(inputs: &[Generation]) -> bool {
    let all: u64 = inputs.iter().map(|g| g.bytes).sum();
    let largest = inputs.iter().map(|g| g.bytes).max().unwrap_or_default();
    let merged = inputs.iter().any(|g| g.level == Level::Bucket);
    !merged || inputs.len() > LATE || (all - largest) * WORTHWHILE >= largest
}

/// What to merge in a bucket that still grows.
fn part(generations: Vec<Generation>) -> Option<Plan> {
    let of = |level: Level| generations.iter().filter(move |g| g.level == level).copied();
    let of_level = |from: Level, enough: usize, to: Level| {
        let inputs: Vec<Generation> = of(from).collect();
        (inputs.len() >= enough).then_some(Plan { inputs, level: to })
    };
    of_level(Level::Flush, FLUSHES, Level::Hours)
        .or_else(|| of_level(Level::Hours, MERGED, Level::Bucket))
        .or_else(|| of_level(Level::Bucket, MERGED, Level::Bucket))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3600 * 1000;

    fn generation(number: u64, level: Level, from_ms: i64, bytes: u64) -> Generation {
        Generation {
            min_ms: from_ms,
            max_ms: from_ms + 1000,
            bytes,
            ..Generation::empty(number, level)
        }
    }

    fn numbers(plan: Option<Plan>) -> Vec<u64> {
        plan.map_or(Vec::new(), |plan| plan.inputs.iter().map(|g| g.number).collect())
    }

    #[test]
    fn a_few_flushes_of_a_bucket_are_merged() {
        let now_ms = BUCKET_MS + 5 * HOUR_MS;
        let mut all: Vec<Generation> = (0..7)
            .map(|n| generation(n, Level::Flush, BUCKET_MS + n as i64 * 900_000, 10))
            .collect();
        assert_eq!(plan(&all, now_ms, Merge::Due), None);
        all.push(generation(7, Level::Flush, 2 * BUCKET_MS, 10));
        assert_eq!(plan(&all, now_ms, Merge::Due), None, "of another bucket");
        all.push(generation(8, Level::Flush, BUCKET_MS + 4 * HOUR_MS, 10));
        all.push(generation(9, Level::Hours, BUCKET_MS, 80));
        let due = plan(&all, now_ms, Merge::Due);
        assert_eq!(due.as_ref().map(|plan| plan.level), Some(Level::Hours));
        assert_eq!(numbers(due), [0, 1, 2, 3, 4, 5, 6, 8]);
    }

    #[test]
    fn a_bucket_that_is_over_becomes_one_generation() {
        let all = [
            generation(3, Level::Hours, 0, 100),
            generation(9, Level::Flush, HOUR_MS, 1),
        ];
        assert_eq!(
            plan(&all, BUCKET_MS + HOUR_MS, Merge::Due),
            None,
            "late samples may come"
        );
        let due = plan(&all, BUCKET_MS + 2 * HOUR_MS, Merge::Due);
        assert_eq!(due.as_ref().map(|plan| plan.level), Some(Level::Bucket));
        assert_eq!(numbers(due), [3, 9]);
        assert_eq!(plan(&all[..1], i64::MAX, Merge::All), None);
    }

    #[test]
    fn late_samples_wait_until_they_pay() {
        let mut all = vec![generation(3, Level::Bucket, 0, 1000)];
        for number in 4..7 {
            all.push(generation(number, Level::Flush, HOUR_MS, 10));
            assert_eq!(plan(&all, i64::MAX, Merge::Due), None);
        }
        assert_eq!(numbers(plan(&all, i64::MAX, Merge::All)), [3, 4, 5, 6]);
        all.push(generation(7, Level::Flush, HOUR_MS, 10));
        assert_eq!(numbers(plan(&all, i64::MAX, Merge::Due)), [3, 4, 5, 6, 7]);
        all[1].bytes = 250;
        assert_eq!(numbers(plan(&all[..2], i64::MAX, Merge::Due)), [3, 4]);
    }
}
