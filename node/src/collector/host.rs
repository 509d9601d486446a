//! This machine's figures, with the names, labels and filters of node_exporter.

use std::fs::read_to_string;

use procfs::net::DeviceStatus;
use procfs::{Current, DiskStat};
use rustix::system::uname;

use super::points::Points;
use super::proc_text;

const SECTOR_BYTES: f64 = 512.0;
const MS_PER_SECOND: f64 = 1_000.0;

/// File systems that hold no data of their own.
const PSEUDO_FILE_SYSTEMS: [&str; 24] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "fusectl",
    "hugetlbfs",
    "iso9660",
    "mqueue",
    "nsfs",
    "overlay",
    "proc",
    "procfs",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "squashfs",
    "sysfs",
    "tracefs",
];

/// Mount points below which node_exporter looks at nothing, as packaged by Debian.
const SYSTEM_MOUNTS: [&str; 6] = ["/dev", "/proc", "/run", "/sys", "/mnt", "/media"];
const CONTAINER_MOUNTS: [&str; 2] = ["/var/lib/docker/", "/var/lib/containers/storage/"];

/// A source of figures, one of node_exporter's collectors. It says whether it could be read.
type Source = fn(&mut Points) -> Option<()>;

/// All but the file systems, which can block.
const SOURCES: [(&str, Source); 8] = [
    ("stat", read_stat),
    ("meminfo", read_meminfo),
    ("loadavg", read_load),
    ("diskstats", read_disks),
    ("netdev", read_network),
    ("filefd", read_file_handles),
    ("vmstat", read_vmstat),
    ("uname", read_uname),
];

/// Reads everything but the file systems. A source that can't be read is left out and marked by
/// node_scrape_collector_success 0.
pub(super) fn gather(now_ms: i64) -> Points {
    let mut points = Points::default();
    for (name, source) in SOURCES {
        let readable = source(&mut points).is_some();
        success(&mut points, name, readable);
    }
    points.plain("node_time_seconds", now_ms as f64 / MS_PER_SECOND);
    success(&mut points, "time", true);
    points
}

/// Reads the file systems. Blocks as long as a network file system doesn't answer.
pub(super) fn gather_file_systems() -> Points {
    let mut points = Points::default();
    let readable = read_file_systems(&mut points).is_some();
    success(&mut points, "filesystem", readable);
    points
}

fn success(points: &mut Points, collector: &str, readable: bool) {
    let labels = vec![("collector", collector.to_owned())];
    points.add(
        "node_scrape_collector_success",
        labels,
        f64::from(u8::from(readable)),
    );
}

fn read_stat(points: &mut Points) -> Option<()> {
    let stat = proc_text::stat(&read_to_string("/proc/stat").ok()?);
    let columns = [
        ("node_cpu_seconds_total", stat.cpu_seconds),
        ("node_cpu_guest_seconds_total", stat.guest_seconds),
    ];
    for (metric, seconds) in columns {
        for (cpu, mode, value) in seconds {
            points.add(metric, vec![("cpu", cpu), ("mode", mode.to_owned())], value);
        }
    }
    for (metric, value) in stat.totals {
        points.plain(metric, value);
    }
    Some(())
}

fn read_meminfo(points: &mut Points) -> Option<()> {
    for (metric, value) in proc_text::meminfo(&read_to_string("/proc/meminfo").ok()?) {
        points.plain(metric, value);
    }
    Some(())
}

fn read_load(points: &mut Points) -> Option<()> {
    let load = procfs::LoadAverage::current().ok()?;
    for (metric, value) in [
        ("node_load1", load.one),
        ("node_load5", load.five),
        ("node_load15", load.fifteen),
    ] {
        // Shortest decimal of the single-precision value, as the kernel prints it.
        points.plain(metric, value.to_string().parse().unwrap_or(f64::from(value)));
    }
    Some(())
}

