//! The figures of this process, served at `/metrics`.
//!
//! What changes with each request is counted here as it happens. What already stands somewhere else,
//! such as a group's term or the memory of the process, is collected at the scrape.

mod figures;
mod process;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

pub use figures::{FigureSource, Figures, GroupFigures, HistogramFigures};

use crate::api::{WriteReport, limit_behind};
use crate::config::Config;
use crate::inflight::BytesInFlight;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProtocolLabels {
    protocol: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    handler: &'static str,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandlerLabels {
    handler: &'static str,
}

/// Counters, gauges and histograms, and what is collected at a scrape.
pub struct Metrics {
    registry: RwLock<Registry>,
    rejected: Family<ReasonLabels, Counter>,
    received: Family<ProtocolLabels, Counter>,
    duplicates: Counter,
    limited: Family<LimitLabels, Counter>,
    shed: Counter,
    requests: Family<RequestLabels, Counter>,
    latency: Family<HandlerLabels, Histogram>,
    connections: Gauge,
    inflight: BytesInFlight,
}

impl Metrics {
    /// The figures of a process with this configuration.
    pub fn new(config: &Config) -> Arc<Metrics> {
        let mut registry = Registry::default();
        let metrics = Metrics {
            rejected: Family::default(),
            received: Family::default(),
            duplicates: Counter::default(),
            limited: Family::default(),
            shed: Counter::default(),
            requests: Family::default(),
            latency: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_5, 2.0, 17))),
            connections: Gauge::default(),
            inflight: BytesInFlight::new(config.write.max_bytes_in_flight.0),
            registry: RwLock::default(),
        };
        registry.register(
            "quorate_rejected_samples",
            "Samples refused for good, by reason",
            metrics.rejected.clone(),
        );
        registry.register(
            "quorate_received_samples",
            "Samples received in writes that were resolved: stored, there already or refused",
            metrics.received.clone(),
        );
        registry.register(
            "quorate_duplicate_samples",
            "Samples received that were stored already with the same bits",
            metrics.duplicates.clone(),
        );
        registry.register(
            "quorate_limited_samples",
            "Samples refused because of a limit of a tenant or of this node, by limit",
            metrics.limited.clone(),
        );
        registry.register(
            "quorate_shed_writes",
            "Write requests refused because the memory budget was used up",
            metrics.shed.clone(),
        );
        registry.register(
            "quorate_http_requests",
            "HTTP requests answered, by handler and status code",
            metrics.requests.clone(),
        );
        registry.register(
            "quorate_http_request_duration_seconds",
            "Time from a request's headers to its response's headers, by handler",
            metrics.latency.clone(),
        );
        registry.register(
            "quorate_http_connections",
            "Open HTTP connections",
            metrics.connections.clone(),
        );
        registry.register_collector(Box::new(Fixed::new(config, metrics.inflight.clone())));
        registry.register_collector(Box::new(process::ProcessCollector::default()));
        *metrics.registry.write() = registry;
        Arc::new(metrics)
    }

    /// Registers more figures, such as a crate's own counters.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.write());
    }

    /// Adds the figures that `source` gives at each scrape: those of the node and of its groups.
    pub fn collect_from(&self, source: Arc<dyn FigureSource>) {
        self.register(|registry| registry.register_collector(Box::new(figures::FigureCollector(source))));
    }

    /// The budget of bytes in flight that all receivers of writes share.
    pub fn bytes_in_flight(&self) -> &BytesInFlight {
        &self.inflight
    }

    /// Counts the samples of a write that was resolved.
    pub fn count_write(&self, protocol: &'static str, report: &WriteReport) {
        let refused: u64 = report.rejections.iter().map(|refused| refused.samples).sum();
        let received = report
            .stored
            .saturating_add(report.duplicates)
            .saturating_add(refused);
        self.received
            .get_or_create(&ProtocolLabels { protocol })
            .inc_by(received);
        self.duplicates.inc_by(report.duplicates);
        for refused in &report.rejections {
            if let Some(limit) = limit_behind(refused.reason) {
                self.count_limited(limit, refused.samples);
            }
            self.rejected
                .get_or_create(&ReasonLabels {
                    reason: refused.reason,
                })
                .inc_by(refused.samples);
        }
    }

    /// Counts samples that a limit kept out.
    pub fn count_limited(&self, limit: &'static str, samples: u64) {
        self.limited.get_or_create(&LimitLabels { limit }).inc_by(samples);
    }

    /// Counts a write that was refused for want of memory.
    pub fn count_shed(&self) {
        self.shed.inc();
    }

    /// Counts an answered HTTP request.
    pub fn count_request(&self, handler: &'static str, code: u16, took: Duration) {
        self.requests
            .get_or_create(&RequestLabels { handler, code })
            .inc();
        self.latency
            .get_or_create(&HandlerLabels { handler })
            .observe(took.as_secs_f64());
    }

    /// The number of open HTTP connections.
    pub fn connections(&self) -> &Gauge {
        &self.connections
    }

    /// Everything, in the OpenMetrics text format.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        encode(&mut out, &self.registry.read())?;
        Ok(out)
    }
}

