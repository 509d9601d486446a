//! The order of `sort_by_label`: runs of digits compare as numbers.

use std::cmp::Ordering;

/// Compares run by run: two runs of digits as numbers, other runs as text; a prefix comes first.
pub(super) fn compare(a: &str, b: &str) -> Ordering {
    let (mut rest_a, mut rest_b) = (a, b);
    loop {
        let (run_a, after_a) = split_run(rest_a);
        let (run_b, after_b) = split_run(rest_b);
        let order = match (significant_digits(run_a), significant_digits(run_b)) {
            (Some(a), Some(b)) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
            _ => run_a.cmp(run_b),
        };
        if order.is_ne() || (after_a.is_empty() && after_b.is_empty()) {
            return order;
        }
        (rest_a, rest_b) = (after_a, after_b);
    }
}

/// Splits the first run of digits, or of other characters, off.
fn split_run(text: &str) -> (&str, &str) {
    let digits = text.starts_with(|first: char| first.is_ascii_digit());
    let end = text
        .find(|other: char| other.is_ascii_digit() != digits)
        .unwrap_or(text.len());
    text.split_at(end)
}

/// A run of digits without its leading zeros; nothing if it isn't one.
fn significant_digits(run: &str) -> Option<&str> {
    run.starts_with(|first: char| first.is_ascii_digit())
        .then(|| run.trim_start_matches('0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_compare_as_numbers() {
        let ascending = [
            "",
            "!",
            "1.2.3",
            "1.11.3",
            "4m5",
            "4m600",
            "9",
            "10",
            "99999999999999999999",
            "a",
            "a1",
        ];
        assert!(ascending.is_sorted_by(|a, b| compare(a, b).is_lt()));
        assert_eq!(compare("a01", "a1"), Ordering::Equal);
    }

    proptest! {
        #[test]
        fn is_an_order(mut texts in proptest::collection::vec("[019a!]{0,4}", 3)) {
            texts.sort_by(|a, b| compare(a, b));
            prop_assert!(compare(&texts[0], &texts[2]).is_le());
            prop_assert_eq!(compare(&texts[0], &texts[1]), compare(&texts[1], &texts[0]).reverse());
        }
    }
}
