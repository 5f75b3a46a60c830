//! JSON Schemas of sections.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::decode::mapping::{NotYet, Renamed};
use crate::decode::reader::Decode;

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
