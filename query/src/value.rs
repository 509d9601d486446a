//! What an evaluation takes and gives: options, values, annotations and errors.

use std::fmt;
use std::sync::Arc;

use quorate_storage::{Histogram, Labels};

use crate::ast::Span;
use crate::source::SourceError;

/// How far back an instant selector looks if nothing else is configured, milliseconds.
pub const DEFAULT_LOOKBACK_MS: i64 = 300_000;

/// Limits and settings of one evaluation.
#[derive(Clone, Copy)]
pub struct EvalOptions<'a> {
    /// An instant selector takes the latest sample of `(t - lookback_ms, t]`.
    pub lookback_ms: i64,
    /// Distance of a subquery's evaluations if the query names none, milliseconds.
    pub default_subquery_step_ms: i64,
    /// The most samples held in memory at once.
    pub max_samples: u64,
    /// The most bytes of samples, labels and state held in memory at once.
    pub max_memory_bytes: u64,
    /// Drop metric names from the final result instead of from the results of functions and operators.
    pub delayed_name_removal: bool,
    /// The most steps of the query and of each subquery in it.
    pub max_steps: u64,
    /// Asked every few thousand samples; an answer ends the evaluation with [`EvalError::Aborted`].
    pub abort: &'a (dyn Fn() -> Option<Abort> + Sync),
}

impl Default for EvalOptions<'_> {
    fn default() -> Self {
        EvalOptions {
            lookback_ms: DEFAULT_LOOKBACK_MS,
            default_subquery_step_ms: 60_000,
            max_samples: 50_000_000,
            max_memory_bytes: 1 << 30,
            delayed_name_removal: false,
            max_steps: 1_000_000,
            abort: &|| None,
        }
    }
}

impl fmt::Debug for EvalOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EvalOptions")
            .field("lookback_ms", &self.lookback_ms)
            .field("default_subquery_step_ms", &self.default_subquery_step_ms)
            .field("max_samples", &self.max_samples)
            .field("max_memory_bytes", &self.max_memory_bytes)
            .field("max_steps", &self.max_steps)
            .finish_non_exhaustive()
    }
}

/// Why an evaluation was told to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Abort {
    /// Nobody waits for the answer any more.
    #[error("query was canceled in expression evaluation")]
    Canceled,
    /// The deadline passed.
    #[error("query timed out in expression evaluation")]
    Timeout,
}

/// The limits of [`EvalOptions`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LimitKind {
    /// [`EvalOptions::max_samples`].
    Samples,
    /// [`EvalOptions::max_memory_bytes`].
    MemoryBytes,
    /// [`EvalOptions::max_steps`].
    Steps,
    /// How deep an expression may nest.
    Nesting,
}

impl LimitKind {
    /// The limit's name.
    pub fn as_str(self) -> &'static str {
        match self {
            LimitKind::Samples => "max_samples",
            LimitKind::MemoryBytes => "max_memory_bytes",
            LimitKind::Steps => "max_steps",
            LimitKind::Nesting => "max_nesting",
        }
    }

    /// What a query that exceeds the limit does, in Prometheus's words where it has some.
    fn reason(self) -> &'static str {
        match self {
            LimitKind::Samples => {
                "query processing would load too many samples into memory in query execution"
            }
            LimitKind::MemoryBytes => "query processing would take too much memory in query execution",
            LimitKind::Steps => "query would be evaluated at too many steps",
            LimitKind::Nesting => "expression is nested too deeply",
        }
    }
}

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The engine does not evaluate this function or feature.
    #[error("this engine does not support {feature}")]
    Unsupported {
        /// The function (`info()`) or feature (`fill modifiers`).
        feature: String,
    },
    /// A limit of [`EvalOptions`] was reached.
    #[error("{}: the limit is {}={max}", .limit.reason(), .limit.as_str())]
    Limit {
        /// Which limit.
        limit: LimitKind,
        /// Its value.
        max: u64,
    },
    /// The source failed.
    #[error("{0}")]
    Source(#[source] SourceError),
    /// The evaluation was told to stop.
    #[error("{0}")]
    Aborted(Abort),
    /// The query can't be evaluated over these series; the text is Prometheus's.
    #[error("{0}")]
    Execution(String),
    /// The parameters of the evaluation make no sense, such as a step of zero.
    #[error("{0}")]
    BadRequest(String),
}

/// A warning or an information about a result, in Prometheus's words.
#[derive(Clone, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct Annotation {
    message: String,
    start: Option<u32>,
}

impl Annotation {
    /// An annotation about the part of the query at `span`.
    pub fn new(message: impl Into<String>, span: Option<Span>) -> Annotation {
        Annotation {
            message: message.into(),
            start: span.map(|span| span.start),
        }
    }

    /// The text without a position.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The text with ` (line:column)` of the part of `query` it is about.
    pub fn render(&self, query: &str) -> String {
        match self.start {
            None => self.message.clone(),
            Some(start) => {
                let (line, column) = Span::new(start, start).line_column(query);
                format!("{} ({line}:{column})", self.message)
            }
        }
    }
}

/// A sample of an instant vector.
#[derive(Clone, PartialEq, Debug)]
pub struct VectorSample {
    /// Labels of the series.
    pub labels: Labels,
    /// Unix milliseconds.
    pub timestamp_ms: i64,
    /// The value; of a histogram its sum.
    pub value: f64,
    /// The value, if it is a histogram.
    pub histogram: Option<Arc<Histogram>>,
}

/// A series of a range vector.
#[derive(Clone, PartialEq, Debug)]
pub struct MatrixSeries {
    /// Labels of the series.
    pub labels: Labels,
    /// Unix milliseconds, strictly ascending.
    pub timestamps_ms: Vec<i64>,
    /// One value for each timestamp; of a histogram its sum.
    pub values: Vec<f64>,
    /// The samples that are histograms, each with its index in the other two, ascending.
    pub histograms: Vec<(usize, Arc<Histogram>)>,
}

/// What a query evaluates to.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// One number.
    Scalar {
        /// Unix milliseconds.
        timestamp_ms: i64,
        /// The value.
        value: f64,
    },
    /// Samples in the order the query gives them: `sort` and `topk` order, most others don't.
    Vector(Vec<VectorSample>),
    /// Series, sorted by labels.
    Matrix(Vec<MatrixSeries>),
    /// One string.
    String {
        /// Unix milliseconds.
        timestamp_ms: i64,
        /// The text; bytes of the query's string that aren't UTF-8 became U+FFFD.
        value: String,
    },
}

/// What an evaluation cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EvalStats {
    /// Samples read from the source.
    pub samples_read: u64,
    /// Series read from the source.
    pub series_read: u64,
    /// The most bytes held at once.
    pub peak_memory_bytes: u64,
    /// The most samples held at once.
    pub peak_samples: u64,
}

/// The answer to a query.
#[derive(Clone, PartialEq, Debug)]
pub struct Evaluated {
    /// The result.
    pub value: Value,
    /// Each once, in order of their texts.
    pub warnings: Vec<Annotation>,
    /// Each once, in order of their texts.
    pub infos: Vec<Annotation>,
    /// What it cost.
    pub stats: EvalStats,
}
