//! What all parts of one evaluation share: the source, the limits, the annotations.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use quorate_storage::Labels;

use super::labelset::{drop_metadata, mark_metadata};
use super::memory::Memory;
use super::plan;
use crate::ast::{DurationValue, Expr, Span, VectorSelector};
use crate::parse::DurationContext;
use crate::source::Source;
use crate::value::{Annotation, EvalError, EvalOptions, EvalStats};

/// How much work goes by between two questions whether to stop.
const WORK_BETWEEN_ABORT_CHECKS: u64 = 4096;

/// The most distinct warnings, and infos, that are kept. The HTTP API shows ten of each.
const MAX_ANNOTATIONS: usize = 1000;

pub(super) struct Context<'q> {
    pub(super) source: &'q dyn Source,
    pub(super) options: &'q EvalOptions<'q>,
    /// First step of the whole query, Unix milliseconds.
    pub(super) start_ms: i64,
    /// Last step of the whole query, Unix milliseconds.
    pub(super) end_ms: i64,
    /// Distance of the whole query's steps, milliseconds; 0 for an instant query.
    pub(super) step_ms: i64,
    pub(super) memory: Memory,
    /// Selectors of whose histograms only the totals are used.
    totals_only: Vec<&'q VectorSelector>,
    work_left: Cell<u64>,
    samples_read: Cell<u64>,
    series_read: Cell<u64>,
    warnings: RefCell<BTreeSet<Annotation>>,
    infos: RefCell<BTreeSet<Annotation>>,
}

impl<'q> Context<'q> {
    pub(super) fn new(
        source: &'q dyn Source,
        options: &'q EvalOptions<'q>,
        expr: &'q Expr,
        (start_ms, end_ms, step_ms): (i64, i64, i64),
    ) -> Context<'q> {
        Context {
            source,
            options,
            start_ms,
            end_ms,
            step_ms,
            memory: Memory::new(options.max_memory_bytes, options.max_samples),
            totals_only: plan::of_totals_only(expr),
            work_left: Cell::new(WORK_BETWEEN_ABORT_CHECKS),
            samples_read: Cell::new(0),
            series_read: Cell::new(0),
            warnings: RefCell::default(),
            infos: RefCell::default(),
        }
    }

    /// Whether only count and sum of the selector's histograms are used.
    pub(super) fn uses_totals_only(&self, selector: &VectorSelector) -> bool {
        self.totals_only
            .iter()
            .any(|other| std::ptr::eq(*other, selector))
    }

    /// Counts work, in samples looked at, and asks now and then whether to stop.
    #[inline]
    pub(super) fn work(&self, samples: usize) -> Result<(), EvalError> {
        let samples = samples as u64 + 1;
        match self.work_left.get().checked_sub(samples) {
            Some(left) => {
                self.work_left.set(left);
                Ok(())
            }
            None => self.check_abort(),
        }
    }

    /// Asks whether to stop.
    pub(super) fn check_abort(&self) -> Result<(), EvalError> {
        self.work_left.set(WORK_BETWEEN_ABORT_CHECKS);
        (self.options.abort)().map_or(Ok(()), |abort| Err(EvalError::Aborted(abort)))
    }

    pub(super) fn count_read(&self, series: usize, samples: usize) {
        self.series_read.set(self.series_read.get() + series as u64);
        self.samples_read.set(self.samples_read.get() + samples as u64);
    }

    pub(super) fn stats(&self) -> EvalStats {
        EvalStats {
            samples_read: self.samples_read.get(),
            series_read: self.series_read.get(),
            peak_memory_bytes: self.memory.peak_bytes(),
            peak_samples: self.memory.peak_samples(),
        }
    }

    pub(super) fn warn(&self, message: String, span: Span) {
        insert(
            &mut self.warnings.borrow_mut(),
            "PromQL warning: ",
            &message,
            span,
        );
    }

    pub(super) fn info(&self, message: String, span: Span) {
        insert(&mut self.infos.borrow_mut(), "PromQL info: ", &message, span);
    }

    /// The warnings and the infos.
    pub(super) fn take_annotations(&self) -> (Vec<Annotation>, Vec<Annotation>) {
        let take = |set: &RefCell<BTreeSet<Annotation>>| set.take().into_iter().collect();
        (take(&self.warnings), take(&self.infos))
    }

    /// A range or a step, milliseconds, above zero.
    pub(super) fn positive_ms(&self, duration: &DurationValue) -> Result<i64, EvalError> {
        duration
            .resolve_positive_ms(self.durations())
            .map_err(|error| EvalError::Execution(error.to_string()))
    }

    /// An offset, milliseconds; 0 if none was written.
    pub(super) fn offset_ms(&self, duration: Option<&DurationValue>) -> Result<i64, EvalError> {
        duration.map_or(Ok(0), |duration| {
            duration
                .resolve_ms(self.durations())
                .map_err(|error| EvalError::Execution(error.to_string()))
        })
    }

    /// Drops the metric's name, type and unit: from here on, or from the final result.
    pub(super) fn drop_metadata(&self, labels: &Labels) -> Labels {
        if self.options.delayed_name_removal {
            mark_metadata(labels)
        } else {
            drop_metadata(labels)
        }
    }

    /// What label sets take in memory.
    pub(super) fn labels_bytes(labels: &[Labels]) -> usize {
        // The handle, and the shared block's counters.
        let overhead = size_of::<Labels>() + 16;
        labels.iter().map(|set| set.as_bytes().len() + overhead).sum()
    }

    fn durations(&self) -> DurationContext {
        DurationContext {
            step_ms: self.step_ms,
            range_ms: self.end_ms.saturating_sub(self.start_ms),
        }
    }
}

fn insert(set: &mut BTreeSet<Annotation>, prefix: &str, message: &str, span: Span) {
    if set.len() < MAX_ANNOTATIONS {
        set.insert(Annotation::new(format!("{prefix}{message}"), Some(span)));
    }
}
