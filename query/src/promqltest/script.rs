//! Reads Prometheus's test scripts: `clear`, `load`, `eval instant`, `eval range` and what each is expected to give.

use super::error::{Context as _, Result, bail};
use crate::ast::Expr;
use crate::parse::series::{DescribedValue, SeriesDescription, parse_series};
use crate::{parse, parse_duration};

/// One step of a script.
pub(super) enum Command {
    /// Forgets all series.
    Clear,
    /// Adds samples.
    Load(Load),
    /// Asks a query.
    Eval(Box<Eval>),
}

/// Samples to add.
pub(super) struct Load {
    /// Distance of the values.
    pub(super) step_ms: i64,
    /// The series.
    pub(super) series: Vec<SeriesDescription>,
    /// Whether the classic histograms among them are also stored as native ones.
    pub(super) with_native: bool,
}

/// A query and what it must give.
#[derive(Clone)]
pub(super) struct Eval {
    /// Line of the script, from 1.
    pub(super) line: usize,
    /// PromQL.
    pub(super) query: String,
    /// When it is asked.
    pub(super) time: EvalTime,
    /// What it must give.
    pub(super) expect: Expect,
}

/// When a query is evaluated, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub enum EvalTime {
    /// Once.
    Instant {
        /// When.
        at: i64,
    },
    /// At equal distances.
    Range {
        /// First time.
        start: i64,
        /// No time is later.
        end: i64,
        /// Distance of the times.
        step: i64,
    },
}

/// What a query must give.
#[derive(Clone, Default)]
pub(super) struct Expect {
    pub(super) ordered: bool,
    pub(super) fails: bool,
    pub(super) fail_text: Option<Pattern>,
    pub(super) warnings: Vec<Pattern>,
    pub(super) infos: Vec<Pattern>,
    /// Any warning will do (`eval_warn`, `expect warn`).
    pub(super) some_warning: bool,
    pub(super) some_info: bool,
    pub(super) no_warning: bool,
    pub(super) no_info: bool,
    pub(super) scalar: Option<f64>,
    pub(super) string: Option<Vec<u8>>,
    /// An instant query gives a range vector with these first time and step.
    pub(super) range_vector: Option<(i64, i64)>,
    pub(super) series: Vec<SeriesDescription>,
}

impl Expect {
    /// Whether the expected result shows native histograms.
    pub(super) fn has_histograms(&self) -> bool {
        let mut values = self.series.iter().flat_map(|series| &series.values).flatten();
        values.any(|value| matches!(value, DescribedValue::Histogram { .. }))
    }
}

/// A text to find.
#[derive(Clone)]
pub(super) enum Pattern {
    /// Exactly this text.
    Text(String),
    /// Somewhere in the text.
    Regex(regex_automata::meta::Regex),
}

impl Pattern {
    pub(super) fn matches(&self, text: &str) -> bool {
        match self {
            Pattern::Text(expected) => expected == text,
            Pattern::Regex(regex) => regex.is_match(text),
        }
    }
}

/// Reads a whole script.
pub(super) fn read_script(text: &str) -> Result<Vec<Command>> {
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
    let step_ms = duration(step)?;
    let mut series = Vec::new();
    for line in body {
        // Start timestamps, which the engine doesn't use.
        if line.contains("@st ") {
            continue;
        }
        series.push(parse_series(line).with_context(|| format!("series {line:?}"))?);
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
            (EvalTime::Instant { at: duration(at)? }, query)
        }
        "range" => {
            let (start, rest) = word(keyword(rest, "from")?);
            let (end, rest) = word(keyword(rest, "to")?);
            let (step, query) = word(keyword(rest, "step")?);
            let (start, end, step) = (duration(start)?, duration(end)?, duration(step)?);
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
    for line in body {
        read_expectation(line, &mut expect).with_context(|| format!("expectation {line:?}"))?;
    }
    Ok(Eval {
        line,
        query: query.to_owned(),
        time,
        expect,
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
            expect.fail_text = Some(Pattern::Regex(regex(rest)?));
            Ok(())
        }
        _ => {
            if let Some(value) = number(line) {
                expect.scalar = Some(value);
            } else {
                expect.series.push(parse_series(line).context("series")?);
            }
            Ok(())
        }
    }
}

fn duration(text: &str) -> Result<i64> {
    parse_duration(text).context("duration")
}

fn regex(text: &str) -> Result<regex_automata::meta::Regex> {
    regex_automata::meta::Regex::new(text).context("regular expression")
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
        } else if let Some(text) = rest.strip_prefix("regex:") {
            Some(Pattern::Regex(regex(text.trim())?))
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
            expect.range_vector = Some((duration(start)?, duration(step)?));
        }
        other => bail!("unknown expectation {other:?}"),
    }
    Ok(())
}
