//! A document as a tree of places: what the YAML reader found, before anybody asks what it means.
//!
//! Scalars keep the text the user wrote (`012`, `NO` and `1.20` stay just that), because what a
//! text means is decided by the key it stands under, not by YAML's guesses.

use crate::source::{At, Origin};

/// One value and where it stood.
#[derive(Clone, Debug)]
pub struct Node {
    /// What stood there.
    pub value: Value,
    /// Where.
    pub origin: Origin,
}

/// What can stand at a place.
#[derive(Clone, Debug)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A single word, number or text.
    Scalar(Scalar),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order written.
    Map(Vec<Entry>),
}

/// A single word, number or text.
#[derive(Clone, Debug)]
pub struct Scalar {
    /// The text as written, without its quotes.
    pub text: String,
    /// Whether it stood in quotes (or as a block), which makes it a text whatever it looks like.
    pub quoted: bool,
    /// Whether it came from `${file:…}`: never printed.
    pub secret: bool,
    /// Whether it has a reference that could not be filled in: reported already, and no value.
    pub broken: bool,
}

/// One line of a mapping.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: At<String>,
    /// What it maps to.
    pub value: Node,
}

impl Node {
    /// A node that nobody wrote, from a default's text: `{}` and `[]` are empty, all else a scalar.
    pub fn from_default(text: &str) -> Self {
        let value = match text {
            "{}" => Value::Map(Vec::new()),
            "[]" => Value::List(Vec::new()),
            text if text.starts_with('[') => {
                let items = text.trim_matches(['[', ']']).split(',');
                Value::List(items.map(|item| Self::from_default(item.trim())).collect())
            }
            text => Value::Scalar(Scalar::plain(text)),
        };
        Self {
            value,
            origin: Origin::Default,
        }
    }

    /// A scalar at `origin`.
    pub fn scalar(text: impl Into<String>, origin: Origin) -> Self {
        Self {
            value: Value::Scalar(Scalar::plain(text)),
            origin,
        }
    }

    /// A list at `origin`.
    pub fn list(items: Vec<Self>, origin: Origin) -> Self {
        Self {
            value: Value::List(items),
            origin,
        }
    }

    /// A mapping at `origin`.
    pub fn map(entries: Vec<Entry>, origin: Origin) -> Self {
        Self {
            value: Value::Map(entries),
            origin,
        }
    }

    /// The mapping's entries, if it is one.
    pub fn entries(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// What stands under `key`, if this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entries()?
            .iter()
            .find(|entry| entry.key.value == key)
            .map(|entry| &entry.value)
    }

    /// What it is, in words for a message: "a list", "the text `x`".
    pub fn described(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Scalar(scalar) if scalar.secret => "a secret".to_owned(),
            Value::Scalar(scalar) => format!("`{}`", scalar.text),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }
}

impl Scalar {
    /// An unquoted scalar.
    pub fn plain(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            quoted: false,
            secret: false,
            broken: false,
        }
    }
}

impl Entry {
    /// An entry whose key stood where its value did.
    pub fn new(key: &str, value: Node) -> Self {
        Self {
            key: At::new(key.to_owned(), value.origin),
            value,
        }
    }
}
