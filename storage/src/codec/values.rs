//! A column of floats, bit for bit.
//!
//! Most measured values are short decimals. If there is an exponent with which nearly all values of the
//! column are integers divided by a power of ten, those integers are stored, and the few others raw.
//! A sum of decimals is a few units in the last place away from one: for such a column the distances are
//! stored too. Otherwise the bits of the floats are stored as integers in the order of the numbers they
//! stand for.

use super::CodecError;
use super::ints::{self, IntsEncoder};
use crate::varint::{Reader, put_u64};

/// The largest exponent of ten tried.
const EXPONENT_MAX: u8 = 15;
/// Codec byte of a column of float bits; below it, the exponent of a column of decimals.
const CODEC_BITS: u8 = 16;
/// Up to this exponent, nanoseconds, decimals are taken without trying anything else.
const GOOD_EXPONENT: u8 = 9;
/// Up to this exponent, microseconds, decimals with distances are; beyond it, the digits may be noise.
const GOOD_NEAR_EXPONENT: u8 = 6;
/// Plus the exponent, codec byte of a column of decimals followed by a column of distances from them.
const CODEC_NEAR: u8 = 32;
/// A decimal may be this many units in the last place away.
const NEAR_UNITS: i64 = 1 << 12;
/// In the codec byte: exceptions follow.
const HAS_EXCEPTIONS: u8 = 0x80;
/// Of this many values one may be stored raw.
const VALUES_FOR_AN_EXCEPTION: usize = 16;
/// So many values are looked at for a first guess of the exponent.
const GUESS_VALUES: usize = 32;
/// Integers beyond it are not tried: a float that large has no fraction to lose, and differences of
/// mantissas must not overflow.
const MANTISSA_MAX: f64 = (1u64 << 60) as f64;
/// The NaN that marks a series as stale.
const STALE_BITS: u64 = 0x7ff0_0000_0000_0002;
const KIND_STALE: u8 = 0;
const KIND_RAW: u8 = 1;

const POWERS: [f64; EXPONENT_MAX as usize + 1] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
];

/// Encodes columns. It keeps its buffers, so that many columns cost no allocation.
#[derive(Debug, Default)]
pub struct ValuesEncoder {
    ints: IntsEncoder,
    mantissas: Vec<i64>,
    distances: Vec<i64>,
    exceptions: Vec<u32>,
}

impl ValuesEncoder {
    /// An encoder with empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the encoded column of value bits. The number of values is not part of it.
    pub fn encode(&mut self, bits: &[u64], out: &mut Vec<u8>) {
        // The exponent of the first values is nearly always that of all.
        let guess = find_exponent(&bits[..bits.len().min(GUESS_VALUES)], usize::MAX);
        let doubtful = guess.is_none_or(|exponent| exponent > GOOD_EXPONENT);
        let near = if doubtful {
            self.take_near_decimals(bits)
        } else {
            None
        };
        if let Some(exponent) = near.filter(|exponent| *exponent <= GOOD_NEAR_EXPONENT) {
            return self.put_near_decimals(exponent, out);
        }
        let from = out.len();
        if near.is_some_and(|exponent| {
            self.put_near_decimals(exponent, out);
            true
        }) {
            // The shorter one stays.
            let second_from = out.len();
            self.put_plain(bits, guess, out);
            if out.len() - second_from < second_from - from {
                out.drain(from..second_from);
            } else {
                out.truncate(second_from);
            }
        } else {
            self.put_plain(bits, guess, out);
        }
    }

    /// Appends a column of decimals if this is one, else a column of any floats.
    fn put_plain(&mut self, bits: &[u64], guess: Option<u8>, out: &mut Vec<u8>) {
        let found = guess
            .filter(|exponent| self.take_decimals(bits, *exponent) == 0)
            .or_else(|| {
                let room = bits.len() / VALUES_FOR_AN_EXCEPTION;
                find_exponent(bits, room).filter(|exponent| self.take_decimals(bits, *exponent) <= room)
            });
        match found.filter(|_| self.exceptions.len() < bits.len()) {
            Some(exponent) => {
                let exceptional = !self.exceptions.is_empty();
                out.push(exponent | (u8::from(exceptional) * HAS_EXCEPTIONS));
                if exceptional {
                    self.put_exceptions(bits, out);
                }
            }
            None => {
                self.mantissas.clear();
                self.mantissas.extend(bits.iter().map(|bits| ordered(*bits)));
                out.push(CODEC_BITS);
            }
        }
        self.ints.encode(&self.mantissas, out);
    }

