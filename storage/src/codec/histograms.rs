//! A column of native histograms, bit for bit.
//!
//! Histograms of a series mostly have the same buckets, and a bucket changes little from one to the next. So the
//! column holds each layout (schema, zero threshold, spans, custom bounds) once, and the counts bucket by bucket,
//! each bucket over time as a column of values.

use std::sync::Arc;

use super::CodecError;
use super::ints::{self, IntsEncoder};
use super::values::{ValuesDecoder, ValuesEncoder};
use crate::histogram::{CounterResetHint, Histogram, Span};
use crate::varint::{Reader, put_bytes, put_i64, put_u64};

const CODEC: u8 = 1;
/// Histograms of a column have at most so many cells together, so that reading one takes a bounded time.
pub(crate) const COLUMN_CELLS: usize = 128 * 1024;
/// The most cells of one histogram: its buckets, spans and custom bounds.
pub const MAX_HISTOGRAM_CELLS: usize = 16 * 1024;
/// Cells that every histogram has: count and zero count, sum, and what it takes besides.
const FIXED_CELLS: usize = 16;
const _: () = assert!(FIXED_CELLS + MAX_HISTOGRAM_CELLS <= COLUMN_CELLS);

/// How large a histogram is in a column.
pub(crate) fn cells(histogram: &Histogram) -> usize {
    FIXED_CELLS
        + histogram.positive_buckets.len()
        + histogram.negative_buckets.len()
        + histogram.positive_spans.len()
        + histogram.negative_spans.len()
        + histogram.custom_values.len()
}

/// Whether a histogram may be stored.
pub(crate) fn fits(histogram: &Histogram) -> bool {
    cells(histogram) - FIXED_CELLS <= MAX_HISTOGRAM_CELLS
}

/// How many histograms, from the first on, fit one column; at least one.
pub(crate) fn column_len(histograms: &[Arc<Histogram>]) -> usize {
    let mut left = COLUMN_CELLS;
    let fitting = histograms.iter().take_while(|histogram| {
        let needed = cells(histogram);
        let fits = needed <= left;
        left = left.saturating_sub(needed);
        fits
    });
    fitting.count().max(1)
}

/// Encodes columns. It keeps its buffers, so that many columns cost little allocation.
#[derive(Debug, Default)]
pub(crate) struct HistogramsEncoder {
    values: ValuesEncoder,
    ints: IntsEncoder,
    bits: Vec<u64>,
    column: Vec<u8>,
}

impl HistogramsEncoder {
    /// Appends the encoded column. The number of histograms, at least one, is not part of it.
    pub(crate) fn encode(&mut self, histograms: &[Arc<Histogram>], out: &mut Vec<u8>) {
        let (layouts, places) = layouts_of(histograms);
        out.push(CODEC);
        put_u64(out, layouts.len() as u64);
        layouts.iter().for_each(|layout| put_layout(out, layout));
        if layouts.len() > 1 {
            self.ints.encode(&places, out);
        }
        let hints: Vec<i64> = histograms
            .iter()
            .map(|h| hint_code(h.counter_reset_hint))
            .collect();
        self.ints.encode(&hints, out);
        self.put_values(out, histograms.iter().map(|h| h.sum));
        for (place, layout) in (0i64..).zip(&layouts) {
            let both = histograms.iter().zip(&places);
            let of_layout: Vec<&Histogram> =
                both.filter(|(_, at)| **at == place).map(|(h, _)| &**h).collect();
            self.put_values(out, of_layout.iter().map(|h| h.count));
            self.put_values(out, of_layout.iter().map(|h| h.zero_count));
            for bucket in 0..layout.positive_buckets.len() {
                self.put_values(out, of_layout.iter().map(|h| h.positive_buckets[bucket]));
            }
            for bucket in 0..layout.negative_buckets.len() {
                self.put_values(out, of_layout.iter().map(|h| h.negative_buckets[bucket]));
            }
        }
    }

    fn put_values(&mut self, out: &mut Vec<u8>, values: impl Iterator<Item = f64>) {
        self.bits.clear();
        self.bits.extend(values.map(f64::to_bits));
        self.column.clear();
        self.values.encode(&self.bits, &mut self.column);
        put_bytes(out, &self.column);
    }
}

