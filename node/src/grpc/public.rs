//! Counts public requests, so that a stopping node can refuse new ones and wait for the rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use quorate_proto::{DEFAULT_TENANT, ErrorCode, TENANT_HEADER};
use tokio::sync::Notify;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::{api_status, status};
use crate::api::{Caller, check_tenant};

/// The door for public requests. Clones are the same door.
#[derive(Clone, Default)]
pub struct PublicGate(Arc<Inner>);

#[derive(Default)]
struct Inner {
    closed: AtomicBool,
    running: AtomicUsize,
    left: Notify,
}

/// A request inside; leaves when dropped.
pub struct Inside(Arc<Inner>);

impl PublicGate {
    /// Lets a request in, unless the node is stopping.
    pub fn enter(&self) -> Result<Inside, Status> {
        self.0.running.fetch_add(1, Ordering::SeqCst);
        let inside = Inside(self.0.clone());
        match self.0.closed.load(Ordering::SeqCst) {
            true => Err(status(
                ErrorCode::ShuttingDown,
                "this node is stopping; use another",
            )),
            false => Ok(inside),
        }
    }

    /// Whether the node is stopping.
    pub fn closed(&self) -> bool {
        self.0.closed.load(Ordering::SeqCst)
    }

    /// Refuses new requests and waits until the running ones have left.
    pub async fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
        loop {
            let left = self.0.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.0.running.load(Ordering::SeqCst) == 0 {
                return;
            }
            left.await;
        }
    }

    /// What runs, for the log.
    pub fn running(&self) -> Vec<String> {
        match self.0.running.load(Ordering::SeqCst) {
            0 => Vec::new(),
            n => vec![format!("{n} gRPC requests")],
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        self.0.left.notify_waiters();
    }
}

/// Who calls, and until when: the smaller of the client's timeout and `most`.
pub(super) fn caller(metadata: &MetadataMap, most: Duration) -> Result<Caller, Status> {
    let tenant = match metadata.get(TENANT_HEADER) {
        None => DEFAULT_TENANT,
        Some(value) => value.to_str().unwrap_or_default(),
    };
    check_tenant(tenant).map_err(api_status)?;
    let wanted = metadata
        .get("grpc-timeout")
        .and_then(|v| timeout(v.to_str().ok()?));
    let most = wanted.map_or(most, |wanted| wanted.min(most));
    Ok(Caller {
        tenant: tenant.into(),
        deadline: Instant::now() + most,
    })
}

/// The value of a `grpc-timeout` header: up to eight digits and a unit.
fn timeout(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3_600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_clients_write_them() {
        assert_eq!(timeout("1500m"), Some(Duration::from_millis(1_500)));
        assert_eq!(
            timeout("99999999H"),
            Some(Duration::from_secs(99_999_999 * 3_600))
        );
        for bad in ["", "m", "12", "-1S", "123456789S", "1x", "1ä", "+1S"] {
            assert_eq!(timeout(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_smaller_time_counts() {
        let mut metadata = MetadataMap::new();
        metadata.insert(
            "grpc-timeout",
            tonic::metadata::AsciiMetadataValue::from_static("20S"),
        );
        let left = |most| {
            let caller = caller(&metadata, Duration::from_secs(most)).unwrap();
            caller
                .deadline
                .saturating_duration_since(Instant::now())
                .as_secs()
        };
        assert!((18..=20).contains(&left(100)));
        assert!(left(10) <= 10);
    }

    #[tokio::test]
    async fn a_closed_door_refuses_and_waits_for_those_inside() {
        let door = PublicGate::default();
        let inside = door.enter().unwrap();
        assert_eq!(door.running(), ["1 gRPC requests"]);
        let closing = tokio::spawn({
            let door = door.clone();
            async move { door.close().await }
        });
        while !door.closed() {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            door.enter().err().map(|e| super::super::code_of(&e)),
            Some(ErrorCode::ShuttingDown)
        );
        assert!(!closing.is_finished());
        drop(inside);
        closing.await.unwrap();
    }
}
