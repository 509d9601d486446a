//! Samples as two parallel columns: the form in which the store hands samples to the query engine.

/// Timestamps (Unix milliseconds) and values of one series, in strictly increasing time order.
///
/// The two vectors always have the same length. Values keep their exact bits, stale markers included.
#[derive(Clone, Debug, Default)]
pub struct SampleColumns {
    /// Unix milliseconds, strictly increasing.
    pub timestamps: Vec<i64>,
    /// The value at the timestamp of the same index.
    pub values: Vec<f64>,
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
        }
    }

    /// Appends one sample.
    #[inline]
    pub fn push(&mut self, timestamp_ms: i64, value: f64) {
        self.timestamps.push(timestamp_ms);
        self.values.push(value);
    }

    /// Forgets the samples and keeps the memory.
    pub fn clear(&mut self) {
        self.timestamps.clear();
        self.values.clear();
    }

    /// Sorts by time, keeping samples of the same time in their order.
    pub(crate) fn put_in_order(&mut self) {
        if self.timestamps.windows(2).all(|two| two[0] < two[1]) {
            return;
        }
        let mut rows: Vec<(i64, f64)> = self.iter().collect();
        rows.sort_by_key(|row| row.0);
        self.clear();
        for (t, value) in rows {
            self.push(t, value);
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

    /// The samples in time order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (i64, f64)> + '_ {
        self.timestamps.iter().copied().zip(self.values.iter().copied())
    }
}
