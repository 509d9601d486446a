//! Collects the parts of many requests at a shard's leader into one Raft entry.
//!
//! A round costs the same for one sample as for a thousand: it wakes some forty tasks on three nodes. So
//! entries are closed at ticks, a few milliseconds apart, and those of all shards at the same tick: then the
//! log writers sync them together, and they travel in the same packets. Ticks go by the wall clock, so that
//! nodes whose clocks agree share them too; nothing depends on that.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use quorate_proto::ErrorCode;
use quorate_raft_log::{GroupStatus, ProposeError, Role};
use quorate_storage::{PartOutcome, check_part, encode_write_entry};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::api::ApiError;
use crate::cluster::Gate;
use crate::shards::{ShardReplica, decode_outcome};

/// When an entry is closed.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// An entry closes when its parts reach this size.
    pub bytes: usize,
    /// Between two ticks; at each, all open entries of the node close. Zero: an entry takes what is there.
    pub linger: Duration,
    /// Entries in flight per shard; when all are, parts gather.
    pub in_flight: usize,
    /// Parts waiting per shard; further ones are refused as overload.
    pub queue: usize,
}

/// A committed and applied part.
#[derive(Debug, Clone)]
pub struct Committed {
    /// What apply decided.
    pub outcome: PartOutcome,
    /// Term of the entry.
    pub term: u64,
    /// Log index of the entry.
    pub index: u64,
}

type Reply = oneshot::Sender<Result<Committed, ApiError>>;

struct Submitted {
    part: Bytes,
    reply: Reply,
}

/// Hands parts to the batching task of one local replica.
#[derive(Clone)]
pub struct Batcher {
    queue: mpsc::Sender<Submitted>,
    limit: usize,
    gate: Arc<Gate>,
}

impl Batcher {
    /// Starts the batching task; it ends when the last handle is dropped.
    pub fn start(replica: Arc<ShardReplica>, limits: BatchLimits, gate: Arc<Gate>) -> Batcher {
        let (queue, parts) = mpsc::channel(limits.queue);
        let task = Task {
            replica,
            limits,
            gate: gate.clone(),
            parts,
            gathered: VecDeque::new(),
            bytes: 0,
        };
        tokio::spawn(task.run());
        Batcher {
            queue,
            limit: limits.queue,
            gate,
        }
    }

    /// Parts waiting.
    pub fn depth(&self) -> usize {
        self.limit - self.queue.capacity()
    }

    /// Commits a part. It was checked to be well-formed before.
    pub async fn submit(&self, part: Bytes) -> Result<Committed, ApiError> {
        self.gate.admit()?;
        let (reply, outcome) = oneshot::channel();
        self.queue
            .try_send(Submitted { part, reply })
            .map_err(|e| match e {
                mpsc::error::TrySendError::Full(_) => ApiError::new(
                    ErrorCode::Overloaded,
                    format!("{} parts wait for this shard already; retry", self.limit),
                ),
                mpsc::error::TrySendError::Closed(_) => {
                    ApiError::new(ErrorCode::NotLeader, "the shard's replica was closed; retry")
                }
            })?;
        outcome.await.unwrap_or_else(|_| {
            Err(ApiError::new(
                ErrorCode::NotLeader,
                "the shard's replica was closed; retry",
            ))
        })
    }
}

struct Task {
    replica: Arc<ShardReplica>,
    limits: BatchLimits,
    gate: Arc<Gate>,
    parts: mpsc::Receiver<Submitted>,
    gathered: VecDeque<Submitted>,
    bytes: usize,
}

impl Task {
    async fn run(mut self) {
        let mut in_flight: JoinSet<()> = JoinSet::new();
        loop {
            if self.gathered.is_empty() {
                tokio::select! {
                    part = self.parts.recv() => match part {
                        Some(part) => self.push(part),
                        None => break,
                    },
                    Some(_) = in_flight.join_next() => continue,
                }
            }
            self.gather().await;
            while in_flight.try_join_next().is_some() {}
            while in_flight.len() >= self.limits.in_flight {
                tokio::select! {
                    _ = in_flight.join_next() => {}
                    Some(part) = self.parts.recv(), if self.bytes < self.limits.bytes => self.push(part),
                }
            }
            let batch = self.take();
            in_flight.spawn(propose(self.replica.clone(), batch, self.gate.clone()));
        }
        while in_flight.join_next().await.is_some() {}
    }

    fn push(&mut self, part: Submitted) {
        self.bytes += part.part.len();
        self.gathered.push_back(part);
    }

    /// Takes parts until the entry is full or the next tick comes.
    async fn gather(&mut self) {
        let tick = Instant::now() + until_tick(self.limits.linger, SystemTime::now());
        while self.bytes < self.limits.bytes {
            tokio::select! {
                biased;
                part = self.parts.recv() => match part {
                    Some(part) => self.push(part),
                    None => return,
                },
                () = tokio::time::sleep_until(tick) => return,
            }
        }
    }

