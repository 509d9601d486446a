//! Instant selectors: each series' latest sample at each step.

use std::sync::Arc;

use quorate_storage::{CounterResetHint, Histogram, Labels, SampleColumns};

use super::column::{Column, samples_of};
use super::context::Context;
use super::grid::{Grid, Times};
use super::memory::Charge;
use super::smoothed;
use super::vector::{Columns, Vector};
use crate::ast::VectorSelector;
use crate::source::{SelectHints, SelectRequest, SeriesCursor};
use crate::value::EvalError;

/// Ends a series: the bits Prometheus writes when a target or a series went away.
const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;

/// Roughly what a cursor takes beyond its labels.
const CURSOR_BYTES: usize = 256;

#[inline]
pub(super) fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_NAN_BITS
}

/// What an instant selector gives for a sample.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Take {
    /// Its value.
    Value,
    /// Its time in seconds.
    Timestamp,
}

/// Evaluates an instant selector.
pub(super) fn instant<'q>(
    ctx: &'q Context<'q>,
    selector: &'q VectorSelector,
    grid: Grid,
    take: Take,
    function: Option<&'q str>,
) -> Result<Vector<'q>, EvalError> {
    let times = Times::new(ctx, selector.at, ctx.offset_ms(selector.offset.as_ref())?);
    let lookback_ms = ctx.options.lookback_ms;
    let hints = SelectHints {
        step_ms: grid.step_ms(),
        range_ms: 0,
        function,
    };
    let smoothed = selector.boundary.is_some();
    let ahead_ms = if smoothed { lookback_ms } else { 0 };
    let span = grid
        .span(times)
        .map(|(first, last)| (first, last.saturating_add(ahead_ms)));
    let Some(selected) = Selected::open(ctx, selector, span, lookback_ms, hints)? else {
        return Ok(Vector::empty(ctx));
    };
    let labels = selected.labels();
    if smoothed && take == Take::Value {
        return smoothed::between(ctx, labels, selected, grid, times, selector.span);
    }
    Vector::new(
        ctx,
        labels,
        Instants {
            ctx,
            selected,
            grid,
            times,
            lookback_ms,
            take,
        },
    )
}

struct Instants<'q> {
    ctx: &'q Context<'q>,
    selected: Selected<'q>,
    grid: Grid,
    times: Times,
    lookback_ms: i64,
    take: Take,
}

impl<'q> Columns<'q> for Instants<'q> {
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        out.clear();
        let samples = self.selected.next()?;
        let timestamps = samples.timestamps.as_slice();
        self.ctx.work(self.grid.count)?;
        // How many samples are not after the step.
        let mut past = 0;
        for step in 0..self.grid.count {
            let reference_ms = self.times.reference_ms(self.grid.time_ms(step));
            while past < timestamps.len() && timestamps[past] <= reference_ms {
                past += 1;
            }
            let Some(latest) = past.checked_sub(1) else {
                continue;
            };
            let (timestamp_ms, value) = (timestamps[latest], samples.values[latest]);
            if timestamp_ms <= reference_ms.saturating_sub(self.lookback_ms) || is_stale(value) {
                continue;
            }
            match (self.take, samples.histogram(latest)) {
                (Take::Value, None) => out.set(step, value),
                (Take::Value, Some(histogram)) => out.set_histogram(step, Arc::clone(histogram))?,
                (Take::Timestamp, _) => out.set(step, timestamp_ms as f64 / 1000.0),
            }
        }
        Ok(())
    }
}

/// The series a selector found, read one after the other.
pub(super) struct Selected<'q> {
    ctx: &'q Context<'q>,
    cursors: std::vec::IntoIter<Box<dyn SeriesCursor>>,
    /// Whether nothing but count and sum of histograms is used.
    totals_only: bool,
    samples: SampleColumns,
    samples_charge: Charge<'q>,
    _cursors_charge: Charge<'q>,
}

impl<'q> Selected<'q> {
    /// Asks the source for the series with samples that may be looked at when the times of `span` are, each with all
    /// that is less than `depth_ms` older. `None` if no time is looked at.
    pub(super) fn open(
        ctx: &'q Context<'q>,
        selector: &VectorSelector,
        span: Option<(i64, i64)>,
        depth_ms: i64,
        hints: SelectHints<'_>,
    ) -> Result<Option<Selected<'q>>, EvalError> {
        let Some((first_ms, last_ms)) = span else {
            return Ok(None);
        };
        ctx.check_abort()?;
        let request = SelectRequest {
            // Windows are open on the left.
            start_ms: first_ms.saturating_sub(depth_ms).saturating_add(1),
            end_ms: last_ms,
            matchers: &selector.matchers,
            hints,
        };
        let cursors = ctx.source.select(&request).map_err(EvalError::Source)?;
        let labels_bytes: usize = cursors
            .iter()
            .map(|cursor| cursor.labels().as_bytes().len())
            .sum();
        let cursors_charge = ctx
            .memory
            .charge(labels_bytes + cursors.len() * CURSOR_BYTES, 0)?;
        ctx.count_read(cursors.len(), 0);
        Ok(Some(Selected {
            ctx,
            cursors: cursors.into_iter(),
            totals_only: ctx.uses_totals_only(selector),
            samples: SampleColumns::default(),
            samples_charge: ctx.memory.nothing(),
            _cursors_charge: cursors_charge,
        }))
    }

    /// The labels of the series that were not read yet.
    pub(super) fn labels(&self) -> Vec<Labels> {
        self.cursors
            .as_slice()
            .iter()
            .map(|cursor| cursor.labels().clone())
            .collect()
    }

    /// The next series' samples, stale markers included.
    pub(super) fn next(&mut self) -> Result<&mut SampleColumns, EvalError> {
        self.samples.clear();
        if let Some(mut cursor) = self.cursors.next() {
            cursor.samples(&mut self.samples).map_err(EvalError::Source)?;
        }
        let count = self.samples.timestamps.len();
        if count != self.samples.values.len() {
            return Err(EvalError::Execution(
                "a series has more timestamps than values".to_owned(),
            ));
        }
        self.samples_charge
            .replace(self.samples.timestamps.capacity() * 16, count)?;
        if !self.samples.histograms.is_empty() {
            if self.totals_only {
                reduce_to_totals(&mut self.samples);
            }
            for (_, histogram) in &self.samples.histograms {
                self.samples_charge
                    .grow(histogram.memory_bytes(), samples_of(histogram))?;
            }
        }
        self.ctx.count_read(0, count);
        self.ctx.work(count)?;
        Ok(&mut self.samples)
    }
}

/// Drops the buckets, after having looked at them for what they tell of counter resets.
fn reduce_to_totals(samples: &mut SampleColumns) {
    let mut previous: Option<Arc<Histogram>> = None;
    for (_, slot) in &mut samples.histograms {
        let whole = Arc::clone(slot);
        let before = previous.as_deref().filter(|before| !before.is_stale());
        let counter_reset_hint = match (whole.counter_reset_hint, before) {
            (CounterResetHint::Unknown, Some(before)) if whole.detect_reset(before) => {
                CounterResetHint::Reset
            }
            (CounterResetHint::Unknown, Some(_)) => CounterResetHint::NotReset,
            (known, _) => known,
        };
        *slot = Arc::new(Histogram {
            counter_reset_hint,
            schema: whole.schema,
            count: whole.count,
            sum: whole.sum,
            ..Histogram::default()
        });
        previous = Some(whole);
    }
}
