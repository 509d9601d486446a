//! The run over time, one panel below the other on one axis: faults, acknowledged samples, latency, leaders.

use std::collections::BTreeSet;

use super::family::{Family, kind_name};
use super::markup::{Clock, Grouped, Markup, Millis, Px};
use super::timeline::{Bucket, FaultWindow, Reign, Timeline};

const WIDTH: f64 = 1_080.0;
/// Left of it stand names and scales.
const LEFT: f64 = 150.0;
const RIGHT: f64 = 1_068.0;
const GAP: f64 = 34.0;
const FAULT_LANE: f64 = 16.0;
const LEADER_LANE: f64 = 14.0;
const PANEL: f64 = 116.0;
/// A fault is at least so wide, or nobody could point at it.
const MIN_BAR: f64 = 2.5;
/// The scale of latencies, in powers of ten of a millisecond.
const LATENCY_DECADES: std::ops::Range<i32> = -1..5;
/// Colours for nodes there are.
pub(crate) const NODE_COLOURS: u64 = 7;

struct Chart<'a> {
    timeline: &'a Timeline,
    /// How far down the panels reach so far.
    y: f64,
}

/// Draws everything that happened over time.
pub(crate) fn draw(markup: &mut Markup, timeline: &Timeline) {
    // Drawn first to learn the height, which the element's head must name.
    let mut panels = Markup::default();
    let mut chart = Chart { timeline, y: 22.0 };
    chart.faults(&mut panels);
    chart.throughput(&mut panels);
    chart.latency(&mut panels);
    chart.leaders(&mut panels);
    let height = chart.axis(&mut panels);
    let view = format!("0 0 {WIDTH} {height}");
    let label = "faults, throughput, latency and leaders over time";
    markup.element(
        "svg",
        &[("viewBox", &view), ("role", &"img"), ("aria-label", &label)],
        |svg| svg.append(panels),
    );
    markup.line();
}

