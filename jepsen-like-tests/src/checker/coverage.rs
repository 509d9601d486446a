//! Whether a run is worth anything: every fault that it was about happened and was healed, something was written
//! and something was read; and no process ended by itself.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use crate::history::{Action, FaultKind, Level, Operation, Phase, Stage};

/// How often each kind of fault was injected.
pub fn fired(history: &[Operation]) -> BTreeMap<FaultKind, u64> {
    let mut fired = BTreeMap::new();
    for operation in history {
        if let Action::Fault {
            kind,
            phase: Phase::Begin,
            ..
        } = operation.action
        {
            *fired.entry(kind).or_default() += 1;
        }
    }
    fired
}

/// Checks the plan of a history, if it has one, and its crashes.
pub fn check_coverage(history: &[Operation]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut wished: Option<BTreeSet<FaultKind>> = None;
    let (mut begun, mut healed) = (BTreeMap::new(), BTreeSet::new());
    let (mut acked, mut read) = (false, false);
    for operation in history {
        match &operation.action {
            Action::Plan { wished: kinds, .. } => wished.get_or_insert_default().extend(kinds),
            Action::Fault { id, kind, phase, .. } => match phase {
                Phase::Begin => _ = begun.insert(*id, *kind),
                Phase::End => _ = healed.insert(*id),
            },
            Action::Crash { node, detail } => violations.push(Violation::Crashed {
                node: *node,
                detail: detail.clone(),
            }),
            Action::Write { .. } => acked |= operation.stage == Stage::Ok,
            Action::Read(answered) => {
                read |= answered.level == Level::Linearizable && answered.answer.is_some();
            }
            Action::Query { level, error, .. } => read |= *level == Level::Linearizable && error.is_none(),
            _ => {}
        }
    }
    let Some(wished) = wished else {
        return violations;
    };
    let complete: BTreeSet<FaultKind> = begun
        .into_iter()
        .filter(|(id, _)| healed.contains(id))
        .map(|(_, kind)| kind)
        .collect();
    violations.extend(
        wished
            .difference(&complete)
            .map(|kind| Violation::NeverFired(*kind)),
    );
    if !acked {
        violations.push(Violation::Idle("no write was acknowledged"));
    }
    if !read {
        violations.push(Violation::Idle("no linearizable read was answered"));
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::{Script, read_of};
    use crate::history::Form;
    use crate::values::Batch;

    fn script(kinds: &[FaultKind], reads: bool) -> Script {
        let mut script = Script::default();
        let wished = vec![FaultKind::Pause, FaultKind::PowerCutAll];
        script.add(Stage::Info, Action::Plan { seed: 1, wished });
        let batch = Batch {
            writer: 1,
            number: 1,
            series: 1,
            timestamp_ms: 1,
        };
        script.acked(batch);
        if reads {
            script.read(read_of(1, Level::Linearizable, Form::Raw));
        }
        for (id, kind) in kinds.iter().enumerate() {
            script.fault(id as u64, *kind, Phase::Begin, &[1]);
            script.fault(id as u64, *kind, Phase::End, &[1]);
        }
        script
    }

    #[test]
    fn accepts_a_run_in_which_all_happened() {
        let kinds = [FaultKind::Pause, FaultKind::PowerCutAll, FaultKind::Pause];
        let script = script(&kinds, true);
        assert_eq!(check_coverage(&script.operations), []);
        assert_eq!(fired(&script.operations).get(&FaultKind::Pause), Some(&2));
    }

    #[test]
    fn rejects_a_run_without_one_of_its_faults() {
        let mut script = script(&[FaultKind::Pause], true);
        script.fault(9, FaultKind::PowerCutAll, Phase::Begin, &[1, 2]);
        let never = Violation::NeverFired(FaultKind::PowerCutAll);
        assert_eq!(check_coverage(&script.operations), [never]);
    }

    #[test]
    fn rejects_a_run_without_reads_and_a_crash() {
        let mut script = script(&[FaultKind::Pause, FaultKind::PowerCutAll], false);
        let detail = "signal 6".to_owned();
        script.add(Stage::Info, Action::Crash { node: 3, detail });
        let names: Vec<_> = check_coverage(&script.operations)
            .iter()
            .map(Violation::checker)
            .collect();
        assert_eq!(names, ["crashed", "void"]);
    }
}
