//! Prints what a node keeps in memory for its series and what that costs in CPU:
//! `cargo run -p quorate-storage --example head_memory -- [series] [scrapes] [target|series] [churn %]`.
//!
//! Series look like those of node_exporter: 480 a host, nine labels, five kinds of values. One process
//! holds eight shards, as a node of a small cluster does. Times are CPU times of this process.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use quorate_storage::{
    Labels, LogPosition, MatchOp, Matcher, PartBuilder, SelectLimits, Shard, Store, StoreOptions,
    encode_write_entry,
};

const SHARDS: usize = 8;
const REQUEST_SAMPLES: u64 = 2_000;
const REQUESTS_PER_ENTRY: u64 = 8;
const START_MS: i64 = 1_700_000_000_000;
const INTERVAL_MS: i64 = 15_000;
const TENANT: &str = "default";

const NAMES: [&str; 24] = [
    "node_cpu_seconds_total",
    "node_network_receive_bytes_total",
    "node_network_transmit_bytes_total",
    "node_disk_io_time_seconds_total",
    "node_disk_read_bytes_total",
    "node_disk_written_bytes_total",
    "node_filesystem_avail_bytes",
    "node_filesystem_size_bytes",
    "node_memory_MemAvailable_bytes",
    "node_memory_Cached_bytes",
    "node_load1",
    "node_load5",
    "node_netstat_Tcp_InSegs",
    "node_netstat_Tcp_OutSegs",
    "node_sockstat_TCP_inuse",
    "node_vmstat_pgfault",
    "node_vmstat_pgmajfault",
    "node_context_switches_total",
    "node_schedstat_running_seconds_total",
    "node_hwmon_temp_celsius",
    "http_requests_total",
    "http_request_duration_seconds_bucket",
    "process_resident_memory_bytes",
    "go_goroutines",
];
const MODES: [&str; 8] = [
    "idle", "user", "system", "iowait", "irq", "softirq", "steal", "nice",
];
const TEAMS: [&str; 5] = ["infra", "search", "ads", "payments", "edge"];

