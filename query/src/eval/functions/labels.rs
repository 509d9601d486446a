//! `label_replace` and `label_join`.

use quorate_storage::{GoRegex, Labels, LabelsBuilder};

use super::build;
use crate::ast::Expr;
use crate::eval::context::Context;
use crate::eval::grid::Grid;
use crate::eval::labelset::{METRIC_NAME, unmark, value_of};
use crate::eval::vector::{Vector, relabel};
use crate::value::EvalError;

/// A string argument's bytes.
fn bytes_of(argument: &Expr) -> Result<&[u8], EvalError> {
    match argument.without_parens() {
        Expr::String(literal) => Ok(&literal.value),
        _ => Err(EvalError::Execution("expected a string".to_owned())),
    }
}

/// A string argument. Label values here are UTF-8, so nothing else can become part of one.
pub(super) fn text_of<'q>(argument: &'q Expr, function: &str) -> Result<&'q str, EvalError> {
    std::str::from_utf8(bytes_of(argument)?)
        .map_err(|_| EvalError::Execution(format!("invalid UTF-8 in a string argument of {function}")))
}

/// A string argument that must be a label's name.
pub(super) fn name_of<'q>(argument: &'q Expr, what: &str, function: &str) -> Result<&'q str, EvalError> {
    let bytes = bytes_of(argument)?;
    match std::str::from_utf8(bytes) {
        Ok(name) if !name.is_empty() => Ok(name),
        _ => {
            let name = String::from_utf8_lossy(bytes);
            Err(EvalError::Execution(format!(
                "invalid {what} label name in {function}: {name}"
            )))
        }
    }
}

/// `label_replace(vector, destination, replacement, source, regex)`.
pub(super) fn replace<'q>(
    ctx: &'q Context<'q>,
    args: &'q [Expr],
    grid: Grid,
) -> Result<Vector<'q>, EvalError> {
    const FUNCTION: &str = "label_replace()";
    let pattern = text_of(&args[4], FUNCTION)?;
    let regex = GoRegex::new_anchored(pattern).map_err(|_| {
        EvalError::Execution(format!(
            "invalid regular expression in label_replace(): {pattern}"
        ))
    })?;
    let destination = name_of(&args[1], "destination", FUNCTION)?;
    let replacement = text_of(&args[2], FUNCTION)?;
    let source = text_of(&args[3], FUNCTION)?;
    let edit = |labels: &Labels| match regex.expand(value_of(labels, source), replacement) {
        Some(value) => with_label(labels, destination, &value),
        None => labels.clone(),
    };
    let (labels, columns) = build::vector(ctx, &args[0], grid)?.split();
    relabel(ctx, labels.iter().map(edit).collect(), columns)
}

/// `label_join(vector, destination, separator, source, …)`.
pub(super) fn join<'q>(ctx: &'q Context<'q>, args: &'q [Expr], grid: Grid) -> Result<Vector<'q>, EvalError> {
    const FUNCTION: &str = "label_join()";
    let separator = text_of(&args[2], FUNCTION)?;
    let sources: Vec<&str> = args[3..]
        .iter()
        .map(|arg| name_of(arg, "source", FUNCTION))
        .collect::<Result<_, _>>()?;
    let destination = name_of(&args[1], "destination", FUNCTION)?;
    let edit = |labels: &Labels| {
        let values: Vec<&str> = sources.iter().map(|source| value_of(labels, source)).collect();
        with_label(labels, destination, &values.join(separator))
    };
    let (labels, columns) = build::vector(ctx, &args[0], grid)?.split();
    relabel(ctx, labels.iter().map(edit).collect(), columns)
}

/// The labels with one more or another one. A series that gets a name keeps it, whatever was to go from the result.
fn with_label(labels: &Labels, name: &str, value: &str) -> Labels {
    if name == METRIC_NAME {
        return LabelsBuilder::from(&unmark(labels)).set(name, value).build();
    }
    LabelsBuilder::from(labels).set(name, value).build()
}
