//! The times of an evaluation.

use super::context::Context;
use crate::ast::{At, Subquery};
use crate::value::{EvalError, LimitKind};

/// Evenly spaced steps; maybe none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Grid {
    start_ms: i64,
    /// Above zero if there is more than one step.
    step_ms: i64,
    /// How many steps.
    pub(super) count: usize,
}

impl Grid {
    /// One step only.
    pub(super) fn instant(time_ms: i64) -> Grid {
        Grid {
            start_ms: time_ms,
            step_ms: 0,
            count: 1,
        }
    }

    /// `start_ms`, and every `step_ms` up to and including `end_ms`.
    pub(super) fn range(start_ms: i64, end_ms: i64, step_ms: i64, max_steps: u64) -> Result<Grid, EvalError> {
        if end_ms < start_ms {
            return Ok(Grid {
                start_ms,
                step_ms,
                count: 0,
            });
        }
        // The difference of two i64 fits u64.
        let steps = end_ms.abs_diff(start_ms) / step_ms.unsigned_abs().max(1);
        if steps >= max_steps {
            return Err(EvalError::Limit {
                limit: LimitKind::Steps,
                max: max_steps,
            });
        }
        let too_many = EvalError::Limit {
            limit: LimitKind::Steps,
            max: max_steps,
        };
        Ok(Grid {
            start_ms,
            step_ms,
            count: usize::try_from(steps + 1).map_err(|_| too_many)?,
        })
    }

    /// The steps of a subquery whose outer query runs on `outer`: absolute multiples of its own step.
    pub(super) fn of_subquery(
        ctx: &Context<'_>,
        subquery: &Subquery,
        times: Times,
        range_ms: i64,
        outer: Grid,
    ) -> Result<Grid, EvalError> {
        let step_ms = match &subquery.step {
            Some(step) => ctx.positive_ms(step)?,
            None => ctx.options.default_subquery_step_ms.max(1),
        };
        let Some((first, last)) = outer.span(times) else {
            return Ok(Grid {
                start_ms: 0,
                step_ms,
                count: 0,
            });
        };
        // The first multiple after `before`, found as Prometheus does: its division rounds towards zero.
        let before = first.saturating_sub(range_ms);
        let mut start_ms = step_ms * (before / step_ms);
        if start_ms <= before {
            start_ms = start_ms.saturating_add(step_ms);
        }
        Grid::range(start_ms, last, step_ms, ctx.options.max_steps)
    }

    /// The first step alone.
    pub(super) fn first_only(self) -> Grid {
        Grid {
            count: self.count.min(1),
            ..self
        }
    }

    /// When a step is, Unix milliseconds.
    #[inline]
    pub(super) fn time_ms(self, step: usize) -> i64 {
        self.start_ms + self.step_ms * step as i64
    }

    pub(super) fn step_ms(self) -> i64 {
        self.step_ms
    }

    /// The oldest and the newest time looked at, if there is any step.
    pub(super) fn span(self, times: Times) -> Option<(i64, i64)> {
        let last = self.count.checked_sub(1)?;
        Some((
            times.reference_ms(self.time_ms(0)),
            times.reference_ms(self.time_ms(last)),
        ))
    }
}

/// The `@` and `offset` of a selector: at which time it looks, for each step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Times {
    at_ms: Option<i64>,
    offset_ms: i64,
}

impl Times {
    pub(super) fn new(ctx: &Context<'_>, at: Option<At>, offset_ms: i64) -> Times {
        let at_ms = at.map(|at| match at {
            At::Timestamp(time_ms) => time_ms,
            At::Start => ctx.start_ms,
            At::End => ctx.end_ms,
        });
        Times { at_ms, offset_ms }
    }

    /// These, where the step's time is what `outer` looks at.
    pub(super) fn within(self, outer: Times) -> Times {
        match (self.at_ms, outer.at_ms) {
            (Some(_), _) => self,
            (None, outer_at_ms) => Times {
                at_ms: outer_at_ms,
                offset_ms: self.offset_ms.saturating_add(outer.offset_ms),
            },
        }
    }

    /// The time looked at when the step is at `time_ms`.
    #[inline]
    pub(super) fn reference_ms(self, time_ms: i64) -> i64 {
        self.at_ms.unwrap_or(time_ms).saturating_sub(self.offset_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_include_the_end_only_if_they_hit_it() {
        let grid = Grid::range(-10, 25, 10, 100).unwrap();
        assert_eq!(
            (0..grid.count).map(|step| grid.time_ms(step)).collect::<Vec<_>>(),
            [-10, 0, 10, 20]
        );
        assert_eq!(Grid::range(0, 20, 10, 3).unwrap().count, 3);
        assert!(matches!(
            Grid::range(0, 30, 10, 3),
            Err(EvalError::Limit {
                limit: LimitKind::Steps,
                max: 3
            })
        ));
        assert_eq!(Grid::range(1, 0, 10, 3).unwrap().count, 0);
        assert!(Grid::range(i64::MIN, i64::MAX, 1, 1000).is_err());
    }
}
