//! The network between simulated nodes: it delays, loses, duplicates and reorders messages, and links can be
//! cut one way.
//!
//! Control messages are independent of each other. A stream of entries or of a snapshot keeps its order, as
//! TCP does: what is lost there comes later or breaks the stream. Messages of a broken stream that are under
//! way still arrive, and an AppendEntries may arrive a second time, long after.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, Either, select};
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use quorate_raft_log::{AsyncRuntime, Network, NetworkError, RaftLog, ReplicaId, Target};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::{OwnedMutexGuard, oneshot};

use crate::random::Random;
use crate::runtime::{Life, NodeRuntime as R};
use crate::world::World;

/// A place in the network: a node, or [`CLIENTS`].
pub type Place = u64;

/// Where the clients are.
pub const CLIENTS: Place = 0;
/// The group that is simulated.
pub const GROUP: u32 = 1;
/// Number of the control message that asks for a vote.
const VOTE: u32 = 2;

/// Messages in flight in one stream at most.
const WINDOW: usize = 64;
/// Frames of a snapshot in flight at most.
const SNAPSHOT_WINDOW: usize = 2;
/// How long a connection waits for a link that is cut.
const PATIENCE: Duration = Duration::from_secs(4);
const LOOK: Duration = Duration::from_millis(40);

/// What links do to messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conditions {
    /// Shortest delay of a message.
    pub delay_min: Duration,
    /// Longest delay of a message.
    pub delay_max: Duration,
    /// Messages of a thousand that are lost.
    pub loss_permille: u64,
    /// Messages of a thousand that arrive twice.
    pub duplicate_permille: u64,
}

/// What a place in the network answers with.
#[derive(Clone)]
pub struct Attached {
    /// The node's log.
    pub log: Arc<RaftLog<R>>,
    /// The process that answers.
    pub life: Arc<Life>,
    /// Held while a flush, or the switch to a received snapshot, is under way.
    pub gate: Arc<tokio::sync::Mutex<()>>,
}

/// The links of a cluster.
pub struct Hub {
    world: Weak<World>,
    state: Mutex<HubState>,
}

struct HubState {
    attached: BTreeMap<Place, Attached>,
    /// Where each replica lives.
    homes: BTreeMap<ReplicaId, Place>,
    /// How many faults cut a link.
    cuts: BTreeMap<(Place, Place), u32>,
    conditions: Conditions,
    random: Random,
}

/// What becomes of one message.
enum Fate {
    Arrives(Duration),
    Lost,
}

impl Hub {
    /// A network without nodes.
    pub fn new(world: Weak<World>, conditions: Conditions, random: Random) -> Arc<Self> {
        let state = HubState {
            attached: BTreeMap::new(),
            homes: BTreeMap::new(),
            cuts: BTreeMap::new(),
            conditions,
            random,
        };
        Arc::new(Self {
            world,
            state: Mutex::new(state),
        })
    }

    /// A node answers from now on.
    pub fn attach(&self, place: Place, attached: Attached) {
        self.state.lock().attached.insert(place, attached);
    }

    /// A node is gone.
    pub fn detach(&self, place: Place) -> Option<Attached> {
        self.state.lock().attached.remove(&place)
    }

    /// A replica lives on a node.
    pub fn home(&self, replica: ReplicaId, place: Place) {
        self.state.lock().homes.insert(replica, place);
    }

    /// Cuts links, each one way. As often as a link is cut it has to be healed.
    pub fn cut(&self, links: &[(Place, Place)]) {
        let mut state = self.state.lock();
        for link in links {
            *state.cuts.entry(*link).or_default() += 1;
        }
    }

    /// Takes cuts back.
    pub fn heal(&self, links: &[(Place, Place)]) {
        let mut state = self.state.lock();
        for link in links {
            if let Some(cuts) = state.cuts.get_mut(link) {
                *cuts -= 1;
                if *cuts == 0 {
                    state.cuts.remove(link);
                }
            }
        }
    }

    /// What links do to messages now.
    pub fn conditions(&self) -> Conditions {
        self.state.lock().conditions
    }

    /// Changes what links do to messages.
    pub fn set_conditions(&self, conditions: Conditions) {
        self.state.lock().conditions = conditions;
    }

    /// The process at a place, if it answers.
    pub fn at(&self, place: Place) -> Option<Attached> {
        self.state.lock().attached.get(&place).cloned()
    }

