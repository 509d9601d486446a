//! Moving in and out: a block made by Prometheus's own tool is imported, and what is exported makes the same
//! block again.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quorate_client::ReadLevel;
use quorate_jepsen_like_tests::report::{say, skip};
use quorate_jepsen_like_tests::server::{Server, start_all};
use quorate_jepsen_like_tests::workload::now_ms;
use quorate_jepsen_like_tests::{process, turn};

const LIMIT: Duration = Duration::from_secs(120);
const SERIES: u64 = 60;
const STEP_MS: i64 = 15_000;
const SPAN_MS: i64 = 5 * 3_600_000;

/// Bits by metric, instance and time.
type Samples = BTreeMap<(String, String), BTreeMap<i64, u64>>;

/// Values of many kinds: counters, prices, noise, constants, and all that is odd.
fn value(series: u64, step: i64) -> f64 {
    match (series % 6, step % 97) {
        (_, 13) if series % 7 == 3 => f64::INFINITY,
        (_, 14) if series % 7 == 3 => f64::NEG_INFINITY,
        (_, 15) if series % 7 == 3 => -0.0,
        (_, 16) if series % 7 == 3 => 5e-324,
        (_, 17) if series % 7 == 3 => f64::MAX,
        (0, _) => (step * 17) as f64,
        (1, _) => (step % 500) as f64 / 100.0,
        (2, _) => rand::random::<f64>() * 1e6,
        (3, _) => 1.0,
        (4, _) => -(step as f64).sqrt(),
        _ => (step as f64).exp() / 3.0,
    }
}

fn made_up(start_ms: i64) -> Samples {
    let mut all = Samples::new();
    for series in 0..SERIES {
        let key = (format!("moved_{}", series % 4), format!("host-{series} \"ü\\\n"));
        let samples = all.entry(key).or_default();
        // Series come and go.
        let from = if series % 5 == 0 { SPAN_MS / 3 } else { 0 };
        let to = if series % 9 == 0 { SPAN_MS / 2 } else { SPAN_MS };
        let mut at = from + series as i64 * 37;
        while at < to {
            samples.insert(start_ms + at, value(series, at / STEP_MS).to_bits());
            at += STEP_MS + i64::from(at % 11 == 0);
        }
    }
    all
}

