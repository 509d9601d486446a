//! The long tier: mixes of faults in turn, for as long as asked, with figures that add up.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use quorate_jepsen_like_tests::bed::{Bed, Medium};
use quorate_jepsen_like_tests::history::FaultKind;
use quorate_jepsen_like_tests::nemesis::mixes::{self, Mix, ROTATION};
use quorate_jepsen_like_tests::run::{CRASH_FILE, RunOptions, Totals, run};
use quorate_jepsen_like_tests::{process, turn};

/// Of each mix's share, what healing, reading back and judging take.
const AFTERMATH: Duration = Duration::from_secs(60);
/// Shortest time for faults: every kind has its turn in any case.
const MIN_FAULTS: Duration = Duration::from_secs(45);

/// Torments clusters of real processes and says whether an acknowledged sample was lost.
#[derive(Debug, Parser)]
struct Args {
    /// For how long in all.
    #[arg(long, default_value_t = 90)]
    minutes: u64,
    /// Everything random comes from it. Random if left out; printed in any case.
    #[arg(long)]
    seed: Option<u64>,
    /// `all`, or names separated by commas.
    #[arg(long, default_value = "all")]
    mixes: String,
    /// What the nodes' disks are made of.
    #[arg(long, value_enum, default_value_t = Where::Disk)]
    medium: Where,
    /// Load in samples per second.
    #[arg(long, default_value_t = 20_000)]
    rate: u64,
    /// Minutes of one run; a mix has several runs if its share is longer.
    #[arg(long, default_value_t = 8)]
    run_minutes: u64,
    /// The binary under test. Left out: `QUORATE_BIN`, or the one beside this program.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where results, reports, and whatever failing runs leave are put.
    #[arg(long, default_value = "jepsen-runs")]
    out: PathBuf,
    /// A line about these runs is appended to this file.
    #[arg(long)]
    log: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Where {
    /// Images in the temporary directory.
    Disk,
    /// Images in shared memory: syncs take no time.
    Memory,
}

fn main() -> ExitCode {
    match torment(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("jepsen: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs it all. False if something was wrong.
fn torment(args: &Args) -> Result<bool> {
    if let Some(missing) = Bed::missing() {
        bail!("this machine can't: {missing}");
    }
    let binary = args.binary.clone().map_or_else(process::quorate_binary, Ok)?;
    let seed = args.seed.unwrap_or_else(rand::random);
    let mixes = chosen(&args.mixes)?;
    let total = Duration::from_secs(60 * args.minutes);
    let one = Duration::from_secs(60 * args.run_minutes).min(total / mixes.len() as u32);
    let started = Instant::now();
    println!(
        "jepsen: seed {seed}, {} mixes, {} minutes",
        mixes.len(),
        args.minutes
    );

    let mut totals = Totals::default();
    for (number, mix) in (0u64..).zip(mixes.iter().cycle()) {
        if number >= mixes.len() as u64 && started.elapsed() + one / 2 >= total {
            break;
        }
        let out_dir = std::path::absolute(&args.out)?.join(format!("{seed}-{number:03}-{}", mix.name));
        let crashes = mix.kinds.contains(&FaultKind::CrashPoint);
        let options = RunOptions {
            seed: seed.wrapping_add(number),
            duration: one.saturating_sub(AFTERMATH).max(MIN_FAULTS),
            mix: *mix,
            medium: match args.medium {
                Where::Disk => Medium::Disk,
                Where::Memory => Medium::Memory,
            },
            rate: args.rate,
            // Only that one has places to crash at.
            binary: if crashes {
                binary.with_file_name("quorate-mutant")
            } else {
                binary.clone()
            },
            environment: match crashes {
                true => vec![(
                    CRASH_FILE.to_owned(),
                    out_dir.join("crash-at").display().to_string(),
                )],
                false => Vec::new(),
            },
            out_dir,
        };
        one_run(&options, &mut totals);
    }
    let minutes = started.elapsed().as_secs() / 60;
    println!("\n{totals}");
    if let Some(log) = &args.log {
        append(log, &line(args, seed, minutes, &totals))?;
    }
    Ok(totals.is_good())
}

fn one_run(options: &RunOptions, totals: &mut Totals) {
    let result = turn::take().and_then(|_turn| run(options));
    match result {
        Ok(result) => {
            println!("{result}");
            if !result.is_good() {
                println!("  kept in {}:", options.out_dir.display());
                result.troubles.iter().for_each(|what| println!("  {what}"));
                result
                    .shown
                    .iter()
                    .for_each(|(checker, what)| println!("  {checker}: {what}"));
            }
            totals.add(&result);
        }
        Err(error) => {
            println!("mix {} seed {}: VOID: {error:#}", options.mix.name, options.seed);
            totals.void += 1;
        }
    }
}

fn chosen(names: &str) -> Result<Vec<Mix>> {
    if names == "all" {
        return Ok(ROTATION.to_vec());
    }
    let known = || ROTATION.map(|mix| mix.name).join(", ");
    let find =
        |name: &str| mixes::by_name(name).with_context(|| format!("no mix {name:?}; there are {}", known()));
    let mixes: Vec<Mix> = names.split(',').map(find).collect::<Result<_>>()?;
    ensure!(!mixes.is_empty(), "no mix");
    Ok(mixes)
}

/// A row of the table of runs.
fn line(args: &Args, seed: u64, minutes: u64, totals: &Totals) -> String {
    let mut row = String::new();
    let commit = Command::new("git")
        .args(["rev-parse", "--short", "HEAD"])
        .output();
    let commit = commit.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    let _infallible = write!(
        row,
        "| {} | {} | `--seed {seed} --minutes {} --mixes {} --medium {}` | {minutes} | {} |",
        jiff::Zoned::now().date(),
        commit.unwrap_or_else(|_| "?".to_owned()),
        args.minutes,
        args.mixes,
        if args.medium == Where::Disk {
            "disk"
        } else {
            "memory"
        },
        totals.row(),
    );
    row
}

fn append(log: &Path, line: &str) -> Result<()> {
    let mut file = std::fs::File::options()
        .append(true)
        .open(log)
        .with_context(|| format!("can't open {}", log.display()))?;
    Ok(writeln!(file, "{line}")?)
}
