//! What nodes say and do while something is wrong that kills nobody: no majority, no space, a disk that
//! hangs, a clock that jumps. They must say so soon, promise nothing, and recover without a restart.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use quorate_client::{ReadLevel, Series};
use quorate_jepsen_like_tests::bed::{Bed, BedOptions, Clock, DiskFault};
use quorate_jepsen_like_tests::cluster::{self, Node, client_of};
use quorate_jepsen_like_tests::http::{Answer, Http};
use quorate_jepsen_like_tests::remote_write::{self, TimeSeries};
use quorate_jepsen_like_tests::report::{say, skip};
use quorate_jepsen_like_tests::server::{Server, start_all};
use quorate_jepsen_like_tests::workload::now_ms;
use quorate_jepsen_like_tests::{readback, turn, wait};

const HEAL: Duration = Duration::from_secs(90);
/// `raft.quorum_timeout`, two elections and some time for a busy machine. Deadlines are far longer.
const SOON: Duration = Duration::from_secs(4);
/// What a client is ready to wait.
const PATIENT: Duration = Duration::from_secs(25);
const SERIES: u64 = 64;
/// What a sender gets when all is stored.
const STORED: u16 = 204;

fn http(node: &Node) -> Http {
    Http::new(&node.http, PATIENT)
}

/// One sample each of many series, so that every shard gets some, as an agent sends them.
fn write(node: &Node, round: u64) -> Result<Answer> {
    let at_ms = now_ms();
    let series = (0..SERIES).map(|number| {
        let instance = format!("i{number}");
        let round = round.to_string();
        let labels = [
            ("__name__", "degraded"),
            ("instance", instance.as_str()),
            ("round", round.as_str()),
        ];
        TimeSeries::new(labels, [(at_ms, number as f64)])
    });
    remote_write::send(&http(node), &remote_write::encode(series.collect())?)
}

fn read(node: &Node, level: &str) -> Result<Answer> {
    http(node).get(&format!(
        "/api/v1/query?query=count(degraded)&timeout=20s&read={level}"
    ))
}

/// Waits for a write by way of `node` to be stored.
fn stores_again(what: &str, node: &Node, round: u64) -> Result<()> {
    wait::until(what, HEAL, || {
        let answer = write(node, round)?;
        ensure!(answer.status == STORED, "{}: {}", answer.status, answer.text());
        Ok(())
    })
}

fn count(answer: &Answer) -> Result<u64> {
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    let json: serde_json::Value = serde_json::from_slice(&answer.body)?;
    let value = json["data"]["result"][0]["value"][1].as_str();
    Ok(value.context("no series")?.parse()?)
}

