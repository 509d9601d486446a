//! Which sample a writer sends: pure functions of writer, batch and position, so that a history need not
//! hold samples, and a sample that nobody sent names the writer it resembles.

use serde::{Deserialize, Serialize};

/// Writers from here on send one sample at a time, see [`crate::probes`].
pub const FIRST_PROBE: u32 = 1_000;
/// Metric of probes.
pub const PROBE_METRIC: &str = "probe_value";
/// Metrics over which the series of a load writer are spread.
const LOAD_METRICS: u32 = 10;
/// Every so many samples one is of a kind that careless code alters.
const SPECIAL_EVERY: u64 = 61;

/// Values whose bits do not survive comparison, arithmetic or printing done without care.
const SPECIAL_BITS: [u64; 10] = [
    0x7ff0_0000_0000_0002, // Prometheus's stale marker, a signalling NaN
    0x7ff8_0000_0000_0001, // the NaN that Go makes
    0xfff8_dead_beef_0001, // a NaN with sign and payload
    0x8000_0000_0000_0000, // -0.0
    0x7ff0_0000_0000_0000, // +Inf
    0xfff0_0000_0000_0000, // -Inf
    0x0000_0000_0000_0001, // the smallest subnormal
    0x7fef_ffff_ffff_ffff, // the largest number
    0x3fb9_9999_9999_999a, // 0.1
    0x4340_0000_0000_0001, // beyond 2^53
];

/// One write: a sample of each of the writer's series, all at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Batch {
    /// Who writes.
    pub writer: u32,
    /// Counts the writer's batches.
    pub number: u64,
    /// How many series.
    pub series: u32,
    /// Of every sample, in milliseconds since the Unix epoch. Grows with `number`.
    pub timestamp_ms: i64,
}

/// A series of a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesId {
    /// Who writes it.
    pub writer: u32,
    /// From 0.
    pub number: u32,
}

/// A sample as it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Of which series.
    pub series: SeriesId,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// The value's IEEE 754 bits.
    pub bits: u64,
}

impl Batch {
    /// The samples it writes.
    pub fn entries(self) -> impl Iterator<Item = Entry> {
        (0..self.series).map(move |number| Entry {
            series: SeriesId {
                writer: self.writer,
                number,
            },
            timestamp_ms: self.timestamp_ms,
            bits: self.bits(number),
        })
    }

    fn bits(self, series: u32) -> u64 {
        if self.writer >= FIRST_PROBE {
            return (self.number as f64).to_bits();
        }
        let sequence = self
            .number
            .wrapping_mul(u64::from(self.series))
            .wrapping_add(u64::from(series));
        if sequence % SPECIAL_EVERY == 0 {
            let kind = (sequence / SPECIAL_EVERY) % SPECIAL_BITS.len() as u64;
            return SPECIAL_BITS.get(kind as usize).copied().unwrap_or_default();
        }
        // A finite number whose bits spell writer and sequence.
        0x4 << 60 | u64::from(self.writer & 0xffff) << 44 | sequence & 0xfff_ffff_ffff
    }
}

impl SeriesId {
    /// The labels, sorted by name.
    pub fn labels(self) -> [(&'static str, String); 4] {
        let (metric, job) = match self.writer >= FIRST_PROBE {
            true => (PROBE_METRIC.to_owned(), "probe"),
            false => (format!("load_{}", self.number % LOAD_METRICS), "load"),
        };
        [
            ("__name__", metric),
            ("instance", format!("writer-{}", self.writer)),
            ("job", job.to_owned()),
            ("series", self.number.to_string()),
        ]
    }

    /// The series of these labels, if they are exactly those of one.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Option<SeriesId> {
        let mut labels: Vec<(&str, &str)> = labels.into_iter().collect();
        labels.sort_unstable();
        let value = |name: &str| {
            labels
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| *value)
        };
        let writer = value("instance")?.strip_prefix("writer-")?.parse().ok()?;
        let id = SeriesId {
            writer,
            number: value("series")?.parse().ok()?,
        };
        let same = id
            .labels()
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .eq(labels.iter().copied());
        same.then_some(id)
    }

    /// A selector of all series of a writer.
    pub fn selector_of(writer: u32) -> String {
        format!("{{instance=\"writer-{writer}\"}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ordinary_values_are_unique_and_finite() {
        let mut seen = HashSet::new();
        for writer in [0, 1, 999] {
            for number in 0..50 {
                let batch = Batch {
                    writer,
                    number,
                    series: 100,
                    timestamp_ms: 0,
                };
                for entry in batch
                    .entries()
                    .filter(|entry| !SPECIAL_BITS.contains(&entry.bits))
                {
                    assert!(f64::from_bits(entry.bits).is_finite());
                    assert!(seen.insert(entry.bits), "{entry:?}");
                }
            }
        }
        assert!(seen.len() > 14_700);
    }

    #[test]
    fn every_special_value_is_sent() {
        let batch = |number| Batch {
            writer: 3,
            number,
            series: 100,
            timestamp_ms: 0,
        };
        let sent: HashSet<u64> = (0..10)
            .flat_map(|number| batch(number).entries())
            .map(|entry| entry.bits)
            .collect();
        assert!(SPECIAL_BITS.iter().all(|bits| sent.contains(bits)));
    }

    #[test]
    fn labels_name_their_series() {
        for id in [
            SeriesId {
                writer: 7,
                number: 123,
            },
            SeriesId {
                writer: FIRST_PROBE + 2,
                number: 0,
            },
        ] {
            let labels = id.labels();
            let pairs = || labels.iter().map(|(name, value)| (*name, value.as_str()));
            assert_eq!(SeriesId::from_labels(pairs()), Some(id));
            assert_eq!(SeriesId::from_labels(pairs().chain([("zone", "x")])), None);
            assert_eq!(SeriesId::from_labels(pairs().skip(1)), None);
        }
    }
}
