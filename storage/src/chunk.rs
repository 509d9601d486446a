//! Chunks: up to [`SAMPLES_MAX`] samples of one series, append-only while open.
//!
//! Sealed bytes: `codec varint(count) zigzag(first timestamp) bits crc32c`. Codec 1 is an XOR codec in
//! the manner of Gorilla, most significant bit first. The first value is 64 raw bits. Then, per sample:
//! - timestamp: the change of the distance to the previous one, zigzag coded: `0` for none, `10` + 8,
//!   `110` + 14, `1110` + 20 or `1111` + 64 bits (the first distance counts as a change from 0);
//! - value: XOR with the previous one: `0` for none, `10` + the bits of the last window, or `11` +
//!   6 bits leading zeros + 6 bits (length − 1) + the bits of a new window.

use std::sync::Arc;

use crate::blocks::{BlockRef, Blocks};
use crate::frame::{Damage, seal, unseal};
use crate::varint::{Reader, put_i64, put_u64, unzigzag, zigzag};

/// A chunk is sealed when it has this many samples.
pub(crate) const SAMPLES_MAX: usize = 240;
const CODEC_XOR: u8 = 1;
/// A window this much wider than needed is replaced although it would fit.
const WINDOW_SLACK_BITS: u32 = 14;
/// Bytes of the first timestamp before an open chunk's bits.
const FIRST_BYTES: usize = 8;
/// Stands for "no window yet".
const NO_WINDOW: u8 = 64;

/// Why bytes are not a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChunkError {
    #[error("the chunk's checksum does not match its bytes")]
    Checksum,
    #[error("the chunk has codec {0}, which this program does not know")]
    UnknownCodec(u8),
    #[error("the chunk is cut or malformed")]
    Malformed,
}

/// A sealed chunk with its time bounds.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    pub(crate) first_ms: i64,
    pub(crate) last_ms: i64,
    pub(crate) samples: u32,
    pub(crate) bytes: Arc<[u8]>,
}

/// The chunk that a series' next sample goes to. Its bytes, the first timestamp (8 bytes, big endian)
/// and then the bits, are a block of the shard's [`Blocks`]. The previous sample is kept by the caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenChunk {
    block: BlockRef,
    /// The last distance between timestamps, milliseconds.
    delta: u32,
    /// Bits behind the first timestamp.
    bits: u16,
    count: u8,
    window_leading: u8,
    window_trailing: u8,
}

/// A sample: Unix milliseconds and value bits.
pub(crate) type Sample = (i64, u64);

impl OpenChunk {
    pub(crate) const EMPTY: Self = Self {
        block: BlockRef::NONE,
        delta: 0,
        bits: 0,
        count: 0,
        window_leading: NO_WINDOW,
        window_trailing: 0,
    };

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn is_full(&self) -> bool {
        usize::from(self.count) >= SAMPLES_MAX
    }

    pub(crate) fn first_ms(&self, blocks: &Blocks) -> i64 {
        let first = blocks.get(self.block).first_chunk::<FIRST_BYTES>();
        first.map_or(i64::MAX, |bytes| i64::from_be_bytes(*bytes))
    }

    /// Has the processor fetch where the next sample goes.
    #[inline]
    pub(crate) fn prefetch(&self, blocks: &Blocks) {
        blocks.prefetch(self.block, FIRST_BYTES + usize::from(self.bits / 8));
    }

    /// Appends a sample later than `last`, which is the one appended before. `false` when the sample
    /// does not fit: the chunk is full, or the distance is too long for it.
    #[inline]
    #[must_use]
    pub(crate) fn append(&mut self, blocks: &mut Blocks, last: Sample, sample: Sample) -> bool {
        if self.count == 0 {
            return self.begin(blocks, sample);
        }
        let Ok(delta) = u32::try_from(sample.0.wrapping_sub(last.0)) else {
            return false;
        };
        if self.is_full() {
            return false;
        }
        let (time, time_bits) = time_code(i64::from(delta) - i64::from(self.delta));
        let (value, value_bits) = self.value_code(sample.1 ^ last.1);
        let end = usize::from(self.bits) + (time_bits + value_bits) as usize;
        let size = FIRST_BYTES + end.div_ceil(8);
        if size > self.block.size() {
            match blocks.grow(self.block, size) {
                Some(block) => self.block = block,
                None => return false,
            }
        }
        let bits = &mut blocks.get_mut(self.block)[FIRST_BYTES..];
        let at = usize::from(self.bits);
        if time_bits + value_bits <= 64 {
            put(bits, at, time << value_bits | value, time_bits + value_bits);
        } else {
            put_long(bits, at, time, time_bits);
            put_long(bits, at + time_bits as usize, value, value_bits);
        }
        // A chunk of `SAMPLES_MAX` samples has less than 2^16 bits.
        self.bits = end as u16;
        self.delta = delta;
        self.count += 1;
        true
    }

