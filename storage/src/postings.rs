//! The inverted index of one tenant: label → value → ids of series.

use std::collections::BTreeMap;
use std::ops::Bound;

use hashbrown::HashMap;
use roaring::RoaringBitmap;

use crate::labels::{LabelIter, Labels};
use crate::matcher::Matcher;

/// Below this many candidates the labels of each are tested instead of scanning a label's values.
const PROBE_MAX: u64 = 256;

/// Ids that carry one label pair; most pairs of a churning label belong to a single series.
#[derive(Debug)]
enum Postings {
    One(u32),
    Many(Box<RoaringBitmap>),
}

impl Postings {
    fn insert(&mut self, id: u32) {
        match self {
            Self::One(first) => {
                let both = RoaringBitmap::from_iter([*first, id]);
                *self = Self::Many(Box::new(both));
            }
            Self::Many(set) => {
                set.insert(id);
            }
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::One(_) => 1,
            Self::Many(set) => set.len(),
        }
    }

    fn add_to(&self, out: &mut RoaringBitmap) {
        match self {
            Self::One(id) => {
                out.insert(*id);
            }
            Self::Many(set) => *out |= &**set,
        }
    }

    fn intersect(&self, out: &mut RoaringBitmap) {
        match self {
            Self::One(id) => {
                let has = out.contains(*id);
                out.clear();
                if has {
                    out.insert(*id);
                }
            }
            Self::Many(set) => *out &= &**set,
        }
    }

    fn intersects(&self, other: &RoaringBitmap) -> bool {
        match self {
            Self::One(id) => other.contains(*id),
            Self::Many(set) => !set.is_disjoint(other),
        }
    }
}

/// All but the highest id, as a range that ends one too early would give.
fn without_highest(mut ids: RoaringBitmap) -> RoaringBitmap {
    let highest = ids.max();
    highest.map(|id| ids.remove(id));
    ids
}

type Values = BTreeMap<Box<str>, Postings>;

/// Index of the series of one tenant.
#[derive(Debug, Default)]
pub(crate) struct TenantIndex {
    all: RoaringBitmap,
    names: HashMap<Box<str>, Values>,
}

impl TenantIndex {
    pub(crate) fn insert(&mut self, id: u32, labels: LabelIter<'_>) {
        self.all.insert(id);
        for (name, value) in labels {
            let values = match self.names.get_mut(name) {
                Some(values) => values,
                None => self.names.entry(name.into()).or_default(),
            };
            match values.get_mut(value) {
                Some(postings) => postings.insert(id),
                None => {
                    values.insert(value.into(), Postings::One(id));
                }
            }
        }
    }

    pub(crate) fn all(&self) -> &RoaringBitmap {
        &self.all
    }

    /// All label names, unsorted, that occur on `within`; on any series when it is `None`.
    pub(crate) fn names<'a>(&'a self, within: Option<&'a RoaringBitmap>) -> impl Iterator<Item = &'a str> {
        self.names
            .iter()
            .filter(move |(_, values)| within.is_none_or(|set| values.values().any(|p| p.intersects(set))))
            .map(|(name, _)| &**name)
    }

