//! Every fault that a bed offers, done to real nodes: it must really happen, be seen by the node, and end when it
//! should. What wires and disks do by themselves is shown in `bed_wire.rs`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use quorate_client::{ReadLevel, Series};
use quorate_jepsen_like_tests::bed::{Bed, BedOptions, Clock, DiskFault, Disturbance, Peer, Rot, Wire};
use quorate_jepsen_like_tests::cluster::{await_ready, client_of, client_of_all};
use quorate_jepsen_like_tests::http::Http;
use quorate_jepsen_like_tests::process::{self, Process};
use quorate_jepsen_like_tests::report::{say, skip};
use quorate_jepsen_like_tests::workload::now_ms;
use quorate_jepsen_like_tests::{readback, turn, wait};

const HEAL: Duration = Duration::from_secs(60);
/// What a node that can do nothing would have done by then.
const NEVER: Duration = Duration::from_millis(500);

/// A bed with nodes that are ready, or `None`, said visibly, where none can be made.
fn bed(options: BedOptions) -> Result<Option<(turn::Turn, Bed)>> {
    if let Some(missing) = Bed::missing() {
        skip("bed", missing);
        return Ok(None);
    }
    let turn = turn::take()?;
    let bed = Bed::start(options)?;
    all_ready(&bed)?;
    Ok(Some((turn, bed)))
}

fn all_ready(bed: &Bed) -> Result<()> {
    bed.ids().into_iter().try_for_each(|id| ready(bed, id))
}

fn ready(bed: &Bed, id: u64) -> Result<()> {
    await_ready(&http(bed, id)?, HEAL).with_context(|| bed.logs())
}

fn http(bed: &Bed, id: u64) -> Result<String> {
    let nodes = bed.nodes();
    let node = nodes.into_iter().find(|node| node.id == id);
    Ok(node.context("no such node")?.http)
}

/// Starts again whoever is down.
fn start_all(bed: &Bed) -> Result<()> {
    let down = bed.ids().into_iter().filter(|id| !bed.is_running(*id));
    down.into_iter().try_for_each(|id| bed.start_node(id))?;
    all_ready(bed)
}

/// Writes a sample to each of 100 series through any node that takes it.
async fn write(bed: &Bed, run: &str) -> Result<()> {
    let client = client_of_all(&bed.nodes())
        .timeout(HEAL)
        .attempt_timeout(Duration::from_secs(2))
        .connect()?;
    let at_ms = now_ms();
    let series = |number: u64| {
        let series = Series::new("survivor").label("run", run);
        series
            .label("instance", format!("i{number}"))
            .sample(at_ms, number as f64)
    };
    let result = client.write((0..100).map(series).collect()).await?;
    ensure!(
        result.samples_stored + result.samples_duplicate == 100,
        "{result:?}"
    );
    Ok(())
}

/// How many of the samples of a run a node returns.
async fn count(bed: &Bed, id: u64, run: &str, limit: Duration) -> Result<usize> {
    let nodes = bed.nodes();
    let node = nodes.iter().find(|node| node.id == id).context("no such node")?;
    let selector = format!("survivor{{run=\"{run}\"}}");
    let client = client_of(node)?.with_timeout(limit);
    let answer = client
        .read(&selector, 0, i64::MAX / 2, ReadLevel::Linearizable)
        .await?;
    Ok(answer.series.iter().map(|series| series.values.len()).sum())
}