fn read_file_handles(points: &mut Points) -> Option<()> {
    let (allocated, maximum) = proc_text::file_nr(&read_to_string("/proc/sys/fs/file-nr").ok()?)?;
    points.plain("node_filefd_allocated", allocated);
    points.plain("node_filefd_maximum", maximum);
    Some(())
}

fn read_vmstat(points: &mut Points) -> Option<()> {
    for (key, value) in procfs::vmstat().ok()? {
        if is_wanted_vmstat(&key) {
            points.plain(format!("node_vmstat_{key}"), value as f64);
        }
    }
    Some(())
}

/// node_exporter's `^(oom_kill|pgpg|pswp|pg.*fault).*`.
fn is_wanted_vmstat(key: &str) -> bool {
    let faults = key.strip_prefix("pg").is_some_and(|rest| rest.contains("fault"));
    faults
        || ["oom_kill", "pgpg", "pswp"]
            .iter()
            .any(|prefix| key.starts_with(prefix))
}

fn read_uname(points: &mut Points) -> Option<()> {
    let names = uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    let labels = vec![
        ("sysname", text(names.sysname())),
        ("release", text(names.release())),
        ("version", text(names.version())),
        ("machine", text(names.machine())),
        ("nodename", text(names.nodename())),
        ("domainname", text(names.domainname())),
    ];
    points.add("node_uname_info", labels, 1.0);
    Some(())
}

fn read_disks(points: &mut Points) -> Option<()> {
    for disk in procfs::diskstats()
        .ok()?
        .iter()
        .filter(|disk| is_whole_disk(&disk.name))
    {
        for (metric, value) in disk_figures(disk) {
            if let Some(value) = value {
                points.add(
                    format!("node_disk_{metric}"),
                    vec![("device", disk.name.clone())],
                    value,
                );
            }
        }
    }
    Some(())
}

