//! The bars of the slot table, for many numbers of shards and weights.

use std::collections::BTreeMap;

use proptest::prelude::*;
use quorate_ring::{Move, Ring, RingError, SLOTS, ShardWeight};

fn equal(shards: impl IntoIterator<Item = u32>) -> Vec<ShardWeight> {
    shards
        .into_iter()
        .map(|shard| ShardWeight { shard, weight: 1.0 })
        .collect()
}

/// 1 to 64 shards with any distinct numbers, and weights up to 32 times apart.
fn weighted() -> impl Strategy<Value = Vec<ShardWeight>> {
    prop::collection::btree_map(1..=u32::MAX, 0.25..8.0_f64, 1..=64).prop_map(|shards| {
        shards
            .into_iter()
            .map(|(shard, weight)| ShardWeight { shard, weight })
            .collect()
    })
}

/// No shard owns more than 1.05 of its ideal share; returns the slots by owner.
fn check_load(ring: &Ring) -> Result<BTreeMap<u32, usize>, TestCaseError> {
    let mut owned: BTreeMap<u32, usize> = BTreeMap::new();
    prop_assert_eq!(ring.slots().len(), SLOTS);
    ring.slots()
        .iter()
        .for_each(|owner| *owned.entry(*owner).or_default() += 1);
    let total: f64 = ring.shards().iter().map(|s| s.weight).sum();
    for member in ring.shards() {
        let ideal = SLOTS as f64 * member.weight / total;
        let slots = owned.get(&member.shard).copied().unwrap_or(0) as f64;
        prop_assert!(slots <= 1.05 * ideal, "{} owns {slots} of {ideal}", member.shard);
        prop_assert!(
            (slots - ideal).abs() <= 1.0,
            "{} owns {slots} of {ideal}",
            member.shard
        );
    }
    prop_assert_eq!(owned.len(), ring.shards().len(), "only listed shards own slots");
    Ok(owned)
}

/// `moves` are exactly the differences, in order.
fn check_moves(before: &Ring, after: &Ring, moves: &[Move]) -> Result<(), TestCaseError> {
    let differences: Vec<Move> = (0..=u16::MAX)
        .map(|slot| Move {
            slot,
            from: before.shard_of_slot(slot),
            to: after.shard_of_slot(slot),
        })
        .filter(|change| change.from != change.to)
        .collect();
    prop_assert_eq!(&differences[..], moves);
    Ok(())
}

#[test]
fn adding_one_of_equal_shards_moves_no_more_than_its_share() {
    for shards in 1..=64_u32 {
        let before = Ring::build(1, 8, &equal(1..=shards)).unwrap();
        check_load(&before).unwrap();
        let (after, moves) = before.rebuild(2, &equal(1..=shards + 1)).unwrap();
        check_load(&after).unwrap();
        check_moves(&before, &after, &moves).unwrap();
        let ideal = SLOTS as f64 / f64::from(shards + 1);
        assert!(
            moves.len() as f64 <= 1.15 * ideal,
            "{shards} shards: {} moves, ideal {ideal}",
            moves.len()
        );
        assert!(
            moves.iter().all(|m| m.to == shards + 1),
            "only the new shard receives"
        );
    }
}

#[test]
fn removing_one_of_equal_shards_moves_no_more_than_its_share() {
    for shards in 2..=64_u32 {
        let before = Ring::build(1, 8, &equal(1..=shards)).unwrap();
        let gone = shards / 2 + 1;
        let (after, moves) = before
            .rebuild(2, &equal((1..=shards).filter(|s| *s != gone)))
            .unwrap();
        check_load(&after).unwrap();
        check_moves(&before, &after, &moves).unwrap();
        let ideal = SLOTS as f64 / f64::from(shards);
        assert!(
            moves.len() as f64 <= 1.15 * ideal,
            "{shards} shards: {} moves, ideal {ideal}",
            moves.len()
        );
        assert!(
            moves.iter().all(|m| m.from == gone),
            "only the removed shard gives"
        );
    }
}

