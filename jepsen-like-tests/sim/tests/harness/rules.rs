//! Each rule of the observer accepts what it should and rejects what it must.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use quorate_raft_log::{
    DeviceOp, EntryKind, LogDevice, LogKey, LogPosition, Record, RecoveredLog, StoredVote,
};
use quorate_sim::model::{Content, Expected, Named, Part, Samples};
use quorate_sim::observer::{Kind, Observer};
use quorate_storage::{ApplyOutcome, PartOutcome};
use xxhash_rust::xxh3::xxh3_64;

const NOW: i64 = 1_700_000_000_000;
const COMMAND: &[u8] = b"a command";

/// A log with these entries.
struct Log(Vec<LogPosition>);

impl LogDevice for Log {
    fn write(&self, _: &[DeviceOp], _: bool) -> io::Result<()> {
        Ok(())
    }
    fn read(&self, _: LogKey, range: Range<u64>, _: usize) -> io::Result<Vec<Record>> {
        let entries = self.0.iter().filter(|at| range.contains(&at.index));
        Ok(entries.map(|at| record(*at, b"")).collect())
    }
    fn recover(&self, _: LogKey) -> io::Result<RecoveredLog> {
        Ok(RecoveredLog::default())
    }
    fn logs(&self) -> io::Result<Vec<LogKey>> {
        Ok(Vec::new())
    }
}

fn record(position: LogPosition, payload: &'static [u8]) -> Record {
    Record {
        position,
        kind: EntryKind::Command,
        payload: payload.into(),
    }
}

fn at(term: u64, index: u64) -> LogPosition {
    LogPosition::new(term, index)
}

fn log() -> LogKey {
    LogKey {
        group: 1,
        replica: 101,
    }
}

fn checker(observer: &Observer) -> Option<&'static str> {
    observer.violation().map(|violation| violation.checker)
}

/// One series, three samples.
fn content() -> Content {
    let part = Part {
        tenant: 0,
        series: vec![0],
        samples: (0..3)
            .map(|n| (Named::Labels(0), NOW + n, 100 + n as u64))
            .collect(),
    };
    Content::Write {
        now_ms: NOW,
        parts: vec![part],
    }
}

fn samples() -> Vec<(u32, i64, u64)> {
    (0..3).map(|n| (0, NOW + n, 100 + n as u64)).collect()
}

fn stored(count: u64) -> ApplyOutcome {
    let part = PartOutcome {
        stored: count,
        new_ids: vec![1],
        ..PartOutcome::default()
    };
    ApplyOutcome { parts: vec![part] }
}

fn expected(count: u64) -> Vec<Expected> {
    stored(count).parts.iter().map(Expected::from).collect()
}

fn command() -> Kind {
    Kind::Command(xxh3_64(COMMAND))
}

/// Node 1 applied a blank entry and the command, in term 2.
fn applied() -> Observer {
    let mut observer = Observer::default();
    observer.proposing(COMMAND, content());
    observer.sending(samples());
    observer.stands(1, None);
    observer.stands(2, None);
    observer.applied(1, at(2, 0), Kind::Blank, &ApplyOutcome::default());
    observer.applied(1, at(2, 1), command(), &stored(3));
    assert_eq!(observer.violation(), None);
    observer
}

fn all() -> Samples {
    let samples = samples().into_iter().map(|(_, t, bits)| (t, bits)).collect();
    BTreeMap::from([(0, samples)])
}

#[test]
fn replicas_that_apply_the_same_are_accepted() {
    let mut observer = applied();
    observer.applied(2, at(2, 0), Kind::Blank, &ApplyOutcome::default());
    observer.applied(2, at(2, 1), command(), &stored(3));
    observer.checksum(1, 1, 77);
    observer.checksum(2, 1, 77);
    observer.acknowledged(at(2, 1), COMMAND, &expected(3), samples());
    observer.scanned("a scan", &all());
    let model = observer.model.read(Some(1), |_| true, i64::MIN, i64::MAX);
    observer.read("a read", Some(1), &all(), &model);
    assert_eq!(observer.violation(), None);
    assert_eq!(
        (observer.acked_samples, observer.compared, observer.floor()),
        (3, 1, Some(1))
    );
}

