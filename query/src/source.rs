//! What the engine reads from: a [`Source`] selects series, a [`SeriesCursor`] hands out one series' samples.

use std::error::Error;
use std::fmt;

use quorate_storage::{Labels, Matcher};

pub use quorate_storage::SampleColumns;

/// Which series and which samples a selector of the query needs.
#[derive(Clone, Copy, Debug)]
pub struct SelectRequest<'a> {
    /// The oldest sample the query can use, Unix milliseconds, inclusive.
    pub start_ms: i64,
    /// The newest sample the query can use, Unix milliseconds, inclusive.
    pub end_ms: i64,
    /// All of them hold for a selected series.
    pub matchers: &'a [Matcher],
    /// What the samples are for; a source may ignore it.
    pub hints: SelectHints<'a>,
}

/// What the samples of a selector are for.
#[derive(Clone, Copy, Debug, Default)]
pub struct SelectHints<'a> {
    /// Distance of the evaluations, milliseconds; 0 if there is one only.
    pub step_ms: i64,
    /// Length of a range selector's range, milliseconds; 0 for an instant selector.
    pub range_ms: i64,
    /// The function called on the selector, if it is an argument of one.
    pub function: Option<&'a str>,
}

/// Where a query reads its samples.
pub trait Source: Send + Sync {
    /// The series that match, each once. They should ascend by labels: the order decides ties (`topk`), the last
    /// bits of sums, and the order of an instant vector. Samples outside the requested times do no harm.
    fn select(&self, request: &SelectRequest<'_>) -> Result<Vec<Box<dyn SeriesCursor>>, SourceError>;
}

/// One selected series.
pub trait SeriesCursor: Send {
    /// The series' labels, its name included.
    fn labels(&self) -> &Labels;

    /// Appends the samples to `out`, which the caller has cleared, in strictly ascending time. Stale markers stay in
    /// with their exact bits. It is called at most once; what a cursor holds can be freed with it.
    fn samples(&mut self, out: &mut SampleColumns) -> Result<(), SourceError>;
}

/// Why a source could not answer. It keeps the source's own error, so that the caller of the engine finds it again
/// with [`SourceError::get`].
pub struct SourceError(Box<dyn Error + Send + Sync>);

impl SourceError {
    /// Wraps the source's error.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> SourceError {
        SourceError(error.into())
    }

    /// The source's error, if it is an `E`.
    pub fn get<E: Error + 'static>(&self) -> Option<&E> {
        self.0.downcast_ref()
    }

    /// Takes the source's error out.
    pub fn into_inner(self) -> Box<dyn Error + Send + Sync> {
        self.0
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for SourceError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_sources_own_error() {
        let error = SourceError::new(std::io::Error::other("disk"));
        assert_eq!(error.to_string(), "disk");
        assert!(error.get::<std::io::Error>().is_some());
        assert!(error.get::<std::fmt::Error>().is_none());
    }
}
