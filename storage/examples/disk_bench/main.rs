//! Measures stored samples: what they take on disk, how fast they are encoded, decoded and scanned.
//!
//! `cargo run -p quorate-storage -p quorate-proto --example disk_bench -- [--recording FILE] [--thin N]`

mod data;
mod disk;

use std::hint::black_box;
use std::time::Instant;

use data::Series;
use quorate_storage::codec::values::{ValuesDecoder, ValuesEncoder};

/// A metric of many series in a recording of node_exporter.
const RECORDED: &str = "node_scrape_collector_duration_seconds";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let option = |name: &str| {
        args.iter()
            .position(|a| a == name)
            .and_then(|at| args.get(at + 1))
    };
    let thin = option("--thin").map_or(Ok(15), |n| n.parse())?;
    let mut sets = vec![(
        "generated",
        data::generated(4_800, 2880, 1_700_006_400_000, 15_000),
        "load_metric_7_total",
    )];
    if let Some(path) = option("--recording") {
        let text = String::from_utf8_lossy(&std::fs::read(path)?).into_owned();
        sets.push(("recording, 1 s", data::recording(&text, 1)?, RECORDED));
        sets.push(("recording, thinned", data::recording(&text, thin)?, RECORDED));
    }
    for (name, series, metric) in &sets {
        for chunk in [120, 480, 2048] {
            codec(name, series, chunk)?;
        }
        disk::measure(name, series, metric)?;
    }
    Ok(())
}

fn codec(name: &str, series: &[Series], samples: usize) -> Result<(), Box<dyn std::error::Error>> {
    let mut encoder = ValuesEncoder::new();
    let mut decoder = ValuesDecoder::new();
    let mut bytes = Vec::new();
    let mut parts = Vec::new();
    let started = Instant::now();
    for chunk in series.iter().flat_map(|series| series.bits.chunks(samples)) {
        let from = bytes.len();
        encoder.encode(chunk, &mut bytes);
        parts.push((from..bytes.len(), chunk.len()));
    }
    let encode_ns = started.elapsed().as_nanos() as f64;
    let mut values = Vec::new();
    let mut total = 0;
    let mut decode_ns = f64::MAX;
    for _ in 0..3 {
        let started = Instant::now();
        total = 0;
        for (range, count) in &parts {
            values.clear();
            decoder.decode(&bytes[range.clone()], *count, &mut values)?;
            total += black_box(&values).len();
        }
        decode_ns = decode_ns.min(started.elapsed().as_nanos() as f64);
    }
    let per = |value: f64| value / total as f64;
    println!(
        "{name:<20} n={samples:<5} {:>6.2} bits/sample  encode {:>5.1} ns  decode {:>5.2} ns  ({total} samples)",
        per(bytes.len() as f64 * 8.0),
        per(encode_ns),
        per(decode_ns),
    );
    Ok(())
}
