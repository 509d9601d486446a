//! All nodes are killed at the same moment, under load, and started again.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quorate_client::ReadLevel;
use quorate_jepsen_like_tests::cluster::{Cluster, await_leaders};
use quorate_jepsen_like_tests::history::{Action, Recorder, Stage, write_lines};
use quorate_jepsen_like_tests::report::{number_from_env, say};
use quorate_jepsen_like_tests::workload::{Load, LoadOptions};
use quorate_jepsen_like_tests::{readback, turn, wait};

/// How often. `QUORATE_TEST_ROUNDS` sets another number.
const ROUNDS: u64 = 2;
/// Load. `QUORATE_TEST_RATE` sets another.
const SAMPLES_PER_SECOND: u64 = 50_000;
const HEAL: Duration = Duration::from_secs(120);
/// Acknowledged batches that each round has to see before the next kill.
const BATCHES_BETWEEN_KILLS: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_all_die() -> Result<()> {
    let rounds = number_from_env("QUORATE_TEST_ROUNDS", ROUNDS);
    let samples_per_second = number_from_env("QUORATE_TEST_RATE", SAMPLES_PER_SECOND);
    let _turn = turn::take()?;
    let mut cluster = Cluster::start(3)?;
    await_leaders(&cluster, HEAL).await?;
    let recorder = Recorder::default();
    let load = Load::start(
        cluster.nodes(),
        LoadOptions {
            samples_per_second,
            writers: 9,
            series: 500,
        },
        &recorder,
    )?;
    let nodes: Vec<u64> = cluster.nodes().iter().map(|node| node.id).collect();
    let mut back_s = Vec::new();
    for round in 1..=rounds {
        some_batches_acknowledged(&recorder)
            .await
            .with_context(|| format!("before kill {round} of {rounds}"))?;
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..2_000))).await;
        for node in &nodes {
            recorder.record(
                Stage::Info,
                Action::Kill {
                    node: *node,
                    orphaned: Vec::new(),
                },
            );
        }
        cluster.kill_all()?;
        let killed_us = recorder.now_us();
        cluster.restart(&nodes)?;
        cluster.await_ready(HEAL)?;
        await_leaders(&cluster, HEAL).await?;
        back_s.push((recorder.now_us() - killed_us) as f64 / 1e6);
        for node in &nodes {
            recorder.record(Stage::Info, Action::Restart { node: *node });
        }
    }
    some_batches_acknowledged(&recorder)
        .await
        .context("after the last restart")?;
    load.stop().await?;

    let history = recorder.operations();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("all_killed.jsonl");
    write_lines(&history, std::io::BufWriter::new(std::fs::File::create(&path)?))?;
    let stored = readback::compare_replicas(cluster.nodes(), HEAL).await?;
    let verdict = readback::judge(cluster.nodes(), ReadLevel::Linearizable, &history).await?;
    let local = readback::judge(cluster.nodes(), ReadLevel::Local, &history).await?;
    say(format_args!(
        "all_killed: {rounds} times all nodes at once; {verdict}; {stored} stored, replicas identical; ready again after {back_s:.1?} s"
    ));
    verdict
        .into_result()
        .with_context(|| format!("history in {}", path.display()))?;
    local
        .into_result()
        .with_context(|| format!("read locally; history in {}", path.display()))?;
    cluster.stop()
}

async fn some_batches_acknowledged(recorder: &Recorder) -> Result<()> {
    let from = recorder.len();
    wait::until_async("acknowledged batches", HEAL, async || {
        let acked = recorder.count_since(from, |operation| operation.stage == Stage::Ok);
        ensure!(acked >= BATCHES_BETWEEN_KILLS, "only {acked}");
        Ok(())
    })
    .await
}