    fn put_near_decimals(&mut self, exponent: u8, out: &mut Vec<u8>) {
        out.push(CODEC_NEAR + exponent);
        self.ints.encode(&self.mantissas, out);
        self.ints.encode(&self.distances, out);
    }

    /// Fills mantissas and distances for the smallest exponent that suits every value.
    fn take_near_decimals(&mut self, bits: &[u64]) -> Option<u8> {
        let mut exponent = 0;
        'exponents: loop {
            let power = POWERS[usize::from(exponent)];
            self.mantissas.clear();
            self.distances.clear();
            for bits in bits {
                let Some((mantissa, distance)) = near_mantissa(*bits, power) else {
                    let near = |e: &u8| near_mantissa(*bits, POWERS[usize::from(*e)]).is_some();
                    exponent = (exponent + 1..=EXPONENT_MAX).find(near)?;
                    continue 'exponents;
                };
                self.mantissas.push(mantissa);
                self.distances.push(distance);
            }
            return Some(exponent);
        }
    }

    /// Fills mantissas and exceptions and says how many of those have to be stored raw.
    fn take_decimals(&mut self, bits: &[u64], exponent: u8) -> usize {
        let power = POWERS[usize::from(exponent)];
        self.mantissas.clear();
        self.exceptions.clear();
        let mut last = 0;
        let mut raw = 0;
        for (position, bits) in (0u32..).zip(bits) {
            match mantissa(*bits, power) {
                Some(mantissa) => last = mantissa,
                None => {
                    raw += usize::from(*bits != STALE_BITS);
                    self.exceptions.push(position);
                }
            }
            self.mantissas.push(last);
        }
        // Exceptions at the front continue backwards what follows them.
        let leading = self
            .exceptions
            .iter()
            .zip(0u32..)
            .take_while(|(a, b)| *a == b)
            .count();
        if let Some(first) = self.mantissas.get(leading).copied() {
            self.mantissas[..leading].fill(first);
        }
        raw
    }

    fn put_exceptions(&self, bits: &[u64], out: &mut Vec<u8>) {
        put_u64(out, self.exceptions.len() as u64);
        let mut last = 0;
        for position in &self.exceptions {
            put_u64(out, u64::from(position - last));
            last = *position;
        }
        for position in &self.exceptions {
            match bits[*position as usize] {
                STALE_BITS => out.push(KIND_STALE),
                bits => {
                    out.push(KIND_RAW);
                    out.extend_from_slice(&bits.to_le_bytes());
                }
            }
        }
    }
}

/// The integer that divided by `power` gives these bits.
#[inline]
fn mantissa(bits: u64, power: f64) -> Option<i64> {
    let value = f64::from_bits(bits);
    let scaled = (value * power).round_ties_even();
    if !(-MANTISSA_MAX..=MANTISSA_MAX).contains(&scaled) {
        return None;
    }
    let mantissa = scaled as i64;
    ((mantissa as f64) / power)
        .to_bits()
        .eq(&bits)
        .then_some(mantissa)
}

/// The decimal next to a float, and how many units in the last place lie between.
#[inline]
fn near_mantissa(bits: u64, power: f64) -> Option<(i64, i64)> {
    let scaled = (f64::from_bits(bits) * power).round_ties_even();
    if !(-MANTISSA_MAX..=MANTISSA_MAX).contains(&scaled) {
        return None;
    }
    let mantissa = scaled as i64;
    let distance = ordered(bits).wrapping_sub(ordered((mantissa as f64 / power).to_bits()));
    (-NEAR_UNITS..=NEAR_UNITS)
        .contains(&distance)
        .then_some((mantissa, distance))
}

/// The smallest exponent that suits all values but those that none suits; `None` if those are more than
/// `hopeless_max`.
fn find_exponent(bits: &[u64], hopeless_max: usize) -> Option<u8> {
    let mut exponent = 0;
    let mut hopeless = 0;
    let mut previous = None;
    for bits_of in bits {
        if *bits_of == STALE_BITS || previous == Some(*bits_of) {
            continue;
        }
        previous = Some(*bits_of);
        if mantissa(*bits_of, POWERS[usize::from(exponent)]).is_some() {
            continue;
        }
        let fits = |e: &u8| mantissa(*bits_of, POWERS[usize::from(*e)]).is_some();
        match (exponent + 1..=EXPONENT_MAX).find(fits) {
            Some(found) => exponent = found,
            None => {
                hopeless += 1;
                if hopeless > hopeless_max {
                    return None;
                }
            }
        }
    }
    Some(exponent)
}

