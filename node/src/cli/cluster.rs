//! `quorate cluster`: how the cluster stands.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use quorate_client::{ClientError, GroupChecksum, GroupStatus, StatusResponse};
use serde_json::{Value, json};

use super::connect::ConnectArgs;
use super::limits::{self, LimitsCommand};
use super::table;

/// How often checksums are asked for until all replicas are at the same position.
const CHECKSUM_ROUNDS: u32 = 5;
const CHECKSUM_PAUSE: Duration = Duration::from_millis(500);

/// Look at the cluster.
#[derive(Debug, Args)]
pub struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Show nodes, shards and leaders, as one node sees them.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Compare what all replicas of each shard have stored. Fails when two differ.
    Checksums {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Show and change the limits of tenants.
    #[command(subcommand)]
    Limits(LimitsCommand),
    /// Move a shard's leadership to another node.
    TransferLeader {
        /// The shard; 0 is the meta group.
        group: u32,
        /// The node.
        to_node: u64,
        #[command(flatten)]
        connect: ConnectArgs,
    },
}

/// Runs `quorate cluster`.
pub async fn run(args: ClusterArgs) -> anyhow::Result<()> {
    match args.command {
        ClusterCommand::Status { json, connect } => status(&connect, json).await,
        ClusterCommand::Checksums { json, connect } => checksums(&connect, json).await,
        ClusterCommand::Limits(command) => limits::run(command).await,
        ClusterCommand::TransferLeader {
            group,
            to_node,
            connect,
        } => {
            connect.client()?.transfer_leader(group, to_node).await?;
            println!("node {to_node} leads group {group}");
            Ok(())
        }
    }
}

async fn status(connect: &ConnectArgs, json: bool) -> anyhow::Result<()> {
    let status = connect.client()?.status().await?;
    if json {
        println!("{}", status_json(&status));
    } else {
        print!("{}", describe(&status));
    }
    Ok(())
}

fn describe(status: &StatusResponse) -> String {
    let mut nodes = table::table(["node", "HTTP", "gRPC", "zone", "weight", "state", "leads"], &[4]);
    for node in &status.nodes {
        let leads = status
            .groups
            .iter()
            .filter(|group| group.leader_node == Some(node.id))
            .count();
        let state = if node.reachable {
            "reachable"
        } else {
            "unreachable"
        };
        nodes.add_row([
            node.id.to_string(),
            node.http.clone(),
            node.grpc.clone(),
            node.zone.clone(),
            node.weight.to_string(),
            state.to_owned(),
            leads.to_string(),
        ]);
    }
    let header = [
        "group",
        "leader",
        "term",
        "replicas",
        "last",
        "committed",
        "applied",
        "flushed",
        "series",
        "state",
    ];
    let mut groups = table::table(header, &[2, 4, 5, 6, 7, 8]);
    for group in &status.groups {
        groups.add_row([
            if group.group == 0 {
                "meta".to_owned()
            } else {
                group.group.to_string()
            },
            group
                .leader_node
                .map_or_else(|| "none".to_owned(), |node| format!("node {node}")),
            group.term.to_string(),
            replicas(group),
            group.last_log_index.to_string(),
            group.committed_index.to_string(),
            group.applied_index.to_string(),
            group.flushed_index.to_string(),
            group.series.to_string(),
            group.state.clone(),
        ]);
    }
    let StatusResponse {
        cluster_id,
        version,
        node,
        ring_epoch,
        ..
    } = status;
    let leaderless = status
        .groups
        .iter()
        .filter(|group| group.leader_node.is_none())
        .count();
    let unreachable = status.nodes.iter().filter(|node| !node.reachable).count();
    format!(
        "cluster {cluster_id}, version {version}, ring epoch {ring_epoch}, as node {node} sees it\n{nodes}\n{groups}\n\
         {unreachable} of {} nodes unreachable, {leaderless} of {} groups without a leader\n",
        status.nodes.len(),
        status.groups.len()
    )
}

/// The nodes of a group's replicas; those without a vote in parentheses.
fn replicas(group: &GroupStatus) -> String {
    let show = |replica: &quorate_client::ReplicaStatus| match replica.voter {
        true => replica.node.to_string(),
        false => format!("({})", replica.node),
    };
    group.replicas.iter().map(show).collect::<Vec<_>>().join(" ")
}

