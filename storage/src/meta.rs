//! The meta row of a replica: what is durable, and which rows belong to it.
//!
//! `"QSM" version fields crc32c`. It becomes durable in one write, so it is the switch by which a flush
//! or an installed snapshot takes effect.

use bytes::Bytes;
use roaring::RoaringBitmap;

use crate::frame::{seal, unseal};
use crate::limits::Limits;
use crate::quota::Quotas;
use crate::retention::Retentions;
use crate::shard::LogPosition;
use crate::tombstones::{Tombstones, put_bitmap, take_bitmap};
use crate::varint::{Reader, put_bytes, put_i64, put_u64};

const MAGIC: [u8; 3] = *b"QSM";
const VERSION: u8 = 8;

/// How often the samples of a generation have been merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// What one flush wrote.
    Flush,
    /// A few flushes.
    Hours,
    /// All that a bucket held.
    Bucket,
}

impl Level {
    const ALL: [Self; 3] = [Self::Flush, Self::Hours, Self::Bucket];
}

/// One immutable set of rows, whose samples lie in one bucket (`slab::BUCKET_MS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation {
    pub(crate) number: u64,
    pub(crate) level: Level,
    /// Earliest and latest sample.
    pub(crate) min_ms: i64,
    pub(crate) max_ms: i64,
    /// Slab rows.
    pub(crate) slabs: u64,
    /// Slab rows of native histograms.
    pub(crate) histogram_slabs: u64,
    /// Rows of timestamps.
    pub(crate) time_rows: u64,
    pub(crate) columns: u64,
    /// Of both kinds.
    pub(crate) samples: u64,
    /// Those that are native histograms.
    pub(crate) histograms: u64,
    /// Columns and rows of timestamps, before RocksDB's compression.
    pub(crate) bytes: u64,
}

impl Generation {
    /// One without rows.
    pub(crate) fn empty(number: u64, level: Level) -> Self {
        Self {
            number,
            level,
            min_ms: i64::MAX,
            max_ms: i64::MIN,
            slabs: 0,
            histogram_slabs: 0,
            time_rows: 0,
            columns: 0,
            samples: 0,
            histograms: 0,
            bytes: 0,
        }
    }
}

/// What apply needs besides series: replicated clocks and limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clock {
    /// The highest "now" of all entries, Unix milliseconds.
    pub(crate) now_ms: i64,
    /// Samples before it are gone. Never goes back.
    pub(crate) cut_ms: i64,
    /// `None` until an entry set them.
    pub(crate) limits: Option<Limits>,
}

impl Clock {
    pub(crate) const START: Self = Self {
        now_ms: i64::MIN,
        cut_ms: i64::MIN,
        limits: None,
    };

    pub(crate) fn limits(&self) -> Limits {
        self.limits.unwrap_or_default()
    }

