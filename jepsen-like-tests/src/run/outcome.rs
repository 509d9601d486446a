//! What came out of a run.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::RunOptions;
use crate::checker::Verdict;
use crate::failover::{Times, write_failovers};
use crate::history::{Action, FaultKind, Operation};
use crate::nemesis::Deeds;
use crate::report_html::{CheckerResult, Coverage, Outcome, RunSummary};

/// Everything that a run says.
#[derive(Debug, Clone, Serialize)]
pub struct RunResult {
    /// Repeats it.
    pub seed: u64,
    /// When it was judged, for people.
    pub began: String,
    /// Name of the mix.
    pub mix: String,
    /// Faults by kind, begun and undone.
    pub fired: BTreeMap<FaultKind, u64>,
    /// Samples that had to be there.
    pub acked: u64,
    /// Samples of unknown outcome that are there.
    pub unknown_stored: u64,
    /// Samples of unknown outcome that are not.
    pub unknown_absent: u64,
    /// Seconds under load.
    pub loaded_s: f64,
    /// Broken promises, by the name of the rule that saw them.
    pub violations: BTreeMap<String, u64>,
    /// The first of them: the rule and what it saw.
    pub shown: Vec<(String, String)>,
    /// What kept the run from its end: a fault that could not be injected or undone, a cluster that did not heal.
    pub troubles: Vec<String>,
    /// From a killed leader's end to the first acknowledgement of each shard that it led, in milliseconds.
    pub failover_ms: Vec<f64>,
    /// Such shards without an acknowledgement.
    pub failover_unfinished: usize,
}

impl RunResult {
    pub(super) fn new(options: &RunOptions, deeds: &Deeds) -> RunResult {
        RunResult {
            seed: options.seed,
            mix: options.mix.name.to_owned(),
            fired: deeds.fired.clone(),
            began: jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string(),
            acked: 0,
            unknown_stored: 0,
            unknown_absent: 0,
            loaded_s: 0.0,
            violations: BTreeMap::new(),
            shown: Vec::new(),
            troubles: deeds.troubles.clone(),
            failover_ms: Vec::new(),
            failover_unfinished: 0,
        }
    }

    /// Whether it got to its end and nothing was wrong.
    pub fn is_good(&self) -> bool {
        self.violations.is_empty() && self.troubles.is_empty()
    }

    /// How many faults there were.
    pub fn faults(&self) -> u64 {
        self.fired.values().sum()
    }

    /// An error if a kind that was wished for never fired.
    pub fn ensure_not_void(&self, wished: &[FaultKind]) -> Result<()> {
        let missing: Vec<&str> = wished
            .iter()
            .filter(|kind| !self.fired.contains_key(kind))
            .map(|kind| kind.name())
            .collect();
        ensure!(
            missing.is_empty() || !self.is_good(),
            "the run is void, it was too short: {missing:?} never fired"
        );
        Ok(())
    }

    /// An error that tells what is wrong, if anything is.
    pub fn into_result(self) -> Result<RunResult> {
        ensure!(self.is_good(), "{self}\n{:#?}\n{:#?}", self.troubles, self.shown);
        Ok(self)
    }

    pub(super) fn add_reading(&mut self, when: &str, reading: Result<Verdict>) {
        let verdict = match reading {
            Ok(verdict) => verdict,
            // It says nothing about what is stored.
            Err(error) => return self.troubles.push(format!("{when}, can't be judged: {error:#}")),
        };
        self.acked = self.acked.max(verdict.acked);
        self.unknown_stored = verdict.unknown_stored;
        self.unknown_absent = verdict.unknown_absent;
        for (checker, count) in &verdict.by_checker {
            let of_this = verdict
                .shown
                .iter()
                .filter(|violation| violation.checker() == *checker);
            let shown: Vec<String> = of_this
                .take(3)
                .map(|violation| format!("{violation:?}"))
                .collect();
            // A later reading judges the same history again, and more.
            self.violations.remove(*checker);
            self.blame(checker, *count, format!("{when}: {}", shown.join(" ")));
        }
    }

    fn blame(&mut self, checker: &str, count: u64, what: String) {
        *self.violations.entry(checker.to_owned()).or_default() += count;
        self.shown.push((checker.to_owned(), what));
    }

    /// Adds what the history itself says.
    pub(super) fn measure(&mut self, history: &[Operation]) {
        // The checkers count crashes too, if it came to that.
        let judged = self.violations.contains_key("crashed");
        for operation in history.iter().filter(|_| !judged) {
            if let Action::Crash { node, detail } = &operation.action {
                self.blame("crashed", 1, format!("node {node}: {detail}"));
            }
        }
        let times: Times = write_failovers(history);
        self.failover_unfinished = times.unfinished;
        self.failover_ms = times.sorted_ms().to_vec();
    }
}

impl RunResult {
    /// What the run's page says.
    pub(super) fn summary(&self, options: &RunOptions) -> RunSummary {
        let outcome = match (self.is_good(), self.ensure_not_void(options.mix.kinds)) {
            (true, Ok(())) => Outcome::Passed,
            (true, Err(void)) => Outcome::Void(void.to_string()),
            (false, _) if self.violations.is_empty() => Outcome::Broken(self.troubles.join("; ")),
            (false, _) => Outcome::Failed,
        };
        let coverage = |kind: &FaultKind| Coverage {
            kind: *kind,
            wished: 1,
            fired: self.fired.get(kind).copied().unwrap_or_default(),
        };
        let (network, medium) = (options.mix.wire, options.medium);
        RunSummary {
            name: self.mix.clone(),
            began: self.began.clone(),
            duration_ms: (self.loaded_s * 1e3) as u64,
            seed: self.seed,
            command: format!(
                "make jepsen ARGS=\"--seed {} --mixes {} --minutes {}\"",
                self.seed,
                self.mix,
                options.duration.as_secs().div_ceil(60) + 1
            ),
            facts: vec![
                (
                    "nodes".to_owned(),
                    "3, each in a network namespace with a disk of its own".to_owned(),
                ),
                ("network".to_owned(), format!("{network:?}")),
                ("disks".to_owned(), format!("{medium:?}")),
                ("load".to_owned(), format!("{} samples/s", options.rate)),
            ],
            outcome,
            acked: self.acked,
            unknown_stored: self.unknown_stored,
            unknown_absent: self.unknown_absent,
            checkers: CheckerResult::all(&self.violations, &self.shown),
            coverage: options.mix.kinds.iter().map(coverage).collect(),
            failovers_ms: self.failover_ms.clone(),
            failovers_unfinished: self.failover_unfinished as u64,
            kept: vec![("history".to_owned(), options.out_dir.join(super::HISTORY))],
        }
    }
}

impl fmt::Display for RunResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fired: Vec<String> = self
            .fired
            .iter()
            .map(|(kind, count)| format!("{count} {}", kind.name()))
            .collect();
        write!(
            f,
            "mix {} seed {}: {} acknowledged samples in {:.0} s, {} faults ({}); ",
            self.mix,
            self.seed,
            self.acked,
            self.loaded_s,
            self.faults(),
            fired.join(", ")
        )?;
        match (self.violations.is_empty(), self.troubles.is_empty()) {
            (true, true) => write!(f, "no violation"),
            (false, _) => write!(f, "VIOLATIONS {:?}", self.violations),
            (true, false) => write!(f, "NOT FINISHED: {}", self.troubles.join("; ")),
        }
    }
}
