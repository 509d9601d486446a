//! Validation of labels and the canonical bytes by which a series is identified.
//!
//! Canonical bytes: for each label, in ascending order of the name's bytes, `varint(name length)
//! name varint(value length) value`. Labels with empty values are left out; no name occurs twice.

use std::fmt::Write;
use std::ops::Range;

use smallvec::SmallVec;

use crate::remote_write::{LabelSpan, for_each_label};
use crate::wire::{end_of_field, put_varint};
use crate::{DecodeError, DecodeLimits};

/// The label that holds the metric name.
pub const METRIC_NAME_LABEL: &str = "__name__";

/// Labels up to which sorting needs no heap memory.
const INLINE_LABELS: usize = 32;
/// Length to which [`SeriesError::detail`] cuts the series, and names or values in it, in bytes.
const SHOWN_SERIES_BYTES: usize = 256;
const SHOWN_TEXT_BYTES: usize = 64;

/// Why a series is refused for good. Sending it again can't help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InvalidReason {
    /// No label `__name__`, or its value is empty.
    MissingMetricName,
    /// A label name occurs twice, be it with an empty value.
    DuplicateLabelName,
    /// A label has an empty name.
    EmptyLabelName,
    /// A name or value is not UTF-8.
    InvalidUtf8,
    /// A name exceeds [`DecodeLimits::max_label_name_bytes`].
    LabelNameTooLong,
    /// A value exceeds [`DecodeLimits::max_label_value_bytes`].
    LabelValueTooLong,
    /// The metric name exceeds [`DecodeLimits::max_metric_name_bytes`].
    MetricNameTooLong,
    /// There are more than [`DecodeLimits::max_labels_per_series`].
    TooManyLabels,
    /// The bytes are not label fields. Never of a series in a [`crate::Batch`].
    MalformedLabels,
}

impl InvalidReason {
    /// Every reason.
    pub const ALL: [InvalidReason; 9] = [
        InvalidReason::MissingMetricName,
        InvalidReason::DuplicateLabelName,
        InvalidReason::EmptyLabelName,
        InvalidReason::InvalidUtf8,
        InvalidReason::LabelNameTooLong,
        InvalidReason::LabelValueTooLong,
        InvalidReason::MetricNameTooLong,
        InvalidReason::TooManyLabels,
        InvalidReason::MalformedLabels,
    ];

    /// The stable, machine-readable name, in snake case.
    pub const fn as_str(self) -> &'static str {
        match self {
            InvalidReason::MissingMetricName => "missing_metric_name",
            InvalidReason::DuplicateLabelName => "duplicate_label_name",
            InvalidReason::EmptyLabelName => "empty_label_name",
            InvalidReason::InvalidUtf8 => "invalid_utf8",
            InvalidReason::LabelNameTooLong => "label_name_too_long",
            InvalidReason::LabelValueTooLong => "label_value_too_long",
            InvalidReason::MetricNameTooLong => "metric_name_too_long",
            InvalidReason::TooManyLabels => "too_many_labels",
            InvalidReason::MalformedLabels => "malformed_labels",
        }
    }
}

/// A series that is refused, while the rest of its request is stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", reason.as_str())]
pub struct SeriesError {
    /// For machines and metrics.
    pub reason: InvalidReason,
    /// For people: what is wrong, by how much, and the series, shortened.
    pub detail: String,
}

/// Validates `raw_labels` (label fields of a `TimeSeries`, see [`crate::SeriesRef::raw_labels`]) and
/// writes the canonical bytes to `out`, replacing what it held.
///
/// Any non-empty UTF-8 is a valid name, as in Prometheus 3.
///
/// # Errors
/// The first violation found, see [`InvalidReason`]. `out` is empty then.
pub fn canonicalize<'o>(
    raw_labels: &[u8],
    limits: &DecodeLimits,
    out: &'o mut Vec<u8>,
) -> Result<CanonicalLabels<'o>, SeriesError> {
    out.clear();
    match write_canonical(raw_labels, limits, out) {
        Ok(()) => Ok(CanonicalLabels { bytes: out }),
        Err(Violation { reason, mut detail }) => {
            out.clear();
            detail.push_str(" in series ");
            push_series_text(raw_labels, &mut detail);
            Err(SeriesError { reason, detail })
        }
    }
}

