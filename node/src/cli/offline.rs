//! The database of a node that does not run, opened for reading.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use quorate_storage::Store;
use rocksdb::{ColumnFamilyDescriptor, Options};

use crate::Db;

/// Runs a command that reads files and nothing else.
pub(super) async fn run(command: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> anyhow::Result<()> {
    let done = tokio::task::spawn_blocking(command);
    done.await.context("the check was cut off")?
}

/// What a line says of so many problems.
pub(super) fn verdict(problems: u64) -> String {
    match problems {
        0 => "sound".to_owned(),
        n => format!("{n} problems"),
    }
}

/// The outcome of a check that found so many problems.
pub(super) fn conclude(problems: u64) -> anyhow::Result<()> {
    if problems > 0 {
        bail!(
            "{problems} problems; empty the data directory so that the node rejoins, or copy it first to look closer"
        );
    }
    Ok(())
}

/// The outcome of printing: who closed the pipe has seen enough.
pub(super) fn printed(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A database that nobody else changes meanwhile.
pub(super) struct Offline {
    pub(super) db: Db,
    /// The lock of the data directory, if it has one.
    _lock: Option<File>,
}

/// Opens the database in a data directory, or a database by itself. Nothing on the disk is changed.
pub(super) fn open(dir: &Path) -> anyhow::Result<Offline> {
    let database = database_in(dir)?;
    let lock = lock(dir)?;
    let mut options = Options::default();
    quorate_raft_log::tune_database(&mut options);
    let names = Db::list_cf(&options, &database)
        .with_context(|| format!("{} holds no readable database", database.display()))?;
    let mut families: Vec<_> = quorate_raft_log::column_families();
    families.extend(Store::column_families());
    families.retain(|family| names.iter().any(|name| name == family.name()));
    for name in &names {
        if !families.iter().any(|family| family.name() == name) {
            families.push(ColumnFamilyDescriptor::new(name, Options::default()));
        }
    }
    let db = Db::open_cf_descriptors_read_only(&options, &database, families, false)
        .with_context(|| format!("can't open the database in {}", database.display()))?;
    Ok(Offline { db, _lock: lock })
}

fn database_in(dir: &Path) -> anyhow::Result<PathBuf> {
    for candidate in [dir.join("db"), dir.to_owned()] {
        if candidate.join("CURRENT").is_file() {
            return Ok(candidate);
        }
    }
    bail!(
        "{} is neither a node's data directory nor a database in one",
        dir.display()
    )
}

/// Takes the lock that a running node holds.
fn lock(dir: &Path) -> anyhow::Result<Option<File>> {
    let path = dir.join("LOCK");
    if !dir.join("db").is_dir() || !path.is_file() {
        return Ok(None);
    }
    let file = File::open(&path).with_context(|| format!("can't open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => bail!(
            "a node is running in {}; stop it first, or look at a copy",
            dir.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("can't lock {}", path.display()))
        }
    }
}
