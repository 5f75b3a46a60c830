//! From the tree of places to typed values, and back.
//!
//! [`Decode`] reads a [`Node`] and complains to a [`Reader`]; whatever can still be read is read,
//! so that one run finds every problem. [`Encode`] turns the result back into a tree in which every
//! default is spelled out and every value remembers where it came from (`portolan show
//! --effective`). [`document!`] derives both, and the JSON Schema, from one declaration whose doc
//! comments are the reference manual.

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::diagnostic::{Code, Diagnostic, quoted_list};
use crate::node::{Entry, Node, Scalar, Value};
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

    fn of(&self, heir: &str) -> Option<usize> {
        self.0.iter().position(|legacy| legacy.heir == heir)
    }
}

impl Reader {
    /// What is inherited under `key`, if anything is.
    fn inherited<T: Decode + Clone + 'static>(
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

/// Something that can be written back.
pub trait Encode {
    /// The node that says it, or nothing when it is absent.
    fn encode(&self) -> Option<Node>;

    /// Whether it says nothing, so that leaving its key out is the same.
    fn says_nothing(&self) -> bool {
        false
    }

    /// Adds what it says to `out`, secrets included, in a form in which equal configurations are
    /// equal bytes, and others are not. What nobody would have to write is left out: most of a
    /// large configuration is defaults.
    fn canonical(&self, out: &mut Vec<u8>) {
        if let Some(node) = self.encode() {
            canonical_node(&node, out);
        }
    }
}

/// The canonical form of a tree.
fn canonical_node(node: &Node, out: &mut Vec<u8>) {
    match &node.value {
        Value::Null => out.push(b'~'),
        Value::Scalar(scalar) => canonical_text(&scalar.text, out),
        Value::List(items) => {
            out.push(b'[');
            items.iter().for_each(|item| canonical_node(item, out));
            out.push(b']');
        }
        Value::Map(entries) => {
            out.push(b'{');
            for entry in entries {
                canonical_text(&entry.key.value, out);
                canonical_node(&entry.value, out);
            }
            out.push(b'}');
        }
    }
}

/// The canonical form of a mapping with one key.
pub(crate) fn canonical_entry(key: &str, value: &impl Encode, out: &mut Vec<u8>) {
    out.push(b'{');
    canonical_text(key, out);
    value.canonical(out);
    out.push(b'}');
}

/// The canonical form of a text: its length first, so that nothing in it can look like an end.
fn canonical_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// What a key stands for when it is left out: read once, however often it is.
#[derive(Debug)]
pub struct Omitted<T> {
    text: Option<&'static str>,
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

// === Leaves ===

impl<T: FromScalar> Decode for At<T> {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        let value = reader.leaf(node)?;
        Some(Self {
            value,
            origin: node.origin,
            secret: T::SECRET || matches!(&node.value, Value::Scalar(scalar) if scalar.secret),
        })
    }
}

impl<T: FromScalar> Encode for At<T> {
    fn encode(&self) -> Option<Node> {
        let mut scalar = Scalar::plain(self.value.show());
        scalar.quoted = T::TEXT;
        scalar.secret = self.secret;
        Some(Node {
            value: Value::Scalar(scalar),
            origin: self.origin,
        })
    }

    fn canonical(&self, out: &mut Vec<u8>) {
        canonical_text(&self.value.show(), out);
    }
}

impl<T: FromScalar> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Value".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        T::schema()
    }
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself: for comparing, never for showing.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("•••")
    }
}

impl FromScalar for Secret {
    const SECRET: bool = true;
    const TEXT: bool = true;

    fn parse(text: &str) -> Result<Self, crate::scalar::LeafError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(crate::scalar::LeafError::bad("is empty"));
        }
        Ok(Self(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "writeOnly": true })
    }
}

// === Containers ===

impl<T: Decode> Decode for Option<T> {
    const NONE: Option<&'static str> = T::NONE;

    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        T::decode(node, reader).map(Some)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

impl<T: Encode> Encode for Option<T> {
    fn encode(&self) -> Option<Node> {
        self.as_ref().and_then(Encode::encode)
    }

    fn says_nothing(&self) -> bool {
        self.is_none()
    }

    fn canonical(&self, out: &mut Vec<u8>) {
        if let Some(value) = self {
            value.canonical(out);
        }
    }
}

/// What few have need not make the others large.
impl<T: Decode> Decode for Box<T> {
    const NONE: Option<&'static str> = T::NONE;

    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        T::decode(node, reader).map(Self::new)
    }

