//! The meta group's state machine: [`MetaState`] in memory, one durable row.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_raft_log::{
    Durable, LogPosition, Payload, ReplicaId, SnapshotOut, SnapshotReader, SnapshotWriter, StateMachine,
};
use rocksdb::{ColumnFamilyDescriptor, Options, WriteBatch, WriteOptions};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::state::{Command, MetaState, Reply};
use crate::Db;
use crate::cluster::framed;

/// The column family of the meta group's durable row.
pub const META_CF: &str = "cluster";
const ROW_MAGIC: &[u8; 4] = b"QMET";
const COMMAND_MAGIC: &[u8; 4] = b"QCMD";
const REPLY_MAGIC: &[u8; 4] = b"QREP";
const VERSION: u8 = 2;

/// The durable row, and the one chunk of a snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    term: u64,
    index: u64,
    membership: Vec<u8>,
    state: MetaState,
}

struct Inner {
    position: Option<LogPosition>,
    membership: Bytes,
    state: MetaState,
    durable: Option<Row>,
}

/// The state machine of one replica of the meta group. Clones share it.
#[derive(Clone)]
pub struct MetaMachine(Arc<Core>);

struct Core {
    db: Arc<Db>,
    replica: ReplicaId,
    inner: Mutex<Inner>,
    changed: watch::Sender<Arc<MetaState>>,
}

/// The column family that [`MetaMachine`] needs.
pub fn column_family() -> ColumnFamilyDescriptor {
    ColumnFamilyDescriptor::new(META_CF, Options::default())
}

/// Encodes a command for the log.
pub fn encode_command(command: &Command) -> Result<Bytes, String> {
    framed::encode(COMMAND_MAGIC, VERSION, command).map(Bytes::from)
}

/// Decodes a command from the log or from a peer.
pub fn decode_command(bytes: &[u8]) -> Result<Command, String> {
    framed::decode(COMMAND_MAGIC, VERSION, bytes)
}

/// Decodes the reply to a command.
pub fn decode_reply(bytes: &[u8]) -> Result<Reply, String> {
    framed::decode(REPLY_MAGIC, VERSION, bytes)
}

impl MetaMachine {
    /// Loads the durable state of `replica`; empty when it has none. Every applied state goes to
    /// `changed`.
    pub fn open(
        db: Arc<Db>,
        replica: ReplicaId,
        changed: watch::Sender<Arc<MetaState>>,
    ) -> io::Result<MetaMachine> {
        let durable = match db.get_cf(&cf(&db)?, key(replica)).map_err(io::Error::other)? {
            None => None,
            Some(bytes) => Some(framed::decode::<Row>(ROW_MAGIC, VERSION, &bytes).map_err(|what| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("the durable row of meta replica {replica} is damaged ({what}); empty the data directory so that the node rejoins"),
                )
            })?),
        };
        let inner = Inner {
            position: durable.as_ref().map(Row::position),
            membership: durable
                .as_ref()
                .map(|d| d.membership.clone().into())
                .unwrap_or_default(),
            state: durable.as_ref().map(|d| d.state.clone()).unwrap_or_default(),
            durable,
        };
        changed.send_replace(Arc::new(inner.state.clone()));
        Ok(MetaMachine(Arc::new(Core {
            db,
            replica,
            inner: Mutex::new(inner),
            changed,
        })))
    }

    /// The state as applied.
    pub fn state(&self) -> MetaState {
        self.0.inner.lock().state.clone()
    }

    /// Writes the current state durably. Returns the index up to which the log may be purged.
    pub fn flush(&self) -> io::Result<Option<u64>> {
        let row = {
            let inner = self.0.inner.lock();
            let Some(position) = inner.position else {
                return Ok(None);
            };
            Row {
                term: position.term,
                index: position.index,
                membership: inner.membership.to_vec(),
                state: inner.state.clone(),
            }
        };
        self.0.store(&row)?;
        let index = row.index;
        self.0.inner.lock().durable = Some(row);
        Ok(Some(index))
    }
}

