//! Durations: reading and writing `1h30m`, and working out duration arithmetic.

use thiserror::Error;

use crate::ast::{DurationExpr, DurationOp, DurationValue, Span};

/// Units from the longest, in milliseconds, in the only order they may be written.
const UNITS: [(&str, i64); 7] = [
    ("y", 365 * 24 * 60 * 60 * 1000),
    ("w", 7 * 24 * 60 * 60 * 1000),
    ("d", 24 * 60 * 60 * 1000),
    ("h", 60 * 60 * 1000),
    ("m", 60 * 1000),
    ("s", 1000),
    ("ms", 1),
];

/// Go's `time.Duration` counts nanoseconds in an `i64`; longer durations are refused as Prometheus refuses them.
const LONGEST_MS: i64 = i64::MAX / 1_000_000;

/// Why a duration can't be read.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum DurationError {
    /// Nothing is there.
    #[error("empty duration string")]
    Empty,
    /// It doesn't follow `1y2w3d4h5m6s7ms`.
    #[error("not a valid duration string: {}", crate::parse::quote(.0.as_bytes()))]
    Invalid(String),
    /// It is longer than about 292 years.
    #[error("duration out of range")]
    OutOfRange,
}

/// Reads a duration like `1h30m` into milliseconds. Units stand in order, each at most once; `0` needs none.
pub fn parse_duration(text: &str) -> Result<i64, DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    match text {
        "" => return Err(DurationError::Empty),
        "0" => return Ok(0),
        _ => {}
    }
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut total_ms: i64 = 0;
    while !rest.is_empty() {
        let digits = rest.len()
            - rest
                .trim_start_matches(|digit: char| digit.is_ascii_digit())
                .len();
        let (number, tail) = rest.split_at(digits);
        let unit_length = tail
            .find(|other: char| !other.is_ascii_lowercase())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_length);
        // The iterator only goes forward: a unit out of order is not found.
        let (_, factor_ms) = units.find(|(name, _)| *name == unit).ok_or_else(invalid)?;
        if number.is_empty() {
            return Err(invalid());
        }
        let number: i64 = number.parse().map_err(|_| DurationError::OutOfRange)?;
        total_ms = number
            .checked_mul(*factor_ms)
            .and_then(|part| total_ms.checked_add(part))
            .filter(|total| *total <= LONGEST_MS)
            .ok_or(DurationError::OutOfRange)?;
        rest = tail;
    }
    Ok(total_ms)
}

/// Writes milliseconds as the shortest duration Prometheus writes: `1h30m`, years and weeks only when nothing is
/// left over.
pub fn format_duration(duration_ms: i64) -> String {
    if duration_ms == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    if duration_ms < 0 {
        text.push('-');
    }
    let mut rest = duration_ms.unsigned_abs();
    for (unit, factor_ms) in UNITS {
        let factor_ms = factor_ms.unsigned_abs();
        let only_exact = matches!(unit, "y" | "w");
        if (only_exact && !rest.is_multiple_of(factor_ms)) || rest < factor_ms {
            continue;
        }
        text.push_str(&format!("{}{unit}", rest / factor_ms));
        rest %= factor_ms;
    }
    text
}

/// A number of seconds in milliseconds, rounded; nothing if Prometheus's durations can't hold it.
pub(crate) fn seconds_to_ms(seconds: f64) -> Option<i64> {
    let millis = (seconds * 1000.0).round();
    // NaN fails the comparison.
    (millis.abs() <= LONGEST_MS as f64).then_some(millis as i64)
}

/// What duration arithmetic may ask of the query around it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DurationContext {
    /// `step()`: distance of the evaluations; 0 for an instant query.
    pub step_ms: i64,
    /// `range()`: end less start; 0 for an instant query.
    pub range_ms: i64,
}

/// Why duration arithmetic has no result.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{message}")]
pub struct DurationExprError {
    /// The part that is wrong.
    pub span: Span,
    /// What is wrong with it.
    pub message: &'static str,
}

impl DurationValue {
    /// The length of a range or the distance of a subquery's steps, in milliseconds: above zero.
    pub fn resolve_positive_ms(&self, context: DurationContext) -> Result<i64, DurationExprError> {
        match self {
            DurationValue::Millis(millis) => Ok(*millis),
            DurationValue::Expr(expr) => {
                let error = DurationExprError {
                    span: expr.span(),
                    message: "duration must be greater than 0",
                };
                expr.resolve_ms(context)
                    .and_then(|millis| if millis > 0 { Ok(millis) } else { Err(error) })
            }
        }
    }