/// The labels of series `i`, and the shard that it belongs to.
fn series(i: u64) -> (Labels, usize) {
    let host = i / 480;
    let metric = i % 480 % 24;
    let index = i % 480 / 24;
    let region = (host % 3) as usize;
    let labels = Labels::from_pairs([
        ("__name__", NAMES[metric as usize].to_owned()),
        (
            "cluster",
            ["prod-eu-1", "prod-us-1", "prod-ap-1"][region].to_owned(),
        ),
        ("cpu", (index % 10).to_string()),
        ("datacenter", ["fra1", "iad3", "sin2"][region].to_owned()),
        ("instance", format!("host-{host:05}.example.net:9100")),
        ("job", "node".to_owned()),
        ("mode", MODES[(index / 10 % 8) as usize].to_owned()),
        ("rack", format!("r{:03}", host % 97)),
        ("team", TEAMS[(host % 5) as usize].to_owned()),
    ]);
    let key = (host * 8 + metric % 8).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (labels.unwrap_or_default(), (key >> 40) as usize % SHARDS)
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Three of five series count, one is a gauge with two decimals, one constant.
fn value(i: u64, previous: f64, random: &mut Random) -> f64 {
    match i % 5 {
        0 | 1 => previous + (random.next() % 1000) as f64,
        2 => previous + (random.next() % 1500) as f64 / 100.0,
        3 => ((previous * 100.0).round() + (random.next() % 201) as f64 - 100.0) / 100.0,
        _ => previous,
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default| arguments.get(at).map_or(Ok(default), |text| text.parse::<u64>());
    let (count, scrapes) = (number(0, 1_000_000)?, number(1, 10)?);
    let own_stamps = arguments.get(2).is_some_and(|text| text == "series");
    let churn = number(3, 0)?;

    let disk = Disk::new()?;
    let node = disk.open()?;
    let mut load = Load::new(count, own_stamps, churn);
    let empty = resident();
    let mut log: Vec<Vec<Bytes>> = vec![Vec::new(); SHARDS];
    let (mut applied_ns, mut samples, mut registered) = (0, 0, count);
    for scrape in 0..scrapes {
        let entries = load.scrape(scrape, &node.shards);
        registered += load.replaced;
        let before = cpu_ns();
        for (shard, entry) in &entries {
            apply(&node.shards[*shard], log[*shard].len() + 1, entry, &mut load)?;
            log[*shard].push(entry.clone());
        }
        let spent = cpu_ns() - before;
        if scrape == 0 {
            println!("register + first sample {:>7.0} ns/series", per(spent, count));
        } else {
            applied_ns += spent;
            samples += count;
        }
        if [0, 1, scrapes - 1].contains(&scrape) {
            let logged: usize = log.iter().flatten().map(Bytes::len).sum();
            println!(
                "after {:>3} scrapes: {:>6.0} B/series resident besides the log ({:.0} B/series of entries); state {}",
                scrape + 1,
                per(
                    resident().saturating_sub(empty + load.bytes + logged as u64),
                    count
                ),
                per(logged as u64, count),
                about(&node.shards),
            );
        }
    }
    println!(
        "apply                   {:>7.1} ns/sample ({registered} series)",
        per(applied_ns, samples)
    );
    query(&node.shards, scrapes)?;

    let replayed = Disk::new()?;
    let other = replayed.open()?;
    let before = cpu_ns();
    for (shard, entries) in other.shards.iter().zip(&log) {
        for (index, entry) in entries.iter().enumerate() {
            apply(shard, index + 1, entry, &mut Nothing)?;
        }
    }
    let total = log.iter().flatten().map(Bytes::len).sum::<usize>();
    println!(
        "replay                  {:>7.1} ns/sample, {:.0} MB of entries, {:.2} B/sample",
        per(cpu_ns() - before, count * scrapes),
        total as f64 / 1e6,
        total as f64 / (count * scrapes) as f64,
    );
    drop(other);
    reopen(&disk, node, registered)
}

fn reopen(disk: &Disk, node: Node, count: u64) -> Result<(), Box<dyn std::error::Error>> {
    let before = cpu_ns();
    for shard in &node.shards {
        if let Some(pending) = shard.begin_flush()? {
            for row in &pending.rows {
                let family = node.db.cf_handle(row.cf).ok_or("no such family")?;
                if let Some(value) = &row.value {
                    node.db.put_cf(&family, &row.key, value)?;
                }
            }
            shard.commit_flush(pending)?;
        }
    }
    println!(
        "flush                   {:>7.0} ns/series",
        per(cpu_ns() - before, count)
    );
    drop(node);
    let (before, wall) = (cpu_ns(), Instant::now());
    let before_bytes = resident();
    let node = disk.open()?;
    println!(
        "reopen                  {:>7.0} ns/series, {:.2} s, {:.0} B/series more than before; state {}",
        per(cpu_ns() - before, count),
        wall.elapsed().as_secs_f64(),
        per(resident().saturating_sub(before_bytes), count),
        about(&node.shards),
    );
    Ok(())
}

fn query(shards: &[Arc<Shard>], scrapes: u64) -> Result<(), Box<dyn std::error::Error>> {
    let now_ms = START_MS + scrapes as i64 * INTERVAL_MS;
    let queries = [
        (
            "one series of each host",
            vec![
                Matcher::new(MatchOp::Eq, "__name__", "node_load1")?,
                Matcher::new(MatchOp::Eq, "cpu", "3")?,
                Matcher::new(MatchOp::Eq, "mode", "idle")?,
            ],
        ),
        (
            "one host by expression",
            vec![
                Matcher::new(MatchOp::Eq, "job", "node")?,
                Matcher::new(MatchOp::Re, "instance", ".*-0001[0-4].*")?,
            ],
        ),
    ];
    for (what, matchers) in &queries {
        let before = cpu_ns();
        let mut found = 0;
        for shard in shards {
            found += shard
                .select(
                    TENANT,
                    matchers,
                    now_ms - 20_000,
                    now_ms + 60_000,
                    &SelectLimits::default(),
                )?
                .len();
        }
        println!("select {what}: {} us, {found} series", (cpu_ns() - before) / 1000);
    }
    Ok(())
}

/// What takes the ids of new series.
trait Learn {
    fn learn(&mut self, shard: usize, entry: &Bytes, ids: &[u64]);
}

struct Nothing;

impl Learn for Nothing {
    fn learn(&mut self, _shard: usize, _entry: &Bytes, _ids: &[u64]) {}
}

fn apply(
    shard: &Shard,
    index: usize,
    entry: &Bytes,
    learner: &mut impl Learn,
) -> Result<(), Box<dyn std::error::Error>> {
    let position = LogPosition {
        term: 1,
        index: index as u64,
    };
    let outcome = shard.apply(position, entry)?;
    for part in &outcome.parts {
        if !part.rejections.is_empty() || !part.unknown_ids.is_empty() {
            return Err(format!("{part:?}").into());
        }
        learner.learn(shard.shard() as usize, entry, &part.new_ids);
    }
    Ok(())
}

/// What the writers know.
struct Load {
    values: Vec<f64>,
    /// 0 while the shard has not told it.
    ids: Vec<u32>,
    places: Vec<u8>,
    /// Series whose ids come next, per shard.
    waiting: Vec<std::collections::VecDeque<u32>>,
    random: Random,
    own_stamps: bool,
    churn: u64,
    replaced: u64,
    generation: HashMap<u64, u64>,
    bytes: u64,
}

impl Learn for Load {
    fn learn(&mut self, shard: usize, _entry: &Bytes, ids: &[u64]) {
        for id in ids {
            if let Some(series) = self.waiting[shard].pop_front() {
                self.ids[series as usize] = *id as u32;
            }
        }
    }
}

impl Load {
    fn new(count: u64, own_stamps: bool, churn: u64) -> Self {
        Self {
            values: (0..count).map(|i| (i % 1000) as f64).collect(),
            ids: vec![0; count as usize],
            places: vec![0; count as usize],
            waiting: vec![Default::default(); SHARDS],
            random: Random(0x9E37_79B9_7F4A_7C15),
            own_stamps,
            churn,
            replaced: 0,
            generation: HashMap::new(),
            bytes: 0,
        }
    }

    /// The entries of one scrape of all series.
    fn scrape(&mut self, scrape: u64, shards: &[Arc<Shard>]) -> Vec<(usize, Bytes)> {
        let count = self.values.len() as u64;
        let at_ms = START_MS + scrape as i64 * INTERVAL_MS;
        let mut entries = Vec::new();
        let mut parts: Vec<Vec<Bytes>> = vec![Vec::new(); shards.len()];
        self.replaced = 0;
        for (request, first) in (0..count).step_by(REQUEST_SAMPLES as usize).enumerate() {
            let mut builders: Vec<PartBuilder> = shards.iter().map(|_| PartBuilder::new(TENANT, 1)).collect();
            for i in first..(first + REQUEST_SAMPLES).min(count) {
                if scrape > 0 && self.random.next() % 100 < self.churn {
                    self.generation.insert(i, scrape);
                    self.ids[i as usize] = 0;
                    self.replaced += 1;
                }
                let slot = i as usize;
                self.values[slot] = value(i, self.values[slot], &mut self.random);
                let offset = if self.own_stamps {
                    i % 7919
                } else {
                    i / 480 * 37 % 7919
                };
                let timestamp_ms = at_ms + offset as i64;
                if self.ids[slot] == 0 {
                    let (labels, shard) = series(i + count * self.generation.get(&i).copied().unwrap_or(0));
                    self.places[slot] = shard as u8;
                    let ordinal = builders[shard].series(labels.as_bytes());
                    self.waiting[shard].push_back(i as u32);
                    builders[shard].sample(ordinal, timestamp_ms, self.values[slot]);
                } else {
                    let shard = usize::from(self.places[slot]);
                    builders[shard].known(u64::from(self.ids[slot]), timestamp_ms, self.values[slot]);
                }
            }
            let last = first + REQUEST_SAMPLES >= count;
            for (shard, builder) in builders.into_iter().enumerate() {
                if !builder.is_empty() {
                    parts[shard].push(builder.finish());
                }
                let full = (request as u64 + 1).is_multiple_of(REQUESTS_PER_ENTRY);
                if (full || last) && !parts[shard].is_empty() {
                    entries.push((shard, encode_write_entry(at_ms + INTERVAL_MS, &parts[shard])));
                    parts[shard].clear();
                }
            }
        }
        // The writers' own memory: what grows with the number of series.
        self.bytes = self.waiting.iter().map(|w| w.capacity() as u64 * 4).sum();
        entries
    }
}

struct Disk {
    dir: tempfile::TempDir,
}

struct Node {
    db: Arc<rocksdb::DBWithThreadMode<rocksdb::MultiThreaded>>,
    shards: Vec<Arc<Shard>>,
    _store: Arc<Store>,
}

impl Disk {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            dir: tempfile::tempdir()?,
        })
    }

    fn open(&self) -> Result<Node, Box<dyn std::error::Error>> {
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let path = self.dir.path().join("db");
        let db = rocksdb::DBWithThreadMode::open_cf_descriptors(&options, path, Store::column_families())?;
        let db = Arc::new(db);
        let store = Store::open(
            db.clone(),
            &self.dir.path().join("scratch"),
            StoreOptions::default(),
        )?;
        let shards = (0..SHARDS as u32)
            .map(|shard| store.open_shard(shard, 1))
            .collect::<Result<_, _>>()?;
        Ok(Node {
            db,
            shards,
            _store: store,
        })
    }
}

fn per(total: u64, count: u64) -> f64 {
    total as f64 / count as f64
}

fn about(shards: &[Arc<Shard>]) -> String {
    let series: u64 = shards.iter().map(|shard| shard.stats().series).sum();
    let samples: u64 = shards.iter().map(|shard| shard.stats().head_samples).sum();
    format!("{series} series, {samples} samples")
}

/// CPU time of this process, user and system, nanoseconds.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|field| field.parse().ok())
        .unwrap_or(0)
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text
        .split(' ')
        .nth(1)
        .and_then(|field| field.parse().ok())
        .unwrap_or(0);
    pages * 4096
}
