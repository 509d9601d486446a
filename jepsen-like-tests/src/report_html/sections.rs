//! The parts of the page, from the verdict at its head to where the logs are.

use super::chart;
use super::family::{Family, kind_name};
use super::histogram;
use super::markup::{Clock, Grouped, Markup, Millis};
use super::summary::{CheckerResult, Outcome, RunSummary, watches};
use super::timeline::Timeline;
use crate::report::quantile;

/// From so few trials no share is worth saying.
const MIN_TRIALS: usize = 10;

/// The verdict, the figures that matter, and how to repeat the run.
pub(crate) fn head(main: &mut Markup, summary: &RunSummary, timeline: &Timeline) {
    let violations = summary.violations();
    let (class, verdict) = match &summary.outcome {
        Outcome::Passed => ("passed", "Every promise was kept".to_owned()),
        Outcome::Failed if violations == 1 => ("failed", "A promise was broken once".to_owned()),
        Outcome::Failed => (
            "failed",
            format!("Promises were broken {} times", Grouped(violations)),
        ),
        Outcome::Void(reason) => ("void", format!("Void: {reason}")),
        Outcome::Broken(reason) => ("void", format!("The harness failed: {reason}")),
        Outcome::Unknown => ("void", "Nobody judged this run".to_owned()),
    };
    main.element("header", &[("class", &class)], |header| {
        let minutes = Clock(summary.duration_ms as f64 / 1e3);
        header.element("p", &[("class", &"kicker")], |kicker| {
            kicker.text(format_args!("Quorate under faults · {}", summary.name));
            for part in [&summary.began, &minutes.to_string()] {
                if !part.is_empty() {
                    kicker.text(format_args!(" · {part}"));
                }
            }
        });
        header.leaf("h1", &[], verdict);
        header.element("dl", &[("class", &"figures")], |figures| {
            let count = |checker: &str| {
                let found = summary.checkers.iter().find(|result| result.name == checker);
                found.map_or("?".to_owned(), |result| Grouped(result.violations).to_string())
            };
            figure(figures, "acknowledged samples", Grouped(summary.acked));
            figure(figures, "lost", count("lost"));
            figure(figures, "invented", count("invented"));
            figure(figures, "diverged", count("diverged"));
            figure(figures, "faults", Grouped(timeline.faults.len() as u64));
            let mut sorted_ms = summary.failovers_ms.clone();
            sorted_ms.sort_by(f64::total_cmp);
            for (name, share) in [("failover p50", 0.5), ("failover p99", 0.99)] {
                if let Some(ms) = quantile(&sorted_ms, share) {
                    figure(figures, name, Millis(ms));
                }
            }
        });
        if let Some(bound) = bound(summary, timeline) {
            header.leaf("p", &[("class", &"note")], bound);
        }
        header.element("p", &[("class", &"repeat")], |repeat| {
            repeat.leaf("span", &[], format_args!("seed {}", summary.seed));
            repeat.leaf("code", &[], &summary.command);
        });
    });
    main.line();
}

fn figure(figures: &mut Markup, name: &str, value: impl std::fmt::Display) {
    figures.element("div", &[], |pair| {
        pair.leaf("dt", &[], name);
        pair.leaf("dd", &[], value);
    });
}

/// What no loss in so many trials says: the rule of three.
fn bound(summary: &RunSummary, timeline: &Timeline) -> Option<String> {
    let faults = timeline.faults.len();
    let clean = summary.outcome == Outcome::Passed && summary.violations() == 0;
    (clean && faults >= MIN_TRIALS).then(|| {
        let percent = 300.0 / faults as f64;
        format!(
            "No violation in {faults} faults: if they were independent, fewer than {percent:.1} % of such \
             faults break a promise, with 95 % confidence."
        )
    })
}

/// The charts, with the legend of their colours.
pub(crate) fn over_time(main: &mut Markup, timeline: &Timeline) {
    main.element("section", &[], |section| {
        section.leaf("h2", &[], "Over time");
        section.element("p", &[("class", &"legend")], |legend| {
            for family in Family::ALL {
                let present = timeline
                    .faults
                    .iter()
                    .any(|fault| Family::of(fault.kind) == family);
                if present {
                    chip(legend, family);
                    legend.text(" ");
                }
            }
        });
        section.element("div", &[("class", &"chart")], |scroll| {
            chart::draw(scroll, timeline)
        });
        if timeline.bucket_s > 1.0 {
            let note = format_args!("Each point stands for {:.0} s.", timeline.bucket_s);
            section.leaf("p", &[("class", &"note")], note);
        }
    });
    main.line();
}

fn chip(markup: &mut Markup, family: Family) {
    let class = format!("chip {}", family.name());
    markup.leaf("span", &[("class", &class)], family.name());
}

/// What each checker watches over, and what it found.
pub(crate) fn verdicts(columns: &mut Markup, summary: &RunSummary) {
    columns.element("section", &[], |section| {
        section.leaf("h2", &[], "Verdicts");
        section.element("table", &[("class", &"verdicts")], |table| {
            // What is wrong stands first.
            let mut results: Vec<&CheckerResult> = summary.checkers.iter().collect();
            results.sort_by_key(|result| result.violations == 0);
            for result in results {
                let class = if result.violations > 0 { "broken" } else { "kept" };
                table.element("tr", &[("class", &class)], |row| verdict(row, result));
            }
        });
        let unknown = format_args!(
            "Of samples whose outcome is not known, {} are stored and {} are not; either is right.",
            Grouped(summary.unknown_stored),
            Grouped(summary.unknown_absent)
        );
        section.leaf("p", &[("class", &"note")], unknown);
    });
    columns.line();
}

