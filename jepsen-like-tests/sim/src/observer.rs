//! Invariants, checked as things happen: what is applied, written, voted, acknowledged and read.

use std::collections::BTreeMap;

use quorate_raft_log::{DeviceOp, LogDevice, LogKey, LogPosition, RecoveredLog, ReplicaId};
use quorate_storage::ApplyOutcome;
use xxhash_rust::xxh3::xxh3_64;

use crate::model::{Content, Expected, Model, Samples, Series};
use crate::network::Place;

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Name of the checker.
    pub checker: &'static str,
    /// What was seen.
    pub detail: String,
}

/// What an entry carries, as the observer tells entries apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A command with this digest.
    Command(u64),
    /// Nothing.
    Blank,
    /// A membership with this digest.
    Membership(u64),
}

/// An entry that some replica applied.
struct Applied {
    term: u64,
    kind: Kind,
    by: Place,
    outcome: Vec<Expected>,
}

/// A sample that was sent.
#[derive(Default)]
struct Sent {
    /// Bits that some request carried.
    tried: Vec<u64>,
    /// Bits that were acknowledged as stored, or as there already.
    acked: Option<u64>,
}

/// Everything that was seen of a run.
#[derive(Default)]
pub struct Observer {
    violation: Option<Violation>,
    /// What each proposed command carries, by its digest.
    commands: BTreeMap<u64, Content>,
    /// By index; index 0 is the first membership.
    applied: Vec<Applied>,
    /// What the shard must hold.
    pub model: Model,
    /// What each node applied last since its process began.
    last: BTreeMap<Place, Option<u64>>,
    /// Logical checksums by index, with the node that had it first.
    checksums: BTreeMap<u64, (u64, Place)>,
    leaders: BTreeMap<u64, ReplicaId>,
    votes: BTreeMap<(ReplicaId, u64), ReplicaId>,
    entries: BTreeMap<(u64, u64), u64>,
    sent: BTreeMap<(Series, i64), Sent>,
    /// Nodes that take in a snapshot, and the last committed entry that each has cut off meanwhile.
    installing: BTreeMap<Place, Option<u64>>,
    /// The highest index that was acknowledged.
    floor: Option<u64>,
    /// Acknowledged samples, and requests acknowledged as a whole.
    pub acked_samples: u64,
    /// Acknowledged requests.
    pub acked_requests: u64,
    /// Reads that were compared.
    pub reads: u64,
    /// Linearizable reads among them.
    pub linearizable: u64,
    /// Checksums that were compared with another replica's.
    pub compared: u64,
}

impl Observer {
    /// Notes a broken rule; the first one counts.
    pub fn violate(&mut self, checker: &'static str, detail: String) {
        self.violation.get_or_insert(Violation { checker, detail });
    }

    /// The first broken rule.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// A command that may be proposed from now on.
    pub fn proposing(&mut self, command: &[u8], content: Content) {
        self.commands.insert(xxh3_64(command), content);
    }

    /// Samples that a client is about to send.
    pub fn sending(&mut self, samples: impl IntoIterator<Item = (Series, i64, u64)>) {
        for (series, t, bits) in samples {
            let sent = self.sent.entry((series, t)).or_default();
            if !sent.tried.contains(&bits) {
                sent.tried.push(bits);
            }
        }
    }

    /// A replica's state machine stands at `index` when its process begins, or after a snapshot.
    pub fn stands(&mut self, node: Place, index: Option<u64>) {
        self.last.insert(node, index);
        if let Some(index) = index
            && index >= self.applied.len() as u64
        {
            let detail = format!("node {node} stands at index {index}, which nobody has applied");
            self.violate("invented", detail);
        }
    }

