//! A node that lost its disk after the log it would need was purged: snapshots have to bring it back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use quorate_client::{ReadLevel, Series, StatusResponse};
use quorate_jepsen_like_tests::cluster::{Node, await_ready};
use quorate_jepsen_like_tests::http::Http;
use quorate_jepsen_like_tests::process::Process;
use quorate_jepsen_like_tests::report::say;
use quorate_jepsen_like_tests::server::{Server, start_all};
use quorate_jepsen_like_tests::workload::now_ms;
use quorate_jepsen_like_tests::{readback, turn, wait};

const HEAL: Duration = Duration::from_secs(120);
/// Each makes one entry in every shard. A node keeps some hundred entries behind its flush.
const BATCHES: u64 = 900;
const SERIES: u64 = 64;

async fn write_batches(server: &Server, batches: std::ops::Range<u64>) -> Result<u64> {
    let client = server.client()?.with_timeout(HEAL);
    let start_ms = now_ms();
    let mut written = 0;
    for batch in batches {
        let series = |number: u64| {
            let series = Series::new("survivor").label("instance", format!("i{number}"));
            series.sample(start_ms + batch as i64, (batch * SERIES + number) as f64)
        };
        let result = client.write((0..SERIES).map(series).collect()).await?;
        ensure!(
            result.samples_stored + result.samples_duplicate == SERIES && result.rejections.is_empty(),
            "{result:?}"
        );
        written += SERIES;
    }
    Ok(written)
}

/// The shards of which a node has purged some of the log.
fn purged(server: &Server, shards: impl Iterator<Item = u32>) -> Result<Vec<u32>> {
    let http = Http::new(&server.http, Duration::from_secs(5));
    let mut purged = Vec::new();
    for shard in shards {
        if http.figure(&format!("quorate_group_purged_index{{group=\"{shard}\"}}"))? > 0.0 {
            purged.push(shard);
        }
    }
    Ok(purged)
}

/// The replica ids of the voters on a node, by group.
fn voters(status: &StatusResponse, node: u64) -> Vec<(u32, Option<u64>)> {
    let voter = |group: &quorate_client::GroupStatus| {
        let own = group.replicas.iter().find(|r| r.node == node && r.voter);
        (group.group, own.map(|r| r.replica))
    };
    status.groups.iter().map(voter).collect()
}

/// How many groups have another voter on the victim than before.
async fn replaced(asked: &Server, victim: &Server, before: &StatusResponse) -> Result<usize> {
    let now = voters(&asked.client()?.status().await?, victim.id);
    let before = voters(before, victim.id);
    let new = |(group, replica): &&(u32, Option<u64>)| {
        let old = before
            .iter()
            .find(|(other, _)| other == group)
            .and_then(|(_, r)| *r);
        replica.is_some() && *replica != old
    };
    Ok(now.iter().filter(new).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_is_filled_by_snapshots_also_when_killed_midway() -> Result<()> {
    let _turn = turn::take()?;
    let directory = tempfile::tempdir()?;
    let mut servers = Server::cluster(3, directory.path())?;
    for server in &mut servers {
        server.settings.push(("flush.interval".into(), "1s".into()));
    }
    let mut processes = start_all(&servers, HEAL)?;
    let [first, victim, third] = servers.as_slice() else {
        anyhow::bail!("{} servers", servers.len())
    };
    let mut written = write_batches(first, 0..BATCHES).await?;
    let before = first.client()?.status().await?;
    let shards: Vec<u32> = before
        .groups
        .iter()
        .map(|group| group.group)
        .filter(|g| *g != 0)
        .collect();
    for server in [first, third] {
        wait::until("every shard's log to be purged", HEAL, || {
            let purged = purged(server, shards.iter().copied())?;
            ensure!(purged == shards, "only those of {purged:?}");
            Ok(())
        })?;
    }

    let victims: &mut Process = processes.get_mut(1).context("no second node")?;
    victims.kill()?;
    std::fs::remove_dir_all(&victim.data_dir)?;
    std::fs::create_dir(&victim.data_dir)?;
    written += write_batches(first, BATCHES..BATCHES + 20).await?;
    let started = Instant::now();
    *victims = victim.start()?;
    // Killed while some groups are there and others not, if it is slow enough; in any case once one is.
    let midway = wait::until_async("the first new replica", HEAL, async || {
        let replaced = replaced(first, victim, &before).await?;
        ensure!(replaced > 0, "none yet");
        Ok(replaced)
    })
    .await?;
    victims.kill()?;
    written += write_batches(third, BATCHES + 20..BATCHES + 40).await?;
    *victims = victim.start()?;
    await_ready(&victim.http, HEAL)?;
    wait::until_async("a new voter in every group", HEAL, async || {
        let replaced = replaced(first, victim, &before).await?;
        ensure!(replaced == shards.len() + 1, "{replaced} of {}", shards.len() + 1);
        Ok(())
    })
    .await?;

    let nodes: Vec<Node> = servers.iter().map(Server::as_node).collect();
    let stored = readback::compare_replicas(&nodes, HEAL).await?;
    ensure!(stored == written, "{stored} of {written} samples");
    let answer = victim
        .client()?
        .with_timeout(HEAL)
        .read("survivor", 0, i64::MAX / 2, ReadLevel::Local)
        .await?;
    let read: u64 = answer
        .series
        .iter()
        .map(|series| series.values.len() as u64)
        .sum();
    ensure!(read == written, "the new disk has {read} of {written} samples");
    say(format_args!(
        "snapshots: a wiped node, killed with {midway} of {} groups back, had all {written} samples after {:.1?}",
        shards.len() + 1,
        started.elapsed()
    ));
    // It counts for majorities: with another node down, writes go on.
    processes.first_mut().context("no node")?.kill()?;
    write_batches(third, BATCHES + 40..BATCHES + 41)
        .await
        .context("with only the wiped node and one other")?;
    Ok(())
}
