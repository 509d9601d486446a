//! The Prometheus text exposition format: `name{label="value",...} value [timestamp_ms]`.
//!
//! Read as Prometheus reads it: names in quotes (`{"my.metric",a="b"}`) may be any UTF-8, names
//! without quotes are the classic identifiers, comments with HELP and TYPE are skipped. Timestamps
//! are integers in ms. Lines may end in `\r\n`. OpenMetrics exemplars are errors, not ignored.

use std::borrow::Cow;

use crate::METRIC_NAME_LABEL;

/// Labels of one line, the metric name included.
pub const MAX_TEXT_LABELS: usize = 1_024;

/// The NaN that Prometheus stores for a `NaN` it reads, other than the staleness marker.
const NORMAL_NAN_BITS: u64 = 0x7ff8_0000_0000_0001;

/// One sample line.
#[derive(Debug, Clone, PartialEq)]
pub struct TextSample<'a> {
    /// (name, value) in the order written, the metric name first. Names are non-empty and distinct.
    pub labels: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// The value.
    pub value: f64,
    /// The line, from 1.
    pub line: usize,
}

impl TextSample<'_> {
    /// The labels, as [`crate::Batch::push_series`] takes them.
    pub fn label_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.labels.iter().map(|(name, value)| (&**name, &**value))
    }
}

/// Where and why the text can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {what}")]
pub struct TextError {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// Reads the whole of `input`. Samples without a timestamp get `default_ts_ms` (ms since the Unix
/// epoch).
///
/// # Errors
/// The first [`TextError`].
pub fn parse_text(input: &str, default_ts_ms: i64) -> Result<Vec<TextSample<'_>>, TextError> {
    TextParser::new(input, default_ts_ms).collect()
}

/// Reads line by line; an error doesn't keep it from reading the next line.
#[derive(Debug, Clone)]
pub struct TextParser<'a> {
    lines: std::iter::Enumerate<std::str::Split<'a, char>>,
    default_ts_ms: i64,
}

impl<'a> TextParser<'a> {
    /// Of `input`; `default_ts_ms` (ms since the Unix epoch) is for samples without a timestamp.
    pub fn new(input: &'a str, default_ts_ms: i64) -> Self {
        TextParser {
            lines: input.split('\n').enumerate(),
            default_ts_ms,
        }
    }
}

impl<'a> Iterator for TextParser<'a> {
    type Item = Result<TextSample<'a>, TextError>;

    fn next(&mut self) -> Option<Self::Item> {
        for (index, text) in self.lines.by_ref() {
            let text = text.strip_suffix('\r').unwrap_or(text);
            let mut line = Line {
                text,
                pos: 0,
                number: index + 1,
            };
            line.skip_blanks();
            if !matches!(line.peek(), None | Some(b'#')) {
                return Some(line.sample(self.default_ts_ms));
            }
        }
        None
    }
}

type TextLabel<'a> = (Cow<'a, str>, Cow<'a, str>);

/// One line and a position in it, in bytes and on a character boundary.
struct Line<'a> {
    text: &'a str,
    pos: usize,
    number: usize,
}

