//! A snapshot on the wire: a header, then frames.
//!
//! Frame: `u32 crc32c` of the rest (LE), `u8 kind`, body. Kind 0 carries a chunk; kind 1 is the end
//! and carries the number of chunks and their total length (u64 LE each). A stream that breaks has
//! no end frame, so a truncated snapshot is never installed.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::frame::FrameError;
use crate::log::StoredVote;
use crate::position::LogPosition;

const CHUNK: u8 = 0;
const END: u8 = 1;

/// What the receiver must know before the first chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotHeader {
    /// The sender's vote: the receiver refuses an old leader before it takes a byte.
    pub(crate) vote: StoredVote,
    pub(crate) position: LogPosition,
    /// In the format of `membership.rs`.
    pub(crate) membership: Vec<u8>,
}

/// Counts what was sent or received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Total {
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
}

impl Total {
    pub(crate) fn add(&mut self, chunk: &Bytes) {
        self.chunks += 1;
        self.bytes += chunk.len() as u64;
    }
}

pub(crate) enum Frame {
    Chunk(Bytes),
    End(Total),
}

pub(crate) fn encode_chunk(chunk: &Bytes) -> Bytes {
    encode(CHUNK, chunk)
}

pub(crate) fn encode_end(total: Total) -> Bytes {
    let mut body = [0; 16];
    body[..8].copy_from_slice(&total.chunks.to_le_bytes());
    body[8..].copy_from_slice(&total.bytes.to_le_bytes());
    encode(END, &body)
}

fn encode(kind: u8, body: &[u8]) -> Bytes {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&[kind]), body);
    let mut out = BytesMut::with_capacity(5 + body.len());
    out.put_u32_le(crc);
    out.put_u8(kind);
    out.put_slice(body);
    out.freeze()
}

pub(crate) fn decode(frame: &Bytes) -> Result<Frame, FrameError> {
    let (crc, rest) = frame
        .split_first_chunk::<4>()
        .ok_or(FrameError::Truncated(frame.len()))?;
    if crc32c::crc32c(rest) != u32::from_le_bytes(*crc) {
        return Err(FrameError::Malformed(
            "checksum of a snapshot frame does not match".into(),
        ));
    }
    match rest.split_first() {
        Some((&CHUNK, _)) => Ok(Frame::Chunk(frame.slice(5..))),
        Some((&END, body)) => {
            let (chunks, bytes) = body
                .split_first_chunk::<8>()
                .ok_or(FrameError::Truncated(frame.len()))?;
            let bytes: [u8; 8] = bytes.try_into().map_err(|_| FrameError::Truncated(frame.len()))?;
            Ok(Frame::End(Total {
                chunks: u64::from_le_bytes(*chunks),
                bytes: u64::from_le_bytes(bytes),
            }))
        }
        Some((other, _)) => Err(FrameError::Malformed(format!("snapshot frame of kind {other}"))),
        None => Err(FrameError::Truncated(frame.len())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_frames() {
        let hex = |b: Bytes| b.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(encode_chunk(&Bytes::from_static(b"abc"))), "0ad7481e00616263");
        let end = encode_end(Total {
            chunks: 2,
            bytes: 300,
        });
        assert_eq!(hex(end), "5dddd8620102000000000000002c01000000000000");
    }

    proptest! {
        #[test]
        fn damage_is_an_error(body in prop::collection::vec(any::<u8>(), 0..50), byte in 0usize..55, bit in 0u8..8) {
            let good = encode_chunk(&body.clone().into());
            match decode(&good).unwrap() {
                Frame::Chunk(chunk) => prop_assert_eq!(chunk.as_ref(), body.as_slice()),
                Frame::End(_) => prop_assert!(false),
            }
            let mut bad = good.to_vec();
            let byte = byte % bad.len();
            bad[byte] ^= 1 << bit;
            prop_assert!(decode(&bad.into()).is_err());
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode(&bytes.into());
        }
    }
}
