//! The built-in collector: this machine's figures under node_exporter's names, those of node
//! processes, and `up`, pushed to the cluster by the client.

mod gather;
mod host;
mod points;
mod proc_text;
mod process;
mod push;

pub use process::Target;
pub use push::{Collector, CollectorOptions, CollectorStats};
