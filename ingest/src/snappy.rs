//! Snappy block decompression that can't be turned into a bomb.

use crate::DecodeError;

/// No snappy element yields more than 64 bytes for 3 (a copy with a 2-byte offset).
const MAX_EXPANSION: usize = 22;

/// Decompresses the snappy block `body` into `out`, replacing what it held. `max_bytes` bounds the
/// decompressed size.
///
/// The length that the block declares is checked against `max_bytes`, and against what a body of
/// this size can expand to at all, before memory is reserved for it.
///
/// # Errors
/// [`DecodeError::TooLarge`] for a declared length above `max_bytes`, [`DecodeError::Snappy`] for
/// anything that is not exactly one intact block. `out` is empty then.
pub fn decompress_snappy(body: &[u8], max_bytes: usize, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let result = decompress(body, max_bytes, out);
    if result.is_err() {
        out.clear();
    }
    result
}

fn decompress(body: &[u8], max_bytes: usize, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    if body.is_empty() {
        return Err(DecodeError::Snappy {
            what: "the body is empty".into(),
        });
    }
    let declared = snap::raw::decompress_len(body).map_err(snappy_error)?;
    if declared > max_bytes {
        return Err(DecodeError::too_large(
            "max_decompressed_bytes",
            declared,
            max_bytes,
        ));
    }
    if declared > body.len().saturating_mul(MAX_EXPANSION) {
        let what = format!("{} bytes can't expand to the declared {declared}", body.len());
        return Err(DecodeError::Snappy { what });
    }
    // Without a clear: only growth is zeroed, so that a reused buffer is written once, not twice.
    out.resize(declared, 0);
    snap::raw::Decoder::new()
        .decompress(body, out)
        .map_err(snappy_error)?;
    Ok(())
}

fn snappy_error(error: snap::Error) -> DecodeError {
    DecodeError::Snappy {
        what: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn compress(raw: &[u8]) -> Vec<u8> {
        snap::raw::Encoder::new().compress_vec(raw).unwrap()
    }

    #[test]
    fn a_reused_buffer_holds_only_the_new_block() {
        let mut out = vec![7; 1000];
        decompress_snappy(&compress(b"abc"), 100, &mut out).unwrap();
        assert_eq!(out, b"abc");
        decompress_snappy(&compress(b""), 100, &mut out).unwrap();
        assert_eq!(out, b"");
    }

    #[test]
    fn the_limit_is_inclusive() {
        let mut out = Vec::new();
        decompress_snappy(&compress(&[1; 100]), 100, &mut out).unwrap();
        let error = decompress_snappy(&compress(&[1; 101]), 100, &mut out).unwrap_err();
        assert_eq!(
            error,
            DecodeError::TooLarge {
                limit: "max_decompressed_bytes",
                value: 101,
                max: 100
            }
        );
        assert!(out.is_empty());
    }

    #[test]
    fn a_bomb_is_refused_before_memory_is_reserved() {
        // Declares 4 GiB - 1, then 1 GiB within the limit, in bodies of a few bytes.
        let mut out = Vec::new();
        let error = decompress_snappy(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0], 1 << 20, &mut out).unwrap_err();
        assert!(matches!(
            error,
            DecodeError::TooLarge {
                value: 0xffff_ffff,
                ..
            }
        ));
        let error = decompress_snappy(&[0x80, 0x80, 0x80, 0x80, 0x04, 0], 2 << 30, &mut out).unwrap_err();
        assert!(matches!(error, DecodeError::Snappy { .. }));
        assert_eq!(out.capacity(), 0);
    }

    #[test]
    fn the_best_ratio_of_a_real_compressor_passes() {
        let raw = vec![b'x'; 1 << 20];
        let mut out = Vec::new();
        decompress_snappy(&compress(&raw), 1 << 20, &mut out).unwrap();
        assert_eq!(out, raw);
    }

    #[test]
    fn garbage_and_every_truncation_are_errors() {
        let mut out = vec![1];
        for body in [&b""[..], b"not snappy at all", &[0xff; 12], &[5]] {
            assert!(matches!(
                decompress_snappy(body, 1 << 20, &mut out),
                Err(DecodeError::Snappy { .. })
            ));
            assert!(out.is_empty());
        }
        let body = compress(&b"prometheus remote write ".repeat(20));
        for len in 0..body.len() {
            assert!(
                decompress_snappy(&body[..len], 1 << 20, &mut out).is_err(),
                "cut to {len}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut out = Vec::new();
            let _ = decompress_snappy(&body, 1 << 16, &mut out);
            prop_assert!(out.len() <= 1 << 16);
        }

        #[test]
        fn round_trip(raw in proptest::collection::vec(0u8..8, 0..2000)) {
            let mut out = Vec::new();
            decompress_snappy(&compress(&raw), 2000, &mut out).unwrap();
            prop_assert_eq!(out, raw);
        }
    }
}
