//! Weights as whole millionths, so that shares are computed exactly.

use crate::{MAX_WEIGHT, MIN_WEIGHT, RingError};

const UNITS_PER_ONE: f64 = 1_000_000.0;

/// Whole millionths of `weight`. `owner` names whose it is, for the error.
pub(crate) fn to_units(weight: f64, owner: impl FnOnce() -> String) -> Result<u64, RingError> {
    // NaN is in no range.
    if !(MIN_WEIGHT..=MAX_WEIGHT).contains(&weight) {
        return Err(RingError::WeightOutOfRange {
            owner: owner(),
            weight,
        });
    }
    Ok((weight * UNITS_PER_ONE).round() as u64)
}

/// The weight of so many millionths; the inverse of [`to_units`].
pub(crate) fn from_units(units: u64) -> f64 {
    units as f64 / UNITS_PER_ONE
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_is_no_weight() {
        for weight in [
            0.0,
            -1.0,
            f64::NAN,
            f64::INFINITY,
            MIN_WEIGHT / 2.0,
            MAX_WEIGHT * 1.01,
        ] {
            assert!(to_units(weight, || "shard 1".to_owned()).is_err(), "{weight}");
        }
    }

    proptest! {
        #[test]
        fn units_survive_the_way_through_f64(units in 1_000_u64..=1_000_000_000_000) {
            prop_assert_eq!(to_units(from_units(units), String::new), Ok(units));
        }
    }
}
