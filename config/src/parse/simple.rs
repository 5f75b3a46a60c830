//! The part of YAML that large configurations are made of, read in one go.
//!
//! Blocks and flow collections, keys, plain words, quoted texts without escapes, comments: enough for
//! files of ten thousand routes, which programs write and a reload reads again and again. A general
//! reader spends most of a reload on them. This one knows nothing of anchors, tags, texts over
//! several lines and the like, and it reports nothing: wherever it is not sure, it gives up, and the
//! YAML crate reads the whole text from its beginning. So there is one judge of what is YAML and one
//! author of messages; a test holds that both see the same tree in whatever this one reads.
//!
//! Every function that returns `None` has given up.

use std::collections::HashSet;

use crate::node::{Entry, Node, Scalar, Value};
use crate::source::{At, Origin, SourceId, Span};

/// How deep it goes.
const DEEPEST: usize = 24;

/// The most values: fewer than the YAML crate is allowed to read.
const MOST_NODES: usize = crate::parse::limits::MOST_NODES / 4;

/// The longest key. The YAML crate has such a limit as well, a higher one.
const LONGEST_KEY: usize = 128;

/// Reads a text, if it is as simple as that.
pub(super) fn parse(text: &str, source: SourceId) -> Option<Node> {
    if !has_simple_bytes(text.as_bytes()) {
        return None;
    }
    let mut reader = SimpleReader {
        text,
        bytes: text.as_bytes(),
        at: 0,
        line: 0,
        column: None,
        depth: 0,
        nodes: 0,
        source,
    };
    reader.next_line()?;
    // A file is a mapping from its first column on.
    if reader.column != Some(0) || reader.at_dash() {
        return None;
    }
    let root = reader.mapping(0)?;
    (reader.column.is_none()).then_some(root)
}

/// Whether there is no byte that needs thought: no tab, no carriage return, no mark of the byte
/// order, nothing that cannot be printed. Other alphabets may stand in comments, which the reader sees to.
fn has_simple_bytes(bytes: &[u8]) -> bool {
    let simple = |byte: u8| byte == b'\n' || (byte >= b' ' && byte != 0x7f && byte != 0xef);
    // All of them, whatever the first ones say: many are looked at in one go.
    bytes.iter().fold(true, |all, byte| all & simple(*byte))
        // U+0080 to U+009F are control characters.
        && (bytes.is_ascii()
            || !bytes
                .windows(2)
                .any(|pair| pair[0] == 0xc2 && pair[1] < 0xa0))
}

struct SimpleReader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    /// Where the line begins.
    line: usize,
    /// Between values: the column of what comes next, unless it is the end.
    column: Option<usize>,
    depth: usize,
    nodes: usize,
    source: SourceId,
}

