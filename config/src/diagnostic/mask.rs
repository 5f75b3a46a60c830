//! Keeps secrets out of what a report says and shows.
//!
//! A report shows lines of the files, and its messages quote what stands there. Both may be a secret:
//! written literally, read from a file (`${file:…}`), or filled in under a key that holds secrets. So what
//! is secret is found in two ways: in the tree, where there is one ([`Hidden::in_tree`]), and in the text,
//! which may not even be YAML. In pictures it is drawn as asterisks in the same width; in messages it is
//! left out.

use super::nearest;
use crate::node::{Node, Value};
use crate::source::{Hidden, Origin, Source, Span};

/// Keys whose values are secrets.
pub(crate) const SECRET_KEYS: [&str; 4] = ["token", "hmac_key", "password", "htpasswd"];

/// Keys that hold others with secrets. A value in their place was meant to be one.
const HOLDERS: [&str; 2] = ["tokens", "users"];

/// What stands below a holder and is no secret, each behind its key.
const PLAIN: [&str; 2] = ["name", "role"];

/// Keys below which names stand: a pool may be called `users`.
const NAMING: [&str; 2] = ["pools", "services"];

/// Longer keys are none that was meant to be one of the secret ones.
const MOST_MEANT: usize = 12;

/// Shorter secrets are not looked for in messages: they stand in too many words.
const SHORTEST: usize = 8;

/// So many characters of a secret in a row are too many.
const WINDOW: usize = 16;

/// How a value under a key is to be treated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeps {
    /// All that stands below it is secret.
    All,
    /// All that stands below it is secret, keys as well, but for what is [`PLAIN`].
    Holder,
    /// What stands directly behind it is secret, and what is listed there.
    Own,
}

/// Whether what stands behind a key is secret.
fn keeps(key: &str) -> Option<Keeps> {
    if SECRET_KEYS.contains(&key) {
        return Some(Keeps::All);
    }
    // Misspelt, or meant: `Token`, `pasword`, `client_secret`.
    let lower = key.to_ascii_lowercase();
    let named = ["token", "passw", "secret", "hmac"];
    // The first letter is seldom wrong, and looking at every key of a large file takes time.
    let begins = |known: &&str| lower.bytes().next() == known.bytes().next();
    let near = SECRET_KEYS.into_iter().filter(begins);
    let meant = HOLDERS.contains(&key)
        || named.iter().any(|part| lower.contains(part))
        || (key.len() <= MOST_MEANT && nearest(key, near).is_some());
    meant.then_some(Keeps::Own)
}

impl Hidden {
    /// Marks what is secret in a tree, and remembers it.
    pub(crate) fn in_tree(&mut self, node: &mut Node) {
        self.walk(node, None, "");
    }

    /// Remembers what is secret in a text of which there may be no tree.
    pub(crate) fn in_text(&mut self, source: &Source) {
        for (start, end) in values(&source.text) {
            self.remember(source.text[start..end].trim_matches(['"', '\'']));
        }
    }

    /// `under`: the key that the node stands behind.
    fn walk(&mut self, node: &mut Node, keeps: Option<Keeps>, under: &str) {
        match &mut node.value {
            Value::Null => {}
            Value::Scalar(scalar) => {
                scalar.secret |= keeps.is_some();
                if scalar.secret {
                    self.remember(&scalar.text);
                    if let Origin::File(span) = node.origin {
                        self.spans.push(span);
                    }
                }
            }
            Value::List(items) => {
                items
                    .iter_mut()
                    .for_each(|item| self.walk(item, keeps, under));
            }
            Value::Map(entries) => {
                for entry in entries {
                    let key = entry.key.value.clone();
                    let below = match keeps {
                        Some(Keeps::All) => Some(Keeps::All),
                        Some(Keeps::Holder) if PLAIN.contains(&key.as_str()) => None,
                        Some(Keeps::Holder) => {
                            if self::keeps(&key).is_none() {
                                self.remember(&key);
                                if let Origin::File(span) = entry.key.origin {
                                    self.spans.push(span);
                                }
                            }
                            Some(Keeps::Holder)
                        }
                        Some(Keeps::Own) | None if is_holder(&key, under) => Some(Keeps::Holder),
                        Some(Keeps::Own) | None => self::keeps(&key),
                    };
                    self.walk(&mut entry.value, below, &key);
                }
            }
        }
    }

