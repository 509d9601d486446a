//! Reads Prometheus's test scripts: `clear`, `load`, `eval instant`, `eval range` and what each is expected to give.

use anyhow::{Context, Result, bail};
use quorate_query::ast::Expr;
use quorate_query::parse::series::{SeriesDescription, parse_series};
use quorate_query::{parse, parse_duration};

/// One step of a script.
pub(crate) enum Command {
    /// Forgets all series.
    Clear,
    /// Adds samples.
    Load(Load),
    /// Asks a query.
    Eval(Box<Eval>),
}

/// Samples to add.
pub(crate) struct Load {
    /// Distance of the values.
    pub(crate) step_ms: i64,
    /// The series; `None` for the values of one that holds native histograms.
    pub(crate) series: Vec<LoadedSeries>,
    /// Whether the classic histograms among them are also stored as native ones.
    pub(crate) with_native: bool,
}

/// A series to add.
pub(crate) struct LoadedSeries {
    /// Labels and values.
    pub(crate) description: SeriesDescription,
    /// Whether values of it are native histograms, which the description then leaves out.
    pub(crate) has_histograms: bool,
}

/// A query and what it must give.
#[derive(Clone)]
pub(crate) struct Eval {
    /// Line of the script, from 1.
    pub(crate) line: usize,
    /// PromQL.
    pub(crate) query: String,
    /// When it is asked.
    pub(crate) time: EvalTime,
    /// What it must give.
    pub(crate) expect: Expect,
    /// Whether the expected result shows native histograms.
    pub(crate) has_histograms: bool,
}

/// When a query is evaluated, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum EvalTime {
    Instant { at: i64 },
    Range { start: i64, end: i64, step: i64 },
}

/// What a query must give.
#[derive(Clone, Default)]
pub(crate) struct Expect {
    pub(crate) ordered: bool,
    pub(crate) fails: bool,
    pub(crate) fail_text: Option<Pattern>,
    pub(crate) warnings: Vec<Pattern>,
    pub(crate) infos: Vec<Pattern>,
    /// Any warning will do (`eval_warn`, `expect warn`).
    pub(crate) some_warning: bool,
    pub(crate) some_info: bool,
    pub(crate) no_warning: bool,
    pub(crate) no_info: bool,
    pub(crate) scalar: Option<f64>,
    pub(crate) string: Option<Vec<u8>>,
    /// An instant query gives a range vector with these first time and step.
    pub(crate) range_vector: Option<(i64, i64)>,
    pub(crate) series: Vec<SeriesDescription>,
}

/// A text to find.
#[derive(Clone)]
pub(crate) enum Pattern {
    /// Exactly this text.
    Text(String),
    /// Somewhere in the text.
    Regex(regex_automata::meta::Regex),
}

impl Pattern {
    pub(crate) fn matches(&self, text: &str) -> bool {
        match self {
            Pattern::Text(expected) => expected == text,
            Pattern::Regex(regex) => regex.is_match(text),
        }
    }
}

/// Reads a whole script.
pub(crate) fn read_script(text: &str) -> Result<Vec<Command>> {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .map(|line| if line.starts_with('#') { "" } else { line })
        .collect();
    let mut commands = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        if lines[at].is_empty() {
            at += 1;
            continue;
        }
        let end = lines[at..]
            .iter()
            .position(|line| line.is_empty())
            .map_or(lines.len(), |blank| at + blank);
        let (head, body) = (lines[at], &lines[at + 1..end]);
        let number = at + 1;
        let first_word = head.split_whitespace().next().unwrap_or_default();
        match first_word {
            "clear" => {
                commands.push(Command::Clear);
                // Nothing belongs to it: what follows at once is the next command.
                at += 1;
                continue;
            }
            "load" | "load_with_nhcb" => {
                let step = head[first_word.len()..].trim();
                let load = read_load(step, body, first_word == "load_with_nhcb");
                commands.push(Command::Load(load.with_context(|| format!("line {number}"))?));
            }
            word if word.starts_with("eval") => {
                let eval = read_eval(number, head, body).with_context(|| format!("line {number}"))?;
                commands.push(Command::Eval(Box::new(eval)));
            }
            other => bail!("line {number}: unknown command {other:?}"),
        }
        at = end;
    }
    Ok(commands)
}

fn read_load(step: &str, body: &[&str], with_native: bool) -> Result<Load> {
    let step_ms = parse_duration(step)?;
    let mut series = Vec::new();
    for line in body {
        // Start timestamps, which the engine doesn't use.
        if line.contains("@st ") {
            continue;
        }
        let floats = line.split("{{").next().unwrap_or_default();
        let floats = floats.trim_end();
        let has_histograms = floats.len() < line.trim_end().len();
        let description = parse_series(floats).with_context(|| format!("series {line:?}"))?;
        series.push(LoadedSeries {
            description,
            has_histograms,
        });
    }
    Ok(Load {
        step_ms,
        series,
        with_native,
    })
}

