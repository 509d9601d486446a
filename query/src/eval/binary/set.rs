//! `and`, `or` and `unless`.

use std::collections::HashMap;

use quorate_storage::Labels;

use super::{build, signature};
use crate::ast::{BinaryExpr, BinaryOp, VectorMatching};
use crate::eval::column::{Bits, Column};
use crate::eval::context::Context;
use crate::eval::grid::Grid;
use crate::eval::memory::Charge;
use crate::eval::vector::{Columns, Unlabelled, Vector, relabel};
use crate::value::EvalError;

/// Begins the evaluation.
pub(super) fn evaluate<'q>(
    ctx: &'q Context<'q>,
    expr: &'q BinaryExpr,
    matching: &VectorMatching,
    grid: Grid,
) -> Result<Vector<'q>, EvalError> {
    let (lhs_labels, lhs) = build::vector(ctx, &expr.lhs, grid)?.split();
    let (rhs_labels, rhs) = build::vector(ctx, &expr.rhs, grid)?.split();
    let mut ids: HashMap<Labels, usize> = HashMap::new();
    let mut signatures = |labels: &[Labels]| -> Vec<usize> {
        let id = |labels| {
            let next = ids.len();
            *ids.entry(signature(labels, matching)).or_insert(next)
        };
        labels.iter().map(id).collect()
    };
    let lhs_signatures = signatures(&lhs_labels);
    let rhs_signatures = signatures(&rhs_labels);
    let present = Presence::new(ctx, ids.len(), grid.count)?;
    let sides = Sides {
        ctx,
        lhs,
        rhs,
        lhs_signatures,
        rhs_signatures,
        present,
        next: 0,
    };
    match expr.op {
        BinaryOp::Or => {
            let labels = lhs_labels.into_iter().chain(rhs_labels).collect();
            relabel(ctx, labels, Union(sides))
        }
        op => {
            let keep_matched = op == BinaryOp::And;
            Vector::new(
                ctx,
                lhs_labels,
                Filter {
                    sides,
                    keep_matched,
                    rhs_is_read: false,
                },
            )
        }
    }
}

/// For each signature, at which steps a series with it has a sample.
struct Presence<'q> {
    steps_of: Vec<Bits>,
    _charge: Charge<'q>,
}

impl<'q> Presence<'q> {
    fn new(ctx: &'q Context<'q>, signatures: usize, steps: usize) -> Result<Presence<'q>, EvalError> {
        let each = Bits::bytes(steps) + size_of::<Bits>();
        let charge = ctx.memory.charge(signatures * each, 0)?;
        Ok(Presence {
            steps_of: vec![Bits::new(steps); signatures],
            _charge: charge,
        })
    }
}

struct Sides<'q> {
    ctx: &'q Context<'q>,
    lhs: Unlabelled<'q>,
    rhs: Unlabelled<'q>,
    lhs_signatures: Vec<usize>,
    rhs_signatures: Vec<usize>,
    present: Presence<'q>,
    /// The next series that comes out.
    next: usize,
}

/// `and`, `unless`: the left side's samples at steps where the right side has, or hasn't, a match.
struct Filter<'q> {
    sides: Sides<'q>,
    keep_matched: bool,
    rhs_is_read: bool,
}

impl<'q> Columns<'q> for Filter<'q> {
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        let sides = &mut self.sides;
        if !self.rhs_is_read {
            for signature in &sides.rhs_signatures {
                sides.rhs.next(out)?;
                sides.ctx.work(out.len())?;
                sides.present.steps_of[*signature].union(out.present());
            }
            self.rhs_is_read = true;
        }
        sides.lhs.next(out)?;
        let matched = &sides.present.steps_of[sides.lhs_signatures[sides.next]];
        sides.next += 1;
        if self.keep_matched {
            out.present_mut().intersect(matched);
        } else {
            out.present_mut().subtract(matched);
        }
        Ok(())
    }
}

/// `or`: all of the left side, then the right side's samples at steps where the left side has no match.
struct Union<'q>(Sides<'q>);

impl<'q> Columns<'q> for Union<'q> {
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        let sides = &mut self.0;
        sides.ctx.work(out.len())?;
        let index = sides.next;
        sides.next += 1;
        match sides.lhs_signatures.get(index) {
            Some(signature) => {
                sides.lhs.next(out)?;
                sides.present.steps_of[*signature].union(out.present());
            }
            None => {
                sides.rhs.next(out)?;
                let signature = sides.rhs_signatures[index - sides.lhs_signatures.len()];
                out.present_mut().subtract(&sides.present.steps_of[signature]);
            }
        }
        Ok(())
    }
}
