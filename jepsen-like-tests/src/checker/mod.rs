//! Judgement of a history against what the cluster holds in the end. Every rule is a sort and a merge.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use crate::history::{Action, BOUND_US, Level, Operation, Outcomes, Stage, read_file};
use crate::values::{Batch, Entry, SeriesId};

/// Violations kept word for word; the others are counted.
const MAX_SHOWN: usize = 20;

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// A read missed a write that it had to see.
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
}

impl Violation {
    /// The rule that is broken, as reports and tables name it.
    pub fn checker(&self) -> &'static str {
        match self {
            Violation::Lost(_) => "lost",
            Violation::Invented(_) => "invented",
            Violation::Altered { .. } => "altered",
            Violation::Repeated(_) => "repeated",
            Violation::UnknownSeries(_) => "unknown_series",
            Violation::TwoTerms { .. } => "two_terms",
            Violation::Stale {
                level: Level::Linearizable,
                ..
            } => "stale_linearizable",
            Violation::Stale { .. } => "stale_bounded",
        }
    }
}

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
    /// The first of them.
    pub shown: Vec<Violation>,
}

impl Verdict {
    /// Adds a violation.
    pub fn blame(&mut self, violation: Violation) {
        self.violations += 1;
        *self.by_checker.entry(violation.checker()).or_default() += 1;
        match violation {
            Violation::Lost(_) => self.lost += 1,
            Violation::Invented(_) | Violation::UnknownSeries(_) => self.invented += 1,
            _ => {}
        }
        if self.shown.len() < MAX_SHOWN {
            self.shown.push(violation);
        }
    }

    /// Adds violations that another rule found.
    pub fn blame_all(&mut self, violations: Vec<Violation>) {
        violations.into_iter().for_each(|violation| self.blame(violation));
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
        )
    }
}

/// Judges a history by itself, without a cluster: everything that its own lines can show to be wrong.
pub fn check_history(history: &[Operation]) -> Verdict {
    let mut verdict = Verdict::default();
    verdict.blame_all(check_terms(history));
    verdict.blame_all(check_reads(history));
    verdict
}

/// Judges a file of a recorder by itself.
pub fn check_file(path: &Path) -> anyhow::Result<Verdict> {
    Ok(check_history(&read_file(path)?.operations))
}

/// Samples: acknowledged ⊆ found ⊆ acknowledged ∪ unknown, with the bits that were sent, each (series, time) once.
/// Sorts `found`.
pub fn check_samples(outcomes: &Outcomes, found: &mut [Entry]) -> Verdict {
    let mut expected: Vec<(Entry, bool)> = Vec::new();
    let add = |expected: &mut Vec<(Entry, bool)>, batches: &std::collections::BTreeSet<Batch>, must: bool| {
        expected.extend(
            batches
                .iter()
                .flat_map(|batch| batch.entries())
                .map(|entry| (entry, must)),
        );
    };
    add(&mut expected, &outcomes.acked, true);
    add(&mut expected, &outcomes.unknown, false);
    expected.sort_unstable_by_key(|(entry, _)| key(entry));
    found.sort_unstable();

    let mut verdict = Verdict {
        acked: expected.iter().filter(|(_, must)| *must).count() as u64,
        ..Verdict::default()
    };
    let mut stored = found.chunk_by(|left, right| key(left) == key(right)).peekable();
    for (sent, must) in &expected {
        while let Some(early) =
            stored.next_if(|same| same.first().is_some_and(|first| key(first) < key(sent)))
        {
            early
                .iter()
                .for_each(|entry| verdict.blame(Violation::Invented(*entry)));
        }
        let here = stored.next_if(|same| same.first().is_some_and(|first| key(first) == key(sent)));
        match here {
            None if *must => verdict.blame(Violation::Lost(*sent)),
            None => verdict.unknown_absent += 1,
            Some(same) => {
                verdict.unknown_stored += u64::from(!*must);
                for entry in same.iter().skip(1) {
                    verdict.blame(Violation::Repeated(*entry));
                }
                for entry in same.iter().filter(|entry| entry.bits != sent.bits) {
                    verdict.blame(Violation::Altered {
                        found: *entry,
                        sent: sent.bits,
                    });
                }
            }
        }
    }
    stored
        .flatten()
        .for_each(|entry| verdict.blame(Violation::Invented(*entry)));
    verdict
}

fn key(entry: &Entry) -> (SeriesId, i64) {
    (entry.series, entry.timestamp_ms)
}

/// Receipts: at each index of a shard one leader committed.
pub fn check_terms(history: &[Operation]) -> Vec<Violation> {
    let mut committed: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    let mut violations = Vec::new();
    for operation in history {
        let Action::Write { receipts, .. } = &operation.action else {
            continue;
        };
        for receipt in receipts {
            let (shard, index) = (receipt.shard, receipt.index);
            let first = *committed.entry((shard, index)).or_insert(receipt.term);
            if first != receipt.term {
                violations.push(Violation::TwoTerms {
                    shard,
                    index,
                    terms: (first, receipt.term),
                });
            }
        }
    }
    violations
}

