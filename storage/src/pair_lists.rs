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
    /// Places given out.
    len: usize,
}

impl PairLists {
    /// Appends the pairs of the next series. `false` when the segment has no room for so many.
    #[must_use]
    pub(crate) fn push(&mut self, pairs: &[PairId]) -> bool {
        let (number, at) = (self.len / SEGMENT_SERIES, self.len % SEGMENT_SERIES);
        if number == self.segments.len() {
            if let Some(last) = self.segments.last_mut() {
                last.bytes.shrink_to_fit();
            }
            self.segments.push(Segment {
                bytes: Vec::new(),
                ends: Vec::with_capacity(SEGMENT_SERIES),
            });
        }
        let segment = &mut self.segments[number];
        let start = segment.bytes.len();
        for pair in pairs {
            put_u64(&mut segment.bytes, u64::from(*pair));
        }
        let Ok(end) = u32::try_from(segment.bytes.len()) else {
            segment.bytes.truncate(start);
            return false;
        };
        // Places that were left out are empty.
        segment.ends.resize(at, start as u32);
        segment.ends.push(end);
        self.len += 1;
        true
    }

    /// Leaves out places up to one. A segment of which all are left out takes no memory.
    pub(crate) fn skip_to(&mut self, slot: usize) {
        self.len = self.len.max(slot);
        let segments = self.segments.len().max(self.len / SEGMENT_SERIES);
        self.segments.resize_with(segments, Segment::default);
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
        fn round_trip(
            lists in proptest::collection::vec(proptest::collection::vec(any::<u32>(), 1..6), 1..30),
            gap in 0usize..20,
        ) {
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
            let end = SEGMENT_SERIES - 10 + lists.len();
            prop_assert_eq!(all.get(end).next(), None);
            for skip in [gap, SEGMENT_SERIES + gap, 3 * SEGMENT_SERIES] {
                let place = all.len + skip;
                all.skip_to(place);
                prop_assert!(all.push(&[skip as u32]));
                prop_assert_eq!(all.get(place).collect::<Vec<_>>(), vec![skip as u32]);
                prop_assert_eq!(all.get(place.wrapping_sub(1)).count() > 0, skip == 0 && gap == 0);
            }
            prop_assert_eq!(all.get(end + gap).collect::<Vec<_>>(), vec![gap as u32]);
        }
    }
}