    /// Where a replica lives.
    pub fn place_of(&self, replica: ReplicaId) -> Option<Place> {
        self.state.lock().homes.get(&replica).copied()
    }

    fn is_cut(&self, from: Place, to: Place) -> bool {
        self.state.lock().cuts.contains_key(&(from, to))
    }

    fn fate(&self) -> Fate {
        let mut state = self.state.lock();
        let conditions = state.conditions;
        if state.random.permille(conditions.loss_permille) {
            return Fate::Lost;
        }
        Fate::Arrives(state.delay())
    }

    fn chance(&self, permille: u64) -> bool {
        self.state.lock().random.permille(permille)
    }

    fn delay(&self) -> Duration {
        self.state.lock().delay()
    }

    /// Carries one message; false if it got lost.
    pub async fn carry(&self, from: Place, to: Place) -> bool {
        match self.fate() {
            Fate::Lost => false,
            Fate::Arrives(delay) => {
                R::sleep(delay).await;
                !self.is_cut(from, to)
            }
        }
    }

    fn find(&self, target: Target) -> Result<(Place, Attached), NetworkError> {
        let place = self.place_of(target.replica);
        let found = place.and_then(|place| Some((place, self.at(place)?)));
        found.ok_or_else(|| NetworkError::Unreachable("connection refused".into()))
    }

    fn world(&self) -> Option<Arc<World>> {
        self.world.upgrade()
    }
}

impl HubState {
    fn delay(&mut self) -> Duration {
        let Conditions {
            delay_min, delay_max, ..
        } = self.conditions;
        let spread = delay_max.saturating_sub(delay_min).as_micros() as u64;
        // One message in fifty takes much longer, so that others overtake it.
        let factor = if self.random.permille(20) { 8 } else { 1 };
        delay_min + Duration::from_micros(self.random.between(0, spread)) * factor
    }
}

/// The sending end of a stream over a link.
struct Outlet<T> {
    hub: Arc<Hub>,
    queue: Sender<(Duration, T)>,
    /// When the message before arrives.
    last: Duration,
}

/// The receiving end of a stream over a link.
struct Inlet<T> {
    hub: Arc<Hub>,
    from: Place,
    to: Place,
    queue: Receiver<(Duration, T)>,
}

fn pipe<T: Send + 'static>(hub: &Arc<Hub>, from: Place, to: Place, window: usize) -> (Outlet<T>, Inlet<T>) {
    let (sender, receiver) = mpsc::channel(window);
    let outlet = Outlet {
        hub: hub.clone(),
        queue: sender,
        last: Duration::ZERO,
    };
    let inlet = Inlet {
        hub: hub.clone(),
        from,
        to,
        queue: receiver,
    };
    (outlet, inlet)
}

impl<T: Send + 'static> Outlet<T> {
    /// Sends in order; false when nobody receives any more.
    async fn send(&mut self, message: T) -> bool {
        let delay = match self.hub.fate() {
            Fate::Arrives(delay) => delay,
            // Sent again by TCP.
            Fate::Lost => self.hub.delay() + Duration::from_millis(200),
        };
        let at = (R::now() + delay).max(self.last);
        self.last = at;
        self.queue.send((at, message)).await.is_ok()
    }
}

impl<T: Send + 'static> Inlet<T> {
    /// The next message, in order. `Err` when the link is cut for so long that the connection breaks, `None`
    /// when the sender is gone or done.
    async fn receive(&mut self) -> Option<Result<T, NetworkError>> {
        let (at, message) = self.queue.recv().await?;
        let now = R::now();
        if at > now {
            R::sleep(at - now).await;
        }
        let mut waited = Duration::ZERO;
        while self.hub.is_cut(self.from, self.to) {
            if waited >= PATIENCE || self.hub.chance(30) {
                return Some(Err(NetworkError::Unreachable("the connection broke".into())));
            }
            R::sleep(LOOK).await;
            waited += LOOK;
        }
        Some(Ok(message))
    }

    /// Messages until the stream ends or breaks.
    fn into_stream(self) -> BoxStream<'static, Result<T, NetworkError>> {
        let messages = stream::unfold(Some(self), |inlet| async move {
            let mut inlet = inlet?;
            let received = inlet.receive().await?;
            let broken = received.is_err();
            Some((received, (!broken).then_some(inlet)))
        });
        messages.boxed()
    }
}

