//! Ports on loopback that nobody listens on.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Mutex;

use anyhow::{Result, bail};

/// Below the kernel's range for outgoing connections, so that none of those takes a port between its
/// choice and its use.
const RANGE: std::ops::Range<u16> = 20_000..32_000;
const ATTEMPTS: usize = 1_000;

static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port that is free now and was given to nobody else in this process.
pub fn free() -> Result<u16> {
    let mut given = GIVEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for _ in 0..ATTEMPTS {
        let port = rand::random_range(RANGE);
        if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            given.insert(port);
            return Ok(port);
        }
    }
    bail!("no free port on loopback in {RANGE:?}")
}

/// `127.0.0.1` with a free port.
pub fn free_address() -> Result<String> {
    Ok(format!("127.0.0.1:{}", free()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let ports: BTreeSet<u16> = (0..50).map(|_| free().unwrap()).collect();
        assert_eq!(ports.len(), 50);
    }
}
