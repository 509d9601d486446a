//! The servers compared: each fresh, on loopback, with its data in a directory of its own, and gone at the end.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

const START: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Product {
    /// Three nodes, three copies.
    Quorate,
    /// Debian's Prometheus with its remote-write receiver.
    Prometheus,
    /// Debian's VictoriaMetrics, single node.
    VictoriaMetrics,
}

/// A running server or cluster.
#[derive(Debug)]
pub struct Running {
    main: Child,
    /// `host:port` of each HTTP endpoint.
    pub targets: Vec<String>,
    /// Every process that serves.
    pub pids: Vec<u32>,
    /// Where its data is.
    pub directory: PathBuf,
}

#[derive(Deserialize)]
struct Announcement {
    nodes: Vec<AnnouncedNode>,
}

#[derive(Deserialize)]
struct AnnouncedNode {
    pid: u32,
    http: String,
}

impl Product {
    /// As shown.
    pub fn name(self) -> &'static str {
        match self {
            Product::Quorate => "quorate",
            Product::Prometheus => "prometheus",
            Product::VictoriaMetrics => "victoria-metrics",
        }
    }

    /// Copies of each sample.
    pub fn copies(self) -> u32 {
        if self == Product::Quorate { 3 } else { 1 }
    }

    /// Where its program is, or what to do about that it isn't.
    pub fn program(self) -> Result<PathBuf> {
        let (path, hint) = match self {
            Product::Quorate => (quorate_path()?, "cargo build -p quorate-node"),
            Product::Prometheus => ("/usr/bin/prometheus".into(), "apt-get install prometheus"),
            Product::VictoriaMetrics => (
                "/usr/bin/victoria-metrics".into(),
                "apt-get install victoria-metrics",
            ),
        };
        ensure!(path.is_file(), "{} not found: {hint}", path.display());
        Ok(path)
    }

    /// Starts it below `directory` and waits until it takes writes.
    pub fn start(self, directory: &Path) -> Result<Running> {
        let data = directory.join(self.name());
        std::fs::create_dir(&data)?;
        // The kernel kills it when the benchmark dies, however that happens.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(self.program()?);
        let address = free_address()?;
        match self {
            Product::Quorate => {
                command
                    .args(["dev", "--nodes", "3", "--no-collector", "--json", "--dir"])
                    .arg(&data);
            }
            Product::Prometheus => {
                let config = directory.join("prometheus.yml");
                std::fs::write(&config, "global: {}\n")?;
                command.arg(format!("--config.file={}", config.display()));
                command.arg(format!("--storage.tsdb.path={}", data.display()));
                command.arg(format!("--web.listen-address={address}"));
                command.arg("--web.enable-remote-write-receiver");
            }
            Product::VictoriaMetrics => {
                command.arg(format!("-storageDataPath={}", data.display()));
                command.arg(format!("-httpListenAddr={address}"));
            }
        }
        let log = |name: &str| directory.join(format!("{}.{name}", self.name()));
        let (out, errors) = (log("out"), log("err"));
        command
            .stdin(Stdio::null())
            .stdout(File::create(&out)?)
            .stderr(File::create(&errors)?);
        let main = command
            .spawn()
            .with_context(|| format!("can't start {command:?}"))?;
        let pids = vec![main.id()];
        let mut running = Running {
            main,
            targets: vec![address],
            pids,
            directory: data,
        };
        let started = match self {
            Product::Quorate => running.await_announcement(&out),
            Product::Prometheus => running.await_ok("/-/ready"),
            Product::VictoriaMetrics => running.await_ok("/health"),
        };
        started.with_context(|| std::fs::read_to_string(&errors).unwrap_or_default())?;
        Ok(running)
    }
}

impl Running {
    /// The values of an instant vector.
    pub fn query(&self, query: &str, time_ms: i64) -> Result<Vec<f64>> {
        let target = self.targets.first().context("no target")?;
        let time = format!("{}.{:03}", time_ms / 1_000, time_ms % 1_000);
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("query", query), ("time", &time)])
            .finish();
        let url = format!("http://{target}/api/v1/query?{form}");
        let text = ureq::get(&url).call()?.body_mut().read_to_string()?;
        let json: serde_json::Value = serde_json::from_str(&text)?;
        let result = json["data"]["result"].as_array().context("no result")?.iter();
        result
            .map(|series| Ok(series["value"][1].as_str().context("no value")?.parse()?))
            .collect()
    }

    /// Stops it in order.
    pub fn stop(mut self) -> Result<()> {
        signal(self.main.id(), Signal::TERM)?;
        let status = until(STOP, || self.main.try_wait()?.context("it runs still"))?;
        ensure!(status.success(), "ended with {status}");
        Ok(())
    }

    fn await_announcement(&mut self, out: &Path) -> Result<()> {
        let announcement: Announcement = until(START, || {
            if let Some(status) = self.main.try_wait()? {
                return Ok(Err(anyhow!("quorate dev ended with {status}")));
            }
            let text = std::fs::read_to_string(out)?;
            let (line, _) = text.split_once('\n').context("it has not said that it runs")?;
            Ok(serde_json::from_str(line).map_err(Into::into))
        })??;
        self.pids = announcement.nodes.iter().map(|node| node.pid).collect();
        self.targets = announcement.nodes.into_iter().map(|node| node.http).collect();
        Ok(())
    }

    fn await_ok(&mut self, path: &str) -> Result<()> {
        let url = format!("http://{}{path}", self.targets.first().context("no target")?);
        until(START, || {
            if let Some(status) = self.main.try_wait()? {
                return Ok(Err(anyhow!("ended with {status}")));
            }
            ureq::get(&url).call()?;
            Ok(Ok(()))
        })?
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After an orderly stop all of this finds nothing. `quorate dev` ends its nodes when told to.
        if matches!(self.main.try_wait(), Ok(None)) {
            let _told = signal(self.main.id(), Signal::TERM);
            let _ended = until(STOP, || self.main.try_wait()?.context("it runs still"));
        }
        let _killed = self.main.kill();
        let _reaped = self.main.wait();
    }
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("no process id")?;
    Ok(kill_process(pid, signal)?)
}

/// Repeats `check` until it succeeds.
pub fn until<T>(limit: Duration, mut check: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match check() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("waited {limit:?}")));
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

fn quorate_path() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("QUORATE_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    Ok(own.with_file_name("quorate"))
}

/// A port below the kernel's range for outgoing connections, so that none of those takes it.
fn free_address() -> Result<String> {
    for port in 21_000..32_000 {
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(format!("127.0.0.1:{port}"));
        }
    }
    bail!("no free port on loopback")
}
