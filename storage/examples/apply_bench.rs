//! Prints what applying, flushing and reading cost: `cargo run -p quorate-storage --example apply_bench`.
//!
//! Applying is measured in CPU time of the thread. 100,000 series in 200 targets get a sample every 15 s; values mix constants, counters and noise.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use quorate_storage::{
    Labels, LogPosition, MatchOp, Matcher, PartBuilder, SampleColumns, SelectLimits, Store, StoreOptions,
    encode_write_entry,
};

const TARGETS: u64 = 200;
const SERIES_PER_TARGET: u64 = 500;
const ROUNDS: u64 = 120;
const SELECTIONS: u128 = 500;
const START_MS: i64 = 1_700_000_000_000;

fn value(series: u64, round: u64) -> f64 {
    match series % 10 {
        0..=5 => (series % 7) as f64,
        6 | 7 => (series * 1000 + round * (series % 90)) as f64,
        8 => ((series * 31 + round * 17) % 10_000) as f64 / 100.0,
        _ => ((series + round) as f64 * 0.7391).sin(),
    }
}

/// CPU time of this thread; elapsed time where the kernel does not tell.
fn cpu_ns(since: Instant) -> u128 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let cpu = stat.split_whitespace().next().and_then(|ns| ns.parse().ok());
    cpu.unwrap_or_else(|| since.elapsed().as_nanos())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let db = rocksdb::DBWithThreadMode::open_cf_descriptors(
        &options,
        dir.path().join("db"),
        Store::column_families(),
    )?;
    let store = Store::open(Arc::new(db), &dir.path().join("scratch"), StoreOptions::default())?;
    let shard = store.open_shard(1, 1)?;
    let mut index = 0;
    let mut apply = |entry: &[u8]| {
        index += 1;
        shard.apply(LogPosition { term: 1, index }, entry)
    };

    let mut part = PartBuilder::new("default", 1);
    for target in 0..TARGETS {
        for metric in 0..SERIES_PER_TARGET {
            let labels = Labels::from_pairs([
                ("__name__", format!("node_metric_{metric}_total")),
                ("instance", format!("host-{target}:9100")),
                ("job", "node".to_owned()),
                ("mode", format!("m{}", metric % 8)),
            ])?;
            let ordinal = part.series(labels.as_bytes());
            part.sample(ordinal, START_MS, value(target * SERIES_PER_TARGET + metric, 0));
        }
    }
    let started = Instant::now();
    apply(&encode_write_entry(START_MS, &[part.finish()]))?;
    let series = TARGETS * SERIES_PER_TARGET;
    println!(
        "register       {:>8.1} ns/series",
        started.elapsed().as_nanos() as f64 / series as f64
    );

    let (mut encode_ns, mut apply_ns, mut bytes, mut samples) = (0u128, 0u128, 0usize, 0u64);
    let mut last_entries = Vec::new();
    let began = Instant::now();
    for round in 1..ROUNDS {
        let now_ms = START_MS + round as i64 * 15_000;
        for batch in 0..10 {
            let started = Instant::now();
            let mut part = PartBuilder::new("default", 1);
            for id in batch * series / 10..(batch + 1) * series / 10 {
                part.known(id + 1, now_ms, value(id, round));
            }
            let entry = encode_write_entry(now_ms, &[part.finish()]);
            encode_ns += started.elapsed().as_nanos();
            let started = cpu_ns(began);
            samples += black_box(apply(&entry)?).parts[0].stored;
            apply_ns += cpu_ns(began) - started;
            bytes += entry.len();
            if round == ROUNDS / 2 {
                last_entries.push(entry);
            }
        }
    }
    let per = |total: u128| total as f64 / samples as f64;
    println!(
        "encode entry   {:>8.1} ns/sample (values are computed inside)",
        per(encode_ns)
    );
    println!(
        "entry          {:>8.2} bytes/sample",
        bytes as f64 / samples as f64
    );
    println!("apply in order {:>8.1} ns/sample", per(apply_ns));

    let started = Instant::now();
    for entry in &last_entries {
        black_box(apply(entry)?);
    }
    println!(
        "resend, head   {:>8.1} ns/sample",
        started.elapsed().as_nanos() as f64 / series as f64
    );

    let started = Instant::now();
    let pending = shard.begin_flush()?.ok_or("nothing to flush")?;
    println!(
        "begin flush    {:>8.1} ns/sample",
        per(started.elapsed().as_nanos())
    );
    shard.commit_flush(pending)?;
    let stats = shard.stats();
    println!(
        "chunks         {:>8.2} bytes/sample",
        stats.flushed_bytes as f64 / stats.flushed_samples as f64
    );

    let started = Instant::now();
    for entry in &last_entries {
        black_box(apply(entry)?);
    }
    println!(
        "resend, disk   {:>8.1} ns/sample",
        started.elapsed().as_nanos() as f64 / series as f64
    );

    let matchers = [
        Matcher::new(MatchOp::Eq, "__name__", "node_metric_7_total")?,
        Matcher::new(MatchOp::Re, "instance", "host-1.*")?,
    ];
    let mut selected = Vec::new();
    let started = Instant::now();
    for _ in 0..SELECTIONS {
        selected = shard.select("default", &matchers, START_MS, i64::MAX, &SelectLimits::default())?;
    }
    let select_us = started.elapsed().as_micros() / SELECTIONS;
    let mut columns = SampleColumns::new();
    let mut read = 0;
    let started = Instant::now();
    for series in &selected {
        series.samples(&mut columns)?;
        read += columns.len();
    }
    let read_ns = started.elapsed().as_nanos() as f64 / read as f64;
    println!(
        "select         {select_us:>8} us for {} series; read {read_ns:.1} ns/sample",
        selected.len()
    );
    let started = Instant::now();
    let checksum = shard.checksum()?;
    let checksum_ns = started.elapsed().as_nanos() as f64 / checksum.samples as f64;
    println!(
        "checksum       {checksum_ns:>8.1} ns/sample over {} samples",
        checksum.samples
    );
    Ok(())
}