    fn absent() -> Option<Self> {
        T::absent().map(Self::new)
    }
}

impl<T: Encode> Encode for Box<T> {
    fn encode(&self) -> Option<Node> {
        T::encode(self)
    }

    fn says_nothing(&self) -> bool {
        T::says_nothing(self)
    }

    fn canonical(&self, out: &mut Vec<u8>) {
        T::canonical(self, out);
    }
}

/// A value that many have alike, and that is kept once for all of them: a default, or what is inherited.
pub struct Shared<T>(Arc<Kept<T>>);

struct Kept<T> {
    value: T,
    /// What it says in canonical form, once somebody asked who is not alone.
    canonical: OnceLock<Box<[u8]>>,
}

impl<T: Clone> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self::new(self.value.clone())
    }
}

impl<T> Kept<T> {
    fn new(value: T) -> Self {
        Self {
            value,
            canonical: OnceLock::new(),
        }
    }
}

impl<T> Shared<T> {
    fn new(value: T) -> Self {
        Self(Arc::new(Kept::new(value)))
    }

    /// Whether both are the same one, not only equal.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Where it is kept: the same number for all that have it.
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// Whether nobody else has it.
    pub(crate) fn is_alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl<T: Clone> Shared<T> {
    /// To change it, for this one alone.
    pub(crate) fn to_mut(&mut self) -> &mut T {
        let kept = Arc::make_mut(&mut self.0);
        kept.canonical = OnceLock::new();
        &mut kept.value
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        self.is(other) || **self == **other
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        T::fmt(self, f)
    }
}

impl<T: Decode> Decode for Shared<T> {
    const NONE: Option<&'static str> = T::NONE;

    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        T::decode(node, reader).map(Self::new)
    }

    fn absent() -> Option<Self> {
        T::absent().map(Self::new)
    }
}

impl<T: Encode> Encode for Shared<T> {
    fn encode(&self) -> Option<Node> {
        T::encode(self)
    }

    fn says_nothing(&self) -> bool {
        T::says_nothing(self)
    }

    fn canonical(&self, out: &mut Vec<u8>) {
        if self.is_alone() {
            return T::canonical(self, out);
        }
        let said = self.0.canonical.get_or_init(|| {
            let mut said = Vec::new();
            T::canonical(self, &mut said);
            said.into()
        });
        out.extend_from_slice(said);
    }
}

impl<T: JsonSchema> JsonSchema for Shared<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> std::borrow::Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl<T: Decode> Decode for Vec<T> {
    const NONE: Option<&'static str> = Some("[]");

    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Value::List(items) = &node.value else {
            reader.wrong_type(node, "a list");
            return None;
        };
        let mut read = Self::with_capacity(items.len());
        for item in items {
            if let Value::Null = item.value {
                let message = "an item of a list with nothing in it";
                reader.report(
                    Diagnostic::error(Code::NothingGiven, item.origin, message)
                        .help("write what belongs there, or take the item out"),
                );
            } else {
                read.extend(T::decode(item, reader));
            }
        }
        Some(read)
    }

    fn absent() -> Option<Self> {
        Some(Self::new())
    }
}

impl<T: Encode> Encode for Vec<T> {
    fn encode(&self) -> Option<Node> {
        let items: Vec<Node> = self.iter().filter_map(Encode::encode).collect();
        let origin = items.first().map_or(Origin::Default, |item| item.origin);
        Some(Node::list(items, origin))
    }

    fn says_nothing(&self) -> bool {
        self.is_empty()
    }

    fn canonical(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        self.iter().for_each(|item| item.canonical(out));
        out.push(b']');
    }
}

/// One item, or a list of them.
#[derive(Clone, Debug, PartialEq)]
pub struct OneOrMany<T>(pub Vec<T>);

impl<T: Decode> Decode for OneOrMany<T> {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        match node.value {
            Value::List(_) => Vec::decode(node, reader).map(Self),
            _ => T::decode(node, reader).map(|item| Self(vec![item])),
        }
    }
}

impl<T: Encode> Encode for OneOrMany<T> {
    fn encode(&self) -> Option<Node> {
        self.0.encode()
    }

    fn canonical(&self, out: &mut Vec<u8>) {
        self.0.canonical(out);
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OneOrMany".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let item = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [ item, { "type": "array", "items": item } ] })
    }
}

