//! Label sets in their canonical bytes: the identity of a series within a tenant.
//!
//! Canonical bytes are, for each label in ascending order of its name's bytes:
//! `varint(name length) name varint(value length) value`. Empty values are left out, a name occurs
//! once, and both texts are UTF-8. Two sets are equal exactly when their canonical bytes are.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::varint::{Reader, put_bytes};

/// The most canonical bytes one label set may have.
pub const MAX_LABELS_BYTES: usize = 1 << 20;

/// Why pairs or bytes are not a label set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// A label has no name.
    #[error("a label has an empty name; every label needs one")]
    EmptyName,
    /// The same name occurs twice.
    #[error("label {0:?} occurs twice; a name may occur once in a series")]
    DuplicateName(String),
    /// Canonical bytes end within a label, or hold an overlong length.
    #[error("canonical label bytes are cut or malformed at byte {0}")]
    Malformed(usize),
    /// Canonical bytes are not in ascending order of names.
    #[error("canonical label bytes are not sorted by name at byte {0}")]
    Unsorted(usize),
    /// Canonical bytes hold a label with an empty value.
    #[error("canonical label bytes hold an empty value at byte {0}")]
    EmptyValue(usize),
    /// A name or value is not UTF-8.
    #[error("canonical label bytes hold invalid UTF-8 at byte {0}")]
    InvalidUtf8(usize),
    /// The set is larger than [`MAX_LABELS_BYTES`].
    #[error("the label set takes {0} bytes, more than {MAX_LABELS_BYTES}")]
    TooLarge(usize),
}

/// An immutable label set; a clone shares the bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Labels(Arc<[u8]>);

impl Labels {
    /// The set without labels.
    pub fn empty() -> Self {
        Self(Arc::from(&[][..]))
    }

    /// Builds a set from pairs in any order. Pairs with an empty value are dropped.
    pub fn from_pairs<I, N, V>(pairs: I) -> Result<Self, LabelError>
    where
        I: IntoIterator<Item = (N, V)>,
        N: AsRef<str>,
        V: AsRef<str>,
    {
        let mut pairs: Vec<(N, V)> = pairs.into_iter().collect();
        pairs.sort_by(|a, b| a.0.as_ref().cmp(b.0.as_ref()));
        for two in pairs.windows(2) {
            if two[0].0.as_ref() == two[1].0.as_ref() {
                return Err(LabelError::DuplicateName(two[0].0.as_ref().to_owned()));
            }
        }
        let mut bytes = Vec::new();
        for (name, value) in &pairs {
            let (name, value) = (name.as_ref(), value.as_ref());
            if name.is_empty() {
                return Err(LabelError::EmptyName);
            }
            if !value.is_empty() {
                put_bytes(&mut bytes, name.as_bytes());
                put_bytes(&mut bytes, value.as_bytes());
            }
        }
        if bytes.len() > MAX_LABELS_BYTES {
            return Err(LabelError::TooLarge(bytes.len()));
        }
        Ok(Self(Arc::from(bytes)))
    }

    /// Takes canonical bytes after checking all of their rules.
    pub fn from_canonical(bytes: &[u8]) -> Result<Self, LabelError> {
        check_canonical(bytes)?;
        Ok(Self(Arc::from(bytes)))
    }

    /// Joins the canonical bytes of labels that are in order.
    pub(crate) fn from_pieces<'p>(pieces: impl Iterator<Item = &'p [u8]>) -> Self {
        let mut bytes: SmallVec<[u8; 512]> = SmallVec::new();
        for piece in pieces {
            bytes.extend_from_slice(piece);
        }
        Self(Arc::from(&bytes[..]))
    }

    /// The labels with their canonical bytes.
    #[cfg(test)]
    pub(crate) fn pairs(&self) -> impl Iterator<Item = LabelPair<'_>> {
        canonical_pairs(&self.0)
    }

    /// The canonical bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The labels in ascending order of their names.
    pub fn iter(&self) -> LabelIter<'_> {
        LabelIter {
            reader: Reader::new(&self.0),
        }
    }

    /// The value of label `name`, `None` when the set lacks it.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// Whether the set has no label.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of labels.
    pub fn len(&self) -> usize {
        self.iter().count()
    }
}

