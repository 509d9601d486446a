//! Integers of a fixed width in bits, least significant bit first, without gaps.

/// How many integers are unpacked at a time.
pub(super) const LANES: usize = 64;
/// Packed bytes of [`LANES`] integers of 64 bits, and room to read a word beyond any of them.
const BUFFER_BYTES: usize = LANES * 8 + 8;

/// Bytes that `count` integers of `width` bits take.
pub(super) fn packed_bytes(count: usize, width: u32) -> usize {
    (count * width as usize).div_ceil(8)
}

/// Appends the low `width` (0..=64) bits of each value; higher ones are left out.
pub(super) fn pack(values: &[u64], width: u32, out: &mut Vec<u8>) {
    if width == 0 {
        return;
    }
    let mask = u64::MAX >> (64 - width);
    let (mut word, mut used) = (0u64, 0u32);
    for value in values {
        let value = value & mask;
        word |= value << used;
        used += width;
        if used >= 64 {
            out.extend_from_slice(&word.to_le_bytes());
            used -= 64;
            // Of a value that filled the word exactly nothing is left over.
            word = if used == 0 { 0 } else { value >> (width - used) };
        }
    }
    out.extend_from_slice(&word.to_le_bytes()[..used.div_ceil(8) as usize]);
}

/// Reads packed integers, up to [`LANES`] at a time.
pub(super) struct Unpacker {
    buffer: [u8; BUFFER_BYTES],
    lanes: [u64; LANES],
}

impl Unpacker {
    pub(super) fn new() -> Self {
        Self {
            buffer: [0; BUFFER_BYTES],
            lanes: [0; LANES],
        }
    }

    /// The first `count` integers of `bytes`; what follows them is ignored. `None` if the bytes do not
    /// hold so many, or if `count` or `width` is too large.
    #[inline]
    pub(super) fn unpack(&mut self, bytes: &[u8], count: usize, width: u32) -> Option<&[u64]> {
        let needed = packed_bytes(count, width);
        let source = bytes.get(..needed)?;
        let unpack = UNPACK.get(width as usize)?;
        self.buffer.get_mut(..needed)?.copy_from_slice(source);
        unpack(&self.buffer, &mut self.lanes);
        self.lanes.get(..count)
    }
}

/// Unpacks all lanes; for each width a function of its own, so that offsets and shifts are constants.
fn unpack_lanes<const WIDTH: usize>(buffer: &[u8; BUFFER_BYTES], lanes: &mut [u64; LANES]) {
    if WIDTH == 0 {
        *lanes = [0; LANES];
        return;
    }
    let mask = u64::MAX >> (64 - WIDTH.clamp(1, 64));
    for (lane, out) in lanes.iter_mut().enumerate() {
        let at = lane * WIDTH;
        let (byte, shift) = (at / 8, (at % 8) as u32);
        let mut value = word_at(buffer, byte) >> shift;
        if WIDTH > 57 && shift > 0 {
            value |= u64::from(buffer[byte + 8]) << (64 - shift);
        }
        *out = value & mask;
    }
}

#[inline(always)]
fn word_at(buffer: &[u8; BUFFER_BYTES], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&buffer[at..at + 8]);
    u64::from_le_bytes(word)
}

macro_rules! unpack_table {
    ($($width:literal)*) => { [$(unpack_lanes::<$width>),*] };
}

type UnpackLanes = fn(&[u8; BUFFER_BYTES], &mut [u64; LANES]);
static UNPACK: [UnpackLanes; 65] = unpack_table!(
    0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32
    33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(values in proptest::collection::vec(any::<u64>(), 0..=64), width in 0u32..=64) {
            let mut bytes = Vec::new();
            pack(&values, width, &mut bytes);
            prop_assert_eq!(bytes.len(), packed_bytes(values.len(), width));
            let mask = if width == 0 { 0 } else { u64::MAX >> (64 - width) };
            let kept: Vec<u64> = values.iter().map(|v| v & mask).collect();
            let mut unpacker = Unpacker::new();
            // What an earlier block left behind does not shine through.
            let _ = unpacker.unpack(&[0xff; 512], 64, 64);
            prop_assert_eq!(unpacker.unpack(&bytes, values.len(), width), Some(&kept[..]));
            if !bytes.is_empty() {
                prop_assert_eq!(unpacker.unpack(&bytes[1..], values.len(), width), None);
            }
        }
    }
}