/// A mapping from names to things, in the order written.
#[derive(Clone, Debug, PartialEq)]
pub struct Entries<K, V>(pub Vec<(At<K>, V)>);

impl<K, V> Entries<K, V> {
    /// Every entry, in the order written.
    pub fn iter(&self) -> std::slice::Iter<'_, (At<K>, V)> {
        self.0.iter()
    }
}

impl<'a, K, V> IntoIterator for &'a Entries<K, V> {
    type Item = &'a (At<K>, V);
    type IntoIter = std::slice::Iter<'a, (At<K>, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<K: FromScalar, V: Decode> Decode for Entries<K, V> {
    const NONE: Option<&'static str> = Some("{}");

    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            reader.wrong_type(node, "a mapping");
            return None;
        };
        let mut read = Vec::with_capacity(entries.len());
        for entry in entries {
            let key = reader.leaf_text(&entry.key.value, false, entry.key.origin);
            if let Value::Null = entry.value.value {
                reader.nothing_given::<V>(&entry.key, None);
                continue;
            }
            let value = V::decode(&entry.value, reader);
            if let (Some(key), Some(value)) = (key, value) {
                read.push((At::new(key, entry.key.origin), value));
            }
        }
        Some(Self(read))
    }

    fn absent() -> Option<Self> {
        Some(Self(Vec::new()))
    }
}

impl<K: FromScalar, V: Encode> Encode for Entries<K, V> {
    fn encode(&self) -> Option<Node> {
        let entries: Vec<Entry> = self
            .0
            .iter()
            .filter_map(|(key, value)| {
                Some(Entry {
                    key: At::new(key.value.show(), key.origin),
                    value: value.encode()?,
                })
            })
            .collect();
        let origin = entries
            .first()
            .map_or(Origin::Default, |entry| entry.key.origin);
        Some(Node::map(entries, origin))
    }

    fn says_nothing(&self) -> bool {
        self.0.is_empty()
    }

    fn canonical(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (key, value) in &self.0 {
            canonical_text(&key.value.show(), out);
            value.canonical(out);
        }
        out.push(b'}');
    }
}

impl<K: FromScalar, V: JsonSchema> JsonSchema for Entries<K, V> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("MapOf{}", V::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = json_schema!({
            "type": "object",
            "additionalProperties": generator.subschema_for::<V>(),
        });
        if let Some(pattern) = K::schema().get("pattern") {
            schema.insert(
                "propertyNames".to_owned(),
                serde_json::json!({ "pattern": pattern }),
            );
        }
        schema
    }
}

/// Either switched off (`off` or `false`), or what it is when it is on.
#[derive(Clone, Debug, PartialEq)]
pub enum Switch<T> {
    /// `off`.
    Off(Origin),
    /// Anything else.
    On(T),
}

impl<T> Switch<T> {
    /// What it is when it is on.
    pub fn on(&self) -> Option<&T> {
        match self {
            Self::Off(_) => None,
            Self::On(value) => Some(value),
        }
    }
}

/// Whether this node is the word `off` (or `false`, which some write for it).
pub(crate) fn is_off(node: &Node) -> bool {
    matches!(&node.value, Value::Scalar(Scalar { text, .. }) if text == "off" || text == "false")
}

impl<T: Decode> Decode for Switch<T> {
    const NONE: Option<&'static str> = Some("off");

    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        if is_off(node) {
            return Some(Self::Off(node.origin));
        }
        T::decode(node, reader).map(Self::On)
    }
}

impl<T: Encode> Encode for Switch<T> {
    fn encode(&self) -> Option<Node> {
        match self {
            Self::Off(origin) => Some(Node::scalar("off", *origin)),
            Self::On(value) => value.encode(),
        }
    }

    fn canonical(&self, out: &mut Vec<u8>) {
        match self {
            Self::Off(_) => out.push(b'-'),
            Self::On(value) => value.canonical(out),
        }
    }
}

impl<T: JsonSchema> JsonSchema for Switch<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("{}OrOff", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let on = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [ { "enum": ["off", false] }, on ] })
    }
}

// === Mappings with fixed keys ===

/// A key that the contract names but this version cannot do yet.
#[derive(Clone, Copy, Debug)]
pub struct NotYet {
    /// The key.
    pub key: &'static str,
    /// The one value that says "without it", which is the truth already.
    pub unless: Option<&'static str>,
}

