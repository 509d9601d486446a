//! The durable form of a ring; see `docs/FORMATS.md`, section "Ring table".

use crate::frame::{Format, Reader};
use crate::table::{Members, empty_table};
use crate::weight::{from_units, to_units};
use crate::{MAX_SHARDS, Ring, RingError, SLOTS, ShardWeight};

const FORMAT: Format = Format {
    what: "ring",
    magic: *b"QRNG",
    version: 1,
};

/// Up to so many shards, a slot's owner is written as one byte, otherwise as two.
const ONE_BYTE_SHARDS: usize = 256;

impl Ring {
    /// The ring as durable bytes: about 64 KiB, 128 KiB with more than 256 shards.
    pub fn encode(&self) -> Vec<u8> {
        let shards = self.shards();
        let width = owner_width(shards.len());
        let mut bytes = FORMAT.begin(64 + shards.len() * 12 + SLOTS * width);
        bytes.extend_from_slice(&self.epoch().to_le_bytes());
        bytes.extend_from_slice(&self.spread().to_le_bytes());
        bytes.extend_from_slice(&(shards.len() as u32).to_le_bytes());
        for member in shards {
            let units = to_units(member.weight, String::new).expect("checked when the ring was made");
            bytes.extend_from_slice(&member.shard.to_le_bytes());
            bytes.extend_from_slice(&units.to_le_bytes());
        }
        for owner in self.slots() {
            let index = shards
                .binary_search_by_key(owner, |member| member.shard)
                .expect("every owner of a slot is one of the shards");
            bytes.extend_from_slice(&(index as u16).to_le_bytes()[..width]);
        }
        FORMAT.seal(bytes)
    }

    /// Reads what [`Ring::encode`] wrote.
    ///
    /// # Errors
    /// [`RingError::UnsupportedVersion`], or [`RingError::Corrupt`] for any bytes that aren't a ring whose
    /// shards are ascending, whose slots all belong to a listed shard, and that is balanced within 5 %.
    pub fn decode(bytes: &[u8]) -> Result<Ring, RingError> {
        let mut reader = FORMAT.open(bytes)?;
        let epoch = reader.u64()?;
        let spread = reader.u32()?;
        let members = decode_members(&mut reader)?;
        let shards = members.shards();

        let width = owner_width(shards.len());
        let at = reader.position();
        let owners = reader.take(SLOTS * width)?;
        reader.finish()?;
        let mut slots = empty_table();
        for (slot, index) in owners.chunks_exact(width).enumerate() {
            let index = index
                .iter()
                .rev()
                .fold(0, |index, byte| index << 8 | usize::from(*byte));
            let owner = shards.get(index).ok_or_else(|| {
                let problem = format!("slot {slot} belongs to shard #{index} of {}", shards.len());
                reader.corrupt_at(at + slot * width, problem)
            })?;
            slots[slot] = owner.shard;
        }
        Ring::from_parts(epoch, spread, members, slots)
            .map_err(|broken| reader.corrupt_at(0, broken.to_string()))
    }
}

/// Number and weight of every shard, ascending.
fn decode_members(reader: &mut Reader<'_>) -> Result<Members, RingError> {
    let count = reader.count("shards", MAX_SHARDS)?;
    let mut shards: Vec<ShardWeight> = Vec::with_capacity(count);
    let start = reader.position();
    for _ in 0..count {
        let at = reader.position();
        let shard = reader.u32()?;
        if shards.last().is_some_and(|last| last.shard >= shard) {
            return Err(reader.corrupt_at(at, format!("shard {shard} is out of order")));
        }
        shards.push(ShardWeight {
            shard,
            weight: from_units(reader.u64()?),
        });
    }
    Members::check(&shards).map_err(|problem| reader.corrupt_at(start, problem.to_string()))
}

/// Bytes of one slot's owner.
fn owner_width(shards: usize) -> usize {
    if shards <= ONE_BYTE_SHARDS { 1 } else { 2 }
}
