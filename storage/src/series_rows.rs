//! Rows of the `series` family: labels of a series, and blocks of the state that recovery needs.
//!
//! Label row: `version tenant labels crc32c`. State row: `version varint(count)`, per series
//! `zigzag(oldest) zigzag(newest − oldest) newest bits (8 bytes)`, `crc32c`; series in order of id,
//! [`BLOCK_SERIES`] a row.

use crate::entry::MAX_TENANT_BYTES;
use crate::frame::{open_row, seal};
use crate::labels::Labels;
use crate::varint::{Reader, put_bytes, put_i64, put_u64};

const VERSION: u8 = 1;
/// Series in one state row.
pub(crate) const BLOCK_SERIES: usize = 256;

/// What apply needs of a series besides its samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeriesState {
    pub(crate) oldest_ms: i64,
    pub(crate) newest_ms: i64,
    pub(crate) newest_bits: u64,
}

pub(crate) fn encode_labels_row(tenant: &str, labels: &Labels) -> Vec<u8> {
    let mut out = Vec::with_capacity(tenant.len() + labels.as_bytes().len() + 16);
    out.push(VERSION);
    put_bytes(&mut out, tenant.as_bytes());
    put_bytes(&mut out, labels.as_bytes());
    seal(&mut out);
    out
}

pub(crate) fn decode_labels_row(bytes: &[u8]) -> Result<(&str, Labels), &'static str> {
    let mut reader = open_row(bytes, VERSION)?;
    let tenant = reader
        .bytes()
        .filter(|t| !t.is_empty() && t.len() <= MAX_TENANT_BYTES)
        .and_then(|t| std::str::from_utf8(t).ok())
        .ok_or("its tenant is malformed")?;
    let labels = reader.bytes().ok_or("its labels are cut")?;
    let labels = Labels::from_canonical(labels).map_err(|_| "its labels are not canonical")?;
    if !reader.is_empty() {
        return Err("bytes follow its end");
    }
    Ok((tenant, labels))
}

/// Encodes the states of all series, a row at a time.
pub(crate) struct StateBlocks<'a> {
    blocks: std::slice::Chunks<'a, SeriesState>,
}

impl<'a> StateBlocks<'a> {
    pub(crate) fn new(states: &'a [SeriesState]) -> Self {
        Self {
            blocks: states.chunks(BLOCK_SERIES),
        }
    }
}

impl Iterator for StateBlocks<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let block = self.blocks.next()?;
        let mut out = Vec::with_capacity(block.len() * 24 + 16);
        out.push(VERSION);
        put_u64(&mut out, block.len() as u64);
        for state in block {
            put_i64(&mut out, state.oldest_ms);
            put_i64(&mut out, state.newest_ms.wrapping_sub(state.oldest_ms));
            out.extend_from_slice(&state.newest_bits.to_le_bytes());
        }
        seal(&mut out);
        Some(out)
    }
}

pub(crate) fn decode_states(bytes: &[u8]) -> Result<Vec<SeriesState>, &'static str> {
    let mut reader = open_row(bytes, VERSION)?;
    let count = reader
        .varint_usize()
        .filter(|n| (1..=BLOCK_SERIES).contains(n))
        .ok_or("its count is malformed")?;
    let states = (0..count)
        .map(|_| decode_state(&mut reader))
        .collect::<Option<Vec<_>>>()
        .ok_or("it is cut")?;
    if !reader.is_empty() {
        return Err("bytes follow its end");
    }
    Ok(states)
}

fn decode_state(reader: &mut Reader<'_>) -> Option<SeriesState> {
    let oldest_ms = reader.varint_i64()?;
    let newest_ms = oldest_ms.wrapping_add(reader.varint_i64()?);
    let newest_bits = u64::from_le_bytes(reader.array()?);
    Some(SeriesState {
        oldest_ms,
        newest_ms,
        newest_bits,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden() {
        let labels = Labels::from_pairs([("__name__", "up"), ("job", "api")]).unwrap();
        let row = encode_labels_row("acme", &labels);
        crate::golden::check("series-labels-v1", &row);
        assert_eq!(decode_labels_row(&row), Ok(("acme", labels)));
        let states = [
            SeriesState {
                oldest_ms: 1_700_000_000_000,
                newest_ms: 1_700_000_015_000,
                newest_bits: 1.5f64.to_bits(),
            },
            SeriesState {
                oldest_ms: i64::MAX,
                newest_ms: i64::MIN,
                newest_bits: 0,
            },
        ];
        let row = StateBlocks::new(&states).next().unwrap();
        crate::golden::check("series-state-v1", &row);
        assert_eq!(decode_states(&row).unwrap(), states);
    }

    proptest! {
        #[test]
        fn damage_is_seen(at: usize, xor in 1u8..=255) {
            let labels = Labels::from_pairs([("__name__", "up")]).unwrap();
            let mut row = encode_labels_row("acme", &labels);
            let at = at % row.len();
            row[at] ^= xor;
            prop_assert!(decode_labels_row(&row).is_err());
            prop_assert!(decode_states(&row).is_err());
            row.truncate(at);
            prop_assert!(decode_labels_row(&row).is_err());
        }

        #[test]
        fn states_round_trip(raw in proptest::collection::vec((any::<i64>(), any::<i64>(), any::<u64>()), 1..600)) {
            let states: Vec<SeriesState> = raw
                .into_iter()
                .map(|(oldest_ms, newest_ms, newest_bits)| SeriesState { oldest_ms, newest_ms, newest_bits })
                .collect();
            let back: Vec<SeriesState> =
                StateBlocks::new(&states).flat_map(|row| decode_states(&row).unwrap()).collect();
            prop_assert_eq!(back, states);
        }
    }
}
