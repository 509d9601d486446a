//! A minute of overlapping faults on real processes, power cuts of all voters among them.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use quorate_jepsen_like_tests::bed::{Bed, Medium};
use quorate_jepsen_like_tests::history::FaultKind;
use quorate_jepsen_like_tests::nemesis::mixes::CHAOS;
use quorate_jepsen_like_tests::process::quorate_binary;
use quorate_jepsen_like_tests::report::{number_from_env, say, skip};
use quorate_jepsen_like_tests::run::{RunOptions, run};
use quorate_jepsen_like_tests::turn;

/// How long faults are begun. `QUORATE_TEST_SECONDS` sets another time.
const SECONDS: u64 = 60;
/// Load in samples per second. `QUORATE_TEST_RATE` sets another.
const RATE: u64 = 15_000;

#[test]
fn nothing_acknowledged_is_lost_in_chaos() -> Result<()> {
    if let Some(missing) = Bed::missing() {
        skip("nothing_acknowledged_is_lost_in_chaos", missing);
        return Ok(());
    }
    let _turn = turn::take()?;
    let seed = number_from_env("QUORATE_TEST_SEED", u64::from(rand::random::<u32>()));
    say(format_args!("chaos: QUORATE_TEST_SEED={seed} repeats it"));
    let options = RunOptions {
        seed,
        duration: Duration::from_secs(number_from_env("QUORATE_TEST_SECONDS", SECONDS)),
        mix: CHAOS,
        medium: Medium::Memory,
        rate: number_from_env("QUORATE_TEST_RATE", RATE),
        binary: quorate_binary()?,
        environment: Vec::new(),
        out_dir: Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{seed}")),
    };
    let result = run(&options)?.into_result()?;
    say(format_args!("chaos: {result}"));
    assert!(result.acked > 0, "nothing was acknowledged");
    assert!(result.fired.contains_key(&FaultKind::PowerCutAll));
    Ok(())
}
