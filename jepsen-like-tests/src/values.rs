//! Which sample a writer sends: pure functions of writer, batch and position, so that a history need not
//! hold samples, and a sample that nobody sent names the writer it resembles.

use serde::{Deserialize, Serialize};

/// Writers from here on send one sample at a time, see [`crate::probes`].
pub const FIRST_PROBE: u32 = 1_000;
/// Metric of probes.
pub const PROBE_METRIC: &str = "probe_value";
/// Metrics over which the series of a writer are spread.
const METRICS: u32 = 10;
/// Batches that a series lives for, where series come and go.
pub const LIFE: u64 = 6;
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

/// What a writer does. It follows from the writer's number, so that a history need not say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Appends to the same series, in order.
    Load,
    /// As load, one sample at a time; the value is the batch's number.
    Probe,
    /// As load; values are whole numbers that grow, so that sums can be foretold.
    Whole,
    /// Several batches for the same timestamps, of which one may win.
    Overwrite,
    /// In any order, up to many minutes late.
    Late,
    /// The same batch to all nodes at once.
    Storm,
    /// New series all the time.
    Churn,
}

impl Kind {
    const ALL: [(u32, Kind); 7] = [
        (0, Kind::Load),
        (FIRST_PROBE, Kind::Probe),
        (10_000, Kind::Whole),
        (20_000, Kind::Overwrite),
        (30_000, Kind::Late),
        (40_000, Kind::Storm),
        (50_000, Kind::Churn),
    ];

    /// What the writer of this number does.
    pub fn of(writer: u32) -> Kind {
        let known = Kind::ALL.iter().rev().find(|(first, _)| *first <= writer);
        known.map_or(Kind::Load, |(_, kind)| *kind)
    }

    /// The number of its writer `at`, from 0.
    pub fn writer(self, at: u32) -> u32 {
        let first = Kind::ALL.iter().find(|(_, kind)| *kind == self);
        first.map_or(0, |(first, _)| first + at)
    }

    /// The label `job` of its series, and the beginning of their metrics.
    pub fn job(self) -> &'static str {
        match self {
            Kind::Load => "load",
            Kind::Probe => "probe",
            Kind::Whole => "whole",
            Kind::Overwrite => "overwrite",
            Kind::Late => "late",
            Kind::Storm => "storm",
            Kind::Churn => "churn",
        }
    }
}

/// One write: a sample of each of some series, all at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Batch {
    /// Who writes.
    pub writer: u32,
    /// Counts the writer's batches.
    pub number: u64,
    /// How many series.
    pub series: u32,
    /// Of every sample, in milliseconds since the Unix epoch.
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
        let (writer, first) = (self.writer, self.first_series());
        (0..self.series).map(move |at| Entry {
            series: SeriesId {
                writer,
                number: first + at,
            },
            timestamp_ms: self.timestamp_ms,
            bits: self.bits(at),
        })
    }

    /// Of its series, the one with the lowest number; the others follow.
    pub fn first_series(self) -> u32 {
        match Kind::of(self.writer) {
            Kind::Churn => {
                u32::try_from(self.number / LIFE).unwrap_or(u32::MAX / self.series.max(1)) * self.series
            }
            _ => 0,
        }
    }

    /// The bits that it writes to a series, if it writes to it.
    pub fn bits_of(self, series: u32) -> Option<u64> {
        let at = series.checked_sub(self.first_series())?;
        (at < self.series).then(|| self.bits(at))
    }

    /// The bits of its sample `at`.
    fn bits(self, at: u32) -> u64 {
        let sequence = self
            .number
            .wrapping_mul(u64::from(self.series))
            .wrapping_add(u64::from(at));
        match Kind::of(self.writer) {
            Kind::Probe => (self.number as f64).to_bits(),
            // Unique over all writers, and a hundred of them add up below 2^53.
            Kind::Whole => (((u64::from(self.writer % 1_000) + 1) << 36 | sequence) as f64).to_bits(),
            // Contenders for one timestamp must be told apart.
            kind if kind != Kind::Overwrite && sequence % SPECIAL_EVERY == 0 => {
                let kind = (sequence / SPECIAL_EVERY) % SPECIAL_BITS.len() as u64;
                SPECIAL_BITS.get(kind as usize).copied().unwrap_or_default()
            }
            // A finite number whose bits spell writer and sequence.
            _ => 0x4 << 60 | u64::from(self.writer & 0xffff) << 44 | sequence & 0xfff_ffff_ffff,
        }
    }
}

