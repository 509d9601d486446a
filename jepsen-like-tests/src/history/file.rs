//! Histories as files: JSON lines, compressed, complete up to the last flush whatever ends the run.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use anyhow::{Context as _, Result};

use super::zstd::{Decoder, Encoder};
use super::{Action, Operation};

/// An operation that is older than this when another one comes is on disk by then.
const FLUSH_EVERY_US: u64 = 1_000_000;

/// Appends operations to a file.
#[derive(Debug)]
pub(super) struct Sink {
    out: Encoder<File>,
    line: Vec<u8>,
    flushed_us: u64,
    /// The first failure. A history with a hole in it must not be judged.
    failure: Option<io::Error>,
}

impl Sink {
    pub(super) fn create(path: &Path) -> Result<Sink> {
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Sink {
            out: Encoder::new(file)?,
            line: Vec::new(),
            flushed_us: 0,
            failure: None,
        })
    }

    /// Adds an operation. Faults are flushed at once: a run must not die of one that its history doesn't have.
    pub(super) fn add(&mut self, operation: &Operation) {
        if self.failure.is_some() {
            return;
        }
        let urgent = matches!(
            operation.action,
            Action::Fault { .. } | Action::Kill { .. } | Action::Plan { .. } | Action::Crash { .. }
        );
        let due = operation.time_us.saturating_sub(self.flushed_us) >= FLUSH_EVERY_US;
        let written = self.write(operation).and_then(|()| match urgent || due {
            true => {
                self.flushed_us = operation.time_us;
                self.out.flush()
            }
            false => Ok(()),
        });
        self.failure = written.err();
    }

    fn write(&mut self, operation: &Operation) -> io::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, operation)?;
        self.line.push(b'\n');
        self.out.write_all(&self.line)
    }

    /// Hands everything to the kernel; reports what went wrong so far.
    pub(super) fn flush(&mut self) -> Result<()> {
        if let Some(error) = &self.failure {
            anyhow::bail!("the history could not be written: {error}");
        }
        self.out.flush().context("flushing the history")
    }

    /// Ends the file.
    pub(super) fn finish(mut self) -> Result<()> {
        self.flush()?;
        let file = self.out.finish().context("ending the history")?;
        file.sync_all().context("syncing the history")
    }
}

/// A history read from a file.
#[derive(Debug, Default)]
pub struct Recorded {
    /// Its operations.
    pub operations: Vec<Operation>,
    /// Whether its writer died before it ended the file.
    pub cut_short: bool,
}

/// Reads a file of a recorder; plain JSON lines will do too.
pub fn read_file(path: &Path) -> Result<Recorded> {
    let of_file = || path.display().to_string();
    let file = File::open(path).with_context(of_file)?;
    let mut input = BufReader::with_capacity(1 << 17, file);
    let is_plain = input.fill_buf().with_context(of_file)?.first() == Some(&b'{');
    match is_plain {
        true => read_some(input),
        false => read_some(BufReader::with_capacity(1 << 17, Decoder::new(input)?)),
    }
    .with_context(of_file)
}

fn read_some(mut lines: impl BufRead) -> Result<Recorded> {
    let mut recorded = Recorded::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        match lines.read_until(b'\n', &mut line) {
            Ok(0) => return Ok(recorded),
            Ok(_) if line.last() == Some(&b'\n') => {}
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error.into()),
            // The last line is not whole.
            Ok(_) | Err(_) => {
                recorded.cut_short = true;
                return Ok(recorded);
            }
        }
        let operation = serde_json::from_slice(&line)
            .with_context(|| format!("line {}", recorded.operations.len() + 1))?;
        recorded.operations.push(operation);
    }
}
