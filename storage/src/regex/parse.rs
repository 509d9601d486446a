//! Parses Go regexp syntax (`regexp/syntax` with the `Perl | DotNL` flags) into an HIR.
//!
//! An explicit stack instead of recursion: the text's nesting never becomes our call depth.

use regex_syntax::hir::{Capture, Class, ClassUnicode, ClassUnicodeRange, Hir, Look, Repetition};

use super::GoRegexError;
use super::class::{dot, posix_ranges, property_class, ranges_class};
use super::escape::{class_char, escape};

/// Highest repetition count, alone and multiplied over nested repetitions, as in Go.
const REPEAT_MAX: u32 = 1000;
/// Deepest nesting of groups. Compilation recurses over the HIR, so this bounds the call depth.
const NEST_MAX: usize = 200;

/// An expression in HIR form.
pub(super) struct Parsed {
    pub(super) hir: Hir,
    /// By group index; index 0 is the whole match and has no name.
    pub(super) group_names: Vec<Option<String>>,
}

pub(super) fn parse(pattern: &str) -> Result<Parsed, GoRegexError> {
    Parser::new(pattern).run()
}

#[derive(Clone, Copy)]
struct Flags {
    fold_case: bool,
    multi_line: bool,
    dot_newline: bool,
    swap_greed: bool,
}

/// A finished piece with the product of its nested repetition counts.
struct Node {
    hir: Hir,
    repeat: u32,
    /// Levels of groups and repetitions inside.
    depth: usize,
}

/// An open group, or the whole expression at the bottom of the stack.
struct Frame {
    /// What to do at the closing parenthesis.
    capture: Option<(u32, Option<String>)>,
    /// Flags to restore at the closing parenthesis.
    outer_flags: Flags,
    alternatives: Vec<Node>,
    sequence: Vec<Node>,
}

struct Parser<'p> {
    pattern: &'p str,
    rest: &'p str,
    flags: Flags,
    stack: Vec<Frame>,
    group_names: Vec<Option<String>>,
}

pub(super) fn syntax(reason: &'static str, fragment: &str) -> GoRegexError {
    GoRegexError::Syntax {
        reason,
        fragment: fragment.to_owned(),
    }
}

impl<'p> Parser<'p> {
    fn new(pattern: &'p str) -> Self {
        let flags = Flags {
            fold_case: false,
            multi_line: false,
            dot_newline: true,
            swap_greed: false,
        };
        let bottom = Frame {
            capture: None,
            outer_flags: flags,
            alternatives: Vec::new(),
            sequence: Vec::new(),
        };
        Self {
            pattern,
            rest: pattern,
            flags,
            stack: vec![bottom],
            group_names: vec![None],
        }
    }

    fn run(mut self) -> Result<Parsed, GoRegexError> {
        // The text of the repetition just parsed, up to here: Go refuses to stack them.
        let mut last_repeat: Option<&'p str> = None;
        while let Some(c) = self.rest.chars().next() {
            let before = self.rest;
            let mut repeat = None;
            match c {
                '(' => self.open_group()?,
                '|' => {
                    self.rest = &self.rest[1..];
                    let frame = self.frame();
                    let done = concat(std::mem::take(&mut frame.sequence));
                    frame.alternatives.push(done);
                }
                ')' => {
                    self.rest = &self.rest[1..];
                    self.close_group()?;
                }
                '^' => {
                    self.rest = &self.rest[1..];
                    self.push(Hir::look(if self.flags.multi_line {
                        Look::StartLF
                    } else {
                        Look::Start
                    }));
                }
                '$' => {
                    self.rest = &self.rest[1..];
                    self.push(Hir::look(if self.flags.multi_line {
                        Look::EndLF
                    } else {
                        Look::End
                    }));
                }
                '.' => {
                    self.rest = &self.rest[1..];
                    self.push(dot(self.flags.dot_newline));
                }
                '[' => {
                    let class = self.class()?;
                    self.push(Hir::class(Class::Unicode(class)));
                }
                '*' | '+' | '?' => {
                    self.rest = &self.rest[1..];
                    let (min, max) = match c {
                        '*' => (0, None),
                        '+' => (1, None),
                        _ => (0, Some(1)),
                    };
                    self.repeat(min, max, before, last_repeat)?;
                    repeat = Some(before);
                }
                '{' => match counts(self.rest) {
                    None => self.literal_char(),
                    Some((min, max, after)) => {
                        self.rest = after;
                        let fragment = &before[..before.len() - after.len()];
                        let too_big =
                            min > REPEAT_MAX || max.is_some_and(|max| max > REPEAT_MAX || min > max);
                        if too_big {
                            return Err(syntax("invalid repeat count", fragment));
                        }
                        self.repeat(min, max, before, last_repeat)?;
                        repeat = Some(before);
                    }
                },
                '\\' => self.backslash()?,
                _ => self.literal_char(),
            }
            last_repeat = repeat;
        }
        let Some(bottom) = self.stack.pop().filter(|_| self.stack.is_empty()) else {
            return Err(syntax("missing closing )", self.pattern));
        };
        let hir = alternation(bottom).hir;
        Ok(Parsed {
            hir,
            group_names: self.group_names,
        })
    }

