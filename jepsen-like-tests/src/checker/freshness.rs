//! Reads are as fresh as they promise. A linearizable one is served at a log index at or above every place that
//! was acknowledged, and everything that any read had seen, before it began; a bounded one at or above what was
//! acknowledged longer ago than its bound, or than the age that the server states.
//!
//! Times are those of one monotonic clock, of the process that asks.

use std::collections::BTreeMap;

use super::Violation;
use super::marks::{Marks, acknowledged};
use crate::history::{
    Action, BOUND_US, FaultKind, Level, Operation, Outcomes, Phase, Read, ShardRead, Stage,
};
use crate::values::Kind;

/// Checks the indexes that answers say they were read at.
pub fn check_indexes(history: &[Operation]) -> Vec<Violation> {
    let mut acked: Marks<u64> = Marks::default();
    for (time_us, receipt) in acknowledged(history) {
        acked.raise(receipt.shard, time_us, receipt.index);
    }
    // What a replica has applied is committed.
    let mut seen: Marks<u64> = Marks::default();
    for operation in history {
        if let Action::Read(read) = &operation.action {
            for shard in &read.shards {
                seen.raise(shard.shard, operation.time_us, shard.after);
            }
        }
    }
    let drifts = Drifts::of(history);
    let mut violations = Vec::new();
    for operation in history {
        let Action::Read(read) = &operation.action else {
            continue;
        };
        for shard in &read.shards {
            let needed = match read.level {
                Level::Linearizable => {
                    let acked = acked.before(shard.shard, read.began_us);
                    acked.max(seen.before(shard.shard, read.began_us))
                }
                Level::Bounded | Level::Local
                    if drifts.touch(shard.node, read.began_us, operation.time_us) =>
                {
                    None
                }
                Level::Bounded | Level::Local => {
                    let promised = promised_us(read, shard);
                    promised.and_then(|promised_us| acked.before(shard.shard, promised_us))
                }
            };
            let needed = needed.unwrap_or(0);
            if shard.before < needed {
                violations.push(Violation::Behind {
                    node: read.node,
                    level: read.level,
                    shard: shard.shard,
                    applied: shard.before,
                    needed,
                    began_us: read.began_us,
                });
            }
        }
    }
    violations
}

/// Everything acknowledged before this time is promised by a read that is not linearizable.
pub(super) fn promised_us(read: &Read, shard: &ShardRead) -> Option<u64> {
    let by_bound = match read.level {
        Level::Bounded => read.began_us.checked_sub(BOUND_US),
        _ => None,
    };
    // Stated in whole milliseconds, rounded down.
    let stated_us = shard
        .staleness_ms
        .map(|ms| ms.saturating_add(1).saturating_mul(1_000));
    by_bound.max(stated_us.and_then(|age_us| read.began_us.checked_sub(age_us)))
}

/// Times in which a node's clock ran at another rate: ages that it measures are not those of this process.
#[derive(Debug, Default)]
pub(super) struct Drifts(Vec<(Vec<u64>, u64, u64)>);

impl Drifts {
    pub(super) fn of(history: &[Operation]) -> Drifts {
        let mut drifts: BTreeMap<u64, (Vec<u64>, u64, u64)> = BTreeMap::new();
        for operation in history {
            let Action::Fault {
                id,
                kind: FaultKind::ClockDrift,
                phase,
                victims,
                ..
            } = &operation.action
            else {
                continue;
            };
            let drift = drifts
                .entry(*id)
                .or_insert_with(|| (victims.clone(), operation.time_us, u64::MAX));
            if *phase == Phase::End {
                // Ages that began in it are wrong for a while.
                drift.2 = operation.time_us.saturating_add(3 * BOUND_US);
            }
        }
        Drifts(drifts.into_values().collect())
    }

    pub(super) fn touch(&self, node: u64, began_us: u64, ended_us: u64) -> bool {
        self.0.iter().any(|(victims, from_us, to_us)| {
            let is_hit = victims.is_empty() || victims.contains(&node);
            is_hit && began_us <= *to_us && *from_us <= ended_us
        })
    }
}

