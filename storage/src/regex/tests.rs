use proptest::prelude::*;

use super::*;

fn regex(pattern: &str) -> GoRegex {
    GoRegex::new_anchored(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}"))
}

fn accepts(pattern: &str, text: &str) -> bool {
    regex(pattern).is_match(text)
}

#[test]
fn go_meanings() {
    assert!(accepts(".*", "a\nb"));
    assert!(!accepts("(?-s).*", "a\nb"));
    assert!(!accepts(r"\d", "٣"), "digits are ASCII");
    assert!(!accepts(r"\w+", "é"), "words are ASCII");
    assert!(accepts(r"\W", "é"));
    assert!(!accepts(r"\s", "\x0b"), "\\v is not in \\s");
    assert!(accepts("[[:space:]]", "\x0b"));
    assert!(accepts("[a&&b]", "&"), "no intersection");
    assert!(accepts("[[a]", "["), "an open bracket is a literal in a class");
    assert!(accepts("[]a]", "]"));
    assert!(accepts("[a-]", "-"));
    assert!(accepts(r"\Qa.b\E+", "a.bb"));
    assert!(accepts(r"\Qa.b", "a.b"));
    assert!(accepts("a{,2}", "a{,2}"), "not a repetition");
    assert!(accepts("a{2}", "aa"));
    assert!(accepts("a{2,}", "aaaa"));
    assert!(!accepts("a{2,3}", "aaaa"));
    assert!(accepts("(?i)straße", "STRAßE"));
    assert!(accepts("(?i:k)", "\u{212a}"), "Kelvin sign folds to k");
    assert!(accepts("(?i)a|B", "b"), "flags last until the group ends");
    assert!(!accepts("((?i)a)b", "aB"));
    assert!(accepts(r"\x41\x{1F600}\101\_", "A😀A_"));
    assert!(accepts(r"\pL\p{Greek}\P{Greek}\p{^Greek}", "aαaa"));
    assert!(accepts("(?m)^a$\n^b$", "a\nb"));
    assert!(!accepts("a$\nb", "a\nb"));
    assert!(accepts("", ""));
    assert!(accepts("a||b", ""));
    assert!(accepts("(?P<x>a)(?<y>b)", "ab"));
    assert!(accepts("^*", ""));
    assert!(accepts(r"\<a\>", "<a>"), "not a word boundary");
}

#[test]
fn refused() {
    let patterns = [
        "a**",
        "a++",
        "a+*",
        "a??+",
        "*",
        "a|*",
        "(*)",
        "(",
        "a)",
        "(a",
        "[a",
        "[",
        "[z-a]",
        "[a--b]x(",
        "(?x)a",
        "(?u)a",
        "(?i-)a",
        "(?<n",
        "(?<>a)",
        "(?P=n)",
        "(?<n>a)(?<n>b)",
        r"\1",
        r"\8",
        r"\C",
        r"\Z",
        r"\q",
        r"\é",
        r"\",
        r"\x",
        r"\x{110000}",
        r"\xZ1",
        r"\p{Nope}",
        r"\p{",
        r"\p",
        "a{1001}",
        "a{2,1}",
        "(a{100}){100}",
        "[[:nope:]]",
        r"[\b]",
        "(?=a)",
        "(?!a)",
        "(?>a)",
        r"\u0041",
        "a{99999999999}",
    ];
    for pattern in patterns {
        assert!(
            GoRegex::new_anchored(pattern).is_err(),
            "{pattern} should be refused"
        );
    }
    assert!(GoRegex::new_anchored(&"(".repeat(500)).is_err());
    assert!(GoRegex::new_anchored(&format!("{}a{}", "(".repeat(300), ")".repeat(300))).is_err());
    let deep = format!("{}a{}", "(?:".repeat(199), ")".repeat(199));
    assert!(accepts(&deep, "a"));
    assert!(matches!(
        GoRegex::new_anchored(&"a".repeat(MAX_PATTERN_BYTES + 1)),
        Err(GoRegexError::TooLong(_))
    ));
    assert_eq!(
        GoRegex::new_anchored(r"[\pL\pN]{1000}[\pL]{1000}").err(),
        Some(GoRegexError::TooLarge)
    );
}

#[test]
fn fast_paths() {
    assert_eq!(regex("b|a|foo|far").literals().unwrap(), ["a", "b", "far", "foo"]);
    assert_eq!(regex("a(b|c)?").literals().unwrap(), ["a", "ab", "ac"]);
    assert_eq!(regex("").literals().unwrap(), [""]);
    assert_eq!(regex("abc").prefix(), "abc");
    assert_eq!(regex("foo.*").prefix(), "foo");
    assert_eq!(regex("foo.+x").prefix(), "foo");
    assert_eq!(regex(".*").inner.shape, Shape::Any);
    assert_eq!(regex("(.+)").inner.shape, Shape::NonEmpty);
    assert_eq!(
        regex("(?-s).*").inner.shape,
        Shape::Other {
            prefix: String::new()
        }
    );
    assert!(accepts("foo.*", "foo\n"));
    assert!(!accepts("foo.+", "foo"));
}

#[test]
fn expansion() {
    let expand = |pattern: &str, text: &str, template: &str| regex(pattern).expand(text, template);
    assert_eq!(
        expand("(.*)-(.*)", "a-b", "$2_${1}x$$"),
        Some("ax$".into()),
        "the group is named 2_"
    );
    assert_eq!(expand("(.*)-(.*)", "a-b", "${2}_${1}x"), Some("b_ax".into()));
    assert_eq!(
        expand("(.*)-(.*)", "a-b", "$1x"),
        Some(String::new()),
        "the group is named 1x"
    );
    assert_eq!(
        expand("(?P<n>.*)-.*", "a-b", "$n ${n} $9 $"),
        Some("a a  $".into())
    );
    assert_eq!(expand("a", "a", "${x $- $01"), Some("${x $- ".into()));
    assert_eq!(expand("a(b)?", "a", "[$1]"), Some("[]".into()));
    assert_eq!(expand("a", "b", "$0"), None);
    assert_eq!(expand("a.*", "abc", "$0"), Some("abc".into()));
}

proptest! {
    #[test]
    fn never_panics(pattern in "[a-c()|*+?{}0-9,\\[\\]^$.\\\\dwsbpPQExLi:<>=!&-]{0,24}", text in "[a-c\n]{0,6}") {
        if let Ok(regex) = GoRegex::new_anchored(&pattern) {
            let shape = regex.is_match(&text);
            prop_assert_eq!(shape, regex.inner.regex.is_match(&text), "fast path differs for {}", pattern);
            regex.expand(&text, "$1$$${x}");
        }
    }

    #[test]
    fn agrees_with_the_regex_crate_on_shared_syntax(
        pattern in "(a|b|[a-c]|\\(a\\|b\\)|\\(?:ab\\|c\\)|a\\*|b\\?|c\\{1,2\\}|\\.){0,6}", text in "[a-c]{0,6}"
    ) {
        let ours = GoRegex::new_anchored(&pattern);
        let theirs = meta::Regex::new(&format!("^(?s:{pattern})$"));
        if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
            prop_assert_eq!(ours.is_match(&text), theirs.is_match(text.as_str()));
        }
    }
}
