//! A seeded simulation of the replicated core: production's `raft-log`, its log device, and production's
//! `storage`, over a network and disks that fail, in virtual time, on one thread.
//!
//! A seed gives a [`plan`]: faults, clients, conditions. A [`run`](run::run()) carries it out in a [`world`] of
//! nodes. Every task belongs to a process that can end between any two of its polls ([`runtime`]). While it
//! runs, an [`observer`] checks invariants at every step against a plain [`model`] of what a shard must hold.
//! In the end everything is healed, must serve again, and is read from end to end, twice. What fails is
//! [shrunk](shrink).
//!
//! What it can't see stands in `docs/adr/0005-simulated-core.md`.

pub mod clients;
pub mod command;
pub mod disk;
pub mod machine;
pub mod model;
pub mod nemesis;
pub mod network;
pub mod node;
pub mod observer;
pub mod plan;
pub mod random;
pub mod run;
pub mod runtime;
pub mod seeds;
pub mod series;
pub mod shrink;
pub mod trace;
pub mod world;
