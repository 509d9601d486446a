//! The end of every encoded row, chunk and entry: CRC-32C of all bytes before it, little-endian.

use crate::varint::Reader;

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// There is no room for a checksum.
    Short,
    /// The bytes are not those that were sealed.
    Checksum,
}

impl From<Damage> for &'static str {
    fn from(damage: Damage) -> Self {
        match damage {
            Damage::Short => "it is too short",
            Damage::Checksum => "its checksum does not match",
        }
    }
}

/// Appends the checksum.
pub(crate) fn seal(out: &mut Vec<u8>) {
    let crc = crc32c::crc32c(out);
    out.extend_from_slice(&crc.to_le_bytes());
}

/// What was sealed.
pub(crate) fn unseal(bytes: &[u8]) -> Result<&[u8], Damage> {
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or(Damage::Short)?;
    match crc32c::crc32c(body) == u32::from_le_bytes(*crc) {
        true => Ok(body),
        false => Err(Damage::Checksum),
    }
}

/// A reader behind the version of a sealed row; the error says what does not fit.
pub(crate) fn open_row(bytes: &[u8], version: u8) -> Result<Reader<'_>, &'static str> {
    let mut reader = Reader::new(unseal(bytes)?);
    match reader.u8() {
        Some(found) if found == version => Ok(reader),
        _ => Err("its version is unknown to this program"),
    }
}