/// A [`SeriesError`] that doesn't name the series yet.
struct Violation {
    reason: InvalidReason,
    detail: String,
}

impl From<DecodeError> for Violation {
    fn from(error: DecodeError) -> Self {
        Violation {
            reason: InvalidReason::MalformedLabels,
            detail: error.to_string(),
        }
    }
}

/// Name and value of a label that has been checked.
type Checked<'r> = (&'r [u8], &'r [u8]);

fn write_canonical(raw: &[u8], limits: &DecodeLimits, out: &mut Vec<u8>) -> Result<(), Violation> {
    // If all bytes are ASCII, then so are names and values; one scan is cheaper than one per text.
    let ascii = raw.is_ascii();
    let mut labels: SmallVec<[Checked<'_>; INLINE_LABELS]> = SmallVec::new();
    let mut sorted = true;
    for_each_label(raw, |span| {
        if labels.len() >= limits.max_labels_per_series {
            let detail = format!("more than {} labels", limits.max_labels_per_series);
            return Err(Violation {
                reason: InvalidReason::TooManyLabels,
                detail,
            });
        }
        let label = (&raw[span.name], &raw[span.value]);
        check_label(label, ascii, limits)?;
        sorted &= labels.last().is_none_or(|previous| previous.0 < label.0);
        labels.push(label);
        Ok(())
    })?;
    if !sorted {
        labels.sort_unstable_by_key(|(name, _)| *name);
        if let Some(pair) = labels.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let detail = format!("the label name {} occurs twice", shown(pair[0].0));
            return Err(Violation {
                reason: InvalidReason::DuplicateLabelName,
                detail,
            });
        }
    }
    let mut has_metric_name = false;
    // The framing of the raw bytes is longer than the canonical one.
    out.reserve(raw.len());
    for (name, value) in labels.iter().filter(|(_, value)| !value.is_empty()) {
        has_metric_name |= *name == METRIC_NAME_LABEL.as_bytes();
        for text in [name, value] {
            put_varint(out, text.len() as u64);
            out.extend_from_slice(text);
        }
    }
    if !has_metric_name {
        let detail = format!("the metric name (label {METRIC_NAME_LABEL}) is missing or empty");
        return Err(Violation {
            reason: InvalidReason::MissingMetricName,
            detail,
        });
    }
    Ok(())
}

fn check_label((name, value): Checked<'_>, ascii: bool, limits: &DecodeLimits) -> Result<(), Violation> {
    if name.is_empty() {
        let detail = format!("a label without name, of value {},", shown(value));
        return Err(Violation {
            reason: InvalidReason::EmptyLabelName,
            detail,
        });
    }
    let is_metric = name == METRIC_NAME_LABEL.as_bytes();
    let (reason, what, len, max) = if name.len() > limits.max_label_name_bytes {
        (
            InvalidReason::LabelNameTooLong,
            "a label name",
            name.len(),
            limits.max_label_name_bytes,
        )
    } else if is_metric && value.len() > limits.max_metric_name_bytes {
        (
            InvalidReason::MetricNameTooLong,
            "a metric name",
            value.len(),
            limits.max_metric_name_bytes,
        )
    } else if !is_metric && value.len() > limits.max_label_value_bytes {
        (
            InvalidReason::LabelValueTooLong,
            "a label value",
            value.len(),
            limits.max_label_value_bytes,
        )
    } else if !ascii && std::str::from_utf8(name).is_err() {
        return Err(not_utf8("name", name));
    } else if !ascii && std::str::from_utf8(value).is_err() {
        return Err(not_utf8("value", name));
    } else {
        return Ok(());
    };
    let detail = format!(
        "{what} of {len} bytes, the limit is {max} (label {})",
        shown(name)
    );
    Err(Violation { reason, detail })
}

