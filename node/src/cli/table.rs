//! Tables and numbers for people.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use quorate_client::ReadReport;

/// Characters a line may have where stdout is no terminal.
const DEFAULT_WIDTH: u16 = 100;

/// A table with a header in the style of all commands. Columns in `right` are aligned right.
pub(super) fn table<const N: usize>(header: [&str; N], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header);
    for at in right {
        if let Some(column) = table.column_mut(*at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The terminal's width in characters, or a default.
pub(super) fn terminal_width() -> usize {
    usize::from(Table::new().width().unwrap_or(DEFAULT_WIDTH)).clamp(40, 400)
}

/// A value as Prometheus prints it: the shortest decimal that reads back as the same.
pub(super) fn show_value(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 {
            "+Inf".to_owned()
        } else {
            "-Inf".to_owned()
        }
    } else {
        value.to_string()
    }
}

/// A value for an axis or a summary: about four digits, with an SI prefix.
pub(super) fn show_rounded(value: f64) -> String {
    const PREFIXES: [(f64, &str); 5] = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")];
    if !value.is_finite() {
        return show_value(value);
    }
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e15).contains(&size) {
        return format!("{value:.3e}");
    }
    let (unit, prefix) = PREFIXES
        .into_iter()
        .find(|(unit, _)| size >= *unit)
        .unwrap_or((1.0, ""));
    let scaled = value / unit;
    let decimals = match scaled.abs() {
        100.0.. => 1,
        10.0.. => 2,
        1.0.. => 3,
        _ => 4,
    };
    let text = format!("{scaled:.decimals$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text}{prefix}")
}

/// One line about what was read.
pub(super) fn show_report(report: &ReadReport) -> String {
    let level = if report.level.is_empty() {
        "unstated"
    } else {
        report.level
    };
    let mut nodes: Vec<u64> = report.shards.iter().map(|shard| shard.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let nodes: Vec<String> = nodes.iter().map(u64::to_string).collect();
    let mut text = format!("read: {level}, {} shard(s)", report.shards.len());
    if !nodes.is_empty() {
        text.push_str(&format!(" at node(s) {}", nodes.join(" ")));
    }
    let stalest = report.shards.iter().filter_map(|shard| shard.staleness).max();
    if let Some(stalest) = stalest.filter(|stalest| !stalest.is_zero()) {
        text.push_str(&format!(", at most {} ms old", stalest.as_millis()));
    }
    text
}

/// Warnings and infos go to stderr, so that they don't disturb what is piped.
pub(super) fn show_notes(warnings: &[String], infos: &[String]) {
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    for info in infos {
        eprintln!("info: {info}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quorate_client::ShardRead;

    use super::*;

    #[test]
    fn numbers() {
        for (value, exact, rounded) in [
            (0.0, "0", "0"),
            (-1.5, "-1.5", "-1.5"),
            (1_234_567.0, "1234567", "1.235M"),
            (0.25, "0.25", "0.25"),
            (1e-9, "0.000000001", "1.000e-9"),
            (f64::INFINITY, "+Inf", "+Inf"),
            (f64::NEG_INFINITY, "-Inf", "-Inf"),
            (f64::NAN, "NaN", "NaN"),
            (100.0, "100", "100"),
            (1_500.0, "1500", "1.5k"),
        ] {
            assert_eq!(
                (show_value(value).as_str(), show_rounded(value).as_str()),
                (exact, rounded)
            );
        }
    }

    #[test]
    fn reports() {
        let shard = |shard, node, staleness_ms: Option<u64>| ShardRead {
            shard,
            node,
            applied_before: 1,
            applied_after: 1,
            staleness: staleness_ms.map(Duration::from_millis),
        };
        let shards = vec![shard(1, 3, Some(40)), shard(2, 1, Some(250)), shard(3, 3, None)];
        let report = ReadReport {
            level: "bounded",
            shards,
        };
        assert_eq!(
            show_report(&report),
            "read: bounded, 3 shard(s) at node(s) 1 3, at most 250 ms old"
        );
        assert_eq!(show_report(&ReadReport::default()), "read: unstated, 0 shard(s)");
    }
}
