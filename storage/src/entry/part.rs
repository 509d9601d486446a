//! A part: samples of one tenant for one shard, in columns.
//!
//! `version tenant epoch | series: labels | timestamps: zigzag deltas | runs | samples values`.
//! A run covers samples whose series and timestamp references each stay the same or grow by one, so a
//! scrape of adjacent ids at one timestamp is a single run.
//!
//! A part with native histograms has another version, and them at its end; see `entry::histograms`.

use bytes::Bytes;
use hashbrown::HashMap;

use super::histograms::{self, HistogramRow, HistogramRows};
use super::{EntryError, MAX_ENTRY_BYTES, MAX_TENANT_BYTES, malformed, value};
use crate::histogram::Histogram;
use crate::labels::check_canonical;
use crate::varint::{Reader, put_bytes, put_i64, put_u64};

const VERSION: u8 = 1;
const VERSION_WITH_HISTOGRAMS: u8 = 2;
/// In a decoded reference: the low bits are the ordinal of a series that came with labels.
pub(super) const ORDINAL_BIT: u64 = 1 << 63;

const FLAG_ORDINAL: u64 = 1;
const FLAG_SERIES_STEP: u64 = 2;
const FLAG_TIME_STEP: u64 = 4;
const FLAG_BITS: u32 = 3;

#[derive(Clone, Copy, Debug)]
struct Run {
    ordinal: bool,
    first: u64,
    time: u64,
    len: u64,
    series_step: u64,
    time_step: u64,
}

/// Builds one part. Samples keep their order; adding them series by series within one scrape, by
/// ascending id, gives the smallest result.
#[derive(Debug)]
pub struct PartBuilder {
    tenant: String,
    ring_epoch: u64,
    series: Vec<u8>,
    series_count: u32,
    timestamps: Vec<i64>,
    time_refs: HashMap<i64, u64>,
    runs: Vec<Run>,
    values: Vec<u8>,
    samples: u64,
    histograms: HistogramRows,
}

impl PartBuilder {
    /// Starts a part. `tenant` must have at most [`MAX_TENANT_BYTES`] bytes, or [`check_part`] refuses it.
    pub fn new(tenant: &str, ring_epoch: u64) -> Self {
        Self {
            tenant: tenant.to_owned(),
            ring_epoch,
            series: Vec::new(),
            series_count: 0,
            timestamps: Vec::new(),
            time_refs: HashMap::new(),
            runs: Vec::new(),
            values: Vec::new(),
            samples: 0,
            histograms: HistogramRows::default(),
        }
    }

    /// Adds a sample of a series that the shard has applied under this id.
    #[inline]
    pub fn known(&mut self, series_id: u64, timestamp_ms: i64, value: f64) {
        self.add(false, series_id, timestamp_ms, value);
    }

    /// Adds a series by its canonical label bytes and returns its ordinal for [`Self::sample`].
    pub fn series(&mut self, labels: &[u8]) -> u32 {
        put_bytes(&mut self.series, labels);
        self.series_count += 1;
        self.series_count - 1
    }

    /// Adds a sample of a series added with [`Self::series`].
    #[inline]
    pub fn sample(&mut self, ordinal: u32, timestamp_ms: i64, value: f64) {
        self.add(true, u64::from(ordinal), timestamp_ms, value);
    }

    /// Adds a native histogram of a series that the shard has applied under this id. It must be valid and
    /// have at most [`crate::MAX_HISTOGRAM_CELLS`] cells, or [`check_part`] refuses the part.
    pub fn known_histogram(&mut self, series_id: u64, timestamp_ms: i64, histogram: &Histogram) {
        self.histograms.push(series_id, timestamp_ms, histogram);
    }

    /// Adds a native histogram of a series added with [`Self::series`]; see [`Self::known_histogram`].
    pub fn histogram(&mut self, ordinal: u32, timestamp_ms: i64, histogram: &Histogram) {
        let series = u64::from(ordinal) | ORDINAL_BIT;
        self.histograms.push(series, timestamp_ms, histogram);
    }

    /// Whether the part has neither series nor samples.
    pub fn is_empty(&self) -> bool {
        self.samples() == 0 && self.series_count == 0
    }

    /// How many samples were added, histograms included.
    pub fn samples(&self) -> u64 {
        self.samples + self.histograms.len()
    }

    /// About how many bytes the finished part will have.
    pub fn size_estimate(&self) -> usize {
        let floats = self.values.len() + 4 * self.runs.len() + 3 * self.timestamps.len();
        self.series.len() + floats + self.histograms.size_estimate() + 32
    }

