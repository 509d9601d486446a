//! What the configuration takes, and every way to get it wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use super::slot::{Item, Visit};
use super::*;

fn read(text: &str) -> Result<Loaded, Vec<Mistake>> {
    load(&Sources {
        file: Some(("q.yaml", text)),
        ..Sources::default()
    })
}

/// A single node, to which tests add what they are about.
const ONE: &str = "node_id: 1\nreplication_factor: 1\n";

fn mistakes(text: &str) -> Vec<String> {
    read(text)
        .err()
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn the_example_is_right_and_equals_the_defaults() {
    let text = include_str!("../../../deploy/quorate.example.yaml");
    assert!(
        text == example(),
        "the example is out of date: write it with `quorate check example`"
    );
    let loaded = read(text).unwrap();
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.config.peers.0.len(), 3);
    let defaults = Config {
        node_id: loaded.config.node_id,
        peers: loaded.config.peers.clone(),
        ..Config::default()
    };
    assert_eq!(loaded.config, defaults);
    let keys = super::load::keys();
    assert_eq!(loaded.origins.len(), keys.len());
}

#[test]
fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
    let environment = |name: &str| match name {
        "QUORATE_WRITE_BALANCE" => Some("weighted".to_string()),
        "QUORATE_SHARDS" => Some("16".to_string()),
        "QUORATE_HTTP_LISTEN" => Some("127.0.0.1:1".to_string()),
        _ => None,
    };
    let text = format!("{ONE}shards: 32\nread:\n  timeout: 5s\n  lookback: 1m\nhttp_listen: 127.0.0.1:2\n");
    let flags = BTreeMap::from([
        ("shards".into(), "64".into()),
        ("read.timeout".into(), "7s".into()),
    ]);
    let sources = Sources {
        file: Some(("q.yaml", &text)),
        environment: Some(&environment),
        flags,
    };
    let loaded = load(&sources).unwrap();
    let config = &loaded.config;
    assert_eq!(config.shards, 64);
    assert_eq!(config.read.timeout, Duration::from_secs(7));
    assert_eq!(config.http_listen.port(), 1);
    assert_eq!(config.write.balance, Balance::Weighted);
    assert_eq!(config.read.lookback, Duration::from_secs(60));
    assert_eq!(config.spread, 1);
    assert_eq!(
        loaded.origins.get("shards"),
        Some(&Origin::Flag("--shards".into()))
    );
    assert_eq!(
        loaded.origins.get("write.balance"),
        Some(&Origin::Environment("QUORATE_WRITE_BALANCE".into()))
    );
    let lookback = Origin::File {
        file: "q.yaml".into(),
        line: 6,
        column: 3,
    };
    assert_eq!(loaded.origins.get("read.lookback"), Some(&lookback));
}

#[test]
fn a_node_alone_is_its_own_cluster() {
    let config = read(ONE).unwrap().config;
    let nodes = config.cluster_nodes();
    assert_eq!(
        nodes
            .iter()
            .map(|node| (node.id, node.grpc.to_string()))
            .collect::<Vec<_>>(),
        [(1, "127.0.0.1:7401".into())]
    );
    assert_eq!(config.advertised_http().to_string(), "127.0.0.1:7400");
}

#[test]
fn peers_say_where_this_node_is_reached() {
    let text = "node_id: 2\ninsecure: true\nhttp_listen: 0.0.0.0:7400\ngrpc_listen: 0.0.0.0:7401\n\
                peers:\n- {id: 1, grpc: a:1}\n- {id: 2, grpc: b:2, http: b:3, zone: z, weight: 2.5}\n- {id: 3, grpc: \"[::1]:4\"}\n";
    let config = read(text).unwrap().config;
    assert_eq!(config.advertised_grpc().to_string(), "b:2");
    assert_eq!(config.advertised_http().to_string(), "b:3");
    assert_eq!((config.zone().as_str(), config.weight()), ("z", 2.5));
    let nodes = config.cluster_nodes();
    assert_eq!(nodes.iter().map(|node| node.id).collect::<Vec<_>>(), [1, 2, 3]);
    let flags = BTreeMap::from([("peers".into(), "1=a:1, 2=b:2,3=c:3".into())]);
    let sources = Sources {
        file: Some(("q.yaml", text)),
        flags,
        ..Sources::default()
    };
    assert!(
        load(&sources).is_err(),
        "the short form names no http address to advertise"
    );
}

