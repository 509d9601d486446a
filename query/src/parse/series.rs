//! Series descriptions of Prometheus's test scripts: `metric{label="value"} 0+10x5 _x2 stale 7 {{count:1 sum:2}}`.

use std::sync::Arc;

use quorate_storage::{Histogram, MatchOp, Matcher};

use crate::ast::Span;
use crate::parse::ParseError;
use crate::parse::histogram::parse_histogram;
use crate::parse::number::parse_number;
use crate::parse::parser::Parser;

/// The bits of the sample value that says that a series ended.
pub const STALE_MARKER_BITS: u64 = 0x7ff0_0000_0000_0002;

/// How many values one description may stand for.
pub const MAX_SERIES_VALUES: usize = 1 << 20;

/// How many buckets the histograms of one description may have together.
const MAX_SERIES_BUCKETS: usize = 1 << 22;

/// A described value.
#[derive(Clone, PartialEq, Debug)]
pub enum DescribedValue {
    /// A number.
    Number(f64),
    /// A native histogram.
    Histogram {
        /// The histogram.
        histogram: Arc<Histogram>,
        /// Whether the description says what is known of counter resets.
        has_hint: bool,
    },
}

impl From<f64> for DescribedValue {
    fn from(value: f64) -> DescribedValue {
        DescribedValue::Number(value)
    }
}

/// A described series.
#[derive(Clone, PartialEq, Debug)]
pub struct SeriesDescription {
    /// Name and value of each label as written, the metric name last if it stands before the braces.
    pub labels: Vec<(String, String)>,
    /// Values at equal distances; nothing where a value is left out.
    pub values: Vec<Option<DescribedValue>>,
}

/// Reads a description.
pub fn parse_series(line: &str) -> Result<SeriesDescription, ParseError> {
    // Braces belong to the metric only if they follow at once: `metric {{…}}` is a histogram.
    let name_end = line
        .find(|next: char| next == '{' || next.is_whitespace())
        .unwrap_or(line.len());
    let described = if line[name_end..].starts_with('{') {
        line
    } else {
        &line[..name_end]
    };
    let mut parser = Parser::new(described)?;
    let selector = parser.vector_selector()?;
    let labels = selector
        .matchers
        .iter()
        .map(|matcher| label(line, selector.span, matcher));
    let labels = labels.collect::<Result<Vec<_>, _>>()?;
    let mut scanner = Scanner {
        line,
        at: parser.last_end() as usize,
    };
    let mut values = Vec::new();
    while scanner.skip_spaces() {
        scanner.item(&mut values)?;
    }
    Ok(SeriesDescription { labels, values })
}

fn label(line: &str, span: Span, matcher: &Matcher) -> Result<(String, String), ParseError> {
    if matcher.op() != MatchOp::Eq {
        let message = format!("label {:?} of a series must be given with \"=\"", matcher.name());
        return Err(ParseError::new(line, span, message));
    }
    Ok((matcher.name().to_owned(), matcher.value().to_owned()))
}

struct Scanner<'a> {
    line: &'a str,
    at: usize,
}

