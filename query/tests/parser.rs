//! What the parser accepts, refuses and writes, example by example.

use quorate_query::ast::{At, BinaryOp, Cardinality, DurationValue, Expr, Grouping, Span, ValueType};
use quorate_query::parse::{MAX_NESTING, MAX_QUERY_BYTES};
use quorate_query::{parse, parse_selector};

fn parsed(query: &str) -> Expr {
    parse(query).unwrap_or_else(|error| panic!("{query}: {error}"))
}

#[track_caller]
fn refused(query: &str, expected: &str) {
    match parse(query) {
        Ok(expr) => panic!("{query} was accepted as {expr}"),
        Err(error) => assert_eq!(error.to_string(), expected, "{query}"),
    }
}

/// Query and canonical text, which reads back as itself.
#[test]
fn canonical_text() {
    let cases = [
        ("1", "1"),
        ("+1", "1"),
        ("-1", "-1"),
        ("- -1", "1"),
        ("0x1f", "31"),
        ("1_000", "1000"),
        ("1e21", "1e+21"),
        ("inF", "+Inf"),
        ("-Inf", "-Inf"),
        ("nan", "NaN"),
        ("inf ^ foo", "Inf ^ foo"),
        ("1h30m", "1h30m"),
        ("-90s", "-1m30s"),
        ("1 + 2*3^4^5", "1 + 2 * 3 ^ 4 ^ 5"),
        ("-foo^2", "-foo ^ 2"),
        ("+foo", "+foo"),
        ("2 ^ -3 * foo", "2 ^ -3 * foo"),
        ("\"a\\tb\\xff\"", "\"a\\tb\\xff\""),
        ("'it''s'", ""),
        ("`raw\\n`", "\"raw\\\\n\""),
        ("foo{}", "foo"),
        ("foo{b=\"2\", a!=\"1\",}", "foo{a!=\"1\",b=\"2\"}"),
        ("{__name__=\"foo\"}", "{__name__=\"foo\"}"),
        (
            "{\"foo.bar\", \"a b\"=~\"c.*\"}",
            "{\"a b\"=~\"c.*\",__name__=\"foo.bar\"}",
        ),
        ("foo:bar:baz", "foo:bar:baz"),
        ("foo offset 5m", "foo offset 5m"),
        ("foo offset -90m", "foo offset -1h30m"),
        ("foo offset 30", "foo offset 30s"),
        ("foo offset 0s", "foo"),
        ("foo @ 1.5 offset 1m", "foo @ 1.500 offset 1m"),
        ("foo offset 1m @ -0.001", "foo @ -0.001 offset 1m"),
        ("foo @ start()", "foo @ start()"),
        ("foo[5m] @ end() offset 1d", "foo[5m] @ end() offset 1d"),
        ("foo[1800]", "foo[30m]"),
        ("foo[1h:]", "foo[1h:]"),
        ("foo[1h:5m] offset 1w @ 0", "foo[1h:5m] @ 0.000 offset 1w"),
        ("(foo)[60m:1m]", "(foo)[1h:1m]"),
        ("foo[step()+1m]", "foo[step() + 1m]"),
        ("foo[(step()) * 2]", "foo[(step()) * 2]"),
        ("foo[STEP()]", "foo[step()]"),
        ("foo[(5m)]", "foo[5m]"),
        ("foo[-5m + 10m]", "foo[-5m + 10m]"),
        ("foo[2^3^2]", "foo[2 ^ 3 ^ 2]"),
        (
            "foo[max_of(step(), 1m):min_of(range(),5)]",
            "foo[max_of(step(), 1m):min_of(range(), 5)]",
        ),
        ("foo offset -(step()*2)", "foo offset -(step() * 2)"),
        ("foo offset (2 ^ 2)", "foo offset (2 ^ 2)"),
        ("foo offset -2 ^ 2", "foo offset -2s ^ 2"),
        ("foo offset step()*0", "foo offset step() * 0"),
        ("sum(foo)", "sum(foo)"),
        ("SUM by (a, b) (foo)", "sum by (a, b) (foo)"),
        ("sum(foo) without (a,)", "sum without (a) (foo)"),
        ("sum without () (foo)", "sum without () (foo)"),
        (
            "sum by (on, by, \"a.b\", inf) (foo)",
            "sum by (on, by, \"a.b\", inf) (foo)",
        ),
        ("topk by (a) (5, foo)", "topk by (a) (5, foo)"),
        ("count_values(\"v\", foo)", "count_values(\"v\", foo)"),
        ("limit_ratio(-0.5, foo)", "limit_ratio(-0.5, foo)"),
        ("rate(foo[5m])", "rate(foo[5m])"),
        ("label_join(foo, \"a\", \",\")", "label_join(foo, \"a\", \",\")"),
        ("time()", "time()"),
        ("hour()", "hour()"),
        ("END() - start()", "end() - start()"),
        ("info(foo, {a=\"\"})", "info(foo, {a=\"\"})"),
        ("a == bool b", "a == bool b"),
        ("a + on(x,y) group_left(z) b", "a + on (x, y) group_left (z) b"),
        (
            "a + ignoring(x) group_right b",
            "a + ignoring (x) group_right () b",
        ),
        ("a + on() b", "a + on () b"),
        ("a + ignoring() b", "a + b"),
        ("a and on(x) b or c unless d", "a and on (x) b or c unless d"),
        ("a + fill(0) b", "a + fill (0) b"),
        (
            "a > bool on(x) group_left fill_right(-Inf) fill_left(2) b",
            "a > bool on (x) group_left () fill_left (2) fill_right (-Inf) b",
        ),
        ("a atan2 b </ c", "a atan2 b </ c"),
        ("a >/ 1", "a >/ 1"),
        ("sum + by + offset + or", "sum + by + offset + or"),
        ("start + step{a=\"b\"}", "start + step{a=\"b\"}"),
        ("foo # comment\n + # another\nbar", "foo + bar"),
        ("((foo))", "((foo))"),
    ];
    for (query, expected) in cases {
        if expected.is_empty() {
            assert!(parse(query).is_err(), "{query}");
            continue;
        }
        let text = parsed(query).to_string();
        assert_eq!(text, expected, "{query}");
        assert_eq!(parsed(&text).to_string(), text, "{query}");
    }
}

