//! The reference pages, written from the same declarations that read the file.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

use crate::diagnostic::Code;
use crate::schema::json_schema;

/// `docs/reference/config.md`: every key, its type, its default, its meaning.
pub fn reference_page() -> String {
    let schema = json_schema();
    let mut page = Page {
        definitions: &schema["$defs"],
        done: BTreeSet::new(),
        open: Vec::new(),
        out: String::from(
            "# Configuration reference\n\n\
             Every key of the configuration file, in the order in which they are usually written. \
             This page is made from the declarations that read the file, and a test keeps it \
             true. `portolan schema` prints the same as JSON Schema, which editors understand; \
             `portolan show --effective` prints your file with every default filled in.\n",
        ),
    };
    page.section("The file", &schema);
    while let Some(name) = page.open.pop() {
        if page.done.insert(name.clone()) {
            let definition = page.definitions[&name].clone();
            page.section(&name, &definition);
        }
    }
    page.out
}

/// `docs/reference/diagnostics.md`: every code that `portolan check` can say.
pub fn diagnostics_page() -> String {
    let mut out = String::from(
        "# Diagnostics\n\n\
         What `portolan check` (and a reload) can complain about. The codes stay the same from \
         release to release, so scripts may rely on them (`portolan check --format json`). This \
         page is made from the code, and a test keeps it true.\n\n\
         | code | meaning |\n| --- | --- |\n",
    );
    for code in Code::ALL {
        let _ = writeln!(out, "| `{}` | {} |", code.as_str(), code.meaning());
    }
    out
}

struct Page<'a> {
    definitions: &'a Value,
    done: BTreeSet<String>,
    /// Definitions still to be written, the next one last.
    open: Vec<String>,
    out: String,
}

impl Page<'_> {
    /// One mapping (or one of several forms), with everything it can hold.
    fn section(&mut self, title: &str, schema: &Value) {
        let _ = write!(self.out, "\n## {title}\n\n");
        if let Some(description) = schema["description"].as_str() {
            let _ = writeln!(self.out, "{description}\n");
        }
        let mut mentioned = Vec::new();
        let forms: Vec<&Value> = match schema["anyOf"].as_array() {
            Some(forms) => forms.iter().collect(),
            None => vec![schema],
        };
        for form in &forms {
            let words = self.type_words(form, &mut mentioned);
            if form["properties"].is_object() && !is_keyed(form) {
                if forms.len() > 1 {
                    let _ = writeln!(self.out, "As a mapping: {}\n", text(form, "description"));
                }
                self.table(form, &mut mentioned);
            } else if is_keyed(form) {
                for (key, value) in form["properties"].as_object().into_iter().flatten() {
                    let words = self.type_words(value, &mut mentioned);
                    let _ = writeln!(
                        self.out,
                        "- `{key}`: {words}. {}",
                        text(form, "description")
                    );
                }
            } else {
                let _ = writeln!(self.out, "- {words}");
                self.words_table(form);
            }
        }
        // What is mentioned here comes next, in the order mentioned.
        for name in mentioned.into_iter().rev() {
            if !self.done.contains(&name) {
                self.open.push(name);
            }
        }
    }

    fn table(&mut self, schema: &Value, mentioned: &mut Vec<String>) {
        let required: BTreeSet<&str> = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        self.out
            .push_str("| key | type | default | meaning |\n| --- | --- | --- | --- |\n");
        for (key, value) in schema["properties"].as_object().into_iter().flatten() {
            let words = self.type_words(value, mentioned);
            let default = match &value["default"] {
                Value::Null if required.contains(key.as_str()) => "required".to_owned(),
                Value::Null => "–".to_owned(),
                Value::String(text) => format!("`{text}`"),
                other => format!("`{other}`"),
            };
            let meaning = text(value, "description").replace('\n', " ");
            let _ = writeln!(self.out, "| `{key}` | {words} | {default} | {meaning} |");
        }
        for (key, value) in schema["properties"].as_object().into_iter().flatten() {
            if value["oneOf"].is_array() {
                let _ = writeln!(self.out, "\nThe words of `{key}`:\n");
                self.words_table(value);
            }
        }
    }

    /// The words that may stand at a place, each with its meaning.
    fn words_table(&mut self, schema: &Value) {
        for word in schema["oneOf"].as_array().into_iter().flatten() {
            let _ = writeln!(
                self.out,
                "  - `{}`: {}",
                word["const"].as_str().unwrap_or_default(),
                text(word, "description").replace('\n', " ")
            );
        }
    }

    /// What a value is, in a few words, with links to the sections that say more.
    fn type_words(&self, schema: &Value, mentioned: &mut Vec<String>) -> String {
        if let Some(reference) = schema["$ref"].as_str() {
            let name = reference.rsplit('/').next().unwrap_or_default().to_owned();
            let link = format!("[{name}](#{})", name.to_lowercase());
            mentioned.push(name);
            return link;
        }
        if let Some(forms) = schema["anyOf"].as_array() {
            let words: Vec<String> = forms
                .iter()
                .map(|form| self.type_words(form, mentioned))
                .collect();
            return words.join(", or ");
        }
        if let Some(words) = schema["enum"].as_array() {
            let words: Vec<String> = words
                .iter()
                .map(|word| match word {
                    Value::String(text) => format!("`{text}`"),
                    other => format!("`{other}`"),
                })
                .collect();
            return if words.len() > 8 {
                "a word from a list".to_owned()
            } else {
                words.join(" or ")
            };
        }
        if schema["oneOf"].is_array() {
            return "one of the words below".to_owned();
        }
        match &schema["type"] {
            Value::String(kind) => self.kind_words(kind, schema, mentioned),
            Value::Array(_) => "text".to_owned(),
            _ => "a value".to_owned(),
        }
    }

    fn kind_words(&self, kind: &str, schema: &Value, mentioned: &mut Vec<String>) -> String {
        match kind {
            "array" => format!("a list of {}", self.type_words(&schema["items"], mentioned)),
            "object" if schema["additionalProperties"].is_object() => format!(
                "a mapping from names to {}",
                self.type_words(&schema["additionalProperties"], mentioned)
            ),
            "object" => "a mapping".to_owned(),
            "integer" => "a number".to_owned(),
            "boolean" => "`true` or `false`".to_owned(),
            "string" => match schema["examples"][0].as_str() {
                Some(example) => format!("text like `{example}`"),
                None => "text".to_owned(),
            },
            other => format!("a {other}"),
        }
    }
}

/// Whether a form is a mapping with exactly one key, like the kinds of targets.
fn is_keyed(schema: &Value) -> bool {
    let properties = schema["properties"]
        .as_object()
        .map_or(0, serde_json::Map::len);
    let required = schema["required"].as_array().map_or(0, Vec::len);
    properties == 1
        && required == 1
        && schema["description"].is_string()
        && schema["title"].is_null()
        && schema["additionalProperties"] == Value::Bool(false)
        && !schema["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .any(|(_, v)| v["description"].is_string())
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema[key].as_str().unwrap_or_default()
}