    /// The values of a label, sorted, that occur on `within`; on any series when it is `None`.
    pub(crate) fn values<'a>(
        &'a self,
        name: &str,
        within: Option<&'a RoaringBitmap>,
    ) -> impl Iterator<Item = &'a str> {
        let values = self.names.get(name);
        values
            .into_iter()
            .flatten()
            .filter(move |(_, p)| within.is_none_or(|set| p.intersects(set)))
            .map(|(value, _)| &**value)
    }

    /// The series that pass all matchers. `labels_of` gives the labels of an id of this index.
    pub(crate) fn resolve(
        &self,
        matchers: &[Matcher],
        labels_of: impl Fn(u32) -> Option<Labels>,
    ) -> RoaringBitmap {
        let mut plan: Vec<(u64, &Matcher)> = matchers.iter().map(|m| (self.cost(m), m)).collect();
        plan.sort_by_key(|(cost, _)| *cost);
        let mut candidates: Option<RoaringBitmap> = None;
        for (_, matcher) in plan {
            let set = match candidates.take() {
                None if matcher.matches_empty() => {
                    let mut all = self.all.clone();
                    self.remove_failing(matcher, &mut all);
                    all
                }
                None => self.positive(matcher),
                Some(set) if set.len() <= PROBE_MAX => set
                    .into_iter()
                    .filter(|id| {
                        labels_of(*id).is_some_and(|l| matcher.matches(l.get(matcher.name()).unwrap_or("")))
                    })
                    .collect(),
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
        candidates.unwrap_or_else(|| self.all.clone())
    }

    /// Rough order of evaluation: the fewest ids first, then lists, then scans, then exclusions.
    fn cost(&self, matcher: &Matcher) -> u64 {
        const SCAN: u64 = 1 << 40;
        const EXCLUDE: u64 = 1 << 41;
        let values = self.names.get(matcher.name());
        if matcher.matches_empty() {
            return EXCLUDE + values.map_or(0, BTreeMap::len) as u64;
        }
        let Some(values) = values else { return 0 };
        match matcher.positive_values().filter(|_| !matcher.is_negative()) {
            Some(list) => list
                .iter()
                .filter_map(|v| values.get(*v))
                .map(Postings::len)
                .sum(),
            None => SCAN + values.len() as u64,
        }
    }

    /// Ids whose label passes a matcher that does not match the empty text.
    fn positive(&self, matcher: &Matcher) -> RoaringBitmap {
        let mut out = RoaringBitmap::new();
        self.visit(matcher, |postings| postings.add_to(&mut out));
        out
    }

    fn keep_passing(&self, matcher: &Matcher, set: &mut RoaringBitmap) {
        if let (Some([value]), false) = (matcher.positive_values().as_deref(), matcher.is_negative()) {
            match self
                .names
                .get(matcher.name())
                .and_then(|values| values.get(*value))
            {
                Some(postings) => postings.intersect(set),
                None => set.clear(),
            }
            return;
        }
        *set &= self.positive(matcher);
    }

    /// Removes the ids that carry the label with a value that fails.
    fn remove_failing(&self, matcher: &Matcher, set: &mut RoaringBitmap) {
        let Some(values) = self.names.get(matcher.name()) else {
            return;
        };
        let mut failing = RoaringBitmap::new();
        match matcher.positive_values().filter(|_| matcher.is_negative()) {
            Some(list) => list
                .iter()
                .filter_map(|v| values.get(*v))
                .for_each(|p| p.add_to(&mut failing)),
            None => values
                .iter()
                .filter(|(value, _)| !matcher.matches(value))
                .for_each(|(_, postings)| postings.add_to(&mut failing)),
        }
        *set -= failing;
    }

    /// Calls `visit` for each value of the label that passes.
    fn visit(&self, matcher: &Matcher, mut visit: impl FnMut(&Postings)) {
        let Some(values) = self.names.get(matcher.name()) else {
            return;
        };
        if matcher.is_negative() {
            values
                .iter()
                .filter(|(v, _)| matcher.matches(v))
                .for_each(|(_, p)| visit(p));
            return;
        }
        if let Some(list) = matcher.positive_values() {
            list.iter().filter_map(|v| values.get(*v)).for_each(visit);
            return;
        }
        let prefix = matcher.positive_prefix();
        values
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(value, _)| value.starts_with(prefix))
            .filter(|(value, _)| matcher.positive_matches(value))
            .for_each(|(_, postings)| visit(postings));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matcher::MatchOp;
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
            let mut all: Vec<Labels> = Vec::new();
            for copy in 0..copies {
                for pairs in &series {
                    let mut pairs: Vec<(String, String)> =
                        pairs.iter().map(|(n, v)| (n.clone(), v.clone())).collect();
                    pairs.push(("copy".into(), format!("c{copy}")));
                    let labels = Labels::from_pairs(pairs).unwrap();
                    index.insert(all.len() as u32, labels.iter());
                    all.push(labels);
                }
            }
            let found: Vec<u32> = index.resolve(&matchers, |id| all.get(id as usize).cloned()).iter().collect();
            let expected: Vec<u32> = (0..all.len() as u32)
                .filter(|id| {
                    matchers.iter().all(|m| m.matches(all[*id as usize].get(m.name()).unwrap_or("")))
                })
                .collect();
            prop_assert_eq!(&found, &expected);
            let within = RoaringBitmap::from_iter(expected.iter().copied());
            let mut names: Vec<&str> = index.names(Some(&within)).collect();
            names.sort_unstable();
            let mut expected_names: Vec<&str> =
                expected.iter().flat_map(|id| all[*id as usize].iter().map(|(n, _)| n)).collect();
            expected_names.sort_unstable();
            expected_names.dedup();
            prop_assert_eq!(names, expected_names);
            let values: Vec<&str> = index.values("x", Some(&within)).collect();
            let mut expected_values: Vec<&str> =
                expected.iter().filter_map(|id| all[*id as usize].get("x")).collect();
            expected_values.sort_unstable();
            expected_values.dedup();
            prop_assert_eq!(values, expected_values);
        }
    }
}
