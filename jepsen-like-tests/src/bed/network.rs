//! The wire between nodes and clients, in either form.

use anyhow::{Result, bail};

use super::bridge::Bridge;
use super::names::Names;
use super::switch::Switch;
use super::{Disturbance, Peer, Wire, command};

#[derive(Debug)]
pub(super) enum Network {
    Bridge(Bridge),
    Switch(Switch),
}

impl Network {
    /// Makes a namespace for each node and connects them.
    pub(super) fn create(names: &Names, nodes: &[u64], wire: Wire, seed: u64) -> Result<Network> {
        Ok(match wire {
            Wire::Bridge => Network::Bridge(Bridge::create(names, nodes)?),
            Wire::Switch => Network::Switch(Switch::create(names, nodes, seed)?),
        })
    }

    pub(super) fn cut(&self, pairs: &[(Peer, Peer)]) -> Result<()> {
        match self {
            Network::Bridge(bridge) => bridge.cut(pairs),
            Network::Switch(switch) => switch.cut(pairs),
        }
    }

    pub(super) fn heal(&self, pairs: &[(Peer, Peer)]) -> Result<()> {
        match self {
            Network::Bridge(bridge) => bridge.heal(pairs),
            Network::Switch(switch) => switch.heal(pairs),
        }
    }

    pub(super) fn heal_all(&self) -> Result<()> {
        match self {
            Network::Bridge(bridge) => bridge.heal_all(),
            Network::Switch(switch) => switch.heal_all(),
        }
    }

    pub(super) fn set_link(&self, node: u64, up: bool) -> Result<()> {
        match self {
            Network::Bridge(bridge) => bridge.set_link(node, up),
            Network::Switch(switch) => switch.set_link(node, up),
        }
    }

    pub(super) fn disturb(&self, links: Disturbance) -> Result<()> {
        match self {
            Network::Bridge(_) => bail!("a bridge disturbs nothing: ask for Wire::Switch"),
            Network::Switch(switch) => switch.disturb(links),
        }
    }

    pub(super) fn calm(&self) {
        if let Network::Switch(switch) = self {
            switch.calm();
        }
    }

    /// Ends what the orchestrator runs for it.
    pub(super) fn stop(&self) {
        if let Network::Switch(switch) = self {
            switch.stop();
        }
    }
}

/// Sets up the inner end of a node's link, called `eth0`. Neighbours are fixed, so that a cut is silent: with ARP,
/// the kernel would notice it and tell the node.
pub(super) fn set_up_inner_end(names: &Names, node: u64, nodes: &[u64]) -> Result<()> {
    let mut batch = format!(
        "link set lo up\nlink set eth0 addrgenmode none\naddr add {}/24 dev eth0\nlink set eth0 up\n",
        names.node_address(node)
    );
    for peer in nodes.iter().filter(|peer| **peer != node) {
        batch.push_str(&neighbour(
            &names.node_address(*peer),
            names.hardware_address(Some(*peer)),
            "eth0",
        ));
    }
    batch.push_str(&neighbour(
        &names.clients_address(),
        names.hardware_address(None),
        "eth0",
    ));
    // Not `ip -netns`: it would have copies of all mounts for a moment, and keep disks from being unmounted.
    let namespace = format!("--net={}", names.namespace_path(node).display());
    command::feed("nsenter", &[&namespace, "--", "ip", "-batch", "-"], &batch).map(|_| ())
}

/// Commands for `ip -batch` that set up the orchestrator's end.
pub(super) fn outer_end(names: &Names, nodes: &[u64]) -> String {
    let device = names.bridge();
    let mut batch = format!(
        "link set {device} addrgenmode none\naddr add {}/24 dev {device}\nlink set {device} up\n",
        names.clients_address()
    );
    for node in nodes {
        batch.push_str(&neighbour(
            &names.node_address(*node),
            names.hardware_address(Some(*node)),
            &device,
        ));
    }
    batch
}

fn neighbour(address: &str, hardware_address: [u8; 6], device: &str) -> String {
    format!(
        "neigh add {address} lladdr {} nud permanent dev {device}\n",
        super::names::in_hex(hardware_address)
    )
}
