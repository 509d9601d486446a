//! Histograms of Prometheus's test scripts: what stands between `{{` and `}}`.

use quorate_storage::histogram::Span;
use quorate_storage::{CounterResetHint, Histogram};

use crate::parse::number::parse_number;

/// What is wrong, and where, in bytes from the start.
type Wrong = (usize, String);

/// Reads `key:value` pairs with spaces between them; says too whether the counter reset hint is among them.
pub(super) fn parse_histogram(text: &str) -> Result<(Histogram, bool), Wrong> {
    let mut histogram = Histogram::default();
    let (mut offset, mut negative_offset, mut has_hint) = (0, 0, false);
    let mut at = 0;
    while let Some((start, key, value, next)) = pair(text, at)? {
        let wrong = |what: &str| {
            (
                start,
                format!("histogram key {key:?} needs {what}, not {value:?}"),
            )
        };
        let number = || parse_signed(value).ok_or_else(|| wrong("a number"));
        let integer = || value.parse::<i32>().map_err(|_| wrong("an integer"));
        let list = || parse_list(value).ok_or_else(|| wrong("numbers between \"[\" and \"]\""));
        match key {
            "schema" => histogram.schema = integer()?,
            "sum" => histogram.sum = number()?,
            "count" => histogram.count = number()?,
            "z_bucket" => histogram.zero_count = number()?,
            "z_bucket_w" => histogram.zero_threshold = number()?,
            "buckets" => histogram.positive_buckets = list()?,
            "n_buckets" => histogram.negative_buckets = list()?,
            "custom_values" => histogram.custom_values = list()?,
            "offset" => offset = integer()?,
            "n_offset" => negative_offset = integer()?,
            "counter_reset_hint" => {
                has_hint = true;
                histogram.counter_reset_hint = match value {
                    "unknown" => CounterResetHint::Unknown,
                    "reset" => CounterResetHint::Reset,
                    "not_reset" => CounterResetHint::NotReset,
                    "gauge" => CounterResetHint::Gauge,
                    _ => return Err(wrong("unknown, reset, not_reset or gauge")),
                };
            }
            _ => return Err((start, format!("unknown histogram key {key:?}"))),
        }
        at = next;
    }
    histogram.positive_spans = one_span(offset, histogram.positive_buckets.len());
    histogram.negative_spans = one_span(negative_offset, histogram.negative_buckets.len());
    histogram.check_layout().map_err(|error| (0, error.to_string()))?;
    Ok((histogram, has_hint))
}

/// The key and the value that begin at `at` or behind, with where they begin before them and where they end behind.
fn pair(text: &str, at: usize) -> Result<Option<(usize, &str, &str, usize)>, Wrong> {
    let rest = text[at..].trim_start();
    if rest.is_empty() {
        return Ok(None);
    }
    let start = text.len() - rest.len();
    let Some((key, value)) = rest.split_once(':') else {
        return Err((start, "expected a histogram key, \":\" and a value".to_owned()));
    };
    let length = if value.starts_with('[') {
        value.find(']').map_or(value.len(), |end| end + 1)
    } else {
        value.find(char::is_whitespace).unwrap_or(value.len())
    };
    let end = start + key.len() + 1 + length;
    Ok(Some((start, key, &value[..length], end)))
}

fn parse_signed(text: &str) -> Option<f64> {
    match text.strip_prefix('-') {
        Some(unsigned) => parse_number(unsigned).map(|value| -value),
        None => parse_number(text.strip_prefix('+').unwrap_or(text)),
    }
}

fn parse_list(text: &str) -> Option<Vec<f64>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    inner.split_whitespace().map(parse_signed).collect()
}

fn one_span(offset: i32, buckets: usize) -> Vec<Span> {
    match u32::try_from(buckets) {
        Ok(0) | Err(_) => Vec::new(),
        Ok(length) => vec![Span { offset, length }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_are_read() {
        let text = "schema:1 sum:-0.3 count:3.1 z_bucket:7.1 z_bucket_w:0.05 buckets:[5.1 10 7 ] offset:-3 \
                    n_buckets:[4.1] n_offset:5 counter_reset_hint:gauge";
        let (histogram, has_hint) = parse_histogram(text).unwrap();
        assert!(has_hint);
        let expected = Histogram {
            counter_reset_hint: CounterResetHint::Gauge,
            schema: 1,
            sum: -0.3,
            count: 3.1,
            zero_count: 7.1,
            zero_threshold: 0.05,
            positive_spans: vec![Span {
                offset: -3,
                length: 3,
            }],
            positive_buckets: vec![5.1, 10.0, 7.0],
            negative_spans: vec![Span { offset: 5, length: 1 }],
            negative_buckets: vec![4.1],
            custom_values: Vec::new(),
        };
        assert_eq!(histogram, expected);
        let (custom, _) = parse_histogram("schema:-53 custom_values:[-2 3] buckets:[1 Inf]").unwrap();
        assert_eq!(
            (custom.custom_values, custom.positive_buckets),
            (vec![-2.0, 3.0], vec![1.0, f64::INFINITY])
        );
    }

    #[test]
    fn what_is_wrong_is_pointed_at() {
        let wrong = |text: &str| parse_histogram(text).unwrap_err();
        assert_eq!(
            wrong("sum:1 what:2"),
            (6, "unknown histogram key \"what\"".to_owned())
        );
        assert_eq!(
            wrong("sum:x").1,
            "histogram key \"sum\" needs a number, not \"x\""
        );
        assert_eq!(wrong("sum").1, "expected a histogram key, \":\" and a value");
        assert!(wrong("schema:99").1.contains("invalid schema"));
        assert!(wrong("buckets:[1").1.contains("numbers between"));
    }
}
