//! Judgement of a history against what the cluster holds in the end. Every rule is a sort and a merge, one rule a
//! file, each with a history that it accepts and one that it must reject.
//!
//! A rule may only blame what no correct cluster can do. Outcomes that are not known allow everything: such a
//! write may be stored in part, and may be stored late. Clocks of nodes are never compared with times of a
//! history, which are those of one monotonic clock.

mod answers;
mod coverage;
mod expected;
mod freshness;
mod marks;
mod placement;
mod replicas;
mod resends;
mod sessions;
mod stored;
mod terms;
#[cfg(test)]
mod testing;
mod verdict;
mod violation;

use std::collections::BTreeSet;
use std::path::Path;

use crate::history::{Action, Found, Level, Operation, Outcomes, Stage, State, read_file};

pub use answers::{SeenSamples, check_answers};
pub use coverage::{check_coverage, fired};
pub use freshness::{check_indexes, check_probes};
pub use placement::Placement;
pub use replicas::check_replicas;
pub use resends::check_resends;
pub use sessions::check_sessions;
pub use stored::{check_found, check_samples, check_seen};
pub use terms::check_terms;
pub use verdict::Verdict;
pub use violation::{CHECKERS, Violation};

/// Judges a history by its own lines alone. If the cluster was read back into it, that is judged too.
pub fn check_history(history: &[Operation]) -> Verdict {
    let outcomes = Outcomes::of(history);
    let (placement, split) = Placement::of(history);
    let (wrong, seen) = check_answers(history, &outcomes, &placement);
    let mut verdict = check_content(history, &outcomes, &seen);
    verdict.blame_all(check_terms(history, &outcomes));
    verdict.blame_all(check_resends(history));
    verdict.blame_all(check_indexes(history));
    verdict.blame_all(check_probes(history, &outcomes));
    verdict.blame_all(check_sessions(history));
    verdict.blame_all(wrong);
    verdict.blame_all(check_replicas(history));
    verdict.blame_all(split);
    verdict.blame_all(check_coverage(history));
    verdict
}

/// Judges a file of a recorder.
pub fn check_file(path: &Path) -> anyhow::Result<Verdict> {
    Ok(check_history(&read_file(path)?.operations))
}

/// Judges what every node holds in the end. What several nodes do wrong alike counts once.
fn check_content(history: &[Operation], outcomes: &Outcomes, seen: &SeenSamples) -> Verdict {
    let mut verdict = Verdict {
        acked: outcomes.samples(State::Acked),
        ..Verdict::default()
    };
    for (at, readings) in readings(history).iter().enumerate() {
        let mut own = Verdict::default();
        check_found(outcomes, readings, &mut own);
        check_seen(outcomes, readings, seen, &mut own);
        if at == 0 {
            verdict.unknown_stored = own.unknown_stored;
            verdict.unknown_absent = own.unknown_absent;
        }
        verdict.merge_worst(own);
    }
    let strangers: BTreeSet<&String> = history
        .iter()
        .filter_map(|operation| match &operation.action {
            Action::Strangers { series, .. } => Some(series),
            _ => None,
        })
        .flatten()
        .collect();
    let unknown = strangers.into_iter().cloned().map(Violation::UnknownSeries);
    verdict.blame_all(unknown);
    verdict
}

/// What was read back after the last write: all writers' series of each node and level.
fn readings(history: &[Operation]) -> Vec<Vec<&Found>> {
    let mut readings: Vec<Vec<&Found>> = Vec::new();
    let mut newest: Option<(u64, Option<Level>)> = None;
    for operation in history {
        match &operation.action {
            Action::Write { .. } if operation.stage == Stage::Invoke => {
                readings.clear();
                newest = None;
            }
            Action::Found(found) => {
                let is_again =
                    |reading: &Vec<&Found>| reading.iter().any(|known| known.writer == found.writer);
                let of = Some((found.node, found.level));
                match readings.last_mut() {
                    Some(reading) if newest == of && !is_again(reading) => reading.push(found),
                    _ => readings.push(vec![found]),
                }
                newest = of;
            }
            _ => {}
        }
    }
    readings
}

#[cfg(test)]
mod tests {
    use super::testing::{Script, answer_of, counts, read_of, receipt, shard};
    use super::*;
    use crate::history::{Form, GroupSum, Sorter};
    use crate::values::{Batch, Entry};

    fn batch(writer: u32, number: u64) -> Batch {
        Batch {
            writer,
            number,
            series: 4,
            timestamp_ms: 1_000 + 10 * number as i64,
        }
    }

