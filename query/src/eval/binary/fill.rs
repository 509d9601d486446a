//! Arithmetic and comparisons with `fill`, `fill_left` or `fill_right`: what one side lacks at a step is filled in.

use std::collections::HashMap;

use quorate_storage::Labels;

use super::join::{ambiguous, result_labels};
use super::one_side::OneSide;
use super::operation::Operation;
use super::{build, signature};
use crate::ast::{BinaryExpr, Cardinality, VectorMatching};
use crate::eval::column::{Bits, Cell, Column};
use crate::eval::context::Context;
use crate::eval::grid::Grid;
use crate::eval::memory::Charge;
use crate::eval::vector::{Columns as _, Ready, Vector, duplicate_labels};
use crate::value::EvalError;

/// Evaluates all of it at once: which samples lack a partner is known when both sides are read.
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
    // Prometheus swaps the sides of `group_right` before it fills, and not the values: `fill_left` is always for the
    // "many" side.
    let (many_fill, one_fill) = (matching.fill_left, matching.fill_right);
    let (many_labels, mut many) = build::vector(ctx, many_expr, grid)?.split();
    let mut one = OneSide::new(ctx, build::vector(ctx, one_expr, grid)?, matching)?;
    one.read(grid.count)?;
    let mut groups = Groups::new(ctx, &one, grid.count)?;
    let mut outputs = Outputs {
        ctx,
        operation: Operation::of(ctx, expr)?,
        matching,
        swapped,
        steps: grid.count,
        ids: HashMap::new(),
        labels: Vec::new(),
        columns: Vec::new(),
        matched: Vec::new(),
        charge: ctx.memory.nothing(),
    };
    let side = if swapped { "left" } else { "right" };
    let mut column = Column::new(&ctx.memory, grid.count)?;
    for labels in &many_labels {
        many.next(&mut column)?;
        ctx.work(grid.count)?;
        one.check_unique(column.present(), side, matching)?;
        let group = groups.of(labels, &one, matching)?;
        let partners = one
            .group_of(labels, matching)
            .map_or(&[][..], |group| one.variants(group));
        let filled_labels = signature(labels, matching);
        for step in column.present().iter() {
            let Some(value) = column.cell(step) else { continue };
            if matching.cardinality == Cardinality::OneToOne && groups.met[group].get(step) {
                return Err(ambiguous(
                    "many-to-one matching must be explicit (group_left/group_right)",
                ));
            }
            let partner = partners
                .iter()
                .find_map(|variant| Some((one.variant_labels(*variant), one.column(*variant).cell(step)?)));
            let Some((one_labels, one_value)) =
                partner.or(one_fill.map(|fill| (&filled_labels, Cell::Number(fill))))
            else {
                continue;
            };
            groups.met[group].set(step);
            outputs.add(step, group, (labels, &value), (one_labels, &one_value))?;
        }
    }
    if let Some(fill) = many_fill {
        for group in 0..one.group_count() {
            for variant in one.variants(group) {
                ctx.work(grid.count)?;
                let one_labels = one.variant_labels(*variant);
                let filled_labels = signature(one_labels, matching);
                let column = one.column(*variant);
                for step in column.present().iter() {
                    if let (false, Some(value)) = (groups.met[group].get(step), column.cell(step)) {
                        let fill = Cell::Number(fill);
                        outputs.add(step, group, (&filled_labels, &fill), (one_labels, &value))?;
                    }
                }
            }
        }
    }
    Vector::new(ctx, outputs.labels, Ready::new(outputs.columns))
}

/// The match groups of both sides, those of the "one" side first, and at which steps a "many" series was in them.
struct Groups<'q> {
    met: Vec<Bits>,
    of_many_alone: HashMap<Labels, usize>,
    steps: usize,
    charge: Charge<'q>,
}

impl<'q> Groups<'q> {
    fn new(ctx: &'q Context<'q>, one: &OneSide<'q>, steps: usize) -> Result<Groups<'q>, EvalError> {
        let count = one.group_count();
        Ok(Groups {
            charge: ctx.memory.charge(count * Bits::bytes(steps), 0)?,
            met: vec![Bits::new(steps); count],
            of_many_alone: HashMap::new(),
            steps,
        })
    }

    fn of(
        &mut self,
        labels: &Labels,
        one: &OneSide<'q>,
        matching: &VectorMatching,
    ) -> Result<usize, EvalError> {
        if let Some(group) = one.group_of(labels, matching) {
            return Ok(group);
        }
        let new = self.met.len();
        let group = *self
            .of_many_alone
            .entry(signature(labels, matching))
            .or_insert(new);
        if group == new {
            self.charge.grow(Bits::bytes(self.steps), 0)?;
            self.met.push(Bits::new(self.steps));
        }
        Ok(group)
    }
}

/// The results so far.
struct Outputs<'q> {
    ctx: &'q Context<'q>,
    operation: Operation<'q>,
    matching: &'q VectorMatching,
    swapped: bool,
    steps: usize,
    ids: HashMap<Labels, usize>,
    labels: Vec<Labels>,
    columns: Vec<Column<'q>>,
    /// For each result, the group that it was begun by, and the steps at which a pair of that group met.
    matched: Vec<(usize, Bits)>,
    charge: Charge<'q>,
}

impl Outputs<'_> {
    /// Adds what a sample of each side give.
    fn add(
        &mut self,
        step: usize,
        group: usize,
        (many_labels, many): (&Labels, &Cell),
        (one_labels, one): (&Labels, &Cell),
    ) -> Result<(), EvalError> {
        let labels = result_labels(many_labels, one_labels, self.operation, self.matching);
        let steps = self.steps;
        let id = match self.ids.get(&labels) {
            Some(id) => *id,
            None => {
                self.charge.grow(
                    Context::labels_bytes(std::slice::from_ref(&labels)) + Bits::bytes(steps),
                    0,
                )?;
                self.columns.push(Column::new(&self.ctx.memory, steps)?);
                self.matched.push((group, Bits::new(steps)));
                self.labels.push(labels.clone());
                self.ids.insert(labels, self.labels.len() - 1);
                self.labels.len() - 1
            }
        };
        let (began_by, matched) = &mut self.matched[id];
        if *began_by == group {
            if matched.get(step) {
                return Err(ambiguous("grouping labels must ensure unique matches"));
            }
            matched.set(step);
        }
        let (lhs, rhs) = if self.swapped { (one, many) } else { (many, one) };
        if let Some(value) = self.operation.apply_cells(lhs, rhs) {
            if self.columns[id].present().get(step) {
                return Err(duplicate_labels());
            }
            self.columns[id].set_cell(step, value)?;
        }
        Ok(())
    }
}
