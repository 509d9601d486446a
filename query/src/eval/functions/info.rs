//! `info(vector, {matchers})`: adds the labels of info series like `target_info` to the series they describe.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use quorate_storage::{Labels, LabelsBuilder, MatchOp, Matcher};

use crate::ast::{Expr, VectorSelector};
use crate::eval::build;
use crate::eval::column::Column;
use crate::eval::context::Context;
use crate::eval::grid::{Grid, Times};
use crate::eval::labelset::{METRIC_NAME, display, metric_name, only};
use crate::eval::memory::Charge;
use crate::eval::select::{Selected, is_stale};
use crate::eval::vector::{Ready, Vector, relabel};
use crate::source::SelectHints;
use crate::value::EvalError;

/// The labels by which a series and its info series find each other.
const IDENTIFYING: [&str; 2] = ["instance", "job"];

/// The info series if the query names none.
const TARGET_INFO: &str = "target_info";

/// Evaluates the function. Which info series is in force changes with time, so all of them are read first.
pub(super) fn evaluate<'q>(
    ctx: &'q Context<'q>,
    args: &'q [Expr],
    grid: Grid,
) -> Result<Vector<'q>, EvalError> {
    let wanted = Wanted::new(args.get(1))?;
    let mut base = build::vector(ctx, &args[0], grid)?;
    let base_labels = std::mem::take(&mut base.labels);
    let described: Vec<bool> = base_labels
        .iter()
        .map(|labels| !wanted.is_info_metric(metric_name(labels)))
        .collect();
    let identified = base_labels
        .iter()
        .zip(&described)
        .filter(|(_, described)| **described);
    let infos = match wanted.selector(identified.map(|(labels, _)| labels))? {
        Some(matchers) => Infos::read(ctx, &args[0], &matchers, grid)?,
        None => Infos::none(ctx),
    };
    let mut enriched = Enriched {
        ctx,
        steps: grid.count,
        ids: HashMap::new(),
        labels: Vec::new(),
        columns: Vec::new(),
    };
    let mut column = Column::new(&ctx.memory, grid.count)?;
    for (labels, described) in base_labels.iter().zip(described) {
        base.next(&mut column)?;
        ctx.work(grid.count)?;
        let groups = if described {
            infos.groups_for(labels)
        } else {
            Vec::new()
        };
        let mut last: Option<(Vec<usize>, Option<usize>)> = None;
        for step in column.present().iter() {
            let found: Vec<usize> = groups
                .iter()
                .filter_map(|group| infos.current(*group, step))
                .collect();
            let output = match &last {
                Some((same, output)) if *same == found => *output,
                _ => {
                    let keep = !described || !found.is_empty() || wanted.accepts_nothing();
                    let output = if keep {
                        let labels = wanted.add(labels, &found, &infos.labels)?;
                        Some(enriched.output(labels)?)
                    } else {
                        None
                    };
                    last = Some((found, output));
                    output
                }
            };
            if let Some(output) = output {
                enriched.columns[output].take_sample(step, &column)?;
            }
        }
    }
    relabel(ctx, enriched.labels, Ready::new(enriched.columns))
}

/// The results so far.
struct Enriched<'q> {
    ctx: &'q Context<'q>,
    steps: usize,
    ids: HashMap<Labels, usize>,
    labels: Vec<Labels>,
    columns: Vec<Column<'q>>,
}

impl Enriched<'_> {
    fn output(&mut self, labels: Labels) -> Result<usize, EvalError> {
        if let Some(id) = self.ids.get(&labels) {
            return Ok(*id);
        }
        self.columns.push(Column::new(&self.ctx.memory, self.steps)?);
        self.labels.push(labels.clone());
        self.ids.insert(labels, self.labels.len() - 1);
        Ok(self.labels.len() - 1)
    }
}

/// What the second argument asks for.
struct Wanted<'q> {
    /// On the info metric's name.
    names: Vec<Matcher>,
    /// On the labels to add; without any, all are added.
    data: BTreeMap<&'q str, Vec<&'q Matcher>>,
}

