//! The key `peers`: the list of nodes that form the cluster.

use super::document::{Node, Value};
use super::slot::{Item, Problem, Slot, Visit};
use super::values::{HOST_PORT, HostPort};

/// One node of the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Peer {
    /// Its `node_id`.
    pub id: u64,
    /// Where its gRPC is reached.
    pub grpc: HostPort,
    /// Where its HTTP is reached.
    pub http: Option<HostPort>,
    /// Its failure domain.
    pub zone: Option<String>,
    /// Its share of data and load, relative to the others; 1 if absent.
    pub weight: Option<f64>,
}

/// Most nodes in a configuration.
const MAX_PEERS: usize = 1_024;
const PEER: &str = "a mapping with id, grpc and, if wanted, http, zone and weight";
const NODE_ID: &str = "a node id, a whole number from 1";
const WEIGHT: &str = "a number above 0";

/// The list as configured.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Peers(pub Vec<Peer>);

impl Visit for Peers {
    fn visit(&mut self, path: &str, doc: &[&'static str], visitor: &mut dyn FnMut(Item<'_>)) {
        visitor(Item {
            path,
            doc,
            slot: Some(self),
        });
    }
}

impl Slot for Peers {
    fn set(&mut self, text: &str) -> Result<(), String> {
        let mut peers = Vec::new();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (id, grpc) = entry
                .split_once('=')
                .ok_or_else(|| format!("expected {}, found `{entry}`", self.expected()))?;
            let grpc = HostPort::parse(grpc)?;
            peers.push(Peer {
                id: node_id(id)?,
                grpc,
                http: None,
                zone: None,
                weight: None,
            });
        }
        self.0 = checked(peers)?;
        Ok(())
    }

    fn show(&self) -> String {
        let entries: Vec<String> = self
            .0
            .iter()
            .map(|peer| format!("{}={}", peer.id, peer.grpc))
            .collect();
        entries.join(",")
    }

    fn expected(&self) -> &'static str {
        "node ids and gRPC addresses like 1=10.0.0.1:7401,2=10.0.0.2:7401"
    }

    fn set_node(&mut self, node: &Node, problems: &mut Vec<Problem>) {
        let items = match &node.value {
            Value::Sequence(items) => items,
            Value::Null => return,
            Value::Scalar(text) => {
                if let Err(message) = self.set(text) {
                    problems.push(Problem::at(node, message));
                }
                return;
            }
            Value::Mapping(_) => {
                problems.push(Problem::at(
                    node,
                    format!("expected a list, each item {PEER}, found a mapping"),
                ));
                return;
            }
        };
        let before = problems.len();
        let mut peers = Vec::new();
        for (position, item) in items.iter().enumerate() {
            let mut found = Vec::new();
            peers.extend(peer(item, &mut found));
            for mut problem in found {
                problem.path = format!("[{position}]{}", problem.path);
                problems.push(problem);
            }
            repeated(&peers, position, item, problems);
        }
        if problems.len() > before {
            return;
        }
        match checked(peers) {
            Ok(peers) => self.0 = peers,
            Err(message) => problems.push(Problem::at(node, message)),
        }
    }
}

/// Reports the last of `peers` if its id or address was there before.
fn repeated(peers: &[Peer], position: usize, item: &Node, problems: &mut Vec<Problem>) {
    let Some((last, before)) = peers.split_last() else {
        return;
    };
    let place = |name: &str| {
        let Value::Mapping(entries) = &item.value else {
            return (item.line, item.column);
        };
        let entry = entries.iter().find(|(key, _)| key.name == name);
        entry.map_or((item.line, item.column), |(_, value)| (value.line, value.column))
    };
    let mut report = |name: &str, message: String| {
        let (line, column) = place(name);
        problems.push(Problem {
            path: format!("[{position}].{name}"),
            line,
            column,
            message,
        });
    };
    if before.iter().any(|peer| peer.id == last.id) {
        report(
            "id",
            format!("expected each node once, found id {} again", last.id),
        );
    }
    if before.iter().any(|peer| peer.grpc == last.grpc) {
        report(
            "grpc",
            format!(
                "expected an address of its own for each node, found {} again",
                last.grpc
            ),
        );
    }
}

