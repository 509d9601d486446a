//! `absent` and `absent_over_time`.

use quorate_storage::{Labels, LabelsBuilder, MatchOp, Matcher};

use super::{build, range};
use crate::ast::Expr;
use crate::eval::column::{Bits, Column};
use crate::eval::context::Context;
use crate::eval::grid::Grid;
use crate::eval::labelset::METRIC_NAME;
use crate::eval::range::RangeVector;
use crate::eval::vector::{Columns, Vector};
use crate::value::EvalError;

/// `absent(vector)`: 1 where no series has a sample.
pub(super) fn absent<'q>(
    ctx: &'q Context<'q>,
    argument: &'q Expr,
    grid: Grid,
) -> Result<Vector<'q>, EvalError> {
    let vector = build::vector(ctx, argument, grid)?;
    Vector::new(ctx, vec![labels_of(argument)], Absent { ctx, vector })
}

/// `absent_over_time(range vector)`: 1 where no series has a sample in its window.
pub(super) fn absent_over_time<'q>(
    ctx: &'q Context<'q>,
    argument: &'q Expr,
    grid: Grid,
) -> Result<Vector<'q>, EvalError> {
    let input = RangeVector::open(ctx, argument, grid, Some("absent_over_time"))?;
    range::absent_over_time(ctx, labels_of(argument), input, grid)
}

struct Absent<'q> {
    ctx: &'q Context<'q>,
    vector: Vector<'q>,
}

impl<'q> Columns<'q> for Absent<'q> {
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        let steps = out.len();
        let _charge = self.ctx.memory.charge(Bits::bytes(steps), 0)?;
        let mut found = Bits::new(steps);
        for _ in 0..self.vector.labels.len() {
            self.vector.next(out)?;
            found.union(out.present());
        }
        out.clear();
        (0..steps)
            .filter(|step| !found.get(*step))
            .for_each(|step| out.set(step, 1.0));
        Ok(())
    }
}

/// The labels that what is missing would have: those that exactly one matcher names, with `=`.
fn labels_of(argument: &Expr) -> Labels {
    let matchers: &[Matcher] = match argument.without_parens() {
        Expr::VectorSelector(selector) => &selector.matchers,
        Expr::MatrixSelector(matrix) => &matrix.selector.matchers,
        _ => &[],
    };
    let mut builder = LabelsBuilder::new();
    let mut set: Vec<&str> = Vec::new();
    for matcher in matchers.iter().filter(|matcher| matcher.name() != METRIC_NAME) {
        if matcher.op() == MatchOp::Eq && !set.contains(&matcher.name()) {
            builder.set(matcher.name(), matcher.value());
            set.push(matcher.name());
        } else {
            builder.del(matcher.name());
        }
    }
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(query: &str) -> String {
        labels_of(&crate::parse(query).unwrap()).to_string()
    }

    #[test]
    fn only_single_equalities_count() {
        assert_eq!(labels(r#"x{a="1", b!="2", c=~"3", d="4"}"#), r#"{a="1", d="4"}"#);
        assert_eq!(labels(r#"x{a="1", a="1", b="2"}[5m]"#), r#"{b="2"}"#);
        assert_eq!(labels(r#"x{a="1"} + 1"#), "{}");
    }
}
