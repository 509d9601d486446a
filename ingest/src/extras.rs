//! What a remote write request holds beside samples: exemplars and metadata.
//!
//! ```proto
//! message Exemplar       { repeated Label labels = 1; double value = 2; int64 timestamp = 3; }
//! message MetricMetadata { MetricType type = 1; string metric_family_name = 2;
//!                          string help = 4; string unit = 5; }
//! ```
//!
//! Texts are bytes here; whoever stores them judges whether they are UTF-8.

use std::ops::Range;

use crate::DecodeError;
use crate::remote_write::{LABELS, read_label};
use crate::wire::{self, end_of_field, fixed64_key, len_key, varint_key};

const EXEMPLAR_VALUE: u32 = fixed64_key(2);
const EXEMPLAR_TIMESTAMP: u32 = varint_key(3);

const METADATA_TYPE: u32 = varint_key(1);
const METADATA_FAMILY: u32 = len_key(2);
const METADATA_HELP: u32 = len_key(4);
const METADATA_UNIT: u32 = len_key(5);

/// An exemplar in a batch. 32 bits are enough: see [`crate::MAX_REQUEST_BYTES`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExemplarEntry {
    message: (u32, u32),
    timestamp_ms: i64,
    value: f64,
}

/// An exemplar as it was sent.
#[derive(Debug, Clone, Copy)]
pub struct ExemplarRef<'a> {
    message: &'a [u8],
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// The value observed.
    pub value: f64,
}

impl ExemplarEntry {
    /// Reads the `Exemplar` at `at` in `raw`.
    pub(crate) fn read(raw: &[u8], at: Range<usize>) -> Result<Self, DecodeError> {
        let (msg, mut pos) = (&raw[..at.end], at.start);
        let (mut timestamp_ms, mut value) = (0, 0f64);
        while pos < msg.len() {
            match wire::key(msg, &mut pos)? {
                LABELS => {
                    let end = end_of_field(msg, &mut pos)?;
                    read_label(&msg[..end], pos)?;
                    pos = end;
                }
                EXEMPLAR_VALUE => value = f64::from_bits(wire::fixed64(msg, &mut pos)?),
                EXEMPLAR_TIMESTAMP => timestamp_ms = wire::varint(msg, &mut pos)?.cast_signed(),
                key => wire::skip_unknown(msg, &mut pos, key, &[1, 2, 3])?,
            }
        }
        Ok(Self {
            message: (at.start as u32, at.end as u32),
            timestamp_ms,
            value,
        })
    }

    pub(crate) fn view<'a>(&self, bytes: &'a [u8]) -> ExemplarRef<'a> {
        ExemplarRef {
            message: &bytes[self.message.0 as usize..self.message.1 as usize],
            timestamp_ms: self.timestamp_ms,
            value: self.value,
        }
    }
}

impl<'a> ExemplarRef<'a> {
    /// Names and values of its labels, in the order sent.
    pub fn labels(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let (msg, mut pos) = (self.message, 0);
        // The message was read once without an error, so it ends where it is at its end.
        std::iter::from_fn(move || {
            while pos < msg.len() {
                let key = wire::key(msg, &mut pos).ok()?;
                if key != LABELS {
                    wire::skip_unknown(msg, &mut pos, key, &[]).ok()?;
                    continue;
                }
                let end = end_of_field(msg, &mut pos).ok()?;
                let label = read_label(&msg[..end], pos).ok()?;
                pos = end;
                return Some((&msg[label.name], &msg[label.value]));
            }
            None
        })
    }
}

/// What a metric is, in a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MetadataEntry {
    kind: i32,
    family: (u32, u32),
    help: (u32, u32),
    unit: (u32, u32),
}

/// What a metric is, as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetadataRef<'a> {
    /// 0 unknown, 1 counter, 2 gauge, 3 histogram, 4 gauge histogram, 5 summary, 6 info, 7 state set.
    pub kind: i32,
    /// The metric's name, without the suffixes of its series.
    pub family: &'a [u8],
    /// What it says, for people.
    pub help: &'a [u8],
    /// The unit of its values.
    pub unit: &'a [u8],
}

impl MetadataEntry {
    /// Reads the `MetricMetadata` at `at` in `raw`.
    pub(crate) fn read(raw: &[u8], at: Range<usize>) -> Result<Self, DecodeError> {
        let (msg, mut pos) = (&raw[..at.end], at.start);
        let mut entry = Self {
            kind: 0,
            family: (0, 0),
            help: (0, 0),
            unit: (0, 0),
        };
        while pos < msg.len() {
            let field = match wire::key(msg, &mut pos)? {
                METADATA_TYPE => {
                    entry.kind = wire::varint(msg, &mut pos)? as i32;
                    continue;
                }
                METADATA_FAMILY => &mut entry.family,
                METADATA_HELP => &mut entry.help,
                METADATA_UNIT => &mut entry.unit,
                key => {
                    wire::skip_unknown(msg, &mut pos, key, &[1, 2, 4, 5])?;
                    continue;
                }
            };
            let end = end_of_field(msg, &mut pos)?;
            *field = (pos as u32, end as u32);
            pos = end;
        }
        Ok(entry)
    }

    pub(crate) fn view<'a>(&self, bytes: &'a [u8]) -> MetadataRef<'a> {
        let text = |(from, to): (u32, u32)| &bytes[from as usize..to as usize];
        MetadataRef {
            kind: self.kind,
            family: text(self.family),
            help: text(self.help),
            unit: text(self.unit),
        }
    }
}
