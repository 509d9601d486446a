//! Whether this node's wall clock may stamp entries (CLK-1).
//!
//! The time of a log entry moves its shard's retention cut and its bounds of what is too old and too new, for
//! ever and on every replica (STO-6). One entry of a clock that jumped a year ahead would hide all that
//! the shard holds. Comparing clocks with the other nodes once a second finds a wrong clock up to a second
//! late, so between comparisons the wall clock is held against the monotonic one.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Furthest that a leader's clock may be from its peers' clocks.
pub(super) const MAX_CLOCK_SKEW_MS: i64 = 60_000;
/// Longest time between two comparisons. After a longer one the monotonic clock may have jumped too.
const MAX_GAP: Duration = Duration::from_secs(10);

/// A reading of both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    /// Milliseconds since the Unix epoch.
    pub(super) wall_ms: i64,
    /// The monotonic clock at the same moment.
    pub(super) at: Instant,
}

/// What one comparison found, this node's own clock included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Comparison {
    /// Nodes of the cluster.
    pub(super) nodes: usize,
    /// Of them, those that told their time.
    pub(super) answered: usize,
    /// Of these, those that are close enough to this node's clock.
    pub(super) agreeing: usize,
}

#[derive(Debug, Clone, Copy)]
struct Anchor {
    /// A reading that a majority agreed with.
    agreed: Reading,
    /// When clocks were last compared and nothing spoke against this one.
    compared: Instant,
}

/// The last reading that a majority of the nodes agreed with.
#[derive(Debug, Default)]
pub(super) struct ClockAnchor(Mutex<Option<Anchor>>);

impl ClockAnchor {
    /// Takes over what came out for a reading. Without a majority to judge it the clock is trusted as far as
    /// it goes on evenly from where one agreed, so that a node that is down does not stop the others.
    pub(super) fn compared(&self, reading: Reading, found: Comparison) {
        let majority = |count: usize| 2 * count > found.nodes;
        let mut anchor = self.0.lock();
        if majority(found.agreeing) {
            *anchor = Some(Anchor {
                agreed: reading,
                compared: reading.at,
            });
        } else if majority(found.answered.saturating_sub(found.agreeing)) {
            *anchor = None;
        } else if let Some(anchor) = anchor.as_mut()
            && reading.at.saturating_duration_since(anchor.compared) <= MAX_GAP
        {
            anchor.compared = reading.at;
        }
    }

    /// Why a reading can't be trusted, if so.
    pub(super) fn distrusts(&self, reading: Reading) -> Option<String> {
        let Some(anchor) = *self.0.lock() else {
            return Some("no majority of the nodes agrees with this node's clock; check NTP".into());
        };
        let gap = reading.at.saturating_duration_since(anchor.compared);
        if gap > MAX_GAP {
            return Some(format!(
                "this node's clock was last compared with the others' {gap:.0?} ago"
            ));
        }
        let passed = reading.at.saturating_duration_since(anchor.agreed.at);
        let passed_ms = i64::try_from(passed.as_millis()).unwrap_or(i64::MAX);
        let expected_ms = anchor.agreed.wall_ms.saturating_add(passed_ms);
        let off_ms = reading.wall_ms.saturating_sub(expected_ms);
        (off_ms.saturating_abs() > MAX_CLOCK_SKEW_MS)
            .then(|| format!("this node's clock jumped by {off_ms} ms; check NTP"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR_MS: i64 = 365 * 86_400_000;

    /// Both clocks of a node, `passed_ms` after the start, the wall clock `ahead_ms` ahead.
    fn at(start: Instant, passed_ms: u64, ahead_ms: i64) -> Reading {
        Reading {
            wall_ms: 1_700_000_000_000 + passed_ms as i64 + ahead_ms,
            at: start + Duration::from_millis(passed_ms),
        }
    }

    fn of_three(answered: usize, agreeing: usize) -> Comparison {
        Comparison {
            nodes: 3,
            answered,
            agreeing,
        }
    }

    /// CLK-1
    #[test]
    fn a_jump_between_comparisons_is_refused_at_once() {
        let (start, anchor) = (Instant::now(), ClockAnchor::default());
        anchor.compared(at(start, 0, 0), of_three(3, 3));
        assert_eq!(anchor.distrusts(at(start, 500, 0)), None);
        assert_eq!(anchor.distrusts(at(start, 500, MAX_CLOCK_SKEW_MS)), None);
        for ahead_ms in [MAX_CLOCK_SKEW_MS + 1, YEAR_MS, -YEAR_MS, i64::MAX / 2] {
            assert!(anchor.distrusts(at(start, 500, ahead_ms)).is_some(), "{ahead_ms}");
        }
        // The others say so too, and it jumps back.
        anchor.compared(at(start, 1_000, YEAR_MS), of_three(3, 1));
        assert!(anchor.distrusts(at(start, 1_000, 0)).is_some());
        anchor.compared(at(start, 2_000, 0), of_three(3, 3));
        assert_eq!(anchor.distrusts(at(start, 2_500, 0)), None);
    }

    #[test]
    fn a_jump_is_refused_while_a_node_is_down() {
        let (start, anchor) = (Instant::now(), ClockAnchor::default());
        anchor.compared(at(start, 0, 0), of_three(3, 3));
        // The one other node that answers disagrees: nobody knows who is wrong, but this clock jumped.
        for second in 1..=20 {
            anchor.compared(at(start, 1_000 * second, YEAR_MS), of_three(2, 1));
            assert!(anchor.distrusts(at(start, 1_000 * second, YEAR_MS)).is_some());
        }
        // And the other one's did not.
        let anchor = ClockAnchor::default();
        anchor.compared(at(start, 0, 0), of_three(3, 3));
        for second in 1..=20 {
            anchor.compared(at(start, 1_000 * second, 0), of_three(2, 1));
            assert_eq!(anchor.distrusts(at(start, 1_000 * second + 500, 0)), None);
        }
    }

    #[test]
    fn nothing_is_stamped_before_a_majority_agreed() {
        let (start, anchor) = (Instant::now(), ClockAnchor::default());
        assert!(anchor.distrusts(at(start, 0, 0)).is_some());
        anchor.compared(at(start, 0, 0), of_three(1, 1));
        anchor.compared(at(start, 1_000, 0), of_three(2, 1));
        assert!(anchor.distrusts(at(start, 1_000, 0)).is_some());
        anchor.compared(at(start, 2_000, 0), of_three(2, 2));
        assert_eq!(anchor.distrusts(at(start, 2_000, 0)), None);
        // A cluster of one has nobody to ask.
        let alone = Comparison {
            nodes: 1,
            answered: 1,
            agreeing: 1,
        };
        let anchor = ClockAnchor::default();
        anchor.compared(at(start, 0, 0), alone);
        assert_eq!(anchor.distrusts(at(start, 0, 0)), None);
    }

    #[test]
    fn both_clocks_jumping_together_are_refused_until_compared() {
        let (start, anchor) = (Instant::now(), ClockAnchor::default());
        anchor.compared(at(start, 0, 0), of_three(3, 3));
        assert!(anchor.distrusts(at(start, YEAR_MS as u64, 0)).is_some());
        // Alone it can't tell whether a year has passed.
        anchor.compared(at(start, YEAR_MS as u64, 0), of_three(1, 1));
        assert!(anchor.distrusts(at(start, YEAR_MS as u64, 0)).is_some());
        anchor.compared(at(start, YEAR_MS as u64, 0), of_three(3, 3));
        assert_eq!(anchor.distrusts(at(start, YEAR_MS as u64, 0)), None);
    }
}
