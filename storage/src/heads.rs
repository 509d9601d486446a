//! What apply and select look up by a series' id, in pages: a page of which all series are retired takes
//! no memory.

use crate::head::Head;

/// Series in one page.
const PAGE_SERIES: usize = 256;

#[derive(Debug, Default)]
struct Page {
    heads: Vec<Head>,
    /// A lower bound of each series' timestamps; `i64::MAX` while it has no sample.
    oldest_ms: Vec<i64>,
    /// Series that are not retired.
    live: usize,
}

/// The heads of all series of a shard by slot, which is the id less one.
#[derive(Debug, Default)]
pub(crate) struct Heads {
    pages: Vec<Page>,
    /// Slots given out.
    len: usize,
    live: u64,
}

impl Heads {
    /// Slots given out, those of retired series included.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Series that are not retired.
    pub(crate) fn live(&self) -> u64 {
        self.live
    }

    /// Adds a series in the next slot.
    pub(crate) fn push(&mut self, head: Head) {
        let number = self.len / PAGE_SERIES;
        if number == self.pages.len() {
            self.pages.push(Page {
                heads: Vec::with_capacity(PAGE_SERIES),
                oldest_ms: Vec::with_capacity(PAGE_SERIES),
                live: 0,
            });
        }
        let page = &mut self.pages[number];
        // Slots that were skipped, and those of a page that was given up.
        page.heads.resize_with(self.len % PAGE_SERIES, Head::retired);
        page.oldest_ms.resize(self.len % PAGE_SERIES, i64::MAX);
        page.heads.push(head);
        page.oldest_ms.push(i64::MAX);
        page.live += 1;
        self.live += 1;
        self.len += 1;
    }

    /// Leaves out slots up to one, as if their series had been retired.
    pub(crate) fn skip_to(&mut self, slot: usize) {
        self.len = self.len.max(slot);
        // The page of the next slot is made when a series needs it.
        let pages = self.pages.len().max(self.len / PAGE_SERIES);
        self.pages.resize_with(pages, Page::default);
    }

    /// The head of a slot, which may be retired.
    #[inline]
    pub(crate) fn get(&self, slot: usize) -> Option<&Head> {
        self.pages.get(slot / PAGE_SERIES)?.heads.get(slot % PAGE_SERIES)
    }

    /// The head of a slot, which may be retired.
    #[inline]
    pub(crate) fn get_mut(&mut self, slot: usize) -> Option<&mut Head> {
        let page = self.pages.get_mut(slot / PAGE_SERIES)?;
        page.heads.get_mut(slot % PAGE_SERIES)
    }

    /// The bound of a slot's timestamps.
    pub(crate) fn oldest_ms(&self, slot: usize) -> Option<i64> {
        let page = self.pages.get(slot / PAGE_SERIES)?;
        page.oldest_ms.get(slot % PAGE_SERIES).copied()
    }

    /// The same, to be changed.
    pub(crate) fn oldest_ms_mut(&mut self, slot: usize) -> Option<&mut i64> {
        let page = self.pages.get_mut(slot / PAGE_SERIES)?;
        page.oldest_ms.get_mut(slot % PAGE_SERIES)
    }

    /// Forgets a series, whose head is empty.
    pub(crate) fn retire(&mut self, slot: usize) {
        let Some(page) = self.pages.get_mut(slot / PAGE_SERIES) else {
            return;
        };
        let Some(head) = page
            .heads
            .get_mut(slot % PAGE_SERIES)
            .filter(|head| !head.is_retired())
        else {
            return;
        };
        *head = Head::retired();
        page.live -= 1;
        self.live -= 1;
        if page.live == 0 {
            *page = Page::default();
        }
    }

    /// The series that are not retired, by slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Head)> {
        let pages = self.pages.iter().enumerate();
        pages
            .flat_map(|(number, page)| (number * PAGE_SERIES..).zip(&page.heads))
            .filter(|(_, head)| !head.is_retired())
    }

    /// The same, to be changed.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Head)> {
        let pages = self.pages.iter_mut().enumerate();
        pages
            .flat_map(|(number, page)| (number * PAGE_SERIES..).zip(&mut page.heads))
            .filter(|(_, head)| !head.is_retired())
    }

    /// Bytes of memory, without those of samples.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let of = |page: &Page| {
            size_of::<Page>() + page.heads.capacity() * size_of::<Head>() + page.oldest_ms.capacity() * 8
        };
        self.pages.iter().map(of).sum::<usize>() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn slots_stay_where_they_are(
            ops in proptest::collection::vec((0u8..10, 0usize..2000), 1..600),
        ) {
            let mut heads = Heads::default();
            let mut live = BTreeSet::new();
            let mut len = 0;
            for (op, at) in ops {
                match op {
                    0 => {
                        heads.skip_to(at);
                        len = len.max(at);
                    }
                    1..4 => {
                        heads.retire(at);
                        live.remove(&at);
                    }
                    4 => {
                        (0..at).for_each(|slot| heads.retire(slot));
                        live = live.split_off(&at);
                    }
                    _ => {
                        heads.push(Head::new(7, len as u32));
                        *heads.oldest_ms_mut(len).unwrap() = len as i64;
                        live.insert(len);
                        len += 1;
                    }
                }
                prop_assert_eq!((heads.len(), heads.live()), (len, live.len() as u64));
                prop_assert_eq!(heads.iter().map(|(slot, _)| slot).collect::<BTreeSet<_>>(), live.clone());
                prop_assert_eq!(heads.iter_mut().map(|(slot, _)| slot).collect::<BTreeSet<_>>(), live.clone());
            }
            for slot in 0..len + 3 {
                let found = heads.get(slot).filter(|head| !head.is_retired());
                prop_assert_eq!(found.map(|head| head.hash as usize), live.get(&slot).copied());
                if live.contains(&slot) {
                    prop_assert_eq!(heads.oldest_ms(slot), Some(slot as i64));
                }
            }
            (0..len).for_each(|slot| heads.retire(slot));
            prop_assert_eq!(heads.memory_bytes(), (heads.pages.len() * size_of::<Page>()) as u64);
        }
    }
}
