//! Readers of the `/proc` files whose lines node_exporter turns into metrics by their own names.

/// User-visible ticks a second in `/proc/stat`: a fixed part of Linux's ABI on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// The modes of node_cpu_seconds_total, in the order of the columns.
const CPU_MODES: [&str; 8] = [
    "user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal",
];

/// The modes of node_cpu_guest_seconds_total, in the order of the columns that follow.
const GUEST_MODES: [&str; 2] = ["user", "nice"];

/// What `/proc/stat` says.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Stat {
    /// (cpu number, mode, seconds)
    pub(super) cpu_seconds: Vec<(String, &'static str, f64)>,
    /// (cpu number, mode, seconds)
    pub(super) guest_seconds: Vec<(String, &'static str, f64)>,
    /// (metric, value) for the lines with one number.
    pub(super) totals: Vec<(&'static str, f64)>,
}

/// Reads `/proc/stat`. Lines that are not understood are left out.
pub(super) fn stat(text: &str) -> Stat {
    let mut stat = Stat::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(key) = words.next() else { continue };
        if let Some(cpu) = key.strip_prefix("cpu").filter(|cpu| !cpu.is_empty()) {
            let mut seconds = words
                .map_while(|ticks| ticks.parse::<f64>().ok())
                .map(|ticks| ticks / TICKS_PER_SECOND);
            for mode in CPU_MODES {
                stat.cpu_seconds
                    .extend(seconds.next().map(|value| (cpu.to_owned(), mode, value)));
            }
            for mode in GUEST_MODES {
                stat.guest_seconds
                    .extend(seconds.next().map(|value| (cpu.to_owned(), mode, value)));
            }
            continue;
        }
        let metric = match key {
            "ctxt" => "node_context_switches_total",
            "btime" => "node_boot_time_seconds",
            "processes" => "node_forks_total",
            "procs_running" => "node_procs_running",
            "procs_blocked" => "node_procs_blocked",
            // The first number is the sum over all interrupts.
            "intr" => "node_intr_total",
            _ => continue,
        };
        stat.totals.extend(
            words
                .next()
                .and_then(|value| value.parse().ok())
                .map(|value| (metric, value)),
        );
    }
    stat
}

/// Reads `/proc/meminfo` into (metric, value). `Active(anon): 4 kB` is node_memory_Active_anon_bytes
/// 4096; lines without a unit, as of huge pages, are counts.
pub(super) fn meminfo(text: &str) -> Vec<(String, f64)> {
    let line = |line: &str| {
        let (key, rest) = line.split_once(':')?;
        let key: String = key.replace('(', "_").replace(')', "");
        let mut words = rest.split_ascii_whitespace();
        let value: f64 = words.next()?.parse().ok()?;
        Some(match words.next() {
            Some("kB") => (format!("node_memory_{key}_bytes"), value * 1024.0),
            _ => (format!("node_memory_{key}"), value),
        })
    };
    text.lines().filter_map(line).collect()
}

/// Reads `/proc/sys/fs/file-nr`: allocated and maximum file handles.
pub(super) fn file_nr(text: &str) -> Option<(f64, f64)> {
    let mut words = text.split_ascii_whitespace();
    let allocated = words.next()?.parse().ok()?;
    // The second column has been 0 since Linux 2.6.
    let maximum = words.nth(1)?.parse().ok()?;
    Some((allocated, maximum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_become_seconds_by_cpu_and_mode() {
        let text = "cpu  9 9 9 9\ncpu0 100 200 300 400 500 600 700 800 900 1000\ncpu3 1 2\n\
                    intr 55 1 2 3\nctxt 77\nbtime 1700000000\nprocesses 5\nsoftirq 1\n\ngarbage";
        let stat = stat(text);
        assert_eq!(stat.cpu_seconds.len(), 10);
        assert!(stat.cpu_seconds.contains(&("0".into(), "iowait", 5.0)));
        assert!(stat.cpu_seconds.contains(&("3".into(), "nice", 0.02)));
        assert_eq!(
            stat.guest_seconds,
            [("0".into(), "user", 9.0), ("0".into(), "nice", 10.0)]
        );
        assert!(stat.totals.contains(&("node_intr_total", 55.0)));
        assert_eq!(stat.totals.len(), 4);
    }

    #[test]
    fn meminfo_names_follow_the_lines() {
        let found = meminfo("MemTotal:  2 kB\nActive(anon):  4 kB\nHugePages_Free:  7\nnonsense\nX: y kB");
        let names: Vec<_> = found
            .iter()
            .map(|(name, value)| (name.as_str(), *value))
            .collect();
        assert_eq!(
            names,
            [
                ("node_memory_MemTotal_bytes", 2048.0),
                ("node_memory_Active_anon_bytes", 4096.0),
                ("node_memory_HugePages_Free", 7.0),
            ]
        );
    }

    #[test]
    fn file_handles() {
        assert_eq!(file_nr("757\t0\t2466170\n"), Some((757.0, 2_466_170.0)));
        assert_eq!(file_nr("1 2"), None);
    }
}