fn ready(node: &Node) -> Result<Answer> {
    http(node).get("/-/ready")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_survivor_says_that_its_majority_is_gone() -> Result<()> {
    let _turn = turn::take()?;
    let directory = tempfile::tempdir()?;
    let servers = Server::cluster(3, directory.path())?;
    let mut processes = start_all(&servers, HEAL)?;
    let survivor = servers.first().context("no node")?.as_node();
    ensure!(write(&survivor, 1)?.status == STORED, "a healthy cluster refused");

    processes
        .iter_mut()
        .skip(1)
        .try_for_each(|process| process.kill())?;
    let killed = Instant::now();
    // Asked at once, while nobody can know yet: both wait for what is the matter, not for their deadline.
    let (query, written) = std::thread::scope(|scope| {
        let query = scope.spawn(|| (read(&survivor, "linearizable"), killed.elapsed()));
        let written = scope.spawn(|| (write(&survivor, 2), killed.elapsed()));
        (query.join(), written.join())
    });
    for (what, answered) in [("query", query), ("write", written)] {
        let (answer, after) = answered.map_err(|_| anyhow::anyhow!("the {what} panicked"))?;
        let answer = answer?;
        ensure!(
            answer.status == 503 && after < SOON,
            "the {what}: {} after {after:?}: {}",
            answer.status,
            answer.text()
        );
    }
    wait::until("the survivor not to be ready", SOON, || {
        let answer = ready(&survivor)?;
        ensure!(answer.status == 503, "{}", answer.status);
        Ok(())
    })?;
    let unready = killed.elapsed();
    // Known by now: nobody waits any more.
    let mut slowest = Duration::ZERO;
    for _ in 0..10 {
        for ask in [read(&survivor, "linearizable"), write(&survivor, 3)] {
            let answer = ask?;
            ensure!(answer.status == 503, "{}: {}", answer.status, answer.text());
            ensure!(answer.text().contains("majority"), "{}", answer.text());
        }
        let started = Instant::now();
        read(&survivor, "linearizable")?;
        slowest = slowest.max(started.elapsed());
    }
    ensure!(slowest < Duration::from_secs(2), "{slowest:?} for a known answer");
    ensure!(
        count(&read(&survivor, "local")?)? >= SERIES,
        "what it holds can't be read"
    );
    ensure!(
        http(&survivor).figure("quorate_group_quorum_lost")? > 0.0,
        "/metrics says nothing"
    );

    let back = servers.get(1).context("no second node")?;
    *processes.get_mut(1).context("no second node")? = back.start()?;
    cluster::await_ready(&survivor.http, HEAL)?;
    stores_again("writes after the return of a majority", &survivor, 4)?;
    let all = count(&read(&survivor, "linearizable")?)?;
    // What was refused may be stored: its outcome was unknown. What was acknowledged is.
    ensure!(all >= 2 * SERIES, "{all} series of at least {}", 2 * SERIES);
    say(format_args!(
        "degraded: not ready {unready:.1?} after the loss of the majority, a 503 takes {slowest:.0?}"
    ));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_below_its_disk_reserve_reads_on_and_recovers() -> Result<()> {
    let _turn = turn::take()?;
    if let Some(missing) = Bed::missing() {
        skip("disk reserve", missing);
        return Ok(());
    }
    let bed = Bed::start(BedOptions {
        disk_mib: 512,
        settings: vec![("disk_reserve_bytes".into(), "128MiB".into())],
        ..BedOptions::default()
    })?;
    let nodes = bed.nodes();
    nodes
        .iter()
        .try_for_each(|node| cluster::await_ready(&node.http, HEAL))?;
    let first = nodes.first().context("no node")?;
    ensure!(write(first, 1)?.status == STORED, "a healthy cluster refused");

    // One node: the others take its leaders, and its clients notice nothing for long.
    bed.fill_disk(first.id, 64 << 20)?;
    let low = |node: &Node| http(node).figure("quorate_disk_reserve_reached");
    wait::until("the reserve to be reached", SOON, || {
        ensure!(low(first)? == 1.0, "not yet");
        Ok(())
    })?;
    wait::until("leaders to have moved", HEAL, || {
        let led = http(first).figure("quorate_group_leads")?;
        ensure!(led == 0.0, "{led} groups are led by the full node");
        Ok(())
    })?;
    ensure!(
        write(first, 2)?.status == STORED,
        "the others have space and were not asked"
    );
    // The full one takes no entries, so it is behind, and has to ask another for what it misses.
    let found = count(&read(first, "linearizable")?)?;
    ensure!(found == 2 * SERIES, "{found} series");

    // All nodes: no writes, but reads of what they have.
    for node in nodes.iter().skip(1) {
        bed.fill_disk(node.id, 64 << 20)?;
        wait::until("the reserve to be reached", SOON, || {
            ensure!(low(node)? == 1.0, "not yet");
            Ok(())
        })?;
    }
    let started = Instant::now();
    let refused = write(first, 3)?;
    ensure!(
        refused.status == 503 && started.elapsed() < 2 * SOON,
        "{} after {:?}: {}",
        refused.status,
        started.elapsed(),
        refused.text()
    );
    for node in &nodes {
        let found = count(&read(node, "local")?)?;
        ensure!(found >= SERIES, "node {}: {found}", node.id);
    }
    // Also with leaders that were elected without space: what begins their term has to pass.
    let leader = nodes.get(1).context("no second node")?;
    bed.kill(leader.id)?;
    bed.start_node(leader.id)?;
    for node in &nodes {
        wait::until("a linearizable read of all nodes without space", HEAL, || {
            let found = count(&read(node, "linearizable")?)?;
            ensure!(found >= 2 * SERIES, "node {}: {found}", node.id);
            Ok(())
        })?;
    }

    nodes.iter().try_for_each(|node| bed.free_disk(node.id))?;
    stores_again("writes with space again", first, 4)?;
    readback::compare_replicas(&nodes, HEAL).await?;
    bed.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_hangs_hands_over_and_recovers() -> Result<()> {
    let _turn = turn::take()?;
    if let Some(missing) = Bed::missing() {
        skip("hung disk", missing);
        return Ok(());
    }
    let bed = Bed::start(BedOptions {
        settings: vec![("raft.disk_stall_timeout".into(), "2s".into())],
        ..BedOptions::default()
    })?;
    let nodes = bed.nodes();
    nodes
        .iter()
        .try_for_each(|node| cluster::await_ready(&node.http, HEAL))?;
    let [victim, other, _] = nodes.as_slice() else {
        anyhow::bail!("{} nodes", nodes.len())
    };
    ensure!(write(other, 1)?.status == STORED, "a healthy cluster refused");
    wait::until("the victim to lead something", HEAL, || {
        ensure!(http(victim).figure("quorate_group_leads")? > 0.0, "not yet");
        Ok(())
    })?;

    bed.disk_fault(victim.id, DiskFault::Hang)?;
    let hung = Instant::now();
    // Something has to be written for a disk to be noticed; what is told meanwhile is a 2xx or a 503.
    wait::until("writes without the hung disk", HEAL, || {
        let answer = write(other, 2)?;
        ensure!(matches!(answer.status, STORED | 503), "{}", answer.status);
        ensure!(answer.status == STORED, "{}", answer.text());
        Ok(())
    })?;
    wait::until("the stall to be noticed", HEAL, || {
        // Any write of the victim's log will do.
        write(other, 3)?;
        ensure!(http(victim).figure("quorate_disk_stalled")? == 1.0, "not yet");
        Ok(())
    })?;
    wait::until("the victim not to be ready", SOON, || {
        let answer = ready(victim)?;
        ensure!(
            answer.status == 503 && answer.text().contains("disk"),
            "{}",
            answer.text()
        );
        Ok(())
    })?;
    let client = client_of(other)?.with_timeout(PATIENT);
    wait::until_async("leaders to have moved", HEAL, async || {
        let groups = client.status().await?.groups;
        let led = groups.iter().filter(|group| group.leader_node == Some(victim.id));
        ensure!(led.count() == 0, "some are led by the victim");
        Ok(())
    })
    .await?;
    let moved = hung.elapsed();
    // Everything works but the one node, by way of which writes work, too.
    for node in [other, victim] {
        stores_again("writes by way of every node", node, 4)?;
    }
    let stored = count(&read(other, "linearizable")?)?;

    bed.disk_fault(victim.id, DiskFault::None)?;
    cluster::await_ready(&victim.http, HEAL)?;
    ensure!(bed.is_running(victim.id), "it was not to die of this");
    ensure!(
        count(&read(victim, "linearizable")?)? == stored,
        "it has not caught up"
    );
    readback::compare_replicas(&nodes, HEAL).await?;
    say(format_args!(
        "degraded: every leader had left a hung disk after {moved:.1?}"
    ));
    bed.stop()
}

/// A leader's clock that jumps a year ahead must not stamp one entry: it would hide everything its shards hold
/// behind the retention, for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_does_not_hide_what_is_stored() -> Result<()> {
    let _turn = turn::take()?;
    if let Some(missing) = Bed::missing() {
        skip("clock jump", missing);
        return Ok(());
    }
    let bed = Bed::start(BedOptions::default())?;
    let nodes = bed.nodes();
    nodes
        .iter()
        .try_for_each(|node| cluster::await_ready(&node.http, HEAL))?;
    let client = cluster::client_of_all(&nodes).timeout(PATIENT).connect()?;
    let sample = |round: u64, number: u64| {
        let series = Series::new("degraded").label("instance", format!("i{number}"));
        series
            .label("round", round.to_string())
            .sample(now_ms(), number as f64)
    };
    let batch = |round: u64| {
        (0..SERIES)
            .map(|number| sample(round, number))
            .collect::<Vec<_>>()
    };
    client.write(batch(0)).await?;
    for (rounds, victim) in (1..).zip(&nodes) {
        let year = Clock {
            offset_ms: 365 * 86_400_000,
            ..Clock::TRUE
        };
        // Written all the while, so that a batch falls into the moment of the jump.
        for round in 0..20 {
            if round == 5 {
                bed.clock(victim.id, year)?;
            }
            let _answer = write(victim, 1_000 * rounds + round)?;
        }
        bed.clock(victim.id, Clock::TRUE)?;
        wait::until_async("every shard to take writes", HEAL, async || {
            let written = client.write(batch(rounds)).await?;
            ensure!(
                written.rejections.is_empty(),
                "refused for good: {:?}",
                written.rejections
            );
            Ok(())
        })
        .await?;
    }
    for node in &nodes {
        let found = client_of(node)?
            .with_timeout(PATIENT)
            .read("degraded{round=\"0\"}", 0, i64::MAX / 2, ReadLevel::Linearizable)
            .await?;
        ensure!(
            found.series.len() as u64 == SERIES,
            "node {}: {} of {SERIES} acknowledged series",
            node.id,
            found.series.len()
        );
    }
    readback::compare_replicas(&nodes, HEAL).await?;
    bed.stop()
}
