//! One node: its process, and what is done to it.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use super::cgroup::CpuGroup;
use super::disk::Disk;
use super::shim::Control;
use crate::{process, wait};

/// How long the kernel may take to stop or end a process.
const KERNEL: Duration = Duration::from_secs(30);

/// A node of the bed. One thread at a time does something to it.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) id: u64,
    pub(super) http: String,
    pub(super) grpc: String,
    pub(super) log: PathBuf,
    pub(super) launch: Launch,
    state: Mutex<State>,
}

/// How its process is started.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    pub(super) namespace: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
}

/// What changes.
#[derive(Debug)]
pub(super) struct State {
    pub(super) disk: Disk,
    pub(super) control: Control,
    pub(super) cpu: CpuGroup,
    pub(super) running: Option<Child>,
    pub(super) pid: u32,
    pub(super) last_exit: Option<ExitStatus>,
}

impl Host {
    pub(super) fn new(
        id: u64,
        (http, grpc): (String, String),
        log: PathBuf,
        launch: Launch,
        state: State,
    ) -> Host {
        Host {
            id,
            http,
            grpc,
            log,
            launch,
            state: Mutex::new(state),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the node keeps its data.
    pub(super) fn data(&self, state: &State) -> PathBuf {
        state.disk.mountpoint().join("data")
    }

    /// Starts the process with `binary` and more environment.
    pub(super) fn start(&self, binary: &Path, environment: &[(String, String)]) -> Result<()> {
        let all = self.launch.environment.iter().chain(environment);
        let all: Vec<String> = all.map(|(name, value)| format!("{name}={value}")).collect();
        self.spawn(binary, &self.launch.arguments, &all)
    }

    /// Starts another program in the node's place, without the shim.
    pub(super) fn start_program(&self, program: &Path, arguments: &[String]) -> Result<()> {
        self.spawn(program, arguments, &[])
    }

    fn spawn(&self, program: &Path, arguments: &[String], environment: &[String]) -> Result<()> {
        let mut state = self.lock();
        state.look();
        ensure!(state.running.is_none(), "node {} runs already", self.id);
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.launch.namespace.display()));
        // The shim is for the node alone, not for the tools that start it.
        command.args(["--", "env"]).args(environment);
        command.arg(program).args(arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("can't run nsenter")?;
        state.pid = child.id();
        state.running = Some(child);
        state.last_exit = None;
        state.await_entry(&self.launch.namespace)?;
        match state.running_pid(self.id) {
            Ok(pid) => state.cpu.join(pid),
            // It has ended already; whoever wants to know asks for its exit.
            Err(_) => Ok(()),
        }
    }

    /// SIGTERM; the process must end with status 0 within `limit`.
    pub(super) fn stop(&self, limit: Duration) -> Result<()> {
        self.lock().signal(self.id, Signal::TERM)?;
        let status = self.await_end(limit)?;
        ensure!(
            status.success(),
            "node {} ended with {status}:\n{}",
            self.id,
            process::tail(&self.log)
        );
        Ok(())
    }

    /// Waits until the process has ended by itself.
    pub(super) fn await_end(&self, limit: Duration) -> Result<ExitStatus> {
        wait::until(format_args!("the end of node {}", self.id), limit, || {
            self.lock().end().context("it runs still")
        })
    }
}

impl State {
    /// Notices whether the process has ended.
    pub(super) fn look(&mut self) {
        if let Some(status) = self
            .running
            .as_mut()
            .and_then(|child| child.try_wait().ok().flatten())
        {
            self.last_exit = Some(status);
            self.running = None;
        }
    }

    /// Waits until the process has become the program, in its namespace. Stopped before, it would not be found there
    /// by the reaper, and no fault would hit what it is meant for.
    fn await_entry(&mut self, namespace: &Path) -> Result<()> {
        let inside = std::fs::metadata(namespace)?.ino();
        let process = PathBuf::from(format!("/proc/{}", self.pid));
        wait::until("a process to enter its namespace", KERNEL, || {
            self.look();
            if self.running.is_none() {
                return Ok(());
            }
            let at = std::fs::metadata(process.join("ns/net"))?.ino();
            let program = std::fs::read_link(process.join("exe"))?;
            let is_tool = ["nsenter", "env"].iter().any(|tool| program.ends_with(tool));
            ensure!(at == inside && !is_tool, "it is {} still", program.display());
            Ok(())
        })
    }

    fn end(&mut self) -> Option<ExitStatus> {
        self.look();
        self.last_exit
    }

    /// Sends a signal; an error if nothing runs.
    pub(super) fn signal(&mut self, id: u64, signal: Signal) -> Result<()> {
        process::send(self.running_pid(id)?, signal)
    }

    /// SIGKILL, and waits for the end. Nothing if it doesn't run.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.look();
        if let Some(mut child) = self.running.take() {
            child.kill()?;
            self.last_exit = Some(child.wait()?);
        }
        Ok(())
    }

    /// SIGSTOP, and waits until no thread runs.
    pub(super) fn pause(&mut self, id: u64) -> Result<()> {
        self.signal(id, Signal::STOP)?;
        let pid = self.pid;
        wait::until(format_args!("node {id} to stand still"), KERNEL, || {
            for thread in std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
                let Ok(stat) = std::fs::read_to_string(thread.path().join("stat")) else {
                    continue; // it has ended
                };
                let status = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
                ensure!(
                    matches!(status, Some('T' | 'Z' | 'X')),
                    "a thread is in state {status:?}"
                );
            }
            Ok(())
        })
    }

    /// The pid of the process that runs.
    pub(super) fn running_pid(&mut self, id: u64) -> Result<u32> {
        self.look();
        match &self.running {
            Some(child) => Ok(child.id()),
            None => bail!("node {id} doesn't run"),
        }
    }

    /// An error if the process runs: what follows is for a disk that nobody uses.
    pub(super) fn ensure_down(&mut self, id: u64) -> Result<()> {
        self.look();
        ensure!(self.running.is_none(), "node {id} runs: stop it first");
        Ok(())
    }

    /// Sets the soft limit of a resource; `None` lifts it up to the hard one.
    pub(super) fn limit(&mut self, id: u64, resource: Resource, limit: Option<u64>) -> Result<()> {
        let pid = i32::try_from(self.running_pid(id)?).ok().and_then(Pid::from_raw);
        let maximum = rustix::process::getrlimit(resource).maximum;
        let current = limit.or(maximum);
        prlimit(pid, resource, Rlimit { current, maximum })?;
        Ok(())
    }
}

/// A status as people read it: the signal's name matters more than its number.
pub(super) fn describe(status: ExitStatus) -> String {
    match status.signal().and_then(Signal::from_named_raw) {
        Some(Signal::ABORT) => "aborted (SIGABRT)".to_owned(),
        Some(Signal::KILL) => "killed (SIGKILL)".to_owned(),
        _ => status.to_string(),
    }
}
