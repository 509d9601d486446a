//! Clients: they write samples in order and late, try to overwrite, send the same batch again and to several
//! nodes, make new series, and read.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use quorate_raft_log::AsyncRuntime;
use quorate_storage::PartBuilder;
use quorate_storage::entry::{STALE_NAN_BITS, UNREGISTERED};
use tokio::sync::oneshot;

use crate::machine::decode_outcome;
use crate::model::{Expected, Named, Part, Series};
use crate::network::{CLIENTS, Place};
use crate::node::{self, Query, Running, Write, WriteAnswer};
use crate::plan::Client;
use crate::random::Random;
use crate::runtime::NodeRuntime as R;
use crate::series::{MAX_SERIES, TENANTS, labels};
use crate::world::{BASE_MS, World};

/// How long a node may take over a request.
const NODE_LIMIT: Duration = Duration::from_millis(1_000);
/// How long a client waits for an answer.
const CALL_LIMIT: Duration = Duration::from_millis(1_300);
/// How long a client tries.
const TRY_LIMIT: Duration = Duration::from_secs(6);
/// How long a healed node may take until it answers a linearizable read.
const SERVE_LIMIT: Duration = Duration::from_secs(10);
/// Batches that may be sent again later.
const REMEMBERED: usize = 20;

/// A batch of samples, as it was or will be sent.
#[derive(Clone)]
struct Batch {
    parts: Vec<Part>,
}

/// Where the timestamps of a part lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Times {
    /// Behind all before.
    InOrder,
    /// A little in the past.
    Late,
    /// Far in the past, in the future, and where others write too.
    Anywhere,
    /// Where samples are stored already.
    Taken,
}

impl Batch {
    /// Series, timestamp and bits of every sample that names its series by labels or a known id.
    fn samples(&self, ids: &BTreeMap<u64, Series>) -> Vec<(Series, i64, u64)> {
        let mut all = Vec::new();
        for part in &self.parts {
            for (named, t, bits) in &part.samples {
                let series = match named {
                    Named::Labels(ordinal) => Some(part.series[*ordinal]),
                    Named::Id(id) => ids.get(id).copied(),
                };
                if let Some(series) = series {
                    all.push((series, *t, *bits));
                }
            }
        }
        all
    }
}

/// A client at work.
pub struct Worker {
    world: Arc<World>,
    client: Client,
    random: Random,
    /// Ids that outcomes gave, both ways.
    ids: BTreeMap<Series, u64>,
    by_id: BTreeMap<u64, Series>,
    sent: VecDeque<Batch>,
    /// Samples that were acknowledged.
    acked: Vec<(Series, i64)>,
    new_series: u32,
    newest_ms: i64,
    requests: u64,
    target: Place,
    /// How long it waits for an answer.
    patience: Duration,
}

impl Worker {
    /// A client that has done nothing yet.
    pub fn new(world: Arc<World>, client: Client) -> Self {
        let random = Random::new(world.plan.seed).fork("client", client.number);
        Self {
            world,
            client,
            random,
            ids: BTreeMap::new(),
            by_id: BTreeMap::new(),
            sent: VecDeque::new(),
            acked: Vec::new(),
            new_series: 0,
            newest_ms: i64::MIN,
            requests: 0,
            target: 1,
            patience: CALL_LIMIT,
        }
    }

    /// Works until then.
    pub async fn work(mut self, until: Duration) {
        while R::now() < until {
            let pause = self.random.between(1, self.client.pause.as_millis() as u64);
            R::sleep(Duration::from_millis(pause)).await;
            if self.random.permille(700) {
                if self.world.writes_are_held() {
                    continue;
                }
                let batch = self.batch();
                self.write(batch).await;
            } else {
                let node = self.random.between(1, self.world.plan.nodes);
                self.read(node).await;
            }
        }
    }

    /// Asks again soon when no answer comes.
    pub fn impatient(mut self) -> Self {
        self.patience = Duration::from_millis(120);
        self
    }