/// Figures that follow from the configuration, and the bytes in flight next to their limit.
#[derive(Debug)]
struct Fixed {
    inflight: BytesInFlight,
    limits: Vec<(&'static str, f64)>,
}

impl Fixed {
    fn new(config: &Config, inflight: BytesInFlight) -> Fixed {
        let (write, read) = (&config.write, &config.read);
        let limits = vec![
            ("write_bytes_in_flight", write.max_bytes_in_flight.0 as f64),
            ("write_request_bytes", write.max_request_bytes.0 as f64),
            ("write_decompressed_bytes", write.max_decompressed_bytes.0 as f64),
            ("write_request_seconds", write.request_timeout.as_secs_f64()),
            ("read_samples", read.max_samples as f64),
            (
                "read_memory_bytes_per_query",
                read.max_memory_bytes_per_query.0 as f64,
            ),
            ("read_concurrent", f64::from(read.max_concurrent)),
            ("read_seconds", read.timeout.as_secs_f64()),
            ("http_connections", f64::from(config.http_max_connections)),
            ("disk_reserve_bytes", config.disk_reserve_bytes.0 as f64),
        ];
        Fixed { inflight, limits }
    }
}

impl Collector for Fixed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let kind = prometheus_client::metrics::MetricType::Gauge;
        let used = ConstGauge::<u64>::new(self.inflight.used());
        let help = "Bytes that write requests being received and decoded hold";
        used.encode(encoder.encode_descriptor("quorate_bytes_in_flight", help, None, kind)?)?;

        let help = "The configured limits of this node";
        let mut limits = encoder.encode_descriptor("quorate_limit", help, None, kind)?;
        for (name, value) in &self.limits {
            let labels = [("limit", *name)];
            ConstGauge::<f64>::new(*value).encode(limits.encode_family(&labels)?)?;
        }

        let help = "1, labelled with what this program was built from";
        let mut build = encoder.encode_descriptor("quorate_build_info", help, None, kind)?;
        let labels = [("version", VERSION)];
        ConstGauge::<u64>::new(1).encode(build.encode_family(&labels)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Refused;

    #[test]
    fn figures_are_rendered() {
        let metrics = Metrics::new(&Config::default());
        let refused = Refused {
            reason: "too_old",
            samples: 3,
            first: String::new(),
        };
        metrics.count_write(
            "remote_write",
            &WriteReport {
                stored: 5,
                duplicates: 2,
                rejections: vec![refused],
            },
        );
        metrics.count_request("query", 200, Duration::from_millis(3));
        let charge = metrics.bytes_in_flight().charge(77).unwrap();
        let text = metrics.render().unwrap();
        for line in [
            "quorate_rejected_samples_total{reason=\"too_old\"} 3",
            "quorate_received_samples_total{protocol=\"remote_write\"} 10",
            "quorate_duplicate_samples_total 2",
            "quorate_http_requests_total{handler=\"query\",code=\"200\"} 1",
            "quorate_http_request_duration_seconds_count{handler=\"query\"} 1",
            "quorate_http_request_duration_seconds_bucket{le=\"0.004\",handler=\"query\"} 1",
            "quorate_bytes_in_flight 77",
            "quorate_limit{limit=\"write_bytes_in_flight\"} 268435456.0",
            "quorate_build_info{version=\"0.1.0\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_start_time_seconds",
        ] {
            let value = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
            assert!(value.is_some_and(|value| value >= 0.0), "{name}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        drop(charge);
    }
}
