//! The side of a join on which a match must be unique.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use quorate_storage::Labels;

use super::signature;
use crate::ast::VectorMatching;
use crate::eval::column::{Bits, Column};
use crate::eval::context::Context;
use crate::eval::labelset::{display, only};
use crate::eval::memory::Charge;
use crate::eval::vector::{Columns, Unlabelled, Vector};
use crate::value::EvalError;

/// The "one" side: its series by match group. Series of a group that can't be told apart in a result are one
/// *variant*: they differ in nothing that the result takes from this side.
pub(super) struct OneSide<'q> {
    ctx: &'q Context<'q>,
    labels: Vec<Labels>,
    unread: Option<Unlabelled<'q>>,
    groups: HashMap<Labels, usize>,
    /// For each group, its variants.
    variants_of: Vec<Vec<usize>>,
    /// For each variant, one of its series.
    representatives: Vec<usize>,
    /// For each series, its group and its variant.
    place_of: Vec<(usize, usize)>,
    /// For each variant, its samples, once they are read.
    columns: Vec<Column<'q>>,
    conflict: Option<Conflict>,
    charge: Charge<'q>,
}

/// Steps at which a match group isn't unique, and two series that show it.
struct Conflict {
    steps: Bits,
    series: (usize, usize),
}

impl<'q> OneSide<'q> {
    pub(super) fn new(
        ctx: &'q Context<'q>,
        vector: Vector<'q>,
        matching: &VectorMatching,
    ) -> Result<OneSide<'q>, EvalError> {
        let (labels, unread) = vector.split();
        let charge = ctx.memory.charge(2 * Context::labels_bytes(&labels), 0)?;
        let mut groups: HashMap<Labels, usize> = HashMap::new();
        let mut variants: HashMap<(usize, Labels), usize> = HashMap::new();
        let mut variants_of: Vec<Vec<usize>> = Vec::new();
        let mut representatives = Vec::new();
        let mut place_of = Vec::with_capacity(labels.len());
        for (series, set) in labels.iter().enumerate() {
            let group = *groups.entry(signature(set, matching)).or_insert_with(|| {
                variants_of.push(Vec::new());
                variants_of.len() - 1
            });
            let taken = only(set, &matching.include);
            let variant = *variants.entry((group, taken)).or_insert_with(|| {
                representatives.push(series);
                variants_of[group].push(representatives.len() - 1);
                representatives.len() - 1
            });
            place_of.push((group, variant));
        }
        Ok(OneSide {
            ctx,
            labels,
            unread: Some(unread),
            groups,
            variants_of,
            representatives,
            place_of,
            columns: Vec::new(),
            conflict: None,
            charge,
        })
    }

    /// The group that a series of the other side belongs to, if it has any match.
    pub(super) fn group_of(&self, labels: &Labels, matching: &VectorMatching) -> Option<usize> {
        self.groups.get(&signature(labels, matching)).copied()
    }

    /// The variants of a group.
    pub(super) fn variants(&self, group: usize) -> &[usize] {
        &self.variants_of[group]
    }

    /// Labels of a series of the variant.
    pub(super) fn variant_labels(&self, variant: usize) -> &Labels {
        &self.labels[self.representatives[variant]]
    }

    /// The samples of a variant, once they are read.
    pub(super) fn column(&self, variant: usize) -> &Column<'q> {
        &self.columns[variant]
    }

    pub(super) fn group_count(&self) -> usize {
        self.variants_of.len()
    }

    /// Reads all samples, if that wasn't done.
    pub(super) fn read(&mut self, steps: usize) -> Result<(), EvalError> {
        let Some(mut unread) = self.unread.take() else {
            return Ok(());
        };
        for _ in 0..self.representatives.len() {
            self.columns.push(Column::new(&self.ctx.memory, steps)?);
        }
        let mut series_of = vec![0_u32; self.variants_of.len()];
        self.place_of.iter().for_each(|(group, _)| series_of[*group] += 1);
        // For groups of several series, whose sample each step has.
        let mut owners: HashMap<usize, Vec<Option<usize>>> = HashMap::new();
        let mut column = Column::new(&self.ctx.memory, steps)?;
        for series in 0..self.labels.len() {
            unread.next(&mut column)?;
            self.ctx.work(steps)?;
            let (group, variant) = self.place_of[series];
            if series_of[group] == 1 {
                std::mem::swap(&mut self.columns[variant], &mut column);
                continue;
            }
            let owners = match owners.entry(group) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    self.charge.grow(steps * size_of::<Option<usize>>(), 0)?;
                    entry.insert(vec![None; steps])
                }
            };
            for step in column.present().iter() {
                if let Some(owner) = owners[step].replace(series) {
                    let conflict = self.conflict.get_or_insert_with(|| Conflict {
                        steps: Bits::new(steps),
                        series: (owner, series),
                    });
                    conflict.steps.set(step);
                }
            }
            self.columns[variant].take_in(&column)?;
        }
        Ok(())
    }

    /// An error if this side isn't unique at a step at which the other side has samples.
    pub(super) fn check_unique(
        &self,
        present: &Bits,
        side: &str,
        matching: &VectorMatching,
    ) -> Result<(), EvalError> {
        let Some(conflict) = self
            .conflict
            .as_ref()
            .filter(|conflict| conflict.steps.overlaps(present))
        else {
            return Ok(());
        };
        let mut series = [&self.labels[conflict.series.0], &self.labels[conflict.series.1]];
        series.sort();
        Err(EvalError::Execution(format!(
            "found duplicate series for the match group {} on the {side} hand-side of the operation: [{}, {}];\
             many-to-many matching not allowed: matching labels must be unique on one side",
            display(&signature(series[0], matching)),
            display(series[0]),
            display(series[1]),
        )))
    }
}
