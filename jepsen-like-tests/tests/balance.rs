//! Reads are spread over the replicas as `read.balance` says.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quorate_client::Series;
use quorate_jepsen_like_tests::http::Http;
use quorate_jepsen_like_tests::process::Process;
use quorate_jepsen_like_tests::report::say;
use quorate_jepsen_like_tests::server::{Server, start_all};
use quorate_jepsen_like_tests::workload::now_ms;
use quorate_jepsen_like_tests::{readback, turn};

const HEAL: Duration = Duration::from_secs(90);
const REQUESTS: u64 = 3_000;
/// Asking at the same time.
const CLIENTS: u64 = 4;

fn http(server: &Server) -> Http {
    Http::new(&server.http, Duration::from_secs(30))
}

/// How many selections the replicas of each node answered so far.
fn answered(servers: &[Server]) -> Result<Vec<f64>> {
    servers
        .iter()
        .map(|server| http(server).figure("quorate_replica_reads_total"))
        .collect()
}

/// Starts three nodes of these weights.
fn start(
    directory: &std::path::Path,
    policy: &str,
    weights: [u32; 3],
) -> Result<(Vec<Server>, Vec<Process>)> {
    let mut servers = Server::cluster(3, directory)?;
    let peers: String = servers
        .iter()
        .zip(weights)
        .map(|(server, weight)| {
            format!(
                "  - {{id: {}, grpc: \"{}\", weight: {weight}}}\n",
                server.id, server.grpc
            )
        })
        .collect();
    let file = directory.join("quorate.yaml");
    std::fs::write(&file, format!("peers:\n{peers}"))?;
    for server in &mut servers {
        server.config = Some(file.clone());
        server.settings.push(("read.balance".into(), policy.into()));
    }
    let processes = start_all(&servers, HEAL)?;
    Ok((servers, processes))
}

/// Asks one node for one shard's series again and again, and returns what each node's replica answered of it.
async fn spread(policy: &str, weights: [u32; 3]) -> Result<Vec<f64>> {
    let directory = tempfile::tempdir()?;
    let (servers, _processes) = start(directory.path(), policy, weights)?;
    let asked = servers.get(1).context("no second node")?;
    let series = Series::new("balanced").label("job", "j").label("instance", "i");
    let client = asked.client()?.with_timeout(HEAL);
    client.write(vec![series.sample(now_ms(), 1.0)]).await?;
    let nodes: Vec<_> = servers.iter().map(Server::as_node).collect();
    readback::compare_replicas(&nodes, HEAL).await?;
    let before = answered(&servers)?;
    let ask = || {
        let http = http(asked);
        for _ in 0..REQUESTS / CLIENTS {
            let answer = http.get("/api/v1/query?query=balanced%7Bjob%3D%22j%22%2Cinstance%3D%22i%22%7D")?;
            ensure!(
                answer.status == 200 && answer.text().contains("balanced"),
                "{}: {}",
                answer.status,
                answer.text()
            );
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(ask)).collect();
        let mut ended = asking.into_iter().map(std::thread::ScopedJoinHandle::join);
        ended.try_for_each(|ended| ended.map_err(|_| anyhow::anyhow!("a client panicked"))?)
    })?;
    let after = answered(&servers)?;
    Ok(after
        .iter()
        .zip(&before)
        .map(|(after, before)| after - before)
        .collect())
}

fn within_two_percent(answered: &[f64], weights: [u32; 3]) -> Result<()> {
    let all: f64 = answered.iter().sum();
    ensure!(all >= REQUESTS as f64, "{all} selections for {REQUESTS} requests");
    let weight: u32 = weights.iter().sum();
    for (answered, of) in answered.iter().zip(weights) {
        let ideal = all * f64::from(of) / f64::from(weight);
        ensure!(
            (answered - ideal).abs() <= 0.02 * ideal,
            "{answered} of {all}, ideal is {ideal}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn round_robin_gives_every_replica_the_same() -> Result<()> {
    let _turn = turn::take()?;
    let answered = spread("round_robin", [1, 1, 1]).await?;
    say(format_args!("balance: round_robin {answered:?}"));
    within_two_percent(&answered, [1, 1, 1])
}

#[tokio::test(flavor = "multi_thread")]
async fn weighted_gives_every_replica_its_share() -> Result<()> {
    let _turn = turn::take()?;
    let answered = spread("weighted", [2, 1, 1]).await?;
    say(format_args!("balance: weighted 2:1:1 {answered:?}"));
    within_two_percent(&answered, [2, 1, 1])
}

#[tokio::test(flavor = "multi_thread")]
async fn local_first_asks_nobody_else() -> Result<()> {
    let _turn = turn::take()?;
    let answered = spread("local_first", [1, 1, 1]).await?;
    ensure!(answered == [0.0, REQUESTS as f64, 0.0], "{answered:?}");
    Ok(())
}
