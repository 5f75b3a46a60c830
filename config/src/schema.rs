//! The JSON Schema of the configuration file, for editors and for the reference page.

use schemars::generate::SchemaSettings;

use crate::document::Document;

/// The schema (JSON Schema, draft 2020-12).
pub fn json_schema() -> serde_json::Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<Document>();
    schema.insert("title".to_owned(), "Portolan configuration".into());
    schema.to_value()
}
