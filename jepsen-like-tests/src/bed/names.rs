//! What everything of a bed is called. All names follow from the bed's number, so that cleaning up needs to
//! know nothing else.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::command;

/// Numbers of beds: 14 bits, each with a /24 of its own in 10.192.0.0/10.
const NUMBERS: std::ops::Range<u16> = 0..0x4000;
const ATTEMPTS: usize = 100;
/// The last part of the address at which the orchestrator, and with it every client, is reached.
const CLIENTS: u8 = 254;

/// The names of one bed, and its directory.
#[derive(Debug, Clone)]
pub(super) struct Names {
    number: u16,
    pub(super) directory: PathBuf,
}

impl Names {
    /// Takes a number that no other bed of this machine has, by creating its directory.
    pub(super) fn reserve() -> Result<Names> {
        let routes = command::run("ip", &["-4", "route", "show"])?;
        let links = command::run("ip", &["-o", "link", "show"])?;
        for _ in 0..ATTEMPTS {
            let number = rand::random_range(NUMBERS);
            let directory = std::env::temp_dir().join(format!("quorate-bed-{number:04x}"));
            let names = Names { number, directory };
            let network = names.address(0);
            let network = network.trim_end_matches('0');
            if routes.lines().any(|line| line.starts_with(network)) || links.contains(&names.bridge()) {
                continue;
            }
            match std::fs::create_dir(&names.directory) {
                Ok(()) => return Ok(names),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| names.directory.display().to_string()),
            }
        }
        bail!(
            "no free number for a bed: too many directories {}",
            std::env::temp_dir().join("quorate-bed-*").display()
        )
    }

    /// `qb` and the number: the bridge, or the orchestrator's end of the switch.
    pub(super) fn bridge(&self) -> String {
        format!("qb{:04x}", self.number)
    }

    /// The outer end of a node's link.
    pub(super) fn port(&self, node: u64) -> String {
        format!("{}v{node}", self.bridge())
    }

    pub(super) fn namespace(&self, node: u64) -> String {
        format!("{}n{node}", self.bridge())
    }

    pub(super) fn namespace_path(&self, node: u64) -> PathBuf {
        Path::new("/run/netns").join(self.namespace(node))
    }

    /// The table of packet filters.
    pub(super) fn table(&self) -> String {
        format!("quorate_{}", self.bridge())
    }

    fn address(&self, last: u64) -> String {
        format!("10.{}.{}.{last}", 192 + (self.number >> 8), self.number & 0xff)
    }

    pub(super) fn node_address(&self, node: u64) -> String {
        self.address(node)
    }

    pub(super) fn clients_address(&self) -> String {
        self.address(u64::from(CLIENTS))
    }

    /// Hardware addresses say to whom a frame goes; `None` is the orchestrator's.
    pub(super) fn hardware_address(&self, node: Option<u64>) -> [u8; 6] {
        let [high, low] = self.number.to_be_bytes();
        let last = node.and_then(|node| u8::try_from(node).ok()).unwrap_or(CLIENTS);
        // Locally administered.
        [0x02, b'q', b'b', high, low, last]
    }

    /// A directory of tests that need memory, not disk.
    pub(super) fn in_memory(&self) -> PathBuf {
        Path::new("/dev/shm").join(self.base())
    }

    /// `/tmp` may be memory; this is not.
    pub(super) fn on_disk(&self) -> PathBuf {
        Path::new("/var/tmp").join(self.base())
    }

    pub(super) fn base(&self) -> String {
        format!("quorate-bed-{:04x}", self.number)
    }

    /// A file of a node in the bed's directory.
    pub(super) fn file(&self, node: u64, what: &str) -> PathBuf {
        self.directory.join(format!("node-{node}{what}"))
    }

    /// Where a node's disk is mounted.
    pub(super) fn mountpoint(&self, node: u64) -> PathBuf {
        self.file(node, "")
    }
}

/// As tools want it.
pub(super) fn in_hex(hardware_address: [u8; 6]) -> String {
    hardware_address.map(|byte| format!("{byte:02x}")).join(":")
}
