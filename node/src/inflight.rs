//! The bound on memory that write requests hold: bytes in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quorate_proto::ErrorCode;

use crate::api::ApiError;

/// How long senders are asked to wait when the bound is reached, in milliseconds.
const RETRY_AFTER_MS: u64 = 1_000;

/// A budget of bytes shared by everything that receives writes. Clones share it.
#[derive(Debug, Clone)]
pub struct BytesInFlight {
    inner: Arc<Budget>,
}

#[derive(Debug)]
struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl BytesInFlight {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> BytesInFlight {
        BytesInFlight {
            inner: Arc::new(Budget {
                limit,
                used: AtomicU64::new(0),
            }),
        }
    }

    /// Bytes charged now.
    pub fn used(&self) -> u64 {
        self.inner.used.load(Ordering::Relaxed)
    }

    /// Most bytes that can be charged.
    pub fn limit(&self) -> u64 {
        self.inner.limit
    }

    /// Charges `bytes` until the charge is dropped. [`ErrorCode::Overloaded`] if they don't fit.
    pub fn charge(&self, bytes: u64) -> Result<Charge, ApiError> {
        let mut charge = Charge {
            budget: self.inner.clone(),
            bytes: 0,
        };
        charge.grow(bytes)?;
        Ok(charge)
    }
}

/// A request's share of [`BytesInFlight`], given back on drop.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Charge {
    /// Adds `bytes`. On [`ErrorCode::Overloaded`] the charge stays as it was.
    pub fn grow(&mut self, bytes: u64) -> Result<(), ApiError> {
        let budget = &self.budget;
        let fits = |used: u64| used.checked_add(bytes).filter(|used| *used <= budget.limit);
        match budget
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
        {
            Ok(_) => {
                self.bytes += bytes;
                Ok(())
            }
            Err(used) => Err(ApiError::new(
                ErrorCode::Overloaded,
                format!(
                    "{used} of {} bytes of writes are in flight, no room for {bytes} more",
                    budget.limit
                ),
            )
            .retry_after(RETRY_AFTER_MS)),
        }
    }

    /// Bytes charged.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_are_bounded_and_given_back() {
        let budget = BytesInFlight::new(100);
        let mut first = budget.charge(60).unwrap();
        assert_eq!(budget.charge(41).unwrap_err().code, ErrorCode::Overloaded);
        assert!(first.grow(41).is_err());
        assert_eq!((first.bytes(), budget.used()), (60, 60));
        first.grow(40).unwrap();
        assert_eq!(budget.used(), 100);
        drop(first);
        assert_eq!(budget.used(), 0);
        assert!(budget.charge(u64::MAX).is_err());
        assert!(budget.charge(100).is_ok());
    }
}
