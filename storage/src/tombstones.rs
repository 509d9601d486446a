//! What was deleted and still lies in RocksDB.
//!
//! A deletion takes samples out of memory at once. Flushed rows are immutable, so a tombstone hides the
//! samples there instead: those of its series, in its window, in generations that are older than the
//! deletion. What is written later goes to later generations, which the tombstone does not touch, even
//! at the same timestamps. Every reader of generations asks [`Tombstones::over`]; whoever rewrites
//! generations leaves out what is hidden and gives the result a number of its own, which is higher than
//! all bounds, unless a deletion came meanwhile: then it is hidden like its inputs. Once no generation
//! is older than its bound, a tombstone is dropped.

use roaring::RoaringBitmap;
use smallvec::SmallVec;

use crate::meta::Generation;
use crate::varint::{Reader, put_bytes, put_i64, put_u64};

/// Deleted samples of some series.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tombstone {
    pub(crate) series: RoaringBitmap,
    /// The window, inclusive.
    pub(crate) start_ms: i64,
    pub(crate) end_ms: i64,
    /// Generations with lower numbers are older than the deletion.
    pub(crate) before: u64,
}

/// All tombstones of a shard.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tombstones {
    list: Vec<Tombstone>,
}

/// What is hidden of one series.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mask {
    windows: SmallVec<[Window; 1]>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    start_ms: i64,
    end_ms: i64,
    before: u64,
}

impl Mask {
    /// Whether the sample at this time is deleted from this generation.
    #[inline]
    pub(crate) fn hides(&self, generation: u64, timestamp_ms: i64) -> bool {
        let hidden = |w: &Window| generation < w.before && (w.start_ms..=w.end_ms).contains(&timestamp_ms);
        self.windows.iter().any(hidden)
    }

    /// Whether nothing of the series is hidden.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }
}

impl Tombstones {
    /// What is hidden of a series.
    pub(crate) fn over(&self, series: u64) -> Mask {
        let Ok(id) = u32::try_from(series) else {
            return Mask::default();
        };
        let windows = self
            .list
            .iter()
            .filter(|t| t.series.contains(id))
            .map(|t| Window {
                start_ms: t.start_ms,
                end_ms: t.end_ms,
                before: t.before,
            });
        Mask {
            windows: windows.collect(),
        }
    }

    /// Adds a tombstone; one with the same window and bound takes its series in.
    pub(crate) fn add(&mut self, tombstone: Tombstone) {
        let same = |t: &&mut Tombstone| {
            (t.start_ms, t.end_ms, t.before) == (tombstone.start_ms, tombstone.end_ms, tombstone.before)
        };
        match self.list.iter_mut().find(same) {
            Some(known) => known.series |= tombstone.series,
            None => self.list.push(tombstone),
        }
    }

    /// Drops those that hide nothing any more, given all generations that are still read.
    pub(crate) fn prune(&mut self, generations: &[Generation]) {
        self.list.retain(|t| {
            let hides =
                |g: &Generation| g.number < t.before && g.min_ms <= t.end_ms && g.max_ms >= t.start_ms;
            generations.iter().any(hides)
        });
    }

    /// Changes the bounds to other numbers of the same generations, which ascend from `first` in the
    /// order of `old`.
    pub(crate) fn renumber(&mut self, old: &[Generation], first: u64) {
        for tombstone in &mut self.list {
            let older = old.iter().filter(|g| g.number < tombstone.before).count();
            tombstone.before = first + older as u64;
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.list.len() as u64);
        for tombstone in &self.list {
            put_u64(out, tombstone.before);
            put_i64(out, tombstone.start_ms);
            put_i64(out, tombstone.end_ms);
            put_bitmap(out, &tombstone.series);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let count = reader.varint_usize().filter(|n| *n <= reader.remaining())?;
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            list.push(Tombstone {
                before: reader.varint()?,
                start_ms: reader.varint_i64()?,
                end_ms: reader.varint_i64()?,
                series: take_bitmap(reader)?,
            });
        }
        Some(Self { list })
    }
}

/// Appends a bitmap in the portable format of Roaring, with its length.
pub(crate) fn put_bitmap(out: &mut Vec<u8>, bitmap: &RoaringBitmap) {
    let mut bytes = Vec::with_capacity(bitmap.serialized_size());
    // Writing to memory does not fail.
    let _ = bitmap.serialize_into(&mut bytes);
    put_bytes(out, &bytes);
}

/// Reads what [`put_bitmap`] wrote.
pub(crate) fn take_bitmap(reader: &mut Reader<'_>) -> Option<RoaringBitmap> {
    let mut bytes = reader.bytes()?;
    let bitmap = RoaringBitmap::deserialize_from(&mut bytes).ok()?;
    bytes.is_empty().then_some(bitmap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::Level;

    fn generation(number: u64, min_ms: i64, max_ms: i64) -> Generation {
        Generation {
            min_ms,
            max_ms,
            ..Generation::empty(number, Level::Flush)
        }
    }

    fn tombstone(series: &[u32], start_ms: i64, end_ms: i64, before: u64) -> Tombstone {
        Tombstone {
            series: series.iter().copied().collect(),
            start_ms,
            end_ms,
            before,
        }
    }

    #[test]
    fn only_older_generations_are_hidden() {
        let mut all = Tombstones::default();
        all.add(tombstone(&[7], 10, 20, 5));
        let mask = all.over(7);
        assert!(mask.hides(4, 10) && mask.hides(1, 20));
        assert!(!mask.hides(5, 15), "the generation is newer than the deletion");
        assert!(!mask.hides(4, 9) && !mask.hides(4, 21));
        assert!(all.over(8).is_empty() && all.over(u64::MAX).is_empty());
    }

    #[test]
    fn the_same_window_is_kept_once_and_dropped_when_nothing_is_older() {
        let mut all = Tombstones::default();
        all.add(tombstone(&[1], 10, 20, 5));
        all.add(tombstone(&[2], 10, 20, 5));
        all.add(tombstone(&[2], 10, 20, 6));
        assert_eq!(all.len(), 2);
        assert!(all.over(1).hides(4, 15) && !all.over(1).hides(5, 15) && all.over(2).hides(5, 15));
        all.prune(&[generation(4, 21, 30), generation(5, 0, 10)]);
        assert_eq!(
            all.len(),
            1,
            "the first bound is 5, and 4 lies outside of the window"
        );
        all.prune(&[generation(9, 0, 100)]);
        assert_eq!(all.len(), 0);
    }

    #[test]
    fn renumbered_bounds_hide_the_same_generations() {
        let old = [generation(3, 0, 9), generation(8, 0, 9), generation(9, 0, 9)];
        let mut all = Tombstones::default();
        all.add(tombstone(&[1], 0, 9, 9));
        all.renumber(&old, 100);
        let mask = all.over(1);
        assert!(mask.hides(100, 5) && mask.hides(101, 5) && !mask.hides(102, 5));
    }

    #[test]
    fn damaged_bitmaps_are_refused() {
        let mut all = Tombstones::default();
        all.add(tombstone(&[1, 2, 70_000], -5, 20, 5));
        let mut bytes = Vec::new();
        all.encode(&mut bytes);
        assert_eq!(Tombstones::decode(&mut Reader::new(&bytes)), Some(all));
        for cut in 0..bytes.len() {
            assert_eq!(Tombstones::decode(&mut Reader::new(&bytes[..cut])), None, "{cut}");
        }
    }
}
