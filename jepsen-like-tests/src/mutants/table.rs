//! Every planted bug, in which scenario it shows and which checker has to catch it. `docs/MUTANTS.md` says what each is.

use std::time::Duration;

/// How long followers of [`Scenario::ForgottenLease`] believe in a leader: its longest election timeout.
pub(super) const LEASE: Duration = Duration::from_secs(5);

/// A planted bug and who has to catch it.
#[derive(Debug, Clone, Copy)]
pub struct Mutant {
    /// The value of `QUORATE_MUTANT`.
    pub name: &'static str,
    /// What makes it show.
    pub scenario: Scenario,
    /// The rule that it has to break. Others may be broken besides.
    pub expected: &'static str,
}

/// What happens to a cluster of real nodes. Each is short and sharp: it goes straight to where a bug shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// Nothing but load.
    Calm,
    /// Every writer tries to replace what it wrote.
    Overwrites,
    /// All nodes lose power at once, while their disks take a while to sync.
    PowerCuts,
    /// Every sync fails, everywhere; then the power goes.
    SyncFails,
    /// All nodes are killed just after flushes.
    KillAfterFlush,
    /// A leader that clients reach is cut off from its followers.
    DeafLeader,
    /// A leader is cut off while a follower that promised it a lease restarts.
    ForgottenLease,
    /// A voter loses power just after it voted, and goes on with the leader it voted out.
    ForgottenVote,
    /// A node loses its disk and is filled from a snapshot.
    WipedDisk,
    /// The same, and it dies when the snapshot takes effect.
    CrashInInstall,
    /// A node dies in the middle of a flush.
    CrashInFlush,
    /// A node that lost its disk meets one that missed writes, while the third is down.
    WipedDiskMeetsStraggler,
    /// A node's log rots while it is down.
    RottenLog,
    /// A node's clock is an hour behind.
    FarClock,
    /// Two nodes do not reach each other, so of most requests a part fails.
    PartsFail,
}

/// Every scenario.
pub const SCENARIOS: [Scenario; 15] = [
    Scenario::Calm,
    Scenario::Overwrites,
    Scenario::PowerCuts,
    Scenario::SyncFails,
    Scenario::KillAfterFlush,
    Scenario::DeafLeader,
    Scenario::ForgottenLease,
    Scenario::ForgottenVote,
    Scenario::WipedDisk,
    Scenario::CrashInInstall,
    Scenario::CrashInFlush,
    Scenario::WipedDiskMeetsStraggler,
    Scenario::RottenLog,
    Scenario::FarClock,
    Scenario::PartsFail,
];

const fn mutant(name: &'static str, scenario: Scenario, expected: &'static str) -> Mutant {
    Mutant {
        name,
        scenario,
        expected,
    }
}

/// Every planted bug.
pub const MUTANTS: [Mutant; 22] = [
    mutant("ack_before_quorum", Scenario::DeafLeader, "lost"),
    mutant("ack_before_fsync", Scenario::PowerCuts, "lost"),
    mutant("vote_not_fsynced", Scenario::ForgottenVote, "lost"),
    mutant(
        "read_without_read_index",
        Scenario::DeafLeader,
        "stale_linearizable",
    ),
    mutant("snapshot_drops_range", Scenario::WipedDisk, "diverged"),
    mutant("snapshot_not_atomic", Scenario::CrashInInstall, "diverged"),
    mutant("purge_beyond_snapshot", Scenario::KillAfterFlush, "lost"),
    mutant("truncate_committed", Scenario::PowerCuts, "lost"),
    mutant("canonical_nan", Scenario::Calm, "altered"),
    mutant("last_sample_of_chunk", Scenario::Calm, "lost"),
    mutant("eio_ignored", Scenario::SyncFails, "lost"),
    mutant("partial_acked_whole", Scenario::PartsFail, "lost"),
    mutant("index_misses_two_matchers", Scenario::Calm, "lost"),
    mutant("wal_checksum_skipped", Scenario::RottenLog, "lost"),
    mutant("apply_local_clock", Scenario::FarClock, "diverged"),
    mutant("ids_from_hash_order", Scenario::Calm, "diverged"),
    mutant("wiped_keeps_id", Scenario::WipedDiskMeetsStraggler, "lost"),
    mutant("no_vote_guard", Scenario::ForgottenLease, "stale_linearizable"),
    mutant("slab_lost", Scenario::KillAfterFlush, "lost"),
    mutant("meta_before_slab", Scenario::CrashInFlush, "diverged"),
    mutant("drop_400_for_retryable", Scenario::PartsFail, "refused_retryable"),
    mutant("reply_before_apply", Scenario::Overwrites, "altered"),
];

/// The mutant of this name.
pub fn find(name: &str) -> Option<&'static Mutant> {
    MUTANTS.iter().find(|mutant| mutant.name == name)
}

impl Scenario {
    /// Configuration of its nodes.
    pub(super) fn settings(self) -> Vec<(&'static str, &'static str)> {
        let shards = if self.shards() == 1 { "1" } else { "2" };
        let mut settings = vec![("shards", shards)];
        if self != Scenario::ForgottenLease {
            settings.push(("write.request_timeout", "2s"));
        }
        match self {
            // An entry for each request, so that the log soon is longer than what a purge keeps of it.
            Scenario::WipedDisk | Scenario::CrashInInstall => {
                settings.extend([("flush.interval", "1s"), ("write.linger", "1ms")]);
            }
            Scenario::KillAfterFlush | Scenario::CrashInFlush => settings.push(("flush.interval", "1s")),
            // A lease that outlasts the restart of a process.
            Scenario::ForgottenLease => settings.extend([
                ("raft.election_timeout_min", "4s"),
                ("raft.election_timeout_max", "5s"),
            ]),
            _ => {}
        }
        settings
    }

    /// Data shards of its cluster: one where it matters who leads.
    pub(super) fn shards(self) -> u32 {
        match self {
            Scenario::DeafLeader
            | Scenario::ForgottenLease
            | Scenario::ForgottenVote
            | Scenario::WipedDisk
            | Scenario::CrashInInstall
            | Scenario::KillAfterFlush => 1,
            _ => 2,
        }
    }

    /// Whether the log has to be longer than what a purge keeps of it.
    pub(super) fn needs_long_log(self) -> bool {
        matches!(self, Scenario::WipedDisk | Scenario::CrashInInstall)
    }

    /// Whether there is load from the start.
    pub(super) fn has_load(self) -> bool {
        self != Scenario::ForgottenLease
    }

    /// Whether probes look how fresh reads are.
    pub(super) fn has_probes(self) -> bool {
        self == Scenario::DeafLeader
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_about_mutants_says_the_same() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/MUTANTS.md");
        let page = std::fs::read_to_string(page).unwrap();
        for Mutant {
            name,
            scenario,
            expected,
        } in &MUTANTS
        {
            let (begin, end) = (
                format!("| `{name}` |"),
                format!("| `{scenario:?}` | `{expected}` |"),
            );
            let told = page
                .lines()
                .any(|line| line.starts_with(&begin) && line.ends_with(&end));
            assert!(told, "no line {begin} ... {end}");
        }
    }

    #[test]
    fn every_scenario_has_a_mutant() {
        for scenario in SCENARIOS {
            assert!(
                MUTANTS.iter().any(|mutant| mutant.scenario == scenario),
                "{scenario:?}"
            );
        }
    }
}