/// A key that had another name, which is still taken.
#[derive(Clone, Copy, Debug)]
pub struct Renamed {
    /// What it was called.
    pub old: &'static str,
    /// What it is called now.
    pub new: &'static str,
}

/// A mapping being read key by key.
#[derive(Debug)]
pub struct Fields<'a> {
    entries: &'a [Entry],
    origin: Origin,
    what: &'static str,
    /// Which of the entries were taken, and how many were not.
    taken: Marks,
    left: usize,
    /// What it inherits, among all that is inherited.
    legacy: Option<usize>,
    /// Keys that had other names.
    renamed: &'static [Renamed],
}

/// A mark for some of many things, without a list as long as there are few.
#[derive(Debug, Default)]
struct Marks {
    first: u64,
    others: std::collections::BTreeSet<usize>,
}

impl Marks {
    fn set(&mut self, at: usize) {
        match at {
            0..64 => self.first |= 1 << at,
            _ => {
                self.others.insert(at);
            }
        }
    }

    fn has(&self, at: usize) -> bool {
        match at {
            0..64 => self.first & (1 << at) != 0,
            _ => self.others.contains(&at),
        }
    }
}

impl<'a> Fields<'a> {
    /// Begins with a mapping; anything else is reported.
    pub fn open(
        node: &'a Node,
        what: &'static str,
        renamed: &'static [Renamed],
        reader: &mut Reader,
    ) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            reader.wrong_type(node, "a mapping");
            return None;
        };
        let legacy = reader.legacies.of(what);
        Some(Self {
            entries,
            origin: node.origin,
            what,
            taken: Marks::default(),
            left: entries.len(),
            legacy,
            renamed,
        })
    }

    /// Reads what stands under `key`, or what is inherited or its default, or complains that it is
    /// missing.
    pub fn take<T: Decode + Clone + 'static>(
        &mut self,
        key: &'static str,
        omitted: &Omitted<T>,
        reader: &mut Reader,
    ) -> Option<T> {
        if let Some(at) = self.find(key).or_else(|| self.find_renamed(key, reader)) {
            let entry = &self.entries[at];
            if let Value::Null = entry.value.value {
                reader.nothing_given::<T>(&entry.key, omitted.text);
                return None;
            }
            return T::decode(&entry.value, reader);
        } else if let Some(legacy) = self.legacy
            && let Some(inherited) = reader.inherited(legacy, key)
        {
            return inherited;
        }
        if omitted.text.is_some() {
            return omitted.default();
        }
        let absent = T::absent();
        if absent.is_none() {
            reader.report(Diagnostic::error(
                Code::MissingKey,
                self.origin,
                format!("{} needs `{key}`", self.what),
            ));
        }
        absent
    }

    /// Which entry has this key: the first, which is then taken.
    fn find(&mut self, key: &str) -> Option<usize> {
        if self.left == 0 {
            return None;
        }
        let at = self.entries.iter().position(|e| e.key.value == key)?;
        self.left -= 1;
        self.taken.set(at);
        Some(at)
    }

    /// Which entry has a name that this key once had: that is said.
    fn find_renamed(&mut self, key: &str, reader: &mut Reader) -> Option<usize> {
        let renamed = self.renamed.iter().find(|renamed| renamed.new == key)?;
        let at = self.find(renamed.old)?;
        reader.report(
            Diagnostic::warning(
                Code::RenamedKey,
                self.entries[at].key.origin,
                format!("`{}` is called `{key}` now", renamed.old),
            )
            .help(format!("write `{key}`: the old name still means the same")),
        );
        Some(at)
    }

    /// Complains about every key that nobody took.
    pub fn close(self, keys: &[&'static str], not_yet: &[NotYet], reader: &mut Reader) {
        if self.left == 0 {
            return;
        }
        for (at, entry) in self.entries.iter().enumerate() {
            if self.taken.has(at) {
                continue;
            }
            let key = entry.key.value.as_str();
            if let Some(later) = not_yet.iter().find(|later| later.key == key) {
                let off = later.unless.is_some_and(
                    |off| matches!(&entry.value.value, Value::Scalar(s) if s.text == off),
                );
                if !off {
                    reader.report(not_available_yet(entry.key.origin, key));
                }
                continue;
            }
            let known = || {
                keys.iter()
                    .copied()
                    .chain(not_yet.iter().map(|later| later.key))
            };
            let mut diagnostic = Diagnostic::error(
                Code::UnknownKey,
                entry.key.origin,
                format!("{} has no key `{key}`", self.what),
            )
            .suggest(key, known());
            if diagnostic.help.is_none() {
                diagnostic =
                    diagnostic.help(format!("it can have {}", quoted_list(keys.iter().copied())));
            }
            reader.report(diagnostic);
        }
    }
}

