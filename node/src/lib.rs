//! The quorate node: configuration, frontends, and the assembly of log, storage and query into one
//! process.

pub mod api;
mod bootstrap;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod collector;
pub mod config;
pub mod dev;
mod duration;
mod figures;
mod frontend;
pub mod grpc;
pub mod http;
pub mod inflight;
pub mod metrics;
pub mod node;
pub mod raft;
pub mod read;
pub mod server;
mod settings;
pub mod shards;
pub mod write;

/// The one database of a node.
pub type Db = rocksdb::DBWithThreadMode<rocksdb::MultiThreaded>;
