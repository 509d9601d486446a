//! Which shards a selector can touch.

use quorate_ring::{Ring, target_key, target_keys};
use quorate_storage::{MatchOp, Matcher};

/// The shards that may hold series matching `matchers`, ascending: those of one scrape target when job
/// and instance are pinned, else all of `shards`.
pub fn shards_of(ring: &Ring, shards: &[u32], tenant: &str, matchers: &[Matcher]) -> Vec<u32> {
    let pinned = |name: &str| {
        matchers
            .iter()
            .find(|m| m.op() == MatchOp::Eq && m.name() == name)
            .map(Matcher::value)
    };
    // A series without job and instance is placed by its whole label set: nothing is pinned then.
    let (Some(job), Some(instance)) = (pinned("job"), pinned("instance")) else {
        return shards.to_vec();
    };
    if job.is_empty() && instance.is_empty() {
        return shards.to_vec();
    }
    let mut touched: Vec<u32> = match pinned("__name__") {
        Some(metric) => {
            let key = target_key(tenant, job, instance, metric, ring.spread());
            key.map(|key| ring.shard_of_key(key)).into_iter().collect()
        }
        None => target_keys(tenant, job, instance, ring.spread())
            .map(|key| ring.shard_of_key(key))
            .collect(),
    };
    touched.sort_unstable();
    touched.dedup();
    touched
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_ring::{ShardWeight, shard_key};
    use quorate_storage::Labels;

    fn eq(name: &str, value: &str) -> Matcher {
        Matcher::new(MatchOp::Eq, name, value).unwrap()
    }

    #[test]
    fn a_pinned_series_is_where_placement_puts_it() {
        let all: Vec<u32> = (1..=16).collect();
        let weights: Vec<_> = all
            .iter()
            .map(|&shard| ShardWeight { shard, weight: 1.0 })
            .collect();
        let ring = Ring::build(1, 8, &weights).unwrap();
        for (job, instance) in [("node", "a:9100"), ("", "b"), ("node", "")] {
            for metric in ["up", "node_load1", "x"] {
                let labels =
                    Labels::from_pairs([("__name__", metric), ("instance", instance), ("job", job)]).unwrap();
                let some = |v: &'static str| (!v.is_empty()).then_some(v);
                let key = shard_key(
                    "t",
                    some(job),
                    some(instance),
                    metric,
                    labels.as_bytes(),
                    ring.spread(),
                );
                let placed = ring.shard_of_key(key);
                let target = [eq("job", job), eq("instance", instance)];
                assert!(shards_of(&ring, &all, "t", &target).contains(&placed));
                let one = [eq("__name__", metric), eq("job", job), eq("instance", instance)];
                assert_eq!(shards_of(&ring, &all, "t", &one), [placed]);
            }
        }
        assert_eq!(shards_of(&ring, &all, "t", &[eq("job", "node")]), all);
        assert_eq!(
            shards_of(&ring, &all, "t", &[eq("job", ""), eq("instance", "")]),
            all
        );
        let not = Matcher::new(MatchOp::Re, "job", "node").unwrap();
        assert_eq!(shards_of(&ring, &all, "t", &[not, eq("instance", "a")]), all);
    }
}
