//! What is stored in the end: acknowledged ⊆ found ⊆ acknowledged ∪ unknown, with the bits that were sent, each
//! series and timestamp once.
//!
//! Where several batches contend for a timestamp, all acknowledged ones must have won, so at most one value may
//! be acknowledged; and none that was refused.

use std::collections::BTreeMap;

use super::answers::find;
use super::{SeenSamples, Verdict, Violation};
use crate::history::{BatchOutcome, Found, Group, Outcomes, Sorter, State, WriterOutcomes};
use crate::values::{Entry, Kind, SeriesId};

/// Judges entries in any order, from whatever store they come. Sorts them.
pub fn check_samples(outcomes: &Outcomes, found: &mut [Entry]) -> Verdict {
    found.sort_unstable();
    let mut sorted: BTreeMap<u32, Found> = BTreeMap::new();
    let mut verdict = Verdict::default();
    let mut points = Vec::new();
    for of_writer in found.chunk_by(|left, right| left.series.writer == right.series.writer) {
        let Some(writer) = of_writer.first().map(|entry| entry.series.writer) else {
            continue;
        };
        let Some(known) = outcomes.writer(writer) else {
            verdict.blame_all(of_writer.iter().map(|entry| Violation::Invented(*entry)));
            continue;
        };
        let mut sorter = Sorter::new(known);
        for of_series in of_writer.chunk_by(|left, right| left.series == right.series) {
            points.clear();
            points.extend(of_series.iter().map(|entry| (entry.timestamp_ms, entry.bits)));
            let series = of_series.first().map_or(0, |entry| entry.series.number);
            sorter.add(series, &mut points);
        }
        sorted.insert(writer, sorter.finish(0, None, writer));
    }
    check_found(outcomes, &sorted.values().collect::<Vec<_>>(), &mut verdict);
    verdict
}

/// What a read once returned is committed, so that it stays, whether a client was told or not.
pub fn check_seen(outcomes: &Outcomes, found: &[&Found], seen: &SeenSamples, verdict: &mut Verdict) {
    let by_writer: BTreeMap<u32, &Found> = found.iter().map(|found| (found.writer, *found)).collect();
    for entry in seen.entries() {
        let known = find(outcomes, entry.series, entry.timestamp_ms, entry.bits);
        let Some(known) = known.filter(|known| known.state == State::Unknown) else {
            continue;
        };
        let groups = by_writer
            .get(&entry.series.writer)
            .map_or(&[][..], |found| &found.groups);
        let number = entry.series.number;
        let holds = |group: &Group| {
            let mut ranges = group.series.iter();
            ranges.any(|(first, last)| (*first..=*last).contains(&number)) && group.holds(known.batch.number)
        };
        if !groups.iter().any(holds) {
            verdict.blame(Violation::Lost(*entry));
        }
    }
}

/// Judges all that one node holds. Writers of whom nothing was found are judged too.
pub fn check_found(outcomes: &Outcomes, found: &[&Found], verdict: &mut Verdict) {
    let by_writer: BTreeMap<u32, &Found> = found.iter().map(|found| (found.writer, *found)).collect();
    let nothing = Found::default();
    for (writer, known) in outcomes.writers() {
        let found = by_writer.get(&writer).copied().unwrap_or(&nothing);
        let mut judge = Judge {
            writer,
            outcomes: known,
            verdict,
        };
        judge.all(found);
    }
}

struct Judge<'a> {
    writer: u32,
    outcomes: &'a WriterOutcomes,
    verdict: &'a mut Verdict,
}

