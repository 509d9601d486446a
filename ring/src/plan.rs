//! How a placement is computed.
//!
//! How many replicas each node gets is decided first, one by one: the next replica goes to the node that would
//! be the least loaded for its weight with it, among nodes that can still take one. That keeps the highest
//! load per weight as low as the rules allow. Then replicas are dealt out, in consistent-hash order
//! so that the partners of a node differ from shard to shard. Any such loads can be dealt out: lay the
//! replicas of node after node, zone by zone, in a row and give them to the shards in turn; a node with no more
//! replicas than shards never meets a shard twice, nor does a zone meet it more often than its limit.

use std::collections::{BTreeMap, BTreeSet};

use crate::flow::{Assignment, Rules};
use crate::hash::tagged;
use crate::preference::{Member, PreferenceRing};
use crate::weight::to_units;
use crate::{MAX_NODES, MAX_REPLICAS, MAX_SHARDS, NodeSpec, Placement, RingError};

/// Checked input. Shards, nodes and zones are indexes into ascending lists.
pub(crate) struct Plan {
    shards: Vec<u32>,
    ids: Vec<u64>,
    units: Vec<u64>,
    zone_of: Vec<usize>,
    /// Number of nodes by zone.
    zone_sizes: Vec<usize>,
    replicas: usize,
    /// Most replicas of one shard in one zone.
    zone_limit: usize,
    /// By shard, where it is now: nodes that still exist, preferred leader first.
    current: Vec<Vec<usize>>,
    /// By shard, its preferred leader now, if that still exists.
    current_leader: Vec<Option<usize>>,
}

impl Plan {
    /// Checks the input of [`Placement::rebalance`]; `now` is the placement that is to be followed.
    pub(crate) fn check(
        now: &Placement,
        shards: &[u32],
        nodes: &[NodeSpec],
        replicas: usize,
    ) -> Result<Plan, RingError> {
        let shards = check_shards(shards)?;
        if !(1..=MAX_REPLICAS).contains(&replicas) {
            return Err(RingError::ReplicasOutOfRange { replicas });
        }
        let nodes = check_nodes(nodes, replicas)?;
        let units = nodes
            .iter()
            .map(|node| to_units(node.weight, || format!("node {}", node.id)))
            .collect::<Result<Vec<_>, _>>()?;
        let ids: Vec<u64> = nodes.iter().map(|node| node.id).collect();

        let names: BTreeSet<&str> = nodes.iter().map(|node| node.zone.as_str()).collect();
        let index: BTreeMap<&str, usize> = names.into_iter().zip(0..).collect();
        let zone_of: Vec<usize> = nodes.iter().map(|node| index[node.zone.as_str()]).collect();
        let mut zone_sizes = vec![0; index.len()];
        zone_of.iter().for_each(|&zone| zone_sizes[zone] += 1);

        let node_index = |id: &u64| ids.binary_search(id).ok();
        let of_shard = |shard: &u32| now.assignments.get(shard).map(Vec::as_slice).unwrap_or_default();
        let current = shards
            .iter()
            .map(|s| of_shard(s).iter().filter_map(node_index).collect())
            .collect();
        let current_leader = shards
            .iter()
            .map(|s| of_shard(s).first().and_then(node_index))
            .collect();
        let zone_limit = zone_limit(&zone_sizes, replicas);
        Ok(Plan {
            shards,
            ids,
            units,
            zone_of,
            zone_sizes,
            replicas,
            zone_limit,
            current,
            current_leader,
        })
    }

    /// The placement.
    pub(crate) fn solve(&self) -> Placement {
        let assigned = self.assign_replicas();
        let leaders = self.choose_leaders(&assigned);
        let mut assignments = BTreeMap::new();
        for (index, &shard) in self.shards.iter().enumerate() {
            let mut followers: Vec<u64> = assigned
                .nodes_of(index)
                .filter(|&n| n != leaders[index])
                .map(|n| self.ids[n])
                .collect();
            // No node is everybody's second choice.
            followers.sort_by_key(|&node| (tagged("place.follower", &[u64::from(shard), node]), node));
            let leader = self.ids[leaders[index]];
            assignments.insert(shard, std::iter::once(leader).chain(followers).collect());
        }
        Placement { assignments }
    }

