//! Two real Prometheus servers write to the cluster; every node returns every sample that they hold, bit for bit.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use quorate_client::ReadLevel;
use quorate_jepsen_like_tests::cluster::{Cluster, Node, client_of};
use quorate_jepsen_like_tests::http::Http;
use quorate_jepsen_like_tests::prometheus::{self, Labels, Prometheus, Samples};
use quorate_jepsen_like_tests::report::{number_from_env, say, skip};
use quorate_jepsen_like_tests::workload::now_ms;
use quorate_jepsen_like_tests::{turn, wait};
use serde_json::Value;
use std::collections::BTreeMap;

const STALE_MARKER: u64 = 0x7ff0_0000_0000_0002;
/// How long scraping goes on. `QUORATE_TEST_SECONDS` sets another time.
const SECONDS: u64 = 20;
/// How long remote write may take to send the rest, and nodes to have it.
const DRAIN: Duration = Duration::from_secs(90);

/// What distinguishes the two.
const REPLICAS: [&str; 2] = ["a", "b"];

#[tokio::test(flavor = "multi_thread")]
async fn every_node_returns_what_each_prometheus_holds() -> Result<()> {
    if let Some(missing) = prometheus::missing() {
        skip("real_prometheus", missing);
        return Ok(());
    }
    let seconds = number_from_env("QUORATE_TEST_SECONDS", SECONDS);
    let _turn = turn::take()?;
    let cluster = Cluster::start(3)?;
    let directory = tempfile::Builder::new()
        .prefix("quorate-test-prometheus-")
        .tempdir()?;
    let started_ms = now_ms();
    let servers = scrape_for(Duration::from_secs(seconds), directory.path(), cluster.nodes())?;
    let ended_ms = now_ms();
    for (replica, server) in &servers {
        let held = server.remote_read(started_ms, ended_ms)?;
        let shown = matrix(server.http(), "{__name__=~\".+\"}", started_ms, ended_ms)?;
        let facts = Facts::of(&held);
        say(format_args!("real_prometheus: replica {replica} holds {facts}"));
        ensure!(
            facts.stale > 0,
            "no stale marker was written, so none is compared"
        );
        ensure!(
            facts.samples > 50 * seconds,
            "fewer samples than a working scrape leaves"
        );
        for node in cluster.nodes() {
            let selector = format!("{{replica=\"{replica}\"}}");
            let context = || format!("replica {replica} at node {}", node.id);
            let stored = read(node, &selector, started_ms, ended_ms)
                .await
                .with_context(context)?;
            compare(&held, &stored).with_context(context)?;
            let http = Http::new(&node.http, Duration::from_secs(60));
            let answered = matrix(&http, &selector, started_ms, ended_ms).with_context(context)?;
            compare(&with_external_label(&shown, replica), &answered)
                .with_context(|| format!("{} by PromQL", context()))?;
        }
    }
    drop(servers);
    cluster.stop()
}

/// Runs node_exporter and both Prometheus servers, lets node_exporter die before the end, stops scraping
/// and waits until all is sent.
fn scrape_for(time: Duration, directory: &Path, nodes: &[Node]) -> Result<Vec<(&'static str, Prometheus)>> {
    let (mut exporter, exporter_address) = prometheus::start_node_exporter(directory)?;
    let config = |replica: &str, node: &Node, targets: &[&str]| {
        let mut text = format!(
            "global:\n  scrape_interval: 1s\n  external_labels: {{replica: {replica}, site: \"test ü\"}}\n\
             remote_write:\n  - url: http://{}/api/v1/write\n",
            node.http
        );
        if !targets.is_empty() {
            text.push_str("scrape_configs:\n");
        }
        for (job, target) in ["prometheus", "node"].iter().zip(targets) {
            text.push_str(&format!(
                "  - job_name: {job}\n    static_configs: [{{targets: ['{target}']}}]\n"
            ));
        }
        text
    };
    let mut servers = Vec::new();
    for (replica, node) in REPLICAS.into_iter().zip(nodes) {
        let name = format!("prometheus-{replica}");
        let server = Prometheus::start(directory, &name, |own| {
            config(replica, node, &[own, &exporter_address])
        })?;
        servers.push((replica, server));
    }
    let started = Instant::now();
    let scraping = |share: f64| {
        wait::until("the time of scraping to pass", 2 * time, || {
            ensure!(
                started.elapsed() >= time.mul_f64(share),
                "{:?} of {time:?}",
                started.elapsed()
            );
            Ok(())
        })
    };
    scraping(0.75)?;
    // A target that dies gets stale markers for all of its series.
    exporter.kill()?;
    scraping(1.0)?;
    for ((replica, server), node) in servers.iter().zip(nodes) {
        server.reconfigure(&config(replica, node, &[]))?;
    }
    for (_, server) in &servers {
        server.await_remote_write_drained(DRAIN)?;
    }
    Ok(servers)
}

