//! The page as a whole: well-formed, self-contained, escaped, and with everything in it.

use std::path::PathBuf;

use super::*;
use crate::history::FaultKind;
use serde_json::{Value, json};

/// A minute of two writers under one fault of every kind, the last of which is never healed.
fn eventful() -> Vec<Operation> {
    let mut lines: Vec<(u64, &str, Value)> = Vec::new();
    for number in 0..600_u64 {
        let batch = json!({"writer": number % 2, "number": number, "series": 50, "timestamp_ms": number});
        let write = json!({"f": "write", "batch": batch});
        lines.push((number * 100, "invoke", write.clone()));
        // Nothing is acknowledged for five seconds.
        if !(200..250).contains(&number) {
            lines.push((number * 100 + 3 + number % 40, "ok", write));
        }
    }
    for second in 0..60_u64 {
        let leader = |shard: u64| (second % 20 != 3 + shard).then_some((second / 20 + shard) % 3 + 1);
        let leaders: Vec<Value> = (0..9)
            .map(|shard| json!([shard, leader(shard), second / 20]))
            .collect();
        lines.push((
            second * 1_000,
            "info",
            json!({"f": "leaders", "leaders": leaders}),
        ));
    }
    for (at, kind) in FaultKind::ALL.into_iter().enumerate() {
        let from_ms = 1_000 + 1_700 * at as u64;
        let fault = |phase: &str| {
            let detail = format!("detail of {} <{at}>", kind.name());
            json!({"f": "fault", "id": at, "kind": kind, "phase": phase, "victims": [at % 3 + 1], "detail": detail})
        };
        lines.push((from_ms, "info", fault("begin")));
        if at + 1 < FaultKind::ALL.len() {
            lines.push((from_ms + 900 + 130 * at as u64, "info", fault("end")));
        }
    }
    lines.sort_by_key(|(ms, ..)| *ms);
    let operation = |(index, (ms, stage, mut action)): (usize, (u64, &str, Value))| {
        action["index"] = index.into();
        action["time_us"] = (ms * 1_000).into();
        action["type"] = stage.into();
        serde_json::from_value(action).unwrap()
    };
    lines.into_iter().enumerate().map(operation).collect()
}

fn summary(outcome: Outcome) -> RunSummary {
    let coverage = FaultKind::ALL.into_iter().map(|kind| Coverage {
        kind,
        wished: 2,
        fired: u64::from(kind != FaultKind::BitRot),
    });
    RunSummary {
        name: "everything & more".into(),
        began: "2026-01-02 03:04 UTC".into(),
        duration_ms: 60_000,
        seed: 4_711,
        command: "make jepsen ARGS=\"--seed 4711\"".into(),
        facts: vec![("nodes".into(), "3 on a bridge".into())],
        outcome,
        acked: 1_234_567,
        unknown_stored: 150,
        unknown_absent: 2_350,
        checkers: CHECKERS
            .iter()
            .map(|(name, _)| CheckerResult {
                name: (*name).into(),
                ..CheckerResult::default()
            })
            .collect(),
        coverage: coverage.collect(),
        failovers_ms: (0..300).map(|at| 310.0 + f64::from(at * at % 700)).collect(),
        failovers_unfinished: 0,
        kept: vec![("history".into(), PathBuf::from("runs/4711/history.jsonl"))],
    }
}

fn failed() -> RunSummary {
    let mut summary = summary(Outcome::Failed);
    summary.checkers[0] = CheckerResult {
        name: "lost".into(),
        violations: 12,
        examples: vec!["Lost(load_3{series=\"7\"} <at> 17)".into(); 3],
    };
    summary
}

/// Names of the elements of a page, in order; an error if they don't nest or something is not escaped.
fn elements(page: &str) -> Result<Vec<String>, String> {
    let (mut names, mut open) = (Vec::new(), Vec::new());
    let page = page.strip_prefix("<!DOCTYPE html>\n").ok_or("no doctype")?;
    for (at, piece) in page.split('<').enumerate().skip(1) {
        let (tag, text) = piece
            .split_once('>')
            .ok_or(format!("tag {at} has no end: {piece}"))?;
        for entity in piece.split('&').skip(1) {
            let known = ["amp;", "lt;", "gt;", "quot;", "#39;"];
            if !known.iter().any(|name| entity.starts_with(name)) {
                return Err(format!("a bare & in {piece}"));
            }
        }
        if text.contains('>') && open.last() != Some(&"style") {
            return Err(format!("a bare > in {piece}"));
        }
        if let Some(name) = tag.strip_prefix('/') {
            let opened = open.pop();
            if opened != Some(name) {
                return Err(format!("</{name}> closes {opened:?}"));
            }
            continue;
        }
        let name = tag.split([' ', '/']).next().unwrap_or_default();
        if tag.matches('"').count() % 2 != 0 {
            return Err(format!("quotes of {tag}"));
        }
        names.push(name.to_owned());
        if !tag.ends_with('/') {
            open.push(name);
        }
    }
    if open.is_empty() {
        Ok(names)
    } else {
        Err(format!("never closed: {open:?}"))
    }
}

