//! Chunks: up to [`SAMPLES_MAX`] samples of one series, append-only while open.
//!
//! Sealed bytes: `codec varint(count) zigzag(first timestamp) bits crc32c`. Codec 1 is an XOR codec in
//! the manner of Gorilla, most significant bit first. The first value is 64 raw bits. Then, per sample:
//! - timestamp: the change of the distance to the previous one, zigzag coded: `0` for none, `10` + 8,
//!   `110` + 14, `1110` + 20 or `1111` + 64 bits (the first distance counts as a change from 0);
//! - value: XOR with the previous one: `0` for none, `10` + the bits of the last window, or `11` +
//!   6 bits leading zeros + 6 bits (length − 1) + the bits of a new window.

use std::sync::Arc;

use crate::varint::{Reader, put_i64, put_u64, unzigzag, zigzag};

/// A chunk is sealed when it has this many samples.
pub(crate) const SAMPLES_MAX: usize = 240;
const CODEC_XOR: u8 = 1;
/// A window this much wider than needed is replaced although it would fit.
const WINDOW_SLACK_BITS: u32 = 14;
/// Room that a chunk takes at its first sample, so that it seldom grows.
const FIRST_BYTES: usize = 64;
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

/// The chunk that a series' next sample goes to.
#[derive(Clone, Debug)]
pub(crate) struct OpenChunk {
    bytes: Vec<u8>,
    /// Up to 63 bits that are not in `bytes` yet, at the most significant end.
    pending: u64,
    pending_bits: u8,
    window_leading: u8,
    window_trailing: u8,
    count: u16,
    first_ms: i64,
    last_ms: i64,
    last_delta: i64,
    last_bits: u64,
}

