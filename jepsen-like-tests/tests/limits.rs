//! What one tenant may send: series in the whole cluster, samples a second, labels; and what a node may
//! hold in memory.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quorate_client::{Client, ReadLevel, Series, WriteResult};
use quorate_jepsen_like_tests::cluster::Node;
use quorate_jepsen_like_tests::http::Http;
use quorate_jepsen_like_tests::report::say;
use quorate_jepsen_like_tests::server::{Server, start_all};
use quorate_jepsen_like_tests::workload::now_ms;
use quorate_jepsen_like_tests::{readback, turn, wait};

const LIMIT: Duration = Duration::from_secs(120);
const MAX_SERIES: u64 = 4_000;
const BATCH: u64 = 200;

fn client(server: &Server, tenant: &str) -> Result<Client> {
    Ok(server.client()?.with_timeout(LIMIT).with_tenant(tenant)?)
}

async fn write(client: &Client, series: std::ops::Range<u64>, at_ms: i64) -> Result<WriteResult> {
    let one = |number: u64| {
        let series = Series::new("limited").label("instance", format!("i{}", number % 50));
        series.label("n", number.to_string()).sample(at_ms, number as f64)
    };
    Ok(client.write(series.map(one).collect()).await?)
}

async fn count(client: &Client) -> Result<u64> {
    let answer = client
        .read("limited", 0, i64::MAX / 2, ReadLevel::Linearizable)
        .await?;
    Ok(answer.series.len() as u64)
}

async fn set(server: &Server, tenant: Option<&str>, name: &str, value: u64) -> Result<()> {
    let changes = [(name.to_owned(), Some(value))];
    server.client()?.set_limits(tenant, &changes).await?;
    Ok(())
}