#[test]
fn all_mistakes_are_reported_at_once_in_file_order() {
    let text = "\
node_id: one
data_dir: /tmp/q
htp_listen: 127.0.0.1:1
grpc_listen: localhost:7401
replication_factor: 5
peers:
  - id: 1
    grpc: 0.0.0.0:7401
  - id: 2
  - id: 2
    grpc: b:7401
    port: 5
write:
  balance: fair
  linger: 30s
  max_request_bytes: 32 apples
raft: fast
limits:
  retention: 10m
  retention: 20d
";
    assert_eq!(
        mistakes(text),
        [
            "q.yaml:1:10: node_id: expected a whole number from 0 to 18446744073709551615, found `one`",
            "q.yaml:3:1: htp_listen: unknown key, expected perhaps http_listen",
            "q.yaml:4:14: grpc_listen: expected an IP address and port like 127.0.0.1:7400 or [::]:7400, found `localhost:7401`",
            "q.yaml:8:11: peers[0].grpc: expected an address that others can dial, like quorate-1.example.com:7401 or 10.0.0.1:7401, found `0.0.0.0:7401`: 0.0.0.0 is every address, nobody can dial it",
            "q.yaml:9:5: peers[1].grpc: missing, expected an address that others can dial, like quorate-1.example.com:7401 or 10.0.0.1:7401",
            "q.yaml:12:5: peers[2].port: unknown key, expected id, grpc, http, zone or weight",
            "q.yaml:14:12: write.balance: expected round_robin or weighted, found `fair`",
            "q.yaml:15:3: write.linger: expected write.linger to be less than write.request_timeout, found 30s (q.yaml:15:3) and 10s (default)",
            "q.yaml:16:22: write.max_request_bytes: expected a size like 64MiB, 1GiB or 500MB, found `32 apples`",
            "q.yaml:17:7: raft: expected a mapping of keys, found a single value",
            "q.yaml:19:3: limits.retention: expected at least 1h, found 10m",
            "q.yaml:19:3: limits.retention: expected flush.interval to be less than limits.retention, found 15m (default) and 10m (q.yaml:19:3)",
            "q.yaml:19:3: limits.retention: expected limits.ooo_window to be less than limits.retention, found 30m (default) and 10m (q.yaml:19:3)",
            "q.yaml:20:3: limits.retention: expected once, found again after line 19",
        ]
    );
}

