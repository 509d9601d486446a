//! Native histograms through a cluster of processes: sent to one node by remote write, read bit for bit from
//! another, flushed, restarted, read again.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message as _;
use quorate_proto::v1::histogram::{Count, ZeroCount};
use quorate_proto::v1::query_client::QueryClient;
use quorate_proto::v1::{BucketSpan, Histogram, Label, ReadRequest, Sample, TimeSeries};

/// `prometheus.WriteRequest`: field numbers of series and what they hold are those of our own messages.
#[derive(Clone, PartialEq, prost::Message)]
struct RemoteWrite {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

/// A development cluster. It ends with the test.
struct Cluster {
    child: Child,
    /// HTTP and gRPC addresses of its nodes.
    nodes: Vec<(String, String)>,
}

impl Cluster {
    /// Returns once every shard has a leader.
    fn start(dir: &Path) -> Cluster {
        let mut child = Command::new(env!("CARGO_BIN_EXE_quorate"))
            .args(["dev", "--nodes", "3", "--no-collector", "--json", "--dir"])
            .arg(dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let cluster: serde_json::Value = serde_json::from_str(&line).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let nodes = cluster["nodes"].as_array().unwrap().iter();
        let nodes = nodes
            .map(|node| (text(&node["http"]), text(&node["grpc"])))
            .collect();
        Cluster { child, nodes }
    }

    /// Flushes and ends all nodes.
    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    /// Status and text of the answer.
    fn write(&self, node: usize, timeseries: Vec<TimeSeries>) -> (u16, String) {
        let body = RemoteWrite { timeseries }.encode_to_vec();
        let body = snap::raw::Encoder::new().compress_vec(&body).unwrap();
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .build()
            .into();
        let mut response = agent
            .post(format!("http://{}/api/v1/write", self.nodes[node].0))
            .header("content-type", "application/x-protobuf")
            .header("content-encoding", "snappy")
            .send(&body[..])
            .unwrap();
        let status = response.status().as_u16();
        (status, response.body_mut().read_to_string().unwrap())
    }

    /// Numbers and histograms of the one series, as a node reads them.
    async fn read(&self, node: usize) -> (Vec<(i64, u64)>, Vec<Histogram>) {
        let url = format!("http://{}", self.nodes[node].1);
        let mut client = QueryClient::connect(url).await.unwrap();
        let request = ReadRequest {
            r#match: "latency".into(),
            start_ms: 0,
            end_ms: i64::MAX,
            ..ReadRequest::default()
        };
        let mut messages = client.read(request).await.unwrap().into_inner();
        let (mut numbers, mut histograms) = (Vec::new(), Vec::new());
        while let Some(message) = messages.message().await.unwrap() {
            for series in message.series {
                numbers.extend(series.timestamps.into_iter().zip(series.value_bits));
                histograms.extend(series.histograms);
            }
        }
        (numbers, histograms)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Its nodes end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn series(samples: Vec<Sample>, histograms: Vec<Histogram>) -> TimeSeries {
    let label = |name: &str, value: &str| Label {
        name: name.into(),
        value: value.into(),
    };
    TimeSeries {
        labels: vec![label("__name__", "latency"), label("job", "test")],
        samples,
        histograms,
    }
}

fn integer(timestamp: i64, step: i64) -> Histogram {
    Histogram {
        count: Some(Count::CountInt(step as u64 * 4 + 3)),
        sum: step as f64 * 0.7,
        schema: 3,
        zero_threshold: 0.001,
        zero_count: Some(ZeroCount::ZeroCountInt(3)),
        positive_spans: vec![
            BucketSpan {
                offset: -4,
                length: 2,
            },
            BucketSpan { offset: 3, length: 1 },
        ],
        positive_deltas: vec![step, step, -2 * step + step],
        reset_hint: u32::from(step == 0),
        timestamp,
        ..Histogram::default()
    }
}

fn float(timestamp: i64, step: i64) -> Histogram {
    Histogram {
        count: Some(Count::CountFloat(step as f64 + 0.5)),
        sum: -0.0,
        schema: -53,
        zero_count: Some(ZeroCount::ZeroCountFloat(0.0)),
        positive_spans: vec![BucketSpan { offset: 0, length: 2 }],
        positive_counts: vec![step as f64, 0.5],
        custom_values: vec![0.005, 1.0],
        reset_hint: 3,
        timestamp,
        ..Histogram::default()
    }
}

fn stale(timestamp: i64) -> Histogram {
    Histogram {
        sum: f64::from_bits(0x7ff0_0000_0000_0002),
        timestamp,
        ..Histogram::default()
    }
}

/// As a reader gets it: counts are floats, and not differences.
fn as_read(sent: &Histogram) -> Histogram {
    let mut read = sent.clone();
    if let Some(Count::CountInt(count)) = sent.count {
        read.count = Some(Count::CountFloat(count as f64));
    }
    let zero = match sent.zero_count {
        Some(ZeroCount::ZeroCountInt(count)) => count as f64,
        Some(ZeroCount::ZeroCountFloat(count)) => count,
        None => 0.0,
    };
    read.zero_count = Some(ZeroCount::ZeroCountFloat(zero));
    read.count.get_or_insert(Count::CountFloat(0.0));
    let mut count = 0;
    read.positive_counts
        .extend(sent.positive_deltas.iter().map(|delta| {
            count += delta;
            count as f64
        }));
    read.positive_deltas.clear();
    read
}

#[tokio::test]
async fn histograms_outlive_a_flush_and_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    let time = |step: i64| now_ms - 3_600_000 + step * 15_000;
    let mut sent: Vec<Histogram> = (0..40).map(|step| integer(time(step), step)).collect();
    sent.push(stale(time(40)));
    sent.extend((41..60).map(|step| float(time(step), step)));
    let number = Sample {
        timestamp: time(60),
        value: 7.5,
    };
    // Encoded, so that all bits are compared.
    let bytes = |histograms: &[Histogram]| histograms.iter().map(|h| h.encode_to_vec()).collect::<Vec<_>>();
    let expected: Vec<Histogram> = sent.iter().map(as_read).collect();

    let cluster = Cluster::start(dir.path());
    let (status, text) = cluster.write(0, vec![series(vec![], sent.clone())]);
    assert_eq!(status, 204, "{text}");
    // What is wrong is refused with its reason, the rest of the request is stored.
    let wrong = Histogram {
        count: Some(Count::CountInt(1)),
        ..integer(time(61), 5)
    };
    let (status, text) = cluster.write(1, vec![series(vec![number], vec![wrong])]);
    assert_eq!(status, 400);
    assert!(
        text.contains("observations found in buckets, but the Count field is 1"),
        "{text}"
    );
    for node in 0..3 {
        let (numbers, histograms) = cluster.read(node).await;
        assert_eq!(numbers, [(time(60), 7.5f64.to_bits())], "node {node}");
        assert_eq!(bytes(&histograms), bytes(&expected), "node {node}");
    }
    cluster.stop();

    let data = dir.path().join("node-1").join("data");
    let verify = Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args(["storage", "verify"])
        .arg(&data)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&verify.stdout).into_owned();
    assert!(verify.status.success(), "{said}");
    assert!(said.contains(" 61 samples"), "flushed, and found sound: {said}");

    let cluster = Cluster::start(dir.path());
    let (status, text) = cluster.write(2, vec![series(vec![number], sent)]);
    assert_eq!(status, 204, "a resend changes nothing: {text}");
    for node in 0..3 {
        let (numbers, histograms) = cluster.read(node).await;
        assert_eq!(numbers.len(), 1);
        assert_eq!(
            bytes(&histograms),
            bytes(&expected),
            "node {node}, after a restart"
        );
    }
    cluster.stop();
}
