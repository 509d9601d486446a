//! A series' values over the steps of an evaluation.

use super::memory::{Charge, Memory};
use crate::value::EvalError;

/// One value for each step, and for which steps there is one.
#[derive(Debug)]
pub(super) struct Column<'q> {
    /// Values of steps without a sample are arbitrary.
    values: Vec<f64>,
    present: Bits,
    _charge: Charge<'q>,
}

impl<'q> Column<'q> {
    /// A column without samples.
    pub(super) fn new(memory: &'q Memory, steps: usize) -> Result<Column<'q>, EvalError> {
        let charge = memory.charge(steps * size_of::<f64>() + Bits::bytes(steps), steps)?;
        Ok(Column {
            values: vec![0.0; steps],
            present: Bits::new(steps),
            _charge: charge,
        })
    }

    /// Removes all samples.
    pub(super) fn clear(&mut self) {
        self.present.clear();
    }

    /// How many steps the column spans.
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    #[inline]
    pub(super) fn set(&mut self, step: usize, value: f64) {
        self.values[step] = value;
        self.present.set(step);
    }

    #[inline]
    pub(super) fn get(&self, step: usize) -> Option<f64> {
        self.present.get(step).then(|| self.values[step])
    }

    /// Takes over another column's sample at a step, if it has one there.
    pub(super) fn take_sample(&mut self, step: usize, from: &Column<'q>) {
        if let Some(value) = from.get(step) {
            self.set(step, value);
        }
    }

    /// The steps that have a sample.
    pub(super) fn present(&self) -> &Bits {
        &self.present
    }

    /// The steps that have a sample, to remove some.
    pub(super) fn present_mut(&mut self) -> &mut Bits {
        &mut self.present
    }

    /// The samples as (step, value).
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, f64)> + '_ {
        self.present.iter().map(|step| (step, self.values[step]))
    }

    /// Replaces each value.
    pub(super) fn map(&mut self, f: impl Fn(f64) -> f64) {
        // Branch-free over all steps: the values of absent ones don't matter.
        for value in &mut self.values {
            *value = f(*value);
        }
    }

    /// Replaces each sample's value, or removes the sample.
    pub(super) fn filter_map(&mut self, mut f: impl FnMut(usize, f64) -> Option<f64>) {
        for word in 0..self.present.words.len() {
            let mut rest = self.present.words[word];
            while rest != 0 {
                let bit = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                let step = word * 64 + bit;
                match f(step, self.values[step]) {
                    Some(value) => self.values[step] = value,
                    None => self.present.words[word] &= !(1 << bit),
                }
            }
        }
    }
}

/// A set of steps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// The empty set over `steps` steps.
    pub(super) fn new(steps: usize) -> Bits {
        Bits {
            words: vec![0; steps.div_ceil(64)],
        }
    }

    /// What a set over `steps` steps takes.
    pub(super) fn bytes(steps: usize) -> usize {
        steps.div_ceil(64) * size_of::<u64>()
    }

    pub(super) fn clear(&mut self) {
        self.words.fill(0);
    }

    #[inline]
    pub(super) fn set(&mut self, step: usize) {
        self.words[step / 64] |= 1 << (step % 64);
    }

    #[inline]
    pub(super) fn remove(&mut self, step: usize) {
        self.words[step / 64] &= !(1 << (step % 64));
    }

    #[inline]
    pub(super) fn get(&self, step: usize) -> bool {
        self.words[step / 64] >> (step % 64) & 1 == 1
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    pub(super) fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The members in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(index, word)| {
            std::iter::successors(Some(*word), |rest| Some(rest & (rest.wrapping_sub(1))))
                .take_while(|rest| *rest != 0)
                .map(move |rest| index * 64 + rest.trailing_zeros() as usize)
        })
    }

    pub(super) fn union(&mut self, other: &Bits) {
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    pub(super) fn intersect(&mut self, other: &Bits) {
        for (word, keep) in self.words.iter_mut().zip(&other.words) {
            *word &= keep;
        }
    }

    pub(super) fn subtract(&mut self, other: &Bits) {
        for (word, remove) in self.words.iter_mut().zip(&other.words) {
            *word &= !remove;
        }
    }

    /// Whether some step is in both.
    pub(super) fn overlaps(&self, other: &Bits) -> bool {
        self.first_common(other).is_some()
    }

    /// The first step that is in both.
    pub(super) fn first_common(&self, other: &Bits) -> Option<usize> {
        self.words
            .iter()
            .zip(&other.words)
            .position(|(a, b)| a & b != 0)
            .map(|index| index * 64 + (self.words[index] & other.words[index]).trailing_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(steps: &[usize]) -> Bits {
        let mut bits = Bits::new(130);
        steps.iter().for_each(|step| bits.set(*step));
        bits
    }

    #[test]
    fn sets_of_steps() {
        let mut set = bits(&[0, 63, 64, 129]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 129]);
        assert_eq!(set.count(), 4);
        assert!(set.get(64) && !set.get(65));
        assert_eq!(set.first_common(&bits(&[65, 129])), Some(129));
        assert!(!set.overlaps(&bits(&[1, 128])));
        set.subtract(&bits(&[0, 1]));
        set.union(&bits(&[5]));
        set.intersect(&bits(&[5, 64, 128]));
        assert_eq!(set, bits(&[5, 64]));
        set.clear();
        assert!(set.is_empty());
    }

    #[test]
    fn a_column_filters_and_maps() {
        let memory = Memory::new(1 << 20, 1 << 20);
        let mut column = Column::new(&memory, 70).unwrap();
        column.set(1, 1.0);
        column.set(66, -2.0);
        column.map(|value| value * 10.0);
        assert_eq!(column.iter().collect::<Vec<_>>(), [(1, 10.0), (66, -20.0)]);
        column.filter_map(|step, value| (step > 5).then_some(value + 1.0));
        assert_eq!((column.get(1), column.get(66)), (None, Some(-19.0)));
    }
}
