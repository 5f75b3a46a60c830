//! Keeps secrets out of the source lines that a report shows.
//!
//! Values from `${file:…}` never stand in the text, but a token may be written literally, and the
//! line it stands on may be the one a caret points at. So every value behind a key that holds a
//! secret is drawn as dots, in the same width, whatever the rest of the file looks like (it may
//! not even be YAML).

use crate::source::Source;

/// Keys whose values are secrets.
pub(crate) const SECRET_KEYS: [&str; 4] = ["token", "hmac_key", "password", "htpasswd"];

/// The source's text with every literal secret replaced by `*`, byte for byte, so that spans into
/// the original still fit.
pub(super) fn masked(source: &Source) -> String {
    let mut out = source.text.clone().into_bytes();
    for key in SECRET_KEYS {
        for (at, _) in source.text.match_indices(key) {
            if let Some((start, end)) = value_after(&source.text, at, key) {
                out[start..end].fill(b'*');
            }
        }
    }
    String::from_utf8(out).unwrap_or_default()
}

/// The byte range of the value of `key` if `at` really is that key: a whole word, then a colon.
fn value_after(text: &str, at: usize, key: &str) -> Option<(usize, usize)> {
    let before = text[..at].chars().next_back();
    if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '-') {
        return None;
    }
    let rest = text[at + key.len()..].trim_start_matches(['"', '\'']);
    let rest = rest.trim_start_matches([' ', '\t']).strip_prefix(':')?;
    let value = rest.trim_start_matches([' ', '\t']);
    let start = text.len() - value.len();
    let line = value.split('\n').next().unwrap_or_default();
    let length = match line.chars().next()? {
        quote @ ('"' | '\'') => line[1..].find(quote).map_or(line.len(), |end| end + 2),
        _ => line.find([',', '}']).unwrap_or(line.len()),
    };
    let value = text[start..start + length].trim_end();
    // A reference names where the secret is, not what it is.
    let inner = value.trim_matches(['"', '\'']);
    (!value.is_empty() && !inner.starts_with("${")).then_some((start, start + value.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Sources;

    fn mask(text: &str) -> String {
        let mut sources = Sources::default();
        let id = sources.add("x", "", text.to_owned());
        masked(sources.get(id))
    }

    #[test]
    fn literal_tokens_are_dots_and_references_stay() {
        assert_eq!(
            mask("{ name: a, token: hunter2, role: viewer }"),
            "{ name: a, token: *******, role: viewer }"
        );
        assert_eq!(mask("token: \"a,b}\" # why"), "token: ****** # why");
        assert_eq!(mask("token: '${file:/run/x}'"), "token: '${file:/run/x}'");
        assert_eq!(mask("\"token\" : s3\nname: x"), "\"token\" : **\nname: x");
        assert_eq!(mask("tokens:\n  - name: x"), "tokens:\n  - name: x");
        assert_eq!(mask("my_token: x"), "my_token: x");
    }
}
