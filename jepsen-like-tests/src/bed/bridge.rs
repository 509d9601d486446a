//! The kernel's bridge: fast, and cut by packet filters at its ports. What is cut is lost without a word, on
//! connections that exist as well.

use std::fmt::Write as _;

use anyhow::Result;

use super::names::{Names, in_hex};
use super::network::{outer_end, set_up_inner_end};
use super::{Peer, command};

#[derive(Debug)]
pub(super) struct Bridge {
    names: Names,
    nodes: Vec<u64>,
}

impl Bridge {
    pub(super) fn create(names: &Names, nodes: &[u64]) -> Result<Bridge> {
        let bridge = Bridge {
            names: names.clone(),
            nodes: nodes.to_vec(),
        };
        let device = names.bridge();
        let mut outer = format!(
            "link add name {device} address {} type bridge forward_delay 0 mcast_snooping 0\n",
            in_hex(names.hardware_address(None))
        );
        for node in nodes {
            command::run("ip", &["netns", "add", &names.namespace(*node)])?;
            let (port, namespace) = (names.port(*node), names.namespace(*node));
            let _infallible = writeln!(
                outer,
                "link add name {port} type veth peer name eth0 address {} netns {namespace}\n\
                 link set {port} addrgenmode none master {device} up",
                in_hex(names.hardware_address(Some(*node)))
            );
        }
        outer.push_str(&outer_end(names, nodes));
        command::feed("ip", &["-batch", "-"], &outer)?;
        for node in nodes {
            set_up_inner_end(names, *node, nodes)?;
        }
        bridge.nft(&format!(
            "table bridge {} {{\n\
             set pairs {{ type ifname . ifname; }}\n\
             set from_nodes {{ type ifname; }}\n\
             set to_nodes {{ type ifname; }}\n\
             chain between {{ type filter hook forward priority 0; policy accept; iifname . oifname @pairs drop; }}\n\
             chain incoming {{ type filter hook input priority 0; policy accept; iifname @from_nodes drop; }}\n\
             chain outgoing {{ type filter hook output priority 0; policy accept; oifname @to_nodes drop; }}\n\
             }}\n",
            names.table()
        ))?;
        Ok(bridge)
    }

    pub(super) fn cut(&self, pairs: &[(Peer, Peer)]) -> Result<()> {
        self.change("add", pairs)
    }

    pub(super) fn heal(&self, pairs: &[(Peer, Peer)]) -> Result<()> {
        // Deleting what isn't there would be refused.
        self.change("add", pairs)?;
        self.change("delete", pairs)
    }

    /// Heals cuts and brings links up.
    pub(super) fn heal_all(&self) -> Result<()> {
        let table = self.names.table();
        let sets = ["pairs", "from_nodes", "to_nodes"];
        let script: String = sets
            .iter()
            .map(|set| format!("flush set bridge {table} {set}\n"))
            .collect();
        self.nft(&script)?;
        self.nodes.iter().try_for_each(|node| self.set_link(*node, true))
    }

    pub(super) fn set_link(&self, node: u64, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        command::run("ip", &["link", "set", &self.names.port(node), state]).map(|_| ())
    }

    fn change(&self, verb: &str, pairs: &[(Peer, Peer)]) -> Result<()> {
        let table = self.names.table();
        let mut script = String::new();
        for pair in pairs {
            let (set, element) = match pair {
                (Peer::Node(from), Peer::Node(to)) => (
                    "pairs",
                    format!("\"{}\" . \"{}\"", self.names.port(*from), self.names.port(*to)),
                ),
                (Peer::Node(from), Peer::Clients) => {
                    ("from_nodes", format!("\"{}\"", self.names.port(*from)))
                }
                (Peer::Clients, Peer::Node(to)) => ("to_nodes", format!("\"{}\"", self.names.port(*to))),
                (Peer::Clients, Peer::Clients) => continue,
            };
            let _infallible = writeln!(script, "{verb} element bridge {table} {set} {{ {element} }}");
        }
        self.nft(&script)
    }

    /// All of it or nothing.
    fn nft(&self, script: &str) -> Result<()> {
        if script.is_empty() {
            return Ok(());
        }
        command::feed("nft", &["-f", "-"], script).map(|_| ())
    }
}