    /// The encoded part.
    pub fn finish(self) -> Bytes {
        let mut out = Vec::with_capacity(self.size_estimate() + self.tenant.len() + 4 * self.runs.len());
        out.push(match self.histograms.len() {
            0 => VERSION,
            _ => VERSION_WITH_HISTOGRAMS,
        });
        put_bytes(&mut out, self.tenant.as_bytes());
        put_u64(&mut out, self.ring_epoch);
        put_u64(&mut out, u64::from(self.series_count));
        out.extend_from_slice(&self.series);
        put_u64(&mut out, self.timestamps.len() as u64);
        let mut previous = 0i64;
        for timestamp in &self.timestamps {
            put_i64(&mut out, timestamp.wrapping_sub(previous));
            previous = *timestamp;
        }
        put_u64(&mut out, self.runs.len() as u64);
        let mut expected = [0u64; 2];
        for run in &self.runs {
            let flags = (u64::from(run.ordinal) * FLAG_ORDINAL)
                | (run.series_step * FLAG_SERIES_STEP)
                | (run.time_step * FLAG_TIME_STEP);
            put_u64(&mut out, run.len << FLAG_BITS | flags);
            let expected = &mut expected[usize::from(run.ordinal)];
            put_i64(&mut out, run.first.wrapping_sub(*expected) as i64);
            put_u64(&mut out, run.time);
            *expected = run
                .first
                .wrapping_add(run.series_step * (run.len - 1))
                .wrapping_add(1);
        }
        put_u64(&mut out, self.samples);
        out.extend_from_slice(&self.values);
        if self.histograms.len() > 0 {
            self.histograms.encode(&mut out);
        }
        out.into()
    }

    #[inline]
    fn add(&mut self, ordinal: bool, reference: u64, timestamp_ms: i64, value: f64) {
        let time = self.time_ref(timestamp_ms);
        value::put(&mut self.values, value);
        self.samples += 1;
        if let Some(run) = self.runs.last_mut()
            && run.ordinal == ordinal
        {
            if run.len == 1 {
                let series_step = reference.wrapping_sub(run.first);
                let time_step = time.wrapping_sub(run.time);
                if series_step <= 1 && time_step <= 1 {
                    *run = Run {
                        len: 2,
                        series_step,
                        time_step,
                        ..*run
                    };
                    return;
                }
            } else if reference == run.first.wrapping_add(run.series_step * run.len)
                && time == run.time + run.time_step * run.len
            {
                run.len += 1;
                return;
            }
        }
        self.runs.push(Run {
            ordinal,
            first: reference,
            time,
            len: 1,
            series_step: 0,
            time_step: 0,
        });
    }

    #[inline]
    fn time_ref(&mut self, timestamp_ms: i64) -> u64 {
        if let Some(run) = self.runs.last() {
            let last = (run.time + run.time_step * (run.len - 1)) as usize;
            for guess in [last, last + 1] {
                if self.timestamps.get(guess) == Some(&timestamp_ms) {
                    return guess as u64;
                }
            }
        }
        let next = self.timestamps.len() as u64;
        let reference = *self.time_refs.entry(timestamp_ms).or_insert(next);
        if reference == next {
            self.timestamps.push(timestamp_ms);
        }
        reference
    }
}

/// What [`check_part`] tells about a valid part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartInfo {
    /// The tenant.
    pub tenant: String,
    /// The ring epoch under which the part's series were placed.
    pub ring_epoch: u64,
    /// How many samples it holds.
    pub samples: u64,
    /// How many series come with labels.
    pub new_series: u64,
}

/// Validates a part from end to end. Apply accepts exactly the parts that pass.
pub fn check_part(bytes: &[u8]) -> Result<PartInfo, EntryError> {
    let mut columns = Columns::default();
    let part = PartView::decode(bytes, &mut columns)?;
    if part.series.iter().any(|labels| check_canonical(labels).is_err()) {
        return Err(malformed("part", "a series' labels are not canonical"));
    }
    Ok(PartInfo {
        tenant: part.tenant.to_owned(),
        ring_epoch: part.ring_epoch,
        samples: (columns.values.len() + part.histograms.len()) as u64,
        new_series: part.series.len() as u64,
    })
}

/// Decoded samples in three columns of the same length; reused between parts.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    pub(crate) refs: Vec<u64>,
    pub(crate) timestamps: Vec<i64>,
    pub(crate) values: Vec<f64>,
    dictionary: Vec<i64>,
}

/// A reference in [`Columns::refs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SeriesRef {
    Id(u64),
    Ordinal(usize),
}

impl SeriesRef {
    #[inline]
    pub(crate) fn of(column: u64) -> Self {
        if column & ORDINAL_BIT == 0 {
            Self::Id(column)
        } else {
            Self::Ordinal((column ^ ORDINAL_BIT) as usize)
        }
    }
}

/// The fields of a part that borrow from its bytes; the samples are in [`Columns`].
#[derive(Debug)]
pub(crate) struct PartView<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) ring_epoch: u64,
    /// Labels by ordinal; not empty, but whether they are canonical is left to be checked.
    pub(crate) series: Vec<&'a [u8]>,
    /// Native histograms, in order.
    pub(crate) histograms: Vec<HistogramRow<'a>>,
}

