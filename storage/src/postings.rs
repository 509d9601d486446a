//! The inverted index of one tenant: label → value → ids of series.

use roaring::RoaringBitmap;
use smallvec::SmallVec;

use crate::labels::{LabelPair, Labels};
use crate::matcher::Matcher;
use crate::pair_lists::PairIter;
use crate::pairs::{NameId, PairId, Pairs};

/// Below this many candidates the labels of each are tested instead of scanning a label's values.
const PROBE_MAX: u64 = 256;
/// Up to this many ids are a plain list, which takes less than a bitmap.
const LIST_MAX: usize = 24;

/// Ids that carry one label pair; most pairs of a churning label belong to few series.
#[derive(Debug)]
enum Postings {
    /// An id, or 0 for none: ids begin at 1.
    One(u32),
    /// Ascending.
    List(Box<SmallVec<[u32; 6]>>),
    Many(Box<RoaringBitmap>),
}

impl Postings {
    /// Adds an id higher than all before it.
    #[inline]
    fn push(&mut self, id: u32) {
        match self {
            // Not `push`, which searches a dense container for its highest bit.
            Self::Many(set) => {
                set.insert(id);
            }
            Self::One(0) => *self = Self::One(id),
            Self::One(first) => *self = Self::List(Box::new(SmallVec::from_slice(&[*first, id]))),
            Self::List(ids) if ids.len() < LIST_MAX => ids.push(id),
            Self::List(ids) => {
                let mut set: RoaringBitmap = ids.iter().copied().collect();
                set.insert(id);
                *self = Self::Many(Box::new(set));
            }
        }
    }

    fn list(&self) -> &[u32] {
        match self {
            Self::One(0) | Self::Many(_) => &[],
            Self::One(id) => std::slice::from_ref(id),
            Self::List(ids) => ids,
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Many(set) => set.len(),
            few => few.list().len() as u64,
        }
    }

    fn add_to(&self, out: &mut RoaringBitmap) {
        match self {
            Self::Many(set) => *out |= &**set,
            few => out.extend(few.list()),
        }
    }

    /// Adds the ids that are in `within` too.
    fn add_within(&self, within: &RoaringBitmap, out: &mut RoaringBitmap) {
        match self {
            Self::Many(set) => *out |= &**set & within,
            few => out.extend(few.list().iter().filter(|id| within.contains(**id))),
        }
    }

    fn intersect(&self, out: &mut RoaringBitmap) {
        match self {
            Self::Many(set) => *out &= &**set,
            few => {
                *out = few
                    .list()
                    .iter()
                    .copied()
                    .filter(|id| out.contains(*id))
                    .collect()
            }
        }
    }

    fn intersects(&self, other: &RoaringBitmap) -> bool {
        match self {
            Self::Many(set) => !set.is_disjoint(other),
            few => few.list().iter().any(|id| other.contains(*id)),
        }
    }

    fn len_within(&self, within: &RoaringBitmap) -> u64 {
        match self {
            Self::Many(set) => set.intersection_len(within),
            few => few.list().iter().filter(|id| within.contains(**id)).count() as u64,
        }
    }

    fn memory_bytes(&self) -> u64 {
        let boxed = match self {
            Self::One(_) => 0,
            Self::List(ids) => {
                size_of::<SmallVec<[u32; 6]>>() + if ids.spilled() { ids.capacity() * 4 } else { 0 }
            }
            Self::Many(set) => set.serialized_size() + 64,
        };
        (size_of::<Self>() + boxed) as u64
    }
}

/// All but the highest id, as a range that ends one too early would give.
fn without_highest(mut ids: RoaringBitmap) -> RoaringBitmap {
    let highest = ids.max();
    highest.map(|id| ids.remove(id));
    ids
}

/// Index of the series of one tenant.
#[derive(Debug, Default)]
pub(crate) struct TenantIndex {
    all: RoaringBitmap,
    /// Series that were retired since the index was built.
    dead: u64,
    pairs: Pairs,
    /// By pair.
    postings: Vec<Postings>,
    /// The pairs of the series that was registered last: the next one shares most of them.
    last: Vec<PairId>,
}

