//! The program that people run contains no planted bug: not one of their names is in it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;

/// Every name in quotes in the lists of a `fault.rs`.
fn names(crate_folder: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join(crate_folder)
        .join("src/fault.rs");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut names = Vec::new();
    for list in ["MUTANTS: &[&str] = &[", "CRASH_POINTS: &[&str] = &["] {
        let (_, rest) = text.split_once(list).unwrap();
        let (list, _) = rest.split_once(']').unwrap();
        names.extend(list.split('"').skip(1).step_by(2).map(str::to_owned));
    }
    names
}

/// Which of `names` occur in `program`, in one pass over it.
fn occurring<'n>(program: &[u8], names: &'n [String]) -> BTreeSet<&'n str> {
    let pair = |bytes: &[u8]| usize::from(bytes[0]) << 8 | usize::from(bytes[1]);
    let mut begins = vec![Vec::new(); 1 << 16];
    for name in names {
        begins[pair(name.as_bytes())].push(name.as_str());
    }
    let mut found = BTreeSet::new();
    for (at, two) in program.windows(2).enumerate() {
        let candidates = &begins[pair(two)];
        found.extend(
            candidates
                .iter()
                .filter(|name| program[at..].starts_with(name.as_bytes())),
        );
    }
    found
}

#[test]
fn quorate_contains_no_mutant_and_no_crash_point() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_quorate")).unwrap();
    let mut looked_for = vec!["QUORATE_MUTANT".to_owned(), "QUORATE_CRASH_AT".to_owned()];
    for folder in ["raft-log", "storage", "node"] {
        looked_for.extend(names(folder));
    }
    assert!(looked_for.len() > 30, "{looked_for:?}");
    let there = "disk_reserve_bytes".to_owned();
    looked_for.push(there.clone());
    assert_eq!(occurring(&program, &looked_for), BTreeSet::from([there.as_str()]));
}
