//! The protobuf wire format, as far as a reader needs it.
//!
//! A message is passed as the request cut off at the message's end, plus a position: positions then
//! are offsets into the request at every depth, which is what errors report.

use crate::DecodeError;

/// Wire type 0.
const VARINT: u32 = 0;
/// Wire type 1: 8 bytes.
const FIXED64: u32 = 1;
/// Wire type 2: length-delimited.
const LEN: u32 = 2;
const GROUP_START: u32 = 3;
const GROUP_END: u32 = 4;
/// Wire type 5: 4 bytes.
const FIXED32: u32 = 5;

/// Groups are skipped recursively; this deep at most.
const MAX_GROUP_DEPTH: u32 = 32;

/// Key of a length-delimited field.
pub(crate) const fn len_key(field: u32) -> u32 {
    (field << 3) | LEN
}

/// Key of a varint field.
pub(crate) const fn varint_key(field: u32) -> u32 {
    (field << 3) | VARINT
}

/// Key of an 8-byte field.
pub(crate) const fn fixed64_key(field: u32) -> u32 {
    (field << 3) | FIXED64
}

#[cold]
pub(crate) fn malformed(offset: usize, what: &'static str) -> DecodeError {
    DecodeError::Protobuf { offset, what }
}

/// Reads a varint and moves `pos` behind it.
#[inline(always)]
pub(crate) fn varint(msg: &[u8], pos: &mut usize) -> Result<u64, DecodeError> {
    match msg.get(*pos) {
        Some(&byte) if byte < 0x80 => {
            *pos += 1;
            Ok(u64::from(byte))
        }
        _ => long_varint(msg, pos),
    }
}

#[inline]
fn long_varint(msg: &[u8], pos: &mut usize) -> Result<u64, DecodeError> {
    let word = msg.get(*pos..).and_then(|rest| rest.first_chunk::<8>());
    match word.and_then(|word| varint_of_word(u64::from_le_bytes(*word))) {
        Some((value, length)) => {
            *pos += length;
            Ok(value)
        }
        None => varint_by_byte(msg, pos),
    }
}

/// Value and length of the varint in the low bytes of `word`, unless it is longer than 8 bytes.
///
/// A timestamp takes 6 bytes; here no branch depends on them.
#[inline(always)]
pub(crate) fn varint_of_word(word: u64) -> Option<(u64, usize)> {
    let last_bytes = !word & 0x8080_8080_8080_8080;
    if last_bytes == 0 {
        return None;
    }
    // Keep the bytes up to the first without a continuation bit, then close the gaps between their
    // 7-bit digits: in pairs, in fours, in eights.
    let kept = word & (last_bytes ^ last_bytes.wrapping_sub(1));
    let digits = kept & 0x7f7f_7f7f_7f7f_7f7f;
    let pairs = (digits & 0x007f_007f_007f_007f) | ((digits & 0x7f00_7f00_7f00_7f00) >> 1);
    let fours = (pairs & 0x0000_3fff_0000_3fff) | ((pairs & 0x3fff_0000_3fff_0000) >> 2);
    let value = (fours & 0x0fff_ffff) | ((fours & 0x0fff_ffff_0000_0000) >> 4);
    Some((value, (last_bytes.trailing_zeros() / 8 + 1) as usize))
}

/// Varints of 9 and 10 bytes, and those near the end of the message.
#[inline(never)]
fn varint_by_byte(msg: &[u8], pos: &mut usize) -> Result<u64, DecodeError> {
    let start = *pos;
    let mut value = 0u64;
    for digit in 0..10 {
        let Some(&byte) = msg.get(start + digit) else {
            return Err(malformed(start, "truncated varint"));
        };
        if digit == 9 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << (7 * digit);
        if byte < 0x80 {
            *pos = start + digit + 1;
            return Ok(value);
        }
    }
    Err(malformed(start, "varint longer than 64 bits"))
}

/// Reads a field key: field number and wire type.
#[inline(always)]
pub(crate) fn key(msg: &[u8], pos: &mut usize) -> Result<u32, DecodeError> {
    let start = *pos;
    let key = u32::try_from(varint(msg, pos)?).map_err(|_| malformed(start, "field number out of range"))?;
    if key < 8 {
        return Err(malformed(start, "field number 0"));
    }
    Ok(key)
}

