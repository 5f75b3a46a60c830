//! What reading collects: what is wrong, and where defaults were inherited from.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::diagnostic::{Code, Diagnostic};
use crate::node::{Node, Value};
use crate::scalar::FromScalar;
use crate::source::{At, Origin};

/// Takes the complaints while a tree is read.
#[derive(Debug, Default)]
pub struct Reader {
    /// What was found so far.
    pub diagnostics: Vec<Diagnostic>,
    /// What is inherited by mappings that leave keys out.
    pub(crate) legacies: InheritedDefaults,
}

/// What mappings of a kind inherit for keys that they leave out: read once, for however many heirs.
#[derive(Clone, Debug, Default)]
pub(crate) struct InheritedDefaults(Vec<InheritedDefault>);

#[derive(Clone, Debug)]
struct InheritedDefault {
    /// What inherits it, as messages call it.
    heir: &'static str,
    entries: Vec<Inherited>,
}

#[derive(Clone)]
struct Inherited {
    key: &'static str,
    node: Arc<Node>,
    /// What was read there.
    value: Option<Arc<dyn Any>>,
}

impl fmt::Debug for Inherited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inherited")
            .field("key", &self.key)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl InheritedDefaults {
    /// Adds what one kind of mappings inherits.
    pub(crate) fn add(
        &mut self,
        heir: &'static str,
        entries: impl IntoIterator<Item = (&'static str, Node)>,
    ) {
        let entries = entries.into_iter().map(|(key, node)| Inherited {
            key,
            node: Arc::new(node),
            value: None,
        });
        self.0.push(InheritedDefault {
            heir,
            entries: entries.collect(),
        });
    }

    pub(crate) fn of(&self, heir: &str) -> Option<usize> {
        self.0.iter().position(|legacy| legacy.heir == heir)
    }
}

impl Reader {
    /// What is inherited under `key`, if anything is.
    pub(crate) fn inherited<T: Decode + Clone + 'static>(
        &mut self,
        legacy: usize,
        key: &str,
    ) -> Option<Option<T>> {
        let entries = &self.legacies.0[legacy].entries;
        let at = entries.iter().position(|entry| entry.key == key)?;
        let read = |value: &Arc<dyn Any>| value.downcast_ref::<Option<T>>().cloned();
        if let Some(known) = entries[at].value.as_ref().and_then(read) {
            return Some(known);
        }
        let node = entries[at].node.clone();
        // Complained about where it stands, once.
        if let Value::Null = node.value {
            return None;
        }
        let value = T::decode(&node, self);
        self.legacies.0[legacy].entries[at].value = Some(Arc::new(value.clone()));
        Some(value)
    }

    /// Adds a problem.
    pub fn report(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// Complains about a key with nothing behind it.
    pub(crate) fn nothing_given<T: Decode>(&mut self, key: &At<String>, default: Option<&str>) {
        let help = what_to_write::<T>(default);
        self.report(nothing_given(key).help(help));
    }

    /// Complains that something else should stand here.
    pub fn wrong_type(&mut self, node: &Node, expected: &str) {
        self.report(Diagnostic::error(
            Code::WrongType,
            node.origin,
            format!("{expected} belongs here, not {}", node.described()),
        ));
    }

    /// Reads a scalar's text as a value, or complains.
    pub fn leaf<T: FromScalar>(&mut self, node: &Node) -> Option<T> {
        let Value::Scalar(scalar) = &node.value else {
            self.wrong_type(node, "a single value");
            return None;
        };
        if scalar.broken {
            return None;
        }
        self.leaf_text(&scalar.text, scalar.secret, node.origin)
    }

    /// Reads a text (a mapping's key, say) as a value, or complains.
    pub fn leaf_text<T: FromScalar>(
        &mut self,
        text: &str,
        secret: bool,
        origin: Origin,
    ) -> Option<T> {
        match T::parse(text) {
            Ok(value) => Some(value),
            Err(error) => {
                let message = match (T::SECRET, secret) {
                    (true, _) => format!("the secret {}", error.message),
                    // What is said of other values may quote parts of them.
                    (false, true) => "the secret is no value that this key can have".to_owned(),
                    (false, false) => format!("`{text}` {}", error.message),
                };
                let mut diagnostic = Diagnostic::error(error.code, origin, message);
                diagnostic.help = error.help.filter(|_| T::SECRET || !secret);
                self.report(diagnostic);
                None
            }
        }
    }
}

/// The complaint about a key with nothing behind it.
///
/// It is never taken for "leave it out": a file that is cut off behind `auth:` would open a route to
/// everybody.
pub(crate) fn nothing_given(key: &At<String>) -> Diagnostic {
    let message = format!("`{key}` has nothing behind it");
    Diagnostic::error(Code::NothingGiven, key.origin, message)
}

/// What to write behind a key, in words for a message.
fn what_to_write<T: Decode>(default: Option<&str>) -> String {
    let mut ways = vec!["write what belongs there".to_owned()];
    ways.extend(T::NONE.map(|none| format!("`{none}` for none")));
    match default {
        Some("{}") => ways.push("leave the key out for its defaults".to_owned()),
        Some(default) => ways.push(format!("leave the key out for its default, `{default}`")),
        None if T::absent().is_some() => ways.push("leave the key out".to_owned()),
        None => {}
    }
    match ways.split_last() {
        Some((last, before)) if !before.is_empty() => format!("{}, or {last}", before.join(", ")),
        _ => ways.concat(),
    }
}

/// Something that can be read from a node.
pub trait Decode: Sized {
    /// How "none of it" is written, if it can be.
    const NONE: Option<&'static str> = None;

    /// Reads it. `None` when nothing usable stood there, which has then been reported.
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self>;

    /// What it is when its key is not there at all: `None` means the key must be there.
    fn absent() -> Option<Self> {
        None
    }
}
