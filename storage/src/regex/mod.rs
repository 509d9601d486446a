//! Regular expressions with the syntax and meaning of Go's `regexp` (RE2), as Prometheus uses them:
//! anchored at both ends, with `.` matching newlines (`^(?s:re)$`).
//!
//! Go's syntax is parsed here into an HIR that `regex-automata` compiles. The `regex` crate's own
//! parser is not used: it accepts syntax that Go refuses and gives other meanings to shared syntax.

mod class;
mod escape;
mod expand;
mod parse;
mod shape;

use std::fmt;
use std::sync::Arc;

use regex_automata::meta;
use regex_syntax::hir::{Hir, Look};

use shape::Shape;

/// The longest expression accepted, in bytes.
pub const MAX_PATTERN_BYTES: usize = 128 * 1024;
/// The most memory the compiled automaton of one expression may take.
const NFA_BYTES_MAX: usize = 8 << 20;
/// The lazy DFA's cache per thread that searches.
const HYBRID_CACHE_BYTES: usize = 1 << 20;

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GoRegexError {
    /// The text is not Go regexp syntax. `reason` uses Go's wording.
    #[error("error parsing regexp: {reason}: `{fragment}`")]
    Syntax {
        /// What is wrong, in Go's words.
        reason: &'static str,
        /// The part of the expression it is about.
        fragment: String,
    },
    /// The text is longer than [`MAX_PATTERN_BYTES`].
    #[error("the regular expression has {0} bytes, more than {MAX_PATTERN_BYTES}; shorten it")]
    TooLong(usize),
    /// The automaton would take too much memory.
    #[error("the regular expression needs too much memory once compiled; use fewer repetitions")]
    TooLarge,
}

/// A compiled expression; a clone shares it.
#[derive(Clone)]
pub struct GoRegex {
    inner: Arc<Inner>,
}

struct Inner {
    pattern: String,
    shape: Shape,
    /// Names by group index; index 0 is the whole match.
    group_names: Vec<Option<String>>,
    regex: meta::Regex,
}

impl GoRegex {
    /// Compiles `^(?s:pattern)$`.
    pub fn new_anchored(pattern: &str) -> Result<Self, GoRegexError> {
        if pattern.len() > MAX_PATTERN_BYTES {
            return Err(GoRegexError::TooLong(pattern.len()));
        }
        let parsed = parse::parse(pattern)?;
        let shape = Shape::of(&parsed.hir);
        let anchored = Hir::concat(vec![Hir::look(Look::Start), parsed.hir, Hir::look(Look::End)]);
        let config = meta::Config::new()
            .nfa_size_limit(Some(NFA_BYTES_MAX))
            .hybrid_cache_capacity(HYBRID_CACHE_BYTES)
            .onepass_size_limit(Some(NFA_BYTES_MAX));
        let regex = meta::Builder::new()
            .configure(config)
            .build_from_hir(&anchored)
            .map_err(|_| GoRegexError::TooLarge)?;
        let inner = Inner {
            pattern: pattern.to_owned(),
            shape,
            group_names: parsed.group_names,
            regex,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The source text, without the anchors.
    pub fn pattern(&self) -> &str {
        &self.inner.pattern
    }

    /// Whether the whole of `text` matches.
    pub fn is_match(&self, text: &str) -> bool {
        match &self.inner.shape {
            Shape::Any => true,
            Shape::NonEmpty => !text.is_empty(),
            Shape::Literals(set) => set.binary_search_by(|item| item.as_str().cmp(text)).is_ok(),
            Shape::PrefixThenAny(prefix) => text.starts_with(prefix),
            Shape::Other { prefix } => text.starts_with(prefix) && self.inner.regex.is_match(text),
        }
    }

    /// Expands a Go template (`$1`, `${name}`, `$$`) with the groups of a match of the whole `text`;
    /// `None` when `text` does not match. `$1x` is the group named `1x`. An unknown group is empty.
    pub fn expand(&self, text: &str, template: &str) -> Option<String> {
        let mut captures = self.inner.regex.create_captures();
        self.inner.regex.captures(text, &mut captures);
        if !captures.is_match() {
            return None;
        }
        let group = |index: usize| captures.get_group(index).map(|span| &text[span.range()]);
        Some(expand::expand(template, &self.inner.group_names, group))
    }

    /// All texts that match, sorted, when the expression is a short list of them.
    pub fn literals(&self) -> Option<&[String]> {
        match &self.inner.shape {
            Shape::Literals(set) => Some(set),
            _ => None,
        }
    }

    /// A prefix that every match has.
    pub fn prefix(&self) -> &str {
        match &self.inner.shape {
            Shape::PrefixThenAny(prefix) | Shape::Other { prefix } => prefix,
            Shape::Literals(set) if set.len() == 1 => &set[0],
            _ => "",
        }
    }
}

impl fmt::Debug for GoRegex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GoRegex({:?})", self.inner.pattern)
    }
}

#[cfg(test)]
mod tests;
