//! Durations as Prometheus writes them: `15d`, `1h30m`, `300ms`.

use std::time::Duration;

/// Units from large to small with their length in milliseconds.
const UNITS: [(&str, u64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Parses a Prometheus duration: whole numbers with the units `y w d h m s ms`, each at most once and
/// from large to small. `0` needs no unit. `None` for anything else, and for what doesn't fit in
/// 64 bits of milliseconds as a signed number.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total_ms: u64 = 0;
    let mut next_unit = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at_checked(digits)?;
        let number: u64 = number.parse().ok()?;
        let letters = tail.bytes().take_while(u8::is_ascii_lowercase).count();
        let (name, tail) = tail.split_at_checked(letters)?;
        let unit = UNITS
            .iter()
            .position(|(unit, _)| *unit == name)
            .filter(|unit| *unit >= next_unit)?;
        next_unit = unit + 1;
        total_ms = total_ms.checked_add(number.checked_mul(UNITS.get(unit)?.1)?)?;
        rest = tail;
    }
    (next_unit > 0 && total_ms <= i64::MAX as u64).then(|| Duration::from_millis(total_ms))
}

/// Formats like Prometheus: years, weeks and days only where they leave no rest.
pub(crate) fn format(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".into();
    }
    let mut out = String::new();
    for (name, unit_ms) in UNITS {
        let whole_only = matches!(name, "y" | "w" | "d");
        if rest < unit_ms || (whole_only && !rest.is_multiple_of(unit_ms)) {
            continue;
        }
        out.push_str(&format!("{}{name}", rest / unit_ms));
        rest %= unit_ms;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_prometheus_reads() {
        for (text, ms) in [
            ("0", 0),
            ("0s", 0),
            ("300ms", 300),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("15d", 15 * 86_400_000),
            ("2w", 14 * 86_400_000),
            ("1y", 365 * 86_400_000),
            ("1d1ms", 86_400_001),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            "1",
            "s",
            "5 m",
            "-5m",
            "1.5h",
            "1m1h",
            "1m1m",
            "5M",
            "99999999999999y",
            "5mm",
            "ä",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn writes_what_prometheus_writes() {
        for text in [
            "0s",
            "300ms",
            "5m",
            "1h30m",
            "15d",
            "2w",
            "1y",
            "10s",
            "24h0ms1ms",
        ] {
            let Some(duration) = parse(text) else { continue };
            assert_eq!(parse(&format(duration)), Some(duration));
        }
        assert_eq!(format(Duration::from_secs(15 * 86_400)), "15d");
        assert_eq!(format(Duration::from_secs(14 * 86_400)), "2w");
        assert_eq!(format(Duration::from_secs(5_400)), "1h30m");
        assert_eq!(format(Duration::from_secs(36 * 3_600)), "36h");
    }
}