fn status_json(status: &StatusResponse) -> Value {
    let node = |node: &quorate_client::NodeStatus| {
        json!({
            "id": node.id, "http": node.http, "grpc": node.grpc, "zone": node.zone, "weight": node.weight,
            "reachable": node.reachable,
        })
    };
    let replica = |replica: &quorate_client::ReplicaStatus| json!({"replica": replica.replica, "node": replica.node, "voter": replica.voter});
    let group = |group: &GroupStatus| {
        json!({
            "group": group.group, "term": group.term, "leader": group.leader_node, "state": group.state,
            "replicas": group.replicas.iter().map(replica).collect::<Value>(),
            "last": group.last_log_index, "committed": group.committed_index, "applied": group.applied_index,
            "flushed": group.flushed_index, "series": group.series,
        })
    };
    json!({
        "cluster": status.cluster_id, "version": status.version, "ringEpoch": status.ring_epoch, "node": status.node,
        "nodes": status.nodes.iter().map(node).collect::<Value>(),
        "groups": status.groups.iter().map(group).collect::<Value>(),
    })
}

/// Each node's checksums by group, or why it gave none.
type Answers = BTreeMap<u64, Result<BTreeMap<u32, GroupChecksum>, ClientError>>;

/// How the replicas of a group compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Equal,
    /// At different positions of the log: nothing can be said.
    Moving,
    Different,
}

async fn checksums(connect: &ConnectArgs, json: bool) -> anyhow::Result<()> {
    let nodes = connect.client()?.status().await?.nodes;
    let mut answers = Answers::new();
    for round in 0..CHECKSUM_ROUNDS {
        if round > 0 {
            tokio::time::sleep(CHECKSUM_PAUSE).await;
        }
        let mut asked = Vec::new();
        for node in &nodes {
            let client = connect.client_for(vec![node.grpc.clone()])?;
            asked.push((node.id, tokio::spawn(async move { client.checksum(&[]).await })));
        }
        answers.clear();
        for (id, answer) in asked {
            let by_group = |answer: quorate_client::ChecksumResponse| {
                answer
                    .groups
                    .into_iter()
                    .map(|group| (group.group, group))
                    .collect()
            };
            answers.insert(id, answer.await?.map(by_group));
        }
        if verdicts(&answers)
            .values()
            .all(|verdict| *verdict != Verdict::Moving)
        {
            break;
        }
    }
    let verdicts = verdicts(&answers);
    if json {
        println!("{}", checksums_json(&answers, &verdicts));
    } else {
        print!("{}", describe_checksums(&answers, &verdicts));
    }
    match verdicts
        .values()
        .filter(|verdict| **verdict == Verdict::Different)
        .count()
    {
        0 => Ok(()),
        different => bail!("the replicas of {different} groups differ"),
    }
}

fn verdicts(answers: &Answers) -> BTreeMap<u32, Verdict> {
    let mut groups: BTreeMap<u32, Vec<&GroupChecksum>> = BTreeMap::new();
    for group in answers.values().flatten().flat_map(BTreeMap::values) {
        groups.entry(group.group).or_default().push(group);
    }
    let verdict = |found: Vec<&GroupChecksum>| {
        let content = |group: &GroupChecksum| (group.checksum, group.series, group.samples);
        let pairs = || {
            found
                .iter()
                .enumerate()
                .flat_map(|(at, a)| found[..at].iter().map(move |b| (*a, *b)))
        };
        if pairs().any(|(a, b)| a.applied_index == b.applied_index && content(a) != content(b)) {
            Verdict::Different
        } else if pairs().any(|(a, b)| a.applied_index != b.applied_index) {
            Verdict::Moving
        } else {
            Verdict::Equal
        }
    };
    groups
        .into_iter()
        .map(|(group, found)| (group, verdict(found)))
        .collect()
}

fn describe_checksums(answers: &Answers, verdicts: &BTreeMap<u32, Verdict>) -> String {
    let mut rows = table::table(
        [
            "group", "node", "applied", "checksum", "series", "samples", "verdict",
        ],
        &[2, 4, 5],
    );
    for (group, verdict) in verdicts {
        let verdict = match verdict {
            Verdict::Equal => "equal",
            Verdict::Moving => "still moving",
            Verdict::Different => "DIFFERENT",
        };
        for (node, answer) in answers {
            let Some(found) = answer.as_ref().ok().and_then(|groups| groups.get(group)) else {
                continue;
            };
            rows.add_row([
                group.to_string(),
                node.to_string(),
                found.applied_index.to_string(),
                format!("{:016x}", found.checksum),
                found.series.to_string(),
                found.samples.to_string(),
                verdict.to_owned(),
            ]);
        }
    }
    let mut text = format!("{rows}\n");
    for (node, answer) in answers {
        if let Err(error) = answer {
            text.push_str(&format!("node {node} gave no checksums: {error}\n"));
        }
    }
    text
}

