//! Brings the sources together and collects every mistake with its place.

use std::collections::BTreeMap;
use std::fmt;

use super::Config;
use super::check;
use super::document::{Node, Value};
use super::slot::{Item, Problem, Visit};

/// Gives the value of an environment variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Where values come from, besides the defaults.
#[derive(Default)]
pub struct Sources<'a> {
    /// Name and text of the configuration file.
    pub file: Option<(&'a str, &'a str)>,
    /// Looks up an environment variable.
    pub environment: Option<Environment<'a>>,
    /// Given flags by key, e.g. `write.balance`.
    pub flags: BTreeMap<String, String>,
}

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// In the file.
    File {
        /// The file's name.
        file: String,
        /// From 1.
        line: u64,
        /// From 1.
        column: u64,
    },
    /// As an environment variable.
    Environment(String),
    /// As a flag.
    Flag(String),
    /// Nowhere.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { file, line, column } => write!(out, "{file}:{line}:{column}"),
            Origin::Environment(name) | Origin::Flag(name) => out.write_str(name),
            Origin::Default => out.write_str("default"),
        }
    }
}

/// Something wrong in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Where to look.
    pub origin: Origin,
    /// The key, e.g. `peers[1].grpc`; empty for the file as a whole.
    pub key: String,
    /// What was expected and found.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin != Origin::Default {
            write!(out, "{}: ", self.origin)?;
        }
        if !self.key.is_empty() {
            write!(out, "{}: ", self.key)?;
        }
        out.write_str(&self.message)
    }
}

/// A configuration and where its values were given.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// By key; a key without an entry has its default.
    pub origins: BTreeMap<String, Origin>,
    /// Legal, and perhaps not what was meant.
    pub warnings: Vec<Mistake>,
}

/// The flag of a key: `write.balance` is `--write-balance`.
pub fn flag(key: &str) -> String {
    format!("--{}", key.replace(['.', '_'], "-"))
}

