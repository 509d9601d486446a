//! Three of the planted bugs, others every day, each to be caught by the checker that is meant for it. All of them:
//! `make mutants`.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use quorate_jepsen_like_tests::bed::Bed;
use quorate_jepsen_like_tests::mutants::{self, MUTANTS, Mutant};
use quorate_jepsen_like_tests::report::{number_from_env, say, skip};
use quorate_jepsen_like_tests::turn;

/// How many a day.
const CHOSEN: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn three_mutants_are_caught() -> Result<()> {
    let missing = Bed::missing().or_else(|| mutants::program().err().map(|error| error.to_string()));
    if let Some(missing) = missing {
        skip("mutants", missing);
        return Ok(());
    }
    let program = mutants::program()?;
    let _turn = turn::take()?;
    let day = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() / (24 * 3600);
    let seed = number_from_env("QUORATE_TEST_SEED", day);
    for mutant in chosen(seed) {
        let trial = mutants::run(mutant, &program, seed).await?;
        say(format_args!(
            "mutants: {} was caught after {:.1} s: {}",
            mutant.name,
            trial.took.as_secs_f64(),
            trial.findings
        ));
        let missed = trial.missed(mutant);
        ensure!(
            missed.is_none(),
            "{} (QUORATE_TEST_SEED={seed}) should break `{}`: {}; {}",
            mutant.name,
            mutant.expected,
            missed.unwrap_or_default(),
            trial.detail
        );
    }
    Ok(())
}

/// Others for each of some seeds in a row; together they are all.
fn chosen(seed: u64) -> impl Iterator<Item = &'static Mutant> {
    let first = seed as usize % MUTANTS.len() * CHOSEN;
    (first..first + CHOSEN).map(|at| &MUTANTS[at % MUTANTS.len()])
}

#[test]
fn every_mutant_has_its_turn() {
    let mut names: Vec<&str> = (20_000..)
        .take(MUTANTS.len().div_ceil(CHOSEN))
        .flat_map(chosen)
        .map(|mutant| mutant.name)
        .collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), MUTANTS.len());
}
