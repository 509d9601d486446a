//! Numbers as Go writes them.

/// Not a number or infinite: these Go writes alike in all formats.
fn special(value: f64) -> Option<&'static str> {
    if value.is_nan() {
        Some("NaN")
    } else if value == f64::INFINITY {
        Some("+Inf")
    } else if value == f64::NEG_INFINITY {
        Some("-Inf")
    } else {
        None
    }
}

/// `strconv.FormatFloat(value, 'f', -1, 64)`: the shortest digits that read back as `value`, never an exponent.
pub(super) fn decimal(value: f64) -> String {
    special(value).map_or_else(|| format!("{value}"), str::to_owned)
}

/// `%.02f`.
pub(super) fn fixed_two(value: f64) -> String {
    special(value).map_or_else(|| format!("{value:.2}"), str::to_owned)
}

/// `%f`.
pub(super) fn fixed_six(value: f64) -> String {
    special(value).map_or_else(|| format!("{value:.6}"), str::to_owned)
}

/// `%v` and `%g`: the shortest digits, with an exponent below 1e-4 and from 1e+06 on.
pub(super) fn shortest(value: f64) -> String {
    if let Some(text) = special(value) {
        return text.to_owned();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific
        .split_once('e')
        .expect("the format always writes an exponent");
    let exponent: i32 = exponent.parse().expect("the format always writes a number");
    if value == 0.0 || (-4..6).contains(&exponent) {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// As OpenMetrics wants floats: like [`shortest`], with `.0` behind whole numbers.
pub(super) fn open_metrics(value: f64) -> String {
    let mut text = shortest(value);
    if value.is_finite() && !text.contains(['.', 'e']) {
        text.push_str(".0");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_does() {
        assert_eq!(decimal(1e21), "1000000000000000000000");
        assert_eq!(decimal(f64::INFINITY), "+Inf");
        assert_eq!(decimal(-0.5), "-0.5");
        assert_eq!(fixed_two(f64::NAN), "NaN");
        assert_eq!(fixed_two(-1.0), "-1.00");
        assert_eq!(fixed_six(1.0), "1.000000");
        assert_eq!(shortest(1e-7), "1e-07");
        assert_eq!(shortest(1.5e300), "1.5e+300");
        assert_eq!(shortest(1234567.0), "1.234567e+06");
        assert_eq!(shortest(123456.5), "123456.5");
        assert_eq!(shortest(0.0), "0");
        assert_eq!(open_metrics(1.0), "1.0");
        assert_eq!(open_metrics(0.99), "0.99");
        assert_eq!(open_metrics(f64::NAN), "NaN");
    }
}
