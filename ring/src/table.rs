//! The slot table: every slot has one owner, and a new epoch moves as few slots as balance allows.

use std::collections::BTreeMap;
use std::fmt;

use crate::hash::tagged;
use crate::preference::{Member, PreferenceRing};
use crate::quota::{Claim, max_owned, quotas};
use crate::weight::{from_units, to_units};
use crate::{MAX_SHARDS, MAX_SPREAD, RingError, SLOTS, slot_of};

/// A shard and its weight: the share of slots it should own, relative to the other shards' weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShardWeight {
    /// Shard number, from 1.
    pub shard: u32,
    /// Weight, from [`MIN_WEIGHT`](crate::MIN_WEIGHT) to [`MAX_WEIGHT`](crate::MAX_WEIGHT).
    pub weight: f64,
}

/// A slot that changes its owner between two rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Move {
    /// The slot.
    pub slot: u16,
    /// Its owner in the old ring.
    pub from: u32,
    /// Its owner in the new ring.
    pub to: u32,
}

/// The owners of all slots in one epoch. Immutable; a change is a new ring with a higher epoch.
#[derive(Clone, PartialEq)]
pub struct Ring {
    epoch: u64,
    spread: u32,
    /// Ascending by shard number, weights rounded to the millionth.
    shards: Vec<ShardWeight>,
    slots: Box<[u32; SLOTS]>,
}

impl Ring {
    /// The first ring of a cluster.
    ///
    /// Slots prefer shards in the order that consistent hashing gives, and take the first one with room:
    /// every shard owns its ideal share rounded to a whole slot, hence at most 1.05 of it.
    ///
    /// # Errors
    /// Refuses an empty or too long list, a shard given twice or numbered 0, a weight out of range or too
    /// small beside the others, and a spread out of range.
    pub fn build(epoch: u64, spread: u32, shards: &[ShardWeight]) -> Result<Ring, RingError> {
        if !(1..=MAX_SPREAD).contains(&spread) {
            return Err(RingError::SpreadOutOfRange { spread });
        }
        let members = Members::check(shards)?;
        let mut room = quotas(&members.claims(&BTreeMap::new()))?;
        let mut slots = empty_table();
        let all: Vec<u16> = (0..=u16::MAX).collect();
        members.hand_out(&all, &mut room, |slot, shard| slots[usize::from(slot)] = shard);
        Ok(Ring::balanced(epoch, spread, members, slots))
    }

    /// The ring that follows this one when shards are added, removed or given other weights, and the slots
    /// that change their owner, ascending. The spread stays.
    ///
    /// Every shard ends within one slot of its ideal share, and no other table within that bound moves fewer
    /// slots. Slots that must move prefer their new owners in consistent-hash order.
    ///
    /// # Errors
    /// Refuses an epoch that isn't higher than this ring's, and the same lists as [`Ring::build`].
    pub fn rebuild(&self, epoch: u64, shards: &[ShardWeight]) -> Result<(Ring, Vec<Move>), RingError> {
        if epoch <= self.epoch {
            return Err(RingError::StaleEpoch {
                epoch,
                current: self.epoch,
            });
        }
        let members = Members::check(shards)?;
        let owned = self.owned();
        let claims = members.claims(&owned);
        let quotas = quotas(&claims)?;

        let moving = self.slots_to_give_up(epoch, &claims, &quotas);
        let mut room: Vec<usize> = claims
            .iter()
            .zip(&quotas)
            .map(|(claim, quota)| quota.saturating_sub(claim.owned))
            .collect();
        let mut slots = self.slots.clone();
        let mut moves = Vec::with_capacity(moving.len());
        members.hand_out(&moving, &mut room, |slot, to| {
            let from = std::mem::replace(&mut slots[usize::from(slot)], to);
            moves.push(Move { slot, from, to });
        });
        Ok((Ring::balanced(epoch, self.spread, members, slots), moves))
    }

    /// Owner of the slot that `key` falls on.
    pub fn shard_of_key(&self, key: u64) -> u32 {
        self.shard_of_slot(slot_of(key))
    }

    /// Owner of a slot.
    pub fn shard_of_slot(&self, slot: u16) -> u32 {
        self.slots[usize::from(slot)]
    }

    /// The epoch of this table.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Over how many keys the metrics of one scrape target are spread; see [`shard_key`](crate::shard_key).
    pub fn spread(&self) -> u32 {
        self.spread
    }

    /// The shards, ascending, with their weights rounded to the millionth.
    pub fn shards(&self) -> &[ShardWeight] {
        &self.shards
    }

