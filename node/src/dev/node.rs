//! One node's process: its configuration file, its start and its end.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use super::ports::Addresses;
use crate::config::environment_variable;

/// A node's orderly shutdown takes at most 20 s by its own configuration.
const STOP_TIMEOUT: Duration = Duration::from_secs(25);

/// Shards of a development cluster.
pub(super) const SHARDS: u32 = 8;

/// Keys that only the written file may set: a variable in the user's environment would beat it.
const CONFIGURED: [&str; 12] = [
    "config",
    "node_id",
    "data_dir",
    "http_listen",
    "grpc_listen",
    "http_advertise",
    "grpc_advertise",
    "zone",
    "weight",
    "peers",
    "shards",
    "replication_factor",
];

/// How a node should end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// SIGTERM, and SIGKILL if it takes too long.
    Orderly,
    /// SIGKILL.
    Now,
}

/// The configuration of node `id`; `nodes` are the addresses of the nodes 1, 2, 3…
pub(super) fn configuration(id: u64, own: &Addresses, data_dir: &Path, nodes: &[Addresses]) -> String {
    let replication_factor = nodes.len().min(3);
    // YAML takes JSON's strings, whatever is in the path.
    let data_dir = serde_json::Value::from(data_dir.to_string_lossy());
    let mut text = format!(
        "# Written by `quorate dev` at every start: changes are lost.\n\
         node_id: {id}\ndata_dir: {data_dir}\nhttp_listen: {}\ngrpc_listen: {}\n\
         shards: {SHARDS}\nreplication_factor: {replication_factor}\npeers:\n",
        own.http, own.grpc
    );
    for (peer, addresses) in (1..).zip(nodes) {
        let Addresses { http, grpc } = addresses;
        text.push_str(&format!("  - id: {peer}\n    grpc: {grpc}\n    http: {http}\n"));
    }
    text
}

/// Writes a node's configuration file and returns its path.
pub(super) fn configure(dir: &Path, id: u64, nodes: &[Addresses]) -> anyhow::Result<PathBuf> {
    let own = usize::try_from(id)
        .ok()
        .and_then(|id| nodes.get(id.checked_sub(1)?));
    let own = own.with_context(|| format!("there is no node {id}"))?;
    let path = dir.join("quorate.yaml");
    fs::create_dir_all(dir)
        .and_then(|()| fs::write(&path, configuration(id, own, &dir.join("data"), nodes)))
        .with_context(|| format!("can't write {}", path.display()))?;
    Ok(path)
}

