//! The reference pages, written from the same declarations that read the file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::Value;

use crate::diagnostic::Code;
use crate::schema::json_schema;

/// `docs/reference/config.md`: every key, its type, its default, its meaning.
pub fn reference_page() -> String {
    let schema = json_schema();
    let mut page = Page {
        definitions: &schema["$defs"],
        users: users(&schema),
        done: BTreeSet::new(),
        open: Vec::new(),
        out: INTRODUCTION.to_owned(),
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

const INTRODUCTION: &str = "\
# Configuration reference

Every key of the configuration file, in the order in which they are usually written; each mapping \
has a section of its own. A dash stands where a key has no default: without it there is nothing, or \
what its meaning says. This page is made from the declarations that read the file, and a test keeps \
it true. `portolan schema` prints the same as JSON Schema, which editors understand; \
`portolan show --effective` prints your file with every default filled in.

## Values

| kind | written as |
| --- | --- |
| duration | a whole number and a unit: `ms`, `s`, `m`, `h` or `d`. `250ms`, `5s`, `10m`. A number without a unit is an error. |
| size | a whole number and a unit: `B`, `KiB`, `MiB`, `GiB` (powers of 1024), `kB`, `MB`, `GB` (powers of 1000). `64KiB`, `100MiB`. |
| percentage | a number from 0 to 100 and a percent sign: `50%`, `12.5%`. |
| name | letters, digits, `-`, `_` and `.`, the first a letter or a digit; at most 64 characters. Pools and services share one name space. |
| path | of a file or a folder; relative to the file that it stands in. |
| text | any text. Numbers and words like `true` need no quotes where text is expected. |

`${env:NAME}` inside a text is replaced by the environment variable, `${file:/path}` by what the file \
holds, after the configuration has been read; `$${` stands for a literal `${`. What comes from a file \
is a secret and is never printed. A key with nothing behind it is an error.
";

/// For each definition, the keys where it may stand.
fn users(schema: &Value) -> BTreeMap<String, Vec<String>> {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
                    found.push(definition(reference).to_owned());
                }
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut use_of = |section: &str, link: String, schema: &Value| {
        let forms = schema["anyOf"].as_array().into_iter().flatten();
        for form in forms.chain([schema]) {
            for (key, value) in properties(form) {
                let mut found = Vec::new();
                references(value, &mut found);
                for name in found.into_iter().filter(|name| name != section) {
                    let user = format!("`{key}` of {link}");
                    let users = users.entry(name).or_default();
                    if !users.contains(&user) {
                        users.push(user);
                    }
                }
            }
        }
    };
    use_of("", "[the file](#the-file)".to_owned(), schema);
    for (name, definition) in schema["$defs"].as_object().into_iter().flatten() {
        use_of(name, link(name), definition);
    }
    users
}

/// The keys of a mapping, but for those that have other names by now.
fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let all = schema["properties"].as_object().into_iter().flatten();
    all.filter(|(_, value)| value["deprecated"] != true)
}

/// The name of a definition, from a reference to it.
fn definition(reference: &str) -> &str {
    reference.rsplit('/').next().unwrap_or_default()
}

/// A link to the section of a definition.
fn link(name: &str) -> String {
    format!("[{name}](#{})", name.to_lowercase())
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
    /// For each definition, the keys where it may stand.
    users: BTreeMap<String, Vec<String>>,
    done: BTreeSet<String>,
    /// Definitions still to be written, the next one last.
    open: Vec<String>,
    out: String,
}

