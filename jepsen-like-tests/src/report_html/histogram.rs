//! How long shards were without a leader that acknowledges.

use super::markup::{Grouped, Markup, Millis, Px};
use crate::report::quantile;

const WIDTH: f64 = 520.0;
const LEFT: f64 = 34.0;
const RIGHT: f64 = 510.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 176.0;
const HEIGHT: f64 = 204.0;
/// Bars there are at most, the one for whatever took longer included.
const BARS: usize = 31;

/// Bars of equal width from zero on.
#[derive(Debug, PartialEq)]
struct Bars {
    width_ms: f64,
    counts: Vec<u64>,
    /// Beyond the last bar.
    longer: u64,
}

impl Bars {
    fn of(sorted_ms: &[f64]) -> Bars {
        // A few that took very long must not press all others into one bar.
        let typical_ms = quantile(sorted_ms, 0.98).unwrap_or(0.0).max(1_000.0);
        let width_ms = [50.0, 100.0, 200.0, 250.0, 500.0, 1_000.0, 2_000.0, 5_000.0]
            .into_iter()
            .find(|width_ms| typical_ms / width_ms < (BARS - 1) as f64)
            .unwrap_or((typical_ms / (BARS - 2) as f64 / 1_000.0).ceil() * 1_000.0);
        let bars = (typical_ms / width_ms).floor() as usize + 1;
        let mut counts = vec![0; bars];
        let mut longer = 0;
        for ms in sorted_ms {
            match counts.get_mut((ms.max(0.0) / width_ms) as usize) {
                Some(count) => *count += 1,
                None => longer += 1,
            }
        }
        Bars {
            width_ms,
            counts,
            longer,
        }
    }
}

/// Draws how long failovers took.
pub(crate) fn draw(markup: &mut Markup, times_ms: &[f64]) {
    let mut sorted_ms = times_ms.to_vec();
    sorted_ms.sort_by(f64::total_cmp);
    let bars = Bars::of(&sorted_ms);
    let most = bars.counts.iter().copied().chain([bars.longer]).max();
    let most = most.unwrap_or(0).max(1) as f64;
    let slots = bars.counts.len() + usize::from(bars.longer > 0);
    let slot = (RIGHT - LEFT) / slots as f64;
    let view = format!("0 0 {WIDTH} {HEIGHT}");
    let label = "histogram of failover times";
    markup.element(
        "svg",
        &[("viewBox", &view), ("role", &"img"), ("aria-label", &label)],
        |svg| {
            svg.empty(
                "line",
                &[
                    ("class", &"grid"),
                    ("x1", &LEFT),
                    ("x2", &RIGHT),
                    ("y1", &BOTTOM),
                    ("y2", &BOTTOM),
                ],
            );
            for (at, count) in bars.counts.iter().enumerate() {
                let from_ms = at as f64 * bars.width_ms;
                let title = format!(
                    "{} to {}: {}",
                    Millis(from_ms),
                    Millis(from_ms + bars.width_ms),
                    Grouped(*count)
                );
                bar(svg, LEFT + slot * at as f64, slot, *count as f64 / most, &title);
            }
            if bars.longer > 0 {
                let from_ms = bars.counts.len() as f64 * bars.width_ms;
                let title = format!("{} and longer: {}", Millis(from_ms), Grouped(bars.longer));
                bar(
                    svg,
                    LEFT + slot * (slots - 1) as f64,
                    slot,
                    bars.longer as f64 / most,
                    &title,
                );
            }
            scale(svg, &bars, slot, most);
            for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
                let Some(ms) = quantile(&sorted_ms, share) else {
                    continue;
                };
                let x = (LEFT + slot * ms / bars.width_ms).min(RIGHT - slot / 2.0);
                quantile_mark(svg, x, name, ms);
            }
        },
    );
}

fn bar(svg: &mut Markup, x: f64, slot: f64, share: f64, title: &str) {
    let height = (BOTTOM - TOP - 18.0) * share;
    if height <= 0.0 {
        return;
    }
    let attributes: &[super::markup::Attribute] = &[
        ("class", &"bar"),
        ("x", &Px(x + 0.8)),
        ("y", &Px(BOTTOM - height.max(1.0))),
        ("width", &Px((slot - 1.6).max(1.0))),
        ("height", &Px(height.max(1.0))),
    ];
    svg.element("rect", attributes, |rect| rect.leaf("title", &[], title));
}

fn scale(svg: &mut Markup, bars: &Bars, slot: f64, most: f64) {
    let every = bars.counts.len().div_ceil(6).max(1);
    for at in (0..=bars.counts.len()).step_by(every) {
        let x = Px(LEFT + slot * at as f64);
        svg.leaf(
            "text",
            &[("class", &"time"), ("x", &x), ("y", &(BOTTOM + 15.0))],
            Millis(at as f64 * bars.width_ms),
        );
    }
    svg.leaf(
        "text",
        &[("class", &"scale"), ("x", &(LEFT - 6.0)), ("y", &(TOP + 22.0))],
        Grouped(most as u64),
    );
}

fn quantile_mark(svg: &mut Markup, x: f64, name: &str, ms: f64) {
    let line: &[super::markup::Attribute] = &[
        ("class", &"mark"),
        ("x1", &Px(x)),
        ("x2", &Px(x)),
        ("y1", &(TOP - 8.0)),
        ("y2", &BOTTOM),
    ];
    svg.empty("line", line);
    // To the left of the line where there is no room on the right.
    let (anchor, x) = if x > RIGHT - 90.0 {
        ("end", x - 5.0)
    } else {
        ("start", x + 5.0)
    };
    // One above the other: p50 and p99 may be close.
    let y = if name == "p50" { TOP + 12.0 } else { TOP };
    svg.leaf(
        "text",
        &[
            ("class", &"markname"),
            ("text-anchor", &anchor),
            ("x", &Px(x)),
            ("y", &y),
        ],
        format_args!("{name} {}", Millis(ms)),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_in_one_bar() {
        let mut times: Vec<f64> = (0..500).map(f64::from).collect();
        times.push(60_000.0);
        let bars = Bars::of(&times);
        assert_eq!(bars.width_ms, 50.0);
        assert_eq!(bars.counts.iter().sum::<u64>() + bars.longer, 501);
        assert_eq!(bars.longer, 1);
        assert_eq!(bars.counts[0], 50);
    }

    #[test]
    fn slow_ones_get_wide_bars_and_none_gets_none() {
        let slow: Vec<f64> = (0..100).map(|at| f64::from(at) * 1_000.0).collect();
        let bars = Bars::of(&slow);
        assert!(bars.counts.len() < BARS, "{bars:?}");
        assert_eq!(bars.counts.iter().sum::<u64>() + bars.longer, 100);
        assert_eq!(Bars::of(&[]).counts.iter().sum::<u64>(), 0);
    }
}
