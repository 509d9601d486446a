//! One owner of each series in a ring epoch. What a history shows of it: batches of one series, and reads that
//! touched one shard only; and in the end, that shards together hold each series once.

use std::collections::{BTreeSet, HashMap};

use super::Violation;
use crate::history::{Action, Operation, Pattern, Question, Stage};
use crate::values::SeriesId;

/// Which shard owns which series, as far as it is known.
#[derive(Debug, Clone, Default)]
pub struct Placement {
    shards: HashMap<SeriesId, u32>,
}

impl Placement {
    /// What a history tells, with its contradictions. Nothing is concluded from reads across several epochs:
    /// they don't say which of them they saw.
    pub fn of(history: &[Operation]) -> (Placement, Vec<Violation>) {
        let mut owners: HashMap<(SeriesId, u64), u32> = HashMap::new();
        let mut epochs: BTreeSet<u64> = BTreeSet::new();
        let mut violations = Vec::new();
        let mut learn = |series, epoch, shard, how: &str| {
            let known = *owners.entry((series, epoch)).or_insert(shard);
            if known != shard {
                let detail = format!("{series:?} is in shard {known} and, by {how}, in shard {shard}");
                violations.push(Violation::Owner { detail });
            }
        };
        for operation in history {
            let Action::Write { batch, receipts, .. } = &operation.action else {
                continue;
            };
            epochs.extend(receipts.iter().map(|receipt| receipt.epoch));
            for receipt in receipts.iter().filter(|_| batch.series == 1) {
                let number = batch.first_series();
                let writer = batch.writer;
                learn(
                    SeriesId { writer, number },
                    receipt.epoch,
                    receipt.shard,
                    "a receipt",
                );
            }
        }
        let only = (epochs.len() <= 1).then(|| epochs.first().copied().unwrap_or_default());
        for operation in history {
            let Action::Read(read) = &operation.action else {
                continue;
            };
            let ([shard], Some(answer), Some(epoch)) = (read.shards.as_slice(), &read.answer, only) else {
                continue;
            };
            if !names_one_target(&read.question) {
                continue;
            }
            for series in &answer.series {
                let (writer, number) = (series.writer, series.number);
                learn(SeriesId { writer, number }, epoch, shard.shard, "a read");
            }
        }
        violations.extend(check_splits(history));
        let shards = match only {
            Some(epoch) => owners
                .into_iter()
                .filter(|((_, own), _)| *own == epoch)
                .map(|((series, _), shard)| (series, shard))
                .collect(),
            None => HashMap::new(),
        };
        (Placement { shards }, violations)
    }

    /// The shard of a series.
    pub fn shard_of(&self, series: SeriesId) -> Option<u32> {
        self.shards.get(&series).copied()
    }
}

/// Batches of the same series go to the same shards, in one epoch.
fn check_splits(history: &[Operation]) -> Vec<Violation> {
    let mut splits: HashMap<(u32, u64, u32), (u64, Vec<u32>)> = HashMap::new();
    let mut violations = Vec::new();
    for operation in history {
        let Action::Write { batch, receipts, .. } = &operation.action else {
            continue;
        };
        let Some(epoch) = receipts.first().map(|receipt| receipt.epoch) else {
            continue;
        };
        if operation.stage != Stage::Ok || receipts.iter().any(|receipt| receipt.epoch != epoch) {
            continue;
        }
        let mut shards: Vec<u32> = receipts.iter().map(|receipt| receipt.shard).collect();
        shards.sort_unstable();
        shards.dedup();
        // Series that come and go are others in each life.
        let series = batch.first_series();
        let (number, known) = splits
            .entry((batch.writer, epoch, series))
            .or_insert_with(|| (batch.number, shards.clone()));
        if *known != shards {
            let writer = batch.writer;
            let detail = format!(
                "writer {writer}: batch {number} went to shards {known:?}, batch {} of the same series to {shards:?}",
                batch.number
            );
            violations.push(Violation::Owner { detail });
        }
    }
    violations
}

/// Whether the question is about one metric of one job and instance, which one shard owns.
fn names_one_target(question: &Question) -> bool {
    ["__name__", "job", "instance"].iter().all(|label| {
        question.matchers.iter().any(|matcher| {
            matcher.label == *label && !matcher.negated && matches!(matcher.pattern, Pattern::Is(_))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::{Script, answer_of, read_of, shard};
    use crate::history::{Form, Level, Matcher};
    use crate::values::Batch;

    fn batch(number: u64, series: u32) -> Batch {
        Batch {
            writer: 7,
            number,
            series,
            timestamp_ms: number as i64,
        }
    }

    fn read_in(script: &mut Script, own: u32) {
        let mut read = read_of(7, Level::Local, Form::Raw);
        for (label, value) in [("job", "load"), ("__name__", "load_0")] {
            read.question.matchers.push(Matcher {
                label: label.into(),
                negated: false,
                pattern: Pattern::Is(value.into()),
            });
        }
        read.answer = Some(answer_of(&[batch(1, 1)]));
        read.shards = vec![shard(own, 0, 0)];
        script.read(read);
    }

    #[test]
    fn accepts_one_owner() {
        let mut script = Script::default();
        script.committed(batch(1, 1), &[(3, 1, 1)]);
        script.committed(batch(2, 1), &[(3, 1, 2)]);
        read_in(&mut script, 3);
        let (placement, violations) = Placement::of(&script.operations);
        assert_eq!(violations, []);
        assert_eq!(placement.shard_of(SeriesId { writer: 7, number: 0 }), Some(3));
    }

    #[test]
    fn rejects_two_owners() {
        let mut script = Script::default();
        script.committed(batch(1, 1), &[(3, 1, 1)]);
        script.committed(batch(2, 1), &[(4, 1, 2)]);
        assert!(!Placement::of(&script.operations).1.is_empty());
        let mut script = Script::default();
        script.committed(batch(1, 1), &[(3, 1, 1)]);
        read_in(&mut script, 2);
        assert_eq!(Placement::of(&script.operations).1.len(), 1);
    }

    #[test]
    fn rejects_a_batch_that_goes_elsewhere() {
        let mut script = Script::default();
        script.committed(batch(1, 9), &[(3, 1, 1), (4, 1, 1)]);
        script.committed(batch(2, 9), &[(4, 1, 2), (3, 1, 2), (4, 1, 3)]);
        assert_eq!(Placement::of(&script.operations).1, []);
        script.committed(batch(3, 9), &[(3, 1, 3), (5, 1, 3)]);
        assert_eq!(Placement::of(&script.operations).1.len(), 1);
    }
}
