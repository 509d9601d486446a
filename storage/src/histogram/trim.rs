//! What is left of a histogram above or below a value: the operators `</` and `>/`.

use super::{Bucket, Histogram};

/// Which observations stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// Those below the value.
    Below,
    /// Those above the value.
    Above,
}

/// How observations are taken to be spread within a bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Spread {
    Linear,
    Exponential,
}

/// What stays of one bucket.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Rest {
    count: f64,
    /// The middle of where they are.
    midpoint: f64,
}

const NOTHING: Rest = Rest {
    count: 0.0,
    midpoint: 0.0,
};

impl Histogram {
    /// Removes the observations on one side of `value`. Those of the bucket in which it lies are shared out by
    /// interpolation. If anything was removed, count and sum are estimated anew from the buckets.
    pub fn trim(&mut self, value: f64, keep: Keep) {
        let spread = if self.uses_custom_buckets() {
            Spread::Linear
        } else {
            Spread::Exponential
        };
        let zero = (self.zero_count > 0.0).then(|| self.rest_of_zero_bucket(value, keep));
        let positive: Vec<Rest> = self
            .positive()
            .map(|bucket| rest(bucket, value, keep, spread))
            .collect();
        let negative: Vec<Rest> = self
            .negative()
            .map(|bucket| rest(bucket, value, keep, spread))
            .collect();
        let mut changed = zero.is_some_and(|zero| zero.count != self.zero_count);
        let (mut count, mut sum) = (0.0, 0.0);
        for (buckets, rests) in [
            (&mut self.positive_buckets, positive),
            (&mut self.negative_buckets, negative),
        ] {
            for (bucket, rest) in buckets.iter_mut().zip(rests) {
                if *bucket == 0.0 {
                    continue;
                }
                changed |= *bucket != rest.count;
                *bucket = rest.count;
                count += rest.count;
                sum += rest.count * rest.midpoint;
            }
        }
        if let Some(zero) = zero {
            self.zero_count = zero.count;
            sum += zero.count * zero.midpoint;
            count += zero.count;
        }
        if changed {
            (self.count, self.sum) = (count, sum);
            self.compact();
        }
    }

    /// The zero bucket reaches to one side only if the histogram has buckets on that side alone.
    fn rest_of_zero_bucket(&self, value: f64, keep: Keep) -> Rest {
        let (has_positive, has_negative) = (
            !self.positive_buckets.is_empty(),
            !self.negative_buckets.is_empty(),
        );
        let bucket = Bucket {
            lower: if has_positive && !has_negative {
                0.0
            } else {
                -self.zero_threshold
            },
            upper: if has_negative && !has_positive {
                0.0
            } else {
                self.zero_threshold
            },
            ..self.zero_bucket()
        };
        let all = Rest {
            count: bucket.count,
            midpoint: (bucket.lower + bucket.upper) / 2.0,
        };
        match keep {
            Keep::Below if value <= bucket.lower => NOTHING,
            Keep::Below if value >= bucket.upper => all,
            Keep::Above if value <= bucket.lower => all,
            Keep::Above if value >= bucket.upper => NOTHING,
            _ => split(bucket, value, keep, Spread::Linear),
        }
    }
}

fn rest(bucket: Bucket, value: f64, keep: Keep, spread: Spread) -> Rest {
    let all = Rest {
        count: bucket.count,
        midpoint: midpoint(bucket.lower, bucket.upper, spread),
    };
    match keep {
        Keep::Below if bucket.upper <= value => all,
        Keep::Below if bucket.lower < value => split(bucket, value, keep, spread),
        Keep::Above if bucket.lower >= value => all,
        Keep::Above if bucket.upper > value => split(bucket, value, keep, spread),
        _ => NOTHING,
    }
}

/// What stays of a bucket in which `value` lies.
fn split(bucket: Bucket, value: f64, keep: Keep, spread: Spread) -> Rest {
    let Bucket {
        lower, upper, count, ..
    } = bucket;
    if lower == f64::NEG_INFINITY && upper == f64::INFINITY {
        return NOTHING;
    }
    if lower == f64::NEG_INFINITY {
        return split_lowest(bucket, value, keep);
    }
    if upper == f64::INFINITY && spread == Spread::Linear {
        // Nothing is known of how far up the highest bucket's observations are.
        return match keep {
            Keep::Below => NOTHING,
            Keep::Above => Rest {
                count,
                midpoint: value,
            },
        };
    }
    let below = match spread {
        Spread::Linear => (value - lower) / (upper - lower),
        Spread::Exponential if lower < 0.0 => {
            // Mirrored: what is below is farther from zero.
            1.0 - share_of_logs(-upper, -lower, -value)
        }
        Spread::Exponential => share_of_logs(lower, upper, value),
    };
    match keep {
        Keep::Below => Rest {
            count: count * below,
            midpoint: midpoint(lower, value, spread),
        },
        Keep::Above => Rest {
            count: count * (1.0 - below),
            midpoint: midpoint(value, upper, spread),
        },
    }
}

