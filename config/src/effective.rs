//! `portolan show`: a configuration as a tree again, as written or with every default filled in,
//! and where each value came from. What is secret is drawn as dots.

use std::fmt::Write as _;

use crate::node::{Node, Scalar, Value};
use crate::source::{Origin, Sources};

/// The tree as YAML, one value a line, each with a comment that says where it came from.
pub(crate) fn to_yaml(node: &Node, sources: &Sources) -> String {
    let mut printer = Printer {
        sources,
        out: String::new(),
    };
    if let Value::Map(entries) = &node.value {
        for entry in entries {
            printer.entry(&entry.key.value, &entry.value, 0);
        }
    }
    printer.out
}

/// The tree as JSON. Numbers and booleans are such; where they came from is not said.
pub(crate) fn to_json(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Null => serde_json::Value::Null,
        Value::Scalar(scalar) => scalar_json(scalar),
        Value::List(items) => items.iter().map(to_json).collect(),
        Value::Map(entries) => entries
            .iter()
            .map(|entry| (entry.key.value.clone(), to_json(&entry.value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}

fn scalar_json(scalar: &Scalar) -> serde_json::Value {
    let text = shown(scalar);
    match serde_json::from_str(text) {
        Ok(value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)))
            if !scalar.quoted =>
        {
            value
        }
        _ => text.into(),
    }
}

/// A scalar's text, unless it is nobody's business.
fn shown(scalar: &Scalar) -> &str {
    if scalar.secret {
        "•••"
    } else {
        &scalar.text
    }
}

struct Printer<'a> {
    sources: &'a Sources,
    out: String,
}

impl Printer<'_> {
    fn entry(&mut self, key: &str, node: &Node, indent: usize) {
        let _ = write!(self.out, "{:indent$}{}:", "", quoted(key));
        self.value(node, indent);
    }

    fn value(&mut self, node: &Node, indent: usize) {
        match &node.value {
            Value::Null => self.end_of_line(" ~", node.origin),
            Value::Scalar(scalar) => {
                self.end_of_line(&format!(" {}", quoted(shown(scalar))), node.origin);
            }
            Value::List(items) if items.is_empty() => self.end_of_line(" []", node.origin),
            Value::Map(entries) if entries.is_empty() => self.end_of_line(" {}", node.origin),
            Value::List(items) => {
                self.out.push('\n');
                for item in items {
                    self.item(item, indent + 2);
                }
            }
            Value::Map(entries) => {
                self.out.push('\n');
                for entry in entries {
                    self.entry(&entry.key.value, &entry.value, indent + 2);
                }
            }
        }
    }

    fn item(&mut self, node: &Node, indent: usize) {
        let _ = write!(self.out, "{:indent$}-", "");
        match &node.value {
            Value::Map(entries) if !entries.is_empty() => {
                // The first key stands beside the dash, the others below it.
                for (at, entry) in entries.iter().enumerate() {
                    if at == 0 {
                        let _ = write!(self.out, " {}:", quoted(&entry.key.value));
                        self.value(&entry.value, indent + 2);
                    } else {
                        self.entry(&entry.key.value, &entry.value, indent + 2);
                    }
                }
            }
            _ => self.value(node, indent),
        }
    }

    fn end_of_line(&mut self, text: &str, origin: Origin) {
        let line = self.out.rfind('\n').map_or(0, |at| at + 1);
        let width = self.out[line..].chars().count() + text.chars().count();
        let pad = 48usize.saturating_sub(width).max(2);
        let from = match origin {
            Origin::Default => "default".to_owned(),
            Origin::File(span) => self.sources.place(span),
            Origin::Inherited(span) => format!("{} (defaults)", self.sources.place(span)),
        };
        let _ = writeln!(self.out, "{text}{:pad$}# {from}", "");
    }
}

/// The text as YAML reads it back as the same text.
fn quoted(text: &str) -> String {
    let plain = !text.is_empty()
        && !text.starts_with(['-', '?', ' ', '&', '*', '!', '|', '>', '%', '@', '`', '•'])
        && !text.ends_with([' ', ':'])
        && text.bytes().all(|b| {
            b.is_ascii_alphanumeric()
                || matches!(
                    b,
                    b'-' | b'_' | b'.' | b'/' | b'%' | b':' | b'+' | b'=' | b'~'
                )
        })
        && !text.contains(": ")
        && !matches!(text, "~" | "null" | "Null" | "NULL");
    if plain {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}
