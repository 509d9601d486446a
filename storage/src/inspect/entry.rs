//! What an entry of the log says.

use crate::entry::{self, Command, EntryError, check_part};

/// An entry in a few numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntrySummary {
    /// The number of its kind: 1 is a write.
    pub kind: u8,
    /// The leader's time, Unix milliseconds.
    pub now_ms: i64,
    /// Parts of a write.
    pub parts: u64,
    /// Samples in them.
    pub samples: u64,
    /// Series in them that come with labels.
    pub new_series: u64,
}

/// Checks an entry from end to end.
pub fn describe_entry(bytes: &[u8]) -> Result<EntrySummary, EntryError> {
    let entry = entry::decode(bytes)?;
    let mut summary = EntrySummary {
        // The frame was checked.
        kind: bytes.get(3).copied().unwrap_or_default(),
        now_ms: entry.now_ms,
        parts: 0,
        samples: 0,
        new_series: 0,
    };
    if let Command::Write(parts) = entry.command {
        for part in parts {
            let part = check_part(part)?;
            summary.parts += 1;
            summary.samples += part.samples;
            summary.new_series += part.new_series;
        }
    }
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{PartBuilder, encode_write_entry};

    #[test]
    fn an_entry_is_summed_up_or_refused() {
        let mut part = PartBuilder::new("acme", 1);
        let labels = crate::Labels::from_pairs([("__name__", "up")]).unwrap();
        let ordinal = part.series(labels.as_bytes());
        part.sample(ordinal, 5, 1.0);
        part.sample(ordinal, 6, 2.0);
        let entry = encode_write_entry(77, &[part.finish()]);
        let summary = EntrySummary {
            kind: 1,
            now_ms: 77,
            parts: 1,
            samples: 2,
            new_series: 1,
        };
        assert_eq!(describe_entry(&entry).unwrap(), summary);
        for at in 0..entry.len() {
            let mut damaged = entry.to_vec();
            damaged[at] ^= 4;
            assert!(describe_entry(&damaged).is_err(), "byte {at}");
        }
    }
}