/// One node's end of the network.
pub struct Link {
    /// The network.
    pub hub: Arc<Hub>,
    /// The node.
    pub node: Place,
}

type Answers = BoxStream<'static, Result<Bytes, NetworkError>>;

impl Network for Link {
    fn append_stream(
        &self,
        target: Target,
        requests: BoxStream<'static, Bytes>,
    ) -> BoxFuture<'static, Result<Answers, NetworkError>> {
        let (hub, from) = (self.hub.clone(), self.node);
        async move {
            R::sleep(hub.delay()).await;
            let (to, peer) = hub.find(target)?;
            if hub.is_cut(from, to) || hub.is_cut(to, from) {
                return Err(NetworkError::Unreachable("no route".into()));
            }
            let (mut out, inlet) = pipe::<Bytes>(&hub, from, to, WINDOW);
            let (mut back, answers) = pipe::<Bytes>(&hub, to, from, WINDOW);
            let duplicating = hub.clone();
            let mut requests = requests;
            drop(R::spawn(async move {
                while let Some(request) = requests.next().await {
                    let again = duplicating.conditions().duplicate_permille;
                    if duplicating.chance(again) {
                        late_duplicate(&duplicating, target, request.clone());
                    }
                    if !out.send(request).await {
                        return;
                    }
                }
            }));
            let log = peer.log.clone();
            drop(peer.life.spawn(async move {
                let requests = inlet.into_stream();
                let requests = requests.take_while(|r| std::future::ready(r.is_ok()));
                let requests = requests.filter_map(|r| std::future::ready(r.ok()));
                let answers = log.handle_append(
                    target.group,
                    target.replica,
                    Box::pin(requests),
                    Arc::new(|_| true),
                );
                drop(log);
                let Ok(mut answers) = answers else { return };
                while let Some(Ok(answer)) = answers.next().await {
                    if !back.send(answer).await {
                        return;
                    }
                }
            }));
            let ended =
                stream::once(async { Err(NetworkError::Unreachable("the peer closed the stream".into())) });
            Ok(answers.into_stream().chain(ended).boxed())
        }
        .boxed()
    }

    fn control(
        &self,
        target: Target,
        kind: u32,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, NetworkError>> {
        let (hub, from) = (self.hub.clone(), self.node);
        let call = async move {
            let Some(place) = hub.place_of(target.replica) else {
                return Err(NetworkError::Unreachable("no such replica".into()));
            };
            if !hub.carry(from, place).await {
                return std::future::pending().await;
            }
            let again = hub.conditions().duplicate_permille;
            if hub.chance(again) {
                late_control(&hub, target, kind, payload.clone());
            }
            let (to, peer) = hub.find(target)?;
            let (tell, answer) = oneshot::channel();
            let log = peer.log.clone();
            let asked = payload.clone();
            drop(peer.life.spawn(async move {
                let answer = log
                    .handle_control(target.group, target.replica, kind, payload)
                    .await;
                let _ = tell.send(answer); // the asking side may be gone
            }));
            drop(peer);
            let Ok(answer) = answer.await else {
                return Err(NetworkError::Unreachable("connection reset".into()));
            };
            if kind == VOTE
                && let (Ok(answer), Some(world)) = (&answer, hub.world())
            {
                world.observer().vote_answered(target.replica, &asked, answer);
            }
            if !hub.carry(to, from).await {
                return std::future::pending().await;
            }
            answer
        };
        async move {
            match R::timeout(timeout, call).await {
                Ok(answer) => answer,
                Err(_) => Err(NetworkError::Timeout(timeout)),
            }
        }
        .boxed()
    }

    fn snapshot(
        &self,
        target: Target,
        header: Bytes,
        frames: BoxStream<'static, Bytes>,
    ) -> BoxFuture<'static, Result<Bytes, NetworkError>> {
        let (hub, from) = (self.hub.clone(), self.node);
        async move {
            if !hub
                .carry(from, hub.place_of(target.replica).unwrap_or(CLIENTS))
                .await
            {
                return Err(NetworkError::Unreachable("no route".into()));
            }
            let (to, peer) = hub.find(target)?;
            let (mut out, inlet) = pipe::<Option<Bytes>>(&hub, from, to, SNAPSHOT_WINDOW);
            let (tell, answer) = oneshot::channel();
            let log = peer.log.clone();
            let world = hub.world();
            let gate = peer.gate.clone();
            drop(peer.life.spawn(async move {
                let frames = gated(inlet, gate, world, to);
                let received = log
                    .handle_snapshot(target.group, target.replica, header, frames)
                    .await;
                let _ = tell.send(received); // the sender may be gone
            }));
            drop(peer);
            let sending = async move {
                // Only the answer, or the caller's patience, ends it.
                let mut frames = frames;
                while let Some(frame) = frames.next().await {
                    if !out.send(Some(frame)).await {
                        return std::future::pending::<Infallible>().await;
                    }
                }
                // The end, as opposed to a stream that broke off.
                out.send(None).await;
                std::future::pending().await
            };
            let answer = match select(answer, Box::pin(sending)).await {
                Either::Left((answer, _)) => answer,
                Either::Right((never, _)) => match never {},
            };
            if !hub.carry(to, from).await {
                return Err(NetworkError::Unreachable("the answer got lost".into()));
            }
            answer.map_err(|_| NetworkError::Unreachable("connection reset".into()))?
        }
        .boxed()
    }
}

