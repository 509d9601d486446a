//! The messages between replicas.
//!
//! Every message starts with `u8 version = 1`. Metadata is postcard; an AppendEntries message is
//! `u8 version, u32 header length (LE), header, payloads`, the payloads of all entries raw and
//! one after the other, so that they are copied once on the way out and sliced on the way in.

use bytes::{BufMut, Bytes, BytesMut};
use openraft::AsyncRuntime;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::log::{EntryKind, Record, StoredVote, from_record, to_record};
use crate::position::{LogPosition, ReplicaId};
use crate::type_config::{LeaderId, TypeConfig, Vote, log_id, position};

const VERSION: u8 = 1;

/// Kinds of control messages. The numbers are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Control {
    Heartbeat = 1,
    Vote = 2,
    PreVote = 3,
    TransferLeader = 4,
    ReadIndex = 5,
}

impl Control {
    pub(crate) fn from_u32(number: u32) -> Option<Self> {
        [
            Self::Heartbeat,
            Self::Vote,
            Self::PreVote,
            Self::TransferLeader,
            Self::ReadIndex,
        ]
        .into_iter()
        .find(|kind| *kind as u32 == number)
    }
}

/// A message that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum FrameError {
    #[error("message of {0} bytes is truncated")]
    Truncated(usize),
    #[error("message version {0} is unknown (this binary reads 1)")]
    Version(u8),
    #[error("message cannot be read: {0}")]
    Malformed(String),
}

#[derive(Serialize, Deserialize)]
struct AppendHeader {
    vote: StoredVote,
    prev: Option<LogPosition>,
    commit: Option<LogPosition>,
    entries: Vec<EntryHeader>,
}

#[derive(Serialize, Deserialize)]
struct EntryHeader {
    at: LogPosition,
    kind: EntryKind,
    len: u32,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum AppendAnswer {
    Matched(Option<LogPosition>),
    Conflict(LogPosition),
    HigherVote(StoredVote),
}

/// A request for a vote or pre-vote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VoteAsk {
    pub(crate) vote: StoredVote,
    pub(crate) last: Option<LogPosition>,
    pub(crate) leadership_transfer: bool,
}

/// The answer to [`VoteAsk`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VoteAnswer {
    pub(crate) vote: StoredVote,
    pub(crate) granted: bool,
    pub(crate) last: Option<LogPosition>,
}

/// "Become leader now", or for the others "the leader hands over".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TransferAsk {
    pub(crate) from: StoredVote,
    pub(crate) to: ReplicaId,
    pub(crate) last: Option<LogPosition>,
}

/// The answer to [`TransferAsk`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TransferAnswer {
    Accepted,
    VoteChanged(StoredVote),
    NotFlushed(Option<LogPosition>),
}

/// The answer to a read-index question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ReadAnswer {
    Index(u64),
    NotLeader(Option<ReplicaId>),
    NoQuorum,
    /// For how many milliseconds no majority was heard of.
    QuorumLost(u64),
    Stalled,
}

pub(crate) fn to_stored(vote: &Vote) -> StoredVote {
    StoredVote {
        term: vote.leader_id.term,
        voted_for: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

pub(crate) fn from_stored(vote: StoredVote) -> Vote {
    Vote {
        leader_id: LeaderId {
            term: vote.term,
            voted_for: vote.voted_for,
        },
        committed: vote.committed,
    }
}

/// Version byte and postcard.
pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Bytes, FrameError> {
    let out =
        postcard::to_extend(message, vec![VERSION]).map_err(|e| FrameError::Malformed(e.to_string()))?;
    Ok(out.into())
}

/// Reads what [`encode`] wrote; trailing bytes are an error.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FrameError> {
    let body = check_version(bytes)?;
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(FrameError::Malformed(format!("{} trailing bytes", rest.len()))),
        Err(error) => Err(FrameError::Malformed(error.to_string())),
    }
}

