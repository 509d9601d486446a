//! Accounting of what an evaluation holds in memory.

use std::cell::Cell;

use crate::value::{EvalError, LimitKind};

/// What an evaluation holds now, and the limits. Buffers hold a [`Charge`] for as long as they live.
#[derive(Debug)]
pub(super) struct Memory {
    max_bytes: u64,
    max_samples: u64,
    bytes: Cell<u64>,
    samples: Cell<u64>,
    peak_bytes: Cell<u64>,
    peak_samples: Cell<u64>,
}

impl Memory {
    pub(super) fn new(max_bytes: u64, max_samples: u64) -> Memory {
        Memory {
            max_bytes,
            max_samples,
            bytes: Cell::new(0),
            samples: Cell::new(0),
            peak_bytes: Cell::new(0),
            peak_samples: Cell::new(0),
        }
    }

    /// Accounts for a buffer that is about to be made.
    pub(super) fn charge(&self, bytes: usize, samples: usize) -> Result<Charge<'_>, EvalError> {
        let mut charge = self.nothing();
        charge.grow(bytes, samples)?;
        Ok(charge)
    }

    /// A charge that begins empty.
    pub(super) fn nothing(&self) -> Charge<'_> {
        Charge {
            memory: self,
            bytes: 0,
            samples: 0,
        }
    }

    pub(super) fn peak_bytes(&self) -> u64 {
        self.peak_bytes.get()
    }

    pub(super) fn peak_samples(&self) -> u64 {
        self.peak_samples.get()
    }

    fn add(&self, bytes: u64, samples: u64) -> Result<(), EvalError> {
        let total_bytes = self.bytes.get().saturating_add(bytes);
        let total_samples = self.samples.get().saturating_add(samples);
        if total_samples > self.max_samples {
            return Err(EvalError::Limit {
                limit: LimitKind::Samples,
                max: self.max_samples,
            });
        }
        if total_bytes > self.max_bytes {
            return Err(EvalError::Limit {
                limit: LimitKind::MemoryBytes,
                max: self.max_bytes,
            });
        }
        self.bytes.set(total_bytes);
        self.samples.set(total_samples);
        self.peak_bytes.set(self.peak_bytes.get().max(total_bytes));
        self.peak_samples.set(self.peak_samples.get().max(total_samples));
        Ok(())
    }
}

/// A part of what is held; given back when dropped.
#[derive(Debug)]
pub(super) struct Charge<'q> {
    memory: &'q Memory,
    bytes: u64,
    samples: u64,
}

impl Charge<'_> {
    /// Accounts for more.
    pub(super) fn grow(&mut self, bytes: usize, samples: usize) -> Result<(), EvalError> {
        self.memory.add(bytes as u64, samples as u64)?;
        self.bytes += bytes as u64;
        self.samples += samples as u64;
        Ok(())
    }

    /// Accounts for this much instead of what was accounted for before.
    pub(super) fn replace(&mut self, bytes: usize, samples: usize) -> Result<(), EvalError> {
        self.release();
        self.grow(bytes, samples)
    }

    /// Gives back all that was accounted for.
    pub(super) fn release(&mut self) {
        self.memory.bytes.set(self.memory.bytes.get() - self.bytes);
        self.memory.samples.set(self.memory.samples.get() - self.samples);
        (self.bytes, self.samples) = (0, 0);
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_is_given_back_and_a_refused_one_costs_nothing() {
        let memory = Memory::new(100, 10);
        let first = memory.charge(60, 2).unwrap();
        assert!(matches!(
            memory.charge(60, 0),
            Err(EvalError::Limit {
                limit: LimitKind::MemoryBytes,
                max: 100
            })
        ));
        assert!(matches!(
            memory.charge(0, 9),
            Err(EvalError::Limit {
                limit: LimitKind::Samples,
                max: 10
            })
        ));
        drop(first);
        let mut second = memory.charge(100, 10).unwrap();
        second.replace(40, 4).unwrap();
        assert_eq!((memory.bytes.get(), memory.samples.get()), (40, 4));
        assert_eq!((memory.peak_bytes(), memory.peak_samples()), (100, 10));
    }
}