/// Float bits as integers in the order of the numbers; on bits, its own inverse.
#[inline]
fn ordered(bits: u64) -> i64 {
    let bits = bits as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

#[inline]
fn from_ordered(ordered_bits: i64) -> f64 {
    f64::from_bits(ordered(ordered_bits as u64) as u64)
}

/// Reads columns. It keeps its buffers, so that many columns cost no allocation.
#[derive(Debug, Default)]
pub struct ValuesDecoder {
    mantissas: Vec<i64>,
    distances: Vec<i64>,
}

impl ValuesDecoder {
    /// A decoder with empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the `count` values of a column that takes all of `bytes`.
    pub fn decode(&mut self, bytes: &[u8], count: usize, out: &mut Vec<f64>) -> Result<(), CodecError> {
        let mut reader = Reader::new(bytes);
        let head = reader.u8().ok_or(CodecError::Malformed)?;
        let exceptional = head & HAS_EXCEPTIONS != 0;
        let (codec, near) = match head & !HAS_EXCEPTIONS {
            codec @ 0..=EXPONENT_MAX => (codec, false),
            CODEC_BITS if !exceptional => (CODEC_BITS, false),
            codec @ CODEC_NEAR.. if codec <= CODEC_NEAR + EXPONENT_MAX && !exceptional => {
                (codec - CODEC_NEAR, true)
            }
            _ => return Err(CodecError::UnknownCodec(head)),
        };
        let exceptions = if exceptional {
            skip_exceptions(&mut reader, count).ok_or(CodecError::Malformed)?
        } else {
            Exceptions::default()
        };
        self.mantissas.clear();
        ints::decode(&mut reader, count, &mut self.mantissas)?;
        self.distances.clear();
        if near {
            ints::decode(&mut reader, count, &mut self.distances)?;
        }
        if !reader.is_empty() {
            return Err(CodecError::Malformed);
        }
        let from = out.len();
        match codec {
            CODEC_BITS => out.extend(self.mantissas.iter().map(|bits| from_ordered(*bits))),
            0 => out.extend(self.mantissas.iter().map(|mantissa| *mantissa as f64)),
            exponent => {
                let power = POWERS[usize::from(exponent)];
                out.extend(self.mantissas.iter().map(|mantissa| *mantissa as f64 / power));
            }
        }
        let decoded = out.get_mut(from..).unwrap_or_default();
        for (value, distance) in decoded.iter_mut().zip(&self.distances) {
            *value = from_ordered(ordered(value.to_bits()).wrapping_add(*distance));
        }
        exceptions.restore(decoded).ok_or(CodecError::Malformed)
    }
}

/// Values that are not decimals, still encoded.
#[derive(Default)]
struct Exceptions<'a> {
    count: usize,
    positions: Option<Reader<'a>>,
    values: Option<Reader<'a>>,
}

fn skip_exceptions<'a>(reader: &mut Reader<'a>, values: usize) -> Option<Exceptions<'a>> {
    let count = reader.varint_usize().filter(|count| *count <= values)?;
    let positions = *reader;
    for _ in 0..count {
        reader.varint()?;
    }
    let values = *reader;
    for _ in 0..count {
        match reader.u8()? {
            KIND_STALE => {}
            KIND_RAW => {
                reader.take(8)?;
            }
            _ => return None,
        }
    }
    Some(Exceptions {
        count,
        positions: Some(positions),
        values: Some(values),
    })
}

