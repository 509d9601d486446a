//! Rows of the state column family: a replica's vote, committed and purged positions.
//!
//! Key: `group u32, replica u64, field u8`, big-endian. Value: `u8 version = 1`, the field's
//! integers little-endian, `u32 crc32c` of key and value before it, so that a row under the wrong
//! key is noticed as well.

use std::io;

use super::device::StoredVote;
use crate::position::{LogKey, LogPosition};

const VERSION: u8 = 1;
/// Bytes of a key.
pub(crate) const KEY_LEN: usize = 13;

/// Which fact a row holds. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Field {
    Vote = 1,
    Committed = 2,
    Purged = 3,
}

pub(crate) fn key(log: LogKey, field: Field) -> [u8; KEY_LEN] {
    let mut key = [0; KEY_LEN];
    key[..4].copy_from_slice(&log.group.to_be_bytes());
    key[4..12].copy_from_slice(&log.replica.to_be_bytes());
    key[12] = field as u8;
    key
}

pub(crate) fn log_of(key: &[u8]) -> Option<LogKey> {
    let (group, rest) = key.split_first_chunk::<4>()?;
    let (replica, rest) = rest.split_first_chunk::<8>()?;
    (rest.len() == 1).then(|| LogKey {
        group: u32::from_be_bytes(*group),
        replica: u64::from_be_bytes(*replica),
    })
}

pub(crate) fn encode_vote(log: LogKey, vote: StoredVote) -> Vec<u8> {
    let mut body = vote.term.to_le_bytes().to_vec();
    body.extend_from_slice(&vote.voted_for.to_le_bytes());
    body.push(u8::from(vote.committed));
    seal(&key(log, Field::Vote), &body)
}

pub(crate) fn decode_vote(log: LogKey, value: &[u8]) -> io::Result<StoredVote> {
    let body: [u8; 17] = open(log, Field::Vote, value)?;
    let (term, voted_for) = two_u64(&body);
    let committed = match body[16] {
        0 => false,
        1 => true,
        other => return Err(invalid(log, Field::Vote, format!("committed is {other}"))),
    };
    Ok(StoredVote {
        term,
        voted_for,
        committed,
    })
}

pub(crate) fn encode_position(log: LogKey, field: Field, position: LogPosition) -> Vec<u8> {
    let mut body = position.term.to_le_bytes().to_vec();
    body.extend_from_slice(&position.index.to_le_bytes());
    seal(&key(log, field), &body)
}

pub(crate) fn decode_position(log: LogKey, field: Field, value: &[u8]) -> io::Result<LogPosition> {
    let body: [u8; 16] = open(log, field, value)?;
    let (term, index) = two_u64(&body);
    Ok(LogPosition { term, index })
}

fn two_u64(body: &[u8]) -> (u64, u64) {
    let at = |i: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&body[i..i + 8]);
        u64::from_le_bytes(bytes)
    };
    (at(0), at(8))
}

fn seal(key: &[u8], body: &[u8]) -> Vec<u8> {
    let mut value = vec![VERSION];
    value.extend_from_slice(body);
    let crc = checksum(key, &value);
    value.extend_from_slice(&crc.to_le_bytes());
    value
}

fn open<const N: usize>(log: LogKey, field: Field, value: &[u8]) -> io::Result<[u8; N]> {
    let Some((sealed, crc)) = value.split_last_chunk::<4>() else {
        return Err(invalid(log, field, format!("{} bytes", value.len())));
    };
    match sealed.first() {
        Some(&VERSION) => {}
        other => {
            return Err(invalid(
                log,
                field,
                format!("version {other:?}, this binary reads {VERSION}"),
            ));
        }
    }
    if checksum(&key(log, field), sealed) != u32::from_le_bytes(*crc) {
        return Err(invalid(log, field, "checksum mismatch".into()));
    }
    sealed[1..]
        .try_into()
        .map_err(|_| invalid(log, field, format!("{} bytes", value.len())))
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), value)
}

fn invalid(log: LogKey, field: Field, what: String) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{field:?} row of {log} is damaged: {what}"),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOG: LogKey = LogKey {
        group: 3,
        replica: 258,
    };

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(hex(&key(LOG, Field::Vote)), "00000003000000000000010201");
        let vote = StoredVote {
            term: 7,
            voted_for: 258,
            committed: true,
        };
        assert_eq!(
            hex(&encode_vote(LOG, vote)),
            "010700000000000000020100000000000001940c4ae4"
        );
        let purged = encode_position(LOG, Field::Purged, LogPosition::new(7, 1000));
        assert_eq!(hex(&purged), "010700000000000000e803000000000000e84c0a08");
    }

    proptest! {
        #[test]
        fn round_trip(group: u32, replica: u64, term: u64, other: u64, committed: bool) {
            let log = LogKey { group, replica };
            prop_assert_eq!(log_of(&key(log, Field::Vote)), Some(log));
            let vote = StoredVote { term, voted_for: other, committed };
            prop_assert_eq!(decode_vote(log, &encode_vote(log, vote)).unwrap(), vote);
            let at = LogPosition::new(term, other);
            let row = encode_position(log, Field::Committed, at);
            prop_assert_eq!(decode_position(log, Field::Committed, &row).unwrap(), at);
        }

        #[test]
        fn damage_is_an_error(byte in 0usize..22, bit in 0u8..8, cut in 0usize..22) {
            let good = encode_vote(LOG, StoredVote { term: 7, voted_for: 8, committed: false });
            let mut bad = good.clone();
            bad[byte] ^= 1 << bit;
            prop_assert!(decode_vote(LOG, &bad).is_err());
            prop_assert!(decode_vote(LOG, &good[..cut]).is_err());
            let elsewhere = LogKey { group: 4, ..LOG };
            prop_assert!(decode_vote(elsewhere, &good).is_err());
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode_vote(LOG, &bytes);
            let _ = decode_position(LOG, Field::Purged, &bytes);
        }
    }
}