/// The layouts, each once in the order of their first use, and the place among them of each histogram's.
fn layouts_of(histograms: &[Arc<Histogram>]) -> (Vec<&Histogram>, Vec<i64>) {
    let mut layouts: Vec<&Histogram> = Vec::new();
    let mut places = Vec::with_capacity(histograms.len());
    let mut last = 0;
    for histogram in histograms {
        if !layouts
            .get(last)
            .is_some_and(|layout| same_layout(layout, histogram))
        {
            let known = layouts.iter().position(|layout| same_layout(layout, histogram));
            last = known.unwrap_or(layouts.len());
            if known.is_none() {
                layouts.push(histogram);
            }
        }
        places.push(last as i64);
    }
    (layouts, places)
}

/// Bits of floats: two layouts are the same only if what is read back can't tell them apart.
fn same_layout(a: &Histogram, b: &Histogram) -> bool {
    let same = |a: f64, b: f64| a.to_bits() == b.to_bits();
    a.schema == b.schema
        && same(a.zero_threshold, b.zero_threshold)
        && a.positive_spans == b.positive_spans
        && a.negative_spans == b.negative_spans
        && a.positive_buckets.len() == b.positive_buckets.len()
        && a.negative_buckets.len() == b.negative_buckets.len()
        && a.custom_values.len() == b.custom_values.len()
        && a.custom_values
            .iter()
            .zip(&b.custom_values)
            .all(|(a, b)| same(*a, *b))
}

fn hint_code(hint: CounterResetHint) -> i64 {
    match hint {
        CounterResetHint::Unknown => 0,
        CounterResetHint::Reset => 1,
        CounterResetHint::NotReset => 2,
        CounterResetHint::Gauge => 3,
    }
}

fn hint_of(code: i64) -> Option<CounterResetHint> {
    Some(match code {
        0 => CounterResetHint::Unknown,
        1 => CounterResetHint::Reset,
        2 => CounterResetHint::NotReset,
        3 => CounterResetHint::Gauge,
        _ => return None,
    })
}

fn put_layout(out: &mut Vec<u8>, layout: &Histogram) {
    put_i64(out, i64::from(layout.schema));
    out.extend_from_slice(&layout.zero_threshold.to_bits().to_le_bytes());
    for spans in [&layout.positive_spans, &layout.negative_spans] {
        put_u64(out, spans.len() as u64);
        for span in spans {
            put_i64(out, i64::from(span.offset));
            put_u64(out, u64::from(span.length));
        }
    }
    put_u64(out, layout.custom_values.len() as u64);
    for bound in &layout.custom_values {
        out.extend_from_slice(&bound.to_bits().to_le_bytes());
    }
}

/// Reads columns. It keeps its buffers.
#[derive(Debug, Default)]
pub(crate) struct HistogramsDecoder {
    values: ValuesDecoder,
    ints: Vec<i64>,
    floats: Vec<f64>,
}

impl HistogramsDecoder {
    /// Appends the `count` histograms of a column that takes all of `bytes`.
    pub(crate) fn decode(
        &mut self,
        bytes: &[u8],
        count: usize,
        out: &mut Vec<Arc<Histogram>>,
    ) -> Result<(), CodecError> {
        let mut reader = Reader::new(bytes);
        match reader.u8() {
            Some(CODEC) => {}
            Some(unknown) => return Err(CodecError::UnknownCodec(unknown)),
            None => return Err(CodecError::Malformed),
        }
        let read = self.read(&mut reader, count).ok_or(CodecError::Malformed)?;
        if !reader.is_empty() {
            return Err(CodecError::Malformed);
        }
        out.extend(read.into_iter().map(Arc::new));
        Ok(())
    }

    fn read(&mut self, reader: &mut Reader<'_>, count: usize) -> Option<Vec<Histogram>> {
        let layouts = reader.varint_usize().filter(|n| (1..=count).contains(n))?;
        let layouts = (0..layouts)
            .map(|_| read_layout(reader))
            .collect::<Option<Vec<Histogram>>>()?;
        let mut places = vec![0; count];
        if layouts.len() > 1 {
            self.read_ints(reader, count)?;
            for (place, read) in places.iter_mut().zip(&self.ints) {
                *place = usize::try_from(*read)
                    .ok()
                    .filter(|place| *place < layouts.len())?;
            }
        }
        // Before counts are allocated: the bytes may ask for any number of them.
        let total = places.iter().map(|place| cells(&layouts[*place]));
        if total.fold(0usize, usize::saturating_add) > COLUMN_CELLS {
            return None;
        }
        let mut histograms: Vec<Histogram> = places.iter().map(|place| layouts[*place].clone()).collect();
        self.read_ints(reader, count)?;
        for (histogram, code) in histograms.iter_mut().zip(&self.ints) {
            histogram.counter_reset_hint = hint_of(*code)?;
        }
        self.read_values(reader, count)?;
        for (histogram, sum) in histograms.iter_mut().zip(&self.floats) {
            histogram.sum = *sum;
        }
        for (place, layout) in layouts.iter().enumerate() {
            let of_layout: Vec<usize> = (0..count).filter(|at| places[*at] == place).collect();
            self.read_counts(reader, layout, &of_layout, &mut histograms)?;
        }
        histograms
            .iter()
            .all(|histogram| histogram.check_layout().is_ok())
            .then_some(histograms)
    }