    /// Gives every shard its nodes.
    fn assign_replicas(&self) -> Assignment {
        let loads = self.target_loads();
        let rules = Rules {
            shards: self.shards.len(),
            per_shard: self.replicas,
            zone_of: self.zone_of.clone(),
            zones: self.zone_sizes.len(),
            zone_limit: self.zone_limit,
            capacity: loads.clone(),
        };
        let mut assigned = Assignment::new(rules, |_, _| true);
        for (shard, node) in self.replicas_to_keep(&loads) {
            assigned.join(shard, node);
        }
        let members: Vec<Member> = self
            .ids
            .iter()
            .zip(&self.units)
            .map(|(&id, &units)| Member { id, units })
            .collect();
        let preference = PreferenceRing::new("place.node", &members);
        for (shard, &number) in self.shards.iter().enumerate() {
            if assigned.is_complete(shard) {
                continue;
            }
            for node in preference.order(tagged("place.shard", &[u64::from(number)])) {
                if assigned.join(shard, node) && assigned.is_complete(shard) {
                    break;
                }
            }
        }
        assigned.complete();
        assert!(
            (0..self.shards.len()).all(|shard| assigned.is_complete(shard)),
            "loads within the limits of nodes and zones can always be dealt out"
        );
        assigned
    }

    /// Replicas for every node to hold; see the head of this file.
    fn target_loads(&self) -> Vec<usize> {
        let shards = self.shards.len();
        let mut held = vec![0_usize; self.ids.len()];
        self.current.iter().flatten().for_each(|&node| held[node] += 1);
        let mut loads = vec![0_usize; self.ids.len()];
        let mut zone_room: Vec<usize> = self
            .zone_sizes
            .iter()
            .map(|&nodes| shards * nodes.min(self.zone_limit))
            .collect();
        for _ in 0..shards * self.replicas {
            let node = (0..loads.len())
                .filter(|&n| loads[n] < shards && zone_room[self.zone_of[n]] > 0)
                .min_by(|&a, &b| {
                    // load(a) / weight(a) against load(b) / weight(b), each with one replica more.
                    let a_loaded = (loads[a] as u128 + 1) * u128::from(self.units[b]);
                    let b_loaded = (loads[b] as u128 + 1) * u128::from(self.units[a]);
                    // Of equals, the one that needn't fetch this replica.
                    a_loaded
                        .cmp(&b_loaded)
                        .then((held[b] > loads[b]).cmp(&(held[a] > loads[a])))
                })
                .expect("the zone limit was chosen so that all replicas fit");
            loads[node] += 1;
            zone_room[self.zone_of[node]] -= 1;
        }
        loads
    }

    /// Replicas that can stay where they are.
    fn replicas_to_keep(&self, loads: &[usize]) -> Vec<(usize, usize)> {
        let mut of_node: Vec<Vec<usize>> = vec![Vec::new(); self.ids.len()];
        let mut lacking = vec![self.replicas; self.shards.len()];
        for (shard, nodes) in self.current.iter().enumerate() {
            let mut in_zone = vec![0; self.zone_sizes.len()];
            for &node in nodes {
                let zone = self.zone_of[node];
                if in_zone[zone] < self.zone_limit && lacking[shard] > 0 {
                    in_zone[zone] += 1;
                    lacking[shard] -= 1;
                    of_node[node].push(shard);
                }
            }
        }
        let mut keep = Vec::new();
        for (node, mut shards) in of_node.into_iter().enumerate() {
            while shards.len() > loads[node] {
                // A shard that lacks little is the easiest to find another node for.
                let order = |shard: usize| (lacking[shard], self.drop_order(shard, node), shard);
                let (at, _) = shards
                    .iter()
                    .enumerate()
                    .min_by_key(|&(_, &shard)| order(shard))
                    .expect("more than the target load, so not empty");
                lacking[shards.swap_remove(at)] += 1;
            }
            keep.extend(shards.into_iter().map(|shard| (shard, node)));
        }
        keep
    }

