//! What apply decided about a part: the reply that travels back to the receiving node.

use super::{EntryError, malformed};
use crate::varint::{Reader, put_bytes, put_u64};

/// Stands in [`PartOutcome::new_ids`] for a series that was not registered.
pub const UNREGISTERED: u64 = u64::MAX;

const VERSION: u8 = 1;
const FIRST_BYTES_MAX: usize = 2048;

/// Why samples were refused for good: sending them again gives the same answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RejectReason {
    /// Older than the retention cut.
    TooOld = 1,
    /// Older than the series' newest sample by more than the out-of-order window.
    OutOfOrder = 2,
    /// Later than the log's time by more than allowed.
    TooFarAhead = 3,
    /// Another value is stored at the same timestamp already.
    DuplicateTimestamp = 4,
    /// The shard has its maximum of series.
    SeriesLimit = 5,
    /// The tenant has no quota left for another series on the shard.
    TenantSeriesLimit = 6,
}

impl RejectReason {
    /// All reasons.
    pub const ALL: [Self; 6] = [
        Self::TooOld,
        Self::OutOfOrder,
        Self::TooFarAhead,
        Self::DuplicateTimestamp,
        Self::SeriesLimit,
        Self::TenantSeriesLimit,
    ];

    /// The reason's stable name, in snake case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooOld => "too_old",
            Self::OutOfOrder => "out_of_order",
            Self::TooFarAhead => "too_far_ahead",
            Self::DuplicateTimestamp => "duplicate_timestamp",
            Self::SeriesLimit => "series_limit",
            Self::TenantSeriesLimit => "tenant_series_limit",
        }
    }
}

/// Samples refused for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Why.
    pub reason: RejectReason,
    /// How many samples.
    pub samples: u64,
    /// The first of them: series, timestamp and the bound it broke.
    pub first: String,
}

/// The decision about every sample of one part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartOutcome {
    /// Samples stored by this part.
    pub stored: u64,
    /// Samples that were there already with the same bits.
    pub duplicates: u64,
    /// Refused samples by reason, in order of [`RejectReason`].
    pub rejections: Vec<Rejection>,
    /// The id of each series that came with labels, by ordinal; [`UNREGISTERED`] if it got none.
    pub new_ids: Vec<u64>,
    /// Ids in the part that this shard does not have for the tenant: their samples must be sent with
    /// labels. Sorted, each once.
    pub unknown_ids: Vec<u64>,
}

impl PartOutcome {
    /// Counts one refused sample; `first` is called for the first of its reason only.
    pub(crate) fn reject(&mut self, reason: RejectReason, first: impl FnOnce() -> String) {
        match self.rejections.binary_search_by_key(&reason, |r| r.reason) {
            Ok(at) => self.rejections[at].samples += 1,
            Err(at) => {
                let mut first = first();
                first.truncate(first.floor_char_boundary(FIRST_BYTES_MAX));
                self.rejections.insert(
                    at,
                    Rejection {
                        reason,
                        samples: 1,
                        first,
                    },
                );
            }
        }
    }

    /// Appends the encoded outcome.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        put_u64(out, self.stored);
        put_u64(out, self.duplicates);
        put_u64(out, self.rejections.len() as u64);
        for rejection in &self.rejections {
            out.push(rejection.reason as u8);
            put_u64(out, rejection.samples);
            put_bytes(out, rejection.first.as_bytes());
        }
        for ids in [&self.new_ids, &self.unknown_ids] {
            put_u64(out, ids.len() as u64);
            for id in ids {
                // Plus one, wrapping, so that UNREGISTERED is a single zero byte.
                put_u64(out, id.wrapping_add(1));
            }
        }
    }

    /// Reads one outcome from the front of `bytes` and returns it with the bytes behind it.
    pub fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), EntryError> {
        let mut reader = Reader::new(bytes);
        match reader.u8() {
            Some(VERSION) => {}
            Some(found) => {
                return Err(EntryError::Unknown {
                    what: "outcome",
                    found,
                });
            }
            None => return Err(malformed("outcome", "it is empty")),
        }
        let outcome =
            Self::decode_fields(&mut reader).ok_or_else(|| malformed("outcome", "it is cut short"))?;
        Ok((outcome, &bytes[reader.position()..]))
    }

    fn decode_fields(reader: &mut Reader<'_>) -> Option<Self> {
        let mut outcome = Self {
            stored: reader.varint()?,
            duplicates: reader.varint()?,
            ..Self::default()
        };
        for _ in 0..bounded_count(reader)? {
            let code = reader.u8()?;
            let reason = RejectReason::ALL.into_iter().find(|r| *r as u8 == code)?;
            let samples = reader.varint()?;
            let first = String::from_utf8(reader.bytes()?.to_vec()).ok()?;
            outcome.rejections.push(Rejection {
                reason,
                samples,
                first,
            });
        }
        for ids in [&mut outcome.new_ids, &mut outcome.unknown_ids] {
            for _ in 0..bounded_count(reader)? {
                ids.push(reader.varint()?.wrapping_sub(1));
            }
        }
        Some(outcome)
    }
}

/// A count of items that take at least a byte each.
fn bounded_count(reader: &mut Reader<'_>) -> Option<usize> {
    let count = reader.varint_usize()?;
    (count <= reader.remaining()).then_some(count)
}
