//! Lists, mappings with any keys, and values that are held once.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::decode::encode::{Encode, canonical_text};
use crate::decode::reader::{Decode, Reader};
use crate::node::{Entry, Node, Value};
use crate::scalar::FromScalar;
use crate::source::{At, Origin};

/// A value that many have alike, and that is kept once for all of them: a default, or what is inherited.
pub struct Shared<T>(Arc<SharedValue<T>>);

struct SharedValue<T> {
    value: T,
    /// What it says in canonical form, once somebody asked who is not alone.
    canonical: OnceLock<Box<[u8]>>,
}

impl<T: Clone> Clone for SharedValue<T> {
    fn clone(&self) -> Self {
        Self::new(self.value.clone())
    }
}

impl<T> SharedValue<T> {
    fn new(value: T) -> Self {
        Self {
            value,
            canonical: OnceLock::new(),
        }
    }
}

impl<T> Shared<T> {
    fn new(value: T) -> Self {
        Self(Arc::new(SharedValue::new(value)))
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
