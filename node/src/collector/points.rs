//! One round's figures, and what became of the series of the round before.

use std::collections::BTreeMap;

use quorate_client::Series;

/// The NaN by which Prometheus marks that a series has ended.
pub(super) const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;

/// A name and its labels; the value is apart, so that this can be a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SeriesName {
    pub(super) metric: String,
    pub(super) labels: Vec<(&'static str, String)>,
}

/// Figures of one target, each series once.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Points(BTreeMap<SeriesName, f64>);

impl Points {
    /// Adds a figure without labels.
    pub(super) fn plain(&mut self, metric: impl Into<String>, value: f64) {
        self.add(metric, Vec::new(), value);
    }

    /// Adds a figure with labels.
    pub(super) fn add(&mut self, metric: impl Into<String>, labels: Vec<(&'static str, String)>, value: f64) {
        self.0.insert(
            SeriesName {
                metric: metric.into(),
                labels,
            },
            value,
        );
    }

    /// Adds another target's figures or this one's of another source.
    pub(super) fn extend(&mut self, other: Points) {
        self.0.extend(other.0);
    }

    /// The same figures with `job` and `instance`.
    pub(super) fn of_target(self, job: &str, instance: &str) -> Points {
        let label = |(mut name, value): (SeriesName, f64)| {
            name.labels.push(("job", job.to_owned()));
            name.labels.push(("instance", instance.to_owned()));
            (name, value)
        };
        Points(self.0.into_iter().map(label).collect())
    }

    /// The series to write: every figure, and a stale marker for each series of `before` that is gone.
    pub(super) fn to_series(&self, before: &Points, timestamp_ms: i64) -> Vec<Series> {
        let gone = before.0.keys().filter(|name| !self.0.contains_key(*name));
        let ended = gone.map(|name| (name, f64::from_bits(STALE_NAN_BITS)));
        let present = self.0.iter().map(|(name, value)| (name, *value));
        present
            .chain(ended)
            .map(|(name, value)| series(name, timestamp_ms, value))
            .collect()
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (&SeriesName, f64)> {
        self.0.iter().map(|(name, value)| (name, *value))
    }
}

fn series(name: &SeriesName, timestamp_ms: i64, value: f64) -> Series {
    let start = Series::new(name.metric.clone());
    let labelled = name.labels.iter().fold(start, |series, (label, value)| {
        series.label(*label, value.clone())
    });
    labelled.sample(timestamp_ms, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vanished_series_gets_one_stale_marker() {
        let (mut first, mut second) = (Points::default(), Points::default());
        first.add("disk", vec![("device", "a".into())], 1.0);
        first.add("disk", vec![("device", "b".into())], 2.0);
        second.add("disk", vec![("device", "b".into())], 3.0);

        let stale = f64::from_bits(STALE_NAN_BITS);
        let disk = |device: &str, value: f64| Series::new("disk").label("device", device).sample(7, value);
        assert_eq!(
            first.to_series(&Points::default(), 7),
            [disk("a", 1.0), disk("b", 2.0)]
        );
        let written = second.to_series(&first, 7);
        assert_eq!(
            format!("{written:?}"),
            format!("{:?}", [disk("b", 3.0), disk("a", stale)])
        );
        assert_eq!(second.to_series(&second, 7), [disk("b", 3.0)]);
    }
}