#[test]
fn each_contradiction_is_named_with_its_line() {
    let peers = "peers: [{id: 1, grpc: a:1}, {id: 2, grpc: b:1}, {id: 3, grpc: c:1}]\ninsecure: true\ngrpc_listen: 10.0.0.1:7401\n";
    let cases: &[(&str, &str, &str)] = &[
        // Added to ONE, so the first added line is 3.
        (
            "",
            "node_id: 0\n",
            "q.yaml:1:1: node_id: expected a whole number from 1, found 0",
        ),
        (
            "",
            "replication_factor: 1\n",
            "node_id: missing, expected this node's number, from 1",
        ),
        (
            "",
            "node_id: 4\n",
            "q.yaml:2:1: peers: expected this node, node_id 4, among the peers, found 1, 2, 3",
        ),
        (
            ONE,
            "http_listen: 0.0.0.0:80\ninsecure: true\n",
            "q.yaml:3:1: http_listen: expected http_advertise, or this node in peers",
        ),
        (
            ONE,
            "http_listen: 10.0.0.1:80\n",
            "q.yaml:3:1: http_listen: expected a loopback address, or insecure: true",
        ),
        (
            ONE,
            "grpc_advertise: 0.0.0.0:80\n",
            "q.yaml:3:17: grpc_advertise: expected an address that others can dial",
        ),
        (
            ONE,
            "http_listen: 127.0.0.1:7401\n",
            "q.yaml:3:1: http_listen: expected another port than that of http_listen",
        ),
        (
            ONE,
            "weight: -1\n",
            "q.yaml:3:1: weight: expected a number above 0, found -1",
        ),
        (
            ONE,
            "weight: .nan\n",
            "q.yaml:3:9: weight: expected a number, found `.nan`",
        ),
        (
            ONE,
            "shards: 0\n",
            "q.yaml:3:1: shards: expected a whole number from 1 to 1024, found 0",
        ),
        (
            ONE,
            "insecure: yes please\n",
            "q.yaml:3:11: insecure: expected true or false, found `yes please`",
        ),
        (
            ONE,
            "log_level: loud\n",
            "q.yaml:3:12: log_level: expected off, error",
        ),
        (
            ONE,
            "zone: [a]\n",
            "q.yaml:3:7: zone: expected text, found a list",
        ),
        (
            ONE,
            "shutdown_timeout:\n",
            "q.yaml:3:17: shutdown_timeout: expected a duration like 300ms, 10s, 1h30m or 15d, found nothing",
        ),
        (
            ONE,
            "raft: {heartbeat_interval: 200ms}\n",
            "q.yaml:3:8: raft.heartbeat_interval: expected at least twice raft.heartbeat_interval, 200ms (q.yaml:3:8)",
        ),
        (
            ONE,
            "raft:\n  election_timeout_max: 250ms\n",
            "q.yaml:4:3: raft.election_timeout_max: expected raft.election_timeout_min to be less than raft.election_timeout_max, found 250ms (default) and 250ms",
        ),
        (
            ONE,
            "raft:\n  quorum_timeout: 374ms\n",
            "q.yaml:4:3: raft.quorum_timeout: expected raft.election_timeout_max to be at most raft.quorum_timeout, found 375ms (default) and 374ms",
        ),
        (
            ONE,
            "raft:\n  disk_stall_abort: 5s\n",
            "q.yaml:4:3: raft.disk_stall_abort: expected raft.disk_stall_timeout to be less than raft.disk_stall_abort",
        ),
        (
            ONE,
            "write:\n  request_timeout: 300ms\n",
            "q.yaml:4:3: write.request_timeout: expected raft.election_timeout_max to be less than write.request_timeout",
        ),
        (
            ONE,
            "write:\n  max_decompressed_bytes: 16MiB\n",
            "q.yaml:4:3: write.max_decompressed_bytes: expected write.max_request_bytes to be at most write.max_decompressed_bytes",
        ),
        (
            ONE,
            "write:\n  max_bytes_in_flight: 64MiB\n",
            "q.yaml:4:3: write.max_bytes_in_flight: expected room for one largest request, compressed and decompressed, 96MiB, found 64MiB",
        ),
        (
            ONE,
            "read:\n  max_concurrent: 0\n",
            "q.yaml:4:3: read.max_concurrent: expected at least 1, found 0",
        ),
        (
            ONE,
            "read:\n  level: strong\n",
            "q.yaml:4:10: read.level: expected linearizable, bounded or local, found `strong`",
        ),
        (
            ONE,
            "flush:\n  log_bytes: 1KiB\n",
            "q.yaml:4:3: flush.log_bytes: expected write.batch_bytes to be at most flush.log_bytes",
        ),
        (
            ONE,
            "limits:\n  retention: 10m\n",
            "q.yaml:4:3: limits.retention: expected limits.ooo_window to be less than limits.retention",
        ),
        (
            ONE,
            "limits:\n  colour: red\n",
            "q.yaml:4:3: limits.colour: unknown key, expected one of limits.ooo_window, limits.retention",
        ),
        (
            ONE,
            "peers: {a: b}\n",
            "q.yaml:3:8: peers: expected a list, each item a mapping with id, grpc",
        ),
        (
            ONE,
            "peers: [1]\n",
            "q.yaml:3:9: peers[0]: expected a mapping with id, grpc and, if wanted, http, zone and weight, found a single value",
        ),
        (
            ONE,
            "peers: [{id: 0, grpc: a:1, weight: 0}]\n",
            "q.yaml:3:14: peers[0].id: expected a node id, a whole number from 1, found `0`",
        ),
        (
            ONE,
            "peers: [{id: 1, grpc: a:1}, {id: 1, grpc: b:1}]\n",
            "q.yaml:3:34: peers[1].id: expected each node once, found id 1 again",
        ),
        (
            ONE,
            "peers: [{id: 1, grpc: a:1}, {id: 2, grpc: a:1}]\n",
            "q.yaml:3:43: peers[1].grpc: expected an address of its own for each node, found a:1 again",
        ),
        (
            ONE,
            "peers: [{id: 1, grpc: 10.0.0.1:1}, {id: 2, grpc: 10.0.0.2:1}]\n",
            "q.yaml:3:1: peers: expected an address that the other peers can reach, found 127.0.0.1:7401",
        ),
        (
            "",
            "node_id: 1\nreplication_factor: 3\n",
            "q.yaml:2:1: replication_factor: expected at most the number of nodes, 1, found 3",
        ),
        (
            "- a\n",
            "",
            "q.yaml:1:1: expected a mapping of keys, found a list",
        ),
        ("a: [\n", "", "q.yaml:"),
    ];
    for (base, added, want) in cases {
        let peers = if added.contains("node_id: 4") { peers } else { "" };
        let found = mistakes(&format!("{base}{added}{peers}"));
        assert!(
            found.iter().any(|mistake| mistake.starts_with(want)),
            "{added}\nwant {want}\nfound {found:#?}"
        );
    }
    for (added, want) in [
        (
            "grpc_advertise: a:2\n",
            "grpc_advertise: expected a:1, as peers says for this node",
        ),
        ("peers: []\n", "peers: expected once, found again"),
    ] {
        let found = mistakes(&format!("node_id: 1\n{peers}{added}"));
        assert!(
            found.iter().any(|mistake| mistake.contains(want)),
            "{added} {found:#?}"
        );
    }
}

