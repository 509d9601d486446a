//! What processes used, from `/proc`, and what a directory holds.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

/// CPU time that a process has used so far, user and system, in seconds.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    // The name may hold anything, so fields are counted from its closing parenthesis.
    let (_, rest) = text.rsplit_once(") ").with_context(|| path.clone())?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).with_context(|| path.clone())?;
    Ok((user + system) / rustix::param::clock_ticks_per_second() as f64)
}

/// The most resident memory that a process has had, in bytes.
pub fn peak_memory_bytes(pid: u32) -> Result<u64> {
    Ok(field(&format!("/proc/{pid}/status"), "VmHWM:")? * 1_024)
}

/// Resident memory of a process now, in bytes.
pub fn memory_bytes(pid: u32) -> Result<u64> {
    Ok(field(&format!("/proc/{pid}/status"), "VmRSS:")? * 1_024)
}

/// Bytes that a process has had written to disks so far: whole pages, each time they were made dirty.
pub fn written_bytes(pid: u32) -> Result<u64> {
    field(&format!("/proc/{pid}/io"), "write_bytes:")
}

/// The number behind `name` in a file of lines.
fn field(path: &str, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    number.with_context(|| format!("{path} has no {name}"))
}

/// Disk space that everything below a directory takes. Files that vanish meanwhile count nothing.
pub fn disk_bytes(directory: &Path) -> u64 {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += if metadata.is_dir() {
            disk_bytes(&entry.path())
        } else {
            metadata.blocks() * 512
        };
    }
    bytes
}

/// The machine, for the record: model and number of processors.
pub fn machine() -> (String, usize) {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or_else(|| "unknown".to_owned(), |(_, model)| model.to_owned());
    (model, std::thread::available_parallelism().map_or(1, usize::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_use_grows() {
        let pid = std::process::id();
        let before = cpu_seconds(pid).unwrap();
        let mut sum = 0_u64;
        while cpu_seconds(pid).unwrap() <= before {
            sum = (0..1_000_000).fold(sum, |sum, number| std::hint::black_box(sum ^ number));
        }
        assert!(peak_memory_bytes(pid).unwrap() > 1 << 20);
        assert!(memory_bytes(pid).unwrap() <= peak_memory_bytes(pid).unwrap());
        written_bytes(pid).unwrap();
    }

    #[test]
    fn files_below_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("below")).unwrap();
        std::fs::write(directory.path().join("below/file"), vec![1; 100_000]).unwrap();
        assert!((100_000..200_000).contains(&disk_bytes(directory.path())));
    }
}
