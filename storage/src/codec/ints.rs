//! A column of 64-bit integers: the values themselves, their differences, or the differences of those,
//! whichever is smallest, as distances from a base in units of their greatest common divisor, bit-packed
//! in blocks, with the few that are too wide for their block patched in.
//!
//! Layout: `flags`, the first values that differences start from, the first residual, the unit if it is
//! not 1, then blocks; `docs/FORMATS.md` has the details.

use super::CodecError;
use super::bitpack::{LANES, Unpacker, pack, packed_bytes};
use crate::varint::{Reader, put_i64, put_u64};

/// Residuals that share a width and a base.
const BLOCK: usize = 256;
const ORDER_MASK: u8 = 0b0011;
/// A unit other than 1 follows.
const HAS_UNIT: u8 = 0b0100;
/// Every residual is the first one; there are no blocks.
const CONSTANT: u8 = 0b1000;
/// In the width byte of a block: patches follow.
const HAS_PATCHES: u8 = 0x80;
/// Lowest residuals of a block that may be patched.
const LOW_OUTLIERS: usize = 6;

/// Encodes columns. It keeps its buffers, so that many columns cost no allocation.
#[derive(Debug, Default)]
pub struct IntsEncoder {
    /// Residuals of the orders 0, 1 and 2, as distances from their first in units.
    residuals: [Vec<i64>; 3],
    block: Vec<u64>,
}

/// How a block is packed.
#[derive(Clone, Copy, Debug)]
struct Plan {
    base: i64,
    width: u32,
    bits: u64,
}

/// How a column of residuals is taken.
#[derive(Clone, Copy, Debug)]
struct Shape {
    first: i64,
    unit: u64,
    bits: u64,
}

impl IntsEncoder {
    /// An encoder with empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the encoded column. The number of values is not part of it.
    pub fn encode(&mut self, values: &[i64], out: &mut Vec<u8>) {
        let Some(first) = values.first() else { return };
        if values.iter().all(|value| value == first) {
            out.push(CONSTANT);
            put_i64(out, *first);
            return;
        }
        let (order, shape) = self.choose(values);
        let residuals = &self.residuals[order];
        let constant = shape.unit == 0;
        let has_unit = shape.unit > 1;
        out.push(order as u8 | (u8::from(has_unit) * HAS_UNIT) | (u8::from(constant) * CONSTANT));
        if order >= 1 {
            put_i64(out, values[0]);
        }
        if order == 2 {
            put_i64(out, values[1].wrapping_sub(values[0]));
        }
        put_i64(out, shape.first);
        if has_unit {
            put_u64(out, shape.unit);
        }
        if !constant {
            for block in residuals.chunks(BLOCK) {
                put_block(block, plan(block), &mut self.block, out);
            }
        }
    }

    /// Fills the residuals of the orders that may be smallest and says which one is.
    fn choose(&mut self, values: &[i64]) -> (usize, Shape) {
        let likely = likely_orders(values);
        let mut best: Option<(usize, Shape)> = None;
        for order in [1, 0, 2]
            .into_iter()
            .filter(|order| likely[*order] && *order < values.len())
        {
            let shape = self.shape(values, order);
            if best.is_none_or(|(_, best)| shape.bits < best.bits) {
                best = Some((order, shape));
            }
            if shape.unit == 0 {
                break;
            }
        }
        best.unwrap_or_else(|| (0, self.shape(values, 0)))
    }

    fn shape(&mut self, values: &[i64], order: usize) -> Shape {
        let residuals = &mut self.residuals[order];
        residuals.clear();
        match order {
            0 => residuals.extend_from_slice(values),
            1 => residuals.extend(values.windows(2).map(|two| two[1].wrapping_sub(two[0]))),
            _ => residuals.extend(values.windows(3).map(|three| {
                let (a, b) = (three[1].wrapping_sub(three[0]), three[2].wrapping_sub(three[1]));
                b.wrapping_sub(a)
            })),
        }
        let first = residuals[0];
        let unit = scale(residuals, first);
        let start = 8 * order as u64 * 5;
        let bits = if unit == 0 {
            0
        } else {
            residuals.chunks(BLOCK).map(|block| plan(block).bits).sum()
        };
        Shape {
            first,
            unit,
            bits: start + bits,
        }
    }
}

