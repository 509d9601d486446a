//! The `count_values` aggregation.

use std::collections::HashMap;

use quorate_storage::{Labels, LabelsBuilder};

use super::group_labels;
use crate::ast::{AggregateExpr, Expr, Grouping};
use crate::eval::build;
use crate::eval::column::Column;
use crate::eval::context::Context;
use crate::eval::format::decimal;
use crate::eval::grid::Grid;
use crate::eval::vector::{Ready, Vector};
use crate::parse::quote;
use crate::value::EvalError;

/// Evaluates `count_values("label", vector)`. Which series come out depends on all values, so all are read first.
pub(super) fn evaluate<'q>(
    ctx: &'q Context<'q>,
    expr: &'q AggregateExpr,
    grid: Grid,
) -> Result<Vector<'q>, EvalError> {
    let label = label_name(expr)?;
    // The label of the value is part of the group.
    let grouping = match &expr.grouping {
        Grouping::By(names) => Grouping::By(names.iter().cloned().chain([label.to_owned()]).collect()),
        without => without.clone(),
    };
    let mut vector = build::vector(ctx, &expr.expr, grid)?;
    let mut groups = Groups {
        ctx,
        steps: grid.count,
        index: HashMap::new(),
        labels: Vec::new(),
        counts: Vec::new(),
    };
    let mut column = Column::new(&ctx.memory, grid.count)?;
    for series in std::mem::take(&mut vector.labels) {
        vector.next(&mut column)?;
        // A series rarely has many values: those of this one, by bits.
        let mut known: HashMap<u64, usize> = HashMap::new();
        let mut builder = LabelsBuilder::from(&series);
        for (step, value) in column.iter() {
            ctx.work(1)?;
            let group = match known.get(&value.to_bits()) {
                Some(group) => *group,
                None => {
                    let key = group_labels(&builder.set(label, &decimal(value)).build(), &grouping);
                    let group = groups.of(key)?;
                    known.insert(value.to_bits(), group);
                    group
                }
            };
            groups.count(group, step);
        }
        for (step, histogram) in column.histograms() {
            ctx.work(histogram.positive_buckets.len() + histogram.negative_buckets.len())?;
            let text = histogram.to_string();
            let group = groups.of(group_labels(&builder.set(label, &text).build(), &grouping))?;
            groups.count(group, step);
        }
    }
    Vector::new(ctx, groups.labels, Ready::new(groups.counts))
}

/// The groups found so far, and how many samples each has.
struct Groups<'q> {
    ctx: &'q Context<'q>,
    steps: usize,
    index: HashMap<Labels, usize>,
    labels: Vec<Labels>,
    counts: Vec<Column<'q>>,
}

impl Groups<'_> {
    /// The group with these labels, which may be a new one.
    fn of(&mut self, key: Labels) -> Result<usize, EvalError> {
        if let Some(group) = self.index.get(&key) {
            return Ok(*group);
        }
        self.counts.push(Column::new(&self.ctx.memory, self.steps)?);
        self.labels.push(key.clone());
        self.index.insert(key, self.counts.len() - 1);
        Ok(self.counts.len() - 1)
    }

    fn count(&mut self, group: usize, step: usize) {
        let count = self.counts[group].get(step).unwrap_or(0.0);
        self.counts[group].set(step, count + 1.0);
    }
}

/// The name of the label that holds the value.
fn label_name(expr: &AggregateExpr) -> Result<&str, EvalError> {
    let Some(Expr::String(literal)) = expr.param.as_ref().map(Expr::without_parens) else {
        return Err(EvalError::Execution("count_values expects a string".to_owned()));
    };
    match literal.as_str() {
        Some(name) if !name.is_empty() => Ok(name),
        _ => Err(EvalError::Execution(format!(
            "invalid label name {}",
            quote(&literal.value)
        ))),
    }
}
