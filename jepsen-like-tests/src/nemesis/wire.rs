//! Packets that come late, not at all, twice, or in another order.

use anyhow::Result;
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::claims::Claim;
use super::fault::Fault;
use super::scene::Scene;
use crate::bed::{Disturbance, Peer, Switched};

/// Disturbs every link, or one way of one link.
pub(super) struct Disturb {
    victims: Vec<u64>,
    disturbance: Disturbance,
    what: String,
    /// Which of the switch's figures it moves.
    figure: fn(&Switched) -> u64,
    frames: u64,
}

impl Disturb {
    /// Packets take up to a third of an election timeout longer.
    pub(super) fn delay(scene: &Scene<'_>, rng: &mut StdRng) -> Disturb {
        let (delay_ms, jitter_ms) = (rng.random_range(5..=80), rng.random_range(0..=40));
        let disturbance = Disturbance {
            delay_ms,
            jitter_ms,
            ..Disturbance::default()
        };
        Self::somewhere(
            scene,
            rng,
            disturbance,
            format!("{delay_ms} ms, ±{jitter_ms}"),
            |switched| switched.delayed,
        )
    }

    /// Packets are lost.
    pub(super) fn loss(scene: &Scene<'_>, rng: &mut StdRng) -> Disturb {
        let loss_percent = rng.random_range(2..=20);
        let disturbance = Disturbance {
            loss_percent: loss_percent.into(),
            ..Disturbance::default()
        };
        Self::somewhere(scene, rng, disturbance, format!("{loss_percent} %"), |switched| {
            switched.lost
        })
    }

    /// Packets come twice.
    pub(super) fn duplicate(scene: &Scene<'_>, rng: &mut StdRng) -> Disturb {
        let duplicate_percent = rng.random_range(10..=50);
        let disturbance = Disturbance {
            duplicate_percent: duplicate_percent.into(),
            ..Disturbance::default()
        };
        Self::somewhere(
            scene,
            rng,
            disturbance,
            format!("{duplicate_percent} %"),
            |switched| switched.duplicated,
        )
    }

    /// Packets overtake each other.
    pub(super) fn reorder(scene: &Scene<'_>, rng: &mut StdRng) -> Disturb {
        let reorder_percent = rng.random_range(10..=50);
        let disturbance = Disturbance {
            reorder_percent: reorder_percent.into(),
            delay_ms: 5,
            jitter_ms: 5,
            ..Disturbance::default()
        };
        Self::somewhere(
            scene,
            rng,
            disturbance,
            format!("{reorder_percent} %"),
            |switched| switched.reordered,
        )
    }

    fn somewhere(
        scene: &Scene<'_>,
        rng: &mut StdRng,
        disturbance: Disturbance,
        what: String,
        figure: fn(&Switched) -> u64,
    ) -> Disturb {
        if rng.random_bool(0.5) {
            return Disturb {
                victims: scene.ids(),
                what: format!("{what}, everywhere"),
                disturbance,
                figure,
                frames: 0,
            };
        }
        let from = scene.some_leader(rng);
        let others = scene.others(&[from]);
        let to = others.get(rng.random_range(0..others.len().max(1))).copied();
        let to = to.unwrap_or(from);
        Disturb {
            victims: vec![from, to],
            what: format!("{what}, from {from} to {to}"),
            figure,
            frames: 0,
            disturbance: Disturbance {
                only: Some((Peer::Node(from), Peer::Node(to))),
                ..disturbance
            },
        }
    }
}

impl Fault for Disturb {
    fn victims(&self) -> Vec<u64> {
        self.victims.clone()
    }

    fn detail(&self) -> String {
        match self.frames {
            0 => self.what.clone(),
            frames => format!("{}: {frames} frames", self.what),
        }
    }

    fn claims(&self) -> Vec<Claim> {
        vec![Claim::Wire]
    }

    fn begin(&mut self, scene: &Scene<'_>) -> Result<()> {
        self.frames = (self.figure)(&scene.bed.switched());
        scene.bed.disturb(self.disturbance)
    }

    fn was_felt(&self) -> bool {
        self.frames > 0
    }

    fn end(&mut self, scene: &Scene<'_>) -> Result<()> {
        self.frames = (self.figure)(&scene.bed.switched()) - self.frames;
        scene.bed.calm()
    }
}
