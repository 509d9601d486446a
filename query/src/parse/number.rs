//! Numbers as Go reads and writes them.

/// Reads a number literal: decimal, hexadecimal or octal integers, floats, `Inf` and `NaN` in any case, with digits
/// separated by `_`. Answers nothing for what isn't a number or is out of range.
pub(crate) fn parse_number(text: &str) -> Option<f64> {
    if text.eq_ignore_ascii_case("inf") {
        return Some(f64::INFINITY);
    }
    if text.eq_ignore_ascii_case("nan") {
        return Some(f64::NAN);
    }
    let digits: String = text.chars().filter(|character| *character != '_').collect();
    if let Some(hexadecimal) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        return parse_radix(hexadecimal, 16);
    }
    if let Some(value) = digits.strip_prefix('0').and_then(|octal| parse_radix(octal, 8)) {
        return Some(value);
    }
    if !digits.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    digits.parse().ok().filter(|value: &f64| value.is_finite())
}

fn parse_radix(digits: &str, radix: u32) -> Option<f64> {
    let unsigned = digits.starts_with(|first: char| first.is_digit(radix));
    i64::from_str_radix(digits, radix)
        .ok()
        .filter(|_| unsigned)
        .map(|value| value as f64)
}

/// Writes a float as Go's `%v`: the shortest digits that read back the same, with an exponent below 1e-4 and from
/// 1e+06 on.
pub fn format_number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific
        .split_once('e')
        .expect("`{:e}` always writes an exponent");
    let exponent: i32 = exponent
        .parse()
        .expect("`{:e}` writes the exponent as an integer");
    if value == 0.0 || (-4..6).contains(&exponent) {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        let cases = [
            ("1", 1.0),
            (".2", 0.2),
            ("2.", 2.0),
            ("1e3", 1000.0),
            ("1E-3", 0.001),
            ("0x1F", 31.0),
            ("0X_1f", 31.0),
            ("010", 8.0),
            ("08", 8.0),
            ("1_000", 1000.0),
            ("1_2.5_0", 12.5),
            ("iNf", f64::INFINITY),
            ("9223372036854775808", 9_223_372_036_854_775_808.0),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_number(text), Some(expected), "{text}");
        }
        assert!(parse_number("NaN").is_some_and(f64::is_nan));
        for text in [
            "",
            ".",
            "1e999",
            "0x",
            "0xfffffffffffffffff",
            "1e",
            "infinity",
            "0x+1",
        ] {
            assert_eq!(parse_number(text), None, "{text}");
        }
    }

    #[test]
    fn writes_what_go_writes() {
        let cases = [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.5, "1.5"),
            (123_456.5, "123456.5"),
            (1e6, "1e+06"),
            (1_234_567.0, "1.234567e+06"),
            (1e21, "1e+21"),
            (1.25e-7, "1.25e-07"),
            (0.0001, "0.0001"),
            (-1e100, "-1e+100"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
        ];
        for (value, expected) in cases {
            assert_eq!(format_number(value), expected);
        }
    }
}
