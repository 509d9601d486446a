//! Which ports the nodes get.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context as _, ensure};

/// A node's two addresses on loopback, as `host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) http: String,
    pub(super) grpc: String,
}

/// Addresses for `nodes` nodes: from the given first ports on, else free ones.
pub(super) fn choose(
    nodes: u64,
    first_http: Option<u16>,
    first_grpc: Option<u16>,
) -> anyhow::Result<Vec<Addresses>> {
    // Held until all are chosen, so that no port is chosen twice.
    let mut held = Vec::new();
    let mut next = |first: Option<u16>, offset: u64| -> anyhow::Result<String> {
        let port = match first {
            Some(first) => u16::try_from(u64::from(first) + offset).context("the ports end at 65535")?,
            None => 0,
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .with_context(|| format!("port {port} of 127.0.0.1 is taken"))?;
        let address = listener.local_addr()?.to_string();
        held.push(listener);
        Ok(address)
    };
    ensure!(first_http != Some(0) && first_grpc != Some(0), "0 is not a port");
    let nodes = 0..nodes;
    // The given ones first: a free port must not be one of theirs.
    let mut columns = [Vec::new(), Vec::new()];
    let mut order = [(0, first_http), (1, first_grpc)];
    order.sort_by_key(|(_, first)| first.is_none());
    for (column, first) in order {
        for offset in nodes.clone() {
            columns[column].push(next(first, offset)?);
        }
    }
    let [http, grpc] = columns;
    Ok(http
        .into_iter()
        .zip(grpc)
        .map(|(http, grpc)| Addresses { http, grpc })
        .collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn free_ports_are_distinct() {
        let chosen = choose(20, None, None).unwrap();
        let all: BTreeSet<_> = chosen.iter().flat_map(|node| [&node.http, &node.grpc]).collect();
        assert_eq!(all.len(), 40);
    }

    #[test]
    fn given_ports_count_up_and_taken_ones_are_an_error() {
        let base = 20_000 + (std::process::id() % 20_000) as u16;
        let Ok(chosen) = choose(2, None, Some(base)) else {
            return;
        };
        assert_eq!(chosen[1].grpc, format!("127.0.0.1:{}", base + 1));
        let error = choose(3, Some(base), Some(base + 2)).unwrap_err();
        assert!(error.to_string().contains("is taken"), "{error}");
        assert!(choose(2, Some(65_535), None).is_err());
        assert!(choose(2, Some(0), None).is_err());
    }
}
