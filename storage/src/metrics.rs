//! The metric number of every series that a flush has contained, by id.

use std::sync::Arc;

/// Ids in one page.
const PAGE_IDS: usize = 1024;

#[derive(Clone, Debug)]
struct Page {
    /// A bit for each id that is there.
    present: [u64; PAGE_IDS / 64],
    numbers: [u32; PAGE_IDS],
}

/// Metric numbers in pages, which copies share. A page without series takes no memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    pages: Vec<Option<Arc<Page>>>,
}

fn place(series: u64) -> Option<(usize, usize)> {
    let series = usize::try_from(series).ok()?;
    Some((series / PAGE_IDS, series % PAGE_IDS))
}

impl Metrics {
    /// The number of a series; `None` if it is not there.
    pub(crate) fn get(&self, series: u64) -> Option<u32> {
        let (page, at) = place(series)?;
        let page = self.pages.get(page)?.as_ref()?;
        (page.present[at / 64] >> (at % 64) & 1 == 1).then(|| page.numbers[at])
    }

    /// Adds a series, or changes its number.
    pub(crate) fn set(&mut self, series: u64, number: u32) {
        let Some((page, at)) = place(series) else { return };
        if self.pages.len() <= page {
            self.pages.resize(page + 1, None);
        }
        let page = self.pages[page].get_or_insert_with(|| {
            Arc::new(Page {
                present: [0; PAGE_IDS / 64],
                numbers: [0; PAGE_IDS],
            })
        });
        let page = Arc::make_mut(page);
        page.present[at / 64] |= 1 << (at % 64);
        page.numbers[at] = number;
    }

    /// Takes a series away.
    pub(crate) fn remove(&mut self, series: u64) {
        let Some((number, at)) = place(series) else { return };
        let Some(Some(shared)) = self.pages.get_mut(number) else {
            return;
        };
        let page = Arc::make_mut(shared);
        page.present[at / 64] &= !(1 << (at % 64));
        if page.present.iter().all(|bits| *bits == 0) {
            self.pages[number] = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn behaves_like_a_map(ops in proptest::collection::vec((1u64..5000, any::<u32>(), any::<bool>()), 0..200)) {
            let (mut metrics, mut map) = (Metrics::default(), BTreeMap::new());
            for (series, number, add) in &ops {
                // A copy that shares pages must not change.
                let before = metrics.clone();
                let known = map.get(series).copied();
                if *add {
                    metrics.set(*series, *number);
                    map.insert(*series, *number);
                } else {
                    metrics.remove(*series);
                    map.remove(series);
                }
                prop_assert_eq!(before.get(*series), known);
            }
            for series in 0..5001 {
                prop_assert_eq!(metrics.get(series), map.get(&series).copied());
            }
            for series in 1..5000 {
                metrics.remove(series);
            }
            prop_assert!(metrics.pages.iter().all(Option::is_none));
        }
    }
}