    /// Takes an entry's time; both clocks only move forward.
    pub(crate) fn advance(&mut self, now_ms: i64) {
        self.now_ms = self.now_ms.max(now_ms);
        self.cut_ms = self
            .cut_ms
            .max(self.now_ms.saturating_sub_unsigned(self.limits().retention_ms));
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ShardMeta {
    pub(crate) position: LogPosition,
    pub(crate) membership: Option<Bytes>,
    pub(crate) clock: Clock,
    /// The id that the next registered series gets.
    pub(crate) next_id: u64,
    /// Prefix of the label and state rows; changes when a snapshot is installed.
    pub(crate) epoch: u64,
    /// The generation whose state and activity rows count.
    pub(crate) state_generation: u64,
    /// How many series are registered and not retired: those that activity rows name.
    pub(crate) series: u64,
    /// How many activity rows there are.
    pub(crate) activity_rows: u64,
    /// The number that the next generation gets.
    pub(crate) next_generation: u64,
    /// Live generations in ascending order.
    pub(crate) generations: Vec<Generation>,
    /// What is deleted of them.
    pub(crate) tombstones: Tombstones,
    /// See `State::vacant`.
    pub(crate) vacant: RoaringBitmap,
    pub(crate) quotas: Quotas,
    /// See `State::with_histograms`.
    pub(crate) with_histograms: RoaringBitmap,
    pub(crate) retentions: Retentions,
}

impl ShardMeta {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + self.generations.len() * 40);
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        put_u64(&mut out, self.position.term);
        put_u64(&mut out, self.position.index);
        out.push(u8::from(self.membership.is_some()));
        put_bytes(&mut out, self.membership.as_deref().unwrap_or_default());
        put_i64(&mut out, self.clock.now_ms);
        put_i64(&mut out, self.clock.cut_ms);
        out.push(u8::from(self.clock.limits.is_some()));
        self.clock.limits().encode(&mut out);
        for number in [
            self.next_id,
            self.epoch,
            self.state_generation,
            self.series,
            self.activity_rows,
            self.next_generation,
        ] {
            put_u64(&mut out, number);
        }
        put_u64(&mut out, self.generations.len() as u64);
        for generation in &self.generations {
            put_u64(&mut out, generation.number);
            out.push(generation.level as u8);
            put_i64(&mut out, generation.min_ms);
            put_i64(&mut out, generation.max_ms);
            for count in [
                generation.slabs,
                generation.histogram_slabs,
                generation.time_rows,
                generation.columns,
                generation.samples,
                generation.histograms,
                generation.bytes,
            ] {
                put_u64(&mut out, count);
            }
        }
        self.tombstones.encode(&mut out);
        put_bitmap(&mut out, &self.vacant);
        self.quotas.encode(&mut out);
        put_bitmap(&mut out, &self.with_histograms);
        self.retentions.encode(&mut out);
        seal(&mut out);
        out
    }

    /// Reads a row; the error says what does not fit.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut reader = Reader::new(unseal(bytes)?);
        if reader.array() != Some(MAGIC) {
            return Err("it does not begin with QSM");
        }
        if reader.u8() != Some(VERSION) {
            return Err("its version is unknown to this program");
        }
        let meta = Self::decode_fields(&mut reader).ok_or("its fields are malformed")?;
        if !reader.is_empty() {
            return Err("bytes follow its end");
        }
        Ok(meta)
    }

    fn decode_fields(reader: &mut Reader<'_>) -> Option<Self> {
        let position = LogPosition {
            term: reader.varint()?,
            index: reader.varint()?,
        };
        let has_membership = flag(reader)?;
        let membership = Some(Bytes::copy_from_slice(reader.bytes()?)).filter(|_| has_membership);
        let (now_ms, cut_ms) = (reader.varint_i64()?, reader.varint_i64()?);
        let has_limits = flag(reader)?;
        let limits = Some(Limits::decode(reader)?).filter(|_| has_limits);
        let next_id = reader.varint()?;
        let epoch = reader.varint()?;
        let state_generation = reader.varint()?;
        let series = reader.varint()?;
        let activity_rows = reader.varint()?;
        let next_generation = reader.varint()?;
        let count = reader.varint_usize().filter(|n| *n <= reader.remaining())?;
        let mut generations: Vec<Generation> = Vec::with_capacity(count);
        for _ in 0..count {
            let generation = Generation {
                number: reader.varint()?,
                level: *Level::ALL.get(usize::from(reader.u8()?))?,
                min_ms: reader.varint_i64()?,
                max_ms: reader.varint_i64()?,
                slabs: reader.varint()?,
                histogram_slabs: reader.varint()?,
                time_rows: reader.varint()?,
                columns: reader.varint()?,
                samples: reader.varint()?,
                histograms: reader.varint()?,
                bytes: reader.varint()?,
            };
            let in_order = generations
                .last()
                .is_none_or(|last| last.number < generation.number);
            if !in_order || generation.number >= next_generation {
                return None;
            }
            generations.push(generation);
        }
        let tombstones = Tombstones::decode(reader)?;
        let vacant = take_bitmap(reader)?;
        let quotas = Quotas::decode(reader)?;
        let with_histograms = take_bitmap(reader)?;
        let retentions = Retentions::decode(reader)?;
        let clock = Clock {
            now_ms,
            cut_ms,
            limits,
        };
        let valid = next_id > series;
        valid.then_some(Self {
            position,
            membership,
            clock,
            next_id,
            epoch,
            state_generation,
            series,
            activity_rows,
            next_generation,
            generations,
            tombstones,
            vacant,
            quotas,
            with_histograms,
            retentions,
        })
    }
}