impl Core {
    fn store(&self, row: &Row) -> io::Result<()> {
        let bytes = framed::encode(ROW_MAGIC, VERSION, row).map_err(io::Error::other)?;
        let mut batch = WriteBatch::default();
        batch.put_cf(&cf(&self.db)?, key(self.replica), bytes);
        let mut sync = WriteOptions::default();
        sync.set_sync(true);
        self.db.write_opt(batch, &sync).map_err(io::Error::other)
    }

    fn install(&self, row: Row) -> io::Result<()> {
        self.store(&row)?;
        let mut inner = self.inner.lock();
        inner.position = Some(row.position());
        inner.membership = row.membership.clone().into();
        inner.state = row.state.clone();
        inner.durable = Some(row);
        self.changed.send_replace(Arc::new(inner.state.clone()));
        Ok(())
    }

    fn command(&self, inner: &mut Inner, bytes: &[u8]) -> Reply {
        match decode_command(bytes) {
            Ok(command) => {
                let reply = inner.state.apply(command);
                self.changed.send_replace(Arc::new(inner.state.clone()));
                reply
            }
            // The same bytes are in every replica's log, so every replica refuses them.
            Err(what) => Reply::Refused(format!("unreadable meta command: {what}")),
        }
    }
}

impl Row {
    fn position(&self) -> LogPosition {
        LogPosition {
            term: self.term,
            index: self.index,
        }
    }
}

impl StateMachine for MetaMachine {
    fn durable(&self) -> io::Result<Durable> {
        let inner = self.0.inner.lock();
        Ok(Durable {
            position: inner.durable.as_ref().map(Row::position),
            membership: inner.durable.as_ref().map(|d| d.membership.clone().into()),
        })
    }

    fn apply(&self, position: LogPosition, payload: Payload<'_>, want_reply: bool) -> io::Result<Bytes> {
        let mut inner = self.0.inner.lock();
        let reply = match payload {
            Payload::Command(bytes) => Some(self.0.command(&mut inner, bytes)),
            Payload::Blank => None,
            Payload::Membership(membership) => {
                inner.membership = membership;
                None
            }
        };
        inner.position = Some(position);
        match reply {
            Some(reply) if want_reply => framed::encode(REPLY_MAGIC, VERSION, &reply)
                .map(Bytes::from)
                .map_err(io::Error::other),
            _ => Ok(Bytes::new()),
        }
    }

    fn snapshot(&self) -> io::Result<SnapshotOut> {
        let inner = self.0.inner.lock();
        let row = inner.durable.as_ref().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "the meta group has no durable state to snapshot yet",
            )
        })?;
        let bytes = framed::encode(ROW_MAGIC, VERSION, row).map_err(io::Error::other)?;
        Ok(SnapshotOut {
            position: row.position(),
            membership: row.membership.clone().into(),
            chunks: Box::new(OneChunk(Some(bytes.into()))),
        })
    }

    fn begin_install(&self) -> io::Result<Box<dyn SnapshotWriter>> {
        Ok(Box::new(Install {
            core: self.0.clone(),
            received: Vec::new(),
        }))
    }
}

struct OneChunk(Option<Bytes>);

impl SnapshotReader for OneChunk {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        Ok(self.0.take())
    }
}

struct Install {
    core: Arc<Core>,
    received: Vec<u8>,
}

impl SnapshotWriter for Install {
    fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        self.received.extend_from_slice(&chunk);
        Ok(())
    }

    fn finish(self: Box<Self>, position: LogPosition, membership: Bytes) -> io::Result<()> {
        let mut row: Row = framed::decode(ROW_MAGIC, VERSION, &self.received)
            .map_err(|what| io::Error::new(io::ErrorKind::InvalidData, format!("meta snapshot: {what}")))?;
        row.term = position.term;
        row.index = position.index;
        row.membership = membership.to_vec();
        self.core.install(row)
    }
}

fn key(replica: ReplicaId) -> Vec<u8> {
    [b"meta/".as_slice(), &replica.to_be_bytes()].concat()
}

fn cf(db: &Db) -> io::Result<Arc<rocksdb::BoundColumnFamily<'_>>> {
    db.cf_handle(META_CF)
        .ok_or_else(|| io::Error::other(format!("column family {META_CF} is missing")))
}
