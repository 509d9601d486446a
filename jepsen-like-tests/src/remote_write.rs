//! Prometheus remote write 1.0 as a sender speaks it, and anything that is nearly that.

use std::time::Duration;

use anyhow::{Context as _, Result};
use prost::Message;

use crate::http::{Answer, Http};

/// Where it is received.
pub const PATH: &str = "/api/v1/write";
/// What a proper sender declares.
pub const HEADERS: [(&str, &str); 3] = [
    ("content-type", "application/x-protobuf"),
    ("content-encoding", "snappy"),
    ("x-prometheus-remote-write-version", "0.1.0"),
];

/// `prometheus.WriteRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct WriteRequest {
    /// Field 1.
    #[prost(message, repeated, tag = "1")]
    pub timeseries: Vec<TimeSeries>,
}

/// `prometheus.TimeSeries`. Labels are raw bytes, so that any can be sent.
#[derive(Clone, PartialEq, Message)]
pub struct TimeSeries {
    /// Field 1.
    #[prost(message, repeated, tag = "1")]
    pub labels: Vec<Label>,
    /// Field 2.
    #[prost(message, repeated, tag = "2")]
    pub samples: Vec<Sample>,
}

/// `prometheus.Label`.
#[derive(Clone, PartialEq, Message)]
pub struct Label {
    /// Field 1.
    #[prost(bytes = "vec", tag = "1")]
    pub name: Vec<u8>,
    /// Field 2.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// `prometheus.Sample`.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Sample {
    /// Field 1. Always sent: prost would leave out -0.0, as if it were 0.
    #[prost(double, optional, tag = "1")]
    pub value: Option<f64>,
    /// Field 2, in milliseconds since the Unix epoch.
    #[prost(int64, tag = "2")]
    pub timestamp: i64,
}

impl TimeSeries {
    /// A series of these labels and samples, in the order given.
    pub fn new<N: Into<Vec<u8>>, V: Into<Vec<u8>>>(
        labels: impl IntoIterator<Item = (N, V)>,
        samples: impl IntoIterator<Item = (i64, f64)>,
    ) -> TimeSeries {
        TimeSeries {
            labels: labels
                .into_iter()
                .map(|(name, value)| Label {
                    name: name.into(),
                    value: value.into(),
                })
                .collect(),
            samples: samples
                .into_iter()
                .map(|(timestamp, value)| Sample {
                    value: Some(value),
                    timestamp,
                })
                .collect(),
        }
    }
}

/// The body of a request: protobuf in a snappy block.
pub fn encode(timeseries: Vec<TimeSeries>) -> Result<Vec<u8>> {
    compress(&WriteRequest { timeseries }.encode_to_vec())
}

/// A snappy block of any bytes.
pub fn compress(bytes: &[u8]) -> Result<Vec<u8>> {
    snap::raw::Encoder::new()
        .compress_vec(bytes)
        .context("too large for snappy")
}

/// Sends a body as a proper sender would.
pub fn send(http: &Http, body: &[u8]) -> Result<Answer> {
    http.post(PATH, &HEADERS, body)
}

/// A client for sending to the node at `address`.
pub fn sender(address: &str) -> Http {
    Http::new(address, Duration::from_secs(15))
}