impl TenantIndex {
    /// The numbers of a series' pairs, given in canonical order; new pairs get new numbers. `None`
    /// when the tenant has too many pairs.
    pub(crate) fn intern<'l>(&mut self, labels: impl Iterator<Item = LabelPair<'l>>) -> Option<&[PairId]> {
        let mut numbers = std::mem::take(&mut self.last);
        let mut complete = true;
        let mut count = 0;
        for label in labels {
            let guess = numbers.get(count).copied();
            let number = match guess.filter(|pair| self.pairs.bytes(*pair) == label.bytes) {
                Some(pair) => Some(pair),
                None => self.pairs.intern(label.bytes, label.name),
            };
            let Some(number) = number else {
                complete = false;
                break;
            };
            match numbers.get_mut(count) {
                Some(place) => *place = number,
                None => numbers.push(number),
            }
            count += 1;
        }
        numbers.truncate(count);
        self.last = numbers;
        complete.then_some(&self.last)
    }

    /// Adds a series, whose id is higher than all before it, with the pairs interned last.
    pub(crate) fn insert_last(&mut self, id: u32) {
        self.all.insert(id);
        self.postings.resize_with(self.pairs.len(), || Postings::One(0));
        for pair in &self.last {
            if let Some(postings) = self.postings.get_mut(*pair as usize) {
                postings.push(id);
            }
        }
    }

    /// The series that are not retired.
    pub(crate) fn all(&self) -> &RoaringBitmap {
        &self.all
    }

    /// Leaves series out from now on. Pairs and postings still know of them, until the index is built anew:
    /// look at those within [`Self::all`], or fewer.
    pub(crate) fn retire(&mut self, ids: &RoaringBitmap) {
        let before = self.all.len();
        self.all -= ids;
        self.dead += before - self.all.len();
    }

    /// `Some` unless `ids` are all series that pairs and postings know of.
    pub(crate) fn unless_all<'i>(&self, ids: &'i RoaringBitmap) -> Option<&'i RoaringBitmap> {
        (self.dead > 0 || ids.len() != self.all.len()).then_some(ids)
    }

    fn postings(&self, pair: PairId) -> &Postings {
        const NOBODY: &Postings = &Postings::One(0);
        self.postings.get(pair as usize).unwrap_or(NOBODY)
    }

    /// All label names, unsorted, that occur on `within`; on any series when it is `None`.
    pub(crate) fn names<'a>(&'a self, within: Option<&'a RoaringBitmap>) -> impl Iterator<Item = &'a str> {
        let occurs = move |name: NameId| {
            let on = |set| {
                self.pairs
                    .values(name)
                    .any(|pair| self.postings(pair).intersects(set))
            };
            within.is_none_or(on)
        };
        self.pairs
            .names()
            .filter(move |(id, _)| occurs(*id))
            .map(|(_, name)| name)
    }

    /// The values of a label, sorted, that occur on `within`; on any series when it is `None`.
    pub(crate) fn values<'a>(
        &'a self,
        name: &str,
        within: Option<&'a RoaringBitmap>,
    ) -> impl Iterator<Item = &'a str> {
        self.pairs
            .find_name(name)
            .into_iter()
            .flat_map(|name| self.pairs.values(name))
            .filter(move |pair| within.is_none_or(|set| self.postings(*pair).intersects(set)))
            .map(|pair| self.pairs.value(pair))
    }

    /// Calls `visit` with each value of a label and the number of series of `within` that have it,
    /// where there are any.
    pub(crate) fn count_values(&self, name: &str, within: &RoaringBitmap, mut visit: impl FnMut(&str, u64)) {
        for pair in self
            .pairs
            .find_name(name)
            .into_iter()
            .flat_map(|name| self.pairs.values(name))
        {
            match self.postings(pair).len_within(within) {
                0 => {}
                count => visit(self.pairs.value(pair), count),
            }
        }
    }

    /// About how many bytes of memory pairs and postings take.
    pub(crate) fn memory_bytes(&self) -> (u64, u64) {
        let postings: u64 = self.postings.iter().map(Postings::memory_bytes).sum();
        (
            self.pairs.memory_bytes(),
            postings + self.all.serialized_size() as u64,
        )
    }

    /// The series that pass all matchers, of those in `within` if it is given. `pairs_of` gives the
    /// pairs of an id of this index.
    pub(crate) fn resolve<'p>(
        &self,
        matchers: &[Matcher],
        within: Option<&RoaringBitmap>,
        pairs_of: impl Fn(u32) -> PairIter<'p>,
    ) -> RoaringBitmap {
        let mut plan: Vec<(u64, &Matcher)> = matchers.iter().map(|m| (self.cost(m), m)).collect();
        plan.sort_by_key(|(cost, _)| *cost);
        let everything = || match within {
            Some(within) => within & &self.all,
            None => self.all.clone(),
        };
        // A few series are tested one by one, however many others have the labels.
        let mut candidates = within
            .filter(|within| within.len() <= PROBE_MAX)
            .map(|_| everything());
        for (_, matcher) in plan {
            let set = match candidates.take() {
                None if matcher.matches_empty() => {
                    let mut all = everything();
                    self.remove_failing(matcher, &mut all);
                    all
                }
                None => self.positive(matcher, within),
                Some(set) if set.len() <= PROBE_MAX => self.probe(matcher, &set, &pairs_of),
                Some(mut set) if matcher.matches_empty() => {
                    self.remove_failing(matcher, &mut set);
                    set
                }
                Some(mut set) => {
                    self.keep_passing(matcher, &mut set);
                    set
                }
            };
            if set.is_empty() {
                return set;
            }
            candidates = Some(set);
            if mutant!("index_misses_two_matchers") && matchers.len() > 1 {
                candidates = candidates.map(without_highest);
            }
        }
        candidates.unwrap_or_else(everything)
    }

    /// Tests the label of each candidate.
    fn probe<'p>(
        &self,
        matcher: &Matcher,
        set: &RoaringBitmap,
        pairs_of: impl Fn(u32) -> PairIter<'p>,
    ) -> RoaringBitmap {
        let name = self.pairs.find_name(matcher.name());
        let value = |id: u32| {
            let pair = pairs_of(id).find(|pair| Some(self.pairs.name_of(*pair)) == name);
            pair.map_or("", |pair| self.pairs.value(pair))
        };
        set.iter().filter(|id| matcher.matches(value(*id))).collect()
    }

    /// Rough order of evaluation: the fewest ids first, then lists, then scans, then exclusions.
    fn cost(&self, matcher: &Matcher) -> u64 {
        const SCAN: u64 = 1 << 40;
        const EXCLUDE: u64 = 1 << 41;
        let name = self.pairs.find_name(matcher.name());
        let values = name.map_or(0, |name| self.pairs.values_len(name)) as u64;
        if matcher.matches_empty() {
            return EXCLUDE + values;
        }
        match matcher.positive_values().filter(|_| !matcher.is_negative()) {
            Some(list) => list
                .iter()
                .filter_map(|value| self.find(matcher.name(), value))
                .map(Postings::len)
                .sum(),
            None if values == 0 => 0,
            None => SCAN + values,
        }
    }

    fn find(&self, name: &str, value: &str) -> Option<&Postings> {
        self.pairs.find(name, value).map(|pair| self.postings(pair))
    }

    /// Ids whose label passes a matcher that does not match the empty text, of those in `within` if it
    /// is given.
    fn positive(&self, matcher: &Matcher, within: Option<&RoaringBitmap>) -> RoaringBitmap {
        let mut out = RoaringBitmap::new();
        self.visit(matcher, |postings| match within {
            Some(within) => postings.add_within(within, &mut out),
            None => postings.add_to(&mut out),
        });
        out
    }

    fn keep_passing(&self, matcher: &Matcher, set: &mut RoaringBitmap) {
        if let (Some([value]), false) = (matcher.positive_values().as_deref(), matcher.is_negative()) {
            match self.find(matcher.name(), value) {
                Some(postings) => postings.intersect(set),
                None => set.clear(),
            }
            return;
        }
        *set = self.positive(matcher, Some(set));
    }

    /// Removes the ids that carry the label with a value that fails.
    fn remove_failing(&self, matcher: &Matcher, set: &mut RoaringBitmap) {
        let Some(name) = self.pairs.find_name(matcher.name()) else {
            return;
        };
        let mut failing = RoaringBitmap::new();
        match matcher.positive_values().filter(|_| matcher.is_negative()) {
            Some(list) => list
                .iter()
                .filter_map(|value| self.find(matcher.name(), value))
                .for_each(|postings| postings.add_to(&mut failing)),
            None => self
                .pairs
                .values(name)
                .filter(|pair| !matcher.matches(self.pairs.value(*pair)))
                .for_each(|pair| self.postings(pair).add_to(&mut failing)),
        }
        *set -= failing;
    }

    /// Calls `visit` for each value of the label that passes.
    fn visit(&self, matcher: &Matcher, mut visit: impl FnMut(&Postings)) {
        let Some(name) = self.pairs.find_name(matcher.name()) else {
            return;
        };
        if matcher.is_negative() {
            self.pairs
                .values(name)
                .filter(|pair| matcher.matches(self.pairs.value(*pair)))
                .for_each(|pair| visit(self.postings(pair)));
            return;
        }
        if let Some(list) = matcher.positive_values() {
            list.iter()
                .filter_map(|value| self.find(matcher.name(), value))
                .for_each(visit);
            return;
        }
        self.pairs
            .with_prefix(name, matcher.positive_prefix())
            .filter(|pair| matcher.positive_matches(self.pairs.value(*pair)))
            .for_each(|pair| visit(self.postings(pair)));
    }

    /// Appends the canonical labels of a series by its pairs.
    pub(crate) fn write_labels(&self, pairs: PairIter<'_>, out: &mut Vec<u8>) {
        pairs.for_each(|pair| out.extend_from_slice(self.pairs.bytes(pair)));
    }

    /// The labels of a series by its pairs.
    pub(crate) fn labels(&self, pairs: PairIter<'_>) -> Labels {
        Labels::from_pieces(pairs.map(|pair| self.pairs.bytes(pair)))
    }

    /// Whether pairs are these canonical bytes.
    #[inline]
    pub(crate) fn same(&self, pairs: PairIter<'_>, labels: &[u8]) -> bool {
        let mut rest = labels;
        for pair in pairs {
            match rest.strip_prefix(self.pairs.bytes(pair)) {
                Some(after) => rest = after,
                None => return false,
            }
        }
        rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matcher::MatchOp;
    use crate::pair_lists::PairLists;
    use proptest::prelude::*;

    fn matcher_strategy() -> impl Strategy<Value = Matcher> {
        let op = prop_oneof![
            Just(MatchOp::Eq),
            Just(MatchOp::Ne),
            Just(MatchOp::Re),
            Just(MatchOp::Nre)
        ];
        let value = prop_oneof![
            Just(""),
            Just("a"),
            Just("ab"),
            Just("a.*"),
            Just("a|b"),
            Just(".*"),
            Just(".+"),
            Just("[ab]+"),
            Just("zz"),
            Just("b?"),
            Just("a|"),
            Just("a.+"),
        ];
        ("[xyz]", op, value).prop_map(|(name, op, value)| Matcher::new(op, &name, value).unwrap())
    }

    proptest! {
        #[test]
        fn agrees_with_testing_every_series(
            series in proptest::collection::vec(
                proptest::collection::btree_map("[xyz]", "[ab]{0,2}", 0..4), 0..30),
            copies in prop_oneof![Just(1usize), Just(40)],
            matchers in proptest::collection::vec(matcher_strategy(), 0..4),
        ) {
            let mut index = TenantIndex::default();
            let mut lists = PairLists::default();
            let mut all: Vec<Labels> = Vec::new();
            for copy in 0..copies {
                for pairs in &series {
                    let mut pairs: Vec<(String, String)> =
                        pairs.iter().map(|(n, v)| (n.clone(), v.clone())).collect();
                    pairs.push(("copy".into(), format!("c{copy}")));
                    let labels = Labels::from_pairs(pairs).unwrap();
                    lists.push(index.intern(labels.pairs()).unwrap()).then_some(()).unwrap();
                    index.insert_last(all.len() as u32 + 1);
                    prop_assert_eq!(&index.labels(lists.get(all.len())), &labels);
                    prop_assert!(index.same(lists.get(all.len()), labels.as_bytes()));
                    prop_assert!(!index.same(lists.get(all.len()), &labels.as_bytes()[1..]));
                    all.push(labels);
                }
            }
            let labels_of = |id: u32| &all[id as usize - 1];
            let pairs_of = |id: u32| lists.get(id as usize - 1);
            let found: Vec<u32> = index.resolve(&matchers, None, pairs_of).iter().collect();
            let expected: Vec<u32> = (1..=all.len() as u32)
                .filter(|id| matchers.iter().all(|m| m.matches(labels_of(*id).get(m.name()).unwrap_or(""))))
                .collect();
            prop_assert_eq!(&found, &expected);
            for step in [2, 7] {
                let some: RoaringBitmap = (1..2000).step_by(step).collect();
                let found: Vec<u32> = index.resolve(&matchers, Some(&some), pairs_of).iter().collect();
                let within: Vec<u32> = expected.iter().copied().filter(|id| some.contains(*id)).collect();
                prop_assert_eq!(found, within);
            }
            let within = RoaringBitmap::from_iter(expected.iter().copied());
            let mut names: Vec<&str> = index.names(Some(&within)).collect();
            names.sort_unstable();
            let mut expected_names: Vec<&str> =
                expected.iter().flat_map(|id| labels_of(*id).iter().map(|(n, _)| n)).collect();
            expected_names.sort_unstable();
            expected_names.dedup();
            prop_assert_eq!(names, expected_names);
            let values: Vec<&str> = index.values("x", Some(&within)).collect();
            let mut expected_values: Vec<&str> =
                expected.iter().filter_map(|id| labels_of(*id).get("x")).collect();
            expected_values.sort_unstable();
            expected_values.dedup();
            prop_assert_eq!(values, expected_values);
            let mut counted = 0;
            for name in ["copy", "x", "y", "z"] {
                index.count_values(name, &within, |_, count| counted += count);
            }
            prop_assert_eq!(counted, expected.iter().map(|id| labels_of(*id).len() as u64).sum::<u64>());
        }
    }
}