fn verdict(row: &mut Markup, result: &CheckerResult) {
    row.element("td", &[], |cell| {
        cell.leaf("b", &[], result.name.replace('_', " "));
        let watches = watches(&result.name);
        if !watches.is_empty() {
            cell.leaf("small", &[], watches);
        }
        if !result.examples.is_empty() {
            cell.element("ol", &[], |list| {
                result
                    .examples
                    .iter()
                    .for_each(|example| list.leaf("li", &[], example));
            });
            let more = result.violations.saturating_sub(result.examples.len() as u64);
            if more > 0 {
                cell.leaf("small", &[], format_args!("and {} more", Grouped(more)));
            }
        }
    });
    row.leaf("td", &[("class", &"count")], Grouped(result.violations));
}

/// How long shards went without a leader.
pub(crate) fn failovers(columns: &mut Markup, summary: &RunSummary) {
    columns.element("section", &[], |section| {
        section.leaf("h2", &[], "Failover");
        if summary.failovers_ms.is_empty() {
            section.leaf("p", &[("class", &"note")], "No shard lost its leader.");
        } else {
            histogram::draw(section, &summary.failovers_ms);
        }
        let count = summary.failovers_ms.len() as u64 + summary.failovers_unfinished;
        let mut note = format!(
            "From the loss of a shard's leader to the first write that a later leader acknowledged: {} cases.",
            Grouped(count)
        );
        if summary.failovers_unfinished > 0 {
            note.push_str(&format!(
                " {} never ended.",
                Grouped(summary.failovers_unfinished)
            ));
        }
        section.leaf("p", &[("class", &"note")], note);
    });
    columns.line();
}

/// Which faults were wished for, and which came.
pub(crate) fn coverage(columns: &mut Markup, summary: &RunSummary) {
    columns.element("section", &[], |section| {
        section.leaf("h2", &[], "Coverage");
        section.element("table", &[("class", &"coverage")], |table| {
            table.element("tr", &[], |row| {
                for name in ["", "fault", "wished", "fired"] {
                    row.leaf("th", &[], name);
                }
            });
            let mut kinds: Vec<_> = summary.coverage.iter().collect();
            kinds.sort_by_key(|coverage| (Family::of(coverage.kind), kind_name(coverage.kind)));
            for coverage in kinds {
                let missed = coverage.wished > 0 && coverage.fired == 0;
                let class = if missed { "broken" } else { "kept" };
                table.element("tr", &[("class", &class)], |row| {
                    row.element("td", &[], |cell| chip(cell, Family::of(coverage.kind)));
                    row.leaf("td", &[], kind_name(coverage.kind));
                    row.leaf("td", &[("class", &"count")], Grouped(coverage.wished));
                    row.leaf("td", &[("class", &"count")], Grouped(coverage.fired));
                });
            }
        });
    });
    columns.line();
}

/// Every fault in words, for searching and for paper.
pub(crate) fn all_faults(main: &mut Markup, timeline: &Timeline) {
    if timeline.faults.is_empty() {
        return;
    }
    main.element("details", &[], |details| {
        let count = Grouped(timeline.faults.len() as u64);
        details.leaf("summary", &[], format_args!("All {count} faults in order"));
        details.element("table", &[("class", &"faults")], |table| {
            table.element("tr", &[], |row| {
                for name in ["#", "at", "for", "fault", "nodes", "detail"] {
                    row.leaf("th", &[], name);
                }
            });
            for fault in &timeline.faults {
                table.element("tr", &[], |row| {
                    row.leaf("td", &[("class", &"count")], fault.id);
                    row.leaf("td", &[("class", &"count")], Clock(fault.from_s));
                    let lasted = fault.to_s.map_or("never healed".to_owned(), |to_s| {
                        Millis((to_s - fault.from_s) * 1e3).to_string()
                    });
                    row.leaf("td", &[("class", &"count")], lasted);
                    let class = format!("dot {}", Family::of(fault.kind).name());
                    row.leaf("td", &[("class", &class)], kind_name(fault.kind));
                    let victims: Vec<String> = fault.victims.iter().map(u64::to_string).collect();
                    row.leaf("td", &[], victims.join(" "));
                    row.leaf("td", &[], &fault.detail);
                });
                table.line();
            }
        });
    });
}

/// What ran, and what was kept of it.
pub(crate) fn facts(main: &mut Markup, summary: &RunSummary) {
    main.element("section", &[], |section| {
        section.leaf("h2", &[], "Cluster and logs");
        section.element("table", &[("class", &"facts")], |table| {
            for (name, value) in &summary.facts {
                table.element("tr", &[], |row| {
                    row.leaf("td", &[], name);
                    row.leaf("td", &[], value);
                });
            }
            for (name, path) in &summary.kept {
                table.element("tr", &[], |row| {
                    row.leaf("td", &[], name);
                    row.element("td", &[], |cell| cell.leaf("code", &[], path.display()));
                });
            }
        });
    });
}
