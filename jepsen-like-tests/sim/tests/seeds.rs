//! Seeds of the simulation, as many as fit into `QUORATE_SIM_SECONDS` (20 by default; 120 in `make test`), from
//! `QUORATE_SIM_FROM` on.

use std::time::Duration;

use quorate_sim::seeds::run_seeds;

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text:?} is no number")),
        Err(_) => default,
    }
}

#[test]
fn no_seed_breaks_a_rule() {
    let limit = Duration::from_secs(number("QUORATE_SIM_SECONDS", 20));
    let from = number("QUORATE_SIM_FROM", 0);
    let summary = run_seeds(from..u64::MAX, Some(limit), 2).unwrap();
    println!("{summary}");
    // Shown without --nocapture too: CI reports how many seeds it ran.
    eprintln!("simulation: {} seeds", summary.seeds);
    if let Some((seed, violation)) = &summary.failed {
        panic!(
            "seed {seed} broke {}: {}\nagain, and smaller: cargo run -p quorate-sim -- --seed {seed}",
            violation.checker, violation.detail
        );
    }
    assert!(summary.seeds > 0, "no seed ended within {limit:?}");
    // What never happened proves nothing.
    if summary.seeds >= 50 {
        let (kills, cuts, aborts) = summary.crashes;
        let (partitions, flushes, snapshots, wipes) = summary.others;
        for (what, count) in [
            ("kills", kills),
            ("power cuts", cuts),
            ("failed syncs", aborts),
            ("partitions", partitions),
            ("flushes", flushes),
            ("installed snapshots", snapshots),
            ("crashes in snapshots", summary.snapshot_crashes),
            ("crashes near a point", summary.near),
            ("replaced disks", wipes),
            ("acknowledged samples", summary.acked.1),
            ("linearizable reads", summary.reads.1),
            ("compared checksums", summary.compared),
        ] {
            assert!(count > 0, "there were no {what} in {} seeds", summary.seeds);
        }
    }
}
