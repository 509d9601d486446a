//! What many runs say together.

use std::collections::BTreeMap;
use std::fmt;

use super::outcome::RunResult;
use crate::history::FaultKind;
use crate::report::quantile;

/// Sums over runs.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Runs that got to their end.
    pub runs: u64,
    /// Runs that say nothing.
    pub void: u64,
    /// Samples that had to be there.
    pub acked: u64,
    /// Faults by kind.
    pub fired: BTreeMap<FaultKind, u64>,
    /// Broken promises, by the name of the rule that saw them.
    pub violations: BTreeMap<String, u64>,
    /// Runs that did not get to their end.
    pub unfinished: u64,
    /// First acknowledgements after a leader's SIGKILL in runs with no other faults, in milliseconds.
    pub clean_failover_ms: Vec<f64>,
    /// The same in runs in which other faults overlapped.
    pub failover_ms: Vec<f64>,
}

impl Totals {
    /// Adds a run.
    pub fn add(&mut self, result: &RunResult) {
        self.runs += 1;
        self.unfinished += u64::from(!result.troubles.is_empty());
        self.acked += result.acked;
        for (kind, count) in &result.fired {
            *self.fired.entry(*kind).or_default() += count;
        }
        for (checker, count) in &result.violations {
            *self.violations.entry(checker.clone()).or_default() += count;
        }
        let alone = result.fired.keys().all(|kind| *kind == FaultKind::KillLeader);
        let times = if alone {
            &mut self.clean_failover_ms
        } else {
            &mut self.failover_ms
        };
        times.extend(&result.failover_ms);
        times.extend(std::iter::repeat_n(f64::INFINITY, result.failover_unfinished));
        times.sort_by(f64::total_cmp);
    }

    /// Whether nothing was wrong.
    pub fn is_good(&self) -> bool {
        self.violations.is_empty() && self.void == 0 && self.unfinished == 0 && self.runs > 0
    }

    fn count(&self, wanted: impl Fn(FaultKind) -> bool) -> u64 {
        self.fired
            .iter()
            .filter(|(kind, _)| wanted(**kind))
            .map(|(_, count)| count)
            .sum()
    }

    /// SIGKILLs, one for each fault however many nodes it hit.
    pub fn kills(&self) -> u64 {
        use FaultKind::{KillAll, KillLeader, KillRandom};
        self.count(|kind| matches!(kind, KillLeader | KillRandom | KillAll))
    }

    /// Power cuts of all nodes at once.
    pub fn power_cuts(&self) -> u64 {
        self.count(|kind| kind == FaultKind::PowerCutAll)
    }

    /// Partitions of every shape.
    pub fn partitions(&self) -> u64 {
        self.count(|kind| kind.name().starts_with("partition_"))
    }

    /// All faults.
    pub fn faults(&self) -> u64 {
        self.fired.values().sum()
    }

    /// The columns of the table of runs, from the samples on.
    pub fn row(&self) -> String {
        let (clean, all) = (figures(&self.clean_failover_ms), figures(&self.failover_ms));
        let violations = match (self.violations.is_empty(), self.void + self.unfinished) {
            (true, 0) => "0".to_owned(),
            (true, odd) => format!("0; {odd} runs void or not finished"),
            (false, _) => format!("{:?}", self.violations),
        };
        format!(
            "{} | {} | {} | {} | {} | {clean} | {all} | {violations} | {}",
            self.acked,
            self.faults(),
            self.kills(),
            self.power_cuts(),
            self.partitions(),
            bound(self.faults())
        )
    }
}

/// What no loss in so many independent trials says about the rate of losses, with 95 % confidence.
fn bound(trials: u64) -> String {
    match trials {
        0 => "nothing".to_owned(),
        trials => format!("< {:.2} %", 300.0 / trials as f64),
    }
}

fn figures(sorted_ms: &[f64]) -> String {
    let show = |share| quantile(sorted_ms, share).map_or(0.0, |ms| ms / 1_000.0);
    match sorted_ms.len() {
        0 => "–".to_owned(),
        count => format!(
            "{:.2} / {:.2} / {:.2} s, n={count}",
            show(0.5),
            show(0.99),
            show(1.0)
        ),
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} runs, {} void, {} not finished; {} acknowledged samples; {} faults: {} kills, {} power cuts of all nodes, {} partitions",
            self.runs,
            self.void,
            self.unfinished,
            self.acked,
            self.faults(),
            self.kills(),
            self.power_cuts(),
            self.partitions()
        )?;
        for (kind, count) in &self.fired {
            writeln!(f, "  {count:>6} {}", kind.name())?;
        }
        writeln!(
            f,
            "first acknowledgement after a leader's death, p50 / p99 / max: alone {}; among other faults {}",
            figures(&self.clean_failover_ms),
            figures(&self.failover_ms)
        )?;
        match self.violations.is_empty() {
            true => write!(
                f,
                "no violation; with 95 % confidence {} of such faults lose a sample (3/n)",
                bound(self.faults())
            ),
            false => write!(f, "VIOLATIONS {:?}", self.violations),
        }
    }
}