    fn begin(&mut self, blocks: &mut Blocks, sample: Sample) -> bool {
        let Some(block) = blocks.allocate(FIRST_BYTES + 8) else {
            return false;
        };
        let bytes = blocks.get_mut(block);
        bytes[..FIRST_BYTES].copy_from_slice(&sample.0.to_be_bytes());
        bytes[FIRST_BYTES..FIRST_BYTES + 8].copy_from_slice(&sample.1.to_be_bytes());
        *self = Self {
            block,
            bits: 64,
            count: 1,
            ..Self::EMPTY
        };
        true
    }

    /// The code of a value by its XOR with the one before.
    #[inline]
    fn value_code(&mut self, xor: u64) -> (u128, u32) {
        if xor == 0 {
            return (0, 1);
        }
        let (leading, trailing) = (xor.leading_zeros(), xor.trailing_zeros());
        let length = 64 - leading - trailing;
        let window_leading = u32::from(self.window_leading);
        let window_trailing = u32::from(self.window_trailing);
        if leading >= window_leading && trailing >= window_trailing {
            let window = 64 - window_leading - window_trailing;
            if window - length <= WINDOW_SLACK_BITS {
                return (0b10 << window | u128::from(xor >> window_trailing), 2 + window);
            }
        }
        self.window_leading = leading as u8;
        self.window_trailing = trailing as u8;
        let window = 0b11 << 12 | u128::from(leading) << 6 | u128::from(length - 1);
        (window << length | u128::from(xor >> trailing), 14 + length)
    }

    /// The open chunk's bits, from the first value on.
    fn bits<'b>(&self, blocks: &'b Blocks) -> &'b [u8] {
        let end = FIRST_BYTES + usize::from(self.bits).div_ceil(8);
        blocks.get(self.block).get(FIRST_BYTES..end).unwrap_or_default()
    }

    /// A sealed copy; the chunk stays open. `last_ms` is the timestamp appended last.
    pub(crate) fn seal(&self, blocks: &Blocks, last_ms: i64) -> Chunk {
        let bits = self.bits(blocks);
        let first_ms = self.first_ms(blocks);
        let mut out = Vec::with_capacity(bits.len() + 32);
        let lost = mutant!("last_sample_of_chunk") && self.is_full();
        out.push(CODEC_XOR);
        put_u64(&mut out, u64::from(self.count) - u64::from(lost));
        put_i64(&mut out, first_ms);
        out.extend_from_slice(bits);
        seal(&mut out);
        Chunk {
            first_ms,
            last_ms,
            samples: u32::from(self.count),
            bytes: out.into(),
        }
    }

    /// Forgets the samples and gives the block back.
    pub(crate) fn clear(&mut self, blocks: &mut Blocks) {
        blocks.free(self.block);
        *self = Self::EMPTY;
    }

    /// The value bits at a timestamp.
    pub(crate) fn find(&self, blocks: &Blocks, timestamp_ms: i64) -> Option<u64> {
        let mut found = None;
        let bits = BitReader {
            bytes: self.bits(blocks),
            at: 0,
        };
        decode_xor(bits, usize::from(self.count), self.first_ms(blocks), |t, v| {
            if t == timestamp_ms {
                found = Some(v);
            }
            t < timestamp_ms
        })?;
        found
    }
}

/// The code of a change of the distance between timestamps.
#[inline]
fn time_code(change: i64) -> (u128, u32) {
    let coded = zigzag(change);
    let wide = u128::from(coded);
    if coded == 0 {
        (0, 1)
    } else if coded < 1 << 8 {
        (0b10 << 8 | wide, 10)
    } else if coded < 1 << 14 {
        (0b110 << 14 | wide, 17)
    } else if coded < 1 << 20 {
        (0b1110 << 20 | wide, 24)
    } else {
        (0b1111 << 64 | wide, 68)
    }
}

/// Writes the lowest `count` (1..=64) bits of `value`, whose other bits are zero, at bit `at` of zeros.
#[inline]
fn put(bytes: &mut [u8], at: usize, value: u128, count: u32) {
    let (byte, shift) = (at / 8, (at % 8) as u32);
    let word = value << (128 - shift - count);
    if let Some(target) = bytes[byte..].first_chunk_mut::<16>() {
        *target = (u128::from_be_bytes(*target) | word).to_be_bytes();
        return;
    }
    let word = word.to_be_bytes();
    let touched = ((shift + count) as usize).div_ceil(8);
    for (target, part) in bytes[byte..byte + touched].iter_mut().zip(word) {
        *target |= part;
    }
}