pub(crate) fn encode_append<R: AsyncRuntime>(
    request: AppendEntriesRequest<TypeConfig<R>>,
) -> Result<Bytes, FrameError> {
    let records: Vec<Record> = request.entries.into_iter().map(to_record).collect();
    let mut entries = Vec::with_capacity(records.len());
    let mut payload_bytes = 0;
    for record in &records {
        let len = u32::try_from(record.payload.len()).map_err(|e| FrameError::Malformed(e.to_string()))?;
        entries.push(EntryHeader {
            at: record.position,
            kind: record.kind,
            len,
        });
        payload_bytes += record.payload.len();
    }
    let header = AppendHeader {
        vote: to_stored(&request.vote),
        prev: request.prev_log_id.as_ref().map(position),
        commit: request.leader_commit.as_ref().map(position),
        entries,
    };
    let header = postcard::to_stdvec(&header).map_err(|e| FrameError::Malformed(e.to_string()))?;
    let header_len = u32::try_from(header.len()).map_err(|e| FrameError::Malformed(e.to_string()))?;
    let mut out = BytesMut::with_capacity(5 + header.len() + payload_bytes);
    out.put_u8(VERSION);
    out.put_u32_le(header_len);
    out.put_slice(&header);
    for record in &records {
        out.put_slice(&record.payload);
    }
    Ok(out.freeze())
}

pub(crate) fn decode_append<R: AsyncRuntime>(
    bytes: &Bytes,
) -> Result<AppendEntriesRequest<TypeConfig<R>>, FrameError> {
    let truncated = || FrameError::Truncated(bytes.len());
    let body = check_version(bytes)?;
    let (len, rest) = body.split_first_chunk::<4>().ok_or_else(truncated)?;
    let (header, payloads) = rest
        .split_at_checked(u32::from_le_bytes(*len) as usize)
        .ok_or_else(truncated)?;
    let header: AppendHeader = match postcard::take_from_bytes(header) {
        Ok((header, [])) => header,
        Ok((_, rest)) => {
            return Err(FrameError::Malformed(format!(
                "{} bytes after the header",
                rest.len()
            )));
        }
        Err(error) => return Err(FrameError::Malformed(error.to_string())),
    };
    let mut at = bytes.len() - payloads.len();
    let mut expected = header.prev.map_or(0, |prev| prev.index.saturating_add(1));
    let mut entries = Vec::with_capacity(header.entries.len());
    for entry in header.entries {
        if entry.at.index != expected {
            return Err(FrameError::Malformed(format!(
                "entry {} where {expected} is due",
                entry.at
            )));
        }
        expected = expected.saturating_add(1);
        let end = at
            .checked_add(entry.len as usize)
            .filter(|end| *end <= bytes.len())
            .ok_or_else(truncated)?;
        let record = Record {
            position: entry.at,
            kind: entry.kind,
            payload: bytes.slice(at..end),
        };
        entries.push(from_record(record).map_err(|e| FrameError::Malformed(e.to_string()))?);
        at = end;
    }
    if at != bytes.len() {
        return Err(FrameError::Malformed(format!(
            "{} bytes after the payloads",
            bytes.len() - at
        )));
    }
    Ok(AppendEntriesRequest {
        vote: from_stored(header.vote),
        prev_log_id: header.prev.map(log_id),
        leader_commit: header.commit.map(log_id),
        entries,
    })
}

pub(crate) fn encode_append_answer<R: AsyncRuntime>(
    answer: StreamAppendResult<TypeConfig<R>>,
) -> Result<Bytes, FrameError> {
    encode(&match answer {
        Ok(matched) => AppendAnswer::Matched(matched.as_ref().map(position)),
        Err(StreamAppendError::Conflict(at)) => AppendAnswer::Conflict(position(&at)),
        Err(StreamAppendError::HigherVote(vote)) => AppendAnswer::HigherVote(to_stored(&vote)),
    })
}

pub(crate) fn decode_append_answer<R: AsyncRuntime>(
    bytes: &[u8],
) -> Result<StreamAppendResult<TypeConfig<R>>, FrameError> {
    Ok(match decode(bytes)? {
        AppendAnswer::Matched(matched) => Ok(matched.map(log_id)),
        AppendAnswer::Conflict(at) => Err(StreamAppendError::Conflict(log_id(at))),
        AppendAnswer::HigherVote(vote) => Err(StreamAppendError::HigherVote(from_stored(vote))),
    })
}

