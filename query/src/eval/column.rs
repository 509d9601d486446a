//! A series' samples over the steps of an evaluation.

use std::sync::Arc;

use quorate_storage::Histogram;

use super::memory::{Charge, Memory};
use crate::value::EvalError;

/// A sample's value.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Cell {
    Number(f64),
    Histogram(Arc<Histogram>),
}

impl Cell {
    /// A histogram that was just computed.
    pub(super) fn histogram(histogram: Histogram) -> Cell {
        Cell::Histogram(Arc::new(histogram))
    }
}

/// How many samples of the limit a histogram counts for: as many numbers as would take its memory.
pub(super) fn samples_of(histogram: &Histogram) -> usize {
    histogram.memory_bytes().div_ceil(2 * size_of::<f64>())
}

/// One sample for each step, and for which steps there is one. Most columns hold numbers alone, and those are all that
/// numeric functions touch; histograms stand aside.
#[derive(Debug)]
pub(super) struct Column<'q> {
    /// Values of steps without a number are arbitrary.
    values: Vec<f64>,
    present: Bits,
    /// The histogram of each step that has one, or nothing at all if none has.
    histograms: Vec<Option<Arc<Histogram>>>,
    _charge: Charge<'q>,
    histograms_charge: Charge<'q>,
}

impl<'q> Column<'q> {
    /// A column without samples.
    pub(super) fn new(memory: &'q Memory, steps: usize) -> Result<Column<'q>, EvalError> {
        let charge = memory.charge(steps * size_of::<f64>() + Bits::bytes(steps), steps)?;
        Ok(Column {
            values: vec![0.0; steps],
            present: Bits::new(steps),
            histograms: Vec::new(),
            _charge: charge,
            histograms_charge: memory.nothing(),
        })
    }

    /// Removes all samples.
    pub(super) fn clear(&mut self) {
        self.present.clear();
        self.forget_histograms();
    }

    /// How many steps the column spans.
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    #[inline]
    pub(super) fn set(&mut self, step: usize, value: f64) {
        self.values[step] = value;
        self.present.set(step);
        if !self.histograms.is_empty() {
            self.histograms[step] = None;
        }
    }

    pub(super) fn set_histogram(&mut self, step: usize, histogram: Arc<Histogram>) -> Result<(), EvalError> {
        if self.histograms.is_empty() {
            self.histograms_charge
                .grow(self.values.len() * size_of::<Option<Arc<Histogram>>>(), 0)?;
            self.histograms.resize(self.values.len(), None);
        }
        // A sample that is still the latest some steps later is held once.
        let before = step
            .checked_sub(1)
            .and_then(|before| self.histograms[before].as_ref());
        if !before.is_some_and(|before| Arc::ptr_eq(before, &histogram)) {
            self.histograms_charge
                .grow(histogram.memory_bytes(), samples_of(&histogram))?;
        }
        self.histograms[step] = Some(histogram);
        self.present.set(step);
        Ok(())
    }

    pub(super) fn set_cell(&mut self, step: usize, cell: Cell) -> Result<(), EvalError> {
        match cell {
            Cell::Number(value) => {
                self.set(step, value);
                Ok(())
            }
            Cell::Histogram(histogram) => self.set_histogram(step, histogram),
        }
    }

    /// The step's sample if it is a number.
    #[inline]
    pub(super) fn get(&self, step: usize) -> Option<f64> {
        (self.present.get(step) && self.histogram(step).is_none()).then(|| self.values[step])
    }

    /// The number of a step that is known to have one.
    #[inline]
    pub(super) fn number(&self, step: usize) -> f64 {
        self.values[step]
    }

    /// The step's sample if it is a histogram.
    #[inline]
    pub(super) fn histogram(&self, step: usize) -> Option<&Arc<Histogram>> {
        if self.histograms.is_empty() || !self.present.get(step) {
            return None;
        }
        self.histograms[step].as_ref()
    }

    /// The step's sample.
    pub(super) fn cell(&self, step: usize) -> Option<Cell> {
        match self.histogram(step) {
            Some(histogram) => Some(Cell::Histogram(Arc::clone(histogram))),
            None => self.get(step).map(Cell::Number),
        }
    }

    /// Takes over another column's sample at a step, if it has one there.
    pub(super) fn take_sample(&mut self, step: usize, from: &Column<'q>) -> Result<(), EvalError> {
        from.cell(step).map_or(Ok(()), |cell| self.set_cell(step, cell))
    }

    /// Whether some samples may be histograms.
    #[inline]
    pub(super) fn may_hold_histograms(&self) -> bool {
        !self.histograms.is_empty()
    }

    /// The steps that have a sample.
    pub(super) fn present(&self) -> &Bits {
        &self.present
    }

    /// The steps that have a sample, to remove some.
    pub(super) fn present_mut(&mut self) -> &mut Bits {
        &mut self.present
    }

    /// The samples that are numbers as (step, value).
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, f64)> + '_ {
        let numbers_only = self.histograms.is_empty();
        self.present
            .iter()
            .filter(move |step| numbers_only || self.histograms[*step].is_none())
            .map(|step| (step, self.values[step]))
    }

    /// The samples that are histograms as (step, histogram).
    pub(super) fn histograms(&self) -> impl Iterator<Item = (usize, &Arc<Histogram>)> + '_ {
        let slots = self.histograms.iter().enumerate();
        slots.filter_map(|(step, slot)| {
            let histogram = slot.as_ref()?;
            self.present.get(step).then_some((step, histogram))
        })
    }

    /// Adds all samples of another column.
    pub(super) fn take_in(&mut self, other: &Column<'_>) -> Result<(), EvalError> {
        other.iter().for_each(|(step, value)| self.set(step, value));
        other
            .histograms()
            .try_for_each(|(step, histogram)| self.set_histogram(step, Arc::clone(histogram)))
    }

    /// Replaces each number. Histograms are removed.
    pub(super) fn map(&mut self, f: impl Fn(f64) -> f64) {
        self.drop_histograms();
        // Branch-free over all steps: the values of absent ones don't matter.
        for value in &mut self.values {
            *value = f(*value);
        }
    }

    /// Replaces each number, or removes the sample. Histograms are removed.
    pub(super) fn filter_map(&mut self, mut f: impl FnMut(usize, f64) -> Option<f64>) {
        self.drop_histograms();
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

    /// Replaces each sample, histograms too, by a number that depends on the step alone.
    pub(super) fn replace_all(&mut self, f: impl Fn(usize) -> f64) {
        self.forget_histograms();
        (0..self.values.len()).for_each(|step| self.values[step] = f(step));
    }

    /// Replaces each histogram, or removes it. Numbers stay if `keep_numbers`.
    pub(super) fn map_histograms(
        &mut self,
        keep_numbers: bool,
        mut f: impl FnMut(usize, &Arc<Histogram>) -> Option<Cell>,
    ) -> Result<(), EvalError> {
        let mut slots = std::mem::take(&mut self.histograms);
        self.histograms_charge.release();
        if slots.is_empty() {
            if !keep_numbers {
                self.present.clear();
            }
            return Ok(());
        }
        for (step, slot) in slots.iter_mut().enumerate() {
            if !self.present.get(step) {
                continue;
            }
            match slot.take() {
                Some(histogram) => match f(step, &histogram) {
                    Some(cell) => self.set_cell(step, cell)?,
                    None => self.present.remove(step),
                },
                None if !keep_numbers => self.present.remove(step),
                None => {}
            }
        }
        Ok(())
    }

    /// Removes the histograms; says whether there were any.
    pub(super) fn drop_histograms(&mut self) -> bool {
        if self.histograms.is_empty() {
            return false;
        }
        let mut any = false;
        for (step, slot) in self.histograms.iter().enumerate() {
            if slot.is_some() && self.present.get(step) {
                self.present.remove(step);
                any = true;
            }
        }
        self.forget_histograms();
        any
    }

    fn forget_histograms(&mut self) {
        if !self.histograms.is_empty() {
            self.histograms = Vec::new();
            self.histograms_charge.release();
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
        assert_eq!(set.count(), 0);
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
