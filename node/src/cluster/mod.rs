//! What makes nodes a cluster: identity, formation, the meta group, peers, the Raft transport, and the
//! loops that keep groups as the meta state wants them.

mod announce;
mod append_links;
mod clock_anchor;
mod control_links;
mod formation;
mod framed;
mod gather;
mod health;
mod identity;
pub mod meta;
mod peers;
mod readiness;
mod reconcile;
mod supervisor;
mod transport;
mod view;

pub use announce::announce;
pub use formation::{Binding, bind_peers, form, hello, say_goodbye};
pub(crate) use gather::Gather;
pub use health::{Gate, watch_clock, watch_disk};
pub use identity::{DataDir, Identity, IdentityError};
pub use meta::{ClusterLimits, MetaMachine, NodeInfo};
pub use peers::{
    CONNECTION_WINDOW_BYTES, MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, Peers, Purpose, STREAM_WINDOW_BYTES,
};
pub use readiness::Readiness;
pub use reconcile::{hand_over, missing_limits, reconcile};
pub use supervisor::{MetaReplica, Supervisor, SupervisorParts, open_meta, report_leader};
pub use transport::Transport;
pub use view::{CurrentView, View};