impl Chart<'_> {
    fn x(&self, seconds: f64) -> f64 {
        let end_s = self.timeline.end_s.max(1e-3);
        LEFT + (RIGHT - LEFT) * (seconds / end_s).clamp(0.0, 1.0)
    }

    /// Begins a panel below the last one and returns its upper edge.
    fn panel(&mut self, markup: &mut Markup, title: &str, height: f64) -> f64 {
        let top = self.y;
        markup.leaf(
            "text",
            &[("class", &"title"), ("x", &LEFT), ("y", &Px(top - 9.0))],
            title,
        );
        self.y += height + GAP;
        top
    }

    fn faults(&mut self, markup: &mut Markup) {
        let kinds: BTreeSet<_> = self
            .timeline
            .faults
            .iter()
            .map(|fault| (Family::of(fault.kind), kind_name(fault.kind)))
            .collect();
        let height = FAULT_LANE * kinds.len().max(1) as f64;
        let top = self.panel(markup, "Faults", height);
        if kinds.is_empty() {
            markup.leaf(
                "text",
                &[("class", &"scale"), ("x", &LEFT), ("y", &Px(top + 11.0))],
                "none",
            );
        }
        for (lane, (family, name)) in kinds.iter().enumerate() {
            let y = top + FAULT_LANE * lane as f64;
            self.lane(markup, name, y, FAULT_LANE);
            let class = format!("fault {}", family.name());
            let of_this_kind = self
                .timeline
                .faults
                .iter()
                .filter(|fault| kind_name(fault.kind) == *name);
            for fault in of_this_kind {
                self.bar(markup, fault, &class, y);
            }
        }
    }

    fn lane(&self, markup: &mut Markup, name: &str, y: f64, height: f64) {
        let base = y + height / 2.0;
        let line: &[super::markup::Attribute] = &[
            ("class", &"lane"),
            ("x1", &LEFT),
            ("x2", &RIGHT),
            ("y1", &Px(base)),
            ("y2", &Px(base)),
        ];
        markup.empty("line", line);
        markup.leaf(
            "text",
            &[("class", &"name"), ("x", &(LEFT - 8.0)), ("y", &Px(base + 3.5))],
            name,
        );
    }

    fn bar(&self, markup: &mut Markup, fault: &FaultWindow, class: &str, y: f64) {
        let (from, to) = (
            self.x(fault.from_s),
            self.x(fault.to_s.unwrap_or(self.timeline.end_s)),
        );
        let class = match fault.to_s {
            Some(_) => class.to_owned(),
            None => format!("{class} open"),
        };
        let attributes: &[super::markup::Attribute] = &[
            ("class", &class),
            ("x", &Px(from)),
            ("y", &Px(y + 2.5)),
            ("width", &Px((to - from).max(MIN_BAR))),
            ("height", &(FAULT_LANE - 5.0)),
            ("rx", &2),
        ];
        markup.element("rect", attributes, |rect| {
            rect.leaf("title", &[], describe(fault));
        });
        markup.line();
    }

    /// Shades a panel where there were faults.
    fn shade(&self, markup: &mut Markup, top: f64, height: f64) {
        for fault in &self.timeline.faults {
            let (from, to) = (
                self.x(fault.from_s),
                self.x(fault.to_s.unwrap_or(self.timeline.end_s)),
            );
            let class = format!("shade {}", Family::of(fault.kind).name());
            let attributes: &[super::markup::Attribute] = &[
                ("class", &class),
                ("x", &Px(from)),
                ("y", &Px(top)),
                ("width", &Px((to - from).max(1.0))),
                ("height", &Px(height)),
            ];
            markup.empty("rect", attributes);
        }
    }

    fn throughput(&mut self, markup: &mut Markup) {
        let top = self.panel(markup, "Acknowledged samples a second", PANEL);
        self.shade(markup, top, PANEL);
        let most = self
            .timeline
            .buckets
            .iter()
            .map(|bucket| bucket.samples_per_s)
            .fold(0.0, f64::max);
        let (step, ceiling) = nice_scale(most);
        let y = |samples_per_s: f64| top + PANEL * (1.0 - samples_per_s / ceiling);
        let mut mark = 0.0;
        while mark <= ceiling * 1.001 {
            self.grid(markup, y(mark), Grouped(mark as u64));
            mark += step;
        }
        let mut line = String::new();
        for (x, bucket) in self.bucket_centres() {
            let command = if line.is_empty() { 'M' } else { 'L' };
            line.push_str(&format!("{command}{} {}", Px(x), Px(y(bucket.samples_per_s))));
        }
        if let (Some((first, _)), Some((last, _))) =
            (self.bucket_centres().next(), self.bucket_centres().last())
        {
            let floor = Px(top + PANEL);
            let area = format!("{line}L{} {floor}L{} {floor}Z", Px(last), Px(first));
            markup.empty("path", &[("class", &"area"), ("d", &area)]);
            markup.empty("path", &[("class", &"curve"), ("d", &line)]);
        }
        self.hover(markup, top);
    }

    fn latency(&mut self, markup: &mut Markup) {
        let top = self.panel(markup, "Time to acknowledgement: p50 and, above it, p99", PANEL);
        self.shade(markup, top, PANEL);
        let (low, high) = (
            f64::from(LATENCY_DECADES.start),
            f64::from(LATENCY_DECADES.end - 1),
        );
        let y = |ms: f64| top + PANEL * (1.0 - ((ms.max(1e-6).log10() - low) / (high - low)).clamp(0.0, 1.0));
        for decade in LATENCY_DECADES {
            let ms = 10_f64.powi(decade);
            self.grid(markup, y(ms), Millis(ms));
        }
        for (class, value) in [
            ("p99", (|bucket| bucket.p99_ms) as fn(&Bucket) -> Option<f64>),
            ("p50", |bucket| bucket.p50_ms),
        ] {
            let path = self.broken_line(|bucket| value(bucket).map(y));
            markup.empty("path", &[("class", &class), ("d", &path)]);
        }
        self.hover(markup, top);
    }

    /// A line through what is known, with a dot where a bucket stands alone.
    fn broken_line(&self, y: impl Fn(&Bucket) -> Option<f64>) -> String {
        let mut path = String::new();
        let mut alone = false;
        let mut drawing = false;
        for (x, bucket) in self.bucket_centres() {
            match y(bucket) {
                Some(y) if drawing => {
                    path.push_str(&format!("L{} {}", Px(x), Px(y)));
                    alone = false;
                }
                Some(y) => {
                    path.push_str(&format!("M{} {}", Px(x), Px(y)));
                    (drawing, alone) = (true, true);
                }
                None => {
                    // With round caps a line of no length is a dot.
                    path.push_str(if alone { "h0" } else { "" });
                    (drawing, alone) = (false, false);
                }
            }
        }
        path.push_str(if alone { "h0" } else { "" });
        path
    }

    fn bucket_centres(&self) -> impl Iterator<Item = (f64, &Bucket)> {
        let centre = |at: usize| self.x((at as f64 + 0.5) * self.timeline.bucket_s);
        let buckets = self.timeline.buckets.iter().enumerate();
        buckets.map(move |(at, bucket)| (centre(at), bucket))
    }

    /// Says what a bucket holds to whoever points at it.
    fn hover(&self, markup: &mut Markup, top: f64) {
        for (at, bucket) in self.timeline.buckets.iter().enumerate() {
            let from_s = at as f64 * self.timeline.bucket_s;
            let (from, to) = (self.x(from_s), self.x(from_s + self.timeline.bucket_s));
            let latency = match (bucket.p50_ms, bucket.p99_ms) {
                (Some(p50), Some(p99)) => format!(", p50 {}, p99 {}", Millis(p50), Millis(p99)),
                _ => String::new(),
            };
            let samples = Grouped(bucket.samples_per_s.round() as u64);
            let attributes: &[super::markup::Attribute] = &[
                ("class", &"hover"),
                ("x", &Px(from)),
                ("y", &Px(top)),
                ("width", &Px((to - from).max(0.1))),
                ("height", &PANEL),
            ];
            markup.element("rect", attributes, |rect| {
                rect.leaf(
                    "title",
                    &[],
                    format_args!("{}: {samples} samples/s{latency}", Clock(from_s)),
                );
            });
        }
        markup.line();
    }

    fn grid(&self, markup: &mut Markup, y: f64, label: impl std::fmt::Display) {
        let line: &[super::markup::Attribute] = &[
            ("class", &"grid"),
            ("x1", &LEFT),
            ("x2", &RIGHT),
            ("y1", &Px(y)),
            ("y2", &Px(y)),
        ];
        markup.empty("line", line);
        markup.leaf(
            "text",
            &[("class", &"scale"), ("x", &(LEFT - 8.0)), ("y", &Px(y + 3.5))],
            label,
        );
    }

    fn leaders(&mut self, markup: &mut Markup) {
        let shards = self.timeline.leaders.len();
        if shards == 0 {
            return;
        }
        let top = self.panel(
            markup,
            "Leader of each shard: the number is the node, a gap is nobody or not known",
            LEADER_LANE * shards as f64,
        );
        for (lane, (shard, reigns)) in self.timeline.leaders.iter().enumerate() {
            let y = top + LEADER_LANE * lane as f64;
            let name = match shard {
                0 => "meta".to_owned(),
                shard => format!("shard {shard}"),
            };
            self.lane(markup, &name, y, LEADER_LANE);
            for reign in reigns {
                self.reign(markup, *shard, reign, y);
            }
            markup.line();
        }
    }

    fn reign(&self, markup: &mut Markup, shard: u32, reign: &Reign, y: f64) {
        let Some(node) = reign.node else { return };
        let (from, to) = (self.x(reign.from_s), self.x(reign.to_s));
        let class = format!("reign node{}", node % NODE_COLOURS);
        let attributes: &[super::markup::Attribute] = &[
            ("class", &class),
            ("x", &Px(from)),
            ("y", &Px(y + 1.5)),
            ("width", &Px((to - from).max(1.0))),
            ("height", &(LEADER_LANE - 3.0)),
        ];
        markup.element("rect", attributes, |rect| {
            let (from, to) = (Clock(reign.from_s), Clock(reign.to_s));
            let text = format_args!(
                "shard {shard}: node {node} in term {}, {from} to {to}",
                reign.term
            );
            rect.leaf("title", &[], text);
        });
        if to - from > 18.0 {
            let middle = Px(f64::midpoint(from, to));
            markup.leaf(
                "text",
                &[("class", &"number"), ("x", &middle), ("y", &Px(y + 10.0))],
                node,
            );
        }
    }

    /// The axis of all panels. Returns how far down it reaches.
    fn axis(&self, markup: &mut Markup) -> f64 {
        let bottom = self.y - GAP + 6.0;
        let step_s = [
            1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1_800.0, 3_600.0,
        ]
        .into_iter()
        .find(|step_s| self.timeline.end_s / step_s <= 13.0)
        .unwrap_or(7_200.0);
        let mut at_s = 0.0;
        while at_s <= self.timeline.end_s {
            let x = Px(self.x(at_s));
            let line: &[super::markup::Attribute] = &[
                ("class", &"tick"),
                ("x1", &x),
                ("x2", &x),
                ("y1", &14),
                ("y2", &Px(bottom)),
            ];
            markup.empty("line", line);
            markup.leaf(
                "text",
                &[("class", &"time"), ("x", &x), ("y", &Px(bottom + 14.0))],
                Clock(at_s),
            );
            at_s += step_s;
        }
        bottom + 22.0
    }
}

