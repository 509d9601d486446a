//! Settings of the log and of its groups, with the relations they must keep.

use std::time::Duration;

use thiserror::Error;

/// Settings of one group. Every replica of a group must use the same times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupConfig {
    /// How often a leader sends heartbeats, and the deadline of each. Default 100 ms.
    pub heartbeat_interval_ms: u64,
    /// Shortest election timeout. Default 300 ms.
    pub election_timeout_min_ms: u64,
    /// Longest election timeout; also the leader's lease. A failover takes about
    /// `max + random(min..max)`, so keep the range narrow. Default 450 ms.
    pub election_timeout_max_ms: u64,
    /// Bytes of proposed commands that may be unresolved at once in this group on this node. Keep it so
    /// small that the acknowledgement of the last of them takes less than half the lease: a
    /// heartbeat's reply waits for the follower's log flush. Default 8 MiB.
    pub max_inflight_bytes: usize,
    /// Longest command. Default 4 MiB.
    pub max_command_bytes: usize,
    /// How long [`Group::propose`](crate::Group::propose) tries before it answers that the outcome
    /// is unknown. Default 10 s.
    pub propose_timeout_ms: u64,
    /// A leader that no majority acknowledged for so long answers [`ProposeError::QuorumLost`] and
    /// [`ReadError::QuorumLost`] instead of waiting. Others wait for two elections more. Default 1 s.
    ///
    /// [`ProposeError::QuorumLost`]: crate::ProposeError::QuorumLost
    /// [`ReadError::QuorumLost`]: crate::ReadError::QuorumLost
    pub quorum_timeout_ms: u64,
    /// Bytes of payload in one AppendEntries message (one entry may exceed it). Default 1 MiB.
    pub max_append_bytes: usize,
    /// Entries in one AppendEntries message. Default 1024.
    pub max_append_entries: u64,
    /// A follower that answers no AppendEntries for so long counts as unreachable. Default 5 s.
    pub append_ack_timeout_ms: u64,
    /// A snapshot transfer without progress for so long fails. Default 10 s.
    pub snapshot_idle_timeout_ms: u64,
    /// Limit for installing a snapshot once all of it is transferred. Default 120 s.
    pub snapshot_install_timeout_ms: u64,
    /// How long after a snapshot transfer the log that follows it is kept for the receiver. Default 60 s.
    pub purge_hold_ms: u64,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            heartbeat_interval_ms: 100,
            election_timeout_min_ms: 300,
            election_timeout_max_ms: 450,
            max_inflight_bytes: 8 << 20,
            max_command_bytes: 4 << 20,
            propose_timeout_ms: 10_000,
            quorum_timeout_ms: 1_000,
            max_append_bytes: 1 << 20,
            max_append_entries: 1024,
            append_ack_timeout_ms: 5_000,
            snapshot_idle_timeout_ms: 10_000,
            snapshot_install_timeout_ms: 120_000,
            purge_hold_ms: 60_000,
        }
    }
}

/// A setting that cannot work, with the value and the bound it broke.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// A setting that must be positive is zero.
    #[error("{setting} must be greater than 0")]
    Zero {
        /// Name of the setting.
        setting: &'static str,
    },
    /// Followers would call elections between two heartbeats.
    #[error(
        "election_timeout_min_ms ({election_timeout_min_ms}) must be at least twice heartbeat_interval_ms \
         ({heartbeat_interval_ms}), or one lost heartbeat starts an election"
    )]
    ElectionBelowHeartbeat {
        /// The shortest election timeout.
        election_timeout_min_ms: u64,
        /// The heartbeat interval.
        heartbeat_interval_ms: u64,
    },
    /// Without a range, candidates would collide for ever.
    #[error(
        "election_timeout_max_ms ({max_ms}) must be greater than election_timeout_min_ms ({min_ms}): \
         candidates that share one timeout collide"
    )]
    ElectionRangeEmpty {
        /// The shortest election timeout.
        min_ms: u64,
        /// The longest election timeout.
        max_ms: u64,
    },
    /// The largest command could never be admitted.
    #[error(
        "max_command_bytes ({max_command_bytes}) must not exceed max_inflight_bytes ({max_inflight_bytes})"
    )]
    CommandAboveInflight {
        /// The longest command.
        max_command_bytes: usize,
        /// The bound on bytes in flight.
        max_inflight_bytes: usize,
    },
    /// More than the counter of the admission limit holds.
    #[error("{setting} ({value}) must be at most {limit}")]
    TooLarge {
        /// Name of the setting.
        setting: &'static str,
        /// Its value.
        value: usize,
        /// The largest value allowed.
        limit: usize,
    },
    /// A leader would give up before its lease is over.
    #[error(
        "quorum_timeout_ms ({quorum_timeout_ms}) must be at least election_timeout_max_ms ({election_timeout_max_ms}), \
         the leader's lease"
    )]
    QuorumTimeoutTooShort {
        /// After how long the quorum counts as lost.
        quorum_timeout_ms: u64,
        /// The longest election timeout.
        election_timeout_max_ms: u64,
    },
    /// A timeout shorter than what it waits for.
    #[error(
        "append_ack_timeout_ms ({append_ack_timeout_ms}) must be at least election_timeout_max_ms ({election_timeout_max_ms})"
    )]
    AckTimeoutTooShort {
        /// The deadline of an AppendEntries answer.
        append_ack_timeout_ms: u64,
        /// The longest election timeout.
        election_timeout_max_ms: u64,
    },
    /// openraft refused the derived configuration.
    #[error("openraft: {0}")]
    Openraft(String),
}

