//! `quorate import`: takes over what a Prometheus has stored.

mod block;
mod bytes;
mod openmetrics;
mod send;
mod state;
mod xor;

#[cfg(test)]
pub(crate) use xor::decode as decode_xor_chunk;

use std::collections::BTreeMap;
use std::io::{BufReader, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Args;

use self::block::{Block, BlockSeries};
use self::send::{Sender, Totals};
use self::state::State;
use super::connect::ConnectArgs;

/// Samples after which the state is saved.
const SAVE_SAMPLES: u64 = 500_000;
/// Between two lines of progress: on a terminal, and elsewhere.
const PROGRESS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Import samples from a Prometheus data directory or from OpenMetrics text
///
/// Samples keep their times and exact values. A series takes samples in order of time only, within the
/// out-of-order window, so import before live data of the same series arrives, oldest first; what is older
/// than the retention is refused. Raise the retention first where needed: quorate cluster limits set
/// retention=90d. An interrupted import goes on where it was when the same command is run again, and
/// importing something twice changes nothing.
#[derive(Debug, Args)]
#[group(id = "source", required = true, multiple = false, args = ["prometheus_tsdb", "openmetrics"])]
pub struct ImportArgs {
    /// A Prometheus data directory, a snapshot of one, or a single block. Native histograms are left out. The
    /// newest hours are in Prometheus's log and not in a block yet: take a snapshot to have them too.
    #[arg(long, value_name = "DIR")]
    prometheus_tsdb: Option<PathBuf>,
    /// A file in the OpenMetrics text format, every sample with its time.
    #[arg(long, value_name = "FILE")]
    openmetrics: Option<PathBuf>,
    /// Where to note how far the import has come. Default: beside what is imported.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Runs `quorate import`. Fails when samples are refused for another reason than their age.
pub async fn run(args: ImportArgs) -> anyhow::Result<()> {
    let client = args.connect.client()?;
    let cluster = client.status().await?.cluster_id;
    let (source, is_blocks) = match (&args.prometheus_tsdb, &args.openmetrics) {
        (Some(directory), _) => (directory.clone(), true),
        (None, Some(file)) => (file.clone(), false),
        (None, None) => bail!("expected --prometheus-tsdb or --openmetrics"),
    };
    let path = args.state.clone().unwrap_or_else(|| beside(&source));
    let state = State::load(&path, &cluster, args.connect.tenant(), &source)?;
    let mut import = Import {
        sender: Sender::new(&client),
        state,
        path,
        saved: 0,
        progress: Progress::new(),
        histogram_chunks: 0,
    };
    let done = match is_blocks {
        true => import.blocks(&source).await,
        false => import.openmetrics(&source).await,
    };
    import.progress.end();
    done.with_context(|| {
        format!(
            "{}; run the same command again to go on",
            describe(&import.sender.totals, import.histogram_chunks)
        )
    })?;
    println!("{}", describe(&import.sender.totals, import.histogram_chunks));
    // A finished import may be run again as a whole, which is harmless.
    let _gone = std::fs::remove_file(&import.path);
    let totals = &import.sender.totals;
    let wrong = totals.refused.iter().filter(|(reason, _)| *reason != "too_old");
    match wrong.map(|(_, (samples, _))| samples).sum() {
        0u64 => Ok(()),
        refused => bail!("{refused} samples were refused; the others are stored"),
    }
}

fn beside(source: &Path) -> PathBuf {
    let mut name = source.file_name().unwrap_or_default().to_owned();
    name.push(".quorate-import");
    match source.canonicalize() {
        // Of `.` the name is not in the path as given.
        Ok(full) if name.len() == ".quorate-import".len() => {
            let mut own = full.file_name().unwrap_or_default().to_owned();
            own.push(".quorate-import");
            full.with_file_name(own)
        }
        _ => source.with_file_name(name),
    }
}

struct Import {
    sender: Sender,
    state: State,
    path: PathBuf,
    /// Samples answered when the state was saved last.
    saved: u64,
    progress: Progress,
    histogram_chunks: u64,
}

impl Import {
    async fn blocks(&mut self, directory: &Path) -> anyhow::Result<()> {
        let blocks = block::find(directory)?;
        ensure!(!blocks.is_empty(), "there is no block in {}", directory.display());
        if directory.join("wal").is_dir() {
            let newest = blocks
                .iter()
                .map(|(_, meta)| meta.max_time)
                .max()
                .unwrap_or_default();
            eprintln!(
                "note: what Prometheus has stored after {} is in its log and is not imported; a snapshot \
                 (/api/v1/admin/tsdb/snapshot) has it in a block",
                super::time::show_time(newest, true)
            );
        }
        let open = |ulid: &String| !self.state.blocks.contains(ulid);
        let all: u64 = blocks
            .iter()
            .filter(|(_, meta)| open(&meta.ulid))
            .map(|(_, meta)| meta.stats.num_samples)
            .sum();
        self.progress.all = all;
        for (path, meta) in &blocks {
            if self.state.blocks.contains(&meta.ulid) {
                continue;
            }
            if self.state.block.as_ref() != Some(&meta.ulid) {
                (self.state.block, self.state.done) = (Some(meta.ulid.clone()), 0);
            }
            self.block(path, meta.stats.num_series)
                .await
                .with_context(|| format!("block {}", meta.ulid))?;
            self.sender.drain().await?;
            self.state.blocks.insert(meta.ulid.clone());
            (self.state.block, self.state.done) = (None, 0);
            self.save()?;
        }
        Ok(())
    }

    async fn block(&mut self, path: &Path, expected: u64) -> anyhow::Result<()> {
        let mut block = Block::open(path)?;
        let mut series = BlockSeries::default();
        let mut number = 0;
        while block.next(&mut series)? {
            number += 1;
            if number <= self.state.done {
                self.progress.left_out += series.samples.len() as u64;
                continue;
            }
            // Chunks of a block that was compacted from overlapping ones may overlap.
            series.samples.sort_by_key(|(timestamp_ms, _)| *timestamp_ms);
            series.samples.dedup_by_key(|(timestamp_ms, _)| *timestamp_ms);
            self.histogram_chunks += series.histogram_chunks;
            self.sender.add(&series.labels, &series.samples).await?;
            self.progress.show(&self.sender.totals);
            if self.sender.totals.answered() >= self.saved + SAVE_SAMPLES {
                self.sender.drain().await?;
                self.state.done = number;
                self.save()?;
            }
        }
        ensure!(
            number >= expected,
            "it has {number} series, but {expected} by its meta.json; it is damaged"
        );
        Ok(())
    }

    /// Gathers lines of the same series, as files have them one after the other.
    async fn openmetrics(&mut self, file: &Path) -> anyhow::Result<()> {
        const GATHERED: usize = 100_000;
        let input = std::fs::File::open(file).with_context(|| format!("can't open {}", file.display()))?;
        let mut reader = openmetrics::Reader::new(BufReader::with_capacity(1 << 20, input));
        reader.skip(self.state.done)?;
        let mut gathered: BTreeMap<openmetrics::Labels, Vec<(i64, u64)>> = BTreeMap::new();
        let mut samples = 0;
        loop {
            let line = reader.next()?;
            let ended = line.is_none();
            if let Some(line) = line {
                gathered
                    .entry(line.labels)
                    .or_default()
                    .push((line.timestamp_ms, line.bits));
                samples += 1;
            }
            if samples < GATHERED && !ended {
                continue;
            }
            for (labels, mut samples) in std::mem::take(&mut gathered) {
                samples.sort_by_key(|(timestamp_ms, _)| *timestamp_ms);
                self.sender.add(&labels, &samples).await?;
                self.progress.show(&self.sender.totals);
            }
            samples = 0;
            self.sender.drain().await?;
            self.state.done = reader.lines;
            self.save()?;
            if ended {
                return Ok(());
            }
        }
    }

    fn save(&mut self) -> anyhow::Result<()> {
        self.saved = self.sender.totals.answered();
        self.state.save(&self.path)
    }
}

/// What became of all samples, with the first refused one of each reason.
fn describe(totals: &Totals, histogram_chunks: u64) -> String {
    let mut text = format!(
        "{} samples are stored, {} were there already",
        totals.stored, totals.duplicates
    );
    for (reason, (samples, first)) in &totals.refused {
        text.push_str(&format!("; {samples} were refused as {reason}, first: {first}"));
    }
    if histogram_chunks > 0 {
        text.push_str(&format!(
            "; {histogram_chunks} chunks of native histograms were left out"
        ));
    }
    text
}

/// Progress on stderr: a line that is rewritten on a terminal, a line now and then elsewhere.
struct Progress {
    /// Samples that there are, 0 when not known.
    all: u64,
    /// Of those, imported by an earlier run.
    left_out: u64,
    started: Instant,
    shown: Instant,
    on_terminal: bool,
}

impl Progress {
    fn new() -> Progress {
        Progress {
            all: 0,
            left_out: 0,
            started: Instant::now(),
            shown: Instant::now(),
            on_terminal: std::io::stderr().is_terminal(),
        }
    }

    fn show(&mut self, totals: &Totals) {
        let pause = if self.on_terminal { PROGRESS.0 } else { PROGRESS.1 };
        if self.shown.elapsed() < pause {
            return;
        }
        self.shown = Instant::now();
        let done = totals.answered();
        let rate = done as f64 / self.started.elapsed().as_secs_f64();
        let share = match self.all {
            0 => String::new(),
            all => {
                let percent = ((done + self.left_out) as f64 * 100.0 / all as f64).min(100.0);
                let bar = "#".repeat((percent / 5.0) as usize);
                format!("[{bar:<20}] {percent:.0} %, ")
            }
        };
        let line = format!("{share}{done} samples, {rate:.0}/s");
        match self.on_terminal {
            true => eprint!("\r{line}  "),
            false => eprintln!("{line}"),
        }
    }

    fn end(&self) {
        if self.on_terminal {
            eprintln!();
        }
    }
}