/// A label within canonical bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LabelPair<'a> {
    /// Name and value with their lengths.
    pub(crate) bytes: &'a [u8],
    pub(crate) name: &'a [u8],
}

/// The labels of bytes that [`check_canonical`] accepts.
pub(crate) fn canonical_pairs(bytes: &[u8]) -> impl Iterator<Item = LabelPair<'_>> {
    let mut reader = Reader::new(bytes);
    std::iter::from_fn(move || {
        let start = reader.position();
        let name = reader.bytes()?;
        reader.bytes()?;
        Some(LabelPair {
            bytes: bytes.get(start..reader.position())?,
            name,
        })
    })
}

/// Checks that `bytes` are a canonical label set.
pub(crate) fn check_canonical(bytes: &[u8]) -> Result<(), LabelError> {
    if bytes.len() > MAX_LABELS_BYTES {
        return Err(LabelError::TooLarge(bytes.len()));
    }
    // Nearly always true, and checked many bytes at a time.
    let ascii = bytes.is_ascii();
    let mut reader = Reader::new(bytes);
    let mut previous: Option<&[u8]> = None;
    while !reader.is_empty() {
        let at = reader.position();
        let name = reader.bytes().ok_or(LabelError::Malformed(at))?;
        let value = reader.bytes().ok_or(LabelError::Malformed(at))?;
        if name.is_empty() {
            return Err(LabelError::EmptyName);
        }
        if value.is_empty() {
            return Err(LabelError::EmptyValue(at));
        }
        if !ascii && (std::str::from_utf8(name).is_err() || std::str::from_utf8(value).is_err()) {
            return Err(LabelError::InvalidUtf8(at));
        }
        match previous.map(|p| p.cmp(name)) {
            Some(Ordering::Equal) => {
                return Err(LabelError::DuplicateName(
                    String::from_utf8_lossy(name).into_owned(),
                ));
            }
            Some(Ordering::Greater) => return Err(LabelError::Unsorted(at)),
            _ => {}
        }
        previous = Some(name);
    }
    Ok(())
}

/// Iterates over a label set; see [`Labels::iter`].
#[derive(Clone, Debug)]
pub struct LabelIter<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for LabelIter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        // The bytes were checked when the set was made, so `None` only means the end.
        let name = self.reader.bytes()?;
        let value = self.reader.bytes()?;
        Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?))
    }
}

impl<'a> IntoIterator for &'a Labels {
    type Item = (&'a str, &'a str);
    type IntoIter = LabelIter<'a>;

    fn into_iter(self) -> LabelIter<'a> {
        self.iter()
    }
}