/// Reads the length of a length-delimited field; returns where the field ends.
#[inline(always)]
pub(crate) fn end_of_field(msg: &[u8], pos: &mut usize) -> Result<usize, DecodeError> {
    let start = *pos;
    let length = varint(msg, pos)?;
    if length > (msg.len() - *pos) as u64 {
        return Err(malformed(start, "length beyond the end of the message"));
    }
    // Fits: it is at most msg.len().
    Ok(*pos + length as usize)
}

/// Reads 8 bytes.
#[inline(always)]
pub(crate) fn fixed64(msg: &[u8], pos: &mut usize) -> Result<u64, DecodeError> {
    let Some(bytes) = msg.get(*pos..).and_then(|rest| rest.first_chunk::<8>()) else {
        return Err(malformed(*pos, "truncated 8-byte field"));
    };
    *pos += 8;
    Ok(u64::from_le_bytes(*bytes))
}

/// Skips the field of `key`, which starts behind its key. A field of `known` means that its wire
/// type is wrong, since the caller handles the right one.
pub(crate) fn skip_unknown(msg: &[u8], pos: &mut usize, key: u32, known: &[u32]) -> Result<(), DecodeError> {
    if known.contains(&(key >> 3)) {
        return Err(malformed(*pos, "wrong wire type of a known field"));
    }
    skip_field(msg, pos, key, 0)
}

fn skip_field(msg: &[u8], pos: &mut usize, field_key: u32, depth: u32) -> Result<(), DecodeError> {
    match field_key & 7 {
        VARINT => {
            varint(msg, pos)?;
        }
        FIXED64 => {
            fixed64(msg, pos)?;
        }
        LEN => *pos = end_of_field(msg, pos)?,
        FIXED32 if msg.len() - *pos >= 4 => *pos += 4,
        FIXED32 => return Err(malformed(*pos, "truncated 4-byte field")),
        GROUP_START => skip_group(msg, pos, field_key >> 3, depth + 1)?,
        GROUP_END => return Err(malformed(*pos, "end of a group that was not started")),
        _ => return Err(malformed(*pos, "unknown wire type")),
    }
    Ok(())
}

fn skip_group(msg: &[u8], pos: &mut usize, field: u32, depth: u32) -> Result<(), DecodeError> {
    if depth > MAX_GROUP_DEPTH {
        return Err(malformed(*pos, "groups nested too deeply"));
    }
    loop {
        let inner = key(msg, pos)?;
        if inner & 7 == GROUP_END {
            return if inner >> 3 == field {
                Ok(())
            } else {
                Err(malformed(*pos, "end of a group that was not started"))
            };
        }
        skip_field(msg, pos, inner, depth)?;
    }
}

/// Appends `value` as a varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes that [`put_varint`] writes for `value`.
pub(crate) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_round_trip_wherever_they_stand(value: u64, shift in 0u32..64, tail in 0usize..12) {
            let value = value >> shift;
            let mut bytes = vec![0xaa; 3];
            put_varint(&mut bytes, value);
            let end = bytes.len();
            prop_assert_eq!(varint_len(value), end - 3);
            bytes.resize(end + tail, 0xff);
            let mut pos = 3;
            prop_assert_eq!(varint(&bytes, &mut pos).unwrap(), value);
            prop_assert_eq!(pos, end);
        }

        #[test]
        fn varints_agree_with_prost(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0x80), Just(0xff)], 0..12)) {
            let mut pos = 0;
            let ours = varint(&bytes, &mut pos).ok();
            let mut rest = &bytes[..];
            let theirs = prost::encoding::decode_varint(&mut rest).ok();
            prop_assert_eq!(ours, theirs);
            if ours.is_some() {
                prop_assert_eq!(pos, bytes.len() - rest.len());
            }
        }
    }

    #[test]
    fn groups_are_skipped_whole_and_bounded() {
        // group 5 { 1: varint 1, group 6 {} } then a marker byte
        let bytes = [0x08, 0x01, 0x33, 0x34, 0x2c, 0x77];
        let mut pos = 0;
        skip_unknown(&bytes, &mut pos, (5 << 3) | GROUP_START, &[]).unwrap();
        assert_eq!(bytes[pos], 0x77);

        let mut pos = 0;
        assert!(skip_unknown(&[0x34], &mut pos, (5 << 3) | GROUP_START, &[]).is_err());
        let mut pos = 0;
        assert!(skip_unknown(&[0x2b; 10_000], &mut pos, (5 << 3) | GROUP_START, &[]).is_err());
    }
}
