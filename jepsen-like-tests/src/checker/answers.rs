//! The contents of answers: whatever is asked, raw or by PromQL, the answer is one that the samples of the model
//! can give: with all that the read must see, and nothing that it may not.

use std::collections::BTreeMap;

use super::Violation;
use super::expected::{Candidate, Model, STALE_BITS, Seen, Why};
use super::freshness::Drifts;
use super::placement::Placement;
use crate::history::{Action, Answer, BatchOutcome, Form, Operation, Outcomes, Read, SeriesPoints, State};
use crate::values::{Entry, Kind, SeriesId};

/// Samples that some read returned and no client knew to be stored: they must stay.
#[derive(Debug, Default)]
pub struct SeenSamples(Vec<Entry>);

impl SeenSamples {
    /// The samples, sorted.
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }
}

/// Checks all answers of a history.
pub fn check_answers(
    history: &[Operation],
    outcomes: &Outcomes,
    placement: &Placement,
) -> (Vec<Violation>, SeenSamples) {
    let drifts = Drifts::of(history);
    let mut model = Model::new(outcomes, placement, &drifts);
    let mut violations = Vec::new();
    model.seen = collect_seen(history, outcomes, &mut violations);
    for operation in history {
        let Action::Read(read) = &operation.action else {
            continue;
        };
        let Some(answer) = &read.answer else { continue };
        let mut check = Check {
            model: &mut model,
            read,
            ended_us: operation.time_us,
            violations: &mut violations,
        };
        check.answer(answer);
    }
    let entry = |((series, timestamp_ms), (bits, _)): ((SeriesId, i64), (u64, u64))| Entry {
        series,
        timestamp_ms,
        bits,
    };
    let mut seen: Vec<Entry> = model.seen.into_iter().map(entry).collect();
    seen.sort_unstable();
    (violations, SeenSamples(seen))
}

/// Samples of batches that nobody had acknowledged when a read returned them. A value that was returned once never
/// becomes another.
fn collect_seen(history: &[Operation], outcomes: &Outcomes, violations: &mut Vec<Violation>) -> Seen {
    let mut seen = Seen::new();
    for operation in history {
        let Action::Read(read) = &operation.action else {
            continue;
        };
        if !matches!(read.question.form, Form::Raw) {
            continue;
        }
        for series in read.answer.iter().flat_map(|answer| &answer.series) {
            let id = id_of(series);
            for (timestamp_ms, bits) in &series.points {
                let Some(known) = find(outcomes, id, *timestamp_ms, *bits) else {
                    continue;
                };
                let was_known = known
                    .acked_us
                    .is_some_and(|acked_us| acked_us < operation.time_us);
                if was_known && Kind::of(id.writer) != Kind::Overwrite {
                    continue;
                }
                let first = *seen
                    .entry((id, *timestamp_ms))
                    .or_insert((*bits, operation.time_us));
                if first.0 != *bits {
                    let found = entry(id, *timestamp_ms, *bits);
                    violations.push(Violation::Altered { found, sent: first.0 });
                }
            }
        }
    }
    seen
}

fn id_of(series: &SeriesPoints) -> SeriesId {
    SeriesId {
        writer: series.writer,
        number: series.number,
    }
}

fn entry(series: SeriesId, timestamp_ms: i64, bits: u64) -> Entry {
    Entry {
        series,
        timestamp_ms,
        bits,
    }
}

/// The batch that wrote these bits.
pub(super) fn find(
    outcomes: &Outcomes,
    series: SeriesId,
    timestamp_ms: i64,
    bits: u64,
) -> Option<&BatchOutcome> {
    let writer = outcomes.writer(series.writer)?;
    let mut same_time = writer.between(timestamp_ms.checked_sub(1)?, timestamp_ms);
    same_time.find(|known| known.batch.bits_of(series.number) == Some(bits))
}

/// What a number may be.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bounds {
    least: f64,
    most: f64,
    /// Whether there may be no number at all.
    may_be_absent: bool,
}

impl Bounds {
    fn allow(self, found: Option<f64>) -> bool {
        match found {
            None => self.may_be_absent,
            Some(number) => number >= self.least && number <= self.most && self.most > 0.0,
        }
    }
}

struct Check<'c, 'm> {
    model: &'c mut Model<'m>,
    read: &'c Read,
    ended_us: u64,
    violations: &'c mut Vec<Violation>,
}