impl<'a> PartView<'a> {
    /// Decodes and validates everything but labels; on an error `columns` holds nothing of use.
    pub(crate) fn decode(bytes: &'a [u8], columns: &mut Columns) -> Result<Self, EntryError> {
        if bytes.len() > MAX_ENTRY_BYTES {
            return Err(EntryError::TooLarge(bytes.len()));
        }
        let mut reader = Reader::new(bytes);
        let with_histograms = match reader.u8() {
            Some(VERSION) => false,
            Some(VERSION_WITH_HISTOGRAMS) => true,
            Some(found) => return Err(EntryError::Unknown { what: "part", found }),
            None => return Err(malformed("part", "it is empty")),
        };
        let mut view = decode_header(&mut reader)?;
        decode_dictionary(&mut reader, &mut columns.dictionary)
            .ok_or_else(|| malformed("part", "its timestamps are cut"))?;
        decode_runs(&mut reader, view.series.len() as u64, columns)?;
        let end = decode_values(&mut reader, bytes, columns)?;
        if with_histograms {
            let section = bytes.get(end..).unwrap_or_default();
            view.histograms = histograms::decode(section, view.series.len() as u64)?;
        } else if end != bytes.len() {
            return Err(malformed("part", "bytes follow its end"));
        }
        Ok(view)
    }
}

fn decode_header<'a>(reader: &mut Reader<'a>) -> Result<PartView<'a>, EntryError> {
    let tenant = reader
        .bytes()
        .filter(|t| !t.is_empty() && t.len() <= MAX_TENANT_BYTES)
        .and_then(|t| std::str::from_utf8(t).ok())
        .ok_or_else(|| malformed("part", "its tenant is empty, too long or not UTF-8"))?;
    let cut = || malformed("part", "its series are cut");
    let ring_epoch = reader.varint().ok_or_else(cut)?;
    let count = reader
        .varint_usize()
        .filter(|n| *n <= reader.remaining())
        .ok_or_else(cut)?;
    let mut series = Vec::with_capacity(count);
    for _ in 0..count {
        let labels = reader.bytes().ok_or_else(cut)?;
        if labels.is_empty() {
            return Err(malformed("part", "a series has no labels"));
        }
        series.push(labels);
    }
    Ok(PartView {
        tenant,
        ring_epoch,
        series,
        histograms: Vec::new(),
    })
}

fn decode_dictionary(reader: &mut Reader<'_>, dictionary: &mut Vec<i64>) -> Option<()> {
    let count = reader.varint_usize().filter(|n| *n <= reader.remaining())?;
    dictionary.clear();
    let mut previous = 0i64;
    for _ in 0..count {
        previous = previous.wrapping_add(reader.varint_i64()?);
        dictionary.push(previous);
    }
    Some(())
}

fn decode_runs(reader: &mut Reader<'_>, series: u64, columns: &mut Columns) -> Result<(), EntryError> {
    let cut = || malformed("part", "its runs are cut");
    columns.refs.clear();
    columns.timestamps.clear();
    let mut expected = [0u64; 2];
    for _ in 0..reader.varint().ok_or_else(cut)? {
        let head = reader.varint().ok_or_else(cut)?;
        let step = reader.varint_i64().ok_or_else(cut)?;
        let time = reader.varint().ok_or_else(cut)?;
        let ordinal = head & FLAG_ORDINAL != 0;
        let series_step = u64::from(head & FLAG_SERIES_STEP != 0);
        let time_step = u64::from(head & FLAG_TIME_STEP != 0);
        let len = head >> FLAG_BITS;
        // Every sample has at least a byte of value behind the runs.
        if len == 0 || len > (reader.remaining() as u64).saturating_sub(columns.refs.len() as u64) {
            return Err(malformed("part", "a run is empty or longer than the values"));
        }
        let expected = &mut expected[usize::from(ordinal)];
        let first = expected.wrapping_add(step as u64);
        let last = first.checked_add(series_step * (len - 1));
        let limit = if ordinal { series } else { ORDINAL_BIT };
        let last = last
            .filter(|last| *last < limit && (ordinal || first > 0))
            .ok_or_else(|| malformed("part", "a run names a series that cannot exist"))?;
        *expected = last + 1;
        let times = usize::try_from(time)
            .ok()
            .and_then(|time| columns.dictionary.get(time..))
            .filter(|times| time_step * (len - 1) < times.len() as u64)
            .ok_or_else(|| malformed("part", "a run names a timestamp that is not there"))?;
        let tag = if ordinal { ORDINAL_BIT } else { 0 };
        columns
            .refs
            .extend((0..len).map(|i| (first + series_step * i) | tag));
        if time_step == 1 {
            columns.timestamps.extend_from_slice(&times[..len as usize]);
        } else {
            columns.timestamps.resize(columns.refs.len(), times[0]);
        }
    }
    Ok(())
}

/// Returns where the values end.
fn decode_values(reader: &mut Reader<'_>, bytes: &[u8], columns: &mut Columns) -> Result<usize, EntryError> {
    let count = reader
        .varint_usize()
        .ok_or_else(|| malformed("part", "its values are cut"))?;
    if count != columns.refs.len() {
        return Err(malformed("part", "its runs and values differ in number"));
    }
    columns.values.clear();
    columns.values.reserve(count);
    let mut at = reader.position();
    for _ in 0..count {
        let value = value::get(bytes, &mut at).ok_or_else(|| malformed("part", "its values are cut"))?;
        columns.values.push(value);
    }
    Ok(at)
}