    /// Writes at this node and no other, until then.
    pub async fn write_at(mut self, node: Place, until: Duration) {
        while R::now() < until {
            self.target = node;
            R::sleep(self.client.pause).await;
            let batch = self.batch();
            // One try: whoever isn't the leader yet may be it the next time.
            let once = R::now() + Duration::from_nanos(1);
            self.write_until(batch, once).await;
        }
    }

    /// Reads at this node, until then, always linearizable.
    pub async fn read_at(mut self, node: Place, until: Duration) {
        while R::now() < until {
            R::sleep(self.client.pause).await;
            let query = Query {
                linearizable: true,
                ..self.query()
            };
            self.query_node(node, query).await;
        }
    }

    /// Writes and reads after all faults; says whether both were answered.
    pub async fn is_served(mut self) -> bool {
        let batch = self.batch();
        let mut served = self.write(batch).await;
        for node in self.world.nodes() {
            let query = Query {
                linearizable: true,
                ..self.query()
            };
            // A node that just caught up by a snapshot gets what follows after a pause of the leader's.
            let until = R::now() + SERVE_LIMIT;
            let mut answered = false;
            while !answered && R::now() < until {
                answered = self.query_node(node, query.clone()).await;
            }
            served &= answered;
        }
        served
    }

    fn batch(&mut self) -> Batch {
        if !self.sent.is_empty() && self.random.permille(120) {
            let again = self.random.below(self.sent.len() as u64) as usize;
            return self.sent[again].clone();
        }
        let count = if self.random.permille(200) { 2 } else { 1 };
        let parts = (0..count).map(|_| self.part()).collect();
        Batch { parts }
    }

    fn part(&mut self) -> Part {
        let tenant = self.random.below(TENANTS.len() as u64) as usize;
        let mut part = Part {
            tenant,
            series: Vec::new(),
            samples: Vec::new(),
        };
        let kind = match self.random.below(100) {
            0..70 => Times::InOrder,
            70..85 => Times::Late,
            85..92 => Times::Anywhere,
            _ if self.acked.is_empty() => Times::InOrder,
            _ => Times::Taken,
        };
        for _ in 0..self.random.between(1, 8) {
            let bits = self.bits();
            if kind == Times::Taken {
                let (series, t) = *self.random.pick(&self.acked);
                if series as usize % TENANTS.len() == tenant {
                    self.add(&mut part, series, t, bits);
                }
                continue;
            }
            let series = self.series(tenant);
            for _ in 0..self.random.between(1, 4) {
                let (t, bits) = (self.time(kind), self.bits());
                self.add(&mut part, series, t, bits);
            }
        }
        part
    }

    fn add(&mut self, part: &mut Part, series: Series, t: i64, bits: u64) {
        let by_id = self
            .ids
            .get(&series)
            .copied()
            .filter(|_| self.random.permille(600));
        let named = match by_id {
            Some(id) => Named::Id(id),
            None => {
                let there = part.series.iter().position(|s| *s == series);
                Named::Labels(there.unwrap_or_else(|| {
                    part.series.push(series);
                    part.series.len() - 1
                }))
            }
        };
        part.samples.push((named, t, bits));
    }

    /// A series of the tenant: an old one, or now and then a new one.
    fn series(&mut self, tenant: usize) -> Series {
        let tenants = TENANTS.len() as u32;
        let number = if self.random.permille(60) {
            // Clients share none of their new series at first, but read and retry each other's.
            self.new_series += 1;
            let first = 100 + self.client.number as u32 % 4 * 900;
            first + self.new_series % 900
        } else {
            self.random.below(u64::from(self.world.plan.series)) as u32
        };
        (number / tenants * tenants + tenant as u32) % MAX_SERIES
    }