    /// An offset in milliseconds, of either sign.
    pub fn resolve_ms(&self, context: DurationContext) -> Result<i64, DurationExprError> {
        match self {
            DurationValue::Millis(millis) => Ok(*millis),
            DurationValue::Expr(expr) => expr.resolve_ms(context),
        }
    }
}

impl DurationExpr {
    /// Where it was written.
    pub fn span(&self) -> Span {
        match self {
            DurationExpr::Number(number) => number.span,
            DurationExpr::Step(span) | DurationExpr::Range(span) => *span,
            DurationExpr::Unary { span, .. }
            | DurationExpr::MinOf { span, .. }
            | DurationExpr::MaxOf { span, .. }
            | DurationExpr::Paren { span, .. } => *span,
            DurationExpr::Binary { lhs, rhs, .. } => lhs.span().to(rhs.span()),
        }
    }

    /// Works the arithmetic out, in milliseconds cut towards zero.
    pub fn resolve_ms(&self, context: DurationContext) -> Result<i64, DurationExprError> {
        let millis = (self.seconds(context)? * 1000.0).trunc();
        if millis.abs() <= LONGEST_MS as f64 {
            Ok(millis as i64)
        } else {
            Err(DurationExprError {
                span: self.span(),
                message: "duration is out of range",
            })
        }
    }

    fn seconds(&self, context: DurationContext) -> Result<f64, DurationExprError> {
        Ok(match self {
            DurationExpr::Number(number) => number.value,
            DurationExpr::Step(_) => context.step_ms as f64 / 1000.0,
            DurationExpr::Range(_) => context.range_ms as f64 / 1000.0,
            DurationExpr::Unary {
                negative: true, expr, ..
            } => -expr.seconds(context)?,
            DurationExpr::Unary { expr, .. } | DurationExpr::Paren { expr, .. } => expr.seconds(context)?,
            DurationExpr::MinOf { lhs, rhs, .. } => lhs.seconds(context)?.min(rhs.seconds(context)?),
            DurationExpr::MaxOf { lhs, rhs, .. } => lhs.seconds(context)?.max(rhs.seconds(context)?),
            DurationExpr::Binary { op, lhs, rhs } => {
                let (left, right) = (lhs.seconds(context)?, rhs.seconds(context)?);
                match op {
                    DurationOp::Add => left + right,
                    DurationOp::Sub => left - right,
                    DurationOp::Mul => left * right,
                    DurationOp::Div if right == 0.0 => return Err(self.by_zero("division by zero")),
                    DurationOp::Div => left / right,
                    DurationOp::Mod if right == 0.0 => return Err(self.by_zero("modulo by zero")),
                    DurationOp::Mod => left % right,
                    DurationOp::Pow => left.powf(right),
                }
            }
        })
    }

    fn by_zero(&self, message: &'static str) -> DurationExprError {
        DurationExprError {
            span: self.span(),
            message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_write() {
        let cases = [
            ("0", 0, "0s"),
            ("1ms", 1, "1ms"),
            ("1h30m", 5_400_000, "1h30m"),
            ("90m", 5_400_000, "1h30m"),
            ("1y", 31_536_000_000, "1y"),
            ("90d", 7_776_000_000, "90d"),
            ("14d", 1_209_600_000, "2w"),
            ("1y2w3d4h5m6s7ms", 33_019_506_007, "382d4h5m6s7ms"),
        ];
        for (text, millis, canonical) in cases {
            assert_eq!(parse_duration(text), Ok(millis), "{text}");
            assert_eq!(format_duration(millis), canonical);
            assert_eq!(parse_duration(canonical), Ok(millis));
        }
        assert_eq!(format_duration(-90_000), "-1m30s");
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["1", "m", "1m1h", "1m1m", "1.5m", "-1m", "1M", "1m ", "1sm", "1µs"] {
            assert_eq!(
                parse_duration(text),
                Err(DurationError::Invalid(text.to_owned())),
                "{text}"
            );
        }
        assert_eq!(parse_duration(""), Err(DurationError::Empty));
        assert_eq!(parse_duration("300y"), Err(DurationError::OutOfRange));
        assert_eq!(
            parse_duration("99999999999999999999s"),
            Err(DurationError::OutOfRange)
        );
    }
}