#[test]
fn another_term_entry_or_outcome_at_an_index_is_rejected() {
    let mut terms = applied();
    terms.applied(2, at(3, 0), Kind::Blank, &ApplyOutcome::default());
    assert_eq!(checker(&terms), Some("two_terms"));
    let mut entries = applied();
    entries.applied(2, at(2, 0), Kind::Membership(5), &ApplyOutcome::default());
    assert_eq!(checker(&entries), Some("diverged"));
    let mut outcomes = applied();
    outcomes.applied(2, at(2, 0), Kind::Blank, &ApplyOutcome::default());
    outcomes.applied(2, at(2, 1), command(), &stored(2));
    assert_eq!(checker(&outcomes), Some("diverged"));
    let mut sums = applied();
    sums.checksum(1, 1, 77);
    sums.checksum(2, 1, 78);
    assert_eq!(checker(&sums), Some("diverged"));
}

#[test]
fn an_outcome_against_the_rules_is_rejected() {
    let mut observer = Observer::default();
    observer.proposing(COMMAND, content());
    observer.stands(1, None);
    observer.applied(1, at(2, 0), command(), &stored(2));
    assert_eq!(checker(&observer), Some("wrong_outcome"));
}

#[test]
fn gaps_repeats_and_unknown_commands_are_rejected() {
    let blank = ApplyOutcome::default();
    let mut gap = applied();
    gap.applied(1, at(2, 3), Kind::Blank, &blank);
    assert_eq!(checker(&gap), Some("applied_order"));
    let mut again = applied();
    again.applied(1, at(2, 1), command(), &stored(3));
    assert_eq!(checker(&again), Some("applied_order"));
    let mut unknown = applied();
    unknown.applied(1, at(2, 2), Kind::Command(9), &blank);
    assert_eq!(checker(&unknown), Some("invented"));
    let mut restarted = applied();
    restarted.stands(1, Some(0));
    restarted.applied(1, at(2, 1), command(), &stored(3));
    assert_eq!(restarted.violation(), None);
    restarted.stands(1, Some(5));
    assert_eq!(checker(&restarted), Some("invented"));
}

#[test]
fn an_acknowledgement_of_what_is_not_applied_there_is_rejected() {
    let mut early = applied();
    early.acknowledged(at(2, 2), COMMAND, &expected(3), samples());
    assert_eq!(checker(&early), Some("lost"));
    let mut term = applied();
    term.acknowledged(at(1, 1), COMMAND, &expected(3), samples());
    assert_eq!(checker(&term), Some("lost"));
    let mut other = applied();
    other.acknowledged(at(2, 0), COMMAND, &expected(3), samples());
    assert_eq!(checker(&other), Some("lost"));
    let mut reply = applied();
    reply.acknowledged(at(2, 1), COMMAND, &expected(2), samples());
    assert_eq!(checker(&reply), Some("wrong_outcome"));
    let mut twice = applied();
    twice.acknowledged(at(2, 1), COMMAND, &expected(3), samples());
    twice.acknowledged(at(2, 1), COMMAND, &expected(3), [(0, NOW, 999)]);
    assert_eq!(checker(&twice), Some("repeated"));
}

#[test]
fn scans_that_lack_change_or_add_samples_are_rejected() {
    let scan = |change: fn(&mut Vec<(i64, u64)>)| {
        let mut observer = applied();
        observer.acknowledged(at(2, 1), COMMAND, &expected(3), samples());
        let mut found = all();
        change(found.get_mut(&0).unwrap());
        let model = observer.model.read(Some(1), |_| true, i64::MIN, i64::MAX);
        let mut reading = applied();
        reading.read("a read", Some(1), &found, &model);
        observer.scanned("a scan", &found);
        (checker(&observer), checker(&reading))
    };
    assert_eq!(scan(|_| {}), (None, None));
    assert_eq!(scan(|s| s.truncate(2)), (Some("lost"), Some("lost")));
    assert_eq!(scan(|s| s[1].1 ^= 1), (Some("altered"), Some("altered")));
    assert_eq!(
        scan(|s| s.push((NOW + 9, 1))),
        (Some("invented"), Some("invented"))
    );
    let twice = scan(|s| s.insert(1, s[0]));
    assert_eq!(twice.1, Some("repeated"));
}

