//! The data directory: locked by one process, bound for ever to one cluster and one node id.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use quorate_raft_log::ReplicaId;
use serde::{Deserialize, Serialize};

use super::framed;

const IDENTITY_FILE: &str = "IDENTITY";
const LOCK_FILE: &str = "LOCK";
const MAGIC: &[u8; 4] = b"QIDN";
const VERSION: u8 = 1;
/// Far above any real identity; a longer file is not one of ours.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Why a data directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file system refused.
    #[error("data directory {dir}: {what}: {source}; check that it exists, is writable and has space")]
    Io {
        /// The data directory.
        dir: PathBuf,
        /// The step that failed.
        what: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Another process holds the lock.
    #[error("data directory {dir} is in use by another process; stop it, or give this node another data_dir")]
    Locked {
        /// The data directory.
        dir: PathBuf,
    },
    /// The identity file is damaged.
    #[error(
        "data directory {dir}: {IDENTITY_FILE} is damaged ({what}); restore it from a backup, or empty the \
         directory so that the node rejoins under new replica ids"
    )]
    Corrupt {
        /// The data directory.
        dir: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// The identity is there, the database is not.
    #[error(
        "data directory {dir} is bound to a cluster but its database {database} is gone; bring it back, or \
         empty the whole data directory so that the node rejoins under new replica ids"
    )]
    DatabaseLost {
        /// The data directory.
        dir: PathBuf,
        /// Where the database was.
        database: PathBuf,
    },
    /// The directory belongs to another node.
    #[error(
        "data directory {dir} belongs to node {found}, but node_id is {configured}; point node_id or data_dir at the right one"
    )]
    OtherNode {
        /// The data directory.
        dir: PathBuf,
        /// The node id in the directory.
        found: u64,
        /// The node id in the configuration.
        configured: u64,
    },
}

/// What a data directory is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Random, made once by the founder.
    pub cluster_id: String,
    /// From the configuration; never changes.
    pub node_id: u64,
    /// This node's replica of the meta group; absent between binding and the answer to a join.
    pub meta_replica: Option<ReplicaId>,
    /// Replicas of the meta group by node when the cluster was founded or joined, to find peers
    /// before the first meta entry is applied.
    pub meta_replicas: Vec<(u64, ReplicaId)>,
    /// The founder's record: the cluster is not complete until every founding node is bound.
    pub founding: Option<Founding>,
    /// The database was created: from then on its absence means that data was lost, and a replica
    /// that forgot its votes must not go on under its old ids.
    pub database: bool,
}

/// Progress of founding, kept by the founder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founding {
    /// Nodes whose binding was confirmed; a confirmed node that comes back empty is not founded again.
    pub bound: Vec<u64>,
}

/// A locked data directory. The lock lasts as long as this value.
#[derive(Debug)]
pub struct DataDir {
    dir: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the directory if need be and takes its lock.
    pub fn open(dir: &Path) -> Result<DataDir, IdentityError> {
        let io = |what| {
            move |source| IdentityError::Io {
                dir: dir.to_path_buf(),
                what,
                source,
            }
        };
        fs::create_dir_all(dir).map_err(io("create it"))?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join(LOCK_FILE))
            .map_err(io("open its lock file"))?;
        match lock.try_lock() {
            Ok(()) => Ok(DataDir {
                dir: dir.to_path_buf(),
                _lock: lock,
            }),
            Err(fs::TryLockError::WouldBlock) => Err(IdentityError::Locked {
                dir: dir.to_path_buf(),
            }),
            Err(fs::TryLockError::Error(source)) => Err(io("lock it")(source)),
        }
    }

    /// Where the directory is.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// What the directory is bound to; `None` when it is new.
    pub fn identity(&self, configured_node: u64) -> Result<Option<Identity>, IdentityError> {
        let path = self.dir.join(IDENTITY_FILE);
        let io = |what| {
            move |source| IdentityError::Io {
                dir: self.dir.clone(),
                what,
                source,
            }
        };
        let bytes = match fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io("read its identity")(e)),
            Ok(m) if m.len() > MAX_FILE_BYTES => return Err(self.corrupt("too long")),
            Ok(_) => fs::read(&path).map_err(io("read its identity"))?,
        };
        let identity = decode(&bytes).map_err(|what| self.corrupt(what))?;
        if identity.node_id != configured_node {
            return Err(IdentityError::OtherNode {
                dir: self.dir.clone(),
                found: identity.node_id,
                configured: configured_node,
            });
        }
        Ok(Some(identity))
    }

    /// Replaces the identity durably: written aside, synced, renamed, directory synced.
    pub fn bind(&self, identity: &Identity) -> Result<(), IdentityError> {
        let io = |what| {
            move |source| IdentityError::Io {
                dir: self.dir.clone(),
                what,
                source,
            }
        };
        let bytes = encode(identity).map_err(|what| self.corrupt(what))?;
        let aside = self.dir.join("IDENTITY.new");
        let mut file = File::create(&aside).map_err(io("write its identity"))?;
        file.write_all(&bytes).map_err(io("write its identity"))?;
        file.sync_all().map_err(io("sync its identity"))?;
        fs::rename(&aside, self.dir.join(IDENTITY_FILE)).map_err(io("replace its identity"))?;
        File::open(&self.dir)
            .and_then(|d| d.sync_all())
            .map_err(io("sync it"))
    }

    fn corrupt(&self, what: impl Into<String>) -> IdentityError {
        IdentityError::Corrupt {
            dir: self.dir.clone(),
            what: what.into(),
        }
    }
}

fn encode(identity: &Identity) -> Result<Vec<u8>, String> {
    framed::encode(MAGIC, VERSION, identity)
}

fn decode(bytes: &[u8]) -> Result<Identity, String> {
    framed::decode(MAGIC, VERSION, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Identity {
        Identity {
            cluster_id: "00112233445566778899aabbccddeeff".into(),
            node_id: 2,
            meta_replica: Some(2),
            meta_replicas: vec![(1, 1), (2, 2), (3, 3)],
            founding: Some(Founding { bound: vec![1, 2] }),
            database: true,
        }
    }

    #[test]
    fn golden_bytes() {
        let hex: String = encode(&sample())
            .unwrap()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(
            hex,
            "5149444e0178738c61203030313132323333343435353636373738383939616162626363646465656666020102030101020203030102010201"
        );
    }

    #[test]
    fn binds_once_and_refuses_another_node() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = DataDir::open(tmp.path()).unwrap();
        assert_eq!(dir.identity(2).unwrap(), None);
        dir.bind(&sample()).unwrap();
        assert_eq!(dir.identity(2).unwrap(), Some(sample()));
        assert!(matches!(
            dir.identity(3),
            Err(IdentityError::OtherNode {
                found: 2,
                configured: 3,
                ..
            })
        ));
        assert!(matches!(
            DataDir::open(tmp.path()),
            Err(IdentityError::Locked { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_corruption_is_an_error_or_the_same(at in 0usize..200, bit in 0u8..8, cut in 0usize..200) {
            let good = encode(&sample()).unwrap();
            let mut bad = good.clone();
            bad.truncate(cut.min(good.len()));
            if let Some(b) = bad.get_mut(at) { *b ^= 1 << bit; }
            if bad != good {
                prop_assert!(decode(&bad).is_err());
            }
        }
    }
}