impl Scanner<'_> {
    fn rest(&self) -> &str {
        &self.line[self.at..]
    }

    /// Answers whether anything is left.
    fn skip_spaces(&mut self) -> bool {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
        self.at < self.line.len()
    }

    fn accept(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    fn error(&self, message: impl Into<String>) -> ParseError {
        let at = u32::try_from(self.at).unwrap_or(u32::MAX);
        ParseError::new(self.line, Span::new(at, at), message)
    }

    /// `{{…}}`, `{{…}}xN`, `{{…}}+{{…}}xN` or `{{…}}-{{…}}xN`.
    fn histograms(&mut self, values: &mut Vec<Option<DescribedValue>>) -> Result<(), ParseError> {
        let (first, has_hint) = self.histogram()?;
        let sign = self
            .rest()
            .bytes()
            .next()
            .filter(|next| matches!(next, b'+' | b'-'));
        let step = match sign {
            Some(_) => {
                self.at += 1;
                Some(self.histogram()?.0)
            }
            None => None,
        };
        let repeats = if self.accept("x") {
            self.count()?
        } else if step.is_some() {
            return Err(self.error("expected \"x\" and a number of repetitions"));
        } else {
            0
        };
        let buckets = first.positive_buckets.len() + first.negative_buckets.len() + 1;
        if values.len().saturating_add(repeats) >= MAX_SERIES_VALUES
            || (step.is_some() && buckets.saturating_mul(repeats) > MAX_SERIES_BUCKETS)
        {
            return Err(self.error(format!(
                "a series has more than the {MAX_SERIES_VALUES} values or {MAX_SERIES_BUCKETS} buckets allowed"
            )));
        }
        let mut current = Arc::new(first);
        for repeat in 0..=repeats {
            if let (Some(step), true) = (&step, repeat > 0) {
                let mut next = Histogram::clone(&current);
                if next.schema > step.schema {
                    let message = format!(
                        "error combining histograms: cannot merge from schema {} to {}",
                        step.schema, next.schema
                    );
                    return Err(self.error(message));
                }
                let outcome = if sign == Some(b'-') {
                    next.sub(step)
                } else {
                    next.add(step)
                };
                outcome.map_err(|error| self.error(format!("error combining histograms: {error}")))?;
                current = Arc::new(next);
            }
            values.push(Some(DescribedValue::Histogram {
                histogram: Arc::clone(&current),
                has_hint,
            }));
        }
        Ok(())
    }

    /// A histogram, and whether its counter reset hint was written.
    fn histogram(&mut self) -> Result<(Histogram, bool), ParseError> {
        let rest = self.rest();
        let inner = rest
            .strip_prefix("{{")
            .and_then(|rest| rest.split_once("}}"))
            .map(|(inner, _)| inner);
        let Some(inner) = inner else {
            return Err(self.error("expected a histogram between \"{{\" and \"}}\""));
        };
        let parsed = parse_histogram(inner).map_err(|(offset, message)| {
            let at = u32::try_from(self.at + 2 + offset).unwrap_or(u32::MAX);
            ParseError::new(self.line, Span::new(at, at), message)
        })?;
        self.at += inner.len() + 4;
        Ok(parsed)
    }

    /// One item up to a space: `_`, `_xN`, `stale`, `v`, `vxN`, `v+dxN`, `v-dxN`, or the like of histograms.
    fn item(&mut self, values: &mut Vec<Option<DescribedValue>>) -> Result<(), ParseError> {
        if self.rest().starts_with("{{") {
            self.histograms(values)?;
        } else if self.accept("_") {
            let count = if self.accept("x") { self.count()? } else { 1 };
            self.push(values, count, std::iter::repeat(None))?;
        } else if self.accept("stale") {
            self.push(
                values,
                1,
                std::iter::repeat(Some(f64::from_bits(STALE_MARKER_BITS).into())),
            )?;
        } else {
            let first = self.number()?;
            let step = match self.rest().bytes().next() {
                Some(b'+' | b'-') => Some(self.number()?),
                _ => None,
            };
            let repeats = if self.accept("x") {
                self.count()?
            } else if step.is_some() {
                return Err(self.error("expected \"x\" and a number of repetitions"));
            } else {
                0
            };
            // Added up as Prometheus does, not multiplied: the last bits differ.
            let values_from_first = std::iter::successors(Some(first), |value| {
                Some(step.map_or(*value, |step| value + step))
            });
            let described = values_from_first.map(|value| Some(value.into()));
            self.push(values, repeats.saturating_add(1), described)?;
        }
        match self.rest().chars().next() {
            None => Ok(()),
            Some(next) if next.is_whitespace() => Ok(()),
            Some(next) => Err(self.error(format!("unexpected {next:?} in series values"))),
        }
    }

    fn push(
        &self,
        values: &mut Vec<Option<DescribedValue>>,
        count: usize,
        new: impl Iterator<Item = Option<DescribedValue>>,
    ) -> Result<(), ParseError> {
        if values.len().saturating_add(count) > MAX_SERIES_VALUES {
            return Err(self.error(format!(
                "a series has more than the {MAX_SERIES_VALUES} values allowed"
            )));
        }
        values.extend(new.take(count));
        Ok(())
    }

    fn count(&mut self) -> Result<usize, ParseError> {
        let rest = self.rest();
        let length = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count = rest[..length]
            .parse()
            .map_err(|_| self.error("expected a number of repetitions"))?;
        self.at += length;
        Ok(count)
    }

    /// A signed decimal number, `Inf` or `NaN`. There are no hexadecimal ones: `0x3` is zero four times.
    fn number(&mut self) -> Result<f64, ParseError> {
        let negative = self.accept("-");
        if !negative {
            self.accept("+");
        }
        let rest = self.rest();
        let length = number_length(rest.as_bytes());
        let Some(value) = parse_number(&rest[..length]) else {
            return Err(self.error("expected a number, \"_\" or \"stale\""));
        };
        self.at += length;
        Ok(if negative { -value } else { value })
    }
}