    /// The parts of the next entry: as many as fit, at least one.
    fn take(&mut self) -> Vec<Submitted> {
        let mut taken = Vec::with_capacity(self.gathered.len());
        let mut bytes = 0;
        while let Some(next) = self.gathered.front() {
            if !taken.is_empty() && bytes + next.part.len() > self.limits.bytes {
                break;
            }
            bytes += next.part.len();
            taken.extend(self.gathered.pop_front());
        }
        self.bytes -= bytes;
        taken
    }
}

/// How long it is from `now` to the next multiple of `period` since the Unix epoch.
fn until_tick(period: Duration, now: SystemTime) -> Duration {
    let (period, now) = (
        period.as_nanos(),
        now.duration_since(UNIX_EPOCH).unwrap_or_default(),
    );
    let since = now.as_nanos().checked_rem(period).unwrap_or(0);
    Duration::from_nanos(u64::try_from(period - since).unwrap_or(u64::MAX))
}

async fn propose(replica: Arc<ShardReplica>, batch: Vec<Submitted>, gate: Arc<Gate>) {
    let (parts, replies): (Vec<Bytes>, Vec<Reply>) = batch.into_iter().map(|s| (s.part, s.reply)).unzip();
    // Without limits in its log, a shard would take what it must not.
    let limited = match replica.storage().limits() {
        Some(_) => Ok(()),
        None => Err(ApiError::new(
            ErrorCode::Starting,
            "the shard is new and has no limits yet; retry",
        )),
    };
    let result = match limited.and_then(|()| gate.stamp()) {
        Ok(now_ms) => commit(&replica, &parts, now_ms).await,
        Err(closed) => Err(closed),
    };
    match result {
        Ok(committed) => {
            for (reply, one) in replies.into_iter().zip(committed) {
                // The requester may be gone; its samples are stored all the same.
                let _ = reply.send(Ok(one));
            }
        }
        Err(error) => {
            for reply in replies {
                let _ = reply.send(Err(error.clone()));
            }
        }
    }
}

async fn commit(replica: &ShardReplica, parts: &[Bytes], now_ms: i64) -> Result<Vec<Committed>, ApiError> {
    let entry = encode_write_entry(now_ms, parts);
    if mutant!("ack_before_quorum") {
        return answer_early(replica, entry, parts, |status| status.last_log).await;
    }
    if mutant!("reply_before_apply") {
        let committed = |status: &GroupStatus| status.committed.map(|at| at.index);
        return answer_early(replica, entry, parts, committed).await;
    }
    let committed = replica
        .group()
        .propose(entry)
        .await
        .map_err(|e| propose_error(&e))?;
    let internal = |what: String| ApiError::new(ErrorCode::Internal, what);
    let outcomes = decode_outcome(&committed.reply)
        .map_err(|e| internal(format!("shard {}: unreadable outcome: {e}", replica.id())))?;
    if outcomes.len() != parts.len() {
        return Err(internal(format!(
            "shard {}: {} outcomes for {} parts",
            replica.id(),
            outcomes.len(),
            parts.len()
        )));
    }
    let (term, index) = (committed.position.term, committed.position.index);
    Ok(outcomes
        .into_iter()
        .map(|outcome| Committed { outcome, term, index })
        .collect())
}

/// Answers as soon as `reached` of the leader's state goes beyond where its log ends now, which is where the
/// entry will be. What apply will decide is not known then, so every sample is said to be stored.
async fn answer_early(
    replica: &ShardReplica,
    entry: Bytes,
    parts: &[Bytes],
    reached: fn(&GroupStatus) -> Option<u64>,
) -> Result<Vec<Committed>, ApiError> {
    let before = replica.group().status();
    let (group, mut status) = (replica.group().clone(), replica.group().watch());
    let proposed = tokio::spawn(async move { group.propose(entry).await });
    let there = |now: &GroupStatus| now.role == Role::Leader && reached(now) > before.last_log;
    tokio::select! {
        biased;
        Ok(Err(error)) = proposed => return Err(propose_error(&error)),
        Ok(_) = status.wait_for(there) => {}
        else => return Err(ApiError::new(ErrorCode::NotLeader, "the shard's replica was closed; retry")),
    }
    let (term, index) = (before.term, before.last_log.unwrap_or(0) + 1);
    let stored = |part: &Bytes| check_part(part).map_or(0, |info| info.samples);
    let outcome = |part| PartOutcome {
        stored: stored(part),
        ..PartOutcome::default()
    };
    Ok(parts
        .iter()
        .map(|part| Committed {
            outcome: outcome(part),
            term,
            index,
        })
        .collect())
}

/// Maps what the Raft group says to what clients see. None of it is the client's fault.
pub fn propose_error(error: &ProposeError) -> ApiError {
    let code = match error {
        ProposeError::NotLeader { .. } => ErrorCode::NotLeader,
        ProposeError::Overloaded { .. } => ErrorCode::Overloaded,
        ProposeError::NoQuorum(_) | ProposeError::QuorumLost(_) => ErrorCode::NoQuorum,
        ProposeError::Stalled => ErrorCode::DiskStalled,
        // Too large can't be: entries close far below the limit.
        ProposeError::TooLarge { .. } => ErrorCode::Internal,
        ProposeError::OutcomeUnknown(_) | ProposeError::Stopped(_) => ErrorCode::NoLeader,
    };
    ApiError::new(code, error.to_string())
}
