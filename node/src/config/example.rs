//! The commented example file, made from the declarations of the keys.

use super::Config;
use super::slot::{Item, Visit};

const INTRODUCTION: &str = "\
# Configuration of `quorate server --config FILE`. Every key with its default, but for node_id and
# peers, which have none. Each is also a flag (write.balance: --write-balance) and an environment
# variable (QUORATE_WRITE_BALANCE). A flag beats the variable, which beats the file.
#
# Durations: 300ms, 10s, 1h30m, 15d. Sizes: 64MiB, 1GiB, 500MB.
# `quorate check config FILE` reports every mistake in a file with its line.
";

const PEERS: &str = "\
peers:
  - id: 1
    grpc: 127.0.0.1:7401
    http: 127.0.0.1:7400 # optional
    zone: a              # optional
    weight: 1            # optional
  - id: 2
    grpc: 127.0.0.1:7411
  - id: 3
    grpc: 127.0.0.1:7421
";

/// Every key and its value, as it is in force.
pub fn effective(config: &Config) -> Vec<(String, String)> {
    let mut found = Vec::new();
    config.clone().visit("", &[], &mut |Item { path, slot, .. }| {
        if let Some(slot) = slot {
            found.push((path.to_owned(), slot.show()));
        }
    });
    found
}

/// The text of `deploy/quorate.example.yaml`.
pub fn example() -> String {
    let mut out = String::from(INTRODUCTION);
    Config::default().visit("", &[], &mut |Item { path, doc, slot }| {
        if path.is_empty() {
            return;
        }
        let (indent, name) = match path.rsplit_once('.') {
            Some((_, name)) => ("  ", name),
            None => ("", path),
        };
        if indent.is_empty() {
            out.push('\n');
        }
        for line in doc {
            out.push_str(&format!("{indent}#{line}\n"));
        }
        match (path, slot) {
            ("node_id", _) => out.push_str("node_id: 1\n"),
            ("peers", _) => out.push_str(PEERS),
            (_, Some(slot)) => match slot.show().as_str() {
                "" => out.push_str(&format!("{indent}{name}: \"\"\n")),
                value => out.push_str(&format!("{indent}{name}: {value}\n")),
            },
            (_, None) => out.push_str(&format!("{indent}{name}:\n")),
        }
    });
    out
}
