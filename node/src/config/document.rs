//! A YAML document as a tree that remembers where each node stands, so that every mistake in a file can
//! be reported with its line and all of them at once. Deserialising straight into structs would stop at
//! the first.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// Largest configuration file, in bytes.
pub(super) const MAX_FILE_BYTES: usize = 1 << 20;

/// One value of the document.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// From 1.
    pub(super) line: u64,
    /// From 1.
    pub(super) column: u64,
    /// What stands there.
    pub(super) value: Value,
}

/// What a node is.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// Nothing: `key:` or `key: null`.
    Null,
    /// Text, a number or a boolean, as text.
    Scalar(String),
    /// A list.
    Sequence(Vec<Node>),
    /// A mapping in file order; a repeated key is kept, to be reported.
    Mapping(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Debug, Clone)]
pub(super) struct Key {
    /// From 1.
    pub(super) line: u64,
    /// From 1.
    pub(super) column: u64,
    /// The key's text.
    pub(super) name: String,
}

/// Why the text is no YAML document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxError {
    /// From 1.
    pub(super) line: u64,
    /// From 1.
    pub(super) column: u64,
    /// The parser's message, one line.
    pub(super) message: String,
}

impl Node {
    /// Reads a document. An empty one is [`Value::Null`].
    pub(super) fn parse(text: &str) -> Result<Node, SyntaxError> {
        if text.len() > MAX_FILE_BYTES {
            return Err(SyntaxError {
                line: 1,
                column: 1,
                message: format!("the file has {} bytes, more than {MAX_FILE_BYTES}", text.len()),
            });
        }
        let options = serde_saphyr::options! {
            duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough,
            with_snippet: false,
            // Scalars stay as close to what was written as possible; each key reads its own text.
            non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::AsString,
            leading_zero_numbers_as_strings: true,
            underscored_numbers_as_strings: true,
        };
        let parsed: Result<Option<Spanned<Value>>, _> = serde_saphyr::from_str_with_options(text, options);
        match parsed {
            Ok(Some(root)) => Ok(Node::from(root)),
            Ok(None) => Ok(Node {
                line: 1,
                column: 1,
                value: Value::Null,
            }),
            Err(error) => {
                let (line, column) = error
                    .location()
                    .map_or((1, 1), |location| (location.line(), location.column()));
                let message = error.without_snippet().to_string();
                let message = message.lines().next().unwrap_or_default();
                // The place stands in front of the message already.
                let message = message.split(" at line ").next().unwrap_or(message).to_string();
                Err(SyntaxError {
                    line: line.max(1),
                    column: column.max(1),
                    message,
                })
            }
        }
    }

    /// The text of a scalar.
    pub(super) fn scalar(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text) => Some(text),
            _ => None,
        }
    }

    /// What this is, as in "found …".
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Scalar(_) => "a single value",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Self {
        Node {
            line: spanned.referenced.line(),
            column: spanned.referenced.column(),
            value: spanned.value,
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Scalar(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Scalar(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Scalar(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Scalar(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(Value::Scalar(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Scalar(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Scalar(value.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Value>>()? {
            out.push(Node::from(item));
        }
        Ok(Value::Sequence(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            let value = Node::from(entries.next_value::<Spanned<Value>>()?);
            let key = Key {
                line: key.referenced.line(),
                column: key.referenced.column(),
                name: key.value,
            };
            out.push((key, value));
        }
        Ok(Value::Mapping(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_places() {
        let root = Node::parse("a: 1\nb:\n  c: [x, 2.5]\n  d: null\n  c: true\n").unwrap();
        let Value::Mapping(entries) = &root.value else {
            panic!("{root:?}")
        };
        let [(a, one), (b, section)] = entries.as_slice() else {
            panic!("{entries:?}")
        };
        assert_eq!(
            (a.name.as_str(), a.line, one.scalar(), one.line, one.column),
            ("a", 1, Some("1"), 1, 4)
        );
        assert_eq!((b.name.as_str(), b.line), ("b", 2));
        let Value::Mapping(entries) = &section.value else {
            panic!("{section:?}")
        };
        let [(_, list), (_, null), (again, _)] = entries.as_slice() else {
            panic!("{entries:?}")
        };
        let Value::Sequence(items) = &list.value else {
            panic!("{list:?}")
        };
        assert_eq!(
            items
                .iter()
                .map(|item| (item.scalar(), item.line, item.column))
                .collect::<Vec<_>>(),
            [(Some("x"), 3, 7), (Some("2.5"), 3, 10)]
        );
        assert_eq!(null.kind(), "nothing");
        assert_eq!((again.name.as_str(), again.line, again.column), ("c", 5, 3));
    }

    #[test]
    fn scalars_stay_as_written() {
        for text in [
            "007",
            "1_000",
            ".nan",
            "5m",
            "0.0.0.0:80",
            "true",
            "~x",
            "-1",
            "2026-11-21",
        ] {
            assert_eq!(Node::parse(text).unwrap().scalar(), Some(text));
        }
    }

    #[test]
    fn empty_documents_are_null() {
        for text in ["", "# nothing\n", "---\n"] {
            assert!(
                matches!(Node::parse(text).unwrap().value, Value::Null),
                "{text:?}"
            );
        }
    }

    #[test]
    fn broken_yaml_has_a_place() {
        let error = Node::parse("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(error.line >= 2, "{error:?}");
        assert!(!error.message.contains('\n'));
    }
}