/// The frames of a snapshot for its receiver. The last one waits until no flush is under way and keeps others
/// from beginning: in production the installing thread blocks there, and here is but one thread.
fn gated(
    inlet: Inlet<Option<Bytes>>,
    gate: Arc<tokio::sync::Mutex<()>>,
    world: Option<Arc<World>>,
    node: Place,
) -> Answers {
    struct Ahead {
        inlet: Inlet<Option<Bytes>>,
        held: Option<Bytes>,
        _guard: Option<OwnedMutexGuard<()>>,
        ended: bool,
    }
    let start = Ahead {
        inlet,
        held: None,
        _guard: None,
        ended: false,
    };
    let frames = stream::unfold(start, move |mut ahead| {
        let (gate, world) = (gate.clone(), world.clone());
        async move {
            loop {
                if ahead.ended {
                    // The stream is dropped, and the gate opened, when the snapshot is installed.
                    return std::future::pending().await;
                }
                let frame = match ahead.inlet.receive().await {
                    Some(Ok(frame)) => frame,
                    Some(Err(error)) => return Some((Err(error), ahead)),
                    None => {
                        let reset = NetworkError::Unreachable("connection reset".into());
                        return Some((Err(reset), ahead));
                    }
                };
                if let Some(world) = &world {
                    world.snapshot_frame(node);
                }
                let before = match frame {
                    Some(frame) => ahead.held.replace(frame),
                    None => {
                        ahead.ended = true;
                        ahead._guard = Some(gate.clone().lock_owned().await);
                        ahead.held.take()
                    }
                };
                if let Some(before) = before {
                    return Some((Ok(before), ahead));
                }
            }
        }
    });
    frames.boxed()
}

/// Delivers an AppendEntries a second time, much later.
fn late_duplicate(hub: &Arc<Hub>, target: Target, request: Bytes) {
    let Some(world) = hub.world() else { return };
    let hub = hub.clone();
    let delay = hub.delay() * 20;
    world.spawn(async move {
        R::sleep(delay).await;
        let Ok((_, peer)) = hub.find(target) else { return };
        let log = peer.log.clone();
        drop(peer.life.spawn(async move {
            let once = stream::iter([request]).boxed();
            if let Ok(mut answers) = log.handle_append(target.group, target.replica, once, Arc::new(|_| true))
            {
                while answers.next().await.is_some() {}
            }
        }));
    });
}

/// Delivers a control message a second time.
fn late_control(hub: &Arc<Hub>, target: Target, kind: u32, payload: Bytes) {
    let Some(world) = hub.world() else { return };
    let hub = hub.clone();
    let delay = hub.delay() * 10;
    world.spawn(async move {
        R::sleep(delay).await;
        let Ok((_, peer)) = hub.find(target) else { return };
        let log = peer.log.clone();
        drop(peer.life.spawn(async move {
            let asked = payload.clone();
            let answer = log
                .handle_control(target.group, target.replica, kind, payload)
                .await;
            if kind == VOTE
                && let (Ok(answer), Some(world)) = (&answer, hub.world())
            {
                world.observer().vote_answered(target.replica, &asked, answer);
            }
        }));
    });
}