/// Reads: a linearizable one sees every probe acknowledged before it began; a bounded one every probe
/// acknowledged longer ago than its bound.
pub fn check_reads(history: &[Operation]) -> Vec<Violation> {
    // Of each probe: times of acknowledgements with the newest batch number acknowledged by then.
    let mut acked: BTreeMap<u32, Vec<(u64, u64)>> = BTreeMap::new();
    for operation in history {
        let Action::Write { batch, .. } = &operation.action else {
            continue;
        };
        if operation.stage == Stage::Ok && batch.writer >= crate::values::FIRST_PROBE {
            let times = acked.entry(batch.writer).or_default();
            let newest = times
                .last()
                .map_or(batch.number, |(_, newest)| batch.number.max(*newest));
            times.push((operation.time_us, newest));
        }
    }
    let mut violations = Vec::new();
    for operation in history {
        let Action::Query {
            node,
            level,
            began_us,
            newest,
            error: None,
        } = &operation.action
        else {
            continue;
        };
        let promised_us = match level {
            Level::Linearizable => Some(*began_us),
            Level::Bounded => began_us.checked_sub(BOUND_US),
            Level::Local => None,
        };
        let Some(promised_us) = promised_us else { continue };
        for (writer, times) in &acked {
            let before = times.partition_point(|(time_us, _)| *time_us < promised_us);
            let Some((_, acked)) = before.checked_sub(1).and_then(|last| times.get(last)) else {
                continue;
            };
            let seen = newest
                .iter()
                .find(|(seen, _)| seen == writer)
                .map(|(_, number)| *number);
            if seen.is_none_or(|seen| seen < *acked) {
                let (node, level, writer, acked) = (*node, *level, *writer, *acked);
                violations.push(Violation::Stale {
                    node,
                    level,
                    writer,
                    seen,
                    acked,
                });
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Receipt;
    use crate::values::FIRST_PROBE;
    use std::collections::BTreeSet;

    fn batch(number: u64) -> Batch {
        Batch {
            writer: 1,
            number,
            series: 3,
            timestamp_ms: 1_000 + number as i64,
        }
    }

    fn outcomes(acked: &[u64], unknown: &[u64], refused: &[u64]) -> Outcomes {
        let set = |numbers: &[u64]| {
            numbers
                .iter()
                .map(|number| batch(*number))
                .collect::<BTreeSet<_>>()
        };
        Outcomes {
            acked: set(acked),
            unknown: set(unknown),
            refused: set(refused),
        }
    }

    fn stored(numbers: &[u64]) -> Vec<Entry> {
        // In no particular order.
        numbers
            .iter()
            .rev()
            .flat_map(|number| batch(*number).entries())
            .collect()
    }

    #[test]
    fn accepts_any_part_of_what_is_unknown() {
        let mut found = stored(&[1, 2, 5]);
        found.pop();
        // A third of batch 1 is missing, so batch 1 must not count as acknowledged.
        let verdict = check_samples(&outcomes(&[2], &[1, 3, 5], &[4]), &mut found);
        assert_eq!(
            (
                verdict.violations,
                verdict.acked,
                verdict.unknown_stored,
                verdict.unknown_absent
            ),
            (0, 3, 5, 4)
        );
        assert!(verdict.into_result().is_ok());
    }

    #[test]
    fn rejects_a_lost_sample() {
        let mut found = stored(&[1, 2]);
        let lost = found.pop().unwrap();
        let verdict = check_samples(&outcomes(&[1, 2], &[], &[]), &mut found);
        assert_eq!(
            (verdict.shown.as_slice(), verdict.lost),
            ([Violation::Lost(lost)].as_slice(), 1)
        );
        assert!(verdict.into_result().is_err());
    }

    #[test]
    fn rejects_what_was_refused_or_never_sent() {
        for (refused, number) in [(vec![9], 9), (vec![], 9), (vec![], 0)] {
            let verdict = check_samples(&outcomes(&[1, 2], &[], &refused), &mut stored(&[1, 2, number]));
            assert_eq!((verdict.invented, verdict.violations), (3, 3), "{number}");
        }
        let other = Entry {
            series: SeriesId { writer: 1, number: 3 },
            ..stored(&[1])[0]
        };
        let mut found = stored(&[1]);
        found.push(other);
        assert_eq!(
            check_samples(&outcomes(&[1], &[], &[]), &mut found).shown,
            [Violation::Invented(other)]
        );
    }

    #[test]
    fn rejects_other_bits_even_of_equal_numbers() {
        let mut found = stored(&[1]);
        found[0].bits ^= 1 << 63;
        let sent = found[0].bits ^ 1 << 63;
        let verdict = check_samples(&outcomes(&[], &[1], &[]), &mut found.clone());
        assert_eq!(
            verdict.shown,
            [Violation::Altered {
                found: found[0],
                sent
            }]
        );
    }

    #[test]
    fn rejects_a_timestamp_twice() {
        let mut found = stored(&[1]);
        found.push(found[0]);
        let verdict = check_samples(&outcomes(&[1], &[], &[]), &mut found.clone());
        assert_eq!(verdict.shown, [Violation::Repeated(found[0])]);
    }

    #[test]
    fn only_some_violations_are_shown_and_all_are_counted() {
        let numbers: Vec<u64> = (0..100).collect();
        let verdict = check_samples(&outcomes(&numbers, &[], &[]), &mut []);
        assert_eq!((verdict.lost, verdict.shown.len()), (300, MAX_SHOWN));
    }

    fn history(actions: Vec<(u64, Stage, Action)>) -> Vec<Operation> {
        let operation = |(index, (time_us, stage, action))| Operation {
            index: index as u64,
            time_us,
            stage,
            action,
        };
        actions.into_iter().enumerate().map(operation).collect()
    }

    fn committed(term: u64, index: u64) -> (u64, Stage, Action) {
        let receipts = vec![
            Receipt {
                shard: 1,
                term,
                index,
                ..Receipt::default()
            },
            Receipt {
                shard: 2,
                term: 1,
                index,
                ..Receipt::default()
            },
        ];
        (
            0,
            Stage::Ok,
            Action::Write {
                batch: batch(index),
                receipts,
                counts: None,
                error: None,
            },
        )
    }

    #[test]
    fn one_leader_commits_at_an_index() {
        assert_eq!(
            check_terms(&history(vec![committed(1, 5), committed(1, 5), committed(2, 6)])),
            []
        );
        let split = check_terms(&history(vec![committed(1, 5), committed(2, 5)]));
        assert_eq!(
            split,
            [Violation::TwoTerms {
                shard: 1,
                index: 5,
                terms: (1, 2)
            }]
        );
    }

    fn probe(time_us: u64, number: u64) -> (u64, Stage, Action) {
        let batch = Batch {
            writer: FIRST_PROBE,
            number,
            series: 1,
            timestamp_ms: number as i64,
        };
        (
            time_us,
            Stage::Ok,
            Action::Write {
                batch,
                receipts: Vec::new(),
                counts: None,
                error: None,
            },
        )
    }

    fn query(began_us: u64, level: Level, seen: Option<u64>) -> (u64, Stage, Action) {
        let newest = seen.map(|seen| (FIRST_PROBE, seen)).into_iter().collect();
        (
            began_us + 1,
            Stage::Ok,
            Action::Query {
                node: 2,
                level,
                began_us,
                newest,
                error: None,
            },
        )
    }

    #[test]
    fn linearizable_reads_see_all_that_was_acknowledged() {
        use Level::Linearizable;
        let accepted = vec![
            query(5, Linearizable, None),
            probe(10, 1),
            query(11, Linearizable, Some(1)),
            // Acknowledged late and in another order.
            probe(20, 3),
            probe(21, 2),
            query(21, Linearizable, Some(3)),
            query(22, Linearizable, Some(4)),
        ];
        assert_eq!(check_reads(&history(accepted)), []);
        for (began_us, seen, acked) in [(11, None, 1), (25, Some(2), 3)] {
            let rejected = vec![
                probe(10, 1),
                probe(20, 3),
                probe(21, 2),
                query(began_us, Linearizable, seen),
            ];
            let stale = Violation::Stale {
                node: 2,
                level: Linearizable,
                writer: FIRST_PROBE,
                seen,
                acked,
            };
            assert_eq!(check_reads(&history(rejected)), [stale]);
        }
    }

    #[test]
    fn bounded_reads_may_miss_what_is_recent() {
        use Level::Bounded;
        let writes = || vec![probe(10, 1), probe(BOUND_US, 2)];
        let mut accepted = writes();
        accepted.extend([query(20, Bounded, None), query(BOUND_US + 11, Bounded, Some(1))]);
        assert_eq!(check_reads(&history(accepted)), []);
        let mut rejected = writes();
        rejected.push(query(2 * BOUND_US + 1, Bounded, Some(1)));
        assert_eq!(check_reads(&history(rejected)).len(), 1);
    }

    #[test]
    fn reads_without_an_answer_promise_nothing() {
        let (time_us, _, action) = query(50, Level::Linearizable, None);
        let Action::Query {
            node,
            level,
            began_us,
            newest,
            ..
        } = action
        else {
            panic!()
        };
        let failed = Action::Query {
            node,
            level,
            began_us,
            newest,
            error: Some("no leader".into()),
        };
        assert_eq!(
            check_reads(&history(vec![probe(10, 1), (time_us, Stage::Info, failed)])),
            []
        );
    }
}