/// [`put`] for up to 128 bits.
fn put_long(bytes: &mut [u8], at: usize, value: u128, count: u32) {
    if count <= 64 {
        put(bytes, at, value, count);
        return;
    }
    put(bytes, at, value >> 64, count - 64);
    put(
        bytes,
        at + (count - 64) as usize,
        value & u128::from(u64::MAX),
        64,
    );
}

/// Encodes samples in ascending time order into as few chunks as needed.
pub(crate) fn encode_all(samples: &[Sample]) -> Vec<Chunk> {
    encode_in(samples, &mut Blocks::default())
}

/// [`encode_all`] with the help of existing blocks.
pub(crate) fn encode_in(samples: &[Sample], blocks: &mut Blocks) -> Vec<Chunk> {
    let mut chunks = Vec::with_capacity(samples.len().div_ceil(SAMPLES_MAX));
    let mut open = OpenChunk::EMPTY;
    let mut last = (0, 0);
    for sample in samples {
        if !open.append(blocks, last, *sample) {
            chunks.push(open.seal(blocks, last.0));
            open.clear(blocks);
            let fits = open.append(blocks, last, *sample);
            debug_assert!(fits, "an empty chunk takes any sample");
        }
        last = *sample;
    }
    if !open.is_empty() {
        chunks.push(open.seal(blocks, last.0));
        open.clear(blocks);
    }
    chunks
}

/// Calls `visit` with every `(timestamp, value bits)`, in order. Stops early when it returns `false`.
pub(crate) fn decode(bytes: &[u8], visit: impl FnMut(i64, u64) -> bool) -> Result<(), ChunkError> {
    let body = unseal(bytes).map_err(|damage| match damage {
        Damage::Short => ChunkError::Malformed,
        Damage::Checksum => ChunkError::Checksum,
    })?;
    let mut reader = Reader::new(body);
    let codec = reader.u8().ok_or(ChunkError::Malformed)?;
    if codec != CODEC_XOR {
        return Err(ChunkError::UnknownCodec(codec));
    }
    let count = reader
        .varint_usize()
        .filter(|n| (1..=SAMPLES_MAX).contains(n))
        .ok_or(ChunkError::Malformed)?;
    let first_ms = reader.varint_i64().ok_or(ChunkError::Malformed)?;
    let bits = BitReader {
        bytes: &body[reader.position()..],
        at: 0,
    };
    decode_xor(bits, count, first_ms, visit).ok_or(ChunkError::Malformed)
}

fn decode_xor(
    mut bits: BitReader<'_>,
    count: usize,
    first_ms: i64,
    mut visit: impl FnMut(i64, u64) -> bool,
) -> Option<()> {
    let mut timestamp = first_ms;
    let mut delta = 0i64;
    let mut value = bits.get(64)?;
    let mut leading = u32::from(NO_WINDOW);
    let mut length = 0u32;
    if !visit(timestamp, value) {
        return Some(());
    }
    for _ in 1..count {
        delta = delta.wrapping_add(bits.time_change()?);
        let next = timestamp.wrapping_add(delta);
        if next <= timestamp {
            return None;
        }
        timestamp = next;
        if bits.get(1)? == 1 {
            if bits.get(1)? == 1 {
                leading = bits.get(6)? as u32;
                length = bits.get(6)? as u32 + 1;
                if leading + length > 64 {
                    return None;
                }
            } else if length == 0 {
                return None;
            }
            value ^= bits.get(length)? << (64 - leading - length);
        }
        if !visit(timestamp, value) {
            break;
        }
    }
    Some(())
}

struct BitReader<'a> {
    bytes: &'a [u8],
    /// In bits.
    at: usize,
}

