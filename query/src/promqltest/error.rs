//! Why a script can't be run, or how a result differs from what it expects: one text, for a person to read.

use std::fmt;

/// What is wrong, outermost context first.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ScriptError(pub(super) String);

/// The result of a step of a script.
pub(super) type Result<T> = std::result::Result<T, ScriptError>;

impl ScriptError {
    /// An error with this text.
    pub fn new(message: impl fmt::Display) -> ScriptError {
        ScriptError(message.to_string())
    }
}

/// Puts what was being done before what went wrong.
pub(super) trait Context<T> {
    fn context(self, what: impl fmt::Display) -> Result<T>;

    fn with_context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| ScriptError(format!("{what}: {error}")))
    }

    fn with_context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| ScriptError(format!("{}: {error}", what())))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.ok_or_else(|| ScriptError(what.to_string()))
    }

    fn with_context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.ok_or_else(|| ScriptError(what().to_string()))
    }
}

macro_rules! bail {
    ($($text:tt)*) => {
        return Err($crate::promqltest::ScriptError::new(format_args!($($text)*)))
    };
}

macro_rules! ensure {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            $crate::promqltest::error::bail!($($text)*);
        }
    };
}

pub(super) use {bail, ensure};