#[test]
fn errors_have_prometheus_s_position_and_words() {
    let cases = [
        ("", "1:1: parse error: no expression found in input"),
        (
            "# just a comment\n\n",
            "1:1: parse error: no expression found in input",
        ),
        ("1+", "1:3: parse error: unexpected end of input"),
        (".", "1:1: parse error: unexpected character: '.'"),
        (
            "2.5.",
            "1:1: parse error: bad number or duration syntax: \"2.5.\"",
        ),
        (
            "0deadbeef",
            "1:1: parse error: bad number or duration syntax: \"0de\"",
        ),
        ("1 /", "1:4: parse error: unexpected end of input"),
        ("*1", "1:1: parse error: unexpected <op:*>"),
        ("(1))", "1:4: parse error: unexpected right parenthesis ')'"),
        ("((1)", "1:5: parse error: unclosed left parenthesis"),
        ("(", "1:2: parse error: unclosed left parenthesis"),
        (
            "1 and 1",
            "1:1: parse error: set operator \"and\" not allowed in binary scalar expression",
        ),
        (
            "1 == 1",
            "1:3: parse error: comparisons between scalars must use BOOL modifier",
        ),
        (
            "foo + bool bar",
            "1:5: parse error: bool modifier can only be used on comparison operators",
        ),
        (
            "foo or on(bar) foo2\n  + + 1 bool",
            "2:9: parse error: unexpected <bool>",
        ),
        (
            "-\"string\"",
            "1:1: parse error: unary expression only allowed on expressions of type scalar or instant vector, got \"string\"",
        ),
        (
            "-test[5m]",
            "1:1: parse error: unary expression only allowed on expressions of type scalar or instant vector, got \"range vector\"",
        ),
        ("*test", "1:1: parse error: unexpected <op:*>"),
        (
            "1 offset 1d",
            "1:1: parse error: offset modifier must be preceded by an instant vector selector or range vector selector or a subquery",
        ),
        (
            "foo offset 1s offset 2s",
            "1:1: parse error: offset may not be set multiple times",
        ),
        (
            "foo offset",
            "1:11: parse error: unexpected end of input in offset, expected number, duration, step(), or range()",
        ),
        (
            "sum(foo) @ 1",
            "1:1: parse error: @ modifier must be preceded by an instant vector selector or range vector selector or a subquery",
        ),
        (
            "foo @ 1 @ 2",
            "1:1: parse error: @ <timestamp> may not be set multiple times",
        ),
        (
            "foo @ Inf",
            "1:1: parse error: timestamp out of bounds for @ modifier: +Inf",
        ),
        (
            "foo @ bar",
            "1:7: parse error: unexpected identifier \"bar\" in @, expected timestamp",
        ),
        (
            "a - on(b) ignoring(c) d",
            "1:11: parse error: unexpected <ignoring>",
        ),
        (
            "foo + group_left(baz) bar",
            "1:7: parse error: unexpected <group_left>",
        ),
        (
            "foo and on(bar) group_left(baz) bar",
            "1:1: parse error: no grouping allowed for \"and\" operation",
        ),
        (
            "foo + on(bar) group_left(bar) baz",
            "1:5: parse error: label \"bar\" must not occur in ON and GROUP clause at once",
        ),
        (
            "foo + on(bar) 10",
            "1:1: parse error: vector matching only allowed between instant vectors",
        ),
        (
            "foo and 10",
            "1:1: parse error: set operator \"and\" not allowed in binary scalar expression",
        ),
        (
            "foo or fill(0) bar",
            "1:1: parse error: filling in missing series not allowed for set operators",
        ),
        (
            "foo + \"x\"",
            "1:7: parse error: binary expression must contain only scalar and instant vector types",
        ),
        (
            "{}",
            "1:1: parse error: vector selector must contain at least one non-empty matcher",
        ),
        (
            "{x=\"\"}",
            "1:1: parse error: vector selector must contain at least one non-empty matcher",
        ),
        (
            "1 + {x=~\".*\"}",
            "1:5: parse error: vector selector must contain at least one non-empty matcher",
        ),
        (
            "foo{__name__=\"bar\"}",
            "1:1: parse error: metric name must not be set twice: \"foo\" or \"bar\"",
        ),
        (
            "{a=\"b\" or c=\"d\"}",
            "1:8: parse error: unexpected identifier \"or\" in label matching, expected \",\" or \"}\"",
        ),
        ("{", "1:2: parse error: unexpected end of input inside braces"),
        ("}", "1:1: parse error: unexpected character: '}'"),
        ("some{", "1:6: parse error: unexpected end of input inside braces"),
        (
            "some_metric{a=b}",
            "1:15: parse error: unexpected identifier \"b\" in label matching, expected string",
        ),
        (
            "some_metric{a:b=\"b\"}",
            "1:14: parse error: unexpected character inside braces: ':'",
        ),
        (
            "foo{a}",
            "1:6: parse error: unexpected \"}\" in label matching, expected label matching operator",
        ),
        (
            "foo{,}",
            "1:5: parse error: unexpected \",\" in label matching, expected identifier or \"}\"",
        ),
        (
            "foo{1}",
            "1:5: parse error: unexpected character inside braces: '1'",
        ),
        (
            "foo{a=\"b\" c=\"d\"}",
            "1:11: parse error: unexpected identifier \"c\" in label matching, expected \",\" or \"}\"",
        ),
        (
            "foo[]",
            "1:5: parse error: unexpected \"]\" in subquery or range selector, expected number, duration, step(), or range()",
        ),
        (
            "foo[inf]",
            "1:5: parse error: unexpected number \"inf\" in subquery or range selector, expected number, duration, step(), or range()",
        ),
        ("foo[0m]", "1:5: parse error: duration must be greater than 0"),
        ("foo[-1m]", "1:5: parse error: duration must be greater than 0"),
        ("foo[5m", "1:7: parse error: unclosed left bracket"),
        (
            "foo[5mm]",
            "1:5: parse error: bad number or duration syntax: \"5mm\"",
        ),
        (
            "foo[5m1h]",
            "1:5: parse error: not a valid duration string: \"5m1h\"",
        ),
        (
            "foo[\"5m\"]",
            "1:5: parse error: unexpected string \"\\\"5m\\\"\" in subquery or range selector, expected number, duration, step(), or range()",
        ),
        (
            "foo[5m 1]",
            "1:8: parse error: unexpected number \"1\" in subquery or range, expected \":\" or \"]\"",
        ),
        (
            "foo[5m:1m 2]",
            "1:11: parse error: unexpected number \"2\" in subquery selector, expected \"]\"",
        ),
        (
            "1[5m]",
            "1:2: parse error: ranges only allowed for vector selectors",
        ),
        (
            "foo offset 1m [5m]",
            "1:15: parse error: no offset modifiers allowed before range",
        ),
        (
            "foo @ 1 [5m]",
            "1:9: parse error: no @ modifiers allowed before range",
        ),
        (
            "(foo + bar)[5m]",
            "1:12: parse error: ranges only allowed for vector selectors",
        ),
        (
            "foo[5m][1h:]",
            "1:1: parse error: subquery is only allowed on instant vector, got matrix instead",
        ),
        (
            "1[1h:]",
            "1:1: parse error: subquery is only allowed on instant vector, got scalar instead",
        ),
        (
            "sum()",
            "1:1: parse error: no arguments for aggregate expression provided",
        ),
        (
            "sum(a, b)",
            "1:1: parse error: wrong number of arguments for aggregate expression provided, expected 1, got 2",
        ),
        (
            "topk(foo)",
            "1:1: parse error: wrong number of arguments for aggregate expression provided, expected 2, got 1",
        ),
        (
            "topk(foo, foo)",
            "1:6: parse error: expected type scalar in aggregation parameter, got instant vector",
        ),
        (
            "count_values(5, foo)",
            "1:14: parse error: expected type string in aggregation parameter, got scalar",
        ),
        (
            "sum(1)",
            "1:5: parse error: expected type instant vector in aggregation expression, got scalar",
        ),
        (
            "sum without(==)(foo)",
            "1:13: parse error: unexpected <op:==> in grouping opts, expected label",
        ),
        (
            "sum without(,)(foo)",
            "1:13: parse error: unexpected \",\" in grouping opts, expected label",
        ),
        (
            "sum without(a==)(foo)",
            "1:14: parse error: unexpected <op:==> in grouping opts, expected \",\" or \")\"",
        ),
        (
            "sum by foo",
            "1:8: parse error: unexpected identifier \"foo\" in grouping opts, expected \"(\"",
        ),
        (
            "sum(foo bar)",
            "1:9: parse error: unexpected identifier \"bar\" in aggregation",
        ),
        ("foo bar", "1:5: parse error: unexpected identifier \"bar\""),
        (
            "floor()",
            "1:1: parse error: expected 1 argument(s) in call to \"floor\", got 0",
        ),
        (
            "round(a, 1, 2)",
            "1:1: parse error: expected at most 2 argument(s) in call to \"round\", got 3",
        ),
        (
            "label_join(a)",
            "1:1: parse error: expected at least 3 argument(s) in call to \"label_join\", got 1",
        ),
        (
            "floor(1)",
            "1:7: parse error: expected type instant vector in call to function \"floor\", got scalar",
        ),
        (
            "rate(foo)",
            "1:6: parse error: expected type range vector in call to function \"rate\", got instant vector",
        ),
        (
            "label_join(a, \"b\", \"c\", 1)",
            "1:25: parse error: expected type string in call to function \"label_join\", got scalar",
        ),
        (
            "non_existent(a)",
            "1:1: parse error: unknown function with name \"non_existent\"",
        ),
        (
            "Rate(a[1m])",
            "1:1: parse error: unknown function with name \"Rate\"",
        ),
        (
            "floor(a,)",
            "1:8: parse error: trailing commas not allowed in function call args",
        ),
        (
            "info(a, b)",
            "1:9: parse error: expected label selectors only, got vector selector instead",
        ),
        (
            "\"\\xg\"",
            "1:1: parse error: illegal character U+0067 'g' in escape sequence",
        ),
        (
            "foo[5m:1m] smoothed",
            "1:1: parse error: smoothed modifier is not supported for subqueries",
        ),
        (
            "foo[5m] anchored smoothed",
            "1:1: parse error: anchored and smoothed modifiers cannot be used together",
        ),
        ("1e999", "1:1: parse error: error parsing number: \"1e999\""),
        ("a\n  + ä", "2:5: parse error: unexpected character: 'ä'"),
    ];
    for (query, expected) in cases {
        refused(query, expected);
    }
}

