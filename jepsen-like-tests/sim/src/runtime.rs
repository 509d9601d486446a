//! The simulated runtime, with an owner for every task: a [`Life`], which is one run of one node's process.
//!
//! [`NodeRuntime`] is openraft-rt-sim's runtime with two changes. A task belongs to the life that was being
//! polled when it was spawned, so that a process can be killed between any two polls of any of its tasks:
//! its futures are dropped together and nothing of it runs again. And tasks woken during one poll become
//! runnable in an order drawn from the seed, not in the order of the wake calls: tokio's `watch` and
//! `notify_waiters` wake in an order that differs from run to run, and an order that nobody promised should
//! be explored.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use openraft_rt_sim::{Elapsed, SimInstant, SimJoinError, SimJoinHandle, SimRuntime, SimSleep, SimTimeout};
use parking_lot::Mutex;
use quorate_raft_log::AsyncRuntime;

use crate::random::Random;

/// Why a process is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Death {
    /// By SIGKILL: what it wrote to files stays.
    Killed,
    /// By a power cut: what it didn't sync may be lost.
    PowerCut,
    /// It ended itself, because a write or sync of its log failed.
    Aborted(String),
    /// A task of it panicked.
    Panicked(String),
    /// It was asked to stop, and did.
    Stopped,
}

/// The unwinding of a process that aborts. It never meets a panic hook, like the real thing.
struct Abort(String);

/// Ends the life whose task runs now, as `std::process::abort` would.
pub fn abort(reason: &str) {
    if !std::thread::panicking() {
        resume_unwind(Box::new(Abort(reason.to_owned())));
    }
}

/// What the world does when a life ends, before any of its futures is dropped. What it returns is dropped
/// after them.
type OnDeath = Box<dyn FnOnce(Death) -> Box<dyn Any + Send> + Send>;

/// One run of one node's process.
pub struct Life {
    state: Mutex<LifeState>,
}

#[derive(Default)]
struct LifeState {
    dead: bool,
    polls: u64,
    kill_at: Option<(u64, Death)>,
    paused: bool,
    /// Wakers of tasks that would have been polled during the pause.
    held: Vec<Waker>,
    tasks: BTreeMap<u64, Arc<dyn Discard>>,
    on_death: Option<OnDeath>,
}

/// A task that can be dropped from outside.
trait Discard: Send + Sync {
    fn discard(&self);
}

impl Life {
    /// A life that `on_death` is told the end of.
    pub fn new(on_death: impl FnOnce(Death) -> Box<dyn Any + Send> + Send + 'static) -> Arc<Self> {
        let state = LifeState {
            on_death: Some(Box::new(on_death)),
            ..LifeState::default()
        };
        let life = Arc::new(Self {
            state: Mutex::new(state),
        });
        SCHEDULE.with_borrow_mut(|schedule| schedule.all.push(Arc::downgrade(&life)));
        life
    }

    /// The life whose task runs now.
    pub fn current() -> Option<Arc<Self>> {
        SCHEDULE.with_borrow(|schedule| schedule.lives.last().cloned())
    }

    /// Starts a task of this life.
    pub fn spawn<T: Send + 'static>(
        self: &Arc<Self>,
        future: impl Future<Output = T> + Send + 'static,
    ) -> NodeJoinHandle<T> {
        let _entered = Enter::new(self.clone());
        NodeRuntime::spawn(future)
    }

    /// Whether it has ended.
    pub fn is_dead(&self) -> bool {
        self.state.lock().dead
    }

    /// How often its tasks were polled.
    pub fn polls(&self) -> u64 {
        self.state.lock().polls
    }

    /// Ends it just before it would be polled another `polls` times.
    pub fn kill_after(&self, polls: u64, death: Death) {
        let mut state = self.state.lock();
        state.kill_at = Some((state.polls + polls, death));
    }

    /// Takes [`kill_after`](Self::kill_after) back.
    pub fn spare(&self) {
        self.state.lock().kill_at = None;
    }

    /// Stops polling its tasks until [`resume`](Self::resume), like SIGSTOP.
    pub fn pause(&self) {
        self.state.lock().paused = true;
    }

    /// Goes on after [`pause`](Self::pause).
    pub fn resume(&self) {
        let held = {
            let mut state = self.state.lock();
            state.paused = false;
            std::mem::take(&mut state.held)
        };
        for waker in held {
            waker.wake();
        }
    }

    /// Ends it now. Its other futures are dropped before this returns; not to be called from one of its own
    /// tasks, which end themselves by [`abort`].
    pub fn kill(&self, death: Death) {
        let on_death = {
            let mut state = self.state.lock();
            if std::mem::replace(&mut state.dead, true) {
                return;
            }
            state.on_death.take()
        };
        let remains = on_death.map(|call| call(death));
        loop {
            // Dropping a task may spawn another, which is then dead at once and not in the list.
            let tasks = std::mem::take(&mut self.state.lock().tasks);
            if tasks.is_empty() {
                break;
            }
            for task in tasks.into_values() {
                task.discard();
            }
        }
        drop(remains);
    }

    /// Counts a poll; tells how the life has to end first, if so.
    fn begin_poll(&self) -> Option<Death> {
        let mut state = self.state.lock();
        if state.dead {
            return None;
        }
        state.polls += 1;
        match &state.kill_at {
            Some((at, _)) if state.polls > *at => state.kill_at.take().map(|(_, death)| death),
            _ => None,
        }
    }

    /// Keeps the waker for later if the life is paused.
    fn hold(&self, waker: &Waker) -> bool {
        let mut state = self.state.lock();
        let hold = state.paused && !state.dead;
        if hold {
            state.held.push(waker.clone());
        }
        hold
    }
}

