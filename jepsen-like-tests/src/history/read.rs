//! Questions to the cluster and their answers, in a form that a model can answer too.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The promise of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Everything acknowledged before it began.
    Linearizable,
    /// Nothing older than [`BOUND_US`].
    Bounded,
    /// Whatever a replica has.
    Local,
}

/// Staleness that [`Level::Bounded`] allows here.
pub const BOUND_US: u64 = 10_000_000;

/// A read from its sending to its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Read {
    /// Who asks; a session asks one question after another, always of the same node.
    pub session: u64,
    /// The node asked.
    pub node: u64,
    /// The level asked for.
    pub level: Level,
    /// When it was sent, since the history's start.
    pub began_us: u64,
    /// What was asked.
    pub question: Question,
    /// What came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// The replicas that were read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<ShardRead>,
    /// Why there is no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A shard's replica that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRead {
    /// The shard.
    pub shard: u32,
    /// The node whose replica was read.
    pub node: u64,
    /// Log index applied before the first touch.
    pub before: u64,
    /// Log index applied after the last touch.
    pub after: u64,
    /// Age of what was read at most, if the server knew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staleness_ms: Option<u64>,
}

/// What is asked: a form of question over the series that all matchers take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// What of the samples is wanted.
    pub form: Form,
    /// All of them hold.
    pub matchers: Vec<Matcher>,
    /// Samples later than this count, in milliseconds since the Unix epoch.
    pub after_ms: i64,
    /// Samples up to this count.
    pub until_ms: i64,
}

/// The forms of questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// A raw read: every sample with its bits.
    Raw,
    /// `selector[window]`: every sample but stale markers.
    Samples,
    /// `count_over_time(selector[window])`: a number for each series.
    Count,
    /// `sum(count_over_time(selector[window]))`: one number.
    TotalCount,
    /// `last_over_time(selector[window])`: the newest value of each series.
    Newest,
    /// `sum(last_over_time(selector[window]))` over integers.
    Sum,
    /// `selector` at each step of a range query, looking back one window; see [`Question::steps`].
    Steps,
}

/// Steps of a range query in one window.
pub const STEPS: i64 = 4;

/// A condition on a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matcher {
    /// The label's name.
    pub label: String,
    /// Whether what the pattern takes is left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub negated: bool,
    /// What the value has to be.
    pub pattern: Pattern,
}

/// A condition on a label's value. A label that is missing is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// This value.
    Is(String),
    /// One of these values; a regular expression of alternatives.
    OneOf(Vec<String>),
    /// Begins with this; a regular expression.
    Prefix(String),
    /// Ends with this; a regular expression.
    Suffix(String),
}

/// What came back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Series of the writers, each with what was asked of it.
    pub series: Vec<SeriesPoints>,
    /// Series that no writer has, as text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strangers: Vec<String>,
    /// The one number of an answer without labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<f64>,
}

/// Points of a series in an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeriesPoints {
    /// Whose series.
    pub writer: u32,
    /// Which of them.
    pub number: u32,
    /// Times in milliseconds since the Unix epoch, with bits of the value. The time of a computed value is
    /// that of its evaluation.
    pub points: Vec<(i64, u64)>,
}

impl Matcher {
    /// Whether a series' labels satisfy it.
    pub fn takes<'a>(&self, labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> bool {
        let found = labels.into_iter().find(|(name, _)| *name == self.label);
        let value = found.map_or("", |(_, value)| value);
        let matches = match &self.pattern {
            Pattern::Is(wanted) => value == wanted,
            Pattern::OneOf(wanted) => wanted.iter().any(|one| one == value),
            Pattern::Prefix(start) => value.starts_with(start),
            Pattern::Suffix(end) => value.ends_with(end),
        };
        matches != self.negated
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = &self.label;
        let operator = match (&self.pattern, self.negated) {
            (Pattern::Is(_), false) => "=",
            (Pattern::Is(_), true) => "!=",
            (_, false) => "=~",
            (_, true) => "!~",
        };
        match &self.pattern {
            Pattern::Is(value) => write!(f, "{label}{operator}\"{value}\""),
            Pattern::OneOf(values) => write!(f, "{label}{operator}\"{}\"", values.join("|")),
            Pattern::Prefix(start) => write!(f, "{label}{operator}\"{start}.*\""),
            Pattern::Suffix(end) => write!(f, "{label}{operator}\".*{end}\""),
        }
    }
}