/// Sends new series through all nodes at once until nothing more is taken; how many are stored.
async fn fill(servers: &[Server], tenant: &str, from: u64, at_ms: i64) -> Result<u64> {
    let mut tasks = Vec::new();
    for (place, server) in (0u64..).zip(servers) {
        let client = client(server, tenant)?;
        tasks.push(tokio::spawn(async move {
            let first = from + place * 1_000_000;
            let mut refused = None;
            for batch in 0..2 * MAX_SERIES / BATCH {
                let range = first + batch * BATCH..first + (batch + 1) * BATCH;
                let result = write(&client, range, at_ms).await?;
                // What the client has sent again after a refusal for the moment is there already.
                let all = result.samples_stored + result.samples_duplicate + result.samples_rejected();
                ensure!(all == BATCH, "{result:?}");
                refused = result.rejections.first().cloned().or(refused);
            }
            Ok(refused)
        }));
    }
    for task in tasks {
        let refused = task.await??.context("nothing was refused")?;
        ensure!(refused.reason == "tenant_series_limit", "{refused:?}");
        let tells = refused.first.contains("max_series=") && refused.first.contains("cluster limits set");
        ensure!(
            tells,
            "the refusal does not say how to raise the limit: {refused:?}"
        );
    }
    count(&client(servers.first().context("no server")?, tenant)?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_series_never_exceed_its_limit_and_others_are_free() -> Result<()> {
    let _turn = turn::take()?;
    let directory = tempfile::tempdir()?;
    let servers = Server::cluster(3, directory.path())?;
    let processes = start_all(&servers, LIMIT)?;
    let [first, second, third] = servers.as_slice() else {
        anyhow::bail!("{} servers", servers.len())
    };
    let at_ms = now_ms();
    // Some are there before anybody thinks of a limit.
    let early = write(&client(first, "acme")?, 0..500, at_ms).await?;
    ensure!(early.samples_stored == 500, "{early:?}");
    set(second, Some("acme"), "max_series", MAX_SERIES).await?;
    let stored = fill(&servers, "acme", 1_000, at_ms).await?;
    ensure!(
        (MAX_SERIES * 95 / 100..=MAX_SERIES).contains(&stored),
        "{stored} series of {MAX_SERIES}"
    );
    // Known series go on, as do other tenants.
    let again = write(&client(third, "acme")?, 0..500, at_ms + 1_000).await?;
    ensure!(again.samples_stored == 500, "{again:?}");
    let other = write(&client(first, "other")?, 0..2 * MAX_SERIES, at_ms).await?;
    ensure!(other.samples_stored == 2 * MAX_SERIES, "{:?}", other.rejections);
    let http = Http::new(&first.http, LIMIT);
    ensure!(http.figure("quorate_limited_samples_total{limit=\"max_series\"}")? > 0.0);

    // Raised while the cluster runs, and kept through a crash of all nodes.
    set(third, Some("acme"), "max_series", 2 * MAX_SERIES).await?;
    drop(processes);
    let _processes = start_all(&servers, LIMIT)?;
    let more = fill(&servers, "acme", 10_000_000, at_ms).await?;
    ensure!(
        (2 * MAX_SERIES * 95 / 100..=2 * MAX_SERIES).contains(&more),
        "{more} series of {}",
        2 * MAX_SERIES
    );
    let nodes: Vec<Node> = servers.iter().map(Server::as_node).collect();
    readback::compare_replicas(&nodes, LIMIT).await?;
    say(format_args!(
        "limits: {stored} series of {MAX_SERIES}, then {more} of {}, written through three nodes at once",
        2 * MAX_SERIES
    ));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_and_labels_are_limited_as_set_at_run_time() -> Result<()> {
    let _turn = turn::take()?;
    let directory = tempfile::tempdir()?;
    let servers = Server::cluster(1, directory.path())?;
    let _processes = start_all(&servers, LIMIT)?;
    let server = servers.first().context("no server")?;
    let writer = client(server, "acme")?;
    let at_ms = now_ms();
    set(server, Some("acme"), "max_labels", 2).await?;
    let result = write(&writer, 0..1, at_ms).await?;
    let refused = result.rejections.first().context("taken")?;
    ensure!(
        refused.reason == "too_many_labels" && refused.first.contains("set max_labels=N --for acme"),
        "{refused:?}"
    );
    set(server, Some("acme"), "max_labels", 10).await?;
    set(server, Some("acme"), "max_samples_per_second", 100).await?;

    // Ten seconds' worth may come at once, and the request that goes beyond is taken as a whole.
    let (mut taken, mut step) = (0, 0);
    let body = |step: i64| remote_write(at_ms + step);
    let http = Http::new(&server.http, LIMIT);
    let headers = [
        ("content-type", "application/x-protobuf"),
        ("content-encoding", "snappy"),
        ("x-scope-orgid", "acme"),
    ];
    let refused = loop {
        let answer = http.post("/api/v1/write", &headers, &body(step)?)?;
        step += 1;
        match answer.status {
            204 => taken += 100,
            _ => break answer,
        }
        ensure!(taken < 100_000, "no rate is too high");
    };
    ensure!(refused.status == 429, "{} {}", refused.status, refused.text());
    let wait: u64 = refused.header("retry-after").context("no Retry-After")?.parse()?;
    ensure!((1..=10).contains(&wait), "Retry-After: {wait}");
    ensure!(
        refused.text().contains("max_samples_per_second"),
        "{}",
        refused.text()
    );
    ensure!(taken >= 1_000, "{taken} samples");
    let limited = http.figure("quorate_limited_samples_total{limit=\"max_samples_per_second\"}")?;
    ensure!(limited >= 100.0, "{limited}");
    // Nobody else is held up, and what was refused is taken later.
    let other = write(&client(server, "other")?, 0..5_000, at_ms).await?;
    ensure!(other.samples_stored == 5_000, "{:?}", other.rejections);
    wait::until("the rate to allow more", LIMIT, || {
        let answer = http.post("/api/v1/write", &headers, &body(step)?)?;
        ensure!(answer.status == 204, "{} {}", answer.status, answer.text());
        Ok(())
    })
}

/// A remote-write request of 100 series with a sample each.
fn remote_write(at_ms: i64) -> Result<Vec<u8>> {
    use prost::Message as _;
    use quorate_proto::v1::{Label, Sample, TimeSeries, WriteRequest};
    let label = |name: &str, value: String| Label {
        name: name.into(),
        value,
    };
    let series = |number: u32| TimeSeries {
        labels: vec![label("__name__", "rate".into()), label("n", number.to_string())],
        samples: vec![Sample {
            value: f64::from(number),
            timestamp: at_ms,
        }],
        histograms: Vec::new(),
    };
    // Field 1 of Prometheus's message are the series, which have its numbers.
    let message = WriteRequest {
        sequence: 0,
        timeseries: (0..100).map(series).collect(),
    };
    let mut body = Vec::new();
    for series in message.timeseries {
        let bytes = series.encode_to_vec();
        prost::encoding::encode_key(1, prost::encoding::WireType::LengthDelimited, &mut body);
        prost::encoding::encode_varint(bytes.len() as u64, &mut body);
        body.extend(bytes);
    }
    Ok(snap::raw::Encoder::new().compress_vec(&body)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_over_its_memory_budget_refuses_writes_and_answers_reads() -> Result<()> {
    let _turn = turn::take()?;
    let directory = tempfile::tempdir()?;
    let mut servers = Server::cluster(1, directory.path())?;
    let settings = &mut servers.first_mut().context("no server")?.settings;
    settings.push(("memory.budget_bytes".into(), "120MiB".into()));
    let mut processes = start_all(&servers, LIMIT)?;
    let server = servers.first().context("no server")?;
    let http = Http::new(&server.http, LIMIT);
    ensure!(http.figure("quorate_memory_budget_bytes")? == f64::from(120 << 20));
    let at_ms = now_ms();
    let writer = client(server, "acme")?;
    // One attempt each, so that a refusal is seen and not waited for.
    let once = Client::builder()
        .endpoint(server.grpc.as_str())
        .max_attempts(1)
        .timeout(LIMIT)
        .tenant("acme")
        .connect()?;
    let first = write(&writer, 0..10, at_ms).await?;
    ensure!(first.samples_stored == 10, "{first:?}");
    let mut written = 0u64;
    let refusal = loop {
        let range = written..written + 5_000;
        match write(&once, range, at_ms).await {
            Ok(_) => written += 5_000,
            Err(error) => break error.to_string(),
        }
        ensure!(written < 5_000_000, "{written} series fit into the budget");
    };
    ensure!(refusal.contains("memory.budget_bytes"), "{refusal}");
    let resident = http.figure("process_resident_memory_bytes")?;
    ensure!(resident < f64::from(360 << 20), "{resident} bytes are resident");
    ensure!(http.figure("quorate_memory_shedding")? == 1.0);
    ensure!(http.figure("quorate_shed_writes_total")? >= 1.0);
    let headers = [
        ("content-type", "application/x-protobuf"),
        ("content-encoding", "snappy"),
    ];
    let answer = http.post("/api/v1/write", &headers, &remote_write(at_ms)?)?;
    let retry = answer.header("retry-after").is_some();
    ensure!(
        answer.status == 503 && retry,
        "{} {}",
        answer.status,
        answer.text()
    );
    let read = writer
        .read("limited{n=\"7\"}", 0, i64::MAX / 2, ReadLevel::Linearizable)
        .await?;
    ensure!(
        read.series.len() == 1,
        "reads are to go on: {}",
        read.series.len()
    );

    // With room again, what was refused is taken.
    for process in &mut processes {
        process.terminate(LIMIT)?;
    }
    let mut roomy = servers.clone();
    roomy.iter_mut().for_each(|server| server.settings.clear());
    let _processes = start_all(&roomy, LIMIT)?;
    let rest = write(&writer, written..written + 5_000, at_ms).await?;
    ensure!(rest.samples_stored + rest.samples_duplicate == 5_000, "{rest:?}");
    say(format_args!(
        "limits: writes were refused at {written} series and {:.0} MiB resident",
        resident / f64::from(1 << 20)
    ));
    Ok(())
}