fn checksums_json(answers: &Answers, verdicts: &BTreeMap<u32, Verdict>) -> Value {
    let name = |verdict: &Verdict| match verdict {
        Verdict::Equal => "equal",
        Verdict::Moving => "moving",
        Verdict::Different => "different",
    };
    let group = |(group, verdict): (&u32, &Verdict)| {
        let replicas = answers.iter().filter_map(|(node, answer)| {
            let found = answer.as_ref().ok()?.get(group)?;
            Some(json!({
                "node": node, "applied": found.applied_index, "checksum": format!("{:016x}", found.checksum),
                "series": found.series, "samples": found.samples,
            }))
        });
        json!({"group": group, "verdict": name(verdict), "replicas": replicas.collect::<Value>()})
    };
    let errors = answers.iter().filter_map(|(node, answer)| {
        let error = answer.as_ref().err()?;
        Some(json!({"node": node, "error": error.to_string()}))
    });
    json!({"groups": verdicts.iter().map(group).collect::<Value>(), "errors": errors.collect::<Value>()})
}

#[cfg(test)]
mod tests {
    use quorate_client::{NodeStatus, ReplicaStatus};

    use super::*;

    fn answer(group: u32, applied_index: u64, checksum: u64) -> GroupChecksum {
        GroupChecksum {
            group,
            applied_index,
            checksum,
            series: 1,
            samples: 2,
        }
    }

    fn answers(nodes: &[(u64, &[GroupChecksum])]) -> Answers {
        let by_group = |groups: &[GroupChecksum]| groups.iter().map(|group| (group.group, *group)).collect();
        nodes
            .iter()
            .map(|(node, groups)| (*node, Ok(by_group(groups))))
            .collect()
    }

    #[test]
    fn only_replicas_at_the_same_position_can_differ() {
        let mut all = answers(&[
            (
                1,
                &[
                    answer(1, 10, 7),
                    answer(2, 10, 7),
                    answer(3, 10, 7),
                    answer(4, 10, 7),
                ],
            ),
            (
                2,
                &[
                    answer(1, 10, 7),
                    answer(2, 11, 8),
                    answer(3, 10, 8),
                    answer(4, 11, 1),
                ],
            ),
            (
                3,
                &[
                    answer(1, 10, 7),
                    answer(2, 12, 9),
                    answer(3, 11, 7),
                    answer(4, 11, 2),
                ],
            ),
        ]);
        all.insert(4, Err(ClientError::NoEndpoints));
        let verdicts = verdicts(&all);
        let expected = [
            (1, Verdict::Equal),
            (2, Verdict::Moving),
            (3, Verdict::Different),
            (4, Verdict::Different),
        ];
        assert_eq!(verdicts, BTreeMap::from(expected));
        let text = describe_checksums(&all, &verdicts);
        assert!(
            text.contains("0000000000000007") && text.contains("DIFFERENT"),
            "{text}"
        );
        assert!(text.contains("node 4 gave no checksums"), "{text}");
        assert_eq!(checksums_json(&all, &verdicts)["groups"][1]["verdict"], "moving");
    }

    #[test]
    fn the_status_tells_nodes_groups_and_what_is_missing() {
        let node = |id, reachable| NodeStatus {
            id,
            reachable,
            grpc: format!("h:{id}"),
            ..Default::default()
        };
        let replicas = vec![
            ReplicaStatus {
                replica: 1,
                node: 1,
                voter: true,
            },
            ReplicaStatus {
                replica: 9,
                node: 2,
                voter: false,
            },
        ];
        let group = |group, leader_node| GroupStatus {
            group,
            leader_node,
            replicas: replicas.clone(),
            ..Default::default()
        };
        let status = StatusResponse {
            cluster_id: "c1".into(),
            node: 1,
            nodes: vec![node(1, true), node(2, false)],
            groups: vec![group(0, Some(1)), group(1, None)],
            ..Default::default()
        };
        let text = describe(&status);
        for part in [
            "cluster c1",
            "unreachable",
            "meta",
            "node 1",
            "1 (2)",
            "1 of 2 nodes unreachable, 1 of 2 groups",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert_eq!(status_json(&status)["groups"][1]["leader"], Value::Null);
        assert_eq!(status_json(&status)["nodes"][1]["grpc"], "h:2");
    }
}
