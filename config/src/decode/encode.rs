//! Typed values → tree, and the text that the hash of a configuration is made of.

use crate::node::{Node, Value};

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
pub(crate) fn canonical_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}