    fn remember(&mut self, text: &str) {
        if is_reference(text) {
            return;
        }
        // A file's lines are quoted one by one.
        let lines = text.lines().filter(|line| line.trim().len() >= SHORTEST);
        self.texts.extend(lines.map(|line| line.trim().to_owned()));
    }

    /// A message without any of it.
    pub(crate) fn left_out(&self, message: &str) -> String {
        let mut hidden = vec![false; message.len()];
        for text in &self.texts {
            for (at, _) in message.match_indices(text.as_str()) {
                hidden[at..at + text.len()].fill(true);
            }
            if text.len() > WINDOW {
                for at in 0..message.len().saturating_sub(WINDOW - 1) {
                    let part = message.get(at..at + WINDOW);
                    if part.is_some_and(|part| text.contains(part)) {
                        hidden[at..at + WINDOW].fill(true);
                    }
                }
            }
        }
        let mut out = String::with_capacity(message.len());
        let mut before = false;
        for (at, c) in message.char_indices() {
            match (hidden[at], before) {
                (false, _) => out.push(c),
                (true, false) => out.push_str("•••"),
                (true, true) => {}
            }
            before = hidden[at];
        }
        out
    }

    /// The source's text with every secret replaced by `*`, byte for byte, so that spans into the
    /// original still fit.
    pub(super) fn masked(&self, source: &Source, is_it: impl Fn(Span) -> bool) -> String {
        let mut out = source.text.clone().into_bytes();
        let spans = self.spans.iter().filter(|span| is_it(**span));
        let spans = spans.map(|span| (span.start as usize, span.end as usize));
        // It may stand elsewhere, too: behind an anchor, or as a name.
        let elsewhere = self.texts.iter().flat_map(|text| {
            let found = source.text.match_indices(text.as_str());
            found.map(|(at, text)| (at, at + text.len()))
        });
        let all = values(&source.text)
            .into_iter()
            .chain(spans)
            .chain(elsewhere);
        for (start, end) in all {
            let (start, end) = whole_characters(&source.text, start, end);
            let written = source.text.get(start..end).unwrap_or_default();
            if is_reference(written.trim_matches(['"', '\''])) {
                continue;
            }
            for byte in &mut out[start..end] {
                if *byte != b'\n' && *byte != b'\r' {
                    *byte = b'*';
                }
            }
        }
        String::from_utf8(out).unwrap_or_default()
    }
}

