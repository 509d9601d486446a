//! The frame of durable bytes: magic, version, body, CRC-32C of all before it. Integers are little-endian.

use crate::RingError;

const CRC_BYTES: usize = 4;

/// One kind of durable bytes.
pub(crate) struct Format {
    /// Its name in errors.
    pub(crate) what: &'static str,
    pub(crate) magic: [u8; 4],
    pub(crate) version: u8,
}

impl Format {
    /// Magic and version, for the body to follow.
    pub(crate) fn begin(&self, capacity: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(capacity);
        bytes.extend_from_slice(&self.magic);
        bytes.push(self.version);
        bytes
    }

    /// Appends the checksum.
    pub(crate) fn seal(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// A reader of the body, once magic, version and checksum are found right.
    pub(crate) fn open<'a>(&self, bytes: &'a [u8]) -> Result<Reader<'a>, RingError> {
        let mut reader = Reader {
            what: self.what,
            bytes,
            at: 0,
        };
        if reader.array::<4>()? != self.magic {
            return Err(reader.corrupt_at(0, format!("it doesn't begin with {}", self.magic.escape_ascii())));
        }
        let [found] = reader.array()?;
        if found != self.version {
            return Err(RingError::UnsupportedVersion {
                what: self.what,
                found,
                supported: self.version,
            });
        }
        let Some((sealed, crc)) = bytes.split_last_chunk::<CRC_BYTES>() else {
            return Err(reader.corrupt("it ends too early"));
        };
        if crc32c::crc32c(sealed) != u32::from_le_bytes(*crc) {
            return Err(reader.corrupt_at(sealed.len(), "the checksum doesn't match"));
        }
        // A frame shorter than magic, version and checksum together can't hold a body.
        reader.bytes = sealed;
        if reader.at > sealed.len() {
            return Err(reader.corrupt("it ends too early"));
        }
        Ok(reader)
    }
}

/// Reads integers and byte ranges in turn; every read checks that the bytes are there.
pub(crate) struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn u8(&mut self) -> Result<u8, RingError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, RingError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, RingError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A count of items that follow, at most `max`.
    pub(crate) fn count(&mut self, items: &str, max: usize) -> Result<usize, RingError> {
        let at = self.at;
        let count = self.u32()? as usize;
        if !(1..=max).contains(&count) {
            return Err(self.corrupt_at(at, format!("{count} {items}, where 1 to {max} are possible")));
        }
        Ok(count)
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], RingError> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.get(..len));
        let taken = taken.ok_or_else(|| self.corrupt("it ends too early"))?;
        self.at += len;
        Ok(taken)
    }

    /// Ends the reading: nothing may be left.
    pub(crate) fn finish(&self) -> Result<(), RingError> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            left => Err(self.corrupt(format!("{left} bytes more than there should be"))),
        }
    }

    /// Position of the next read, in bytes from the start of the frame.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// An error at the current position.
    pub(crate) fn corrupt(&self, problem: impl Into<String>) -> RingError {
        self.corrupt_at(self.at, problem)
    }

    /// An error at `offset`.
    pub(crate) fn corrupt_at(&self, offset: usize, problem: impl Into<String>) -> RingError {
        RingError::Corrupt {
            what: self.what,
            offset,
            problem: problem.into(),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RingError> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("take returns as many bytes as asked for"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: Format = Format {
        what: "test",
        magic: *b"TEST",
        version: 3,
    };

    #[test]
    fn a_sealed_frame_opens() {
        let mut bytes = FORMAT.begin(0);
        bytes.extend_from_slice(&[7, 1, 0, 0, 0]);
        let bytes = FORMAT.seal(bytes);
        let mut reader = FORMAT.open(&bytes).unwrap();
        assert_eq!(reader.u8(), Ok(7));
        assert!(reader.finish().is_err());
        assert_eq!(reader.count("items", 1), Ok(1));
        assert_eq!(reader.finish(), Ok(()));
        assert!(reader.u8().is_err());
    }

    #[test]
    fn every_short_frame_is_an_error() {
        let bytes = FORMAT.seal(FORMAT.begin(0));
        assert!(FORMAT.open(&bytes).is_ok());
        for len in 0..bytes.len() {
            assert!(FORMAT.open(&bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn another_version_is_named() {
        let newer = Format { version: 4, ..FORMAT };
        let error = FORMAT.open(&newer.seal(newer.begin(0))).err();
        assert_eq!(
            error,
            Some(RingError::UnsupportedVersion {
                what: "test",
                found: 4,
                supported: 3
            })
        );
    }
}
