//! Prometheus's XOR chunks of floats, as `tsdb/chunkenc/xor.go` writes them.

use anyhow::{Context as _, ensure};

use super::bytes::Cursor;

/// Appends the samples of a chunk, in time order: milliseconds and the exact bits of the value.
pub(crate) fn decode(data: &[u8], out: &mut Vec<(i64, u64)>) -> anyhow::Result<()> {
    let mut cursor = Cursor(data);
    let count = u16::from_be_bytes(cursor.take(2)?.try_into()?);
    if count == 0 {
        return Ok(());
    }
    let mut timestamp = cursor.varint()?;
    let mut bits = BitReader {
        bytes: cursor.0,
        at: 0,
    };
    let mut value = Value {
        bits: bits.read(64)?,
        leading: 0,
        trailing: 0,
    };
    out.push((timestamp, value.bits));
    let mut delta = 0i64;
    for number in 1..count {
        delta = match number {
            1 => i64::try_from(bits.uvarint()?).context("two times are too far apart")?,
            _ => delta.wrapping_add(delta_of_delta(&mut bits)?),
        };
        timestamp = timestamp.wrapping_add(delta);
        value.next(&mut bits)?;
        out.push((timestamp, value.bits));
    }
    Ok(())
}

fn delta_of_delta(bits: &mut BitReader<'_>) -> anyhow::Result<i64> {
    let mut ones = 0;
    while ones < 4 && bits.read(1)? == 1 {
        ones += 1;
    }
    let size = match ones {
        0 => return Ok(0),
        1 => 14,
        2 => 17,
        3 => 20,
        _ => return Ok(bits.read(64)? as i64),
    };
    let raw = bits.read(size)? as i64;
    // The positive half has one more value than usual.
    Ok(if raw > 1 << (size - 1) {
        raw - (1 << size)
    } else {
        raw
    })
}

struct Value {
    bits: u64,
    leading: u32,
    trailing: u32,
}

impl Value {
    fn next(&mut self, bits: &mut BitReader<'_>) -> anyhow::Result<()> {
        if bits.read(1)? == 0 {
            return Ok(());
        }
        if bits.read(1)? == 1 {
            let leading = bits.read(5)? as u32;
            let significant = match bits.read(6)? as u32 {
                0 => 64,
                some => some,
            };
            ensure!(leading + significant <= 64, "a value has too many bits");
            (self.leading, self.trailing) = (leading, 64 - leading - significant);
        }
        let changed = bits.read(64 - self.leading - self.trailing)?;
        self.bits ^= changed << self.trailing;
        Ok(())
    }
}

/// Bits, most significant first.
struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl BitReader<'_> {
    fn read(&mut self, count: u32) -> anyhow::Result<u64> {
        let mut value = 0u64;
        let mut left = count;
        while left > 0 {
            let byte = *self.bytes.get(self.at / 8).context("it is cut short")?;
            let unread = 8 - (self.at % 8) as u32;
            let taken = unread.min(left);
            let bits = (u32::from(byte) >> (unread - taken)) & ((1 << taken) - 1);
            value = value.wrapping_shl(taken) | u64::from(bits);
            self.at += taken as usize;
            left -= taken;
        }
        Ok(value)
    }

    fn uvarint(&mut self) -> anyhow::Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.read(8)?;
            value |= (byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        anyhow::bail!("a number is too long")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_is_an_error() {
        let mut bytes = vec![0, 2, 0x90, 0x4e];
        bytes.extend(1.5f64.to_bits().to_be_bytes());
        bytes.extend([0x98, 0x75, 0x00]);
        let mut out = Vec::new();
        decode(&bytes, &mut out).unwrap();
        assert_eq!(out, [(5_000, 1.5f64.to_bits()), (20_000, 1.5f64.to_bits())]);
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut], &mut Vec::new()).is_err(), "{cut}");
        }
        assert!(decode(&[0, 0], &mut Vec::new()).is_ok());
        assert!(decode(&[0xff; 40], &mut Vec::new()).is_err());
    }

    #[test]
    fn steps_between_distances_have_four_sizes() {
        let read = |bytes: &[u8]| delta_of_delta(&mut BitReader { bytes, at: 0 }).unwrap();
        assert_eq!(read(&[0]), 0);
        // `10`, then 14 bits: 8192 stays positive, 8193 is -8191.
        assert_eq!(read(&[0b1010_0000, 0, 0]), 8_192);
        assert_eq!(read(&[0b1010_0000, 0, 0b0100_0000]), 8_192);
        assert_eq!(read(&[0b1010_0000, 0b0000_0001, 0]), -8_191);
        let mut large = vec![0b1111_0000];
        large.extend([0xff; 8]);
        assert_eq!(read(&large), 0x0fff_ffff_ffff_ffff);
    }
}