fn cut_off(id: u64, bed: &Bed) -> Vec<(Peer, Peer)> {
    let others = bed.ids().into_iter().filter(|other| *other != id).map(Peer::Node);
    others
        .flat_map(|other| [(Peer::Node(id), other), (other, Peer::Node(id))])
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_or_paused_promises_nothing() -> Result<()> {
    let Some((_turn, bed)) = bed(BedOptions::default())? else {
        return Ok(());
    };
    write(&bed, "before").await?;
    bed.cut(&cut_off(1, &bed))?;
    write(&bed, "while cut").await?;
    // Clients reach it, but it has no majority to ask.
    let answer = count(&bed, 1, "while cut", Duration::from_secs(1)).await;
    ensure!(answer.is_err(), "a node without a majority read {answer:?}");
    bed.heal_network()?;
    wait::until_async("the healed node to read", HEAL, async || {
        ensure!(
            count(&bed, 1, "while cut", HEAL).await? == 100,
            "something is missing"
        );
        Ok(())
    })
    .await?;

    bed.pause(2)?;
    let silent = Http::new(&http(&bed, 2)?, NEVER).get("/-/ready");
    ensure!(silent.is_err(), "a paused node answered {silent:?}");
    ensure!(bed.is_running(2), "a paused node is no dead one");
    write(&bed, "while paused").await?;
    bed.resume(2)?;
    ready(&bed, 2)?;
    ensure!(
        count(&bed, 2, "while paused", HEAL).await? == 100,
        "something is missing"
    );

    bed.cut(&[(Peer::Clients, Peer::Node(3))])?;
    let cut = Http::new(&http(&bed, 3)?, NEVER).get("/-/ready");
    ensure!(cut.is_err(), "a client got through the cut: {cut:?}");
    bed.heal_network()?;
    ready(&bed, 3)?;
    bed.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_show_whether_nodes_sync() -> Result<()> {
    let Some((_turn, bed)) = bed(BedOptions::default())? else {
        return Ok(());
    };
    write(&bed, "synced").await?;
    let began = Instant::now();
    bed.power_cut(&bed.ids())?;
    let took = began.elapsed();
    ensure!(
        bed.exit_of(1).as_deref() == Some("killed (SIGKILL)"),
        "{:?}",
        bed.exit_of(1)
    );
    start_all(&bed)?;
    ensure!(
        count(&bed, 1, "synced", HEAL).await? == 100,
        "synced samples are lost"
    );

    // Now the same with disks that only pretend, as a node that forgot to sync would.
    for id in bed.ids() {
        bed.disk_fault(id, DiskFault::FsyncLies)?;
    }
    write(&bed, "not synced").await?;
    let skipped = bed.faked(1)?.syncs_skipped;
    ensure!(skipped > 0, "no sync was skipped");
    bed.power_cut(&bed.ids())?;
    for id in bed.ids() {
        bed.disk_fault(id, DiskFault::None)?;
    }
    start_all(&bed)?;
    let left = count(&bed, 1, "not synced", HEAL).await?;
    say(format_args!(
        "bed: power of three nodes cut in {took:.0?}; of 100 acknowledged samples 100 are left, {left} with {skipped} syncs skipped"
    ));
    ensure!(left < 100, "the missing syncs were not seen");
    ensure!(
        count(&bed, 1, "synced", HEAL).await? == 100,
        "synced samples are lost"
    );
    bed.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_disks_are_seen_by_nodes() -> Result<()> {
    let Some((_turn, bed)) = bed(BedOptions::default())? else {
        return Ok(());
    };
    bed.disk_fault(1, DiskFault::FsyncEioOnce)?;
    write(&bed, "eio").await?;
    let exit = bed.await_exit(1, HEAL).context("a node went on after EIO")?;
    ensure!(exit.contains("SIGABRT"), "a node answered EIO with: {exit}");
    ensure!(bed.faked(1)?.syncs_failed == 1, "{:?}", bed.faked(1)?);
    // Only one failed: it can be started without healing.
    start_all(&bed)?;
    ensure!(count(&bed, 1, "eio", HEAL).await? == 100, "something is missing");

    for id in bed.ids() {
        bed.disk_fault(id, DiskFault::Slow { ms: 200 })?;
    }
    let began = Instant::now();
    write(&bed, "slow").await?;
    let slow = began.elapsed();
    ensure!(slow >= Duration::from_millis(200), "a slow write took {slow:?}");
    for id in bed.ids() {
        bed.disk_fault(id, DiskFault::None)?;
    }
    bed.disk_fault(2, DiskFault::Hang)?;
    let delayed = bed.faked(2)?.syncs_delayed;
    write(&bed, "hung").await?;
    wait::until("a sync to hang", HEAL, || {
        ensure!(bed.faked(2)?.syncs_delayed > delayed, "none does");
        Ok(())
    })?;
    bed.disk_fault(2, DiskFault::None)?;
    let began = Instant::now();
    ensure!(count(&bed, 2, "hung", HEAL).await? == 100, "something is missing");
    say(format_args!(
        "bed: a write with syncs that take 200 ms more took {slow:.0?}; a disk that had hung was back after {:.0?}",
        began.elapsed()
    ));

    for fault in [
        DiskFault::WriteNoSpace,
        DiskFault::WriteEio,
        DiskFault::SlowWrites { ms: 20 },
    ] {
        bed.disk_fault(3, fault)?;
        let before = bed.faked(3)?;
        let run = format!("{fault:?}").replace(['{', '}'], "");
        write(&bed, &run).await?;
        wait::until("a write to be faked", HEAL, || {
            let now = bed.faked(3)?;
            ensure!(
                (now.writes_failed, now.writes_delayed) != (before.writes_failed, before.writes_delayed),
                "none is"
            );
            Ok(())
        })?;
        let slow = matches!(fault, DiskFault::SlowWrites { .. });
        // A log that has a hole can't go on.
        let exit = (!slow)
            .then(|| bed.await_exit(3, HEAL))
            .transpose()
            .with_context(|| run.clone())?;
        say(format_args!("bed: {run}: {}", exit.as_deref().unwrap_or("runs")));
        bed.disk_fault(3, DiskFault::None)?;
        start_all(&bed)?;
        ensure!(
            count(&bed, 3, &run, HEAL).await? == 100,
            "something is missing after {run}"
        );
    }

    bed.fill_disk(3, 0)?;
    write(&bed, "full").await?;
    bed.free_disk(3)?;
    say(format_args!(
        "bed: a node with a full disk: {}",
        bed.exit_of(3).unwrap_or_else(|| "runs".to_owned())
    ));
    start_all(&bed)?;
    ensure!(count(&bed, 3, "full", HEAL).await? == 100, "something is missing");
    bed.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_lost_disks_are_noticed() -> Result<()> {
    let Some((_turn, bed)) = bed(BedOptions::default())? else {
        return Ok(());
    };
    write(&bed, "kept").await?;
    bed.kill(1)?;
    let torn = bed.tear_log_tail(1, 64)?;
    bed.start_node(1)?;
    ready(&bed, 1)?;
    ensure!(count(&bed, 1, "kept", HEAL).await? == 100, "something is missing");

    bed.kill(1)?;
    let rotten = bed.rot(1, Rot::Manifest, 1)?;
    bed.start_node(1)?;
    let exit = bed
        .await_exit(1, HEAL)
        .context("a node runs with a rotten manifest")?;
    say(format_args!("bed: {torn}; {rotten}: {exit}"));

    bed.wipe(1)?;
    bed.start_node(1)?;
    ready(&bed, 1)?;
    readback::compare_replicas(&bed.nodes(), HEAL).await?;
    ensure!(count(&bed, 1, "kept", HEAL).await? == 100, "something is missing");
    bed.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_and_resources_of_a_node_alone_change() -> Result<()> {
    let Some((_turn, bed)) = bed(BedOptions::default())? else {
        return Ok(());
    };
    // How far the clock by which a node evaluates queries is ahead of the test's.
    let ahead_s = |id| -> Result<f64> {
        let data = Http::new(&http(&bed, id)?, HEAL).api("/api/v1/query", &[("query", "time()")])?;
        let time = data["result"][1].as_str().context("no time")?.parse::<f64>()?;
        Ok(time - now_ms() as f64 / 1e3)
    };
    let year_s = 365.0 * 86_400.0;
    for offset_s in [year_s, -year_s, 0.0] {
        let offset_ms = (offset_s * 1e3) as i64;
        bed.clock(
            1,
            Clock {
                offset_ms,
                ..Clock::TRUE
            },
        )?;
        let (own, other) = (ahead_s(1)?, ahead_s(2)?);
        ensure!(
            (own - offset_s).abs() < 5.0,
            "{own} s ahead instead of {offset_s}"
        );
        ensure!(other.abs() < 5.0, "another node is {other} s ahead");
    }

    bed.starve_cpu(1, 5)?;
    write(&bed, "starved").await?;
    wait::until("the node to want more than its share", HEAL, || {
        let _answer = Http::new(&http(&bed, 1)?, HEAL).get("/metrics")?;
        ensure!(bed.throttled(1)? > 0, "it doesn't");
        Ok(())
    })?;
    bed.feed_cpu(1)?;

    // All small numbers are taken.
    bed.limit_files(2, 8)?;
    let refused = Http::new(&http(&bed, 2)?, NEVER).get("/-/ready");
    ensure!(refused.is_err(), "a node without files accepted a connection");
    bed.unlimit_files(2)?;
    ready(&bed, 2)?;

    bed.stop_node(3, HEAL)?;
    ensure!(
        !bed.is_running(3) && bed.exit_of(3).as_deref() == Some("exit status: 0"),
        "{:?}",
        bed.exit_of(3)
    );
    bed.start_node_with(3, &[("QUORATE_TEST_OF_BED".to_owned(), "1".to_owned())])?;
    ready(&bed, 3)?;
    let pid = bed.nodes().pop().context("no node")?.pid;
    let environment = std::fs::read(format!("/proc/{pid}/environ"))?;
    ensure!(
        String::from_utf8_lossy(&environment).contains("QUORATE_TEST_OF_BED=1"),
        "not in its environment"
    );
    let limit = || -> Result<String> {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
        let line = limits.lines().find(|line| line.starts_with("Max address space"));
        Ok(line.context("no such limit")?.to_owned())
    };
    let before = limit()?;
    bed.limit_memory(3, 1 << 20)?;
    ensure!(limit()? != before, "the limit is {before} still");
    bed.unlimit_memory(3)?;
    ensure!(limit()? == before, "the limit was {before}, is {}", limit()?);
    bed.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_works_over_a_bad_network() -> Result<()> {
    let options = BedOptions {
        network: Wire::Switch,
        ..BedOptions::default()
    };
    let Some((_turn, bed)) = bed(options)? else {
        return Ok(());
    };
    bed.disturb(Disturbance {
        delay_ms: 5,
        jitter_ms: 10,
        loss_percent: 5.0,
        duplicate_percent: 5.0,
        reorder_percent: 5.0,
        only: None,
    })?;
    write(&bed, "disturbed").await?;
    let counts = bed.switched();
    let counts = [counts.lost, counts.delayed, counts.duplicated, counts.reordered];
    ensure!(counts.iter().all(|count| *count > 0), "{counts:?}");
    bed.calm()?;
    ensure!(
        count(&bed, 1, "disturbed", HEAL).await? == 100,
        "something is missing"
    );
    bed.cut(&cut_off(1, &bed))?;
    write(&bed, "cut").await?;
    bed.heal_network()?;
    ensure!(count(&bed, 1, "cut", HEAL).await? == 100, "something is missing");
    bed.stop()
}

/// Run as a child: makes a bed, says where it is, and waits to be killed.
#[test]
#[ignore = "a child of another test"]
fn an_orchestrator() -> Result<()> {
    let bed = Bed::start(BedOptions::default())?;
    bed.starve_cpu(1, 50)?;
    bed.pause(2)?;
    println!("bed: {}", bed.directory().display());
    std::io::Write::flush(&mut std::io::stdout())?;
    loop {
        std::thread::park();
    }
}

/// All that a bed may leave behind, by its name.
fn remains(base: &str) -> Result<Vec<String>> {
    let number = base.rsplit('-').next().context("no number")?;
    let mut listings = String::new();
    for (tool, arguments) in [
        ("ip", vec!["-o", "link", "show"]),
        ("nft", vec!["list", "tables"]),
        ("losetup", vec!["--list", "--noheadings"]),
    ] {
        let output = Command::new(tool).args(arguments).output()?;
        ensure!(output.status.success(), "{tool}: {}", output.status);
        listings.push_str(&String::from_utf8(output.stdout)?);
    }
    for directory in [
        "/run/netns",
        "/tmp",
        "/var/tmp",
        "/dev/shm",
        "/sys/fs/cgroup/cpu",
        "/sys/fs/cgroup",
    ] {
        for entry in std::fs::read_dir(directory).into_iter().flatten() {
            listings.push_str(&format!("{}\n", entry?.path().display()));
        }
    }
    listings.push_str(&std::fs::read_to_string("/proc/mounts")?);
    let (device, directory) = (format!("qb{number}"), base.to_owned());
    let mut remains: Vec<String> = listings
        .lines()
        .filter(|line| line.contains(&device) || line.contains(&directory))
        .map(str::to_owned)
        .collect();
    let processes = process::mentioning(base).into_iter();
    remains.extend(processes.map(|pid| format!("process {pid}")));
    Ok(remains)
}

#[test]
fn a_killed_orchestrator_leaves_nothing_behind() -> Result<()> {
    if let Some(missing) = Bed::missing() {
        skip("bed", missing);
        return Ok(());
    }
    let _turn = turn::take()?;
    let directory = tempfile::tempdir()?;
    let log = directory.path().join("log");
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["an_orchestrator", "--exact", "--ignored", "--nocapture"]);
    command.stdin(Stdio::null());
    let mut orchestrator = Process::spawn("orchestrator", command, &log)?;
    let bed = wait::until("the orchestrator's bed", HEAL, || {
        orchestrator.check_running()?;
        let text = std::fs::read_to_string(&log)?;
        let path = text
            .lines()
            .find_map(|line| Some(line.split_once("bed: ")?.1.to_owned()));
        path.context("it has none yet")
    })?;
    let base = Path::new(&bed)
        .file_name()
        .and_then(|name| name.to_str())
        .context("no name")?;
    let before = remains(base)?;
    // Namespaces, links, a table, loops, mounts, groups, directories, nodes: or this test sees nothing.
    ensure!(before.len() >= 20, "only {before:#?}");
    orchestrator.kill()?;
    let began = Instant::now();
    wait::until("everything to be removed", HEAL, || {
        let remains = remains(base)?;
        ensure!(remains.is_empty(), "{remains:#?}");
        Ok(())
    })?;
    say(format_args!(
        "bed: {} things of a killed orchestrator were gone after {:.1?}",
        before.len(),
        began.elapsed()
    ));
    Ok(())
}
