//! The bars of the placement, for many numbers of shards and nodes, weights and zones.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use quorate_ring::{NodeSpec, Placement, ReplicaChange, place};

const ZONES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn nodes_of(nodes: usize, zones: usize) -> Vec<NodeSpec> {
    let node = |n: usize| NodeSpec {
        id: n as u64 + 1,
        weight: 1.0,
        zone: ZONES[n % zones].to_owned(),
    };
    (0..nodes).map(node).collect()
}

fn any_nodes() -> impl Strategy<Value = Vec<NodeSpec>> {
    let node = (
        1..=u64::MAX,
        prop_oneof![Just(1.0), 0.1..10.0_f64],
        prop::sample::select(&ZONES[..]),
    );
    prop::collection::vec(node, 1..=24).prop_map(|nodes| {
        let by_id: BTreeMap<u64, (f64, &str)> = nodes.into_iter().map(|(id, w, z)| (id, (w, z))).collect();
        by_id
            .into_iter()
            .map(|(id, (weight, zone))| NodeSpec {
                id,
                weight,
                zone: zone.to_owned(),
            })
            .collect()
    })
}

fn any_shards() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::btree_set(1..=u32::MAX, 1..=48).prop_map(Vec::from_iter)
}

/// Everything that must be true of any placement.
fn check(
    placement: &Placement,
    shards: &[u32],
    nodes: &[NodeSpec],
    replicas: usize,
) -> Result<(), TestCaseError> {
    let zone_of: BTreeMap<u64, &str> = nodes.iter().map(|n| (n.id, n.zone.as_str())).collect();
    let mut zone_sizes: BTreeMap<&str, usize> = BTreeMap::new();
    zone_of
        .values()
        .for_each(|zone| *zone_sizes.entry(zone).or_default() += 1);
    let fits = |limit: &usize| zone_sizes.values().map(|size| size.min(limit)).sum::<usize>() >= replicas;
    let zone_limit = (1..=replicas).find(fits).expect("there are enough nodes");
    if zone_sizes.len() >= replicas {
        prop_assert_eq!(zone_limit, 1, "enough zones for all replicas");
    }

    prop_assert_eq!(
        placement.assignments.keys().copied().collect::<BTreeSet<_>>(),
        shards.iter().copied().collect()
    );
    let mut load: BTreeMap<u64, usize> = nodes.iter().map(|n| (n.id, 0)).collect();
    let mut zone_load: BTreeMap<&str, usize> = BTreeMap::new();
    let mut led: BTreeMap<u64, usize> = nodes.iter().map(|n| (n.id, 0)).collect();
    for (shard, replicas_of) in &placement.assignments {
        prop_assert_eq!(replicas_of.len(), replicas);
        prop_assert_eq!(
            replicas_of.iter().collect::<BTreeSet<_>>().len(),
            replicas,
            "distinct nodes"
        );
        let mut in_zone: BTreeMap<&str, usize> = BTreeMap::new();
        for node in replicas_of {
            *in_zone.entry(zone_of[node]).or_default() += 1;
            *zone_load.entry(zone_of[node]).or_default() += 1;
            *load.get_mut(node).expect("a listed node") += 1;
        }
        prop_assert!(
            in_zone.values().all(|count| *count <= zone_limit),
            "shard {shard}: {in_zone:?}"
        );
        *led.get_mut(&replicas_of[0]).expect("a listed node") += 1;
    }

    // Load is bounded by weight: nowhere could a replica go to a node that would be less loaded with it.
    for from in nodes.iter().filter(|n| load[&n.id] > 0) {
        for to in nodes.iter().filter(|n| load[&n.id] < shards.len()) {
            let zone_full = zone_load.get(&*to.zone).copied().unwrap_or(0)
                == shards.len() * zone_sizes[&*to.zone].min(zone_limit);
            if zone_full && from.zone != to.zone {
                continue;
            }
            let (now, then) = (
                load[&from.id] as f64 / from.weight,
                (load[&to.id] + 1) as f64 / to.weight,
            );
            prop_assert!(
                now <= then * (1.0 + 1e-5),
                "{from:?} has {now} per weight, {to:?} would have {then}"
            );
        }
    }
    for node in nodes {
        let (led, load) = (led[&node.id], load[&node.id]);
        prop_assert!(
            (load / replicas..=load.div_ceil(replicas)).contains(&led),
            "{led} of {load} led by {node:?}"
        );
    }
    Ok(())
}

