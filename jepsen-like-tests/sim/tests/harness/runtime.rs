//! Every task belongs to a process, and ends with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_raft_log::AsyncRuntime;
use quorate_sim::runtime::{Death, Life, NodeRuntime as R, abort};

const MS: Duration = Duration::from_millis(1);

type Deaths = Arc<Mutex<Vec<Death>>>;

fn life() -> (Arc<Life>, Deaths) {
    let deaths = Deaths::default();
    let noted = deaths.clone();
    let life = Life::new(move |death| {
        noted.lock().push(death);
        Box::new(())
    });
    (life, deaths)
}

/// Counts milliseconds, in a task of its own that its starter doesn't hold.
fn count(life: &Arc<Life>) -> Arc<AtomicU64> {
    let counter: Arc<AtomicU64> = Arc::default();
    let counted = counter.clone();
    drop(life.spawn(async move {
        drop(R::spawn(async move {
            loop {
                R::sleep(MS).await;
                counted.fetch_add(1, SeqCst);
            }
        }));
    }));
    counter
}

fn simulate(test: impl Future<Output = ()> + Send + 'static) {
    R::simulate(1, false, test).0.unwrap();
}

#[test]
fn a_killed_process_takes_its_tasks_and_no_others() {
    simulate(async {
        let ((one, deaths), (other, _)) = (life(), life());
        let (killed, spared) = (count(&one), count(&other));
        R::sleep(MS * 10).await;
        one.kill(Death::Killed);
        let at = killed.load(SeqCst);
        assert!(at >= 9);
        assert_eq!(Arc::strong_count(&killed), 1, "the future is dropped already");
        R::sleep(MS * 10).await;
        assert_eq!(killed.load(SeqCst), at);
        assert!(spared.load(SeqCst) >= 19);
        assert_eq!(*deaths.lock(), [Death::Killed]);
        one.kill(Death::PowerCut);
        assert_eq!(deaths.lock().len(), 1, "nobody dies twice");
        let late = one.spawn(async { 7 });
        assert!(late.await.is_err(), "nothing starts in a dead process");
    });
}

#[test]
fn a_process_ends_between_any_two_polls() {
    for polls in 0..12 {
        simulate(async move {
            let (life, deaths) = life();
            let counter = count(&life);
            R::sleep(MS * 5).await;
            let before = life.polls();
            life.kill_after(polls, Death::PowerCut);
            R::sleep(MS * 30).await;
            assert!(life.is_dead());
            assert_eq!(
                life.polls(),
                before + polls + 1,
                "the poll that didn't happen was the last"
            );
            assert!(counter.load(SeqCst) >= 4 + polls / 2);
            assert_eq!(*deaths.lock(), [Death::PowerCut]);
        });
    }
}

#[test]
fn a_paused_process_stands_still_and_can_be_killed() {
    simulate(async {
        let (life, _) = life();
        let counter = count(&life);
        R::sleep(MS * 5).await;
        life.pause();
        let at = counter.load(SeqCst);
        R::sleep(MS * 20).await;
        assert_eq!(counter.load(SeqCst), at);
        life.resume();
        R::sleep(MS * 20).await;
        assert!(counter.load(SeqCst) >= at + 15);
        life.pause();
        R::sleep(MS * 20).await;
        life.kill(Death::Killed);
        assert_eq!(Arc::strong_count(&counter), 1);
    });
}

#[test]
fn a_process_that_aborts_does_nothing_more() {
    simulate(async {
        let (life, deaths) = life();
        let after: Arc<AtomicU64> = Arc::default();
        let reached = after.clone();
        let task = life.spawn(async move {
            R::sleep(MS).await;
            abort("no disk");
            reached.fetch_add(1, SeqCst);
        });
        assert!(task.await.is_err());
        assert_eq!(after.load(SeqCst), 0);
        assert_eq!(*deaths.lock(), [Death::Aborted("no disk".into())]);
    });
}

#[test]
fn a_panic_ends_its_process_and_no_other() {
    simulate(async {
        let ((one, deaths), (other, _)) = (life(), life());
        let counter = count(&other);
        let task = one.spawn(async { panic!("on purpose") });
        let _: Result<(), _> = task.await;
        assert_eq!(*deaths.lock(), [Death::Panicked("on purpose".into())]);
        R::sleep(MS * 10).await;
        assert!(counter.load(SeqCst) >= 9);
    });
}

/// In which order eight tasks run that one send wakes.
fn order_of_waiters(seed: u64) -> Vec<u64> {
    let order: Arc<Mutex<Vec<u64>>> = Arc::default();
    let noted = order.clone();
    let test = async move {
        let (sender, receiver) = tokio::sync::watch::channel(0);
        for waiter in 0..8 {
            let (mut receiver, noted) = (receiver.clone(), noted.clone());
            drop(R::spawn(async move {
                receiver.changed().await.unwrap();
                noted.lock().push(waiter);
            }));
        }
        R::sleep(MS).await;
        sender.send_replace(1);
        R::sleep(MS).await;
    };
    R::simulate(seed, false, test).0.unwrap();
    order.lock().clone()
}

#[test]
fn tasks_woken_together_run_in_an_order_of_the_seed() {
    let mut orders = std::collections::BTreeSet::new();
    for seed in 0..5 {
        let first = order_of_waiters(seed);
        assert_eq!(first.len(), 8);
        // tokio's own order differs from run to run.
        for _ in 0..5 {
            assert_eq!(order_of_waiters(seed), first);
        }
        orders.insert(first);
    }
    assert!(orders.len() > 1, "{orders:?}");
}
