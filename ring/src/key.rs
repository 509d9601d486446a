//! The shard key of a series: XXH3-64 (seed 0) of specified bytes.
//!
//! A series that says where it was scraped, by a non-empty `job` or `instance` label, is keyed by its
//! target and one of `spread` buckets of metric names. One scrape then touches few shards, a query that pins
//! name, job and instance asks one shard, and a single huge target is still spread. The bytes hashed are
//!
//! ```text
//! 0x01, field(tenant), field(job), field(instance), u32 LE of (XXH3-64(metric name) mod spread)
//! ```
//!
//! where `field(s)` is the length of `s` in bytes as u32 LE, then `s`; a missing label is the empty string.
//! Any other series is keyed by everything it has:
//!
//! ```text
//! 0x00, field(tenant), canonical label bytes
//! ```

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

const WHOLE_LABEL_SET: u8 = 0;
const SCRAPE_TARGET: u8 = 1;

/// Shard key of a series.
///
/// `job` and `instance` are the values of those labels; an empty value is the same as none. `metric` is the
/// value of `__name__`, or empty. `canonical_labels` are the canonical bytes of the whole label set
/// including `__name__`; they decide only when there is neither job nor instance. `spread` is the ring's
/// ([`Ring::spread`](crate::Ring::spread)); zero counts as one.
pub fn shard_key(
    tenant: &str,
    job: Option<&str>,
    instance: Option<&str>,
    metric: &str,
    canonical_labels: &[u8],
    spread: u32,
) -> u64 {
    let (job, instance) = (job.unwrap_or_default(), instance.unwrap_or_default());
    if let Some(key) = target_key(tenant, job, instance, metric, spread) {
        return key;
    }
    let mut hasher = Xxh3::new();
    hasher.update(&[WHOLE_LABEL_SET]);
    update_field(&mut hasher, tenant);
    hasher.update(canonical_labels);
    hasher.digest()
}

/// Shard key of every series of `metric` scraped from one target: what a query that pins name, job and
/// instance asks. `None` if job and instance are both empty, as such series are keyed by all their labels.
pub fn target_key(tenant: &str, job: &str, instance: &str, metric: &str, spread: u32) -> Option<u64> {
    if job.is_empty() && instance.is_empty() {
        return None;
    }
    // The remainder is below `spread`, so it fits.
    let bucket = (xxh3_64(metric.as_bytes()) % u64::from(spread.max(1))) as u32;
    Some(bucket_key(tenant, job, instance, bucket))
}

/// Shard keys of all series scraped from one target, whatever their metric: `spread` keys, which may fall
/// on fewer shards. Empty if job and instance are both empty.
pub fn target_keys<'a>(
    tenant: &'a str,
    job: &'a str,
    instance: &'a str,
    spread: u32,
) -> impl Iterator<Item = u64> + 'a {
    let buckets = if job.is_empty() && instance.is_empty() {
        0
    } else {
        spread.max(1)
    };
    (0..buckets).map(move |bucket| bucket_key(tenant, job, instance, bucket))
}

/// Slot of a shard key: its top 16 bits.
pub fn slot_of(key: u64) -> u16 {
    (key >> 48) as u16
}

fn bucket_key(tenant: &str, job: &str, instance: &str, bucket: u32) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&[SCRAPE_TARGET]);
    update_field(&mut hasher, tenant);
    update_field(&mut hasher, job);
    update_field(&mut hasher, instance);
    hasher.update(&bucket.to_le_bytes());
    hasher.digest()
}

/// Lengths are framed as u32: label values and tenants are bounded far below that on their way in.
fn update_field(hasher: &mut Xxh3, field: &str) {
    hasher.update(&(field.len() as u32).to_le_bytes());
    hasher.update(field.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_framed_bytes_are_as_specified() {
        let bucket = (xxh3_64(b"up") % 8) as u8;
        let mut framed = b"\x01\x07\0\0\0default\x04\0\0\0node\x03\0\0\0h:1".to_vec();
        framed.extend_from_slice(&[bucket, 0, 0, 0]);
        let key = shard_key("default", Some("node"), Some("h:1"), "up", b"ignored", 8);
        assert_eq!(key, xxh3_64(&framed));

        let key = shard_key("default", None, Some(""), "up", b"labels", 8);
        assert_eq!(key, xxh3_64(b"\x00\x07\0\0\0defaultlabels"));
    }

    #[test]
    fn framing_keeps_neighbouring_fields_apart() {
        let key = |tenant, job, instance| shard_key(tenant, Some(job), Some(instance), "up", b"", 8);
        assert_ne!(key("ab", "c", "d"), key("a", "bc", "d"));
        assert_ne!(key("a", "bc", "d"), key("a", "b", "cd"));
        assert_ne!(key("t", "x", ""), key("t", "", "x"));
    }

    #[test]
    fn the_keys_of_a_target_hold_every_metric_of_it() {
        let keys: Vec<u64> = target_keys("t", "j", "i", 8).collect();
        assert_eq!(keys.len(), 8);
        let mut used = [false; 8];
        for metric in (0..200).map(|n| format!("metric_{n}")) {
            let key = shard_key("t", Some("j"), Some("i"), &metric, b"", 8);
            used[keys
                .iter()
                .position(|k| *k == key)
                .expect("one of the target's keys")] = true;
        }
        assert_eq!(used, [true; 8]);
    }

    #[test]
    fn a_series_without_target_has_no_target_keys() {
        assert_eq!(target_key("t", "", "", "up", 8), None);
        assert_eq!(target_keys("t", "", "", 8).count(), 0);
    }

    #[test]
    fn zero_spread_counts_as_one() {
        let key = |spread| shard_key("t", Some("j"), None, "up", b"", spread);
        assert_eq!(key(0), key(1));
    }
}
