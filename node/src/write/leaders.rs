//! Which node leads a shard, as far as this node knows.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use quorate_client::balance::{BackoffOptions, Balancer, Pick, Policy};
use quorate_proto::ErrorCode;

use super::Batcher;
use crate::api::ApiError;
use crate::cluster::{CurrentView, Peers};
use crate::shards::{ShardReplica, Shards};

/// Tries of a part that wait for the local replica to hear of a leader before other nodes are asked:
/// about one election. An election that goes on is over sooner than that; a replica that is cut off from
/// its group, while this node reaches the rest of it, never hears of one.
const PATIENCE: u32 = 10;

/// How long a node that was guessed may take for a part, when the local replica has lost its quorum.
const GUESS_TIMEOUT: Duration = Duration::from_secs(1);

/// Where a part has to go.
pub enum Leader {
    /// To this node's own batcher.
    Local(Batcher),
    /// To the node that leads.
    Remote(u64),
    /// To a node that may lead, or else know who does.
    Guess(Pick<u64>),
    /// Nobody is known to lead at the moment.
    Unknown,
}

/// Finds leaders: from the local replica, else from what other nodes answered, else by asking the
/// nodes that hold replicas, as `write.balance` says.
pub struct Leaders {
    shards: Arc<Shards>,
    view: Arc<CurrentView>,
    peers: Arc<Peers>,
    hints: RwLock<HashMap<u32, u64>>,
    balancer: Mutex<Balancer<u64>>,
    started: Instant,
}

impl Leaders {
    /// Over the local replicas and the current placement; `policy` chooses whom to ask for a leader.
    pub fn new(shards: Arc<Shards>, view: Arc<CurrentView>, peers: Arc<Peers>, policy: Policy) -> Leaders {
        let mut balancer = Balancer::new(policy, BackoffOptions::default());
        balancer.set_targets(peers.nodes().iter().map(|n| (n.id, n.weight)));
        Leaders {
            shards,
            view,
            peers,
            hints: RwLock::default(),
            balancer: Mutex::new(balancer),
            started: Instant::now(),
        }
    }

    /// Whom to give a part to. `attempt` counts the tries for it.
    pub fn find(&self, shard: u32, attempt: u32) -> Leader {
        if let Some(replica) = self.in_touch(shard) {
            if replica.leads() {
                return self.shards.batcher(shard).map_or(Leader::Unknown, Leader::Local);
            }
            match self.local_knowledge(shard) {
                Some(node) if node != self.peers.own() => return Leader::Remote(node),
                _ if attempt < PATIENCE => return Leader::Unknown,
                _ => {}
            }
        }
        if let Some(node) = self.hinted(shard) {
            return Leader::Remote(node);
        }
        self.guess(shard).map_or(Leader::Unknown, Leader::Guess)
    }

    fn guess(&self, shard: u32) -> Option<Pick<u64>> {
        let view = self.view.get()?;
        let group = view.groups.get(&shard)?;
        let own = self.peers.own();
        let holds = |node: &u64| *node != own && group.on(*node).is_some();
        let mut balancer = self.balancer.lock();
        if group
            .replicas
            .iter()
            .any(|r| !balancer.targets().any(|known| *known == r.node))
        {
            balancer.set_targets(view.nodes.values().map(|n| (n.id, n.weight)));
        }
        balancer.pick_among(self.now_ms(), holds)
    }

    /// Says whether the node of a [`Leader::Guess`] answered at all.
    pub fn guessed(&self, pick: &Pick<u64>, answered: bool) {
        let now_ms = self.now_ms();
        let mut balancer = self.balancer.lock();
        match answered {
            true => balancer.succeeded(pick),
            false => balancer.failed(pick, now_ms, rand::random()),
        }
    }

    /// The leading node of a shard, when the local replica or an earlier answer tells.
    pub fn node(&self, shard: u32) -> Option<u64> {
        self.local_knowledge(shard).or_else(|| self.hinted(shard))
    }

    /// Like [`Leaders::node`], or else a node that may know.
    pub fn node_or_guess(&self, shard: u32) -> Option<u64> {
        self.node(shard)
            .or_else(|| self.guess(shard).map(|pick| pick.target))
    }

    /// For how long the local replica heard of no majority of its group, if that is too long.
    pub fn lost(&self, shard: u32) -> Option<Duration> {
        self.shards.get(shard)?.group().quorum_lost()
    }

    /// The error of a shard that is [lost](Leaders::lost).
    pub fn no_quorum(shard: u32, lost: Duration) -> ApiError {
        let what = format!("shard {shard}: no majority of its replicas was heard of for {lost:.1?}");
        ApiError::new(ErrorCode::NoQuorum, what)
    }

