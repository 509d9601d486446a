//! The pair numbers of every series, as varints in segments: about two bytes a label.

use crate::pairs::PairId;
use crate::varint::{Reader, put_u64};

/// Series in one segment. Small enough that its bytes always fit 32-bit places.
const SEGMENT_SERIES: usize = 4096;

/// The pairs of [`SEGMENT_SERIES`] series.
#[derive(Debug, Default)]
struct Segment {
    bytes: Vec<u8>,
    /// Where each series' bytes end.
    ends: Vec<u32>,
}

/// The pairs of all series of a shard, in order of registration.
#[derive(Debug, Default)]
pub(crate) struct PairLists {
    segments: Vec<Segment>,
}

impl PairLists {
    /// Appends the pairs of the next series. `false` when the segment has no room for so many.
    #[must_use]
    pub(crate) fn push(&mut self, pairs: &[PairId]) -> bool {
        let full = |segment: &Segment| segment.ends.len() == SEGMENT_SERIES;
        if self.segments.last().is_none_or(full) {
            if let Some(segment) = self.segments.last_mut() {
                segment.bytes.shrink_to_fit();
            }
            self.segments.push(Segment {
                bytes: Vec::new(),
                ends: Vec::with_capacity(SEGMENT_SERIES),
            });
        }
        let Some(segment) = self.segments.last_mut() else {
            return false;
        };
        let start = segment.bytes.len();
        for pair in pairs {
            put_u64(&mut segment.bytes, u64::from(*pair));
        }
        match u32::try_from(segment.bytes.len()) {
            Ok(end) => segment.ends.push(end),
            Err(_) => segment.bytes.truncate(start),
        }
        segment.bytes.len() > start || pairs.is_empty()
    }

    /// The pairs of a series by its place.
    #[inline]
    pub(crate) fn get(&self, slot: usize) -> PairIter<'_> {
        let bytes = self.segments.get(slot / SEGMENT_SERIES).and_then(|segment| {
            let at = slot % SEGMENT_SERIES;
            let end = *segment.ends.get(at)?;
            let start = at.checked_sub(1).map_or(0, |before| segment.ends[before]);
            segment.bytes.get(start as usize..end as usize)
        });
        PairIter(Reader::new(bytes.unwrap_or_default()))
    }

    /// Bytes of memory.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let bytes = |segment: &Segment| segment.bytes.capacity() + segment.ends.capacity() * 4;
        self.segments.iter().map(bytes).sum::<usize>() as u64
    }
}

/// The pairs of one series, in order of their names.
#[derive(Clone, Debug)]
pub(crate) struct PairIter<'a>(Reader<'a>);

impl Iterator for PairIter<'_> {
    type Item = PairId;

    #[inline]
    fn next(&mut self) -> Option<PairId> {
        self.0.varint().map(|pair| pair as PairId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(lists in proptest::collection::vec(proptest::collection::vec(any::<u32>(), 0..6), 0..30)) {
            let mut all = PairLists::default();
            for _ in 0..SEGMENT_SERIES - 10 {
                prop_assert!(all.push(&[7, 300]));
            }
            for list in &lists {
                prop_assert!(all.push(list));
            }
            for (at, list) in lists.iter().enumerate() {
                prop_assert_eq!(&all.get(SEGMENT_SERIES - 10 + at).collect::<Vec<_>>(), list);
            }
            prop_assert_eq!(all.get(3).collect::<Vec<_>>(), vec![7, 300]);
            prop_assert_eq!(all.get(SEGMENT_SERIES - 10 + lists.len()).next(), None);
        }
    }
}
