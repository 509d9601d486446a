//! Reading the encodings of Prometheus's files: big-endian numbers, varints, checksums.

use anyhow::{Context as _, ensure};

/// A position in bytes that came from a file. Running over the end is an error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, length: usize) -> anyhow::Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length).context("it is cut short")?;
        self.0 = tail;
        Ok(head)
    }

    pub(super) fn u8(&mut self) -> anyhow::Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> anyhow::Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> anyhow::Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn array<const N: usize>(&mut self) -> anyhow::Result<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>().context("it is cut short")?;
        self.0 = tail;
        Ok(*head)
    }

    pub(super) fn uvarint(&mut self) -> anyhow::Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            ensure!(shift < 63 || bits <= 1, "a number is too large");
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        anyhow::bail!("a number is too long")
    }

    pub(super) fn varint(&mut self) -> anyhow::Result<i64> {
        let raw = self.uvarint()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }
}

/// Checks the CRC-32C that follows `body`.
pub(super) fn check(body: &[u8], crc: u32) -> anyhow::Result<()> {
    ensure!(
        crc32c::crc32c(body) == crc,
        "its checksum does not match; it is damaged"
    );
    Ok(())
}
