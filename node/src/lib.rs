//! The quorate node: configuration, frontends, and the assembly of log, storage and query into one
//! process.

pub mod cli;
pub mod clock;
pub mod collector;
pub mod config;
pub mod dev;
mod duration;
pub mod http;
pub mod inflight;
pub mod metrics;
pub mod server;
