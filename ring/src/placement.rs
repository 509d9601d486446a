//! Which nodes hold which shard: distinct nodes, distinct zones, load by weight, leaders spread.

use std::collections::{BTreeMap, BTreeSet};

use crate::RingError;
use crate::plan::Plan;

/// A node that can hold replicas.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSpec {
    /// Node id, unique in the cluster.
    pub id: u64,
    /// Share of the replicas it should hold, relative to the other nodes' weights; from
    /// [`MIN_WEIGHT`](crate::MIN_WEIGHT) to [`MAX_WEIGHT`](crate::MAX_WEIGHT).
    pub weight: f64,
    /// What fails together with it: rack, availability zone. Nodes without a zone share the empty one.
    pub zone: String,
}

/// Nodes of every shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// By shard, the nodes that hold it. The first one is the preferred leader.
    pub assignments: BTreeMap<u32, Vec<u64>>,
}

/// What a shard has to do to get from one placement to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaChange {
    /// The shard.
    pub shard: u32,
    /// Nodes that get a replica, ascending.
    pub added: Vec<u64>,
    /// Nodes that lose their replica, ascending.
    pub removed: Vec<u64>,
}

/// Places `replicas` replicas of every shard on nodes.
///
/// Replicas of a shard are on distinct nodes, and in distinct zones if there are at least `replicas` zones
/// (otherwise a zone holds as few replicas of one shard as the number of nodes in the zones allows). Nodes
/// hold replicas in proportion to their weights, as far as these rules allow. Every node is preferred leader of
/// its number of replicas divided by `replicas`, rounded down or up. The order of the lists doesn't matter.
///
/// # Errors
/// Refuses empty or too long lists, a shard or node given twice, shard 0, a weight out of range, and fewer nodes
/// than replicas.
pub fn place(shards: &[u32], nodes: &[NodeSpec], replicas: usize) -> Result<Placement, RingError> {
    Placement::default()
        .rebalance(shards, nodes, replicas)
        .map(|(placement, _)| placement)
}

impl Placement {
    /// The placement that follows this one when shards, nodes, weights or the number of replicas change,
    /// and what each shard must do to get there. It obeys the same rules as [`place`]. Replicas stay where they
    /// are unless their node is gone, has too many, or must make way for another.
    ///
    /// # Errors
    /// As [`place`].
    pub fn rebalance(
        &self,
        shards: &[u32],
        nodes: &[NodeSpec],
        replicas: usize,
    ) -> Result<(Placement, Vec<ReplicaChange>), RingError> {
        let next = Plan::check(self, shards, nodes, replicas)?.solve();
        let changes = self.changes_to(&next);
        Ok((next, changes))
    }

    /// What each shard must do to get from this placement to `next`, ascending by shard; shards whose set of
    /// nodes stays are left out.
    pub fn changes_to(&self, next: &Placement) -> Vec<ReplicaChange> {
        let nodes = |placement: &Placement, shard: u32| -> BTreeSet<u64> {
            placement
                .assignments
                .get(&shard)
                .into_iter()
                .flatten()
                .copied()
                .collect()
        };
        let shards: BTreeSet<u32> = self
            .assignments
            .keys()
            .chain(next.assignments.keys())
            .copied()
            .collect();
        let change = |shard| {
            let (before, after) = (nodes(self, shard), nodes(next, shard));
            let added = after.difference(&before).copied().collect();
            let removed = before.difference(&after).copied().collect();
            ReplicaChange {
                shard,
                added,
                removed,
            }
        };
        shards
            .into_iter()
            .map(change)
            .filter(|c| !(c.added.is_empty() && c.removed.is_empty()))
            .collect()
    }

