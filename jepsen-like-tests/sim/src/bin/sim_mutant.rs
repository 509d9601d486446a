//! `sim` with the planted bugs of raft-log and storage built in; `QUORATE_MUTANT` names the one to run with.
//! `sim-mutant --table` runs with each of them and prints which checker caught it and after how long.

use std::process::{Command, ExitCode};

use anyhow::Context;
use serde_json::Value;

/// Seconds that a bug may stay unnoticed.
const LIMIT: &str = "60";

/// Which checkers may catch each bug first: which one does depends on what happens first.
const CAUGHT_BY: &[(&str, &[&str])] = &[
    ("ack_before_fsync", &["lost", "two_terms", "truncated_committed"]),
    ("apply_local_clock", &["wrong_outcome"]),
    ("canonical_nan", &["altered", "wrong_outcome"]),
    ("eio_ignored", &["crashed", "lost", "two_terms"]),
    ("ids_from_hash_order", &["wrong_outcome", "diverged"]),
    ("index_misses_two_matchers", &["lost"]),
    ("last_sample_of_chunk", &["lost", "diverged", "wrong_outcome"]),
    ("no_vote_guard", &["stale_linearizable"]),
    ("purge_beyond_snapshot", &["purged_too_far"]),
    ("read_without_read_index", &["stale_linearizable"]),
    ("sample_dropped_at_merge", &["lost", "diverged", "wrong_outcome"]),
    ("slab_lost", &["lost", "wrong_outcome", "diverged"]),
    ("snapshot_drops_range", &["lost"]),
    ("truncate_committed", &["truncated_committed"]),
    ("vote_not_fsynced", &["vote_lost", "voted_twice", "two_leaders"]),
];

/// What the simulation doesn't do, so that it can't see these: `docs/adr/0005-simulated-core.md`.
const UNSEEN: &[(&str, &str)] = &[
    ("meta_before_slab", "a crash inside a call of storage"),
    ("snapshot_not_atomic", "a crash inside a call of storage"),
    ("tombstone_forgotten_at_merge", "a deletion"),
    ("wal_checksum_skipped", "bit rot"),
];

fn main() -> ExitCode {
    if !std::env::args().any(|argument| argument == "--table") {
        return quorate_sim::command::main();
    }
    match table() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sim-mutant: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs every bug in a process of its own; says whether all were caught by whom they should be.
fn table() -> anyhow::Result<bool> {
    let mut all = true;
    for name in quorate_raft_log::MUTANTS.iter().chain(quorate_storage::MUTANTS) {
        if let Some((_, why)) = UNSEEN.iter().find(|(mutant, _)| mutant == name) {
            println!("{name:28} not seen here, it takes {why}");
            continue;
        }
        let expected = CAUGHT_BY.iter().find(|(mutant, _)| mutant == name);
        let (_, expected) = expected.with_context(|| format!("{name} has no checker"))?;
        let output = Command::new(std::env::current_exe()?)
            .args(["--seconds", LIMIT, "--json", "--no-shrink"])
            .env("QUORATE_MUTANT", name)
            .output()?;
        let report: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let violation = &report["violation"];
        let checker = violation["checker"].as_str();
        let caught = checker.is_some_and(|checker| expected.contains(&checker));
        all &= caught;
        println!(
            "{name:28} {} after {:.1} s, seed {}",
            checker.unwrap_or("NOT CAUGHT"),
            report["seconds"].as_f64().unwrap_or_default(),
            violation["seed"],
        );
        if !caught {
            println!("{:28} expected was {expected:?}: {}", "", violation["detail"]);
        }
    }
    Ok(all)
}