    fn frame(&mut self) -> &mut Frame {
        self.stack
            .last_mut()
            .expect("the bottom frame is popped only at the end of `run`")
    }

    fn push(&mut self, hir: Hir) {
        self.frame().sequence.push(Node {
            hir,
            repeat: 1,
            depth: 0,
        });
    }

    fn push_literal(&mut self, c: char) {
        let hir = if self.flags.fold_case {
            let mut class = ClassUnicode::new([ClassUnicodeRange::new(c, c)]);
            class.case_fold_simple();
            Hir::class(Class::Unicode(class))
        } else {
            let mut bytes = [0; 4];
            Hir::literal(c.encode_utf8(&mut bytes).as_bytes())
        };
        self.push(hir);
    }

    /// Takes the next character as itself.
    fn literal_char(&mut self) {
        let mut chars = self.rest.chars();
        if let Some(c) = chars.next() {
            self.rest = chars.as_str();
            self.push_literal(c);
        }
    }

    fn repeat(
        &mut self,
        min: u32,
        max: Option<u32>,
        before: &'p str,
        last_repeat: Option<&'p str>,
    ) -> Result<(), GoRegexError> {
        let mut greedy = !self.flags.swap_greed;
        if let Some(after) = self.rest.strip_prefix('?') {
            self.rest = after;
            greedy = !greedy;
        }
        let rest_len = self.rest.len();
        if let Some(last) = last_repeat {
            return Err(syntax(
                "invalid nested repetition operator",
                &last[..last.len() - rest_len],
            ));
        }
        let fragment = &before[..before.len() - rest_len];
        let Some(node) = self.frame().sequence.pop() else {
            return Err(syntax("missing argument to repetition operator", fragment));
        };
        let count = max.unwrap_or(min).max(1);
        let repeat = node.repeat.saturating_mul(count);
        if repeat > REPEAT_MAX {
            return Err(syntax("invalid repeat count", fragment));
        }
        let depth = node.depth + 1;
        if depth > NEST_MAX {
            return Err(syntax("expression nests too deeply", fragment));
        }
        let hir = Hir::repetition(Repetition {
            min,
            max,
            greedy,
            sub: Box::new(node.hir),
        });
        self.frame().sequence.push(Node { hir, repeat, depth });
        Ok(())
    }

    fn open_group(&mut self) -> Result<(), GoRegexError> {
        if self.stack.len() > NEST_MAX {
            return Err(syntax("expression nests too deeply", self.rest));
        }
        if self.rest.starts_with("(?P<") || self.rest.starts_with("(?<") {
            return self.open_named();
        }
        if self.rest.starts_with("(?") {
            return self.open_flags();
        }
        self.rest = &self.rest[1..];
        self.open_capture(None);
        Ok(())
    }

    fn open_capture(&mut self, name: Option<String>) {
        let index = self.group_names.len() as u32;
        self.group_names.push(name.clone());
        self.open(Some((index, name)));
    }

    fn open(&mut self, capture: Option<(u32, Option<String>)>) {
        let outer_flags = self.flags;
        self.stack.push(Frame {
            capture,
            outer_flags,
            alternatives: Vec::new(),
            sequence: Vec::new(),
        });
    }

