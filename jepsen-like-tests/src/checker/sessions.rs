//! Whoever asks one node again and again never goes back in time: at each replica, the log index read at does not
//! fall. A process that was started again may begin with less than it once showed, except to linearizable reads,
//! which [`super::check_indexes`] covers.

use std::collections::{BTreeMap, HashMap};

use super::Violation;
use crate::history::{Action, FaultKind, Operation, Phase};

/// Checks every session's reads at every replica.
pub fn check_sessions(history: &[Operation]) -> Vec<Violation> {
    let mut violations = Vec::new();
    // By session, shard and the node read: until when it was read last, and what it had applied.
    let mut seen: HashMap<(u64, u32, u64), (u64, u64)> = HashMap::new();
    let mut starts = Starts::default();
    for operation in history {
        starts.note(operation);
        let Action::Read(read) = &operation.action else {
            continue;
        };
        for shard in &read.shards {
            let replica = (read.session, shard.shard, shard.node);
            if let Some((ended_us, applied)) = seen.get(&replica)
                // Reads of a session that overlap have no order.
                && *ended_us < read.began_us
                && !starts.since(shard.node, *ended_us)
                && shard.before < *applied
            {
                violations.push(Violation::NotMonotonic {
                    session: read.session,
                    shard: shard.shard,
                    node: shard.node,
                    seen: *applied,
                    then: shard.before,
                });
            }
            seen.insert(replica, (operation.time_us, shard.after));
        }
    }
    violations
}

/// When processes may have been started again.
#[derive(Debug, Default)]
struct Starts {
    /// The newest event for a node.
    newest_us: BTreeMap<u64, u64>,
    newest_for_all_us: Option<u64>,
    /// Faults that go on, with their victims.
    open: BTreeMap<u64, Vec<u64>>,
}

impl Starts {
    fn note(&mut self, operation: &Operation) {
        let victims = match &operation.action {
            Action::Kill { node, .. } | Action::Restart { node } | Action::Crash { node, .. } => vec![*node],
            Action::Fault {
                id,
                kind,
                phase,
                victims,
                ..
            } if may_restart(*kind) => {
                match phase {
                    Phase::Begin => self.open.insert(*id, victims.clone()),
                    Phase::End => self.open.remove(id),
                };
                victims.clone()
            }
            _ => return,
        };
        if victims.is_empty() {
            self.newest_for_all_us = Some(operation.time_us);
        }
        self.newest_us
            .extend(victims.into_iter().map(|node| (node, operation.time_us)));
    }

    fn since(&self, node: u64, time_us: u64) -> bool {
        let newest = self.newest_us.get(&node).copied().max(self.newest_for_all_us);
        let hit = |victims: &Vec<u64>| victims.is_empty() || victims.contains(&node);
        newest.is_some_and(|newest_us| newest_us >= time_us) || self.open.values().any(hit)
    }
}

/// Whether a fault may end a process, meant or not.
fn may_restart(kind: FaultKind) -> bool {
    use FaultKind::*;
    !matches!(
        kind,
        PartitionMajority
            | PartitionMinority
            | PartitionOneWay
            | PartitionBridge
            | PartitionClients
            | FlappingLink
            | Delay
            | Loss
            | Duplicate
            | Reorder
            | Pause
            | ClockForward
            | ClockBack
            | ClockDrift
            | SlowDisk
            | TransferStorm
            | CpuStarvation
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::{Script, read_of, shard};
    use crate::history::{Form, Level, Stage};

    fn read_at(script: &mut Script, session: u64, before: u64, after: u64) {
        let mut read = read_of(1, Level::Local, Form::Raw);
        read.session = session;
        read.shards = vec![shard(2, before, after)];
        script.read(read);
    }

    #[test]
    fn accepts_sessions_that_go_on() {
        let mut script = Script::default();
        read_at(&mut script, 1, 5, 7);
        read_at(&mut script, 2, 4, 4);
        read_at(&mut script, 1, 7, 7);
        script.fault(1, FaultKind::Pause, Phase::Begin, &[1]);
        read_at(&mut script, 1, 8, 8);
        assert_eq!(check_sessions(&script.operations), []);
    }

    #[test]
    fn rejects_a_session_that_goes_back() {
        let mut script = Script::default();
        read_at(&mut script, 1, 5, 7);
        script.fault(1, FaultKind::Pause, Phase::Begin, &[1]);
        // Of another node.
        script.add(Stage::Info, Action::Restart { node: 2 });
        read_at(&mut script, 1, 6, 8);
        let back = Violation::NotMonotonic {
            session: 1,
            shard: 2,
            node: 1,
            seen: 7,
            then: 6,
        };
        assert_eq!(check_sessions(&script.operations), [back]);
    }

    #[test]
    fn a_restart_excuses() {
        for kind in [FaultKind::KillRandom, FaultKind::FsyncEio] {
            let mut script = Script::default();
            read_at(&mut script, 1, 5, 7);
            script.fault(1, kind, Phase::Begin, &[1]);
            read_at(&mut script, 1, 6, 6);
            script.fault(1, kind, Phase::End, &[1]);
            read_at(&mut script, 1, 5, 5);
            assert_eq!(check_sessions(&script.operations), []);
            read_at(&mut script, 1, 4, 4);
            assert_eq!(check_sessions(&script.operations).len(), 1);
        }
    }
}
