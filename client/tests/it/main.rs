//! The client against scripted in-process servers.

// A failing helper fails its test.
#![allow(clippy::unwrap_used)]

mod calls;
mod fake;
mod write_stream;
