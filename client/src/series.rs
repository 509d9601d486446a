//! Series and samples as callers give and get them.

use quorate_proto::v1;
use std::fmt;

const METRIC_NAME: &str = "__name__";

/// A value at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Any float; NaN payloads are kept.
    pub value: f64,
}

/// Label names with values, in the order of the answer: sorted by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LabelSet(Vec<(String, String)>);

impl LabelSet {
    /// The label's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    /// The metric's name, if there is one.
    pub fn metric_name(&self) -> Option<&str> {
        self.get(METRIC_NAME)
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there is no label.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for LabelSet {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

impl From<Vec<v1::Label>> for LabelSet {
    fn from(labels: Vec<v1::Label>) -> Self {
        labels
            .into_iter()
            .map(|label| (label.name, label.value))
            .collect()
    }
}

/// As Prometheus writes it: `name{label="value"}`.
impl fmt::Display for LabelSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.metric_name();
        f.write_str(name.unwrap_or_default())?;
        let mut others = self.iter().filter(|(label, _)| *label != METRIC_NAME).peekable();
        if others.peek().is_none() && name.is_some() {
            return Ok(());
        }
        f.write_str("{")?;
        for (at, (label, value)) in others.enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            write!(f, "{comma}{label}=\"{value}\"")?;
        }
        f.write_str("}")
    }
}

/// A series to write: labels and samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Series(TimeSeriesMessage);

/// `quorate.v1.TimeSeries`, see [`SampleMessage`].
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TimeSeriesMessage {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<v1::Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<SampleMessage>,
}

/// `quorate.v1.Sample` with a value that is always sent: the generated code leaves out what equals zero,
/// and -0.0 does.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct SampleMessage {
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

impl Series {
    /// A series of this metric.
    pub fn new(metric: impl Into<String>) -> Self {
        Self::from_labels([(METRIC_NAME.to_owned(), metric.into())])
    }

    /// A series of these labels, the metric's name among them as `__name__`. The order is free.
    pub fn from_labels<N: Into<String>, V: Into<String>>(labels: impl IntoIterator<Item = (N, V)>) -> Self {
        let label = |(name, value): (N, V)| v1::Label {
            name: name.into(),
            value: value.into(),
        };
        let labels = labels.into_iter().map(label).collect();
        Self(TimeSeriesMessage {
            labels,
            samples: Vec::new(),
        })
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.labels.push(v1::Label {
            name: name.into(),
            value: value.into(),
        });
        self
    }

    /// Adds a sample; times are milliseconds since the Unix epoch.
    #[must_use]
    pub fn sample(mut self, timestamp_ms: i64, value: f64) -> Self {
        self.push(timestamp_ms, value);
        self
    }

    /// Adds a sample; times are milliseconds since the Unix epoch.
    pub fn push(&mut self, timestamp_ms: i64, value: f64) {
        self.0.samples.push(SampleMessage {
            value: Some(value),
            timestamp: timestamp_ms,
        });
    }

    /// How many samples it has.
    pub fn sample_count(&self) -> usize {
        self.0.samples.len()
    }

    pub(crate) fn into_message(self) -> TimeSeriesMessage {
        self.0
    }
}

/// A series of an answer. The two columns are of equal length, in time order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SeriesData {
    /// The series' labels.
    pub labels: LabelSet,
    /// Milliseconds since the Unix epoch.
    pub timestamps_ms: Vec<i64>,
    /// Values, bit for bit as stored or computed.
    pub values: Vec<f64>,
}

impl SeriesData {
    /// Times and values together.
    pub fn samples(&self) -> impl Iterator<Item = Sample> {
        let columns = self.timestamps_ms.iter().zip(&self.values);
        columns.map(|(timestamp_ms, value)| Sample {
            timestamp_ms: *timestamp_ms,
            value: *value,
        })
    }

    /// None when the columns differ in length.
    pub(crate) fn from_proto(series: v1::MatrixSeries) -> Option<Self> {
        (series.timestamps.len() == series.value_bits.len()).then(|| Self {
            labels: series.labels.into(),
            timestamps_ms: series.timestamps,
            values: series.value_bits.into_iter().map(f64::from_bits).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_values_keep_their_bits() {
        let values = [
            0.0,
            -0.0,
            1.5,
            f64::from_bits(0x7ff0_0000_0000_0002),
            f64::NEG_INFINITY,
        ];
        let series = values
            .iter()
            .zip(0..)
            .fold(Series::new("m"), |series, (value, ts)| series.sample(ts, *value));
        let sent = prost::Message::encode_to_vec(&series.into_message());
        let received: v1::TimeSeries = prost::Message::decode(sent.as_slice()).unwrap();
        let bits = received.samples.iter().map(|sample| sample.value.to_bits());
        assert!(bits.eq(values.iter().map(|value| value.to_bits())));
    }

    #[test]
    fn label_sets_print_as_prometheus_writes_them() {
        let print = |pairs: &[(&str, &str)]| pairs.iter().copied().collect::<LabelSet>().to_string();
        assert_eq!(print(&[("__name__", "up")]), "up");
        assert_eq!(
            print(&[("__name__", "up"), ("a", "1"), ("b", "q\"\\\n")]),
            r#"up{a="1", b="q\"\\\n"}"#
        );
        assert_eq!(print(&[("a", "1")]), r#"{a="1"}"#);
        assert_eq!(print(&[]), "{}");
    }
}