impl SimpleReader<'_> {
    fn byte(&self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }

    fn origin(&self, start: usize, end: usize) -> Origin {
        Origin::File(Span {
            source: self.source,
            start: start as u32,
            end: end as u32,
        })
    }

    fn node(&mut self, value: Value, start: usize, end: usize) -> Option<Node> {
        self.nodes += 1;
        (self.nodes <= MOST_NODES).then(|| Node {
            value,
            origin: self.origin(start, end),
        })
    }

    // === Lines ===

    /// From the beginning of a line to the next thing that stands there, over empty lines and
    /// comments.
    fn next_line(&mut self) -> Option<()> {
        loop {
            self.line = self.at;
            self.spaces();
            match self.byte(self.at) {
                None => {
                    self.column = None;
                    return Some(());
                }
                Some(b'\n') => self.at += 1,
                Some(b'#') => self.comment(),
                Some(_) => {
                    let column = self.at - self.line;
                    let rest = &self.bytes[self.at..];
                    // The end of the only document.
                    if column == 0
                        && let Some(rest) = rest.strip_prefix(b"...")
                        && rest.iter().all(|byte| matches!(byte, b'\n' | b' '))
                    {
                        self.at = self.bytes.len();
                        self.column = None;
                        return Some(());
                    }
                    // The end of one of several, or a directive.
                    if column == 0
                        && (rest.starts_with(b"---") || rest.starts_with(b"...") || rest[0] == b'%')
                    {
                        return None;
                    }
                    self.column = Some(column);
                    return Some(());
                }
            }
        }
    }

    fn spaces(&mut self) {
        while self.byte(self.at) == Some(b' ') {
            self.at += 1;
        }
    }

    /// Over a comment and the end of its line.
    fn comment(&mut self) {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|byte| *byte == b'\n');
        self.at += length.map_or(rest.len(), |length| length + 1);
    }

    /// Nothing more stands in this line, but for a comment behind a space. On to the next one.
    fn end_line(&mut self) -> Option<()> {
        let before = self.at;
        self.spaces();
        match self.byte(self.at) {
            None => {}
            Some(b'\n') => self.at += 1,
            Some(b'#') if self.at > before => self.comment(),
            Some(_) => return None,
        }
        self.next_line()
    }

    /// Whether the rest of the line is empty, or a comment behind a space.
    fn line_is_over(&self) -> bool {
        let rest = &self.bytes[self.at..];
        match rest.iter().position(|byte| *byte != b' ') {
            None => true,
            Some(spaces) => rest[spaces] == b'\n' || (spaces > 0 && rest[spaces] == b'#'),
        }
    }

    /// Whether an item of a sequence begins here.
    fn at_dash(&self) -> bool {
        self.byte(self.at) == Some(b'-')
            && matches!(self.byte(self.at + 1), None | Some(b' ' | b'\n'))
    }

    // === Blocks ===

    /// What begins here, in a block at `column` within one at `parent`.
    fn block(&mut self, column: usize, parent: usize) -> Option<Node> {
        if self.at_dash() {
            return self.sequence(column, self.at, false);
        }
        let before = self.at;
        if self.key()?.is_some() {
            self.at = before;
            return self.mapping(column);
        }
        let value = self.inline(parent, false)?;
        self.end_line()?;
        Some(value)
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        self.depth += 1;
        let done = (self.depth <= DEEPEST).then(|| read(self)).flatten();
        self.depth -= 1;
        done
    }

    fn mapping(&mut self, column: usize) -> Option<Node> {
        let start = self.at;
        let mut entries = Vec::new();
        loop {
            let key = self.key()??;
            let value = self.deeper(|reader| reader.value(column))?;
            entries.push(Entry { key, value });
            match self.column {
                Some(next) if next > column => return None,
                Some(next) if next == column && !self.at_dash() => {}
                Some(next) if next == column => return None,
                _ => break,
            }
        }
        all_differ(&entries)?;
        self.node(Value::Map(entries), start, start)
    }

    /// The value behind a key and its colon.
    fn value(&mut self, column: usize) -> Option<Node> {
        let colon = self.at - 1;
        if !self.line_is_over() {
            self.spaces();
            let value = self.inline(column, false)?;
            self.end_line()?;
            return Some(value);
        }
        self.end_line()?;
        match self.column {
            Some(next) if next > column => self.block(next, column),
            Some(next) if next == column && self.at_dash() => {
                // Its place is that of its first item.
                let dash = self.at;
                self.at += 1;
                if self.line_is_over() {
                    return None;
                }
                self.spaces();
                let start = self.at;
                self.at = dash;
                self.sequence(column, start, true)
            }
            _ => self.node(Value::Null, colon, colon),
        }
    }

    fn sequence(&mut self, column: usize, start: usize, in_mapping: bool) -> Option<Node> {
        let mut items = Vec::new();
        loop {
            self.at += 1;
            let item = if self.line_is_over() {
                self.end_line()?;
                let next = self.column.filter(|next| *next > column)?;
                self.deeper(|reader| reader.block(next, column))?
            } else {
                self.spaces();
                let inner = self.at - self.line;
                self.deeper(|reader| reader.block(inner, column))?
            };
            items.push(item);
            match self.column {
                Some(next) if next > column => return None,
                Some(next) if next == column && self.at_dash() => {}
                Some(next) if next == column && !in_mapping => return None,
                _ => break,
            }
        }
        self.node(Value::List(items), start, start)
    }

    // === What stands in a line ===

    /// A key and its colon; or nothing, without having moved, if what stands here is none.
    #[expect(
        clippy::option_option,
        reason = "the outer one is giving up, as everywhere here"
    )]
    fn key(&mut self) -> Option<Option<At<String>>> {
        let start = self.at;
        let (text, end) = match self.byte(start)? {
            quote @ (b'\'' | b'"') => {
                let end = self.end_of_quoted(start, quote)?;
                (&self.text[start + 1..end - 1], end)
            }
            first if first.is_ascii_alphabetic() || matches!(first, b'_' | b'/') => {
                let rest = &self.bytes[start..];
                let part = |byte: &u8| {
                    byte.is_ascii_alphanumeric()
                        || matches!(byte, b'_' | b'-' | b'.' | b'/' | b'*' | b'+')
                };
                let length = rest.iter().position(|byte| !part(byte));
                let end = start + length.unwrap_or(rest.len());
                (&self.text[start..end], end)
            }
            _ => return Some(None),
        };
        if self.byte(end) != Some(b':') || !matches!(self.byte(end + 1), None | Some(b' ' | b'\n'))
        {
            return Some(None);
        }
        if text.len() > LONGEST_KEY || text.is_empty() || is_special(text) {
            return None;
        }
        let key = At::new(text.to_owned(), self.origin(start, end));
        self.nodes += 1;
        self.at = end + 1;
        Some(Some(key))
    }

    /// A collection in brackets, a quoted text or a plain one.
    fn inline(&mut self, parent: usize, in_flow: bool) -> Option<Node> {
        match self.byte(self.at)? {
            b'[' => self.deeper(|reader| reader.flow_sequence(parent)),
            b'{' => self.deeper(|reader| reader.flow_mapping(parent)),
            quote @ (b'\'' | b'"') => {
                let start = self.at;
                self.at = self.end_of_quoted(start, quote)?;
                let scalar = Scalar {
                    text: self.text[start + 1..self.at - 1].to_owned(),
                    quoted: true,
                    secret: false,
                    broken: false,
                };
                self.node(Value::Scalar(scalar), start, self.at)
            }
            _ => self.plain(in_flow),
        }
    }

    /// One past the closing quote of a text without escapes.
    fn end_of_quoted(&self, start: usize, quote: u8) -> Option<usize> {
        let inside = &self.bytes[start + 1..];
        let end = inside
            .iter()
            .position(|byte| *byte == quote || matches!(byte, b'\\' | b'\n' | 0x80..))?;
        let end = start + 1 + end;
        (self.bytes[end] == quote && self.byte(end + 1) != Some(quote)).then_some(end + 1)
    }

    fn plain(&mut self, in_flow: bool) -> Option<Node> {
        let start = self.at;
        let second = self.byte(start + 1).unwrap_or(b'\n');
        let begins = match self.bytes[start] {
            first if first.is_ascii_alphanumeric() => true,
            b'_' | b'/' | b'$' | b'(' | b'^' | b'~' => true,
            b'-' | b'+' => second.is_ascii_digit(),
            b'.' => matches!(second, b'/' | b'.'),
            _ => false,
        };
        if !begins {
            return None;
        }
        let mut end = start;
        loop {
            match self.byte(end) {
                None | Some(b'\n') => break,
                Some(b'#') if self.bytes[end - 1] == b' ' => break,
                Some(b',' | b']' | b'}') if in_flow => break,
                Some(b'[' | b'{') if in_flow => return None,
                Some(b':') => match self.byte(end + 1) {
                    None | Some(b' ' | b'\n') => return None,
                    Some(b',' | b'[' | b']' | b'{' | b'}') if in_flow => return None,
                    Some(_) => {}
                },
                Some(0x80..) => return None,
                Some(_) => {}
            }
            end += 1;
        }
        let text = self.text[start..end].trim_end_matches(' ');
        let end = start + text.len();
        self.at = end;
        if matches!(text, "~" | "null" | "Null" | "NULL") {
            return self.node(Value::Null, start, end);
        }
        if text.starts_with('~') || is_special(text) || is_odd_number(text) {
            return None;
        }
        self.node(Value::Scalar(Scalar::plain(text)), start, end)
    }

    // === Collections in brackets ===

    /// To the next thing within brackets, over comments and ends of lines. Lines stand further in than
    /// the block around them.
    fn flow_space(&mut self, parent: usize) -> Option<()> {
        let mut before = self.at;
        loop {
            self.spaces();
            match self.byte(self.at)? {
                b'\n' => {
                    self.at += 1;
                    self.line = self.at;
                    before = self.at;
                }
                b'#' if self.at > before || self.at == self.line => {
                    self.comment();
                    self.line = self.at;
                    before = self.at;
                }
                b'#' => return None,
                _ => return (self.at - self.line > parent).then_some(()),
            }
        }
    }

    /// Behind an item: whether another one follows.
    fn flow_goes_on(&mut self, parent: usize, close: u8) -> Option<bool> {
        self.flow_space(parent)?;
        let byte = self.byte(self.at)?;
        self.at += 1;
        if byte == close {
            return Some(false);
        }
        if byte != b',' {
            return None;
        }
        self.flow_space(parent)?;
        let ends = self.byte(self.at) == Some(close);
        if ends {
            self.at += 1;
        }
        Some(!ends)
    }

    /// Into the brackets: whether there is anything in them.
    fn flow_begins(&mut self, parent: usize, close: u8) -> Option<bool> {
        self.at += 1;
        self.flow_space(parent)?;
        let ends = self.byte(self.at) == Some(close);
        if ends {
            self.at += 1;
        }
        Some(!ends)
    }

    fn flow_sequence(&mut self, parent: usize) -> Option<Node> {
        let start = self.at;
        let mut more = self.flow_begins(parent, b']')?;
        let mut items = some_or_none(more);
        while more {
            items.push(self.inline(parent, true)?);
            more = self.flow_goes_on(parent, b']')?;
        }
        self.node(Value::List(items), start, start + 1)
    }

    fn flow_mapping(&mut self, parent: usize) -> Option<Node> {
        let start = self.at;
        let mut more = self.flow_begins(parent, b'}')?;
        let mut entries = some_or_none(more);
        while more {
            let key = self.key()??;
            self.flow_space(parent)?;
            let value = self.inline(parent, true)?;
            entries.push(Entry { key, value });
            more = self.flow_goes_on(parent, b'}')?;
        }
        all_differ(&entries)?;
        self.node(Value::Map(entries), start, start + 1)
    }
}

