//! A vector under evaluation: its series' labels are known first, their columns come one at a time.

use std::collections::HashMap;

use quorate_storage::Labels;

use super::column::{Cell, Column};
use super::context::Context;
use super::memory::Charge;
use crate::value::EvalError;

/// Gives a vector's columns in the order of its labels, each once.
pub(super) trait Columns<'q> {
    /// Fills `out`, whatever it held, with the next series' samples.
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError>;
}

/// An instant vector over the steps of a grid.
pub(super) struct Vector<'q> {
    /// Each label set occurs once. Some series may turn out to have no sample.
    pub(super) labels: Vec<Labels>,
    columns: Box<dyn Columns<'q> + 'q>,
    charge: Charge<'q>,
}

impl<'q> Vector<'q> {
    pub(super) fn new(
        ctx: &'q Context<'q>,
        labels: Vec<Labels>,
        columns: impl Columns<'q> + 'q,
    ) -> Result<Vector<'q>, EvalError> {
        let charge = ctx.memory.charge(Context::labels_bytes(&labels), 0)?;
        Ok(Vector {
            labels,
            columns: Box::new(columns),
            charge,
        })
    }

    /// A vector without series.
    pub(super) fn empty(ctx: &'q Context<'q>) -> Vector<'q> {
        Vector {
            labels: Vec::new(),
            columns: Box::new(NoColumns),
            charge: ctx.memory.nothing(),
        }
    }

    /// The next series' samples. Called at most once for each of `labels`.
    pub(super) fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        self.columns.next(out)
    }

    /// Takes the labels away from the columns.
    pub(super) fn split(self) -> (Vec<Labels>, Unlabelled<'q>) {
        (
            self.labels,
            Unlabelled {
                columns: self.columns,
                _charge: self.charge,
            },
        )
    }
}

/// The columns of a vector whose labels were taken.
pub(super) struct Unlabelled<'q> {
    columns: Box<dyn Columns<'q> + 'q>,
    _charge: Charge<'q>,
}

impl<'q> Columns<'q> for Unlabelled<'q> {
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        self.columns.next(out)
    }
}

struct NoColumns;

impl<'q> Columns<'q> for NoColumns {
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        out.clear();
        Ok(())
    }
}

/// Columns that are already there, in order.
pub(super) struct Ready<'q>(std::vec::IntoIter<Column<'q>>);

impl<'q> Ready<'q> {
    pub(super) fn new(columns: Vec<Column<'q>>) -> Ready<'q> {
        Ready(columns.into_iter())
    }
}

impl<'q> Columns<'q> for Ready<'q> {
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        match self.0.next() {
            Some(column) => *out = column,
            None => out.clear(),
        }
        Ok(())
    }
}

/// A function of one column.
pub(super) struct Mapped<'q, F> {
    child: Unlabelled<'q>,
    f: F,
}

impl<'q, F: FnMut(&mut Column<'q>) -> Result<(), EvalError>> Mapped<'q, F> {
    pub(super) fn new(child: Unlabelled<'q>, f: F) -> Mapped<'q, F> {
        Mapped { child, f }
    }
}

impl<'q, F: FnMut(&mut Column<'q>) -> Result<(), EvalError>> Columns<'q> for Mapped<'q, F> {
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        self.child.next(out)?;
        (self.f)(out)
    }
}

/// A vector evaluated at one step, repeated at all steps.
pub(super) struct Broadcast<'q> {
    child: Unlabelled<'q>,
    single: Column<'q>,
}

impl<'q> Broadcast<'q> {
    pub(super) fn over(ctx: &'q Context<'q>, single_step: Vector<'q>) -> Result<Vector<'q>, EvalError> {
        let (labels, child) = single_step.split();
        Vector::new(
            ctx,
            labels,
            Broadcast {
                child,
                single: Column::new(&ctx.memory, 1)?,
            },
        )
    }
}

impl<'q> Columns<'q> for Broadcast<'q> {
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        self.child.next(&mut self.single)?;
        out.clear();
        match self.single.cell(0) {
            Some(Cell::Number(value)) => (0..out.len()).for_each(|step| out.set(step, value)),
            Some(cell) => (0..out.len()).try_for_each(|step| out.set_cell(step, cell.clone()))?,
            None => {}
        }
        Ok(())
    }
}

/// Prometheus's text for two samples of one label set.
pub(super) fn duplicate_labels() -> EvalError {
    EvalError::Execution("vector cannot contain metrics with the same labelset".to_owned())
}

/// Gives the series of `columns` new labels, one for each. Series whose labels have become equal become one; it is an
/// error if two have a sample at the same step.
pub(super) fn relabel<'q>(
    ctx: &'q Context<'q>,
    labels: Vec<Labels>,
    columns: impl Columns<'q> + 'q,
) -> Result<Vector<'q>, EvalError> {
    let mut last_of: HashMap<&Labels, usize> = HashMap::with_capacity(labels.len());
    for (series, set) in labels.iter().enumerate() {
        last_of.insert(set, series);
    }
    if last_of.len() == labels.len() {
        drop(last_of);
        return Vector::new(ctx, labels, columns);
    }
    let last: Vec<usize> = labels.iter().map(|set| last_of[set]).collect();
    drop(last_of);
    let joined = labels
        .iter()
        .enumerate()
        .filter(|(series, _)| last[*series] == *series);
    let joined: Vec<Labels> = joined.map(|(_, set)| set.clone()).collect();
    Vector::new(
        ctx,
        joined,
        Joined {
            ctx,
            columns,
            last,
            next: 0,
            pending: HashMap::new(),
        },
    )
}

/// Joins series with equal labels. Each joined series comes when the last of its parts does.
struct Joined<'q, C> {
    ctx: &'q Context<'q>,
    columns: C,
    /// For each part, the last part with the same labels.
    last: Vec<usize>,
    /// The next part.
    next: usize,
    /// What has been joined, by last part.
    pending: HashMap<usize, Column<'q>>,
}

impl<'q, C: Columns<'q>> Columns<'q> for Joined<'q, C> {
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        while let Some(last) = self.last.get(self.next).copied() {
            self.columns.next(out)?;
            self.next += 1;
            let is_last = last == self.next - 1;
            match (self.pending.remove(&last), is_last) {
                (None, true) => return Ok(()),
                (None, false) => {
                    let mut held = Column::new(&self.ctx.memory, out.len())?;
                    std::mem::swap(&mut held, out);
                    self.pending.insert(last, held);
                }
                (Some(mut held), _) => {
                    join(&mut held, out)?;
                    if is_last {
                        *out = held;
                        return Ok(());
                    }
                    self.pending.insert(last, held);
                }
            }
        }
        out.clear();
        Ok(())
    }
}

/// Adds the samples of `part` to `held`.
fn join(held: &mut Column<'_>, part: &Column<'_>) -> Result<(), EvalError> {
    if held.present().overlaps(part.present()) {
        return Err(duplicate_labels());
    }
    held.take_in(part)
}