    fn time(&mut self, kind: Times) -> i64 {
        let now = BASE_MS + R::now().as_millis() as i64;
        match kind {
            Times::InOrder => {
                // Later than every sample before; never far ahead of the clock.
                self.newest_ms = now.max(self.newest_ms + 1);
                self.newest_ms
            }
            Times::Late => now - self.random.below(5_000) as i64,
            _ => match self.random.below(10) {
                0..6 => now - self.random.below(100_000) as i64,
                6..8 => now / 1_000 * 1_000,
                _ => now + self.random.below(400_000) as i64,
            },
        }
    }

    fn bits(&mut self) -> u64 {
        match self.random.below(10) {
            0 => STALE_NAN_BITS,
            1 => 0x7ff8_0000_0000_0000 | self.random.below(1 << 20),
            2 => (-0.0f64).to_bits(),
            3 => self.random.bits(),
            4..7 => (self.random.below(100_000) as f64 / 100.0).to_bits(),
            _ => (self.random.below(1_000) as f64).to_bits(),
        }
    }

    fn encode(&self, batch: &Batch) -> Write {
        let encoded = batch.parts.iter().map(|part| {
            let mut builder = PartBuilder::new(TENANTS[part.tenant], 1);
            for series in &part.series {
                builder.series(self.world.catalogue.get(*series).1.as_bytes());
            }
            for (named, t, bits) in &part.samples {
                match named {
                    Named::Labels(ordinal) => builder.sample(*ordinal as u32, *t, f64::from_bits(*bits)),
                    Named::Id(id) => builder.known(*id, *t, f64::from_bits(*bits)),
                }
            }
            builder.finish()
        });
        Write {
            encoded: encoded.collect(),
            parts: batch.parts.clone(),
        }
    }

    async fn write(&mut self, batch: Batch) -> bool {
        self.write_until(batch, R::now() + TRY_LIMIT).await
    }

    /// Sends a batch until it is acknowledged or time is up; says whether it was.
    async fn write_until(&mut self, batch: Batch, until: Duration) -> bool {
        self.requests += 1;
        let name = format!("client {} write {}", self.client.number, self.requests);
        self.world.observer().sending(batch.samples(&self.by_id));
        if self.sent.len() == REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back(batch.clone());
        if self.random.permille(80) {
            // Somebody else sends the same at the same time, and never looks at the answer.
            let (world, write) = (self.world.clone(), self.encode(&batch));
            let node = self.random.between(1, self.world.plan.nodes);
            self.world.spawn(async move {
                let to = world.clone();
                let _ = call(&to, node, CALL_LIMIT, move |running| {
                    node::write(world, node, running.group.clone(), write, NODE_LIMIT)
                })
                .await;
            });
        }
        while R::now() < until {
            let (world, write, node) = (self.world.clone(), self.encode(&batch), self.target);
            let answer = call(&self.world, node, self.patience, move |running| {
                node::write(world, node, running.group.clone(), write, NODE_LIMIT)
            })
            .await;
            match answer {
                Some(WriteAnswer::Done(at, command, reply)) => {
                    self.world.trace(format_args!("{name} to node {node}: {at}"));
                    let outcomes = decode_outcome(&reply).unwrap_or_default();
                    let outcomes: Vec<Expected> = outcomes.iter().map(Expected::from).collect();
                    let samples = batch.samples(&self.by_id);
                    self.learn(&batch, &outcomes, &samples);
                    self.world
                        .observer()
                        .acknowledged(at, &command, &outcomes, samples);
                    return true;
                }
                Some(WriteAnswer::NotLeader(leader)) => {
                    let known = leader.and_then(|leader| self.world.hub.place_of(leader));
                    self.target = known
                        .filter(|leader| *leader != node)
                        .unwrap_or_else(|| self.random.between(1, self.world.plan.nodes));
                }
                Some(WriteAnswer::Refused) => {}
                Some(WriteAnswer::Unknown) | None => {
                    self.world.trace(format_args!("{name} to node {node}: unknown"));
                    if self.random.permille(200) {
                        return false;
                    }
                    self.target = self.random.between(1, self.world.plan.nodes);
                }
            }
            let pause = self.random.between(1, 100);
            R::sleep(Duration::from_millis(pause)).await;
        }
        false
    }