    /// Owners by slot, [`SLOTS`] of them.
    pub fn slots(&self) -> &[u32] {
        &self.slots[..]
    }

    /// Slots owned by each shard.
    pub fn owned(&self) -> BTreeMap<u32, usize> {
        let mut owned: BTreeMap<u32, usize> = self.shards.iter().map(|s| (s.shard, 0)).collect();
        for shard in self.slots.iter() {
            *owned.entry(*shard).or_default() += 1;
        }
        owned
    }

    /// A ring from its parts, if the spread is in range, every slot has a listed owner, and no shard owns more
    /// than 1.05 of its ideal share.
    pub(crate) fn from_parts(
        epoch: u64,
        spread: u32,
        members: Members,
        slots: Box<[u32; SLOTS]>,
    ) -> Result<Ring, Broken> {
        if !(1..=MAX_SPREAD).contains(&spread) {
            return Err(Broken::Spread { spread });
        }
        let total: u64 = members.units.iter().sum();
        let maxima: Vec<usize> = members
            .units
            .iter()
            .map(|&units| max_owned(units, total))
            .collect();
        let ring = Ring {
            epoch,
            spread,
            shards: members.shards,
            slots,
        };
        let owned = ring.owned();
        if owned.len() != ring.shards.len() {
            return Err(Broken::UnknownOwner);
        }
        // Both are ascending by shard number.
        for ((&shard, &slots), max) in owned.iter().zip(maxima) {
            if slots > max {
                return Err(Broken::Overloaded { shard, slots, max });
            }
        }
        Ok(ring)
    }

    /// A ring from parts that were just computed here.
    fn balanced(epoch: u64, spread: u32, members: Members, slots: Box<[u32; SLOTS]>) -> Ring {
        Ring::from_parts(epoch, spread, members, slots).expect(
            "quotas round ideal shares of at least MIN_SLOTS_PER_SHARD slots, hence stay within the bound",
        )
    }

    /// All slots of shards that are gone, and the surplus of shards that own more than their quota.
    /// Ascending, so that the table doesn't depend on the order in which they were found.
    fn slots_to_give_up(&self, epoch: u64, claims: &[Claim], quotas: &[usize]) -> Vec<u16> {
        let keep: BTreeMap<u32, usize> = claims
            .iter()
            .zip(quotas)
            .map(|(claim, quota)| (claim.shard, *quota))
            .collect();
        let mut of_shard: BTreeMap<u32, Vec<u16>> = BTreeMap::new();
        for (slot, shard) in (0..=u16::MAX).zip(self.slots.iter()) {
            of_shard.entry(*shard).or_default().push(slot);
        }
        let mut moving = Vec::new();
        for (shard, mut slots) in of_shard {
            let keep = keep.get(&shard).copied().unwrap_or(0);
            if slots.len() <= keep {
                continue;
            }
            // The epoch is hashed too: otherwise the same slots would be the first to move every time.
            slots.sort_by_cached_key(|slot| (tagged("ring.move", &[epoch, u64::from(*slot)]), *slot));
            moving.extend_from_slice(&slots[keep..]);
        }
        moving.sort_unstable();
        moving
    }
}

impl fmt::Debug for Ring {
    /// Without the slots: 65,536 numbers help nobody.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("epoch", &self.epoch)
            .field("spread", &self.spread)
            .field("shards", &self.shards)
            .field("owned", &self.owned())
            .finish_non_exhaustive()
    }
}

/// What is wrong with the parts of a ring.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("spread {spread} is out of range")]
    Spread { spread: u32 },
    #[error("a slot is owned by a shard that isn't listed")]
    UnknownOwner,
    #[error("shard {shard} owns {slots} slots, its weight allows {max}")]
    Overloaded { shard: u32, slots: usize, max: usize },
}

/// Checked shards: ascending, distinct, with weights in range.
pub(crate) struct Members {
    shards: Vec<ShardWeight>,
    /// Weights in units, in the order of `shards`.
    units: Vec<u64>,
}

impl Members {
    pub(crate) fn check(shards: &[ShardWeight]) -> Result<Members, RingError> {
        if shards.is_empty() {
            return Err(RingError::NoShards);
        }
        if shards.len() > MAX_SHARDS {
            return Err(RingError::TooManyShards { count: shards.len() });
        }
        let mut shards = shards.to_vec();
        shards.sort_by_key(|s| s.shard);
        if shards[0].shard == 0 {
            return Err(RingError::ReservedShard);
        }
        if let Some(twins) = shards.windows(2).find(|pair| pair[0].shard == pair[1].shard) {
            return Err(RingError::DuplicateShard {
                shard: twins[0].shard,
            });
        }
        let mut units = Vec::with_capacity(shards.len());
        for member in &mut shards {
            let in_units = to_units(member.weight, || format!("shard {}", member.shard))?;
            member.weight = from_units(in_units);
            units.push(in_units);
        }
        Ok(Members { shards, units })
    }

