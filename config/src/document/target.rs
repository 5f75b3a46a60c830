//! Steering expressions: where traffic goes.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::clients::Clients;
use crate::decode::document;
use crate::decode::encode::{Encode, canonical_entry};
use crate::decode::reader::Decode;
use crate::decode::reader::Reader;
use crate::diagnostic::{Code, Diagnostic, quoted_list};
use crate::names::Name;
use crate::node::{Entry, Node, Value};
use crate::scalar::keywords;
use crate::source::{At, Origin};
use crate::units::Weight;

/// Where traffic goes: a name, or one of `split`, `tiers`, `nearest`, `fastest`, `least_loaded` and
/// `geo`, which nest.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Which kind it is.
    pub kind: TargetKind,
    /// Where it stood.
    pub origin: Origin,
}

/// The kinds of targets.
#[derive(Clone, Debug, PartialEq)]
pub enum TargetKind {
    /// A pool or a service.
    Name(At<Name>),
    /// Shares by weight.
    Split(Vec<SplitMember>),
    /// The first that can carry the load; what it cannot carry goes to the next.
    Tiers(Vec<Target>),
    /// Tiers by distance from the client.
    Nearest(Vec<Target>),
    /// Tiers by measured latency.
    Fastest(Vec<Target>),
    /// Shares by free capacity.
    LeastLoaded(Vec<Target>),
    /// By who the client is; the first rule that matches.
    Geo(Vec<GeoRule>),
}

document! {
    /// One member of a split.
    pub struct SplitMember as "a member of a split" {
        /// Where this share goes.
        pub to: Target,
        /// How large it is, relative to the other members. 0: nothing.
        pub weight: At<Weight>,
        /// What happens to the share when the member cannot carry it.
        pub if_down: At<IfDown> = "peers",
    }
}

keywords! {
    /// What happens to a split member's share when the member cannot carry it.
    pub enum IfDown {
        /// The other members take it.
        Peers = "peers",
        /// It goes on to the next tier.
        Next = "next",
        /// It is refused with 503.
        Shed = "shed",
    }
}

document! {
    /// One rule of `geo`. The rule without `clients` is for everybody else; it must be there, and
    /// be the last.
    pub struct GeoRule as "a rule" {
        /// Whom it is for.
        pub clients: Option<Clients>,
        /// Where they go.
        pub to: Target,
    }
}

/// The keys that make a target.
const KINDS: [&str; 6] = [
    "split",
    "tiers",
    "nearest",
    "fastest",
    "least_loaded",
    "geo",
];

impl Decode for Target {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        let kind = match &node.value {
            Value::Scalar(_) => TargetKind::Name(At::decode(node, reader)?),
            Value::Map(entries) => keyed(entries, node, reader)?,
            _ => {
                reader.wrong_type(node, "a target (a name, or a mapping)");
                return None;
            }
        };
        Some(Self {
            kind,
            origin: node.origin,
        })
    }
}

fn keyed(entries: &[Entry], node: &Node, reader: &mut Reader) -> Option<TargetKind> {
    let [entry] = entries else {
        let message = if entries.is_empty() {
            "a target says where traffic goes".to_owned()
        } else {
            format!("a target has one key, not {}", entries.len())
        };
        reader.report(
            Diagnostic::error(Code::BadValue, node.origin, message)
                .help(format!("write a name, or one of {}", quoted_list(KINDS))),
        );
        return None;
    };
    let value = &entry.value;
    if let Value::Null = value.value
        && KINDS.contains(&entry.key.value.as_str())
    {
        reader.nothing_given::<Target>(&entry.key, None);
        return None;
    }
    Some(match entry.key.value.as_str() {
        "split" => TargetKind::Split(split(value, reader)?),
        "tiers" => TargetKind::Tiers(members(value, reader)?),
        "nearest" => TargetKind::Nearest(members(value, reader)?),
        "fastest" => TargetKind::Fastest(members(value, reader)?),
        "least_loaded" => TargetKind::LeastLoaded(members(value, reader)?),
        "geo" => TargetKind::Geo(members(value, reader)?),
        key => {
            reader.report(
                Diagnostic::error(
                    Code::UnknownKey,
                    entry.key.origin,
                    format!("`{key}` is not a kind of target"),
                )
                .help(format!("the kinds are {}", quoted_list(KINDS)))
                .suggest(key, KINDS),
            );
            return None;
        }
    })
}

