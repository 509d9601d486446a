//! Looking at stored logs without opening their groups: nothing is repaired, cut or replayed.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;

use rocksdb::{DBWithThreadMode, IteratorMode, MultiThreaded};

use super::device::StoredVote;
use super::record::EntryKind;
use super::rocks::{ENTRIES_CF, STATE_CF};
use super::{entry_key, state_row};
use crate::log::state_row::Field;
use crate::membership;
use crate::position::{LogKey, LogPosition};

type Db = DBWithThreadMode<MultiThreaded>;

/// Problems listed for a log at most; more are counted.
const PROBLEMS_MAX: usize = 100;

/// What is stored of one log.
#[derive(Debug, Clone, Default)]
pub struct LogReport {
    /// The vote given last.
    pub vote: Option<StoredVote>,
    /// Known to be committed.
    pub committed: Option<LogPosition>,
    /// Purged up to here.
    pub purged: Option<LogPosition>,
    /// The first entry behind what is purged.
    pub first: Option<LogPosition>,
    /// The last entry.
    pub last: Option<LogPosition>,
    /// Entries behind what is purged.
    pub entries: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Purged entries whose space is not given back yet.
    pub leftovers: u64,
    /// What is wrong, each with its place; the first hundred.
    pub problems: Vec<String>,
    /// How many there are in all.
    pub problems_total: u64,
}

impl LogReport {
    fn problem(&mut self, problem: String) {
        self.problems_total += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }

    fn entry(&mut self, position: LogPosition, kind: EntryKind, payload: &[u8]) {
        if self.purged.is_some_and(|purged| position.index <= purged.index) {
            self.leftovers += 1;
            return;
        }
        let index = position.index;
        let expected = match (self.last, self.purged) {
            (Some(last), _) => Some(last.index + 1),
            (None, purged) => purged.map(|purged| purged.index + 1),
        };
        match expected {
            Some(expected) if index < expected => self.problem(format!("entry {index} is there twice")),
            Some(expected) if index > expected => {
                self.problem(format!("entries {expected} to {} are missing", index - 1));
            }
            None if index > 1 => self.problem(format!("nothing is purged, and the first entry is {index}")),
            _ => {}
        }
        if let Some(last) = self.last.filter(|last| last.term > position.term) {
            self.problem(format!(
                "entry {index} has term {}, the one before it {}",
                position.term, last.term
            ));
        }
        match kind {
            EntryKind::Membership => {
                if let Err(error) = membership::describe(payload) {
                    self.problem(format!("entry {index}, a membership: {error}"));
                }
            }
            EntryKind::Blank if !payload.is_empty() => {
                self.problem(format!("entry {index} is blank and has {} bytes", payload.len()));
            }
            _ => {}
        }
        self.first = self.first.or(Some(position));
        self.last = Some(position);
        self.entries += 1;
        self.bytes += payload.len() as u64;
    }

    /// What positions say of each other.
    fn relate(&mut self) {
        let end = self.last.max(self.purged);
        if let (Some(vote), Some(last)) = (self.vote, self.last)
            && vote.term < last.term
        {
            self.problem(format!(
                "the vote is of term {}, the last entry of {}",
                vote.term, last.term
            ));
        }
        if let Some(committed) = self.committed
            && end.is_none_or(|end| end.index < committed.index)
        {
            self.problem(format!("entry {} is committed and not there", committed.index));
        }
        let purged_term = self.purged.map(|purged| purged.term);
        if let Some((purged, first)) = purged_term
            .zip(self.first)
            .filter(|(purged, first)| *purged > first.term)
        {
            self.problem(format!(
                "the first entry has term {}, what is purged before it {purged}",
                first.term
            ));
        }
    }
}

/// Reads all logs of a database and calls `visit` with each entry behind what is purged, until it breaks off:
/// the reports then tell of no more than was read. An error means that the database could not be read.
pub fn inspect_logs(
    db: &Db,
    mut visit: impl FnMut(LogKey, LogPosition, EntryKind, &[u8]) -> ControlFlow<()>,
) -> io::Result<BTreeMap<LogKey, LogReport>> {
    let mut logs = BTreeMap::new();
    read_states(db, &mut logs)?;
    let family = cf(db, ENTRIES_CF)?;
    for row in db.iterator_cf(&family, IteratorMode::Start) {
        let (key, payload) = row.map_err(io::Error::other)?;
        let Some((log, position, kind)) = entry_key::decode(&key) else {
            return Err(io::Error::other(format!(
                "an entry has a malformed key: {key:02x?}"
            )));
        };
        let report: &mut LogReport = logs.entry(log).or_default();
        let before = report.entries;
        report.entry(position, kind, &payload);
        if report.entries > before && visit(log, position, kind, &payload).is_break() {
            return Ok(logs);
        }
    }
    logs.values_mut().for_each(LogReport::relate);
    Ok(logs)
}

