//! The `process_*` figures that Prometheus's own clients give, from `/proc/self`.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Reads `/proc/self` at each scrape. What can't be read is left out.
#[derive(Debug)]
pub(super) struct ProcessCollector {
    started_at_seconds: f64,
}

impl Default for ProcessCollector {
    fn default() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        ProcessCollector {
            started_at_seconds: now.map_or(0.0, |since| since.as_secs_f64()),
        }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: f64| {
            let encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::<f64>::new(value).encode(encoder)
        };
        gauge(
            "process_start_time_seconds",
            "When this process started, in seconds since the Unix epoch",
            self.started_at_seconds,
        )?;
        let Ok(process) = procfs::process::Process::myself() else {
            return Ok(());
        };
        if let Ok(open) = process.fd_count() {
            gauge("process_open_fds", "Open file descriptors", open as f64)?;
        }
        if let Ok(limits) = process.limits()
            && let procfs::process::LimitValue::Value(most) = limits.max_open_files.soft_limit
        {
            gauge("process_max_fds", "Most open file descriptors", most as f64)?;
        }
        let Ok(stat) = process.stat() else { return Ok(()) };
        let resident = stat.rss.saturating_mul(procfs::page_size());
        gauge(
            "process_resident_memory_bytes",
            "Resident memory",
            resident as f64,
        )?;
        gauge(
            "process_virtual_memory_bytes",
            "Virtual memory",
            stat.vsize as f64,
        )?;
        gauge("process_threads", "Threads", stat.num_threads as f64)?;
        let ticks = stat.utime.saturating_add(stat.stime);
        let seconds = ticks as f64 / procfs::ticks_per_second() as f64;
        let help = "Processor time of user and system";
        let encoder = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
        ConstCounter::<f64>::new(seconds).encode(encoder)
    }
}
