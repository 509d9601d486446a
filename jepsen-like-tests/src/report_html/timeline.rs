//! What the page draws, computed from a history: throughput and latency a bucket of time, the windows of faults,
//! and who led which shard when.

use std::collections::{BTreeMap, HashMap};

use crate::history::{Action, FaultKind, Operation, Phase, Stage};
use crate::report::quantile;
use crate::values::Batch;

/// More buckets than this are wider than a second: a long run is no larger a page than a short one.
const MAX_BUCKETS: u64 = 600;
/// Who led is sampled about once a second. A silence longer than this is drawn as not known.
const MAX_SILENCE_S: f64 = 5.0;

/// A run over time, in seconds since the history's start.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Timeline {
    pub(crate) end_s: f64,
    pub(crate) bucket_s: f64,
    pub(crate) buckets: Vec<Bucket>,
    pub(crate) faults: Vec<FaultWindow>,
    /// Of each shard, in order of time.
    pub(crate) leaders: BTreeMap<u32, Vec<Reign>>,
}

/// What was acknowledged in a piece of time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Bucket {
    pub(crate) samples_per_s: f64,
    /// From the first attempt to the first acknowledgement. None if nothing was acknowledged.
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
}

/// A fault from its injection to its healing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FaultWindow {
    pub(crate) id: u64,
    pub(crate) kind: FaultKind,
    pub(crate) from_s: f64,
    /// None if it was never healed.
    pub(crate) to_s: Option<f64>,
    pub(crate) victims: Vec<u64>,
    pub(crate) detail: String,
}

/// A stretch of time in which a shard had the same leader, or none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reign {
    pub(crate) from_s: f64,
    pub(crate) to_s: f64,
    pub(crate) node: Option<u64>,
    pub(crate) term: u64,
}

impl Timeline {
    pub(crate) fn of(history: &[Operation]) -> Timeline {
        let end_s = history.iter().map(seconds).fold(0.0, f64::max);
        let bucket_s = (end_s / MAX_BUCKETS as f64).ceil().max(1.0);
        Timeline {
            end_s,
            bucket_s,
            buckets: buckets(history, end_s, bucket_s),
            faults: faults(history),
            leaders: leaders(history),
        }
    }
}

fn seconds(operation: &Operation) -> f64 {
    operation.time_us as f64 / 1e6
}

fn buckets(history: &[Operation], end_s: f64, bucket_s: f64) -> Vec<Bucket> {
    let count = (end_s / bucket_s).floor() as usize + 1;
    let mut acked = vec![(0_u64, Vec::new()); count];
    // Of batches without an acknowledgement so far: when they were first sent.
    let mut waiting: HashMap<Batch, u64> = HashMap::new();
    let mut done: HashMap<u32, Done> = HashMap::new();
    for operation in history {
        let Action::Write { batch, .. } = &operation.action else {
            continue;
        };
        match operation.stage {
            Stage::Invoke => {
                waiting.entry(*batch).or_insert(operation.time_us);
            }
            Stage::Ok => {
                // A batch that is acknowledged again, because it was sent to several nodes, counts once.
                if !done.entry(batch.writer).or_default().insert(batch.number) {
                    continue;
                }
                let at = (seconds(operation) / bucket_s) as usize;
                let Some((samples, latencies_ms)) = acked.get_mut(at) else {
                    continue;
                };
                *samples += u64::from(batch.series);
                if let Some(sent_us) = waiting.remove(batch) {
                    latencies_ms.push(operation.time_us.saturating_sub(sent_us) as f64 / 1e3);
                }
            }
            Stage::Fail | Stage::Info => {}
        }
    }
    let bucket = |(samples, mut latencies_ms): (u64, Vec<f64>)| {
        latencies_ms.sort_by(f64::total_cmp);
        Bucket {
            samples_per_s: samples as f64 / bucket_s,
            p50_ms: quantile(&latencies_ms, 0.5),
            p99_ms: quantile(&latencies_ms, 0.99),
        }
    };
    acked.into_iter().map(bucket).collect()
}

/// Batch numbers of one writer that were acknowledged.
type Done = std::collections::HashSet<u64>;

fn faults(history: &[Operation]) -> Vec<FaultWindow> {
    let mut windows: Vec<FaultWindow> = Vec::new();
    let mut open: HashMap<u64, usize> = HashMap::new();
    for operation in history {
        let Action::Fault {
            id,
            kind,
            phase,
            victims,
            detail,
            ..
        } = &operation.action
        else {
            continue;
        };
        match phase {
            Phase::Begin => {
                open.insert(*id, windows.len());
                windows.push(FaultWindow {
                    id: *id,
                    kind: *kind,
                    from_s: seconds(operation),
                    to_s: None,
                    victims: victims.clone(),
                    detail: detail.clone(),
                });
            }
            Phase::End => {
                let window = open.remove(id).and_then(|at| windows.get_mut(at));
                if let Some(window) = window {
                    window.to_s = Some(seconds(operation));
                }
            }
        }
    }
    windows
}

