//! Nodes that lead shards are killed under load, one after another, and started again.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quorate_client::ReadLevel;
use quorate_jepsen_like_tests::cluster::{Cluster, await_leaders, client_of, led_by, shards};
use quorate_jepsen_like_tests::failover::{query_failovers, query_failures, write_failovers};
use quorate_jepsen_like_tests::history::{Action, Level, Orphan, Recorder, Stage, write_lines};
use quorate_jepsen_like_tests::probes::Probes;
use quorate_jepsen_like_tests::report::{number_from_env, say};
use quorate_jepsen_like_tests::workload::{Load, LoadOptions};
use quorate_jepsen_like_tests::{readback, turn, wait};

/// How often a leader is killed. `QUORATE_TEST_KILLS` sets another number.
const KILLS: u64 = 3;
/// Load. `QUORATE_TEST_RATE` sets another.
const SAMPLES_PER_SECOND: u64 = 50_000;
/// Time from the kill to the first acknowledged write of an orphaned shard. Failovers are few in a
/// short run, and the largest stands for the 99th percentile.
const P50_MS: f64 = 1_000.0;
const P99_MS: f64 = 2_000.0;
/// An outage that lasts so long is a failure by itself.
const OUTAGE: Duration = Duration::from_secs(30);
const HEAL: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_with_a_leader() -> Result<()> {
    let kills = number_from_env("QUORATE_TEST_KILLS", KILLS);
    let samples_per_second = number_from_env("QUORATE_TEST_RATE", SAMPLES_PER_SECOND);
    let _turn = turn::take()?;
    let mut cluster = Cluster::start(3)?;
    let recorder = Recorder::default();
    let shards = shards(&await_leaders(&cluster, HEAL).await?);
    let probes = Probes::start(cluster.nodes(), shards, &recorder).await?;
    let load = Load::start(
        cluster.nodes(),
        LoadOptions {
            samples_per_second,
            writers: 9,
            series: 500,
        },
        &recorder,
    )?;
    for round in 1..=kills {
        tokio::time::sleep(random_ms(500..2_500)).await;
        kill_a_leader(&mut cluster, &recorder)
            .await
            .with_context(|| format!("kill {round} of {kills}"))?;
    }
    load.stop().await?;
    probes.stop().await?;
    let loaded_s = recorder.now_us() as f64 / 1e6;

    let history = recorder.operations();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("leader_loss.jsonl");
    write_lines(&history, std::io::BufWriter::new(std::fs::File::create(&path)?))?;
    cluster.await_ready(HEAL)?;
    let stored = readback::compare_replicas(cluster.nodes(), HEAL).await?;
    let verdict = readback::judge(cluster.nodes(), ReadLevel::Linearizable, &history).await?;
    let local = readback::judge(cluster.nodes(), ReadLevel::Local, &history).await?;
    let writes = write_failovers(&history);
    let nodes: Vec<u64> = cluster.nodes().iter().map(|node| node.id).collect();
    let queries = query_failovers(&history, Level::Linearizable, &nodes);
    let (linearizable, failed) = query_failures(&history, Level::Linearizable);
    let (bounded, bounded_failed) = query_failures(&history, Level::Bounded);
    say(format_args!(
        "leader_loss: {kills} kills, {:.0} acknowledged samples/s over {loaded_s:.0} s; {verdict}; {stored} stored, replicas identical",
        verdict.acked as f64 / loaded_s
    ));
    say(format_args!(
        "leader_loss: first acknowledged write of an orphaned shard after the kill: {writes}"
    ));
    say(format_args!(
        "leader_loss: first linearizable answer at a survivor after the kill: {queries}; {} of {linearizable} failed; bounded: {} of {bounded} failed",
        failed.len(),
        bounded_failed.len()
    ));
    verdict
        .into_result()
        .with_context(|| format!("history in {}", path.display()))?;
    local
        .into_result()
        .with_context(|| format!("read locally; history in {}", path.display()))?;
    ensure!(
        writes.len() as u64 >= kills,
        "only {} shards were orphaned",
        writes.len()
    );
    for (what, times) in [("writes", &writes), ("linearizable queries", &queries)] {
        let within = |share, bound| times.quantile_ms(share).is_some_and(|ms| ms <= bound);
        ensure!(
            within(0.5, P50_MS) && within(0.99, P99_MS),
            "failover of {what} took too long: {times}"
        );
    }
    let late: Vec<_> = failed
        .iter()
        .filter(|failure| failure.after_kill_ms.is_none_or(|ms| ms > P99_MS))
        .collect();
    ensure!(
        late.is_empty(),
        "linearizable queries failed outside of failovers: {:?}",
        late.first()
    );
    ensure!(
        bounded_failed.is_empty(),
        "bounded queries failed: {:?}",
        bounded_failed.first()
    );
    ensure!(linearizable > 0 && bounded > 0, "no query was asked");
    cluster.stop()
}

/// Kills a node that leads, waits until its shards take writes again, and starts it.
async fn kill_a_leader(cluster: &mut Cluster, recorder: &Recorder) -> Result<()> {
    let (victim, orphaned) = wait::until_async("a node that leads a shard", OUTAGE, async || {
        a_leader(cluster).await
    })
    .await?;
    let from = recorder.len();
    recorder.record(
        Stage::Info,
        Action::Kill {
            node: victim,
            orphaned: orphaned.clone(),
        },
    );
    cluster.kill(victim)?;
    for Orphan { shard, term } in orphaned {
        wait::until_async(format_args!("shard {shard} to take writes"), OUTAGE, async || {
            let acked = recorder.any_since(from, |operation| match &operation.action {
                Action::Write { receipts, .. } if operation.stage == Stage::Ok => receipts
                    .iter()
                    .any(|receipt| receipt.shard == shard && receipt.term > term),
                _ => false,
            });
            ensure!(acked, "none is acknowledged");
            Ok(())
        })
        .await?;
    }
    tokio::time::sleep(random_ms(0..1_000)).await;
    cluster.restart(&[victim])?;
    cluster.await_ready(HEAL)?;
    recorder.record(Stage::Info, Action::Restart { node: victim });
    await_leaders(cluster, HEAL).await.map(|_| ())
}

/// A random one of the nodes that lead, by its own word.
async fn a_leader(cluster: &Cluster) -> Result<(u64, Vec<Orphan>)> {
    let nodes = cluster.nodes();
    let first = rand::random_range(0..nodes.len());
    for node in nodes.iter().cycle().skip(first).take(nodes.len()) {
        let led = led_by(
            &client_of(node)?
                .with_timeout(Duration::from_secs(2))
                .status()
                .await?,
            node.id,
        );
        if !led.is_empty() {
            return Ok((node.id, led));
        }
    }
    anyhow::bail!("no node leads a shard")
}

fn random_ms(range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rand::random_range(range))
}