    /// Waits until a part that was given to another node is not worth waiting for: the local replica
    /// lost its quorum meanwhile; or it had before, and the other node was a guess.
    pub async fn given_up(&self, shard: u32) {
        match self.shards.get(shard) {
            Some(replica) if replica.group().quorum_lost().is_none() => {
                replica.group().until_quorum_lost().await;
            }
            Some(_) => tokio::time::sleep(GUESS_TIMEOUT).await,
            None => std::future::pending().await,
        }
    }

    /// Whether a shard has a leader that, as far as this node can tell, does its work.
    pub fn works(&self, shard: u32) -> bool {
        // A replica that is in touch with its group heard of its leader just now.
        let known = || self.hinted(shard).is_some_and(|node| self.peers.reachable(node));
        self.local_knowledge(shard).is_some() || known()
    }

    /// Takes a peer's word for who leads; `None` forgets what was known.
    pub fn hint(&self, shard: u32, node: Option<u64>) {
        match node {
            Some(node) => self.hints.write().insert(shard, node),
            None => self.hints.write().remove(&shard),
        };
    }

    /// Waits until the local replica, if it is in touch, knows of another leader of `shard` than `node`. A leader that is cut
    /// off answers nothing; its followers elect another long before a request's time is up.
    pub async fn moved_from(&self, shard: u32, node: u64) {
        let led_there = self.view.get().and_then(|v| v.groups.get(&shard)?.on(node));
        match (self.in_touch(shard), led_there) {
            (Some(replica), Some(leader)) => replica.led_by_another(leader).await,
            _ => std::future::pending().await,
        }
    }

    /// The local replica, if it belongs to a working quorum and its disk works: else what it knows may
    /// be long over.
    fn in_touch(&self, shard: u32) -> Option<Arc<ShardReplica>> {
        let replica = self.shards.get(shard)?;
        (!self.shards.stalled() && replica.group().quorum_lost().is_none()).then_some(replica)
    }

    /// What another node said. Not that this node leads: it knows better.
    fn hinted(&self, shard: u32) -> Option<u64> {
        let node = self.hints.read().get(&shard).copied();
        node.filter(|node| *node != self.peers.own())
    }

    fn local_knowledge(&self, shard: u32) -> Option<u64> {
        let replica = self.in_touch(shard)?;
        let leader = replica.leader()?;
        if leader == replica.replica() {
            return Some(self.peers.own());
        }
        self.view.get()?.node_of(shard, leader)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::cluster::meta::test_cluster;
    use crate::cluster::{Gate, View};
    use crate::config::WriteConfig;
    use crate::write::BatchLimits;

    /// Node 9 holds no replica; nodes 1 to 3 hold shard 1.
    fn leaders(policy: Policy) -> Leaders {
        let mut cluster = test_cluster();
        cluster.nodes.get_mut(&1).unwrap().weight = 2.0;
        let mut own = cluster.nodes[&1].clone();
        own.id = 9;
        let peers = Peers::new(9, [own]);
        let view = Arc::new(CurrentView::default());
        view.set(Arc::new(View::new(&cluster).unwrap()));
        let limits = BatchLimits::new(&WriteConfig::default());
        let shards = Shards::new(limits, Arc::new(Gate::new(Arc::new(SystemClock))));
        Leaders::new(shards, view, peers, policy)
    }

    fn guesses(leaders: &Leaders, count: usize) -> Vec<u64> {
        let guess = |attempt: usize| match leaders.find(1, attempt as u32) {
            Leader::Guess(pick) => {
                leaders.guessed(&pick, true);
                pick.target
            }
            _ => panic!("nothing is known"),
        };
        let mut targets: Vec<u64> = (0..count).map(guess).collect();
        targets.sort_unstable();
        targets
    }

    #[test]
    fn without_any_knowledge_holders_are_asked_by_policy() {
        assert_eq!(guesses(&leaders(Policy::RoundRobin), 6), [1, 1, 2, 2, 3, 3]);
        assert_eq!(guesses(&leaders(Policy::Weighted), 8), [1, 1, 1, 1, 2, 2, 3, 3]);
        assert!(matches!(leaders(Policy::RoundRobin).find(7, 0), Leader::Unknown));
    }

    #[test]
    fn holders_that_do_not_answer_are_avoided() {
        let leaders = leaders(Policy::RoundRobin);
        let Leader::Guess(first) = leaders.find(1, 0) else {
            panic!("nothing is known")
        };
        leaders.guessed(&first, false);
        let others = guesses(&leaders, 4);
        assert!(
            !others.contains(&first.target),
            "{others:?} after {first:?} failed"
        );
    }

    #[test]
    fn a_hint_holds_until_it_is_taken_back() {
        let leaders = leaders(Policy::RoundRobin);
        leaders.hint(1, Some(2));
        assert!(matches!(leaders.find(1, 0), Leader::Remote(2)));
        assert_eq!(leaders.node(1), Some(2));
        assert!(!leaders.works(1), "node 2 never answered");
        leaders.hint(1, None);
        assert!(matches!(leaders.find(1, 0), Leader::Guess(_)));
        assert_eq!(leaders.node(1), None);
    }
}