impl OpenChunk {
    pub(crate) fn empty() -> Self {
        Self {
            bytes: Vec::new(),
            pending: 0,
            pending_bits: 0,
            window_leading: NO_WINDOW,
            window_trailing: 0,
            count: 0,
            first_ms: 0,
            last_ms: 0,
            last_delta: 0,
            last_bits: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn is_full(&self) -> bool {
        usize::from(self.count) >= SAMPLES_MAX
    }

    pub(crate) fn first_ms(&self) -> i64 {
        self.first_ms
    }

    /// Appends a sample later than all before it.
    #[inline]
    pub(crate) fn append(&mut self, timestamp_ms: i64, bits: u64) {
        if self.count == 0 {
            self.first_ms = timestamp_ms;
            self.bytes.reserve(FIRST_BYTES);
            self.put(bits, 64);
        } else {
            let delta = timestamp_ms.wrapping_sub(self.last_ms);
            self.put_time(delta.wrapping_sub(self.last_delta));
            self.put_value(bits ^ self.last_bits);
            self.last_delta = delta;
        }
        self.last_ms = timestamp_ms;
        self.last_bits = bits;
        self.count += 1;
    }

    /// A sealed copy; the chunk stays open.
    pub(crate) fn seal(&self) -> Chunk {
        let mut out = Vec::with_capacity(self.bytes.len() + 32);
        let lost = mutant!("last_sample_of_chunk") && self.is_full();
        out.push(CODEC_XOR);
        put_u64(&mut out, u64::from(self.count) - u64::from(lost));
        put_i64(&mut out, self.first_ms);
        out.extend_from_slice(&self.bytes);
        out.extend_from_slice(&self.pending.to_be_bytes()[..usize::from(self.pending_bits).div_ceil(8)]);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        Chunk {
            first_ms: self.first_ms,
            last_ms: self.last_ms,
            samples: u32::from(self.count),
            bytes: out.into(),
        }
    }

    /// The value bits at a timestamp.
    pub(crate) fn find(&self, timestamp_ms: i64) -> Option<u64> {
        let mut bytes = Vec::with_capacity(self.bytes.len() + 8);
        bytes.extend_from_slice(&self.bytes);
        bytes.extend_from_slice(&self.pending.to_be_bytes());
        let mut found = None;
        let bits = BitReader { bytes: &bytes, at: 0 };
        decode_xor(bits, usize::from(self.count), self.first_ms, |t, v| {
            if t == timestamp_ms {
                found = Some(v);
            }
            t < timestamp_ms
        })?;
        found
    }

    #[inline]
    fn put_time(&mut self, change: i64) {
        let coded = zigzag(change);
        if coded == 0 {
            self.put(0, 1);
        } else if coded < 1 << 8 {
            self.put(0b10 << 8 | coded, 10);
        } else if coded < 1 << 14 {
            self.put(0b110 << 14 | coded, 17);
        } else if coded < 1 << 20 {
            self.put(0b1110 << 20 | coded, 24);
        } else {
            self.put(0b1111, 4);
            self.put(coded, 64);
        }
    }

    #[inline]
    fn put_value(&mut self, xor: u64) {
        if xor == 0 {
            self.put(0, 1);
            return;
        }
        let leading = xor.leading_zeros();
        let trailing = xor.trailing_zeros();
        let length = 64 - leading - trailing;
        let (window_leading, window_trailing) =
            (u32::from(self.window_leading), u32::from(self.window_trailing));
        if leading >= window_leading && trailing >= window_trailing {
            let window = 64 - window_leading - window_trailing;
            if window - length <= WINDOW_SLACK_BITS {
                self.put(0b10, 2);
                self.put(xor >> window_trailing, window);
                return;
            }
        }
        self.window_leading = leading as u8;
        self.window_trailing = trailing as u8;
        self.put(0b11 << 12 | u64::from(leading) << 6 | u64::from(length - 1), 14);
        self.put(xor >> trailing, length);
    }

    /// Appends the lowest `count` (1..=64) bits of `value`, whose other bits are zero.
    #[inline]
    fn put(&mut self, value: u64, count: u32) {
        let free = 64 - u32::from(self.pending_bits);
        if count < free {
            self.pending |= value << (free - count);
            self.pending_bits += count as u8;
            return;
        }
        let rest = count - free;
        self.bytes
            .extend_from_slice(&(self.pending | value >> rest).to_be_bytes());
        self.pending = if rest == 0 { 0 } else { value << (64 - rest) };
        self.pending_bits = rest as u8;
    }
}

/// Encodes samples in ascending time order into as few chunks as needed.
pub(crate) fn encode_all(samples: &[(i64, u64)]) -> Vec<Chunk> {
    let mut chunks = Vec::with_capacity(samples.len().div_ceil(SAMPLES_MAX));
    for window in samples.chunks(SAMPLES_MAX) {
        let mut open = OpenChunk::empty();
        for (timestamp_ms, bits) in window {
            open.append(*timestamp_ms, *bits);
        }
        chunks.push(open.seal());
    }
    chunks
}

/// Calls `visit` with every `(timestamp, value bits)`, in order. Stops early when it returns `false`.
pub(crate) fn decode(bytes: &[u8], visit: impl FnMut(i64, u64) -> bool) -> Result<(), ChunkError> {
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or(ChunkError::Malformed)?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return Err(ChunkError::Checksum);
    }
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
                let mut open = OpenChunk::empty();
                for (t, v) in &part {
                    open.append(*t, *v);
                    prop_assert_eq!(open.find(*t), Some(*v));
                    prop_assert_eq!(open.find(*t - 1).is_some(), part.iter().any(|s| s.0 == *t - 1));
                }
                back.extend(part);
            }
            prop_assert_eq!(back, samples);
        }

        #[test]
        fn extreme_timestamps(times in proptest::collection::btree_set(any::<i64>(), 1..20), bits: u64) {
            let samples: Vec<(i64, u64)> = times.into_iter().map(|t| (t, bits ^ t as u64)).collect();
            prop_assert_eq!(decode_all(&encode_all(&samples)[0].bytes).unwrap(), samples);
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