impl Judge<'_> {
    fn all(&mut self, found: &Found) {
        let mut seen: Vec<(u32, u32)> = Vec::new();
        for group in &found.groups {
            seen.extend(&group.series);
            // Series that come and go hold different batches each.
            match Kind::of(self.writer) {
                Kind::Churn => group
                    .series()
                    .for_each(|series| self.group(&[(series, series)], group)),
                _ => self.group(&group.series, group),
            }
        }
        // Series of which nothing was returned.
        seen.sort_unstable();
        let end = self.outcomes.batches().iter().map(|known| {
            let batch = known.batch;
            batch.first_series().saturating_add(batch.series)
        });
        let mut next = 0;
        let mut absent = Vec::new();
        for (first, last) in seen.into_iter().chain(end.max().map(|end| (end, end))) {
            if next < first {
                absent.push((next, first - 1));
            }
            next = next.max(last.saturating_add(1));
        }
        let nothing = Group::default();
        match Kind::of(self.writer) {
            Kind::Churn => {
                for series in absent.iter().flat_map(|(first, last)| *first..=*last) {
                    self.group(&[(series, series)], &nothing);
                }
            }
            _ if absent.is_empty() => {}
            _ => self.group(&absent, &nothing),
        }
    }

    /// Series that hold the same. All of them are such that [`WriterOutcomes::of_series`] is the same.
    fn group(&mut self, series: &[(u32, u32)], group: &Group) {
        let Some((first, _)) = series.first() else { return };
        let outcomes = self.outcomes;
        let mut batches = outcomes.of_series(*first).peekable();
        let mut strange: BTreeMap<i64, Vec<u64>> = BTreeMap::new();
        for (timestamp_ms, bits) in &group.others {
            strange.entry(*timestamp_ms).or_default().push(*bits);
        }
        let mut contenders = Vec::new();
        while let Some(known) = batches.next() {
            let timestamp_ms = known.batch.timestamp_ms;
            let others = strange.remove(&timestamp_ms).unwrap_or_default();
            contenders.clear();
            contenders.push(known);
            while let Some(next) = batches.next_if(|next| next.batch.timestamp_ms == timestamp_ms) {
                contenders.push(next);
            }
            match contenders.as_slice() {
                [known] if others.is_empty() => self.one(series, known, group.holds(known.batch.number)),
                several => {
                    for number in series.iter().flat_map(|(first, last)| *first..=*last) {
                        self.contended(number, several, group, &others);
                    }
                }
            }
        }
        for (timestamp_ms, bits) in strange {
            for bits in bits {
                let entry = self.entry(*first, timestamp_ms, bits);
                self.verdict.blame(Violation::Invented(entry));
            }
        }
    }

    /// The usual case: one batch at a timestamp, there or not there, the same for all series.
    fn one(&mut self, series: &[(u32, u32)], known: &BatchOutcome, is_there: bool) {
        let batch = known.batch;
        let (low, end) = (batch.first_series(), batch.first_series() + batch.series);
        let covered = || {
            let within = series
                .iter()
                .map(move |(first, last)| (*first).max(low)..end.min(last + 1));
            within.filter(|range| range.start < range.end)
        };
        let count: u64 = covered().map(|range| u64::from(range.end - range.start)).sum();
        let each = |make: fn(Entry) -> Violation, verdict: &mut Verdict| {
            for number in covered().flatten() {
                let entry = Entry {
                    series: SeriesId {
                        writer: batch.writer,
                        number,
                    },
                    timestamp_ms: batch.timestamp_ms,
                    bits: batch.bits_of(number).unwrap_or_default(),
                };
                verdict.blame(make(entry));
            }
        };
        match (known.state, is_there) {
            (State::Acked, true) => self.verdict.acked += count,
            (State::Acked, false) => {
                self.verdict.acked += count;
                each(Violation::Lost, self.verdict);
            }
            (State::Unknown, true) => self.verdict.unknown_stored += count,
            (State::Unknown, false) => self.verdict.unknown_absent += count,
            (State::Refused, true) => each(Violation::Invented, self.verdict),
            (State::Refused, false) => {}
        }
    }

    /// Several batches at one timestamp of a series, or something there that is of none of them.
    fn contended(&mut self, series: u32, contenders: &[&BatchOutcome], group: &Group, others: &[u64]) {
        let of_series = contenders
            .iter()
            .filter_map(|known| Some((known, known.batch.bits_of(series)?)));
        let (mut there, mut wanted, mut sent) = (Vec::new(), Vec::new(), Vec::new());
        let timestamp_ms = contenders.first().map_or(0, |known| known.batch.timestamp_ms);
        for (known, bits) in of_series {
            let is_there = group.holds(known.batch.number);
            match (known.state, is_there) {
                (State::Acked, _) => {
                    self.verdict.acked += 1;
                    wanted.push(bits);
                }
                (State::Unknown, true) => self.verdict.unknown_stored += 1,
                (State::Unknown, false) => self.verdict.unknown_absent += 1,
                (State::Refused, true) => {
                    let entry = self.entry(series, timestamp_ms, bits);
                    self.verdict.blame(Violation::Invented(entry));
                }
                (State::Refused, false) => {}
            }
            if is_there {
                there.push(bits);
            }
            if known.state != State::Refused {
                sent.push(bits);
            }
        }
        // What is there of no contender: the same bits again, or bits that nobody sent.
        for bits in others {
            let entry = self.entry(series, timestamp_ms, *bits);
            let violation = match (there.is_empty(), sent.first()) {
                (false, _) => Violation::Repeated(entry),
                (true, Some(sent)) => Violation::Altered {
                    found: entry,
                    sent: *sent,
                },
                (true, None) => Violation::Invented(entry),
            };
            self.verdict.blame(violation);
        }
        for bits in there.iter().skip(1) {
            let entry = self.entry(series, timestamp_ms, *bits);
            self.verdict.blame(Violation::Repeated(entry));
        }
        for bits in wanted.into_iter().filter(|bits| !there.contains(bits)) {
            match there.first() {
                Some(found) => {
                    let found = self.entry(series, timestamp_ms, *found);
                    self.verdict.blame(Violation::Altered { found, sent: bits });
                }
                // Then it was blamed as altered above.
                None if !others.is_empty() => {}
                None => {
                    let entry = self.entry(series, timestamp_ms, bits);
                    self.verdict.blame(Violation::Lost(entry));
                }
            }
        }
    }

    fn entry(&self, number: u32, timestamp_ms: i64, bits: u64) -> Entry {
        Entry {
            series: SeriesId {
                writer: self.writer,
                number,
            },
            timestamp_ms,
            bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::testing::Script;
    use crate::values::Batch;

    fn batch(number: u64) -> Batch {
        Batch {
            writer: 1,
            number,
            series: 3,
            timestamp_ms: 1_000 + number as i64,
        }
    }

    fn outcomes(acked: &[u64], unknown: &[u64], refused: &[u64]) -> Outcomes {
        let mut script = Script::default();
        acked.iter().for_each(|number| script.acked(batch(*number)));
        unknown.iter().for_each(|number| script.unknown(batch(*number)));
        refused.iter().for_each(|number| script.refused(batch(*number)));
        Outcomes::of(&script.operations)
    }

    fn stored(numbers: &[u64]) -> Vec<Entry> {
        // In no particular order.
        let batches = numbers.iter().rev().map(|number| batch(*number));
        batches.flat_map(Batch::entries).collect()
    }

    #[test]
    fn accepts_any_part_of_what_is_unknown() {
        let mut found = stored(&[1, 2, 5]);
        found.pop();
        // A third of batch 1 is missing, so batch 1 must not count as acknowledged.
        let verdict = check_samples(&outcomes(&[2], &[1, 3, 5], &[4]), &mut found);
        let counts = (verdict.acked, verdict.unknown_stored, verdict.unknown_absent);
        assert_eq!((verdict.violations, counts), (0, (3, 5, 4)));
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
    fn rejects_the_loss_of_whole_series_and_writers() {
        let found = stored(&[1, 2]);
        let mut without: Vec<Entry> = found
            .iter()
            .copied()
            .filter(|entry| entry.series.number != 1)
            .collect();
        assert_eq!(check_samples(&outcomes(&[1, 2], &[], &[]), &mut without).lost, 2);
        assert_eq!(check_samples(&outcomes(&[1, 2], &[], &[]), &mut []).lost, 6);
    }

    #[test]
    fn rejects_what_was_refused_or_never_sent() {
        for (refused, number) in [(vec![9], 9), (vec![], 9), (vec![], 0)] {
            let verdict = check_samples(&outcomes(&[1, 2], &[], &refused), &mut stored(&[1, 2, number]));
            assert_eq!((verdict.invented, verdict.violations), (3, 3), "{number}");
        }
        for series in [
            SeriesId { writer: 1, number: 3 },
            SeriesId { writer: 2, number: 0 },
        ] {
            let other = Entry {
                series,
                ..stored(&[1])[0]
            };
            let mut found = stored(&[1]);
            found.push(other);
            let verdict = check_samples(&outcomes(&[1], &[], &[]), &mut found);
            // A series too many of a batch's own time is like any other value there.
            assert_eq!(verdict.shown.len(), 1, "{verdict:?}");
        }
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
        let mut other = found[0];
        other.bits = 5;
        found[3] = other;
        let verdict = check_samples(&outcomes(&[1], &[], &[]), &mut found);
        assert_eq!(verdict.shown, [Violation::Repeated(other)]);
    }

    fn contender(number: u64) -> Batch {
        Batch {
            writer: Kind::Overwrite.writer(0),
            number,
            series: 2,
            timestamp_ms: 5,
        }
    }

    fn contended(acked: &[u64], unknown: &[u64], refused: &[u64], stored: &[u64]) -> Verdict {
        let mut script = Script::default();
        acked.iter().for_each(|number| script.acked(contender(*number)));
        unknown
            .iter()
            .for_each(|number| script.unknown(contender(*number)));
        refused
            .iter()
            .for_each(|number| script.refused(contender(*number)));
        let mut found: Vec<Entry> = stored
            .iter()
            .flat_map(|number| contender(*number).entries())
            .collect();
        check_samples(&Outcomes::of(&script.operations), &mut found)
    }

    #[test]
    fn accepts_any_winner_that_may_have_won() {
        for (acked, unknown, refused, stored) in [
            (&[1][..], &[2][..], &[3][..], &[1][..]),
            (&[], &[1, 2], &[3], &[2]),
            (&[], &[1, 2], &[], &[]),
            (&[], &[], &[], &[]),
        ] {
            let verdict = contended(acked, unknown, refused, stored);
            assert_eq!(verdict.violations, 0, "{verdict:?}");
        }
    }

    #[test]
    fn rejects_a_winner_that_was_refused_or_beat_an_acknowledged_one() {
        let by_checker = |verdict: Verdict| verdict.by_checker.into_iter().collect::<Vec<_>>();
        assert_eq!(by_checker(contended(&[1], &[2], &[], &[2])), [("altered", 2)]);
        assert_eq!(by_checker(contended(&[1, 2], &[], &[], &[2])), [("altered", 2)]);
        assert_eq!(by_checker(contended(&[1], &[2], &[], &[])), [("lost", 2)]);
        assert_eq!(by_checker(contended(&[], &[2], &[1], &[1])), [("invented", 2)]);
        assert_eq!(
            by_checker(contended(&[], &[1, 2], &[], &[1, 2])),
            [("repeated", 2)]
        );
    }
}