fn leaders(history: &[Operation]) -> BTreeMap<u32, Vec<Reign>> {
    let mut shards: BTreeMap<u32, Vec<Reign>> = BTreeMap::new();
    for operation in history {
        let Action::Leaders { leaders } = &operation.action else {
            continue;
        };
        let now_s = seconds(operation);
        for (shard, node, term) in leaders {
            let reigns = shards.entry(*shard).or_default();
            if let Some(last) = reigns.last_mut()
                && now_s - last.to_s <= MAX_SILENCE_S
            {
                last.to_s = now_s;
                if (last.node, last.term) == (*node, *term) {
                    continue;
                }
            }
            reigns.push(Reign {
                from_s: now_s,
                to_s: now_s,
                node: *node,
                term: *term,
            });
        }
    }
    shards
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::{Value, json};

    /// A history of these lines, at milliseconds.
    fn history(lines: Vec<(u64, &str, Value)>) -> Vec<Operation> {
        let operation = |(index, (ms, stage, mut action)): (usize, (u64, &str, Value))| {
            action["index"] = index.into();
            action["time_us"] = (ms * 1_000).into();
            action["type"] = stage.into();
            serde_json::from_value(action).unwrap()
        };
        lines.into_iter().enumerate().map(operation).collect()
    }

    fn write(number: u64) -> Value {
        json!({"f": "write", "batch": {"writer": 1, "number": number, "series": 100, "timestamp_ms": number}})
    }

    fn fault(id: u64, phase: &str) -> Value {
        json!({"f": "fault", "id": id, "kind": "pause", "phase": phase, "victims": [2], "detail": "two seconds"})
    }

    #[test]
    fn a_batch_counts_once_and_from_its_first_attempt() {
        let timeline = Timeline::of(&history(vec![
            (100, "invoke", write(1)),
            (200, "invoke", write(2)),
            (210, "ok", write(2)),
            (300, "info", write(1)),
            (301, "invoke", write(1)),
            (900, "ok", write(1)),
            (950, "ok", write(1)),
            (2_500, "invoke", write(3)),
        ]));
        assert_eq!((timeline.bucket_s, timeline.buckets.len()), (1.0, 3));
        let first = Bucket {
            samples_per_s: 200.0,
            p50_ms: Some(10.0),
            p99_ms: Some(800.0),
        };
        assert_eq!(timeline.buckets, [first, Bucket::default(), Bucket::default()]);
    }

    #[test]
    fn a_long_run_has_wider_buckets() {
        let hours = 2 * 3_600 * 1_000;
        let timeline = Timeline::of(&history(vec![(0, "invoke", write(1)), (hours, "ok", write(1))]));
        assert_eq!(timeline.bucket_s, 12.0);
        assert!(timeline.buckets.len() as u64 <= MAX_BUCKETS + 1);
        assert_eq!(timeline.buckets.last().unwrap().samples_per_s, 100.0 / 12.0);
    }

    #[test]
    fn faults_last_until_they_are_healed() {
        let timeline = Timeline::of(&history(vec![
            (1_000, "info", fault(7, "begin")),
            (2_000, "info", fault(8, "begin")),
            (3_000, "info", fault(7, "end")),
        ]));
        let windows: Vec<_> = timeline
            .faults
            .iter()
            .map(|window| (window.id, window.from_s, window.to_s))
            .collect();
        assert_eq!(windows, [(7, 1.0, Some(3.0)), (8, 2.0, None)]);
    }

    #[test]
    fn reigns_change_with_node_or_term_and_silence_is_not_known() {
        let leaders = |ms: u64, node: Option<u64>, term: u64| {
            let leaders = json!([[1, node, term]]);
            (ms, "info", json!({"f": "leaders", "leaders": leaders}))
        };
        let timeline = Timeline::of(&history(vec![
            leaders(0, Some(1), 1),
            leaders(1_000, Some(1), 1),
            leaders(2_000, None, 2),
            leaders(3_000, Some(2), 2),
            leaders(20_000, Some(2), 2),
        ]));
        let reigns: Vec<_> = timeline.leaders[&1]
            .iter()
            .map(|reign| (reign.from_s, reign.to_s, reign.node))
            .collect();
        assert_eq!(
            reigns,
            [
                (0.0, 2.0, Some(1)),
                (2.0, 3.0, None),
                (3.0, 3.0, Some(2)),
                (20.0, 20.0, Some(2))
            ]
        );
    }
}