    fn read_counts(
        &mut self,
        reader: &mut Reader<'_>,
        layout: &Histogram,
        of_layout: &[usize],
        histograms: &mut [Histogram],
    ) -> Option<()> {
        if of_layout.is_empty() {
            return None;
        }
        let mut column = |set: &dyn Fn(&mut Histogram, f64)| -> Option<()> {
            self.read_values(reader, of_layout.len())?;
            for (at, count) in of_layout.iter().zip(&self.floats) {
                set(&mut histograms[*at], *count);
            }
            Some(())
        };
        column(&|histogram, count| histogram.count = count)?;
        column(&|histogram, count| histogram.zero_count = count)?;
        for bucket in 0..layout.positive_buckets.len() {
            column(&|histogram, count| histogram.positive_buckets[bucket] = count)?;
        }
        for bucket in 0..layout.negative_buckets.len() {
            column(&|histogram, count| histogram.negative_buckets[bucket] = count)?;
        }
        Some(())
    }

    fn read_ints(&mut self, reader: &mut Reader<'_>, count: usize) -> Option<()> {
        self.ints.clear();
        ints::decode(reader, count, &mut self.ints).ok()
    }

    fn read_values(&mut self, reader: &mut Reader<'_>, count: usize) -> Option<()> {
        let bytes = reader.bytes()?;
        self.floats.clear();
        self.values.decode(bytes, count, &mut self.floats).ok()
    }
}

/// A histogram with the layout and without counts.
fn read_layout(reader: &mut Reader<'_>) -> Option<Histogram> {
    let mut layout = Histogram {
        schema: i32::try_from(reader.varint_i64()?).ok()?,
        zero_threshold: read_f64(reader)?,
        ..Histogram::default()
    };
    (layout.positive_spans, layout.positive_buckets) = read_side(reader)?;
    (layout.negative_spans, layout.negative_buckets) = read_side(reader)?;
    let bounds = reader.varint_usize().filter(|n| *n <= reader.remaining() / 8)?;
    layout.custom_values = (0..bounds).map(|_| read_f64(reader)).collect::<Option<_>>()?;
    Some(layout)
}

fn read_side(reader: &mut Reader<'_>) -> Option<(Vec<Span>, Vec<f64>)> {
    // A span takes two bytes at least, a column of a bucket's counts too.
    let spans = reader.varint_usize().filter(|n| *n <= reader.remaining() / 2)?;
    let spans = (0..spans)
        .map(|_| {
            Some(Span {
                offset: i32::try_from(reader.varint_i64()?).ok()?,
                length: u32::try_from(reader.varint()?).ok()?,
            })
        })
        .collect::<Option<Vec<Span>>>()?;
    let buckets: u64 = spans.iter().map(|span| u64::from(span.length)).sum();
    let buckets = usize::try_from(buckets).ok();
    let buckets = buckets.filter(|n| *n <= MAX_HISTOGRAM_CELLS.min(reader.remaining() / 2))?;
    Some((spans, vec![0.0; buckets]))
}