/// Starts a node. Its output goes to `dir/log`.
///
/// Call this on a thread that lives as long as the supervisor: the kernel ends the node when it ends.
pub(super) fn start(dir: &Path) -> anyhow::Result<Child> {
    let log_path = dir.join("log");
    let log = File::options().create(true).append(true).open(&log_path);
    let log = log.with_context(|| format!("can't open {}", log_path.display()))?;
    let own_program = std::env::current_exe().context("can't find this program's own file")?;
    let mut command = Command::new(own_program);
    for key in CONFIGURED {
        command.env_remove(environment_variable(key));
    }
    command
        .args([
            "dev",
            "exec",
            "--parent",
            &std::process::id().to_string(),
            "--config",
        ])
        .arg(dir.join("quorate.yaml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A Ctrl-C in the terminal is for the supervisor, which then stops the nodes in order.
        .process_group(0)
        .spawn()
        .with_context(|| format!("can't start the node in {}", dir.display()))
}

/// Becomes the node: asks the kernel to be killed with the supervisor, then executes the server.
/// Done in the node's own process before its start because that needs no code between fork and exec.
pub(super) fn become_server(parent: u32, config: &Path) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("can't bind to the supervisor's life")?;
    // It may have died before the line above.
    let now = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    ensure!(now == Some(parent), "the supervisor is gone");
    let own_program = std::env::current_exe().context("can't find this program's own file")?;
    let error = std::process::Command::new(own_program)
        .arg("server")
        .arg("--config")
        .arg(config)
        .exec();
    Err(error).context("can't execute the server")
}

/// Waits for the node's end, which a message through `stop` brings about.
pub(super) async fn end(mut child: Child, mut stop: oneshot::Receiver<Stop>) -> std::io::Result<ExitStatus> {
    let asked = tokio::select! {
        status = child.wait() => return status,
        asked = &mut stop => asked.unwrap_or(Stop::Now),
    };
    if asked == Stop::Orderly {
        signal(&child, Signal::TERM)?;
        if let Ok(status) = tokio::time::timeout(STOP_TIMEOUT, child.wait()).await {
            return status;
        }
    }
    child.kill().await?;
    child.wait().await
}

fn signal(child: &Child, signal: Signal) -> std::io::Result<()> {
    // A child that was waited for has no id: its number may belong to another process by now.
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    match pid {
        Some(pid) => Ok(kill_process(pid, signal)?),
        None => Ok(()),
    }
}

/// The last lines of a node's log, for an error message.
pub(super) fn log_tail(dir: &Path, lines: usize) -> anyhow::Result<String> {
    const TAIL_BYTES: u64 = 16 << 10;
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = File::open(dir.join("log"))?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    if all.is_empty() {
        bail!("the log is empty");
    }
    Ok(all[all.len().saturating_sub(lines)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(count: u16) -> Vec<Addresses> {
        let address = |port: u16| format!("127.0.0.1:{port}");
        (0..count)
            .map(|node| Addresses {
                http: address(100 + node),
                grpc: address(200 + node),
            })
            .collect()
    }

    #[test]
    fn a_configuration_names_every_peer() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("node: \"2\"");
        let nodes = addresses(3);
        let text = fs::read_to_string(configure(&dir, 2, &nodes).unwrap()).unwrap();
        let data_dir = serde_json::Value::from(dir.join("data").to_string_lossy());
        for line in [
            "node_id: 2".to_owned(),
            format!("data_dir: {data_dir}"),
            "http_listen: 127.0.0.1:101".to_owned(),
            "grpc_listen: 127.0.0.1:201".to_owned(),
            "replication_factor: 3".to_owned(),
            "  - id: 3".to_owned(),
            "    grpc: 127.0.0.1:202".to_owned(),
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
        assert!(configure(&dir, 4, &nodes).is_err());
        assert!(configure(&dir, 0, &nodes).is_err());
    }

    #[test]
    fn the_servers_own_reader_takes_the_configuration() {
        for count in [1, 2, 3, 5] {
            let nodes = addresses(count);
            let text = configuration(1, &nodes[0], Path::new("/tmp/a b"), &nodes);
            let sources = crate::config::Sources {
                file: Some(("dev", &text)),
                ..Default::default()
            };
            let loaded = crate::config::load(&sources).unwrap();
            assert_eq!(loaded.config.peers.0.len(), usize::from(count));
            assert_eq!(loaded.config.advertised_grpc().to_string(), "127.0.0.1:200");
        }
    }

    #[tokio::test]
    async fn a_node_ends_by_the_signal_asked_for() {
        let orderly = Command::new("sleep").arg("1000").spawn().unwrap();
        let (stop, stopped) = oneshot::channel();
        stop.send(Stop::Orderly).unwrap();
        let status = end(orderly, stopped).await.unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(Signal::TERM.as_raw())
        );

        let killed = Command::new("sleep").arg("1000").spawn().unwrap();
        let (stop, stopped) = oneshot::channel();
        stop.send(Stop::Now).unwrap();
        let status = end(killed, stopped).await.unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(Signal::KILL.as_raw())
        );
    }

    #[test]
    fn the_tail_of_a_log() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("log"), "a\nb\nc\n").unwrap();
        assert_eq!(log_tail(temp.path(), 2).unwrap(), "b\nc");
        fs::write(temp.path().join("log"), "x".repeat(100_000)).unwrap();
        assert!(log_tail(temp.path(), 2).unwrap().len() <= 16 << 10);
    }
}
