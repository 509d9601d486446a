//! Operations on label sets that PromQL needs.

use quorate_storage::{Labels, LabelsBuilder};

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

/// Stands before the value of a label that goes from the final result. Metric names, types and units of stored series
/// don't begin with it.
const GOES: char = '\0';

/// Marks the metric's name, type and unit as going from the final result. Until then they group, match and can be
/// read, so that `label_replace` finds the name below a function.
pub(super) fn mark_metadata(labels: &Labels) -> Labels {
    let kept = |name: &str, value: &str| !is_metadata(name) || value.starts_with(GOES);
    if labels.iter().all(|(name, value)| kept(name, value)) {
        return labels.clone();
    }
    let mut builder = LabelsBuilder::from(labels);
    for (name, value) in labels.iter().filter(|(name, value)| !kept(name, value)) {
        builder.set(name, &format!("{GOES}{value}"));
    }
    builder.build()
}

/// Whether anything is marked.
pub(super) fn is_marked(labels: &Labels) -> bool {
    labels
        .iter()
        .any(|(name, value)| is_metadata(name) && value.starts_with(GOES))
}

/// Drops what is marked.
pub(super) fn drop_marked(labels: &Labels) -> Labels {
    let kept = labels
        .iter()
        .filter(|(name, value)| !is_metadata(name) || !value.starts_with(GOES));
    Labels::from_pairs(kept).expect("part of a label set is a label set")
}

/// Takes the marks off.
pub(super) fn unmark(labels: &Labels) -> Labels {
    if !is_marked(labels) {
        return labels.clone();
    }
    let pairs = labels.iter().map(|(name, _)| (name, value_of(labels, name)));
    Labels::from_pairs(pairs).expect("the names stay the same")
}

/// A label's value, marked or not; empty if there is none.
pub(super) fn value_of<'l>(labels: &'l Labels, name: &str) -> &'l str {
    let value = labels.get(name).unwrap_or("");
    match is_metadata(name) {
        true => value.strip_prefix(GOES).unwrap_or(value),
        false => value,
    }
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
    value_of(labels, METRIC_NAME)
}

/// The labels as Prometheus writes them in errors: `{name="value", …}`.
pub(super) fn display(labels: &Labels) -> String {
    let labels = &unmark(labels);
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
    fn marks_stay_with_what_they_mark() {
        let set = labels(&[("__name__", "m"), ("__unit__", "s"), ("a", "1")]);
        let marked = mark_metadata(&set);
        assert!(is_marked(&marked) && !is_marked(&set));
        assert_eq!(mark_metadata(&marked), marked);
        assert_eq!((metric_name(&marked), value_of(&marked, "a")), ("m", "1"));
        assert_eq!(unmark(&marked), set);
        assert_eq!(drop_marked(&marked), labels(&[("a", "1")]));
        assert!(is_marked(&only(&marked, &["__unit__".to_owned()])));
        assert!(!is_marked(&without_and_nameless(
            &marked,
            &["__unit__".to_owned()]
        )));
    }

    #[test]
    fn displays_as_prometheus_does() {
        assert_eq!(
            display(&labels(&[("a.b", "1"), ("c", "é")])),
            r#"{"a.b"="1", c="é"}"#
        );
    }
}
