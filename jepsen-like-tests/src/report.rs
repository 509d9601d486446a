//! What a test says to people. The test harness hides what passing tests print through the macros; figures and
//! skipped tests are written past it, so that they are always seen.

use std::fmt::Display;
use std::io::Write as _;

/// Prints a line even when the test passes.
pub fn say(line: impl Display) {
    // A closed standard output is no reason to fail a test.
    let _unprinted = writeln!(std::io::stdout().lock(), "{line}");
}

/// Announces that a test did not run, and why. With `QUORATE_TEST_REQUIRE=1` that is a failure instead.
///
/// # Panics
/// When every prerequisite is required.
pub fn skip(test: &str, missing: impl Display) {
    let required = std::env::var("QUORATE_TEST_REQUIRE").is_ok_and(|value| value == "1");
    assert!(!required, "{test} could not run: {missing}");
    say(format_args!("SKIPPED {test}: {missing}"));
}

/// A number from an environment variable, or `default`.
///
/// # Panics
/// When the variable is set to something else.
pub fn number_from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} must be a whole number, found {text:?}")),
        Err(_) => default,
    }
}

/// The value at or below which `share` (0 to 1) of the sorted values are: nearest rank.
pub fn quantile<T: Copy>(sorted: &[T], share: f64) -> Option<T> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_nearest_rank() {
        let values: Vec<u32> = (1..=200).collect();
        assert_eq!(quantile(&values, 0.5), Some(100));
        assert_eq!(quantile(&values, 0.99), Some(198));
        assert_eq!(quantile(&values, 1.0), Some(200));
        assert_eq!(quantile(&[7], 0.01), Some(7));
        assert_eq!(quantile::<u32>(&[], 0.5), None);
    }
}