#[test]
fn pages_are_well_formed() {
    let history = eventful();
    for (summary, history) in [
        (summary(Outcome::Passed), history.as_slice()),
        (failed(), history.as_slice()),
        (summary(Outcome::Void("bit rot never fired".into())), &[]),
        (RunSummary::default(), &[]),
    ] {
        let page = page(&summary, history);
        let names = elements(&page).unwrap();
        for (name, least) in [("html", 1), ("h1", 1), ("svg", 1), ("table", 3)] {
            let count = names.iter().filter(|other| *other == name).count();
            assert!(count >= least, "{count} {name}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf\""), "a coordinate");
    }
}

#[test]
fn the_check_of_form_sees_what_is_malformed() {
    for broken in [
        "<p>no doctype</p>",
        "<!DOCTYPE html>\n<p><b></p></b>",
        "<!DOCTYPE html>\n<p>",
        "<!DOCTYPE html>\n<p>a & b</p>",
        "<!DOCTYPE html>\n<p>a > b</p>",
        "<!DOCTYPE html>\n<p class=\"x>y</p>",
    ] {
        assert!(elements(broken).is_err(), "{broken}");
    }
}

#[test]
fn every_fault_is_in_the_chart_and_in_the_table() {
    let page = page(&summary(Outcome::Passed), &eventful());
    for (at, kind) in FaultKind::ALL.into_iter().enumerate() {
        let title = format!("<title>#{at} {}, node {}", family::kind_name(kind), at % 3 + 1);
        assert_eq!(page.matches(&title).count(), 1, "{title}");
        let detail = format!("detail of {} &lt;{at}&gt;", kind.name());
        assert_eq!(page.matches(&detail).count(), 2, "{detail}");
    }
    assert_eq!(page.matches("never healed").count(), 2);
}

#[test]
fn texts_of_others_are_escaped() {
    let mut evil = failed();
    for text in [
        &mut evil.name,
        &mut evil.command,
        &mut evil.checkers[0].examples[0],
    ] {
        *text = "<script>alert('x')</script> & \"y\"".into();
    }
    evil.outcome = Outcome::Void("</h1><img src=x>".into());
    evil.kept = vec![("<a>".into(), "/tmp/<b>".into())];
    let page = page(&evil, &[]);
    elements(&page).unwrap();
    for tag in ["<script", "<img", "<a>", "<b>/"] {
        assert!(!page.contains(tag), "{tag}");
    }
}

#[test]
fn a_page_needs_nothing_and_is_small() {
    let page = page(&summary(Outcome::Passed), &eventful());
    for outside in ["http:", "https:", "src=", "href=", "@import", "url(", "<script"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.len() < 150_000, "{} bytes", page.len());
}

#[test]
fn the_verdict_and_the_way_to_repeat_it_are_said() {
    let passed = page(&summary(Outcome::Passed), &eventful());
    for said in [
        "Every promise was kept",
        "1\u{202f}234\u{202f}567",
        "seed 4711",
        "make jepsen ARGS=&quot;--seed 4711&quot;",
        "runs/4711/history.jsonl",
        "with 95 % confidence",
    ] {
        assert!(passed.contains(said), "{said}");
    }
    let failed = page(&failed(), &eventful());
    assert!(failed.contains("Promises were broken 12 times"));
    assert!(failed.contains("and 9 more"));
    assert!(!failed.contains("with 95 % confidence"));
}

#[test]
fn it_is_written_where_it_is_wanted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run.html");
    let (summary, history) = (failed(), eventful());
    write(&path, &summary, &history).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), page(&summary, &history));
    // For looking at it: QUORATE_REPORT_SAMPLES=directory.
    if let Some(directory) = std::env::var_os("QUORATE_REPORT_SAMPLES") {
        let directory = PathBuf::from(directory);
        write(&directory.join("failed.html"), &summary, &history).unwrap();
        write(
            &directory.join("passed.html"),
            &self::summary(Outcome::Passed),
            &history,
        )
        .unwrap();
    }
}
