//! Tells the meta group when this node's addresses, zone or weight are not what it has.

use std::sync::Arc;
use std::time::Duration;

use quorate_raft_log::Role;
use tokio_util::sync::CancellationToken;

use super::meta::{self, Command, NodeInfo, encode_command};
use crate::node::Node;

const ROUND: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(2);

/// Runs until cancelled: the meta state may fall behind at any time, by an announcement of an earlier
/// life of this node that was under way when it stopped.
pub async fn announce(node: Arc<Node>, own: NodeInfo, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ROUND) => {}
        }
        let known = node
            .view()
            .get()
            .and_then(|view| view.nodes.get(&own.id).cloned());
        // A node that the meta state lacks has to be admitted first.
        let Some(known) = known.filter(|known| *known != own) else {
            continue;
        };
        let command = Command::UpsertNode(own.clone());
        match propose(&node, &command).await {
            Ok(()) => tracing::info!(?known, ?own, "announced this node's new addresses"),
            Err(e) => tracing::warn!(error = e, "this node's new addresses are not announced yet"),
        }
    }
}

async fn propose(node: &Node, command: &Command) -> Result<(), String> {
    let group = &node.meta().group;
    if group.status().role == Role::Leader {
        let bytes = encode_command(command)?;
        return group
            .propose_within(bytes, TIMEOUT)
            .await
            .map(drop)
            .map_err(|e| e.to_string());
    }
    let proposed = meta::propose_remote(node.peers(), command, TIMEOUT).await;
    proposed.map(drop).map_err(|e| e.message().to_string())
}
