//! Tests of the tests: each planted bug is run through the scenario that makes it visible, and has to be caught
//! by the checker that is meant for it. The same scenarios without a bug have to raise no alarm.

mod play;
mod stage;
mod table;
mod verdict;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

pub use table::{MUTANTS, Mutant, SCENARIOS, Scenario, find};
pub use verdict::Findings;

/// How long a mutant may go on until it is caught, starting and judging a cluster included.
pub const LIMIT: Duration = Duration::from_secs(60);

/// What became of one mutant in one run.
#[derive(Debug)]
pub struct Trial {
    /// Broken rules, and how often.
    pub findings: Findings,
    /// From its start to its verdict.
    pub took: Duration,
    /// What it looked like, for people.
    pub detail: String,
}

impl Trial {
    /// Why the mutant does not count as caught; `None` if it does.
    pub fn missed(&self, mutant: &Mutant) -> Option<String> {
        let found: Vec<&str> = self.findings.checkers().collect();
        if found.is_empty() {
            return Some("nothing noticed it".into());
        }
        if !found.contains(&mutant.expected) {
            return Some(format!("caught by {} instead", found.join(", ")));
        }
        (self.took > LIMIT).then(|| format!("caught only after {:.0?}", self.took))
    }
}

/// `quorate-mutant`, beside the running program. Building it is for `make`: it has to be the right call of Cargo, or
/// RocksDB is built twice.
pub fn program() -> Result<PathBuf> {
    const NAME: &str = "quorate-mutant";
    let own = std::env::current_exe()?;
    let directories = own.ancestors().skip(1).take(2);
    let found = directories
        .map(|directory| directory.join(NAME))
        .find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "no {NAME} beside {}: `make mutants` and `make test` build it",
            own.display()
        )
    })
}

/// Runs a mutant once.
pub async fn run(mutant: &Mutant, program: &Path, seed: u64) -> Result<Trial> {
    play(mutant.scenario, Some(mutant.name), program, seed).await
}

/// Plays a scenario once, with a mutant or without.
pub async fn play(scenario: Scenario, mutant: Option<&str>, program: &Path, seed: u64) -> Result<Trial> {
    let began = Instant::now();
    let stage = stage::Stage::set(scenario, mutant, program, seed).await?;
    let judged = match play::play(&stage).await {
        Ok(extra) => verdict::judge(&stage, extra).await,
        Err(error) => Err(error),
    };
    let (findings, detail) = judged.map_err(|error| error.context(stage.bed.logs()))?;
    Ok(Trial {
        findings,
        took: began.elapsed(),
        detail,
    })
}
