//! The command that deletes samples.

use bytes::Bytes;

use super::{EntryError, KIND_DELETION, MAX_TENANT_BYTES, header, malformed, seal};
use crate::matcher::{MatchOp, Matcher};
use crate::varint::{Reader, put_bytes, put_i64, put_u64};

/// The most matchers of one deletion, all sets together.
pub const MAX_DELETION_MATCHERS: usize = 1_000;

/// Samples to be deleted: those that the shard holds when it applies the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// Whose series.
    pub tenant: String,
    /// A series is meant when it passes all matchers of any set. No set means none.
    pub matcher_sets: Vec<Vec<Matcher>>,
    /// The first timestamp, Unix milliseconds.
    pub start_ms: i64,
    /// The last timestamp, Unix milliseconds.
    pub end_ms: i64,
}

/// An entry that deletes samples. `now_ms` is the leader's clock, Unix milliseconds.
pub fn encode_deletion_entry(now_ms: i64, deletion: &Deletion) -> Bytes {
    let mut out = header(KIND_DELETION, now_ms, 256);
    put_bytes(&mut out, deletion.tenant.as_bytes());
    put_i64(&mut out, deletion.start_ms);
    put_i64(&mut out, deletion.end_ms);
    put_u64(&mut out, deletion.matcher_sets.len() as u64);
    for set in &deletion.matcher_sets {
        put_u64(&mut out, set.len() as u64);
        for matcher in set {
            out.push(match matcher.op() {
                MatchOp::Eq => 0,
                MatchOp::Ne => 1,
                MatchOp::Re => 2,
                MatchOp::Nre => 3,
            });
            put_bytes(&mut out, matcher.name().as_bytes());
            put_bytes(&mut out, matcher.value().as_bytes());
        }
    }
    seal(out)
}

/// Reads the body of a deletion.
pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Deletion, EntryError> {
    let cut = || malformed("deletion", "it is cut short");
    let tenant = text(reader)?;
    if tenant.is_empty() || tenant.len() > MAX_TENANT_BYTES {
        return Err(malformed("deletion", "its tenant is empty or too long"));
    }
    let start_ms = reader.varint_i64().ok_or_else(cut)?;
    let end_ms = reader.varint_i64().ok_or_else(cut)?;
    let mut left = MAX_DELETION_MATCHERS;
    let sets = count(reader, left)?;
    let mut matcher_sets = Vec::with_capacity(sets);
    for _ in 0..sets {
        let matchers = count(reader, left)?;
        left -= matchers;
        let set = (0..matchers)
            .map(|_| matcher(reader))
            .collect::<Result<Vec<_>, _>>()?;
        matcher_sets.push(set);
    }
    Ok(Deletion {
        tenant,
        matcher_sets,
        start_ms,
        end_ms,
    })
}

fn count(reader: &mut Reader<'_>, most: usize) -> Result<usize, EntryError> {
    let count = reader.varint_usize().filter(|n| *n <= most);
    count.ok_or_else(|| malformed("deletion", "it has too many matchers"))
}

fn text(reader: &mut Reader<'_>) -> Result<String, EntryError> {
    let bytes = reader
        .bytes()
        .ok_or_else(|| malformed("deletion", "it is cut short"))?;
    let text = std::str::from_utf8(bytes).map_err(|_| malformed("deletion", "its text is not UTF-8"))?;
    Ok(text.to_owned())
}

fn matcher(reader: &mut Reader<'_>) -> Result<Matcher, EntryError> {
    let op = match reader.u8() {
        Some(0) => MatchOp::Eq,
        Some(1) => MatchOp::Ne,
        Some(2) => MatchOp::Re,
        Some(3) => MatchOp::Nre,
        _ => return Err(malformed("deletion", "it has an unknown matcher")),
    };
    let (name, value) = (text(reader)?, text(reader)?);
    Matcher::new(op, &name, &value).map_err(|_| malformed("deletion", "it has an invalid regular expression"))
}
