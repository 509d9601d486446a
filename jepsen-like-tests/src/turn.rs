//! One cluster at a time: side by side, clusters of several tests would starve one another into elections.

use std::fs::File;

use anyhow::{Context as _, Result};

/// Held while a test has its turn.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "its lock is released when it is dropped")] File);

/// Waits until no other test of this build has a cluster, in this process or in another.
pub fn take() -> Result<Turn> {
    let own = std::env::current_exe()?;
    let path = own.with_file_name("quorate-tests.lock");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    file.lock()?;
    Ok(Turn(file))
}