/// A range of bytes, widened to whole characters and no further than the text.
pub(super) fn whole_characters(text: &str, start: usize, end: usize) -> (usize, usize) {
    let mut start = start.min(text.len());
    let mut end = end.clamp(start, text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    while !text.is_char_boundary(end) {
        end += 1;
    }
    (start, end)
}

/// Whether a text is one reference and nothing else: it names where the secret is, not what it is.
fn is_reference(text: &str) -> bool {
    let inner = text.trim().strip_prefix("${");
    inner.is_some_and(|inner| inner.find('}') == Some(inner.len() - 1))
}

/// Where the values of secret keys stand in a text, as byte ranges.
fn values(text: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (colon, _) in text.match_indices(':') {
        let before = text[..colon].trim_end_matches([' ', '\t']);
        let before = before.trim_end_matches(['"', '\'']);
        let word = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
        let key = before;
        let start = key
            .char_indices()
            .rev()
            .take_while(|(_, c)| word(*c))
            .last()
            .map_or(key.len(), |(at, _)| at);
        let Some(keeps) = keeps(&key[start..]) else {
            continue;
        };
        let holder = is_holder(&key[start..], parent_of(text, start));
        if let Some(end) = holder.then(|| held_until(text, colon + 1, start)).flatten() {
            strangers(text, colon + 1, end, &mut found);
        } else if let Some(range) = value_behind(text, colon + 1, start, keeps) {
            found.push(range);
        }
    }
    found
}

/// Whether a key below this one holds secrets.
fn is_holder(key: &str, under: &str) -> bool {
    HOLDERS.contains(&key) && !NAMING.contains(&under)
}

/// The key below which another one stands that begins here: on its line, or on the nearest line that is
/// indented less. Nothing at the top.
fn parent_of(text: &str, key: usize) -> &str {
    let first = text[..key].rfind('\n').map_or(0, |at| at + 1);
    let before = &text[first..key];
    let name = |words: &str| {
        let end = words.rfind(':')?;
        let words = words[..end].trim_end().trim_end_matches(['"', '\'']);
        let word = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
        let start = words.rfind(|c| !word(c)).map_or(0, |at| at + 1);
        Some(start..words.len())
    };
    if let Some(range) = name(before) {
        return &before[range];
    }
    let indent = |line: &str| line.len() - line.trim_start_matches([' ', '-']).len();
    let own = indent(before);
    let above = text[..first].lines().rev();
    let mut above =
        above.filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    let Some(line) = above.find(|line| indent(line) < own) else {
        return "";
    };
    line.split(':')
        .next()
        .unwrap_or_default()
        .trim()
        .trim_matches(['"', '\'', '-', ' '])
}

/// Where that ends which stands behind the colon of a holder, if it is no single value: its brackets are
/// closed, or its lines end.
fn held_until(text: &str, colon: usize, key: usize) -> Option<usize> {
    let rest = text[colon..].trim_start_matches([' ', '\t']);
    match rest.chars().next() {
        None | Some('\n' | '\r' | '#') => Some(block_end(text, colon, key)),
        Some('[' | '{') => {
            let from = text.len() - rest.len();
            let mut open = 0_usize;
            let closed = rest.char_indices().find(|(_, c)| {
                match c {
                    '[' | '{' => open += 1,
                    ']' | '}' => open -= 1,
                    _ => {}
                }
                open == 0
            });
            Some(closed.map_or_else(|| block_end(text, colon, key), |(at, _)| from + at + 1))
        }
        Some(_) => None,
    }
}

/// Where the lines end that belong to a key: those that are indented more, and the items of a list that
/// stand right below it.
fn block_end(text: &str, colon: usize, key: usize) -> usize {
    let first = text[..key].rfind('\n').map_or(0, |at| at + 1);
    let indent = text[first..key].chars().count();
    let mut end = colon
        + text[colon..]
            .find('\n')
            .map_or(text[colon..].len(), |at| at + 1);
    for line in text[end..].split_inclusive('\n') {
        let own = line.len() - line.trim_start_matches(' ').len();
        let item = own == indent && line[own..].starts_with("- ");
        // Behind a bracket that is open, nothing need be indented.
        let closing = line.trim_start().starts_with([']', '}']);
        if !line.trim().is_empty() && own <= indent && !item && !closing {
            break;
        }
        end += line.len();
    }
    end
}

/// What may be a secret between the lines of a holder: everything but keys that are known, and what is
/// plain behind them.
fn strangers(text: &str, start: usize, end: usize, found: &mut Vec<(usize, usize)>) {
    let mut at = start;
    for line in text[start..end].split_inclusive('\n') {
        let words = line.find(" #").map_or(line, |comment| &line[..comment]);
        let mut from = 0;
        let flow = words.contains(['{', '[', '}', ']']);
        let ends = words
            .char_indices()
            .filter(|(_, c)| flow && matches!(c, '{' | '}' | '[' | ']' | ','));
        for (cut, width) in ends
            .map(|(cut, c)| (cut, c.len_utf8()))
            .chain([(words.len(), 0)])
        {
            let part = &words[from..cut];
            let inner = part.trim_start_matches([' ', '\t', '-']);
            let begins = from + (part.len() - inner.len());
            let inner = inner.trim_end();
            let key = inner.split(':').next().unwrap_or_default();
            let key = key.trim().trim_matches(['"', '\'']);
            // The value of a key that looks like a secret one is found by itself.
            let known = inner.contains(':') && (PLAIN.contains(&key) || keeps(key).is_some());
            if !inner.is_empty() && !inner.starts_with('#') && !known {
                found.push((at + begins, at + begins + inner.len()));
            }
            from = cut + width;
        }
        at += line.len();
    }
}

/// The value that begins behind a colon, of a key that begins there.
fn value_behind(text: &str, colon: usize, key: usize, keeps: Keeps) -> Option<(usize, usize)> {
    let rest = text[colon..].trim_start_matches([' ', '\t']);
    let start = text.len() - rest.len();
    let line = rest.split('\n').next().unwrap_or_default();
    let end_of_line = start + line.len();
    // Values go on over lines that are indented more than their key.
    let first = text[..key].rfind('\n').map_or(0, |at| at + 1);
    let indent = text[first..key].chars().count();
    let below = || {
        let mut end = end_of_line;
        for more in text[end_of_line..].split_inclusive('\n').skip(1) {
            let own = more.len() - more.trim_start_matches(' ').len();
            if !more.trim().is_empty() && own <= indent {
                break;
            }
            end += more.len();
        }
        end.min(text.len())
    };
    let end = match line.trim_end().chars().next() {
        // It stands on the lines below, or is a text of many lines.
        None | Some('#') if keeps == Keeps::Own => return None,
        None | Some('#' | '|' | '>') => below(),
        Some('[' | '{') if keeps == Keeps::Own => return None,
        Some('[' | '{') => end_of_line,
        Some(quote @ ('"' | '\'')) => closing(rest, quote).map_or_else(below, |at| start + at),
        Some(_) if is_in_flow(&text[..key]) => {
            let end = line
                .char_indices()
                .find(|(at, c)| {
                    let after = &line[at + c.len_utf8()..];
                    *c == '}' && !within_reference(&line[..*at])
                        || *c == ',' && (after.is_empty() || after.starts_with(char::is_whitespace))
                })
                .map_or(line.len(), |(at, _)| at);
            start + end
        }
        Some(_) => match line.find(" #") {
            Some(comment) => start + comment,
            None => below(),
        },
    };
    let end = start + text[start..end].trim_end().len();
    (end > start).then_some((start, end))
}

/// Whether a reference is open at the end of a text.
fn within_reference(text: &str) -> bool {
    text.rfind("${").is_some_and(|at| !text[at..].contains('}'))
}

/// Where a quoted text ends that begins here, behind its closing quote.
fn closing(text: &str, quote: char) -> Option<usize> {
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' if quote == '"' => {
                characters.next();
            }
            _ if c != quote => {}
            // Two are one within single quotes.
            '\'' if characters.peek().is_some_and(|(_, next)| *next == '\'') => {
                characters.next();
            }
            _ => return Some(at + 1),
        }
    }
    None
}