/// Splits the first word off.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

fn keyword<'a>(text: &'a str, expected: &str) -> Result<&'a str> {
    match word(text) {
        (found, rest) if found == expected => Ok(rest),
        (found, _) => bail!("expected {expected:?}, found {found:?}"),
    }
}

fn read_eval(line: usize, head: &str, body: &[&str]) -> Result<Eval> {
    let (command, rest) = word(head);
    let (kind, rest) = word(rest);
    let (time, query) = match kind {
        "instant" => {
            let (at, query) = match word(rest) {
                ("at", rest) => word(rest),
                _ => ("0", rest),
            };
            (
                EvalTime::Instant {
                    at: parse_duration(at)?,
                },
                query,
            )
        }
        "range" => {
            let (start, rest) = word(keyword(rest, "from")?);
            let (end, rest) = word(keyword(rest, "to")?);
            let (step, query) = word(keyword(rest, "step")?);
            let (start, end, step) = (
                parse_duration(start)?,
                parse_duration(end)?,
                parse_duration(step)?,
            );
            (EvalTime::Range { start, end, step }, query)
        }
        other => bail!("unknown kind of evaluation {other:?}"),
    };
    let mut expect = Expect::default();
    match command {
        "eval" => {}
        "eval_fail" => expect.fails = true,
        "eval_warn" => expect.some_warning = true,
        "eval_info" => expect.some_info = true,
        "eval_ordered" => expect.ordered = true,
        other => bail!("unknown command {other:?}"),
    }
    let mut has_histograms = false;
    for line in body {
        if line.contains("{{") {
            has_histograms = true;
        } else {
            read_expectation(line, &mut expect).with_context(|| format!("expectation {line:?}"))?;
        }
    }
    Ok(Eval {
        line,
        query: query.to_owned(),
        time,
        expect,
        has_histograms,
    })
}

fn read_expectation(line: &str, expect: &mut Expect) -> Result<()> {
    let (first, rest) = word(line);
    match first {
        "expect" => read_expect_line(rest, expect),
        "expected_fail_message" => {
            expect.fail_text = Some(Pattern::Text(rest.to_owned()));
            Ok(())
        }
        "expected_fail_regexp" => {
            expect.fail_text = Some(Pattern::Regex(regex_automata::meta::Regex::new(rest)?));
            Ok(())
        }
        _ => {
            if let Some(value) = number(line) {
                expect.scalar = Some(value);
            } else {
                expect.series.push(parse_series(line)?);
            }
            Ok(())
        }
    }
}

fn number(text: &str) -> Option<f64> {
    match parse(text) {
        Ok(Expr::Number(number)) => Some(number.value),
        _ => None,
    }
}

fn read_expect_line(rest: &str, expect: &mut Expect) -> Result<()> {
    let (kind, rest) = word(rest);
    let pattern = || -> Result<Option<Pattern>> {
        Ok(if let Some(text) = rest.strip_prefix("msg:") {
            Some(Pattern::Text(text.trim().to_owned()))
        } else if let Some(regex) = rest.strip_prefix("regex:") {
            Some(Pattern::Regex(regex_automata::meta::Regex::new(regex.trim())?))
        } else if rest.is_empty() {
            None
        } else {
            bail!("unknown pattern {rest:?}")
        })
    };
    match kind {
        "ordered" => expect.ordered = true,
        "no_warn" => expect.no_warning = true,
        "no_info" => expect.no_info = true,
        "fail" => {
            expect.fails = true;
            expect.fail_text = pattern()?;
        }
        "warn" => {
            expect.some_warning = true;
            expect.warnings.extend(pattern()?);
        }
        "info" => {
            expect.some_info = true;
            expect.infos.extend(pattern()?);
        }
        "string" => match parse(rest) {
            Ok(Expr::String(string)) => expect.string = Some(string.value),
            _ => bail!("not a string: {rest:?}"),
        },
        "range" => {
            let rest = keyword(rest, "vector")?;
            let (start, rest) = word(keyword(rest, "from")?);
            let (_, rest) = word(keyword(rest, "to")?);
            let (step, _) = word(keyword(rest, "step")?);
            expect.range_vector = Some((parse_duration(start)?, parse_duration(step)?));
        }
        other => bail!("unknown expectation {other:?}"),
    }
    Ok(())
}
