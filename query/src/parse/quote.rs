//! Go's string literals: reading them with their escapes, and writing them as `%q` does.

/// Why a quoted string can't be read; offsets are bytes from the opening quote.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct QuoteError {
    pub(crate) message: String,
}

/// Reads the string literal at the start of `text`, which begins with `"`, `'` or a backtick. Answers its bytes and
/// its length with the quotes.
pub(crate) fn read_quoted(text: &str) -> Result<(Vec<u8>, usize), QuoteError> {
    let bytes = text.as_bytes();
    let Some(&delimiter) = bytes.first() else {
        return Err(error("unterminated quoted string"));
    };
    if delimiter == b'`' {
        let Some(end) = bytes[1..].iter().position(|byte| *byte == b'`') else {
            return Err(error("unterminated raw string"));
        };
        return Ok((bytes[1..=end].to_vec(), end + 2));
    }
    let mut value = Vec::new();
    let mut at = 1;
    loop {
        match bytes.get(at) {
            None | Some(b'\n') => return Err(error("unterminated quoted string")),
            Some(byte) if *byte == delimiter => return Ok((value, at + 1)),
            Some(b'\\') => at += 1 + read_escape(&text[at + 1..], delimiter, &mut value)?,
            Some(byte) => {
                value.push(*byte);
                at += 1;
            }
        }
    }
}

/// Reads what follows a backslash, pushes what it stands for and answers how many bytes it took.
fn read_escape(text: &str, delimiter: u8, value: &mut Vec<u8>) -> Result<usize, QuoteError> {
    let Some(kind) = text.chars().next() else {
        return Err(error("escape sequence not terminated"));
    };
    let simple = match kind {
        'a' => Some(0x07),
        'b' => Some(0x08),
        'f' => Some(0x0c),
        'n' => Some(b'\n'),
        'r' => Some(b'\r'),
        't' => Some(b'\t'),
        'v' => Some(0x0b),
        '\\' => Some(b'\\'),
        other if other == char::from(delimiter) => Some(delimiter),
        _ => None,
    };
    if let Some(byte) = simple {
        value.push(byte);
        return Ok(1);
    }
    let (prefix, digits, radix, highest) = match kind {
        '0'..='7' => (0, 3, 8, 255),
        'x' => (1, 2, 16, 255),
        'u' => (1, 4, 16, u32::from(char::MAX)),
        'U' => (1, 8, 16, u32::from(char::MAX)),
        other => return Err(error(format!("unknown escape sequence {}", code_point(other)))),
    };
    let mut code: u32 = 0;
    for position in 0..digits {
        let Some(found) = text[prefix..].chars().nth(position) else {
            return Err(error("escape sequence not terminated"));
        };
        let Some(digit) = found.to_digit(radix) else {
            return Err(error(format!(
                "illegal character {} in escape sequence",
                code_point(found)
            )));
        };
        // Eight hexadecimal digits fill a u32 exactly.
        code = code.wrapping_mul(radix).wrapping_add(digit);
    }
    if code > highest {
        return Err(error("escape sequence is an invalid Unicode code point"));
    }
    match (kind, char::from_u32(code)) {
        ('u' | 'U', None) => return Err(error("escape sequence is an invalid Unicode code point")),
        ('u' | 'U', Some(character)) => {
            value.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
        // `highest` bounds it to a byte.
        _ => value.push(code as u8),
    }
    Ok(prefix + digits)
}

fn error(message: impl Into<String>) -> QuoteError {
    QuoteError {
        message: message.into(),
    }
}

/// A character as Go's `%#U` writes it.
fn code_point(character: char) -> String {
    if is_printable(character) {
        format!("U+{:04X} '{character}'", u32::from(character))
    } else {
        format!("U+{:04X}", u32::from(character))
    }
}

/// Quotes bytes as Go's `%q` does: escapes for what doesn't print, `\x` for what isn't UTF-8.
pub fn quote(bytes: &[u8]) -> String {
    let mut quoted = String::with_capacity(bytes.len() + 2);
    quoted.push('"');
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => quoted.push_str("\\\""),
                other => push_escaped(&mut quoted, other),
            }
        }
        for byte in chunk.invalid() {
            quoted.push_str(&format!("\\x{byte:02x}"));
        }
    }
    quoted.push('"');
    quoted
}

