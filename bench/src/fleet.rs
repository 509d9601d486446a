//! A fleet of hosts as node_exporter shows them: series, and values that move as the real ones do. The same
//! arguments give the same bytes.

/// Series of one host.
pub const SERIES_PER_HOST: usize = 500;

const CPUS: usize = 16;
const MODES: [&str; 8] = [
    "idle", "iowait", "irq", "nice", "softirq", "steal", "system", "user",
];
const NETWORK_DEVICES: [&str; 6] = ["bond0", "docker0", "eth0", "eth1", "lo", "wg0"];
const DISKS: [&str; 4] = ["nvme0n1", "nvme1n1", "sda", "sdb"];
const MOUNTS: [(&str, &str, &str); 6] = [
    ("/dev/nvme0n1p1", "vfat", "/boot/efi"),
    ("/dev/nvme0n1p2", "ext4", "/"),
    ("/dev/nvme1n1", "xfs", "/var/lib/data"),
    ("/dev/sda1", "xfs", "/srv/archive"),
    ("tmpfs", "tmpfs", "/run"),
    ("tmpfs", "tmpfs", "/run/lock"),
];
const MEMORY: [&str; 40] = [
    "Active",
    "Active_anon",
    "Active_file",
    "AnonHugePages",
    "AnonPages",
    "Bounce",
    "Buffers",
    "Cached",
    "CmaFree",
    "CmaTotal",
    "CommitLimit",
    "Committed_AS",
    "DirectMap1G",
    "DirectMap2M",
    "DirectMap4k",
    "Dirty",
    "FileHugePages",
    "HardwareCorrupted",
    "Inactive",
    "Inactive_anon",
    "Inactive_file",
    "KReclaimable",
    "KernelStack",
    "Mapped",
    "MemAvailable",
    "MemFree",
    "MemTotal",
    "NFS_Unstable",
    "PageTables",
    "Percpu",
    "SReclaimable",
    "SUnreclaim",
    "Shmem",
    "Slab",
    "SwapCached",
    "SwapFree",
    "SwapTotal",
    "Unevictable",
    "Writeback",
    "WritebackTmp",
];
const NETSTAT: [&str; 40] = [
    "Icmp_InErrors",
    "Icmp_InMsgs",
    "Icmp_OutMsgs",
    "Icmp6_InErrors",
    "Icmp6_InMsgs",
    "Icmp6_OutMsgs",
    "IpExt_InOctets",
    "IpExt_OutOctets",
    "Ip6_InOctets",
    "Ip6_OutOctets",
    "TcpExt_ListenDrops",
    "TcpExt_ListenOverflows",
    "TcpExt_SyncookiesFailed",
    "TcpExt_SyncookiesRecv",
    "TcpExt_SyncookiesSent",
    "TcpExt_TCPSynRetrans",
    "TcpExt_TCPTimeouts",
    "TcpExt_TCPOFOQueue",
    "TcpExt_TCPRcvQDrop",
    "Tcp_ActiveOpens",
    "Tcp_CurrEstab",
    "Tcp_InErrs",
    "Tcp_InSegs",
    "Tcp_OutRsts",
    "Tcp_OutSegs",
    "Tcp_PassiveOpens",
    "Tcp_RetransSegs",
    "Udp_InDatagrams",
    "Udp_InErrors",
    "Udp_NoPorts",
    "Udp_OutDatagrams",
    "Udp_RcvbufErrors",
    "Udp_SndbufErrors",
    "UdpLite_InErrors",
    "Udp6_InDatagrams",
    "Udp6_InErrors",
    "Udp6_NoPorts",
    "Udp6_OutDatagrams",
    "Udp6_RcvbufErrors",
    "Udp6_SndbufErrors",
];
const VMSTAT: [&str; 10] = [
    "oom_kill",
    "pgfault",
    "pgmajfault",
    "pgpgin",
    "pgpgout",
    "pswpin",
    "pswpout",
    "pgscan_direct",
    "pgsteal_direct",
    "numa_foreign",
];
const SOCKSTAT: [&str; 10] = [
    "TCP_alloc",
    "TCP_inuse",
    "TCP_mem",
    "TCP_orphan",
    "TCP_tw",
    "UDP_inuse",
    "UDP_mem",
    "RAW_inuse",
    "FRAG_inuse",
    "sockets_used",
];

