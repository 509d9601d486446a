//! Which of several targets takes the next request: pure, with time and randomness as arguments.
//!
//! Both policies are nginx's *smooth weighted round robin*: every pick gives each eligible target its
//! weight, takes the target that has collected most, and charges it the sum of the weights handed out. Round
//! robin is the case of equal weights. Unlike a rotating index this stays fair while targets come and
//! go: the load of a failing target is spread over all others instead of falling to its successor.
//!
//! A target that fails is avoided for an exponentially growing, jittered time. Then one pick probes it;
//! further picks stay away until the probe's outcome is reported. When every target is failing,
//! the one due soonest is returned all the same: asking beats refusing.

/// How picks are spread over the targets that work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Each target equally often; weights are ignored.
    #[default]
    RoundRobin,
    /// Each target in proportion to its weight.
    Weighted,
}

/// How long a failing target is avoided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffOptions {
    /// After the first failure.
    pub initial_ms: u64,
    /// The most, after repeated failures; each failed probe doubles the time until then.
    pub max_ms: u64,
    /// A probe whose outcome nobody reported is forgotten after this time.
    pub probe_timeout_ms: u64,
}

impl Default for BackoffOptions {
    fn default() -> Self {
        Self {
            initial_ms: 100,
            max_ms: 10_000,
            probe_timeout_ms: 10_000,
        }
    }
}

impl BackoffOptions {
    /// The pause after `failures` consecutive failures (at least 1): between half and all of the
    /// exponential time, `jitter` in `0.0..=1.0` says where.
    pub(crate) fn pause_ms(&self, failures: u32, jitter: f64) -> u64 {
        let doublings = failures.saturating_sub(1).min(32);
        let full = self
            .initial_ms
            .saturating_mul(1u64 << doublings)
            .min(self.max_ms.max(self.initial_ms));
        let half = full / 2;
        half + ((full - half) as f64 * jitter.clamp(0.0, 1.0)) as u64
    }
}

/// A pick, to be handed back to [`Balancer::succeeded`] or [`Balancer::failed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick<T> {
    /// The target to ask.
    pub target: T,
    /// The target was failing and is being tried again.
    pub probe: bool,
    at_ms: u64,
}

#[derive(Debug, Clone)]
struct Entry<T> {
    target: T,
    weight: f64,
    /// What smooth weighted round robin has credited and charged so far.
    current: f64,
    /// Consecutive failures; 0 while the target works.
    failures: u32,
    failed_at_ms: u64,
    retry_at_ms: u64,
    /// Until then a probe is under way.
    probing_until_ms: Option<u64>,
}

impl<T> Entry<T> {
    fn new(target: T, weight: f64) -> Self {
        Self {
            target,
            weight: if weight.is_finite() && weight > 0.0 {
                weight
            } else {
                0.0
            },
            current: 0.0,
            failures: 0,
            failed_at_ms: 0,
            retry_at_ms: 0,
            probing_until_ms: None,
        }
    }

    fn due_for_probe(&self, now_ms: u64) -> bool {
        self.failures > 0
            && now_ms >= self.retry_at_ms
            && self.probing_until_ms.is_none_or(|until_ms| now_ms >= until_ms)
    }
}

/// Spreads requests over targets. Share it behind a mutex: a pick costs one pass over the targets.
///
/// `now_ms` is any clock that does not go back, in milliseconds; all calls use the same one.
#[derive(Debug, Clone)]
pub struct Balancer<T> {
    policy: Policy,
    backoff: BackoffOptions,
    entries: Vec<Entry<T>>,
}

impl<T: Clone + PartialEq> Balancer<T> {
    /// A balancer without targets.
    pub fn new(policy: Policy, backoff: BackoffOptions) -> Self {
        Self {
            policy,
            backoff,
            entries: Vec::new(),
        }
    }

    /// Replaces the targets and their weights. What is known of targets that stay is kept.
    /// A weight that is not a positive number counts as 0: the target is picked only when no other is left.
    pub fn set_targets(&mut self, targets: impl IntoIterator<Item = (T, f64)>) {
        let mut old = std::mem::take(&mut self.entries);
        for (target, weight) in targets {
            if self.entries.iter().any(|entry| entry.target == target) {
                continue;
            }
            let mut entry = Entry::new(target, weight);
            if let Some(at) = old.iter().position(|known| known.target == entry.target) {
                let weight = entry.weight;
                entry = Entry {
                    weight,
                    ..old.swap_remove(at)
                };
            }
            self.entries.push(entry);
        }
        // Credits of targets that left would be missing for ever and favour or starve the rest.
        for entry in &mut self.entries {
            entry.current = 0.0;
        }
    }

