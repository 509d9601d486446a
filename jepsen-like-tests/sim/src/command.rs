//! The program `sim`.

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use serde_json::json;

use crate::observer::Violation;
use crate::plan::{Plan, Selection};
use crate::run::{RunOptions, run};
use crate::seeds::run_seeds;
use crate::series::Catalogue;
use crate::shrink::{arguments, shrink};

/// How long shrinking may take.
const SHRINK_LIMIT: Duration = Duration::from_secs(60);

/// Simulates the replicated core under faults, seed by seed. Ends with 1 at the first broken rule, and says how
/// to see it again.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Arguments {
    /// One seed.
    #[arg(long, conflicts_with_all = ["seeds", "seconds"])]
    seed: Option<u64>,
    /// Seeds from the first to below the second: 0..1000.
    #[arg(long, value_parser = range)]
    seeds: Option<Range<u64>>,
    /// Run seeds for so long.
    #[arg(long)]
    seconds: Option<f64>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Write the trace of the seed to this file.
    #[arg(long, requires = "seed")]
    trace: Option<PathBuf>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Only these faults of the seed's plan, by number, or `none`.
    #[arg(long, requires = "seed", value_parser = numbers)]
    faults: Option<Numbers>,
    /// Only these clients of the seed's plan, by number, or `none`.
    #[arg(long, requires = "seed", value_parser = numbers)]
    clients: Option<Numbers>,
    /// Faults and clients go on for so many milliseconds.
    #[arg(long, requires = "seed")]
    for_ms: Option<u64>,
    /// Don't make a failing run smaller.
    #[arg(long)]
    no_shrink: bool,
}

/// Numbers separated by commas.
#[derive(Debug, Clone)]
struct Numbers(Vec<usize>);

fn numbers(text: &str) -> Result<Numbers, String> {
    if text == "none" {
        return Ok(Numbers(Vec::new()));
    }
    let parsed: Result<Vec<usize>, _> = text.split(',').map(str::parse).collect();
    parsed.map(Numbers).map_err(|error| format!("{text:?}: {error}"))
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let parse = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    let (from, to) = text.split_once("..").ok_or("write it as 0..100")?;
    Ok(parse(from)?..parse(to)?)
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.seed {
        Some(seed) => one(&arguments, seed),
        None => many(&arguments),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("sim: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn one(arguments: &Arguments, seed: u64) -> anyhow::Result<bool> {
    let started = Instant::now();
    let selection = Selection {
        faults: arguments.faults.clone().map(|numbers| numbers.0),
        clients: arguments.clients.clone().map(|numbers| numbers.0),
        lasts: arguments.for_ms.map(Duration::from_millis),
    };
    let catalogue = Arc::new(Catalogue::new());
    let options = RunOptions {
        keep_trace: arguments.trace.is_some(),
        ..RunOptions::default()
    };
    let outcome = run(Plan::new(seed).select(&selection), &catalogue, options)?;
    if let (Some(path), Some(trace)) = (&arguments.trace, &outcome.trace) {
        std::fs::write(path, trace).with_context(|| format!("writing {}", path.display()))?;
    }
    if !arguments.json {
        println!(
            "seed {seed}: {:.1} simulated s in {:.2} s, {} entries, {} samples acknowledged, {} reads, {:?}, trace {:016x}",
            outcome.simulated.as_secs_f64(),
            started.elapsed().as_secs_f64(),
            outcome.entries,
            outcome.acked.1,
            outcome.reads.0,
            outcome.counts,
            outcome.digest.0,
        );
    } else if outcome.violation.is_none() {
        println!(
            "{}",
            json!({
                "seeds": 1,
                "seconds": started.elapsed().as_secs_f64(),
                "simulated_seconds": outcome.simulated.as_secs_f64(),
                "trace": format!("{:016x}", outcome.digest.0),
                "violation": null,
            })
        );
    }
    match &outcome.violation {
        None => Ok(true),
        Some(violation) => {
            report(arguments, seed, selection, violation, &catalogue, started);
            Ok(false)
        }
    }
}

fn many(arguments: &Arguments) -> anyhow::Result<bool> {
    let started = Instant::now();
    let seeds = arguments.seeds.clone().unwrap_or(0..u64::MAX);
    let mut limit = arguments.seconds.map(Duration::from_secs_f64);
    if arguments.seeds.is_none() && limit.is_none() {
        limit = Some(Duration::from_secs(60));
    }
    let summary = run_seeds(seeds, limit, arguments.threads)?;
    if !arguments.json {
        println!("{summary}");
    } else if summary.failed.is_none() {
        println!(
            "{}",
            json!({
                "seeds": summary.seeds,
                "seconds": summary.took.as_secs_f64(),
                "simulated_seconds": summary.simulated.as_secs_f64(),
                "violation": null,
            })
        );
    }
    match &summary.failed {
        None => Ok(true),
        Some((seed, violation)) => {
            let catalogue = Arc::new(Catalogue::new());
            report(
                arguments,
                *seed,
                Selection::default(),
                violation,
                &catalogue,
                started,
            );
            Ok(false)
        }
    }
}

/// Prints a broken rule, and the smallest run found that breaks it.
fn report(
    arguments: &Arguments,
    seed: u64,
    selection: Selection,
    violation: &Violation,
    catalogue: &Arc<Catalogue>,
    started: Instant,
) {
    let seconds = started.elapsed().as_secs_f64();
    if !arguments.json {
        println!(
            "violation of {} by seed {seed}: {}",
            violation.checker, violation.detail
        );
    }
    let (smallest, detail, runs) = if arguments.no_shrink {
        (selection, String::new(), 0)
    } else {
        let fails = |plan| {
            let broken = run(plan, catalogue, RunOptions::default()).ok()?.violation?;
            (broken.checker == violation.checker).then_some(broken.detail)
        };
        let shrunk = shrink(seed, selection, SHRINK_LIMIT, fails);
        (shrunk.selection, shrunk.detail, shrunk.runs)
    };
    let plan = Plan::new(seed).select(&smallest);
    let again = self::arguments(seed, &smallest);
    if arguments.json {
        let schedule: Vec<String> = plan
            .faults
            .iter()
            .map(|(at, fault)| format!("{at:?} {fault:?}"))
            .collect();
        println!(
            "{}",
            json!({
                "seconds": seconds,
                "violation": {
                    "checker": violation.checker,
                    "detail": violation.detail,
                    "seed": seed,
                    "arguments": again,
                    "schedule": schedule,
                },
            })
        );
        return;
    }
    println!("again: sim {again}");
    if runs > 0 {
        println!(
            "after {runs} runs to shrink it, {} faults and {} clients are left: {detail}",
            plan.faults.len(),
            plan.clients.len()
        );
    }
    for (at, fault) in &plan.faults {
        println!("  {at:?} {fault:?}");
    }
}