    fn open_named(&mut self) -> Result<(), GoRegexError> {
        let start = if self.rest.starts_with("(?P<") { 4 } else { 3 };
        let Some(end) = self.rest.find('>') else {
            return Err(syntax("invalid named capture", self.rest));
        };
        let fragment = &self.rest[..=end];
        let name = self.rest.get(start..end).unwrap_or_default();
        let valid = !name.is_empty() && name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric());
        if !valid {
            return Err(syntax("invalid named capture", fragment));
        }
        if self.group_names.iter().any(|n| n.as_deref() == Some(name)) {
            return Err(syntax("duplicate capture group name", name));
        }
        self.rest = &self.rest[end + 1..];
        self.open_capture(Some(name.to_owned()));
        Ok(())
    }

    /// `(?flags)` or `(?flags:`.
    fn open_flags(&mut self) -> Result<(), GoRegexError> {
        let before = self.rest;
        let mut flags = self.flags;
        let mut on = true;
        let mut seen = false;
        let mut chars = before[2..].chars();
        while let Some(c) = chars.next() {
            match c {
                'i' => flags.fold_case = on,
                'm' => flags.multi_line = on,
                's' => flags.dot_newline = on,
                'U' => flags.swap_greed = on,
                '-' if on => {
                    on = false;
                    seen = false;
                    continue;
                }
                ':' | ')' if on || seen => {
                    self.rest = chars.as_str();
                    if c == ':' {
                        self.open(None);
                    }
                    self.flags = flags;
                    return Ok(());
                }
                _ => {
                    let used = before.len() - chars.as_str().len();
                    return Err(syntax("invalid or unsupported Perl syntax", &before[..used]));
                }
            }
            seen = true;
        }
        Err(syntax("missing closing )", self.pattern))
    }

    fn close_group(&mut self) -> Result<(), GoRegexError> {
        if self.stack.len() == 1 {
            return Err(syntax("unexpected )", self.pattern));
        }
        let Some(mut frame) = self.stack.pop() else {
            return Err(syntax("unexpected )", self.pattern));
        };
        self.flags = frame.outer_flags;
        let capture = frame.capture.take();
        let mut node = alternation(frame);
        node.depth += 1;
        if let Some((index, name)) = capture {
            let name = name.map(Into::into);
            node.hir = Hir::capture(Capture {
                index,
                name,
                sub: Box::new(node.hir),
            });
        }
        self.frame().sequence.push(node);
        Ok(())
    }

    fn backslash(&mut self) -> Result<(), GoRegexError> {
        let look = match self.rest.as_bytes().get(1) {
            Some(b'A') => Some(Look::Start),
            Some(b'z') => Some(Look::End),
            Some(b'b') => Some(Look::WordAscii),
            Some(b'B') => Some(Look::WordAsciiNegate),
            _ => None,
        };
        if let Some(look) = look {
            self.rest = &self.rest[2..];
            self.push(Hir::look(look));
            return Ok(());
        }
        if let Some(quoted) = self.rest.strip_prefix("\\Q") {
            let (text, after) = quoted.split_once("\\E").unwrap_or((quoted, ""));
            self.rest = after;
            for c in text.chars() {
                self.push_literal(c);
            }
            return Ok(());
        }
        if let Some((class, after)) = self.escaped_class(self.rest)? {
            self.rest = after;
            self.push(Hir::class(Class::Unicode(class)));
            return Ok(());
        }
        let (c, after) = escape(self.rest)?;
        self.rest = after;
        self.push_literal(c);
        Ok(())
    }

    /// `\d`-like and `\p`-like classes at the start of `text`.
    fn escaped_class(&self, text: &'p str) -> Result<Option<(ClassUnicode, &'p str)>, GoRegexError> {
        let Some(&kind) = text.as_bytes().get(1).filter(|_| text.starts_with('\\')) else {
            return Ok(None);
        };
        let ranges: &[(char, char)] = match kind {
            b'd' | b'D' => &[('0', '9')],
            b's' | b'S' => &[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')],
            b'w' | b'W' => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
            b'p' | b'P' => return self.unicode_class(text).map(Some),
            _ => return Ok(None),
        };
        let class = self.finish_item(ranges_class(ranges), kind.is_ascii_uppercase());
        Ok(Some((class, &text[2..])))
    }

    /// `\pL`, `\p{Greek}`, `\P{^Greek}`: general categories and scripts.
    fn unicode_class(&self, text: &'p str) -> Result<(ClassUnicode, &'p str), GoRegexError> {
        let mut negate = text.as_bytes().get(1) == Some(&b'P');
        let body = &text[2..];
        let (name, after) = if let Some(inner) = body.strip_prefix('{') {
            inner
                .split_once('}')
                .ok_or_else(|| syntax("invalid character class range", text))?
        } else {
            let len = body.chars().next().map_or(0, char::len_utf8);
            body.split_at(len)
        };
        let fragment = &text[..text.len() - after.len()];
        let name = match name.strip_prefix('^') {
            Some(name) => {
                negate = !negate;
                name
            }
            None => name,
        };
        let plain = name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b' '));
        let class = ["gc", "sc"]
            .iter()
            .filter(|_| plain && !name.is_empty())
            .find_map(|property| property_class(property, name))
            .ok_or_else(|| syntax("invalid character class range", fragment))?;
        Ok((self.finish_item(class, negate), after))
    }

    /// Applies case folding, then negation, as Go does per item of a class.
    fn finish_item(&self, mut class: ClassUnicode, negate: bool) -> ClassUnicode {
        if self.flags.fold_case {
            class.case_fold_simple();
        }
        if negate {
            class.negate();
        }
        class
    }

    /// A bracket expression.
    fn class(&mut self) -> Result<ClassUnicode, GoRegexError> {
        let start = self.rest;
        let mut text = &start[1..];
        let negate = text.starts_with('^');
        if negate {
            text = &text[1..];
        }
        let mut class = ClassUnicode::empty();
        let mut first = true;
        while first || !text.starts_with(']') {
            first = false;
            if let Some((item, after)) = self.posix_class(text)? {
                class.union(&item);
                text = after;
                continue;
            }
            if let Some((item, after)) = self.escaped_class(text)? {
                class.union(&item);
                text = after;
                continue;
            }
            let range = text;
            let (low, after) = class_char(text, start)?;
            text = after;
            let mut high = low;
            if text.starts_with('-') && text.len() >= 2 && !text[1..].starts_with(']') {
                (high, text) = class_char(&text[1..], start)?;
                if high < low {
                    let fragment = &range[..range.len() - text.len()];
                    return Err(syntax("invalid character class range", fragment));
                }
            }
            class.union(&self.finish_item(ranges_class(&[(low, high)]), false));
        }
        self.rest = &text[1..];
        if negate {
            class.negate();
        }
        Ok(class)
    }

    /// `[:alpha:]` or `[:^alpha:]` inside brackets.
    fn posix_class(&self, text: &'p str) -> Result<Option<(ClassUnicode, &'p str)>, GoRegexError> {
        let Some((name, after)) = text.strip_prefix("[:").and_then(|inner| inner.split_once(":]")) else {
            return Ok(None);
        };
        let (negate, plain) = match name.strip_prefix('^') {
            Some(plain) => (true, plain),
            None => (false, name),
        };
        let Some(ranges) = posix_ranges(plain) else {
            let fragment = &text[..text.len() - after.len()];
            return Err(syntax("invalid character class range", fragment));
        };
        Ok(Some((self.finish_item(ranges_class(ranges), negate), after)))
    }
}