    /// Shards that prefer `node` as their leader, ascending.
    pub fn led_by(&self, node: u64) -> impl Iterator<Item = u32> + '_ {
        self.assignments
            .iter()
            .filter(move |(_, nodes)| nodes.first() == Some(&node))
            .map(|(shard, _)| *shard)
    }

    /// Shards of which `node` holds a replica, ascending.
    pub fn held_by(&self, node: u64) -> impl Iterator<Item = u32> + '_ {
        self.assignments
            .iter()
            .filter(move |(_, nodes)| nodes.contains(&node))
            .map(|(shard, _)| *shard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64, weight: f64, zone: &str) -> NodeSpec {
        NodeSpec {
            id,
            weight,
            zone: zone.to_owned(),
        }
    }

    fn leaders(placement: &Placement, nodes: &[NodeSpec]) -> Vec<usize> {
        nodes
            .iter()
            .map(|node| placement.led_by(node.id).count())
            .collect()
    }

    #[test]
    fn eight_shards_on_three_nodes_are_led_by_three_three_two() {
        let nodes = [node(1, 1.0, ""), node(2, 1.0, ""), node(3, 1.0, "")];
        let placement = place(&[1, 2, 3, 4, 5, 6, 7, 8], &nodes, 3).unwrap();
        let mut led = leaders(&placement, &nodes);
        led.sort_unstable();
        assert_eq!(led, [2, 3, 3]);
        assert!(nodes.iter().all(|node| placement.held_by(node.id).count() == 8));
    }

    #[test]
    fn with_fewer_zones_than_replicas_they_share_evenly() {
        let nodes = [
            node(1, 1.0, "a"),
            node(2, 1.0, "a"),
            node(3, 1.0, "a"),
            node(4, 1.0, "b"),
            node(5, 1.0, "b"),
        ];
        let placement = place(&[1, 2, 3, 4, 5], &nodes, 3).unwrap();
        for replicas in placement.assignments.values() {
            let in_a = replicas.iter().filter(|id| **id <= 3).count();
            assert!((1..=2).contains(&in_a), "{replicas:?}");
        }
    }

    #[test]
    fn a_dead_node_is_replaced_and_nothing_else_moves() {
        let four = [
            node(1, 1.0, ""),
            node(2, 1.0, ""),
            node(3, 1.0, ""),
            node(4, 1.0, ""),
        ];
        let shards: Vec<u32> = (1..=12).collect();
        let before = place(&shards, &four[..3], 3).unwrap();
        let replaced = [four[0].clone(), four[1].clone(), four[3].clone()];
        let (after, changes) = before.rebalance(&shards, &replaced, 3).unwrap();
        let expected: Vec<ReplicaChange> = shards
            .iter()
            .map(|&shard| ReplicaChange {
                shard,
                added: vec![4],
                removed: vec![3],
            })
            .collect();
        assert_eq!(changes, expected);
        assert_eq!(leaders(&after, &replaced), [4, 4, 4]);
    }

    #[test]
    fn nothing_changes_if_nothing_changed() {
        let nodes: Vec<NodeSpec> = (1..=7)
            .map(|id| node(id, 1.0, ["a", "b", "c"][id as usize % 3]))
            .collect();
        let shards: Vec<u32> = (1..=20).collect();
        let placement = place(&shards, &nodes, 3).unwrap();
        assert_eq!(
            placement.rebalance(&shards, &nodes, 3),
            Ok((placement.clone(), Vec::new()))
        );
    }

    #[test]
    fn bad_input_is_refused() {
        let three = [node(1, 1.0, ""), node(2, 1.0, ""), node(3, 1.0, "")];
        let refused =
            |shards: &[u32], nodes: &[NodeSpec], replicas| place(shards, nodes, replicas).unwrap_err();
        assert_eq!(refused(&[], &three, 3), RingError::NoShards);
        assert_eq!(refused(&[1, 0], &three, 3), RingError::ReservedShard);
        assert_eq!(
            refused(&[4, 4], &three, 3),
            RingError::DuplicateShard { shard: 4 }
        );
        assert_eq!(
            refused(&[1], &three, 0),
            RingError::ReplicasOutOfRange { replicas: 0 }
        );
        assert_eq!(
            refused(&[1], &three, 10),
            RingError::ReplicasOutOfRange { replicas: 10 }
        );
        assert_eq!(
            refused(&[1], &three, 5),
            RingError::TooFewNodes {
                nodes: 3,
                replicas: 5
            }
        );
        let twins = [node(1, 1.0, ""), node(1, 1.0, "")];
        assert_eq!(refused(&[1], &twins, 1), RingError::DuplicateNode { node: 1 });
        assert!(
            refused(&[1], &[node(9, -1.0, "")], 1)
                .to_string()
                .contains("node 9")
        );
    }
}
