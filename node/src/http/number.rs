//! Numbers as Go's `strconv` and `encoding/json` write them, which is how Prometheus's clients know them.

use std::fmt::Write;

/// A sample's value in vectors and matrices: shortest digits, with an exponent below 1e-6 and from 1e21.
pub(super) fn push_value(out: &mut String, value: f64) {
    let magnitude = value.abs();
    match magnitude != 0.0 && magnitude.is_finite() && !(1e-6..1e21).contains(&magnitude) {
        true => push_exponent(out, value),
        false => push_decimal(out, value),
    }
}

/// A scalar's value: shortest digits, never with an exponent. Go's `FormatFloat(v, 'f', -1, 64)`.
pub(super) fn push_decimal(out: &mut String, value: f64) {
    if value.is_nan() {
        out.push_str("NaN");
    } else if value.is_infinite() {
        out.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    } else {
        // Rust's `Display` is the shortest decimal that reads back the same, without exponent.
        let _infallible = write!(out, "{value}");
    }
}

/// Go's `FormatFloat(v, 'e', -1, 64)` of a finite number: at least two digits of exponent, signed.
fn push_exponent(out: &mut String, value: f64) {
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    let _infallible = write!(out, "{digits}e{sign}{exponent:0>2}");
}

/// A sample's timestamp in vectors and matrices: seconds, with three decimals unless they are zero.
pub(super) fn push_timestamp(out: &mut String, timestamp_ms: i64) {
    let sign = if timestamp_ms < 0 { "-" } else { "" };
    let (seconds, rest) = (
        timestamp_ms.unsigned_abs() / 1_000,
        timestamp_ms.unsigned_abs() % 1_000,
    );
    let _infallible = match rest {
        0 => write!(out, "{sign}{seconds}"),
        _ => write!(out, "{sign}{seconds}.{rest:03}"),
    };
}

/// A scalar's or string's timestamp, which Prometheus writes as a JSON float: no trailing zeros.
pub(super) fn push_float_timestamp(out: &mut String, timestamp_ms: i64) {
    let before = out.len();
    push_timestamp(out, timestamp_ms);
    if out.get(before..).is_some_and(|text| text.contains('.')) {
        let end = out.trim_end_matches('0').len();
        out.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(push: impl Fn(&mut String)) -> String {
        let mut out = String::new();
        push(&mut out);
        out
    }

    #[test]
    fn values_like_go() {
        // Made with strconv.AppendFloat under Prometheus's rule for the format.
        for (value, want) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (1e-6, "0.000001"),
            (9.99e-7, "9.99e-07"),
            (1e-7, "1e-07"),
            (-1e-7, "-1e-07"),
            (1.234e-100, "1.234e-100"),
            (5e-324, "5e-324"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (-1.5e21, "-1.5e+21"),
            (f64::MAX, "1.7976931348623157e+308"),
            (0.1 + 0.2, "0.30000000000000004"),
            (123456789.0, "123456789"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(shown(|out| push_value(out, value)), want);
        }
    }

    #[test]
    fn scalars_never_have_an_exponent() {
        assert_eq!(shown(|out| push_decimal(out, 1e-7)), "0.0000001");
        assert_eq!(shown(|out| push_decimal(out, 1e21)), "1000000000000000000000");
        assert_eq!(shown(|out| push_decimal(out, f64::NAN)), "NaN");
    }

    #[test]
    fn timestamps() {
        for (ms, sample, scalar) in [
            (0, "0", "0"),
            (1_435_781_451_781, "1435781451.781", "1435781451.781"),
            (1_500, "1.500", "1.5"),
            (1_050, "1.050", "1.05"),
            (7, "0.007", "0.007"),
            (-1_500, "-1.500", "-1.5"),
            (100_000, "100", "100"),
            (i64::MIN, "-9223372036854775.808", "-9223372036854775.808"),
        ] {
            assert_eq!(shown(|out| push_timestamp(out, ms)), sample);
            assert_eq!(shown(|out| push_float_timestamp(out, ms)), scalar);
        }
    }
}
