//! Series are deleted from a running cluster: what was stored is gone on every node and stays gone through
//! flushes and restarts, what is written afterwards is kept, and replicas stay equal.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quorate_client::{Client, ReadLevel, Series};
use quorate_jepsen_like_tests::cluster::{Node, await_ready};
use quorate_jepsen_like_tests::http::Http;
use quorate_jepsen_like_tests::process::Process;
use quorate_jepsen_like_tests::report::say;
use quorate_jepsen_like_tests::server::{Server, start_all};
use quorate_jepsen_like_tests::workload::now_ms;
use quorate_jepsen_like_tests::{readback, turn, wait};

const LIMIT: Duration = Duration::from_secs(120);
const SERIES: u64 = 24;
const STEP_MS: i64 = 1_000;
const ADMIN: &str = "/api/v1/admin/tsdb";

/// Samples by metric, series and time.
type Model = BTreeMap<(&'static str, u64), BTreeMap<i64, f64>>;

async fn write(
    client: &Client,
    model: &mut Model,
    metric: &'static str,
    times: impl Iterator<Item = i64> + Clone,
    value: impl Fn(u64, i64) -> f64,
) -> Result<()> {
    let mut all = Vec::new();
    for number in 0..SERIES {
        let mut series = Series::new(metric).label("instance", format!("i{number}"));
        for at in times.clone() {
            series.push(at, value(number, at));
            model
                .entry((metric, number))
                .or_default()
                .insert(at, value(number, at));
        }
        all.push(series);
    }
    let samples: u64 = all.iter().map(|series| series.sample_count() as u64).sum();
    let result = client.write(all).await?;
    ensure!(result.samples_stored == samples, "{metric}: {result:?}");
    Ok(())
}

fn forget(model: &mut Model, metric: &str, series: impl Fn(u64) -> bool, from_ms: i64, to_ms: i64) {
    for ((name, number), samples) in model {
        if *name == metric && series(*number) {
            samples.retain(|at, _| !(from_ms..=to_ms).contains(at));
        }
    }
}

/// Every node returns exactly what the model holds.
async fn check(servers: &[Server], model: &Model, when: &str) -> Result<()> {
    let expected: Model = model
        .iter()
        .filter(|(_, samples)| !samples.is_empty())
        .map(|(key, samples)| (*key, samples.clone()))
        .collect();
    for server in servers {
        let client = server.client()?.with_timeout(LIMIT);
        let mut found = Model::new();
        for metric in ["gone", "kept", "holed"] {
            let answer = client
                .read(metric, 0, i64::MAX / 2, ReadLevel::Linearizable)
                .await?;
            for series in &answer.series {
                let instance = series.labels.get("instance").context("no instance")?;
                let number = instance.trim_start_matches('i').parse()?;
                let samples = series
                    .timestamps_ms
                    .iter()
                    .copied()
                    .zip(series.values.iter().copied());
                found.insert((metric, number), samples.collect());
            }
        }
        found.retain(|_, samples| !samples.is_empty());
        ensure!(
            found == expected,
            "{when}: node {} returns other samples",
            server.id
        );
    }
    Ok(())
}

/// Waits until every replica has flushed what it had applied.
async fn flushed(servers: &[Server]) -> Result<()> {
    for server in servers {
        let client = server.client()?;
        let before = client.status().await?;
        wait::until_async("a flush of every shard", LIMIT, async || {
            let now = client.status().await?;
            for (old, new) in before.groups.iter().zip(&now.groups) {
                let behind = new.flushed_index < old.applied_index;
                ensure!(old.group == 0 || !behind, "shard {} is not flushed", old.group);
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}

fn post(server: &Server, path: &str, form: &[(&str, &str)]) -> Result<(u16, String)> {
    let body = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(form)
        .finish();
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let answer =
        Http::new(&server.http, LIMIT).post(&format!("{ADMIN}/{path}"), &headers, body.as_bytes())?;
    Ok((answer.status, answer.text()))
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_samples_are_gone_everywhere_and_stay_so() -> Result<()> {
    let _turn = turn::take()?;
    let directory = tempfile::tempdir()?;
    let mut servers = Server::cluster(3, directory.path())?;
    for server in &mut servers {
        server.settings.push(("flush.interval".into(), "1s".into()));
    }
    // The third keeps the default.
    for server in servers.iter_mut().take(2) {
        server.settings.push(("enable_admin_api".into(), "true".into()));
    }
    let mut processes = start_all(&servers, LIMIT)?;
    let [first, second, third] = servers.as_slice() else {
        anyhow::bail!("{} servers", servers.len())
    };
    let client = first.client()?.with_timeout(LIMIT);
    let mut model = Model::new();
    let start_ms = now_ms() - 600_000;
    let early = (0..200).map(|step| start_ms + step * STEP_MS);
    let late = (200..300).map(|step| start_ms + step * STEP_MS);
    let value = |number: u64, at: i64| number as f64 + at as f64 / 8.0;
    for metric in ["gone", "kept", "holed"] {
        write(&client, &mut model, metric, early.clone(), value).await?;
    }
    flushed(&servers).await?;
    // Some lies in tables now, some only in memory and the log.
    for metric in ["gone", "kept", "holed"] {
        write(&client, &mut model, metric, late.clone(), value).await?;
    }
    check(&servers, &model, "before any deletion").await?;

    let (status, text) = post(third, "delete_series", &[("match[]", "gone")])?;
    ensure!(
        status == 503 && text.contains("enable_admin_api"),
        "{status} {text}"
    );
    let (status, text) = post(first, "delete_series", &[])?;
    ensure!(status == 400 && text.contains("match[]"), "{status} {text}");
    check(&servers, &model, "after refused deletions").await?;

    // A whole metric, over HTTP; and a window in the middle of half of the series, over gRPC.
    let (status, text) = post(
        first,
        "delete_series",
        &[("match[]", "gone"), ("match[]", "nothing")],
    )?;
    ensure!(status == 204, "{status} {text}");
    forget(&mut model, "gone", |_| true, i64::MIN, i64::MAX);
    check(&servers, &model, "after deleting a metric").await?;
    let (from_ms, to_ms) = (start_ms + 150 * STEP_MS, start_ms + 299 * STEP_MS);
    let half = "holed{instance=~\"i.*[02468]\"}".to_owned();
    let deleting = second.client()?.with_timeout(LIMIT);
    deleting
        .delete_series(&[half], Some(from_ms), Some(to_ms))
        .await?;
    forget(&mut model, "holed", |number| number % 2 == 0, from_ms, to_ms);
    check(&servers, &model, "after deleting a window").await?;
    let listed = Http::new(&third.http, LIMIT).api("/api/v1/series", &[("match[]", "gone")])?;
    ensure!(
        listed == serde_json::json!([]),
        "deleted series are listed: {listed}"
    );

    // The same times can be written again, the last one included, with other values.
    let other = |number: u64, at: i64| -value(number, at);
    let again = [start_ms + 10 * STEP_MS, start_ms + 299 * STEP_MS];
    write(&client, &mut model, "gone", again.into_iter(), other).await?;
    check(&servers, &model, "after writing again").await?;
    let (status, text) = post(second, "clean_tombstones", &[])?;
    ensure!(status == 204, "{status} {text}");

    // All at once, so that what is not flushed comes from the log alone.
    for process in &mut processes {
        process.kill()?;
    }
    processes = start_all(&servers, LIMIT)?;
    check(&servers, &model, "after a crash of all nodes").await?;
    let nodes: Vec<Node> = servers.iter().map(Server::as_node).collect();
    let stored = readback::compare_replicas(&nodes, LIMIT).await?;
    let expected: u64 = model.values().map(|samples| samples.len() as u64).sum();
    ensure!(
        stored == expected,
        "{stored} samples are stored, {expected} were expected"
    );

    flushed(&servers).await?;
    let one: &mut Process = processes.get_mut(1).context("no second node")?;
    one.kill()?;
    *one = second.start()?;
    await_ready(&second.http, LIMIT)?;
    check(&servers, &model, "after a flush and a restart").await?;
    readback::compare_replicas(&nodes, LIMIT).await?;
    say(format_args!(
        "deletion: {stored} samples left of {}, on every node alike through a crash and a flush",
        3 * SERIES * 300
    ));
    Ok(())
}
