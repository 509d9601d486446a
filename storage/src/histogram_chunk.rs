//! Sealed chunks of native histograms: what memory holds of them besides the last few.
//!
//! `codec varint(count) times histograms crc32c`, with a column of integers (`codec::ints`) and a column of
//! histograms (`codec::histograms`).

use std::sync::Arc;

use crate::chunk::{Chunk, ChunkError};
use crate::codec::histograms::{HistogramsDecoder, HistogramsEncoder, column_len};
use crate::codec::ints::{self, IntsEncoder};
use crate::frame::{Damage, seal, unseal};
use crate::histogram::Histogram;
use crate::varint::{Reader, put_u64};

/// Chunks of floats have codec 1.
const CODEC_HISTOGRAMS: u8 = 2;
/// A chunk has at most so many histograms.
pub(crate) const SAMPLES_MAX: usize = 120;

/// A native histogram and its time, Unix milliseconds.
pub(crate) type HistogramSample = (i64, Arc<Histogram>);

/// Encodes histograms in ascending time order into as few chunks as needed.
pub(crate) fn encode_all(samples: &[HistogramSample]) -> Vec<Chunk> {
    let mut encoder = HistogramsEncoder::default();
    let histograms: Vec<Arc<Histogram>> = samples.iter().map(|(_, histogram)| histogram.clone()).collect();
    let mut chunks = Vec::new();
    let mut from = 0;
    while from < samples.len() {
        let length = column_len(&histograms[from..]).min(SAMPLES_MAX);
        let to = from + length;
        chunks.push(encode(&samples[from..to], &histograms[from..to], &mut encoder));
        from = to;
    }
    chunks
}

fn encode(
    samples: &[HistogramSample],
    histograms: &[Arc<Histogram>],
    encoder: &mut HistogramsEncoder,
) -> Chunk {
    let times: Vec<i64> = samples.iter().map(|(t, _)| *t).collect();
    let mut out = vec![CODEC_HISTOGRAMS];
    put_u64(&mut out, times.len() as u64);
    IntsEncoder::new().encode(&times, &mut out);
    encoder.encode(histograms, &mut out);
    seal(&mut out);
    Chunk {
        first_ms: times.first().copied().unwrap_or_default(),
        last_ms: times.last().copied().unwrap_or_default(),
        samples: times.len() as u32,
        bytes: out.into(),
    }
}

/// The histograms of a chunk, in order of time.
pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<HistogramSample>, ChunkError> {
    let body = unseal(bytes).map_err(|damage| match damage {
        Damage::Short => ChunkError::Malformed,
        Damage::Checksum => ChunkError::Checksum,
    })?;
    let mut reader = Reader::new(body);
    match reader.u8() {
        Some(CODEC_HISTOGRAMS) => {}
        Some(codec) => return Err(ChunkError::UnknownCodec(codec)),
        None => return Err(ChunkError::Malformed),
    }
    let count = reader
        .varint_usize()
        .filter(|n| (1..=SAMPLES_MAX).contains(n))
        .ok_or(ChunkError::Malformed)?;
    let (mut times, mut histograms) = (Vec::new(), Vec::new());
    ints::decode(&mut reader, count, &mut times).map_err(|_| ChunkError::Malformed)?;
    if times.windows(2).any(|two| two[0] >= two[1]) {
        return Err(ChunkError::Malformed);
    }
    HistogramsDecoder::default()
        .decode(&body[reader.position()..], count, &mut histograms)
        .map_err(|_| ChunkError::Malformed)?;
    Ok(times.into_iter().zip(histograms).collect())
}

/// All histograms of chunks, in their order.
pub(crate) fn decode_all(chunks: &[Chunk]) -> Result<Vec<HistogramSample>, ChunkError> {
    let mut samples = Vec::new();
    for chunk in chunks {
        samples.append(&mut decode(&chunk.bytes)?);
    }
    Ok(samples)
}

/// The histogram at a timestamp in any of the chunks.
pub(crate) fn find_in(chunks: &[Chunk], timestamp_ms: i64) -> Result<Option<Arc<Histogram>>, ChunkError> {
    let covers = |chunk: &&Chunk| chunk.overlaps(timestamp_ms, timestamp_ms);
    for chunk in chunks.iter().rev().filter(covers) {
        let samples = decode(&chunk.bytes)?;
        if let Ok(at) = samples.binary_search_by_key(&timestamp_ms, |(t, _)| *t) {
            return Ok(Some(samples[at].1.clone()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::histogram::tests::histograms;

    fn samples() -> impl Strategy<Value = Vec<HistogramSample>> {
        let times = proptest::collection::btree_set(-1i64 << 42..1 << 42, 1..300);
        (times, histograms()).prop_map(|(times, histogram)| {
            let histogram = Arc::new(histogram);
            times.into_iter().map(|t| (t, histogram.clone())).collect()
        })
    }

    #[test]
    fn golden() {
        let samples: Vec<HistogramSample> = (0..20)
            .map(|at| {
                let histogram = Histogram {
                    count: at as f64,
                    zero_count: at as f64,
                    sum: at as f64 / 4.0,
                    ..Histogram::default()
                };
                (1_700_000_000_000 + at * 15_000 + at % 3, Arc::new(histogram))
            })
            .collect();
        let chunks = encode_all(&samples);
        crate::golden::check("chunk-histograms-v1", &chunks[0].bytes);
        assert_eq!(decode_all(&chunks), Ok(samples));
    }

    proptest! {
        #[test]
        fn round_trip(samples in samples()) {
            let chunks = encode_all(&samples);
            for chunk in &chunks {
                let part = decode(&chunk.bytes).unwrap();
                prop_assert_eq!((chunk.first_ms, chunk.last_ms), (part[0].0, part[part.len() - 1].0));
                prop_assert_eq!(chunk.samples as usize, part.len());
            }
            let (t, histogram) = &samples[samples.len() / 2];
            prop_assert_eq!(find_in(&chunks, *t), Ok(Some(histogram.clone())));
            prop_assert_eq!(decode_all(&chunks), Ok(samples));
        }

        #[test]
        fn damage_is_seen(samples in samples(), at: usize, xor in 1u8..=255) {
            let mut bytes = encode_all(&samples)[0].bytes.to_vec();
            let at = at % bytes.len();
            bytes[at] ^= xor;
            prop_assert!(decode(&bytes).is_err());
            bytes.truncate(at);
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn garbage_with_a_fitting_checksum_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            bytes.insert(0, CODEC_HISTOGRAMS);
            seal(&mut bytes);
            let _ = decode(&bytes);
        }
    }
}
