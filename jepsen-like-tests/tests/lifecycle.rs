//! How nodes find one another, stop, come back, are replaced, and refuse what would split the cluster.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use quorate_client::{Client, ReadLevel, Series, StatusResponse};
use quorate_jepsen_like_tests::cluster::{Cluster, Node, await_leaders, await_ready};
use quorate_jepsen_like_tests::http::Http;
use quorate_jepsen_like_tests::process::Process;
use quorate_jepsen_like_tests::report::say;
use quorate_jepsen_like_tests::server::{Server, start_all};
use quorate_jepsen_like_tests::workload::now_ms;
use quorate_jepsen_like_tests::{readback, turn, wait};
use rustix::process::Signal;

const HEAL: Duration = Duration::from_secs(90);
/// The configured bound of an orderly shutdown is 20 s.
const SHUTDOWN: Duration = Duration::from_secs(25);
/// How long something is watched that must not happen.
const WATCH: Duration = Duration::from_secs(5);

fn directory() -> Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new()
        .prefix("quorate-test-lifecycle-")
        .tempdir()?)
}

fn as_nodes(servers: &[Server]) -> Vec<Node> {
    servers.iter().map(Server::as_node).collect()
}

/// Writes a sample to each of many series, so that every shard has some, and returns how many.
async fn write_some(server: &Server, run: &str) -> Result<u64> {
    let at_ms = now_ms();
    let series = |number: u64| {
        let series = Series::new("survivor")
            .label("run", run)
            .label("instance", format!("i{number}"));
        series.sample(at_ms, number as f64)
    };
    let result = server
        .client()?
        .with_timeout(HEAL)
        .write((0..200).map(series).collect())
        .await?;
    // A retry finds what its first attempt stored.
    ensure!(
        result.samples_stored + result.samples_duplicate == 200 && result.rejections.is_empty(),
        "{result:?}"
    );
    Ok(200)
}

async fn count(server: &Server) -> Result<u64> {
    let client = server.client()?.with_timeout(HEAL);
    let answer = client
        .read("survivor", 0, i64::MAX / 2, ReadLevel::Linearizable)
        .await?;
    Ok(answer
        .series
        .iter()
        .map(|series| series.values.len() as u64)
        .sum())
}

async fn status(server: &Server) -> Result<StatusResponse> {
    Ok(server.client()?.status().await?)
}

/// The cluster that a node says it belongs to, by one quick question.
async fn cluster_of(server: &Server) -> Option<String> {
    let client = Client::builder().endpoint(server.grpc.as_str());
    let client = client
        .timeout(Duration::from_millis(500))
        .max_attempts(1)
        .connect()
        .ok()?;
    client
        .status()
        .await
        .ok()
        .map(|status| status.cluster_id)
        .filter(|id| !id.is_empty())
}