impl SeriesId {
    /// The labels, sorted by name.
    pub fn labels(self) -> Vec<(&'static str, String)> {
        let kind = Kind::of(self.writer);
        let job = kind.job();
        let metric = match kind {
            Kind::Probe => PROBE_METRIC.to_owned(),
            _ => format!("{job}_{}", self.number % METRICS),
        };
        let mut labels = vec![
            ("__name__", metric),
            ("instance", format!("writer-{}", self.writer)),
            ("job", job.to_owned()),
        ];
        // A label that only some of them have.
        let zone = match (kind, self.number % 3) {
            (Kind::Whole | Kind::Storm | Kind::Churn, 0) => Some("east"),
            (Kind::Whole | Kind::Storm | Kind::Churn, 1) => Some("west"),
            _ => None,
        };
        labels.push(("series", self.number.to_string()));
        labels.extend(zone.map(|zone| ("zone", zone.to_owned())));
        labels
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

    /// As [`SeriesId::from_labels`], where PromQL has dropped the metric's name.
    pub fn from_labels_without_name<'a>(
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Option<SeriesId> {
        let labels: Vec<(&str, &str)> = labels.into_iter().collect();
        let value = |name: &str| labels.iter().find(|(known, _)| *known == name);
        let id = SeriesId {
            writer: value("instance")?.1.strip_prefix("writer-")?.parse().ok()?,
            number: value("series")?.1.parse().ok()?,
        };
        let own = id.labels();
        let name = own.first().map(|(name, value)| (*name, value.as_str()));
        SeriesId::from_labels(labels.into_iter().chain(name))
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
    fn whole_values_grow_and_add_up_exactly() {
        let batch = |number| Batch {
            writer: Kind::Whole.writer(9),
            number,
            series: 50,
            timestamp_ms: 0,
        };
        let value = |number, series| f64::from_bits(batch(number).bits_of(series).unwrap());
        assert!(value(0, 49) < value(1, 0) && value(0, 1) < value(1, 1));
        let last = value(1 << 28, 49);
        assert!(last.fract() == 0.0 && last * 100.0 < 2_f64.powi(53));
    }

    #[test]
    fn series_that_come_and_go_live_for_some_batches() {
        let batch = |number| Batch {
            writer: Kind::Churn.writer(0),
            number,
            series: 10,
            timestamp_ms: 0,
        };
        let series = |number| {
            batch(number)
                .entries()
                .map(|entry| entry.series.number)
                .collect::<Vec<_>>()
        };
        assert_eq!(series(0), series(LIFE - 1));
        assert_eq!(series(LIFE), (10..20).collect::<Vec<_>>());
        assert_eq!(batch(LIFE).bits_of(9), None);
        assert_eq!(batch(LIFE).bits_of(20), None);
        assert_eq!(
            batch(LIFE).bits_of(19),
            batch(LIFE).entries().last().map(|entry| entry.bits)
        );
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
            SeriesId {
                writer: Kind::Churn.writer(3),
                number: 4_001,
            },
        ] {
            let labels = id.labels();
            let pairs = || labels.iter().map(|(name, value)| (*name, value.as_str()));
            assert_eq!(SeriesId::from_labels(pairs()), Some(id));
            assert_eq!(SeriesId::from_labels(pairs().chain([("rack", "x")])), None);
            assert_eq!(SeriesId::from_labels(pairs().skip(1)), None);
        }
    }
}