impl<'q> Wanted<'q> {
    fn new(selector: Option<&'q Expr>) -> Result<Wanted<'q>, EvalError> {
        let written: &[Matcher] = match selector.map(Expr::without_parens) {
            Some(Expr::VectorSelector(selector)) => &selector.matchers,
            _ => &[],
        };
        let mut wanted = Wanted {
            names: Vec::new(),
            data: BTreeMap::new(),
        };
        for matcher in written {
            if matcher.name() == METRIC_NAME {
                wanted.names.push(matcher.clone());
            } else {
                wanted.data.entry(matcher.name()).or_default().push(matcher);
            }
        }
        let is_positive = |matcher: &Matcher| matches!(matcher.op(), MatchOp::Eq | MatchOp::Re);
        if wanted.names.is_empty() {
            wanted.names.push(name_matcher(MatchOp::Eq, TARGET_INFO)?);
        } else if !wanted.names.iter().any(is_positive) {
            wanted.names.push(name_matcher(MatchOp::Re, ".+_info")?);
        }
        Ok(wanted)
    }

    fn is_info_metric(&self, name: &str) -> bool {
        self.names.iter().all(|matcher| matcher.matches(name))
    }

    /// Whether a series without info series is kept.
    fn accepts_nothing(&self) -> bool {
        self.data
            .values()
            .flatten()
            .all(|matcher| matcher.matches_empty())
    }

    /// Selects the info series of these series, if they can have any.
    fn selector<'l>(
        &self,
        series: impl Iterator<Item = &'l Labels>,
    ) -> Result<Option<Vec<Matcher>>, EvalError> {
        let mut values: [BTreeSet<&str>; IDENTIFYING.len()] = Default::default();
        for labels in series {
            for (name, values) in IDENTIFYING.iter().zip(&mut values) {
                values.extend(labels.get(name));
            }
        }
        if values.iter().all(BTreeSet::is_empty) {
            return Ok(None);
        }
        let mut matchers = self.names.clone();
        for (name, values) in IDENTIFYING.iter().zip(values) {
            if values.is_empty() {
                continue;
            }
            let escaped: Vec<String> = values.into_iter().map(regex_syntax::escape).collect();
            let matcher = Matcher::new(MatchOp::Re, name, &escaped.join("|"));
            matchers.push(matcher.map_err(|error| EvalError::Execution(error.to_string()))?);
        }
        matchers.extend(self.data.values().flatten().copied().cloned());
        Ok(Some(matchers))
    }

    /// The labels of a series with those of its info series, as far as they are asked for.
    fn add(&self, base: &Labels, found: &[usize], infos: &[Labels]) -> Result<Labels, EvalError> {
        let mut added: BTreeMap<&str, &str> = BTreeMap::new();
        for info in found {
            for (name, value) in infos[*info].iter() {
                if name == METRIC_NAME || !(self.data.is_empty() || self.data.contains_key(name)) {
                    continue;
                }
                if added.get(name).is_some_and(|other| *other != value) {
                    return Err(EvalError::Execution(format!("conflicting label: {name}")));
                }
                if base.get(name).is_none() {
                    added.insert(name, value);
                }
            }
        }
        let mut builder = LabelsBuilder::from(base);
        added.into_iter().for_each(|(name, value)| {
            builder.set(name, value);
        });
        Ok(builder.build())
    }
}

fn name_matcher(op: MatchOp, value: &str) -> Result<Matcher, EvalError> {
    Matcher::new(op, METRIC_NAME, value).map_err(|error| EvalError::Execution(error.to_string()))
}

/// The info series. Those of one name that describe the same series are a group.
struct Infos<'q> {
    labels: Vec<Labels>,
    /// By identifying labels: the groups.
    by_identity: HashMap<Labels, Vec<usize>>,
    /// For each group and step, the series in force, which is the one with the newest sample.
    current: Vec<Vec<Option<u32>>>,
    _charge: Charge<'q>,
}

