//! The directory of a development cluster: what is where, who owns it, and how others find it.

use std::fs::{self, File, TryLockError};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

/// Largest `cluster.json` that is read.
const MAX_CLUSTER_FILE_BYTES: u64 = 1 << 20;

/// A running development cluster, as `cluster.json` and `quorate dev --json` tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFile {
    /// By id.
    pub nodes: Vec<NodeEntry>,
}

/// A node of a development cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntry {
    /// The node's id.
    pub id: u64,
    /// Its process, or the last it had.
    pub pid: u32,
    /// Where it serves HTTP, `host:port`.
    pub http: String,
    /// Where it serves gRPC, `host:port`.
    pub grpc: String,
    /// Its configuration, log and data.
    pub dir: PathBuf,
}

/// `$XDG_DATA_HOME/quorate/dev`, by default `~/.local/share/quorate/dev`.
pub fn default_dir() -> anyhow::Result<PathBuf> {
    let from_env = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let data = from_env("XDG_DATA_HOME").or_else(|| from_env("HOME").map(|home| home.join(".local/share")));
    let data = data.context("neither XDG_DATA_HOME nor HOME is set: choose a directory with --dir")?;
    Ok(data.join("quorate/dev"))
}

/// The cluster that runs in `dir`, if one does.
pub fn running_cluster(dir: &Path) -> Option<ClusterFile> {
    // The file alone could be of a supervisor that was killed; its socket answers only while it runs.
    UnixStream::connect(socket(dir)).ok()?;
    let path = dir.join("cluster.json");
    let small = fs::metadata(&path).ok()?.len() <= MAX_CLUSTER_FILE_BYTES;
    let text = small.then(|| fs::read_to_string(&path).ok())??;
    serde_json::from_str(&text).ok()
}

pub(super) fn socket(dir: &Path) -> PathBuf {
    dir.join("dev.sock")
}

/// A cluster's directory, owned by this process as long as this value lives.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Creates the directory if need be and takes its lock.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("can't create {}", path.display()))?;
        let path = fs::canonicalize(path).with_context(|| format!("can't open {}", path.display()))?;
        let lock_path = path.join("lock");
        let open = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path);
        let lock = open.with_context(|| format!("can't open {}", lock_path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                bail!(
                    "another `quorate dev` runs in {}; choose another --dir or stop it",
                    path.display()
                )
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("can't lock {}", lock_path.display()))
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn node(&self, id: u64) -> PathBuf {
        self.path.join(format!("node-{id}"))
    }

    /// How many nodes to start: as asked, but never another number than the directory has already.
    pub(super) fn node_count(&self, asked: Option<u64>, default: u64) -> anyhow::Result<u64> {
        let existing = (1..).take_while(|id| self.node(*id).is_dir()).last();
        match (existing, asked) {
            (Some(existing), Some(asked)) => {
                let dir = self.path.display();
                ensure!(
                    existing == asked,
                    "{dir} holds a cluster of {existing} nodes, not {asked}"
                );
                Ok(existing)
            }
            (existing, asked) => Ok(existing.or(asked).unwrap_or(default)),
        }
    }

    /// Lets others find the cluster.
    pub(super) fn publish(&self, cluster: &ClusterFile) -> anyhow::Result<()> {
        let text = serde_json::to_string(cluster)? + "\n";
        let (path, partial) = (
            self.path.join("cluster.json"),
            self.path.join("cluster.json.partial"),
        );
        // Readers see the old or the new file, never half of one.
        fs::write(&partial, text)
            .and_then(|()| fs::rename(&partial, &path))
            .with_context(|| format!("can't write {}", path.display()))
    }

    /// Removes what only a running cluster has.
    pub(super) fn retract(&self) {
        for path in [self.path.join("cluster.json"), socket(&self.path)] {
            // Without the socket's answer a left-over file is not believed.
            let _gone = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_at_a_time() {
        let temp = tempfile::tempdir().unwrap();
        let first = Directory::open(&temp.path().join("a/b")).unwrap();
        let second = Directory::open(&temp.path().join("a/b")).unwrap_err();
        assert!(second.to_string().contains("another `quorate dev`"), "{second}");
        drop(first);
        Directory::open(&temp.path().join("a/b")).unwrap();
    }

    #[test]
    fn the_number_of_nodes_stays() {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(temp.path()).unwrap();
        assert_eq!(directory.node_count(None, 3).unwrap(), 3);
        assert_eq!(directory.node_count(Some(5), 3).unwrap(), 5);
        for id in 1..=2 {
            fs::create_dir(directory.node(id)).unwrap();
        }
        assert_eq!(directory.node_count(None, 3).unwrap(), 2);
        assert_eq!(directory.node_count(Some(2), 3).unwrap(), 2);
        assert!(directory.node_count(Some(3), 3).is_err());
    }

    #[test]
    fn a_left_over_file_is_not_a_running_cluster() {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(temp.path()).unwrap();
        let entry = NodeEntry {
            id: 1,
            pid: 2,
            http: "h:1".into(),
            grpc: "g:1".into(),
            dir: "/d".into(),
        };
        let cluster = ClusterFile { nodes: vec![entry] };
        directory.publish(&cluster).unwrap();
        assert_eq!(running_cluster(temp.path()), None);
        let listener = std::os::unix::net::UnixListener::bind(socket(temp.path())).unwrap();
        assert_eq!(running_cluster(temp.path()), Some(cluster));
        drop(listener);
        assert_eq!(running_cluster(temp.path()), None);
        directory.retract();
        assert!(!temp.path().join("cluster.json").exists());
    }
}
