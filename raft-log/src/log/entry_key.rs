//! Keys of the entries column family: `group u32, replica u64, index u64, term u64, kind u8`, all
//! big-endian, so that a log's entries are adjacent and in order, and the value is the bare payload.

use super::record::EntryKind;
use crate::position::{LogKey, LogPosition};

/// Bytes of a key.
pub(crate) const LEN: usize = 29;

pub(crate) fn encode(log: LogKey, position: LogPosition, kind: EntryKind) -> [u8; LEN] {
    let mut key = [0; LEN];
    key[..20].copy_from_slice(&from_index(log, position.index));
    key[20..28].copy_from_slice(&position.term.to_be_bytes());
    key[28] = kind as u8;
    key
}

pub(crate) fn decode(key: &[u8]) -> Option<(LogKey, LogPosition, EntryKind)> {
    let (group, rest) = key.split_first_chunk::<4>()?;
    let (replica, rest) = rest.split_first_chunk::<8>()?;
    let (index, rest) = rest.split_first_chunk::<8>()?;
    let (term, rest) = rest.split_first_chunk::<8>()?;
    let &[kind] = rest else { return None };
    let log = LogKey {
        group: u32::from_be_bytes(*group),
        replica: u64::from_be_bytes(*replica),
    };
    let position = LogPosition::new(u64::from_be_bytes(*term), u64::from_be_bytes(*index));
    Some((log, position, EntryKind::from_u8(kind)?))
}

/// The smallest key of index `index`, whatever its term and kind.
pub(crate) fn from_index(log: LogKey, index: u64) -> [u8; 20] {
    let mut key = [0; 20];
    key[..12].copy_from_slice(&prefix(log));
    key[12..].copy_from_slice(&index.to_be_bytes());
    key
}

/// A key above all keys of the log.
pub(crate) fn end(log: LogKey) -> Vec<u8> {
    // Indexes never reach u64::MAX, so this is above every entry and below the next log.
    from_index(log, u64::MAX).to_vec()
}

fn prefix(log: LogKey) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&log.group.to_be_bytes());
    key[4..].copy_from_slice(&log.replica.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_bytes() {
        let log = LogKey {
            group: 3,
            replica: 0x0102,
        };
        let key = encode(log, LogPosition::new(7, 258), EntryKind::Command);
        let hex: String = key.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "0000000300000000000001020000000000000102000000000000000701");
    }

    proptest! {
        #[test]
        fn round_trip_and_order(group: u32, replica: u64, term: u64, a: u64, b: u64, kind in 0u8..3) {
            let log = LogKey { group, replica };
            let kind = EntryKind::from_u8(kind).unwrap();
            let at = LogPosition::new(term, a);
            let key = encode(log, at, kind);
            prop_assert_eq!(decode(&key), Some((log, at, kind)));
            if a < b {
                prop_assert!(key.as_slice() < from_index(log, b).as_slice());
            }
            prop_assert_eq!(decode(&key[..28]), None);
        }
    }
}
