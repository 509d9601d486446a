//! What a sample costs: the same scrapes sent to three quorate nodes and to single servers, each by itself.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use quorate_bench::fleet::Stamps;
use quorate_bench::load::{LoadOptions, Sent};
use quorate_bench::servers::{Product, Running, until};
use quorate_bench::{measure, table};
use serde::Serialize;

/// How long a server may take to show what it acknowledged.
const VISIBLE: Duration = Duration::from_secs(60);
/// For how long requests are sent at half of what a server took.
const AT_HALF: Duration = Duration::from_secs(10);
/// Scrapes that this takes at most.
const AT_HALF_SCRAPES: u32 = 60;
/// For how long nothing is asked of a server, after some time to calm down, to see what it uses then.
const IDLE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(10));

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    /// 100,000 series, 100 scrapes.
    Steady,
    /// The same, every series with timestamps of its own.
    Stamps,
    /// 1,000,000 series, 10 scrapes: mostly new series.
    Many,
    /// 100,000 series, of which 5 % are new in every scrape.
    Churn,
}

/// Compare the cost of a sample: CPU, memory, disk, throughput and latency.
#[derive(Debug, Parser)]
struct Args {
    /// What is sent, in this order.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "steady,stamps,many,churn"
    )]
    loads: Vec<Kind>,
    /// Active series, instead of what the load says.
    #[arg(long)]
    series: Option<usize>,
    /// Samples of each series, instead of what the load says.
    #[arg(long)]
    scrapes: Option<u32>,
    /// Samples of a request.
    #[arg(long, default_value_t = 2_000)]
    batch: usize,
    /// Concurrent connections.
    #[arg(long, default_value_t = 2)]
    connections: usize,
    /// What to measure, in this order.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "quorate,victoria-metrics,prometheus"
    )]
    products: Vec<Product>,
    /// Where the servers keep their data meanwhile. Default: the system's temporary directory.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// A file that gets a line of JSON for each load.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/history/cost.jsonl"))]
    history: PathBuf,
    /// Keep no record of this run.
    #[arg(long)]
    no_history: bool,
}

/// A line of the history.
#[derive(Debug, Serialize)]
struct Run {
    /// Seconds since the Unix epoch.
    time: u64,
    commit: String,
    machine: String,
    cores: usize,
    load: Kind,
    series: usize,
    scrapes: u32,
    batch: usize,
    connections: usize,
    results: Vec<Cost>,
}

#[derive(Debug, Serialize)]
struct Cost {
    product: &'static str,
    copies: u32,
    acked_samples: u64,
    retries: u64,
    /// User and system time of all server processes.
    cpu_us_per_sample: f64,
    /// The same, divided by what Debian's VictoriaMetrics, or else Prometheus, needed in this run.
    cpu_ratio: Option<f64>,
    samples_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Of requests sent at half of `samples_per_second`.
    p99_at_half_ms: f64,
    peak_memory_bytes: u64,
    /// Resident memory of a process at the end, less that of an empty one, for each active series.
    memory_bytes_per_series: f64,
    /// What a copy of a sample had the disk write, logs included.
    written_bytes_per_sample: f64,
    disk_bytes: u64,
    wire_bytes_per_sample: f64,
    /// CPU of a process that has all these series and nothing to do, in percent of a core.
    idle_percent: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.batch > 0 && args.connections > 0, "nothing to send");
    for kind in &args.loads {
        run(&args, *kind)?;
    }
    Ok(())
}

fn run(args: &Args, kind: Kind) -> Result<()> {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let load = options(args, kind, i64::try_from(now_s)? * 1_000);
    ensure!(load.series > 0 && load.scrapes > 0, "nothing to send");
    let mut results = Vec::new();
    for product in &args.products {
        match product.program() {
            Ok(_) => results.push(measure_product(*product, load, args.dir.as_deref())?),
            Err(missing) if *product != Product::Quorate => {
                eprintln!("SKIPPED {}: {missing}", product.name())
            }
            Err(missing) => return Err(missing),
        }
    }
    let base = base(&results).map(|cost| cost.cpu_us_per_sample);
    for cost in &mut results {
        cost.cpu_ratio = base.map(|base| cost.cpu_us_per_sample / base);
    }
    println!("{kind:?}: {} series, {} scrapes", load.series, load.scrapes);
    println!("{}", show(&results));
    if args.no_history {
        return Ok(());
    }
    let (machine, cores) = measure::machine();
    let run = Run {
        time: now_s,
        commit: commit(),
        machine,
        cores,
        load: kind,
        series: load.series,
        scrapes: load.scrapes,
        batch: load.batch,
        connections: load.connections,
        results,
    };
    append(&args.history, &run).with_context(|| args.history.display().to_string())
}