    /// A replica applied an entry.
    pub fn applied(&mut self, node: Place, at: LogPosition, kind: Kind, outcome: &ApplyOutcome) {
        let next = self.last.get(&node).copied().flatten().map_or(0, |last| last + 1);
        if at.index != next {
            let detail = format!("node {node} applied {at}, {next} was next");
            return self.violate("applied_order", detail);
        }
        self.last.insert(node, Some(at.index));
        let got: Vec<Expected> = outcome.parts.iter().map(Expected::from).collect();
        if let Some(entry) = self.applied.get(at.index as usize) {
            let (term, by) = (entry.term, entry.by);
            if term != at.term {
                let detail = format!(
                    "index {}: node {by} applied it in term {term}, node {node} in term {}",
                    at.index, at.term
                );
                self.violate("two_terms", detail);
            } else if entry.kind != kind {
                let detail = format!("nodes {by} and {node} applied different entries at {at}");
                self.violate("diverged", detail);
            } else if entry.outcome != got {
                let detail = format!(
                    "node {node} decided {got:?} at {at}, node {by} {:?}",
                    entry.outcome
                );
                self.violate("diverged", detail);
            }
            return;
        }
        let outcome = match kind {
            Kind::Command(digest) => match self.commands.get(&digest) {
                Some(content) => self.model.apply(at.index, content),
                None => {
                    let detail = format!("node {node} applied a command at {at} that nobody proposed");
                    return self.violate("invented", detail);
                }
            },
            Kind::Blank | Kind::Membership(_) => Vec::new(),
        };
        if outcome != got {
            let detail = format!("node {node} decided {got:?} at {at}, the rules say {outcome:?}");
            self.violate("wrong_outcome", detail);
        }
        self.applied.push(Applied {
            term: at.term,
            kind,
            by: node,
            outcome,
        });
    }

    /// A replica's logical checksum at an index.
    pub fn checksum(&mut self, node: Place, index: u64, checksum: u64) {
        match self.checksums.get(&index) {
            None => {
                self.checksums.insert(index, (checksum, node));
            }
            Some((first, by)) if *first != checksum => {
                let detail = format!("nodes {by} and {node} differ after index {index}");
                self.violate("diverged", detail);
            }
            Some(_) => self.compared += 1,
        }
    }

    /// A replica answered a request for its vote.
    pub fn vote_answered(&mut self, voter: ReplicaId, asked: &[u8], answer: &[u8]) {
        let (Some((term, candidate, _)), Some((granted_term, granted_to, granted))) =
            (vote_message(asked), vote_message(answer))
        else {
            return self.violate("harness", "a vote's message has another form than known".into());
        };
        if !granted || (granted_term, granted_to) != (term, candidate) {
            return;
        }
        let first = *self.votes.entry((voter, term)).or_insert(candidate);
        if first != candidate {
            let detail = format!("replica {voter} voted for {first} and for {candidate} in term {term}");
            self.violate("voted_twice", detail);
        }
    }

    /// A replica's log is as it was found when its process began: no vote that somebody learned of is missing.
    pub fn recovered(&mut self, node: Place, replica: ReplicaId, log: &RecoveredLog) {
        let given = self.votes.range((replica, 0)..=(replica, u64::MAX)).next_back();
        let Some(((_, term), candidate)) = given else {
            return;
        };
        // A voter follows whoever won the term, also if it voted for another.
        let kept = log.vote.is_some_and(|vote| {
            let same = vote.voted_for == *candidate || vote.committed;
            vote.term > *term || (vote.term == *term && same)
        });
        if !kept {
            let detail = format!(
                "replica {replica} gave its vote of term {term} to {candidate}; node {node} has {:?} after a restart",
                log.vote
            );
            self.violate("vote_lost", detail);
        }
    }