/// The refusal of something that the contract names but this version cannot do.
pub fn not_available_yet(origin: Origin, what: &str) -> Diagnostic {
    Diagnostic::error(
        Code::NotAvailableYet,
        origin,
        format!("`{what}` is not available yet"),
    )
    .help("this version of Portolan refuses what it would otherwise ignore: leave it out")
}

/// Declares a mapping of the configuration file: its keys, their types and defaults, and the keys
/// that are named by the contract but not available yet. The doc comments are the reference.
///
/// `key: Type` must be there (or is an `Option` or a list, which may be absent); `key: Type =
/// "text"` has a default, written as the user would write it.
macro_rules! document {
    (
        $(#[doc = $doc:literal])+
        pub struct $name:ident as $what:literal {
            $( $(#[doc = $field_doc:literal])+ pub $field:ident : $type:ty $(= $default:literal)? ),* $(,)?
        }
        $( not_yet { $( $later:literal $(unless $off:literal)? ),* $(,)? } )?
        $( renamed { $( $old:literal => $new:literal ),* $(,)? } )?
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug)]
        pub struct $name {
            $( $(#[doc = $field_doc])+ pub $field: $type, )*
            /// Where it stood.
            pub origin: $crate::source::Origin,
        }

        impl $name {
            /// What messages call it.
            pub const WHAT: &'static str = $what;

            /// Its keys, in the order of the reference page.
            pub const KEYS: &'static [&'static str] = &[ $( stringify!($field) ),* ];

            /// Keys named by the contract that this version cannot do yet.
            pub const NOT_YET: &'static [$crate::decode::NotYet] = &[ $( $(
                $crate::decode::NotYet {
                    key: $later,
                    unless: $crate::decode::document!(@off $($off)?),
                }
            ),* )? ];

            /// Keys that had other names.
            const RENAMED: &'static [$crate::decode::Renamed] = &[ $( $(
                $crate::decode::Renamed { old: $old, new: $new }
            ),* )? ];
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                true $( && self.$field == other.$field )*
            }
        }

        impl $crate::decode::Decode for $name {
            fn decode(
                node: &$crate::node::Node,
                reader: &mut $crate::decode::Reader,
            ) -> Option<Self> {
                let mut fields =
                    $crate::decode::Fields::open(node, $what, Self::RENAMED, reader)?;
                $( let $field: Option<$type> = {
                    static OMITTED: $crate::decode::Omitted<$type> =
                        $crate::decode::Omitted::new($crate::decode::document!(@default $($default)?));
                    fields.take(stringify!($field), &OMITTED, reader)
                }; )*
                fields.close(Self::KEYS, Self::NOT_YET, reader);
                Some(Self { $( $field: $field?, )* origin: node.origin })
            }
        }

        impl $crate::decode::Encode for $name {
            fn encode(&self) -> Option<$crate::node::Node> {
                let mut entries = Vec::new();
                $( if let Some(value) = $crate::decode::Encode::encode(&self.$field) {
                    entries.push($crate::node::Entry::new(stringify!($field), value));
                } )*
                Some($crate::node::Node::map(entries, self.origin))
            }

            fn canonical(&self, out: &mut Vec<u8>) {
                out.push(b'{');
                $( {
                    static OMITTED: $crate::decode::Omitted<$type> =
                        $crate::decode::Omitted::new($crate::decode::document!(@default $($default)?));
                    OMITTED.canonical(stringify!($field), &self.$field, out);
                } )*
                out.push(b'}');
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let mut schema = $crate::decode::ObjectSchema::new(concat!($($doc, "\n"),+));
                $( schema.property::<$type>(
                    stringify!($field),
                    concat!($($field_doc, "\n"),+),
                    $crate::decode::document!(@default $($default)?),
                    generator,
                ); )*
                schema.not_yet(Self::NOT_YET);
                schema.renamed(Self::RENAMED);
                schema.finish()
            }
        }
    };
    (@default) => { None };
    (@default $default:literal) => { Some($default) };
    (@off) => { None };
    (@off $off:literal) => { Some($off) };
}
pub(crate) use document;