fn openmetrics(samples: &Samples) -> String {
    let mut text = String::new();
    for ((metric, instance), samples) in samples {
        let instance = instance
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        for (at, bits) in samples {
            let value = f64::from_bits(*bits);
            let value = if value.is_infinite() {
                if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
            } else {
                format!("{value:e}")
            };
            let (seconds, ms) = (at / 1_000, at % 1_000);
            text.push_str(&format!(
                "{metric}{{instance=\"{instance}\"}} {value} {seconds}.{ms:03}\n"
            ));
        }
    }
    text + "# EOF\n"
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

fn quorate(server: &Server, tenant: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(process::quorate_binary()?);
    command.args(arguments);
    command.args(["--endpoint", &server.grpc, "--tenant", tenant, "--timeout", "2m"]);
    run(&mut command)
}

fn create_blocks(text: &Path, blocks: &Path) -> Result<()> {
    let mut command = Command::new("promtool");
    command
        .args(["tsdb", "create-blocks-from", "openmetrics"])
        .args([text, blocks]);
    run(&mut command).map(drop)
}

/// Every sample in the blocks, as Prometheus's tool prints them, in an order of their own.
fn dump(blocks: &Path) -> Result<Vec<String>> {
    // The tool wants a log, be it empty.
    std::fs::create_dir_all(blocks.join("wal"))?;
    let text = run(Command::new("promtool").args(["tsdb", "dump"]).arg(blocks))?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    Ok(lines)
}

async fn stored(server: &Server, tenant: &str) -> Result<Samples> {
    let client = server.client()?.with_timeout(LIMIT).with_tenant(tenant)?;
    let answer = client
        .read(
            "{__name__=~\"moved_.*\"}",
            0,
            i64::MAX / 2,
            ReadLevel::Linearizable,
        )
        .await?;
    let mut found = Samples::new();
    for series in answer.series {
        let label = |name: &str| series.labels.get(name).unwrap_or_default().to_owned();
        let bits = series.values.iter().map(|value| value.to_bits());
        let samples = series.timestamps_ms.iter().copied().zip(bits).collect();
        found.insert((label("__name__"), label("instance")), samples);
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_block_comes_in_and_goes_out_bit_for_bit() -> Result<()> {
    if Command::new("promtool").arg("--version").output().is_err() {
        skip(
            "migration",
            "promtool is not installed (Debian package prometheus)",
        );
        return Ok(());
    }
    let _turn = turn::take()?;
    let directory = tempfile::tempdir()?;
    let place = |name: &str| directory.path().join(name);
    let text = |path: &Path| path.display().to_string();
    let samples = made_up(now_ms() - SPAN_MS - 3_600_000);
    let count: usize = samples.values().map(BTreeMap::len).sum();
    std::fs::write(place("made-up.om"), openmetrics(&samples))?;
    create_blocks(&place("made-up.om"), &place("blocks"))?;
    let original = dump(&place("blocks"))?;
    ensure!(
        original.len() == count,
        "promtool made {} of {count} samples",
        original.len()
    );

    let servers = Server::cluster(3, directory.path())?;
    let _processes = start_all(&servers, LIMIT)?;
    let [first, second, third] = servers.as_slice() else {
        anyhow::bail!("{} servers", servers.len())
    };
    let blocks = text(&place("blocks"));
    let said = quorate(first, "moved", &["import", "--prometheus-tsdb", &blocks])?;
    ensure!(said.starts_with(&format!("{count} samples are stored")), "{said}");
    ensure!(
        stored(second, "moved").await? == samples,
        "imported blocks differ"
    );
    // Again: nothing changes, and nothing is refused, although all of it is older than the newest.
    let said = quorate(second, "moved", &["import", "--prometheus-tsdb", &blocks])?;
    let again = format!("0 samples are stored, {count} were there already");
    ensure!(said.trim() == again, "{said}");

    let exported = text(&place("exported.om"));
    quorate(third, "moved", &["export", "--openmetrics", &exported])?;
    create_blocks(&place("exported.om"), &place("blocks-again"))?;
    let copy = dump(&place("blocks-again"))?;
    ensure!(copy == original, "blocks made of what was exported differ");

    let said = quorate(second, "text", &["import", "--openmetrics", &exported])?;
    ensure!(said.starts_with(&format!("{count} samples are stored")), "{said}");
    ensure!(stored(third, "text").await? == samples, "imported text differs");

    // By remote write, to the default tenant; a part of it by selector and window.
    let url = format!("http://{}/api/v1/write", second.http);
    quorate(first, "moved", &["export", "--remote-write", &url])?;
    ensure!(
        stored(first, "default").await? == samples,
        "what was sent on differs"
    );
    let key = samples
        .keys()
        .find(|key| key.0 == "moved_2")
        .context("no series")?;
    let mut times = samples[key].keys();
    let (from, to) = (
        times.next().context("no sample")?,
        times.nth(9).context("few samples")?,
    );
    let seconds = |ms: &i64| format!("{}.{:03}", ms / 1_000, ms % 1_000);
    let part = quorate(
        first,
        "moved",
        &[
            "export",
            "--openmetrics",
            "-",
            "--match",
            "moved_2",
            "--match",
            "{__name__=~\"moved_[2]\"}",
            "--start",
            &seconds(from),
            "--end",
            &seconds(to),
        ],
    )?;
    let expected = samples
        .iter()
        .filter(|(key, _)| key.0 == "moved_2")
        .map(|(_, samples)| samples.range(from..=to).count())
        .sum::<usize>();
    let lines = part.lines().filter(|line| line.starts_with("moved_2{")).count();
    ensure!(
        lines == expected && lines + 1 == part.lines().count(),
        "{lines} of {expected} lines"
    );
    say(format_args!(
        "migration: {count} samples of {SERIES} series from a Prometheus block and back, bit for bit"
    ));
    Ok(())
}