    /// A replica's log is about to be changed.
    pub fn writing(&mut self, node: Place, device: &dyn LogDevice, ops: &[DeviceOp], durable: Option<u64>) {
        for op in ops {
            match op {
                DeviceOp::Append(_, records) => {
                    for record in records {
                        let at = (record.position.index, record.position.term);
                        let digest = xxh3_64(&record.payload);
                        if *self.entries.entry(at).or_insert(digest) != digest {
                            let detail =
                                format!("node {node} has another entry at {} than others", record.position);
                            self.violate("log_matching", detail);
                        }
                    }
                }
                DeviceOp::Vote(_, vote) if vote.committed => {
                    let leader = *self.leaders.entry(vote.term).or_insert(vote.voted_for);
                    if leader != vote.voted_for {
                        let detail = format!(
                            "replicas {leader} and {} both lead in term {}",
                            vote.voted_for, vote.term
                        );
                        self.violate("two_leaders", detail);
                    }
                }
                DeviceOp::Truncate(log, from) => self.truncating(node, device, *log, *from, durable),
                DeviceOp::Purge(log, _, upto) if durable.is_none_or(|durable| durable < upto.index) => {
                    let detail = format!("{log} is purged up to {upto}, but durable up to {durable:?}");
                    self.violate("purged_too_far", detail);
                }
                _ => {}
            }
        }
    }

    /// A node begins to take in a snapshot.
    pub fn begins_install(&mut self, node: Place) {
        self.installing.insert(node, None);
    }

    /// The snapshot that a node took in is durable and ends at `index`.
    pub fn installed(&mut self, node: Place, index: u64) {
        if let Some(Some(cut)) = self.installing.get(&node)
            && *cut > index
        {
            let detail =
                format!("node {node} cut off the committed entry {cut} for a snapshot up to {index}");
            self.violate("truncated_committed", detail);
        }
    }

    /// A node is done with taking in a snapshot, or gave up.
    pub fn ends_install(&mut self, node: Place) {
        self.installing.remove(&node);
    }

    /// Entries that some replica applied are committed: nobody who has them may cut them off. But for a snapshot that
    /// covers them: where its last entry contradicts the log, openraft drops all that it doesn't know as committed,
    /// some of it perhaps committed, while it installs. That is safe even if the installation is cut short: those who
    /// committed the snapshot's last entry, a majority without this replica, have everything before it.
    fn truncating(
        &mut self,
        node: Place,
        device: &dyn LogDevice,
        log: LogKey,
        from: u64,
        durable: Option<u64>,
    ) {
        let Ok(records) = device.read(log, from..self.applied.len() as u64, usize::MAX) else {
            return;
        };
        for record in records {
            let at = record.position;
            let covered = durable.is_some_and(|durable| at.index <= durable);
            let applied = self.applied.get(at.index as usize);
            if !covered && applied.is_some_and(|applied| applied.term == at.term) {
                if let Some(cut) = self.installing.get_mut(&node) {
                    *cut = (*cut).max(Some(at.index));
                    continue;
                }
                let detail = format!("node {node} cuts off the committed entry {at}");
                return self.violate("truncated_committed", detail);
            }
        }
    }

    /// Up to where a linearizable read that begins now has to see.
    pub fn floor(&self) -> Option<u64> {
        self.floor
    }

    /// A client was told that its command is committed at a position; `samples` are those it carried.
    pub fn acknowledged(
        &mut self,
        at: LogPosition,
        command: &[u8],
        outcome: &[Expected],
        samples: impl IntoIterator<Item = (Series, i64, u64)>,
    ) {
        self.acked_requests += 1;
        let Some(entry) = self.applied.get(at.index as usize) else {
            let detail = format!("{at} was acknowledged before anybody applied it");
            return self.violate("lost", detail);
        };
        if entry.term != at.term || entry.kind != Kind::Command(xxh3_64(command)) {
            let detail = format!(
                "{at} was acknowledged, but another entry is there, of term {}",
                entry.term
            );
            return self.violate("lost", detail);
        }
        if entry.outcome != outcome {
            let detail = format!(
                "the reply to {at} was {outcome:?}, applied was {:?}",
                entry.outcome
            );
            return self.violate("wrong_outcome", detail);
        }
        self.floor = self.floor.max(Some(at.index));
        // Only a request that was stored as a whole tells which of its samples are.
        if outcome.iter().all(Expected::is_stored) {
            for (series, t, bits) in samples {
                self.acked_samples += 1;
                let sent = self.sent.entry((series, t)).or_default();
                let first = *sent.acked.get_or_insert(bits);
                if first != bits {
                    let detail =
                        format!("series {series} at {t}: {first:#x} and {bits:#x} were both acknowledged");
                    return self.violate("repeated", detail);
                }
            }
        }
    }

