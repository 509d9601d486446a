//! `load_with_nhcb`: classic histograms, stored a second time as native ones with custom buckets.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_storage::histogram::{CUSTOM_SCHEMA, Span};
use quorate_storage::{Histogram, Labels, LabelsBuilder, SampleColumns};

use super::error::{Context as _, Result, ensure};

/// A classic histogram at one time.
#[derive(Default)]
struct Classic {
    /// Bounds and counts of what is not above them, ascending.
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: f64,
}

/// The native histograms of the classic ones among `loaded`.
pub(super) fn as_native(loaded: &[(Labels, SampleColumns)]) -> Result<Vec<(Labels, SampleColumns)>> {
    let mut histograms: BTreeMap<Labels, BTreeMap<i64, Classic>> = BTreeMap::new();
    for (labels, samples) in loaded {
        let Some((native, part)) = part_of(labels) else {
            continue;
        };
        let by_time = histograms.entry(native).or_default();
        let numbers = samples
            .iter()
            .enumerate()
            .filter(|(index, _)| samples.histogram(*index).is_none());
        for (_, (time, value)) in numbers {
            let classic = by_time.entry(time).or_default();
            match part {
                Part::Bucket(bound) => {
                    let place = classic.buckets.partition_point(|(other, _)| *other < bound);
                    classic.buckets.insert(place, (bound, value));
                }
                Part::Count => classic.count = Some(value),
                Part::Sum => classic.sum = value,
            }
        }
    }
    let mut native = Vec::new();
    for (labels, by_time) in histograms {
        let mut samples = SampleColumns::new();
        for (time, classic) in by_time {
            let histogram = convert(classic).with_context(|| format!("{labels} at {time}"))?;
            samples.push_histogram(time, Arc::new(histogram));
        }
        native.push((labels, samples));
    }
    Ok(native)
}

enum Part {
    Bucket(f64),
    Count,
    Sum,
}

/// The labels of the native histogram that a series is a part of, and which part.
fn part_of(labels: &Labels) -> Option<(Labels, Part)> {
    let name = labels.get("__name__")?;
    let (base, part) = if let Some(base) = name.strip_suffix("_bucket") {
        let bound: f64 = match labels.get("le")? {
            "+Inf" | "Inf" => f64::INFINITY,
            text => text.parse().ok().filter(|bound: &f64| !bound.is_nan())?,
        };
        (base, Part::Bucket(bound))
    } else if let Some(base) = name.strip_suffix("_count") {
        (base, Part::Count)
    } else {
        (name.strip_suffix("_sum")?, Part::Sum)
    };
    let mut builder = LabelsBuilder::from(labels);
    builder.set("__name__", base);
    builder.del("le");
    Some((builder.build(), part))
}

fn convert(classic: Classic) -> Result<Histogram> {
    let mut buckets = classic.buckets;
    let highest = buckets.last().map_or(0.0, |(_, count)| *count);
    let count = classic.count.unwrap_or(highest);
    if buckets.last().is_none_or(|(bound, _)| *bound != f64::INFINITY) {
        buckets.push((f64::INFINITY, count));
    }
    let mut counts = Vec::with_capacity(buckets.len());
    let mut below = 0.0;
    for (bound, up_to) in &buckets {
        let falls = up_to.is_nan() || *up_to < below;
        ensure!(
            !falls,
            "the bucket up to {bound} counts less than the one below it"
        );
        counts.push(up_to - below);
        below = *up_to;
    }
    ensure!(
        below == count,
        "the highest bucket counts {below}, all together {count}"
    );
    let custom_values = buckets[..buckets.len() - 1].iter().map(|(bound, _)| *bound);
    let mut histogram = Histogram {
        schema: CUSTOM_SCHEMA,
        count,
        sum: classic.sum,
        custom_values: custom_values.collect(),
        positive_spans: vec![Span {
            offset: 0,
            length: u32::try_from(counts.len()).context("too many buckets")?,
        }],
        positive_buckets: counts,
        ..Histogram::default()
    };
    histogram.validate().context("a classic histogram")?;
    histogram.compact();
    Ok(histogram)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(labels: &[(&str, &str)], value: f64) -> (Labels, SampleColumns) {
        let mut samples = SampleColumns::new();
        samples.push(0, value);
        (Labels::from_pairs(labels.iter().copied()).unwrap(), samples)
    }

    #[test]
    fn parts_come_together() {
        let loaded = [
            series(&[("__name__", "m_bucket"), ("le", "1")], 2.0),
            series(&[("__name__", "m_bucket"), ("le", "+Inf")], 5.0),
            series(&[("__name__", "m_bucket"), ("le", "0.5")], 2.0),
            series(&[("__name__", "m_sum")], 7.5),
            series(&[("__name__", "other")], 1.0),
        ];
        let native = as_native(&loaded).unwrap();
        assert_eq!(native.len(), 1);
        let histogram = native[0].1.histogram(0).unwrap();
        assert_eq!(histogram.custom_values, [0.5, 1.0]);
        assert_eq!((histogram.count, histogram.sum), (5.0, 7.5));
        assert_eq!(
            histogram.to_string(),
            "{count:5, sum:7.5, [-Inf,0.5]:2, (1,+Inf]:3}"
        );
        let falling = [
            series(&[("__name__", "m_bucket"), ("le", "1")], 2.0),
            series(&[("__name__", "m_bucket"), ("le", "2")], 1.0),
        ];
        assert!(as_native(&falling).is_err());
    }
}
