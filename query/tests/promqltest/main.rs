//! Runs Prometheus's own kind of test scripts: the ones in `tests/scripts`, and the ones of a directory given by the
//! environment variable `QUORATE_PROMQLTEST_DIR`, for which it reports how many evaluations pass, by file and class.

mod compare;
mod memory;
mod script;
mod variants;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, anyhow, bail, ensure};
use quorate_query::ast::{AggregateOp, Expr};
use quorate_query::value::{EvalOptions, Evaluated, Value};
use quorate_query::{eval_instant, eval_range, parse};

use memory::Memory;
use script::{Command, Eval, EvalTime, read_script};

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

fn run_script(path: &Path) -> Result<Report> {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let text = fs::read_to_string(path).with_context(|| name.clone())?;
    let commands = read_script(&text).with_context(|| name.clone())?;
    let mut memory = Memory::default();
    let mut report = Report::default();
    for command in commands {
        match command {
            Command::Clear => memory = Memory::default(),
            Command::Load(load) => memory.load(&load).with_context(|| name.clone())?,
            Command::Eval(eval) => {
                let parsed = parse(&eval.query);
                let class = classify(&eval, parsed.as_ref().map_err(ToString::to_string), &memory);
                let score = report.scores.entry(class).or_default();
                score.total += 1;
                score.accepted_by_parser += usize::from(parsed.is_ok());
                match run_eval(&eval, &memory) {
                    Ok(()) => score.passed += 1,
                    Err(error) => {
                        let failure = format!("{name}:{}: {}: {error:#}", eval.line, eval.query);
                        report.failures.push((class, failure));
                    }
                }
            }
        }
    }
    Ok(report)
}

fn classify(eval: &Eval, parsed: Result<&Expr, String>, memory: &Memory) -> Class {
    match parsed {
        Err(message) if message.contains("modifier is not supported yet") => Class::Experimental,
        Ok(expr) if is_experimental(expr) => Class::Experimental,
        _ if eval.has_histograms => Class::NativeHistogram,
        Ok(expr) if selects_histograms(expr, memory) => Class::NativeHistogram,
        _ => Class::Float,
    }
}

fn is_experimental(expr: &Expr) -> bool {
    let own = match expr {
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

fn selects_histograms(expr: &Expr, memory: &Memory) -> bool {
    let own = match expr {
        Expr::VectorSelector(selector) => memory.selects_histograms(&selector.matchers),
        Expr::MatrixSelector(node) => memory.selects_histograms(&node.selector.matchers),
        _ => false,
    };
    own || expr
        .children()
        .into_iter()
        .any(|child| selects_histograms(child, memory))
}

fn options() -> EvalOptions<'static> {
    EvalOptions {
        max_samples: 10_000,
        ..EvalOptions::default()
    }
}

fn evaluate(expr: &Expr, memory: &Memory, time: EvalTime) -> Result<Evaluated> {
    let evaluated = match time {
        EvalTime::Instant { at } => eval_instant(expr, memory, at, &options()),
        EvalTime::Range { start, end, step } => eval_range(expr, memory, (start, end, step), &options()),
    };
    evaluated.map_err(|error| anyhow!("{error}"))
}

fn run_eval(eval: &Eval, memory: &Memory) -> Result<()> {
    if eval.has_histograms {
        bail!("native histograms are not supported");
    }
    if eval.expect.fails {
        let error = match parse(&eval.query) {
            Err(error) => error.to_string(),
            Ok(expr) => match evaluate(&expr, memory, eval.time) {
                Err(error) => error.to_string(),
                Ok(got) => bail!("expected a failure, got {:?}", got.value),
            },
        };
        let as_expected = eval
            .expect
            .fail_text
            .as_ref()
            .is_none_or(|pattern| pattern.matches(&error));
        ensure!(as_expected, "failed with another error: {error}");
        return Ok(());
    }
    let expr = parse(&eval.query)?;
    let got = evaluate(&expr, memory, eval.time)?;
    compare::check(eval, &eval.query, &got)?;
    let EvalTime::Instant { at } = eval.time else {
        return Ok(());
    };
    as_range(eval, &expr, memory, at, &got).context("as a range query")?;
    let Some(pinned) = variants::pinned(&expr, at) else {
        return Ok(());
    };
    if variants::depends_on_range(&expr) {
        return Ok(());
    }
    for other in variants::other_times(at) {
        let context = || format!("pinned with @ and asked at {other} ms");
        let got = evaluate(&pinned, memory, EvalTime::Instant { at: other }).with_context(context)?;
        compare::check(eval, &eval.query, &got).with_context(context)?;
        as_range(eval, &pinned, memory, other, &got).with_context(context)?;
    }
    Ok(())
}

/// Asks the query as a range one minute to both sides; its middle must be what the instant query gave.
fn as_range(eval: &Eval, expr: &Expr, memory: &Memory, at: i64, instant: &Evaluated) -> Result<()> {
    let comparable = matches!(instant.value, Value::Scalar { .. } | Value::Vector(_));
    if eval.expect.ordered || !comparable || variants::depends_on_range(expr) {
        return Ok(());
    }
    let minute = 60_000;
    let got = evaluate(
        expr,
        memory,
        EvalTime::Range {
            start: at - minute,
            end: at + minute,
            step: minute,
        },
    )?;
    compare::check_at_step(eval, at, &got)
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
        let report = run_script(&script).unwrap_or_else(|error| panic!("{error:#}"));
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
        match run_script(&script) {
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
