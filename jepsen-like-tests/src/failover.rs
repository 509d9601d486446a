//! How long each shard takes no writes after its leader was killed, and how long queries fail.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use crate::history::{Action, FaultKind, Level, Operation, Orphan, Phase, Stage};
use crate::report::quantile;

/// Times from SIGKILL, in milliseconds, sorted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Times {
    sorted_ms: Vec<f64>,
    /// Cases that never came to an end.
    pub unfinished: usize,
}

impl Times {
    fn new(times_us: Vec<Option<u64>>) -> Times {
        let unfinished = times_us.iter().filter(|time| time.is_none()).count();
        let mut sorted_ms: Vec<f64> = times_us
            .into_iter()
            .flatten()
            .map(|us| us as f64 / 1_000.0)
            .collect();
        sorted_ms.sort_by(f64::total_cmp);
        Times {
            sorted_ms,
            unfinished,
        }
    }

    /// The cases that ended, sorted.
    pub fn sorted_ms(&self) -> &[f64] {
        &self.sorted_ms
    }

    /// How many cases there are.
    pub fn len(&self) -> usize {
        self.sorted_ms.len() + self.unfinished
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The time within which `share` (0 to 1) of all cases ended. None if so many did not end.
    pub fn quantile_ms(&self, share: f64) -> Option<f64> {
        let mut all: Vec<f64> = self.sorted_ms.clone();
        all.resize(self.len(), f64::INFINITY);
        quantile(&all, share).filter(|ms| ms.is_finite())
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |share| {
            self.quantile_ms(share)
                .map_or("never".to_owned(), |ms| format!("{ms:.0} ms"))
        };
        write!(
            f,
            "n={} p50 {} p99 {} max {}",
            self.len(),
            show(0.5),
            show(0.99),
            show(1.0)
        )?;
        match self.unfinished {
            0 => Ok(()),
            count => write!(f, " ({count} never ended)"),
        }
    }
}

/// A shard that lost its leader.
#[derive(Debug, Clone, Copy)]
struct Outage {
    /// What did it; a kill that is recorded as such has no kind.
    kind: Option<FaultKind>,
    began_us: u64,
    /// When the fault was healed, if it was.
    healed_us: Option<u64>,
    orphan: Orphan,
}

/// For every kill of one node and every shard orphaned by it: until the first write that a later leader of the
/// shard committed was acknowledged.
pub fn write_failovers(history: &[Operation]) -> Times {
    let acks = Acks::of(history);
    let one_killed = [None, Some(FaultKind::KillLeader), Some(FaultKind::KillRandom)];
    let kills = outages(history)
        .into_iter()
        .filter(|outage| one_killed.contains(&outage.kind));
    Times::new(kills.map(|outage| acks.end_of(&outage)).collect())
}

/// The same for every kind of fault that orphaned shards. Where the old leader leads on after the healing, its
/// first acknowledgement then ends the outage.
pub fn failovers_by_kind(history: &[Operation]) -> BTreeMap<FaultKind, Times> {
    let acks = Acks::of(history);
    let mut times: BTreeMap<FaultKind, Vec<Option<u64>>> = BTreeMap::new();
    for outage in outages(history) {
        if let Some(kind) = outage.kind {
            times.entry(kind).or_default().push(acks.end_of(&outage));
        }
    }
    times
        .into_iter()
        .map(|(kind, times)| (kind, Times::new(times)))
        .collect()
}

fn outages(history: &[Operation]) -> Vec<Outage> {
    let mut outages = Vec::new();
    let mut of_fault: BTreeMap<u64, Range<usize>> = BTreeMap::new();
    for operation in history {
        let began_us = operation.time_us;
        let outage = |kind: Option<FaultKind>| {
            move |orphan: &Orphan| Outage {
                kind,
                began_us,
                healed_us: None,
                orphan: *orphan,
            }
        };
        match &operation.action {
            Action::Kill { orphaned, .. } => outages.extend(orphaned.iter().map(outage(None))),
            Action::Fault {
                id,
                kind,
                phase: Phase::Begin,
                orphaned,
                ..
            } => {
                let first = outages.len();
                outages.extend(orphaned.iter().map(outage(Some(*kind))));
                of_fault.insert(*id, first..outages.len());
            }
            Action::Fault { id, .. } => {
                let own = of_fault.remove(id).unwrap_or_default();
                let own = outages.get_mut(own).unwrap_or_default();
                own.iter_mut()
                    .for_each(|outage| outage.healed_us = Some(operation.time_us));
            }
            _ => {}
        }
    }
    outages
}

/// Acknowledgements of each shard, in the order of time: when, and the term of the leader that committed.
struct Acks(BTreeMap<u32, Vec<(u64, u64)>>);

impl Acks {
    fn of(history: &[Operation]) -> Acks {
        let mut acks: BTreeMap<u32, Vec<(u64, u64)>> = BTreeMap::new();
        for operation in history {
            let Action::Write { receipts, .. } = &operation.action else {
                continue;
            };
            for receipt in receipts.iter().filter(|_| operation.stage == Stage::Ok) {
                let of_shard = acks.entry(receipt.shard).or_default();
                of_shard.push((operation.time_us, receipt.term));
            }
        }
        Acks(acks)
    }

