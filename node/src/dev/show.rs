//! What `quorate dev` prints for people.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use comfy_table::{Table, presets};

use super::directory::{ClusterFile, default_dir};
use super::ready::Progress;

/// A line on stderr that replaces itself; where stderr is no terminal, a line for each change.
#[derive(Debug, Default)]
pub(super) struct LiveLine {
    last: String,
    open: bool,
}

impl LiveLine {
    pub(super) fn show(&mut self, text: &str) {
        if text == self.last {
            return;
        }
        let mut stderr = std::io::stderr();
        let shown = if stderr.is_terminal() {
            self.open = true;
            write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush())
        } else {
            writeln!(stderr, "{text}")
        };
        // Nobody reads stderr: then there is nobody to tell either.
        let _unread = shown;
        text.clone_into(&mut self.last);
    }

    pub(super) fn close(&mut self) {
        if std::mem::take(&mut self.open) {
            eprintln!();
        }
    }
}

/// The running cluster and what one can do with it.
pub(super) fn overview(dir: &Path, cluster: &ClusterFile, progress: &Progress) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["node", "pid", "HTTP", "gRPC", "leads"]);
    for node in &cluster.nodes {
        let led = progress.leaders.iter().filter(|(_, leader)| **leader == node.id);
        let led = led.map(|(group, _)| {
            if *group == 0 {
                "meta".to_owned()
            } else {
                group.to_string()
            }
        });
        let led: Vec<String> = led.collect();
        table.add_row([
            node.id.to_string(),
            node.pid.to_string(),
            node.http.clone(),
            node.grpc.clone(),
            led.join(" "),
        ]);
    }
    let mut text = format!(
        "{table}\n\nData, configuration and logs are under {}.\n\n",
        dir.display()
    );
    let (Some(first), Some(last)) = (cluster.nodes.first(), cluster.nodes.last()) else {
        return text;
    };
    let endpoint = if is_default(dir) {
        String::new()
    } else {
        format!(" --endpoint {}", first.grpc)
    };
    let quorate = program();
    for (what, command) in [
        (
            "query",
            format!(
                "{quorate} query 'rate(node_cpu_seconds_total{{mode!=\"idle\"}}[1m])' --range 15m{endpoint}"
            ),
        ),
        (
            "over HTTP",
            format!("curl 'http://{}/api/v1/query?query=up'", first.http),
        ),
        ("look at it", format!("{quorate} cluster status{endpoint}")),
        ("kill a node", format!("kill -9 {}", last.pid)),
        ("restart it", restart_command(dir, last.id)),
        (
            "stop all",
            format!("kill {} (or Ctrl-C here)", std::process::id()),
        ),
    ] {
        text.push_str(&format!("  {what:<12} {command}\n"));
    }
    text
}

/// The command that starts a node of the cluster in `dir` again.
pub(super) fn restart_command(dir: &Path, id: u64) -> String {
    let dir_flag = if is_default(dir) {
        String::new()
    } else {
        format!(" --dir {}", quoted(dir))
    };
    format!("{} dev restart{dir_flag} {id}", program())
}

/// How a shell calls this binary: by its name if that is what `PATH` finds, else by its path.
fn program() -> String {
    let Ok(own) = std::env::current_exe() else {
        return "quorate".into();
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join("quorate"))
        .find(|file| file.is_file());
    match found.and_then(|file| file.canonicalize().ok()) {
        Some(file) if own.canonicalize().is_ok_and(|own| own == file) => "quorate".into(),
        _ => quoted(&own),
    }
}

/// Whether the commands find the cluster in `dir` by themselves.
fn is_default(dir: &Path) -> bool {
    default_dir()
        .ok()
        .and_then(|default| default.canonicalize().ok())
        .is_some_and(|default| default == dir)
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::directory::NodeEntry;
    use super::*;

    #[test]
    fn the_overview_has_every_command_ready_to_paste() {
        let node = |id: u64| NodeEntry {
            id,
            pid: 100 + id as u32,
            http: format!("127.0.0.1:{id}"),
            grpc: format!("127.0.0.1:{}", id + 50),
            dir: "/d".into(),
        };
        let cluster = ClusterFile {
            nodes: vec![node(1), node(2)],
        };
        let progress = Progress {
            leaders: [(0, 1), (1, 2), (2, 1)].into(),
            ..Progress::default()
        };
        let text = overview(Path::new("/it's here"), &cluster, &progress);
        for part in [
            "meta 2",
            "kill -9 102",
            r" dev restart --dir '/it'\''s here' 2",
            "--endpoint 127.0.0.1:51",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
