//! A cluster in one process: real groups over disks and a network the test controls.
#![allow(clippy::unwrap_used)] // clippy knows test functions only, not what they call
#![allow(dead_code, unused_imports, unreachable_pub)] // each test binary uses its part

pub mod cluster;
pub mod machine;
pub mod network;

pub use cluster::{Cluster, GROUP};
pub use machine::{MachineDisk, TestMachine};
pub use network::Hub;
