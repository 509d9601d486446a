//! Histories for tests, line by line.

use crate::history::{
    Action, Answer, Counts, FaultKind, Form, Level, Matcher, Operation, Pattern, Phase, Question, Read,
    Receipt, SeriesPoints, ShardRead, Stage,
};
use crate::values::Batch;

/// A history in the making. Unless said otherwise each line is a millisecond after the last.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) operations: Vec<Operation>,
    pub(super) now_us: u64,
}

impl Script {
    pub(super) fn add(&mut self, stage: Stage, action: Action) {
        self.now_us += 1_000;
        let (index, time_us) = (self.operations.len() as u64, self.now_us);
        self.operations.push(Operation {
            index,
            time_us,
            stage,
            action,
        });
    }

    fn write(&mut self, stage: Stage, batch: Batch, receipts: Vec<Receipt>, counts: Option<Counts>) {
        let error = None;
        self.add(
            stage,
            Action::Write {
                batch,
                receipts,
                counts,
                error,
            },
        );
    }

    pub(super) fn sent(&mut self, batch: Batch) {
        self.write(Stage::Invoke, batch, Vec::new(), None);
    }

    pub(super) fn acked(&mut self, batch: Batch) {
        self.sent(batch);
        self.write(Stage::Ok, batch, Vec::new(), None);
    }

    pub(super) fn unknown(&mut self, batch: Batch) {
        self.sent(batch);
        self.write(Stage::Info, batch, Vec::new(), None);
    }

    pub(super) fn refused(&mut self, batch: Batch) {
        self.sent(batch);
        self.write(Stage::Fail, batch, Vec::new(), None);
    }

    /// An answer without a request of its own.
    pub(super) fn answered(&mut self, batch: Batch, receipts: Vec<Receipt>, counts: Counts) {
        self.write(Stage::Ok, batch, receipts, Some(counts));
    }

    /// Acknowledged, all newly stored, at these places: shard, term, index.
    pub(super) fn committed(&mut self, batch: Batch, places: &[(u32, u64, u64)]) {
        self.sent(batch);
        let receipts = places.iter().map(|place| receipt(*place)).collect();
        let stored = u64::from(batch.series);
        self.answered(batch, receipts, counts(stored, 0));
    }

    /// A read that began now and is answered after `answer_us` more.
    pub(super) fn read(&mut self, read: Read) {
        let began_us = self.now_us + 1;
        self.add(Stage::Ok, Action::Read(Box::new(Read { began_us, ..read })));
    }

    pub(super) fn fault(&mut self, id: u64, kind: FaultKind, phase: Phase, victims: &[u64]) {
        let (victims, detail, orphaned) = (victims.to_vec(), String::new(), Vec::new());
        self.add(
            Stage::Info,
            Action::Fault {
                id,
                kind,
                phase,
                victims,
                detail,
                orphaned,
            },
        );
    }
}

pub(super) fn receipt((shard, term, index): (u32, u64, u64)) -> Receipt {
    Receipt {
        shard,
        epoch: 1,
        term,
        index,
        samples: 1,
    }
}

pub(super) fn counts(stored: u64, duplicate: u64) -> Counts {
    Counts {
        stored,
        duplicate,
        refused: Vec::new(),
    }
}

/// A raw read of one writer at node 1 by session 1.
pub(super) fn read_of(writer: u32, level: Level, form: Form) -> Read {
    Read {
        session: 1,
        node: 1,
        level,
        began_us: 0,
        question: Question {
            form,
            matchers: vec![Matcher {
                label: "instance".into(),
                negated: false,
                pattern: Pattern::Is(format!("writer-{writer}")),
            }],
            after_ms: 0,
            until_ms: 1_000_000,
        },
        answer: Some(Answer::default()),
        shards: Vec::new(),
        error: None,
    }
}

/// A shard's replica on node 1.
pub(super) fn shard(shard: u32, before: u64, after: u64) -> ShardRead {
    ShardRead {
        shard,
        node: 1,
        before,
        after,
        staleness_ms: None,
    }
}

/// An answer that has exactly these batches.
pub(super) fn answer_of(batches: &[Batch]) -> Answer {
    let mut series: Vec<SeriesPoints> = Vec::new();
    let mut entries: Vec<_> = batches.iter().flat_map(|batch| batch.entries()).collect();
    entries.sort_unstable();
    for same in entries.chunk_by(|left, right| left.series == right.series) {
        series.push(SeriesPoints {
            writer: same[0].series.writer,
            number: same[0].series.number,
            points: same
                .iter()
                .map(|entry| (entry.timestamp_ms, entry.bits))
                .collect(),
        });
    }
    Answer {
        series,
        ..Answer::default()
    }
}