fn not_utf8(part: &str, name: &[u8]) -> Violation {
    let detail = format!("the {part} of label {} is not UTF-8", shown(name));
    Violation {
        reason: InvalidReason::InvalidUtf8,
        detail,
    }
}

/// `text` quoted, shortened, and printable whatever it is.
fn shown(text: &[u8]) -> String {
    let kept = &text[..text.len().min(SHOWN_TEXT_BYTES)];
    let more = if kept.len() < text.len() { "…" } else { "" };
    format!("\"{}{more}\"", String::from_utf8_lossy(kept).escape_debug())
}

/// The series was not shown to its end.
struct CutOff;

impl From<DecodeError> for CutOff {
    fn from(_: DecodeError) -> Self {
        CutOff
    }
}

/// Appends `{name="value",…}`, cut off when it gets long.
fn push_series_text(raw_labels: &[u8], text: &mut String) {
    let start = text.len();
    text.push('{');
    let complete = for_each_label(raw_labels, |LabelSpan { name, value }| {
        if text.len() - start > SHOWN_SERIES_BYTES {
            return Err(CutOff);
        }
        let comma = if text.len() - start > 1 { ", " } else { "" };
        let _ = write!(
            text,
            "{comma}{}={}",
            shown(&raw_labels[name]),
            shown(&raw_labels[value])
        );
        Ok(())
    });
    text.push_str(if complete.is_ok() { "}" } else { ", …}" });
}

/// A view of canonical label bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CanonicalLabels<'a> {
    bytes: &'a [u8],
}

/// What of a series decides on its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardLabels<'a> {
    /// The metric name.
    pub metric: &'a str,
    /// The label `job`.
    pub job: Option<&'a str>,
    /// The label `instance`.
    pub instance: Option<&'a str>,
}

impl<'a> CanonicalLabels<'a> {
    /// Views `bytes` that [`canonicalize`] wrote. Other bytes do no harm, but show fewer labels.
    pub fn new(bytes: &'a [u8]) -> Self {
        CanonicalLabels { bytes }
    }

    /// The canonical bytes.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The value of the label `name`.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        let spans = Spans {
            bytes: self.bytes,
            pos: 0,
        };
        for (found, value) in spans {
            match self.bytes[found].cmp(name.as_bytes()) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return std::str::from_utf8(&self.bytes[value]).ok(),
                std::cmp::Ordering::Greater => return None,
            }
        }
        None
    }

    /// The metric name.
    pub fn metric(&self) -> &'a str {
        self.get(METRIC_NAME_LABEL).unwrap_or_default()
    }

    /// Metric, job and instance, found in one pass.
    pub fn shard_labels(&self) -> ShardLabels<'a> {
        let mut labels = ShardLabels {
            metric: "",
            job: None,
            instance: None,
        };
        for (name, value) in (Spans {
            bytes: self.bytes,
            pos: 0,
        }) {
            let text = || std::str::from_utf8(&self.bytes[value.clone()]).ok();
            match &self.bytes[name] {
                b"__name__" => labels.metric = text().unwrap_or_default(),
                b"instance" => labels.instance = text(),
                b"job" => {
                    labels.job = text();
                    break;
                }
                _ => {}
            }
        }
        labels
    }

    /// All labels as (name, value), sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let bytes = self.bytes;
        Spans { bytes, pos: 0 }.map_while(move |(name, value)| {
            Some((
                std::str::from_utf8(&bytes[name]).ok()?,
                std::str::from_utf8(&bytes[value]).ok()?,
            ))
        })
    }
}

/// Ranges of names and values in canonical bytes. Ends early where bytes make no sense.
struct Spans<'a> {
    bytes: &'a [u8],
    pos: usize,
}

impl Iterator for Spans<'_> {
    type Item = (Range<usize>, Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.pos >= self.bytes.len() {
            return None;
        }
        let name = self.text()?;
        let value = self.text()?;
        Some((name, value))
    }
}

impl Spans<'_> {
    fn text(&mut self) -> Option<Range<usize>> {
        let end = end_of_field(self.bytes, &mut self.pos).ok()?;
        let start = std::mem::replace(&mut self.pos, end);
        Some(start..end)
    }
}