/// Probes: a linearizable query returns every probe acknowledged before it began; a bounded one every probe
/// acknowledged longer ago than its bound.
pub fn check_probes(history: &[Operation], outcomes: &Outcomes) -> Vec<Violation> {
    // Of each probe: times of acknowledgements with the newest batch number acknowledged by then.
    let mut acked: Marks<u64> = Marks::default();
    for operation in history {
        if let Action::Write { batch, .. } = &operation.action
            && operation.stage == Stage::Ok
            && Kind::of(batch.writer) == Kind::Probe
        {
            acked.raise(batch.writer, operation.time_us, batch.number);
        }
    }
    let drifts = Drifts::of(history);
    let probes: Vec<u32> = outcomes.writers().map(|(writer, _)| writer).collect();
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
            Level::Bounded if drifts.touch(*node, *began_us, operation.time_us) => None,
            Level::Bounded => began_us.checked_sub(BOUND_US),
            Level::Local => None,
        };
        let Some(promised_us) = promised_us else { continue };
        for writer in &probes {
            let Some(acked) = acked.before(*writer, promised_us) else {
                continue;
            };
            let found = newest.iter().find(|(seen, _)| seen == writer);
            let seen = found.map(|(_, number)| *number);
            if seen.is_none_or(|seen| seen < acked) {
                violations.push(Violation::Stale {
                    node: *node,
                    level: *level,
                    writer: *writer,
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
    use crate::checker::testing::{Script, read_of, shard};
    use crate::history::Form;
    use crate::values::{Batch, FIRST_PROBE};

    fn batch(number: u64) -> Batch {
        Batch {
            writer: 1,
            number,
            series: 1,
            timestamp_ms: number as i64,
        }
    }

    fn read_at(script: &mut Script, level: Level, before: u64, after: u64, staleness_ms: Option<u64>) {
        let mut own = shard(3, before, after);
        own.staleness_ms = staleness_ms;
        let mut read = read_of(1, level, Form::Raw);
        read.shards = vec![own];
        script.read(read);
    }

    fn names(script: &Script) -> Vec<&'static str> {
        let violations = check_indexes(&script.operations);
        violations.iter().map(Violation::checker).collect()
    }

    #[test]
    fn accepts_reads_at_what_was_acknowledged() {
        let mut script = Script::default();
        read_at(&mut script, Level::Linearizable, 0, 0, Some(0));
        script.committed(batch(1), &[(3, 1, 5)]);
        read_at(&mut script, Level::Linearizable, 5, 6, Some(0));
        // Local and bounded reads may be behind.
        read_at(&mut script, Level::Local, 2, 2, None);
        read_at(&mut script, Level::Local, 2, 2, Some(900));
        read_at(&mut script, Level::Bounded, 2, 2, None);
        script.now_us += BOUND_US;
        read_at(&mut script, Level::Bounded, 5, 5, Some(9_000));
        assert!(names(&script).is_empty());
    }

    #[test]
    fn rejects_a_linearizable_read_behind_an_acknowledgement() {
        let mut script = Script::default();
        script.committed(batch(1), &[(3, 1, 5)]);
        read_at(&mut script, Level::Linearizable, 4, 5, Some(0));
        assert_eq!(names(&script), ["stale_linearizable"]);
    }

    #[test]
    fn rejects_a_linearizable_read_behind_another_read() {
        let mut script = Script::default();
        read_at(&mut script, Level::Local, 7, 9, None);
        read_at(&mut script, Level::Linearizable, 8, 9, Some(0));
        assert_eq!(names(&script), ["stale_linearizable"]);
    }

    #[test]
    fn rejects_reads_older_than_their_bound_or_their_word() {
        for (wait_us, level, staleness_ms) in [
            (BOUND_US, Level::Bounded, None),
            (100_000, Level::Bounded, Some(50)),
            (100_000, Level::Local, Some(50)),
        ] {
            let mut script = Script::default();
            script.committed(batch(1), &[(3, 1, 5)]);
            script.now_us += wait_us;
            read_at(&mut script, level, 4, 4, staleness_ms);
            assert_eq!(names(&script), ["stale_bounded"]);
        }
    }

    #[test]
    fn a_drifting_clock_excuses_ages() {
        let mut script = Script::default();
        script.committed(batch(1), &[(3, 1, 5)]);
        script.fault(1, FaultKind::ClockDrift, Phase::Begin, &[1]);
        script.now_us += BOUND_US;
        read_at(&mut script, Level::Bounded, 4, 4, None);
        assert!(names(&script).is_empty());
        read_at(&mut script, Level::Linearizable, 4, 4, None);
        assert_eq!(names(&script), ["stale_linearizable"]);
    }

    fn query(script: &mut Script, level: Level, seen: Option<u64>) {
        let (node, began_us) = (2, script.now_us + 1);
        let newest = seen.map(|seen| (FIRST_PROBE, seen)).into_iter().collect();
        let error = None;
        script.add(
            Stage::Ok,
            Action::Query {
                node,
                level,
                began_us,
                newest,
                error,
            },
        );
    }

    fn probes(acked: &[u64]) -> Script {
        let mut script = Script::default();
        for number in acked {
            let batch = Batch {
                writer: FIRST_PROBE,
                number: *number,
                series: 1,
                timestamp_ms: *number as i64,
            };
            script.acked(batch);
        }
        script
    }

    fn judged(script: &Script) -> Vec<Violation> {
        check_probes(&script.operations, &Outcomes::of(&script.operations))
    }

    #[test]
    fn accepts_queries_that_see_the_newest_probe() {
        // Acknowledged in another order than sent.
        let mut script = probes(&[1, 3, 2]);
        query(&mut script, Level::Linearizable, Some(3));
        query(&mut script, Level::Linearizable, Some(4));
        query(&mut script, Level::Bounded, None);
        script.now_us += BOUND_US;
        query(&mut script, Level::Bounded, Some(3));
        query(&mut script, Level::Local, None);
        assert_eq!(judged(&script), []);
    }

    #[test]
    fn rejects_queries_without_the_newest_probe() {
        for (wait_us, level, seen) in [
            (0, Level::Linearizable, None),
            (0, Level::Linearizable, Some(2)),
            (BOUND_US, Level::Bounded, Some(2)),
        ] {
            let mut script = probes(&[1, 3, 2]);
            script.now_us += wait_us;
            query(&mut script, level, seen);
            let stale = Violation::Stale {
                node: 2,
                level,
                writer: FIRST_PROBE,
                seen,
                acked: 3,
            };
            assert_eq!(judged(&script), [stale]);
        }
    }
}