#[test]
fn growing_shard_by_shard_and_shrinking_back_never_exceeds_the_bars() {
    let mut ring = Ring::build(1, 8, &equal(1..=1)).unwrap();
    for shards in (2..=64).chain((1..=63).rev()) {
        let fewer = ring.shards().len().min(shards as usize);
        let (next, moves) = ring.rebuild(ring.epoch() + 1, &equal(1..=shards)).unwrap();
        check_load(&next).unwrap();
        check_moves(&ring, &next, &moves).unwrap();
        let ideal = SLOTS as f64 / (fewer + 1) as f64;
        assert!(
            moves.len() as f64 <= 1.15 * ideal,
            "to {shards} shards: {} moves",
            moves.len()
        );
        ring = next;
    }
}

#[test]
fn consistent_hashing_decides_where_a_slot_goes() {
    // Built independently of each other, tables of 16 and of 17 shards still agree on most slots.
    // Without consistent hashing they would agree on one slot in 17.
    let (a, b) = (
        Ring::build(1, 8, &equal(1..=16)).unwrap(),
        Ring::build(1, 8, &equal(1..=17)).unwrap(),
    );
    let agreed = (0..=u16::MAX)
        .filter(|slot| a.shard_of_slot(*slot) == b.shard_of_slot(*slot))
        .count();
    assert!(agreed > SLOTS / 2, "{agreed} of {SLOTS} slots agree");
}

#[test]
fn the_largest_number_of_shards_is_balanced_too() {
    let before = Ring::build(1, 8, &equal(1..=1_024)).unwrap();
    check_load(&before).unwrap();
    let (after, moves) = before.rebuild(2, &equal(2..=1_024)).unwrap();
    check_load(&after).unwrap();
    assert_eq!(moves.len(), 64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_weights_are_balanced(shards in weighted(), spread in 1..=1_024_u32, epoch: u64) {
        let ring = Ring::build(epoch, spread, &shards).unwrap();
        check_load(&ring)?;
        prop_assert_eq!((ring.epoch(), ring.spread()), (epoch, spread));
        prop_assert_eq!(&Ring::decode(&ring.encode()).unwrap(), &ring);
    }

    #[test]
    fn any_change_is_balanced_and_moves_the_least(before in weighted(), after in weighted(), keep in 0..=64_usize) {
        // Some of the old shards stay, with other weights.
        let mut shards: BTreeMap<u32, f64> = after.iter().map(|s| (s.shard, s.weight)).collect();
        shards.extend(before.iter().zip(&after).take(keep).map(|(old, new)| (old.shard, new.weight)));
        let shards: Vec<ShardWeight> =
            shards.into_iter().map(|(shard, weight)| ShardWeight { shard, weight }).collect();
        let ring = Ring::build(7, 8, &before).unwrap();
        let (next, moves) = match ring.rebuild(8, &shards) {
            Err(RingError::ShareTooSmall { .. }) => return Ok(()),
            rebuilt => rebuilt.unwrap(),
        };
        check_load(&next)?;
        check_moves(&ring, &next, &moves)?;

        // A lower bound for any table with every shard within one slot of its ideal share.
        let owned = ring.owned();
        let total: f64 = next.shards().iter().map(|s| s.weight).sum();
        let (mut must_give, mut must_take) = (0, 0);
        let mut gone = owned.clone();
        for member in next.shards() {
            let ideal = SLOTS as f64 * member.weight / total;
            let has = owned.get(&member.shard).copied().unwrap_or(0);
            must_give += has.saturating_sub(ideal.ceil() as usize);
            must_take += (ideal.floor() as usize).saturating_sub(has);
            gone.remove(&member.shard);
        }
        must_give += gone.values().sum::<usize>();
        prop_assert_eq!(moves.len(), must_give.max(must_take));
    }

    #[test]
    fn a_weight_is_either_balanced_or_refused(small in 0.001..1.0_f64, large in 1.0..1e6_f64) {
        let shards = [ShardWeight { shard: 1, weight: large }, ShardWeight { shard: 2, weight: small }];
        match Ring::build(1, 8, &shards) {
            Ok(ring) => { check_load(&ring)?; }
            Err(refused) => {
                let too_small = matches!(refused, RingError::ShareTooSmall { shard: 2, .. });
                prop_assert!(too_small, "{}", refused);
                prop_assert!(SLOTS as f64 * small / (small + large) < 20.001);
            }
        }
    }
}