impl Exceptions<'_> {
    fn restore(self, out: &mut [f64]) -> Option<()> {
        let (Some(mut positions), Some(mut values)) = (self.positions, self.values) else {
            return Some(());
        };
        let mut at = 0usize;
        for _ in 0..self.count {
            at = at.checked_add(positions.varint_usize()?)?;
            let bits = match values.u8()? {
                KIND_STALE => STALE_BITS,
                _ => u64::from_le_bytes(values.array()?),
            };
            *out.get_mut(at)? = f64::from_bits(bits);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk;
    use proptest::prelude::*;

    fn encode(bits: &[u64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        ValuesEncoder::new().encode(bits, &mut bytes);
        bytes
    }

    fn decode(bytes: &[u8], count: usize) -> Result<Vec<u64>, CodecError> {
        let mut out = Vec::new();
        ValuesDecoder::new().decode(bytes, count, &mut out)?;
        Ok(out.into_iter().map(f64::to_bits).collect())
    }

    fn size(values: &[f64]) -> usize {
        let bits: Vec<u64> = values.iter().map(|v| v.to_bits()).collect();
        let bytes = encode(&bits);
        assert_eq!(decode(&bytes, bits.len()).unwrap(), bits);
        bytes.len()
    }

    /// Values as they are measured, and every oddity of the format.
    fn column() -> impl Strategy<Value = Vec<u64>> {
        let odd = prop_oneof![
            Just(STALE_BITS),
            Just(0x7ff8_0000_0000_0001u64),
            Just((-0.0f64).to_bits()),
            Just(f64::INFINITY.to_bits()),
            Just(f64::NEG_INFINITY.to_bits()),
            Just(f64::MAX.to_bits()),
            Just(5e-324f64.to_bits()),
            Just((0.1f64 + 0.2).to_bits()),
            any::<u64>(),
        ];
        let decimal = (any::<i32>(), 0usize..=15).prop_map(|(m, e)| (f64::from(m) / POWERS[e]).to_bits());
        let mostly = prop_oneof![Just(1u32), Just(0u32), Just(30u32),];
        (mostly, -1000i64..1000, 0usize..6).prop_flat_map(move |(odds, start, e)| {
            let step = (-50i64..50).prop_map(move |d| ((start + d) as f64 / POWERS[e]).to_bits());
            let value = prop_oneof![40 => step, odds => odd.clone(), odds.min(1) => decimal.clone()];
            proptest::collection::vec(value, 1..600)
        })
    }

    #[test]
    fn golden() {
        let mut sum = 0.0;
        let columns: [(&str, Vec<f64>); 5] = [
            (
                "sum",
                (0..60)
                    .map(|i| {
                        sum += f64::from(i * 37 % 100) / 100.0;
                        sum
                    })
                    .collect(),
            ),
            ("counter", (0..100).map(|i| f64::from(i * 37 + i % 7)).collect()),
            (
                "cents",
                (0..300).map(|i| f64::from((i * 7919) % 1000) / 100.0).collect(),
            ),
            ("noise", (0..70).map(|i| (f64::from(i) * 0.37).sin()).collect()),
            (
                "odd",
                (0..40)
                    .map(|i| match i {
                        7 => f64::from_bits(STALE_BITS),
                        9 => -0.0,
                        11 => f64::INFINITY,
                        i => f64::from(i / 5),
                    })
                    .collect(),
            ),
        ];
        for (name, values) in columns {
            let bits: Vec<u64> = values.iter().map(|v| v.to_bits()).collect();
            let bytes = encode(&bits);
            crate::golden::check(&format!("values-{name}-v1"), &bytes);
            assert_eq!(decode(&bytes, bits.len()).unwrap(), bits);
        }
    }

    #[test]
    fn short_decimals_take_few_bits() {
        assert!(size(&[42.5; 1000]) <= 6);
        let counter: Vec<f64> = (0..1000).map(|i| f64::from(i * 15)).collect();
        assert!(size(&counter) <= 6);
        let mut stale = vec![3.0; 100];
        stale[50] = f64::from_bits(STALE_BITS);
        assert!(size(&stale) <= 8);
        let cents: Vec<f64> = (0..1024).map(|i| f64::from(i * 7919 % 256) / 100.0).collect();
        assert!(size(&cents) <= 1024 + 20);
    }

    /// A counter that adds cents as floats drifts away from cents.
    #[test]
    fn sums_of_decimals_take_little_more_than_decimals() {
        let mut sum = 17.31;
        let sums: Vec<f64> = (0..1024)
            .map(|i| {
                sum += f64::from(i * 7919 % 1500) / 100.0;
                sum
            })
            .collect();
        assert!(size(&sums) < 1024 * 14 / 8);
    }

    #[test]
    fn an_unknown_codec_is_named() {
        assert_eq!(decode(&[17, 8, 0], 3), Err(CodecError::UnknownCodec(17)));
        assert_eq!(decode(&[0x90, 8, 0], 3), Err(CodecError::UnknownCodec(0x90)));
    }

    proptest! {
        #[test]
        fn any_bits_round_trip(bits in proptest::collection::vec(any::<u64>(), 1..600)) {
            prop_assert_eq!(decode(&encode(&bits), bits.len()).unwrap(), bits);
        }

        /// What this codec and the codec of open chunks give back is the same.
        #[test]
        fn agrees_with_the_codec_of_open_chunks(bits in column()) {
            let samples: Vec<(i64, u64)> = (0i64..).zip(bits.iter().copied()).collect();
            let mut other = Vec::new();
            for chunk in chunk::encode_all(&samples) {
                chunk::decode(&chunk.bytes, |_, bits| {
                    other.push(bits);
                    true
                })
                .unwrap();
            }
            prop_assert_eq!(&decode(&encode(&bits), bits.len()).unwrap(), &other);
            prop_assert_eq!(other, bits);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), count in 0usize..600) {
            let _ = decode(&bytes, count);
        }
    }
}
