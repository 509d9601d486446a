//! Figures of node processes, under the names of Prometheus's client libraries.

use procfs::process::{LimitValue, Process};

use super::points::Points;

/// A node to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its HTTP address, the label `instance`.
    pub instance: String,
    /// Its process; none while it is down.
    pub pid: Option<u32>,
}

/// The process's figures, or none when it is gone or a zombie.
pub(super) fn gather(pid: u32) -> Option<Points> {
    let process = Process::new(i32::try_from(pid).ok()?).ok()?;
    let stat = process.stat().ok().filter(|stat| stat.state != 'Z')?;
    let ticks_per_second = procfs::ticks_per_second() as f64;
    let page_bytes = procfs::page_size() as f64;
    let boot_seconds = procfs::boot_time_secs().ok()? as f64;
    let mut points = Points::default();
    points.plain(
        "process_cpu_seconds_total",
        (stat.utime + stat.stime) as f64 / ticks_per_second,
    );
    points.plain("process_resident_memory_bytes", stat.rss as f64 * page_bytes);
    points.plain("process_virtual_memory_bytes", stat.vsize as f64);
    points.plain(
        "process_start_time_seconds",
        boot_seconds + stat.starttime as f64 / ticks_per_second,
    );
    points.plain("process_threads", stat.num_threads as f64);
    if let Ok(open) = process.fd_count() {
        points.plain("process_open_fds", open as f64);
    }
    if let Ok(limits) = process.limits()
        && let LimitValue::Value(most) = limits.max_open_files.soft_limit
    {
        points.plain("process_max_fds", most as f64);
    }
    if let Ok(io) = process.io() {
        points.plain("process_read_bytes_total", io.read_bytes as f64);
        points.plain("process_written_bytes_total", io.write_bytes as f64);
    }
    Some(points)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_has_figures_and_a_dead_one_none() {
        let points = gather(std::process::id()).unwrap();
        let value = |metric: &str| {
            points
                .iter()
                .find(|(name, _)| name.metric == metric)
                .map(|(_, value)| value)
        };
        assert!(value("process_resident_memory_bytes").unwrap() > 1e5);
        assert!(value("process_open_fds").unwrap() >= 3.0);
        let started = value("process_start_time_seconds").unwrap();
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs_f64();
        assert!(
            (now - 86_400.0..=now + 1.0).contains(&started),
            "{started} at {now}"
        );

        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert!(gather(pid).is_none());
    }
}
