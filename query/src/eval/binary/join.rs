//! Arithmetic and comparisons between the matching series of two vectors.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use quorate_storage::{Labels, LabelsBuilder};

use super::build;
use super::one_side::OneSide;
use super::operation::Operation;
use crate::ast::{BinaryExpr, Cardinality, VectorMatching};
use crate::eval::column::{Bits, Cell, Column};
use crate::eval::context::Context;
use crate::eval::grid::Grid;
use crate::eval::labelset::{drop_metadata, filter, only};
use crate::eval::memory::Charge;
use crate::eval::vector::{Columns, Unlabelled, Vector, duplicate_labels};
use crate::value::EvalError;

/// Begins the evaluation. One side, the "one" side, is read first and kept; the other streams past it.
pub(super) fn evaluate<'q>(
    ctx: &'q Context<'q>,
    expr: &'q BinaryExpr,
    matching: &'q VectorMatching,
    grid: Grid,
) -> Result<Vector<'q>, EvalError> {
    let swapped = matching.cardinality == Cardinality::OneToMany;
    let (many_expr, one_expr) = if swapped {
        (&expr.rhs, &expr.lhs)
    } else {
        (&expr.lhs, &expr.rhs)
    };
    // Chains of operators recurse here, so this frame is kept small.
    let many = build::vector(ctx, many_expr, grid)?;
    let one = build::vector(ctx, one_expr, grid)?;
    join(ctx, expr, matching, grid, (many, one))
}

#[inline(never)]
fn join<'q>(
    ctx: &'q Context<'q>,
    expr: &'q BinaryExpr,
    matching: &'q VectorMatching,
    grid: Grid,
    (many, one): (Vector<'q>, Vector<'q>),
) -> Result<Vector<'q>, EvalError> {
    let operation = Operation::of(ctx, expr)?;
    let swapped = matching.cardinality == Cardinality::OneToMany;
    let (many_labels, many) = many.split();
    let one = OneSide::new(ctx, one, matching)?;
    let group_of: Vec<Option<usize>> = many_labels
        .iter()
        .map(|labels| one.group_of(labels, matching))
        .collect();

    let pairs = Pairs::new(ctx, &many_labels, &one, &group_of, operation, matching)?;
    let (matched, charge) = matched_steps(ctx, &group_of, &one, matching, grid.count)?;
    let labels = pairs.labels.clone();
    let mut join = Join {
        ctx,
        operation,
        matching,
        swapped,
        many,
        one,
        group_of,
        pairs,
        matched,
        pending: HashMap::new(),
        next_many: 0,
        next_output: 0,
        _charge: charge,
    };
    if labels.is_empty() {
        // Nobody will ask for a column, but a side that isn't unique is an error still.
        join.take_rest(grid.count)?;
        return Ok(Vector::empty(ctx));
    }
    Vector::new(ctx, labels, join)
}

/// Where to note the steps at which a group has been matched: for one-to-one matching, if several series could.
fn matched_steps<'q>(
    ctx: &'q Context<'q>,
    group_of: &[Option<usize>],
    one: &OneSide<'q>,
    matching: &VectorMatching,
    steps: usize,
) -> Result<(HashMap<usize, Bits>, Charge<'q>), EvalError> {
    let mut charge = ctx.memory.nothing();
    let mut matched = HashMap::new();
    if matching.cardinality == Cardinality::OneToOne {
        let mut seen = vec![false; one.group_count()];
        for group in group_of.iter().copied().flatten() {
            if seen[group] && !matched.contains_key(&group) {
                charge.grow(Bits::bytes(steps), 0)?;
                matched.insert(group, Bits::new(steps));
            }
            seen[group] = true;
        }
    }
    Ok((matched, charge))
}

/// Which series meet, and in which output. An output may get samples of several pairs, at different steps.
struct Pairs<'q> {
    /// The outputs' labels, in the order in which they are complete.
    labels: Vec<Labels>,
    /// For each output, the last "many" series that adds to it.
    last_many: Vec<usize>,
    /// For each "many" series, the outputs of its pairs with the variants of its group, in order.
    outputs: Vec<Vec<usize>>,
    _charge: Charge<'q>,
}

