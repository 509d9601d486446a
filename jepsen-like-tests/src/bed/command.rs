//! The system's own tools, run to their end.

use std::ffi::OsStr;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Runs a tool and returns what it printed. Anything but success is an error with what it complained of.
pub(super) fn run(program: &str, arguments: &[impl AsRef<OsStr>]) -> Result<String> {
    feed(program, arguments, "")
}

/// As [`run`], with `input` as the tool's standard input.
pub(super) fn feed(program: &str, arguments: &[impl AsRef<OsStr>], input: &str) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("can't run {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that reads nothing has closed it; what it thinks of that is in its status.
        let _closed = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{command:?}: {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim(),
        if input.is_empty() {
            String::new()
        } else {
            format!("\nwith input:\n{input}")
        }
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a tool can be found.
pub(super) fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