    /// The shards, ascending, with weights rounded to the millionth.
    pub(crate) fn shards(&self) -> &[ShardWeight] {
        &self.shards
    }

    fn claims(&self, owned: &BTreeMap<u32, usize>) -> Vec<Claim> {
        let claim = |(member, units): (&ShardWeight, &u64)| Claim {
            shard: member.shard,
            units: *units,
            owned: owned.get(&member.shard).copied().unwrap_or(0),
        };
        self.shards.iter().zip(&self.units).map(claim).collect()
    }

    /// Gives each of `slots` to the shard it prefers among those with room. `room` is per member and must
    /// add up to the number of slots.
    fn hand_out(&self, slots: &[u16], room: &mut [usize], mut give: impl FnMut(u16, u32)) {
        let receivers: Vec<usize> = (0..room.len()).filter(|&i| room[i] > 0).collect();
        let members: Vec<Member> = receivers
            .iter()
            .map(|&i| Member {
                id: u64::from(self.shards[i].shard),
                units: self.units[i],
            })
            .collect();
        let preference = PreferenceRing::new("ring.shard", &members);
        for &slot in slots {
            let receiver = preference
                .order(tagged("ring.slot", &[u64::from(slot)]))
                .map(|candidate| receivers[candidate])
                .find(|&i| room[i] > 0)
                .expect("room adds up to the number of slots, so one is left for this slot");
            room[receiver] -= 1;
            give(slot, self.shards[receiver].shard);
        }
    }
}

/// A table to be filled.
pub(crate) fn empty_table() -> Box<[u32; SLOTS]> {
    vec![0; SLOTS]
        .into_boxed_slice()
        .try_into()
        .expect("the length is SLOTS")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn equal(shards: std::ops::RangeInclusive<u32>) -> Vec<ShardWeight> {
        shards.map(|shard| ShardWeight { shard, weight: 1.0 }).collect()
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let mut shards = equal(1..=9);
        let ring = Ring::build(1, 8, &shards).unwrap();
        shards.reverse();
        assert_eq!(Ring::build(1, 8, &shards).unwrap(), ring);
    }

    #[test]
    fn bad_lists_are_refused() {
        let build = |spread, shards: &[ShardWeight]| Ring::build(1, spread, shards).unwrap_err();
        assert_eq!(build(8, &[]), RingError::NoShards);
        assert_eq!(build(8, &equal(0..=2)), RingError::ReservedShard);
        assert_eq!(
            build(8, &[equal(1..=3), equal(2..=2)].concat()),
            RingError::DuplicateShard { shard: 2 }
        );
        assert_eq!(
            build(8, &equal(1..=1_025)),
            RingError::TooManyShards { count: 1_025 }
        );
        assert_eq!(build(0, &equal(1..=2)), RingError::SpreadOutOfRange { spread: 0 });
        assert_eq!(
            build(1_025, &equal(1..=2)),
            RingError::SpreadOutOfRange { spread: 1_025 }
        );
        let weightless = [ShardWeight {
            shard: 7,
            weight: 0.0,
        }];
        assert!(build(8, &weightless).to_string().contains("shard 7"));
    }

    #[test]
    fn a_rebuild_needs_a_higher_epoch() {
        let ring = Ring::build(5, 8, &equal(1..=2)).unwrap();
        for epoch in [4, 5] {
            let refused = ring.rebuild(epoch, &equal(1..=3)).unwrap_err();
            assert_eq!(refused, RingError::StaleEpoch { epoch, current: 5 });
        }
    }

    #[test]
    fn a_rebuild_with_the_same_shards_moves_nothing() {
        let ring = Ring::build(1, 8, &equal(1..=7)).unwrap();
        let (next, moves) = ring.rebuild(2, &equal(1..=7)).unwrap();
        assert_eq!((moves.len(), next.slots(), next.epoch()), (0, ring.slots(), 2));
    }

    #[test]
    fn keys_go_to_the_owner_of_their_slot() {
        let ring = Ring::build(1, 8, &equal(1..=3)).unwrap();
        assert_eq!(ring.shard_of_key(0xABCD_0000_0000_0001), ring.slots()[0xABCD]);
        assert_eq!(ring.shard_of_slot(0xABCD), ring.slots()[0xABCD]);
    }
}
