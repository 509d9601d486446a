//! What apply decided about the parts of an entry, as bytes through the log's reply.

use bytes::Bytes;
use quorate_storage::{ApplyOutcome, EntryError, PartOutcome};

/// The outcomes of all parts, one after the other.
pub fn encode_outcome(outcome: &ApplyOutcome) -> Bytes {
    let mut out = Vec::with_capacity(16 * outcome.parts.len());
    for part in &outcome.parts {
        part.encode(&mut out);
    }
    out.into()
}

/// The outcomes of an entry's parts.
pub fn decode_outcome(mut bytes: &[u8]) -> Result<Vec<PartOutcome>, EntryError> {
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let (part, rest) = PartOutcome::decode(bytes)?;
        parts.push(part);
        bytes = rest;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_round_trip() {
        let part = |stored| PartOutcome {
            stored,
            new_ids: vec![7, u64::MAX],
            ..PartOutcome::default()
        };
        let outcome = ApplyOutcome {
            parts: vec![part(1), part(0), part(3)],
        };
        let bytes = encode_outcome(&outcome);
        assert_eq!(decode_outcome(&bytes).unwrap(), outcome.parts);
        assert!(decode_outcome(&bytes[..bytes.len() - 1]).is_err());
        assert_eq!(decode_outcome(&[]).unwrap(), []);
    }
}