impl<'q> Infos<'q> {
    fn none(ctx: &'q Context<'q>) -> Infos<'q> {
        Infos {
            labels: Vec::new(),
            by_identity: HashMap::new(),
            current: Vec::new(),
            _charge: ctx.memory.nothing(),
        }
    }

    fn read(
        ctx: &'q Context<'q>,
        described: &Expr,
        matchers: &[Matcher],
        grid: Grid,
    ) -> Result<Infos<'q>, EvalError> {
        let times = reference_times(ctx, described)?;
        let lookback_ms = ctx.options.lookback_ms;
        let selector = VectorSelector {
            name: None,
            matchers: matchers.to_vec(),
            offset: None,
            at: None,
            boundary: None,
            span: described.span(),
        };
        let hints = SelectHints {
            step_ms: grid.step_ms(),
            range_ms: 0,
            function: Some("info"),
        };
        let mut infos = Infos::none(ctx);
        let Some(mut selected) = Selected::open(ctx, &selector, grid.span(times), lookback_ms, hints)? else {
            return Ok(infos);
        };
        infos.labels = selected.labels();
        let mut charge = ctx.memory.charge(Context::labels_bytes(&infos.labels), 0)?;
        let mut groups: HashMap<Labels, usize> = HashMap::new();
        let mut newest: Vec<Vec<i64>> = Vec::new();
        for (series, labels) in infos.labels.iter().enumerate() {
            let named = only(
                labels,
                &[METRIC_NAME, IDENTIFYING[0], IDENTIFYING[1]].map(str::to_owned),
            );
            let group = match groups.get(&named) {
                Some(group) => *group,
                None => {
                    charge.grow(
                        grid.count * (size_of::<Option<u32>>() + size_of::<i64>()),
                        grid.count,
                    )?;
                    infos.current.push(vec![None; grid.count]);
                    newest.push(vec![i64::MIN; grid.count]);
                    let group = newest.len() - 1;
                    infos.by_identity.entry(identity(labels)).or_default().push(group);
                    groups.insert(named, group);
                    group
                }
            };
            let samples = selected.next()?;
            ctx.work(grid.count)?;
            let mut past = 0;
            for step in 0..grid.count {
                let reference_ms = times.reference_ms(grid.time_ms(step));
                while past < samples.timestamps.len() && samples.timestamps[past] <= reference_ms {
                    past += 1;
                }
                let Some(last) = past.checked_sub(1) else { continue };
                let time_ms = samples.timestamps[last];
                if time_ms <= reference_ms.saturating_sub(lookback_ms) || is_stale(samples.values[last]) {
                    continue;
                }
                if samples.histogram(last).is_some() {
                    return Err(EvalError::Execution(format!(
                        "this should be an info metric, with float samples: {}",
                        display(labels)
                    )));
                }
                let (current, newest) = (&mut infos.current[group][step], &mut newest[group][step]);
                match current {
                    Some(other) if *newest == time_ms => {
                        return Err(EvalError::Execution(format!(
                            "found duplicate series for info metric: existing {} @ {time_ms}, new {} @ {time_ms}",
                            display(&infos.labels[*other as usize]),
                            display(labels)
                        )));
                    }
                    Some(_) if *newest > time_ms => {}
                    _ => {
                        *current = u32::try_from(series).ok();
                        *newest = time_ms;
                    }
                }
            }
        }
        infos._charge = charge;
        Ok(infos)
    }

    /// The groups of info series that describe a series, one for each info metric.
    fn groups_for(&self, labels: &Labels) -> Vec<usize> {
        self.by_identity
            .get(&identity(labels))
            .cloned()
            .unwrap_or_default()
    }

    fn current(&self, group: usize, step: usize) -> Option<usize> {
        self.current[group][step].map(|series| series as usize)
    }
}

fn identity(labels: &Labels) -> Labels {
    only(labels, &IDENTIFYING.map(str::to_owned))
}

/// When the described series are looked at: `@` and `offset` of the first selector, and of the subqueries around it.
fn reference_times(ctx: &Context<'_>, described: &Expr) -> Result<Times, EvalError> {
    let mut times = Times::new(ctx, None, 0);
    let mut open = vec![(described, times)];
    while let Some((expr, outer)) = open.pop() {
        let selector = match expr {
            Expr::VectorSelector(selector) => &**selector,
            Expr::MatrixSelector(matrix) => &matrix.selector,
            Expr::Subquery(subquery) => {
                let own = Times::new(ctx, subquery.at, ctx.offset_ms(subquery.offset.as_ref())?);
                open.push((&subquery.expr, own.within(outer)));
                continue;
            }
            other => {
                open.extend(other.children().into_iter().rev().map(|child| (child, outer)));
                continue;
            }
        };
        times = Times::new(ctx, selector.at, ctx.offset_ms(selector.offset.as_ref())?).within(outer);
        break;
    }
    Ok(times)
}
