//! Label matchers: `=`, `!=`, `=~`, `!~` of a PromQL selector.

use std::fmt;

use crate::regex::{GoRegex, GoRegexError};

/// The comparison a matcher makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatchOp {
    /// `=`: the value is equal.
    Eq,
    /// `!=`: the value differs.
    Ne,
    /// `=~`: the whole value matches a regular expression.
    Re,
    /// `!~`: the whole value does not match a regular expression.
    Nre,
}

impl MatchOp {
    /// The operator as PromQL writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Eq => "=",
            Self::Ne => "!=",
            Self::Re => "=~",
            Self::Nre => "!~",
        }
    }
}

/// Why a matcher cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("matcher on label {name:?}: {source}")]
pub struct MatcherError {
    /// The label the matcher was for.
    pub name: String,
    /// What is wrong with its regular expression.
    pub source: GoRegexError,
}

/// One condition on one label. A label that a series lacks counts as the empty string.
#[derive(Clone)]
pub struct Matcher {
    name: String,
    op: MatchOp,
    value: String,
    /// Present exactly for `Re` and `Nre`.
    regex: Option<GoRegex>,
}

impl Matcher {
    /// Builds a matcher; for `Re` and `Nre` the value is compiled as `^(?s:value)$`.
    pub fn new(op: MatchOp, name: &str, value: &str) -> Result<Self, MatcherError> {
        let regex = match op {
            MatchOp::Eq | MatchOp::Ne => None,
            MatchOp::Re | MatchOp::Nre => {
                Some(GoRegex::new_anchored(value).map_err(|source| MatcherError {
                    name: name.to_owned(),
                    source,
                })?)
            }
        };
        Ok(Self {
            name: name.to_owned(),
            op,
            value: value.to_owned(),
            regex,
        })
    }

    /// The label's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The comparison.
    pub fn op(&self) -> MatchOp {
        self.op
    }

    /// The text compared with, or the expression's source.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Whether a label with this value passes.
    pub fn matches(&self, value: &str) -> bool {
        match self.op {
            MatchOp::Eq => self.value == value,
            MatchOp::Ne => self.value != value,
            MatchOp::Re => self.regex_matches(value),
            MatchOp::Nre => !self.regex_matches(value),
        }
    }

    /// Whether a series without the label passes.
    pub fn matches_empty(&self) -> bool {
        self.matches("")
    }

    /// The values that the positive form of this matcher (`=` for `!=`, `=~` for `!~`) accepts, when
    /// they are few enough to list. Sorted.
    pub(crate) fn positive_values(&self) -> Option<Vec<&str>> {
        match &self.regex {
            None => Some(vec![self.value.as_str()]),
            Some(regex) => regex
                .literals()
                .map(|set| set.iter().map(String::as_str).collect()),
        }
    }

    /// Whether the positive form of this matcher accepts `value`.
    pub(crate) fn positive_matches(&self, value: &str) -> bool {
        match &self.regex {
            None => self.value == value,
            Some(regex) => regex.is_match(value),
        }
    }

    /// Whether the matcher is `!=` or `!~`.
    pub(crate) fn is_negative(&self) -> bool {
        matches!(self.op, MatchOp::Ne | MatchOp::Nre)
    }

    /// A prefix that every value accepted by the positive form has; often empty.
    pub(crate) fn positive_prefix(&self) -> &str {
        match &self.regex {
            None => &self.value,
            Some(regex) => regex.prefix(),
        }
    }

    fn regex_matches(&self, value: &str) -> bool {
        self.regex.as_ref().is_some_and(|regex| regex.is_match(value))
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        self.op == other.op && self.name == other.name && self.value == other.value
    }
}

impl Eq for Matcher {}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{:?}", self.name, self.op.as_str(), self.value)
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(op: MatchOp, value: &str) -> Matcher {
        Matcher::new(op, "l", value).unwrap()
    }

    #[test]
    fn operators() {
        assert!(matcher(MatchOp::Eq, "a").matches("a"));
        assert!(!matcher(MatchOp::Eq, "a").matches("ab"));
        assert!(matcher(MatchOp::Ne, "a").matches("ab"));
        assert!(matcher(MatchOp::Re, "a.*|b").matches("a\nx"));
        assert!(!matcher(MatchOp::Re, "a").matches("xa"));
        assert!(matcher(MatchOp::Nre, "a+").matches("b"));
        assert!(!matcher(MatchOp::Nre, "a+").matches("aa"));
    }

    #[test]
    fn empty() {
        assert!(matcher(MatchOp::Eq, "").matches_empty());
        assert!(matcher(MatchOp::Re, ".*").matches_empty());
        assert!(!matcher(MatchOp::Re, ".+").matches_empty());
        assert!(!matcher(MatchOp::Nre, ".*").matches_empty());
        assert!(matcher(MatchOp::Ne, "x").matches_empty());
    }

    #[test]
    fn a_bad_expression_names_the_label() {
        let error = Matcher::new(MatchOp::Re, "job", "a(").unwrap_err();
        assert_eq!(error.name, "job");
        assert_eq!(matcher(MatchOp::Nre, "a").to_string(), r#"l!~"a""#);
    }
}
