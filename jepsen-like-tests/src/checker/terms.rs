//! The log of a shard is one sequence: at each index one leader committed, terms never fall along it, and what
//! is sent after an acknowledgement comes after it in the log.

use std::collections::BTreeMap;

use super::Violation;
use super::marks::{Marks, acknowledged};
use crate::history::{Action, Operation, Outcomes, Stage};

/// Checks all receipts of a history.
pub fn check_terms(history: &[Operation], outcomes: &Outcomes) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut places: BTreeMap<u32, Vec<(u64, u64)>> = BTreeMap::new();
    for operation in history {
        let Action::Write { receipts, .. } = &operation.action else {
            continue;
        };
        for receipt in receipts {
            let of_shard = places.entry(receipt.shard).or_default();
            of_shard.push((receipt.index, receipt.term));
        }
    }
    for (shard, mut places) in places {
        places.sort_unstable();
        places.dedup();
        for pair in places.windows(2) {
            let [(index, term), (next_index, next_term)] = pair else {
                continue;
            };
            if index == next_index {
                violations.push(Violation::TwoTerms {
                    shard,
                    index: *index,
                    terms: (*term, *next_term),
                });
            } else if next_term < term {
                violations.push(Violation::LogWentBack {
                    shard,
                    first: (*term, *index),
                    second: (*next_term, *next_index),
                });
            }
        }
    }
    violations.extend(check_order(history, outcomes));
    violations
}

/// An entry that was proposed after another was acknowledged has a higher index.
fn check_order(history: &[Operation], outcomes: &Outcomes) -> Vec<Violation> {
    let mut highest = Marks::default();
    for (time_us, receipt) in acknowledged(history) {
        highest.raise(receipt.shard, time_us, (receipt.index, receipt.term));
    }
    let mut violations = Vec::new();
    for operation in history {
        let Action::Write { batch, receipts, .. } = &operation.action else {
            continue;
        };
        // Which attempt an acknowledgement answers isn't known, and every attempt came after the first.
        let sent_us = outcomes.find(batch).map_or(0, |known| known.sent_us);
        for receipt in receipts.iter().filter(|_| operation.stage == Stage::Ok) {
            if let Some((index, term)) = highest.before(receipt.shard, sent_us)
                && receipt.index <= index
            {
                violations.push(Violation::LogWentBack {
                    shard: receipt.shard,
                    first: (term, index),
                    second: (receipt.term, receipt.index),
                });
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::{Script, counts, receipt};
    use crate::values::Batch;

    fn batch(number: u64) -> Batch {
        Batch {
            writer: 1,
            number,
            series: 2,
            timestamp_ms: number as i64,
        }
    }

    fn judged(script: &Script) -> Vec<Violation> {
        check_terms(&script.operations, &Outcomes::of(&script.operations))
    }

    /// Shard, term and index.
    type Place = (u32, u64, u64);

    fn check(writes: &[(u64, &[Place])]) -> Vec<Violation> {
        let mut script = Script::default();
        for (number, places) in writes {
            script.committed(batch(*number), places);
        }
        judged(&script)
    }

    #[test]
    fn accepts_terms_that_grow_with_the_log_of_each_shard() {
        assert_eq!(
            check(&[
                (1, &[(1, 1, 5), (2, 9, 5)]),
                (2, &[(1, 1, 6)]),
                (3, &[(1, 4, 7), (2, 9, 6)])
            ]),
            []
        );
    }

    #[test]
    fn accepts_batches_in_one_entry_and_answers_in_another_order() {
        let mut script = Script::default();
        for number in 1..=3 {
            script.sent(batch(number));
        }
        for (number, index) in [(3, 7), (1, 5), (2, 5)] {
            script.answered(batch(number), vec![receipt((1, 1, index))], counts(2, 0));
        }
        assert_eq!(judged(&script), []);
    }

    #[test]
    fn rejects_two_terms_at_an_index() {
        let violations = check(&[(1, &[(1, 1, 5)]), (2, &[(1, 2, 5)])]);
        assert!(violations.contains(&Violation::TwoTerms {
            shard: 1,
            index: 5,
            terms: (1, 2)
        }));
    }

    #[test]
    fn rejects_an_index_below_one_acknowledged_before() {
        let expected = Violation::LogWentBack {
            shard: 1,
            first: (1, 5),
            second: (1, 4),
        };
        assert_eq!(check(&[(1, &[(1, 1, 5)]), (2, &[(1, 1, 4)])]), [expected]);
    }

    #[test]
    fn rejects_a_term_that_falls() {
        let mut script = Script::default();
        script.sent(batch(1));
        script.sent(batch(2));
        script.answered(batch(1), vec![receipt((1, 3, 5))], counts(2, 0));
        script.answered(batch(2), vec![receipt((1, 2, 6))], counts(2, 0));
        assert_eq!(judged(&script).len(), 1);
    }
}
