//! A log entry as the device sees it.

use std::io;

use bytes::Bytes;

use crate::membership;
use crate::position::LogPosition;
use crate::type_config::{Command, Entry, EntryPayload, log_id, position};

/// What an entry carries. The numbers are stored and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u8)]
pub enum EntryKind {
    /// Nothing: a new leader's first entry.
    Blank = 0,
    /// A command for the state machine.
    Command = 1,
    /// A membership, in the format of `membership.rs`.
    Membership = 2,
}

impl EntryKind {
    /// The kind with this number.
    pub fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Blank),
            1 => Some(Self::Command),
            2 => Some(Self::Membership),
            _ => None,
        }
    }
}

/// A log entry: position, kind and bare payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Term and index.
    pub position: LogPosition,
    /// What the payload is.
    pub kind: EntryKind,
    /// The command or membership; empty for a blank entry.
    pub payload: Bytes,
}

impl Record {
    /// Bytes this entry counts for in limits: its payload and what surrounds it.
    pub fn cost(&self) -> usize {
        self.payload.len() + 64
    }
}

pub(crate) fn to_record(entry: Entry) -> Record {
    let position = position(&entry.log_id);
    let (kind, payload) = match entry.payload {
        EntryPayload::Blank => (EntryKind::Blank, Bytes::new()),
        EntryPayload::Normal(command) => (EntryKind::Command, command.0),
        EntryPayload::Membership(m) => (EntryKind::Membership, membership::encode(None, &m)),
    };
    Record {
        position,
        kind,
        payload,
    }
}

pub(crate) fn from_record(record: Record) -> io::Result<Entry> {
    let payload = match record.kind {
        EntryKind::Blank => EntryPayload::Blank,
        EntryKind::Command => EntryPayload::Normal(Command(record.payload)),
        EntryKind::Membership => {
            let (_, membership) = membership::decode(&record.payload).map_err(|e| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("entry {}: {e}", record.position),
                )
            })?;
            EntryPayload::Membership(membership)
        }
    };
    Ok(Entry {
        log_id: log_id(record.position),
        payload,
    })
}