/// Asserts that `happened` stays false for a while.
async fn never(what: &str, mut happened: impl AsyncFnMut() -> bool) -> Result<()> {
    let started = Instant::now();
    wait::until_async("the end of the watch", 2 * WATCH, async || {
        if happened().await {
            return Ok(Err(anyhow::anyhow!("{what}")));
        }
        ensure!(started.elapsed() >= WATCH, "not yet");
        Ok(Ok(()))
    })
    .await?
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_start_in_any_order_stop_in_order_and_find_their_data() -> Result<()> {
    let _turn = turn::take()?;
    let directory = directory()?;
    let servers = Server::cluster(3, directory.path())?;
    let [first, second, third] = servers.as_slice() else {
        unreachable!()
    };
    // Alone, the last one is alive, not ready, and says what for.
    let process_3 = third.start()?;
    let http = Http::new(&third.http, Duration::from_secs(5));
    let waits = wait::until("a node to say what it waits for", HEAL, || {
        ensure!(http.get("/-/healthy")?.status == 200, "not healthy");
        let answer = http.get("/-/ready")?;
        ensure!(answer.status == 503, "{}", answer.status);
        Ok(answer.text())
    })?;
    ensure!(
        waits.contains("wait") || waits.contains('1'),
        "it does not say what it waits for: {waits}"
    );
    let process_1 = first.start()?;
    never("two of three nodes founded a cluster", async || {
        http.get("/-/ready").is_ok_and(|answer| answer.status == 200)
    })
    .await?;
    let mut processes = vec![process_1, second.start()?, process_3];
    for server in &servers {
        await_ready(&server.http, HEAL)?;
    }
    let id = status(first).await?.cluster_id;
    for server in &servers {
        ensure!(
            !id.is_empty() && status(server).await?.cluster_id == id,
            "more than one cluster"
        );
    }
    let mut written = write_some(second, "one").await?;
    let mut slowest = Duration::ZERO;
    for process in &mut processes {
        let started = Instant::now();
        process.terminate(SHUTDOWN)?;
        slowest = slowest.max(started.elapsed());
    }
    // The second run, in another order, has the same cluster and data.
    let reversed: Vec<Server> = servers.iter().rev().cloned().collect();
    let mut processes = start_all(&reversed, HEAL)?;
    for server in &servers {
        ensure!(
            status(server).await?.cluster_id == id,
            "another cluster after the restart"
        );
        ensure!(
            count(server).await? == written,
            "node {} has not all data",
            server.id
        );
    }
    written += write_some(third, "two").await?;
    readback::compare_replicas(&as_nodes(&servers), HEAL).await?;
    // One after another, as an upgrade does it: nothing is missed.
    for (server, process) in reversed.iter().zip(&mut processes) {
        process.terminate(SHUTDOWN)?;
        *process = server.start()?;
        await_ready(&server.http, HEAL)?;
        written += write_some(server, &format!("rolling-{}", server.id)).await?;
    }
    for server in &servers {
        ensure!(
            count(server).await? == written,
            "node {} has not all data",
            server.id
        );
    }
    say(format_args!(
        "lifecycle: SIGTERM to exit 0 took at most {slowest:.1?}; {written} samples survived"
    ));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_rejoins_under_new_replica_ids() -> Result<()> {
    let _turn = turn::take()?;
    let directory = directory()?;
    let servers = Server::cluster(3, directory.path())?;
    let mut processes = start_all(&servers, HEAL)?;
    let mut written = write_some(servers.first().context("no node")?, "before").await?;
    let victim = servers.get(1).context("no second node")?;
    // A group that was just made may not have reached the first node, which then can't name its replicas.
    let before = wait::until_async("every group's voters at the first node", HEAL, async || {
        let status = status(servers.first().context("no node")?).await?;
        for group in &status.groups {
            let known = group
                .replicas
                .iter()
                .any(|replica| replica.node == victim.id && replica.voter);
            ensure!(known, "group {} has no voter on node {}", group.group, victim.id);
        }
        Ok(status)
    })
    .await?;
    processes.get_mut(1).context("no second node")?.kill()?;
    std::fs::remove_dir_all(&victim.data_dir)?;
    written += write_some(servers.first().context("no node")?, "meanwhile").await?;
    let started = Instant::now();
    *processes.get_mut(1).context("no second node")? = victim.start()?;
    let after = wait::until_async("new replicas on the wiped node", HEAL, async || {
        let status = status(victim).await?;
        for group in &status.groups {
            let replica = |status: &StatusResponse| {
                let group = status.groups.iter().find(|other| other.group == group.group)?;
                group
                    .replicas
                    .iter()
                    .find(|replica| replica.node == victim.id && replica.voter)
                    .map(|replica| replica.replica)
            };
            let (old, new) = (
                replica(&before).context("no old replica")?,
                replica(&status).context("no voter yet")?,
            );
            ensure!(old != new, "group {} still has replica {old}", group.group);
        }
        Ok(status)
    });
    ensure!(
        after.await?.cluster_id == before.cluster_id,
        "it is in another cluster"
    );
    await_ready(&victim.http, HEAL)?;
    let stored = readback::compare_replicas(&as_nodes(&servers), HEAL).await?;
    ensure!(
        stored == written && count(victim).await? == written,
        "{stored} of {written} samples"
    );
    say(format_args!(
        "lifecycle: a wiped node was back with all data after {:.1?}",
        started.elapsed()
    ));
    // It counts for majorities: with another node down, writes go on.
    processes.first_mut().context("no node")?.kill()?;
    write_some(victim, "after")
        .await
        .context("with only the wiped node and one other")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn wiped_nodes_do_not_found_a_second_cluster() -> Result<()> {
    let _turn = turn::take()?;
    let directory = directory()?;
    let servers = Server::cluster(3, directory.path())?;
    let mut processes = start_all(&servers, HEAL)?;
    let [first, second, third] = servers.as_slice() else {
        unreachable!()
    };
    write_some(first, "first").await?;
    let id = status(first).await?.cluster_id;
    processes.iter_mut().try_for_each(Process::kill)?;
    // A majority of empty nodes, while the one that remembers is away.
    for server in [second, third] {
        std::fs::remove_dir_all(&server.data_dir)?;
    }
    let _wiped = [second.start()?, third.start()?];
    never("wiped nodes founded a cluster without the third", async || {
        cluster_of(second).await.is_some() || cluster_of(third).await.is_some()
    })
    .await?;
    // It comes back: it alone can't tell what the others knew, so nothing may be decided anew.
    let _first = first.start()?;
    never("a second cluster", async || {
        let other = async |server: &Server| cluster_of(server).await.is_some_and(|other| other != id);
        other(first).await || other(second).await || other(third).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_cluster_is_kept_out() -> Result<()> {
    let _turn = turn::take()?;
    let directory = directory()?;
    let ours = Server::cluster(3, &create(directory.path(), "ours")?)?;
    let theirs = Server::cluster(1, &create(directory.path(), "theirs")?)?;
    let mut processes = start_all(&ours, HEAL)?;
    let mut foreign = start_all(&theirs, HEAL)?;
    let stranger = theirs.first().context("no node")?;
    let written = write_some(ours.first().context("no node")?, "ours").await?;
    write_some(stranger, "theirs").await?;
    let (id, other) = (
        status(ours.first().context("no node")?).await?.cluster_id,
        status(stranger).await?.cluster_id,
    );
    ensure!(id != other, "two clusters have one id");
    foreign.first_mut().context("no node")?.terminate(SHUTDOWN)?;
    // It takes the place of our third node, data and all.
    processes.pop().context("no third node")?.kill()?;
    let place = ours.last().context("no third node")?;
    let intruder = Server {
        data_dir: stranger.data_dir.clone(),
        log: directory.path().join("intruder.log"),
        ..place.clone()
    };
    let mut intruder = intruder.start()?;
    let http = Http::new(&place.http, Duration::from_secs(2));
    never("an intruder became ready", async || {
        http.get("/-/ready").is_ok_and(|answer| answer.status == 200)
    })
    .await?;
    let ended = intruder.check_running().is_err();
    for server in ours.iter().take(2) {
        ensure!(
            status(server).await?.cluster_id == id,
            "node {} changed sides",
            server.id
        );
        ensure!(
            count(server).await? == written,
            "node {} has other data than ours",
            server.id
        );
    }
    drop(intruder);
    // The right one is still welcome.
    processes.push(place.start()?);
    await_ready(&place.http, HEAL)?;
    readback::compare_replicas(&as_nodes(&ours), HEAL).await?;
    say(format_args!(
        "lifecycle: a node of another cluster {}",
        if ended {
            "refused to start"
        } else {
            "was never ready"
        }
    ));
    Ok(())
}

fn create(parent: &Path, name: &str) -> Result<std::path::PathBuf> {
    let path = parent.join(name);
    std::fs::create_dir(&path)?;
    Ok(path)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_has_one_owner_and_one_identity() -> Result<()> {
    let _turn = turn::take()?;
    let directory = directory()?;
    let servers = Server::cluster(1, directory.path())?;
    let server = servers.first().context("no node")?;
    let mut processes = start_all(&servers, HEAL)?;
    let elsewhere = Server::cluster(1, &create(directory.path(), "elsewhere")?)?;
    let elsewhere = elsewhere.first().context("no node")?;
    let second = Server {
        data_dir: server.data_dir.clone(),
        ..elsewhere.clone()
    };
    let mut process = second.start()?;
    ensure!(
        !process.wait(HEAL)?.success(),
        "a second process serves the same directory"
    );
    ensure!(process.log_tail().contains("in use"), "{}", process.log_tail());
    ensure!(
        Http::new(&server.http, HEAL).get("/-/ready")?.status == 200,
        "the owner was disturbed"
    );
    processes.first_mut().context("no node")?.terminate(SHUTDOWN)?;
    // The same data under another node id.
    let renamed = Server {
        id: 2,
        peers: format!("2={}", server.grpc),
        ..server.clone()
    };
    let mut process = renamed.start()?;
    ensure!(!process.wait(HEAL)?.success(), "node 2 serves the data of node 1");
    ensure!(process.log_tail().contains('1'), "{}", process.log_tail());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() -> Result<()> {
    let _turn = turn::take()?;
    let directory = directory()?;
    let servers = Server::cluster(1, directory.path())?;
    let mut processes = start_all(&servers, HEAL)?;
    let process = processes.first_mut().context("no node")?;
    process.signal(Signal::TERM)?;
    process.signal(Signal::TERM)?;
    process.wait(Duration::from_secs(5)).map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn quorate_dev_finds_its_cluster_again() -> Result<()> {
    let _turn = turn::take()?;
    let mut cluster = Cluster::start(3)?;
    let before = await_leaders(&cluster, HEAL).await?;
    let series = Series::new("survivor").sample(now_ms(), 1.5);
    cluster.client().connect()?.write(vec![series]).await?;
    cluster.stop_and_start()?;
    let after = await_leaders(&cluster, HEAL).await?;
    ensure!(
        before.cluster_id == after.cluster_id && !after.cluster_id.is_empty(),
        "another cluster"
    );
    let answer = cluster
        .client()
        .connect()?
        .read("survivor", 0, i64::MAX / 2, ReadLevel::Linearizable)
        .await?;
    ensure!(
        answer.series.iter().flat_map(|series| &series.values).eq(&[1.5]),
        "{answer:?}"
    );
    cluster.stop()
}
