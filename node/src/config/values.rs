//! The kinds of values that configurations have besides numbers, texts and times: sizes, addresses, choices.

use std::fmt;
use std::net::SocketAddr;

use quorate_query::Features;
use quorate_storage::GoRegex;

use super::slot::{Slot, leaf, wrong};

leaf!(
    ByteSize,
    Option<HostPort>,
    Balance,
    ReadBalance,
    ReadLevel,
    LogFormat,
    LogFilter,
    QueryFeatures,
    OriginPattern
);

/// A number of bytes. Written with a unit, `64MiB`, or plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const BYTE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl ByteSize {
    /// `count` mebibytes.
    pub const fn mib(count: u64) -> ByteSize {
        ByteSize(count << 20)
    }

    /// In bytes, for APIs that count memory.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = BYTE_UNITS
            .iter()
            .take(4)
            .find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit));
        match exact {
            Some((name, unit)) => write!(out, "{}{name}", self.0 / unit),
            None => write!(out, "{}", self.0),
        }
    }
}

impl Slot for ByteSize {
    fn set(&mut self, text: &str) -> Result<(), String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = match unit.trim_start() {
            "" => Some(1),
            name => BYTE_UNITS
                .iter()
                .find(|(unit, _)| *unit == name)
                .map(|(_, bytes)| *bytes),
        };
        let bytes = number
            .parse::<u64>()
            .ok()
            .zip(unit)
            .and_then(|(number, unit)| number.checked_mul(unit));
        *self = ByteSize(bytes.ok_or_else(|| wrong(self.expected(), text))?);
        Ok(())
    }
    fn show(&self) -> String {
        self.to_string()
    }
    fn expected(&self) -> &'static str {
        "a size like 64MiB, 1GiB or 500MB"
    }
}

/// A host name or IP address with a port, as others dial it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Name or IP address; an IPv6 address without its brackets.
    pub host: String,
    /// Never 0.
    pub port: u16,
}

/// What [`HostPort::parse`] takes.
pub(super) const HOST_PORT: &str =
    "an address that others can dial, like quorate-1.example.com:7401 or 10.0.0.1:7401";

impl HostPort {
    /// Reads `host:port` or `[ipv6]:port`. The host must be one that can be dialled: not `0.0.0.0`.
    pub fn parse(text: &str) -> Result<HostPort, String> {
        let parts = match text.strip_prefix('[') {
            Some(rest) => rest
                .split_once("]:")
                .filter(|(host, _)| host.parse::<std::net::Ipv6Addr>().is_ok()),
            None => text.rsplit_once(':').filter(|(host, _)| is_host(host)),
        };
        let (host, port) = parts.ok_or_else(|| wrong(HOST_PORT, text))?;
        let port = port
            .parse::<u16>()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| wrong(HOST_PORT, text))?;
        if host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_unspecified())
        {
            return Err(format!(
                "{}: {host} is every address, nobody can dial it",
                wrong(HOST_PORT, text)
            ));
        }
        Ok(HostPort {
            host: host.to_string(),
            port,
        })
    }
}

/// Whether `host` can be a DNS name or an IPv4 address.
fn is_host(host: &str) -> bool {
    let digits_and_dots = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let label_ok = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    host.len() <= 253
        && host.trim_end_matches('.').split('.').all(label_ok)
        && (!digits_and_dots || host.parse::<std::net::Ipv4Addr>().is_ok())
}

impl fmt::Display for HostPort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(out, "[{}]:{}", self.host, self.port),
            false => write!(out, "{}:{}", self.host, self.port),
        }
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        HostPort {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }
}

impl Slot for Option<HostPort> {
    fn set(&mut self, text: &str) -> Result<(), String> {
        *self = match text {
            "" => None,
            _ => Some(HostPort::parse(text)?),
        };
        Ok(())
    }
    fn show(&self) -> String {
        self.as_ref().map(ToString::to_string).unwrap_or_default()
    }
    fn expected(&self) -> &'static str {
        HOST_PORT
    }
}

/// Declares a value with a fixed list of names.
macro_rules! choice {
    ($(#[doc = $about:literal])+ $name:ident, $expected:literal, $( $(#[doc = $doc:literal])+ $variant:ident = $text:literal, )+) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $( $(#[doc = $doc])+ $variant, )+
        }

        impl $name {
            /// The name in files, flags and request parameters.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }

            /// The value of this name.
            pub fn from_name(text: &str) -> Option<$name> {
                match text { $($text => Some($name::$variant),)+ _ => None }
            }
        }

        impl Slot for $name {
            fn set(&mut self, text: &str) -> Result<(), String> {
                *self = $name::from_name(text).ok_or_else(|| wrong($expected, text))?;
                Ok(())
            }
            fn show(&self) -> String {
                self.as_str().to_string()
            }
            fn expected(&self) -> &'static str {
                $expected
            }
        }
    };
}

