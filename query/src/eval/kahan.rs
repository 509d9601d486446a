//! Neumaier's improvement of Kahan's compensated summation, step by step as Prometheus does it.

/// Adds `increment` to `sum`; `compensation` collects what rounding lost.
#[inline]
pub(super) fn add(increment: f64, sum: f64, compensation: f64) -> (f64, f64) {
    let total = sum + increment;
    let compensation = if total.is_infinite() {
        0.0
    } else if sum.abs() >= increment.abs() {
        compensation + ((sum - total) + increment)
    } else {
        compensation + ((increment - total) + sum)
    };
    (total, compensation)
}

/// A compensated sum.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Sum {
    sum: f64,
    compensation: f64,
}

impl Sum {
    #[inline]
    pub(super) fn first(value: f64) -> Sum {
        Sum {
            sum: value,
            compensation: 0.0,
        }
    }

    #[inline]
    pub(super) fn add(&mut self, increment: f64) {
        (self.sum, self.compensation) = add(increment, self.sum, self.compensation);
    }

    #[inline]
    pub(super) fn total(self) -> f64 {
        self.sum + self.compensation
    }
}

/// A mean: a compensated sum divided by the count, for as long as the sum doesn't overflow; from then on the
/// incremental mean.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Mean {
    /// The sum, or the mean once `incremental`.
    value: f64,
    compensation: f64,
    count: f64,
    incremental: bool,
}

impl Mean {
    #[inline]
    pub(super) fn first(value: f64) -> Mean {
        Mean {
            value,
            compensation: 0.0,
            count: 1.0,
            incremental: false,
        }
    }

    #[inline]
    pub(super) fn add(&mut self, value: f64) {
        self.count += 1.0;
        if !self.incremental {
            let (sum, compensation) = add(value, self.value, self.compensation);
            if !sum.is_infinite() {
                (self.value, self.compensation) = (sum, compensation);
                return;
            }
            self.incremental = true;
            self.value /= self.count - 1.0;
            self.compensation /= self.count - 1.0;
        }
        let kept = (self.count - 1.0) / self.count;
        (self.value, self.compensation) =
            add(value / self.count, kept * self.value, kept * self.compensation);
    }

    #[inline]
    pub(super) fn mean(self) -> f64 {
        if self.incremental {
            self.value + self.compensation
        } else {
            self.value / self.count + self.compensation / self.count
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(values: &[f64]) -> f64 {
        let mut mean = Mean::first(values[0]);
        values[1..].iter().for_each(|value| mean.add(*value));
        mean.mean()
    }

    #[test]
    fn small_values_survive_large_ones() {
        let mut sum = Sum::default();
        [2.0, 8.0, 1e100, -1e100].iter().for_each(|value| sum.add(*value));
        assert_eq!(sum.total(), 10.0);
        assert_eq!(mean(&[2.0, 8.0, 1e100, -1e100]), 2.5);
    }

    #[test]
    fn the_mean_outlives_an_overflow_of_the_sum() {
        assert_eq!(mean(&[1.2e308, 1.2e308, 1.2e308]), 1.2e308);
        assert_eq!(mean(&[f64::INFINITY, 0.0, f64::INFINITY]), f64::INFINITY);
        assert!(mean(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan());
    }
}