fn options(args: &Args, kind: Kind, now_ms: i64) -> LoadOptions {
    let (series, scrapes) = match kind {
        Kind::Many => (1_000_000, 10),
        Kind::Steady | Kind::Stamps | Kind::Churn => (100_000, 100),
    };
    let scrapes = args.scrapes.unwrap_or(scrapes);
    let interval_ms = 15_000;
    LoadOptions {
        series: args.series.unwrap_or(series),
        scrapes,
        interval_ms,
        batch: args.batch,
        connections: args.connections,
        // The last scrape, and those at half of the speed, are over when this begins.
        start_ms: now_ms - i64::from(scrapes + AT_HALF_SCRAPES + 1) * interval_ms,
        stamps: if kind == Kind::Stamps {
            Stamps::Series
        } else {
            Stamps::Target
        },
        churn_percent: if kind == Kind::Churn { 5 } else { 0 },
        rate: None,
    }
}

fn measure_product(product: Product, load: LoadOptions, parent: Option<&Path>) -> Result<Cost> {
    eprintln!(
        "{}: {} series, {} scrapes ...",
        product.name(),
        load.series,
        load.scrapes
    );
    let mut builder = tempfile::Builder::new();
    builder.prefix("quorate-bench-");
    let directory = parent.map_or_else(|| builder.tempdir(), |parent| builder.tempdir_in(parent))?;
    let running = product.start(directory.path())?;
    let processes = running.pids.len() as f64;
    let empty_bytes: u64 = sum(&running, measure::memory_bytes)?;
    let (cpu_before_s, written_before) = (
        sum(&running, measure::cpu_seconds)?,
        sum(&running, measure::written_bytes)?,
    );
    let sent = load.send(&running.targets)?;
    let used_s = sum::<f64>(&running, measure::cpu_seconds)? - cpu_before_s;
    let written: u64 = sum(&running, measure::written_bytes)? - written_before;
    let peak_memory_bytes = sum(&running, measure::peak_memory_bytes)?;
    let full_bytes: u64 = sum(&running, measure::memory_bytes)?;
    check_stored(&running, &load)
        .with_context(|| format!("{} does not have what it took", product.name()))?;

    std::thread::sleep(IDLE.0);
    let idle_from_s: f64 = sum(&running, measure::cpu_seconds)?;
    std::thread::sleep(IDLE.1);
    let idle_s = sum::<f64>(&running, measure::cpu_seconds)? - idle_from_s;
    let half = at_half(&load, &sent).send(&running.targets)?;
    let data = running.directory.clone();
    running
        .stop()
        .with_context(|| format!("stopping {}", product.name()))?;

    let acked = sent.acked as f64;
    Ok(Cost {
        product: product.name(),
        copies: product.copies(),
        acked_samples: sent.acked,
        retries: sent.retries,
        cpu_us_per_sample: used_s * 1e6 / acked,
        cpu_ratio: None,
        samples_per_second: acked / sent.wall.as_secs_f64(),
        p50_ms: quantile_ms(&sent, 0.5),
        p99_ms: quantile_ms(&sent, 0.99),
        p99_at_half_ms: quantile_ms(&half, 0.99),
        peak_memory_bytes,
        memory_bytes_per_series: full_bytes.saturating_sub(empty_bytes) as f64
            / processes
            / load.series as f64,
        written_bytes_per_sample: written as f64 / acked / f64::from(product.copies()),
        // After an orderly end, when nothing waits in memory for its way to the disk.
        disk_bytes: measure::disk_bytes(&data),
        wire_bytes_per_sample: sent.sent_bytes as f64 / acked,
        idle_percent: idle_s / IDLE.1.as_secs_f64() / processes * 100.0,
    })
}

