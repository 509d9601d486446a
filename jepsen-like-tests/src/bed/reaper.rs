//! Cleans up when a bed ends, however it ends. A shell in a session of its own waits for the end of a pipe
//! whose other end only the orchestrator holds: the kernel closes it even when the orchestrator is killed.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::disk::Image;
use super::names::Names;

/// Waits for the end of its input, whatever signals a terminal may send to all that belongs to it.
const WAIT: &str = r#"trap '' HUP INT TERM; word=$(cat); exec sh "$0" "$word""#;

/// The waiting shell.
#[derive(Debug)]
pub(super) struct Reaper {
    shell: Child,
}

impl Reaper {
    /// Writes the script and starts the shell, before there is anything to clean up.
    pub(super) fn start(names: &Names, nodes: &[u64], images: &Path, keep: bool) -> Result<Reaper> {
        let script = names.directory.join("cleanup.sh");
        std::fs::write(&script, cleanup(names, nodes, images, keep))?;
        let mut command = Command::new("setsid");
        command.args(["sh", "-c", WAIT]);
        command.arg(&script).current_dir("/");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let shell = command.spawn().context("can't run setsid")?;
        Ok(Reaper { shell })
    }

    /// Has everything cleaned up and waits for it.
    pub(super) fn finish(&mut self) -> Result<()> {
        if let Some(mut pipe) = self.shell.stdin.take() {
            // Without this word, it is as if this process had been killed: that only takes longer.
            let _sent = pipe.write_all(b"done");
        }
        let status = self.shell.wait()?;
        ensure!(
            status.success(),
            "cleaning up the bed left something behind: {status}"
        );
        Ok(())
    }
}

/// The script removes what there is and goes on over what there isn't. Its status is 0 if nothing is left.
fn cleanup(names: &Names, nodes: &[u64], images: &Path, keep: bool) -> String {
    let mut script = String::from(PREAMBLE);
    let mut line = |text: String| {
        let _infallible = writeln!(script, "{text}");
    };
    for node in nodes {
        line(format!("kill_all {}", names.namespace(*node)));
    }
    for node in nodes {
        line(format!("unmount {}", quoted(&names.mountpoint(*node))));
        line(format!("detach {}", quoted(&Image::path_in(images, *node))));
        line(format!("ip link delete {}", names.port(*node)));
        line(format!("ip netns delete {}", names.namespace(*node)));
        for hierarchy in super::cgroup::ROOTS {
            line(format!("rmdir {hierarchy}/{}/n{node}", names.base()));
        }
    }
    for hierarchy in super::cgroup::ROOTS {
        line(format!("rmdir {hierarchy}/{}", names.base()));
    }
    line(format!("nft delete table bridge {}", names.table()));
    line(format!("ip link delete {}", names.bridge()));
    if !keep {
        line(format!("rm -rf --one-file-system {}", quoted(images)));
    }
    line("exec 2>&1".to_owned());
    for node in nodes {
        line(format!(
            "check_gone {} {}",
            quoted(&names.mountpoint(*node)),
            names.namespace(*node)
        ));
    }
    if !keep {
        line(format!(
            "[ $left = 0 ] && rm -rf --one-file-system {}",
            quoted(&names.directory)
        ));
    }
    line("exit $left".to_owned());
    script
}

/// A path in single quotes. Paths of beds contain none.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display())
}

const PREAMBLE: &str = r#"#!/bin/sh
# Removes everything of a bed. Can be run again.
exec 2>/dev/null
left=0
# A killed orchestrator may have left tools running that are about to make something.
[ "$1" = done ] || sleep 1
kill_all() { # kill_all NAMESPACE: until nothing runs in it
    for _ in $(seq 200); do
        pids=$(ip netns pids "$1") || return
        [ -n "$pids" ] || return
        kill -KILL $pids
        sleep 0.02
    done
}
unmount() { # unmount PATH: a process that is about to end may hold it for a moment
    for _ in $(seq 100); do
        mountpoint -q "$1" || return
        umount "$1" || sleep 0.05
    done
    umount --lazy "$1"
}
detach() { # detach IMAGE
    for device in $(losetup --noheadings --output NAME --associated "$1"); do losetup --detach "$device"; done
}
check_gone() { # check_gone MOUNTPOINT NAMESPACE
    if mountpoint -q "$1" || [ -e "/run/netns/$2" ]; then left=1; fi
}
"#;
