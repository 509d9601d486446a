//! What was done to the cluster and what it answered, one operation a line, in Jepsen's shape.

use std::io::{BufRead, Write};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::values::Batch;

mod fault;
mod file;
mod found;
mod outcomes;
mod read;
mod recorder;
mod zstd;

pub use fault::{FaultKind, Phase};
pub use file::{Recorded, read_file};
pub use found::{Found, Group, GroupSum, Sorter};
pub use outcomes::{BatchOutcome, Commit, Outcomes, State, WriterOutcomes};
pub use read::{
    Answer, BOUND_US, Form, Level, Matcher, Pattern, Question, Read, STEPS, SeriesPoints, ShardRead,
};
pub use recorder::Recorder;

/// A line of the history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Position in the history.
    pub index: u64,
    /// Since the history's start.
    pub time_us: u64,
    /// What happened to the operation.
    #[serde(rename = "type")]
    pub stage: Stage,
    /// The operation.
    #[serde(flatten)]
    pub action: Action,
}

/// How far an operation came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It is about to be sent.
    Invoke,
    /// It was acknowledged.
    Ok,
    /// It was refused for good, and nothing of it may be stored.
    Fail,
    /// What became of it is not known: a timeout, a 5xx, a lost connection.
    Info,
}

/// An operation of a client or of the tormentor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "f", rename_all = "snake_case")]
pub enum Action {
    /// A write of one batch. A batch may be sent several times.
    Write {
        /// What was written.
        batch: Batch,
        /// Where it was committed, if the protocol tells.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        receipts: Vec<Receipt>,
        /// What the server says that it did with the samples, if the protocol tells.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        counts: Option<Counts>,
        /// Why it was not acknowledged.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// A query for the newest sample of each probe; recorded when it ended.
    Query {
        /// The node asked.
        node: u64,
        /// The level asked for.
        level: Level,
        /// When it was sent, since the history's start.
        began_us: u64,
        /// Each probe's writer with the newest batch number seen of it.
        #[serde(default)]
        newest: Vec<(u32, u64)>,
        /// Why there is no answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// A question to the model's answer; recorded when it ended.
    Read(Box<Read>),
    /// What a run set out to do. A run in which a wished fault never happened proves nothing.
    Plan {
        /// What everything random in the run comes from.
        seed: u64,
        /// Kinds of faults that must happen.
        wished: Vec<FaultKind>,
    },
    /// A fault; written to disk before it is injected, and after it is healed.
    Fault {
        /// The same at its begin and its end.
        id: u64,
        /// Which.
        kind: FaultKind,
        /// Begin or end.
        phase: Phase,
        /// Nodes that it hits.
        victims: Vec<u64>,
        /// For people.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        detail: String,
        /// Shards that lose their leader by it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        orphaned: Vec<Orphan>,
    },
    /// Who leads, looked at about once a second.
    Leaders {
        /// Shard, the node that leads it if any is known, and the term.
        leaders: Vec<(u32, Option<u64>, u64)>,
    },
    /// A process of a node ended, and no fault did it.
    Crash {
        /// Which node.
        node: u64,
        /// How, with the end of its log.
        detail: String,
    },
    /// What a node says of its replicas after healing, once all have applied the same.
    Checksums {
        /// The node.
        node: u64,
        /// Each data shard that it holds.
        groups: Vec<GroupSum>,
    },
    /// What a node holds of a writer after healing.
    Found(Box<Found>),
    /// Series that a node holds and no writer wrote.
    Strangers {
        /// The node.
        node: u64,
        /// Their labels.
        series: Vec<String>,
    },
    /// SIGKILL of a node; recorded just before.
    Kill {
        /// The victim.
        node: u64,
        /// Shards that it led.
        orphaned: Vec<Orphan>,
    },
    /// A killed node was started again.
    Restart {
        /// Which one.
        node: u64,
    },
}

/// Where a part of a batch was committed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The shard.
    pub shard: u32,
    /// Ring epoch that placed it there.
    #[serde(default)]
    pub epoch: u64,
    /// Raft term of the log entry.
    pub term: u64,
    /// Raft index of the log entry.
    pub index: u64,
    /// How many samples.
    #[serde(default)]
    pub samples: u64,
}

/// What became of the samples of one attempt that was answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Newly stored.
    pub stored: u64,
    /// There already, with the same bits.
    #[serde(default)]
    pub duplicate: u64,
    /// Refused for good: reasons with numbers of samples.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<(String, u64)>,
}