fn describe(fault: &FaultWindow) -> String {
    let mut text = format!("#{} {}", fault.id, kind_name(fault.kind));
    match fault.victims.as_slice() {
        [] => {}
        [one] => text.push_str(&format!(", node {one}")),
        many => {
            let many: Vec<String> = many.iter().map(u64::to_string).collect();
            text.push_str(&format!(", nodes {}", many.join(", ")));
        }
    }
    match fault.to_s {
        Some(to_s) => text.push_str(&format!(
            ", {} to {} ({:.1} s)",
            Clock(fault.from_s),
            Clock(to_s),
            to_s - fault.from_s
        )),
        None => text.push_str(&format!(", from {}, never healed", Clock(fault.from_s))),
    }
    if !fault.detail.is_empty() {
        text.push_str(&format!("\n{}", fault.detail));
    }
    text
}

/// A step of 1, 2 or 5 times a power of ten, and the first multiple of it that is no less than `most`.
fn nice_scale(most: f64) -> (f64, f64) {
    let rough = (most / 4.0).max(1.0);
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(10.0 * power);
    (step, (most / step).ceil().max(1.0) * step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_have_round_numbers_and_hold_the_largest() {
        assert_eq!(nice_scale(0.0), (1.0, 1.0));
        assert_eq!(nice_scale(4.0), (1.0, 4.0));
        assert_eq!(nice_scale(9_400.0), (5_000.0, 10_000.0));
        assert_eq!(nice_scale(41_000.0), (20_000.0, 60_000.0));
    }
}