choice! {
    /// How a node chooses among peers that could all serve.
    Balance, "round_robin or weighted",
    /// Each in turn.
    RoundRobin = "round_robin",
    /// In proportion to the nodes' weights.
    Weighted = "weighted",
}

choice! {
    /// How a node chooses among replicas that may serve a read.
    ReadBalance, "local_first, round_robin or weighted",
    /// This node's own replica while it can keep the read's promise, else the others in turn.
    LocalFirst = "local_first",
    /// Each in turn.
    RoundRobin = "round_robin",
    /// In proportion to the nodes' weights.
    Weighted = "weighted",
}

choice! {
    /// What a read promises.
    ReadLevel, "linearizable, bounded or local",
    /// Every write acknowledged before the query began is visible on every shard it touches.
    Linearizable = "linearizable",
    /// No replica read is older than the bound.
    Bounded = "bounded",
    /// Whatever a replica has.
    Local = "local",
}

choice! {
    /// How log lines look.
    LogFormat, "text or json",
    /// For people.
    Text = "text",
    /// One JSON object a line.
    Json = "json",
}

/// A level, or levels by module: `info,quorate_node=debug`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(pub String);

impl Slot for LogFilter {
    fn set(&mut self, text: &str) -> Result<(), String> {
        let levels = ["off", "error", "warn", "info", "debug", "trace"];
        // `EnvFilter` takes any word for a module's name, so that a misspelt level would silence the log.
        let known = text.split(',').all(|part| match part.rsplit_once('=') {
            Some((_, level)) => levels.contains(&level),
            None => levels.contains(&part),
        });
        if !known || tracing_subscriber::EnvFilter::try_new(text).is_err() {
            return Err(wrong(self.expected(), text));
        }
        *self = LogFilter(text.to_string());
        Ok(())
    }
    fn show(&self) -> String {
        self.0.clone()
    }
    fn expected(&self) -> &'static str {
        "off, error, warn, info, debug or trace, or levels by module like info,quorate_node=debug"
    }
}

/// Names of PromQL's experimental parts, separated by commas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryFeatures(pub Features);

impl Slot for QueryFeatures {
    fn set(&mut self, text: &str) -> Result<(), String> {
        let names: Vec<&str> = text
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .collect();
        *self = QueryFeatures(Features::from_names(&names).map_err(|_| wrong(self.expected(), text))?);
        Ok(())
    }
    fn show(&self) -> String {
        self.0.names().join(",")
    }
    fn expected(&self) -> &'static str {
        "names like promql-experimental-functions or promql-extended-range-selectors, separated by commas"
    }
}

/// A regular expression on origins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginPattern(pub String);

impl Slot for OriginPattern {
    fn set(&mut self, text: &str) -> Result<(), String> {
        GoRegex::new_anchored(text).map_err(|error| format!("{}: {error}", wrong(self.expected(), text)))?;
        *self = OriginPattern(text.to_string());
        Ok(())
    }
    fn show(&self) -> String {
        self.0.clone()
    }
    fn expected(&self) -> &'static str {
        "a regular expression, such as https://grafana\\.example\\.org"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let mut size = ByteSize(0);
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("64 MiB", 64 << 20),
            ("1000", 1000),
            ("5KB", 5000),
            ("0", 0),
        ] {
            assert_eq!(size.set(text), Ok(()), "{text}");
            assert_eq!(size, ByteSize(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5GiB", "64mib", "64 parsecs", "99999999TiB"] {
            assert!(size.set(text).is_err(), "{text}");
        }
        assert_eq!(ByteSize(64 << 20).to_string(), "64MiB");
        assert_eq!(ByteSize(1000).to_string(), "1000");
        assert_eq!(ByteSize(0).to_string(), "0");
    }

    #[test]
    fn addresses() {
        for text in [
            "localhost:1",
            "10.0.0.1:65535",
            "[::1]:80",
            "a-b.c_d.example:7401",
        ] {
            assert_eq!(HostPort::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "host",
            "host:",
            ":80",
            "host:0",
            "host:70000",
            "0.0.0.0:80",
            "[::]:80",
            "::1:80",
            "1.2.3:80",
            "-a:80",
            "a b:80",
            "[x]:80",
            "http://a:80",
        ] {
            assert!(HostPort::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn log_filters() {
        let mut filter = LogFilter("info".into());
        assert!(filter.set("info,quorate_node=debug").is_ok());
        for text in ["", "inof", "info,quorate_node=loud"] {
            assert!(filter.set(text).is_err(), "{text}");
        }
    }
}
