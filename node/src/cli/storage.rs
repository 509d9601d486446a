//! `quorate storage`: what is stored in a data directory whose node does not run. It never repairs.

use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Subcommand};
use quorate_storage::inspect::{self, ReplicaReport, StoredReplica};

use super::offline;

/// Look at stored samples. The node must not run; nothing is changed.
#[derive(Debug, Args)]
pub struct StorageArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check every row of samples, labels and state, and that they agree with each other.
    Verify(Where),
    /// Print what is stored: replicas, series, samples.
    Dump(DumpArgs),
}

#[derive(Debug, Args)]
struct Where {
    /// The node's data directory, or a database in one.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Only this shard.
    #[arg(long)]
    shard: Option<u32>,
}

#[derive(Debug, Args)]
struct DumpArgs {
    #[command(flatten)]
    place: Where,
    /// Only series that match, for example 'up{job="node"}'. Implies --series.
    #[arg(long = "match", value_name = "SELECTOR")]
    selector: Option<String>,
    /// Print a line for each series: tenant, labels, number of samples, first and last time.
    #[arg(long)]
    series: bool,
    /// Print every sample: series, value, Unix milliseconds.
    #[arg(long)]
    samples: bool,
}

/// Runs `quorate storage`.
pub async fn run(args: StorageArgs) -> anyhow::Result<()> {
    offline::run(move || match args.command {
        Command::Verify(place) => verify(&place),
        Command::Dump(args) => dump(&args),
    })
    .await
}

fn replicas(db: &crate::Db, shard: Option<u32>) -> anyhow::Result<Vec<StoredReplica>> {
    let mut replicas = inspect::replicas(db)?;
    replicas.retain(|replica| shard.is_none_or(|shard| shard == replica.shard));
    if let (Some(shard), true) = (shard, replicas.is_empty()) {
        bail!("nothing is stored of shard {shard}");
    }
    Ok(replicas)
}

fn verify(place: &Where) -> anyhow::Result<()> {
    let offline = offline::open(&place.dir)?;
    let mut out = io::stdout().lock();
    let mut written = Ok(());
    let mut problems = 0;
    for replica in replicas(&offline.db, place.shard)? {
        let report = inspect::verify(&offline.db, &replica)?;
        problems += report.problems_total;
        // Whoever closed the pipe still learns by the exit code.
        written = written.and_then(|()| describe(&mut out, &replica, &report));
    }
    offline::printed(written)?;
    offline::conclude(problems)
}

fn describe(out: &mut impl Write, replica: &StoredReplica, report: &ReplicaReport) -> io::Result<()> {
    let verdict = offline::verdict(report.problems_total);
    writeln!(
        out,
        "{}: {verdict}; {} series, {} samples in {} generations",
        name(replica),
        report.series,
        report.samples,
        report.generations
    )?;
    for problem in &report.problems {
        writeln!(out, "  {problem}")?;
    }
    if report.problems_total > report.problems.len() as u64 {
        let more = report.problems_total - report.problems.len() as u64;
        writeln!(out, "  and {more} more")?;
    }
    if !report.leftovers.is_empty() {
        let families = report.leftovers.join(", ");
        writeln!(
            out,
            "  rows that a crash left over in {families}: the next start deletes them"
        )?;
    }
    Ok(())
}

fn name(replica: &StoredReplica) -> String {
    format!("shard {} replica {}", replica.shard, replica.replica)
}

fn dump(args: &DumpArgs) -> anyhow::Result<()> {
    let matchers = match &args.selector {
        Some(selector) => quorate_query::parse::parse_selector(selector)
            .map_err(|error| anyhow::anyhow!("--match: {}", error.message()))?,
        None => Vec::new(),
    };
    let offline = offline::open(&args.place.dir)?;
    let mut out = BufWriter::new(io::stdout().lock());
    for replica in replicas(&offline.db, args.place.shard)? {
        let listed = args.series || args.selector.is_some();
        if !args.samples
            && let Err(error) = summary(&mut out, &replica)
        {
            return offline::printed(Err(error));
        }
        if !args.samples && !listed {
            continue;
        }
        let mut written = Ok(());
        inspect::dump(&offline.db, &replica, &matchers, &mut |series| {
            written = match args.samples {
                true => sample_lines(&mut out, &series),
                false => series_line(&mut out, &series),
            };
            match written {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })?;
        if written.is_err() {
            return offline::printed(written);
        }
    }
    offline::printed(out.flush())
}

/// Numbers, and native histograms as a query prints them.
fn sample_lines(out: &mut impl Write, series: &inspect::DumpedSeries<'_>) -> io::Result<()> {
    for (at, (t, value)) in series.samples.iter().enumerate() {
        match series.samples.histogram(at) {
            Some(histogram) => writeln!(out, "{} {histogram} {t}", series.labels)?,
            None => writeln!(out, "{} {value} {t}", series.labels)?,
        }
    }
    Ok(())
}

fn series_line(out: &mut impl Write, series: &inspect::DumpedSeries<'_>) -> io::Result<()> {
    let timestamps = &series.samples.timestamps;
    write!(
        out,
        "  {} {} id {}: {} samples",
        series.tenant,
        series.labels,
        series.id,
        timestamps.len()
    )?;
    if let (Some(first), Some(last)) = (timestamps.first(), timestamps.last()) {
        write!(out, " from {first} to {last}")?;
    }
    writeln!(out)
}

fn summary(out: &mut impl Write, replica: &StoredReplica) -> io::Result<()> {
    let Some((term, index)) = replica.position() else {
        return writeln!(out, "{}: nothing was ever flushed", name(replica));
    };
    writeln!(
        out,
        "{}: up to term {term} index {index}, {} series, {} tombstones",
        name(replica),
        replica.series(),
        replica.tombstones()
    )?;
    for generation in replica.generations() {
        let level = ["flushed", "merged", "day"]
            .get(usize::from(generation.level))
            .unwrap_or(&"?");
        writeln!(
            out,
            "  generation {} ({level}): {} samples in {} columns from {} to {}, {} bytes",
            generation.number,
            generation.samples,
            generation.columns,
            generation.min_ms,
            generation.max_ms,
            generation.bytes
        )?;
    }
    Ok(())
}
