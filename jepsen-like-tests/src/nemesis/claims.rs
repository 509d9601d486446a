//! Which faults may overlap: each claims what it breaks, and waits while another one holds it.
//!
//! Claims are granted whole, in the order in which they were asked for among those that conflict, so that a
//! fault that needs every process (a power cut of all) is not starved by many that need one.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Something that one fault at a time may break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The process of a node: it dies, stops, or stands still.
    Process(u64),
    /// One of the places that leave a majority of processes running.
    Majority,
    /// What a majority has agreed on must not depend on anybody else's disk: data of one node is destroyed.
    Data,
    /// The wall clock of some node.
    Clocks,
    /// Which packets pass between nodes and clients.
    Cuts,
    /// How packets travel.
    Wire,
    /// The disk of a node misbehaves.
    Disk(u64),
    /// Who leads: moved on purpose.
    Leadership,
}

/// The table of all claims.
#[derive(Debug, Default)]
pub struct Claims {
    table: Mutex<Table>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// Those that wait and those that hold, by order of arrival.
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    ticket: u64,
    wanted: Vec<Claim>,
    granted: bool,
}

/// Claims that are held until this is dropped.
#[derive(Debug)]
pub struct Held<'a> {
    claims: &'a Claims,
    ticket: u64,
}

impl Claims {
    /// Waits until all of `wanted` are free, at most for `limit`. `None` when they were not.
    pub fn take(&self, wanted: Vec<Claim>, limit: Duration) -> Option<Held<'_>> {
        let deadline = Instant::now() + limit;
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = table.next;
        table.next += 1;
        table.entries.push(Entry {
            ticket,
            wanted,
            granted: false,
        });
        loop {
            if table.grant(ticket) {
                return Some(Held { claims: self, ticket });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                table.entries.retain(|entry| entry.ticket != ticket);
                self.changed.notify_all();
                return None;
            }
            table = self
                .changed
                .wait_timeout(table, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Table {
    /// Grants a ticket if nobody who came before it holds or waits for one of its claims.
    fn grant(&mut self, ticket: u64) -> bool {
        let Some(at) = self.entries.iter().position(|entry| entry.ticket == ticket) else {
            return false;
        };
        let (mine, others) = (&self.entries[at], &self.entries);
        let blocked = others
            .iter()
            .filter(|other| other.granted || other.ticket < ticket)
            .filter(|other| other.ticket != ticket)
            .any(|other| other.wanted.iter().any(|claim| mine.wanted.contains(claim)));
        if !blocked {
            self.entries[at].granted = true;
        }
        !blocked
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut table = self.claims.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.entries.retain(|entry| entry.ticket != self.ticket);
        self.claims.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn what_is_held_is_not_given_again() {
        let claims = Claims::default();
        let first = claims
            .take(vec![Claim::Process(1), Claim::Majority], NOW)
            .unwrap();
        assert!(claims.take(vec![Claim::Process(1)], NOW).is_none());
        assert!(
            claims
                .take(vec![Claim::Process(2), Claim::Majority], NOW)
                .is_none()
        );
        assert!(claims.take(vec![Claim::Process(2), Claim::Cuts], NOW).is_some());
        drop(first);
        assert!(claims.take(vec![Claim::Process(1)], NOW).is_some());
    }

    #[test]
    fn whoever_needs_all_is_not_starved() {
        let claims = Claims::default();
        let one = claims.take(vec![Claim::Process(1)], NOW).unwrap();
        std::thread::scope(|scope| {
            let all = vec![Claim::Process(1), Claim::Process(2)];
            let waiting = scope.spawn(|| claims.take(all, Duration::from_secs(30)).is_some());
            let queued = || claims.table.lock().unwrap().entries.len();
            while queued() < 2 {
                std::thread::yield_now();
            }
            // Node 2 is free, and yet promised to the one that waits.
            assert!(claims.take(vec![Claim::Process(2)], NOW).is_none());
            drop(one);
            assert!(waiting.join().unwrap());
        });
        assert!(claims.take(vec![Claim::Process(2)], NOW).is_some());
    }
}