/// How a series' value moves from scrape to scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Grows by whole numbers.
    Counter,
    /// Grows by hundredths.
    Seconds,
    /// A whole number that goes up and down.
    Bytes,
    /// Hundredths, up and down.
    Load,
    /// All digits of a float, different each time.
    Noise,
    /// Stays.
    Constant,
}

#[derive(Debug)]
struct Shape {
    metric: String,
    labels: Vec<(&'static str, String)>,
    kind: Kind,
}

/// Which timestamps the samples of a scrape have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stamps {
    /// One for each host, as agents send them.
    Target,
    /// One for each series.
    Series,
}

/// Some hosts of the fleet, with the state of their series.
#[derive(Debug)]
pub struct Hosts {
    shapes: Vec<Shape>,
    series: Vec<Series>,
    random: Random,
    interval_ms: i64,
}

#[derive(Debug)]
struct Series {
    /// Label fields of a `prometheus.TimeSeries`.
    labels: Vec<u8>,
    kind: Kind,
    value: f64,
    /// When its host is scraped, after the interval's begin.
    offset_ms: i64,
    host: usize,
    /// Position in the shapes of a host.
    shape: usize,
}

impl Hosts {
    /// The hosts numbered `range`, scraped every `interval_ms`.
    pub fn new(range: std::ops::Range<usize>, interval_ms: i64, stamps: Stamps) -> Hosts {
        let shapes = host_shapes();
        let mut series = Vec::with_capacity(range.len() * shapes.len());
        let seed = range.start as u64 + 1;
        for host in range {
            let mut random = Random::new(host as u64 + 0x9e37_79b9);
            let offset = |random: &mut Random| (random.next() % interval_ms.unsigned_abs().max(1)) as i64;
            let of_host_ms = offset(&mut random);
            for (at, shape) in shapes.iter().enumerate() {
                let value = match shape.kind {
                    Kind::Counter | Kind::Bytes => (random.next() % 1_000_000_000) as f64,
                    Kind::Seconds | Kind::Load => (random.next() % 1_000_000) as f64 / 100.0,
                    Kind::Noise => random.unit(),
                    Kind::Constant => (random.next() % 2) as f64,
                };
                series.push(Series {
                    labels: encode_labels(host, shape),
                    kind: shape.kind,
                    value,
                    offset_ms: match stamps {
                        Stamps::Target => of_host_ms,
                        Stamps::Series => offset(&mut random),
                    },
                    host,
                    shape: at,
                });
            }
        }
        Hosts {
            shapes,
            series,
            random: Random::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d)),
            interval_ms,
        }
    }

    /// How many series there are.
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// Replaces about `percent` of the series by new ones, as if they were of hosts numbered `step` higher.
    pub fn churn(&mut self, percent: u32, step: usize) {
        let (random, shapes) = (&mut self.random, &self.shapes);
        for series in &mut self.series {
            if random.next() % 100 < u64::from(percent)
                && let Some(shape) = shapes.get(series.shape)
            {
                series.host += step;
                series.labels = encode_labels(series.host, shape);
            }
        }
    }

    /// Writes the next sample of each of the series `range` to `body`, as a `prometheus.WriteRequest`. The scrape
    /// begins at `scrape_ms`, milliseconds since the Unix epoch.
    pub fn scrape(&mut self, range: std::ops::Range<usize>, scrape_ms: i64, body: &mut Vec<u8>) {
        body.clear();
        let (random, interval_ms) = (&mut self.random, self.interval_ms);
        for series in self.series.get_mut(range).unwrap_or_default() {
            series.advance(random, interval_ms);
            // A sample is never larger than its two tags, eight bytes of value and ten of time.
            let mut sample = Vec::with_capacity(20);
            sample.push(0x09);
            sample.extend_from_slice(&series.value.to_le_bytes());
            sample.push(0x10);
            put_varint(&mut sample, (scrape_ms + series.offset_ms) as u64);
            body.push(0x0a);
            put_varint(body, (series.labels.len() + 2 + sample.len()) as u64);
            body.extend_from_slice(&series.labels);
            body.push(0x12);
            put_varint(body, sample.len() as u64);
            body.extend_from_slice(&sample);
        }
    }
}

