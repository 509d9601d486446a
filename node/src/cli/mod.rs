//! The subcommands of `quorate` besides `server` and `dev`.

mod chart;
pub mod check;
pub mod cluster;
mod connect;
pub mod export;
pub mod import;
mod json;
pub mod labels;
mod limits;
mod offline;
pub mod promqltest;
pub mod query;
pub mod raft_log;
pub mod series;
pub mod storage;
mod table;
mod time;
pub mod tsdb;
pub mod write;
