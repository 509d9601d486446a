//! Which series were active when: a set of ids for each span of time.
//!
//! A query about now looks at series that are active now, however many there were before. A series is
//! active in the span in which it was registered, by the log's time, and in every span that it got a
//! sample in. Bits are never taken back, not even by deletions: a span may name more series than have
//! samples there, never fewer. Spans that lie before the retention cut are dropped, and with its last span
//! a series is retired (`retire.rs`). All of this follows from the log alone, so replicas agree on it.
//!
//! The sets are stored with the state rows of a flush. Row: `version ids crc32c`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use roaring::{MultiOps, RoaringBitmap};

use crate::frame::{open_row, seal};
use crate::tombstones::{put_bitmap, take_bitmap};

const SPAN_BITS: u32 = 23;
/// How much time a span covers, in milliseconds: 2 h 20 min. A power of two, so that apply can tell from
/// two timestamps whether they lie in one span.
pub const ACTIVITY_SPAN_MS: i64 = 1 << SPAN_BITS;
const VERSION: u8 = 1;

/// Whether two timestamps lie in different spans.
#[inline]
pub(crate) fn in_two_spans(a_ms: i64, b_ms: i64) -> bool {
    (a_ms ^ b_ms) >> SPAN_BITS != 0
}

/// The number of the span that a time lies in.
pub(crate) fn span_of(ms: i64) -> i64 {
    ms >> SPAN_BITS
}

/// The series of one span.
#[derive(Clone, Debug, Default)]
struct Span {
    /// Shared with flushes that are writing them.
    ids: Arc<RoaringBitmap>,
    /// Got ids since it was packed.
    grew: bool,
}

/// The active series of all spans within retention.
#[derive(Clone, Debug, Default)]
pub(crate) struct Activity {
    spans: BTreeMap<i64, Span>,
}

impl Activity {
    /// Notes that a series was active.
    pub(crate) fn mark(&mut self, id: u64, ms: i64) {
        // Ids fit, see `SERIES_MAX`.
        let id = id as u32;
        let span = self.spans.entry(span_of(ms)).or_default();
        if !span.ids.contains(id) {
            Arc::make_mut(&mut span.ids).insert(id);
            span.grew = true;
        }
    }

    /// The series that were active in a span that the inclusive window touches.
    pub(crate) fn within(&self, start_ms: i64, end_ms: i64) -> Cow<'_, RoaringBitmap> {
        if start_ms > end_ms {
            return Cow::Owned(RoaringBitmap::new());
        }
        let mut touched = self.spans.range(span_of(start_ms)..=span_of(end_ms));
        match (touched.next(), touched.next()) {
            (None, _) => Cow::Owned(RoaringBitmap::new()),
            (Some((_, only)), None) => Cow::Borrowed(&*only.ids),
            (Some((_, first)), Some((_, second))) => {
                let ids = [first, second].into_iter().chain(touched.map(|(_, span)| span));
                Cow::Owned(ids.map(|span| &*span.ids).union())
            }
        }
    }

    /// Drops the spans that end before a time. If there were any: the series that no later span knows of.
    pub(crate) fn drop_before(&mut self, cut_ms: i64) -> Option<RoaringBitmap> {
        let first = span_of(cut_ms);
        let (oldest, _) = self.spans.first_key_value()?;
        if *oldest >= first {
            return None;
        }
        let kept = self.spans.split_off(&first);
        let dropped = std::mem::replace(&mut self.spans, kept);
        let gone = dropped.values().map(|span| &*span.ids).union();
        Some(gone - self.live())
    }

    /// Takes series out of the spans that end before a time. Those that no later span knows of.
    pub(crate) fn drop_of(&mut self, ids: &RoaringBitmap, cut_ms: i64) -> RoaringBitmap {
        let first = span_of(cut_ms);
        self.spans.retain(|number, span| {
            if *number < first && !span.ids.is_disjoint(ids) {
                *Arc::make_mut(&mut span.ids) -= ids;
            }
            *number >= first || !span.ids.is_empty()
        });
        let later = self.spans.range(first..).map(|(_, span)| &*span.ids);
        ids - later.union()
    }

    /// The series that any span knows of: all that are not retired.
    pub(crate) fn live(&self) -> RoaringBitmap {
        self.spans.values().map(|span| &*span.ids).union()
    }

    /// Packs what has grown: series that are registered together have ids in a row. The span of `now_ms` and
    /// later ones, which go on growing, are left alone.
    pub(crate) fn pack(&mut self, now_ms: i64) {
        for (_, span) in self.spans.range_mut(..span_of(now_ms)) {
            if std::mem::take(&mut span.grew) {
                Arc::make_mut(&mut span.ids).optimize();
            }
        }
    }

    /// How many spans there are.
    pub(crate) fn len(&self) -> u64 {
        self.spans.len() as u64
    }

    /// About how many bytes of memory the sets take.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let ids = self.spans.values().map(|span| span.ids.serialized_size() + 64);
        ids.sum::<usize>() as u64
    }

    /// The number of each span in ascending order, with its row.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (i64, Vec<u8>)> + '_ {
        self.spans.iter().map(|(number, span)| {
            let mut ids = Cow::Borrowed(&*span.ids);
            if span.grew {
                ids.to_mut().optimize();
            }
            let mut out = vec![VERSION];
            put_bitmap(&mut out, &ids);
            seal(&mut out);
            (*number, out)
        })
    }

    /// Takes up the row of a span; spans come in ascending order. Every id is below `next_id`. The error
    /// says what does not fit.
    pub(crate) fn restore(&mut self, span: i64, row: &[u8], next_id: u64) -> Result<(), &'static str> {
        let ids = decode(row)?;
        if ids.max().is_some_and(|max| u64::from(max) >= next_id) || ids.contains(0) {
            return Err("it names a series that is not registered");
        }
        if self.spans.last_key_value().is_some_and(|(last, _)| *last >= span) {
            return Err("its span is out of order");
        }
        let ids = Arc::new(ids);
        self.spans.insert(span, Span { ids, grew: false });
        Ok(())
    }
}