    /// A read's answer: what a replica returned, having applied up to `index`.
    pub fn read(&mut self, what: &str, index: Option<u64>, got: &Samples, expected: &Samples) {
        self.reads += 1;
        if got == expected {
            return;
        }
        let checker = self.tell_apart(got, expected);
        let first = expected
            .keys()
            .chain(got.keys())
            .find(|s| got.get(s) != expected.get(s));
        let detail = match first {
            Some(series) => format!(
                "{what} after index {index:?}: series {series} is {:?}, expected {:?}",
                brief(got.get(series)),
                brief(expected.get(series))
            ),
            None => what.to_owned(),
        };
        self.violate(checker, detail);
    }

    fn tell_apart(&self, got: &Samples, expected: &Samples) -> &'static str {
        for (series, samples) in got {
            let there: BTreeMap<i64, u64> = expected.get(series).into_iter().flatten().copied().collect();
            for (at, (t, bits)) in samples.iter().enumerate() {
                if at > 0 && samples[at - 1].0 >= *t {
                    return "repeated";
                }
                match there.get(t) {
                    None => return "invented",
                    Some(expected) if expected != bits => return "altered",
                    Some(_) => {}
                }
            }
        }
        "lost"
    }

    /// Everything acknowledged must be in a full scan, everything in it must have been sent.
    pub fn scanned(&mut self, what: &str, all: &Samples) {
        let cut_ms = self.model.cut_ms();
        for ((series, t), sent) in &self.sent {
            let Some(acked) = sent.acked.filter(|_| *t >= cut_ms) else {
                continue;
            };
            let found = all
                .get(series)
                .and_then(|samples| samples.iter().find(|(at, _)| at == t));
            let (checker, detail) = match found {
                None => (
                    "lost",
                    format!("{what}: series {series} at {t} was acknowledged and is gone"),
                ),
                Some((_, bits)) if *bits != acked => (
                    "altered",
                    format!("{what}: series {series} at {t} is {bits:#x}, acknowledged was {acked:#x}"),
                ),
                Some(_) => continue,
            };
            return self.violate(checker, detail);
        }
        for (series, samples) in all {
            for (t, bits) in samples {
                let tried = self
                    .sent
                    .get(&(*series, *t))
                    .is_some_and(|s| s.tried.contains(bits));
                if !tried {
                    let detail = format!("{what}: series {series} at {t} is {bits:#x}, which nobody sent");
                    return self.violate("invented", detail);
                }
            }
        }
    }

    /// How many entries were applied.
    pub fn applied_len(&self) -> u64 {
        self.applied.len() as u64
    }
}

fn brief(samples: Option<&Vec<(i64, u64)>>) -> String {
    match samples {
        None => "absent".into(),
        Some(samples) if samples.len() > 6 => {
            format!(
                "{} samples from {:?} to {:?}",
                samples.len(),
                samples[0],
                samples[samples.len() - 1]
            )
        }
        Some(samples) => format!("{samples:?}"),
    }
}

/// Term, candidate, and the flag behind the vote of a vote's message: in an answer, whether it was granted.
/// See `docs/FORMATS.md`: a version byte, then in postcard the term, the candidate, a flag.
fn vote_message(bytes: &[u8]) -> Option<(u64, u64, bool)> {
    let (version, mut rest) = bytes.split_first()?;
    let mut varint = || -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, after) = rest.split_first()?;
            rest = after;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    };
    let (term, candidate) = (varint()?, varint()?);
    let flag = *rest.get(1)?;
    (*version == 1).then_some((term, candidate, flag == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vote_messages_are_read() {
        // version, term 300, candidate 101, not committed, granted, no log
        let bytes = [1, 0xac, 0x02, 101, 0, 1, 0];
        assert_eq!(vote_message(&bytes), Some((300, 101, true)));
        assert_eq!(vote_message(&bytes[..3]), None);
    }
}
