//! The shape of the workspace, as `docs/ARCHITECTURE.md` promises it: which crate may depend on which, who
//! may know of consensus, the disk, the runtime and the wire, and what licences everything linked has.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const PREFIX: &str = "quorate-";

/// Which of our crates each of them may depend on, in code, tests and build scripts alike. A crate that
/// isn't here fails the test: its place has to be decided.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("ring", &[]),
    ("raft-log", &[]),
    ("storage", &[]),
    ("ingest", &[]),
    ("query", &["storage"]),
    ("client", &["proto", "ring"]),
    (
        "node",
        &[
            "proto", "ring", "raft-log", "storage", "ingest", "query", "client",
        ],
    ),
    ("jepsen-like-tests", &["client", "proto"]),
    ("sim", &["raft-log", "storage"]),
    (
        "bench",
        &[
            "client", "proto", "ring", "raft-log", "storage", "ingest", "query",
        ],
    ),
];

/// Crates that live in the folder of another, by name.
const NESTED: &[(&str, &str)] = &[("sim", "jepsen-like-tests/sim")];

/// Who may name certain crates of others (a trailing `*` stands for any ending).
const ONLY: &[(&str, &[&str])] = &[
    ("openraft*", &["raft-log", "sim"]),
    ("openraft", &["raft-log"]),
    ("openraft-rt", &["raft-log"]),
    ("rocksdb", &["raft-log", "storage", "node", "sim"]),
    ("consistent_hash", &["ring"]),
    (
        "tokio*",
        &["raft-log", "client", "node", "jepsen-like-tests", "sim", "bench"],
    ),
    ("tonic*", &["proto", "client", "node", "jepsen-like-tests"]),
    ("axum", &["node"]),
    ("hyper*", &["node"]),
    ("clap", &["node", "jepsen-like-tests", "sim", "bench"]),
    ("anyhow", &["node", "jepsen-like-tests", "sim", "bench"]),
];

/// Crates that stay free of a runtime and of the network, whatever they depend on.
const SYNCHRONOUS: &[&str] = &["ring", "storage", "ingest", "query"];
const RUNTIMES: &[&str] = &["tokio", "mio", "async-std", "smol", "hyper", "tonic"];

/// Names that say nothing about what is inside.
const VAGUE: &[&str] = &["common", "types", "util", "utils", "misc", "helpers"];

/// Licences that Apache-2.0 software may link, as SPDX ids. The same list stands in `deny.toml`.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// The folder of the crate with this name.
fn folder_of(name: &str) -> PathBuf {
    let nested = NESTED.iter().find(|(crate_name, _)| *crate_name == name);
    root().join(nested.map_or(name, |(_, folder)| folder))
}

/// What `cargo metadata` says of the workspace and everything it depends on, on this platform.
fn metadata() -> Value {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let version = Command::new(rustc).arg("-vV").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap();
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args([
            "metadata",
            "--offline",
            "--locked",
            "--format-version",
            "1",
            "--filter-platform",
            host,
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key]
        .as_array()
        .unwrap_or_else(|| panic!("cargo metadata has no list `{key}`"))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("cargo metadata has no `{key}`: {value}"))
}