    fn drop_order(&self, shard: usize, node: usize) -> u64 {
        tagged("place.drop", &[u64::from(self.shards[shard]), self.ids[node]])
    }

    /// The preferred leader of every shard.
    ///
    /// If every replica led a `1 / replicas` part of its shard, each node would lead `load / replicas` shards.
    /// So whole numbers next to these can be reached: first all nodes get theirs rounded down, then the
    /// shards that are left go to nodes that may round up.
    fn choose_leaders(&self, assigned: &Assignment) -> Vec<usize> {
        let replicas_of: Vec<Vec<usize>> = (0..self.shards.len())
            .map(|shard| assigned.nodes_of(shard).collect())
            .collect();
        let rules = Rules {
            shards: self.shards.len(),
            per_shard: 1,
            zone_of: vec![0; self.ids.len()],
            zones: 1,
            zone_limit: 1,
            capacity: assigned.load().iter().map(|load| load / self.replicas).collect(),
        };
        let mut leaders = Assignment::new(rules, |shard, node| replicas_of[shard].contains(&node));
        self.keep_leaders(&mut leaders);
        leaders.complete();
        leaders.set_capacity(
            assigned
                .load()
                .iter()
                .map(|load| load.div_ceil(self.replicas))
                .collect(),
        );
        self.keep_leaders(&mut leaders);
        leaders.complete();
        let leader = |shard| {
            leaders
                .nodes_of(shard)
                .next()
                .expect("rounding up leaves no shard without leader")
        };
        (0..self.shards.len()).map(leader).collect()
    }

    fn keep_leaders(&self, leaders: &mut Assignment) {
        for (shard, leader) in self.current_leader.iter().enumerate() {
            if let Some(node) = leader {
                leaders.join(shard, *node);
            }
        }
    }
}

fn check_shards(shards: &[u32]) -> Result<Vec<u32>, RingError> {
    if shards.is_empty() {
        return Err(RingError::NoShards);
    }
    if shards.len() > MAX_SHARDS {
        return Err(RingError::TooManyShards { count: shards.len() });
    }
    let mut shards = shards.to_vec();
    shards.sort_unstable();
    if shards[0] == 0 {
        return Err(RingError::ReservedShard);
    }
    match shards.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(twins) => Err(RingError::DuplicateShard { shard: twins[0] }),
        None => Ok(shards),
    }
}

fn check_nodes(nodes: &[NodeSpec], replicas: usize) -> Result<Vec<&NodeSpec>, RingError> {
    if nodes.len() > MAX_NODES {
        return Err(RingError::TooManyNodes { count: nodes.len() });
    }
    let mut nodes: Vec<&NodeSpec> = nodes.iter().collect();
    nodes.sort_by_key(|node| node.id);
    if let Some(twins) = nodes.windows(2).find(|pair| pair[0].id == pair[1].id) {
        return Err(RingError::DuplicateNode { node: twins[0].id });
    }
    if nodes.len() < replicas {
        return Err(RingError::TooFewNodes {
            nodes: nodes.len(),
            replicas,
        });
    }
    Ok(nodes)
}

/// Smallest number of replicas per zone with which a shard finds room for all: 1 if there are enough zones.
fn zone_limit(zone_sizes: &[usize], replicas: usize) -> usize {
    (1..replicas)
        .find(|&limit| zone_sizes.iter().map(|&nodes| nodes.min(limit)).sum::<usize>() >= replicas)
        .unwrap_or(replicas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_share_the_replicas_of_a_shard_as_evenly_as_their_nodes_allow() {
        assert_eq!(zone_limit(&[3, 3, 3], 3), 1);
        assert_eq!(zone_limit(&[3], 3), 3);
        assert_eq!(zone_limit(&[3, 2], 3), 2);
        // The zone with one node can't take its half.
        assert_eq!(zone_limit(&[1, 4], 5), 4);
    }
}
