//! Readers: for each node and read level a session that asks one random question after another.

use std::time::Duration;

use anyhow::Result;
use quorate_client::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::ask::ask;
use super::now_ms;
use super::questions::{Catalogue, Questions};
use crate::cluster::Node;
use crate::history::{Action, Level, Outcomes, Read, Recorder, Stage};
use crate::values::Kind;

/// Between questions of a session.
const INTERVAL: Duration = Duration::from_millis(400);
/// After this time there is no answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take when all is healed.
const LAST_TIMEOUT: Duration = Duration::from_secs(60);
/// Questions asked of each node at each level when all is healed.
const LAST_QUESTIONS: usize = 60;

const LEVELS: [Level; 3] = [Level::Linearizable, Level::Bounded, Level::Local];

pub(super) fn start(
    tasks: &mut JoinSet<()>,
    nodes: &[Node],
    catalogue: Catalogue,
    seed: u64,
    recorder: &Recorder,
    stopped: &watch::Receiver<bool>,
) -> Result<()> {
    let began_ms = now_ms();
    for (at, (node, level)) in nodes
        .iter()
        .flat_map(|node| LEVELS.map(|level| (node, level)))
        .enumerate()
    {
        let client = client_of(node, TIMEOUT)?;
        let mut session = Session {
            session: at as u64,
            node: node.id,
            level,
            client,
            recorder: recorder.clone(),
        };
        let mut questions = Questions::new(catalogue.clone(), seed.wrapping_add(at as u64));
        let mut stopped = stopped.clone();
        tasks.spawn(async move {
            let mut ticks = tokio::time::interval(INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !*stopped.borrow() {
                tokio::select! {
                    _ = ticks.tick() => {}
                    _ = stopped.changed() => break,
                }
                session.ask_next(&mut questions, began_ms).await;
            }
        });
    }
    Ok(())
}

/// Asks every node at every level for what a whole run has written.
pub async fn ask_in_the_end(nodes: &[Node], recorder: &Recorder) -> Result<()> {
    let outcomes = Outcomes::of(&recorder.operations());
    let mut catalogue = Catalogue::default();
    for (writer, known) in outcomes
        .writers()
        .filter(|(writer, _)| Kind::of(*writer) != Kind::Probe)
    {
        let series = known.batches().first().map_or(1, |known| known.batch.series);
        catalogue.add(writer, series);
    }
    let times = || {
        outcomes
            .batches()
            .filter(|known| Kind::of(known.batch.writer) != Kind::Late)
    };
    let began_ms = times().map(|known| known.batch.timestamp_ms).min();
    let Some(began_ms) = began_ms else { return Ok(()) };
    // Sessions of their own: all nodes may have been restarted since others began.
    let first_session = recorder.len() as u64;
    for (at, (node, level)) in nodes
        .iter()
        .flat_map(|node| LEVELS.map(|level| (node, level)))
        .enumerate()
    {
        let at = at as u64;
        let mut session = Session {
            session: first_session + at,
            node: node.id,
            level,
            client: client_of(node, LAST_TIMEOUT)?,
            recorder: recorder.clone(),
        };
        let mut questions = Questions::new(catalogue.clone(), at);
        for _ in 0..LAST_QUESTIONS {
            session.ask_next(&mut questions, began_ms).await;
        }
    }
    Ok(())
}

fn client_of(node: &Node, timeout: Duration) -> Result<Client> {
    let builder = Client::builder().endpoint(node.grpc.as_str());
    Ok(builder.max_attempts(1).timeout(timeout).connect()?)
}

struct Session {
    session: u64,
    node: u64,
    level: Level,
    client: Client,
    recorder: Recorder,
}

impl Session {
    async fn ask_next(&mut self, questions: &mut Questions, began_ms: i64) {
        let Some(question) = questions.next(began_ms, now_ms()) else {
            return;
        };
        let began_us = self.recorder.now_us();
        let (stage, answer, shards, error) = match ask(&self.client, &question, self.level).await {
            Ok((answer, shards)) => (Stage::Ok, Some(answer), shards, None),
            Err(error) => (Stage::Info, None, Vec::new(), Some(error.to_string())),
        };
        let read = Read {
            session: self.session,
            node: self.node,
            level: self.level,
            began_us,
            question,
            answer,
            shards,
            error,
        };
        self.recorder.record(stage, Action::Read(Box::new(read)));
    }
}
