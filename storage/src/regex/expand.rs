//! Go's `Regexp.Expand` templates.

/// Replaces `$name`, `${name}` and `$$` in `template` as Go does. A name of digits without a leading
/// zero is a group index, anything else a group name; a malformed reference stays as it is.
pub(super) fn expand<'t>(
    template: &str,
    group_names: &[Option<String>],
    group: impl Fn(usize) -> Option<&'t str>,
) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let Some((name, after)) = reference(after) else {
            out.push('$');
            rest = after;
            continue;
        };
        rest = after;
        match group_index(name) {
            Some(index) if index < group_names.len() => out.push_str(group(index).unwrap_or("")),
            Some(_) => {}
            None => {
                let named = group_names.iter().position(|n| n.as_deref() == Some(name));
                out.push_str(named.and_then(&group).unwrap_or(""));
            }
        }
    }
    out.push_str(rest);
    out
}

/// Splits the name of a reference off the text behind its `$`.
fn reference(text: &str) -> Option<(&str, &str)> {
    let (braced, text) = match text.strip_prefix('{') {
        Some(inner) => (true, inner),
        None => (false, text),
    };
    let end = text
        .find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .unwrap_or(text.len());
    if end == 0 {
        return None;
    }
    let (name, rest) = text.split_at(end);
    if braced {
        rest.strip_prefix('}').map(|rest| (name, rest))
    } else {
        Some((name, rest))
    }
}

fn group_index(name: &str) -> Option<usize> {
    let digits = name.bytes().all(|b| b.is_ascii_digit());
    if !digits || (name.len() > 1 && name.starts_with('0')) || name.len() > 8 {
        return None;
    }
    name.parse().ok()
}
