//! A histogram as Prometheus writes it: `{count:3, sum:4.5, [-0.001,0.001]:1, (1,2]:2}`.

use std::fmt;

use super::{Bucket, Histogram};

/// Go's `%g`: the shortest digits that read back as the number, with an exponent below 1e-4 and from 1e+06 on.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0;
        if value.is_nan() {
            return f.write_str("NaN");
        }
        if value.is_infinite() {
            return f.write_str(if value > 0.0 { "+Inf" } else { "-Inf" });
        }
        let scientific = format!("{value:e}");
        let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        if value == 0.0 || (-4..6).contains(&exponent) {
            return write!(f, "{value}");
        }
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(f, "{mantissa}e{sign}{:02}", exponent.abs())
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = if self.lower_inclusive { '[' } else { '(' };
        let close = if self.upper_inclusive { ']' } else { ')' };
        let (lower, upper, count) = (Short(self.lower), Short(self.upper), Short(self.count));
        write!(f, "{open}{lower},{upper}{close}:{count}")
    }
}

impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{count:{}, sum:{}", Short(self.count), Short(self.sum))?;
        let zero = std::iter::once(self.zero_bucket());
        let buckets = self.negative_descending().chain(zero).chain(self.positive());
        for bucket in buckets.filter(|bucket| bucket.count != 0.0) {
            write!(f, ", {bucket}")?;
        }
        f.write_str("}")
    }
}
