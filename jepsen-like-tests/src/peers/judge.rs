//! What is gone of what was acknowledged, strike by strike.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use super::load::Sent;
use crate::values::{Entry, SeriesId};

/// Remembers what was sent, and what is known to be lost.
#[derive(Debug, Default)]
pub struct Judge {
    sent: Vec<Sent>,
    known_lost: BTreeSet<Key>,
}

type Key = (SeriesId, i64);

/// What a strike did.
#[derive(Debug, Default, PartialEq)]
pub struct Verdict {
    /// Acknowledged samples that are missing for the first time, on one node at least.
    pub lost: u64,
    /// When the oldest of them was acknowledged.
    pub oldest_lost: Option<Instant>,
    /// Samples that nobody sent, or with other values than were sent.
    pub wrong: u64,
}

impl Judge {
    /// Adds what was sent.
    pub fn sent(&mut self, sent: Vec<Sent>) {
        self.sent.extend(sent);
    }

    /// The first and the last timestamp sent.
    pub fn window_ms(&self) -> Option<(i64, i64)> {
        let times = || self.sent.iter().map(|sent| sent.batch.timestamp_ms);
        Some((times().min()?, times().max()?))
    }

    /// Compares what each node returned with everything sent so far.
    pub fn judge(&mut self, found_on_nodes: Vec<Vec<Entry>>) -> Verdict {
        let mut sent: HashMap<Key, (u64, Option<Instant>)> = HashMap::new();
        for Sent { batch, acked_at } in &self.sent {
            let entries = batch
                .entries()
                .map(|entry| ((entry.series, entry.timestamp_ms), (entry.bits, *acked_at)));
            sent.extend(entries);
        }
        let mut verdict = Verdict::default();
        for found in found_on_nodes {
            let mut missing = sent.clone();
            for entry in found {
                let key = (entry.series, entry.timestamp_ms);
                match sent.get(&key) {
                    Some((bits, _)) if *bits == entry.bits => {
                        missing.remove(&key);
                    }
                    _ => verdict.wrong += 1,
                }
            }
            for (key, (_, acked_at)) in missing {
                let Some(acked_at) = acked_at else { continue };
                if self.known_lost.insert(key) {
                    verdict.lost += 1;
                    verdict.oldest_lost = Some(
                        verdict
                            .oldest_lost
                            .map_or(acked_at, |oldest| oldest.min(acked_at)),
                    );
                }
            }
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::{Batch, FIRST_PROBE};
    use std::time::Duration;

    fn batch(number: u64) -> Batch {
        Batch {
            writer: FIRST_PROBE,
            number,
            series: 2,
            timestamp_ms: 1_000 * number as i64,
        }
    }

    fn stored(numbers: impl IntoIterator<Item = u64>) -> Vec<Entry> {
        numbers
            .into_iter()
            .flat_map(|number| batch(number).entries())
            .collect()
    }

    /// Ten batches, one second apart; the last is never acknowledged.
    fn judge(began: Instant) -> Judge {
        let mut judge = Judge::default();
        let sent = |number| Sent {
            batch: batch(number),
            acked_at: (number < 9).then(|| began + Duration::from_secs(number)),
        };
        judge.sent((0..10).map(sent).collect());
        judge
    }

    #[test]
    fn what_is_unknown_may_be_there_or_not() {
        for last in [9, 10] {
            assert_eq!(
                judge(Instant::now()).judge(vec![stored(0..last)]),
                Verdict::default()
            );
        }
        assert_eq!(judge(Instant::now()).window_ms(), Some((0, 9_000)));
    }

    #[test]
    fn what_is_lost_counts_once_and_names_the_oldest() {
        let began = Instant::now();
        let mut judge = judge(began);
        let lost = judge.judge(vec![stored([0, 1, 2, 5])]);
        assert_eq!((lost.lost, lost.wrong), (10, 0));
        assert_eq!(lost.oldest_lost, Some(began + Duration::from_secs(3)));
        // The next strike takes what the first one left, and only that is its fault.
        let more = judge.judge(vec![stored([1, 2])]);
        assert_eq!(more.lost, 4);
        assert_eq!(more.oldest_lost, Some(began));
    }

    #[test]
    fn one_node_without_a_sample_is_a_loss() {
        let verdict = judge(Instant::now()).judge(vec![stored(0..9), stored(0..8), stored(0..9)]);
        assert_eq!(verdict.lost, 2);
    }

    #[test]
    fn another_value_is_wrong_and_the_sent_one_lost() {
        let mut found = stored(0..9);
        found[0].bits ^= 1;
        found.extend(stored([77]));
        let verdict = judge(Instant::now()).judge(vec![found]);
        assert_eq!((verdict.lost, verdict.wrong), (1, 3));
    }
}