const MAX_INFLIGHT_BYTES: usize = 1 << 30;

impl GroupConfig {
    /// Checks the relations between the settings.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let positive = [
            ("heartbeat_interval_ms", self.heartbeat_interval_ms),
            ("max_inflight_bytes", self.max_inflight_bytes as u64),
            ("max_command_bytes", self.max_command_bytes as u64),
            ("propose_timeout_ms", self.propose_timeout_ms),
            ("max_append_bytes", self.max_append_bytes as u64),
            ("max_append_entries", self.max_append_entries),
            ("snapshot_idle_timeout_ms", self.snapshot_idle_timeout_ms),
            ("snapshot_install_timeout_ms", self.snapshot_install_timeout_ms),
        ];
        for (setting, value) in positive {
            if value == 0 {
                return Err(ConfigError::Zero { setting });
            }
        }
        if self.election_timeout_min_ms < self.heartbeat_interval_ms.saturating_mul(2) {
            return Err(ConfigError::ElectionBelowHeartbeat {
                election_timeout_min_ms: self.election_timeout_min_ms,
                heartbeat_interval_ms: self.heartbeat_interval_ms,
            });
        }
        if self.election_timeout_max_ms <= self.election_timeout_min_ms {
            return Err(ConfigError::ElectionRangeEmpty {
                min_ms: self.election_timeout_min_ms,
                max_ms: self.election_timeout_max_ms,
            });
        }
        if self.max_inflight_bytes > MAX_INFLIGHT_BYTES {
            return Err(ConfigError::TooLarge {
                setting: "max_inflight_bytes",
                value: self.max_inflight_bytes,
                limit: MAX_INFLIGHT_BYTES,
            });
        }
        if self.max_command_bytes > self.max_inflight_bytes {
            return Err(ConfigError::CommandAboveInflight {
                max_command_bytes: self.max_command_bytes,
                max_inflight_bytes: self.max_inflight_bytes,
            });
        }
        if self.quorum_timeout_ms < self.election_timeout_max_ms {
            return Err(ConfigError::QuorumTimeoutTooShort {
                quorum_timeout_ms: self.quorum_timeout_ms,
                election_timeout_max_ms: self.election_timeout_max_ms,
            });
        }
        if self.append_ack_timeout_ms < self.election_timeout_max_ms {
            return Err(ConfigError::AckTimeoutTooShort {
                append_ack_timeout_ms: self.append_ack_timeout_ms,
                election_timeout_max_ms: self.election_timeout_max_ms,
            });
        }
        Ok(())
    }

    /// openraft's configuration. `elect` is false while the vote guard of a restarted replica holds.
    pub(crate) fn openraft(&self, name: String, elect: bool) -> Result<openraft::Config, ConfigError> {
        self.validate()?;
        let config = openraft::Config {
            cluster_name: name,
            heartbeat_interval: self.heartbeat_interval_ms,
            election_timeout_min: self.election_timeout_min_ms,
            election_timeout_max: self.election_timeout_max_ms,
            install_snapshot_timeout: self.snapshot_install_timeout_ms,
            max_payload_entries: self.max_append_entries,
            // Snapshots are taken when the node flushed and wants to purge, never by openraft itself.
            snapshot_policy: openraft::SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            purge_batch_size: 1,
            api_channel_size: Some(1024),
            notification_channel_size: Some(4096),
            state_machine_channel_size: Some(64),
            enable_elect: elect,
            // Replication says what a heartbeat would.
            heartbeat_min_interval: Some(self.heartbeat_suppression_ms()),
            // Followers write an entry while the leader syncs it.
            broadcast_submitted_on_append: Some(true),
            // A replica that was cut off must not unseat a working leader when it returns.
            enable_pre_vote: Some(true),
            // A restarted leader must not resume without an election: its lease is gone.
            enable_leader_restore: Some(false),
            // A replica whose disk lost what it had synced gets it again. Refused, it would stay behind for as long
            // as its leader leads, and nobody would know that there is a copy less.
            allow_log_reversion: Some(true),
            ..openraft::Config::default()
        };
        config
            .validate()
            .map_err(|e| ConfigError::Openraft(e.to_string()))
    }

    /// A follower that acknowledged entries sent within so many milliseconds gets no heartbeat. As long as the
    /// heartbeat interval, if followers still hear of their leader twice per election timeout.
    fn heartbeat_suppression_ms(&self) -> u64 {
        // openraft sends heartbeats at ticks, about five of them per interval.
        let late = self.heartbeat_interval_ms + self.heartbeat_interval_ms / 4 + 1;
        let spare = self.election_timeout_min_ms.saturating_sub(late);
        (spare / 2).min(self.heartbeat_interval_ms)
    }

    pub(crate) fn election_timeout_max(&self) -> Duration {
        Duration::from_millis(self.election_timeout_max_ms)
    }
}