/// Replicas that nodes hold more in `after` than in `before`: no change between such loads can move fewer.
fn gained(before: &Placement, after: &Placement, nodes: &[NodeSpec]) -> usize {
    let more = |n: &NodeSpec| {
        after
            .held_by(n.id)
            .count()
            .saturating_sub(before.held_by(n.id).count())
    };
    nodes.iter().map(more).sum()
}

fn moved(changes: &[ReplicaChange]) -> usize {
    changes.iter().map(|change| change.added.len()).sum()
}

#[test]
fn equal_nodes_hold_and_lead_equally() {
    for nodes in 1..=16 {
        for replicas in (1..=5).filter(|r| *r <= nodes) {
            for shards in [1_u32, 8, 13, 64] {
                let all: Vec<u32> = (1..=shards).collect();
                let specs = nodes_of(nodes, 1);
                let placement = place(&all, &specs, replicas).unwrap();
                check(&placement, &all, &specs, replicas).unwrap();
                let held: Vec<usize> = specs.iter().map(|n| placement.held_by(n.id).count()).collect();
                let led: Vec<usize> = specs.iter().map(|n| placement.led_by(n.id).count()).collect();
                for counts in [held, led] {
                    let (min, max) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                    assert!(max - min <= 1, "{shards} x {replicas} on {nodes}: {counts:?}");
                }
            }
        }
    }
}

#[test]
fn weights_decide_the_load_within_five_percent() {
    let mut nodes = nodes_of(12, 3);
    nodes
        .iter_mut()
        .zip([1.0, 2.0, 3.0, 4.0].iter().cycle())
        .for_each(|(node, weight)| node.weight = *weight);
    let shards: Vec<u32> = (1..=512).collect();
    let placement = place(&shards, &nodes, 3).unwrap();
    check(&placement, &shards, &nodes, 3).unwrap();
    let total: f64 = nodes.iter().map(|n| n.weight).sum();
    for node in &nodes {
        let ideal = 3.0 * 512.0 * node.weight / total;
        let load = placement.held_by(node.id).count() as f64;
        assert!(
            load <= 1.05 * ideal && load >= 0.95 * ideal,
            "{node:?} holds {load} of {ideal}"
        );
    }
}

#[test]
fn the_partners_of_a_node_differ_from_shard_to_shard() {
    let (shards, nodes) = ((1..=64).collect::<Vec<u32>>(), nodes_of(12, 1));
    let placement = place(&shards, &nodes, 3).unwrap();
    for node in &nodes {
        let partners: BTreeSet<u64> = placement
            .held_by(node.id)
            .flat_map(|shard| placement.assignments[&shard].clone())
            .collect();
        assert!(
            partners.len() > 6,
            "node {} shares shards with {partners:?} only",
            node.id
        );
    }
}

#[test]
fn adding_and_removing_equal_nodes_moves_only_what_the_loads_require() {
    for (zones, shards) in [(1, 8), (1, 24), (1, 64), (3, 8), (3, 24), (3, 64)] {
        let shards: Vec<u32> = (1..=shards).collect();
        for nodes in (3..=18).step_by(zones) {
            let (few, many) = (nodes_of(nodes, zones), nodes_of(nodes + zones, zones));
            let before = place(&shards, &few, 3).unwrap();
            let (grown, changes) = before.rebalance(&shards, &many, 3).unwrap();
            check(&grown, &shards, &many, 3).unwrap();
            assert_eq!(
                moved(&changes),
                gained(&before, &grown, &many),
                "{nodes}+{zones} nodes"
            );

            let (shrunk, changes) = grown.rebalance(&shards, &few, 3).unwrap();
            check(&shrunk, &shards, &few, 3).unwrap();
            assert_eq!(
                moved(&changes),
                gained(&grown, &shrunk, &few),
                "{nodes} nodes left of {}",
                nodes + zones
            );
            assert!(moved(&changes) <= shards.len() * 3 * zones / (nodes + zones) + zones);
        }
    }
}

