//! The same question gets the same answer at every node, over HTTP and gRPC, at every read level.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quorate_client::{
    Client, LabelOptions, QueryOptions, RangeWindow, ReadLevel, ReadReport, Series, SeriesData,
    Value as Answered,
};
use quorate_jepsen_like_tests::cluster::{Cluster, Node, await_leaders, client_of};
use quorate_jepsen_like_tests::http::Http;
use quorate_jepsen_like_tests::prometheus::Labels;
use quorate_jepsen_like_tests::readback;
use quorate_jepsen_like_tests::report::say;
use quorate_jepsen_like_tests::turn;
use quorate_jepsen_like_tests::workload::now_ms;
use serde_json::Value;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

const HOSTS: i64 = 10;
const MODES: [&str; 4] = ["idle", "user", "system", "iowait"];
const STEP_MS: i64 = 15_000;
const SCRAPES: i64 = 80;
const HEAL: Duration = Duration::from_secs(60);

/// Each is evaluated at one time and over a range.
const QUERIES: [&str; 22] = [
    "q_cpu_seconds_total",
    "q_cpu_seconds_total{mode=\"user\"}",
    "q_cpu_seconds_total{mode!=\"user\", instance=~\"host-[0-3]\"}",
    "{__name__=~\"q_.*\", instance!~\"host-[1-9]\"}",
    "q_temperature offset 2m",
    "q_temperature @ end()",
    "sum(q_temperature)",
    "count by (mode)(q_cpu_seconds_total)",
    "sum by (mode)(rate(q_cpu_seconds_total[5m]))",
    "sum without (mode, job)(irate(q_cpu_seconds_total[1m]))",
    "increase(q_cpu_seconds_total{mode=\"idle\"}[3m])",
    "delta(q_temperature[2m])",
    "avg_over_time(q_temperature[5m])",
    "max_over_time(q_temperature[5m]) - min_over_time(q_temperature[5m])",
    "quantile_over_time(0.9, q_temperature[10m])",
    "topk(3, q_temperature)",
    "quantile(0.5, q_temperature)",
    "q_temperature > 25",
    "q_cpu_seconds_total / on (instance) group_left q_temperature",
    "label_replace(q_temperature, \"host\", \"$1\", \"instance\", \"host-(.*)\")",
    "clamp_max(abs(q_temperature - 30), 5) * 2 ^ 0.5",
    "scalar(sum(q_temperature)) + vector(1)",
];

/// Read levels with their names in the HTTP API.
const LEVELS: [(ReadLevel, &str); 3] = [
    (ReadLevel::Linearizable, "linearizable"),
    (ReadLevel::Bounded(Duration::from_secs(10)), "bounded"),
    (ReadLevel::Local, "local"),
];

/// An answer without regard to how it came: labels, then times with the values' bits.
type Answer = BTreeMap<Labels, Vec<(i64, u64)>>;

