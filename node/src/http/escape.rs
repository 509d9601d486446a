//! Label names in URL paths: those that aren't plain identifiers come escaped, as `U__…`.

/// Undoes Prometheus's value-encoding escaping (`U__http_2e_status` is `http.status`). A name that
/// isn't escaped, or not correctly, is returned as it is.
pub(super) fn unescape_label_name(name: &str) -> String {
    name.strip_prefix("U__")
        .and_then(unescape)
        .unwrap_or_else(|| name.to_string())
}

fn unescape(escaped: &str) -> Option<String> {
    let mut out = String::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((plain, after)) = rest.split_once('_') {
        out.push_str(plain);
        match after.strip_prefix('_') {
            // A double underscore is one.
            Some(after) => {
                out.push('_');
                rest = after;
            }
            // Otherwise a code point in up to six hexadecimal digits, closed by an underscore.
            None => {
                let (digits, after) = after.split_once('_')?;
                if digits.len() >= 6 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return None;
                }
                out.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
                rest = after;
            }
        }
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (escaped, plain) in [
            ("job", "job"),
            ("U__job", "job"),
            ("U__http_2e_status", "http.status"),
            ("U__a__b", "a_b"),
            ("U___1F600_", "\u{1F600}"),
            ("U__label_20_with_20_space", "label with space"),
            // Not escaped correctly: taken as they are.
            ("U__a_", "U__a_"),
            ("U__a_zz_", "U__a_zz_"),
            ("U__a_d800_", "U__a_d800_"),
            ("U__a_1234567_", "U__a_1234567_"),
            ("U__", ""),
        ] {
            assert_eq!(unescape_label_name(escaped), plain, "{escaped}");
        }
    }
}