thread_local! {
    static SCHEDULE: RefCell<Schedule> = RefCell::new(Schedule::new(0));
}

/// What this thread's simulation is doing.
struct Schedule {
    /// The lives being polled or dropped, innermost last.
    lives: Vec<Arc<Life>>,
    woken: BTreeMap<u64, Arc<TaskWaker>>,
    next_task: u64,
    order: Random,
    /// Every life of the run, so that none outlives it.
    all: Vec<Weak<Life>>,
}

impl Schedule {
    fn new(seed: u64) -> Self {
        Self {
            lives: Vec::new(),
            woken: BTreeMap::new(),
            next_task: 0,
            order: Random::new(seed).fork("order of wakes", 0),
            all: Vec::new(),
        }
    }
}

/// Marks a life as the one that runs, and wakes what was woken meanwhile when the outermost mark goes.
struct Enter;

impl Enter {
    fn new(life: Arc<Life>) -> Self {
        SCHEDULE.with_borrow_mut(|schedule| schedule.lives.push(life));
        Self
    }
}

impl Drop for Enter {
    fn drop(&mut self) {
        let woken = SCHEDULE.with_borrow_mut(|schedule| {
            let life = schedule.lives.pop();
            let mut woken = Vec::new();
            if schedule.lives.is_empty() {
                woken.extend(std::mem::take(&mut schedule.woken).into_values());
                schedule.order.shuffle(&mut woken);
            }
            (woken, life)
        });
        for waker in woken.0 {
            waker.wake_now();
        }
    }
}

/// Wakes a task at the end of the current poll.
struct TaskWaker {
    id: u64,
    inner: Mutex<Option<Waker>>,
}

impl TaskWaker {
    fn wake_now(&self) {
        let inner = self.inner.lock().clone();
        if let Some(inner) = inner {
            inner.wake();
        }
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let deferred = SCHEDULE.try_with(|schedule| {
            let mut schedule = schedule.borrow_mut();
            if schedule.lives.is_empty() {
                return false;
            }
            schedule.woken.insert(self.id, self.clone());
            true
        });
        // Outside a poll a timer fires, and timers fire in a fixed order.
        if deferred == Ok(false) {
            self.wake_now();
        }
    }
}

type BoxedFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

struct Cell<T> {
    life: Arc<Life>,
    /// `None` while it is being polled, and once it is done or dropped.
    future: Mutex<Option<BoxedFuture<T>>>,
    waker: Arc<TaskWaker>,
}

impl<T: Send> Discard for Cell<T> {
    fn discard(&self) {
        let future = self.future.lock().take();
        let _entered = Enter::new(self.life.clone());
        // A destructor that panics must not keep the others from being dropped.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(future)));
        self.waker.wake_by_ref();
    }
}

/// A task as the executor sees it; gives `None` when it was dropped.
struct Task<T>(Arc<Cell<T>>);

impl<T: Send> Future for Task<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let cell = self.0.clone();
        *cell.waker.inner.lock() = Some(context.waker().clone());
        if cell.life.hold(context.waker()) {
            return Poll::Pending;
        }
        if let Some(death) = cell.life.begin_poll() {
            cell.life.kill(death);
        }
        let Some(mut future) = cell.future.lock().take() else {
            return Poll::Ready(None);
        };
        let waker = Waker::from(cell.waker.clone());
        let _entered = Enter::new(cell.life.clone());
        let polled = catch_unwind(AssertUnwindSafe(|| {
            future.as_mut().poll(&mut Context::from_waker(&waker))
        }));
        match polled {
            Ok(Poll::Pending) if !cell.life.is_dead() => {
                *cell.future.lock() = Some(future);
                Poll::Pending
            }
            Ok(Poll::Pending) => Poll::Ready(None),
            Ok(Poll::Ready(output)) => {
                cell.life.state.lock().tasks.remove(&cell.waker.id);
                Poll::Ready(Some(output))
            }
            Err(payload) => {
                cell.life.kill(death_by_panic(payload));
                let _ = catch_unwind(AssertUnwindSafe(|| drop(future)));
                Poll::Ready(None)
            }
        }
    }
}