/// A character as Go's `%q` writes it, in single quotes.
pub(crate) fn quote_char(character: char) -> String {
    let mut quoted = String::from("'");
    match character {
        '\'' => quoted.push_str("\\'"),
        other => push_escaped(&mut quoted, other),
    }
    quoted.push('\'');
    quoted
}

fn push_escaped(quoted: &mut String, character: char) {
    match character {
        '\\' => quoted.push_str("\\\\"),
        '\x07' => quoted.push_str("\\a"),
        '\x08' => quoted.push_str("\\b"),
        '\x0c' => quoted.push_str("\\f"),
        '\n' => quoted.push_str("\\n"),
        '\r' => quoted.push_str("\\r"),
        '\t' => quoted.push_str("\\t"),
        '\x0b' => quoted.push_str("\\v"),
        other if is_printable(other) => quoted.push(other),
        other => match u32::from(other) {
            code @ ..0x80 => quoted.push_str(&format!("\\x{code:02x}")),
            code @ ..0x1_0000 => quoted.push_str(&format!("\\u{code:04x}")),
            code => quoted.push_str(&format!("\\U{code:08x}")),
        },
    }
}

/// Go's `unicode.IsPrint` but for unassigned code points, which count as printable here.
fn is_printable(character: char) -> bool {
    let invisible = matches!(character,
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e000}'..='\u{f8ff}' | '\u{e0001}'..='\u{e007f}' | '\u{f0000}'..);
    character == ' ' || !(character.is_control() || character.is_whitespace() || invisible)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_become_bytes() {
        let cases: &[(&str, &[u8])] = &[
            (r#""plain""#, b"plain"),
            (r#"'it\'s'"#, b"it's"),
            (r#""\a\b\f\n\r\t\v\\\"""#, b"\x07\x08\x0c\n\r\t\x0b\\\""),
            (r#""\xff\101\u00e4\U0001F600""#, b"\xffA\xc3\xa4\xf0\x9f\x98\x80"),
            ("`raw \\n\n\"text`", b"raw \\n\n\"text"),
            ("``", b""),
        ];
        for (text, expected) in cases {
            assert_eq!(read_quoted(text), Ok((expected.to_vec(), text.len())), "{text}");
        }
    }

    #[test]
    fn broken_strings_say_why() {
        let cases = [
            ("\"open", "unterminated quoted string"),
            ("\"a\nb\"", "unterminated quoted string"),
            ("`open", "unterminated raw string"),
            ("\"\\", "escape sequence not terminated"),
            ("\"\\x1", "escape sequence not terminated"),
            ("\"\\xg1\"", "illegal character U+0067 'g' in escape sequence"),
            ("\"\\'\"", "unknown escape sequence U+0027 '''"),
            ("\"\\400\"", "escape sequence is an invalid Unicode code point"),
            ("\"\\ud800\"", "escape sequence is an invalid Unicode code point"),
            (
                "\"\\UFFFFFFFF\"",
                "escape sequence is an invalid Unicode code point",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(
                read_quoted(text).map_err(|error| error.message),
                Err(expected.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn quoting_is_go_s() {
        assert_eq!(quote(b"a\"b\\c\n\x01\x7f\xff"), r#""a\"b\\c\n\x01\x7f\xff""#);
        assert_eq!(quote("ä\u{a0}\u{200b}😀".as_bytes()), "\"ä\\u00a0\\u200b😀\"");
        assert_eq!(quote_char('\''), r"'\''");
    }
}