impl Question {
    /// Whether a series of these labels is asked for.
    pub fn takes(&self, labels: &[(&str, &str)]) -> bool {
        self.matchers
            .iter()
            .all(|matcher| matcher.takes(labels.iter().copied()))
    }

    /// The selector.
    pub fn selector(&self) -> String {
        let matchers: Vec<String> = self.matchers.iter().map(ToString::to_string).collect();
        format!("{{{}}}", matchers.join(","))
    }

    /// The PromQL expression; of a raw read, the selector.
    pub fn expression(&self) -> String {
        let selector = self.selector();
        let window_ms = self.until_ms - self.after_ms;
        match self.form {
            Form::Raw | Form::Steps => selector,
            Form::Samples => format!("{selector}[{window_ms}ms]"),
            Form::Count => format!("count_over_time({selector}[{window_ms}ms])"),
            Form::TotalCount => format!("sum(count_over_time({selector}[{window_ms}ms]))"),
            Form::Newest => format!("last_over_time({selector}[{window_ms}ms])"),
            Form::Sum => format!("sum(last_over_time({selector}[{window_ms}ms]))"),
        }
    }

    /// The steps of a range query with the beginning of what each looks back to. Only the last step's window
    /// is the question's; the others lie before it.
    pub fn steps(&self) -> impl Iterator<Item = (i64, i64)> + use<> {
        let (after_ms, until_ms) = (self.after_ms, self.until_ms);
        let step_ms = ((until_ms - after_ms) / STEPS).max(1);
        (0..STEPS)
            .rev()
            .map(move |back| (after_ms - back * step_ms, until_ms - back * step_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(label: &str, negated: bool, pattern: Pattern) -> Matcher {
        Matcher {
            label: label.to_owned(),
            negated,
            pattern,
        }
    }

    #[test]
    fn expressions_are_promql() {
        let question = |form| Question {
            form,
            matchers: vec![
                matcher("job", true, Pattern::Is("load".into())),
                matcher("a", false, Pattern::OneOf(vec!["x".into(), "".into()])),
                matcher("b", true, Pattern::Prefix("y".into())),
                matcher("c", false, Pattern::Suffix("z".into())),
            ],
            after_ms: 1_000,
            until_ms: 3_500,
        };
        let selector = r#"{job!="load",a=~"x|",b!~"y.*",c=~".*z"}"#;
        assert_eq!(question(Form::Raw).expression(), selector);
        assert_eq!(
            question(Form::TotalCount).expression(),
            format!("sum(count_over_time({selector}[2500ms]))")
        );
        let steps: Vec<_> = question(Form::Steps).steps().collect();
        assert_eq!(steps.first(), Some(&(1_000 - 3 * 625, 3_500 - 3 * 625)));
        assert_eq!(steps.last(), Some(&(1_000, 3_500)));
    }

    #[test]
    fn a_missing_label_is_empty() {
        let labels = [("job", "load"), ("series", "17")];
        for (taken, label, negated, pattern) in [
            (true, "job", false, Pattern::Is("load".into())),
            (false, "job", true, Pattern::Is("load".into())),
            (true, "zone", false, Pattern::Is("".into())),
            (true, "zone", true, Pattern::Is("a".into())),
            (true, "zone", false, Pattern::OneOf(vec!["a".into(), "".into()])),
            (true, "series", false, Pattern::Prefix("1".into())),
            (false, "series", true, Pattern::Suffix("7".into())),
        ] {
            let matcher = matcher(label, negated, pattern);
            assert_eq!(matcher.takes(labels), taken, "{matcher}");
        }
    }
}
