//! What happened in a run, line by line. Two runs of one seed give the same bytes.

use std::fmt::Write;

use xxhash_rust::xxh3::Xxh3;

use crate::runtime::NodeRuntime;

/// The lines of a run, or only their digest.
pub struct Trace {
    lines: Option<String>,
    line: String,
    digest: Xxh3,
    count: u64,
}

impl Trace {
    /// A trace that keeps its lines if asked to.
    pub fn new(keep: bool) -> Self {
        Self {
            lines: keep.then(String::new),
            line: String::new(),
            digest: Xxh3::new(),
            count: 0,
        }
    }

    /// Adds a line with the virtual time before it.
    pub fn add(&mut self, what: std::fmt::Arguments<'_>) {
        self.line.clear();
        let now = NodeRuntime::now();
        // Writing into a String never fails.
        let _ = writeln!(self.line, "{:>10.3} {what}", now.as_secs_f64() * 1e3);
        self.digest.update(self.line.as_bytes());
        self.count += 1;
        if let Some(lines) = &mut self.lines {
            lines.push_str(&self.line);
        }
    }

    /// A digest of all lines, and their number.
    pub fn digest(&self) -> (u64, u64) {
        (self.digest.digest(), self.count)
    }

    /// The lines, if they were kept.
    pub fn take(&mut self) -> Option<String> {
        self.lines.take()
    }
}
