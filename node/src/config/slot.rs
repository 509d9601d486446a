//! How one configuration value is read from text and written back, whatever its source.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::document::Node;
use crate::duration;

/// A place in the configuration that holds one value.
pub(super) trait Slot {
    /// Takes the value from `text`, or says what is wrong with it.
    fn set(&mut self, text: &str) -> Result<(), String>;
    /// The value as it would be written in the file.
    fn show(&self) -> String;
    /// What [`Slot::set`] takes, as in "expected …".
    fn expected(&self) -> &'static str;
    /// Takes the value from the file. Only a value that is no scalar needs more than the default; each
    /// problem is pushed with the node it is about.
    fn set_node(&mut self, node: &Node, problems: &mut Vec<Problem>) {
        match node.scalar() {
            Some(text) => {
                if let Err(message) = self.set(text) {
                    problems.push(Problem::at(node, message));
                }
            }
            None => problems.push(Problem::at(
                node,
                format!("expected {}, found {}", self.expected(), node.kind()),
            )),
        }
    }
}

/// What is wrong at one place of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// Below the key, e.g. `[2].grpc`; empty for the key itself.
    pub(super) path: String,
    /// Line in the file, from 1.
    pub(super) line: u64,
    /// Column in the file, from 1.
    pub(super) column: u64,
    /// What was expected and found.
    pub(super) message: String,
}

impl Problem {
    /// A problem with all of `node`.
    pub(super) fn at(node: &Node, message: String) -> Problem {
        Problem {
            path: String::new(),
            line: node.line,
            column: node.column,
            message,
        }
    }
}

/// One key or section, as [`Visit::visit`] reports it.
pub(super) struct Item<'a> {
    /// From the root, e.g. `write.balance`.
    pub(super) path: &'a str,
    /// The doc comment, a line each, with its leading space.
    pub(super) doc: &'a [&'static str],
    /// The value; `None` for a section, whose keys follow.
    pub(super) slot: Option<&'a mut dyn Slot>,
}

/// Walks over sections and keys in the order of their declaration.
pub(super) trait Visit {
    /// Reports this section or value and everything below it.
    fn visit(&mut self, path: &str, doc: &[&'static str], visitor: &mut dyn FnMut(Item<'_>));
}

/// Declares a section: the struct, its defaults and its [`Visit`], from one list.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        pub struct $name:ident {
            $( $(#[doc = $doc:literal])+ pub $field:ident : $ty:ty = $default:expr, )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $field: $ty, )+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )+ }
            }
        }

        impl $crate::config::slot::Visit for $name {
            fn visit(
                &mut self,
                path: &str,
                doc: &[&'static str],
                visitor: &mut dyn FnMut($crate::config::slot::Item<'_>),
            ) {
                visitor($crate::config::slot::Item { path, doc, slot: None });
                $(
                    let below = match path {
                        "" => stringify!($field).to_string(),
                        _ => format!("{path}.{}", stringify!($field)),
                    };
                    $crate::config::slot::Visit::visit(&mut self.$field, &below, &[$($doc),+], visitor);
                )+
            }
        }
    };
}
pub(super) use section;

macro_rules! leaf {
    ($($ty:ty),+ $(,)?) => {
        $(impl $crate::config::slot::Visit for $ty {
            fn visit(
                &mut self,
                path: &str,
                doc: &[&'static str],
                visitor: &mut dyn FnMut($crate::config::slot::Item<'_>),
            ) {
                visitor($crate::config::slot::Item { path, doc, slot: Some(self) });
            }
        })+
    };
}
pub(super) use leaf;

leaf!(u32, u64, f64, bool, String, PathBuf, Duration, SocketAddr);

pub(super) fn wrong(expected: &str, found: &str) -> String {
    match found {
        "" => format!("expected {expected}, found nothing"),
        _ => format!("expected {expected}, found `{found}`"),
    }
}

macro_rules! number_slot {
    ($ty:ty, $expected:literal) => {
        impl Slot for $ty {
            fn set(&mut self, text: &str) -> Result<(), String> {
                *self = text.parse().map_err(|_| wrong($expected, text))?;
                Ok(())
            }
            fn show(&self) -> String {
                self.to_string()
            }
            fn expected(&self) -> &'static str {
                $expected
            }
        }
    };
}
number_slot!(u32, "a whole number from 0 to 4294967295");
number_slot!(u64, "a whole number from 0 to 18446744073709551615");
number_slot!(f64, "a number");
number_slot!(bool, "true or false");

impl Slot for String {
    fn set(&mut self, text: &str) -> Result<(), String> {
        *self = text.to_string();
        Ok(())
    }
    fn show(&self) -> String {
        self.clone()
    }
    fn expected(&self) -> &'static str {
        "text"
    }
}

impl Slot for PathBuf {
    fn set(&mut self, text: &str) -> Result<(), String> {
        if text.is_empty() {
            return Err(wrong(self.expected(), text));
        }
        *self = PathBuf::from(text);
        Ok(())
    }
    fn show(&self) -> String {
        self.display().to_string()
    }
    fn expected(&self) -> &'static str {
        "a path"
    }
}

impl Slot for Duration {
    fn set(&mut self, text: &str) -> Result<(), String> {
        *self = duration::parse(text).ok_or_else(|| wrong(self.expected(), text))?;
        Ok(())
    }
    fn show(&self) -> String {
        duration::format(*self)
    }
    fn expected(&self) -> &'static str {
        "a duration like 300ms, 10s, 1h30m or 15d"
    }
}

impl Slot for SocketAddr {
    fn set(&mut self, text: &str) -> Result<(), String> {
        *self = text.parse().map_err(|_| wrong(self.expected(), text))?;
        Ok(())
    }
    fn show(&self) -> String {
        self.to_string()
    }
    fn expected(&self) -> &'static str {
        "an IP address and port like 127.0.0.1:7400 or [::]:7400"
    }
}
