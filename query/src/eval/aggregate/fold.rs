//! Aggregations that keep a fixed state for each group and step.

use super::Grouped;
use super::fold_histograms::{Gathered, Kind};
use crate::ast::Span;
use crate::eval::annotate;
use crate::eval::column::{Bits, Column};
use crate::eval::context::Context;
use crate::eval::grid::Grid;
use crate::eval::kahan::{Mean, Sum};
use crate::eval::labelset::metric_name;
use crate::eval::memory::Charge;
use crate::eval::vector::{Columns, Vector};
use crate::value::EvalError;

/// What an aggregation does with histograms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OnHistograms {
    /// It leaves them out; the name is for the user, who is told.
    Ignore(&'static str),
    /// It doesn't look at values.
    TakeAlike,
    /// They become one histogram.
    Gather(Kind),
}

/// How values of one group at one step become one.
pub(super) trait Fold {
    /// What becomes of histograms.
    const ON_HISTOGRAMS: OnHistograms;
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
    const ON_HISTOGRAMS: OnHistograms = OnHistograms::Gather(Kind::Sum);
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
    const ON_HISTOGRAMS: OnHistograms = OnHistograms::Gather(Kind::Mean);
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
    const ON_HISTOGRAMS: OnHistograms = OnHistograms::TakeAlike;
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
    const ON_HISTOGRAMS: OnHistograms = OnHistograms::TakeAlike;
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
    const ON_HISTOGRAMS: OnHistograms = OnHistograms::Ignore("min");
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
    const ON_HISTOGRAMS: OnHistograms = OnHistograms::Ignore("max");
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
    const ON_HISTOGRAMS: OnHistograms = OnHistograms::Ignore("stdvar");
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
    const ON_HISTOGRAMS: OnHistograms = OnHistograms::Ignore("stddev");
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

/// Begins an aggregation: no series is read before the first group is asked for. `span` is where the aggregated vector
/// was written.
pub(super) fn evaluate<'q, F: Fold + 'q>(
    ctx: &'q Context<'q>,
    input: Grouped<'q>,
    grid: Grid,
    span: Span,
) -> Result<Vector<'q>, EvalError> {
    let labels = input.groups.clone();
    let folded: Folded<'q, F> = Folded {
        ctx,
        grid,
        span,
        input: Some(input),
        groups: Vec::new().into_iter(),
    };
    Vector::new(ctx, labels, folded)
}

struct Folded<'q, F: Fold> {
    ctx: &'q Context<'q>,
    grid: Grid,
    span: Span,
    /// What is to be aggregated, until it was.
    input: Option<Grouped<'q>>,
    groups: std::vec::IntoIter<Group<'q, F>>,
}

struct Group<'q, F: Fold> {
    states: Vec<F::State>,
    /// At which steps there is a number.
    present: Bits,
    histograms: Option<Box<Gathered<'q>>>,
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
            histograms: None,
            _charge: charge,
        })
    }

    fn add(&mut self, column: &Column<'_>) {
        column.iter().for_each(|(step, value)| self.add_one(step, value));
    }

    #[inline]
    fn add_one(&mut self, step: usize, value: f64) {
        let state = &mut self.states[step];
        if self.present.get(step) {
            F::add(state, value);
        } else {
            *state = F::first(value);
            self.present.set(step);
        }
    }

    /// Takes in the histograms of the column of a series with this name. The column's numbers come after them.
    fn add_histograms(
        &mut self,
        ctx: &'q Context<'q>,
        column: &Column<'_>,
        name: &str,
        span: Span,
    ) -> Result<(), EvalError> {
        let mut histograms = column.histograms().peekable();
        if histograms.peek().is_none() {
            return Ok(());
        }
        match F::ON_HISTOGRAMS {
            OnHistograms::Ignore(aggregation) => annotate::ignored_in_aggregation(ctx, aggregation, span),
            OnHistograms::TakeAlike => histograms.for_each(|(step, _)| self.add_one(step, 0.0)),
            OnHistograms::Gather(kind) => {
                let gathered = self
                    .histograms
                    .get_or_insert_with(|| Box::new(Gathered::new(ctx, kind, span)));
                for (step, histogram) in histograms {
                    gathered.add(step, histogram, self.present.get(step), name)?;
                }
            }
        }
        Ok(())
    }

    fn finish(self, out: &mut Column<'q>) -> Result<(), EvalError> {
        for step in self.present.iter() {
            out.set(step, F::finish(&self.states[step]));
        }
        match self.histograms {
            Some(gathered) => gathered.finish(&self.present, out),
            None => Ok(()),
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
        for (series, group) in group_of.into_iter().enumerate() {
            vector.next(&mut column)?;
            self.ctx.work(steps)?;
            if column.may_hold_histograms() {
                let name = metric_name(&vector.labels[series]);
                groups[group].add_histograms(self.ctx, &column, name, self.span)?;
            }
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
        match self.groups.next() {
            Some(group) => group.finish(out),
            None => Ok(()),
        }
    }
}
