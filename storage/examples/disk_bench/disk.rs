//! Writes series through a shard, flushes it as a node does, and looks at what is on disk.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use quorate_storage::{
    CF_CHUNKS, CF_SERIES, LogPosition, MatchOp, Matcher, Merge, PartBuilder, PendingFlush, SampleColumns,
    SelectLimits, Shard, Store, StoreOptions, encode_write_entry,
};

use crate::data::Series;

type Db = rocksdb::DBWithThreadMode<rocksdb::MultiThreaded>;
type Failure = Box<dyn std::error::Error>;

/// Time between two flushes, as the samples tell it.
const FLUSH_MS: i64 = 15 * 60_000;
/// Samples of one entry at most.
const ENTRY_SAMPLES: u64 = 50_000;

/// Measures one set of series; `metric` is read back.
pub(crate) fn measure(name: &str, series: &[Series], metric: &str) -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let cache = rocksdb::Cache::new_lru_cache(256 << 20);
    let families = Store::column_families_with_cache(&cache);
    let db = Arc::new(Db::open_cf_descriptors(
        &options,
        dir.path().join("db"),
        families,
    )?);
    let store = Store::open(db.clone(), &dir.path().join("scratch"), StoreOptions::default())?;
    let shard = store.open_shard(1, 1)?;
    let (samples, flush_ns) = write(&db, &shard, series)?;
    let per = |value: f64| value / samples as f64;
    println!(
        "{name:<20} {samples} samples of {} series; flush {:.1} ns/sample",
        series.len(),
        per(flush_ns)
    );
    report("flushed", &db, &shard, samples)?;
    scan(&shard, metric)?;
    let started = Instant::now();
    while let Some(merged) = shard.merge(Merge::All, &mut |_| ControlFlow::Continue(()))? {
        if let Some(pending) = shard.begin_swap(merged)? {
            make_durable(&db, &shard, pending)?;
        }
    }
    println!(
        "  merged in {:.1} ns/sample",
        per(started.elapsed().as_nanos() as f64)
    );
    report("merged", &db, &shard, samples)?;
    scan(&shard, metric)?;
    Ok(())
}

fn report(when: &str, db: &Db, shard: &Shard, samples: u64) -> Result<(), Failure> {
    let mut bytes = [0usize; 2];
    for file in db.live_files()? {
        match file.column_family_name.as_str() {
            CF_CHUNKS => bytes[0] += file.size,
            CF_SERIES => bytes[1] += file.size,
            _ => {}
        }
    }
    let stats = shard.stats();
    let per = |bytes: f64| bytes / samples as f64;
    println!(
        "  {when:<10} {:.3} B/sample on disk ({:.3} before compression), and {:.3} of series; {} generations",
        per(bytes[0] as f64),
        per(stats.flushed_bytes as f64),
        per(bytes[1] as f64),
        stats.generations
    );
    Ok(())
}

/// Applies all samples in order of time, with a flush every [`FLUSH_MS`]; returns how many there were and
/// how long the flushes took.
fn write(db: &Db, shard: &Arc<Shard>, series: &[Series]) -> Result<(u64, f64), Failure> {
    let mut order: Vec<(i64, u32, u32)> = Vec::new();
    for (number, one) in (0u32..).zip(series) {
        order.extend(
            (0u32..)
                .zip(&one.timestamps)
                .map(|(place, t)| (*t, number, place)),
        );
    }
    order.sort_unstable();
    let mut index = 0;
    let mut ids: Vec<Option<u64>> = vec![None; series.len()];
    let (mut last_flush, mut flush_ns, mut rest) = (order[0].0, 0.0, &order[..]);
    while let Some((first_ms, ..)) = rest.first() {
        let mut part = PartBuilder::new("default", 1);
        let mut new = Vec::new();
        let mut taken = 0;
        for (t, number, place) in rest {
            if part.samples() >= ENTRY_SAMPLES || *t > first_ms + 60_000 {
                break;
            }
            let one = &series[*number as usize];
            let value = f64::from_bits(one.bits[*place as usize]);
            match ids[*number as usize] {
                Some(id) => part.known(id, *t, value),
                // A series that is new in this entry gets its id by it.
                None if new.last() == Some(number) || new.contains(number) => break,
                None => {
                    let ordinal = part.series(one.labels.as_bytes());
                    part.sample(ordinal, *t, value);
                    new.push(*number);
                }
            }
            taken += 1;
        }
        let now_ms = rest[taken - 1].0;
        index += 1;
        let outcome = shard.apply(
            LogPosition { term: 1, index },
            &encode_write_entry(now_ms, &[part.finish()]),
        )?;
        for (number, id) in new.iter().zip(&outcome.parts[0].new_ids) {
            ids[*number as usize] = Some(*id);
        }
        rest = &rest[taken..];
        if now_ms >= last_flush + FLUSH_MS || rest.is_empty() {
            last_flush = now_ms;
            let started = Instant::now();
            flush(db, shard)?;
            flush_ns += started.elapsed().as_nanos() as f64;
        }
    }
    Ok((order.len() as u64, flush_ns))
}

fn flush(db: &Db, shard: &Arc<Shard>) -> Result<(), Failure> {
    match shard.begin_flush()? {
        Some(pending) => make_durable(db, shard, pending),
        None => Ok(()),
    }
}

fn make_durable(db: &Db, shard: &Shard, pending: PendingFlush) -> Result<(), Failure> {
    for row in &pending.rows {
        let cf = db.cf_handle(row.cf).ok_or("a column family is missing")?;
        db.put_cf(&cf, &row.key, row.value.as_deref().unwrap_or_default())?;
    }
    Ok(shard.commit_flush(pending)?)
}

/// Reads every series of a metric, cold and warm.
fn scan(shard: &Shard, metric: &str) -> Result<(), Failure> {
    let matchers = [Matcher::new(MatchOp::Eq, "__name__", metric)?];
    for round in ["cold", "warm", "warm"] {
        let started = Instant::now();
        let selected = shard.select("default", &matchers, i64::MIN, i64::MAX, &SelectLimits::default())?;
        let mut columns = SampleColumns::new();
        let mut read = 0;
        for series in &selected {
            series.samples(&mut columns)?;
            read += black_box(&columns).len();
        }
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "  scan, {round}: {} series, {read} samples, {:.1} M samples/s",
            selected.len(),
            read as f64 / seconds / 1e6
        );
    }
    Ok(())
}
