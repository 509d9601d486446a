//! Encodes floats as Prometheus's XOR chunks, `tsdb/chunkenc/xor.go`.

/// Most samples of a chunk, as Prometheus cuts them.
pub(super) const SAMPLES_PER_CHUNK: usize = 120;

/// The chunk of these samples, which ascend by time and are at most 65,535.
pub(super) fn encode(timestamps_ms: &[i64], values: &[f64]) -> Vec<u8> {
    let mut bits = BitWriter::default();
    let count = u16::try_from(timestamps_ms.len().min(values.len())).unwrap_or(u16::MAX);
    bits.write(u64::from(count), 16);
    let mut last_value = ValueWriter::default();
    let (mut last_ms, mut last_delta) = (0i64, 0i64);
    for (position, (time_ms, value)) in timestamps_ms
        .iter()
        .zip(values)
        .take(usize::from(count))
        .enumerate()
    {
        let delta = time_ms.wrapping_sub(last_ms);
        match position {
            0 => {
                bits.uvarint(((time_ms << 1) ^ (time_ms >> 63)) as u64);
                bits.write(value.to_bits(), 64);
                last_value.bits = value.to_bits();
            }
            _ => {
                match position {
                    1 => bits.uvarint(delta as u64),
                    _ => delta_of_delta(&mut bits, delta.wrapping_sub(last_delta)),
                }
                last_value.write(&mut bits, value.to_bits());
                last_delta = delta;
            }
        }
        last_ms = *time_ms;
    }
    bits.bytes
}

fn delta_of_delta(bits: &mut BitWriter, change: i64) {
    let fits = |size: u32| (-((1 << (size - 1)) - 1)..=1 << (size - 1)).contains(&change);
    let (prefix, prefix_size, size) = match () {
        () if change == 0 => (0b0, 1, 0),
        () if fits(14) => (0b10, 2, 14),
        () if fits(17) => (0b110, 3, 17),
        () if fits(20) => (0b1110, 4, 20),
        () => (0b1111, 4, 64),
    };
    bits.write(prefix, prefix_size);
    bits.write(change as u64, size);
}

/// Writes what changed between a value's bits and those before.
#[derive(Default)]
struct ValueWriter {
    bits: u64,
    /// Leading and trailing zeros of the window in use.
    window: Option<(u32, u32)>,
}

impl ValueWriter {
    fn write(&mut self, out: &mut BitWriter, bits: u64) {
        let change = bits ^ std::mem::replace(&mut self.bits, bits);
        if change == 0 {
            return out.write(0, 1);
        }
        // Five bits hold the leading zeros.
        let (leading, trailing) = (change.leading_zeros().min(31), change.trailing_zeros());
        if let Some((open_leading, open_trailing)) = self.window
            && leading >= open_leading
            && trailing >= open_trailing
        {
            out.write(0b10, 2);
            return out.write(change >> open_trailing, 64 - open_leading - open_trailing);
        }
        self.window = Some((leading, trailing));
        let significant = 64 - leading - trailing;
        out.write(0b11, 2);
        out.write(u64::from(leading), 5);
        // 64 wraps to 0.
        out.write(u64::from(significant), 6);
        out.write(change >> trailing, significant);
    }
}

/// Bits, most significant first.
#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    /// Unused bits of the last byte.
    free: u32,
}

impl BitWriter {
    /// Appends the lowest `count` bits of `value`.
    fn write(&mut self, value: u64, count: u32) {
        let mut left = count;
        while left > 0 {
            if self.free == 0 {
                self.bytes.push(0);
                self.free = 8;
            }
            let taken = self.free.min(left);
            let piece = (value >> (left - taken)) as u32 & ((1 << taken) - 1);
            self.free -= taken;
            if let Some(last) = self.bytes.last_mut() {
                *last |= (piece << self.free) as u8;
            }
            left -= taken;
        }
    }

    fn uvarint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.write(value & 0x7f | 0x80, 8);
            value >>= 7;
        }
        self.write(value, 8);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cli::import::decode_xor_chunk;

    fn check(samples: &[(i64, u64)]) {
        let times: Vec<i64> = samples.iter().map(|(time_ms, _)| *time_ms).collect();
        let values: Vec<f64> = samples.iter().map(|(_, bits)| f64::from_bits(*bits)).collect();
        let mut decoded = Vec::new();
        decode_xor_chunk(&encode(&times, &values), &mut decoded).unwrap();
        assert_eq!(decoded, samples);
    }

    #[test]
    fn the_bytes_are_prometheus_s() {
        let mut expected = vec![0, 2, 0x90, 0x4e];
        expected.extend(1.5f64.to_bits().to_be_bytes());
        expected.extend([0x98, 0x75, 0x00]);
        assert_eq!(encode(&[5_000, 20_000], &[1.5, 1.5]), expected);
    }

    #[test]
    fn every_size_of_step_is_read_back() {
        let mut time_ms = -5i64;
        let mut delta = 15_000i64;
        let mut samples = Vec::new();
        for (position, change) in [
            0,
            1,
            -1,
            8_191,
            8_192,
            -8_191,
            -8_192,
            65_536,
            65_537,
            524_288,
            524_289,
            1 << 40,
        ]
        .into_iter()
        .enumerate()
        {
            samples.push((time_ms, (position as f64 * 0.1).to_bits()));
            delta += change;
            time_ms += delta.abs() + 1;
        }
        check(&samples);
        check(&[
            (0, 0x7ff0_0000_0000_0002),
            (1, 0),
            (2, u64::MAX),
            (3, 1),
            (4, 1 << 63),
        ]);
    }

    proptest! {
        #[test]
        fn any_samples_are_read_back(
            start in -1_000_000_000_000i64..2_000_000_000_000,
            steps in proptest::collection::vec((1i64..100_000_000, any::<u64>()), 0..200),
        ) {
            let mut time_ms = start;
            let samples: Vec<(i64, u64)> = steps
                .into_iter()
                .map(|(step, bits)| {
                    time_ms += step;
                    (time_ms, bits)
                })
                .collect();
            check(&samples);
        }
    }
}
