//! Bytes that must never change: nodes of all versions have to agree on keys, tables and their encoding.
//!
//! The ring files and the shard keys were made by an independent program from the specification alone
//! (module docs and `docs/FORMATS.md`). A failing test here means that a running cluster would be torn apart:
//! a new format gets a new version and a new file, these stay.

use quorate_ring::{NodeSpec, Placement, Ring, ShardWeight, place, shard_key, slot_of};

const SHARD_KEYS: &str = include_str!("golden/shard_keys.tsv");
const RING: &[u8] = include_bytes!("golden/ring_v1.bin");
const RING_REBUILT: &[u8] = include_bytes!("golden/ring_v1_rebuilt.bin");
const PLACEMENT: &[u8] = include_bytes!("golden/placement_v1.bin");

fn weighted(shards: &[(u32, f64)]) -> Vec<ShardWeight> {
    shards
        .iter()
        .map(|&(shard, weight)| ShardWeight { shard, weight })
        .collect()
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two hex digits"))
        .collect()
}

#[test]
fn shard_keys() {
    let mut checked = 0;
    for line in SHARD_KEYS.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [tenant, job, instance, metric, labels, spread, key, slot] = fields[..] else {
            panic!("not eight fields: {line}");
        };
        let some = |label: &'static str| (!label.is_empty()).then_some(label);
        let spread = spread.parse().unwrap();
        let found = shard_key(tenant, some(job), some(instance), metric, &unhex(labels), spread);
        assert_eq!(format!("{found:016x}"), key, "{line}");
        assert_eq!(slot_of(found).to_string(), slot, "{line}");
        checked += 1;
    }
    assert_eq!(checked, 13);
}

#[test]
fn the_first_ring() {
    let ring = Ring::build(1, 8, &weighted(&[(1, 1.0), (2, 1.0), (3, 2.5), (7, 0.333333)])).unwrap();
    assert!(ring.encode() == RING, "the table or its encoding has changed");
    assert_eq!(Ring::decode(RING), Ok(ring));
}

#[test]
fn a_ring_that_follows() {
    let ring = Ring::decode(RING).unwrap();
    let (next, _) = ring
        .rebuild(2, &weighted(&[(1, 1.0), (3, 2.5), (7, 0.333333), (9, 1.5)]))
        .unwrap();
    assert!(
        next.encode() == RING_REBUILT,
        "the table or its encoding has changed"
    );
    assert_eq!(Ring::decode(RING_REBUILT), Ok(next));
}

#[test]
fn a_placement() {
    let node = |id, weight, zone: &str| NodeSpec {
        id,
        weight,
        zone: zone.to_owned(),
    };
    let nodes = [
        node(1, 1.0, "a"),
        node(2, 1.0, "a"),
        node(3, 1.0, "b"),
        node(4, 2.0, "b"),
        node(5, 1.0, "c"),
        node(u64::MAX, 0.5, "c"),
    ];
    let placement = place(&[1, 2, 3, 4, 5, 6, 7, 100_000], &nodes, 3).unwrap();
    assert_eq!(Placement::decode(PLACEMENT), Ok(placement.clone()));
    assert_eq!(placement.encode().as_deref(), Ok(PLACEMENT));
}