impl<'q> Pairs<'q> {
    fn new(
        ctx: &'q Context<'q>,
        many_labels: &[Labels],
        one: &OneSide<'q>,
        group_of: &[Option<usize>],
        operation: Operation<'_>,
        matching: &VectorMatching,
    ) -> Result<Pairs<'q>, EvalError> {
        let mut charge = ctx
            .memory
            .charge(many_labels.len() * size_of::<Vec<usize>>(), 0)?;
        let mut ids: HashMap<Labels, usize> = HashMap::new();
        let mut labels: Vec<Labels> = Vec::new();
        let mut last_many: Vec<usize> = Vec::new();
        let mut outputs: Vec<Vec<usize>> = Vec::with_capacity(many_labels.len());
        for (many, group) in group_of.iter().enumerate() {
            let variants = group.map_or(&[][..], |group| one.variants(group));
            ctx.work(variants.len())?;
            charge.grow(size_of_val(variants), 0)?;
            let mut of_many = Vec::with_capacity(variants.len());
            for variant in variants {
                let result = result_labels(
                    &many_labels[many],
                    one.variant_labels(*variant),
                    operation,
                    matching,
                );
                let id = match ids.get(&result) {
                    Some(id) => *id,
                    None => {
                        charge.grow(Context::labels_bytes(std::slice::from_ref(&result)), 0)?;
                        labels.push(result.clone());
                        last_many.push(many);
                        ids.insert(result, labels.len() - 1);
                        labels.len() - 1
                    }
                };
                last_many[id] = many;
                of_many.push(id);
            }
            outputs.push(of_many);
        }
        // Number the outputs anew, in the order in which they are complete.
        let mut order: Vec<usize> = (0..labels.len()).collect();
        order.sort_by_key(|id| last_many[*id]);
        let mut renumbered = vec![0; order.len()];
        order
            .iter()
            .enumerate()
            .for_each(|(new, old)| renumbered[*old] = new);
        outputs.iter_mut().flatten().for_each(|id| *id = renumbered[*id]);
        Ok(Pairs {
            labels: order.iter().map(|id| labels[*id].clone()).collect(),
            last_many: order.iter().map(|id| last_many[*id]).collect(),
            outputs,
            _charge: charge,
        })
    }
}

/// The labels of what two series give.
pub(super) fn result_labels(
    many: &Labels,
    one: &Labels,
    operation: Operation<'_>,
    matching: &VectorMatching,
) -> Labels {
    let mut labels = if operation.is_arithmetic() {
        drop_metadata(many)
    } else {
        many.clone()
    };
    if matching.cardinality == Cardinality::OneToOne {
        labels = if matching.on {
            only(&labels, &matching.labels)
        } else {
            filter(&labels, |name| {
                matching.labels.iter().all(|ignored| ignored != name)
            })
        };
    }
    if !matching.include.is_empty() {
        let mut builder = LabelsBuilder::from(&labels);
        for name in &matching.include {
            // An empty value deletes.
            builder.set(name, one.get(name).unwrap_or(""));
        }
        labels = builder.build();
    }
    if operation.returns_bool {
        drop_metadata(&labels)
    } else {
        labels
    }
}

struct Join<'q> {
    ctx: &'q Context<'q>,
    operation: Operation<'q>,
    matching: &'q VectorMatching,
    /// Whether the "many" side is the right one.
    swapped: bool,
    many: Unlabelled<'q>,
    one: OneSide<'q>,
    /// For each "many" series, its group, if it has a match.
    group_of: Vec<Option<usize>>,
    pairs: Pairs<'q>,
    /// For groups that may be matched twice though they must not, at which steps they were matched.
    matched: HashMap<usize, Bits>,
    /// Outputs that were begun.
    pending: HashMap<usize, Output<'q>>,
    next_many: usize,
    next_output: usize,
    _charge: Charge<'q>,
}

