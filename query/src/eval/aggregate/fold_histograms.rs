//! The histograms of a group, which become one at each step.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_storage::Histogram;
use quorate_storage::histogram::{HistogramMean, HistogramSum, IncompatibleSchemas, Reconciled};

use crate::ast::Span;
use crate::eval::annotate::{self, HistogramOperation};
use crate::eval::column::{Bits, Column};
use crate::eval::context::Context;
use crate::eval::memory::Charge;
use crate::eval::range::Noticed;
use crate::value::EvalError;

/// What they become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Sum,
    Mean,
}

enum Total {
    Sum(HistogramSum),
    Mean(HistogramMean),
}

impl Total {
    fn first(kind: Kind, histogram: &Histogram) -> Total {
        match kind {
            Kind::Sum => Total::Sum(HistogramSum::first(histogram)),
            Kind::Mean => Total::Mean(HistogramMean::first(histogram)),
        }
    }

    fn add(&mut self, histogram: &Histogram) -> Result<Reconciled, IncompatibleSchemas> {
        match self {
            Total::Sum(sum) => sum.add(histogram),
            Total::Mean(mean) => mean.add(histogram),
        }
    }

    fn finish(&self) -> Histogram {
        let mut histogram = match self {
            Total::Sum(sum) => sum.total(),
            Total::Mean(mean) => mean.mean(),
        };
        histogram.compact();
        histogram
    }

    fn memory_bytes(&self) -> usize {
        match self {
            Total::Sum(sum) => sum.memory_bytes(),
            Total::Mean(mean) => mean.memory_bytes(),
        }
    }
}

/// The histograms of one step.
struct AtStep {
    /// Nothing if numbers came first, or if they can't be added.
    total: Option<Total>,
    /// Whether histograms with exponential and with custom buckets met.
    incompatible: bool,
    noticed: Noticed,
    /// What `total` is accounted for.
    charged_bytes: usize,
}

/// The histograms of a group by step.
pub(super) struct Gathered<'q> {
    ctx: &'q Context<'q>,
    kind: Kind,
    /// Where the aggregated vector was written.
    span: Span,
    steps: BTreeMap<usize, AtStep>,
    charge: Charge<'q>,
}

impl<'q> Gathered<'q> {
    pub(super) fn new(ctx: &'q Context<'q>, kind: Kind, span: Span) -> Gathered<'q> {
        Gathered {
            ctx,
            kind,
            span,
            steps: BTreeMap::new(),
            charge: ctx.memory.nothing(),
        }
    }

    /// Takes in a histogram of a series with this name. If the step has a number already, it will have no result.
    pub(super) fn add(
        &mut self,
        step: usize,
        histogram: &Arc<Histogram>,
        has_number: bool,
        name: &str,
    ) -> Result<(), EvalError> {
        let buckets = histogram.positive_buckets.len() + histogram.negative_buckets.len();
        self.ctx.work(buckets)?;
        let at = self.steps.entry(step).or_insert_with(|| AtStep {
            total: None,
            incompatible: false,
            noticed: Noticed::default(),
            charged_bytes: 0,
        });
        if at.incompatible {
            return Ok(());
        }
        at.noticed.hint(histogram);
        match &mut at.total {
            None if has_number => return Ok(()),
            None => at.total = Some(Total::first(self.kind, histogram)),
            Some(total) => match total.add(histogram) {
                Ok(reconciled) => at.noticed.reconciled(reconciled),
                Err(IncompatibleSchemas) => {
                    annotate::mixed_schemas(self.ctx, name, self.span);
                    at.incompatible = true;
                    at.total = None;
                    return Ok(());
                }
            },
        }
        let bytes = at.total.as_ref().map_or(0, Total::memory_bytes) + size_of::<AtStep>();
        if bytes > at.charged_bytes {
            self.charge.grow(bytes - at.charged_bytes, 0)?;
            at.charged_bytes = bytes;
        }
        Ok(())
    }

    /// Puts the results out. Steps that have numbers as well have none.
    pub(super) fn finish(mut self, numbers: &Bits, out: &mut Column<'q>) -> Result<(), EvalError> {
        while let Some((step, at)) = self.steps.pop_first() {
            if at.incompatible {
                out.present_mut().remove(step);
                continue;
            }
            if at.noticed.custom_bounds() {
                annotate::custom_bounds_reconciled(self.ctx, HistogramOperation::Aggregation, self.span);
            }
            if numbers.get(step) {
                annotate::mixed_floats_histograms_in_aggregation(self.ctx, self.span);
                out.present_mut().remove(step);
                continue;
            }
            if at.noticed.counter_reset_collision() {
                annotate::counter_reset_collision(self.ctx, HistogramOperation::Aggregation, self.span);
            }
            if let Some(total) = at.total {
                out.set_histogram(step, Arc::new(total.finish()))?;
            }
        }
        Ok(())
    }
}
