//! How much of what servers acknowledged is gone after a power cut, or a SIGKILL: Quorate beside Debian's Prometheus
//! and VictoriaMetrics.

use std::process::ExitCode;
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Parser;
use quorate_jepsen_like_tests::bed::{Bed, Medium};
use quorate_jepsen_like_tests::peers::load::LoadOptions;
use quorate_jepsen_like_tests::peers::server::Subject;
use quorate_jepsen_like_tests::peers::table::{self, Row};
use quorate_jepsen_like_tests::peers::{self, Options, Strike};
use quorate_jepsen_like_tests::turn;

/// Count what is lost of acknowledged samples when power fails, or all processes are killed.
#[derive(Debug, Parser)]
struct Args {
    /// Power cuts, and as many kills.
    #[arg(long, default_value_t = 10)]
    strikes: usize,
    /// Orderly stops, after which nothing may be missing.
    #[arg(long, default_value_t = 2)]
    controls: usize,
    /// Samples a second that each server is sent.
    #[arg(long, default_value_t = 2_000)]
    rate: u64,
    /// Concurrent writers.
    #[arg(long, default_value_t = 4)]
    writers: u32,
    /// Series of each writer. A request holds one sample of each.
    #[arg(long, default_value_t = 100)]
    series: u32,
    /// The shortest time under load before a strike, in seconds.
    #[arg(long, default_value_t = 20.0)]
    shortest: f64,
    /// The longest.
    #[arg(long, default_value_t = 60.0)]
    longest: f64,
    /// Keep the disks in memory, where syncing takes no time.
    #[arg(long)]
    in_memory: bool,
    /// The moments of strikes follow from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    match compare(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare(args: &Args) -> Result<()> {
    ensure!(
        args.shortest <= args.longest,
        "--shortest is longer than --longest"
    );
    ensure!(args.series > 0 && args.writers > 0 && args.rate > 0, "no load");
    let missing = Subject::ALL.into_iter().find_map(Subject::missing);
    if let Some(missing) = Bed::missing().or(missing) {
        return Err(anyhow!("{missing}"));
    }
    let _turn = turn::take()?;
    println!(
        "{} samples a second to each server from {} writers, {} samples a request; struck after {} to {} s, seed {}; \
         disks {}",
        args.rate,
        args.writers,
        args.series,
        args.shortest,
        args.longest,
        args.seed,
        if args.in_memory { "in memory" } else { "on disk" }
    );
    for subject in Subject::ALL {
        println!(
            "{} {}: flags {}",
            subject.name(),
            subject.version()?,
            subject.flags()
        );
    }
    let mut wrong = 0;
    for (strike, strikes) in [
        (Strike::Stop, args.controls),
        (Strike::PowerCut, args.strikes),
        (Strike::Kill, args.strikes),
    ] {
        let rows = side_by_side(args, strike, strikes)?;
        let all = || rows.iter().flat_map(|row| &row.struck);
        ensure!(
            strike != Strike::Stop || all().all(|struck| struck.lost == 0),
            "samples are missing after an orderly stop, so what the harness finds is worth nothing:\n{}",
            table::markdown(&rows)
        );
        wrong += rows
            .iter()
            .flat_map(|row| &row.struck)
            .map(|struck| struck.wrong)
            .sum::<u64>();
        println!(
            "\n{} of all nodes at once\n\n{}",
            strike.name(),
            table::markdown(&rows)
        );
    }
    ensure!(
        wrong == 0,
        "{wrong} samples were returned that nobody sent, or with other values"
    );
    Ok(())
}

/// All servers under the same load at the same time, so that the machine's mood is the same for all.
fn side_by_side(args: &Args, strike: Strike, strikes: usize) -> Result<Vec<Row>> {
    let options = Options {
        strike,
        strikes,
        load: LoadOptions {
            samples_per_second: args.rate,
            writers: args.writers,
            series: args.series,
        },
        loaded_s: args.shortest..=args.longest,
        medium: if args.in_memory {
            Medium::Memory
        } else {
            Medium::Disk
        },
        seed: args.seed,
    };
    thread::scope(|scope| {
        let running: Vec<_> = Subject::ALL
            .into_iter()
            .map(|subject| {
                let options = &options;
                (
                    subject,
                    scope.spawn(move || peers::run(subject, options, |line| eprintln!("{line}"))),
                )
            })
            .collect();
        let row = |(subject, thread): (Subject, thread::ScopedJoinHandle<'_, Result<Vec<_>>>)| {
            let struck = thread.join().map_err(|_| anyhow!("a thread panicked"))?;
            Ok(Row {
                subject,
                version: subject.version()?,
                struck: struck.context(subject.name())?,
            })
        };
        running.into_iter().map(row).collect()
    })
}
