//! What came out of a judgement.

use std::collections::BTreeMap;
use std::fmt;

use super::Violation;

/// Violations of each rule that are kept word for word; the others are counted.
const MAX_SHOWN: usize = 20;

/// What came out.
#[derive(Debug, Default, Clone)]
pub struct Verdict {
    /// Samples that had to be there.
    pub acked: u64,
    /// Samples of unknown outcome that are there.
    pub unknown_stored: u64,
    /// Samples of unknown outcome that are not.
    pub unknown_absent: u64,
    /// How many acknowledged samples are lost.
    pub lost: u64,
    /// How many samples are invented.
    pub invented: u64,
    /// All violations.
    pub violations: u64,
    /// Violations by the name of the rule.
    pub by_checker: BTreeMap<&'static str, u64>,
    /// The first of each rule.
    pub shown: Vec<Violation>,
}

impl Verdict {
    /// Adds a violation.
    pub fn blame(&mut self, violation: Violation) {
        self.violations += 1;
        match violation {
            Violation::Lost(_) => self.lost += 1,
            Violation::Invented(_) | Violation::UnknownSeries(_) => self.invented += 1,
            _ => {}
        }
        let of_rule = self.by_checker.entry(violation.checker()).or_default();
        *of_rule += 1;
        if *of_rule <= MAX_SHOWN as u64 {
            self.shown.push(violation);
        }
    }

    /// Adds violations that another rule found.
    pub fn blame_all(&mut self, violations: impl IntoIterator<Item = Violation>) {
        violations.into_iter().for_each(|violation| self.blame(violation));
    }

    /// Takes over what another judgement of the same found wrong, rule by rule where it is worse.
    pub fn merge_worst(&mut self, other: Verdict) {
        for (checker, count) in other.by_checker {
            let own = self.by_checker.entry(checker).or_default();
            if *own >= count {
                continue;
            }
            *own = count;
            self.shown.retain(|violation| violation.checker() != checker);
            let worse = other
                .shown
                .iter()
                .filter(|violation| violation.checker() == checker);
            self.shown.extend(worse.cloned());
        }
        self.violations = self.by_checker.values().sum();
        self.lost = self.lost.max(other.lost);
        self.invented = self.invented.max(other.invented);
    }

    /// Whether the run proves nothing.
    pub fn is_void(&self) -> bool {
        self.by_checker.contains_key("void")
    }

    /// An error that lists the violations, if there are any.
    pub fn into_result(self) -> anyhow::Result<Verdict> {
        anyhow::ensure!(self.violations == 0, "{self}: {:#?}", self.shown);
        Ok(self)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} acknowledged samples, {} lost, {} invented, {} violations in all; of those with an unknown outcome {} are stored and {} not",
            self.acked, self.lost, self.invented, self.violations, self.unknown_stored, self.unknown_absent
        )?;
        for (at, (checker, count)) in self.by_checker.iter().enumerate() {
            let start = if at == 0 { "; broken: " } else { ", " };
            write!(f, "{start}{checker} {count}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_some_violations_are_shown_and_all_are_counted() {
        let mut verdict = Verdict::default();
        for _ in 0..300 {
            verdict.blame(Violation::UnknownSeries("x".into()));
        }
        verdict.blame(Violation::Idle("nothing"));
        assert_eq!((verdict.invented, verdict.shown.len()), (300, MAX_SHOWN + 1));
        assert!(verdict.is_void());
        assert!(
            verdict
                .to_string()
                .ends_with("broken: unknown_series 300, void 1")
        );
    }
}