fn death_by_panic(payload: Box<dyn Any + Send>) -> Death {
    let payload = match payload.downcast::<Abort>() {
        Ok(abort) => return Death::Aborted(abort.0),
        Err(payload) => payload,
    };
    Death::Panicked(match payload.downcast_ref::<String>() {
        Some(text) => text.clone(),
        None => (*payload.downcast_ref::<&str>().unwrap_or(&"no message")).to_owned(),
    })
}

/// Gives a task's output, or the error that it was dropped.
pub struct NodeJoinHandle<T>(SimJoinHandle<Option<T>>);

impl<T> Future for NodeJoinHandle<T> {
    type Output = Result<T, SimJoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|joined| joined.and_then(|output| output.ok_or(SimJoinError::Cancelled)))
    }
}

/// The runtime of simulated nodes and of the world around them.
#[derive(Debug)]
pub struct NodeRuntime(SimRuntime);

impl NodeRuntime {
    /// Runs a simulation on this thread: `world` is the first task, in a life that nobody kills. Every task
    /// is dropped before this returns.
    pub fn simulate<T: Send + 'static>(
        seed: u64,
        record: bool,
        world: impl Future<Output = T> + Send + 'static,
    ) -> (Result<T, Death>, Vec<String>) {
        SCHEDULE.set(Schedule::new(seed));
        let death: Arc<Mutex<Option<Death>>> = Arc::default();
        let noted = death.clone();
        let life = Life::new(move |death| {
            *noted.lock() = Some(death);
            Box::new(())
        });
        let mut runtime = SimRuntime::with_seed(seed);
        runtime.record_trace(record);
        let output = runtime.block_on(async {
            let output = life.spawn(world).await;
            let all = SCHEDULE.with_borrow_mut(|schedule| std::mem::take(&mut schedule.all));
            for life in all.iter().filter_map(Weak::upgrade) {
                life.kill(Death::Stopped);
            }
            output
        });
        let trace = runtime.take_trace();
        drop(runtime);
        let output = output.map_err(|_| death.lock().take().unwrap_or(Death::Stopped));
        (output, trace)
    }

    /// Virtual time since the start of the run.
    pub fn now() -> Duration {
        SimInstant::try_now().map_or(Duration::ZERO, SimInstant::elapsed_since_start)
    }
}

impl AsyncRuntime for NodeRuntime {
    type JoinError = SimJoinError;
    type JoinHandle<T: Send + 'static> = NodeJoinHandle<T>;
    type Sleep = SimSleep;
    type Instant = SimInstant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + Send> = SimTimeout<T>;
    type ThreadLocalRng = <SimRuntime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <SimRuntime as AsyncRuntime>::Mpsc;
    type Watch = <SimRuntime as AsyncRuntime>::Watch;
    type Oneshot = <SimRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: Send + 'static> = <SimRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> NodeJoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        let (life, id) = SCHEDULE.with_borrow_mut(|schedule| {
            schedule.next_task += 1;
            (schedule.lives.last().cloned(), schedule.next_task)
        });
        let life = life.unwrap_or_else(|| panic!("a task was spawned outside every life"));
        let waker = Arc::new(TaskWaker {
            id,
            inner: Mutex::new(None),
        });
        let cell = Arc::new(Cell {
            life: life.clone(),
            future: Mutex::new(None),
            waker,
        });
        let mut state = life.state.lock();
        if state.dead {
            drop(state);
            drop(future);
        } else {
            *cell.future.lock() = Some(Box::pin(future));
            state.tasks.insert(id, cell.clone());
        }
        NodeJoinHandle(SimRuntime::spawn(Task(cell)))
    }

    fn sleep(duration: Duration) -> SimSleep {
        SimRuntime::sleep(duration)
    }

    fn sleep_until(deadline: SimInstant) -> SimSleep {
        SimRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + Send>(duration: Duration, future: F) -> SimTimeout<F> {
        SimRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(deadline: SimInstant, future: F) -> SimTimeout<F> {
        SimRuntime::timeout_at(deadline, future)
    }

    fn is_panic(error: &SimJoinError) -> bool {
        SimRuntime::is_panic(error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        SimRuntime::thread_rng()
    }

    fn new(threads: usize) -> Self {
        Self(SimRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}
