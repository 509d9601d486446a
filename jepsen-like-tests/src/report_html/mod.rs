//! A run as one page: self-contained HTML that anybody can open, keep and send on. No scripts, nothing loaded.
//!
//! A [`RunSummary`] is what a run says of itself. Everything over time is computed from its history (`timeline`) and
//! drawn (`chart`, `histogram`).

mod chart;
mod family;
mod histogram;
mod markup;
mod sections;
mod summary;
mod timeline;

use std::path::Path;

use anyhow::{Context as _, Result};

pub use self::summary::{CHECKERS, CheckerResult, Coverage, Outcome, RunSummary, watches};

use self::markup::Markup;
use self::timeline::Timeline;
use crate::history::Operation;

/// Writes the page of a run to `path`.
pub fn write(path: &Path, summary: &RunSummary, history: &[Operation]) -> Result<()> {
    std::fs::write(path, page(summary, history)).with_context(|| format!("can't write {}", path.display()))
}

/// The page of a run.
pub fn page(summary: &RunSummary, history: &[Operation]) -> String {
    let timeline = Timeline::of(history);
    let mut html = Markup::default();
    html.element("html", &[("lang", &"en")], |html| {
        html.line();
        html.element("head", &[], |head| {
            head.empty("meta", &[("charset", &"utf-8")]);
            let content = "width=device-width, initial-scale=1";
            head.empty("meta", &[("name", &"viewport"), ("content", &content)]);
            head.empty("meta", &[("name", &"color-scheme"), ("content", &"light dark")]);
            let title = format_args!("{} · seed {} · Quorate", summary.name, summary.seed);
            head.leaf("title", &[], title);
            head.style(include_str!("style.css"));
        });
        html.line();
        html.element("body", &[], |body| {
            body.element("main", &[], |main| {
                sections::head(main, summary, &timeline);
                sections::over_time(main, &timeline);
                main.element("div", &[("class", &"columns")], |columns| {
                    sections::verdicts(columns, summary);
                    sections::failovers(columns, summary);
                    sections::coverage(columns, summary);
                });
                sections::all_faults(main, &timeline);
                sections::facts(main, summary);
            });
        });
    });
    format!("<!DOCTYPE html>\n{}\n", html.finish())
}

#[cfg(test)]
mod tests;