impl BitReader<'_> {
    /// The next `count` (1..=64) bits.
    #[inline]
    fn get(&mut self, count: u32) -> Option<u64> {
        let end = self.at + count as usize;
        if end > self.bytes.len() * 8 {
            return None;
        }
        let byte = self.at / 8;
        let shift = (self.at % 8) as u32;
        self.at = end;
        let word = match self.bytes.get(byte..byte + 8) {
            Some(word) => u64::from_be_bytes(word.try_into().ok()?),
            None => {
                let mut word = [0; 8];
                let rest = &self.bytes[byte..];
                word[..rest.len()].copy_from_slice(rest);
                u64::from_be_bytes(word)
            }
        };
        let high = word << shift;
        if shift + count <= 64 {
            return Some(high >> (64 - count));
        }
        // The value reaches into a ninth byte; the bound above says that it is there.
        let missing = shift + count - 64;
        let ninth = u64::from(*self.bytes.get(byte + 8)?);
        Some((high >> (64 - count)) | ninth >> (8 - missing))
    }

    #[inline]
    fn time_change(&mut self) -> Option<i64> {
        if self.get(1)? == 0 {
            return Some(0);
        }
        let width = if self.get(1)? == 0 {
            8
        } else if self.get(1)? == 0 {
            14
        } else if self.get(1)? == 0 {
            20
        } else {
            64
        };
        self.get(width).map(unzigzag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode_all(bytes: &[u8]) -> Result<Vec<(i64, u64)>, ChunkError> {
        let mut out = Vec::new();
        decode(bytes, |t, v| {
            out.push((t, v));
            true
        })?;
        Ok(out)
    }

    fn samples_strategy() -> impl Strategy<Value = Vec<(i64, u64)>> {
        let step = prop_oneof![5 => Just(15_000u64), 3 => 14_990u64..15_010, 1 => 1u64..1 << 40];
        let bits = prop_oneof![
            3 => Just(1.5f64.to_bits()),
            3 => (0u32..1000).prop_map(|v| f64::from(v).to_bits()),
            1 => any::<u64>(),
        ];
        (
            -1i64 << 42..1 << 42,
            proptest::collection::vec((step, bits), 1..400),
        )
            .prop_map(|(start, steps)| {
                let mut timestamp = start;
                steps
                    .into_iter()
                    .map(|(step, bits)| {
                        timestamp += step as i64;
                        (timestamp, bits)
                    })
                    .collect()
            })
    }

    #[test]
    fn golden() {
        let samples: Vec<(i64, u64)> = (0..20)
            .map(|i| {
                (
                    1_700_000_000_000 + i * 15_000 + i % 3,
                    (100.0 + (i * i) as f64 / 4.0).to_bits(),
                )
            })
            .collect();
        let chunks = encode_all(&samples);
        crate::golden::check("chunk-xor-v1", &chunks[0].bytes);
        assert_eq!(decode_all(&chunks[0].bytes).unwrap(), samples);
    }

    #[test]
    fn constant_series_take_two_bits_a_sample() {
        let samples: Vec<(i64, u64)> = (0..240).map(|i| (i * 15_000, 1f64.to_bits())).collect();
        let chunk = &encode_all(&samples)[0];
        assert!(chunk.bytes.len() < 80, "{}", chunk.bytes.len());
    }

    proptest! {
        #[test]
        fn round_trip(samples in samples_strategy()) {
            let mut back = Vec::new();
            for chunk in encode_all(&samples) {
                let part = decode_all(&chunk.bytes).unwrap();
                prop_assert_eq!(chunk.first_ms, part[0].0);
                prop_assert_eq!(chunk.last_ms, part[part.len() - 1].0);
                prop_assert_eq!(chunk.samples as usize, part.len());
                let mut blocks = Blocks::default();
                let mut open = OpenChunk::EMPTY;
                let mut last = (0, 0);
                for (t, v) in &part {
                    prop_assert!(open.append(&mut blocks, last, (*t, *v)));
                    last = (*t, *v);
                    prop_assert_eq!(open.find(&blocks, *t), Some(*v));
                    prop_assert_eq!(open.find(&blocks, *t - 1).is_some(), part.iter().any(|s| s.0 == *t - 1));
                }
                back.extend(part);
            }
            prop_assert_eq!(back, samples);
        }

        #[test]
        fn extreme_timestamps(times in proptest::collection::btree_set(any::<i64>(), 1..20), bits: u64) {
            let samples: Vec<(i64, u64)> = times.into_iter().map(|t| (t, bits ^ t as u64)).collect();
            let back: Vec<(i64, u64)> =
                encode_all(&samples).iter().flat_map(|chunk| decode_all(&chunk.bytes).unwrap()).collect();
            prop_assert_eq!(back, samples);
        }

        #[test]
        fn damage_is_seen(samples in samples_strategy(), at: usize, xor in 1u8..=255) {
            let mut bytes = encode_all(&samples)[0].bytes.to_vec();
            let at = at % bytes.len();
            bytes[at] ^= xor;
            prop_assert!(decode_all(&bytes).is_err());
            bytes.truncate(at);
            prop_assert!(decode_all(&bytes).is_err());
        }

        #[test]
        fn garbage_with_a_fitting_checksum_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            bytes.insert(0, CODEC_XOR);
            let crc = crc32c::crc32c(&bytes);
            bytes.extend(crc.to_le_bytes());
            let _ = decode_all(&bytes);
        }
    }
}
