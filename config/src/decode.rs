//! From the tree of places to typed values, and back.
//!
//! [`Decode`] reads a [`Node`] and complains to a [`Reader`]; whatever can still be read is read,
//! so that one run finds every problem. [`Encode`] turns the result back into a tree in which every
//! default is spelled out and every value remembers where it came from (`portolan show
//! --effective`). [`document!`] derives both, and the JSON Schema, from one declaration whose doc
//! comments are the reference manual.

pub mod collections;
pub mod encode;
pub mod mapping;
pub mod omitted;
pub mod reader;
pub mod schema;
pub mod switch;

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::decode::collections::Entries;
use crate::decode::encode::{Encode, canonical_text};
use crate::decode::reader::{Decode, Reader};
use crate::diagnostic::{Code, Diagnostic};
use crate::node::{Node, Scalar, Value};
use crate::scalar::FromScalar;
use crate::source::{At, Origin};

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

impl<'a, K, V> IntoIterator for &'a Entries<K, V> {
    type Item = &'a (At<K>, V);
    type IntoIter = std::slice::Iter<'a, (At<K>, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
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
            pub const NOT_YET: &'static [$crate::decode::mapping::NotYet] = &[ $( $(
                $crate::decode::mapping::NotYet {
                    key: $later,
                    unless: $crate::decode::document!(@off $($off)?),
                }
            ),* )? ];

            /// Keys that had other names.
            const RENAMED: &'static [$crate::decode::mapping::Renamed] = &[ $( $(
                $crate::decode::mapping::Renamed { old: $old, new: $new }
            ),* )? ];
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                true $( && self.$field == other.$field )*
            }
        }

        impl $crate::decode::reader::Decode for $name {
            fn decode(
                node: &$crate::node::Node,
                reader: &mut $crate::decode::reader::Reader,
            ) -> Option<Self> {
                let mut fields =
                    $crate::decode::mapping::Fields::open(node, $what, Self::RENAMED, reader)?;
                $( let $field: Option<$type> = {
                    static OMITTED: $crate::decode::omitted::Omitted<$type> =
                        $crate::decode::omitted::Omitted::new($crate::decode::document!(@default $($default)?));
                    fields.take(stringify!($field), &OMITTED, reader)
                }; )*
                fields.close(Self::KEYS, Self::NOT_YET, reader);
                Some(Self { $( $field: $field?, )* origin: node.origin })
            }
        }

        impl $crate::decode::encode::Encode for $name {
            fn encode(&self) -> Option<$crate::node::Node> {
                let mut entries = Vec::new();
                $( if let Some(value) = $crate::decode::encode::Encode::encode(&self.$field) {
                    entries.push($crate::node::Entry::new(stringify!($field), value));
                } )*
                Some($crate::node::Node::map(entries, self.origin))
            }

            fn canonical(&self, out: &mut Vec<u8>) {
                out.push(b'{');
                $( {
                    static OMITTED: $crate::decode::omitted::Omitted<$type> =
                        $crate::decode::omitted::Omitted::new($crate::decode::document!(@default $($default)?));
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
                let mut schema = $crate::decode::schema::ObjectSchema::new(concat!($($doc, "\n"),+));
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