/// One way to ask.
struct Way<'a> {
    node: &'a Node,
    client: Client,
    http: Http,
    level: (ReadLevel, &'static str),
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_protocol_and_level_agrees() -> Result<()> {
    let _turn = turn::take()?;
    let cluster = Cluster::start(3)?;
    await_leaders(&cluster, HEAL).await?;
    let end_ms = now_ms() / STEP_MS * STEP_MS;
    let samples = fill(&cluster, end_ms).await?;
    // Weaker levels promise the same only once every replica has everything.
    let stored = readback::compare_replicas(cluster.nodes(), HEAL).await?;
    ensure!(stored == samples, "{stored} of {samples} samples are stored");

    let mut ways = Vec::new();
    for node in cluster.nodes() {
        for level in LEVELS {
            let http = Http::new(&node.http, Duration::from_secs(30));
            ways.push(Way {
                node,
                client: client_of(node)?,
                http,
                level,
            });
        }
    }
    let first = ways.first().context("no way to ask")?;
    known_answers(first, end_ms).await?;
    let mut compared = 0;
    for query in QUERIES {
        let instant = first.instant_by_http(query, end_ms)?;
        let range = first.range_by_http(query, end_ms)?;
        ensure!(!instant.is_empty() && !range.is_empty(), "{query} finds nothing");
        for way in &ways {
            let context = || format!("{query} at node {} at {}", way.node.id, way.level.1);
            same(
                &instant,
                &way.instant_by_http(query, end_ms).with_context(context)?,
            )
            .with_context(context)?;
            same(
                &instant,
                &way.instant_by_grpc(query, end_ms).await.with_context(context)?,
            )
            .with_context(context)?;
            same(&range, &way.range_by_http(query, end_ms).with_context(context)?).with_context(context)?;
            same(
                &range,
                &way.range_by_grpc(query, end_ms).await.with_context(context)?,
            )
            .with_context(context)?;
            compared += 4;
        }
    }
    for way in &ways {
        labels_agree(way, end_ms)
            .await
            .with_context(|| format!("node {} at {}", way.node.id, way.level.1))?;
    }
    for node in cluster.nodes() {
        errors_are_clear(node)
            .await
            .with_context(|| format!("errors of node {}", node.id))?;
        health_and_reflection(node)
            .await
            .with_context(|| format!("node {}", node.id))?;
    }
    say(format_args!(
        "queries: {compared} answers to {} queries over {samples} samples are the same",
        QUERIES.len()
    ));
    cluster.stop()
}

/// Counters of several modes and a gauge for each host, written to all nodes in turn.
async fn fill(cluster: &Cluster, end_ms: i64) -> Result<u64> {
    let client = cluster.client().connect()?;
    let mut samples = 0;
    for host in 0..HOSTS {
        let mut all = Vec::new();
        let times = || (1 - SCRAPES..=0).map(|scrape| (scrape + SCRAPES, end_ms + scrape * STEP_MS));
        for (number, mode) in MODES.iter().enumerate() {
            let mut series = host_series("q_cpu_seconds_total", host).label("mode", *mode);
            for (scrape, at_ms) in times() {
                // With a reset in the middle.
                let ticks = if scrape > SCRAPES / 2 {
                    scrape - SCRAPES / 2
                } else {
                    scrape
                };
                series.push(at_ms, (ticks * (host + 1)) as f64 * 0.25 + number as f64);
            }
            all.push(series);
        }
        let mut series = host_series("q_temperature", host);
        for (scrape, at_ms) in times() {
            series.push(at_ms, 20.0 + host as f64 + (scrape % 7) as f64 / 10.0);
        }
        all.push(series);
        samples += all.iter().map(|series| series.sample_count() as u64).sum::<u64>();
        let result = client.write(all).await?;
        ensure!(result.rejections.is_empty(), "{:?}", result.rejections);
    }
    Ok(samples)
}

fn host_series(metric: &str, host: i64) -> Series {
    Series::new(metric)
        .label("instance", format!("host-{host}"))
        .label("job", "node")
}

/// Answers that can be worked out by hand, so that agreement is not agreement on nonsense.
async fn known_answers(way: &Way<'_>, end_ms: i64) -> Result<()> {
    let last = (SCRAPES % 7) as f64 / 10.0;
    for (query, expected) in [
        ("count(q_cpu_seconds_total)", (HOSTS * MODES.len() as i64) as f64),
        ("count({__name__=~\"q_.*\"})", (HOSTS * 5) as f64),
        ("max(q_temperature)", 20.0 + (HOSTS - 1) as f64 + last),
        (
            "sum(count_over_time(q_temperature[20m]))",
            (HOSTS * SCRAPES) as f64,
        ),
        (
            "sum(resets(q_cpu_seconds_total[20m]))",
            (HOSTS * MODES.len() as i64) as f64,
        ),
        (
            "rate(q_cpu_seconds_total{instance=\"host-3\", mode=\"idle\"}[1m])",
            4.0 * 0.25 / 15.0,
        ),
    ] {
        let answer = way.instant_by_grpc(query, end_ms).await?;
        let values: Vec<f64> = answer
            .values()
            .flatten()
            .map(|(_, bits)| f64::from_bits(*bits))
            .collect();
        let [value] = values.as_slice() else {
            anyhow::bail!("{query}: {values:?}")
        };
        ensure!(
            (value - expected).abs() < 1e-9,
            "{query}: expected {expected}, found {value}"
        );
    }
    Ok(())
}

impl Way<'_> {
    fn ask(&self, path: &str, parameters: &[(&str, String)]) -> Result<Value> {
        let level = [("read", self.level.1.to_owned())];
        let parameters = parameters
            .iter()
            .chain(&level)
            .map(|(name, value)| (*name, value.as_str()));
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(parameters)
            .finish();
        let answer = self.http.get(&format!("{path}?{query}"))?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        ensure!(
            answer.header("quorate-read-level") == Some(self.level.1),
            "{:?}",
            answer.headers
        );
        let report: Value =
            serde_json::from_str(answer.header("quorate-read-report").context("no read report")?)?;
        ensure!(
            report["shards"]
                .as_array()
                .is_some_and(|shards| !shards.is_empty()),
            "{report}"
        );
        let json: Value = serde_json::from_slice(&answer.body)?;
        ensure!(json["status"] == "success", "{json}");
        Ok(json["data"].clone())
    }

    fn instant_by_http(&self, query: &str, at_ms: i64) -> Result<Answer> {
        from_json(&self.ask(
            "/api/v1/query",
            &[("query", query.to_owned()), ("time", seconds(at_ms))],
        )?)
    }

    fn range_by_http(&self, query: &str, end_ms: i64) -> Result<Answer> {
        let window = window(end_ms);
        from_json(&self.ask(
            "/api/v1/query_range",
            &[
                ("query", query.to_owned()),
                ("start", seconds(window.start_ms)),
                ("end", seconds(window.end_ms)),
                ("step", seconds(window.step_ms)),
            ],
        )?)
    }

    async fn instant_by_grpc(&self, query: &str, at_ms: i64) -> Result<Answer> {
        let options = QueryOptions {
            read: self.level.0,
            time_ms: Some(at_ms),
            ..QueryOptions::default()
        };
        let answer = self.client.instant(query, &options).await?;
        self.check_report(&answer.report)?;
        Ok(match answer.value {
            Answered::Vector(samples) => samples
                .into_iter()
                .map(|(labels, sample)| {
                    (
                        pairs(labels.iter()),
                        vec![(sample.timestamp_ms, sample.value.to_bits())],
                    )
                })
                .collect(),
            Answered::Matrix(series) => series.into_iter().map(columns).collect(),
            Answered::Scalar(sample) => {
                [(Vec::new(), vec![(sample.timestamp_ms, sample.value.to_bits())])].into()
            }
            Answered::String(..) => anyhow::bail!("a string"),
        })
    }

    async fn range_by_grpc(&self, query: &str, end_ms: i64) -> Result<Answer> {
        let options = QueryOptions {
            read: self.level.0,
            ..QueryOptions::default()
        };
        let answer = self.client.range(query, window(end_ms), &options).await?;
        self.check_report(&answer.report)?;
        Ok(answer.series.into_iter().map(columns).collect())
    }

    /// The promise that was asked for was kept, and it is said by whom.
    fn check_report(&self, report: &ReadReport) -> Result<()> {
        ensure!(
            report.level == self.level.1,
            "asked for {}: {report:?}",
            self.level.1
        );
        ensure!(!report.shards.is_empty(), "no shard is reported");
        for shard in &report.shards {
            ensure!(
                (1..=3).contains(&shard.node) && shard.applied_before <= shard.applied_after,
                "{shard:?}"
            );
            ensure!(
                shard.applied_before > 0,
                "a shard with data has applied nothing: {shard:?}"
            );
            let staleness_ok = match self.level.0 {
                ReadLevel::Bounded(bound) => shard.staleness.is_some_and(|staleness| staleness <= bound),
                ReadLevel::Linearizable => shard.staleness.is_none_or(|staleness| staleness.is_zero()),
                _ => true,
            };
            ensure!(staleness_ok, "{shard:?}");
        }
        Ok(())
    }
}