    /// How long the outage lasted.
    fn end_of(&self, outage: &Outage) -> Option<u64> {
        let acks = self.0.get(&outage.orphan.shard)?;
        let from = acks.partition_point(|(time_us, _)| *time_us < outage.began_us);
        let ends = |(time_us, term): &&(u64, u64)| {
            let healed = outage.healed_us.is_some_and(|healed_us| healed_us <= *time_us);
            *term > outage.orphan.term || (healed && *term == outage.orphan.term)
        };
        let (time_us, _) = acks.get(from..)?.iter().find(ends)?;
        Some(time_us - outage.began_us)
    }
}

/// For every kill and surviving node: until the first answer to a query that was sent after the kill.
pub fn query_failovers(history: &[Operation], level: Level, nodes: &[u64]) -> Times {
    let mut times = Vec::new();
    for (at, kill) in history.iter().enumerate() {
        let Action::Kill { node: victim, .. } = &kill.action else {
            continue;
        };
        for survivor in nodes.iter().filter(|node| *node != victim) {
            let answered = history.iter().skip(at).find(|operation| match &operation.action {
                Action::Query {
                    node,
                    level: asked,
                    began_us,
                    error: None,
                    ..
                } => node == survivor && *asked == level && *began_us >= kill.time_us,
                _ => false,
            });
            times.push(answered.map(|answered| answered.time_us - kill.time_us));
        }
    }
    Times::new(times)
}

/// A query without an answer at a node that was alive.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryFailure {
    /// The node asked.
    pub node: u64,
    /// How long after the last kill it was sent, in milliseconds. None before the first.
    pub after_kill_ms: Option<f64>,
    /// Why.
    pub error: String,
}

/// Queries of a level that failed at nodes that were neither killed nor just restarted, and how many were sent there.
pub fn query_failures(history: &[Operation], level: Level) -> (u64, Vec<QueryFailure>) {
    let is_fault =
        |operation: &&Operation| matches!(operation.action, Action::Kill { .. } | Action::Restart { .. });
    let faults: Vec<&Operation> = history.iter().filter(is_fault).collect();
    let mut asked = 0;
    let mut failures = Vec::new();
    for operation in history {
        let Action::Query {
            node,
            level: own,
            began_us,
            error,
            ..
        } = &operation.action
        else {
            continue;
        };
        if *own != level || !was_alive(&faults, *node, *began_us, operation.time_us) {
            continue;
        }
        asked += 1;
        let Some(error) = error else { continue };
        let kills = faults
            .iter()
            .filter(|fault| matches!(fault.action, Action::Kill { .. }));
        let last = kills
            .map(|kill| kill.time_us)
            .take_while(|time_us| time_us <= began_us)
            .last();
        let after_kill_ms = last.map(|last| (began_us - last) as f64 / 1_000.0);
        failures.push(QueryFailure {
            node: *node,
            after_kill_ms,
            error: error.clone(),
        });
    }
    (asked, failures)
}

