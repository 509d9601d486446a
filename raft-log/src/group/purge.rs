//! Giving up the old part of the log.

use std::io;
use std::time::Duration;

use openraft::AsyncRuntime;
use thiserror::Error;

use super::{Group, WaitError};

/// How long openraft may take to note that the state machine is durable.
const SNAPSHOT_NOTE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why nothing was purged.
#[derive(Debug, Error)]
pub enum PurgeError {
    /// The state machine's durable state cannot be read.
    #[error("durable state: {0}")]
    Durable(io::Error),
    /// openraft did not take note of the durable state.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// The group does not run.
    #[error("the group stopped: {0}")]
    Stopped(String),
}

impl<R: AsyncRuntime> Group<R> {
    /// Purges entries up to `upto_index`, but never what the state machine is not durable for, nor
    /// what the receiver of a snapshot still needs. Returns the index it asked openraft to purge
    /// up to, `None` for nothing. It happens when no replication uses the entries any more.
    pub async fn purge(&self, upto_index: u64) -> Result<Option<u64>, PurgeError> {
        let machine = self.inner.machine.machine.clone();
        let durable = crate::offload::run(move || machine.durable())
            .await
            .and_then(|d| d);
        let Some(durable) = durable.map_err(PurgeError::Durable)?.position else {
            return Ok(None);
        };
        let status = self.status();
        let mut upto = upto_index.min(durable.index);
        if mutant!("purge_beyond_snapshot") {
            upto = status.applied.map_or(upto, |applied| applied.index);
        }
        let upto = self
            .inner
            .peers
            .holds
            .limit(upto, &status.matched, status.last_log);
        if status.purged.is_some_and(|purged| purged.index >= upto) {
            return Ok(None);
        }
        let stopped = |fatal: openraft::errors::Fatal<_>| PurgeError::Stopped(fatal.to_string());
        if status.snapshot.is_none_or(|snapshot| snapshot.index < upto) {
            // openraft purges only what it knows a snapshot of: "building" one tells it.
            self.inner.raft.trigger().snapshot().await.map_err(stopped)?;
            let noted = |s: &super::GroupStatus| s.snapshot.is_some_and(|snapshot| snapshot.index >= upto);
            self.wait_for("durable state noted", SNAPSHOT_NOTE_TIMEOUT, noted)
                .await?;
        }
        self.inner.raft.trigger().purge_log(upto).await.map_err(stopped)?;
        Ok(Some(upto))
    }
}
