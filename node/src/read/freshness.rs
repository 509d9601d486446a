//! How old local replicas may be at most: they poll the leaders' read index, and count from when
//! the poll was sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use super::index::ReadIndexes;
use crate::shards::Shards;

/// How often the leaders are asked.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// How often while nobody wants to know: each question makes every leader hear its followers.
const IDLE_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// After how long without a question that is so.
const IDLE_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
struct Poll {
    sent: Instant,
    index: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct ShardPolls {
    /// The newest poll that the replica has caught up with.
    reached: Option<Poll>,
    /// The newest poll.
    pending: Option<Poll>,
}

impl ShardPolls {
    /// Takes a poll's answer. An answer still waited for is kept until it is reached, or a replica that
    /// is always a little behind would never look fresh.
    fn polled(&mut self, poll: Poll, applied: u64) {
        self.settle(applied);
        if self.pending.is_none() {
            self.pending = Some(poll);
        }
        self.settle(applied);
    }

    fn settle(&mut self, applied: u64) {
        if let Some(pending) = self.pending
            && pending.index <= applied
        {
            self.reached = Some(pending);
            self.pending = None;
        }
    }
}

/// Upper bounds of the age of local replicas.
#[derive(Default)]
pub struct Freshness {
    polls: RwLock<BTreeMap<u32, ShardPolls>>,
    /// When somebody last wanted to know.
    asked: RwLock<Option<Instant>>,
}

impl Freshness {
    /// Every write acknowledged longer ago than this is visible in the local replica of `shard`,
    /// which has applied `applied`. `None`: not known, as the leader was not heard of yet.
    pub fn age(&self, shard: u32, applied: u64) -> Option<Duration> {
        *self.asked.write() = Some(Instant::now());
        let mut polls = *self.polls.read().get(&shard)?;
        polls.settle(applied);
        polls.reached.map(|poll| poll.sent.elapsed())
    }

    /// Polls for all local replicas until cancelled.
    pub async fn run(
        self: Arc<Self>,
        shards: Arc<Shards>,
        indexes: Arc<ReadIndexes>,
        stop: CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last: Option<Instant> = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let sent = Instant::now();
            let idle = self.asked.read().is_none_or(|asked| sent - asked >= IDLE_AFTER);
            // A tick may come a little early.
            let soon = |last: Instant| sent - last < IDLE_POLL_INTERVAL - POLL_INTERVAL / 2;
            if idle && last.is_some_and(soon) {
                continue;
            }
            last = Some(sent);
            let wanted: Vec<u32> = shards.all().iter().map(|r| r.id()).collect();
            let (found, _) = indexes.try_once(&wanted, POLL_INTERVAL * 2).await;
            let mut polls = self.polls.write();
            polls.retain(|shard, _| wanted.contains(shard));
            for (shard, index) in found {
                let Some(applied) = shards.get(shard).and_then(|r| r.storage().applied()) else {
                    continue;
                };
                polls
                    .entry(shard)
                    .or_default()
                    .polled(Poll { sent, index }, applied.index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_counts_from_the_sending_of_the_newest_reached_poll() {
        let start = Instant::now();
        let poll = |n: u64, index| Poll {
            sent: start + Duration::from_millis(n),
            index,
        };
        let mut polls = ShardPolls::default();
        polls.polled(poll(0, 10), 9);
        assert!(polls.reached.is_none());
        // Later answers do not push the goal away.
        polls.polled(poll(1, 20), 9);
        polls.settle(15);
        assert_eq!(polls.reached.map(|p| p.index), Some(10));
        polls.polled(poll(2, 30), 40);
        assert_eq!(polls.reached.map(|p| p.index), Some(30));
    }
}
