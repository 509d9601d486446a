//! The simulation itself: its disks, its processes, its rules.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod disk;
mod rules;
mod runtime;