#[test]
fn a_bad_regular_expression_is_pointed_at() {
    let error = parse("1 + foo{a=~\"(\"}").expect_err("the group is open");
    assert_eq!(error.line_column(), (1, 9));
    assert_eq!(error.span(), Span::new(8, 14));
}

#[test]
fn every_node_knows_where_it_was_written() {
    let query = "sum by (a) (rate(foo{b=\"c\"}[5m] offset 1m)) / (1 + -bar @ end())";
    fn spans<'a>(expr: &Expr, query: &'a str, found: &mut Vec<&'a str>) {
        let span = expr.span();
        found.push(&query[span.start as usize..span.end as usize]);
        for child in expr.children() {
            spans(child, query, found);
        }
    }
    let mut found = Vec::new();
    spans(&parsed(query), query, &mut found);
    assert_eq!(
        found,
        [
            query,
            "sum by (a) (rate(foo{b=\"c\"}[5m] offset 1m))",
            "rate(foo{b=\"c\"}[5m] offset 1m)",
            "foo{b=\"c\"}[5m] offset 1m",
            "(1 + -bar @ end())",
            "1 + -bar @ end()",
            "1",
            "-bar @ end()",
            "bar @ end()",
        ]
    );
}

#[test]
fn operators_bind_as_in_prometheus() {
    fn shape(expr: &Expr) -> String {
        match expr {
            Expr::Binary(node) => format!("({} {} {})", shape(&node.lhs), node.op.as_str(), shape(&node.rhs)),
            Expr::Unary(node) => format!("(-{})", shape(&node.expr)),
            other => other.to_string(),
        }
    }
    let cases = [
        ("a or b and c unless d", "(a or ((b and c) unless d))"),
        ("a + b == c * d", "((a + b) == (c * d))"),
        ("a - b - c", "((a - b) - c)"),
        ("a ^ b ^ c", "(a ^ (b ^ c))"),
        ("-a ^ b", "(-(a ^ b))"),
        ("-a * b", "((-a) * b)"),
        ("a ^ -b * c", "((a ^ (-b)) * c)"),
        ("a % b atan2 c", "((a % b) atan2 c)"),
        ("a </ b + c", "(a </ (b + c))"),
        ("a offset 2 ^ 2", "(a offset 2s ^ 2)"),
    ];
    for (query, expected) in cases {
        assert_eq!(shape(&parsed(query)), expected, "{query}");
    }
}