fn read_f64(reader: &mut Reader<'_>) -> Option<f64> {
    let bytes = reader.array()?;
    Some(f64::from_bits(u64::from_le_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::histogram::tests::histograms;

    fn encoded(column: &[Arc<Histogram>]) -> Vec<u8> {
        let mut out = Vec::new();
        HistogramsEncoder::default().encode(column, &mut out);
        out
    }

    fn decoded(bytes: &[u8], count: usize) -> Result<Vec<Arc<Histogram>>, CodecError> {
        let mut out = Vec::new();
        HistogramsDecoder::default().decode(bytes, count, &mut out)?;
        Ok(out)
    }

    /// A few layouts, each with several counts: what a series looks like.
    fn columns() -> impl Strategy<Value = Vec<Arc<Histogram>>> {
        let samples = vec((any::<prop::sample::Index>(), 0u32..100, any::<u64>()), 1..60);
        (vec(histograms(), 1..4), samples).prop_map(|(layouts, samples)| {
            let one = |(layout, more, sum): (prop::sample::Index, u32, u64)| {
                let mut histogram = layout.get(&layouts).clone();
                histogram.count += f64::from(more);
                histogram
                    .positive_buckets
                    .iter_mut()
                    .for_each(|count| *count += f64::from(more));
                histogram.sum = f64::from_bits(sum);
                Arc::new(histogram)
            };
            samples.into_iter().map(one).collect()
        })
    }

    /// What a scraped histogram does: counts grow, once a bucket is new, then the series ends.
    fn scraped(samples: u32) -> Vec<Arc<Histogram>> {
        let mut column: Vec<Arc<Histogram>> = (0..samples)
            .map(|at| {
                let mut buckets = vec![f64::from(at * 3), f64::from(at * at), f64::from(at / 7)];
                let mut spans = vec![
                    Span {
                        offset: -3,
                        length: 2,
                    },
                    Span { offset: 4, length: 1 },
                ];
                if at > samples / 2 {
                    buckets.push(f64::from(at - samples / 2));
                    spans[1].length = 2;
                }
                Arc::new(Histogram {
                    schema: 3,
                    zero_threshold: 2f64.powi(-128),
                    zero_count: f64::from(at),
                    count: f64::from(at) + buckets.iter().sum::<f64>(),
                    sum: f64::from(at) * 1.25,
                    positive_spans: spans,
                    positive_buckets: buckets,
                    ..Histogram::default()
                })
            })
            .collect();
        column.push(Arc::new(Histogram::stale()));
        column
    }

    #[test]
    fn golden() {
        let column = scraped(30);
        let bytes = encoded(&column);
        crate::golden::check("column-histograms-v1", &bytes);
        assert_eq!(decoded(&bytes, column.len()), Ok(column));
    }

    #[test]
    fn a_bucket_takes_little_more_than_its_changes() {
        let column = scraped(240);
        let alone: usize = column
            .iter()
            .map(|histogram| {
                let mut out = Vec::new();
                histogram.encode(&mut out);
                out.len()
            })
            .sum();
        let together = encoded(&column).len();
        assert!(together * 8 < alone, "{together} of {alone}");
    }

    #[test]
    fn columns_are_bounded() {
        let wide = |buckets: u32| {
            Arc::new(Histogram {
                positive_spans: vec![Span {
                    offset: 0,
                    length: buckets,
                }],
                positive_buckets: vec![1.0; buckets as usize],
                ..Histogram::default()
            })
        };
        assert!(fits(&wide(MAX_HISTOGRAM_CELLS as u32 - 1)));
        assert!(!fits(&wide(MAX_HISTOGRAM_CELLS as u32)));
        let column = vec![wide(16_000); 9];
        assert_eq!(column_len(&column), 8);
        assert_eq!(decoded(&encoded(&column[..8]), 8).map(|read| read.len()), Ok(8));
        assert_eq!(decoded(&encoded(&column), 9), Err(CodecError::Malformed));
    }

    proptest! {
        #[test]
        fn every_bit_comes_back(column in columns()) {
            let bytes = encoded(&column);
            prop_assert_eq!(decoded(&bytes, column.len()), Ok(column.clone()));
            prop_assert!(decoded(&bytes, 0).is_err());
        }

        #[test]
        fn damage_never_panics(
            column in columns(),
            changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut: prop::sample::Index,
        ) {
            let mut bytes = encoded(&column);
            prop_assert!(decoded(&bytes[..cut.index(bytes.len())], column.len()).is_err());
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(read) = decoded(&bytes, column.len()) {
                prop_assert_eq!(read.len(), column.len());
                prop_assert!(read.iter().all(|histogram| histogram.check_layout().is_ok()));
            }
        }

        #[test]
        fn garbage_never_panics(mut bytes in vec(any::<u8>(), 0..100), count in 0usize..300) {
            bytes.insert(0, CODEC);
            let _ = decoded(&bytes, count);
        }
    }
}