fn window(end_ms: i64) -> RangeWindow {
    RangeWindow {
        start_ms: end_ms - 600_000,
        end_ms,
        step_ms: 30_000,
    }
}

fn seconds(ms: i64) -> String {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

fn pairs<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> Labels {
    let mut labels: Labels = labels
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    labels.sort();
    labels
}

fn columns(series: SeriesData) -> (Labels, Vec<(i64, u64)>) {
    let samples = series
        .samples()
        .map(|sample| (sample.timestamp_ms, sample.value.to_bits()));
    (pairs(series.labels.iter()), samples.collect())
}

fn from_json(data: &Value) -> Result<Answer> {
    if data["resultType"] == "scalar" {
        return Ok([(Vec::new(), vec![point(&data["result"])?])].into());
    }
    let series = data["result"]
        .as_array()
        .context("no result")?
        .iter()
        .map(|series| {
            let labels = series["metric"].as_object().context("no labels")?.iter();
            let labels =
                pairs(labels.map(|(name, value)| (name.as_str(), value.as_str().unwrap_or_default())));
            let points = match (&series["value"], &series["values"]) {
                (value @ Value::Array(_), _) => vec![point(value)?],
                (_, Value::Array(values)) => values.iter().map(point).collect::<Result<_>>()?,
                _ => anyhow::bail!("neither value nor values: {series}"),
            };
            Ok((labels, points))
        });
    series.collect()
}

/// Numbers are printed so that they read back as the same bits.
fn point(pair: &Value) -> Result<(i64, u64)> {
    let ms = (pair[0].as_f64().context("no time")? * 1_000.0).round() as i64;
    let value: f64 = pair[1].as_str().context("no value")?.parse()?;
    Ok((ms, value.to_bits()))
}

fn same(expected: &Answer, found: &Answer) -> Result<()> {
    let difference = expected
        .iter()
        .find(|(labels, values)| found.get(*labels) != Some(values));
    if let Some((labels, values)) = difference {
        anyhow::bail!("{labels:?}: expected {values:?}, found {:?}", found.get(labels));
    }
    ensure!(
        expected.len() == found.len(),
        "expected {} series, found {}",
        expected.len(),
        found.len()
    );
    Ok(())
}

/// Series, label names and label values are the same over both protocols, and complete.
async fn labels_agree(way: &Way<'_>, end_ms: i64) -> Result<()> {
    let (start_ms, selector) = (end_ms - 3_600_000, "{__name__=~\"q_.*\"}");
    let options = LabelOptions {
        matches: vec![selector.to_owned()],
        start_ms,
        end_ms,
        read: way.level.0,
        ..LabelOptions::default()
    };
    let parameters = [
        ("match[]", selector.to_owned()),
        ("start", seconds(start_ms)),
        ("end", seconds(end_ms)),
    ];
    let texts = |data: Value| serde_json::from_value::<Vec<String>>(data);

    let names = way.client.label_names(&options).await?;
    way.check_report(&names.report)?;
    ensure!(
        names.strings == ["__name__", "instance", "job", "mode"],
        "{:?}",
        names.strings
    );
    ensure!(
        texts(way.ask("/api/v1/labels", &parameters)?)? == names.strings,
        "HTTP differs"
    );
    let values = way.client.label_values("mode", &options).await?;
    ensure!(
        values.strings == ["idle", "iowait", "system", "user"],
        "{:?}",
        values.strings
    );
    ensure!(
        texts(way.ask("/api/v1/label/mode/values", &parameters)?)? == values.strings,
        "HTTP differs"
    );
    let (series, report) = way.client.series(&options).await?;
    way.check_report(&report)?;
    let data = way.ask("/api/v1/series", &parameters)?;
    let by_http: Vec<BTreeMap<String, String>> = serde_json::from_value(data)?;
    let as_map = |pairs: Labels| pairs.into_iter().collect::<BTreeMap<_, _>>();
    let mut by_grpc: Vec<_> = series.iter().map(|labels| as_map(pairs(labels.iter()))).collect();
    let mut by_http = by_http;
    by_grpc.sort();
    by_http.sort();
    ensure!(
        by_grpc.len() as i64 == HOSTS * 5 && by_grpc == by_http,
        "{} and {}",
        by_grpc.len(),
        by_http.len()
    );
    Ok(())
}

/// Mistakes in a query are the asker's, over both protocols.
async fn errors_are_clear(node: &Node) -> Result<()> {
    let (http, client) = (Http::new(&node.http, Duration::from_secs(30)), client_of(node)?);
    for (query, says) in [
        ("sum(", "parse"),
        ("no_such_function(1)", "no_such_function"),
        ("q{a=~\"(\"}", "("),
    ] {
        let encoded = form_urlencoded::Serializer::new(String::new())
            .append_pair("query", query)
            .finish();
        let answer = http.get(&format!("/api/v1/query?{encoded}"))?;
        let json: Value = serde_json::from_slice(&answer.body)?;
        ensure!(
            answer.status == 400 && json["errorType"] == "bad_data",
            "{query}: {} {json}",
            answer.status
        );
        let text = json["error"].as_str().unwrap_or_default();
        ensure!(text.contains(says), "{query}: {says:?} is not in {text:?}");
        let error = client
            .instant(query, &QueryOptions::default())
            .await
            .err()
            .context("no error")?;
        ensure!(
            error.code() == Some(quorate_client::ErrorCode::BadData),
            "{query}: {error}"
        );
    }
    Ok(())
}

async fn health_and_reflection(node: &Node) -> Result<()> {
    let channel: Channel = Endpoint::from_shared(format!("http://{}", node.grpc))?
        .timeout(Duration::from_secs(10))
        .connect()
        .await?;
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "quorate.v1.Write", "quorate.v1.Query"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let status = health
            .check(request)
            .await
            .with_context(|| format!("health of {service:?}"))?
            .into_inner();
        ensure!(
            status.status() == ServingStatus::Serving,
            "{service:?}: {:?}",
            status.status()
        );
    }
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(channel);
    let mut answers = reflection
        .server_reflection_info(tokio_stream::iter([list]))
        .await?
        .into_inner();
    let answer = answers
        .message()
        .await?
        .and_then(|answer| answer.message_response);
    let Some(MessageResponse::ListServicesResponse(list)) = answer else {
        anyhow::bail!("{answer:?}")
    };
    let services: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for service in ["quorate.v1.Write", "quorate.v1.Query", "quorate.v1.Cluster"] {
        ensure!(
            services.iter().any(|known| known == service),
            "{service} is not among {services:?}"
        );
    }
    Ok(())
}