#[test]
fn two_leaders_and_two_votes_of_a_term_are_rejected() {
    let leads = |term, replica| {
        let vote = StoredVote {
            term,
            voted_for: replica,
            committed: true,
        };
        [DeviceOp::Vote(log(), vote)]
    };
    let device = Log(Vec::new());
    let mut observer = Observer::default();
    observer.writing(1, &device, &leads(4, 101), None);
    observer.writing(2, &device, &leads(4, 101), None);
    observer.writing(2, &device, &leads(5, 102), None);
    assert_eq!(observer.violation(), None);
    observer.writing(3, &device, &leads(5, 103), None);
    assert_eq!(checker(&observer), Some("two_leaders"));

    let message = |term: u8, candidate: u8, flag: u8| [1, term, candidate, 0, flag, 0];
    let mut votes = Observer::default();
    votes.vote_answered(103, &message(4, 101, 0), &message(4, 101, 1));
    votes.vote_answered(103, &message(4, 101, 0), &message(4, 101, 1));
    votes.vote_answered(103, &message(4, 102, 0), &message(4, 101, 0));
    votes.vote_answered(103, &message(5, 102, 0), &message(5, 102, 1));
    assert_eq!(votes.violation(), None);
    votes.vote_answered(103, &message(4, 102, 0), &message(4, 102, 1));
    assert_eq!(checker(&votes), Some("voted_twice"));

    let vote = |term, candidate, committed| RecoveredLog {
        vote: Some(StoredVote {
            term,
            voted_for: candidate,
            committed,
        }),
        ..RecoveredLog::default()
    };
    let found = |term, candidate| vote(term, candidate, false);
    let check = |log: RecoveredLog| {
        let mut restarted = Observer::default();
        restarted.vote_answered(103, &message(4, 101, 0), &message(4, 101, 1));
        restarted.vote_answered(103, &message(5, 102, 0), &message(5, 102, 1));
        restarted.recovered(1, 104, &RecoveredLog::default());
        restarted.recovered(3, 103, &log);
        checker(&restarted)
    };
    assert_eq!(check(found(5, 102)), None);
    assert_eq!(check(found(6, 101)), None);
    assert_eq!(
        check(vote(5, 101, true)),
        None,
        "101 won, with the votes of others"
    );
    assert_eq!(check(found(5, 101)), Some("vote_lost"));
    assert_eq!(check(found(4, 101)), Some("vote_lost"));
    assert_eq!(check(RecoveredLog::default()), Some("vote_lost"));

    let mut strange = Observer::default();
    strange.vote_answered(103, &[2, 0], &[1]);
    assert_eq!(checker(&strange), Some("harness"));
}

#[test]
fn logs_that_differ_lose_committed_entries_or_are_purged_too_far_are_rejected() {
    let device = Log(vec![at(2, 0), at(2, 1), at(2, 2)]);
    let append = |payload: &'static [u8]| [DeviceOp::Append(log(), vec![record(at(2, 7), payload)])];
    let mut logs = applied();
    logs.writing(1, &device, &append(b"one"), None);
    logs.writing(2, &device, &append(b"one"), None);
    assert_eq!(logs.violation(), None);
    logs.writing(3, &device, &append(b"two"), None);
    assert_eq!(checker(&logs), Some("log_matching"));

    let mut cut = applied();
    cut.writing(1, &device, &[DeviceOp::Truncate(log(), 2)], None);
    let other_term = Log(vec![at(1, 1)]);
    cut.writing(2, &other_term, &[DeviceOp::Truncate(log(), 1)], None);
    cut.begins_install(2);
    cut.writing(2, &device, &[DeviceOp::Truncate(log(), 1)], None);
    cut.installed(2, 1);
    cut.ends_install(2);
    cut.writing(3, &device, &[DeviceOp::Truncate(log(), 1)], Some(1));
    assert_eq!(cut.violation(), None, "an installed snapshot covers it");
    cut.writing(1, &device, &[DeviceOp::Truncate(log(), 1)], Some(0));
    assert_eq!(checker(&cut), Some("truncated_committed"));
    let mut short = applied();
    short.begins_install(2);
    short.writing(2, &device, &[DeviceOp::Truncate(log(), 1)], None);
    short.installed(2, 0);
    assert_eq!(checker(&short), Some("truncated_committed"));

    let purge = |upto| [DeviceOp::Purge(log(), 0..upto + 1, at(2, upto))];
    let mut purged = applied();
    purged.writing(1, &device, &purge(1), Some(1));
    assert_eq!(purged.violation(), None);
    purged.writing(1, &device, &purge(2), Some(1));
    assert_eq!(checker(&purged), Some("purged_too_far"));
}
