//! A reader of durable bytes answers any damage with an error: it never panics and never believes it.

use proptest::prelude::*;
use proptest::sample::Index;
use quorate_ring::{Placement, Ring, RingError};

const RING: &[u8] = include_bytes!("golden/ring_v1.bin");
const PLACEMENT: &[u8] = include_bytes!("golden/placement_v1.bin");

/// Where the interesting parts of a ring end: magic, version, epoch, spread, count and four shards.
const RING_HEAD_BYTES: usize = 21 + 4 * 12;

#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    /// As `Flip`, near the start, where the structure is.
    FlipHead(usize, u8),
    Cut(Index),
    Append(Vec<u8>),
    Remove(Index, usize),
    Insert(Index, Vec<u8>),
    Zero(Index, usize),
}

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let one = prop_oneof![
        (any::<Index>(), 1..=u8::MAX).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        (0..RING_HEAD_BYTES, 1..=u8::MAX).prop_map(|(at, bits)| Damage::FlipHead(at, bits)),
        any::<Index>().prop_map(Damage::Cut),
        prop::collection::vec(any::<u8>(), 1..64).prop_map(Damage::Append),
        (any::<Index>(), 1..64_usize).prop_map(|(at, len)| Damage::Remove(at, len)),
        (any::<Index>(), prop::collection::vec(any::<u8>(), 1..64)).prop_map(|(at, b)| Damage::Insert(at, b)),
        (any::<Index>(), 1..64_usize).prop_map(|(at, len)| Damage::Zero(at, len)),
    ];
    prop::collection::vec(one, 1..4)
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    if bytes.is_empty() {
        return;
    }
    let len = bytes.len();
    match damage {
        Damage::Flip(at, bits) => bytes[at.index(len)] ^= bits,
        Damage::FlipHead(at, bits) => bytes[at % len] ^= bits,
        Damage::Cut(at) => bytes.truncate(at.index(len)),
        Damage::Append(more) => bytes.extend_from_slice(more),
        Damage::Remove(at, count) => {
            let at = at.index(len);
            bytes.drain(at..len.min(at + count));
        }
        Damage::Insert(at, more) => {
            let at = at.index(len);
            bytes.splice(at..at, more.iter().copied());
        }
        Damage::Zero(at, count) => {
            let at = at.index(len);
            bytes[at..len.min(at + count)].fill(0);
        }
    }
}

fn damaged(bytes: &[u8], damage: &[Damage]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    damage.iter().for_each(|one| apply(&mut bytes, one));
    bytes
}

/// Gives damaged bytes a right checksum, so that what lies behind it is tested.
fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len().saturating_sub(4));
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn is_refusal<T>(read: Result<T, RingError>) -> bool {
    matches!(
        read,
        Err(RingError::Corrupt { .. } | RingError::UnsupportedVersion { .. })
    )
}

/// `bytes` with `replacement` at `at`, under a right checksum.
fn with(bytes: &[u8], at: usize, replacement: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + replacement.len()].copy_from_slice(replacement);
    resealed(bytes)
}

#[test]
fn every_cut_is_refused() {
    for len in (0..200).chain(RING.len() - 200..RING.len()) {
        assert!(is_refusal(Ring::decode(&RING[..len])), "{len} bytes");
    }
    for len in 0..PLACEMENT.len() {
        assert!(is_refusal(Placement::decode(&PLACEMENT[..len])), "{len} bytes");
    }
}

#[test]
fn every_flipped_bit_of_a_placement_is_refused() {
    for bit in 0..PLACEMENT.len() * 8 {
        let mut bytes = PLACEMENT.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(is_refusal(Placement::decode(&bytes)), "bit {bit}");
    }
}

#[test]
fn a_ring_with_a_right_checksum_must_still_make_sense() {
    let refused = |at: usize, replacement: &[u8], problem: &str| {
        let error = Ring::decode(&with(RING, at, replacement))
            .unwrap_err()
            .to_string();
        assert!(error.contains(problem), "{error:?} doesn't say {problem:?}");
    };
    refused(0, b"QPLC", "doesn't begin with QRNG");
    refused(4, &[2], "version 2");
    refused(13, &0_u32.to_le_bytes(), "spread 0");
    refused(17, &0_u32.to_le_bytes(), "0 shards");
    refused(17, &u32::MAX.to_le_bytes(), "4294967295 shards");
    refused(17, &3_u32.to_le_bytes(), "more than there should be");
    refused(17, &5_u32.to_le_bytes(), "corrupt");
    refused(21, &0_u32.to_le_bytes(), "shard 0");
    refused(21, &2_u32.to_le_bytes(), "out of order");
    refused(25, &0_u64.to_le_bytes(), "weight");
    refused(25, &u64::MAX.to_le_bytes(), "weight");
    refused(25, &10_000_u64.to_le_bytes(), "its weight allows");
    refused(RING_HEAD_BYTES, &[4], "slot 0 belongs to shard #4 of 4");
    refused(RING_HEAD_BYTES, &[0; 65_536], "shard 1 owns 65536 slots");
}

#[test]
fn a_placement_with_a_right_checksum_must_still_make_sense() {
    let refused = |at: usize, replacement: &[u8], problem: &str| {
        let error = Placement::decode(&with(PLACEMENT, at, replacement))
            .unwrap_err()
            .to_string();
        assert!(error.contains(problem), "{error:?} doesn't say {problem:?}");
    };
    refused(5, &[0], "out of order");
    refused(5, &[255], "ends too early");
    refused(6, &u32::MAX.to_le_bytes(), "4294967295 shards");
    refused(6, &9_u32.to_le_bytes(), "ends too early");
    refused(10, &0_u32.to_le_bytes(), "shard 0");
    refused(10, &2_u32.to_le_bytes(), "out of order");
    refused(14, &PLACEMENT[22..30], "twice");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn any_damage_is_refused(damage in damage()) {
        let ring = damaged(RING, &damage);
        prop_assert!(ring == RING || is_refusal(Ring::decode(&ring)));
        let placement = damaged(PLACEMENT, &damage);
        prop_assert!(placement == PLACEMENT || is_refusal(Placement::decode(&placement)));
    }

    #[test]
    fn what_is_read_behind_a_right_checksum_is_what_was_written(damage in damage()) {
        let ring = resealed(damaged(RING, &damage));
        match Ring::decode(&ring) {
            Ok(read) => prop_assert!(read.encode() == ring),
            refused => prop_assert!(is_refusal(refused)),
        }
        let placement = resealed(damaged(PLACEMENT, &damage));
        match Placement::decode(&placement) {
            Ok(read) => prop_assert_eq!(read.encode(), Ok(placement)),
            refused => prop_assert!(is_refusal(refused)),
        }
    }

    #[test]
    fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(is_refusal(Ring::decode(&noise)));
        prop_assert!(is_refusal(Placement::decode(&noise)));
    }
}