/// The ids in a row; the error says what does not fit.
pub(crate) fn decode(row: &[u8]) -> Result<RoaringBitmap, &'static str> {
    let mut reader = open_row(row, VERSION)?;
    let ids = take_bitmap(&mut reader).ok_or("its set of ids is malformed")?;
    if !reader.is_empty() {
        return Err("bytes follow its end");
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const SPAN: i64 = ACTIVITY_SPAN_MS;

    #[test]
    fn golden() {
        let mut activity = Activity::default();
        for id in (1..=300).chain([70_000]) {
            activity.mark(id, 1_700_000_000_000);
        }
        let (span, row) = activity.rows().next().unwrap();
        assert_eq!(span, 202_655);
        crate::golden::check("series-activity-v1", &row);
        let mut back = Activity::default();
        assert_eq!(
            back.restore(span, &row, 70_000),
            Err("it names a series that is not registered")
        );
        back.restore(span, &row, 70_001).unwrap();
        assert_eq!(
            back.rows().collect::<Vec<_>>(),
            activity.rows().collect::<Vec<_>>()
        );
        assert_eq!(back.restore(span, &row, 70_001), Err("its span is out of order"));
    }

    #[test]
    fn spans_are_those_of_the_timestamps() {
        let times = [i64::MIN, -SPAN - 1, -SPAN, -1, 0, SPAN - 1, SPAN, i64::MAX];
        for a in times {
            for b in times {
                assert_eq!(
                    in_two_spans(a, b),
                    a.div_euclid(SPAN) != b.div_euclid(SPAN),
                    "{a} {b}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_sets(
            marks in proptest::collection::vec((1u64..400, -5 * SPAN..20 * SPAN), 0..300),
            cut in -6 * SPAN..21 * SPAN,
            windows in proptest::collection::vec((-6 * SPAN..21 * SPAN, -SPAN..5 * SPAN), 1..20),
            pack in any::<bool>(),
        ) {
            let mut activity = Activity::default();
            let mut plain: BTreeMap<i64, BTreeSet<u32>> = BTreeMap::new();
            for (id, ms) in &marks {
                activity.mark(*id, *ms);
                plain.entry(ms.div_euclid(SPAN)).or_default().insert(*id as u32);
            }
            if pack {
                activity.pack(cut);
            }
            let all: BTreeSet<u32> = plain.values().flatten().copied().collect();
            let before = plain.len();
            plain.retain(|span, _| (span + 1) * SPAN > cut);
            let live: BTreeSet<u32> = plain.values().flatten().copied().collect();
            let gone = activity.drop_before(cut).map(|gone| gone.iter().collect::<BTreeSet<_>>());
            prop_assert_eq!(gone, (plain.len() < before).then(|| &all - &live));
            prop_assert_eq!(&activity.live().iter().collect::<BTreeSet<_>>(), &live);
            // Some lose what lies before a later cut.
            let some: RoaringBitmap = (0..400).step_by(3).collect();
            let gone = activity.drop_of(&(&some & activity.live()), cut + 3 * SPAN);
            for (span, ids) in &mut plain {
                ids.retain(|id| (span + 1) * SPAN > cut + 3 * SPAN || !some.contains(*id));
            }
            plain.retain(|_, ids| !ids.is_empty());
            let left: BTreeSet<u32> = plain.values().flatten().copied().collect();
            prop_assert_eq!(gone.iter().collect::<BTreeSet<_>>(), &live - &left);
            let mut back = Activity::default();
            for (span, row) in activity.rows() {
                back.restore(span, &row, 400).unwrap();
            }
            for (start, length) in windows {
                let end = start + length;
                let expected: BTreeSet<u32> = plain
                    .iter()
                    .filter(|(span, _)| *span * SPAN <= end && (*span + 1) * SPAN > start && start <= end)
                    .flat_map(|(_, ids)| ids.iter().copied())
                    .collect();
                for activity in [&activity, &back] {
                    let found: BTreeSet<u32> = activity.within(start, end).iter().collect();
                    prop_assert_eq!(&found, &expected);
                }
            }
        }

        #[test]
        fn damage_is_seen(at: usize, xor in 1u8..=255) {
            let mut activity = Activity::default();
            (1..9).for_each(|id| activity.mark(id * id, 5));
            let (_, mut row) = activity.rows().next().unwrap();
            let at = at % row.len();
            row[at] ^= xor;
            prop_assert!(decode(&row).is_err());
            row.truncate(at);
            prop_assert!(decode(&row).is_err());
        }
    }
}
