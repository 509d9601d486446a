//! Sends imported samples through the client's write stream, a bounded number of messages at a time.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use anyhow::Context as _;
use quorate_client::{Client, PendingWrite, Series, WriteResult, WriteStream};

/// Samples in one message.
const MESSAGE_SAMPLES: usize = 10_000;
/// Messages without an answer.
const IN_FLIGHT: usize = 8;

/// What became of what was sent.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) stored: u64,
    pub(super) duplicates: u64,
    /// By reason: how many, and the first.
    pub(super) refused: BTreeMap<String, (u64, String)>,
}

impl Totals {
    /// Samples that have been answered.
    pub(super) fn answered(&self) -> u64 {
        let refused: u64 = self.refused.values().map(|(samples, _)| samples).sum();
        self.stored + self.duplicates + refused
    }

    fn add(&mut self, result: WriteResult) {
        self.stored += result.samples_stored;
        self.duplicates += result.samples_duplicate;
        for refused in result.rejections {
            let known = self.refused.entry(refused.reason);
            known.or_insert((0, refused.first)).0 += refused.samples;
        }
    }
}

/// Messages of a stream may be applied in any order, and a series takes samples in order of time alone.
/// So no two messages that hold the same series are ever under way at once.
pub(super) struct Sender {
    stream: WriteStream,
    message: Vec<Series>,
    samples: usize,
    /// The series in `message`, by hash.
    gathered: HashSet<u64>,
    waiting: VecDeque<(PendingWrite, HashSet<u64>)>,
    pub(super) totals: Totals,
}

impl Sender {
    pub(super) fn new(client: &Client) -> Sender {
        Sender {
            stream: client.write_stream(IN_FLIGHT),
            message: Vec::new(),
            samples: 0,
            gathered: HashSet::new(),
            waiting: VecDeque::new(),
            totals: Totals::default(),
        }
    }

    /// Adds samples of a series, in time order and later than those added before.
    pub(super) async fn add(
        &mut self,
        labels: &[(String, String)],
        samples: &[(i64, u64)],
    ) -> anyhow::Result<()> {
        let mut hasher = DefaultHasher::new();
        labels.hash(&mut hasher);
        let key = hasher.finish();
        let mut rest = samples;
        while !rest.is_empty() {
            if self.waiting.iter().any(|(_, sent)| sent.contains(&key)) {
                self.answered_all().await?;
            }
            let room = MESSAGE_SAMPLES.saturating_sub(self.samples).max(1);
            let (now, later) = rest.split_at(room.min(rest.len()));
            let mut series = Series::from_labels(labels.iter().cloned());
            for (timestamp_ms, bits) in now {
                series.push(*timestamp_ms, f64::from_bits(*bits));
            }
            self.message.push(series);
            self.samples += now.len();
            self.gathered.insert(key);
            if self.samples >= MESSAGE_SAMPLES {
                self.send().await?;
            }
            rest = later;
        }
        Ok(())
    }

    async fn send(&mut self) -> anyhow::Result<()> {
        if self.message.is_empty() {
            return Ok(());
        }
        while self.waiting.len() >= IN_FLIGHT {
            self.answered_one().await?;
        }
        self.samples = 0;
        let pending = self.stream.send(std::mem::take(&mut self.message)).await?;
        self.waiting
            .push_back((pending, std::mem::take(&mut self.gathered)));
        Ok(())
    }

    async fn answered_one(&mut self) -> anyhow::Result<()> {
        if let Some((pending, _)) = self.waiting.pop_front() {
            let result = pending.await.context("the cluster did not take the samples")?;
            self.totals.add(result);
        }
        Ok(())
    }

    async fn answered_all(&mut self) -> anyhow::Result<()> {
        while !self.waiting.is_empty() {
            self.answered_one().await?;
        }
        Ok(())
    }

    /// Sends what is gathered and waits until everything is answered.
    pub(super) async fn drain(&mut self) -> anyhow::Result<()> {
        self.send().await?;
        self.answered_all().await
    }
}