/// Where the log writer runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriterMode {
    /// On its own OS thread: production. Syncs block that thread and nothing else.
    Thread,
    /// As a task of the runtime: simulation, where there is one thread and time is virtual.
    Task,
}

/// Settings of the log of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// Where the log writer runs.
    pub writer: WriterMode,
    /// Bytes of operations the writer takes into one batch before it syncs. Default 4 MiB.
    pub max_batch_bytes: usize,
    /// Bytes of entries that may wait for the writer; appends wait beyond it. Default 64 MiB.
    pub max_queue_bytes: usize,
    /// Bytes of the newest entries each group keeps in memory after they are written, so that
    /// replication and apply do not read the device. Default 2 MiB.
    pub tail_bytes: usize,
    /// A write or sync that takes longer than this counts as a stalled device: groups of this node
    /// refuse proposals and reads until the device works again. Default 5 s.
    pub stall_timeout_ms: u64,
    /// After so long in one write or sync [`Hooks::on_fatal`](crate::Hooks) is called. Default 2 min.
    pub stall_abort_ms: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            writer: WriterMode::Thread,
            max_batch_bytes: 4 << 20,
            max_queue_bytes: 64 << 20,
            tail_bytes: 2 << 20,
            stall_timeout_ms: 5_000,
            stall_abort_ms: 120_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_for_us_and_for_openraft() {
        GroupConfig::default().openraft("g1".into(), true).unwrap();
    }

    #[test]
    fn broken_relations_name_the_settings() {
        let broken = |change: fn(&mut GroupConfig)| {
            let mut config = GroupConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        let text = broken(|c| c.election_timeout_min_ms = 150);
        assert!(
            text.contains("election_timeout_min_ms (150)") && text.contains("heartbeat_interval_ms (100)"),
            "{text}"
        );
        let text = broken(|c| c.election_timeout_max_ms = 300);
        assert!(text.contains("election_timeout_max_ms (300)"), "{text}");
        let text = broken(|c| c.heartbeat_interval_ms = 0);
        assert_eq!(text, "heartbeat_interval_ms must be greater than 0");
        let text = broken(|c| c.max_inflight_bytes = 1 << 20);
        assert!(text.contains("max_command_bytes (4194304)"), "{text}");
        let text = broken(|c| c.quorum_timeout_ms = 449);
        assert!(text.contains("quorum_timeout_ms (449)"), "{text}");
        let text = broken(|c| c.append_ack_timeout_ms = 10);
        assert!(text.contains("append_ack_timeout_ms (10)"), "{text}");
    }
}