/// Whether no part of the time fell between a kill of the node and its restart.
fn was_alive(faults: &[&Operation], node: u64, from_us: u64, to_us: u64) -> bool {
    let mut died_us = None;
    for fault in faults {
        match &fault.action {
            Action::Kill { node: victim, .. } if *victim == node => died_us = Some(fault.time_us),
            Action::Restart { node: back } if *back == node => {
                let died_us = died_us.take();
                let overlap = died_us.is_some_and(|died_us| from_us <= fault.time_us && died_us <= to_us);
                if overlap {
                    return false;
                }
            }
            _ => {}
        }
    }
    died_us.is_none_or(|died_us| died_us > to_us)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Receipt;
    use crate::values::Batch;

    fn history(actions: Vec<(u64, Stage, Action)>) -> Vec<Operation> {
        let operation = |(index, (ms, stage, action)): (usize, (u64, Stage, Action))| Operation {
            index: index as u64,
            time_us: ms * 1_000,
            stage,
            action,
        };
        actions.into_iter().enumerate().map(operation).collect()
    }

    fn kill(ms: u64) -> (u64, Stage, Action) {
        let orphaned = vec![Orphan { shard: 1, term: 4 }, Orphan { shard: 2, term: 7 }];
        (ms, Stage::Info, Action::Kill { node: 1, orphaned })
    }

    fn ack(ms: u64, shard: u32, term: u64) -> (u64, Stage, Action) {
        let batch = Batch {
            writer: 1,
            number: ms,
            series: 1,
            timestamp_ms: 0,
        };
        (
            ms,
            Stage::Ok,
            Action::Write {
                batch,
                receipts: vec![Receipt {
                    shard,
                    term,
                    index: ms,
                    ..Receipt::default()
                }],
                counts: None,
                error: None,
            },
        )
    }

    fn query(began_ms: u64, ms: u64, node: u64, error: Option<&str>) -> (u64, Stage, Action) {
        let (level, newest, error) = (Level::Linearizable, Default::default(), error.map(str::to_owned));
        (
            ms,
            Stage::Ok,
            Action::Query {
                node,
                level,
                began_us: began_ms * 1_000,
                newest,
                error,
            },
        )
    }

    #[test]
    fn only_a_later_leaders_ack_ends_an_outage() {
        let times = write_failovers(&history(vec![
            ack(90, 1, 4),
            kill(100),
            // Committed by the old leader, arrived late.
            ack(105, 1, 4),
            ack(110, 3, 9),
            ack(600, 2, 8),
            ack(900, 1, 5),
            ack(950, 1, 5),
        ]));
        assert_eq!(
            times,
            Times {
                sorted_ms: vec![500.0, 800.0],
                unfinished: 0
            }
        );
        assert_eq!(
            (times.quantile_ms(0.5), times.quantile_ms(0.99)),
            (Some(500.0), Some(800.0))
        );
    }

    #[test]
    fn an_outage_without_an_end_has_no_p99() {
        let times = write_failovers(&history(vec![kill(100), ack(600, 2, 8), ack(700, 1, 4)]));
        assert_eq!(
            (times.unfinished, times.quantile_ms(0.5), times.quantile_ms(0.99)),
            (1, Some(500.0), None)
        );
        assert!(times.to_string().contains("never"));
    }

    fn fault(ms: u64, phase: Phase) -> (u64, Stage, Action) {
        let orphaned = match phase {
            Phase::Begin => vec![Orphan { shard: 1, term: 4 }, Orphan { shard: 2, term: 7 }],
            Phase::End => Vec::new(),
        };
        let (id, kind, victims, detail) = (3, FaultKind::Pause, vec![1], String::new());
        let action = Action::Fault {
            id,
            kind,
            phase,
            victims,
            detail,
            orphaned,
        };
        (ms, Stage::Info, action)
    }

    #[test]
    fn a_leader_that_stays_ends_an_outage_only_after_the_healing() {
        let times = failovers_by_kind(&history(vec![
            ack(90, 1, 4),
            fault(100, Phase::Begin),
            // Committed before the fault, arrived late.
            ack(110, 1, 4),
            ack(400, 2, 8),
            fault(600, Phase::End),
            ack(700, 1, 4),
        ]));
        let expected = Times {
            sorted_ms: vec![300.0, 600.0],
            unfinished: 0,
        };
        assert_eq!(times, BTreeMap::from([(FaultKind::Pause, expected)]));
    }

    #[test]
    fn queries_sent_before_the_kill_say_nothing_about_after() {
        let events = vec![
            kill(100),
            query(95, 105, 2, None),
            query(101, 400, 3, None),
            query(102, 700, 2, None),
        ];
        let times = query_failovers(&history(events), Level::Linearizable, &[1, 2, 3]);
        assert_eq!(
            times,
            Times {
                sorted_ms: vec![300.0, 600.0],
                unfinished: 0
            }
        );
    }

    #[test]
    fn failures_at_a_dead_node_do_not_count() {
        let events = vec![
            query(10, 20, 1, Some("early")),
            query(95, 120, 1, Some("it died meanwhile")),
            kill(100),
            query(110, 111, 1, Some("it is dead")),
            query(110, 130, 2, Some("no leader")),
            (200, Stage::Info, Action::Restart { node: 1 }),
            query(210, 220, 1, None),
        ];
        let (asked, failures) = query_failures(&history(events), Level::Linearizable);
        assert_eq!(asked, 3);
        let told: Vec<_> = failures
            .iter()
            .map(|failure| (failure.error.as_str(), failure.after_kill_ms))
            .collect();
        assert_eq!(told, [("early", None), ("no leader", Some(10.0))]);
    }
}