    /// The targets, in the order given.
    pub fn targets(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|entry| &entry.target)
    }

    /// Whether the target is not being avoided.
    pub fn is_healthy(&self, target: &T) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.target == *target && entry.failures == 0)
    }

    /// The next target, or none when there is none.
    pub fn pick(&mut self, now_ms: u64) -> Option<Pick<T>> {
        self.pick_among(now_ms, |_| true)
    }

    /// The next target among those that `allowed` accepts, or none when it accepts none.
    pub fn pick_among(&mut self, now_ms: u64, allowed: impl Fn(&T) -> bool) -> Option<Pick<T>> {
        let allowed: Vec<bool> = self.entries.iter().map(|entry| allowed(&entry.target)).collect();
        let mut total = 0.0;
        let mut best: Option<usize> = None;
        let mut probe: Option<usize> = None;
        for (at, entry) in self.entries.iter_mut().enumerate().filter(|(at, _)| allowed[*at]) {
            let due = entry.due_for_probe(now_ms);
            if entry.failures > 0 && !due {
                continue;
            }
            let weight = match self.policy {
                Policy::RoundRobin => 1.0,
                Policy::Weighted => entry.weight,
            };
            entry.current += weight;
            total += weight;
            if due && probe.is_none() {
                probe = Some(at);
            }
        }
        for (at, entry) in self.entries.iter().enumerate().filter(|(at, _)| allowed[*at]) {
            let weighs = self.policy == Policy::RoundRobin || entry.weight > 0.0;
            let better = best.is_none_or(|best| entry.current > self.entries[best].current);
            if entry.failures == 0 && weighs && better {
                best = Some(at);
            }
        }
        // A probe goes first: otherwise a target of little weight would stay out for long after it works again.
        let at = probe.or(best).or_else(|| self.last_resort(&allowed))?;
        let entry = &mut self.entries[at];
        entry.current -= total;
        let is_probe = entry.failures > 0;
        if is_probe {
            entry.probing_until_ms = Some(now_ms.saturating_add(self.backoff.probe_timeout_ms));
        }
        Some(Pick {
            target: entry.target.clone(),
            probe: is_probe,
            at_ms: now_ms,
        })
    }

    /// Nothing works or has weight: the one that works, else the one due soonest.
    fn last_resort(&self, allowed: &[bool]) -> Option<usize> {
        (0..self.entries.len())
            .filter(|at| allowed[*at])
            .min_by_key(|at| (self.entries[*at].failures > 0, self.entries[*at].retry_at_ms))
    }

    /// The pick's target answered: it is used as before.
    pub fn succeeded(&mut self, pick: &Pick<T>) {
        let Some(entry) = self.entry_mut(&pick.target) else {
            return;
        };
        // An answer to a question from before the failure says nothing about now.
        if entry.failures > 0 && pick.at_ms < entry.failed_at_ms {
            return;
        }
        entry.failures = 0;
        entry.probing_until_ms = None;
    }

    /// The pick's target failed: it is avoided for a while. `jitter` is a random number in `0.0..=1.0`.
    pub fn failed(&mut self, pick: &Pick<T>, now_ms: u64, jitter: f64) {
        let backoff = self.backoff;
        let Some(entry) = self.entry_mut(&pick.target) else {
            return;
        };
        // A hundred requests in flight to a target that dies are one failure, not a hundred.
        if entry.failures > 0 && !pick.probe && pick.at_ms <= entry.failed_at_ms {
            return;
        }
        entry.failures = entry.failures.saturating_add(1);
        entry.failed_at_ms = now_ms;
        entry.retry_at_ms = now_ms.saturating_add(backoff.pause_ms(entry.failures, jitter));
        entry.probing_until_ms = None;
    }

    /// The pick ended without saying anything about its target, for example because the caller gave up.
    pub fn inconclusive(&mut self, pick: &Pick<T>) {
        if let Some(entry) = self.entry_mut(&pick.target)
            && pick.probe
        {
            entry.probing_until_ms = None;
        }
    }

    fn entry_mut(&mut self, target: &T) -> Option<&mut Entry<T>> {
        self.entries.iter_mut().find(|entry| entry.target == *target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use std::time::{Duration, Instant};

    const PICKS: usize = 10_000;

    fn balancer(policy: Policy, weights: &[f64]) -> Balancer<usize> {
        let mut balancer = Balancer::new(policy, BackoffOptions::default());
        balancer.set_targets(weights.iter().copied().enumerate());
        balancer
    }

    /// Each target's share is within 2 % of its ideal.
    fn assert_shares(counts: &BTreeMap<usize, usize>, weights: &BTreeMap<usize, f64>) {
        let picks: usize = counts.values().sum();
        let total: f64 = weights.values().sum();
        for (target, weight) in weights {
            let ideal = picks as f64 * weight / total;
            let count = counts.get(target).copied().unwrap_or(0) as f64;
            assert!(
                (count - ideal).abs() <= ideal * 0.02,
                "target {target}: {count} of ideal {ideal}"
            );
        }
        assert_eq!(counts.len(), weights.len(), "{counts:?}");
    }

    fn ideal(policy: Policy, weights: &[f64], but: Option<usize>) -> BTreeMap<usize, f64> {
        let weigh = |weight: f64| if policy == Policy::RoundRobin { 1.0 } else { weight };
        let all = weights.iter().map(|weight| weigh(*weight)).enumerate();
        all.filter(|(target, _)| Some(*target) != but).collect()
    }

    #[test]
    fn distribution_is_within_2_percent_of_ideal() {
        for policy in [Policy::RoundRobin, Policy::Weighted] {
            for weights in [
                vec![1.0, 1.0, 1.0],
                vec![5.0, 1.0, 1.0],
                vec![0.3, 2.5, 1.7, 4.0],
                vec![7.0],
            ] {
                let mut balancer = balancer(policy, &weights);
                let mut counts = BTreeMap::new();
                for now_ms in 0..PICKS as u64 {
                    let pick = balancer.pick(now_ms).unwrap();
                    *counts.entry(pick.target).or_insert(0) += 1;
                    balancer.succeeded(&pick);
                }
                assert_shares(&counts, &ideal(policy, &weights, None));
            }
        }
    }

    #[test]
    fn weighted_is_smooth_like_nginx() {
        let mut balancer = balancer(Policy::Weighted, &[5.0, 1.0, 1.0]);
        let order: Vec<usize> = (0..7)
            .map(|now_ms| balancer.pick(now_ms).unwrap().target)
            .collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn distribution_holds_while_a_target_fails_and_after_it_returns() {
        for policy in [Policy::RoundRobin, Policy::Weighted] {
            let weights = [3.0, 2.0, 1.0, 4.0];
            let mut balancer = balancer(policy, &weights);
            let down = 5_000..25_000;
            let (mut before, mut during, mut after) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
            let (mut probes, mut rejoined_at_ms) = (0, None);
            let mut now_ms = 0;
            while after.values().sum::<usize>() < PICKS {
                let pick = balancer.pick(now_ms).unwrap();
                if pick.target == 1 && down.contains(&now_ms) {
                    probes += 1;
                    balancer.failed(&pick, now_ms, 0.5);
                } else {
                    balancer.succeeded(&pick);
                    let phase = if now_ms < down.start {
                        &mut before
                    } else if now_ms < down.end {
                        &mut during
                    } else if pick.target == 1 || rejoined_at_ms.is_some() {
                        rejoined_at_ms.get_or_insert(now_ms);
                        &mut after
                    } else {
                        now_ms += 1;
                        continue;
                    };
                    *phase.entry(pick.target).or_insert(0) += 1;
                }
                now_ms += 1;
            }
            assert_shares(&before, &ideal(policy, &weights, None));
            assert_shares(&during, &ideal(policy, &weights, Some(1)));
            assert_shares(&after, &ideal(policy, &weights, None));
            // 100 ms doubling to 10 s within 20 s.
            assert!(
                (5..=12).contains(&probes),
                "{probes} requests went to the dead target"
            );
            let rejoined_at_ms = rejoined_at_ms.unwrap();
            assert!(
                rejoined_at_ms <= down.end + 10_000,
                "returned only at {rejoined_at_ms}"
            );
        }
    }

    #[test]
    fn distribution_holds_under_unequal_latency_and_concurrent_picks() {
        for policy in [Policy::RoundRobin, Policy::Weighted] {
            let weights = [1.0, 2.0, 3.0];
            let latency_us = [0, 40, 200];
            let shared = Mutex::new(balancer(policy, &weights));
            let counts = Mutex::new(BTreeMap::new());
            let started = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        for _ in 0..PICKS / 8 {
                            let now_ms = started.elapsed().as_millis() as u64;
                            let pick = shared.lock().unwrap().pick(now_ms).unwrap();
                            let until = Instant::now() + Duration::from_micros(latency_us[pick.target]);
                            while Instant::now() < until {
                                std::thread::yield_now();
                            }
                            shared.lock().unwrap().succeeded(&pick);
                            *counts.lock().unwrap().entry(pick.target).or_insert(0) += 1;
                        }
                    });
                }
            });
            assert_shares(&counts.into_inner().unwrap(), &ideal(policy, &weights, None));
        }
    }

    #[test]
    fn a_burst_of_failures_in_flight_counts_once() {
        let mut balancer = balancer(Policy::RoundRobin, &[1.0]);
        let in_flight: Vec<_> = (0..100).map(|_| balancer.pick(10).unwrap()).collect();
        for pick in &in_flight {
            balancer.failed(pick, 20, 1.0);
        }
        assert_eq!(balancer.entries[0].retry_at_ms, 120);
    }

    #[test]
    fn a_late_answer_from_before_the_failure_does_not_clear_it() {
        let mut balancer = balancer(Policy::RoundRobin, &[1.0, 1.0]);
        let early = balancer.pick(0).unwrap();
        let other = balancer.pick(0).unwrap();
        let again = balancer.pick(0).unwrap();
        assert_eq!((early.target, other.target, again.target), (0, 1, 0));
        balancer.failed(&again, 50, 0.0);
        balancer.succeeded(&early);
        assert!(!balancer.is_healthy(&0));
        assert!((0..20).all(|_| balancer.pick(60).unwrap().target == 1));
    }

    #[test]
    fn only_one_probe_at_a_time_and_a_lost_probe_is_forgotten() {
        let mut balancer = balancer(Policy::RoundRobin, &[1.0, 1.0]);
        let pick = balancer.pick(0).unwrap();
        balancer.failed(&pick, 0, 1.0);
        assert!((0..10).all(|_| balancer.pick(99).unwrap().target == 1));
        let probe = balancer.pick(100).unwrap();
        assert_eq!((probe.target, probe.probe), (0, true));
        assert!((0..10).all(|_| balancer.pick(101).unwrap().target == 1));
        balancer.inconclusive(&probe);
        assert!(balancer.pick(102).unwrap().probe);
        assert!((0..10).all(|_| balancer.pick(10_101).unwrap().target == 1));
        assert!(
            balancer.pick(10_102).unwrap().probe,
            "an unreported probe is repeated"
        );
    }

    #[test]
    fn pauses_grow_to_the_maximum_and_jitter_covers_the_upper_half() {
        let backoff = BackoffOptions::default();
        assert_eq!((backoff.pause_ms(1, 0.0), backoff.pause_ms(1, 1.0)), (50, 100));
        assert_eq!((backoff.pause_ms(3, 0.0), backoff.pause_ms(3, 1.0)), (200, 400));
        assert_eq!(
            (backoff.pause_ms(u32::MAX, 0.0), backoff.pause_ms(u32::MAX, 7.0)),
            (5_000, 10_000)
        );
        assert!(backoff.pause_ms(2, f64::NAN) >= 100);
    }

    #[test]
    fn all_failing_returns_the_one_due_soonest() {
        let mut balancer = balancer(Policy::Weighted, &[1.0, 1.0]);
        for (failed_at_ms, jitter) in [(0, 1.0), (10, 0.0)] {
            let pick = balancer.pick(0).unwrap();
            balancer.failed(&pick, failed_at_ms, jitter);
        }
        assert_eq!(balancer.pick(20).unwrap().target, 1);
    }

    #[test]
    fn picks_respect_the_filter_and_zero_weight_is_a_last_resort() {
        let mut balancer = balancer(Policy::Weighted, &[1.0, 0.0, f64::NAN]);
        assert!((0..50).all(|now_ms| balancer.pick(now_ms).unwrap().target == 0));
        assert_eq!(balancer.pick_among(0, |target| *target == 1).unwrap().target, 1);
        assert!(balancer.pick_among(0, |_| false).is_none());
        assert!(
            Balancer::<u8>::new(Policy::RoundRobin, BackoffOptions::default())
                .pick(0)
                .is_none()
        );
    }

    #[test]
    fn changing_targets_keeps_what_is_known_of_those_that_stay() {
        let mut balancer = balancer(Policy::RoundRobin, &[1.0, 1.0]);
        let pick = balancer.pick(0).unwrap();
        balancer.failed(&pick, 0, 1.0);
        balancer.set_targets([(2, 1.0), (0, 1.0), (2, 5.0)]);
        assert!(!balancer.is_healthy(&0));
        assert_eq!(balancer.targets().copied().collect::<Vec<_>>(), [2, 0]);
        assert!((0..10).all(|_| balancer.pick(50).unwrap().target == 2));
    }
}
