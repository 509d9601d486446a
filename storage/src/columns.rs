//! Samples as parallel columns: the form in which the store hands samples to the query engine.

use std::sync::Arc;

use crate::histogram::Histogram;

/// Timestamps (Unix milliseconds) and values of one series, in strictly increasing time order.
///
/// The first two vectors always have the same length. Values keep their exact bits, stale markers included. Samples
/// that are histograms are few or none in most series, so they stand aside: a series without them costs nothing more.
#[derive(Clone, Debug, Default)]
pub struct SampleColumns {
    /// Unix milliseconds, strictly increasing.
    pub timestamps: Vec<i64>,
    /// The value at the timestamp of the same index; of a histogram its sum, so that a stale marker is told by its
    /// bits whatever it ends.
    pub values: Vec<f64>,
    /// The samples that are histograms, each with its index in the columns, ascending.
    pub histograms: Vec<(usize, Arc<Histogram>)>,
}

impl SampleColumns {
    /// Columns without samples.
    pub fn new() -> Self {
        Self::default()
    }

    /// Columns with room for `samples` samples.
    pub fn with_capacity(samples: usize) -> Self {
        Self {
            timestamps: Vec::with_capacity(samples),
            values: Vec::with_capacity(samples),
            histograms: Vec::new(),
        }
    }

    /// Appends one sample that is a number.
    #[inline]
    pub fn push(&mut self, timestamp_ms: i64, value: f64) {
        self.timestamps.push(timestamp_ms);
        self.values.push(value);
    }

    /// Appends one sample that is a histogram.
    pub fn push_histogram(&mut self, timestamp_ms: i64, histogram: Arc<Histogram>) {
        self.values.push(histogram.sum);
        self.histograms.push((self.timestamps.len(), histogram));
        self.timestamps.push(timestamp_ms);
    }

    /// The histogram at an index, if that sample is one.
    pub fn histogram(&self, index: usize) -> Option<&Arc<Histogram>> {
        if self.histograms.is_empty() {
            return None;
        }
        let found = self.histograms.binary_search_by_key(&index, |(at, _)| *at);
        found.ok().map(|place| &self.histograms[place].1)
    }

    /// Forgets the samples and keeps the memory.
    pub fn clear(&mut self) {
        self.timestamps.clear();
        self.values.clear();
        self.histograms.clear();
    }

    /// Sorts by time, keeping samples of the same time in their order.
    pub(crate) fn put_in_order(&mut self) {
        if self.timestamps.windows(2).all(|two| two[0] < two[1]) {
            return;
        }
        let mut rows: Vec<(i64, f64, usize)> = self.iter().map(|(t, value)| (t, value, usize::MAX)).collect();
        let histograms = std::mem::take(&mut self.histograms);
        for (place, (index, _)) in histograms.iter().enumerate() {
            rows[*index].2 = place;
        }
        rows.sort_by_key(|row| row.0);
        self.clear();
        for (t, value, place) in rows {
            match histograms.get(place) {
                Some((_, histogram)) => self.push_histogram(t, Arc::clone(histogram)),
                None => self.push(t, value),
            }
        }
    }

    /// How many samples there are.
    pub fn len(&self) -> usize {
        self.timestamps.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.timestamps.is_empty()
    }

    /// The samples in time order, histograms as their sums.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (i64, f64)> + '_ {
        self.timestamps.iter().copied().zip(self.values.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_stay_with_their_timestamps() {
        let histogram = |sum| {
            Arc::new(Histogram {
                sum,
                ..Histogram::default()
            })
        };
        let mut columns = SampleColumns::new();
        columns.push_histogram(5, histogram(50.0));
        columns.push(3, 30.0);
        columns.push_histogram(1, histogram(10.0));
        columns.put_in_order();
        assert_eq!(columns.timestamps, [1, 3, 5]);
        assert_eq!(columns.values, [10.0, 30.0, 50.0]);
        assert_eq!(columns.histogram(0).map(|found| found.sum), Some(10.0));
        assert!(columns.histogram(1).is_none());
        assert_eq!(columns.histogram(2).map(|found| found.sum), Some(50.0));
        columns.clear();
        assert!(columns.is_empty() && columns.histogram(0).is_none());
    }
}
