//! What a sample costs: the same scrapes sent to three quorate nodes and to single servers, each by itself.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use quorate_bench::load::{LoadOptions, Sent};
use quorate_bench::servers::{Product, Running, until};
use quorate_bench::{measure, table};
use serde::Serialize;

/// How long a server may take to show what it acknowledged.
const VISIBLE: Duration = Duration::from_secs(60);

/// Compare the cost of a sample: CPU, memory, disk, throughput and latency.
#[derive(Debug, Parser)]
struct Args {
    /// Active series.
    #[arg(long, default_value_t = 100_000)]
    series: usize,
    /// Samples of each series.
    #[arg(long, default_value_t = 100)]
    scrapes: u32,
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
        default_value = "quorate,prometheus,victoria-metrics"
    )]
    products: Vec<Product>,
    /// Where the servers keep their data meanwhile. Default: the system's temporary directory.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// A file that gets a line of JSON for each run.
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
    samples_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    peak_memory_bytes: u64,
    disk_bytes: u64,
    wire_bytes_per_sample: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(
        args.series > 0 && args.scrapes > 0 && args.batch > 0 && args.connections > 0,
        "nothing to send"
    );
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let interval_ms = 15_000;
    let load = LoadOptions {
        series: args.series,
        scrapes: args.scrapes,
        interval_ms,
        batch: args.batch,
        connections: args.connections,
        // The last scrape is over when this begins.
        start_ms: i64::try_from(now_s)? * 1_000 - (i64::from(args.scrapes) + 1) * interval_ms,
    };
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
    print!("{}", show(&results));
    if args.no_history {
        return Ok(());
    }
    let (machine, cores) = measure::machine();
    let (series, scrapes, batch, connections) = (args.series, args.scrapes, args.batch, args.connections);
    let run = Run {
        time: now_s,
        commit: commit(),
        machine,
        cores,
        series,
        scrapes,
        batch,
        connections,
        results,
    };
    append(&args.history, &run).with_context(|| args.history.display().to_string())
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
    let cpu = |running: &Running| {
        running
            .pids
            .iter()
            .map(|pid| measure::cpu_seconds(*pid))
            .sum::<Result<f64>>()
    };
    let before_s = cpu(&running)?;
    let sent = load.send(&running.targets)?;
    let used_s = cpu(&running)? - before_s;
    let peak_memory_bytes = running
        .pids
        .iter()
        .map(|pid| measure::peak_memory_bytes(*pid))
        .sum::<Result<u64>>()?;
    check_stored(&running, &load)
        .with_context(|| format!("{} does not have what it took", product.name()))?;
    let data = running.directory.clone();
    running
        .stop()
        .with_context(|| format!("stopping {}", product.name()))?;
    // After an orderly end, when nothing waits in memory for its way to the disk.
    let disk_bytes = measure::disk_bytes(&data);
    Ok(cost(product, &sent, used_s, peak_memory_bytes, disk_bytes))
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

fn cost(product: Product, sent: &Sent, used_s: f64, peak_memory_bytes: u64, disk_bytes: u64) -> Cost {
    let acked = sent.acked as f64;
    Cost {
        product: product.name(),
        copies: product.copies(),
        acked_samples: sent.acked,
        retries: sent.retries,
        cpu_us_per_sample: used_s * 1e6 / acked,
        samples_per_second: acked / sent.wall.as_secs_f64(),
        p50_ms: sent.latency_us.value_at_quantile(0.5) as f64 / 1e3,
        p99_ms: sent.latency_us.value_at_quantile(0.99) as f64 / 1e3,
        peak_memory_bytes,
        disk_bytes,
        wire_bytes_per_sample: sent.sent_bytes as f64 / acked,
    }
}

/// The results beside one another, with CPU and the rest relative to Prometheus where it was measured.
fn show(results: &[Cost]) -> String {
    let base = results
        .iter()
        .find(|cost| cost.product == Product::Prometheus.name());
    let head = [
        "",
        "copies",
        "CPU µs/sample",
        "ratio",
        "samples/s",
        "ratio",
        "p50 ms",
        "p99 ms",
        "peak MB",
        "ratio",
        "disk MB",
        "B/sample",
        "ratio",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for cost in results {
        let ratio =
            |of: fn(&Cost) -> f64| base.map_or("-".to_owned(), |base| format!("{:.2}", of(cost) / of(base)));
        let disk = |cost: &Cost| cost.disk_bytes as f64 / cost.acked_samples as f64;
        rows.push(vec![
            cost.product.to_owned(),
            cost.copies.to_string(),
            format!("{:.3}", cost.cpu_us_per_sample),
            ratio(|cost| cost.cpu_us_per_sample),
            format!("{:.0}", cost.samples_per_second),
            ratio(|cost| cost.samples_per_second),
            format!("{:.1}", cost.p50_ms),
            format!("{:.1}", cost.p99_ms),
            format!("{:.0}", cost.peak_memory_bytes as f64 / 1e6),
            ratio(|cost| cost.peak_memory_bytes as f64),
            format!("{:.0}", cost.disk_bytes as f64 / 1e6),
            format!("{:.2}", disk(cost)),
            ratio(|cost| cost.disk_bytes as f64),
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