/// A shard that lost its leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphan {
    /// The shard.
    pub shard: u32,
    /// The term of the leader it lost.
    pub term: u64,
}

/// Writes a history, a JSON object a line.
pub fn write_lines(history: &[Operation], mut out: impl Write) -> Result<()> {
    for operation in history {
        serde_json::to_writer(&mut out, operation)?;
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

/// Reads a history that [`write_lines`] wrote.
pub fn read_lines(lines: impl BufRead) -> Result<Vec<Operation>> {
    let parse = |(number, line): (usize, std::io::Result<String>)| {
        serde_json::from_str(&line?).with_context(|| format!("line {}", number + 1))
    };
    lines.lines().enumerate().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(number: u64) -> Batch {
        Batch {
            writer: 1,
            number,
            series: 2,
            timestamp_ms: 1_000 + number as i64,
        }
    }

    fn write(number: u64) -> Action {
        Action::Write {
            batch: batch(number),
            receipts: Vec::new(),
            counts: None,
            error: None,
        }
    }

    fn a_read() -> Read {
        let series = SeriesPoints {
            writer: 4,
            number: 2,
            points: vec![(12, u64::MAX), (13, 0x7ff0_0000_0000_0002)],
        };
        let shard = ShardRead {
            shard: 3,
            node: 1,
            before: 17,
            after: 18,
            staleness_ms: Some(0),
        };
        Read {
            session: 1,
            node: 2,
            level: Level::Local,
            began_us: 5,
            question: Question {
                form: Form::Samples,
                matchers: vec![Matcher {
                    label: "job".into(),
                    negated: true,
                    pattern: Pattern::Prefix("lo".into()),
                }],
                after_ms: -1,
                until_ms: 20,
            },
            answer: Some(Answer {
                series: vec![series],
                strangers: Vec::new(),
                number: Some(0.1),
            }),
            shards: vec![shard],
            error: None,
        }
    }

    #[test]
    fn lines_are_jepsen_shaped_and_round_trip() {
        let recorder = Recorder::default();
        recorder.record(Stage::Invoke, write(4));
        let receipts = vec![Receipt {
            shard: 3,
            epoch: 1,
            term: 2,
            index: u64::MAX,
            samples: 1,
        }];
        recorder.record(
            Stage::Ok,
            Action::Write {
                batch: batch(4),
                receipts,
                counts: None,
                error: None,
            },
        );
        let newest = vec![(1_000, 17)];
        let level = Level::Linearizable;
        recorder.record(
            Stage::Ok,
            Action::Query {
                node: 1,
                level,
                began_us: 9,
                newest,
                error: None,
            },
        );
        recorder.record(
            Stage::Info,
            Action::Kill {
                node: 2,
                orphaned: vec![Orphan { shard: 1, term: 5 }],
            },
        );
        recorder.record(Stage::Info, Action::Restart { node: 2 });
        let (id, kind, detail) = (7, FaultKind::PowerCutAll, "all at once".to_owned());
        for phase in [Phase::Begin, Phase::End] {
            let (victims, orphaned, detail) = (vec![1, 2, 3], Vec::new(), detail.clone());
            let fault = Action::Fault {
                id,
                kind,
                phase,
                victims,
                detail,
                orphaned,
            };
            recorder.record(Stage::Info, fault);
        }
        let leaders = vec![(1, Some(3), 9), (2, None, 4)];
        recorder.record(Stage::Info, Action::Leaders { leaders });
        recorder.record(Stage::Ok, Action::Read(Box::new(a_read())));
        let mut text = Vec::new();
        write_lines(&recorder.operations(), &mut text).unwrap();
        let first: serde_json::Value =
            serde_json::from_slice(text.split(|byte| *byte == b'\n').next().unwrap()).unwrap();
        assert_eq!(
            (
                first["type"].as_str(),
                first["f"].as_str(),
                first["index"].as_u64()
            ),
            (Some("invoke"), Some("write"), Some(0))
        );
        assert_eq!(read_lines(text.as_slice()).unwrap(), recorder.operations());
    }
}
