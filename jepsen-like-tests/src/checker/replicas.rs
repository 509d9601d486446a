//! Replicas that have applied the same hold the same, and all shards together hold each series once.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use crate::history::{Action, Found, GroupSum, Operation};

/// Checks the newest checksums in a history.
pub fn check_replicas(history: &[Operation]) -> Vec<Violation> {
    let mut newest: BTreeMap<u64, &[GroupSum]> = BTreeMap::new();
    for operation in history {
        if let Action::Checksums { node, groups } = &operation.action {
            newest.insert(*node, groups);
        }
    }
    let mut by_shard: BTreeMap<(u32, u64), Vec<(u64, &GroupSum)>> = BTreeMap::new();
    for (node, groups) in &newest {
        for sum in *groups {
            by_shard
                .entry((sum.shard, sum.applied))
                .or_default()
                .push((*node, sum));
        }
    }
    let mut violations = Vec::new();
    for ((shard, applied), sums) in &by_shard {
        let contents: BTreeSet<_> = sums
            .iter()
            .map(|(_, sum)| (sum.checksum, sum.series, sum.samples))
            .collect();
        if contents.len() > 1 {
            let detail = format!("at index {applied}: {sums:?}");
            violations.push(Violation::Diverged {
                shard: *shard,
                detail,
            });
        }
    }
    // One full copy of everything is every shard once, whichever replica is looked at.
    let mut copy: BTreeMap<u32, &GroupSum> = BTreeMap::new();
    for sum in newest.values().copied().flatten() {
        copy.insert(sum.shard, sum);
    }
    violations.extend(check_owners(history, &copy));
    violations
}

/// What the nodes returned must be what the shards hold, each series and sample counted once.
fn check_owners(history: &[Operation], copy: &BTreeMap<u32, &GroupSum>) -> Option<Violation> {
    let mut last: BTreeMap<u32, &Found> = BTreeMap::new();
    let (mut node, mut strangers) = (None, 0);
    // The last node's answer stands for all: others are held against the same samples.
    for operation in history {
        match &operation.action {
            Action::Found(found) => {
                if node != Some((found.node, found.level)) {
                    node = Some((found.node, found.level));
                    last.clear();
                }
                last.insert(found.writer, found);
            }
            Action::Strangers { series, .. } => strangers += series.len(),
            _ => {}
        }
    }
    if last.is_empty() || copy.is_empty() || strangers > 0 {
        return None;
    }
    let (mut series, mut samples) = (0, 0);
    for group in last.values().flat_map(|found| &found.groups) {
        let members = group.series().count() as u64;
        series += members;
        samples += members * group.samples_each();
    }
    let held_series: u64 = copy.values().map(|sum| sum.series).sum();
    let held_samples: u64 = copy.values().map(|sum| sum.samples).sum();
    (held_series != series || held_samples != samples).then(|| Violation::Owner {
        detail: format!(
            "shards hold {held_series} series with {held_samples} samples, reads return {series} with {samples}"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::Script;
    use crate::history::{Group, Level, Stage};

    fn sum(shard: u32, checksum: u64, series: u64) -> GroupSum {
        GroupSum {
            shard,
            applied: 9,
            checksum,
            series,
            samples: 2 * series,
        }
    }

    fn script(sums: &[(u64, Vec<GroupSum>)], series: u32) -> Vec<Operation> {
        let mut script = Script::default();
        for (node, groups) in sums {
            let (node, groups) = (*node, groups.clone());
            script.add(Stage::Info, Action::Checksums { node, groups });
        }
        let group = Group {
            series: vec![(0, series - 1)],
            batches: vec![(1, 2)],
            others: Vec::new(),
        };
        let found = Found {
            node: 1,
            level: Some(Level::Local),
            writer: 1,
            groups: vec![group],
        };
        script.add(Stage::Ok, Action::Found(Box::new(found)));
        script.operations
    }

    #[test]
    fn accepts_equal_replicas_and_each_series_once() {
        let sums = [1, 2, 3].map(|node| (node, vec![sum(1, 7, 3), sum(2, 8, 2)]));
        assert_eq!(check_replicas(&script(&sums, 5)), []);
    }

    #[test]
    fn rejects_replicas_that_differ() {
        let mut sums = [1, 2, 3].map(|node| (node, vec![sum(1, 7, 3), sum(2, 8, 2)]));
        sums[1].1[1].checksum = 9;
        let violations = check_replicas(&script(&sums, 5));
        assert!(matches!(
            violations.as_slice(),
            [Violation::Diverged { shard: 2, .. }]
        ));
    }

    #[test]
    fn rejects_a_series_in_two_shards() {
        let sums = [1, 2].map(|node| (node, vec![sum(1, 7, 3), sum(2, 8, 3)]));
        let violations = check_replicas(&script(&sums, 5));
        assert!(matches!(violations.as_slice(), [Violation::Owner { .. }]));
    }
}
