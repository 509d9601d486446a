//! HTML and SVG that is well-formed by construction: every element is closed, every text and attribute escaped.

use std::fmt::{self, Display, Write as _};

/// An attribute's name and value.
pub(crate) type Attribute<'a> = (&'a str, &'a dyn Display);

/// A page under construction.
#[derive(Debug, Default)]
pub(crate) struct Markup {
    out: String,
}

impl Markup {
    /// An element with whatever `inside` puts in it.
    pub(crate) fn element(&mut self, name: &str, attributes: &[Attribute], inside: impl FnOnce(&mut Markup)) {
        self.open(name, attributes);
        self.out.push('>');
        inside(self);
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push('>');
    }

    /// An element with text in it.
    pub(crate) fn leaf(&mut self, name: &str, attributes: &[Attribute], text: impl Display) {
        self.element(name, attributes, |inside| inside.text(text));
    }

    /// An element that has no inside.
    pub(crate) fn empty(&mut self, name: &str, attributes: &[Attribute]) {
        self.open(name, attributes);
        self.out.push_str("/>");
    }

    /// Text.
    pub(crate) fn text(&mut self, text: impl Display) {
        push_escaped(&mut self.out, text);
    }

    /// The style sheet: ours, and therefore not escaped, which would break it.
    pub(crate) fn style(&mut self, css: &'static str) {
        self.out.push_str("<style>");
        self.out.push_str(css);
        self.out.push_str("</style>");
    }

    /// Markup made apart.
    pub(crate) fn append(&mut self, other: Markup) {
        self.out.push_str(&other.out);
    }

    /// A line break in the source, for people who read it.
    pub(crate) fn line(&mut self) {
        self.out.push('\n');
    }

    /// The page.
    pub(crate) fn finish(self) -> String {
        self.out
    }

    fn open(&mut self, name: &str, attributes: &[Attribute]) {
        self.out.push('<');
        self.out.push_str(name);
        for (name, value) in attributes {
            self.out.push(' ');
            self.out.push_str(name);
            self.out.push_str("=\"");
            push_escaped(&mut self.out, value);
            self.out.push('"');
        }
    }
}

fn push_escaped(out: &mut String, text: impl Display) {
    struct Escaping<'a>(&'a mut String);
    impl fmt::Write for Escaping<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for letter in text.chars() {
                match letter {
                    '&' => self.0.push_str("&amp;"),
                    '<' => self.0.push_str("&lt;"),
                    '>' => self.0.push_str("&gt;"),
                    '"' => self.0.push_str("&quot;"),
                    '\'' => self.0.push_str("&#39;"),
                    '\n' | '\t' => self.0.push(letter),
                    // Not allowed in a page, escaped or not.
                    control if control.is_control() => self.0.push('\u{fffd}'),
                    letter => self.0.push(letter),
                }
            }
            Ok(())
        }
    }
    // Writing to a string does not fail; a Display that does has written what it could.
    let _incomplete = write!(Escaping(out), "{text}");
}

/// A coordinate, to a tenth: more digits make the page larger and no picture better.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Px(pub(crate) f64);

impl Display for Px {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Zero added takes the sign off a zero.
        let rounded = (self.0 * 10.0).round() / 10.0 + 0.0;
        write!(f, "{rounded}")
    }
}

/// A number with its thousands apart by narrow spaces.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grouped(pub(crate) u64);

impl Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (position, digit) in digits.chars().enumerate() {
            if position > 0 && (digits.len() - position).is_multiple_of(3) {
                f.write_char('\u{202f}')?;
            }
            f.write_char(digit)?;
        }
        Ok(())
    }
}

/// Seconds since the start, as people read a clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(pub(crate) f64);

impl Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.0.max(0.0) as u64;
        let (hours, minutes, seconds) = (all / 3_600, all / 60 % 60, all % 60);
        match hours {
            0 => write!(f, "{minutes}:{seconds:02}"),
            _ => write!(f, "{hours}:{minutes:02}:{seconds:02}"),
        }
    }
}

/// Milliseconds, in a unit that keeps them short.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Millis(pub(crate) f64);

impl Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0.0 => f.write_char('0'),
            ms if ms < 9.95 => write!(f, "{ms:.1}\u{a0}ms"),
            ms if ms < 999.5 => write!(f, "{ms:.0}\u{a0}ms"),
            ms if ms < 99_950.0 => write!(f, "{:.1}\u{a0}s", ms / 1_000.0),
            ms => write!(f, "{:.0}\u{a0}s", ms / 1_000.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_or_an_attribute_becomes_markup() {
        let mut markup = Markup::default();
        let evil = "<b onclick=\"x()\">&'\u{1b}";
        markup.element("p", &[("title", &evil)], |inside| {
            inside.text(evil);
            inside.empty("br", &[]);
        });
        let escaped = "&lt;b onclick=&quot;x()&quot;&gt;&amp;&#39;\u{fffd}";
        assert_eq!(
            markup.finish(),
            format!("<p title=\"{escaped}\">{escaped}<br/></p>")
        );
    }

    #[test]
    fn numbers_are_short_and_readable() {
        let shown = [Px(1.0), Px(0.25), Px(-0.04), Px(1234.56)].map(|px| px.to_string());
        assert_eq!(shown, ["1", "0.3", "0", "1234.6"]);
        let shown = [0, 999, 1_000, 12_345_678].map(|number| Grouped(number).to_string());
        assert_eq!(shown, ["0", "999", "1\u{202f}000", "12\u{202f}345\u{202f}678"]);
        assert_eq!(
            [0.0, 65.4, 3_725.0].map(|seconds| Clock(seconds).to_string()),
            ["0:00", "1:05", "1:02:05"]
        );
        let shown = [0.26, 9.96, 512.4, 1_250.0, 120_000.0].map(|ms| Millis(ms).to_string());
        assert_eq!(
            shown,
            [
                "0.3\u{a0}ms",
                "10\u{a0}ms",
                "512\u{a0}ms",
                "1.2\u{a0}s",
                "120\u{a0}s"
            ]
        );
    }
}
