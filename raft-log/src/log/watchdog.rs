//! Notices a device that does not answer (RFT-12). A hung disk is no error that could be returned: the write
//! just does not come back, and everything behind it waits.

use std::sync::{Arc, Weak};
use std::time::Duration;

use openraft::AsyncRuntime;
use tokio::sync::watch;

use super::stats::Counters;
use super::writer::OnFatal;
use crate::config::LogOptions;

/// Looks per stall timeout.
const LOOKS: u32 = 10;

/// Watches the writer of `counters` until it is gone. The receiver tells whether the device is stalled.
pub(super) fn start<R: AsyncRuntime>(
    counters: &Arc<Counters>,
    options: &LogOptions,
    on_fatal: OnFatal,
) -> watch::Receiver<bool> {
    let (tell, stalled) = watch::channel(false);
    let watchdog = Watchdog {
        every: Duration::from_millis(options.stall_timeout_ms.max(LOOKS.into())) / LOOKS,
        abort: Duration::from_millis(options.stall_abort_ms),
        batch: None,
        stuck: 0,
        calm: 0,
        stalled: tell,
    };
    drop(R::spawn(watchdog.run::<R>(Arc::downgrade(counters), on_fatal)));
    stalled
}

struct Watchdog {
    every: Duration,
    abort: Duration,
    /// The batch seen at the last look.
    batch: Option<u64>,
    /// Looks that found the same batch being written. Counted, not measured: a process that was stopped
    /// for a minute had no minute to write in.
    stuck: u32,
    /// Looks since the device last took longer than half the timeout.
    calm: u32,
    stalled: watch::Sender<bool>,
}

impl Watchdog {
    async fn run<R: AsyncRuntime>(mut self, counters: Weak<Counters>, on_fatal: OnFatal) {
        loop {
            R::sleep(self.every).await;
            let Some(counters) = counters.upgrade() else {
                return;
            };
            let before = *self.stalled.borrow();
            let now = self.look(counters.writing());
            if before != now {
                counters.stalled(now);
                self.stalled.send_replace(now);
                let for_ms = self.for_so_long().as_millis();
                match now {
                    true => tracing::error!(for_ms, "the log's device does not answer"),
                    false => tracing::warn!("the log's device answers again"),
                }
            }
            if self.for_so_long() >= self.abort {
                let reason = format!("the log's device has not answered for {:?}", self.for_so_long());
                on_fatal(&reason);
                return;
            }
        }
    }

    fn for_so_long(&self) -> Duration {
        self.every * self.stuck
    }

    /// Takes a look at what is being written; tells whether the device is stalled. It is so from the
    /// timeout on, and until it worked well for the time of another one: a disk that answers once in a
    /// while is no better.
    fn look(&mut self, batch: Option<u64>) -> bool {
        self.stuck = match batch {
            Some(_) if batch == self.batch => self.stuck + 1,
            _ => 0,
        };
        self.batch = batch;
        self.calm = match self.stuck > LOOKS / 2 {
            true => 0,
            false => self.calm.saturating_add(1),
        };
        match *self.stalled.borrow() {
            true => self.calm < LOOKS,
            false => self.stuck >= LOOKS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_batch_that_takes_long_is_a_stall() {
        let (tell, stalled) = watch::channel(false);
        let mut watchdog = Watchdog {
            every: Duration::from_millis(1),
            abort: Duration::from_secs(1),
            batch: None,
            stuck: 0,
            calm: 0,
            stalled: tell,
        };
        let mut looks = |batches: &[Option<u64>]| {
            for batch in batches {
                let now = watchdog.look(*batch);
                watchdog.stalled.send_replace(now);
            }
            *stalled.borrow()
        };
        // Busy with one batch after another, then with nothing.
        let busy: Vec<_> = (1..100).map(Some).collect();
        assert!(!looks(&busy));
        assert!(!looks(&[None; 100]));
        // The look that finds a batch first says nothing about how long it takes.
        assert!(!looks(&[Some(100); 10]));
        assert!(looks(&[Some(100)]));
        assert!(looks(&[Some(100); 50]));
        // It came back, and has to prove itself.
        assert!(looks(&[None; 3]));
        assert!(looks(&[Some(101); 8]), "nearly as slow as before");
        assert!(looks(&[None; 9]));
        assert!(!looks(&[None]));
    }
}
