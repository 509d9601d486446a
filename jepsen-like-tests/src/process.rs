//! Child processes that never outlive the test, and facts about processes from `/proc`.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// Bytes of a log shown when something fails.
const LOG_TAIL_BYTES: usize = 4_096;

/// A child process whose output goes to a file. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs in `log`.
    pub fn spawn(name: &str, command: Command, log: &Path) -> Result<Process> {
        let out = File::create(log).with_context(|| format!("can't create {}", log.display()))?;
        Self::spawn_with_output(name, command, out, log)
    }

    /// Starts `command` with its standard output in `out` and its standard error in `log`.
    pub fn spawn_with_output(name: &str, command: Command, out: File, log: &Path) -> Result<Process> {
        let mut command = dying_with_this_process(&command);
        let errors = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(out).stderr(errors);
        let child = command
            .spawn()
            .with_context(|| format!("can't start {name}: {command:?}"))?;
        Ok(Process {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error with the log's end if the process has ended.
    pub fn check_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}:\n{}", self.name, self.log_tail()),
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        send(self.pid(), signal)
    }

    /// Waits for the end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let (name, log) = (self.name.clone(), self.log.clone());
        wait::until(format_args!("the end of {name}"), limit, || {
            let status = self.child.try_wait()?;
            status.ok_or_else(|| anyhow!("it runs still; its log:\n{}", tail(&log)))
        })
    }

    /// Sends SIGTERM and requires exit code 0 within `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        let status = self.wait(limit)?;
        ensure!(
            status.success(),
            "{} ended with {status}:\n{}",
            self.name,
            self.log_tail()
        );
        Ok(())
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        let status = self.child.wait()?;
        ensure!(
            status.signal() == Some(9),
            "{} had ended before with {status}",
            self.name
        );
        Ok(())
    }

    /// The end of the log.
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }
}

/// The same command, run so that the kernel kills it when the thread that started it ends: nothing is left
/// behind even by a test that is killed itself.
fn dying_with_this_process(command: &Command) -> Command {
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--pdeathsig", "KILL", "--"]);
    wrapped.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped
}

impl Drop for Process {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The end of a log file, or why there is none.
pub fn tail(log: &Path) -> String {
    match std::fs::read(log) {
        Ok(bytes) => {
            let from = bytes.len().saturating_sub(LOG_TAIL_BYTES);
            String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
        }
        Err(error) => format!("({}: {error})", log.display()),
    }
}

/// Sends a signal to any process.
pub fn send(pid: u32, signal: Signal) -> Result<()> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = raw.with_context(|| format!("{pid} is no process id"))?;
    kill_process(pid, signal).with_context(|| format!("can't signal process {pid:?}"))
}

/// Sends SIGKILL and waits until the process is gone.
pub fn kill_and_wait(pid: u32) -> Result<()> {
    send(pid, Signal::KILL)?;
    wait::until(
        format_args!("the death of {pid}"),
        Duration::from_secs(30),
        || {
            ensure!(!is_alive(pid), "it lives");
            Ok(())
        },
    )
}

/// Whether the process exists and is no zombie.
pub fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // The state follows the name, which is in parentheses and may contain anything.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, Some('Z' | 'X') | None)
}

/// Processes with `text` on their command line, this one left out.
pub fn mentioning(text: &str) -> Vec<u32> {
    let own = std::process::id();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != own && is_alive(*pid))
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(text)
        })
        .collect()
}

/// The process that listens on a TCP port of 127.0.0.1.
pub fn listening_on(address: &str) -> Result<u32> {
    let port: u16 = address
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok())
        .context("no port")?;
    let local = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let inodes: Vec<String> = table
        .lines()
        .skip(1)
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
        // 0A is LISTEN.
        .filter(|fields| fields.get(1).is_some_and(|at| at.ends_with(&local)) && fields.get(3) == Some(&"0A"))
        .filter_map(|fields| fields.get(9).map(|inode| format!("socket:[{inode}]")))
        .collect();
    ensure!(!inodes.is_empty(), "nobody listens on {address}");
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(files) = std::fs::read_dir(entry.path().join("fd")) else {
            continue;
        };
        let mut targets = files
            .flatten()
            .filter_map(|file| std::fs::read_link(file.path()).ok());
        if targets.any(|target| inodes.iter().any(|inode| target.as_os_str() == inode.as_str())) {
            return Ok(pid);
        }
    }
    bail!("the process that listens on {address} is not to be seen")
}

/// Where the `quorate` binary is: `QUORATE_BIN`, else beside the test's own directory, where
/// `cargo test --workspace` puts it.
pub fn quorate_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("QUORATE_BIN") {
        let path = PathBuf::from(path);
        ensure!(
            path.is_file(),
            "QUORATE_BIN names {}, which is no file",
            path.display()
        );
        return Ok(path);
    }
    let own = std::env::current_exe()?;
    let candidates = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("quorate"));
    let found = candidates.into_iter().find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "no quorate binary beside {}: run `cargo build -p quorate-node` or set QUORATE_BIN",
            own.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(directory: &Path) -> Process {
        let mut command = Command::new("sleep");
        command.arg("1000");
        Process::spawn("sleep", command, &directory.join("log")).unwrap()
    }

    #[test]
    fn dropping_kills() {
        let directory = tempfile::tempdir().unwrap();
        let process = sleeper(directory.path());
        let pid = process.pid();
        assert!(is_alive(pid));
        drop(process);
        assert!(!is_alive(pid));
    }

    #[test]
    fn a_process_that_dies_of_sigterm_did_not_exit_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let error = sleeper(directory.path())
            .terminate(Duration::from_secs(10))
            .unwrap_err();
        assert!(error.to_string().contains("signal: 15"), "{error}");
    }

    #[test]
    fn listeners_are_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert_eq!(listening_on(&address).unwrap(), std::process::id());
        drop(listener);
        assert!(listening_on(&address).is_err());
    }
}
