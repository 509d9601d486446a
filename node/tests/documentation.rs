//! What the documents name must exist: files and folders, links, targets of the Makefile.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// All Markdown files at the top level and under `docs` and `deploy`.
fn documents() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut todo = vec![root().join("docs"), root().join("deploy")];
    todo.extend(
        std::fs::read_dir(root())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file()),
    );
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if path.extension().is_some_and(|extension| extension == "md") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    assert!(found.iter().any(|(path, _)| path.ends_with("README.md")));
    found
}

/// What stands between backticks, outside of fenced blocks.
fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    let prose = text.split("```").step_by(2);
    prose.flat_map(|part| part.split('`').skip(1).step_by(2))
}

/// Is this the path of something in the repository? It begins with a folder that is there.
fn is_path(span: &str, folders: &BTreeSet<String>) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    span.split_once('/')
        .is_some_and(|(first, _)| folders.contains(first))
        && span.chars().all(plain)
}

fn folders() -> BTreeSet<String> {
    let entries = std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap());
    let folders = entries.filter(|entry| entry.path().is_dir());
    // Data, and things built, are no part of the repository.
    folders
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name != "target" && name != "data" && name != ".git")
        .collect()
}

#[test]
fn named_paths_exist() {
    let folders = folders();
    let mut checked = 0;
    for (document, text) in documents() {
        for span in code_spans(&text).filter(|span| is_path(span, &folders)) {
            assert!(root().join(span).exists(), "{} names {span}", document.display());
            checked += 1;
        }
    }
    assert!(checked > 20, "only {checked} paths were found");
}

#[test]
fn links_lead_somewhere() {
    let mut checked = 0;
    for (document, text) in documents() {
        for part in text.split("](").skip(1) {
            let target = part.split([')', '#']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let path = document.parent().unwrap().join(target);
            assert!(path.exists(), "{} links to {target}", document.display());
            checked += 1;
        }
    }
    assert!(checked > 5, "only {checked} links were found");
}

/// Names in the first column of the tables: `| `a`, `b` | what for |`.
fn first_columns(text: &str) -> BTreeSet<&str> {
    let cells = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    cells
        .flat_map(|cell| cell.split(", ").map(|name| name.trim_matches('`')))
        .collect()
}

#[test]
fn every_dependency_is_explained() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let section = manifest
        .split_once("[workspace.dependencies]")
        .unwrap()
        .1
        .split("\n[")
        .next()
        .unwrap();
    let named = section
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(" = "));
    let named: BTreeSet<&str> = named
        .map(|(name, _)| name)
        .filter(|name| !name.starts_with("quorate-"))
        .collect();
    let text = std::fs::read_to_string(root().join("docs/DEPENDENCIES.md")).unwrap();
    assert!(named.contains("openraft"));
    assert_eq!(first_columns(&text), named);
}

/// Text of all our Rust files but this one.
fn code() -> String {
    let mut found = String::new();
    let manifests = std::fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut todo: Vec<PathBuf> = manifests
        .filter(|path| path.join("Cargo.toml").exists())
        .collect();
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with("documentation.rs")
        {
            found.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
    found
}

/// Words like `RFT-4`.
fn invariant_ids(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    let known = ["ACK", "REP", "RDS", "IDS", "RNG", "RFT", "STO"];
    words
        .filter(|word| {
            word.split_once('-').is_some_and(|(family, number)| {
                known.contains(&family) && !number.is_empty() && number.chars().all(|c| c.is_ascii_digit())
            })
        })
        .collect()
}

#[test]
fn invariants_that_code_names_are_listed() {
    let code = code();
    let text = std::fs::read_to_string(root().join("docs/INVARIANTS.md")).unwrap();
    let (named, listed) = (invariant_ids(&code), invariant_ids(&text));
    let unlisted: Vec<_> = named.difference(&listed).collect();
    assert!(
        !named.is_empty() && unlisted.is_empty(),
        "not in docs/INVARIANTS.md: {unlisted:?}"
    );
}

#[test]
fn named_make_targets_exist() {
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(target, _)| target)
        .collect();
    let mut checked = 0;
    for (document, text) in documents() {
        for line in text.lines() {
            for part in line.split("make ").skip(1) {
                // Only commands: at the start of a line of a block, or right after a backtick.
                let command = line.starts_with("make ") || line.contains("`make ");
                let target = part
                    .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
                    .next()
                    .unwrap_or("");
                if !command || target.is_empty() {
                    continue;
                }
                let known = targets.contains(target) || target.starts_with("test-");
                assert!(known, "{} names make {target}", document.display());
                checked += 1;
            }
        }
    }
    assert!(checked > 3, "only {checked} targets were found");
}
