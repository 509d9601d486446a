//! The arithmetic and comparison operators on two numbers.

use quorate_storage::histogram::Keep;

use crate::ast::BinaryOp;
use crate::value::EvalError;

/// An operator on two numbers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operator {
    /// Gives a number.
    Arithmetic(fn(f64, f64) -> f64),
    /// Says yes or no.
    Comparison(fn(f64, f64) -> bool),
    /// Trims a histogram; there is nothing to trim of a number.
    Trim(Keep),
}

/// What an operator of the query does with numbers.
pub(super) fn of(op: BinaryOp) -> Result<Operator, EvalError> {
    use Operator::{Arithmetic, Comparison};
    Ok(match op {
        BinaryOp::Add => Arithmetic(|a, b| a + b),
        BinaryOp::Sub => Arithmetic(|a, b| a - b),
        BinaryOp::Mul => Arithmetic(|a, b| a * b),
        BinaryOp::Div => Arithmetic(|a, b| a / b),
        // Both are C's fmod, the sign of the left side.
        BinaryOp::Mod => Arithmetic(|a, b| a % b),
        BinaryOp::Pow => Arithmetic(f64::powf),
        BinaryOp::Atan2 => Arithmetic(f64::atan2),
        BinaryOp::Eq => Comparison(|a, b| a == b),
        BinaryOp::Ne => Comparison(|a, b| a != b),
        BinaryOp::Gt => Comparison(|a, b| a > b),
        BinaryOp::Lt => Comparison(|a, b| a < b),
        BinaryOp::Ge => Comparison(|a, b| a >= b),
        BinaryOp::Le => Comparison(|a, b| a <= b),
        BinaryOp::TrimUpper => Operator::Trim(Keep::Below),
        BinaryOp::TrimLower => Operator::Trim(Keep::Above),
        BinaryOp::And | BinaryOp::Or | BinaryOp::Unless => {
            return Err(EvalError::Execution(
                "set operators are only allowed between vectors".to_owned(),
            ));
        }
    })
}

/// Go's `math.Max`: +Inf beats NaN, NaN beats all else, and 0 beats -0.
pub(super) fn go_max(a: f64, b: f64) -> f64 {
    if a == f64::INFINITY || b == f64::INFINITY {
        f64::INFINITY
    } else if a.is_nan() || b.is_nan() {
        f64::NAN
    } else if a == 0.0 && b == 0.0 {
        if a.is_sign_negative() { b } else { a }
    } else if a > b {
        a
    } else {
        b
    }
}

/// Go's `math.Min`: -Inf beats NaN, NaN beats all else, and -0 beats 0.
pub(super) fn go_min(a: f64, b: f64) -> f64 {
    -go_max(-a, -b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minimum_and_maximum_are_go_s() {
        assert!(go_max(1.0, f64::NAN).is_nan() && go_min(f64::NAN, 1.0).is_nan());
        assert_eq!(go_max(f64::NAN, f64::INFINITY), f64::INFINITY);
        assert_eq!(go_min(f64::NEG_INFINITY, f64::NAN), f64::NEG_INFINITY);
        assert!(go_max(-0.0, 0.0).is_sign_positive() && go_min(0.0, -0.0).is_sign_negative());
        assert_eq!((go_max(1.0, 2.0), go_min(1.0, 2.0)), (2.0, 1.0));
    }
}
