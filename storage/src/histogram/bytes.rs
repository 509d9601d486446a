//! A histogram as bytes.
//!
//! Counts that are whole numbers take a varint each, those of buckets as the difference from the bucket before.
//! Whoever stores the bytes adds a checksum; that they are whole and consistent is checked here.

use super::{CounterResetHint, Histogram, HistogramError, Span};
use crate::varint::{Reader, put_i64, put_u64, unzigzag, zigzag};

/// The first byte.
const VERSION: u8 = 1;

/// Bits of the second byte; the lowest two are the counter reset hint.
const INTEGRAL: u8 = 1 << 2;
const ZERO_THRESHOLD_IS_ZERO: u8 = 1 << 3;
const ZERO_THRESHOLD_IS_DEFAULT: u8 = 1 << 4;
const KNOWN_FLAGS: u8 = 0b1_1111;

/// What clients use unless they are told otherwise: 2^-128.
const DEFAULT_ZERO_THRESHOLD: f64 = 1.0 / (1_u128 << 127) as f64 / 2.0;

/// Integers up to here are exact as floats.
const MAX_EXACT: f64 = (1_u64 << 53) as f64;

/// Why bytes are not a histogram.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum HistogramDecodeError {
    /// The first byte is none that this program writes.
    #[error("a histogram has format {0}, which this program does not know")]
    UnknownVersion(u8),
    /// The bytes end before the histogram does, go on behind it, or contradict themselves.
    #[error("a histogram is cut or malformed")]
    Malformed,
    /// The histogram has an impossible layout.
    #[error("a stored histogram is invalid: {0}")]
    Invalid(#[from] HistogramError),
}

impl Histogram {
    /// Appends the histogram in its stored form. Every bit of it comes back from [`Histogram::decode`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        let counts = [self.count, self.zero_count].into_iter();
        let mut counts = counts
            .chain(self.positive_buckets.iter().copied())
            .chain(self.negative_buckets.iter().copied());
        let integral = counts.all(is_integral);
        let mut flags = match self.counter_reset_hint {
            CounterResetHint::Unknown => 0,
            CounterResetHint::Reset => 1,
            CounterResetHint::NotReset => 2,
            CounterResetHint::Gauge => 3,
        };
        let threshold_bits = self.zero_threshold.to_bits();
        let threshold_is_zero = threshold_bits == 0;
        let threshold_is_default = threshold_bits == DEFAULT_ZERO_THRESHOLD.to_bits();
        for (set, flag) in [
            (integral, INTEGRAL),
            (threshold_is_zero, ZERO_THRESHOLD_IS_ZERO),
            (threshold_is_default, ZERO_THRESHOLD_IS_DEFAULT),
        ] {
            flags |= if set { flag } else { 0 };
        }
        out.extend_from_slice(&[VERSION, flags]);
        put_i64(out, i64::from(self.schema));
        if !threshold_is_zero && !threshold_is_default {
            put_f64(out, self.zero_threshold);
        }
        put_f64(out, self.sum);
        put_count(out, self.count, integral);
        put_count(out, self.zero_count, integral);
        for (spans, buckets) in [
            (&self.positive_spans, &self.positive_buckets),
            (&self.negative_spans, &self.negative_buckets),
        ] {
            put_spans(out, spans);
            put_buckets(out, buckets, integral);
        }
        put_u64(out, self.custom_values.len() as u64);
        self.custom_values.iter().for_each(|value| put_f64(out, *value));
    }

    /// Reads what [`Histogram::encode`] wrote: all of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Histogram, HistogramDecodeError> {
        match bytes.first() {
            None => return Err(HistogramDecodeError::Malformed),
            Some(&VERSION) => {}
            Some(unknown) => return Err(HistogramDecodeError::UnknownVersion(*unknown)),
        }
        let histogram = read(&bytes[1..]).ok_or(HistogramDecodeError::Malformed)?;
        histogram.check_layout()?;
        Ok(histogram)
    }
}

fn is_integral(count: f64) -> bool {
    count.is_sign_positive() && count <= MAX_EXACT && count.fract() == 0.0
}