impl<'a> Line<'a> {
    fn sample(mut self, default_ts_ms: i64) -> Result<TextSample<'a>, TextError> {
        let mut labels = Vec::new();
        let name = self.name(is_metric_name_byte);
        if !name.is_empty() {
            labels.push((Cow::Borrowed(METRIC_NAME_LABEL), Cow::Borrowed(name)));
        }
        self.skip_blanks();
        match self.peek() {
            Some(b'{') => self.label_set(&mut labels)?,
            _ if labels.is_empty() => return Err(self.error("expected a metric name")),
            _ => {}
        }
        let value = self.value()?;
        let timestamp_ms = self.timestamp()?.unwrap_or(default_ts_ms);
        if self.peek().is_some() {
            return Err(self.error("unexpected text after the sample"));
        }
        Ok(TextSample {
            labels,
            timestamp_ms,
            value,
            line: self.number,
        })
    }

    fn label_set(&mut self, labels: &mut Vec<TextLabel<'a>>) -> Result<(), TextError> {
        let open = self.pos;
        self.pos += 1;
        loop {
            self.skip_blanks();
            if self.take(b'}') {
                break;
            }
            self.label(labels)?;
            self.skip_blanks();
            if !self.take(b',') && self.peek() != Some(b'}') {
                return Err(self.error("expected ',' or '}'"));
            }
        }
        match labels.iter().position(|(name, _)| name == METRIC_NAME_LABEL) {
            Some(at) => labels[..=at].rotate_right(1),
            None => return Err(self.error_at(open, "expected a metric name before or in the braces")),
        }
        Ok(())
    }

    /// `name="value"`, `"name"="value"`, or `"metric name"`.
    fn label(&mut self, labels: &mut Vec<TextLabel<'a>>) -> Result<(), TextError> {
        let start = self.pos;
        let quoted = self.peek() == Some(b'"');
        let name = if quoted {
            self.quoted()?
        } else {
            Cow::Borrowed(self.name(is_label_name_byte))
        };
        if name.is_empty() {
            return Err(self.error_at(start, "expected a label name"));
        }
        self.skip_blanks();
        let label = if self.take(b'=') {
            self.skip_blanks();
            if self.peek() != Some(b'"') {
                return Err(self.error("expected a label value in double quotes"));
            }
            (name, self.quoted()?)
        } else if quoted {
            (Cow::Borrowed(METRIC_NAME_LABEL), name)
        } else {
            return Err(self.error("expected '='"));
        };
        if labels.iter().any(|(name, _)| *name == label.0) {
            let is_metric = label.0 == METRIC_NAME_LABEL;
            let what = if is_metric {
                "a second metric name"
            } else {
                "a label name that occurs already"
            };
            return Err(self.error_at(start, what));
        }
        if label.0 == METRIC_NAME_LABEL && label.1.is_empty() {
            return Err(self.error_at(start, "an empty metric name"));
        }
        if labels.len() >= MAX_TEXT_LABELS {
            return Err(self.error_at(start, "too many labels"));
        }
        labels.push(label);
        Ok(())
    }

    /// A string in double quotes, with the escapes `\\`, `\"` and `\n`.
    fn quoted(&mut self) -> Result<Cow<'a, str>, TextError> {
        let start = self.pos + 1;
        self.pos = start;
        let mut unescaped: Option<String> = None;
        let mut copied_to = start;
        loop {
            let rest = &self.text[self.pos..];
            let Some(at) = rest.find(['"', '\\']) else {
                return Err(self.error_at(start - 1, "a string without closing quote"));
            };
            self.pos += at;
            let part = &self.text[copied_to..self.pos];
            if self.take(b'"') {
                return Ok(match unescaped {
                    None => Cow::Borrowed(part),
                    Some(text) => Cow::Owned(text + part),
                });
            }
            let escape = self.pos;
            self.pos += 1;
            let character = match self.peek() {
                Some(b'\\') => '\\',
                Some(b'"') => '"',
                Some(b'n') => '\n',
                _ => return Err(self.error_at(escape, "an escape other than \\\\, \\\" and \\n")),
            };
            self.pos += 1;
            let text = unescaped.get_or_insert_default();
            text.push_str(part);
            text.push(character);
            copied_to = self.pos;
        }
    }

    fn value(&mut self) -> Result<f64, TextError> {
        self.skip_blanks();
        let start = self.pos;
        let text = self.word();
        if text.is_empty() {
            return Err(self.error_at(start, "expected a value"));
        }
        let value: f64 = text
            .parse()
            .map_err(|_| self.error_at(start, "the value is not a number"))?;
        if value.is_nan() {
            return Ok(f64::from_bits(NORMAL_NAN_BITS));
        }
        // An infinity must be spelled out; 1e999 is a mistake.
        if value.is_infinite() && text.bytes().any(|byte| byte.is_ascii_digit()) {
            return Err(self.error_at(start, "the value is out of range"));
        }
        Ok(value)
    }

    fn timestamp(&mut self) -> Result<Option<i64>, TextError> {
        self.skip_blanks();
        let start = self.pos;
        let text = self.word();
        let timestamp_ms = if text.is_empty() {
            None
        } else {
            let what = "the timestamp is not an integer (milliseconds)";
            Some(text.parse().map_err(|_| self.error_at(start, what))?)
        };
        self.skip_blanks();
        Ok(timestamp_ms)
    }

    /// The longest name of bytes that `accepts` at the position within the name.
    fn name(&mut self, accepts: fn(usize, u8) -> bool) -> &'a str {
        let rest = &self.text[self.pos..];
        let len = rest
            .bytes()
            .enumerate()
            .take_while(|&(at, byte)| accepts(at, byte))
            .count();
        self.pos += len;
        &rest[..len]
    }

    fn word(&mut self) -> &'a str {
        let rest = &self.text[self.pos..];
        let len = rest.find([' ', '\t']).unwrap_or(rest.len());
        self.pos += len;
        &rest[..len]
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.pos += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.pos).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.pos += usize::from(found);
        found
    }

    fn error(&self, what: &'static str) -> TextError {
        self.error_at(self.pos, what)
    }

    fn error_at(&self, at: usize, what: &'static str) -> TextError {
        let before = self.text.get(..at).unwrap_or(self.text);
        TextError {
            line: self.number,
            column: before.chars().count() + 1,
            what,
        }
    }
}

