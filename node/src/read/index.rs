//! Read indexes: the log index that a replica must have applied so that a read sees every write
//! acknowledged before it began. Asked of the leaders, one call for all shards of a node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_proto::ErrorCode;
use quorate_proto::internal::peer_client::PeerClient;
use quorate_proto::internal::{GroupReadIndex, ReadIndexRequest, ReadIndexResponse};
use quorate_raft_log::ReadError;

use crate::api::ApiError;
use crate::cluster::{Peers, Purpose};
use crate::shards::Shards;
use crate::write::Leaders;

const RETRY: Duration = Duration::from_millis(20);
/// Rounds for a shard that has lost its quorum, as far as this node knows: the others may be better off.
const LOST_ROUNDS: u32 = 2;
/// How long a leader is looked for when no local replica tells that there is none.
const LEADER_WITHIN: Duration = Duration::from_secs(3);
/// Longest a single call to a leader may take before it is asked again, as leadership may have moved.
const CALL_TIMEOUT: Duration = Duration::from_millis(1_000);

/// Asks leaders for read indexes.
pub struct ReadIndexes {
    shards: Arc<Shards>,
    leaders: Arc<Leaders>,
    peers: Arc<Peers>,
}

impl ReadIndexes {
    /// Over the known leaders.
    pub fn new(shards: Arc<Shards>, leaders: Arc<Leaders>, peers: Arc<Peers>) -> ReadIndexes {
        ReadIndexes {
            shards,
            leaders,
            peers,
        }
    }

    /// The read index of every shard in `wanted`, through changes of leadership, until the deadline or
    /// until a shard turns out to have no majority.
    pub async fn get(&self, wanted: &[u32], deadline: Instant) -> Result<BTreeMap<u32, u64>, ApiError> {
        let started = Instant::now();
        let mut found = BTreeMap::new();
        let mut rounds = 0;
        loop {
            let missing: Vec<u32> = wanted
                .iter()
                .copied()
                .filter(|s| !found.contains_key(s))
                .collect();
            let (some, failure) = self.try_once(&missing, CALL_TIMEOUT).await;
            found.extend(some);
            let Some(failure) = failure else { return Ok(found) };
            if Instant::now() + RETRY >= deadline || failure.code == ErrorCode::NoQuorum {
                return Err(failure);
            }
            rounds += 1;
            let unanswered = || missing.iter().copied().filter(|shard| !found.contains_key(shard));
            let lost = unanswered().find_map(|shard| Some((shard, self.leaders.lost(shard)?)));
            if let Some((shard, lost)) = lost
                && rounds >= LOST_ROUNDS
            {
                return Err(Leaders::no_quorum(shard, lost));
            }
            if started.elapsed() >= LEADER_WITHIN && unanswered().any(|s| self.shards.get(s).is_none()) {
                return Err(failure);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// One try for each shard: what was found, and the first failure.
    pub async fn try_once(
        &self,
        wanted: &[u32],
        timeout: Duration,
    ) -> (BTreeMap<u32, u64>, Option<ApiError>) {
        let mut by_node: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        let mut failure = None;
        for &shard in wanted {
            match self.leaders.node_or_guess(shard) {
                Some(node) => by_node.entry(node).or_default().push(shard),
                None => {
                    let what = format!("shard {shard} has no leader at the moment");
                    failure.get_or_insert(ApiError::new(ErrorCode::NoLeader, what));
                }
            }
        }
        let calls = by_node
            .into_iter()
            .map(|(node, shards)| self.ask(node, shards, timeout));
        let mut found = BTreeMap::new();
        for answer in futures_util::future::join_all(calls).await {
            match answer {
                Ok(groups) => {
                    for group in groups {
                        if group.code.is_empty() {
                            found.insert(group.group, group.index);
                            continue;
                        }
                        // None takes back a hint that turned out wrong.
                        self.leaders.hint(group.group, group.leader_node);
                        let code = ErrorCode::from_name(&group.code).unwrap_or(ErrorCode::Internal);
                        failure.get_or_insert(ApiError::new(code, group.message));
                    }
                }
                Err(e) => {
                    failure.get_or_insert(e);
                }
            }
        }
        (found, failure)
    }

    async fn ask(
        &self,
        node: u64,
        groups: Vec<u32>,
        timeout: Duration,
    ) -> Result<Vec<GroupReadIndex>, ApiError> {
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let request = ReadIndexRequest { groups, timeout_ms };
        if node == self.peers.own() {
            return Ok(self.answer(request).await.groups);
        }
        let failed = |e: tonic::Status| {
            ApiError::new(
                crate::grpc::code_of(&e),
                format!("read index from node {node}: {}", e.message()),
            )
        };
        let channel = self.peers.channel(node, Purpose::Read).map_err(failed)?;
        let mut client = PeerClient::new(channel);
        let call = client.read_index(self.peers.request(request, Some(timeout)));
        let reply = tokio::time::timeout(timeout, call).await.map_err(|_| {
            ApiError::new(
                ErrorCode::NoLeader,
                format!("node {node} did not answer for its read index"),
            )
        })?;
        let reply = reply.map_err(failed)?;
        self.peers.answered(node);
        Ok(reply.into_inner().groups)
    }

    /// The leader's side.
    pub async fn answer(&self, request: ReadIndexRequest) -> ReadIndexResponse {
        let timeout = Duration::from_millis(request.timeout_ms.into());
        let groups = request
            .groups
            .into_iter()
            .map(|group| self.answer_one(group, timeout));
        ReadIndexResponse {
            groups: futures_util::future::join_all(groups).await,
        }
    }

    async fn answer_one(&self, group: u32, timeout: Duration) -> GroupReadIndex {
        let mut answer = GroupReadIndex {
            group,
            ..GroupReadIndex::default()
        };
        let Some(replica) = self.shards.get(group) else {
            answer.code = ErrorCode::NotLeader.name().into();
            answer.message = format!("this node holds no replica of shard {group}");
            return answer;
        };
        match replica.group().read_index(timeout).await {
            Ok(index) => answer.index = index,
            Err(error) => {
                let code = match error {
                    ReadError::NotLeader { .. } | ReadError::Stalled => ErrorCode::NotLeader,
                    ReadError::QuorumLost(_) => ErrorCode::NoQuorum,
                    // Not in the time of one call; the next one may.
                    ReadError::NoQuorum(_) => ErrorCode::Timeout,
                    ReadError::Unreachable(_) | ReadError::Stopped(_) => ErrorCode::NoLeader,
                };
                answer.code = code.name().into();
                answer.message = format!("shard {group}: {error}");
                answer.leader_node = self.leaders.node(group).filter(|node| *node != self.peers.own());
            }
        }
        answer
    }
}