    /// A run without fault: two writers, reads, checksums, everything found on three nodes.
    fn whole_run(change: impl Fn(&mut Vec<Entry>)) -> Script {
        let mut script = Script::default();
        let mut entries = Vec::new();
        for number in 1..=20 {
            for writer in [1, 2] {
                let index = 2 * number + u64::from(writer);
                script.sent(batch(writer, number));
                script.answered(
                    batch(writer, number),
                    vec![receipt((writer, 1, index))],
                    counts(4, 0),
                );
                entries.extend(batch(writer, number).entries());
            }
            let mut read = read_of(1, Level::Linearizable, Form::Raw);
            read.answer = Some(answer_of(
                &(1..=number).map(|number| batch(1, number)).collect::<Vec<_>>(),
            ));
            read.shards = vec![shard(1, 2 * number + 1, 2 * number + 1)];
            script.read(read);
        }
        script.unknown(batch(1, 21));
        let outcomes = Outcomes::of(&script.operations);
        let groups = |own: u64| {
            [1, 2].map(|shard| GroupSum {
                shard,
                applied: 43,
                checksum: own,
                series: 4,
                samples: 80,
            })
        };
        for node in 1..=3 {
            let groups = groups(5).to_vec();
            script.add(Stage::Info, Action::Checksums { node, groups });
        }
        change(&mut entries);
        entries.sort_unstable();
        for node in 1..=3 {
            for writer in [1, 2] {
                let mut sorter = Sorter::new(outcomes.writer(writer).unwrap());
                let own = entries.iter().filter(|entry| entry.series.writer == writer);
                let own: Vec<Entry> = own.copied().collect();
                for series in own.chunk_by(|left, right| left.series == right.series) {
                    let mut points: Vec<_> = series
                        .iter()
                        .map(|entry| (entry.timestamp_ms, entry.bits))
                        .collect();
                    sorter.add(series[0].series.number, &mut points);
                }
                let found = sorter.finish(node, Some(Level::Local), writer);
                script.add(Stage::Ok, Action::Found(Box::new(found)));
            }
        }
        script
    }

    #[test]
    fn a_run_without_fault_passes() {
        let verdict = check_history(&whole_run(|_| {}).operations)
            .into_result()
            .unwrap();
        let counts = (verdict.acked, verdict.unknown_stored, verdict.unknown_absent);
        assert_eq!(counts, (160, 0, 4));
    }

    /// If this passes a doctored history, no verdict can be trusted.
    #[test]
    fn canary_doctored_histories_fail() {
        type Doctor = fn(&mut Vec<Entry>);
        let doctored: [(&str, Doctor); 4] = [
            ("lost", |entries| _ = entries.remove(77)),
            ("altered", |entries| entries[77].bits ^= 1),
            ("repeated", |entries| entries.push(entries[77])),
            ("invented", |entries| {
                entries[77].timestamp_ms += 1;
                let kept = entries[77];
                entries.push(Entry {
                    timestamp_ms: kept.timestamp_ms - 1,
                    ..kept
                });
            }),
        ];
        for (name, change) in doctored {
            let verdict = check_history(&whole_run(change).operations);
            assert_eq!(verdict.by_checker.get(name), Some(&1), "{name}: {verdict}");
        }
        type Rewrite = fn(&mut Vec<Operation>);
        let rewritten: [(&str, Rewrite); 4] = [
            ("two_terms", |lines| {
                let acks = lines.iter_mut().filter(|line| line.stage == Stage::Ok);
                if let Some(Action::Write { receipts, .. }) = acks.map(|line| &mut line.action).next() {
                    receipts[0].term = 9;
                }
            }),
            ("stale_linearizable", |lines| {
                for line in lines.iter_mut().skip(30) {
                    if let Action::Read(read) = &mut line.action {
                        return read.shards[0].before = 1;
                    }
                }
            }),
            ("prefix", |lines| {
                for line in lines.iter_mut().skip(30) {
                    if let Action::Read(read) = &mut line.action {
                        let answer = read.answer.as_mut().unwrap();
                        answer.series[2].points.remove(1);
                        return;
                    }
                }
            }),
            ("diverged", |lines| {
                for line in lines.iter_mut() {
                    if let Action::Checksums { groups, .. } = &mut line.action {
                        return groups[1].checksum = 6;
                    }
                }
            }),
        ];
        for (name, rewrite) in rewritten {
            let mut script = whole_run(|_| {});
            rewrite(&mut script.operations);
            let verdict = check_history(&script.operations);
            assert!(verdict.by_checker.contains_key(name), "{name}: {verdict}");
        }
    }

    #[test]
    fn a_file_is_judged_like_the_history_in_memory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.jsonl");
        let script = whole_run(|entries| _ = entries.pop());
        crate::history::write_lines(&script.operations, std::fs::File::create(&path).unwrap()).unwrap();
        let (file, memory) = (check_file(&path).unwrap(), check_history(&script.operations));
        assert_eq!((file.lost, file.by_checker), (1, memory.by_checker));
    }

    #[test]
    fn what_was_read_back_before_more_was_written_is_no_evidence() {
        let mut script = whole_run(|entries| entries.clear());
        script.acked(batch(2, 30));
        assert_eq!(check_history(&script.operations).lost, 0);
    }
}
