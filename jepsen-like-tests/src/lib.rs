//! Black-box tests of real `quorate` processes: load, faults, and a judgement of what survived.
//!
//! A test starts a cluster ([`cluster`]), puts load on it ([`workload`]) that records every write and its
//! outcome ([`history`]), breaks things, heals them, reads everything back ([`readback`]) and judges
//! ([`checker`], [`failover`]). An outcome that is not known counts as neither stored nor lost.
//!
//! The fault suite does so on a [`bed`], where nodes have networks, disks and clocks that can be broken. A
//! [`nemesis`] breaks them by a seeded plan, a [`run`] goes from the bed to the verdict, and `src/bin/jepsen.rs` adds
//! runs up.

pub mod bed;
pub mod checker;
pub mod cluster;
pub mod failover;
pub mod history;
pub mod http;
pub mod mutants;
pub mod nemesis;
pub mod peers;
pub mod ports;
pub mod probes;
pub mod process;
pub mod prometheus;
pub mod readback;
pub mod remote_write;
pub mod report;
pub mod report_html;
pub mod run;
pub mod server;
pub mod turn;
pub mod values;
pub mod wait;
pub mod workload;
