//! The comparison with other servers sees a loss where there is one, and none where there is none.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use quorate_jepsen_like_tests::bed::{Bed, Medium};
use quorate_jepsen_like_tests::peers::load::LoadOptions;
use quorate_jepsen_like_tests::peers::server::Subject;
use quorate_jepsen_like_tests::peers::{self, Options, Strike, Struck};
use quorate_jepsen_like_tests::{report, turn};

/// Strikes a server once, after a second or two under load.
fn struck(subject: Subject, strike: Strike) -> Vec<Struck> {
    let options = Options {
        strike,
        strikes: 1,
        load: LoadOptions {
            samples_per_second: 2_000,
            writers: 2,
            series: 50,
        },
        loaded_s: 1.0..=2.0,
        medium: Medium::Memory,
        seed: 1,
    };
    peers::run(subject, &options, report::say).unwrap()
}

fn skips(test: &str, subject: Subject) -> bool {
    let missing = Bed::missing().or(subject.missing());
    if let Some(missing) = &missing {
        report::skip(test, missing);
    }
    missing.is_some()
}

#[test]
fn prometheus_loses_to_a_power_cut_and_nothing_to_a_kill() {
    if skips(
        "prometheus_loses_to_a_power_cut_and_nothing_to_a_kill",
        Subject::Prometheus,
    ) {
        return;
    }
    let _turn = turn::take().unwrap();
    // It writes its log before it answers, and syncs it much later.
    for killed in struck(Subject::Prometheus, Strike::Kill) {
        assert_eq!((killed.lost, killed.wrong, killed.reach_s), (0, 0, 0.0));
    }
    let cut = struck(Subject::Prometheus, Strike::PowerCut);
    assert!(cut.iter().all(|cut| cut.wrong == 0), "{cut:?}");
    assert!(cut.iter().any(|cut| cut.lost > 0 && cut.reach_s > 0.0), "{cut:?}");
}

#[test]
fn quorate_loses_nothing_to_either() {
    if skips("quorate_loses_nothing_to_either", Subject::Quorate) {
        return;
    }
    let _turn = turn::take().unwrap();
    for strike in [Strike::PowerCut, Strike::Kill] {
        for struck in struck(Subject::Quorate, strike) {
            assert_eq!((struck.lost, struck.wrong), (0, 0), "{strike:?}");
        }
    }
}
