//! What a dying disk does to the files of RocksDB while the node is down.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::Rot;

/// Bits that rot flips.
const FLIPS: usize = 8;

/// Cuts the end off the newest log of the database in `data`, and says what was done.
pub(super) fn tear_log_tail(data: &Path, bytes: u64) -> Result<String> {
    let (path, length) = newest_log(data)?;
    let file = File::options().write(true).open(&path)?;
    let kept = length.saturating_sub(bytes);
    file.set_len(kept)?;
    file.sync_all()?;
    Ok(format!("{}: {kept} of {length} bytes are left", name(&path)))
}

/// Flips bits in the middle half of a file, the same ones for the same seed, and says which.
pub(super) fn rot(data: &Path, what: Rot, seed: u64) -> Result<String> {
    let mut random = StdRng::seed_from_u64(seed);
    let (path, length) = match what {
        Rot::Wal => newest_log(data)?,
        Rot::Sst => {
            let all = files(data, |name| name.ends_with(".sst"))?;
            ensure!(!all.is_empty(), "{} has no SST file yet", data.display());
            let chosen = random.random_range(0..all.len());
            all.into_iter().nth(chosen).context("no such file")?
        }
        Rot::Manifest => {
            let current = std::fs::read_to_string(database(data).join("CURRENT"))?;
            let path = database(data).join(current.trim());
            let length = path.metadata()?.len();
            (path, length)
        }
    };
    ensure!(length >= 4, "{} has {length} bytes", path.display());
    let file = File::options().read(true).write(true).open(&path)?;
    let mut offsets = Vec::new();
    for _ in 0..FLIPS {
        let offset = random.random_range(length / 4..length * 3 / 4);
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset)?;
        file.write_all_at(&byte.map(|byte| byte ^ (1 << random.random_range(0..8))), offset)?;
        offsets.push(offset);
    }
    file.sync_all()?;
    offsets.sort_unstable();
    Ok(format!(
        "{}: bits flipped at {offsets:?} of {length} bytes",
        name(&path)
    ))
}

fn database(data: &Path) -> PathBuf {
    data.join("db")
}

/// Logs are numbered; the newest may have been created and not yet written to, and all may be flushed.
fn newest_log(data: &Path) -> Result<(PathBuf, u64)> {
    let mut logs = files(data, |name| name.ends_with(".log"))?;
    let filled = logs.iter().rposition(|(_, length)| *length > 0);
    logs.truncate(filled.map_or(logs.len(), |last| last + 1));
    logs.pop()
        .with_context(|| format!("{} has no log", data.display()))
}

/// Files by name, with their lengths.
fn files(data: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<(PathBuf, u64)>> {
    let database = database(data);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&database).with_context(|| database.display().to_string())? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(&wanted) {
            found.push((entry.path(), entry.metadata()?.len()));
        }
    }
    found.sort();
    Ok(found)
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database_with(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(database(directory.path())).unwrap();
        for (name, bytes) in files {
            std::fs::write(database(directory.path()).join(name), bytes).unwrap();
        }
        directory
    }

    #[test]
    fn the_newest_log_that_has_a_tail_loses_it() {
        let data = database_with(&[
            ("000009.log", b"older"),
            ("000010.log", b"newer"),
            ("000011.log", b""),
        ]);
        tear_log_tail(data.path(), 2).unwrap();
        let read = |name| std::fs::read(database(data.path()).join(name)).unwrap();
        assert_eq!(
            (read("000009.log"), read("000010.log")),
            (b"older".to_vec(), b"new".to_vec())
        );
    }

    #[test]
    fn rot_is_in_the_middle_and_the_same_for_the_same_seed() {
        let rotten = |seed| {
            let data = database_with(&[("CURRENT", b"MANIFEST-000005\n"), ("MANIFEST-000005", &[0; 400])]);
            let detail = rot(data.path(), Rot::Manifest, seed).unwrap();
            (
                detail,
                std::fs::read(database(data.path()).join("MANIFEST-000005")).unwrap(),
            )
        };
        let (detail, bytes) = rotten(1);
        assert!(detail.starts_with("MANIFEST-000005: bits flipped"), "{detail}");
        assert!(bytes[100..300].iter().any(|byte| *byte != 0), "{bytes:?}");
        assert!(
            bytes[..100].iter().chain(&bytes[300..]).all(|byte| *byte == 0),
            "{bytes:?}"
        );
        assert_eq!(rotten(1), (detail, bytes));
        assert_ne!(rotten(1), rotten(2));
    }

    #[test]
    fn nothing_to_damage_is_an_error() {
        let data = database_with(&[]);
        assert!(tear_log_tail(data.path(), 1).is_err());
        assert!(rot(data.path(), Rot::Sst, 1).is_err());
    }

    #[test]
    fn an_empty_log_has_no_tail() {
        let data = database_with(&[("000007.log", &[])]);
        assert!(
            tear_log_tail(data.path(), 1).is_ok(),
            "all of it may have been flushed"
        );
        assert!(rot(data.path(), Rot::Wal, 1).is_err());
    }
}
