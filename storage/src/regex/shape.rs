//! Recognises expressions that need no automaton: lists of texts, prefixes, `.*` and `.+`.

use regex_syntax::hir::{Class, Hir, HirKind, Repetition};

/// The most texts a list may have; longer ones go through the automaton.
const LITERALS_MAX: usize = 4096;
/// The most bytes all texts of a list may have together.
const LITERALS_BYTES_MAX: usize = 256 * 1024;

/// What an expression, anchored at both ends, accepts.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Everything (`.*`).
    Any,
    /// Everything but the empty text (`.+`).
    NonEmpty,
    /// Exactly these texts, sorted.
    Literals(Vec<String>),
    /// Everything with this prefix (`foo.*`).
    PrefixThenAny(String),
    /// Needs the automaton; every match has the prefix.
    Other {
        /// May be empty.
        prefix: String,
    },
}

impl Shape {
    pub(super) fn of(hir: &Hir) -> Self {
        if let Some(mut set) = list(hir) {
            set.sort_unstable();
            set.dedup();
            return Self::Literals(set);
        }
        match hir.kind() {
            HirKind::Repetition(repetition) => match any_repetition(repetition) {
                Some(0) => Self::Any,
                Some(1) => Self::NonEmpty,
                _ => Self::Other {
                    prefix: String::new(),
                },
            },
            HirKind::Capture(capture) => Self::of(&capture.sub),
            HirKind::Concat(parts) => Self::of_concat(parts),
            _ => Self::Other {
                prefix: String::new(),
            },
        }
    }

    fn of_concat(parts: &[Hir]) -> Self {
        let prefix = match parts.first().map(Hir::kind) {
            Some(HirKind::Literal(literal)) => std::str::from_utf8(&literal.0).unwrap_or_default().to_owned(),
            _ => String::new(),
        };
        if let [_, rest] = parts
            && !prefix.is_empty()
            && let HirKind::Repetition(repetition) = rest.kind()
            && any_repetition(repetition) == Some(0)
        {
            return Self::PrefixThenAny(prefix);
        }
        Self::Other { prefix }
    }
}

/// The minimum of an unbounded repetition of "any character, newlines included".
fn any_repetition(repetition: &Repetition) -> Option<u32> {
    if repetition.max.is_some() {
        return None;
    }
    match repetition.sub.kind() {
        HirKind::Class(Class::Unicode(class)) => {
            let everything = class.ranges().first().map(|r| (r.start(), r.end()));
            (class.ranges().len() == 1 && everything == Some(('\0', char::MAX))).then_some(repetition.min)
        }
        _ => None,
    }
}

/// All texts an expression accepts, if they are few.
fn list(hir: &Hir) -> Option<Vec<String>> {
    let set = match hir.kind() {
        HirKind::Empty => vec![String::new()],
        HirKind::Literal(literal) => vec![String::from_utf8(literal.0.to_vec()).ok()?],
        HirKind::Class(Class::Unicode(class)) => {
            let count: u64 = class
                .ranges()
                .iter()
                .map(|r| u64::from(r.end()) - u64::from(r.start()) + 1)
                .sum();
            if count > 64 {
                return None;
            }
            class
                .ranges()
                .iter()
                .flat_map(|r| (r.start()..=r.end()).map(String::from))
                .collect()
        }
        HirKind::Capture(capture) => list(&capture.sub)?,
        HirKind::Repetition(repetition) if repetition.min == 0 && repetition.max == Some(1) => {
            let mut set = list(&repetition.sub)?;
            set.push(String::new());
            set
        }
        HirKind::Alternation(parts) => {
            let mut all = Vec::new();
            for part in parts {
                all.extend(list(part)?);
                if all.len() > LITERALS_MAX {
                    return None;
                }
            }
            all
        }
        HirKind::Concat(parts) => {
            let mut all = vec![String::new()];
            for part in parts {
                let next = list(part)?;
                if all.len().saturating_mul(next.len()) > LITERALS_MAX {
                    return None;
                }
                all = all
                    .iter()
                    .flat_map(|head| next.iter().map(move |tail| format!("{head}{tail}")))
                    .collect();
            }
            all
        }
        _ => return None,
    };
    (set.iter().map(String::len).sum::<usize>() <= LITERALS_BYTES_MAX).then_some(set)
}