impl Series {
    fn advance(&mut self, random: &mut Random, interval_ms: i64) {
        let roll = random.next();
        self.value = match self.kind {
            // Idle two times in three, as most counters of most hosts are.
            Kind::Counter if !roll.is_multiple_of(3) => self.value,
            Kind::Counter => self.value + (roll >> 8 & 0xffff) as f64,
            Kind::Seconds => {
                let hundredths = (self.value * 100.0).round()
                    + ((roll >> 8) % (interval_ms.unsigned_abs() / 10).max(1)) as f64;
                hundredths / 100.0
            }
            Kind::Bytes => (self.value + ((roll >> 8 & 0x1ff) as f64 - 255.0) * 4_096.0).max(0.0),
            Kind::Load => {
                (((self.value * 100.0).round() + (roll >> 8 & 0x3f) as f64 - 31.0) / 100.0).max(0.0)
            }
            Kind::Noise => random.unit() / 10.0,
            Kind::Constant => self.value,
        };
    }
}

/// The series of one host, `SERIES_PER_HOST` of them.
fn host_shapes() -> Vec<Shape> {
    let mut shapes = Vec::with_capacity(SERIES_PER_HOST);
    let mut add = |metric: String, labels: Vec<(&'static str, String)>, kind| {
        shapes.push(Shape { metric, labels, kind })
    };
    for cpu in 0..CPUS {
        let cpu = || ("cpu", cpu.to_string());
        for mode in MODES {
            add(
                "node_cpu_seconds_total".into(),
                vec![cpu(), ("mode", mode.into())],
                Kind::Seconds,
            );
        }
        for mode in ["nice", "user"] {
            add(
                "node_cpu_guest_seconds_total".into(),
                vec![cpu(), ("mode", mode.into())],
                Kind::Constant,
            );
        }
        for (what, kind) in [
            ("processed", Kind::Counter),
            ("dropped", Kind::Constant),
            ("times_squeezed", Kind::Constant),
        ] {
            add(format!("node_softnet_{what}_total"), vec![cpu()], kind);
        }
        for (what, kind) in [
            ("running_seconds", Kind::Noise),
            ("waiting_seconds", Kind::Noise),
            ("timeslices", Kind::Counter),
        ] {
            add(format!("node_schedstat_{what}_total"), vec![cpu()], kind);
        }
    }
    for device in NETWORK_DEVICES {
        for way in ["receive", "transmit"] {
            for (what, kind) in [
                ("bytes", Kind::Counter),
                ("packets", Kind::Counter),
                ("errs", Kind::Constant),
                ("drop", Kind::Constant),
            ] {
                add(
                    format!("node_network_{way}_{what}_total"),
                    vec![("device", device.into())],
                    kind,
                );
            }
        }
    }
    for device in DISKS {
        for what in [
            "reads_completed",
            "writes_completed",
            "read_bytes",
            "written_bytes",
        ] {
            add(
                format!("node_disk_{what}_total"),
                vec![("device", device.into())],
                Kind::Counter,
            );
        }
        for what in ["io_time", "read_time", "write_time"] {
            add(
                format!("node_disk_{what}_seconds_total"),
                vec![("device", device.into())],
                Kind::Seconds,
            );
        }
    }
    for (device, kind_of, mount) in MOUNTS {
        let labels = || {
            vec![
                ("device", device.into()),
                ("fstype", kind_of.into()),
                ("mountpoint", mount.into()),
            ]
        };
        for what in ["avail_bytes", "free_bytes", "files_free"] {
            add(format!("node_filesystem_{what}"), labels(), Kind::Bytes);
        }
        for what in ["size_bytes", "files", "readonly"] {
            add(format!("node_filesystem_{what}"), labels(), Kind::Constant);
        }
    }
    MEMORY
        .iter()
        .for_each(|what| add(format!("node_memory_{what}_bytes"), Vec::new(), Kind::Bytes));
    NETSTAT
        .iter()
        .for_each(|what| add(format!("node_netstat_{what}"), Vec::new(), Kind::Counter));
    VMSTAT
        .iter()
        .for_each(|what| add(format!("node_vmstat_{what}"), Vec::new(), Kind::Counter));
    SOCKSTAT
        .iter()
        .for_each(|what| add(format!("node_sockstat_{what}"), Vec::new(), Kind::Bytes));
    ["node_load1", "node_load5", "node_load15"]
        .iter()
        .for_each(|what| add((*what).into(), Vec::new(), Kind::Load));
    for collector in shapes.len()..SERIES_PER_HOST {
        shapes.push(Shape {
            metric: "node_scrape_collector_duration_seconds".into(),
            labels: vec![("collector", format!("collector-{collector}"))],
            kind: Kind::Noise,
        });
    }
    shapes
}