impl<'q> Columns<'q> for Join<'q> {
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        let Some(last) = self.pairs.last_many.get(self.next_output).copied() else {
            out.clear();
            return Ok(());
        };
        self.one.read(out.len())?;
        while self.next_many <= last {
            self.take_many(out)?;
        }
        match self.pending.remove(&self.next_output) {
            Some(output) => *out = output.column,
            None => out.clear(),
        }
        self.next_output += 1;
        if self.next_output == self.pairs.labels.len() {
            self.take_rest(out.len())?;
        }
        Ok(())
    }
}

impl<'q> Join<'q> {
    /// Reads the "many" series behind the last that has a match.
    fn take_rest(&mut self, steps: usize) -> Result<(), EvalError> {
        self.one.read(steps)?;
        let mut scratch = Column::new(&self.ctx.memory, steps)?;
        while self.next_many < self.group_of.len() {
            self.take_many(&mut scratch)?;
        }
        Ok(())
    }

    /// Reads the next "many" series and adds what it gives to its outputs.
    fn take_many(&mut self, scratch: &mut Column<'q>) -> Result<(), EvalError> {
        let many = self.next_many;
        self.next_many += 1;
        self.many.next(scratch)?;
        self.ctx.work(scratch.len())?;
        let side = if self.swapped { "left" } else { "right" };
        self.one.check_unique(scratch.present(), side, self.matching)?;
        let Some(group) = self.group_of[many] else {
            return Ok(());
        };
        for (variant, output) in self.one.variants(group).iter().zip(&self.pairs.outputs[many]) {
            let held = match self.pending.entry(*output) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(Output::new(self.ctx, scratch.len(), group)?),
            };
            let one = self.one.column(*variant);
            let may_hold_histograms = one.may_hold_histograms() || scratch.may_hold_histograms();
            for step in scratch.present().iter().filter(|step| one.present().get(*step)) {
                // A match that a comparison filters away is a match still.
                if let Some(matched) = self.matched.get_mut(&group) {
                    if matched.get(step) {
                        return Err(ambiguous(
                            "many-to-one matching must be explicit (group_left/group_right)",
                        ));
                    }
                    matched.set(step);
                }
                if held.began_by == group {
                    if held.matched.get(step) {
                        return Err(ambiguous("grouping labels must ensure unique matches"));
                    }
                    held.matched.set(step);
                }
                let (lhs, rhs) = if self.swapped {
                    (one, &*scratch)
                } else {
                    (&*scratch, one)
                };
                let result = if may_hold_histograms {
                    let sides = lhs.cell(step).zip(rhs.cell(step));
                    sides.and_then(|(lhs, rhs)| self.operation.apply_cells(&lhs, &rhs))
                } else {
                    let result = self.operation.apply(lhs.number(step), rhs.number(step));
                    result.map(Cell::Number)
                };
                let Some(result) = result else { continue };
                if held.column.present().get(step) {
                    return Err(duplicate_labels());
                }
                held.column.set_cell(step, result)?;
            }
        }
        Ok(())
    }
}

/// A result that may get samples of several pairs.
struct Output<'q> {
    column: Column<'q>,
    /// The group of the first pair. The others mostly are of it too.
    began_by: usize,
    /// The steps at which a pair of that group met.
    matched: Bits,
    _charge: Charge<'q>,
}

impl<'q> Output<'q> {
    fn new(ctx: &'q Context<'q>, steps: usize, began_by: usize) -> Result<Output<'q>, EvalError> {
        let charge = ctx.memory.charge(Bits::bytes(steps), 0)?;
        let column = Column::new(&ctx.memory, steps)?;
        Ok(Output {
            column,
            began_by,
            matched: Bits::new(steps),
            _charge: charge,
        })
    }
}

pub(super) fn ambiguous(what: &str) -> EvalError {
    EvalError::Execution(format!("multiple matches for labels: {what}"))
}
