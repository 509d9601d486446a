//! Time per sample of the decode path, stage by stage, on a request as an agent sends it:
//! 2,000 series of one scrape job, one sample each.
//!
//! `cargo run -p quorate-ingest --example decode_bench [rounds]`

use std::hint::black_box;
use std::time::Instant;

use quorate_ingest::{
    Batch, CacheHasher, DecodeLimits, decode_snappy_write_request, decode_write_request, decompress_snappy,
};

const SERIES: usize = 2_000;
const SERIES_PER_TARGET: usize = 500;
/// Distinct requests, so that caches and branch predictors see a stream and not one message.
const REQUESTS: usize = 16;
const REPEATS: usize = 20;

fn main() {
    let rounds = std::env::args()
        .nth(1)
        .and_then(|arg| arg.parse().ok())
        .unwrap_or(64usize);
    let requests: Vec<Vec<u8>> = (0..REQUESTS).map(request).collect();
    let bodies: Vec<Vec<u8>> = requests
        .iter()
        .map(|raw| {
            snap::raw::Encoder::new()
                .compress_vec(raw)
                .expect("fits a snappy block")
        })
        .collect();
    let size = |all: &[Vec<u8>]| all.iter().map(Vec::len).sum::<usize>() as f64 / (REQUESTS * SERIES) as f64;
    println!(
        "{SERIES} series x 1 sample, {:.1} B/sample, {:.1} compressed",
        size(&requests),
        size(&bodies)
    );

    let limits = DecodeLimits::DEFAULT;
    let hasher = CacheHasher::new(0x5eed_5eed_5eed_5eed);
    let mut out = Vec::new();
    let mut batch = Batch::new();
    measure("snappy", rounds, |i| {
        decompress_snappy(&bodies[i], limits.max_decompressed_bytes, &mut out).expect("valid");
        out.len() as u64
    });
    measure("copy + walk", rounds, |i| {
        decode_write_request(&requests[i], &limits, &mut batch).expect("valid");
        batch.samples() as u64
    });
    measure("snappy + walk", rounds, |i| {
        decode_snappy_write_request(&bodies[i], &limits, &mut batch).expect("valid");
        batch.samples() as u64
    });
    measure("snappy + walk + hash (a cache hit)", rounds, |i| {
        decode_snappy_write_request(&bodies[i], &limits, &mut batch).expect("valid");
        batch
            .iter()
            .fold(0, |sum, series| sum ^ hasher.hash(series.raw_labels()) as u64)
    });
    measure("... + canonicalize (a cache miss)", rounds, |i| {
        decode_snappy_write_request(&bodies[i], &limits, &mut batch).expect("valid");
        batch.iter().fold(0, |sum, series| {
            let key = hasher.hash(series.raw_labels()) as u64;
            let labels = series.canonicalize(&limits, &mut out).expect("valid");
            sum ^ key ^ labels.shard_labels().metric.len() as u64
        })
    });
}

/// Prints the fastest of a few repeats: noise only ever adds.
fn measure(what: &str, rounds: usize, mut decode: impl FnMut(usize) -> u64) {
    let mut best = f64::INFINITY;
    for _ in 0..REPEATS {
        let start = Instant::now();
        for round in 0..rounds {
            black_box(decode(black_box(round % REQUESTS)));
        }
        best = best.min(start.elapsed().as_nanos() as f64 / (rounds * SERIES) as f64);
    }
    println!("{what:<36} {best:>7.1} ns/sample {:>6.1} M samples/s", 1e3 / best);
}

fn request(number: usize) -> Vec<u8> {
    const METRICS: [&str; 10] = [
        "node_cpu_seconds_total",
        "node_disk_io_time_seconds_total",
        "node_network_receive_bytes_total",
        "node_network_transmit_packets_total",
        "node_filesystem_avail_bytes",
        "node_memory_MemAvailable_bytes",
        "http_requests_total",
        "http_request_duration_seconds_bucket",
        "process_resident_memory_bytes",
        "go_goroutines",
    ];
    let mut raw = Vec::new();
    for index in 0..SERIES {
        let target = number * SERIES / SERIES_PER_TARGET + index / SERIES_PER_TARGET;
        let mut series = Vec::new();
        for (name, value) in [
            ("__name__", METRICS[index % 10].to_string()),
            (
                "cluster",
                ["prod-eu-1", "prod-us-1", "prod-ap-1"][target % 3].to_string(),
            ),
            ("cpu", (index / 10 % 16).to_string()),
            ("datacenter", ["fra1", "iad3", "sin2"][target % 3].to_string()),
            ("instance", format!("host-{target:05}.example.net:9100")),
            ("job", "node".to_string()),
            (
                "mode",
                ["idle", "user", "system", "iowait"][index / 160 % 4].to_string(),
            ),
            ("rack", format!("r{:03}", target % 97)),
            (
                "team",
                ["infra", "search", "ads", "payments"][target % 4].to_string(),
            ),
        ] {
            let mut label = Vec::new();
            field(&mut label, 0x0a, name.as_bytes());
            field(&mut label, 0x12, value.as_bytes());
            field(&mut series, 0x0a, &label);
        }
        let mut sample = vec![0x09];
        let value = (index * 7919 + number * 104_729) as f64 / 100.0;
        sample.extend_from_slice(&value.to_le_bytes());
        sample.push(0x10);
        put_varint(&mut sample, 1_790_000_000_000 + (target * 37 % 7919) as u64);
        field(&mut series, 0x12, &sample);
        field(&mut raw, 0x0a, &series);
    }
    raw
}

fn field(out: &mut Vec<u8>, key: u8, bytes: &[u8]) {
    out.push(key);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