/// How many bytes at the start belong to an unsigned number.
fn number_length(bytes: &[u8]) -> usize {
    let word = bytes
        .get(..3)
        .filter(|word| word.eq_ignore_ascii_case(b"inf") || word.eq_ignore_ascii_case(b"nan"));
    if word.is_some() {
        return 3;
    }
    let mut length = 0;
    while let Some(byte) = bytes.get(length) {
        let after_exponent = length > 0 && matches!(bytes[length - 1], b'e' | b'E');
        match byte {
            b'0'..=b'9' | b'.' | b'e' | b'E' | b'_' => length += 1,
            b'+' | b'-' if after_exponent => length += 1,
            _ => break,
        }
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(line: &str) -> Vec<Option<f64>> {
        let values = parse_series(line).expect(line).values.into_iter();
        let number = |value| match value {
            DescribedValue::Number(value) => value,
            DescribedValue::Histogram { .. } => panic!("{line}"),
        };
        values.map(|value| value.map(number)).collect()
    }

    #[test]
    fn histograms_are_added_up() {
        let series =
            parse_series("m {{sum:1 count:2 buckets:[2]}}+{{sum:2 count:1 buckets:[1] offset:1}}x2 _ {{}}");
        let values = series.expect("it is well formed").values;
        let sums: Vec<Option<(f64, f64, usize)>> = values
            .iter()
            .map(|value| match value {
                Some(DescribedValue::Histogram { histogram, .. }) => {
                    Some((histogram.sum, histogram.count, histogram.positive_buckets.len()))
                }
                Some(DescribedValue::Number(_)) => panic!("no number"),
                None => None,
            })
            .collect();
        assert_eq!(
            sums,
            [
                Some((1.0, 2.0, 1)),
                Some((3.0, 3.0, 2)),
                Some((5.0, 4.0, 2)),
                None,
                Some((0.0, 0.0, 0))
            ]
        );
    }

    #[test]
    fn items_expand() {
        assert_eq!(values("m 1 2"), [Some(1.0), Some(2.0)]);
        assert_eq!(values("m 1x2"), [Some(1.0), Some(1.0), Some(1.0)]);
        assert_eq!(
            values("m 0+10x2 _ _x2 -1-1x1"),
            [
                Some(0.0),
                Some(10.0),
                Some(20.0),
                None,
                None,
                None,
                Some(-1.0),
                Some(-2.0)
            ]
        );
        assert_eq!(
            values("m 0x3 1e-1 +Inf -inf"),
            [
                Some(0.0),
                Some(0.0),
                Some(0.0),
                Some(0.0),
                Some(0.1),
                Some(f64::INFINITY),
                Some(f64::NEG_INFINITY)
            ]
        );
        let stale = values("m stale")[0].expect("a value");
        assert_eq!(stale.to_bits(), STALE_MARKER_BITS);
        assert_eq!(values("m"), []);
    }

    #[test]
    fn labels_are_read_as_in_selectors() {
        let series = parse_series("m{a=\"b\", \"c d\"='e'} 1").expect("it is well formed");
        let expected = [("a", "b"), ("c d", "e"), ("__name__", "m")];
        assert_eq!(
            series.labels,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        assert_eq!(parse_series("{} 1").expect("it is well formed").labels, []);
    }

    #[test]
    fn what_is_wrong_is_pointed_at() {
        let cases = [
            (
                "m {{count:1 total:2}}",
                "1:13: parse error: unknown histogram key \"total\"",
            ),
            (
                "m {{count:1}",
                "1:3: parse error: expected a histogram between \"{{\" and \"}}\"",
            ),
            (
                "m {{}}+{{}}",
                "1:12: parse error: expected \"x\" and a number of repetitions",
            ),
            (
                "m {{schema:1}}+{{}}x1",
                "1:22: parse error: error combining histograms: cannot merge from schema 0 to 1",
            ),
            (
                "m 1+2",
                "1:6: parse error: expected \"x\" and a number of repetitions",
            ),
            ("m 1x", "1:5: parse error: expected a number of repetitions"),
            ("m 1y", "1:4: parse error: unexpected 'y' in series values"),
            ("m foo", "1:3: parse error: expected a number, \"_\" or \"stale\""),
            (
                "m{a!=\"b\"} 1",
                "1:1: parse error: label \"a\" of a series must be given with \"=\"",
            ),
            (
                "m 1x99999999",
                "1:13: parse error: a series has more than the 1048576 values allowed",
            ),
            (
                "m _x18446744073709551615",
                "1:25: parse error: a series has more than the 1048576 values allowed",
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(
                parse_series(line).map_err(|error| error.to_string()),
                Err(expected.to_owned()),
                "{line}"
            );
        }
    }
}