impl Ord for Labels {
    /// Prometheus's `labels.Compare`: pairwise by name, then value; a prefix comes first.
    fn cmp(&self, other: &Self) -> Ordering {
        self.iter().cmp(other.iter())
    }
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Default for Labels {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Display for Labels {
    /// `{name="value", …}`, with quotes, backslashes and control characters escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, (name, value)) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{name}={value:?}")?;
        }
        f.write_str("}")
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Edits a copy of a label set.
#[derive(Clone, Debug, Default)]
pub struct LabelsBuilder {
    /// Sorted by name, without empty values.
    pairs: Vec<(String, String)>,
}

impl LabelsBuilder {
    /// Starts from no labels.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a label; an empty value deletes it, as does an empty name.
    pub fn set(&mut self, name: &str, value: &str) -> &mut Self {
        if value.is_empty() || name.is_empty() {
            return self.del(name);
        }
        match self.position(name) {
            Ok(at) => self.pairs[at].1 = value.to_owned(),
            Err(at) => self.pairs.insert(at, (name.to_owned(), value.to_owned())),
        }
        self
    }

    /// Deletes a label if it is there.
    pub fn del(&mut self, name: &str) -> &mut Self {
        if let Ok(at) = self.position(name) {
            self.pairs.remove(at);
        }
        self
    }

    /// Keeps only the labels with these names.
    pub fn keep<S: AsRef<str>>(&mut self, names: &[S]) -> &mut Self {
        self.pairs
            .retain(|(name, _)| names.iter().any(|n| n.as_ref() == name));
        self
    }

    /// The current value of a label.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.position(name).ok().map(|at| self.pairs[at].1.as_str())
    }

    /// The edited set.
    pub fn build(&self) -> Labels {
        let mut bytes = Vec::new();
        for (name, value) in &self.pairs {
            put_bytes(&mut bytes, name.as_bytes());
            put_bytes(&mut bytes, value.as_bytes());
        }
        Labels(Arc::from(bytes))
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.pairs.binary_search_by(|(n, _)| n.as_str().cmp(name))
    }
}

impl From<&Labels> for LabelsBuilder {
    fn from(labels: &Labels) -> Self {
        Self {
            pairs: labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn canonical_bytes_are_fixed() {
        let labels = Labels::from_pairs([("job", "api"), ("__name__", "up"), ("empty", "")]).unwrap();
        assert_eq!(labels.as_bytes(), b"\x08__name__\x02up\x03job\x03api");
        assert_eq!(labels.get("job"), Some("api"));
        assert_eq!(labels.get("empty"), None);
        assert_eq!(labels.len(), 2);
        assert_eq!(labels.to_string(), r#"{__name__="up", job="api"}"#);
    }

    #[test]
    fn bad_sets_are_refused() {
        assert_eq!(
            Labels::from_pairs([("a", "1"), ("a", "2")]),
            Err(LabelError::DuplicateName("a".into()))
        );
        assert_eq!(Labels::from_pairs([("", "1")]), Err(LabelError::EmptyName));
        assert_eq!(
            Labels::from_canonical(b"\x01b\x01x\x01a\x01x"),
            Err(LabelError::Unsorted(4))
        );
        assert_eq!(
            Labels::from_canonical(b"\x01a\x00"),
            Err(LabelError::EmptyValue(0))
        );
        assert_eq!(
            Labels::from_canonical(b"\x01a\x05x"),
            Err(LabelError::Malformed(0))
        );
        assert_eq!(
            Labels::from_canonical(b"\x01\xff\x01x"),
            Err(LabelError::InvalidUtf8(0))
        );
    }

    #[test]
    fn order_is_by_pairs_not_by_bytes() {
        let set = |pairs: &[(&str, &str)]| Labels::from_pairs(pairs.iter().copied()).unwrap();
        // In canonical bytes the longer name would sort last because its length comes first.
        assert!(set(&[("aa", "x")]) < set(&[("b", "x")]));
        assert!(set(&[("a", "x")]) < set(&[("a", "x"), ("b", "y")]));
        assert!(set(&[("a", "10")]) < set(&[("a", "9")]));
    }

    #[test]
    fn builder_edits() {
        let labels = Labels::from_pairs([("a", "1"), ("b", "2"), ("c", "3")]).unwrap();
        let mut builder = LabelsBuilder::from(&labels);
        builder
            .set("d", "4")
            .del("a")
            .set("b", "")
            .keep(&["c", "d", "zz"]);
        assert_eq!(
            builder.build(),
            Labels::from_pairs([("c", "3"), ("d", "4")]).unwrap()
        );
    }

    proptest! {
        #[test]
        fn round_trip(pairs in proptest::collection::btree_map("[a-z]{1,4}|\\PC{1,3}", "\\PC{0,200}", 0..8)) {
            let labels = Labels::from_pairs(pairs.iter()).unwrap();
            prop_assert_eq!(&Labels::from_canonical(labels.as_bytes()).unwrap(), &labels);
            prop_assert_eq!(&LabelsBuilder::from(&labels).build(), &labels);
            for (name, value) in &pairs {
                prop_assert_eq!(labels.get(name).unwrap_or(""), value);
            }
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(labels) = Labels::from_canonical(&bytes) {
                prop_assert_eq!(&Labels::from_pairs(labels.iter()).unwrap(), &labels);
            }
        }
    }
}