#[test]
fn mistakes_in_flags_and_variables_name_them() {
    let environment = |name: &str| (name == "QUORATE_SHARDS").then(|| "many".to_string());
    let flags = BTreeMap::from([
        ("peers".into(), "1=a:1,1=b:1".into()),
        ("read.level".into(), String::new()),
    ]);
    let text = format!("{ONE}spread: x\n");
    let sources = Sources {
        file: Some(("q.yaml", &text)),
        environment: Some(&environment),
        flags,
    };
    let found: Vec<String> = load(&sources)
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        found,
        [
            "q.yaml:3:9: spread: expected a whole number from 0 to 4294967295, found `x`",
            "QUORATE_SHARDS: shards: expected a whole number from 0 to 4294967295, found `many`",
            "--peers: peers: expected each node once, found id 1 again",
            "--read-level: read.level: expected linearizable, bounded or local, found nothing",
        ]
    );
}

#[test]
fn even_factors_are_only_warned_about() {
    let text = "node_id: 1\nreplication_factor: 2\npeers: [{id: 1, grpc: 127.0.0.1:1}, {id: 2, grpc: 127.0.0.1:2}]\n";
    let loaded = read(text).unwrap();
    let found: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        ["q.yaml:2:1: replication_factor: 2 copies survive the loss of no more nodes than 1 do"]
    );
}

#[test]
fn names_are_unique_and_every_key_is_explained() {
    let (mut flags, mut variables) = (Vec::new(), Vec::new());
    Config::default().visit("", &[], &mut |Item { path, doc, slot }| {
        assert!(path.is_empty() || !doc.is_empty(), "{path}");
        if slot.is_some() {
            flags.push(flag(path));
            variables.push(environment_variable(path));
        }
    });
    for mut names in [flags, variables] {
        let count = names.len();
        assert!(count > 45);
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}

#[test]
fn shown_values_read_back() {
    Config::default().visit("", &[], &mut |Item { path, slot, .. }| {
        let Some(slot) = slot else { return };
        let shown = slot.show();
        assert_eq!(slot.set(&shown), Ok(()), "{path}");
        assert_eq!(slot.show(), shown, "{path}");
    });
}

#[test]
fn flags_reach_their_keys() {
    use clap::{Args, FromArgMatches};
    let command = ServerArgs::augment_args(clap::Command::new("server"));
    let matches = command.try_get_matches_from([
        "server",
        "--config",
        "x.yaml",
        "--node-id=3",
        "--write-linger",
        "5ms",
        "--insecure",
        "--peers",
        "1=a:1",
    ]);
    let args = ServerArgs::from_arg_matches(&matches.unwrap()).unwrap();
    let flags: Vec<(&str, &str)> = args
        .flags
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        flags,
        [
            ("insecure", "true"),
            ("node_id", "3"),
            ("peers", "1=a:1"),
            ("write.linger", "5ms")
        ]
    );
    assert_eq!(args.config.as_deref(), Some(std::path::Path::new("x.yaml")));
    ServerArgs::augment_args(clap::Command::new("server")).debug_assert();
}
