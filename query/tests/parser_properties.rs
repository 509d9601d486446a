//! What holds for every input of the parser.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use quorate_query::ast::Expr;
use quorate_query::parse::series::parse_series;
use quorate_query::parse::{format_duration, format_number, quote};
use quorate_query::{parse, parse_duration, parse_selector};

/// The expression's structure without the places it was written at.
fn structure(expr: &Expr) -> String {
    let debug = format!("{expr:?}");
    let mut parts = debug.split("Span {");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        kept.push_str(part.split_once('}').expect("a span's braces close").1);
    }
    kept
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z_][a-z0-9_]{0,5}",
        Just("on".to_owned()),
        Just("Step".to_owned()),
        Just("sum".to_owned())
    ]
}

fn quoted() -> impl Strategy<Value = String> {
    any::<String>().prop_map(|text| quote(text.as_bytes()))
}

fn duration() -> impl Strategy<Value = String> {
    (1..100_000_000_i64).prop_map(format_duration)
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<f64>()
            .prop_filter("signs are tried elsewhere", |value| !value.is_sign_negative())
            .prop_map(format_number),
        duration(),
        Just("0x1F".to_owned()),
        Just("1_000.5".to_owned()),
    ]
}

fn duration_arithmetic() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        duration(),
        Just("step()".to_owned()),
        Just("range()".to_owned()),
        Just("1.5".to_owned())
    ];
    leaf.prop_recursive(4, 12, 2, |inner| {
        let operator = prop::sample::select(vec!["+", "-", "*", "/", "%", "^"]);
        prop_oneof![
            (inner.clone(), operator, inner.clone()).prop_map(|(a, op, b)| format!("{a}{op}{b}")),
            inner.clone().prop_map(|a| format!("({a})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("max_of({a},{b})")),
            inner.prop_map(|a| format!("step() - -{a}")),
        ]
    })
}

fn modifiers() -> impl Strategy<Value = String> {
    let at = prop_oneof![
        Just(String::new()),
        Just(" @ end()".to_owned()),
        (-1_000_000_i64..1_000_000).prop_map(|millis| format!(" @ {}", millis as f64 / 1000.0)),
    ];
    let offset = prop_oneof![
        Just(String::new()),
        duration().prop_map(|duration| format!(" offset -{duration}")),
        duration_arithmetic().prop_map(|duration| format!(" offset ({duration})")),
    ];
    (at, offset).prop_map(|(at, offset)| format!("{offset}{at}"))
}

fn series() -> impl Strategy<Value = String> {
    let operator = prop::sample::select(vec!["=", "!="]);
    (word(), prop::option::of((word(), operator, quoted()))).prop_map(|(name, matcher)| match matcher {
        Some((label, op, value)) => format!("{name}x{{{label}{op}{value}}}"),
        None => format!("{name}x"),
    })
}

fn vector() -> impl Strategy<Value = String> {
    let leaf = (series(), modifiers()).prop_map(|(series, modifiers)| format!("{series}{modifiers}"));
    leaf.prop_recursive(6, 40, 3, |inner| {
        let operator = prop::sample::select(vec![
            "+",
            "-",
            "*",
            "/",
            "%",
            "^",
            "atan2",
            "==",
            "!= bool",
            "<",
            ">= bool on (a, b)",
            "</",
            ">/",
            "and ignoring(x)",
            "or",
            "unless",
            "* on (a) group_left(b, on)",
            "+ ignoring() group_right()",
            "+ fill(1)",
            "- on() fill_left(NaN) fill_right(-1)",
        ]);
        let aggregation = prop::sample::select(vec![
            "sum",
            "avg by ()",
            "MAX without (a, \"b c\")",
            "count by (on)",
            "group without ()",
        ]);
        prop_oneof![
            (inner.clone(), operator, inner.clone()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
            (inner.clone(), number()).prop_map(|(a, b)| format!("{a} * {b}")),
            (number(), inner.clone()).prop_map(|(a, b)| format!("(-{a} < ({b}))")),
            (aggregation, inner.clone()).prop_map(|(op, a)| format!("{op}({a})")),
            (inner.clone(), word()).prop_map(|(a, label)| format!("topk(3, {a}) by ({label})")),
            (quoted(), inner.clone()).prop_map(|(label, a)| format!("count_values({label}, {a})")),
            inner.clone().prop_map(|a| format!("({a})")),
            inner.clone().prop_map(|a| format!("-{a}")),
            inner.clone().prop_map(|a| format!("+({a})")),
            (series(), duration_arithmetic(), modifiers())
                .prop_map(|(a, range, modifiers)| format!("rate({a}[0+{range}]{modifiers})")),
            (inner, duration(), prop::option::of(duration()), modifiers()).prop_map(
                |(a, range, step, modifiers)| {
                    format!(
                        "max_over_time(({a})[{range}:{}]{modifiers})",
                        step.unwrap_or_default()
                    )
                }
            ),
        ]
    })
}

proptest! {
    #[test]
    fn printed_expressions_read_back_the_same(query in vector()) {
        let expr = parse(&query).map_err(|error| TestCaseError::fail(format!("{query}: {error}")))?;
        let text = expr.to_string();
        let again = parse(&text).map_err(|error| TestCaseError::fail(format!("{query} -> {text}: {error}")))?;
        prop_assert_eq!(structure(&again), structure(&expr), "{} -> {}", query, text);
        prop_assert_eq!(again.to_string(), text);
        prop_assert!(expr.clone() == expr);
    }

    #[test]
    fn spans_lie_within_the_query_and_within_their_parents(query in vector()) {
        let expr = parse(&query).map_err(|error| TestCaseError::fail(format!("{query}: {error}")))?;
        let mut open = vec![&expr];
        while let Some(node) = open.pop() {
            let span = node.span();
            prop_assert!(query.get(span.start as usize..span.end as usize).is_some());
            for child in node.children() {
                prop_assert_eq!(child.span().to(span), span, "{} in {}", child, node);
                open.push(child);
            }
        }
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = (parse(&text), parse_selector(&text), parse_duration(&text), parse_series(&text));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = (parse(&text), parse_selector(&text), parse_duration(&text), parse_series(&text));
    }

    #[test]
    fn no_mix_of_tokens_panics(tokens in prop::collection::vec(prop::sample::select(vec![
        "a", "b:c", "sum", "by", "without", "on", "ignoring", "group_left", "bool", "fill", "offset", "@", "start",
        "step", "rate", "info", "topk", "(", ")", "[", "]", "{", "}", ",", ":", "=", "=~", "!=", "!~", "==", "</",
        "+", "-", "^", "and", "or", "1", "5m", "0x", "1e", "inf", "\"s\"", "'\\'", "`r`", "#", "\n", " ", "ä", "min_of",
    ]), 0..40)) {
        let text = tokens.concat();
        let spaced = tokens.join(" ");
        for text in [text, spaced] {
            if let Ok(expr) = parse(&text) {
                let printed = expr.to_string();
                let again = parse(&printed).map_err(|error| TestCaseError::fail(format!("{text} -> {printed}: {error}")))?;
                prop_assert_eq!(again.to_string(), printed);
            }
            let _ = (parse_selector(&text), parse_series(&text));
        }
    }

    #[test]
    fn numbers_read_back_the_same(value in any::<f64>()) {
        let Expr::Number(number) = parse(&format_number(value)).expect("it is a number") else {
            panic!("{value} is no number literal");
        };
        prop_assert!(number.value.to_bits() == value.to_bits() || value.is_nan());
    }

    #[test]
    fn durations_read_back_the_same(millis in 0..i64::MAX / 1_000_000) {
        prop_assert_eq!(parse_duration(&format_duration(millis)), Ok(millis));
    }
}

/// How long this thread ran so far. The scheduler's count, where there is one: other processes don't add to it.
fn time_spent() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let scheduled = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = scheduled.and_then(|fields| fields.split(' ').next()?.parse().ok());
    nanos.map_or_else(|| START.elapsed(), Duration::from_nanos)
}

/// As many terms in chains sixteen times as long take about as long; the bound of six leaves room for what memory
/// costs and none for quadratic growth, which takes sixteen times.
#[test]
fn time_grows_with_the_length_of_a_chain() {
    const TERMS: usize = 128_000;
    for (operand, operator) in [
        ("a", "+"),
        ("1", "*"),
        ("a", " or "),
        ("a", "==on(x)"),
        ("-a", "-"),
    ] {
        let spent_on_chains_of = |length: usize| {
            let query = vec![operand; length].join(operator);
            let attempts = (0..3).map(|_| {
                let start = time_spent();
                for _ in 0..TERMS / length {
                    let expr = parse(&query).expect("the chain is well formed");
                    assert!(!expr.to_string().is_empty());
                }
                time_spent() - start
            });
            attempts.min().expect("there are three attempts")
        };
        let (short, long) = (spent_on_chains_of(2_000), spent_on_chains_of(32_000));
        assert!(
            long < short * 6,
            "{operand}{operator}: {short:?} in chains of 2,000 terms, {long:?} of 32,000"
        );
    }
}