fn is_label_name_byte(at: usize, byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || (at > 0 && byte.is_ascii_digit())
}

fn is_metric_name_byte(at: usize, byte: u8) -> bool {
    byte == b':' || is_label_name_byte(at, byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(line: &str) -> TextSample<'_> {
        let mut samples = parse_text(line, 42).unwrap();
        assert_eq!(samples.len(), 1, "{line}");
        samples.remove(0)
    }

    fn pairs<'a>(sample: &'a TextSample<'_>) -> Vec<(&'a str, &'a str)> {
        sample.label_pairs().collect()
    }

    #[test]
    fn reads_what_an_exporter_writes() {
        let text = "# HELP http_requests_total The total.\n# TYPE http_requests_total counter\n\
                    http_requests_total{method=\"post\",code=\"200\"} 1027 1395066363000\r\n\n\
                    \t rpc:latency{q=\"0.5\",} 3.5e-05\n\
                    go_goroutines 12\n# EOF\n";
        let samples = parse_text(text, 42).unwrap();
        assert_eq!(
            samples.iter().map(|sample| sample.line).collect::<Vec<_>>(),
            [3, 5, 6]
        );
        assert_eq!(
            pairs(&samples[0]),
            [
                ("__name__", "http_requests_total"),
                ("method", "post"),
                ("code", "200")
            ]
        );
        assert_eq!(
            (samples[0].timestamp_ms, samples[0].value),
            (1_395_066_363_000, 1027.0)
        );
        assert_eq!(pairs(&samples[1]), [("__name__", "rpc:latency"), ("q", "0.5")]);
        assert_eq!((samples[1].timestamp_ms, samples[1].value), (42, 3.5e-05));
        assert_eq!(pairs(&samples[2]), [("__name__", "go_goroutines")]);
    }

    #[test]
    fn reads_quoted_names_escapes_and_blanks() {
        let sample = one(r#"{"my.metric", a="b"} 1"#);
        assert_eq!(pairs(&sample), [("__name__", "my.metric"), ("a", "b")]);
        let sample = one(r#"{ a = "b" , "é µ"="\\x\"\n" , "m" } 1 -5"#);
        assert_eq!(
            pairs(&sample),
            [("__name__", "m"), ("a", "b"), ("é µ", "\\x\"\n")]
        );
        assert_eq!(sample.timestamp_ms, -5);
        let sample = one("m { } 1");
        assert_eq!(pairs(&sample), [("__name__", "m")]);
        let sample = one(r#"{x="",__name__="m"}1"#);
        assert_eq!(pairs(&sample), [("__name__", "m"), ("x", "")]);
    }

    #[test]
    fn values_are_exact() {
        for (text, value) in [
            ("0.1", 0.1),
            ("-0", -0.0),
            ("+Inf", f64::INFINITY),
            ("-Inf", f64::NEG_INFINITY),
            ("inf", f64::INFINITY),
            ("4.9e-324", f64::from_bits(1)),
            ("1.7976931348623157e308", f64::MAX),
            ("9007199254740993", 9_007_199_254_740_992.0),
        ] {
            assert_eq!(
                one(&format!("m {text}")).value.to_bits(),
                value.to_bits(),
                "{text}"
            );
        }
        assert_eq!(one("m NaN").value.to_bits(), NORMAL_NAN_BITS);
    }

    #[test]
    fn errors_name_line_and_column() {
        for (text, line, column, what) in [
            ("ok 1\nm", 2, 2, "expected a value"),
            ("m one", 1, 3, "the value is not a number"),
            ("m 1e999", 1, 3, "the value is out of range"),
            ("m 1 2.5", 1, 5, "the timestamp is not an integer (milliseconds)"),
            (
                "m 1 99999999999999999999",
                1,
                5,
                "the timestamp is not an integer (milliseconds)",
            ),
            ("m 1 2 # {} 3", 1, 7, "unexpected text after the sample"),
            ("9m 1", 1, 1, "expected a metric name"),
            ("{} 1", 1, 1, "expected a metric name before or in the braces"),
            (
                "{a=\"b\"} 1",
                1,
                1,
                "expected a metric name before or in the braces",
            ),
            ("{\"\"} 1", 1, 2, "expected a label name"),
            ("{__name__=\"\"} 1", 1, 2, "an empty metric name"),
            ("m{\"n\"} 1", 1, 3, "a second metric name"),
            ("m{__name__=\"n\"} 1", 1, 3, "a second metric name"),
            ("m{a=\"é\",a=\"2\"} 1", 1, 9, "a label name that occurs already"),
            ("m{a=\"é\" b=\"2\"} 1", 1, 9, "expected ',' or '}'"),
            ("m{,} 1", 1, 3, "expected a label name"),
            ("m{a=b} 1", 1, 5, "expected a label value in double quotes"),
            ("m{a} 1", 1, 4, "expected '='"),
            ("m{a=\"b} 1", 1, 5, "a string without closing quote"),
            ("m{a=\"b\\t\"} 1", 1, 7, "an escape other than \\\\, \\\" and \\n"),
            ("m{a=\"b\\", 1, 7, "an escape other than \\\\, \\\" and \\n"),
            ("m{a=\"b\"", 1, 8, "expected ',' or '}'"),
            ("m{", 1, 3, "expected a label name"),
        ] {
            assert_eq!(
                parse_text(text, 0).unwrap_err(),
                TextError { line, column, what },
                "{text}"
            );
        }
    }

    #[test]
    fn reading_goes_on_behind_a_bad_line() {
        let results: Vec<_> = TextParser::new("a 1\nb\nc 3", 0).collect();
        assert!(results[0].is_ok() && results[1].is_err() && results[2].is_ok());
    }

    #[test]
    fn labels_of_a_line_are_bounded() {
        let line = |labels: usize| {
            let labels: String = (0..labels).map(|i| format!("l{i}=\"\",")).collect();
            format!("m{{{labels}}} 1")
        };
        assert_eq!(one(&line(MAX_TEXT_LABELS - 1)).labels.len(), MAX_TEXT_LABELS);
        assert_eq!(
            parse_text(&line(MAX_TEXT_LABELS), 0).unwrap_err().what,
            "too many labels"
        );
    }

    fn escape(text: &str) -> String {
        text.replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
    }

    proptest! {
        #[test]
        fn any_text_never_panics(text in "[a-c{}\"\\\\,= \t\n#0-9.é-]{0,60}") {
            for sample in TextParser::new(&text, 0).flatten() {
                prop_assert_eq!(&sample.labels[0].0, METRIC_NAME_LABEL);
            }
        }

        #[test]
        fn any_unicode_never_panics(text in "\\PC{0,60}") {
            let _ = parse_text(&text, 0);
        }

        #[test]
        fn round_trip(
            metric in "\\PC{1,8}",
            labels in proptest::collection::btree_map("\\PC{1,4}", "(\\PC|\n){0,8}", 0..5),
            bits: u64,
            timestamp_ms: i64,
        ) {
            let value = f64::from_bits(bits);
            let mut line = format!("{{\"{}\"", escape(&metric));
            for (name, value) in &labels {
                line += &format!(", \"{}\"=\"{}\"", escape(name), escape(value));
            }
            line += &format!("}} {value:?} {timestamp_ms}");
            let sample = one(&line);
            let mut expected = vec![("__name__", &*metric)];
            expected.extend(labels.iter().map(|(name, value)| (&**name, &**value)));
            prop_assert_eq!(pairs(&sample), expected);
            prop_assert_eq!(sample.timestamp_ms, timestamp_ms);
            let expected_bits = if value.is_nan() { NORMAL_NAN_BITS } else { bits };
            prop_assert_eq!(sample.value.to_bits(), expected_bits);
        }
    }
}
