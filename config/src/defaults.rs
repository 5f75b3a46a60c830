//! `defaults:` → every pool and every route: one level of inheritance, on the tree of places.
//!
//! Done before decoding, so that an inherited value is read and checked exactly like a written one
//! and remembers that it was inherited.

use crate::decode::reader::InheritedDefaults;
use crate::document::{POOL_DEFAULTS, Pool, ROUTE_DEFAULTS, Route};
use crate::node::{Entry, Node, Value};

/// The keys of a mapping of which only one can stand: whoever writes one does not want the other.
fn alternatives(key: &str) -> &'static [&'static str] {
    match key {
        // The kinds of probes.
        "health" => &["http", "tcp", "grpc"],
        "affinity" => &["cookie", "header", "client_ip"],
        _ => &[],
    }
}

/// What pools and routes inherit for keys that they leave out. Where both the own value and the
/// default are mappings, the tree is changed: the own one gets what it lacks.
pub(crate) fn inherit(root: &mut Node) -> InheritedDefaults {
    let mut legacies = InheritedDefaults::default();
    let Some(defaults) = root.get("defaults").cloned() else {
        return legacies;
    };
    let mut add = |heir, keys: &[&'static str]| {
        let entries = keys
            .iter()
            .filter_map(|key| Some((*key, inherited(defaults.get(key)?))));
        legacies.add(heir, entries);
    };
    add(Pool::WHAT, POOL_DEFAULTS);
    add(Route::WHAT, ROUTE_DEFAULTS);
    let Value::Map(sections) = &mut root.value else {
        return legacies;
    };
    for section in sections {
        match (section.key.value.as_str(), &mut section.value.value) {
            ("pools", Value::Map(pools)) => {
                for pool in pools {
                    overlay_keys(&mut pool.value, &defaults, POOL_DEFAULTS);
                }
            }
            ("routes", Value::List(routes)) => {
                for route in routes {
                    overlay_keys(route, &defaults, ROUTE_DEFAULTS);
                }
            }
            _ => {}
        }
    }
    legacies
}

fn overlay_keys(node: &mut Node, defaults: &Node, keys: &[&str]) {
    let Value::Map(entries) = &mut node.value else {
        return;
    };
    // Nothing can be laid under anything but a mapping.
    for own in entries
        .iter_mut()
        .filter(|own| own.value.entries().is_some())
    {
        let key = own.key.value.as_str();
        if keys.contains(&key)
            && let Some(default) = defaults.get(key)
        {
            overlay(&mut own.value, default, key);
        }
    }
}

/// Adds the default's keys that the own mapping lacks. Anything but two mappings stays as it is.
fn overlay(own: &mut Node, default: &Node, key: &str) {
    let (Value::Map(own), Value::Map(default)) = (&mut own.value, &default.value) else {
        return;
    };
    let kinds = alternatives(key);
    let has_kind = own
        .iter()
        .any(|entry| kinds.contains(&entry.key.value.as_str()));
    for entry in default {
        let name = entry.key.value.as_str();
        let skip =
            own.iter().any(|there| there.key.value == name) || (has_kind && kinds.contains(&name));
        if !skip {
            own.push(inherited_entry(name, &entry.value));
        }
    }
}

fn inherited_entry(key: &str, value: &Node) -> Entry {
    Entry::new(key, inherited(value))
}

/// The same tree, every place marked as inherited.
fn inherited(node: &Node) -> Node {
    let value = match &node.value {
        Value::List(items) => Value::List(items.iter().map(inherited).collect()),
        Value::Map(entries) => Value::Map(
            entries
                .iter()
                .map(|entry| Entry {
                    key: crate::source::At::new(
                        entry.key.value.clone(),
                        entry.key.origin.inherited(),
                    ),
                    value: inherited(&entry.value),
                })
                .collect(),
        ),
        other => other.clone(),
    };
    Node {
        value,
        origin: node.origin.inherited(),
    }
}