/// Our packages by folder.
fn members(metadata: &Value) -> BTreeMap<&str, &Value> {
    let ids: BTreeSet<&str> = items(metadata, "workspace_members")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let ours = items(metadata, "packages")
        .iter()
        .filter(|package| ids.contains(text(package, "id")));
    ours.map(|package| {
        let name = text(package, "name");
        let folder = name
            .strip_prefix(PREFIX)
            .unwrap_or_else(|| panic!("{name} doesn't start with {PREFIX}"));
        let manifest = Path::new(text(package, "manifest_path"));
        assert_eq!(
            manifest,
            folder_of(folder).join("Cargo.toml"),
            "{name} isn't in the folder of its name"
        );
        (folder, package)
    })
    .collect()
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

#[test]
fn crates_import_only_what_they_may() {
    let metadata = metadata();
    let allowed: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let members = members(&metadata);
    assert_eq!(
        members.keys().collect::<Vec<_>>(),
        allowed.keys().collect::<Vec<_>>()
    );
    for (folder, package) in members {
        for dependency in items(package, "dependencies") {
            let Some(other) = text(dependency, "name").strip_prefix(PREFIX) else {
                continue;
            };
            assert!(
                allowed[folder].contains(&other),
                "{folder} must not import {other}"
            );
        }
    }
}

#[test]
fn imports_have_no_cycle() {
    let mut placed: BTreeSet<&str> = BTreeSet::new();
    while placed.len() < MAY_IMPORT.len() {
        let before = placed.len();
        for (folder, imports) in MAY_IMPORT {
            if imports.iter().all(|import| placed.contains(import)) {
                placed.insert(folder);
            }
        }
        assert!(placed.len() > before, "the table has a cycle beyond {placed:?}");
    }
}

#[test]
fn consensus_disk_runtime_and_wire_stay_where_they_belong() {
    let metadata = metadata();
    for (folder, package) in members(&metadata) {
        for dependency in items(package, "dependencies") {
            let name = text(dependency, "name");
            // A build script may use what it likes: nothing of it is linked. Tests report as the edge does.
            let in_tests = dependency["kind"] == "dev";
            if dependency["kind"] == "build" || (in_tests && name == "anyhow") {
                continue;
            }
            for (pattern, owners) in ONLY {
                let allowed = !matches(pattern, name) || owners.contains(&folder);
                assert!(allowed, "{folder} must not name {name}, only {owners:?} may");
            }
        }
    }
}

#[test]
fn synchronous_crates_link_no_runtime() {
    let metadata = metadata();
    let nodes = items(&metadata["resolve"], "nodes");
    let by_id: BTreeMap<&str, &Value> = nodes.iter().map(|node| (text(node, "id"), node)).collect();
    let packages = items(&metadata, "packages");
    let names: BTreeMap<&str, &str> = packages
        .iter()
        .map(|package| (text(package, "id"), text(package, "name")))
        .collect();
    let members = members(&metadata);
    for folder in SYNCHRONOUS {
        let mut seen = BTreeSet::new();
        let mut todo = vec![text(members[folder], "id")];
        while let Some(id) = todo.pop() {
            if !seen.insert(id) {
                continue;
            }
            assert!(
                !RUNTIMES.contains(&names[id]),
                "{folder} must not link {}",
                names[id]
            );
            let linked = items(by_id[id], "deps").iter().filter(|dependency| {
                items(dependency, "dep_kinds")
                    .iter()
                    .any(|kind| kind["kind"].is_null())
            });
            todo.extend(linked.map(|dependency| text(dependency, "pkg")));
        }
        assert!(seen.len() > 1, "nothing was looked at for {folder}");
    }
}

/// Is an SPDX expression satisfied by the list? `A/B` is an old way to write `A OR B`.
fn allowed_licence(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], " ");
    let known = |id: &str| LICENCES.contains(&id.split_whitespace().collect::<Vec<_>>().join(" ").as_str());
    // Every expression in use is a conjunction of choices, so the brackets may go.
    expression
        .split(" AND ")
        .all(|choice| choice.split(" OR ").any(known))
}

#[test]
fn licences_allow_what_we_do() {
    let metadata = metadata();
    let packages = items(&metadata, "packages");
    assert!(packages.len() > MAY_IMPORT.len());
    for package in packages {
        let name = text(package, "name");
        let licence = package["license"].as_str().unwrap_or("none");
        assert!(allowed_licence(licence), "{name} has the licence {licence}");
    }
    for (folder, package) in members(&metadata) {
        assert_eq!(package["license"], "Apache-2.0", "{folder}");
        assert_eq!(
            package["publish"],
            Value::Array(Vec::new()),
            "{folder} could be published"
        );
    }
}

#[test]
fn licence_expressions_are_understood() {
    for good in [
        "MIT",
        "MIT OR GPL-3.0",
        "GPL-2.0/MIT",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
    ] {
        assert!(allowed_licence(good), "{good}");
    }
    for good in ["Apache-2.0 WITH LLVM-exception OR MIT", "Apache-2.0 / MIT"] {
        assert!(allowed_licence(good), "{good}");
    }
    for bad in [
        "",
        "none",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "(MIT OR Apache-2.0) AND AGPL-3.0",
        "MITX",
    ] {
        assert!(!allowed_licence(bad), "{bad}");
    }
}

#[test]
fn deny_toml_has_the_same_licences() {
    let deny = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    let list = deny
        .split_once("[licenses]\nallow = [")
        .unwrap()
        .1
        .split_once(']')
        .unwrap()
        .0;
    let listed: Vec<&str> = list
        .split(',')
        .map(|item| item.trim().trim_matches('"'))
        .collect();
    let listed: Vec<&str> = listed.into_iter().filter(|item| !item.is_empty()).collect();
    assert_eq!(listed, LICENCES);
}

#[test]
fn modules_have_names_that_say_something() {
    let mut files = 0;
    for (folder, _) in MAY_IMPORT {
        assert!(!VAGUE.contains(folder));
        let mut todo = vec![folder_of(folder)];
        while let Some(path) = todo.pop() {
            let stem = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            assert!(!VAGUE.contains(&stem.as_str()), "{}", path.display());
            if path.is_dir() {
                todo.extend(
                    std::fs::read_dir(&path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files += 1;
            }
        }
    }
    assert!(files > MAY_IMPORT.len());
}
