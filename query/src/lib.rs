//! PromQL: parse, plan and evaluate over a read trait.

pub mod ast;
pub mod eval;
pub mod parse;
pub mod promqltest;
pub mod source;
pub mod value;

pub use eval::{eval_instant, eval_range};
pub use parse::{Features, ParseError, parse, parse_duration, parse_selector, parse_with};
pub use source::{SampleColumns, SelectHints, SelectRequest, SeriesCursor, Source, SourceError};
pub use value::{
    Abort, Annotation, EvalError, EvalOptions, EvalStats, Evaluated, LimitKind, MatrixSeries, Value,
    VectorSample,
};
