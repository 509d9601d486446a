//! The servers compared, each on a bed of its own and as somebody runs it who changes nothing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};

use super::Strike;
use crate::bed::{Bed, BedOptions, Medium};
use crate::cluster::Node;
use crate::http::Http;
use crate::prometheus::PROMETHEUS;
use crate::{process, wait};

/// Where Debian's package puts it.
const VICTORIA_METRICS: &str = "/usr/bin/victoria-metrics";
/// How long a server may take until it is ready, its log replayed.
const READY: Duration = Duration::from_secs(120);
/// How long an orderly stop may take.
const STOP: Duration = Duration::from_secs(60);
/// Room for the files that peers allocate ahead.
const DISK_MIB: u64 = 2_048;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Debian's Prometheus, with its remote-write receiver.
    Prometheus,
    /// Debian's VictoriaMetrics, single node.
    VictoriaMetrics,
    /// Three nodes of ours, three copies.
    Quorate,
}

impl Subject {
    /// Everything that is compared.
    pub const ALL: [Subject; 3] = [Subject::Prometheus, Subject::VictoriaMetrics, Subject::Quorate];

    /// As shown.
    pub fn name(self) -> &'static str {
        match self {
            Subject::Prometheus => "Prometheus",
            Subject::VictoriaMetrics => "VictoriaMetrics",
            Subject::Quorate => "Quorate",
        }
    }

    /// Nodes, each with a disk of its own.
    pub fn nodes(self) -> usize {
        if self == Subject::Quorate { 3 } else { 1 }
    }

    /// Why it can't be run here; `None` if it can.
    pub fn missing(self) -> Option<String> {
        let (path, package) = match self {
            Subject::Prometheus => (PROMETHEUS, "prometheus"),
            Subject::VictoriaMetrics => (VICTORIA_METRICS, "victoria-metrics"),
            Subject::Quorate => return process::quorate_binary().err().map(|error| format!("{error:#}")),
        };
        (!Path::new(path).exists()).then(|| format!("{path} not found: apt-get install {package}"))
    }

    /// Its version: Debian's, or our own.
    pub fn version(self) -> Result<String> {
        let mut command = match self {
            Subject::Quorate => Command::new(process::quorate_binary()?),
            _ => Command::new("dpkg-query"),
        };
        match self {
            Subject::Prometheus => command.args(["--show", "--showformat=${Version}", "prometheus"]),
            Subject::VictoriaMetrics => {
                command.args(["--show", "--showformat=${Version}", "victoria-metrics"])
            }
            Subject::Quorate => command.arg("--version"),
        };
        let output = command
            .output()
            .with_context(|| format!("can't run {command:?}"))?;
        ensure!(output.status.success(), "{command:?}: {}", output.status);
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.trim().trim_start_matches("quorate ").to_owned())
    }

    /// What it is told beyond where to listen and to keep its data.
    pub fn flags(self) -> &'static str {
        match self {
            Subject::Prometheus => "--web.enable-remote-write-receiver",
            Subject::VictoriaMetrics => "none",
            Subject::Quorate => "--peers, --replication-factor=3, --insecure",
        }
    }

    fn program(self) -> Result<PathBuf> {
        Ok(match self {
            Subject::Prometheus => PROMETHEUS.into(),
            Subject::VictoriaMetrics => VICTORIA_METRICS.into(),
            Subject::Quorate => process::quorate_binary()?,
        })
    }

    fn arguments(self, node: &Node, directory: &Path) -> Result<Vec<String>> {
        let data = node.dir.display();
        Ok(match self {
            Subject::Prometheus => {
                let config = directory.join("prometheus.yml");
                std::fs::write(&config, "global: {}\n")?;
                vec![
                    format!("--config.file={}", config.display()),
                    format!("--storage.tsdb.path={data}"),
                    format!("--web.listen-address={}", node.http),
                    "--web.enable-remote-write-receiver".to_owned(),
                ]
            }
            Subject::VictoriaMetrics => vec![
                format!("-storageDataPath={data}"),
                format!("-httpListenAddr={}", node.http),
            ],
            Subject::Quorate => Vec::new(),
        })
    }

    /// Where it says that it serves all that it has: Prometheus after the replay of its log, VictoriaMetrics once
    /// its storage is open, since it doesn't listen earlier.
    fn ready_path(self) -> &'static str {
        match self {
            Subject::Prometheus | Subject::Quorate => "/-/ready",
            Subject::VictoriaMetrics => "/health",
        }
    }
}

/// A server, or a cluster, on its bed.
#[derive(Debug)]
pub struct Server {
    subject: Subject,
    bed: Bed,
}

impl Server {
    /// Starts it on empty disks and waits until it is ready.
    pub fn start(subject: Subject, medium: Medium) -> Result<Server> {
        let options = BedOptions {
            nodes: subject.nodes(),
            medium,
            disk_mib: DISK_MIB,
            ..BedOptions::default()
        };
        let server = Server {
            subject,
            bed: Bed::prepare(&options)?,
        };
        for id in server.bed.ids() {
            server.bed.mount_by_default(id)?;
        }
        server.start_again()?;
        Ok(server)
    }

    /// What it is.
    pub fn subject(&self) -> Subject {
        self.subject
    }

    /// `host:port` of the HTTP of each node.
    pub fn addresses(&self) -> Vec<String> {
        self.bed.nodes().into_iter().map(|node| node.http).collect()
    }

    /// Starts all nodes, none of which runs, and waits until they are ready.
    pub fn start_again(&self) -> Result<()> {
        for node in self.bed.nodes() {
            match self.subject {
                Subject::Quorate => self.bed.start_node(node.id)?,
                peer => {
                    let arguments = peer.arguments(&node, self.bed.directory())?;
                    self.bed.start_program(node.id, &peer.program()?, &arguments)?;
                }
            }
        }
        for node in self.bed.nodes() {
            let http = Http::new(&node.http, Duration::from_secs(5));
            let what = format!("{} at {} to be ready", self.subject.name(), node.http);
            wait::until(what, READY, || {
                let answer = http.get(self.subject.ready_path())?;
                ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
                Ok(())
            })?;
        }
        Ok(())
    }

    /// An error if a node has ended by itself.
    pub fn ensure_running(&self) -> Result<()> {
        for id in self.bed.ids() {
            let ended = || self.bed.exit_of(id).unwrap_or_default();
            ensure!(self.bed.is_running(id), "node {id} ended by itself: {}", ended());
        }
        Ok(())
    }

    /// Strikes all nodes at once.
    pub fn strike(&self, strike: Strike) -> Result<()> {
        match strike {
            Strike::PowerCut => self.bed.power_cut(&self.bed.ids()),
            Strike::Kill => self.bed.kill_all(),
            Strike::Stop => self.stop_all(),
        }
    }

    fn stop_all(&self) -> Result<()> {
        let ids = self.bed.ids();
        std::thread::scope(|scope| {
            let stop = |id: &u64| {
                let id = *id;
                scope.spawn(move || self.bed.stop_node(id, STOP))
            };
            let stopping: Vec<_> = ids.iter().map(stop).collect();
            for thread in stopping {
                thread.join().map_err(|_| anyhow!("a thread panicked"))??;
            }
            Ok(())
        })
    }

    /// The ends of its logs.
    pub fn logs(&self) -> String {
        self.bed.logs()
    }

    /// Ends it and removes everything. How it takes its end is not the question here.
    pub fn stop(self) -> Result<()> {
        self.bed.kill_all()?;
        self.bed.stop()
    }
}