fn put_f64(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

fn put_count(out: &mut Vec<u8>, count: f64, integral: bool) {
    if integral {
        put_u64(out, count as u64);
    } else {
        put_f64(out, count);
    }
}

fn put_spans(out: &mut Vec<u8>, spans: &[Span]) {
    put_u64(out, spans.len() as u64);
    for span in spans {
        put_i64(out, i64::from(span.offset));
        put_u64(out, u64::from(span.length));
    }
}

fn put_buckets(out: &mut Vec<u8>, buckets: &[f64], integral: bool) {
    let mut before = 0_i64;
    for count in buckets {
        if integral {
            let count = *count as i64;
            put_u64(out, zigzag(count - before));
            before = count;
        } else {
            put_f64(out, *count);
        }
    }
}

/// Everything behind the version; `None` if it can't be.
fn read(bytes: &[u8]) -> Option<Histogram> {
    let mut reader = Reader::new(bytes);
    let flags = reader.u8().filter(|flags| flags & !KNOWN_FLAGS == 0)?;
    let integral = flags & INTEGRAL != 0;
    let mut histogram = Histogram {
        counter_reset_hint: match flags & 3 {
            0 => CounterResetHint::Unknown,
            1 => CounterResetHint::Reset,
            2 => CounterResetHint::NotReset,
            _ => CounterResetHint::Gauge,
        },
        schema: i32::try_from(reader.varint_i64()?).ok()?,
        ..Histogram::default()
    };
    histogram.zero_threshold = match flags & (ZERO_THRESHOLD_IS_ZERO | ZERO_THRESHOLD_IS_DEFAULT) {
        0 => read_f64(&mut reader)?,
        ZERO_THRESHOLD_IS_ZERO => 0.0,
        ZERO_THRESHOLD_IS_DEFAULT => DEFAULT_ZERO_THRESHOLD,
        _ => return None,
    };
    histogram.sum = read_f64(&mut reader)?;
    histogram.count = read_count(&mut reader, integral)?;
    histogram.zero_count = read_count(&mut reader, integral)?;
    (histogram.positive_spans, histogram.positive_buckets) = read_side(&mut reader, integral)?;
    (histogram.negative_spans, histogram.negative_buckets) = read_side(&mut reader, integral)?;
    let bounds = reader.varint_usize().filter(|n| *n <= reader.remaining() / 8)?;
    histogram.custom_values = (0..bounds)
        .map(|_| read_f64(&mut reader))
        .collect::<Option<_>>()?;
    reader.is_empty().then_some(histogram)
}

fn read_f64(reader: &mut Reader<'_>) -> Option<f64> {
    reader
        .array()
        .map(|bytes| f64::from_bits(u64::from_le_bytes(bytes)))
}

fn read_count(reader: &mut Reader<'_>, integral: bool) -> Option<f64> {
    if !integral {
        return read_f64(reader);
    }
    reader
        .varint()
        .map(|count| count as f64)
        .filter(|count| *count <= MAX_EXACT)
}

fn read_side(reader: &mut Reader<'_>, integral: bool) -> Option<(Vec<Span>, Vec<f64>)> {
    // A span takes two bytes at least.
    let spans = reader.varint_usize().filter(|n| *n <= reader.remaining() / 2)?;
    let spans: Vec<Span> = (0..spans)
        .map(|_| {
            Some(Span {
                offset: i32::try_from(reader.varint_i64()?).ok()?,
                length: u32::try_from(reader.varint()?).ok()?,
            })
        })
        .collect::<Option<_>>()?;
    let buckets: u64 = spans.iter().map(|span| u64::from(span.length)).sum();
    let least_bytes = if integral { 1 } else { 8 };
    let buckets = usize::try_from(buckets)
        .ok()
        .filter(|n| *n <= reader.remaining() / least_bytes)?;
    let mut counts = Vec::with_capacity(buckets);
    let mut before = 0_i64;
    for _ in 0..buckets {
        counts.push(if integral {
            before = before.checked_add(unzigzag(reader.varint()?))?;
            Some(before as f64).filter(|count| (0.0..=MAX_EXACT).contains(count))?
        } else {
            read_f64(reader)?
        });
    }
    Some((spans, counts))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::golden;
    use crate::histogram::tests::histograms;

    fn encoded(histogram: &Histogram) -> Vec<u8> {
        let mut out = Vec::new();
        histogram.encode(&mut out);
        out
    }

    proptest! {
        #[test]
        fn every_bit_comes_back(histogram in histograms()) {
            prop_assert_eq!(Histogram::decode(&encoded(&histogram)), Ok(histogram));
        }

        #[test]
        fn damage_is_an_error_or_another_valid_histogram(
            histogram in histograms(),
            at: prop::sample::Index,
            byte: u8,
            cut: prop::sample::Index,
        ) {
            let mut bytes = encoded(&histogram);
            prop_assert!(Histogram::decode(&bytes[..cut.index(bytes.len())]).is_err());
            prop_assert!(Histogram::decode(&[bytes.as_slice(), &[byte]].concat()).is_err());
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(read) = Histogram::decode(&bytes) {
                prop_assert_eq!(read.check_layout(), Ok(()));
            }
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Histogram::decode(&bytes);
            let _ = Histogram::decode(&[&[VERSION], bytes.as_slice()].concat());
        }
    }

    #[test]
    fn the_stored_form_is_pinned() {
        assert_eq!(DEFAULT_ZERO_THRESHOLD, 2f64.powi(-128));
        let integral = Histogram {
            counter_reset_hint: CounterResetHint::NotReset,
            schema: 3,
            zero_threshold: DEFAULT_ZERO_THRESHOLD,
            zero_count: 2.0,
            count: 13.0,
            sum: 18.4,
            positive_spans: vec![
                Span {
                    offset: -2,
                    length: 2,
                },
                Span { offset: 3, length: 1 },
            ],
            positive_buckets: vec![1.0, 5.0, 2.0],
            negative_spans: vec![Span { offset: 0, length: 1 }],
            negative_buckets: vec![3.0],
            custom_values: Vec::new(),
        };
        assert_eq!(encoded(&integral).len(), 26);
        let custom = Histogram {
            schema: crate::histogram::CUSTOM_SCHEMA,
            count: 1.5,
            sum: 2.0,
            positive_spans: vec![Span { offset: 1, length: 1 }],
            positive_buckets: vec![1.5],
            custom_values: vec![0.005, 1.0],
            ..Histogram::default()
        };
        let float = Histogram {
            zero_threshold: 0.25,
            counter_reset_hint: CounterResetHint::Gauge,
            ..Histogram::stale()
        };
        let all: Vec<u8> = [integral, custom, float]
            .iter()
            .flat_map(|histogram| {
                let bytes = encoded(histogram);
                [vec![bytes.len() as u8], bytes].concat()
            })
            .collect();
        golden::check("histograms-v1", &all);
    }

    #[test]
    fn an_unknown_version_is_named() {
        assert_eq!(
            Histogram::decode(&[9, 0]),
            Err(HistogramDecodeError::UnknownVersion(9))
        );
    }
}