fn read_states(db: &Db, logs: &mut BTreeMap<LogKey, LogReport>) -> io::Result<()> {
    let family = cf(db, STATE_CF)?;
    for row in db.iterator_cf(&family, IteratorMode::Start) {
        let (key, value) = row.map_err(io::Error::other)?;
        let Some(log) = state_row::log_of(&key) else {
            return Err(io::Error::other(format!(
                "a state row has a malformed key: {key:02x?}"
            )));
        };
        let report = logs.entry(log).or_default();
        let position = |field| state_row::decode_position(log, field, &value);
        let read = match key.last().copied() {
            Some(field) if field == Field::Vote as u8 => {
                state_row::decode_vote(log, &value).map(|vote| report.vote = Some(vote))
            }
            Some(field) if field == Field::Committed as u8 => {
                position(Field::Committed).map(|at| report.committed = Some(at))
            }
            Some(field) if field == Field::Purged as u8 => {
                position(Field::Purged).map(|at| report.purged = Some(at))
            }
            field => Err(io::Error::other(format!("a state row has field {field:?}"))),
        };
        if let Err(error) = read {
            report.problem(error.to_string());
        }
    }
    Ok(())
}

fn cf<'db>(db: &'db Db, name: &str) -> io::Result<std::sync::Arc<rocksdb::BoundColumnFamily<'db>>> {
    db.cf_handle(name)
        .ok_or_else(|| io::Error::other(format!("the database has no column family {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: LogKey = LogKey { group: 3, replica: 9 };

    fn open(dir: &std::path::Path) -> Db {
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        Db::open_cf_descriptors(&options, dir, super::super::column_families()).unwrap()
    }

    fn put_entry(db: &Db, index: u64, term: u64, kind: EntryKind, payload: &[u8]) {
        let key = entry_key::encode(LOG, LogPosition::new(term, index), kind);
        db.put_cf(&cf(db, ENTRIES_CF).unwrap(), key, payload).unwrap();
    }

    fn put_state(db: &Db, field: Field, value: Vec<u8>) {
        db.put_cf(&cf(db, STATE_CF).unwrap(), state_row::key(LOG, field), value)
            .unwrap();
    }

    fn report(db: &Db) -> LogReport {
        inspect_logs(db, |_, _, _, _| ControlFlow::Continue(()))
            .unwrap()
            .remove(&LOG)
            .unwrap()
    }

    #[test]
    fn a_sound_log_is_summed_up_and_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(dir.path());
        let at = |term, index| LogPosition::new(term, index);
        put_state(
            &db,
            Field::Purged,
            state_row::encode_position(LOG, Field::Purged, at(1, 4)),
        );
        put_state(
            &db,
            Field::Committed,
            state_row::encode_position(LOG, Field::Committed, at(2, 6)),
        );
        let vote = StoredVote {
            term: 2,
            voted_for: 9,
            committed: true,
        };
        put_state(&db, Field::Vote, state_row::encode_vote(LOG, vote));
        for (index, term) in [(3, 1), (4, 1), (5, 1), (6, 2)] {
            put_entry(&db, index, term, EntryKind::Command, b"four");
        }
        let mut seen = Vec::new();
        let mut logs = inspect_logs(&db, |_, position, _, _| {
            seen.push(position.index);
            ControlFlow::Continue(())
        })
        .unwrap();
        let sound = logs.remove(&LOG).unwrap();
        assert_eq!(sound.problems, Vec::<String>::new());
        assert_eq!((sound.entries, sound.bytes, sound.leftovers), (2, 8, 2));
        assert_eq!(
            (sound.first, sound.last, seen),
            (Some(at(1, 5)), Some(at(2, 6)), vec![5, 6])
        );

        put_entry(&db, 8, 2, EntryKind::Blank, b"");
        assert!(report(&db).problems[0].contains("entries 7 to 7 are missing"));
        put_entry(&db, 7, 1, EntryKind::Blank, b"");
        assert!(report(&db).problems[0].contains("entry 7 has term 1"));
        put_entry(&db, 9, 3, EntryKind::Membership, b"no membership");
        let problems = report(&db).problems;
        assert!(
            problems.iter().any(|p| p.contains("entry 9, a membership")),
            "{problems:?}"
        );
        assert!(
            problems.iter().any(|p| p.contains("the vote is of term 2")),
            "{problems:?}"
        );
        put_state(
            &db,
            Field::Committed,
            state_row::encode_position(LOG, Field::Committed, at(3, 99)),
        );
        let problems = report(&db).problems;
        assert!(
            problems.iter().any(|p| p.contains("entry 99 is committed")),
            "{problems:?}"
        );
        let mut vote = state_row::encode_vote(LOG, vote);
        vote[3] ^= 1;
        put_state(&db, Field::Vote, vote);
        let problems = report(&db).problems;
        assert!(problems.iter().any(|p| p.contains("checksum")), "{problems:?}");
    }
}
