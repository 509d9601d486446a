//! Values of an entry: each stands alone, most take one to four bytes, every `f64` keeps its bits.
//!
//! - First byte `0x00..=0x7f`: the integer itself.
//! - First byte `0x80 | exponent << 3 | length`, exponent 0..=14, length 1..=7: a zigzag mantissa of
//!   `length` little-endian bytes follows; the value is `mantissa / 10^exponent`.
//! - Exponent 15: a special. `length` 0 is the stale marker, 1 is followed by eight raw bytes.
//!
//! A decimal form is used only when decoding it gives back the same bits.

use crate::varint::{unzigzag, zigzag};

/// Bits of Prometheus's stale marker, a signalling NaN.
pub const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;

const EXPONENT_MAX: usize = 14;
const SPECIAL: u8 = 0x80 | 15 << 3;
const SPECIAL_STALE: u8 = SPECIAL;
const SPECIAL_RAW: u8 = SPECIAL | 1;
/// Integers up to this magnitude convert to `f64` exactly.
const MANTISSA_MAX: f64 = 9_007_199_254_740_992.0;

const POWERS: [f64; EXPONENT_MAX + 1] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14,
];

/// Appends one value.
#[inline]
pub(crate) fn put(out: &mut Vec<u8>, value: f64) {
    let integer = value as i64;
    if (0..128).contains(&integer) && (integer as f64).to_bits() == value.to_bits() {
        out.push(integer as u8);
        return;
    }
    match decimal(value) {
        Some((mantissa, exponent)) => put_decimal(out, mantissa, exponent),
        None if value.to_bits() == STALE_NAN_BITS => out.push(SPECIAL_STALE),
        None => {
            out.push(SPECIAL_RAW);
            out.extend_from_slice(&value.to_bits().to_le_bytes());
        }
    }
}

fn put_decimal(out: &mut Vec<u8>, mantissa: i64, exponent: usize) {
    let coded = zigzag(mantissa);
    let length = (8 - coded.leading_zeros() as usize / 8).max(1);
    out.push(0x80 | (exponent as u8) << 3 | length as u8);
    out.extend_from_slice(&coded.to_le_bytes()[..length]);
}

/// The shortest decimal form that gives back exactly these bits.
fn decimal(value: f64) -> Option<(i64, usize)> {
    if !value.is_finite() {
        return None;
    }
    for (exponent, power) in POWERS.iter().enumerate() {
        let mantissa = (value * power).round();
        if mantissa.abs() >= MANTISSA_MAX {
            return None;
        }
        // Division is what the decoder does; IEEE 754 rounds it the same way everywhere. Negative
        // zero fails here, because an integer mantissa has no sign of zero.
        let mantissa = mantissa as i64;
        if (mantissa as f64 / power).to_bits() == value.to_bits() {
            return Some((mantissa, exponent));
        }
    }
    None
}

/// Reads one value at `*at` and moves past it; `None` when the bytes are cut or malformed.
#[inline]
pub(crate) fn get(bytes: &[u8], at: &mut usize) -> Option<f64> {
    let first = *bytes.get(*at)?;
    if first < 0x80 {
        *at += 1;
        return Some(f64::from(first));
    }
    let length = usize::from(first & 7);
    let exponent = usize::from(first >> 3 & 15);
    let Some(power) = POWERS.get(exponent) else {
        return get_special(first, bytes, at);
    };
    if length == 0 {
        return None;
    }
    let start = *at + 1;
    let coded = match bytes.get(start..start + 8) {
        Some(word) => {
            let word = u64::from_le_bytes(word.try_into().ok()?);
            word & (u64::MAX >> (64 - 8 * length))
        }
        None => {
            let mut word = [0; 8];
            word[..length].copy_from_slice(bytes.get(start..start + length)?);
            u64::from_le_bytes(word)
        }
    };
    *at = start + length;
    let mantissa = unzigzag(coded) as f64;
    Some(if exponent == 0 { mantissa } else { mantissa / power })
}

fn get_special(first: u8, bytes: &[u8], at: &mut usize) -> Option<f64> {
    match first {
        SPECIAL_STALE => {
            *at += 1;
            Some(f64::from_bits(STALE_NAN_BITS))
        }
        SPECIAL_RAW => {
            let raw = bytes.get(*at + 1..*at + 9)?;
            *at += 9;
            Some(f64::from_bits(u64::from_le_bytes(raw.try_into().ok()?)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(value: f64) -> usize {
        let mut out = Vec::new();
        put(&mut out, value);
        let len = out.len();
        let mut at = 0;
        assert_eq!(
            get(&out, &mut at).map(f64::to_bits),
            Some(value.to_bits()),
            "{value}"
        );
        assert_eq!(at, len);
        // With bytes behind it the decoder takes its wide path.
        out.extend([0xff; 8]);
        at = 0;
        assert_eq!(
            get(&out, &mut at).map(f64::to_bits),
            Some(value.to_bits()),
            "{value} wide"
        );
        for cut in 0..len {
            assert_eq!(get(&out[..cut], &mut 0), None);
        }
        len
    }

    #[test]
    fn sizes() {
        assert_eq!(round_trip(0.0), 1);
        assert_eq!(round_trip(127.0), 1);
        assert_eq!(round_trip(-1.0), 2);
        assert_eq!(round_trip(128.0), 3);
        assert_eq!(round_trip(0.25), 2);
        assert_eq!(round_trip(12345.67), 4);
        assert_eq!(round_trip(f64::from_bits(STALE_NAN_BITS)), 1);
        for special in [
            -0.0,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MIN_POSITIVE / 2.0,
            0.1 + 0.2,
        ] {
            assert!(round_trip(special) <= 9);
        }
    }

    #[test]
    fn malformed_values_are_refused() {
        assert_eq!(get(&[0x80], &mut 0), None, "a length of zero");
        assert_eq!(get(&[SPECIAL | 5, 0, 0, 0, 0, 0, 0, 0, 0], &mut 0), None);
    }

    proptest! {
        #[test]
        fn every_bit_pattern(bits: u64) {
            round_trip(f64::from_bits(bits));
        }

        #[test]
        fn decimals_are_short(mantissa in -1_000_000i64..1_000_000, exponent in 0usize..7) {
            prop_assert!(round_trip(mantissa as f64 / POWERS[exponent]) <= 4);
        }
    }
}
