//! Packets that don't arrive: partitions of every shape, and a link that comes and goes.

use std::time::{Duration, Instant};

use anyhow::Result;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::claims::Claim;
use super::fault::Fault;
use super::scene::Scene;
use crate::bed::Peer;

/// How long a flapping link is up or down at a time, in milliseconds.
const FLAP_MS: std::ops::RangeInclusive<u64> = 50..=500;

/// Some pairs of peers can't reach each other.
pub(super) struct Partition {
    victims: Vec<u64>,
    what: String,
    /// From whom to whom nothing arrives.
    pairs: Vec<(Peer, Peer)>,
}

impl Partition {
    /// A node that leads is alone; the others are the majority. Clients may reach it, or not.
    pub(super) fn leader_alone(scene: &Scene<'_>, rng: &mut StdRng) -> Partition {
        Self::alone(scene, scene.some_leader(rng), "leader alone", rng)
    }

    /// A node that leads little is alone, so that the leaders of most shards are in the majority.
    pub(super) fn follower_alone(scene: &Scene<'_>, rng: &mut StdRng) -> Partition {
        let mut ids = scene.ids();
        ids.shuffle(rng);
        let least = ids.into_iter().min_by_key(|id| scene.led(*id).len());
        Self::alone(scene, least.unwrap_or(1), "follower alone", rng)
    }

    fn alone(scene: &Scene<'_>, victim: u64, what: &str, rng: &mut StdRng) -> Partition {
        let mut pairs = Vec::new();
        for other in scene.others(&[victim]) {
            pairs.extend(both_ways(Peer::Node(victim), Peer::Node(other)));
        }
        let clients_too = rng.random_bool(0.5);
        if clients_too {
            pairs.extend(both_ways(Peer::Node(victim), Peer::Clients));
        }
        let reach = if clients_too { "without" } else { "with" };
        Partition {
            victims: vec![victim],
            what: format!("{what}, {reach} its clients"),
            pairs,
        }
    }

    /// What a node that leads sends does not arrive, or nothing arrives there; the other way works.
    pub(super) fn one_way(scene: &Scene<'_>, rng: &mut StdRng) -> Partition {
        let victim = scene.some_leader(rng);
        let mut others = scene.others(&[victim]);
        others.shuffle(rng);
        if rng.random_bool(0.3) {
            others.truncate(1);
        }
        let deaf = rng.random_bool(0.5);
        let pair = |other: &u64| match deaf {
            true => (Peer::Node(*other), Peer::Node(victim)),
            false => (Peer::Node(victim), Peer::Node(*other)),
        };
        let way = if deaf { "from" } else { "to" };
        Partition {
            victims: vec![victim],
            what: format!("nothing {way} {others:?}"),
            pairs: others.iter().map(pair).collect(),
        }
    }

    /// Two nodes don't see each other, and a third one sees both.
    pub(super) fn bridge(scene: &Scene<'_>, rng: &mut StdRng) -> Partition {
        let victim = scene.some_leader(rng);
        let mut others = scene.others(&[victim]);
        others.shuffle(rng);
        others.truncate(1);
        let pairs = others
            .iter()
            .flat_map(|other| both_ways(Peer::Node(victim), Peer::Node(*other)));
        Partition {
            pairs: pairs.collect(),
            what: "don't see each other".to_owned(),
            victims: [vec![victim], others].concat(),
        }
    }

    /// Clients can't reach a node that leads, which the other nodes see as ever.
    pub(super) fn from_clients(scene: &Scene<'_>, rng: &mut StdRng) -> Partition {
        let victim = scene.some_leader(rng);
        Partition {
            victims: vec![victim],
            what: "clients can't reach it".to_owned(),
            pairs: both_ways(Peer::Node(victim), Peer::Clients).to_vec(),
        }
    }
}

fn both_ways(one: Peer, other: Peer) -> [(Peer, Peer); 2] {
    [(one, other), (other, one)]
}

impl Fault for Partition {
    fn victims(&self) -> Vec<u64> {
        self.victims.clone()
    }

    fn detail(&self) -> String {
        self.what.clone()
    }

    fn claims(&self) -> Vec<Claim> {
        vec![Claim::Cuts]
    }

    fn begin(&mut self, scene: &Scene<'_>) -> Result<()> {
        scene.bed.cut(&self.pairs)
    }

    fn end(&mut self, scene: &Scene<'_>) -> Result<()> {
        scene.bed.heal_network()
    }
}

/// A node's link goes down and up.
pub(super) struct Flapping {
    victim: u64,
    seed: u64,
    flaps: u64,
}

impl Flapping {
    pub(super) fn new(scene: &Scene<'_>, rng: &mut StdRng) -> Flapping {
        Flapping {
            victim: scene.some_node(rng),
            seed: rng.random(),
            flaps: 0,
        }
    }
}

impl Fault for Flapping {
    fn victims(&self) -> Vec<u64> {
        vec![self.victim]
    }

    fn detail(&self) -> String {
        format!("{} times", self.flaps)
    }

    fn claims(&self) -> Vec<Claim> {
        vec![Claim::Cuts]
    }

    fn begin(&mut self, _scene: &Scene<'_>) -> Result<()> {
        Ok(())
    }

    fn during(&mut self, scene: &Scene<'_>, hold: Duration) -> Result<()> {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let until = Instant::now() + hold;
        while Instant::now() < until {
            scene.bed.link_down(self.victim)?;
            self.flaps += 1;
            scene.hold(Duration::from_millis(rng.random_range(FLAP_MS)), || false);
            scene.bed.link_up(self.victim)?;
            scene.hold(Duration::from_millis(rng.random_range(FLAP_MS)), || false);
        }
        Ok(())
    }

    fn end(&mut self, scene: &Scene<'_>) -> Result<()> {
        scene.bed.link_up(self.victim)
    }
}
