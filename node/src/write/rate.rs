//! How many samples a second this node takes of each tenant.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Seconds' worth of samples that a tenant which was quiet may send at once.
const BURST_SECONDS: f64 = 10.0;
/// Tenants remembered. Beyond it, those that have been quiet for long enough are forgotten.
const MAX_TENANTS: usize = 10_000;

/// A bucket of samples for each tenant that has a limit.
#[derive(Debug, Default)]
pub struct RateLimits {
    buckets: Mutex<HashMap<Box<str>, Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    /// Below zero after a request that was larger than what was left.
    samples: f64,
    filled_at: Instant,
}

impl RateLimits {
    /// Takes `samples` of a tenant's `per_second`. A request is taken as a whole while anything is left,
    /// so that one larger than the rate passes at times; else `Err` says when there will be.
    pub fn take(&self, tenant: &str, samples: u64, per_second: u64, now: Instant) -> Result<(), Duration> {
        if per_second == 0 || samples == 0 {
            return Ok(());
        }
        let rate = per_second as f64;
        let full = rate * BURST_SECONDS;
        let mut buckets = self.buckets.lock();
        if buckets.len() >= MAX_TENANTS && !buckets.contains_key(tenant) {
            let quiet = Duration::from_secs_f64(BURST_SECONDS);
            buckets.retain(|_, bucket| {
                bucket.samples < 0.0 || now.saturating_duration_since(bucket.filled_at) < quiet
            });
        }
        let bucket = buckets.entry(tenant.into()).or_insert(Bucket {
            samples: full,
            filled_at: now,
        });
        let passed = now.saturating_duration_since(bucket.filled_at).as_secs_f64();
        bucket.samples = (bucket.samples + passed * rate).min(full);
        bucket.filled_at = now.max(bucket.filled_at);
        if bucket.samples <= 0.0 {
            let wait = (1.0 - bucket.samples) / rate;
            return Err(Duration::try_from_secs_f64(wait).unwrap_or(Duration::from_secs(3_600)));
        }
        bucket.samples -= samples as f64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_time_and_tenants_do_not_share_it() {
        let limits = RateLimits::default();
        let start = Instant::now();
        let (mut taken, mut refused) = (0, 0);
        for ms in 0..100_000u64 {
            let now = start + Duration::from_millis(ms);
            match limits.take("t", 10, 1_000, now) {
                Ok(()) => taken += 10,
                Err(wait) => {
                    assert!(wait <= Duration::from_millis(20), "{wait:?}");
                    refused += 1;
                }
            }
        }
        // 100 s at 1,000 a second, and one burst.
        assert!((109_900..=110_100).contains(&taken), "{taken}");
        assert!(refused > 0);
        let end = start + Duration::from_secs(100);
        assert!(limits.take("u", 1, 1_000, end).is_ok());
        assert!(limits.take("t", 1_000_000, 0, end).is_ok(), "no limit");
        // One request larger than all there is passes, and is paid for afterwards.
        let later = end + Duration::from_secs(60);
        assert!(limits.take("t", 30_000, 1_000, later).is_ok());
        let wait = limits.take("t", 1, 1_000, later).unwrap_err();
        assert!((19..=21).contains(&wait.as_secs()), "{wait:?}");
    }
}
