//! The commands of a shard's log: batches of samples built by receiving nodes, changes of limits and
//! retentions, deletions and quotas.
//!
//! Entry: `"QE" version kind zigzag(now_ms) body crc32c`. A write's body is a sequence of parts, each
//! with its length before it; the leader concatenates parts without looking into them.

mod deletion;
mod histograms;
mod outcome;
mod part;
mod value;

use bytes::Bytes;

use crate::frame::{self, Damage};
use crate::limits::Limits;
use crate::quota::Quota;
use crate::retention::{TenantRetentions, put_retentions, take_retentions};
use crate::varint::{Reader, put_bytes, put_i64, put_u64};

pub use deletion::{Deletion, MAX_DELETION_MATCHERS, encode_deletion_entry};
pub(crate) use histograms::HistogramRow;
pub use outcome::{PartOutcome, RejectReason, Rejection, UNREGISTERED};
pub(crate) use part::{Columns, PartView, SeriesRef};
pub use part::{PartBuilder, PartInfo, check_part};
pub use value::STALE_NAN_BITS;

/// The largest entry accepted, in bytes.
pub const MAX_ENTRY_BYTES: usize = 64 << 20;
/// The longest tenant name, in bytes.
pub const MAX_TENANT_BYTES: usize = 128;

const MAGIC: [u8; 2] = *b"QE";
const VERSION: u8 = 1;
const KIND_WRITE: u8 = 1;
const KIND_LIMITS: u8 = 2;
const KIND_DELETION: u8 = 3;
const KIND_QUOTA: u8 = 4;
const KIND_RETENTIONS: u8 = 5;

/// Why bytes are not an entry, a part or an outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The checksum does not fit the bytes.
    #[error("the entry's checksum does not match its bytes; it was damaged on its way or on disk")]
    Checksum,
    /// A version or kind that this program does not know.
    #[error("the {what} has version or kind {found}, which this program does not know; upgrade it")]
    Unknown {
        /// What was read.
        what: &'static str,
        /// The number found.
        found: u8,
    },
    /// The structure is broken.
    #[error("the {what} is malformed: {detail}")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// Where it breaks.
        detail: &'static str,
    },
    /// More bytes than allowed.
    #[error("the entry has {0} bytes, more than {MAX_ENTRY_BYTES}")]
    TooLarge(usize),
}

pub(crate) fn malformed(what: &'static str, detail: &'static str) -> EntryError {
    EntryError::Malformed { what, detail }
}

/// Joins parts into an entry. `now_ms` is the leader's clock, Unix milliseconds.
pub fn encode_write_entry(now_ms: i64, parts: &[Bytes]) -> Bytes {
    let size = parts.iter().map(|part| part.len() + 5).sum::<usize>() + 32;
    let mut out = header(KIND_WRITE, now_ms, size);
    put_u64(&mut out, parts.len() as u64);
    for part in parts {
        put_bytes(&mut out, part);
    }
    seal(out)
}

/// An entry that replaces the shard's limits. `now_ms` is the leader's clock, Unix milliseconds.
pub fn encode_limits_entry(now_ms: i64, limits: &Limits) -> Bytes {
    let mut out = header(KIND_LIMITS, now_ms, 64);
    limits.encode(&mut out);
    seal(out)
}

/// An entry that gives a tenant a quota of series. `now_ms` is the leader's clock, Unix milliseconds.
pub fn encode_quota_entry(now_ms: i64, tenant: &str, quota: Quota) -> Bytes {
    let mut out = header(KIND_QUOTA, now_ms, 160);
    put_bytes(&mut out, tenant.as_bytes());
    put_u64(&mut out, quota.epoch);
    put_u64(&mut out, quota.series);
    seal(out)
}

/// An entry that replaces the retentions that tenants have of their own. `now_ms` is the leader's clock,
/// Unix milliseconds.
pub fn encode_retentions_entry(now_ms: i64, retentions: &TenantRetentions) -> Bytes {
    let mut out = header(KIND_RETENTIONS, now_ms, 32 + retentions.len() * 32);
    put_retentions(&mut out, retentions);
    seal(out)
}

fn decode_quota<'a>(reader: &mut Reader<'a>) -> Option<Command<'a>> {
    let tenant = std::str::from_utf8(reader.bytes()?).ok()?;
    let quota = Quota {
        epoch: reader.varint()?,
        series: reader.varint()?,
    };
    let fits = !tenant.is_empty() && tenant.len() <= MAX_TENANT_BYTES;
    fits.then_some(Command::Quota(tenant, quota))
}

fn header(kind: u8, now_ms: i64, capacity: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(capacity);
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    out.push(kind);
    put_i64(&mut out, now_ms);
    out
}

fn seal(mut out: Vec<u8>) -> Bytes {
    frame::seal(&mut out);
    out.into()
}

/// A decoded entry; parts are still encoded.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) now_ms: i64,
    pub(crate) command: Command<'a>,
}

#[derive(Debug)]
pub(crate) enum Command<'a> {
    Write(Vec<&'a [u8]>),
    Limits(Limits),
    Delete(Deletion),
    Quota(&'a str, Quota),
    Retentions(TenantRetentions),
}

/// Checks the frame of an entry and splits it into parts.
pub(crate) fn decode(bytes: &[u8]) -> Result<Entry<'_>, EntryError> {
    if bytes.len() > MAX_ENTRY_BYTES {
        return Err(EntryError::TooLarge(bytes.len()));
    }
    let cut = || malformed("entry", "it is cut short");
    let body = frame::unseal(bytes).map_err(|damage| match damage {
        Damage::Short => cut(),
        Damage::Checksum => EntryError::Checksum,
    })?;
    let mut reader = Reader::new(body);
    if reader.array() != Some(MAGIC) {
        return Err(malformed("entry", "it does not begin with QE"));
    }
    let version = reader.u8().ok_or_else(cut)?;
    if version != VERSION {
        return Err(EntryError::Unknown {
            what: "entry",
            found: version,
        });
    }
    let kind = reader.u8().ok_or_else(cut)?;
    let now_ms = reader.varint_i64().ok_or_else(cut)?;
    let command = match kind {
        KIND_WRITE => {
            let count = reader
                .varint_usize()
                .filter(|n| *n <= reader.remaining())
                .ok_or_else(cut)?;
            let parts = (0..count)
                .map(|_| reader.bytes())
                .collect::<Option<Vec<_>>>()
                .ok_or_else(cut)?;
            Command::Write(parts)
        }
        KIND_LIMITS => Command::Limits(Limits::decode(&mut reader).ok_or_else(cut)?),
        KIND_QUOTA => decode_quota(&mut reader).ok_or_else(|| malformed("quota", "its fields do not fit"))?,
        KIND_RETENTIONS => {
            let retentions = take_retentions(&mut reader);
            Command::Retentions(retentions.ok_or_else(|| malformed("retentions", "its fields do not fit"))?)
        }
        KIND_DELETION => Command::Delete(deletion::decode(&mut reader)?),
        found => return Err(EntryError::Unknown { what: "entry", found }),
    };
    if !reader.is_empty() {
        return Err(malformed("entry", "bytes follow its end"));
    }
    Ok(Entry { now_ms, command })
}

#[cfg(test)]
mod tests;