/// Checks a whole list for the same things as [`repeated`], where there are no places.
fn checked(peers: Vec<Peer>) -> Result<Vec<Peer>, String> {
    if peers.len() > MAX_PEERS {
        return Err(format!(
            "expected at most {MAX_PEERS} nodes, found {}",
            peers.len()
        ));
    }
    for (position, peer) in peers.iter().enumerate() {
        let before = peers.iter().take(position);
        if before.clone().any(|other| other.id == peer.id) {
            return Err(format!("expected each node once, found id {} again", peer.id));
        }
        if before.clone().any(|other| other.grpc == peer.grpc) {
            return Err(format!(
                "expected an address of its own for each node, found {} again",
                peer.grpc
            ));
        }
    }
    Ok(peers)
}

fn node_id(text: &str) -> Result<u64, String> {
    let id = text.trim().parse::<u64>().ok().filter(|id| *id > 0);
    id.ok_or_else(|| format!("expected {NODE_ID}, found `{text}`"))
}

fn weight(text: &str) -> Result<f64, String> {
    let weight = text
        .parse::<f64>()
        .ok()
        .filter(|weight| weight.is_finite() && *weight > 0.0);
    weight.ok_or_else(|| format!("expected {WEIGHT}, found `{text}`"))
}

fn peer(item: &Node, problems: &mut Vec<Problem>) -> Option<Peer> {
    let Value::Mapping(entries) = &item.value else {
        problems.push(Problem::at(
            item,
            format!("expected {PEER}, found {}", item.kind()),
        ));
        return None;
    };
    let (mut id, mut grpc, mut http, mut zone, mut share) = (None, None, None, None, None);
    let before = problems.len();
    let mut seen: Vec<&str> = Vec::new();
    for (key, value) in entries {
        let mut problem = |node: &Node, message: String| {
            problems.push(Problem {
                path: format!(".{}", key.name),
                ..Problem::at(node, message)
            });
        };
        if seen.contains(&key.name.as_str()) {
            problem(value, "expected once, found again".into());
            continue;
        }
        seen.push(&key.name);
        let expected = match key.name.as_str() {
            "id" => NODE_ID,
            "grpc" | "http" => HOST_PORT,
            "zone" => "text",
            "weight" => WEIGHT,
            _ => {
                let message = "unknown key, expected id, grpc, http, zone or weight".to_string();
                problems.push(Problem {
                    path: format!(".{}", key.name),
                    line: key.line,
                    column: key.column,
                    message,
                });
                continue;
            }
        };
        let Some(text) = value.scalar() else {
            problem(value, format!("expected {expected}, found {}", value.kind()));
            continue;
        };
        let taken = match key.name.as_str() {
            "id" => node_id(text).map(|value| id = Some(value)),
            "grpc" => HostPort::parse(text).map(|value| grpc = Some(value)),
            "http" => HostPort::parse(text).map(|value| http = Some(value)),
            "weight" => weight(text).map(|value| share = Some(value)),
            _ => {
                zone = Some(text.to_string());
                Ok(())
            }
        };
        if let Err(message) = taken {
            problem(value, message);
        }
    }
    for (name, expected) in [("id", NODE_ID), ("grpc", HOST_PORT)] {
        if !seen.contains(&name) {
            let message = format!("missing, expected {expected}");
            problems.push(Problem {
                path: format!(".{name}"),
                ..Problem::at(item, message)
            });
        }
    }
    match (id, grpc) {
        (Some(id), Some(grpc)) if problems.len() == before => Some(Peer {
            id,
            grpc,
            http,
            zone,
            weight: share,
        }),
        _ => None,
    }
}