#[test]
fn the_tree_holds_what_was_written() {
    let Expr::Binary(node) = parsed("a{x=\"1\"} and on (x) b") else {
        panic!("not a binary expression")
    };
    let matching = node.matching.as_ref().expect("both sides are vectors");
    assert_eq!(
        (node.op, matching.cardinality),
        (BinaryOp::And, Cardinality::ManyToMany)
    );
    assert_eq!(
        (matching.on, matching.labels.as_slice()),
        (true, ["x".to_owned()].as_slice())
    );
    let Expr::VectorSelector(selector) = &node.lhs else {
        panic!("not a selector")
    };
    let names: Vec<&str> = selector.matchers.iter().map(|matcher| matcher.name()).collect();
    assert_eq!(
        (selector.name.as_deref(), names),
        (Some("a"), vec!["x", "__name__"])
    );

    let Expr::Binary(node) = parsed("a + 1") else {
        panic!("not a binary expression")
    };
    assert_eq!(node.matching, None);

    let Expr::MatrixSelector(node) = parsed("a[5m] @ 1.2345 offset -1m") else {
        panic!("not a range")
    };
    assert_eq!(node.range, DurationValue::Millis(300_000));
    assert_eq!(node.selector.at, Some(At::Timestamp(1235)));
    assert_eq!(node.selector.offset, Some(DurationValue::Millis(-60_000)));

    let Expr::Aggregate(node) = parsed("sum(a)") else {
        panic!("not an aggregation")
    };
    assert_eq!(node.grouping, Grouping::By(Vec::new()));

    let types = [
        ("1 + 2", ValueType::Scalar),
        ("1 + a", ValueType::Vector),
        ("-(a[5m:])", ValueType::Matrix),
        ("(\"x\")", ValueType::String),
        ("scalar(a) + 1 + pi()", ValueType::Scalar),
    ];
    for (query, expected) in types {
        match parse(query) {
            Ok(expr) => assert_eq!(expr.value_type(), expected, "{query}"),
            Err(_) => assert_eq!(query, "-(a[5m:])"),
        }
    }
}

