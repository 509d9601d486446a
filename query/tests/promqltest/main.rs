//! Runs Prometheus's own kind of test scripts: the ones in `tests/scripts`, and the ones of a directory given by the
//! environment variable `QUORATE_PROMQLTEST_DIR`, for which it reports how many evaluations pass, by file and class.

mod memory;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result};
use quorate_query::ast::{AggregateOp, Expr};
use quorate_query::parse;
use quorate_query::promqltest::{Outcome, Settings, run_script};

use memory::Memory;

/// What an evaluation needs, as the reports of Prometheus's conformance count it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Class {
    Float,
    NativeHistogram,
    Experimental,
}

/// How many evaluations of a class passed.
#[derive(Clone, Copy, Default)]
struct Score {
    passed: usize,
    total: usize,
    accepted_by_parser: usize,
}

/// The result of one script.
#[derive(Default)]
struct Report {
    scores: BTreeMap<Class, Score>,
    failures: Vec<(Class, String)>,
}

fn run(path: &Path) -> Result<Report> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let text = fs::read_to_string(path).with_context(|| name.clone().into_owned())?;
    let outcomes = run_script(&text, &mut Memory::default(), &Settings::default())
        .with_context(|| name.clone().into_owned())?;
    let mut report = Report::default();
    for outcome in outcomes {
        let class = classify(&outcome);
        let score = report.scores.entry(class).or_default();
        score.total += 1;
        score.accepted_by_parser += usize::from(parse(&outcome.query).is_ok());
        match outcome.failure {
            None => score.passed += 1,
            Some(failure) => {
                let text = format!("{name}:{}: {}: {failure}", outcome.line, outcome.query);
                report.failures.push((class, text));
            }
        }
    }
    Ok(report)
}

fn classify(outcome: &Outcome) -> Class {
    match parse(&outcome.query) {
        Ok(expr) if is_experimental(&expr) => Class::Experimental,
        _ if outcome.histograms => Class::NativeHistogram,
        _ => Class::Float,
    }
}

fn is_experimental(expr: &Expr) -> bool {
    let own = match expr {
        Expr::VectorSelector(selector) => selector.boundary.is_some(),
        Expr::MatrixSelector(node) => node.selector.boundary.is_some(),
        Expr::Call(call) => call.func.experimental,
        Expr::Aggregate(node) => matches!(node.op, AggregateOp::Limitk | AggregateOp::LimitRatio),
        Expr::Binary(node) => {
            let matching = node.matching.as_ref();
            matching.is_some_and(|matching| matching.fill_left.is_some() || matching.fill_right.is_some())
        }
        _ => false,
    };
    own || expr.children().into_iter().any(is_experimental)
}

fn scripts_in(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut scripts: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "test"))
        .collect();
    scripts.sort();
    scripts
}

#[test]
fn our_own_scripts_pass() {
    let scripts = scripts_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts"));
    assert!(!scripts.is_empty());
    for script in scripts {
        let report = run(&script).unwrap_or_else(|error| panic!("{error:#}"));
        assert!(
            report.scores.values().map(|score| score.total).sum::<usize>() > 0,
            "{}",
            script.display()
        );
        let failures: Vec<&str> = report
            .failures
            .iter()
            .map(|(_, failure)| failure.as_str())
            .collect();
        assert!(
            failures.is_empty(),
            "{} failures:\n{}",
            failures.len(),
            failures.join("\n")
        );
    }
}

/// Every evaluation that needs only floats must pass; the other classes are reported.
#[test]
fn prometheus_s_scripts() {
    let Some(directory) = env::var_os("QUORATE_PROMQLTEST_DIR") else {
        println!("SKIPPED: QUORATE_PROMQLTEST_DIR doesn't name a directory with Prometheus's test scripts");
        return;
    };
    let mut totals: BTreeMap<Class, Score> = BTreeMap::new();
    let mut failures = Vec::new();
    println!(
        "{:<28} {:>15} {:>18} {:>15}",
        "file", "float", "native histogram", "experimental"
    );
    let row = |name: &str, scores: &BTreeMap<Class, Score>| {
        let cell = |class| {
            let score = scores.get(&class).copied().unwrap_or_default();
            format!("{}/{}", score.passed, score.total)
        };
        let cells = [Class::Float, Class::NativeHistogram, Class::Experimental].map(cell);
        println!("{name:<28} {:>15} {:>18} {:>15}", cells[0], cells[1], cells[2]);
    };
    for script in scripts_in(Path::new(&directory)) {
        let name = script
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        match run(&script) {
            Ok(report) => {
                row(&name, &report.scores);
                for (class, score) in report.scores {
                    let total = totals.entry(class).or_default();
                    total.passed += score.passed;
                    total.total += score.total;
                    total.accepted_by_parser += score.accepted_by_parser;
                }
                failures.extend(report.failures);
            }
            Err(error) => failures.push((Class::Float, format!("{name}: {error:#}"))),
        }
    }
    row("total", &totals);
    for (class, score) in &totals {
        println!(
            "the parser accepts {} of {} of class {class:?}",
            score.accepted_by_parser, score.total
        );
    }
    for (class, failure) in &failures {
        println!("{class:?}: {failure}");
    }
    let float_failures = failures
        .iter()
        .filter(|(class, _)| *class == Class::Float)
        .count();
    assert_eq!(float_failures, 0, "evaluations of class Float failed, see above");
}
