//! What the node waits for, for `/-/ready`, logs and error texts.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// Reasons that keep a node from being ready, by subject.
#[derive(Debug, Default)]
pub struct Readiness {
    waits: Mutex<BTreeMap<&'static str, String>>,
}

impl Readiness {
    /// Notes that `subject` waits for `reason`, and logs it when it is news.
    pub fn wait_for(&self, subject: &'static str, reason: impl Into<String>) {
        let reason = reason.into();
        let mut waits = self.waits.lock();
        if waits.get(subject) != Some(&reason) {
            tracing::info!(subject, reason, "waiting");
            waits.insert(subject, reason);
        }
    }

    /// Notes that `subject` waits no longer.
    pub fn done(&self, subject: &'static str) {
        if self.waits.lock().remove(subject).is_some() {
            tracing::info!(subject, "done waiting");
        }
    }

    /// Everything that is waited for, one reason a line; empty when ready.
    pub fn pending(&self) -> Vec<String> {
        self.waits
            .lock()
            .iter()
            .map(|(subject, reason)| format!("{subject}: {reason}"))
            .collect()
    }
}
