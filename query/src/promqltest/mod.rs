//! Runs Prometheus's own kind of test scripts: `clear`, `load`, `eval instant`, `eval range` and what each must give.
//!
//! As Prometheus's runner does, each instant query is also asked as a range query around its time, and with every
//! selector pinned by `@` at other times: up to twelve queries for one line of a script.

mod classic;
mod compare;
mod error;
mod script;
mod variants;

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_storage::{Labels, Matcher, SampleColumns};

use crate::ast::Expr;
use crate::parse::series::{DescribedValue, SeriesDescription};
use crate::source::Source;
use crate::value::{EvalOptions, Evaluated, Value};
use crate::{Features, eval_instant, eval_range, parse, parse_with};

pub use error::ScriptError;
pub use script::EvalTime;

use error::{Context as _, Result, bail, ensure};
use script::{Command, Eval, Load, read_script};

/// The most samples a query may hold, as in Prometheus's own runs.
const MAX_SAMPLES: u64 = 10_000;

/// Where the samples of a script go and where its queries read.
pub trait TestStorage {
    /// Forgets all series.
    fn clear(&mut self) -> std::result::Result<(), ScriptError>;

    /// Adds samples, those of each series in ascending time; a series may have been added to before. Histograms are
    /// read back with the hints that [`quorate_storage::Histogram::stored_hint`] gives.
    fn append(&mut self, series: &[(Labels, SampleColumns)]) -> std::result::Result<(), ScriptError>;

    /// What queries read from.
    fn source(&self) -> &dyn Source;
}

/// How a script is run.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Which experimental parts of PromQL are on.
    pub features: Features,
}

impl Default for Settings {
    /// Everything is on, as in Prometheus's own runs of its scripts.
    fn default() -> Self {
        Settings {
            features: Features::ALL,
        }
    }
}

/// What became of one `eval` of a script.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Line of the script, from 1.
    pub line: usize,
    /// The query.
    pub query: String,
    /// Whether native histograms are selected or expected.
    pub histograms: bool,
    /// How the result differs from what the script expects.
    pub failure: Option<ScriptError>,
}

/// Runs a script over an empty storage. An error is the script's or the storage's; what queries got wrong is in the
/// outcomes.
pub fn run_script(
    text: &str,
    storage: &mut dyn TestStorage,
    settings: &Settings,
) -> std::result::Result<Vec<Outcome>, ScriptError> {
    let mut histograms: Vec<Labels> = Vec::new();
    let mut outcomes = Vec::new();
    for command in read_script(text)? {
        match command {
            Command::Clear => {
                storage.clear()?;
                histograms.clear();
            }
            Command::Load(load) => {
                let loaded = samples_of(&load, &mut histograms)?;
                storage.append(&loaded).context("load")?;
            }
            Command::Eval(eval) => {
                let selects = parse(&eval.query).is_ok_and(|expr| selects_any(&expr, &histograms));
                outcomes.push(Outcome {
                    line: eval.line,
                    histograms: eval.expect.has_histograms() || selects,
                    failure: run_eval(&eval, storage.source(), settings).err(),
                    query: eval.query,
                });
            }
        }
    }
    Ok(outcomes)
}

/// The samples that a `load` adds. A series that is described twice has the later samples only. Series of native
/// histograms are noted.
fn samples_of(load: &Load, histograms: &mut Vec<Labels>) -> Result<Vec<(Labels, SampleColumns)>> {
    let mut loaded: BTreeMap<Labels, SampleColumns> = BTreeMap::new();
    for series in &load.series {
        let labels = labels_of(series)?;
        let mut samples = SampleColumns::new();
        let times = (0..).map(|index: i64| index * load.step_ms);
        for (time, value) in times.zip(&series.values) {
            match value {
                Some(DescribedValue::Number(value)) => samples.push(time, *value),
                Some(DescribedValue::Histogram { histogram, .. }) => {
                    samples.push_histogram(time, Arc::clone(histogram));
                }
                None => {}
            }
        }
        loaded.insert(labels, samples);
    }
    let mut loaded: Vec<(Labels, SampleColumns)> = loaded.into_iter().collect();
    if load.with_native {
        loaded.extend(classic::as_native(&loaded)?);
    }
    let holds_histograms = loaded
        .iter()
        .filter(|(_, samples)| !samples.histograms.is_empty());
    histograms.extend(holds_histograms.map(|(labels, _)| labels.clone()));
    Ok(loaded)
}

