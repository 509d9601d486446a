//! The limits that decide what apply stores. They travel in the log, so every replica uses the same.

use crate::varint::{Reader, put_u64};

/// Limits of a shard. Before the log holds an entry that sets them, [`Limits::default`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How far behind a series' own newest sample a sample may be, in milliseconds.
    pub ooo_window_ms: u64,
    /// How long samples are kept, in milliseconds of the log's time.
    pub retention_ms: u64,
    /// How far ahead of the log's time a sample may be, in milliseconds.
    pub max_ahead_ms: u64,
    /// The most series a shard registers. Series that exist keep taking samples.
    pub max_series_per_shard: u64,
    /// 0: tenants may have any number of series. Else a tenant may have as many as its quota of this epoch
    /// says, and none without one.
    pub quota_epoch: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ooo_window_ms: 30 * 60 * 1000,
            retention_ms: 15 * 24 * 3600 * 1000,
            max_ahead_ms: 10 * 60 * 1000,
            max_series_per_shard: 10_000_000,
            quota_epoch: 0,
        }
    }
}

impl Limits {
    /// Appends a field count and the fields, so that fields can be added at the end.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let fields = [
            self.ooo_window_ms,
            self.retention_ms,
            self.max_ahead_ms,
            self.max_series_per_shard,
            self.quota_epoch,
        ];
        put_u64(out, fields.len() as u64);
        for field in fields {
            put_u64(out, field);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        // Another count would be a limit that this program cannot enforce: refuse instead of diverging.
        if reader.varint()? != 5 {
            return None;
        }
        Some(Self {
            ooo_window_ms: reader.varint()?,
            retention_ms: reader.varint()?,
            max_ahead_ms: reader.varint()?,
            max_series_per_shard: reader.varint()?,
            quota_epoch: reader.varint()?,
        })
    }
}
