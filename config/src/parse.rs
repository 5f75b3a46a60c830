//! YAML text → [`Node`] tree. The only place that knows the YAML crate, and its limits.
//!
//! The crate's own idea of types is not used: a plain scalar is taken as the text that stood in
//! the file, so that `min_version: 1.20`, the country `NO` and the port `0080` mean what their key
//! says they mean. Anchors, aliases and merge keys work; bombs made of them hit the limit of what
//! aliases may repeat.
//!
//! Most files need little of what YAML can do. Those are read by [`simple`], many times as fast; whatever it
//! is not sure of, and all that is wrong, is left to the crate.

mod limits;
mod simple;

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::{DuplicateKeyPolicy, Location, Options, Spanned};

use crate::diagnostic::{Code, Diagnostic};
use crate::node::{Entry, Node, Scalar, Value};
use crate::parse::limits::MOST_NODES;
use crate::source::{At, LineColumn, Origin, SourceId, Sources, Span};

/// The most values that aliases may repeat, all together: what keeps bombs small.
const MOST_REPEATED: usize = 1_000_000;

/// Reads one source. On a fault the diagnostic says where; a duplicate key is reported and the
/// first one kept, so that the rest of the file is still checked.
///
/// # Errors
/// The tree is `None` when the text is not YAML at all.
pub(crate) fn parse(
    sources: &Sources,
    id: SourceId,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Node> {
    let text = &sources.get(id).text;
    simple::parse(text, id).or_else(|| general(sources, id, diagnostics))
}

/// The same for every YAML that there is.
fn general(sources: &Sources, id: SourceId, diagnostics: &mut Vec<Diagnostic>) -> Option<Node> {
    let text = &sources.get(id).text;
    let reader = TreeReader { sources, id };
    match from_text(text, DuplicateKeyPolicy::Error) {
        Ok(raw) => Some(reader.node(raw)),
        Err(error) => {
            let diagnostic = reader.diagnostic(&error);
            let code = diagnostic.code;
            diagnostics.push(diagnostic);
            if code != Code::DuplicateKey {
                return None;
            }
            from_text(text, DuplicateKeyPolicy::FirstWins)
                .ok()
                .map(|raw| reader.node(raw))
        }
    }
}

fn from_text(text: &str, duplicates: DuplicateKeyPolicy) -> Result<Raw, serde_yaml::Error> {
    let options = serde_yaml::options! {
        duplicate_keys: duplicates,
        with_snippet: false,
        // The crate's own limits are for small files: a few thousand routes, or a hundred pools
        // that share the health checks of one, would be refused as an attack.
        budget: serde_yaml::budget! {
            max_nodes: MOST_NODES,
            max_events: 2 * MOST_NODES,
            max_aliases: MOST_REPEATED,
            max_merge_keys: MOST_REPEATED,
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_yaml::alias_limits! {
            max_total_replayed_events: MOST_REPEATED,
        },
    };
    from_str(text, options)
}

fn from_str(text: &str, options: Options) -> Result<Raw, serde_yaml::Error> {
    serde_yaml::from_str_with_options::<Raw>(text, options)
}

/// A value as the crate hands it over.
type Raw = Spanned<Box<RawValue>>;

enum RawValue {
    Null,
    /// A number or boolean: its text is taken from the source.
    Plain,
    Text(String),
    List(Vec<Raw>),
    Map(Vec<(Spanned<String>, Raw)>),
}

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = RawValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<RawValue, E> {
        Ok(RawValue::Plain)
    }

    fn visit_i64<E>(self, _: i64) -> Result<RawValue, E> {
        Ok(RawValue::Plain)
    }

    fn visit_u64<E>(self, _: u64) -> Result<RawValue, E> {
        Ok(RawValue::Plain)
    }

    fn visit_i128<E>(self, _: i128) -> Result<RawValue, E> {
        Ok(RawValue::Plain)
    }

    fn visit_u128<E>(self, _: u128) -> Result<RawValue, E> {
        Ok(RawValue::Plain)
    }

    fn visit_f64<E>(self, _: f64) -> Result<RawValue, E> {
        Ok(RawValue::Plain)
    }

    fn visit_str<E>(self, text: &str) -> Result<RawValue, E> {
        Ok(RawValue::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<RawValue, E> {
        Ok(RawValue::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<RawValue, A::Error> {
        let mut list = Vec::with_capacity(items.size_hint().unwrap_or(0).min(1024));
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(RawValue::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<RawValue, A::Error> {
        let mut map = Vec::with_capacity(entries.size_hint().unwrap_or(0).min(1024));
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(RawValue::Map(map))
    }
}

struct TreeReader<'a> {
    sources: &'a Sources,
    id: SourceId,
}

impl TreeReader<'_> {
    fn node(&self, raw: Raw) -> Node {
        let place = self.span(&raw.referenced);
        let value = match *raw.value {
            RawValue::Null => Value::Null,
            RawValue::Plain => {
                Value::Scalar(Scalar::plain(self.text(self.span(&raw.defined)).trim_end()))
            }
            RawValue::Text(text) => Value::Scalar(Scalar {
                quoted: self.text(self.span(&raw.defined)) != text,
                secret: false,
                broken: false,
                text,
            }),
            RawValue::List(items) => {
                Value::List(items.into_iter().map(|item| self.node(item)).collect())
            }
            RawValue::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| Entry {
                        key: At::new(key.value, Origin::File(self.span(&key.referenced))),
                        value: self.node(value),
                    })
                    .collect(),
            ),
        };
        Node {
            value,
            origin: Origin::File(place),
        }
    }

    fn text(&self, span: Span) -> &str {
        self.sources
            .get(self.id)
            .text
            .get(span.start as usize..span.end as usize)
            .unwrap_or_default()
    }

    fn span(&self, location: &Location) -> Span {
        let source = self.sources.get(self.id);
        let span = location.span();
        let start = span.byte_offset().map_or_else(
            || {
                source.byte_of(LineColumn {
                    line: location.line() as usize,
                    column: location.column() as usize,
                })
            },
            |offset| offset as u32,
        );
        let length = span.byte_len().map_or(1, |length| length as u32);
        let limit = source.text.len() as u32;
        Span {
            source: self.id,
            start: start.min(limit),
            end: start.saturating_add(length).min(limit),
        }
    }

    fn diagnostic(&self, error: &serde_yaml::Error) -> Diagnostic {
        let error = error.without_snippet();
        let origin = error
            .location()
            .map_or(Origin::Default, |at| Origin::File(self.span(&at)));
        if let serde_yaml::Error::DuplicateMappingKey { key, .. } = error {
            let key = key.as_deref().unwrap_or("?");
            return Diagnostic::error(
                Code::DuplicateKey,
                origin,
                format!("the key `{key}` stands here a second time"),
            )
            .help("keep one of the two");
        }
        let words = plain_words(error);
        if words.contains("multiple YAML documents") {
            return Diagnostic::error(
                Code::Syntax,
                origin,
                "a second document begins behind `---` or `...`: a file has one",
            )
            .help("remove what stands behind the mark, or the mark");
        }
        if let Some(limit) = limit(&words) {
            return Diagnostic::error(Code::Syntax, origin, limit);
        }
        Diagnostic::error(Code::Syntax, origin, format!("not valid YAML: {words}"))
    }
}

/// Which limit of this reader a file has hit, if the crate's message is about one.
fn limit(words: &str) -> Option<String> {
    let words = words.to_ascii_lowercase();
    if words.contains("recursion limit") || words.contains("depth") {
        return Some(
            "values stand in each other too deeply: no configuration needs that".to_owned(),
        );
    }
    if !words.contains("budget") && !words.contains("limit") {
        return None;
    }
    let repeated = ["alias", "anchor", "replay", "merge"];
    Some(match repeated.iter().any(|word| words.contains(word)) {
        true => format!("aliases repeat more than {MOST_REPEATED} values in this file"),
        false => format!("the file has more than {MOST_NODES} values"),
    })
}

/// The crate's message without the place it begins with: the place is shown beside it.
fn plain_words(error: &serde_yaml::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    let words = first
        .rsplit_once(" at line ")
        .map_or(first, |(words, _)| words);
    let words = words.strip_prefix("error: ").unwrap_or(words);
    match words.split_once(": ") {
        Some((place, rest)) if place.starts_with("line ") => rest.to_owned(),
        _ => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    fn said(text: String) -> (bool, Vec<Diagnostic>) {
        let mut sources = Sources::default();
        let id = sources.add("t.yaml", "", text);
        let mut found = Vec::new();
        let tree = parse(&sources, id, &mut found);
        (tree.is_some(), found)
    }

    #[test]
    fn limits_are_told_in_our_words() {
        let deep = format!("a: {}{}\n", "[".repeat(2_000), "]".repeat(2_000));
        let mut bomb = "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
        for (at, name) in ('b'..='k').enumerate() {
            let before = char::from(b'a' + at as u8);
            let again = vec![format!("*{before}"); 8].join(", ");
            writeln!(bomb, "{name}: &{name} [{again}]").unwrap();
        }
        for (text, words) in [(deep, "too deeply"), (bomb, "aliases repeat more than")] {
            let (read, found) = said(text);
            assert!(!read);
            assert_eq!(found.len(), 1);
            let message = &found[0].message;
            assert!(message.contains(words), "{message}");
            assert!(!message.contains("budget"), "{message}");
        }
    }

    #[test]
    fn large_files_are_read() {
        let mut text = "first: &shared { every: 5s, timeout: 1s }\n".to_owned();
        for n in 0..100_000 {
            writeln!(text, "p{n}: [ {n}, *shared ]").unwrap();
        }
        let (read, found) = said(text);
        assert!(read && found.is_empty(), "{found:?}");
    }

    #[test]
    fn bombs_are_refused() {
        let mut text = "a0: &a0 [ x, x, x, x, x, x, x, x, x, x ]\n".to_owned();
        for n in 1..12 {
            let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
            writeln!(text, "a{n}: &a{n} [ {aliases} ]").unwrap();
        }
        let (read, found) = said(text);
        assert!(!read);
        assert_eq!(found[0].code, Code::Syntax);
    }
}