impl Check<'_, '_> {
    fn answer(&mut self, answer: &Answer) {
        let question = &self.read.question;
        for stranger in &answer.strangers {
            self.violations.push(Violation::UnknownSeries(stranger.clone()));
        }
        for series in &answer.series {
            let id = id_of(series);
            if !self.model.takes(question, id) {
                self.wrong(
                    format!("{:?}", id.labels()),
                    "no series that doesn't match".to_owned(),
                );
            }
        }
        let after_ms = match question.form {
            Form::Steps => question
                .steps()
                .next()
                .map_or(question.after_ms, |(after_ms, _)| after_ms),
            _ => question.after_ms,
        };
        let window = (after_ms, question.until_ms);
        let mut candidates = self.model.candidates(self.read, self.ended_us, window);
        if !matches!(question.form, Form::Raw | Form::Steps) {
            for of_series in candidates.values_mut() {
                of_series.retain(|candidate| candidate.bits != STALE_BITS);
            }
        }
        match question.form {
            Form::Raw | Form::Samples => self.samples(answer, candidates),
            Form::Count => self.each(answer, &candidates, |found, own| {
                let bounds = count(own);
                let found = found.map(|points| points.first().map_or(0.0, |(_, bits)| f64::from_bits(*bits)));
                (!bounds.allow(found)).then(|| (format!("{found:?}"), format!("{bounds:?}")))
            }),
            Form::TotalCount => {
                let bounds = add(candidates.values().map(|own| count(own)));
                self.number(answer, bounds);
            }
            Form::Newest => self.each(answer, &candidates, |found, own| {
                let bits = found.and_then(|points| points.first()).map(|(_, bits)| *bits);
                newest_differs(bits, own)
            }),
            Form::Sum => {
                let bounds = add(candidates.values().map(|own| last_value(own)));
                self.number(answer, bounds);
            }
            Form::Steps => {
                let steps: Vec<(i64, i64)> = question.steps().collect();
                self.each(answer, &candidates, |found, own| {
                    steps.iter().find_map(|(after_ms, until_ms)| {
                        let point = found
                            .unwrap_or_default()
                            .iter()
                            .find(|(time_ms, _)| time_ms == until_ms);
                        let from = own.partition_point(|candidate| candidate.timestamp_ms <= *after_ms);
                        let to = own.partition_point(|candidate| candidate.timestamp_ms <= *until_ms);
                        let within = own.get(from..to).unwrap_or_default();
                        newest_differs(point.map(|(_, bits)| *bits), within)
                    })
                });
            }
        }
    }

    fn wrong(&mut self, found: String, expected: String) {
        self.violations.push(Violation::WrongAnswer {
            node: self.read.node,
            level: self.read.level,
            question: self.read.question.clone(),
            found,
            expected,
        });
    }

    fn number(&mut self, answer: &Answer, bounds: Bounds) {
        if !bounds.allow(answer.number) {
            self.wrong(format!("{:?}", answer.number), format!("{bounds:?}"));
        }
    }

    /// Judges every series that is in the answer or should be.
    fn each(
        &mut self,
        answer: &Answer,
        candidates: &BTreeMap<SeriesId, Vec<Candidate>>,
        differs: impl Fn(Option<&[(i64, u64)]>, &[Candidate]) -> Option<(String, String)>,
    ) {
        let mut found: BTreeMap<SeriesId, &[(i64, u64)]> = BTreeMap::new();
        for series in &answer.series {
            found.insert(id_of(series), &series.points);
        }
        for (id, own) in candidates {
            if let Some((found, expected)) = differs(found.remove(id), own) {
                self.wrong(format!("{id:?}: {found}"), expected);
            }
        }
        for (id, points) in found {
            if let Some((found, expected)) = differs(Some(points), &[]) {
                self.wrong(format!("{id:?}: {found}"), expected);
            }
        }
    }

    /// Samples one by one.
    fn samples(&mut self, answer: &Answer, mut candidates: BTreeMap<SeriesId, Vec<Candidate>>) {
        for series in &answer.series {
            let id = id_of(series);
            let own = candidates.remove(&id).unwrap_or_default();
            self.points(id, &series.points, &own);
        }
        for (id, own) in candidates {
            self.points(id, &[], &own);
        }
    }