/// Whether a key stands within braces, where a comma ends its value.
fn is_in_flow(before: &str) -> bool {
    let last = before.trim_end().trim_end_matches(['"', '\'']).trim_end();
    last.ends_with(['{', ','])
        && before.bytes().filter(|b| *b == b'{').count()
            > before.bytes().filter(|b| *b == b'}').count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Sources;

    fn mask(text: &str) -> String {
        let mut sources = Sources::default();
        let id = sources.add("x", "", text.to_owned());
        Hidden::default().masked(sources.get(id), |_| true)
    }

    #[test]
    fn literal_tokens_are_dots_and_references_stay() {
        assert_eq!(
            mask("{ name: a, token: hunter2, role: viewer }"),
            "{ name: a, token: *******, role: viewer }"
        );
        assert_eq!(mask("token: \"a,b}\" # why"), "token: ****** # why");
        assert_eq!(mask("token: '${file:/run/x}'"), "token: '${file:/run/x}'");
        assert_eq!(
            mask("{ token: ${file:/run/x}, name: y }"),
            "{ token: ${file:/run/x}, name: y }"
        );
        assert_eq!(mask("token: a${env:X}b"), "token: **********");
        assert_eq!(mask("\"token\" : s3\nname: x"), "\"token\" : **\nname: x");
        assert_eq!(mask("tokens:\n  - name: x"), "tokens:\n  - name: x");
        // A pool may be called like a holder of secrets.
        let pools = "pools:\n  users:\n    endpoints: [ a:1 ]\n";
        assert_eq!(mask(pools), pools);
        let pools = "pools: { tokens: { endpoints: [ a:1 ] } }";
        assert_eq!(mask(pools), pools);
        assert_eq!(
            mask("tokenless_name: x"),
            "tokenless_name: *",
            "to be on the safe side"
        );
    }

    #[test]
    fn secrets_are_hidden_however_they_are_written() {
        for text in [
            "token: |\n  hunter2\n  hunter2\nname: x",
            "token: >-\n\n  hunter2\nname: x",
            "token:\n  hunter2\nname: x",
            "token: # why\n  hunter2\nname: x",
            "token: a\n  hunter2\nname: x",
            "token: \"a\\\"hunter2\"\nname: x",
            "token: \"a\n  hunter2\"\nname: x",
            "token: 'it''s hunter2'\nname: x",
            "token: a,hunter2}\nname: x",
            "token: \"hunter2\nname: x",
            "token: [ a, hunter2 ]\nname: x",
            "token: { a: hunter2 }\nname: x",
            "tokens: hunter2\nname: x",
            "Token: hunter2\nname: x",
            "pasword: hunter2\nname: x",
            "hmac-key: hunter2\nname: x",
            "client_secret: hunter2\nname: x",
            "- password: hunter2\nname: x",
            "{\"token\":\"hunter2\",\"x\":\n1}\nname: x",
            "token: &a hunter2\nname: x",
            "token: !!str hunter2\nname: x",
            "token :\thunter2\nname: x",
            "tokens: { oncall: hunter2 }\nname: x",
            "tokens:\n  oncall: hunter2\nname: x",
            "users: { alice: hunter2 }\nname: x",
            "users:\n- alice: hunter2\nname: x",
            "users:\n  - alice: hunter2\nname: x",
            "tokens:\n  - { name: x, role: operator, value: hunter2 }\nname: x",
            "tokens:\n  - hunter2: operator\nname: x",
            "tokens:\n  - @hunter2\nname: x",
            "tokens:\n  - \"hunter2\" x\nname: x",
            "tokens: [\n  hunter2,\n]\nname: x",
            "admin:\n  tokens:\n    - hunter2: viewer\nname: x",
        ] {
            let masked = mask(text);
            assert!(!masked.contains("hunter2"), "{text}: {masked}");
            assert!(masked.ends_with("\nname: x"), "{text}: {masked}");
            assert_eq!(masked.len(), text.len());
        }
    }

    #[test]
    fn no_key_of_the_file_is_taken_for_a_secret_that_is_none() {
        let keys = [
            "to",
            "key",
            "keys",
            "host",
            "header",
            "cookie",
            "users",
            "client_key",
            "name",
        ];
        let taken: Vec<&str> = keys
            .into_iter()
            .filter(|key| keeps(key).is_some())
            .collect();
        assert_eq!(taken, ["users"]);
    }

    #[test]
    fn messages_leave_secrets_out_and_parts_of_them() {
        let mut hidden = Hidden::default();
        hidden.remember("correct horse battery staple\nshort");
        let said = |text: &str| hidden.left_out(text);
        assert_eq!(
            said("`correct horse battery staple` is none"),
            "`•••` is none"
        );
        assert_eq!(said("`horse battery staple` is none"), "`•••` is none");
        assert_eq!(said("horse, and short é"), "horse, and short é");
        assert_eq!(Hidden::default().left_out("as it was"), "as it was");
    }

    #[test]
    fn a_report_may_point_at_any_character() {
        use crate::diagnostic::Colours;
        use crate::{Machine, check_text};
        let sound = "listeners: [ { bind: 'a:1' } ]\npools: { a: { endpoints: [ 'a:1' ] } }\n";
        for wrong in [
            "listeners:\n  - bind: 'a:1'\n é\n",
            "services: { s: a }”",
            "services: { s: a } é # x",
            "😀: [",
            "a: \"😀",
            "- “x”: {",
        ] {
            for text in [wrong.to_owned(), format!("{sound}{wrong}")] {
                let checked = check_text("x.yaml", text.clone(), &Machine::default());
                let report = checked.report.render(Colours::Off);
                assert!(report.contains("error["), "{text}: {report}");
            }
        }
    }
}
