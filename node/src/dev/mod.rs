//! `quorate dev`: a whole cluster on this machine, for trying things out and for tests.
//!
//! One supervising process starts a `quorate server` for each node, on loopback, with everything
//! under one directory. It holds that directory's lock, answers `quorate dev restart` on a Unix
//! socket there, and its nodes die with it, however it dies.

mod command;
mod control;
mod directory;
mod node;
mod ports;
mod ready;
mod show;
mod supervise;

pub use command::{DevArgs, run};
pub use directory::{ClusterFile, NodeEntry, default_dir, running_cluster};
