//! The hash of internal decisions: XXH3-64 (seed 0) of explicitly framed bytes.
//!
//! The bytes are: one byte with the length of a tag, the tag in ASCII, then each word as eight
//! little-endian bytes. A tag names the use, so that no two uses share a hash. Changing a tag changes
//! every table made from it, which nodes of different versions would then disagree about.

use xxhash_rust::xxh3::xxh3_64;

const MAX_TAG_BYTES: usize = 15;
const MAX_WORDS: usize = 2;

/// Hashes `words` for the use that `tag` names. Tags are at most 15 bytes, words at most two.
pub(crate) fn tagged(tag: &'static str, words: &[u64]) -> u64 {
    let mut framed = [0_u8; 1 + MAX_TAG_BYTES + MAX_WORDS * 8];
    framed[0] = tag.len() as u8;
    let mut len = 1 + tag.len();
    framed[1..len].copy_from_slice(tag.as_bytes());
    for word in words {
        framed[len..len + 8].copy_from_slice(&word.to_le_bytes());
        len += 8;
    }
    xxh3_64(&framed[..len])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_exactly_the_specified_bytes() {
        assert_eq!(tagged("ab", &[0x0102]), xxh3_64(b"\x02ab\x02\x01\0\0\0\0\0\0"));
        assert_eq!(
            tagged("x", &[1, 2]),
            xxh3_64(b"\x01x\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0")
        );
    }

    #[test]
    fn the_hash_function_is_xxh3_64() {
        // Published test vector of XXH3_64bits for the empty input, seed 0.
        assert_eq!(xxh3_64(b""), 0x2D06_8005_38D3_94C2);
    }
}