#[test]
fn selectors_stand_alone() {
    let matchers = parse_selector(" foo{a=~\"b\"} ").expect("it is a selector");
    let texts: Vec<(&str, &str)> = matchers
        .iter()
        .map(|matcher| (matcher.name(), matcher.value()))
        .collect();
    assert_eq!(texts, [("a", "b"), ("__name__", "foo")]);
    assert!(
        parse_selector("{}")
            .expect("the caller judges emptiness")
            .is_empty()
    );
    for wrong in ["", "foo[5m]", "foo offset 5m", "1", "foo + bar", "foo{"] {
        assert!(parse_selector(wrong).is_err(), "{wrong}");
    }
}

/// Every way of nesting ends in an error, on a stack no larger than a worker thread's.
#[test]
fn nesting_is_bounded() {
    let deep = |open: &str, inner: &str, close: &str| {
        let levels = (MAX_QUERY_BYTES - 100) / (open.len() + close.len());
        format!("{}{inner}{}", open.repeat(levels), close.repeat(levels))
    };
    let queries = [
        deep("(", "a", ")"),
        deep("-", "a", ""),
        deep("a ^ ", "a", ""),
        deep("abs(", "a", ")"),
        deep("sum(", "a", ")"),
        deep("1+(", "a", ")"),
        format!("a[{}]", deep("(", "1", ")")),
        format!("a[{}]", deep("-", "step()", "")),
        format!("a[{}]", deep("2^", "1", "")),
        format!("a[{}]", deep("min_of(1,", "1", ")")),
        format!("a offset {}", deep("(", "1", ")")),
        format!("a[{}1]", "1+".repeat(100_000)),
        format!("a{}", "[1m:]".repeat(40_000)),
        deep("(", "", ""),
        deep("a or (", "a", ")"),
    ];
    let small_stack = std::thread::Builder::new().stack_size(1 << 20);
    let worker = small_stack.spawn(move || {
        for query in queries {
            assert!(query.len() <= MAX_QUERY_BYTES);
            let error = parse(&query).expect_err("it nests too deep").to_string();
            let cause = [
                "nests deeper",
                "operators allowed",
                "only allowed on instant vector",
            ];
            assert!(cause.iter().any(|cause| error.contains(cause)), "{error}");
        }
        let open = MAX_NESTING - 1;
        let deepest = format!("{}a{}", "(".repeat(open), ")".repeat(open));
        let expr = parsed(&deepest);
        assert_eq!((expr.to_string(), expr.height()), (deepest, MAX_NESTING));
        assert_eq!(format!("{:?}", expr.clone()), format!("{expr:?}"));
    });
    worker
        .expect("a thread starts")
        .join()
        .expect("the stack was enough");
}

#[test]
fn the_length_is_bounded() {
    let query = format!("\"{}\"", "a".repeat(MAX_QUERY_BYTES));
    refused(
        &query,
        "1:1: parse error: the query has 262146 bytes, more than the 262144 allowed",
    );
}

/// A chain as long as a query may be is read, compared, copied, printed and dropped, on a small stack.
#[test]
fn chains_of_operators_need_no_stack() {
    for (operand, operator) in [("a", " + "), ("1", " * "), ("a", " or ")] {
        let small_stack = std::thread::Builder::new().stack_size(1 << 19);
        let worker = small_stack.spawn(move || {
            let terms = MAX_QUERY_BYTES / (operand.len() + operator.len());
            let query = vec![operand; terms].join(operator);
            let expr = parse(&query).expect("the chain is well formed");
            assert_eq!(expr.height(), terms);
            assert!(expr.to_string() == query);
            assert!(expr.clone() == expr);
            assert_eq!(
                expr.span(),
                Span::new(0, u32::try_from(query.len()).expect("queries are short"))
            );
            assert!(format!("{expr:?}").len() > query.len());
        });
        worker
            .expect("a thread starts")
            .join()
            .expect("the stack was enough");
    }
}