/// The environment variable of a key: `write.balance` is `QUORATE_WRITE_BALANCE`.
pub fn environment_variable(key: &str) -> String {
    format!("QUORATE_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// Reads a configuration. On failure there is at least one mistake; they are sorted by place, those of
/// the file in its order.
pub fn load(sources: &Sources<'_>) -> Result<Loaded, Vec<Mistake>> {
    let mut loader = Loader::default();
    let mut config = Config::default();
    if let Some((name, text)) = sources.file {
        loader.file(name, text, &mut config);
    }
    loader.text_sources(sources, &mut config);
    let verdict = match loader.unreadable {
        true => check::Verdict::default(),
        false => check::check(&config, &loader.origins, &loader.bad),
    };
    loader.mistakes.extend(verdict.mistakes);
    match loader.mistakes.is_empty() {
        true => Ok(Loaded {
            config,
            origins: loader.origins,
            warnings: verdict.warnings,
        }),
        false => {
            loader.mistakes.sort();
            loader.mistakes.dedup();
            Err(loader.mistakes)
        }
    }
}

#[derive(Default)]
struct Loader {
    origins: BTreeMap<String, Origin>,
    /// Keys whose given value can't be read; what depends on them isn't judged.
    bad: Vec<String>,
    /// The file is no YAML, so that nothing is known of what was meant.
    unreadable: bool,
    mistakes: Vec<Mistake>,
}

/// A value in the file that has found no key yet.
struct Given<'a> {
    origin: Origin,
    node: &'a Node,
}

impl Loader {
    fn file(&mut self, name: &str, text: &str, config: &mut Config) {
        let root = match Node::parse(text) {
            Ok(root) => root,
            Err(error) => {
                self.unreadable = true;
                let origin = Origin::File {
                    file: name.into(),
                    line: error.line,
                    column: error.column,
                };
                self.mistakes.push(Mistake {
                    origin,
                    key: String::new(),
                    message: error.message,
                });
                return;
            }
        };
        let mut given = BTreeMap::new();
        self.flatten(name, "", &root, &sections(), &mut given);
        config.visit("", &[], &mut |Item { path, slot, .. }| {
            let Some((slot, Given { origin, node })) = slot.zip(given.remove(path)) else {
                return;
            };
            let mut problems = Vec::new();
            slot.set_node(node, &mut problems);
            if !problems.is_empty() {
                self.bad.push(path.to_string());
            }
            for Problem {
                path: below,
                line,
                column,
                message,
            } in problems
            {
                let origin = Origin::File {
                    file: name.into(),
                    line,
                    column,
                };
                self.mistakes.push(Mistake {
                    origin,
                    key: format!("{path}{below}"),
                    message,
                });
            }
            self.origins.insert(path.to_string(), origin);
        });
        for (key, Given { origin, .. }) in given {
            let message = unknown_key(&key);
            self.mistakes.push(Mistake { origin, key, message });
        }
    }

    /// Splits the document into values by key, going down where a section is expected.
    fn flatten<'a>(
        &mut self,
        file: &str,
        path: &str,
        node: &'a Node,
        sections: &[String],
        given: &mut BTreeMap<String, Given<'a>>,
    ) {
        let entries = match &node.value {
            Value::Mapping(entries) => entries,
            Value::Null => return,
            _ => {
                let origin = Origin::File {
                    file: file.into(),
                    line: node.line,
                    column: node.column,
                };
                let message = format!("expected a mapping of keys, found {}", node.kind());
                self.mistakes.push(Mistake {
                    origin,
                    key: path.to_string(),
                    message,
                });
                return;
            }
        };
        let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
        for (key, value) in entries {
            let below = match path {
                "" => key.name.clone(),
                _ => format!("{path}.{}", key.name),
            };
            let origin = Origin::File {
                file: file.into(),
                line: key.line,
                column: key.column,
            };
            if let Some(line) = seen.insert(&key.name, key.line) {
                let message = format!("expected once, found again after line {line}");
                self.mistakes.push(Mistake {
                    origin,
                    key: below,
                    message,
                });
            } else if sections.contains(&below) {
                self.flatten(file, &below, value, sections, given);
            } else {
                given.insert(below, Given { origin, node: value });
            }
        }
    }

    /// Environment variables, then flags over them.
    fn text_sources(&mut self, sources: &Sources<'_>, config: &mut Config) {
        config.visit("", &[], &mut |Item { path, slot, .. }| {
            let Some(slot) = slot else { return };
            let variable = environment_variable(path);
            let from_flag = sources
                .flags
                .get(path)
                .map(|text| (Origin::Flag(flag(path)), text.clone()));
            let from_environment = || {
                let text = sources.environment.and_then(|lookup| lookup(&variable))?;
                Some((Origin::Environment(variable.clone()), text))
            };
            let Some((origin, text)) = from_flag.or_else(from_environment) else {
                return;
            };
            match slot.set(&text) {
                Ok(()) => self.bad.retain(|bad| bad != path),
                Err(message) => {
                    self.bad.push(path.to_string());
                    self.mistakes.push(Mistake {
                        origin: origin.clone(),
                        key: path.to_string(),
                        message,
                    });
                }
            }
            self.origins.insert(path.to_string(), origin);
        });
    }
}

/// The paths of all sections but the root.
fn sections() -> Vec<String> {
    let mut sections = Vec::new();
    Config::default().visit("", &[], &mut |item| {
        if item.slot.is_none() && !item.path.is_empty() {
            sections.push(item.path.to_string());
        }
    });
    sections
}

/// The paths of all keys that hold a value.
pub(super) fn keys() -> Vec<String> {
    let mut keys = Vec::new();
    Config::default().visit("", &[], &mut |item| {
        if item.slot.is_some() {
            keys.push(item.path.to_string());
        }
    });
    keys
}

fn unknown_key(key: &str) -> String {
    let section = key.rsplit_once('.').map_or("", |(section, _)| section);
    let siblings: Vec<String> = keys()
        .into_iter()
        .chain(sections())
        .filter(|known| known.rsplit_once('.').map_or("", |(section, _)| section) == section)
        .collect();
    let nearest = siblings.iter().min_by_key(|known| edits(known, key));
    match nearest.filter(|known| edits(known, key) <= 1 + key.len() / 4) {
        Some(known) => format!("unknown key, expected perhaps {known}"),
        None => format!("unknown key, expected one of {}", siblings.join(", ")),
    }
}

/// Levenshtein distance in bytes. Both arguments are short: keys.
fn edits(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, from) in left.bytes().enumerate() {
        let mut diagonal = above;
        let mut before = above + 1;
        for (cell, to) in row.iter_mut().skip(1).zip(right.bytes()) {
            let replaced = diagonal + usize::from(from != to);
            diagonal = *cell;
            before = replaced.min(*cell + 1).min(before + 1);
            *cell = before;
        }
        if let Some(first) = row.first_mut() {
            *first = above + 1;
        }
    }
    row.last().copied().unwrap_or(left.len())
}
