//! `defaults:` → every pool and every route: one level of inheritance, on the tree of places.
//!
//! Done before decoding, so that an inherited value is read and checked exactly like a written one
//! and remembers that it was inherited.

use crate::document::{POOL_DEFAULTS, ROUTE_DEFAULTS};
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

/// Adds what is inherited to every pool and route of the tree.
pub(crate) fn inherit(root: &mut Node) {
    let Some(defaults) = root.get("defaults").cloned() else {
        return;
    };
    let Value::Map(sections) = &mut root.value else {
        return;
    };
    for section in sections {
        match (section.key.value.as_str(), &mut section.value.value) {
            ("pools", Value::Map(pools)) => {
                for pool in pools {
                    inherit_keys(&mut pool.value, &defaults, POOL_DEFAULTS);
                }
            }
            ("routes", Value::List(routes)) => {
                for route in routes {
                    inherit_keys(route, &defaults, ROUTE_DEFAULTS);
                }
            }
            _ => {}
        }
    }
}

fn inherit_keys(node: &mut Node, defaults: &Node, keys: &[&str]) {
    let Value::Map(entries) = &mut node.value else {
        return;
    };
    for key in keys {
        let Some(default) = defaults.get(key) else {
            continue;
        };
        match entries.iter_mut().find(|entry| entry.key.value == *key) {
            None => entries.push(inherited_entry(key, default)),
            Some(own) => overlay(&mut own.value, default, key),
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
