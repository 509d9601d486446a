//! Relations between values: each alone may be right and still contradict another.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Config;
use super::load::{Mistake, Origin};
use super::slot::Slot;
use super::values::{ByteSize, HostPort};

/// What [`check`] found.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) mistakes: Vec<Mistake>,
    pub(super) warnings: Vec<Mistake>,
}

/// Judges values and their relations. Those that involve a key in `bad` are left out.
pub(super) fn check(config: &Config, origins: &BTreeMap<String, Origin>, bad: &[String]) -> Verdict {
    let mut checker = Checker {
        origins,
        bad,
        verdict: Verdict::default(),
    };
    checker.identity(config);
    checker.addresses(config);
    checker.placement(config);
    checker.raft(config);
    checker.write(config);
    checker.read(config);
    checker.storage(config);
    checker.verdict
}

struct Checker<'a> {
    origins: &'a BTreeMap<String, Origin>,
    bad: &'a [String],
    verdict: Verdict,
}

impl Checker<'_> {
    /// Reports `message` unless `holds`. It is about the first of `keys` that was given somewhere.
    fn require(&mut self, keys: &[&str], holds: bool, message: impl FnOnce() -> String) {
        if let Some(mistake) = self.judge(keys, holds, message) {
            self.verdict.mistakes.push(mistake);
        }
    }

    /// Like [`Checker::require`], for what is legal.
    fn advise(&mut self, keys: &[&str], holds: bool, message: impl FnOnce() -> String) {
        if let Some(mistake) = self.judge(keys, holds, message) {
            self.verdict.warnings.push(mistake);
        }
    }

    fn judge(&self, keys: &[&str], holds: bool, message: impl FnOnce() -> String) -> Option<Mistake> {
        if holds || keys.iter().any(|key| self.bad.iter().any(|bad| bad == key)) {
            return None;
        }
        let given = keys.iter().find_map(|key| self.origins.get_key_value(*key));
        let (key, origin) = match given {
            Some((key, origin)) => (key.clone(), origin.clone()),
            None => (
                keys.first().copied().unwrap_or_default().to_string(),
                Origin::Default,
            ),
        };
        Some(Mistake {
            origin,
            key,
            message: message(),
        })
    }

    /// Where a key was given, as an aside in a message.
    fn place(&self, key: &str) -> String {
        match self.origins.get(key) {
            Some(origin) => format!(" ({origin})"),
            None => " (default)".to_string(),
        }
    }

    /// `small` must not be above `large`, or, if `strict`, must be below it.
    fn ordered<T: PartialOrd + Slot>(&mut self, small: (&str, &T), large: (&str, &T), strict: bool) {
        let holds = if strict {
            small.1 < large.1
        } else {
            small.1 <= large.1
        };
        let relation = if strict { "less than" } else { "at most" };
        let (place_small, place_large) = (self.place(small.0), self.place(large.0));
        self.require(&[small.0, large.0], holds, || {
            format!(
                "expected {} to be {relation} {}, found {}{place_small} and {}{place_large}",
                small.0,
                large.0,
                small.1.show(),
                large.1.show(),
            )
        });
    }

    fn at_least<T: PartialOrd + Slot>(&mut self, key: &str, value: &T, least: T) {
        self.require(&[key], *value >= least, || {
            format!("expected at least {}, found {}", least.show(), value.show())
        });
    }

    fn at_most<T: PartialOrd + Slot>(&mut self, key: &str, value: &T, most: T) {
        self.require(&[key], *value <= most, || {
            format!("expected at most {}, found {}", most.show(), value.show())
        });
    }

    fn identity(&mut self, config: &Config) {
        self.require(&["node_id"], config.node_id != 0, || {
            match given(self.origins, "node_id") {
                true => "expected a whole number from 1, found 0".into(),
                false => "missing, expected this node's number, from 1".into(),
            }
        });
        let positive = config.weight.is_finite() && config.weight > 0.0;
        self.require(&["weight"], positive, || {
            format!("expected a number above 0, found {}", config.weight)
        });
        let Some(own) = config.own_peer() else {
            let listed: Vec<String> = config.peers.0.iter().map(|peer| peer.id.to_string()).collect();
            let holds = config.peers.0.is_empty() || config.node_id == 0;
            let message = || {
                format!(
                    "expected this node, node_id {}, among the peers, found {}",
                    config.node_id,
                    listed.join(", ")
                )
            };
            return self.require(&["peers", "node_id"], holds, message);
        };
        let agrees = |given: &Option<HostPort>, peer: Option<&HostPort>| match (given, peer) {
            (Some(given), Some(peer)) => given == peer,
            _ => true,
        };
        let other = |peer: Option<&HostPort>| peer.map(ToString::to_string).unwrap_or_default();
        let grpc_agrees = agrees(&config.grpc_advertise, Some(&own.grpc));
        self.require(&["grpc_advertise", "peers"], grpc_agrees, || {
            format!("expected {}, as peers says for this node, or nothing", own.grpc)
        });
        let http_agrees = agrees(&config.http_advertise, own.http.as_ref());
        self.require(&["http_advertise", "peers"], http_agrees, || {
            format!(
                "expected {}, as peers says for this node, or nothing",
                other(own.http.as_ref())
            )
        });
        let zone = own.zone.clone().unwrap_or_default();
        let zone_agrees = config.zone.is_empty() || zone.is_empty() || config.zone == zone;
        self.require(&["zone", "peers"], zone_agrees, || {
            format!(
                "expected `{zone}`, as peers says for this node, or nothing, found `{}`",
                config.zone
            )
        });
        let share = own.weight.unwrap_or(config.weight);
        let weight_agrees = !given(self.origins, "weight") || share == config.weight;
        self.require(&["weight", "peers"], weight_agrees, || {
            format!(
                "expected {share}, as peers says for this node, or nothing, found {}",
                config.weight
            )
        });
    }

    fn addresses(&mut self, config: &Config) {
        let own = config.own_peer();
        let told = [
            (
                "http_listen",
                "http_advertise",
                config.http_listen,
                own.and_then(|peer| peer.http.clone()).is_some() || config.http_advertise.is_some(),
            ),
            (
                "grpc_listen",
                "grpc_advertise",
                config.grpc_listen,
                own.is_some() || config.grpc_advertise.is_some(),
            ),
        ];
        for (listen, advertise, address, told) in told {
            self.require(&[listen, advertise, "peers"], told || !address.ip().is_unspecified(), || {
                format!("expected {advertise}, or this node in peers, to say where others reach it, since {address} is every address")
            });
            self.require(&[listen, "insecure"], config.insecure || address.ip().is_loopback(), || {
                format!("expected a loopback address, or insecure: true, since nothing is encrypted or authenticated yet; found {address}")
            });
        }
        let (http, grpc) = (config.http_listen, config.grpc_listen);
        let overlap = http.ip() == grpc.ip() || http.ip().is_unspecified() || grpc.ip().is_unspecified();
        let clash = http.port() != 0 && http.port() == grpc.port() && overlap;
        self.require(&["grpc_listen", "http_listen"], !clash, || {
            format!("expected another port than that of http_listen, {http}, found {grpc}")
        });
        let others = config.peers.0.iter().any(|peer| peer.id != config.node_id);
        let reachable = !others || own.is_none() || !grpc.ip().is_loopback() || {
            config.peers.0.iter().all(|peer| is_loopback(&peer.grpc.host))
        };
        self.require(&["grpc_listen", "peers"], reachable, || {
            format!("expected an address that the other peers can reach, found {grpc}")
        });
        self.at_least("http_max_connections", &config.http_max_connections, 1);
        self.at_least(
            "http_header_timeout",
            &config.http_header_timeout,
            Duration::from_secs(1),
        );
        self.at_least(
            "shutdown_timeout",
            &config.shutdown_timeout,
            Duration::from_secs(1),
        );
    }

    fn placement(&mut self, config: &Config) {
        for (key, value, most) in [
            ("shards", config.shards, 1_024),
            ("spread", config.spread, 1_024),
            ("replication_factor", config.replication_factor, 7),
        ] {
            self.require(&[key], (1..=most).contains(&value), || {
                format!("expected a whole number from 1 to {most}, found {value}")
            });
        }
        let nodes = config.peers.0.len().max(1);
        let factor = config.replication_factor;
        self.require(&["replication_factor", "peers"], factor as usize <= nodes || !(1..=7).contains(&factor), || {
            format!("expected at most the number of nodes, {nodes}, found {factor}: each copy needs a node of its own")
        });
        self.advise(&["replication_factor"], factor % 2 == 1, || {
            format!(
                "{factor} copies survive the loss of no more nodes than {} do",
                factor.saturating_sub(1)
            )
        });
        self.advise(&["replication_factor"], factor != 1, || {
            "one copy survives the loss of no node".into()
        });
    }

    fn raft(&mut self, config: &Config) {
        let raft = &config.raft;
        self.at_least(
            "raft.heartbeat_interval",
            &raft.heartbeat_interval,
            Duration::from_millis(10),
        );
        let twice = raft.heartbeat_interval.saturating_mul(2);
        let keys = ["raft.election_timeout_min", "raft.heartbeat_interval"];
        let place = self.place("raft.heartbeat_interval");
        self.require(&keys, raft.election_timeout_min >= twice, || {
            format!(
                "expected at least twice raft.heartbeat_interval, {}{place}, so that one lost heartbeat starts no election; found {}",
                raft.heartbeat_interval.show(),
                raft.election_timeout_min.show(),
            )
        });
        self.ordered(
            ("raft.election_timeout_min", &raft.election_timeout_min),
            ("raft.election_timeout_max", &raft.election_timeout_max),
            true,
        );
        self.at_most(
            "raft.election_timeout_max",
            &raft.election_timeout_max,
            Duration::from_secs(60),
        );
        // A leader may serve until its lease is over.
        self.ordered(
            ("raft.election_timeout_max", &raft.election_timeout_max),
            ("raft.quorum_timeout", &raft.quorum_timeout),
            false,
        );
        self.at_least(
            "raft.disk_stall_timeout",
            &raft.disk_stall_timeout,
            Duration::from_millis(100),
        );
        self.ordered(
            ("raft.disk_stall_timeout", &raft.disk_stall_timeout),
            ("raft.disk_stall_abort", &raft.disk_stall_abort),
            true,
        );
    }

    fn write(&mut self, config: &Config) {
        let write = &config.write;
        self.ordered(
            ("write.linger", &write.linger),
            ("write.request_timeout", &write.request_timeout),
            true,
        );
        self.ordered(
            ("raft.election_timeout_max", &config.raft.election_timeout_max),
            ("write.request_timeout", &write.request_timeout),
            true,
        );
        self.at_least(
            "write.read_body_timeout",
            &write.read_body_timeout,
            Duration::from_millis(100),
        );
        self.ordered(
            ("write.max_request_bytes", &write.max_request_bytes),
            ("write.max_decompressed_bytes", &write.max_decompressed_bytes),
            false,
        );
        // Snappy's block format counts in 32 bits.
        self.at_most(
            "write.max_decompressed_bytes",
            &write.max_decompressed_bytes,
            ByteSize::mib(2_048),
        );
        let request = ByteSize(
            write
                .max_request_bytes
                .0
                .saturating_add(write.max_decompressed_bytes.0),
        );
        let keys = [
            "write.max_bytes_in_flight",
            "write.max_decompressed_bytes",
            "write.max_request_bytes",
        ];
        self.require(&keys, request <= write.max_bytes_in_flight, || {
            format!(
                "expected room for one largest request, compressed and decompressed, {request}, found {}",
                write.max_bytes_in_flight,
            )
        });
        self.at_least(
            "write.max_request_bytes",
            &write.max_request_bytes,
            ByteSize(64 << 10),
        );
        self.at_least("write.batch_bytes", &write.batch_bytes, ByteSize(4 << 10));
        self.at_most("write.batch_bytes", &write.batch_bytes, ByteSize::mib(16));
    }

    fn read(&mut self, config: &Config) {
        let read = &config.read;
        self.at_least(
            "read.max_staleness",
            &read.max_staleness,
            Duration::from_millis(500),
        );
        self.at_least("read.timeout", &read.timeout, Duration::from_millis(100));
        self.at_least("read.max_samples", &read.max_samples, 1);
        self.at_least(
            "read.max_memory_bytes_per_query",
            &read.max_memory_bytes_per_query,
            ByteSize::mib(1),
        );
        self.at_least("read.max_concurrent", &read.max_concurrent, 1);
        self.at_least("read.lookback", &read.lookback, Duration::from_millis(1));
    }

    fn storage(&mut self, config: &Config) {
        let (limits, flush) = (&config.limits, &config.flush);
        self.ordered(
            ("limits.ooo_window", &limits.ooo_window),
            ("limits.retention", &limits.retention),
            true,
        );
        self.at_least("limits.retention", &limits.retention, Duration::from_secs(3_600));
        self.at_least("limits.max_labels", &limits.max_labels, 1);
        self.at_least("limits.max_label_name_bytes", &limits.max_label_name_bytes, 8);
        self.at_least("limits.max_label_value_bytes", &limits.max_label_value_bytes, 1);
        self.at_least("limits.max_series_per_shard", &limits.max_series_per_shard, 1);
        self.at_least("flush.interval", &flush.interval, Duration::from_secs(1));
        self.at_least(
            "flush.compaction_rate",
            &flush.compaction_rate,
            ByteSize(64 << 10),
        );
        self.ordered(
            ("flush.interval", &flush.interval),
            ("limits.retention", &limits.retention),
            true,
        );
        let memory = config.memory.budget_bytes;
        self.require(
            &["memory.budget_bytes"],
            memory.0 == 0 || memory >= ByteSize::mib(16),
            || format!("expected at least 16MiB, or 0 for half of what there is, found {memory}"),
        );
        self.ordered(
            ("write.batch_bytes", &config.write.batch_bytes),
            ("flush.log_bytes", &flush.log_bytes),
            false,
        );
    }
}

fn given(origins: &BTreeMap<String, Origin>, key: &str) -> bool {
    origins.contains_key(key)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