/// Label fields of a `prometheus.TimeSeries`, sorted by name.
fn encode_labels(host: usize, shape: &Shape) -> Vec<u8> {
    let region = ["eu-central", "eu-west", "us-east"]
        .get(host % 3)
        .copied()
        .unwrap_or_default();
    let mut labels = vec![
        ("__name__", shape.metric.clone()),
        ("cluster", format!("{region}-{}", host % 7)),
        ("instance", format!("node-{host:05}.{region}.example.com:9100")),
        ("job", "node".to_owned()),
    ];
    labels.extend(shape.labels.iter().cloned());
    labels.sort();
    let mut out = Vec::with_capacity(200);
    for (name, value) in labels {
        let mut label = Vec::with_capacity(name.len() + value.len() + 4);
        put_text(&mut label, 0x0a, name);
        put_text(&mut label, 0x12, &value);
        out.push(0x0a);
        put_varint(&mut out, label.len() as u64);
        out.extend_from_slice(&label);
    }
    out
}

fn put_text(out: &mut Vec<u8>, tag: u8, text: &str) {
    out.push(tag);
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// SplitMix64: small, fast, and the same everywhere.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// From 0 to 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_host_has_its_number_of_distinct_series() {
        let shapes = host_shapes();
        let distinct: BTreeSet<Vec<u8>> = shapes.iter().map(|shape| encode_labels(7, shape)).collect();
        assert_eq!((shapes.len(), distinct.len()), (SERIES_PER_HOST, SERIES_PER_HOST));
    }

    #[test]
    fn the_same_arguments_give_the_same_bytes() {
        let bytes = || {
            let mut hosts = Hosts::new(3..5, 15_000, Stamps::Target);
            let (mut all, mut body) = (Vec::new(), Vec::new());
            for scrape in 0..3 {
                hosts.scrape(100..900, 1_000_000 + scrape * 15_000, &mut body);
                all.extend_from_slice(&body);
            }
            all
        };
        assert_eq!(bytes(), bytes());
        assert!(bytes().len() > 3 * 800 * 100);
    }

    #[test]
    fn churn_replaces_its_share_of_the_series_by_new_ones() {
        let mut hosts = Hosts::new(0..10, 15_000, Stamps::Series);
        let labels = |hosts: &Hosts| -> BTreeSet<Vec<u8>> {
            hosts.series.iter().map(|series| series.labels.clone()).collect()
        };
        let before = labels(&hosts);
        hosts.churn(5, 10);
        let after = labels(&hosts);
        let kept = before.intersection(&after).count();
        assert_eq!(after.len(), 5_000);
        assert!((4_650..4_850).contains(&kept), "{kept}");
    }
}