fn flag(reader: &mut Reader<'_>) -> Option<bool> {
    match reader.u8()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::Quota;
    use crate::tombstones::Tombstone;
    use proptest::prelude::*;

    fn meta() -> ShardMeta {
        let generation = |number| Generation {
            number,
            level: Level::Hours,
            min_ms: 1_700_000_000_000,
            max_ms: 1_700_000_900_000,
            slabs: 2,
            histogram_slabs: 1,
            time_rows: 1,
            columns: 10,
            samples: 600,
            histograms: 60,
            bytes: 1234,
        };
        let mut tombstones = Tombstones::default();
        tombstones.add(Tombstone {
            series: [3, 9, 70_000].into_iter().collect(),
            start_ms: 1_700_000_000_000,
            end_ms: 1_700_000_060_000,
            before: 7,
        });
        let mut quotas = Quotas::default();
        let quota = Quota {
            epoch: 2,
            series: 1_000,
        };
        quotas.set("acme", quota, 2, 10);
        let mut retentions = Retentions::default();
        retentions.replace([("acme".to_owned(), 86_400_000)].into(), &Clock::START);
        ShardMeta {
            position: LogPosition { term: 3, index: 99 },
            membership: Some(Bytes::from_static(b"members")),
            clock: Clock {
                now_ms: 1_700_000_901_000,
                cut_ms: 1_698_704_901_000,
                limits: Some(Limits::default()),
            },
            next_id: 11,
            epoch: 2,
            state_generation: 7,
            series: 6,
            activity_rows: 3,
            next_generation: 8,
            generations: vec![generation(5), generation(7)],
            tombstones,
            vacant: [3].into_iter().collect(),
            quotas,
            with_histograms: [4, 7].into_iter().collect(),
            retentions,
        }
    }

    #[test]
    fn golden() {
        let bytes = meta().encode();
        crate::golden::check("meta-v8", &bytes);
        assert_eq!(ShardMeta::decode(&bytes), Ok(meta()));
        let empty = ShardMeta {
            membership: None,
            clock: Clock::START,
            generations: Vec::new(),
            tombstones: Tombstones::default(),
            vacant: RoaringBitmap::new(),
            quotas: Quotas::default(),
            with_histograms: RoaringBitmap::new(),
            retentions: Retentions::default(),
            ..meta()
        };
        assert_eq!(ShardMeta::decode(&empty.encode()), Ok(empty));
    }

    proptest! {
        #[test]
        fn damage_is_seen(at: usize, xor in 1u8..=255) {
            let mut bytes = meta().encode();
            let at = at % bytes.len();
            bytes[at] ^= xor;
            prop_assert!(ShardMeta::decode(&bytes).is_err());
            bytes.truncate(at);
            prop_assert!(ShardMeta::decode(&bytes).is_err());
        }

        #[test]
        fn garbage_with_a_fitting_checksum_never_panics(tail in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut bytes = b"QSM\x08".to_vec();
            bytes.extend(tail);
            let crc = crc32c::crc32c(&bytes);
            bytes.extend(crc.to_le_bytes());
            let _ = ShardMeta::decode(&bytes);
        }
    }

    #[test]
    fn clocks_never_go_back() {
        let mut clock = Clock::START;
        clock.advance(1_700_000_000_000);
        let cut = clock.cut_ms;
        assert_eq!(cut, 1_700_000_000_000 - 15 * 24 * 3600 * 1000);
        clock.advance(5);
        assert_eq!((clock.now_ms, clock.cut_ms), (1_700_000_000_000, cut));
        clock.limits = Some(Limits {
            retention_ms: u64::MAX,
            ..Limits::default()
        });
        clock.advance(1_700_000_000_001);
        assert_eq!(clock.cut_ms, cut);
    }
}
