//! A clock that is wrong: a year ahead, a year behind, or of another speed. One node at a time, so that the
//! median of the cluster's clocks is right and the node with the wrong one can know.

use anyhow::Result;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::claims::Claim;
use super::fault::Fault;
use super::scene::Scene;
use crate::bed::Clock;

const SECOND_MS: i64 = 1_000;
const HOUR_MS: i64 = 3_600 * SECOND_MS;
const YEAR_MS: i64 = 365 * 24 * HOUR_MS;
/// Jumps, in milliseconds; mostly a year. Half a minute is within what a node may be off.
const JUMPS_MS: [i64; 4] = [YEAR_MS, YEAR_MS, HOUR_MS, 30 * SECOND_MS];
/// Speeds of a drifting clock.
const RATES: [f64; 4] = [0.8, 0.95, 1.05, 1.5];

/// The clock of a node is wrong.
pub(super) struct WrongClock {
    victim: u64,
    clock: Clock,
    what: String,
}

impl WrongClock {
    /// It jumps, in the direction of `sign`.
    pub(super) fn jump(scene: &Scene<'_>, rng: &mut StdRng, sign: i64) -> WrongClock {
        let offset_ms = sign * JUMPS_MS.choose(rng).copied().unwrap_or(YEAR_MS);
        WrongClock {
            victim: scene.some_leader(rng),
            clock: Clock {
                offset_ms,
                rate: 1.0,
                monotonic_too: false,
            },
            what: format!("{:+} s", offset_ms / SECOND_MS),
        }
    }

    /// It runs fast or slow; sometimes the clock that timers use does, too.
    pub(super) fn drift(scene: &Scene<'_>, rng: &mut StdRng) -> WrongClock {
        let rate = RATES.choose(rng).copied().unwrap_or(1.5);
        let monotonic_too = rng.random_bool(0.5);
        let timers = if monotonic_too {
            "timers too"
        } else {
            "timers right"
        };
        WrongClock {
            victim: scene.some_leader(rng),
            clock: Clock {
                offset_ms: 0,
                rate,
                monotonic_too,
            },
            what: format!("×{rate}, {timers}"),
        }
    }
}

impl Fault for WrongClock {
    fn victims(&self) -> Vec<u64> {
        vec![self.victim]
    }

    fn detail(&self) -> String {
        self.what.clone()
    }

    fn claims(&self) -> Vec<Claim> {
        vec![Claim::Clocks]
    }

    fn begin(&mut self, scene: &Scene<'_>) -> Result<()> {
        scene.bed.clock(self.victim, self.clock)
    }

    fn end(&mut self, scene: &Scene<'_>) -> Result<()> {
        scene.bed.clock(self.victim, Clock::TRUE)
    }
}
