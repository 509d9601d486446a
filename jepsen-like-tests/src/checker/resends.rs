//! Sending again changes nothing and is answered the same: all attempts of a batch together store each sample
//! once, none that was acknowledged is refused later, and what is refused could not be stored.

use std::collections::HashMap;

use super::Violation;
use crate::history::{Action, Operation, Stage};
use crate::values::{Batch, Kind};

/// Checks what the answers of a history say that was stored and refused.
pub fn check_resends(history: &[Operation]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut stored: HashMap<Batch, (u64, bool)> = HashMap::new();
    let mut overruled: Vec<Batch> = Vec::new();
    for operation in history {
        let Action::Write { batch, counts, .. } = &operation.action else {
            continue;
        };
        let is_acked = operation.stage == Stage::Ok;
        if is_acked || counts.as_ref().is_some_and(|counts| counts.stored > 0) {
            let known = stored.entry(*batch).or_default();
            known.0 += counts.as_ref().map_or(0, |counts| counts.stored);
            known.1 |= is_acked;
        }
        for (reason, samples) in counts.iter().flat_map(|counts| &counts.refused) {
            if Kind::of(batch.writer) == Kind::Overwrite && reason == "duplicate_timestamp" {
                overruled.push(*batch);
                continue;
            }
            violations.push(Violation::RefusedRetryable {
                writer: batch.writer,
                number: batch.number,
                reason: format!("{samples} {reason}"),
            });
        }
    }
    for (batch, (stored, _)) in &stored {
        if *stored > u64::from(batch.series) {
            violations.push(Violation::StoredTwice {
                writer: batch.writer,
                number: batch.number,
                stored: *stored,
                samples: u64::from(batch.series),
            });
        }
    }
    // Acknowledged is stored, and what is stored is a duplicate when it comes again.
    for batch in overruled {
        if stored.get(&batch).is_some_and(|(_, acked)| *acked) {
            violations.push(Violation::RefusedRetryable {
                writer: batch.writer,
                number: batch.number,
                reason: "acknowledged and refused".to_owned(),
            });
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::{Script, counts};
    use crate::history::Counts;

    fn batch(kind: Kind) -> Batch {
        Batch {
            writer: kind.writer(0),
            number: 4,
            series: 3,
            timestamp_ms: 9,
        }
    }

    fn refused(script: &mut Script, batch: Batch, stage: Stage, reason: &str) {
        let counts = Counts {
            refused: vec![(reason.to_owned(), 3)],
            ..Counts::default()
        };
        let action = Action::Write {
            batch,
            receipts: Vec::new(),
            counts: Some(counts),
            error: None,
        };
        script.add(stage, action);
    }

    fn names(script: &Script) -> Vec<&'static str> {
        let violations = check_resends(&script.operations);
        violations.iter().map(Violation::checker).collect()
    }

    #[test]
    fn accepts_attempts_that_store_each_sample_once() {
        let mut script = Script::default();
        for (stored, duplicate) in [(2, 1), (1, 2), (0, 3)] {
            script.sent(batch(Kind::Storm));
            script.answered(batch(Kind::Storm), Vec::new(), counts(stored, duplicate));
        }
        script.sent(batch(Kind::Overwrite));
        refused(
            &mut script,
            batch(Kind::Overwrite),
            Stage::Fail,
            "duplicate_timestamp",
        );
        assert!(names(&script).is_empty());
    }

    #[test]
    fn rejects_attempts_that_store_a_sample_twice() {
        let mut script = Script::default();
        script.committed(batch(Kind::Storm), &[]);
        script.committed(batch(Kind::Storm), &[]);
        assert_eq!(names(&script), ["repeated"]);
    }

    #[test]
    fn rejects_a_refusal_of_what_can_be_stored() {
        for (kind, reason) in [
            (Kind::Load, "bad_data"),
            (Kind::Load, "duplicate_timestamp"),
            (Kind::Overwrite, "too_old"),
            (Kind::Late, "out_of_order"),
        ] {
            let mut script = Script::default();
            script.sent(batch(kind));
            refused(&mut script, batch(kind), Stage::Fail, reason);
            assert_eq!(names(&script), ["refused_retryable"], "{kind:?} {reason}");
        }
    }

    #[test]
    fn rejects_a_refusal_of_what_was_acknowledged() {
        let mut script = Script::default();
        script.committed(batch(Kind::Overwrite), &[]);
        refused(
            &mut script,
            batch(Kind::Overwrite),
            Stage::Info,
            "duplicate_timestamp",
        );
        assert_eq!(names(&script), ["refused_retryable"]);
    }
}