/// The scrapes that follow those of `load`, at half of the speed at which the server took these.
fn at_half(load: &LoadOptions, sent: &Sent) -> LoadOptions {
    let rate = sent.acked as f64 / sent.wall.as_secs_f64() / 2.0;
    let scrapes = (rate * AT_HALF.as_secs_f64() / load.series as f64).ceil();
    LoadOptions {
        scrapes: (scrapes as u32).clamp(1, AT_HALF_SCRAPES),
        start_ms: load.end_ms(),
        churn_percent: 0,
        rate: Some(rate),
        ..*load
    }
}

fn sum<T: std::iter::Sum>(running: &Running, of: impl Fn(u32) -> Result<T>) -> Result<T> {
    running.pids.iter().map(|pid| of(*pid)).sum()
}

fn quantile_ms(sent: &Sent, quantile: f64) -> f64 {
    sent.latency_us.value_at_quantile(quantile) as f64 / 1e3
}

/// A cost is worth nothing if the samples aren't there.
fn check_stored(running: &Running, load: &LoadOptions) -> Result<()> {
    let (hosts, scrapes) = (load.hosts() as f64, f64::from(load.scrapes));
    let window_s = i64::from(load.scrapes) * load.interval_ms / 1_000 + 1;
    until(VISIBLE, || {
        let found = running.query(
            &format!("sum(count_over_time(node_load1[{window_s}s]))"),
            load.end_ms(),
        )?;
        ensure!(
            found == [hosts * scrapes],
            "node_load1 of {hosts} hosts has {found:?} samples"
        );
        Ok(())
    })
}

/// What the others are compared with: VictoriaMetrics, or else Prometheus.
fn base(results: &[Cost]) -> Option<&Cost> {
    let of = |product: Product| results.iter().find(|cost| cost.product == product.name());
    of(Product::VictoriaMetrics).or_else(|| of(Product::Prometheus))
}

/// The results beside one another, with ratios to [`base`].
fn show(results: &[Cost]) -> String {
    let base = base(results);
    let head = [
        "",
        "copies",
        "CPU µs/sample",
        "ratio",
        "samples/s",
        "ratio",
        "p50 ms",
        "p99 ms",
        "at half",
        "peak MB",
        "ratio",
        "B/series",
        "written B/sample",
        "disk B/sample",
        "ratio",
        "idle %",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for cost in results {
        let ratio =
            |of: fn(&Cost) -> f64| base.map_or("-".to_owned(), |base| format!("{:.2}", of(cost) / of(base)));
        rows.push(vec![
            cost.product.to_owned(),
            cost.copies.to_string(),
            format!("{:.3}", cost.cpu_us_per_sample),
            ratio(|cost| cost.cpu_us_per_sample),
            format!("{:.0}", cost.samples_per_second),
            ratio(|cost| cost.samples_per_second),
            format!("{:.1}", cost.p50_ms),
            format!("{:.1}", cost.p99_ms),
            format!("{:.1}", cost.p99_at_half_ms),
            format!("{:.0}", cost.peak_memory_bytes as f64 / 1e6),
            ratio(|cost| cost.peak_memory_bytes as f64),
            format!("{:.0}", cost.memory_bytes_per_series),
            format!("{:.1}", cost.written_bytes_per_sample),
            format!("{:.2}", cost.disk_bytes as f64 / cost.acked_samples as f64),
            ratio(|cost| cost.disk_bytes as f64),
            format!("{:.2}", cost.idle_percent),
        ]);
    }
    table::render(&rows)
}

fn commit() -> String {
    let described = Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let text = described
        .ok()
        .filter(|output| output.status.success())
        .map(|output| output.stdout);
    text.map_or_else(
        || "unknown".to_owned(),
        |text| String::from_utf8_lossy(&text).trim().to_owned(),
    )
}

fn append(path: &Path, run: &Run) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut line = serde_json::to_string(run)?;
    line.push('\n');
    let mut file = std::fs::File::options().create(true).append(true).open(path)?;
    Ok(file.write_all(line.as_bytes())?)
}