fn labels_of(series: &SeriesDescription) -> Result<Labels> {
    let pairs = series.labels.iter();
    Labels::from_pairs(pairs.map(|(name, value)| (name.as_str(), value.as_str())))
        .context("labels of a series")
}

fn selects_any(expr: &Expr, series: &[Labels]) -> bool {
    let selects = |matchers: &[Matcher]| series.iter().any(|labels| all_match(labels, matchers));
    let own = match expr {
        Expr::VectorSelector(selector) => selects(&selector.matchers),
        Expr::MatrixSelector(node) => selects(&node.selector.matchers),
        _ => false,
    };
    own || expr
        .children()
        .into_iter()
        .any(|child| selects_any(child, series))
}

/// Whether all matchers hold for a series.
pub fn all_match(labels: &Labels, matchers: &[Matcher]) -> bool {
    matchers
        .iter()
        .all(|matcher| matcher.matches(labels.get(matcher.name()).unwrap_or_default()))
}

fn evaluate(expr: &Expr, source: &dyn Source, settings: &Settings, time: EvalTime) -> Result<Evaluated> {
    let options = EvalOptions {
        max_samples: MAX_SAMPLES,
        delayed_name_removal: settings.features.delayed_name_removal,
        ..EvalOptions::default()
    };
    let evaluated = match time {
        EvalTime::Instant { at } => eval_instant(expr, source, at, &options),
        EvalTime::Range { start, end, step } => eval_range(expr, source, (start, end, step), &options),
    };
    evaluated.map_err(ScriptError::new)
}

fn run_eval(eval: &Eval, source: &dyn Source, settings: &Settings) -> Result<()> {
    let parsed = parse_with(&eval.query, settings.features).map_err(ScriptError::new);
    if eval.expect.fails {
        return must_fail(
            eval,
            parsed.and_then(|expr| evaluate(&expr, source, settings, eval.time)),
        );
    }
    let expr = parsed?;
    let got = evaluate(&expr, source, settings, eval.time)?;
    compare::check(eval, &eval.query, &got)?;
    let EvalTime::Instant { at } = eval.time else {
        return Ok(());
    };
    as_range(eval, &expr, source, settings, at, &got).context("as a range query")?;
    let Some(pinned) = variants::pinned(&expr, at) else {
        return Ok(());
    };
    if variants::depends_on_range(&expr) {
        return Ok(());
    }
    for other in variants::other_times(at) {
        let context = || format!("pinned with @ and asked at {other} ms");
        let got =
            evaluate(&pinned, source, settings, EvalTime::Instant { at: other }).with_context(context)?;
        compare::check(eval, &eval.query, &got).with_context(context)?;
        as_range(eval, &pinned, source, settings, other, &got).with_context(context)?;
    }
    Ok(())
}

fn must_fail(eval: &Eval, outcome: Result<Evaluated>) -> Result<()> {
    let error = match outcome {
        Err(error) => error.to_string(),
        Ok(got) => bail!("expected a failure, got {:?}", got.value),
    };
    let pattern = eval.expect.fail_text.as_ref();
    ensure!(
        pattern.is_none_or(|pattern| pattern.matches(&error)),
        "failed with another error: {error}"
    );
    Ok(())
}

/// Asks the query as a range one minute to both sides; its middle must be what the instant query gave.
fn as_range(
    eval: &Eval,
    expr: &Expr,
    source: &dyn Source,
    settings: &Settings,
    at: i64,
    instant: &Evaluated,
) -> Result<()> {
    let comparable = matches!(instant.value, Value::Scalar { .. } | Value::Vector(_));
    if eval.expect.ordered || !comparable || variants::depends_on_range(expr) {
        return Ok(());
    }
    let minute = 60_000;
    let time = EvalTime::Range {
        start: at - minute,
        end: at + minute,
        step: minute,
    };
    compare::check_at_step(eval, at, &evaluate(expr, source, settings, time)?)
}