fn disk_figures(disk: &DiskStat) -> [(&'static str, Option<f64>); 17] {
    let count = |value: u64| Some(value as f64);
    let seconds = |ms: u64| Some(ms as f64 / MS_PER_SECOND);
    [
        ("reads_completed_total", count(disk.reads)),
        ("reads_merged_total", count(disk.merged)),
        ("read_bytes_total", Some(disk.sectors_read as f64 * SECTOR_BYTES)),
        ("read_time_seconds_total", seconds(disk.time_reading)),
        ("writes_completed_total", count(disk.writes)),
        ("writes_merged_total", count(disk.writes_merged)),
        (
            "written_bytes_total",
            Some(disk.sectors_written as f64 * SECTOR_BYTES),
        ),
        ("write_time_seconds_total", seconds(disk.time_writing)),
        ("io_now", count(disk.in_progress)),
        ("io_time_seconds_total", seconds(disk.time_in_progress)),
        (
            "io_time_weighted_seconds_total",
            seconds(disk.weighted_time_in_progress),
        ),
        ("discards_completed_total", disk.discards.and_then(count)),
        ("discards_merged_total", disk.discards_merged.and_then(count)),
        ("discarded_sectors_total", disk.sectors_discarded.and_then(count)),
        (
            "discard_time_seconds_total",
            disk.time_discarding.and_then(seconds),
        ),
        ("flush_requests_total", disk.flushes.and_then(count)),
        (
            "flush_requests_time_seconds_total",
            disk.time_flushing.and_then(seconds),
        ),
    ]
}

/// node_exporter's `^(ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$`, negated: partitions and memory
/// disks are left out.
fn is_whole_disk(device: &str) -> bool {
    let stem = device.trim_end_matches(|c: char| c.is_ascii_digit());
    if stem.len() == device.len() {
        return true;
    }
    let is_letter_disk = ["hd", "sd", "vd", "xvd"].iter().any(|kind| {
        stem.strip_prefix(kind)
            .is_some_and(|rest| rest.len() == 1 && rest.bytes().all(|b| b.is_ascii_lowercase()))
    });
    let is_nvme_partition = stem
        .strip_prefix("nvme")
        .and_then(|rest| rest.strip_suffix('p'))
        .is_some();
    !(matches!(stem, "ram" | "loop" | "fd") || is_letter_disk || is_nvme_partition)
}

fn read_network(points: &mut Points) -> Option<()> {
    for device in procfs::net::dev_status().ok()?.values() {
        for (metric, value) in network_figures(device) {
            let labels = vec![("device", device.name.clone())];
            points.add(format!("node_network_{metric}_total"), labels, value as f64);
        }
    }
    Some(())
}

fn network_figures(device: &DeviceStatus) -> [(&'static str, u64); 16] {
    [
        ("receive_bytes", device.recv_bytes),
        ("receive_packets", device.recv_packets),
        ("receive_errs", device.recv_errs),
        ("receive_drop", device.recv_drop),
        ("receive_fifo", device.recv_fifo),
        ("receive_frame", device.recv_frame),
        ("receive_compressed", device.recv_compressed),
        ("receive_multicast", device.recv_multicast),
        ("transmit_bytes", device.sent_bytes),
        ("transmit_packets", device.sent_packets),
        ("transmit_errs", device.sent_errs),
        ("transmit_drop", device.sent_drop),
        ("transmit_fifo", device.sent_fifo),
        ("transmit_colls", device.sent_colls),
        ("transmit_carrier", device.sent_carrier),
        ("transmit_compressed", device.sent_compressed),
    ]
}

fn read_file_systems(points: &mut Points) -> Option<()> {
    for mount in procfs::mounts().ok()? {
        if !holds_data(&mount.fs_vfstype, &mount.fs_file) {
            continue;
        }
        let labels = vec![
            ("device", mount.fs_spec),
            ("fstype", mount.fs_vfstype),
            ("mountpoint", mount.fs_file.clone()),
        ];
        let read_only = mount.fs_mntops.contains_key("ro");
        let stat = rustix::fs::statvfs(mount.fs_file.as_str());
        let mut add =
            |metric: &str, value: f64| points.add(format!("node_filesystem_{metric}"), labels.clone(), value);
        add("device_error", f64::from(u8::from(stat.is_err())));
        add("readonly", f64::from(u8::from(read_only)));
        if let Ok(stat) = stat {
            let block_bytes = stat.f_frsize as f64;
            add("size_bytes", stat.f_blocks as f64 * block_bytes);
            add("free_bytes", stat.f_bfree as f64 * block_bytes);
            add("avail_bytes", stat.f_bavail as f64 * block_bytes);
            add("files", stat.f_files as f64);
            add("files_free", stat.f_ffree as f64);
        }
    }
    Some(())
}

fn holds_data(file_system: &str, mount_point: &str) -> bool {
    let below = |parent: &&str| {
        mount_point
            .strip_prefix(*parent)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    !PSEUDO_FILE_SYSTEMS.contains(&file_system)
        && !SYSTEM_MOUNTS.iter().any(below)
        && !CONTAINER_MOUNTS
            .iter()
            .any(|parent| mount_point.starts_with(parent))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::io::{BufRead as _, BufReader, Read as _};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn partitions_and_memory_disks_are_left_out() {
        for whole in [
            "sda", "vda", "nvme0n1", "dm-0", "md127", "zram0", "sr0", "mmcblk0",
        ] {
            assert!(is_whole_disk(whole), "{whole}");
        }
        for part in ["sda1", "xvdb12", "nvme0n1p2", "ram0", "loop7", "fd0"] {
            assert!(!is_whole_disk(part), "{part}");
        }
    }

    #[test]
    fn pseudo_file_systems_and_system_mounts_are_left_out() {
        assert!(holds_data("ext4", "/"));
        assert!(holds_data("xfs", "/devices"));
        for (file_system, mount) in [
            ("proc", "/x"),
            ("tmpfs", "/dev/shm"),
            ("ext4", "/run"),
            ("ext4", "/var/lib/docker/a"),
        ] {
            assert!(!holds_data(file_system, mount), "{file_system} at {mount}");
        }
    }

    /// Metric names with the label names they occur with.
    type Shapes = BTreeMap<String, BTreeSet<Vec<String>>>;

    fn own_shapes() -> Shapes {
        let mut points = gather(1_700_000_000_000);
        points.extend(gather_file_systems());
        let mut shapes = Shapes::new();
        for (name, _) in points.iter() {
            let mut labels: Vec<String> = name.labels.iter().map(|(label, _)| (*label).to_owned()).collect();
            labels.sort();
            shapes.entry(name.metric.clone()).or_default().insert(labels);
        }
        shapes
    }

    #[test]
    fn every_required_figure_is_there() {
        let shapes = own_shapes();
        for metric in [
            "node_cpu_seconds_total",
            "node_memory_MemTotal_bytes",
            "node_memory_MemAvailable_bytes",
            "node_memory_Buffers_bytes",
            "node_memory_Cached_bytes",
            "node_memory_SwapTotal_bytes",
            "node_network_receive_bytes_total",
            "node_network_transmit_drop_total",
            "node_load1",
            "node_load15",
            "node_boot_time_seconds",
            "node_time_seconds",
            "node_uname_info",
            "node_context_switches_total",
            "node_intr_total",
            "node_forks_total",
            "node_procs_running",
            "node_procs_blocked",
            "node_filefd_maximum",
            "node_vmstat_pgfault",
        ] {
            assert!(shapes.contains_key(metric), "{metric} is missing");
        }
    }

    /// Starts a real node_exporter on a free port and reads its metrics; none where it isn't installed.
    fn exporter_metrics() -> Option<String> {
        let address = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().to_string()
        };
        let mut child = Command::new("prometheus-node-exporter")
            .arg(format!("--web.listen-address={address}"))
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while log.read_line(&mut line).unwrap() > 0 && !line.contains("TLS is disabled") {
            line.clear();
        }
        let mut text = String::new();
        // The log line comes just before the port is bound.
        for _ in 0..1_000 {
            if let Ok(mut answer) = ureq::get(format!("http://{address}/metrics")).call() {
                answer.body_mut().as_reader().read_to_string(&mut text).unwrap();
                break;
            }
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        Some(text)
    }

    fn exporter_shapes(text: &str) -> Shapes {
        let mut shapes = Shapes::new();
        for sample in quorate_ingest::parse_text(text, 0).unwrap() {
            let (mut metric, mut labels) = (String::new(), Vec::new());
            for (name, value) in sample.label_pairs() {
                match name {
                    "__name__" => metric = value.to_owned(),
                    name => labels.push(name.to_owned()),
                }
            }
            labels.sort();
            shapes.entry(metric).or_default().insert(labels);
        }
        shapes
    }

    #[test]
    fn names_and_labels_are_those_of_the_real_exporter() {
        let Some(text) = exporter_metrics() else {
            eprintln!("prometheus-node-exporter isn't installed: nothing to compare with");
            return;
        };
        let (own, real) = (own_shapes(), exporter_shapes(&text));
        assert!(
            real.contains_key("node_cpu_seconds_total"),
            "no metrics came: {text}"
        );
        for (metric, labels) in &own {
            assert_eq!(
                real.get(metric),
                Some(labels),
                "{metric} is not as node_exporter has it"
            );
        }
        // Everything that the real one has in the families we cover, but for what only netlink and udev tell.
        let families = [
            "node_cpu_",
            "node_memory_",
            "node_disk_",
            "node_filesystem_",
            "node_load",
            "node_vmstat_",
            "node_filefd_",
            "node_network_receive_",
            "node_network_transmit_",
            "node_procs_",
        ];
        let elsewhere = [
            "node_disk_info",
            "node_network_receive_nohandler_total",
            "node_network_transmit_queue_length",
        ];
        for metric in real
            .keys()
            .filter(|name| families.iter().any(|family| name.starts_with(family)))
        {
            assert!(
                own.contains_key(metric) || elsewhere.contains(&metric.as_str()),
                "{metric} is missing"
            );
        }
    }
}
