//! `limit_ratio(r, vector)`: a share of the series, the same ones every time.

use quorate_storage::Labels;
use xxhash_rust::xxh64::xxh64;

use crate::ast::AggregateExpr;
use crate::eval::build;
use crate::eval::column::Column;
use crate::eval::context::Context;
use crate::eval::format::shortest;
use crate::eval::grid::Grid;
use crate::eval::scalar::Scalar;
use crate::eval::vector::{Columns, Unlabelled, Vector};
use crate::value::EvalError;

/// Evaluates the aggregation. A series' place in [0, 1) is Prometheus's hash of its labels, so both take the same
/// ones: those below `r`, or, for a negative `r`, those that `1 + r` would leave out.
pub(super) fn evaluate<'q>(
    ctx: &'q Context<'q>,
    expr: &'q AggregateExpr,
    ratio: Scalar<'q>,
    grid: Grid,
) -> Result<Vector<'q>, EvalError> {
    let span = expr.param.as_ref().map(|param| param.without_parens().span());
    for step in 0..grid.count {
        let value = ratio.get(step);
        if value.is_nan() {
            return Err(EvalError::Execution("Ratio value is NaN".to_owned()));
        }
        if let (Some(span), true) = (span, value.abs() > 1.0) {
            let (got, most) = (shortest(value), shortest(value.signum()));
            let message = format!("ratio value should be between -1 and 1, got {got}, capping to {most}");
            ctx.warn(message, span);
        }
    }
    let (labels, input) = build::vector(ctx, &expr.expr, grid)?.split();
    let places: Vec<f64> = labels.iter().map(place).collect();
    let columns = Share {
        input,
        ratio,
        places: places.into_iter(),
    };
    Vector::new(ctx, labels, columns)
}

struct Share<'q> {
    input: Unlabelled<'q>,
    ratio: Scalar<'q>,
    places: std::vec::IntoIter<f64>,
}

impl<'q> Columns<'q> for Share<'q> {
    fn next(&mut self, out: &mut Column<'q>) -> Result<(), EvalError> {
        self.input.next(out)?;
        let place = self.places.next().unwrap_or_default();
        for step in 0..out.len() {
            if !is_taken(place, self.ratio.get(step).clamp(-1.0, 1.0)) {
                out.present_mut().remove(step);
            }
        }
        Ok(())
    }
}

fn is_taken(place: f64, ratio: f64) -> bool {
    if ratio >= 0.0 {
        place < ratio
    } else {
        place >= 1.0 + ratio
    }
}

/// Where a label set lies in [0, 1]: xxHash64 over each name and value with its length before it.
fn place(labels: &Labels) -> f64 {
    let mut bytes = Vec::with_capacity(labels.as_bytes().len());
    for (name, value) in labels.iter() {
        for text in [name, value] {
            put_length(&mut bytes, text.len());
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    xxh64(&bytes, 0) as f64 / u64::MAX as f64
}

/// A length in one byte, or as 255 and three bytes.
fn put_length(bytes: &mut Vec<u8>, length: usize) {
    match u8::try_from(length) {
        Ok(short) if short < 255 => bytes.push(short),
        _ => {
            bytes.push(255);
            bytes.extend_from_slice(&(length as u32).to_le_bytes()[..3]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_and_its_complement_are_everything() {
        for index in 0..200 {
            let labels = Labels::from_pairs([("s", index.to_string().as_str())]).unwrap();
            let place = place(&labels);
            assert!((0.0..=1.0).contains(&place));
            assert!(is_taken(place, 0.3) != is_taken(place, -0.7));
            assert!(is_taken(place, -1.0) && !is_taken(place, 0.0));
        }
    }

    #[test]
    fn long_lengths_take_four_bytes() {
        let mut bytes = Vec::new();
        put_length(&mut bytes, 254);
        put_length(&mut bytes, 255);
        put_length(&mut bytes, 70_000);
        assert_eq!(bytes, [254, 255, 255, 0, 0, 255, 0x70, 0x11, 0x01]);
    }
}
