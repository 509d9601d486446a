//! The bytes of a membership, as they are stored in the log, handed to the state machine and sent
//! with a snapshot.
//!
//! ```text
//! u8 version = 1
//! u8 has_position        1: term u64, index u64 follow; 0: nothing follows
//! u16 configs            1 uniform, 2 joint; each: u16 count, count × u64 voter
//! u16 nodes              u64 replica each: voters and learners
//! u32 crc32c             of all before
//! ```
//! Integers are little-endian, replica ids ascend.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use thiserror::Error;

use crate::position::{LogPosition, ReplicaId};
use crate::type_config::{Membership, StoredMembership, log_id, position};

const VERSION: u8 = 1;

/// Bytes that are no membership.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MembershipError {
    /// The bytes end early or go on too long.
    #[error("membership of {0} bytes is truncated or has trailing bytes")]
    Length(usize),
    /// Written by a version this one cannot read.
    #[error("membership version {0} is unknown (this binary reads 1)")]
    Version(u8),
    /// The checksum does not match.
    #[error("membership checksum is {found:#010x}, expected {expected:#010x}")]
    Checksum {
        /// Checksum of the bytes.
        found: u32,
        /// Checksum stored with them.
        expected: u32,
    },
    /// Well-formed bytes that say something impossible.
    #[error("membership is invalid: {0}")]
    Invalid(String),
}

/// Encodes `membership`; `None` as its position means the empty membership before the first entry,
/// or that the position is that of the entry which carries it.
pub(crate) fn encode(at: Option<LogPosition>, membership: &Membership) -> Bytes {
    let mut out = vec![VERSION];
    match at {
        Some(at) => {
            out.push(1);
            out.extend_from_slice(&at.term.to_le_bytes());
            out.extend_from_slice(&at.index.to_le_bytes());
        }
        None => out.push(0),
    }
    let count = |n: usize| (n as u16).to_le_bytes();
    out.extend_from_slice(&count(membership.get_joint_config().len()));
    for config in membership.get_joint_config() {
        out.extend_from_slice(&count(config.len()));
        for replica in config {
            out.extend_from_slice(&replica.to_le_bytes());
        }
    }
    out.extend_from_slice(&count(membership.nodes().count()));
    for (replica, ()) in membership.nodes() {
        out.extend_from_slice(&replica.to_le_bytes());
    }
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out.into()
}

/// Decodes what [`encode`] wrote.
pub(crate) fn decode(bytes: &[u8]) -> Result<(Option<LogPosition>, Membership), MembershipError> {
    let length = || MembershipError::Length(bytes.len());
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or_else(length)?;
    let mut rest = Reader(body);
    let version = rest.u8().ok_or_else(length)?;
    if version != VERSION {
        return Err(MembershipError::Version(version));
    }
    let (found, expected) = (crc32c::crc32c(body), u32::from_le_bytes(*crc));
    if found != expected {
        return Err(MembershipError::Checksum { found, expected });
    }
    let at = match rest.u8().ok_or_else(length)? {
        0 => None,
        1 => Some(LogPosition::new(
            rest.u64().ok_or_else(length)?,
            rest.u64().ok_or_else(length)?,
        )),
        other => return Err(MembershipError::Invalid(format!("has_position is {other}"))),
    };
    let mut configs = Vec::new();
    for _ in 0..rest.u16().ok_or_else(length)? {
        let mut voters = BTreeSet::new();
        for _ in 0..rest.u16().ok_or_else(length)? {
            voters.insert(rest.u64().ok_or_else(length)?);
        }
        configs.push(voters);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..rest.u16().ok_or_else(length)? {
        nodes.insert(rest.u64().ok_or_else(length)?, ());
    }
    if !rest.0.is_empty() {
        return Err(length());
    }
    if configs.is_empty() && nodes.is_empty() {
        return Ok((at, Membership::default()));
    }
    let membership = Membership::new(configs, nodes).map_err(|e| MembershipError::Invalid(e.to_string()))?;
    Ok((at, membership))
}

pub(crate) fn encode_stored(stored: &StoredMembership) -> Bytes {
    encode(stored.log_id().as_ref().map(position), stored.membership())
}

pub(crate) fn decode_stored(bytes: &[u8]) -> Result<StoredMembership, MembershipError> {
    let (at, membership) = decode(bytes)?;
    Ok(StoredMembership::new(at.map(log_id), membership))
}

/// Voters (one set, two while a change is under way) and learners of a membership the state machine
/// was handed.
pub fn describe(bytes: &[u8]) -> Result<(Vec<Vec<ReplicaId>>, Vec<ReplicaId>), MembershipError> {
    let (_, membership) = decode(bytes)?;
    let voters = membership
        .get_joint_config()
        .iter()
        .map(|c| c.iter().copied().collect())
        .collect();
    Ok((voters, membership.learner_ids().collect()))
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|b| b[0])
    }
    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn joint() -> Membership {
        let configs = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([2, 3, 4])];
        Membership::new_with_defaults(configs, [9])
    }

    #[test]
    fn golden_bytes() {
        let bytes = encode(Some(LogPosition::new(7, 300)), &joint());
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "010107000000000000002c01000000000000\
             0200\
             0300010000000000000002000000000000000300000000000000\
             0300020000000000000003000000000000000400000000000000\
             050001000000000000000200000000000000030000000000000004000000000000000900000000000000\
             ab257432"
        );
    }

    #[test]
    fn describes_voters_and_learners() {
        let bytes = encode(None, &joint());
        assert_eq!(
            describe(&bytes).unwrap(),
            (vec![vec![1, 2, 3], vec![2, 3, 4]], vec![9])
        );
    }

    #[test]
    fn the_empty_membership_round_trips() {
        let stored = StoredMembership::default();
        assert_eq!(decode_stored(&encode_stored(&stored)).unwrap(), stored);
    }

    #[test]
    fn an_unknown_version_is_named() {
        let mut bytes = encode(None, &joint()).to_vec();
        bytes[0] = 2;
        assert_eq!(decode(&bytes).unwrap_err(), MembershipError::Version(2));
    }

    proptest! {
        #[test]
        fn round_trip(term: u64, index: u64, ids in prop::collection::btree_set(any::<u64>(), 1..9), learners in prop::collection::btree_set(any::<u64>(), 0..9)) {
            let membership = Membership::new_with_defaults(vec![ids], learners);
            let at = Some(LogPosition::new(term, index));
            prop_assert_eq!(decode(&encode(at, &membership)).unwrap(), (at, membership));
        }

        #[test]
        fn damage_is_an_error(at in 1usize..60, bit in 0u8..8, cut in 0usize..60) {
            let good = encode(Some(LogPosition::new(1, 2)), &joint());
            let mut bad = good.to_vec();
            bad[at] ^= 1 << bit;
            prop_assert!(decode(&bad).is_err());
            prop_assert!(decode(&good[..cut]).is_err());
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
