//! What a run says of itself on its page. Plain data, filled by whoever ran it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::history::FaultKind;

/// A finished run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// The mix of faults, or whatever tells this run from others.
    pub name: String,
    /// When it began, for people.
    pub began: String,
    /// From the first write to the last, in milliseconds.
    pub duration_ms: u64,
    /// Everything random follows from it.
    pub seed: u64,
    /// The command that repeats the run.
    pub command: String,
    /// The cluster, one fact a row: nodes, network, medium, version, settings that differ from the default.
    pub facts: Vec<(String, String)>,
    /// What came out.
    pub outcome: Outcome,
    /// Samples that had to be there in the end.
    pub acked: u64,
    /// Samples with an unknown outcome that are there.
    pub unknown_stored: u64,
    /// Samples with an unknown outcome that are not.
    pub unknown_absent: u64,
    /// What each checker found.
    pub checkers: Vec<CheckerResult>,
    /// Which faults were wished for, and which came.
    pub coverage: Vec<Coverage>,
    /// For each shard that lost its leader: until it acknowledged again, in milliseconds, in any order.
    pub failovers_ms: Vec<f64>,
    /// Shards that lost their leader and never acknowledged again.
    pub failovers_unfinished: u64,
    /// What was kept: what it is, and where.
    pub kept: Vec<(String, PathBuf)>,
}

/// What came out of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every promise was kept, and every fault wished for came.
    Passed,
    /// A promise was broken.
    Failed,
    /// The run proves nothing, and why.
    Void(String),
    /// The harness could not finish its work, and why.
    Broken(String),
    /// Nobody said.
    #[default]
    Unknown,
}

/// The verdict of one checker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckerResult {
    /// Its name, as in `Violation::checker()`.
    pub name: String,
    /// How often what it watches over was broken.
    pub violations: u64,
    /// The first few times, in words.
    pub examples: Vec<String>,
}

impl CheckerResult {
    /// Results of every checker known and of every one that found something. `shown` is a checker's name with what it
    /// saw, as often as there is something to show.
    pub fn all(violations: &BTreeMap<String, u64>, shown: &[(String, String)]) -> Vec<CheckerResult> {
        let known: BTreeSet<&str> = CHECKERS.iter().map(|(name, _)| *name).collect();
        let found = violations.keys().map(String::as_str);
        let others = found.filter(|name| !known.contains(name));
        let names = CHECKERS.iter().map(|(name, _)| *name).chain(others);
        let result = |name: &str| CheckerResult {
            name: name.to_owned(),
            violations: violations.get(name).copied().unwrap_or_default(),
            examples: shown
                .iter()
                .filter(|(rule, _)| rule == name)
                .map(|(_, what)| what.clone())
                .collect(),
        };
        names.map(result).collect()
    }
}

/// How often a kind of fault was wished for and came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// The kind.
    pub kind: FaultKind,
    /// How often the plan had it.
    pub wished: u64,
    /// How often it was injected.
    pub fired: u64,
}

/// Every checker with what it watches over.
pub const CHECKERS: [(&str, &str); 16] = [
    ("lost", "Every acknowledged sample is returned by every node."),
    (
        "invented",
        "No sample is returned that nobody sent, or that was refused.",
    ),
    ("altered", "Every sample has the bits that were sent."),
    (
        "repeated",
        "A series has each timestamp once, however often it was sent.",
    ),
    ("unknown_series", "No series is listed that nobody wrote."),
    ("two_terms", "At each index of a shard, one leader committed."),
    (
        "stale_linearizable",
        "A linearizable read sees all that was acknowledged before it began.",
    ),
    (
        "stale_bounded",
        "A bounded read sees all that is older than its bound.",
    ),
    (
        "not_monotonic",
        "Within a session, no read goes back behind an earlier one.",
    ),
    (
        "prefix",
        "A read at an applied index holds every entry up to it and none after it.",
    ),
    (
        "promql",
        "A PromQL query answers what the samples stored at its time give.",
    ),
    (
        "diverged",
        "Replicas of a shard at one index hold the same, bit for bit.",
    ),
    ("owner", "In each ring epoch a series has one shard."),
    (
        "refused_retryable",
        "Nothing is refused for good that could be stored later.",
    ),
    ("crashed", "No node ends unless it is told or made to."),
    ("void", "Every fault wished for came, and the load ran under it."),
];

/// What a checker watches over.
pub fn watches(checker: &str) -> &'static str {
    let known = CHECKERS.iter().find(|(name, _)| *name == checker);
    known.map_or("", |(_, watches)| watches)
}

impl RunSummary {
    /// Violations of all checkers.
    pub fn violations(&self) -> u64 {
        self.checkers.iter().map(|checker| checker.violations).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checker_that_this_page_does_not_know_is_not_passed_over() {
        let violations = BTreeMap::from([("lost".to_owned(), 2), ("brand_new".to_owned(), 3)]);
        let shown = ["a", "b"].map(|what| ("brand_new".to_owned(), what.to_owned()));
        let results = CheckerResult::all(&violations, &shown);
        assert_eq!(results.len(), CHECKERS.len() + 1);
        assert_eq!(results.iter().map(|result| result.violations).sum::<u64>(), 5);
        let new = results.last().unwrap();
        assert_eq!((new.name.as_str(), new.examples.len()), ("brand_new", 2));
    }
}
