//! Preference orders from the `consistent_hash` crate, and all that the rest of this crate sees of it.
//!
//! That crate is unmaintained, wants `Hash` keys, silently drops members with equal keys, and gives out
//! references that may outlive its ring. So it is fed plain `u64` ids (distinct, checked by the callers)
//! and hashes that were made beforehand from specified bytes, and only member indexes, copied, leave here.

use std::hash::{Hash, Hasher};

use consistent_hash::{Node, RingHash, StaticHashRing};

use crate::hash::tagged;

/// Virtual nodes of a member with average weight.
const VIRTUAL_NODES: u64 = 128;

/// One member that can be preferred: an id, unique among the members, and a weight in units.
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) units: u64,
}

/// A consistent-hash ring over members, which items order by preference.
pub(crate) struct PreferenceRing {
    ring: StaticHashRing<'static, u64, usize, SpecifiedHash>,
}

impl PreferenceRing {
    /// A ring over `members`; `tag` names the use and is part of every virtual node's hash.
    pub(crate) fn new(tag: &'static str, members: &[Member]) -> PreferenceRing {
        let total: u128 = members.iter().map(|member| u128::from(member.units)).sum();
        let points = u128::from(VIRTUAL_NODES) * members.len() as u128;
        let nodes = members.iter().enumerate().map(|(index, member)| {
            let quantity = (points * u128::from(member.units) / total.max(1)).max(1);
            // At most VIRTUAL_NODES times the number of members, which is bounded.
            Node::new(member.id).value(index).quantity(quantity as usize)
        });
        PreferenceRing {
            ring: StaticHashRing::new(SpecifiedHash { tag }, nodes),
        }
    }

    /// Indexes of all members, the most preferred one first. `item` must already be a hash.
    pub(crate) fn order(&self, item: u64) -> impl Iterator<Item = usize> + '_ {
        self.ring.calc_candidates(&item).map(|node| node.value)
    }
}

/// Takes items as they are (they are hashes already) and hashes virtual nodes as tag, id, sequence number.
struct SpecifiedHash {
    tag: &'static str,
}

impl RingHash for SpecifiedHash {
    fn hash_item<T: Hash>(&self, item: &T) -> u64 {
        the_u64_in(item)
    }

    fn hash_vnode<K: Hash>(&self, node_key: &K, vnode_seq: usize) -> u64 {
        tagged(self.tag, &[the_u64_in(node_key), vnode_seq as u64])
    }
}

/// The value of a `u64` behind a `Hash` bound.
fn the_u64_in<T: Hash>(value: &T) -> u64 {
    let mut identity = Identity(0);
    value.hash(&mut identity);
    identity.finish()
}

/// A "hasher" whose result is the `u64` written to it.
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 is hashed here, and u64 is written by write_u64")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(units: &[u64]) -> Vec<Member> {
        units
            .iter()
            .zip(1..)
            .map(|(&units, id)| Member { id, units })
            .collect()
    }

    #[test]
    fn every_member_appears_once_in_every_order() {
        let ring = PreferenceRing::new("test", &members(&[1, 1_000_000, 500, 500]));
        for item in 0..500 {
            let mut order: Vec<usize> = ring.order(tagged("item", &[item])).collect();
            order.sort_unstable();
            assert_eq!(order, [0, 1, 2, 3]);
        }
    }

    #[test]
    fn the_order_is_that_of_the_specified_virtual_node_hashes() {
        let ring = PreferenceRing::new("test", &members(&[1, 1, 1]));
        let mut points: Vec<(u64, usize)> = (0..3_usize)
            .flat_map(|m| (0..128).map(move |seq| (tagged("test", &[m as u64 + 1, seq]), m)))
            .collect();
        points.sort_unstable();
        for item in (0..200).map(|n| tagged("item", &[n])) {
            let start = points.partition_point(|(hash, _)| *hash < item);
            let mut expected = Vec::new();
            for (_, member) in points[start..].iter().chain(&points[..start]) {
                if !expected.contains(member) {
                    expected.push(*member);
                }
            }
            assert_eq!(ring.order(item).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn heavy_members_are_preferred_in_proportion() {
        let ring = PreferenceRing::new("test", &members(&[3, 1]));
        let first = (0..10_000)
            .filter(|n| ring.order(tagged("item", &[*n])).next() == Some(0))
            .count();
        assert!(
            (6_500..8_500).contains(&first),
            "{first} of 10000 prefer the member with weight 3 of 4"
        );
    }
}
