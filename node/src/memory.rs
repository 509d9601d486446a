//! The memory budget of a node: above it writes are refused, before the machine swaps or the kernel ends
//! the process.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quorate_proto::ErrorCode;
use tokio_util::sync::CancellationToken;

use crate::api::ApiError;

/// How often the resident memory is read: one small file of /proc.
const CHECK: Duration = Duration::from_millis(200);
/// Writes are taken again below this share of the budget, so that a node does not go to and fro.
const RESUME_PERCENT: u64 = 90;
/// From this share on, shards are flushed before their time.
const RELIEVE_PERCENT: u64 = 80;
/// Freed memory is given back to the kernel at most so often: it takes a walk over the heap.
const TRIM_PAUSE: Duration = Duration::from_secs(5);
/// How long senders are asked to wait.
const RETRY_AFTER_MS: u64 = 2_000;
/// Below it nothing works.
const LEAST_BYTES: u64 = 64 << 20;

/// What a node may use, and what it does use.
#[derive(Debug)]
pub struct MemoryBudget {
    budget: u64,
    resident: AtomicU64,
    shedding: AtomicBool,
    sheds: AtomicU64,
}

impl MemoryBudget {
    /// A budget of so many bytes; 0 is half of what the machine or the control group has.
    pub fn new(bytes: u64) -> Arc<MemoryBudget> {
        let budget = match bytes {
            0 => (available() / 2).max(LEAST_BYTES),
            bytes => bytes,
        };
        Arc::new(MemoryBudget {
            budget,
            resident: AtomicU64::new(0),
            shedding: AtomicBool::new(false),
            sheds: AtomicU64::new(0),
        })
    }

    /// The budget in bytes.
    pub fn bytes(&self) -> u64 {
        self.budget
    }

    /// Resident memory of the process in bytes, as of a moment ago.
    pub fn resident(&self) -> u64 {
        self.resident.load(Ordering::Relaxed)
    }

    /// Whether writes are refused.
    pub fn sheds(&self) -> bool {
        self.shedding.load(Ordering::Relaxed)
    }

    /// How often that began.
    pub fn times_shed(&self) -> u64 {
        self.sheds.load(Ordering::Relaxed)
    }

    /// Whether memory should be given back: shards flush early.
    pub fn is_tight(&self) -> bool {
        self.resident() >= self.budget / 100 * RELIEVE_PERCENT
    }

    /// [`ErrorCode::Overloaded`] while writes are refused.
    pub fn check(&self) -> Result<(), ApiError> {
        if !self.sheds() {
            return Ok(());
        }
        let what = format!(
            "this node uses {} MiB of its memory budget of {} MiB (memory.budget_bytes); retry later or elsewhere",
            self.resident() >> 20,
            self.budget >> 20
        );
        Err(ApiError::new(ErrorCode::Overloaded, what).retry_after(RETRY_AFTER_MS))
    }

    /// Takes a reading; whether shedding began or ended by it.
    fn note(&self, resident: u64) -> bool {
        self.resident.store(resident, Ordering::Relaxed);
        let shed = match self.sheds() {
            false => resident > self.budget,
            true => resident > self.budget / 100 * RESUME_PERCENT,
        };
        let changed = self.shedding.swap(shed, Ordering::Relaxed) != shed;
        if changed && shed {
            self.sheds.fetch_add(1, Ordering::Relaxed);
        }
        changed
    }
}

/// Watches the resident memory until cancelled.
pub async fn watch_memory(memory: Arc<MemoryBudget>, stop: CancellationToken) {
    tracing::info!(budget_bytes = memory.bytes(), "memory budget");
    let mut trimmed = Instant::now();
    loop {
        match resident_bytes() {
            Some(resident) => {
                if memory.note(resident) {
                    let (budget, shedding) = (memory.bytes(), memory.sheds());
                    tracing::warn!(resident, budget, shedding, "memory crossed the budget");
                }
            }
            None => tracing::warn!("can't tell the resident memory from /proc/self/statm"),
        }
        if memory.is_tight() && trimmed.elapsed() >= TRIM_PAUSE {
            // What a flush has freed stays resident until the allocator is told to return it.
            let trimming = tokio::task::spawn_blocking(trim);
            let _ = trimming.await;
            trimmed = Instant::now();
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(CHECK) => {}
        }
    }
}

/// Returns free pages of the heap to the kernel.
#[allow(unsafe_code)]
fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes no pointers and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// The memory of the machine, or of the control group if that has less.
fn available() -> u64 {
    let info = rustix::system::sysinfo();
    let machine = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit).max(1));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = cgroup_limit(&groups, Path::new("/sys/fs/cgroup"));
    limit.map_or(machine, |limit| limit.min(machine))
}

/// The smallest limit of a process's control group and all groups around it. `groups` is the text of
/// `/proc/self/cgroup`. Inside of a container, the group that it names may not be there, and the root is
/// the container's own.
fn cgroup_limit(groups: &str, root: &Path) -> Option<u64> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (root, file): (PathBuf, _) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            "memory" => (root.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        let own = root.join(group.trim_start_matches('/'));
        for directory in own.ancestors().take_while(|d| d.starts_with(&root)) {
            let text = std::fs::read_to_string(directory.join(file)).unwrap_or_default();
            limits.extend(text.trim().parse::<u64>().ok());
        }
    }
    limits.into_iter().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shedding_ends_well_below_where_it_begins() {
        let memory = MemoryBudget::new(1_000_000);
        for (resident, sheds) in [
            (999_999, false),
            (1_000_001, true),
            (950_000, true),
            (900_001, true),
            (900_000, false),
            (1_000_000, false),
            (2_000_000, true),
        ] {
            memory.note(resident);
            assert_eq!(memory.sheds(), sheds, "{resident}");
            assert_eq!(memory.check().is_err(), sheds);
        }
        assert_eq!(memory.times_shed(), 2);
        let error = memory.check().unwrap_err();
        assert_eq!(error.code, ErrorCode::Overloaded);
        assert!(error.message.contains("memory.budget_bytes"), "{error}");
    }

    #[test]
    fn the_default_is_half_of_what_there_is() {
        let half = MemoryBudget::new(0).bytes();
        assert!(
            half >= LEAST_BYTES && half <= available() / 2 + LEAST_BYTES,
            "{half}"
        );
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn the_smallest_limit_of_a_group_and_those_around_it_counts() {
        let root = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("a/memory.max", "5000\n");
        put("a/b/memory.max", "max\n");
        assert_eq!(cgroup_limit("0::/a/b\n", root.path()), Some(5_000));
        assert_eq!(cgroup_limit("0::/c\n", root.path()), None);
        // In a container the group's own files are at the root.
        put("memory.max", "7000\n");
        assert_eq!(cgroup_limit("0::/not/there\n", root.path()), Some(7_000));
        put("memory/d/memory.limit_in_bytes", "9\n");
        assert_eq!(cgroup_limit("5:cpu:/d\n4:memory:/d\n", root.path()), Some(9));
        assert_eq!(cgroup_limit("nonsense\n", root.path()), None);
    }
}