/// The lowest custom bucket has no lower end. It is taken to begin at zero if it ends above, and else to be all below.
fn split_lowest(bucket: Bucket, value: f64, keep: Keep) -> Rest {
    let Bucket { upper, count, .. } = bucket;
    let begins_at_zero = upper > 0.0;
    match keep {
        Keep::Below if !begins_at_zero => Rest {
            count,
            midpoint: value,
        },
        Keep::Below if value > 0.0 => Rest {
            count: count * (value / upper),
            midpoint: value / 2.0,
        },
        Keep::Above if begins_at_zero && value >= 0.0 => Rest {
            count: count * ((upper - value) / upper),
            midpoint: (value + upper) / 2.0,
        },
        _ => NOTHING,
    }
}

/// How far `value` is on the way from `lower` to `upper`, on a logarithmic scale.
fn share_of_logs(lower: f64, upper: f64, value: f64) -> f64 {
    (value.log2() - lower.log2()) / (upper.log2() - lower.log2())
}

fn midpoint(lower: f64, upper: f64, spread: Spread) -> f64 {
    match (lower.is_infinite(), upper.is_infinite()) {
        (true, true) => 0.0,
        (true, false) if upper > 0.0 => upper / 2.0,
        (true, false) => upper,
        (false, true) => lower,
        (false, false) if spread == Spread::Linear => (lower + upper) / 2.0,
        (false, false) => {
            let mean = (lower * upper).abs().sqrt();
            if upper <= 0.0 { -mean } else { mean }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::{CUSTOM_SCHEMA, Span};

    fn trimmed(histogram: &Histogram, value: f64, keep: Keep) -> (f64, f64) {
        let mut rest = histogram.clone();
        rest.trim(value, keep);
        (rest.count, rest.sum)
    }

    #[test]
    fn exponential_buckets_split_on_a_logarithmic_scale() {
        let histogram = Histogram {
            count: 12.0,
            sum: 99.0,
            positive_spans: vec![Span { offset: 1, length: 1 }],
            positive_buckets: vec![8.0],
            negative_spans: vec![Span { offset: 1, length: 1 }],
            negative_buckets: vec![4.0],
            ..Histogram::default()
        };
        let (count, sum) = trimmed(&histogram, 2f64.sqrt(), Keep::Above);
        assert!((count - 4.0).abs() < 1e-12 && (sum - 4.0 * 2f64.powf(0.75)).abs() < 1e-12);
        let (count, _) = trimmed(&histogram, -2f64.powf(0.25), Keep::Below);
        assert!((count - 3.0).abs() < 1e-12);
        assert_eq!(trimmed(&histogram, f64::INFINITY, Keep::Below), (12.0, 99.0));
        assert_eq!(trimmed(&histogram, f64::INFINITY, Keep::Above), (0.0, 0.0));
    }

    #[test]
    fn custom_buckets_split_evenly() {
        let histogram = Histogram {
            schema: CUSTOM_SCHEMA,
            count: 15.0,
            sum: 172.5,
            custom_values: vec![5.0, 10.0, 15.0, 20.0],
            positive_spans: vec![Span { offset: 0, length: 5 }],
            positive_buckets: vec![1.0, 6.0, 4.0, 3.0, 1.0],
            ..Histogram::default()
        };
        assert_eq!(trimmed(&histogram, 15.0, Keep::Below), (11.0, 97.5));
        assert_eq!(trimmed(&histogram, 15.0, Keep::Above), (4.0, 72.5));
        assert_eq!(trimmed(&histogram, 7.5, Keep::Below), (4.0, 21.25));
        assert_eq!(trimmed(&histogram, 50.0, Keep::Below), (14.0, 150.0));
        assert_eq!(trimmed(&histogram, 0.0, Keep::Above), (15.0, 172.5));
        assert_eq!(trimmed(&histogram, 0.0, Keep::Below), (0.0, 0.0));
    }
}
