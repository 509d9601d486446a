//! `make mutants`: runs every planted bug and prints which checker caught it and after how long. Ends with 1 when
//! one is missed, is caught by another checker than the one meant for it, or when a clean cluster raises an alarm.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use quorate_jepsen_like_tests::mutants::{self, MUTANTS, Mutant, SCENARIOS, Trial};

const USAGE: &str = "mutants [--only NAME]... [--repeat N] [--clean N] [--seed N] [--list]
  --only NAME   only this mutant; with --clean, only the scenario of this mutant
  --repeat N    run each N times (1)
  --clean N     instead, play every scenario without a mutant, N times
  --seed N      what moments and damage follow from (1)
  --list        print the table and end";

struct Arguments {
    only: Vec<&'static Mutant>,
    repeat: u64,
    clean: u64,
    seed: u64,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let Some(arguments) = arguments()? else {
        return Ok(ExitCode::SUCCESS);
    };
    if let Some(missing) = quorate_jepsen_like_tests::bed::Bed::missing() {
        bail!("mutants need a bed, and this machine can't make one: {missing}");
    }
    let program = mutants::program()?;
    let wrong = match arguments.clean {
        0 => run_mutants(&arguments, &program).await,
        _ => run_clean(&arguments, &program).await,
    };
    println!(
        "{}",
        if wrong == 0 {
            "all as it should be".into()
        } else {
            format!("{wrong} WRONG")
        }
    );
    Ok(ExitCode::from(u8::from(wrong > 0)))
}

fn arguments() -> Result<Option<Arguments>> {
    let mut parsed = Arguments {
        only: Vec::new(),
        repeat: 1,
        clean: 0,
        seed: 1,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .with_context(|| format!("{word} needs a value\n{USAGE}"))
        };
        match word.as_str() {
            "--only" => {
                let name = value()?;
                parsed
                    .only
                    .push(mutants::find(&name).with_context(|| format!("no mutant {name}"))?);
            }
            "--repeat" => parsed.repeat = value()?.parse()?,
            "--clean" => parsed.clean = value()?.parse()?,
            "--seed" => parsed.seed = value()?.parse()?,
            "--list" => {
                for mutant in &MUTANTS {
                    println!("{:28} {:22} {:?}", mutant.name, mutant.expected, mutant.scenario);
                }
                return Ok(None);
            }
            "--help" => {
                println!("{USAGE}");
                return Ok(None);
            }
            other => bail!("{other}?\n{USAGE}"),
        }
    }
    ensure!(parsed.repeat > 0, "--repeat 0 would prove nothing");
    if parsed.only.is_empty() {
        parsed.only = MUTANTS.iter().collect();
    }
    Ok(Some(parsed))
}

/// Returns how many runs were wrong.
async fn run_mutants(arguments: &Arguments, program: &Path) -> u64 {
    let mut wrong = 0;
    for mutant in &arguments.only {
        for round in 0..arguments.repeat {
            let trial = mutants::run(mutant, program, arguments.seed + round).await;
            let missed = match &trial {
                Ok(trial) => trial.missed(mutant),
                Err(error) => Some(format!("no verdict: {error:#}")),
            };
            wrong += u64::from(missed.is_some());
            print(
                mutant.name,
                &trial,
                missed.as_deref().map_or("caught", |_| "MISSED"),
                missed.as_deref(),
            );
        }
    }
    wrong
}

/// Returns how many runs were wrong.
async fn run_clean(arguments: &Arguments, program: &Path) -> u64 {
    let mut wrong = 0;
    let wanted = |scenario| arguments.only.iter().any(|mutant| mutant.scenario == scenario);
    for round in 0..arguments.clean {
        let seed = arguments.seed + round;
        for scenario in SCENARIOS {
            if !wanted(scenario) {
                continue;
            }
            let trial = mutants::play(scenario, None, program, seed).await;
            wrong += judge_clean(&format!("{scenario:?}"), &trial);
        }
    }
    wrong
}

fn judge_clean(name: &str, trial: &Result<Trial>) -> u64 {
    let alarm = match trial {
        Ok(trial) if trial.findings.is_empty() => None,
        Ok(trial) => Some(format!("false alarm: {}", trial.detail)),
        Err(error) => Some(format!("no verdict: {error:#}")),
    };
    print(
        name,
        trial,
        alarm.as_deref().map_or("quiet", |_| "ALARM"),
        alarm.as_deref(),
    );
    u64::from(alarm.is_some())
}

fn print(name: &str, trial: &Result<Trial>, word: &str, why: Option<&str>) {
    match trial {
        Ok(trial) => println!(
            "{name:28} {word:7} {:5.1} s  {}{}",
            trial.took.as_secs_f64(),
            trial.findings,
            why.map(|why| format!(" ({why}: {})", trial.detail))
                .unwrap_or_default()
        ),
        Err(_) => println!("{name:28} {word:7}          {}", why.unwrap_or_default()),
    }
}
