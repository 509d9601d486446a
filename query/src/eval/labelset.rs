//! Operations on label sets that PromQL needs.

use quorate_storage::Labels;

use crate::parse::quote;

/// The label that holds a series' name.
pub(super) const METRIC_NAME: &str = "__name__";

/// The label that holds a classic histogram's bucket bound.
pub(super) const BUCKET: &str = "le";

/// Whether a label tells about the metric and not about the series: operations that change what a value means drop
/// these.
fn is_metadata(name: &str) -> bool {
    matches!(name, METRIC_NAME | "__type__" | "__unit__")
}

/// The labels whose names pass.
pub(super) fn filter(labels: &Labels, keep: impl Fn(&str) -> bool) -> Labels {
    if labels.iter().all(|(name, _)| keep(name)) {
        return labels.clone();
    }
    Labels::from_pairs(labels.iter().filter(|(name, _)| keep(name)))
        .expect("part of a label set is a label set")
}

/// Drops the metric's name, type and unit.
pub(super) fn drop_metadata(labels: &Labels) -> Labels {
    filter(labels, |name| !is_metadata(name))
}

/// The labels in `names`.
pub(super) fn only(labels: &Labels, names: &[String]) -> Labels {
    filter(labels, |name| names.iter().any(|kept| kept == name))
}

/// The labels not in `names`, and not the metric's name.
pub(super) fn without_and_nameless(labels: &Labels, names: &[String]) -> Labels {
    filter(labels, |name| {
        name != METRIC_NAME && names.iter().all(|dropped| dropped != name)
    })
}

/// The metric's name, empty if there is none.
pub(super) fn metric_name(labels: &Labels) -> &str {
    labels.get(METRIC_NAME).unwrap_or("")
}

/// The labels as Prometheus writes them in errors: `{name="value", …}`.
pub(super) fn display(labels: &Labels) -> String {
    let mut text = String::from("{");
    for (index, (name, value)) in labels.iter().enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        if is_legacy_name(name) {
            text.push_str(name);
        } else {
            text.push_str(&quote(name.as_bytes()));
        }
        text.push('=');
        text.push_str(&quote(value.as_bytes()));
    }
    text.push('}');
    text
}

fn is_legacy_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        Labels::from_pairs(pairs.iter().copied()).unwrap()
    }

    #[test]
    fn drops_and_keeps() {
        let set = labels(&[("__name__", "m"), ("__type__", "counter"), ("a", "1"), ("b", "2")]);
        assert_eq!(drop_metadata(&set), labels(&[("a", "1"), ("b", "2")]));
        assert_eq!(
            only(&set, &["b".to_owned(), "__name__".to_owned()]),
            labels(&[("__name__", "m"), ("b", "2")])
        );
        assert_eq!(
            without_and_nameless(&set, &["a".to_owned()]),
            labels(&[("__type__", "counter"), ("b", "2")])
        );
    }

    #[test]
    fn displays_as_prometheus_does() {
        assert_eq!(
            display(&labels(&[("a.b", "1"), ("c", "é")])),
            r#"{"a.b"="1", c="é"}"#
        );
    }
}
