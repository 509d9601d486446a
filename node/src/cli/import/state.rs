//! How far an import has come, so that it goes on where it was interrupted.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;

/// The state file, JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    /// Where to and what from: another import must not go on here.
    cluster: String,
    tenant: String,
    source: String,
    /// Blocks of which everything is stored.
    pub(super) blocks: BTreeSet<String>,
    /// The block that was being read.
    pub(super) block: Option<String>,
    /// Series of that block, or lines of the file, of which everything is stored.
    pub(super) done: u64,
}

impl State {
    /// The state in a file, or a fresh one when there is none.
    pub(super) fn load(path: &Path, cluster: &str, tenant: &str, source: &Path) -> anyhow::Result<State> {
        let source = std::fs::canonicalize(source)
            .with_context(|| format!("can't find {}", source.display()))?
            .display()
            .to_string();
        let fresh = State {
            version: VERSION,
            cluster: cluster.to_owned(),
            tenant: tenant.to_owned(),
            source,
            blocks: BTreeSet::new(),
            block: None,
            done: 0,
        };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(fresh),
            Err(error) => return Err(error).with_context(|| format!("can't read {}", path.display())),
        };
        let known: State = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is no state of an import", path.display()))?;
        ensure!(
            (known.version, &known.cluster, &known.tenant, &known.source)
                == (fresh.version, &fresh.cluster, &fresh.tenant, &fresh.source),
            "{} belongs to another import (from {} to tenant {} of cluster {}); remove it or give another with --state",
            path.display(),
            known.source,
            known.tenant,
            known.cluster
        );
        Ok(known)
    }

    /// Replaces the file. After a crash it holds this state or the one before.
    pub(super) fn save(&self, path: &Path) -> anyhow::Result<()> {
        let aside = path.with_extension("tmp");
        let written = std::fs::File::create(&aside).and_then(|mut file| {
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()
        });
        written
            .and_then(|()| std::fs::rename(&aside, path))
            .with_context(|| {
                format!(
                    "can't write {}; choose another place with --state",
                    path.display()
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_goes_on_and_another_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let load = |tenant| State::load(&path, "c", tenant, directory.path());
        let mut state = load("t").unwrap();
        state.blocks.insert("A".into());
        (state.block, state.done) = (Some("B".into()), 7);
        state.save(&path).unwrap();
        assert_eq!(load("t").unwrap(), state);
        let error = load("u").unwrap_err().to_string();
        assert!(error.contains("--state"), "{error}");
        std::fs::write(&path, "{").unwrap();
        assert!(load("t").is_err());
        assert!(State::load(&path, "c", "t", Path::new("/not/there")).is_err());
    }
}
