//! Aggregations that keep a fixed state for each group and step.

use super::Grouped;
use crate::eval::column::{Bits, Column};
use crate::eval::context::Context;
use crate::eval::grid::Grid;
use crate::eval::kahan::{Mean, Sum};
use crate::eval::memory::Charge;
use crate::eval::vector::{Columns, Vector};
use crate::value::EvalError;

/// How values of one group at one step become one.
pub(super) trait Fold {
    /// What is kept; the default stands for no value yet.
    type State: Copy + Default;
    /// The state after the first value.
    fn first(value: f64) -> Self::State;
    /// Takes another value in.
    fn add(state: &mut Self::State, value: f64);
    /// The result.
    fn finish(state: &Self::State) -> f64;
}

/// `sum`.
pub(super) struct Summed;

impl Fold for Summed {
    type State = Sum;

    fn first(value: f64) -> Sum {
        Sum::first(value)
    }

    fn add(state: &mut Sum, value: f64) {
        state.add(value);
    }

    fn finish(state: &Sum) -> f64 {
        state.total()
    }
}

/// `avg`.
pub(super) struct Averaged;

impl Fold for Averaged {
    type State = Mean;

    fn first(value: f64) -> Mean {
        Mean::first(value)
    }

    fn add(state: &mut Mean, value: f64) {
        state.add(value);
    }

    fn finish(state: &Mean) -> f64 {
        state.mean()
    }
}

/// `count`.
pub(super) struct Counted;

impl Fold for Counted {
    type State = u32;

    fn first(_: f64) -> u32 {
        1
    }

    fn add(state: &mut u32, _: f64) {
        *state += 1;
    }

    fn finish(state: &u32) -> f64 {
        f64::from(*state)
    }
}

/// `group`.
pub(super) struct Present;

impl Fold for Present {
    type State = ();

    fn first(_: f64) {}

    fn add(_: &mut (), _: f64) {}

    fn finish(_: &()) -> f64 {
        1.0
    }
}

/// `min`: any number beats NaN.
pub(super) struct Smallest;

impl Fold for Smallest {
    type State = f64;

    fn first(value: f64) -> f64 {
        value
    }

    fn add(state: &mut f64, value: f64) {
        if *state > value || state.is_nan() {
            *state = value;
        }
    }

    fn finish(state: &f64) -> f64 {
        *state
    }
}

/// `max`: any number beats NaN.
pub(super) struct Largest;

impl Fold for Largest {
    type State = f64;

    fn first(value: f64) -> f64 {
        value
    }

    fn add(state: &mut f64, value: f64) {
        if *state < value || state.is_nan() {
            *state = value;
        }
    }

    fn finish(state: &f64) -> f64 {
        *state
    }
}

/// Welford's running mean and sum of squared distances, without compensation, as Prometheus has it.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Welford {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Welford {
    fn first(value: f64) -> Welford {
        // A first value that isn't finite makes everything NaN, though its distance from itself counts as zero.
        Welford {
            count: 1.0,
            mean: value,
            squares: if value.is_finite() { 0.0 } else { f64::NAN },
        }
    }

    fn add(&mut self, value: f64) {
        self.count += 1.0;
        let delta = value - self.mean;
        self.mean += delta / self.count;
        self.squares += delta * (value - self.mean);
    }
}

/// `stdvar`.
pub(super) struct Variance;

impl Fold for Variance {
    type State = Welford;

    fn first(value: f64) -> Welford {
        Welford::first(value)
    }

    fn add(state: &mut Welford, value: f64) {
        state.add(value);
    }

    fn finish(state: &Welford) -> f64 {
        state.squares / state.count
    }
}

/// `stddev`.
pub(super) struct Deviation;

impl Fold for Deviation {
    type State = Welford;

    fn first(value: f64) -> Welford {
        Welford::first(value)
    }

    fn add(state: &mut Welford, value: f64) {
        state.add(value);
    }

    fn finish(state: &Welford) -> f64 {
        (state.squares / state.count).sqrt()
    }
}

/// Begins an aggregation: no series is read before the first group is asked for.
pub(super) fn evaluate<'q, F: Fold + 'q>(
    ctx: &'q Context<'q>,
    input: Grouped<'q>,
    grid: Grid,
) -> Result<Vector<'q>, EvalError> {
    let labels = input.groups.clone();
    let folded: Folded<'q, F> = Folded {
        ctx,
        grid,
        input: Some(input),
        groups: Vec::new().into_iter(),
    };
    Vector::new(ctx, labels, folded)
}

struct Folded<'q, F: Fold> {
    ctx: &'q Context<'q>,
    grid: Grid,
    /// What is to be aggregated, until it was.
    input: Option<Grouped<'q>>,
    groups: std::vec::IntoIter<Group<'q, F>>,
}

struct Group<'q, F: Fold> {
    states: Vec<F::State>,
    present: Bits,
    _charge: Charge<'q>,
}

impl<'q, F: Fold> Group<'q, F> {
    fn new(ctx: &'q Context<'q>, steps: usize) -> Result<Group<'q, F>, EvalError> {
        let charge = ctx
            .memory
            .charge(steps * size_of::<F::State>() + Bits::bytes(steps), steps)?;
        Ok(Group {
            states: vec![F::State::default(); steps],
            present: Bits::new(steps),
            _charge: charge,
        })
    }

    fn add(&mut self, column: &Column<'_>) {
        for (step, value) in column.iter() {
            let state = &mut self.states[step];
            if self.present.get(step) {
                F::add(state, value);
            } else {
                *state = F::first(value);
                self.present.set(step);
            }
        }
    }
}

impl<'q, F: Fold> Folded<'q, F> {
    fn aggregate(&mut self, input: Grouped<'q>) -> Result<(), EvalError> {
        let Grouped {
            mut vector,
            group_of,
            groups,
        } = input;
        let steps = self.grid.count;
        let mut groups: Vec<Group<'q, F>> = groups
            .iter()
            .map(|_| Group::new(self.ctx, steps))
            .collect::<Result<_, _>>()?;
        let mut column = Column::new(&self.ctx.memory, steps)?;
        for group in group_of {
            vector.next(&mut column)?;
            self.ctx.work(steps)?;
            groups[group].add(&column);
        }
        self.groups = groups.into_iter();
        Ok(())
    }
}

impl<'q, F: Fold> Columns<'q> for Folded<'q, F> {
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        if let Some(input) = self.input.take() {
            self.aggregate(input)?;
        }
        out.clear();
        if let Some(group) = self.groups.next() {
            group
                .present
                .iter()
                .for_each(|step| out.set(step, F::finish(&group.states[step])));
        }
        Ok(())
    }
}