impl Page<'_> {
    /// One mapping (or one of several forms), with everything it can hold.
    fn section(&mut self, title: &str, schema: &Value) {
        let _ = write!(self.out, "\n## {title}\n\n");
        if let Some(users) = self.users.get(title) {
            let _ = writeln!(self.out, "Stands at {}.\n", users.join(", "));
        }
        if let Some(description) = schema["description"].as_str() {
            let _ = writeln!(self.out, "{description}\n");
        }
        let mut mentioned = Vec::new();
        let forms: Vec<&Value> = match schema["anyOf"].as_array() {
            Some(forms) => forms.iter().collect(),
            None => vec![schema],
        };
        for form in &forms {
            if form["properties"].is_object() && !is_keyed(form) {
                if forms.len() > 1 {
                    let _ = writeln!(self.out, "\nAs a mapping: {}\n", text(form, "description"));
                }
                self.table(form, &mut mentioned);
            } else if is_keyed(form) {
                for (key, value) in form["properties"].as_object().into_iter().flatten() {
                    let words = type_words(value, &mut mentioned);
                    let _ = writeln!(
                        self.out,
                        "- `{key}`: {words}. {}",
                        text(form, "description")
                    );
                }
            } else if form["oneOf"].is_array() {
                self.words(form);
            } else {
                let words = type_words(form, &mut mentioned);
                let _ = writeln!(self.out, "- {words}");
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
        for (key, value) in properties(schema) {
            let words = type_words(value, mentioned);
            let default = match &value["default"] {
                Value::Null if required.contains(key.as_str()) => "required".to_owned(),
                Value::Null => "–".to_owned(),
                Value::Object(_) => "its own defaults".to_owned(),
                Value::String(text) => format!("`{text}`"),
                other => format!("`{other}`"),
            };
            let meaning = text(value, "description").replace('\n', " ");
            let _ = writeln!(self.out, "| `{key}` | {words} | {default} | {meaning} |");
        }
        for (key, value) in properties(schema) {
            let value = without_null(value);
            if value["oneOf"].is_array() {
                let _ = writeln!(self.out, "\nThe words of `{key}`:\n");
                self.words(value);
            }
        }
    }

    /// The words that may stand at a place, each with its meaning.
    fn words(&mut self, schema: &Value) {
        for form in schema["oneOf"].as_array().into_iter().flatten() {
            if let Some(word) = form["const"].as_str() {
                let meaning = text(form, "description").replace('\n', " ");
                let _ = writeln!(self.out, "- `{word}`: {meaning}");
            }
        }
    }
}

/// What a value is, in a few words, with links to the sections that say more.
fn type_words(schema: &Value, mentioned: &mut Vec<String>) -> String {
    let schema = without_null(schema);
    if let Some(reference) = schema["$ref"].as_str() {
        let name = definition(reference);
        mentioned.push(name.to_owned());
        return link(name);
    }
    if let Some(forms) = schema["anyOf"].as_array() {
        let words: Vec<String> = forms
            .iter()
            .filter(|form| form["type"] != "null")
            .map(|form| type_words(form, mentioned))
            .collect();
        return words.join(", or ");
    }
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words
            .iter()
            .filter(|word| !word.is_null())
            .map(|word| match word {
                Value::String(text) => format!("`{text}`"),
                other => format!("`{other}`"),
            })
            .collect();
        return words.join(" or ");
    }
    if let Some(words) = schema["oneOf"].as_array() {
        let words: Vec<String> = words
            .iter()
            .filter_map(|word| word["const"].as_str())
            .map(|word| format!("`{word}`"))
            .collect();
        return words.join(" or ");
    }
    match &schema["type"] {
        Value::String(kind) => kind_words(kind, schema, mentioned),
        // A type of its own, or nothing.
        Value::Array(kinds) => match kinds.as_slice() {
            [Value::String(kind), Value::String(null)] if null == "null" => {
                kind_words(kind, schema, mentioned)
            }
            _ => "text".to_owned(),
        },
        _ => "a value".to_owned(),
    }
}

fn kind_words(kind: &str, schema: &Value, mentioned: &mut Vec<String>) -> String {
    match kind {
        "array" => match type_words(&schema["items"], mentioned) {
            words if words.contains(" or ") => format!("a list, each {words}"),
            words => format!("a list of {}", plural(&words)),
        },
        "object" if schema["additionalProperties"].is_object() => {
            let words = type_words(&schema["additionalProperties"], mentioned);
            format!("a mapping from names to {}", plural(&words))
        }
        "object" => "a mapping".to_owned(),
        "integer" => match (schema["minimum"].as_u64(), schema["maximum"].as_u64()) {
            (Some(from), Some(to)) if to < u64::from(u32::MAX) => {
                format!("a whole number from {from} to {to}")
            }
            (Some(from), _) if from > 0 => format!("a whole number, at least {from}"),
            _ => "a whole number".to_owned(),
        },
        "boolean" => "`true` or `false`".to_owned(),
        "string" => match (schema["title"].as_str(), schema["examples"][0].as_str()) {
            (Some(kind), _) => format!("a [{kind}](#values)"),
            (None, Some(example)) => format!("text like `{example}`"),
            (None, None) => "text".to_owned(),
        },
        other => format!("a {other}"),
    }
}

/// Several of what these words say.
fn plural(words: &str) -> String {
    match words
        .strip_prefix("a [")
        .and_then(|rest| rest.split_once(']'))
    {
        Some((kind, target)) => format!("[{kind}s]{target}"),
        None => match words.strip_prefix("a whole number") {
            Some(range) => format!("whole numbers{range}"),
            None => words.to_owned(),
        },
    }
}

/// A key that may be absent may also have nothing behind it, which nobody needs to be told.
fn without_null(schema: &Value) -> &Value {
    match schema["anyOf"].as_array().map(Vec::as_slice) {
        Some([one, null]) if null["type"] == "null" => one,
        _ => schema,
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