/// Turns residuals into distances from `first` in units of their greatest common divisor, which it
/// returns; 0 when all are equal.
fn scale(residuals: &mut [i64], first: i64) -> u64 {
    let mut unit = 0u64;
    let mut overflow = false;
    for residual in residuals.iter_mut() {
        let (distance, wrapped) = residual.overflowing_sub(first);
        *residual = distance;
        overflow |= wrapped;
        if unit != 1 && distance != 0 {
            unit = gcd(unit, distance.unsigned_abs());
        }
    }
    // Distances that wrapped around are exact only as they are.
    if unit > 1 && overflow {
        return 1;
    }
    if unit > 1 {
        if unit.is_power_of_two() {
            let shift = unit.trailing_zeros();
            residuals.iter_mut().for_each(|residual| *residual >>= shift);
        } else if let Ok(unit) = i64::try_from(unit) {
            residuals.iter_mut().for_each(|residual| *residual /= unit);
        } else {
            return 1;
        }
    }
    unit
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    // Nearly always the unit found so far still divides.
    if a.is_power_of_two() && b & (a - 1) == 0 {
        return a;
    }
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Which orders are worth trying, by how far values, differences and differences of differences stray.
/// Differences always are; measuring the others exactly costs as much as encoding.
fn likely_orders(values: &[i64]) -> [bool; 3] {
    let (Some(first), Some(last)) = (values.first(), values.last()) else {
        return [true; 3];
    };
    let first = *first;
    let away = |value: i64| value.wrapping_sub(first) as f64;
    let step = away(*last) / values.len().saturating_sub(1).max(1) as f64;
    let mean = values.iter().map(|value| away(*value)).sum::<f64>() / values.len() as f64;
    let mut strayed = [0f64; 3];
    let (mut value, mut difference) = (first, 0f64);
    for (place, next) in values.iter().enumerate() {
        let next_difference = next.wrapping_sub(value) as f64;
        strayed[0] += (away(*next) - mean).abs();
        if place > 0 {
            strayed[1] += (next_difference - step).abs();
        }
        if place > 1 {
            strayed[2] += (next_difference - difference).abs();
        }
        (value, difference) = (*next, next_difference);
    }
    [
        strayed[0] <= 1.5 * strayed[1],
        true,
        strayed[2] <= 1.2 * strayed[1],
    ]
}

/// The cheapest base and width of a block.
fn plan(block: &[i64]) -> Plan {
    let mut lowest = [i64::MAX; LOW_OUTLIERS + 1];
    for value in block {
        if *value < lowest[LOW_OUTLIERS] {
            insert(&mut lowest, *value);
        }
    }
    let from_lowest = plan_from(block, lowest[0]);
    // Another base pays only if it leaves out values far below the rest.
    let lowest = &lowest[..block.len().min(LOW_OUTLIERS + 1)];
    let gap = |two: &[i64]| two[1].wrapping_sub(two[0]) as u64;
    let widest = lowest.windows(2).max_by_key(|two| gap(two));
    match widest {
        Some(two) if from_lowest.width > 0 && gap(two) >= 1 << (from_lowest.width - 1) => {
            let without = plan_from(block, two[1]);
            if without.bits < from_lowest.bits {
                without
            } else {
                from_lowest
            }
        }
        _ => from_lowest,
    }
}

/// Puts a value into an ascending list and drops the highest.
fn insert(lowest: &mut [i64; LOW_OUTLIERS + 1], value: i64) {
    let mut at = LOW_OUTLIERS;
    while at > 0 && lowest[at - 1] > value {
        lowest[at] = lowest[at - 1];
        at -= 1;
    }
    lowest[at] = value;
}

fn plan_from(block: &[i64], base: i64) -> Plan {
    let mut lengths = [0u32; 65];
    let mut all = 0;
    for value in block {
        let distance = value.wrapping_sub(base) as u64;
        all |= distance;
        lengths[bit_length(distance) as usize] += 1;
    }
    let header = 8 + 8 * varint_bytes(base);
    let packed = |width: u32| header + block.len() as u64 * u64::from(width);
    let widest = bit_length(all);
    let mut best = Plan {
        base,
        width: widest,
        bits: packed(widest),
    };
    // Values wider than the width, what their high bits take at seven to a byte, and how many of them
    // take another byte when the width falls to one that is so far below theirs, modulo seven.
    let (mut patches, mut high_bytes, mut by_rest) = (0u64, 0u64, [0u64; 7]);
    for width in (0..widest).rev() {
        let count = u64::from(lengths[width as usize + 1]);
        let rest = (width as usize + 1) % 7;
        patches += count;
        by_rest[rest] += count;
        high_bytes += by_rest[rest];
        let bits = packed(width) + 8 + 8 * (patches + high_bytes);
        if bits < best.bits {
            best = Plan { base, width, bits };
        }
    }
    best
}

fn bit_length(value: u64) -> u32 {
    64 - value.leading_zeros()
}

fn varint_bytes(value: i64) -> u64 {
    u64::from(bit_length(crate::varint::zigzag(value)).div_ceil(7).max(1))
}

fn put_block(block: &[i64], plan: Plan, scratch: &mut Vec<u64>, out: &mut Vec<u8>) {
    scratch.clear();
    scratch.extend(block.iter().map(|value| value.wrapping_sub(plan.base) as u64));
    let too_wide = |value: u64| bit_length(value) > plan.width;
    let patches = scratch.iter().filter(|value| too_wide(**value)).count();
    out.push(plan.width as u8 | (u8::from(patches > 0) * HAS_PATCHES));
    put_i64(out, plan.base);
    if patches > 0 {
        // A block that is nothing but patches would have been given a greater width.
        out.push((patches - 1) as u8);
        for (position, _) in scratch.iter().enumerate().filter(|(_, value)| too_wide(**value)) {
            out.push(position as u8);
        }
        for value in scratch.iter().filter(|value| too_wide(**value)) {
            put_u64(out, value >> plan.width);
        }
    }
    pack(scratch, plan.width, out);
}

/// Appends `count` values of the column at the front of `reader`.
pub(crate) fn decode(reader: &mut Reader<'_>, count: usize, out: &mut Vec<i64>) -> Result<(), CodecError> {
    decode_column(reader, count, out).ok_or(CodecError::Malformed)
}

fn decode_column(reader: &mut Reader<'_>, count: usize, out: &mut Vec<i64>) -> Option<()> {
    if count == 0 {
        return Some(());
    }
    let flags = reader.u8()?;
    let order = usize::from(flags & ORDER_MASK);
    if order > 2 || order >= count || flags & !(ORDER_MASK | HAS_UNIT | CONSTANT) != 0 {
        return None;
    }
    let start = if order >= 1 { reader.varint_i64()? } else { 0 };
    let step = if order == 2 { reader.varint_i64()? } else { 0 };
    let first = reader.varint_i64()?;
    let unit = if flags & HAS_UNIT != 0 {
        reader.varint()?
    } else {
        1
    };
    let from = out.len();
    out.reserve(count);
    match order {
        0 => {}
        1 => out.push(start),
        _ => out.extend([start, start.wrapping_add(step)]),
    }
    let residuals_from = out.len();
    if flags & CONSTANT != 0 {
        out.resize(from + count, first);
    } else {
        decode_blocks(reader, count - order, unit as i64, first, out)?;
    }
    // Sums of differences, in place. Each starts from what precedes its first.
    match order {
        0 => {}
        1 => integrate(&mut out[residuals_from..], start),
        _ => {
            integrate(&mut out[residuals_from..], step);
            integrate(&mut out[residuals_from..], start.wrapping_add(step));
        }
    }
    Some(())
}

fn integrate(values: &mut [i64], start: i64) {
    let mut sum = start;
    for value in values {
        sum = sum.wrapping_add(*value);
        *value = sum;
    }
}

fn decode_blocks(
    reader: &mut Reader<'_>,
    count: usize,
    unit: i64,
    first: i64,
    out: &mut Vec<i64>,
) -> Option<()> {
    let mut unpacker = Unpacker::new();
    let mut left = count;
    while left > 0 {
        let length = left.min(BLOCK);
        left -= length;
        let head = reader.u8()?;
        let width = u32::from(head & !HAS_PATCHES);
        let base = reader.varint_i64()?;
        let offset = first.wrapping_add(base.wrapping_mul(unit));
        let patches = if head & HAS_PATCHES != 0 {
            let patches = usize::from(reader.u8()?) + 1;
            let positions = reader.take(patches)?;
            Some((positions, skip_varints(reader, patches)?))
        } else {
            None
        };
        let from = out.len();
        let mut packed = reader.take(packed_bytes(length, width))?;
        for lanes_from in (0..length).step_by(LANES) {
            let lanes = (length - lanes_from).min(LANES);
            let values = unpacker.unpack(packed, lanes, width)?;
            if unit == 1 {
                out.extend(values.iter().map(|value| offset.wrapping_add(*value as i64)));
            } else {
                out.extend(
                    values
                        .iter()
                        .map(|value| offset.wrapping_add((*value as i64).wrapping_mul(unit))),
                );
            }
            packed = packed.get(packed_bytes(lanes, width)..)?;
        }
        if let Some((positions, mut highs)) = patches {
            for position in positions {
                let high = highs.varint()?.checked_shl(width)? as i64;
                let value = out.get_mut(from + usize::from(*position))?;
                *value = value.wrapping_add(high.wrapping_mul(unit));
            }
        }
    }
    Some(())
}

/// A reader at the front of `count` varints, which `reader` leaves behind.
fn skip_varints<'a>(reader: &mut Reader<'a>, count: usize) -> Option<Reader<'a>> {
    let start = *reader;
    for _ in 0..count {
        reader.varint()?;
    }
    Some(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(values: &[i64]) -> usize {
        let mut bytes = Vec::new();
        IntsEncoder::new().encode(values, &mut bytes);
        let mut reader = Reader::new(&bytes);
        let mut back = Vec::new();
        decode(&mut reader, values.len(), &mut back).unwrap();
        assert_eq!(back, values);
        assert!(reader.is_empty());
        bytes.len()
    }

    #[test]
    fn regular_columns_take_a_few_bytes() {
        let times: Vec<i64> = (0..2000).map(|i| 1_700_000_000_000 + i * 15_000).collect();
        assert!(round_trip(&times) <= 12);
        assert_eq!(round_trip(&[7; 500]), 2);
        let squares: Vec<i64> = (0..1000).map(|i| i * i).collect();
        assert!(round_trip(&squares) <= 6);
        // A counter of pages that was reset twice.
        let pages: Vec<i64> = (0..1024).map(|i| (i % 400) * 4096 * (3 + i % 2)).collect();
        assert!(round_trip(&pages) < 1024 * 10 / 8 + 60);
    }

    #[test]
    fn uniform_steps_take_their_range_in_bits() {
        let mut state = 1u64;
        let mut sum = 0;
        let values: Vec<i64> = (0..2048)
            .map(|_| {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                sum += (state >> 33) as i64 % 1000;
                sum
            })
            .collect();
        assert!(round_trip(&values) <= 2048 * 10 / 8 + 50);
    }

    proptest! {
        #[test]
        fn any_column(values in proptest::collection::vec(any::<i64>(), 1..700)) {
            round_trip(&values);
        }

        #[test]
        fn smooth_columns(
            start: i64,
            unit in prop_oneof![Just(1i64), Just(4096), Just(1000), 1i64..1 << 40],
            steps in proptest::collection::vec(
                prop_oneof![20 => -3i64..4, 1 => -1i64 << 20..1 << 20, 1 => any::<i64>()], 0..700),
        ) {
            let mut values = vec![start];
            for step in steps {
                values.push(values[values.len() - 1].wrapping_add(step.wrapping_mul(unit)));
            }
            round_trip(&values);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), count in 0usize..600) {
            let mut out = Vec::new();
            let _ = decode(&mut Reader::new(&bytes), count, &mut out);
        }
    }
}