/// What is in a set of samples.
struct Facts {
    series: usize,
    samples: u64,
    stale: u64,
}

impl Facts {
    fn of(samples: &Samples) -> Facts {
        let all = || samples.values().flatten();
        Facts {
            series: samples.len(),
            samples: all().count() as u64,
            stale: all().filter(|(_, bits)| *bits == STALE_MARKER).count() as u64,
        }
    }
}

impl std::fmt::Display for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} samples of {} series, {} stale markers among them",
            self.samples, self.series, self.stale
        )
    }
}

async fn read(node: &Node, selector: &str, start_ms: i64, end_ms: i64) -> Result<Samples> {
    let client = client_of(node)?;
    let answer = client
        .read(selector, start_ms, end_ms, ReadLevel::Linearizable)
        .await?;
    let series = answer.series.into_iter().map(|series| {
        let labels = series
            .labels
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let samples = series
            .samples()
            .map(|sample| (sample.timestamp_ms, sample.value.to_bits()))
            .collect();
        (labels, samples)
    });
    Ok(series.collect())
}

/// Timestamps and values as PromQL's JSON has them: what a range selector finds.
fn matrix(
    http: &Http,
    selector: &str,
    start_ms: i64,
    end_ms: i64,
) -> Result<BTreeMap<Labels, Vec<(i64, String)>>> {
    let query = format!("{selector}[{}ms]", end_ms - start_ms);
    let time = format!("{}.{:03}", end_ms / 1_000, end_ms % 1_000);
    let data = http.api("/api/v1/query", &[("query", &query), ("time", &time)])?;
    ensure!(data["resultType"] == "matrix", "{}", data["resultType"]);
    data["result"]
        .as_array()
        .context("no result")?
        .iter()
        .map(matrix_series)
        .collect()
}

fn matrix_series(series: &Value) -> Result<(Labels, Vec<(i64, String)>)> {
    let labels = series["metric"].as_object().context("no labels")?.iter();
    let mut labels: Labels = labels
        .map(|(name, value)| {
            Ok((
                name.clone(),
                value.as_str().context("a label that is no text")?.to_owned(),
            ))
        })
        .collect::<Result<_>>()?;
    labels.sort();
    let samples = series["values"]
        .as_array()
        .context("no values")?
        .iter()
        .map(|pair| {
            let seconds = pair[0].as_f64().context("no time")?;
            Ok((
                (seconds * 1_000.0).round() as i64,
                pair[1].as_str().context("no value")?.to_owned(),
            ))
        });
    Ok((labels, samples.collect::<Result<_>>()?))
}

/// External labels are added by remote write, and not shown by Prometheus's own query API.
fn with_external_label<V: Clone>(samples: &BTreeMap<Labels, V>, replica: &str) -> BTreeMap<Labels, V> {
    let add = |(labels, values): (&Labels, &V)| {
        let mut labels = labels.clone();
        for (name, value) in [("replica", replica), ("site", "test ü")] {
            if !labels.iter().any(|(known, _)| known == name) {
                labels.push((name.to_owned(), value.to_owned()));
            }
        }
        labels.sort();
        (labels, values.clone())
    };
    samples.iter().map(add).collect()
}

/// Equal series with equal samples; the error shows the first difference.
fn compare<V: PartialEq + std::fmt::Debug>(
    expected: &BTreeMap<Labels, Vec<(i64, V)>>,
    found: &BTreeMap<Labels, Vec<(i64, V)>>,
) -> Result<()> {
    for (labels, samples) in expected {
        let others = found
            .get(labels)
            .with_context(|| format!("no series {labels:?}"))?;
        let difference = (0..samples.len().max(others.len())).find(|at| samples.get(*at) != others.get(*at));
        if let Some(at) = difference {
            anyhow::bail!(
                "series {labels:?}, sample {at}: expected {:?}, found {:?}",
                samples.get(at),
                others.get(at)
            );
        }
    }
    let strange = found.keys().find(|labels| !expected.contains_key(*labels));
    ensure!(strange.is_none(), "Prometheus holds no series {strange:?}");
    Ok(())
}
