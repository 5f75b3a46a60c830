//! Values that may be left out.

use std::sync::OnceLock;

use crate::decode::encode::{Encode, canonical_text};
use crate::decode::reader::{Decode, Reader};
use crate::node::Node;

/// What a key stands for when it is left out: read once, however often it is.
#[derive(Debug)]
pub struct Omitted<T> {
    pub(crate) text: Option<&'static str>,
    value: OnceLock<Option<T>>,
    canonical: OnceLock<Vec<u8>>,
}

impl<T> Omitted<T> {
    /// Begins with the text of the default, if the key has one.
    pub const fn new(text: Option<&'static str>) -> Self {
        Self {
            text,
            value: OnceLock::new(),
            canonical: OnceLock::new(),
        }
    }
}

impl<T: Decode> Omitted<T> {
    fn value(&self, text: &str) -> Option<&T> {
        // Defaults are sound: a test reads every one of them.
        let read = || T::decode(&Node::from_default(text), &mut Reader::default());
        self.value.get_or_init(read).as_ref()
    }
}

impl<T: Decode + Clone> Omitted<T> {
    /// The default, if there is one.
    pub fn default(&self) -> Option<T> {
        self.text.and_then(|text| self.value(text)).cloned()
    }
}

impl<T: Decode + Encode + PartialEq> Omitted<T> {
    /// Adds a key and its value to the canonical form of a mapping, unless it says what the key
    /// stands for anyhow.
    pub fn canonical(&self, key: &str, value: &T, out: &mut Vec<u8>) {
        let default = self.text.and_then(|text| self.value(text));
        if value.says_nothing() || default == Some(value) {
            return;
        }
        let before = out.len();
        canonical_text(key, out);
        let begin = out.len();
        value.canonical(out);
        // Some values are equal only in what they say.
        if let Some(default) = default {
            let said = self.canonical.get_or_init(|| {
                let mut said = Vec::new();
                default.canonical(&mut said);
                said
            });
            if out[begin..] == said[..] {
                out.truncate(before);
            }
        }
    }
}
