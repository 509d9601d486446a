//! How much of a processor a node gets, by the control groups of either version.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// Where the hierarchies of the CPU controller are mounted: version 1, version 2.
pub(super) const ROOTS: [&str; 2] = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup"];
/// In microseconds.
const PERIOD: u64 = 100_000;

/// The control group of a node, which exists once the node was starved.
#[derive(Debug)]
pub(super) struct CpuGroup {
    parent: PathBuf,
    path: PathBuf,
    v2: bool,
}

impl CpuGroup {
    /// Of the node, in the group of its bed, which is called `base`.
    pub(super) fn new(base: &str, node: u64) -> CpuGroup {
        let [v1, v2] = ROOTS;
        let is_v2 =
            !Path::new(v1).join("cpu.cfs_quota_us").exists() && !Path::new(v1).join("cgroup.procs").exists();
        let parent = Path::new(if is_v2 { v2 } else { v1 }).join(base);
        let path = parent.join(format!("n{node}"));
        CpuGroup {
            parent,
            path,
            v2: is_v2,
        }
    }

    /// Lets the process have `percent` of one processor.
    pub(super) fn limit(&self, pid: u32, percent: u32) -> Result<()> {
        ensure!(percent > 0, "nothing can run on 0% of a processor");
        let quota = u64::from(percent) * PERIOD / 100;
        if self.v2 {
            write(Path::new("/sys/fs/cgroup/cgroup.subtree_control"), "+cpu")?;
        }
        std::fs::create_dir_all(&self.parent).with_context(|| self.parent.display().to_string())?;
        if self.v2 {
            write(&self.parent.join("cgroup.subtree_control"), "+cpu")?;
        }
        std::fs::create_dir_all(&self.path)?;
        if self.v2 {
            write(&self.path.join("cpu.max"), &format!("{quota} {PERIOD}"))?;
        } else {
            write(&self.path.join("cpu.cfs_period_us"), &PERIOD.to_string())?;
            write(&self.path.join("cpu.cfs_quota_us"), &quota.to_string())?;
        }
        self.join(pid)
    }

    /// Puts a process into the group if there is one.
    pub(super) fn join(&self, pid: u32) -> Result<()> {
        if self.path.exists() {
            write(&self.path.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// How many times the limit has stopped the node.
    pub(super) fn throttled(&self) -> Result<u64> {
        let path = self.path.join("cpu.stat");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let count = text.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        Ok(count.context("no nr_throttled")?.parse()?)
    }

    /// Takes the limit away.
    pub(super) fn lift(&self) -> Result<()> {
        match (self.path.exists(), self.v2) {
            (false, _) => Ok(()),
            (true, true) => write(&self.path.join("cpu.max"), "max"),
            (true, false) => write(&self.path.join("cpu.cfs_quota_us"), "-1"),
        }
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("can't write {text:?} to {}", path.display()))
}