fn concat(nodes: Vec<Node>) -> Node {
    let repeat = nodes.iter().map(|n| n.repeat).max().unwrap_or(1);
    let depth = nodes.iter().map(|n| n.depth).max().unwrap_or(0);
    Node {
        hir: Hir::concat(nodes.into_iter().map(|n| n.hir).collect()),
        repeat,
        depth,
    }
}

fn alternation(mut frame: Frame) -> Node {
    let last = concat(std::mem::take(&mut frame.sequence));
    if frame.alternatives.is_empty() {
        return last;
    }
    let mut nodes = frame.alternatives;
    nodes.push(last);
    let repeat = nodes.iter().map(|n| n.repeat).max().unwrap_or(1);
    let depth = nodes.iter().map(|n| n.depth).max().unwrap_or(0);
    Node {
        hir: Hir::alternation(nodes.into_iter().map(|n| n.hir).collect()),
        repeat,
        depth,
    }
}

/// `{n}`, `{n,}`, `{n,m}`; anything else makes the brace a literal, as in Go. Counts too big for
/// Go's parser come back above [`REPEAT_MAX`].
fn counts(text: &str) -> Option<(u32, Option<u32>, &str)> {
    let (min, rest) = count(text.strip_prefix('{')?)?;
    if let Some(rest) = rest.strip_prefix('}') {
        return Some((min, Some(min), rest));
    }
    let rest = rest.strip_prefix(',')?;
    if let Some(rest) = rest.strip_prefix('}') {
        return Some((min, None, rest));
    }
    let (max, rest) = count(rest)?;
    Some((min, Some(max), rest.strip_prefix('}')?))
}

fn count(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if digits.is_empty() || (digits.len() > 1 && digits.starts_with('0')) {
        return None;
    }
    Some((digits.parse().unwrap_or(u32::MAX), rest))
}
