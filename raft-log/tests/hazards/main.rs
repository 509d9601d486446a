//! One test per hazard of the consensus library that this crate removes. Each fails without it.

#![allow(clippy::unwrap_used)] // clippy knows test functions only, not what they call

mod durability;
mod flow;
mod leadership;
mod no_quorum;
mod stalled_device;
#[path = "../support/mod.rs"]
mod support;

use quorate_raft_log::{TokioRuntime, WriterMode};

type Rt = TokioRuntime;
const THREAD: WriterMode = WriterMode::Thread;