/// The JSON Schema of a mapping, being put together.
#[derive(Debug)]
pub struct ObjectSchema {
    description: String,
    properties: serde_json::Map<String, serde_json::Value>,
    required: Vec<&'static str>,
}

impl ObjectSchema {
    /// Begins with the mapping's own description.
    pub fn new(doc: &str) -> Self {
        Self {
            description: prose(doc),
            properties: serde_json::Map::new(),
            required: Vec::new(),
        }
    }

    /// Adds a key.
    pub fn property<T: JsonSchema + Decode>(
        &mut self,
        key: &'static str,
        doc: &str,
        default: Option<&str>,
        generator: &mut SchemaGenerator,
    ) {
        let mut schema = something(generator.subschema_for::<T>());
        schema.insert("description".to_owned(), prose(doc).into());
        match default {
            Some(default) => {
                schema.insert("default".to_owned(), default_value(default));
            }
            None if T::absent().is_none() => self.required.push(key),
            None => {}
        }
        self.properties.insert(key.to_owned(), schema.to_value());
    }

    /// Adds what keys were called before.
    pub fn renamed(&mut self, keys: &[Renamed]) {
        for key in keys {
            if let Some(now) = self.properties.get(key.new) {
                let mut before = now.clone();
                if let Some(schema) = before.as_object_mut() {
                    let called = format!("What `{}` was called before.", key.new);
                    schema.insert("description".to_owned(), called.into());
                    schema.insert("deprecated".to_owned(), true.into());
                }
                self.properties.insert(key.old.to_owned(), before);
            }
        }
    }

    /// Adds the keys that are taken as long as they say "without it".
    pub fn not_yet(&mut self, keys: &[NotYet]) {
        for later in keys {
            if let Some(off) = later.unless {
                let schema = serde_json::json!({
                    "enum": [default_value(off)],
                    "description": format!("Not available yet: only `{off}` is taken."),
                });
                self.properties.insert(later.key.to_owned(), schema);
            }
        }
    }

    /// The schema.
    pub fn finish(self) -> Schema {
        let mut schema = json_schema!({
            "type": "object",
            "description": self.description,
            "properties": self.properties,
            "additionalProperties": false,
        });
        if !self.required.is_empty() {
            schema.insert("required".to_owned(), self.required.into());
        }
        schema
    }
}

/// The schema of what may be left out, without "nothing": a key with nothing behind it is an error.
fn something(mut schema: Schema) -> Schema {
    let is_null = |form: &serde_json::Value| form["type"] == "null" || form.is_null();
    let Some(object) = schema.as_object_mut() else {
        return schema;
    };
    for forms in ["type", "enum", "anyOf", "oneOf"] {
        if let Some(serde_json::Value::Array(all)) = object.get_mut(forms) {
            all.retain(|form| form != "null" && !is_null(form));
        }
    }
    if let Some(serde_json::Value::Array(types)) = object.get_mut("type")
        && let [one] = types.as_slice()
    {
        let one = one.clone();
        object.insert("type".to_owned(), one);
    }
    // Of two forms, one of them nothing, the other one is the schema.
    if let Some(serde_json::Value::Array(forms)) = object.get("anyOf")
        && let [serde_json::Value::Object(one)] = forms.as_slice()
    {
        let one = one.clone();
        object.remove("anyOf");
        object.extend(one);
    }
    schema
}

/// A doc comment as running text: a line for every paragraph.
pub(crate) fn prose(doc: &str) -> String {
    let lines: Vec<&str> = doc.lines().map(str::trim).collect();
    let paragraphs = lines.split(|line| line.is_empty());
    let paragraphs: Vec<String> = paragraphs.map(|lines| lines.join(" ")).collect();
    paragraphs.join("\n\n").trim().to_owned()
}

/// A default's text as JSON: numbers and booleans as such, all else as text.
fn default_value(text: &str) -> serde_json::Value {
    match text {
        "{}" => serde_json::json!({}),
        "[]" => serde_json::json!([]),
        text if text.starts_with('[') => text
            .trim_matches(['[', ']'])
            .split(',')
            .map(|item| default_value(item.trim()))
            .collect(),
        text => match serde_json::from_str(text) {
            Ok(value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_))) => value,
            _ => text.into(),
        },
    }
}