#[test]
fn of_equal_nodes_those_that_hold_more_keep_it() {
    // 18 replicas on 4 nodes: two of them hold 5. Renamed, they are the last ones.
    let (shards, nodes) = ((1..=6).collect::<Vec<u32>>(), nodes_of(4, 1));
    let mut placement = place(&shards, &nodes, 3).unwrap();
    placement
        .assignments
        .values_mut()
        .flatten()
        .for_each(|node| *node = 5 - *node);
    let (_, changes) = placement.rebalance(&shards, &nodes, 3).unwrap();
    assert_eq!(changes, []);
}

#[test]
fn the_largest_placement_is_made() {
    let (shards, nodes) = ((1..=1_024).collect::<Vec<u32>>(), nodes_of(256, 5));
    let placement = place(&shards, &nodes, 5).unwrap();
    check(&placement, &shards, &nodes, 5).unwrap();
}

proptest! {
    #[test]
    fn any_placement_obeys_the_rules(shards in any_shards(), nodes in any_nodes(), replicas in 1..=9_usize) {
        let replicas = replicas.min(nodes.len());
        let placement = place(&shards, &nodes, replicas).unwrap();
        check(&placement, &shards, &nodes, replicas)?;
        let (mut shuffled, mut nodes) = (shards, nodes);
        shuffled.reverse();
        nodes.reverse();
        prop_assert_eq!(&place(&shuffled, &nodes, replicas).unwrap(), &placement, "order of input is irrelevant");
        prop_assert_eq!(&Placement::decode(&placement.encode().unwrap()).unwrap(), &placement);
    }

    #[test]
    fn any_change_obeys_the_rules(
        shards in any_shards(), before in any_nodes(), after in any_nodes(), keep in 0..24_usize,
        dropped in 0..8_usize, replicas in 1..=5_usize,
    ) {
        let old = place(&shards, &before, replicas.min(before.len())).unwrap();
        let mut nodes: BTreeMap<u64, NodeSpec> = after.into_iter().map(|n| (n.id, n)).collect();
        nodes.extend(before.into_iter().take(keep).map(|n| (n.id, n)));
        let nodes: Vec<NodeSpec> = nodes.into_values().collect();
        let shards = &shards[dropped.min(shards.len() - 1)..];
        let replicas = replicas.min(nodes.len());
        let (new, changes) = old.rebalance(shards, &nodes, replicas).unwrap();
        check(&new, shards, &nodes, replicas)?;

        // The changes lead from the one to the other.
        let mut sets: BTreeMap<u32, BTreeSet<u64>> =
            old.assignments.iter().map(|(s, n)| (*s, n.iter().copied().collect())).collect();
        for change in &changes {
            let set = sets.entry(change.shard).or_default();
            prop_assert!(change.removed.iter().all(|node| set.remove(node)));
            prop_assert!(change.added.iter().all(|node| set.insert(*node)));
        }
        sets.retain(|_, nodes| !nodes.is_empty());
        let expected: BTreeMap<u32, BTreeSet<u64>> =
            new.assignments.iter().map(|(s, n)| (*s, n.iter().copied().collect())).collect();
        prop_assert_eq!(sets, expected);

        let (again, changes) = new.rebalance(shards, &nodes, replicas).unwrap();
        prop_assert_eq!((again, changes), (new, Vec::new()), "a second time there is nothing to do");
    }
}
