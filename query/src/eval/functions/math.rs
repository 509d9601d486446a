//! Functions of a sample's value.

use super::{build, scalar};
use crate::ast::Call;
use crate::eval::column::Column;
use crate::eval::context::Context;
use crate::eval::grid::Grid;
use crate::eval::operator::{go_max, go_min};
use crate::eval::scalar::Scalar;
use crate::eval::vector::{Mapped, Vector, relabel};
use crate::value::EvalError;

/// The function of one number with this name.
pub(super) fn of_one_number(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "abs" => f64::abs,
        "ceil" => f64::ceil,
        "floor" => f64::floor,
        "exp" => f64::exp,
        "sqrt" => f64::sqrt,
        "ln" => f64::ln,
        "log2" => f64::log2,
        "log10" => f64::log10,
        "sin" => f64::sin,
        "cos" => f64::cos,
        "tan" => f64::tan,
        "asin" => f64::asin,
        "acos" => f64::acos,
        "atan" => f64::atan,
        "sinh" => f64::sinh,
        "cosh" => f64::cosh,
        "tanh" => f64::tanh,
        "asinh" => f64::asinh,
        "acosh" => f64::acosh,
        "atanh" => f64::atanh,
        "rad" => |degrees| degrees * std::f64::consts::PI / 180.0,
        "deg" => |radians| radians * 180.0 / std::f64::consts::PI,
        "sgn" => sign,
        _ => return None,
    })
}

/// Zero and NaN stay as they are.
fn sign(value: f64) -> f64 {
    if value < 0.0 {
        -1.0
    } else if value > 0.0 {
        1.0
    } else {
        value
    }
}

/// `round` and the clamps.
pub(super) fn with_parameters<'q>(
    ctx: &'q Context<'q>,
    call: &'q Call,
    grid: Grid,
) -> Result<Vector<'q>, EvalError> {
    let parameters: Vec<Scalar<'q>> = call.args[1..]
        .iter()
        .map(|arg| scalar::evaluate(ctx, arg, grid))
        .collect::<Result<_, _>>()?;
    let (labels, columns) = build::vector(ctx, &call.args[0], grid)?.split();
    let labels = labels.iter().map(|labels| ctx.drop_metadata(labels)).collect();
    let name = call.func.name;
    let mapped = Mapped::new(columns, move |column: &mut Column<'q>| {
        let parameter = |index: usize, step: usize| parameters.get(index).map(|scalar| scalar.get(step));
        column.filter_map(
            |step, value| match (name, parameter(0, step), parameter(1, step)) {
                ("round", to_nearest, _) => Some(round(value, to_nearest.unwrap_or(1.0))),
                ("clamp", Some(min), Some(max)) => clamp(value, min, max),
                ("clamp_min", Some(min), _) => Some(go_max(min, value)),
                (_, Some(max), _) => Some(go_min(max, value)),
                (_, None, _) => None,
            },
        );
        Ok(())
    });
    relabel(ctx, labels, mapped)
}

/// Nothing if the bounds are the wrong way round.
fn clamp(value: f64, min: f64, max: f64) -> Option<f64> {
    if max < min {
        None
    } else {
        Some(go_max(min, go_min(max, value)))
    }
}

/// Rounds half up. Multiplying by the inverse, as Prometheus does, avoids 0.1's error.
fn round(value: f64, to_nearest: f64) -> f64 {
    let inverse = 1.0 / to_nearest;
    (value * inverse + 0.5).floor() / inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_half_up() {
        assert_eq!(round(-1.5, 1.0), -1.0);
        assert_eq!(round(2.5, 1.0), 3.0);
        assert_eq!(round(5.25, 0.1), 5.3);
        assert_eq!(round(7.0, 5.0), 5.0);
    }

    #[test]
    fn zero_and_nan_have_no_sign() {
        assert!(sign(-0.0).is_sign_negative() && sign(-0.0) == 0.0);
        assert!(sign(f64::NAN).is_nan());
        assert_eq!((sign(f64::NEG_INFINITY), sign(3.0)), (-1.0, 1.0));
    }
}
