//! Escaped characters: `\n`, `\x41`, `\x{1F600}`, `\101`, `\.`.

use super::GoRegexError;
use super::parse::syntax;

pub(super) fn class_char<'p>(text: &'p str, class: &'p str) -> Result<(char, &'p str), GoRegexError> {
    let mut chars = text.chars();
    match chars.next() {
        None => Err(syntax("missing closing ]", class)),
        Some('\\') => escape(text),
        Some(c) => Ok((c, chars.as_str())),
    }
}

/// An escaped character at the start of `text`.
pub(super) fn escape(text: &str) -> Result<(char, &str), GoRegexError> {
    let mut chars = text[1..].chars();
    let Some(c) = chars.next() else {
        return Err(syntax("trailing backslash at end of expression", ""));
    };
    let after = chars.as_str();
    let invalid = || syntax("invalid escape sequence", &text[..text.len() - after.len()]);
    let plain = match c {
        'a' => '\x07',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        'x' => return hex_escape(text, after),
        '0'..='7' => return octal_escape(c, after).ok_or_else(invalid),
        c if c.is_ascii() && !c.is_ascii_alphanumeric() => c,
        _ => return Err(invalid()),
    };
    Ok((plain, after))
}

/// `\0`, `\01`, `\123`: up to three octal digits. One digit other than 0 would be a back reference.
fn octal_escape(first: char, after: &str) -> Option<(char, &str)> {
    let is_octal = |b: &&u8| (b'0'..=b'7').contains(*b);
    let more = after.as_bytes().iter().take(2).take_while(is_octal).count();
    if first != '0' && more == 0 {
        return None;
    }
    let (digits, rest) = after.split_at(more);
    let value = digits
        .bytes()
        .fold(u32::from(first) - 48, |value, b| value * 8 + u32::from(b - b'0'));
    char::from_u32(value).map(|c| (c, rest))
}

fn hex_escape<'p>(text: &'p str, after: &'p str) -> Result<(char, &'p str), GoRegexError> {
    let (digits, rest) = match after.strip_prefix('{') {
        Some(inner) => inner
            .split_once('}')
            .ok_or_else(|| syntax("invalid escape sequence", text))?,
        None => match after.get(..2) {
            Some(digits) => (digits, &after[2..]),
            None => return Err(syntax("invalid escape sequence", text)),
        },
    };
    let valid = !digits.is_empty() && digits.len() <= 8 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    u32::from_str_radix(digits, 16)
        .ok()
        .filter(|_| valid)
        .and_then(char::from_u32)
        .map(|c| (c, rest))
        .ok_or_else(|| syntax("invalid escape sequence", &text[..text.len() - rest.len()]))
}