    fn points(&mut self, id: SeriesId, points: &[(i64, u64)], own: &[Candidate]) {
        // PromQL may give a NaN another payload.
        let is_raw = self.read.question.form == Form::Raw;
        let same = |left: u64, right: u64| {
            left == right || (!is_raw && f64::from_bits(left).is_nan() && f64::from_bits(right).is_nan())
        };
        let mut rest = points.iter().peekable();
        let mut last_ms = None;
        for at_time in own.chunk_by(|left, right| left.timestamp_ms == right.timestamp_ms) {
            let Some(timestamp_ms) = at_time.first().map(|candidate| candidate.timestamp_ms) else {
                continue;
            };
            while let Some((early_ms, bits)) = rest.next_if(|(early_ms, _)| *early_ms < timestamp_ms) {
                self.unexpected(id, *early_ms, *bits, &[], last_ms);
                last_ms = Some(*early_ms);
            }
            let must = at_time.iter().find(|candidate| candidate.must.is_some());
            let Some((_, bits)) = rest.next_if(|(own_ms, _)| *own_ms == timestamp_ms) else {
                if let Some(must) = must {
                    self.missing(id, must);
                }
                continue;
            };
            last_ms = Some(timestamp_ms);
            match must {
                Some(must) if !same(*bits, must.bits) => self.violations.push(Violation::Altered {
                    found: entry(id, timestamp_ms, *bits),
                    sent: must.bits,
                }),
                None if !at_time.iter().any(|candidate| same(*bits, candidate.bits)) => {
                    self.unexpected(id, timestamp_ms, *bits, at_time, None);
                }
                _ => {}
            }
        }
        for (late_ms, bits) in rest {
            self.unexpected(id, *late_ms, *bits, &[], last_ms);
            last_ms = Some(*late_ms);
        }
    }

    fn missing(&mut self, id: SeriesId, candidate: &Candidate) {
        let (node, level, question) = (self.read.node, self.read.level, self.read.question.clone());
        let entry = entry(id, candidate.timestamp_ms, candidate.bits);
        self.violations.push(match candidate.must {
            Some(Why::Prefix) => Violation::Prefix {
                node,
                entry,
                present: false,
                question,
            },
            _ => Violation::Missing {
                node,
                level,
                entry,
                question,
            },
        });
    }

    /// A sample that the read may not see.
    fn unexpected(
        &mut self,
        id: SeriesId,
        timestamp_ms: i64,
        bits: u64,
        at_time: &[Candidate],
        last_ms: Option<i64>,
    ) {
        let found = entry(id, timestamp_ms, bits);
        if last_ms == Some(timestamp_ms) {
            return self.violations.push(Violation::Repeated(found));
        }
        if let Some(candidate) = at_time.first() {
            let sent = candidate.bits;
            return self.violations.push(Violation::Altered { found, sent });
        }
        let known = find(self.model.outcomes, id, timestamp_ms, bits);
        let is_early = known.is_some_and(|known| {
            let view = self.model.view(self.read, id);
            known.state != State::Refused && known.sent_us < self.ended_us && view.hides(known)
        });
        self.violations.push(match is_early {
            true => Violation::Prefix {
                node: self.read.node,
                entry: found,
                present: true,
                question: self.read.question.clone(),
            },
            false => Violation::Invented(found),
        });
    }
}

/// How many samples of a series a window may hold.
fn count(own: &[Candidate]) -> Bounds {
    let mut bounds = Bounds {
        least: 0.0,
        most: 0.0,
        may_be_absent: true,
    };
    for at_time in own.chunk_by(|left, right| left.timestamp_ms == right.timestamp_ms) {
        bounds.most += 1.0;
        if at_time.iter().any(|candidate| candidate.must.is_some()) {
            bounds.least += 1.0;
            bounds.may_be_absent = false;
        }
    }
    bounds
}

/// What the newest value of a series may be, where values grow with time.
fn last_value(own: &[Candidate]) -> Bounds {
    let must = own.iter().rev().find(|candidate| candidate.must.is_some());
    let value = |candidate: &Candidate| f64::from_bits(candidate.bits);
    Bounds {
        least: must.map_or(0.0, value),
        most: own.last().map_or(0.0, value),
        may_be_absent: must.is_none(),
    }
}

fn add(all: impl Iterator<Item = Bounds>) -> Bounds {
    let nothing = Bounds {
        least: 0.0,
        most: 0.0,
        may_be_absent: true,
    };
    all.fold(nothing, |sum, one| Bounds {
        least: sum.least + one.least,
        most: sum.most + one.most,
        may_be_absent: sum.may_be_absent && one.may_be_absent,
    })
}

/// Whether these bits, or none, can't be the newest value of a series. A stale marker hides what is older.
fn newest_differs(found: Option<u64>, own: &[Candidate]) -> Option<(String, String)> {
    let must = own.iter().rposition(|candidate| candidate.must.is_some());
    let newest = own.get(must.unwrap_or(0)..).unwrap_or_default();
    let may_be_absent = must.is_none() || newest.iter().any(|candidate| candidate.bits == STALE_BITS);
    let is_allowed = match found {
        None => may_be_absent,
        Some(bits) => newest.iter().any(|candidate| {
            let both_nan = f64::from_bits(bits).is_nan() && f64::from_bits(candidate.bits).is_nan();
            candidate.bits != STALE_BITS && (candidate.bits == bits || both_nan)
        }),
    };
    (!is_allowed).then(|| {
        let shown = newest.get(..newest.len().min(5)).unwrap_or_default();
        (format!("{found:x?}"), format!("one of {shown:x?}"))
    })
}
