//! A seed is all that decides a run.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use quorate_sim::plan::Plan;
use quorate_sim::run::{Outcome, RunOptions, run};
use quorate_sim::series::Catalogue;

fn recorded(seed: u64) -> Outcome {
    let options = RunOptions {
        keep_trace: true,
        keep_schedule: true,
    };
    run(Plan::new(seed), &Arc::new(Catalogue::new()), options).unwrap()
}

#[test]
fn two_runs_of_a_seed_are_identical_to_the_byte() {
    for seed in 0..6 {
        let (first, second) = std::thread::scope(|scope| {
            // On two threads at once, so that nothing of the other run may leak in either.
            let other = scope.spawn(|| recorded(seed));
            (recorded(seed), other.join().unwrap())
        });
        let (trace, again) = (first.trace.unwrap(), second.trace.unwrap());
        for (number, (line, other)) in trace.lines().zip(again.lines()).enumerate() {
            assert_eq!(line, other, "seed {seed}, line {number} of the trace");
        }
        assert_eq!(trace, again, "seed {seed}");
        assert!(trace.lines().count() > 100, "seed {seed} did next to nothing");
        // Every poll, wake, timer and random number of the executor.
        for (number, (line, other)) in first.schedule.iter().zip(&second.schedule).enumerate() {
            assert_eq!(line, other, "seed {seed}, event {number} of the executor");
        }
        assert_eq!(first.schedule.len(), second.schedule.len(), "seed {seed}");
        assert_eq!(first.digest, second.digest);
        assert_eq!(first.counts, second.counts);
    }
}

#[test]
fn seeds_differ() {
    let (one, two) = (recorded(1), recorded(2));
    assert_ne!(one.digest, two.digest);
}
