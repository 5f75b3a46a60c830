//! The JSON Schema of the configuration file, for editors and for the reference page.

use schemars::generate::SchemaSettings;

use crate::document::Document;

/// The schema (JSON Schema, draft 2020-12).
pub fn json_schema() -> serde_json::Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<Document>();
    schema.insert("title".to_owned(), "Portolan configuration".into());
    let mut schema = schema.to_value();
    // No key of a route must be there by itself, but it leads somewhere. Within `allOf`, because a
    // type that is itself "any of" has no keys on the reference page.
    if let Some(route) = schema.pointer_mut("/$defs/Route") {
        let either = serde_json::json!({
            "anyOf": [{ "required": ["to"] }, { "required": ["redirect"] }],
        });
        route["allOf"] = serde_json::json!([either]);
    }
    schema
}
