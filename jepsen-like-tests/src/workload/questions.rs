//! Random questions whose answers the model can foretell: every form, random matchers, random windows.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::history::{Form, Matcher, Pattern, Question};
use crate::values::{Kind, SeriesId};

/// Windows of questions about the bulk of the load are short, or answers get large.
const LOAD_WINDOW_MS: i64 = 3_000;
const WINDOW_MS: i64 = 20_000;
/// Windows of numbers about few series.
const WIDE_WINDOW_MS: i64 = 25 * 60 * 1_000;

/// Which series there are to ask for.
#[derive(Debug, Clone, Default)]
pub(super) struct Catalogue(Vec<(u32, u32)>);

impl Catalogue {
    /// A writer of so many series.
    pub(super) fn add(&mut self, writer: u32, series: u32) {
        self.0.push((writer, series));
    }

    fn of(&self, wanted: impl Fn(Kind) -> bool) -> Vec<(u32, u32)> {
        let known = self.0.iter().copied();
        known.filter(|(writer, _)| wanted(Kind::of(*writer))).collect()
    }
}

/// Makes up questions.
#[derive(Debug)]
pub(super) struct Questions {
    catalogue: Catalogue,
    rng: StdRng,
}

impl Questions {
    pub(super) fn new(catalogue: Catalogue, seed: u64) -> Questions {
        Questions {
            catalogue,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// A question about samples from `began_ms` to `now_ms`, mostly about the newest; none if there is no writer.
    pub(super) fn next(&mut self, began_ms: i64, now_ms: i64) -> Option<Question> {
        let form = self.form();
        let writers = match form {
            // Only whole numbers add up to something foretold.
            Form::Sum => self.catalogue.of(|kind| kind == Kind::Whole),
            _ => self.catalogue.of(|kind| kind != Kind::Probe),
        };
        let (writer, series) = *writers.choose(&mut self.rng)?;
        let kind = Kind::of(writer);
        let matchers = self.matchers(form, writer, series);
        let is_number = matches!(form, Form::TotalCount | Form::Sum | Form::Newest);
        let longest_ms = match kind {
            Kind::Load => LOAD_WINDOW_MS,
            Kind::Late if is_number => WIDE_WINDOW_MS,
            _ => WINDOW_MS,
        };
        let window_ms = self.rng.random_range(longest_ms / 10..longest_ms);
        let until_ms = match self.rng.random_range(0..10) {
            0..6 => now_ms + self.rng.random_range(-1_500..500),
            _ if kind == Kind::Late => now_ms - self.rng.random_range(0..WIDE_WINDOW_MS),
            _ => self.rng.random_range(began_ms.min(now_ms - 1)..now_ms),
        };
        Some(Question {
            form,
            matchers,
            after_ms: until_ms - window_ms,
            until_ms,
        })
    }

    fn form(&mut self) -> Form {
        match self.rng.random_range(0..20) {
            0..7 => Form::Raw,
            7..9 => Form::Samples,
            9..12 => Form::Count,
            12..14 => Form::TotalCount,
            14..16 => Form::Newest,
            16..18 => Form::Sum,
            _ => Form::Steps,
        }
    }

    /// Matchers that take some series of a writer, and sometimes of others.
    fn matchers(&mut self, form: Form, writer: u32, series: u32) -> Vec<Matcher> {
        let kind = Kind::of(writer);
        let number = match kind {
            // They come and go: any number may be there or not.
            Kind::Churn => self.rng.random_range(0..series * 40),
            _ => self.rng.random_range(0..series),
        };
        let own = SeriesId { writer, number }.labels();
        let metric = own.first().map_or(String::new(), |(_, metric)| metric.clone());
        let instance = || is("instance", format!("writer-{writer}"));
        let job = || is("job", kind.job().to_owned());
        let shape = match (form, kind) {
            (Form::Sum, _) => self.rng.random_range(0..3),
            // The others select too much of it.
            (_, Kind::Load) => self.rng.random_range(3..6),
            _ => self.rng.random_range(0..10),
        };
        match shape {
            0 => vec![job(), instance()],
            1 => vec![job(), instance(), self.zone()],
            2 => vec![
                job(),
                matcher("instance", false, Pattern::Prefix(format!("writer-{writer}"))),
                self.zone(),
            ],
            // One target: one shard owns it.
            3 => vec![is("__name__", metric), job(), instance()],
            4 => vec![instance(), self.some_numbers(series)],
            5 => vec![
                instance(),
                is("__name__", metric),
                not("series", number.to_string()),
            ],
            6 => vec![job(), is("series", number.to_string())],
            7 => vec![
                instance(),
                matcher("series", true, Pattern::Prefix("1".to_owned())),
                self.zone(),
            ],
            8 => {
                let other = format!("writer-{}", kind.writer(0));
                let both = Pattern::OneOf(vec![format!("writer-{writer}"), other]);
                let ending = Pattern::Suffix(format!("_{}", number % 10));
                vec![
                    matcher("instance", false, both),
                    matcher("__name__", false, ending),
                ]
            }
            _ => vec![
                job(),
                not("instance", format!("writer-{writer}")),
                self.some_numbers(series),
            ],
        }
    }

    /// A condition on a label that only some series have.
    fn zone(&mut self) -> Matcher {
        match self.rng.random_range(0..5) {
            0 => is("zone", String::new()),
            1 => not("zone", String::new()),
            2 => is("zone", "east".to_owned()),
            3 => matcher(
                "zone",
                false,
                Pattern::OneOf(vec!["west".to_owned(), String::new()]),
            ),
            _ => matcher("zone", true, Pattern::Suffix("st".to_owned())),
        }
    }

    fn some_numbers(&mut self, series: u32) -> Matcher {
        let numbers = (0..3).map(|_| self.rng.random_range(0..series).to_string());
        matcher("series", false, Pattern::OneOf(numbers.collect()))
    }
}

fn matcher(label: &str, negated: bool, pattern: Pattern) -> Matcher {
    Matcher {
        label: label.to_owned(),
        negated,
        pattern,
    }
}

fn is(label: &str, value: String) -> Matcher {
    matcher(label, false, Pattern::Is(value))
}

fn not(label: &str, value: String) -> Matcher {
    matcher(label, true, Pattern::Is(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn all_forms_and_operators_are_asked_and_some_series_is_meant() {
        let mut catalogue = Catalogue::default();
        for kind in [
            Kind::Load,
            Kind::Whole,
            Kind::Late,
            Kind::Storm,
            Kind::Overwrite,
            Kind::Churn,
        ] {
            catalogue.add(kind.writer(0), 20);
            catalogue.add(kind.writer(1), 20);
        }
        let mut questions = Questions::new(catalogue.clone(), 5);
        let (mut forms, mut operators, mut several) = (BTreeSet::new(), BTreeSet::new(), 0);
        for _ in 0..2_000 {
            let question = questions.next(1_000_000, 2_000_000).unwrap();
            assert!(question.after_ms < question.until_ms);
            forms.insert(question.form);
            for matcher in &question.matchers {
                let regular = !matches!(matcher.pattern, Pattern::Is(_));
                operators.insert((regular, matcher.negated));
            }
            several += usize::from(question.matchers.len() > 1);
            if question.form == Form::Sum {
                let whole = catalogue.of(|kind| kind != Kind::Whole);
                let taken = whole.iter().any(|(writer, series)| {
                    (0..*series).any(|number| {
                        let labels = SeriesId {
                            writer: *writer,
                            number,
                        }
                        .labels();
                        let labels: Vec<_> = labels
                            .iter()
                            .map(|(name, value)| (*name, value.as_str()))
                            .collect();
                        question.takes(&labels)
                    })
                });
                assert!(!taken, "{question:?}");
            }
        }
        assert_eq!((forms.len(), operators.len()), (7, 4));
        assert!(several > 1_500);
    }
}
