//! A state machine that keeps every command it applied, in order, and is durable only when told.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use quorate_raft_log::{
    Durable, LogPosition, Payload, SnapshotOut, SnapshotReader, SnapshotWriter, StateMachine,
};

/// What one replica applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    pub position: Option<LogPosition>,
    pub membership: Option<Bytes>,
    pub commands: Vec<Bytes>,
}

/// The durable part, which survives a restart.
#[derive(Clone, Default)]
pub struct MachineDisk(Arc<Mutex<Applied>>);

impl MachineDisk {
    pub fn load(&self) -> Applied {
        self.0.lock().clone()
    }

    /// Holds what another one does, as after an installed snapshot.
    pub fn copy_from(&self, other: &MachineDisk) {
        let applied = other.load();
        *self.0.lock() = applied;
    }

    /// Loses everything, as a disk swap would.
    pub fn wipe(&self) {
        *self.0.lock() = Applied::default();
    }
}

type OnMembership = Box<dyn Fn(&Bytes) + Send + Sync>;

#[derive(Default)]
pub struct TestMachine {
    live: Arc<Mutex<Applied>>,
    disk: MachineDisk,
    /// Bytes per snapshot chunk.
    chunk: usize,
    pub fail_apply: AtomicBool,
    pub snapshots_taken: AtomicU64,
    pub snapshots_installed: Arc<AtomicU64>,
    on_membership: Mutex<Option<OnMembership>>,
    /// Makes everything durable as it is applied.
    flush_always: bool,
}

impl TestMachine {
    pub fn open(disk: MachineDisk) -> Arc<Self> {
        let live = Arc::new(Mutex::new(disk.load()));
        Arc::new(Self {
            live,
            disk,
            chunk: 64,
            ..Self::default()
        })
    }

    /// A machine that is durable as soon as it applied.
    pub fn open_flushing(disk: MachineDisk) -> Arc<Self> {
        let live = Arc::new(Mutex::new(disk.load()));
        Arc::new(Self {
            live,
            disk,
            chunk: 64,
            flush_always: true,
            ..Self::default()
        })
    }

    /// Makes what is applied durable.
    pub fn flush(&self) {
        *self.disk.0.lock() = self.live.lock().clone();
    }

    pub fn applied(&self) -> Applied {
        self.live.lock().clone()
    }

    pub fn on_membership(&self, call: impl Fn(&Bytes) + Send + Sync + 'static) {
        *self.on_membership.lock() = Some(Box::new(call));
    }
}

impl StateMachine for TestMachine {
    fn durable(&self) -> io::Result<Durable> {
        let Applied {
            position, membership, ..
        } = self.disk.load();
        Ok(Durable { position, membership })
    }

    fn apply(&self, position: LogPosition, payload: Payload<'_>, _want_reply: bool) -> io::Result<Bytes> {
        if self.fail_apply.load(SeqCst) {
            return Err(io::Error::other("injected apply failure"));
        }
        let mut live = self.live.lock();
        let next = live.position.map_or(0, |at| at.index + 1);
        // openraft's suite starts in the middle of a log.
        assert!(
            position.index == next || self.flush_always,
            "entries are applied in order, each once"
        );
        live.position = Some(position);
        match payload {
            Payload::Command(command) => live.commands.push(command.clone()),
            Payload::Blank => {}
            Payload::Membership(bytes) => {
                live.membership = Some(bytes.clone());
                if let Some(call) = &*self.on_membership.lock() {
                    call(&bytes);
                }
            }
        }
        if self.flush_always {
            *self.disk.0.lock() = live.clone();
        }
        Ok(Bytes::copy_from_slice(
            &(live.commands.len() as u64).to_le_bytes(),
        ))
    }

    fn snapshot(&self) -> io::Result<SnapshotOut> {
        let state = self.disk.load();
        let mut content = BytesMut::new();
        for command in &state.commands {
            content.put_u32_le(command.len() as u32);
            content.put_slice(command);
        }
        let position = state
            .position
            .ok_or_else(|| io::Error::other("nothing durable"))?;
        self.snapshots_taken.fetch_add(1, SeqCst);
        Ok(SnapshotOut {
            position,
            membership: state.membership.unwrap_or_default(),
            chunks: Box::new(Chunks {
                content: content.freeze(),
                chunk: self.chunk,
            }),
        })
    }

    fn begin_install(&self) -> io::Result<Box<dyn SnapshotWriter>> {
        Ok(Box::new(Staged {
            live: self.live.clone(),
            disk: self.disk.clone(),
            installed: self.snapshots_installed.clone(),
            content: BytesMut::new(),
        }))
    }
}

struct Chunks {
    content: Bytes,
    chunk: usize,
}

impl SnapshotReader for Chunks {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        let len = self.chunk.min(self.content.len());
        Ok((len > 0).then(|| self.content.split_to(len)))
    }
}

struct Staged {
    live: Arc<Mutex<Applied>>,
    disk: MachineDisk,
    installed: Arc<AtomicU64>,
    content: BytesMut,
}

impl SnapshotWriter for Staged {
    fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        self.content.put_slice(&chunk);
        Ok(())
    }

    fn finish(self: Box<Self>, position: LogPosition, membership: Bytes) -> io::Result<()> {
        let mut content = self.content.freeze();
        let mut commands = Vec::new();
        while let Some((len, _)) = content.split_first_chunk::<4>() {
            let len = u32::from_le_bytes(*len) as usize;
            drop(content.split_to(4));
            commands.push(content.split_to(len));
        }
        let state = Applied {
            position: Some(position),
            membership: Some(membership),
            commands,
        };
        *self.disk.0.lock() = state.clone();
        *self.live.lock() = state;
        self.installed.fetch_add(1, SeqCst);
        Ok(())
    }
}