/// A list for a collection in brackets: most have one or two things, or nothing.
fn some_or_none<T>(some: bool) -> Vec<T> {
    Vec::with_capacity(if some { 2 } else { 0 })
}

/// Gives up if a key stands twice.
fn all_differ(entries: &[Entry]) -> Option<()> {
    const FEW: usize = 12;
    let keys = entries.iter().map(|entry| entry.key.value.as_str());
    let differ = if entries.len() <= FEW {
        keys.enumerate()
            .all(|(at, key)| entries[..at].iter().all(|before| before.key.value != key))
    } else {
        let mut seen = HashSet::with_capacity(entries.len());
        keys.into_iter().all(|key| seen.insert(key))
    };
    differ.then_some(())
}

/// Words that some readers of YAML take for something else.
fn is_special(text: &str) -> bool {
    ["null", "nan", "inf", "infinity"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word))
}

/// Whether it may be a number that is not a plain one: with an exponent, or too many digits.
fn is_odd_number(text: &str) -> bool {
    const LONGEST: usize = 18;
    let begins = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
    let digit = |byte: u8| {
        byte.is_ascii_hexdigit()
            || matches!(byte, b'x' | b'X' | b'o' | b'O' | b'.' | b'_' | b'-' | b'+')
    };
    begins && (text.len() > LONGEST || text.contains(['e', 'E'])) && text.bytes().all(digit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::general;
    use crate::source::Sources;
    use proptest::prelude::*;

    /// What stands where, as this reader sees it, and as the YAML crate does.
    fn both(text: &str) -> (Option<String>, Option<String>) {
        let mut sources = Sources::default();
        let id = sources.add("t.yaml", "", text.to_owned());
        let mut found = Vec::new();
        let general = general(&sources, id, &mut found).filter(|_| found.is_empty());
        let shown = |root: Node| shown(&root);
        (parse(text, id).map(shown), general.map(shown))
    }

    /// Everything that a tree says.
    fn shown(node: &Node) -> String {
        let place = |origin: Origin| {
            let span = origin.span().unwrap();
            format!("{}..{}", span.start, span.end)
        };
        let value = match &node.value {
            Value::Null => "null".to_owned(),
            Value::Scalar(Scalar {
                text,
                quoted,
                secret,
                broken,
            }) => {
                format!("{text:?} {quoted} {secret} {broken}")
            }
            Value::List(items) => format!("{:?}", items.iter().map(shown).collect::<Vec<_>>()),
            Value::Map(entries) => {
                let entry = |entry: &Entry| {
                    let At {
                        value,
                        origin,
                        secret,
                    } = &entry.key;
                    format!(
                        "{value:?} {} {secret}: {}",
                        place(*origin),
                        shown(&entry.value)
                    )
                };
                format!(
                    "{{ {} }}",
                    entries.iter().map(entry).collect::<Vec<_>>().join(", ")
                )
            }
        };
        format!("{value} {}", place(node.origin))
    }

    /// Whatever is read here is what the YAML crate reads.
    fn agree(text: &str) -> bool {
        let (simple, general) = both(text);
        if simple.is_some() {
            assert_eq!(simple, general, "{text:?}");
        }
        simple.is_some()
    }

    #[test]
    fn what_configurations_are_made_of_is_simple() {
        for text in [
            "a: 1\n",
            "# c\na: b # d\n\nc: 'd'\ne: \"f g\"   # h, größer\n# end",
            "a:\n  b: ~\n  c:\n  d: null\ne:",
            "a: [ b, 'c', \"d\", 1.5, 10.0.0.1:80, ]\nb: []\nc: { }",
            "a: [\n  b,  # first\n\n  # second\n  c\n  ]\nd: {\n  e: f,\n  g: [ h ],\n }",
            "a:\n  - b\n  -   c: 1\n      d: 2\n  - - e\n    - f\n  -\n    g: h\nb:\n- c\n- d: e\n  f: g\n",
            "pools:\n  p-1: { cloud: aws, endpoints: [ 10.0.0.1:8080, 'b' ] }\n",
            "/ready: true\nx.y: http://a/b?c=d\n'q': ${env:X}-y\n",
            "a:\n    [ b ]\nc:\n  'd'\n",
            "a: b\n...",
            "a:\n  b: c\n...\n\n",
        ] {
            assert!(agree(text), "{text:?}");
        }
    }

    #[test]
    fn the_rest_is_left_to_the_crate() {
        for text in [
            "",
            "- a",
            "a",
            "a: b\na: c",
            "a: { b: 1, b: 2 }",
            "a: b\n...\nc: d",
            "a: b\n... # c",
            "a: b: c",
            "a: b\n  c",
            "a: |\n  b",
            "a: &b c\nd: *b",
            "a: !b c",
            "<<: { a: b }",
            "? a\n: b",
            "a:\tb",
            "a: b\r\n",
            "a: 'it''s'",
            "a: \"\\n\"",
            "a: \"b\n  c\"",
            "a: [ b",
            "a: [ b: c ]",
            "a: { b }",
            "a: [\nb ]",
            "a: 1e999",
            "a: .inf",
            "a: 'b'c",
            "a: ü",
            "null: a",
            "---\na: b",
            "a: b\n c: d",
            "  a: b\nc: d",
            "a:\n    b: c\n  d: e",
        ] {
            assert!(!agree(text), "{text:?}");
        }
    }

    #[test]
    fn every_file_that_comes_along_is_read_alike() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut simple = 0;
        for (folder, ending) in [
            ("tests/cases", "case"),
            ("../examples", "yaml"),
            ("../deploy", "yaml"),
        ] {
            for entry in std::fs::read_dir(root.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|found| found == ending) {
                    let text = std::fs::read_to_string(path).unwrap();
                    let text = text.split("\n--------\n").next().unwrap();
                    simple += usize::from(agree(text));
                }
            }
        }
        assert!(simple > 20, "only {simple} are simple");
    }

    /// Pieces of YAML, good in some places and bad in others.
    const PIECES: [&str; 63] = [
        "a",
        "b",
        "c-d",
        "1",
        "-1",
        "10.0.0.1:80",
        "0x1f",
        "1e5",
        "+7",
        "~",
        "null",
        "true",
        "nan",
        ".5",
        "./x",
        "$x",
        "a: b",
        "b: ",
        "c:",
        "d:\n",
        "'e': f",
        "'g'",
        "\"h i\"",
        "''",
        "'",
        "\"",
        ": ",
        ":",
        ",",
        ", ",
        "[",
        "]",
        "[ ",
        " ]",
        "{",
        "}",
        "{ ",
        " }",
        "- ",
        "-",
        "\n",
        "\n",
        "\n",
        "\n  ",
        "\n  ",
        "\n    ",
        "\n   ",
        " ",
        "  ",
        " # x",
        "#",
        "\n# y\n",
        "\n- ",
        "\n  - ",
        "&a ",
        "*a",
        "!t ",
        "|",
        "? ",
        "%",
        "---",
        "\n...",
        "ä",
    ];

    /// A value in any of the styles, each line after the first one indented by `indent`.
    fn value(depth: u32) -> BoxedStrategy<String> {
        let scalar = prop::sample::select(vec![
            "a",
            "b c",
            "1",
            "'q'",
            "\"r s\"",
            "~",
            "10.0.0.1:80",
            "http://x/y",
            "{}",
            "[]",
            "[ a, 'b' ]",
            "{ k: v, l: [ 1 ] }",
            "[ a,\n        b ]",
            "",
            "x # said",
            "-5",
            "1.20",
            "012",
            "NO",
        ])
        .prop_map(str::to_owned);
        if depth == 0 {
            return scalar.boxed();
        }
        let mapping = prop::collection::vec(
            (
                prop::sample::select(vec!["a", "b", "'c'", "d.e", "f-g"]),
                value(depth - 1),
            ),
            1..4,
        )
        .prop_map(|entries| {
            let lines = entries
                .into_iter()
                .map(|(key, value)| format!("{key}:{}", behind(&value, "  ")));
            format!("\n{}", lines.collect::<Vec<_>>().join("\n"))
        });
        let sequence = (any::<bool>(), prop::collection::vec(value(depth - 1), 1..4)).prop_map(
            |(tight, items)| {
                let lines = items.into_iter().map(|item| match item.strip_prefix('\n') {
                    Some(block) if tight => format!("- {}", block.replace('\n', "\n  ")),
                    _ => format!("-{}", behind(&item, "  ")),
                });
                format!("\n{}", lines.collect::<Vec<_>>().join("\n"))
            },
        );
        prop_oneof![scalar, mapping.clone(), mapping, sequence].boxed()
    }

    /// A value behind a colon or a dash.
    fn behind(value: &str, indent: &str) -> String {
        match value.strip_prefix('\n') {
            Some(block) => format!("\n{indent}{}", block.replace('\n', &format!("\n{indent}"))),
            None => format!(" {value}"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn soup_is_read_alike_or_not_at_all(
            pieces in prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..24),
        ) {
            agree(&pieces.concat());
            agree(&format!("k: {}", pieces.concat()));
            agree(&format!("k: [ {} ]\n", pieces.concat()));
            agree(&format!("k:\n  - {}\nl: m", pieces.concat()));
        }

        #[test]
        fn trees_are_read_alike(value in value(3), at in any::<prop::sample::Index>(), piece in prop::sample::select(PIECES.to_vec())) {
            let text = format!("top:{}\nlast: 1\n", behind(&value, "  "));
            agree(&text);
            // With something in the wrong place, or something missing.
            let at = at.index(text.len());
            if text.is_char_boundary(at) {
                agree(&format!("{}{piece}{}", &text[..at], &text[at..]));
                let rest = &text[at..];
                let left_out = rest.char_indices().nth(1).map_or(rest.len(), |(next, _)| next);
                agree(&format!("{}{}", &text[..at], &rest[left_out..]));
            }
        }
    }
}
