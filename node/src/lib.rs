//! The quorate node: configuration, frontends, and the assembly of log, storage and query into one
//! process.

#[macro_use]
mod fault;
pub mod admin;
pub mod api;
mod bootstrap;
pub mod cardinality;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod collector;
pub mod command_line;
pub mod config;
pub mod dev;
mod duration;
mod figures;
mod frontend;
pub mod grpc;
pub mod http;
pub mod inflight;
pub mod memory;
pub mod metrics;
pub mod node;
pub mod raft;
pub mod read;
pub mod server;
mod settings;
pub mod shards;
pub mod write;

#[cfg(feature = "mutants")]
pub use fault::check as check_faults;

/// The one database of a node.
pub type Db = rocksdb::DBWithThreadMode<rocksdb::MultiThreaded>;
