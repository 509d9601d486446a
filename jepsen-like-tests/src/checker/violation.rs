//! Broken promises, and the names under which reports count them.

use crate::history::{FaultKind, Level, Question};
use crate::values::Entry;

/// A broken promise.
#[derive(Debug, Clone, PartialEq)]
pub enum Violation {
    /// An acknowledged sample is gone.
    Lost(Entry),
    /// A sample is there that nobody sent, or that was refused for good.
    Invented(Entry),
    /// A sample has another value than was sent.
    Altered {
        /// What is there.
        found: Entry,
        /// The bits that were sent.
        sent: u64,
    },
    /// A series has a timestamp twice.
    Repeated(Entry),
    /// Attempts of one batch stored more samples than it has.
    StoredTwice {
        /// Whose batch.
        writer: u32,
        /// Which.
        number: u64,
        /// Samples that its attempts say they stored.
        stored: u64,
        /// Samples that it has.
        samples: u64,
    },
    /// A series is there that nobody wrote.
    UnknownSeries(String),
    /// Two leaders committed at one index of a shard.
    TwoTerms {
        /// The shard.
        shard: u32,
        /// The index.
        index: u64,
        /// Both terms.
        terms: (u64, u64),
    },
    /// What was committed later has an earlier place in the log, or an earlier term at a later place.
    LogWentBack {
        /// The shard.
        shard: u32,
        /// Term and index acknowledged before the second was sent, or of the earlier place.
        first: (u64, u64),
        /// Term and index of the second.
        second: (u64, u64),
    },
    /// A read missed a probe that it had to see.
    Stale {
        /// The node that answered.
        node: u64,
        /// The promise.
        level: Level,
        /// Whose probe.
        writer: u32,
        /// The newest batch seen.
        seen: Option<u64>,
        /// The newest batch acknowledged before the read began.
        acked: u64,
    },
    /// A read was served at a log index below what it promised.
    Behind {
        /// The node that answered.
        node: u64,
        /// The promise.
        level: Level,
        /// The shard.
        shard: u32,
        /// The index that the replica had applied.
        applied: u64,
        /// The index that it had to have applied.
        needed: u64,
        /// When the read began, since the history's start.
        began_us: u64,
    },
    /// A read's answer lacks a sample that its level promises.
    Missing {
        /// The node that answered.
        node: u64,
        /// The promise.
        level: Level,
        /// The sample.
        entry: Entry,
        /// What was asked.
        question: Question,
    },
    /// A session went back in time.
    NotMonotonic {
        /// The session.
        session: u64,
        /// The shard.
        shard: u32,
        /// The node whose replica was read.
        node: u64,
        /// What an earlier read saw.
        seen: u64,
        /// What the later read saw.
        then: u64,
    },
    /// A read at an applied index lacks a sample that was committed at or before it, or has one committed after.
    Prefix {
        /// The node that answered.
        node: u64,
        /// The sample.
        entry: Entry,
        /// Whether it is there and must not be; else it is missing.
        present: bool,
        /// What was asked.
        question: Question,
    },
    /// A number that the samples can't give.
    WrongAnswer {
        /// The node that answered.
        node: u64,
        /// The promise.
        level: Level,
        /// What was asked.
        question: Question,
        /// What came back.
        found: String,
        /// What it has to be.
        expected: String,
    },
    /// Replicas that have applied the same differ.
    Diverged {
        /// The shard.
        shard: u32,
        /// For people.
        detail: String,
    },
    /// A series has two owners in one ring epoch.
    Owner {
        /// What was seen.
        detail: String,
    },
    /// A request was refused for good though sending it again would store it.
    RefusedRetryable {
        /// Whose batch.
        writer: u32,
        /// Which.
        number: u64,
        /// What the answer said.
        reason: String,
    },
    /// A fault that the run was about did not happen.
    NeverFired(FaultKind),
    /// Nothing was written, or nothing was read: the run proves nothing.
    Idle(&'static str),
    /// A process ended by itself.
    Crashed {
        /// The node.
        node: u64,
        /// How.
        detail: String,
    },
}

/// Every name that [`Violation::checker`] gives.
pub const CHECKERS: [&str; 16] = [
    "lost",
    "invented",
    "altered",
    "repeated",
    "unknown_series",
    "two_terms",
    "stale_linearizable",
    "stale_bounded",
    "not_monotonic",
    "prefix",
    "promql",
    "diverged",
    "owner",
    "refused_retryable",
    "void",
    "crashed",
];

impl Violation {
    /// The rule that is broken, as reports and tables name it.
    pub fn checker(&self) -> &'static str {
        match self {
            Violation::Lost(_) => "lost",
            Violation::Invented(_) => "invented",
            Violation::Altered { .. } => "altered",
            Violation::Repeated(_) | Violation::StoredTwice { .. } => "repeated",
            Violation::UnknownSeries(_) => "unknown_series",
            Violation::TwoTerms { .. } | Violation::LogWentBack { .. } => "two_terms",
            Violation::Stale { level, .. }
            | Violation::Behind { level, .. }
            | Violation::Missing { level, .. } => match level {
                Level::Linearizable => "stale_linearizable",
                Level::Bounded | Level::Local => "stale_bounded",
            },
            Violation::NotMonotonic { .. } => "not_monotonic",
            Violation::Prefix { .. } => "prefix",
            Violation::WrongAnswer { .. } => "promql",
            Violation::Diverged { .. } => "diverged",
            Violation::Owner { .. } => "owner",
            Violation::RefusedRetryable { .. } => "refused_retryable",
            Violation::NeverFired(_) | Violation::Idle(_) => "void",
            Violation::Crashed { .. } => "crashed",
        }
    }
}
