//! A section that can be `off`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::decode::encode::Encode;
use crate::decode::reader::{Decode, Reader};
use crate::node::{Node, Scalar, Value};
use crate::source::Origin;

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
