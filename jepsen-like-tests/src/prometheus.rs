//! Debian's Prometheus and node_exporter as child processes, and what they hold.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use prost::Message;
use rustix::process::Signal;

use crate::http::Http;
use crate::ports;
use crate::process::Process;
use crate::remote_write::{self, TimeSeries};
use crate::wait;

/// Where Debian's packages put the programs.
pub const PROMETHEUS: &str = "/usr/bin/prometheus";
/// Where Debian's packages put the programs.
pub const NODE_EXPORTER: &str = "/usr/bin/prometheus-node-exporter";

/// Labels of a series, sorted by name.
pub type Labels = Vec<(String, String)>;
/// Samples by series: timestamps in milliseconds with the values' bits.
pub type Samples = BTreeMap<Labels, Vec<(i64, u64)>>;

/// Which of the programs are missing, with the package to install.
pub fn missing() -> Option<String> {
    let missing: Vec<&str> = [PROMETHEUS, NODE_EXPORTER]
        .into_iter()
        .filter(|path| !Path::new(path).exists())
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "{} not found: apt-get install prometheus prometheus-node-exporter",
            missing.join(" and ")
        )
    })
}

/// Starts a node_exporter and returns its address.
pub fn start_node_exporter(directory: &Path) -> Result<(Process, String)> {
    let address = ports::free_address()?;
    let mut command = Command::new(NODE_EXPORTER);
    command.arg(format!("--web.listen-address={address}"));
    let process = Process::spawn("node_exporter", command, &directory.join("node_exporter.log"))?;
    let http = Http::new(&address, Duration::from_secs(5));
    wait::until("node_exporter to serve", Duration::from_secs(30), || {
        ensure!(http.get("/metrics")?.status == 200, "no metrics");
        Ok(())
    })?;
    Ok((process, address))
}

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    config: PathBuf,
    /// `host:port`.
    pub address: String,
    http: Http,
}

impl Prometheus {
    /// Starts it with a configuration made from its own address.
    pub fn start(directory: &Path, name: &str, config: impl FnOnce(&str) -> String) -> Result<Prometheus> {
        let address = ports::free_address()?;
        let path = directory.join(format!("{name}.yml"));
        std::fs::write(&path, config(&address))?;
        let mut command = Command::new(PROMETHEUS);
        command.arg(format!("--config.file={}", path.display()));
        command.arg(format!("--storage.tsdb.path={}", directory.join(name).display()));
        command.arg(format!("--web.listen-address={address}"));
        let process = Process::spawn(name, command, &directory.join(format!("{name}.log")))?;
        let http = Http::new(&address, Duration::from_secs(30));
        wait::until(
            format_args!("{name} to be ready"),
            Duration::from_secs(60),
            || {
                ensure!(http.get("/-/ready")?.status == 200, "not ready");
                Ok(())
            },
        )?;
        Ok(Prometheus {
            process,
            config: path,
            address,
            http,
        })
    }

    /// Its HTTP API.
    pub fn http(&self) -> &Http {
        &self.http
    }

    /// Replaces the configuration and waits until it is in force.
    pub fn reconfigure(&self, config: &str) -> Result<()> {
        const SUCCEEDED: &str = "prometheus_config_last_reload_success_timestamp_seconds";
        let before = self.http.figure(SUCCEEDED)?;
        std::fs::write(&self.config, config)?;
        self.process.signal(Signal::HUP)?;
        wait::until(
            "Prometheus to take its configuration",
            Duration::from_secs(60),
            || {
                ensure!(
                    self.http.figure("prometheus_config_last_reload_successful")? == 1.0,
                    "it failed"
                );
                ensure!(self.http.figure(SUCCEEDED)? != before, "not yet");
                Ok(())
            },
        )
    }

    /// Waits until remote write has sent all that was scraped, and checks that it dropped nothing.
    pub fn await_remote_write_drained(&self, limit: Duration) -> Result<()> {
        wait::until("remote write to drain", limit, || {
            let figure = |name: &str| self.http.figure(&format!("prometheus_remote_storage_{name}"));
            let pending = figure("samples_pending")?;
            ensure!(pending == 0.0, "{pending} samples are pending");
            let (scraped, sent) = (
                figure("highest_timestamp_in_seconds")?,
                figure("queue_highest_sent_timestamp_seconds")?,
            );
            ensure!(scraped == sent, "scraped up to {scraped}, sent up to {sent}");
            let (taken, sent) = (figure("samples_in_total")?, figure("samples_total")?);
            ensure!(taken == sent, "{sent} of {taken} samples are sent");
            Ok(())
        })?;
        for name in ["samples_failed_total", "samples_dropped_total"] {
            let count = self.http.figure(&format!("prometheus_remote_storage_{name}"))?;
            ensure!(
                count == 0.0,
                "{name} is {count}; its log:\n{}",
                self.process.log_tail()
            );
        }
        Ok(())
    }

    /// Every sample it holds, stale markers included, with its external labels: by the remote read
    /// protocol, because the query API hides stale markers.
    pub fn remote_read(&self, start_ms: i64, end_ms: i64) -> Result<Samples> {
        let everything = LabelMatcher {
            kind: 2,
            name: "__name__".into(),
            value: ".+".into(),
        };
        let query = Query {
            start_ms,
            end_ms,
            matchers: vec![everything],
        };
        let request = ReadRequest { queries: vec![query] };
        let answer = self.http.post(
            "/api/v1/read",
            &[
                ("content-type", "application/x-protobuf"),
                ("content-encoding", "snappy"),
                ("x-prometheus-remote-read-version", "0.1.0"),
            ],
            &remote_write::compress(&request.encode_to_vec())?,
        )?;
        ensure!(
            answer.status == 200,
            "remote read: {} {}",
            answer.status,
            answer.text()
        );
        let raw = snap::raw::Decoder::new().decompress_vec(&answer.body)?;
        let mut results = ReadResponse::decode(raw.as_slice())?.results;
        let result = results.pop().context("no result")?;
        Ok(result.timeseries.into_iter().map(samples_of).collect())
    }
}

fn samples_of(series: TimeSeries) -> (Labels, Vec<(i64, u64)>) {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let mut labels: Labels = series
        .labels
        .into_iter()
        .map(|label| (text(label.name), text(label.value)))
        .collect();
    labels.sort();
    let samples = series
        .samples
        .into_iter()
        .map(|sample| (sample.timestamp, sample.value.unwrap_or_default().to_bits()));
    (labels, samples.collect())
}

/// `prometheus.ReadRequest`; by default the answer holds raw samples.
#[derive(Clone, PartialEq, Message)]
struct ReadRequest {
    #[prost(message, repeated, tag = "1")]
    queries: Vec<Query>,
}

/// `prometheus.Query`.
#[derive(Clone, PartialEq, Message)]
struct Query {
    #[prost(int64, tag = "1")]
    start_ms: i64,
    #[prost(int64, tag = "2")]
    end_ms: i64,
    #[prost(message, repeated, tag = "3")]
    matchers: Vec<LabelMatcher>,
}

/// `prometheus.LabelMatcher`.
#[derive(Clone, PartialEq, Message)]
struct LabelMatcher {
    /// 2 is a regular expression.
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    value: String,
}

/// `prometheus.ReadResponse`.
#[derive(Clone, PartialEq, Message)]
struct ReadResponse {
    #[prost(message, repeated, tag = "1")]
    results: Vec<QueryResult>,
}

/// `prometheus.QueryResult`.
#[derive(Clone, PartialEq, Message)]
struct QueryResult {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}