fn check_version(bytes: &[u8]) -> Result<&[u8], FrameError> {
    match bytes.split_first() {
        None => Err(FrameError::Truncated(0)),
        Some((&VERSION, body)) => Ok(body),
        Some((&other, _)) => Err(FrameError::Version(other)),
    }
}

#[cfg(test)]
mod tests {
    use openraft::RaftTypeConfig;
    use openraft::entry::RaftEntry;
    use proptest::prelude::*;

    use super::*;
    use crate::TokioRuntime;
    use crate::type_config::{Command, Entry, Membership};

    type Rt = TokioRuntime;

    fn request(prev: Option<u64>, payloads: &[&[u8]]) -> AppendEntriesRequest<TypeConfig<Rt>> {
        let vote = from_stored(StoredVote {
            term: 3,
            voted_for: 9,
            committed: true,
        });
        let first = prev.map_or(0, |p| p + 1);
        let entries = (first..).zip(payloads).map(|(index, payload)| {
            let data = Command(Bytes::copy_from_slice(payload));
            Entry::new_normal(log_id(LogPosition::new(3, index)), data)
        });
        AppendEntriesRequest {
            vote,
            prev_log_id: prev.map(|index| log_id(LogPosition::new(2, index))),
            leader_commit: Some(log_id(LogPosition::new(2, 1))),
            entries: entries.collect(),
        }
    }

    fn same(a: &AppendEntriesRequest<TypeConfig<Rt>>, b: &AppendEntriesRequest<TypeConfig<Rt>>) -> bool {
        a.vote == b.vote
            && a.prev_log_id == b.prev_log_id
            && a.leader_commit == b.leader_commit
            && a.entries == b.entries
    }

    #[test]
    fn golden_append_message() {
        let bytes = encode_append(request(Some(4), &[b"ab", b"c"])).unwrap();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "0112000000030901010204010201020305010203060101616263");
    }

    #[test]
    fn every_kind_of_entry_round_trips() {
        let mut sent = request(Some(4), &[b"", b"xyz"]);
        sent.entries
            .push(Entry::new_blank(log_id(LogPosition::new(3, 7))));
        let members = Membership::new_with_defaults(vec![[1, 2].into()], [5]);
        sent.entries
            .push(Entry::new_membership(log_id(LogPosition::new(3, 8)), members));
        let got = decode_append::<Rt>(&encode_append(sent.clone()).unwrap()).unwrap();
        assert!(same(&sent, &got));
    }

    #[test]
    fn a_hole_between_entries_is_refused() {
        let mut sent = request(Some(4), &[b"a", b"b"]);
        sent.entries.remove(0);
        assert!(decode_append::<Rt>(&encode_append(sent).unwrap()).is_err());
    }

    #[test]
    fn answers_round_trip() {
        let at = log_id(LogPosition::new(3, 7));
        let vote: <TypeConfig<Rt> as RaftTypeConfig>::Vote = from_stored(StoredVote {
            term: 5,
            voted_for: 2,
            committed: false,
        });
        for answer in [
            Ok(None),
            Ok(Some(at)),
            Err(StreamAppendError::Conflict(at)),
            Err(StreamAppendError::HigherVote(vote)),
        ] {
            let bytes = encode_append_answer::<Rt>(answer.clone()).unwrap();
            assert_eq!(decode_append_answer::<Rt>(&bytes).unwrap(), answer);
        }
    }

    proptest! {
        #[test]
        fn append_round_trip(prev in proptest::option::of(0u64..1000), payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..10)) {
            let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
            let sent = request(prev, &payloads);
            let got = decode_append::<Rt>(&encode_append(sent.clone()).unwrap()).unwrap();
            prop_assert!(same(&sent, &got));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), versioned: bool) {
            let mut bytes = bytes;
            if versioned && let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            let _ = decode_append::<Rt>(&bytes.clone().into());
            let _ = decode_append_answer::<Rt>(&bytes);
            let _ = decode::<VoteAsk>(&bytes);
        }

        #[test]
        fn a_cut_message_is_an_error(cut in 0usize..30) {
            let good = encode_append(request(Some(4), &[b"abc", b"defg"])).unwrap();
            prop_assert!(decode_append::<Rt>(&good.slice(..cut)).is_err());
        }
    }
}