fn members<T: Decode>(node: &Node, reader: &mut Reader) -> Option<Vec<T>> {
    let read = Vec::decode(node, reader)?;
    if matches!(&node.value, Value::List(items) if items.is_empty()) {
        reader.report(Diagnostic::error(
            Code::BadValue,
            node.origin,
            "this list needs at least one member",
        ));
        return None;
    }
    Some(read)
}

/// Short form `{ a: 70, b: 30 }`, or a list of members in full.
fn split(node: &Node, reader: &mut Reader) -> Option<Vec<SplitMember>> {
    let Value::Map(entries) = &node.value else {
        return members(node, reader);
    };
    if entries.is_empty() {
        reader.report(Diagnostic::error(
            Code::BadValue,
            node.origin,
            "a split needs at least one member",
        ));
        return None;
    }
    Some(
        entries
            .iter()
            .filter_map(|entry| {
                let origin = entry.key.origin;
                let name = reader.leaf_text(&entry.key.value, false, origin);
                if let Value::Null = entry.value.value {
                    reader.nothing_given::<At<Weight>>(&entry.key, None);
                    return None;
                }
                let weight = At::decode(&entry.value, reader);
                Some(SplitMember {
                    to: Target {
                        kind: TargetKind::Name(At::new(name?, origin)),
                        origin,
                    },
                    weight: weight?,
                    if_down: At::default_value(IfDown::Peers),
                    origin,
                })
            })
            .collect(),
    )
}

impl Encode for Target {
    fn encode(&self) -> Option<Node> {
        let (key, value) = match &self.kind {
            TargetKind::Name(name) => return name.encode(),
            TargetKind::Split(members) => ("split", members.encode()?),
            TargetKind::Tiers(members) => ("tiers", members.encode()?),
            TargetKind::Nearest(members) => ("nearest", members.encode()?),
            TargetKind::Fastest(members) => ("fastest", members.encode()?),
            TargetKind::LeastLoaded(members) => ("least_loaded", members.encode()?),
            TargetKind::Geo(rules) => ("geo", rules.encode()?),
        };
        Some(Node::map(vec![Entry::new(key, value)], self.origin))
    }

    fn canonical(&self, out: &mut Vec<u8>) {
        match &self.kind {
            TargetKind::Name(name) => name.canonical(out),
            TargetKind::Split(members) => canonical_entry("split", members, out),
            TargetKind::Tiers(members) => canonical_entry("tiers", members, out),
            TargetKind::Nearest(members) => canonical_entry("nearest", members, out),
            TargetKind::Fastest(members) => canonical_entry("fastest", members, out),
            TargetKind::LeastLoaded(members) => canonical_entry("least_loaded", members, out),
            TargetKind::Geo(rules) => canonical_entry("geo", rules, out),
        }
    }
}

impl JsonSchema for Target {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Target".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let name = generator.subschema_for::<At<Name>>();
        let weights = json_schema!({
            "type": "object",
            "additionalProperties": generator.subschema_for::<At<Weight>>(),
            "minProperties": 1,
        });
        let list = |items: Schema| json_schema!({ "type": "array", "items": items, "minItems": 1 });
        let members = list(generator.subschema_for::<SplitMember>());
        let targets = list(generator.subschema_for::<Self>());
        let rules = list(generator.subschema_for::<GeoRule>());
        let kind = |key: &str, description: &str, value: Schema| {
            json_schema!({
                "type": "object",
                "properties": { key: value },
                "required": [key],
                "additionalProperties": false,
                "description": description,
            })
        };
        json_schema!({
            "description": "Where traffic goes: the name of a pool or a service, or one of the kinds below, which nest.",
            "anyOf": [
                name,
                kind("split", "Shares by weight: `{ a: 70, b: 30 }`, or a list of members in full.", json_schema!({ "anyOf": [weights, members] })),
                kind("tiers", "The first that can carry the load; what it cannot carry goes to the next.", targets.clone()),
                kind("nearest", "Tiers by great-circle distance from the client. Members within 100 km of each other, and all members for clients in unknown places, stand in the order written.", targets.clone()),
                kind("fastest", "Tiers by measured latency: those within 10% (or 5 ms) of the best share the first tier.", targets.clone()),
                kind("least_loaded", "Shares in proportion to free capacity (`capacity.in_flight` less what is in flight).", targets),
                kind("geo", "By who the client is: the first rule that matches. The last rule has no `clients` and is for everybody else.", rules),
            ],
        })
    }
}