    fn learn(&mut self, batch: &Batch, outcomes: &[Expected], samples: &[(Series, i64, u64)]) {
        for (part, outcome) in batch.parts.iter().zip(outcomes) {
            for (series, id) in part.series.iter().zip(outcome.new_ids()) {
                if *id != UNREGISTERED {
                    self.ids.insert(*series, *id);
                    self.by_id.insert(*id, *series);
                }
            }
        }
        if outcomes.iter().all(Expected::is_stored) {
            self.acked
                .extend(samples.iter().map(|(series, t, _)| (*series, *t)));
        }
    }

    fn query(&mut self) -> Query {
        let tenant = self.random.below(TENANTS.len() as u64) as usize;
        let (name, job, instance) = labels(self.random.below(u64::from(self.world.plan.series)) as u32);
        let pairs = [("__name__", name), ("job", job), ("instance", instance)];
        let mut matchers = Vec::new();
        for (label, value) in pairs {
            if self.random.permille(400) {
                matchers.push((label, value, self.random.permille(800)));
            }
        }
        let now = BASE_MS + R::now().as_millis() as i64;
        let window = if self.random.permille(250) {
            (i64::MIN, i64::MAX)
        } else {
            let start = now - self.random.below(100_000) as i64;
            (start, start + self.random.below(100_000) as i64)
        };
        Query {
            tenant,
            matchers,
            window,
            linearizable: self.random.permille(600),
        }
    }

    async fn read(&mut self, node: Place) {
        let query = self.query();
        self.query_node(node, query).await;
    }

    /// Reads at a node and compares; says whether there was an answer.
    async fn query_node(&mut self, node: Place, query: Query) -> bool {
        self.requests += 1;
        let what = format!(
            "client {} read {} at node {node}",
            self.client.number, self.requests
        );
        let floor = self.world.observer().floor();
        let (world, asked) = (self.world.clone(), query.clone());
        let answer = call(&self.world, node, self.patience, move |running| {
            node::read(
                world,
                running.group.clone(),
                running.shard.clone(),
                asked,
                NODE_LIMIT,
            )
        })
        .await;
        let (index, samples) = match answer.flatten() {
            None => return false,
            Some(Ok(answer)) => answer,
            Some(Err(error)) => {
                self.world.violate("crashed", format!("{what}: {error}"));
                return false;
            }
        };
        self.world
            .trace(format_args!("{what}: {} series after {index:?}", samples.len()));
        let mut observer = self.world.observer();
        if query.linearizable {
            observer.linearizable += 1;
            if index < floor {
                let detail = format!("{what} saw {index:?}, {floor:?} was acknowledged before it began");
                observer.violate("stale_linearizable", detail);
            }
        }
        let (start_ms, end_ms) = query.window;
        let expected = observer
            .model
            .read(index, |series| query.wants(series), start_ms, end_ms);
        observer.read(&format!("{what} {query:?}"), index, &samples, &expected);
        true
    }
}

/// Calls a node over the network: `None` if it isn't there, or the answer didn't come.
async fn call<T, F>(
    world: &Arc<World>,
    node: Place,
    patience: Duration,
    ask: impl FnOnce(&Running) -> F + Send,
) -> Option<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let calling = async {
        if !world.hub.carry(CLIENTS, node).await {
            return std::future::pending().await;
        }
        let running = world.running(node)?;
        let (tell, answer) = oneshot::channel();
        let asked = ask(&running);
        drop(running.life.spawn(async move {
            let _ = tell.send(asked.await); // the client may have given up
        }));
        drop(running);
        let answer = answer.await.ok()?;
        if !world.hub.carry(node, CLIENTS).await {
            return std::future::pending().await;
        }
        Some(answer)
    };
    // Boxed so that it can be sent: what `ask` borrows ends before the first wait.
    R::timeout(patience, Box::pin(calling)).await.ok().flatten()
}
