//! The configuration language of Portolan.
//!
//! A configuration goes through four stages, each with its own type and file:
//!
//! 1. [`source`]: named texts, read by [`load`] from the main file and all it includes;
//! 2. [`node`]: what stood where, as the YAML reader found it, with `${…}` filled in;
//! 3. [`document`]: the same with types, defaults and places, and checked by `check`;
//! 4. [`plan`]: what the runtime reads. No name is unresolved and no number unchecked.
//!
//! Problems of all stages are collected in one [`diagnostic::Report`]: each has a code, a place, a
//! picture and a hint. Nothing here touches the network, the clock or a process; files are only
//! read.
//!
//! ```
//! use portolan_config::{Machine, check_text};
//!
//! let text = "
//! listeners: [ { bind: '127.0.0.1:8080' } ]
//! pools: { aws: { endpoints: [ '10.0.0.1:80' ] } }
//! routes: [ { to: aws } ]
//! ";
//! let checked = check_text("demo.yaml", text.to_owned(), &Machine::default());
//! assert!(!checked.report.has_errors());
//! assert_eq!(checked.plan.unwrap().pools.len(), 1);
//! ```

mod check;
mod compile;
mod complete;
pub mod decode;
mod defaults;
pub mod diagnostic;
pub mod document;
mod effective;
mod expand;
pub mod fields;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod geography;
mod load;
pub mod names;
pub mod node;
mod parse;
pub mod plan;
mod reference;
mod resolve;
pub mod scalar;
mod schema;
pub mod source;
mod stamp;
pub mod units;
pub mod verify;

pub use expand::Environment;
pub use load::{Inputs, Machine, SavedSource, WatchedFiles};
pub use reference::{diagnostics_page, reference_page};
pub use schema::json_schema;
pub use stamp::{Stamp, read_bytes};

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::decode::encode::Encode;
use crate::decode::reader::Decode;
use crate::decode::reader::{InheritedDefaults, Reader};
use diagnostic::{Code, Diagnostic, Report};
use document::Document;
use load::Loaded;
use node::{Entry, Node, Value};
use plan::Plan;
use source::Origin;

/// What became of a configuration.
#[derive(Debug)]
pub struct Checked {
    /// What was found, good and bad.
    pub report: Report,
    /// The configuration as it stands in its files, joined, if they are YAML.
    pub written: Option<Node>,
    /// The same, read and with its defaults, if it could be read.
    pub document: Option<Document>,
    /// The plan, if nothing is wrong.
    pub plan: Option<Arc<Plan>>,
    /// What it was made of.
    pub watch: WatchedFiles,
    /// What was found there.
    pub inputs: Inputs,
    state_dir: PathBuf,
}

impl Checked {
    /// The texts it was read from, to be kept.
    pub fn saved_sources(&self) -> Vec<SavedSource> {
        let sources = self.report.sources.iter();
        sources
            .map(|source| SavedSource {
                name: source.name.clone(),
                folder: source.folder.clone(),
                text: source.text.clone(),
            })
            .collect()
    }

    /// The configuration as it stands in its files, joined, as YAML that says where each value
    /// stands.
    pub fn written_yaml(&self) -> Option<String> {
        let node = self.written.as_ref()?;
        Some(effective::to_yaml(node, &self.report.sources))
    }

    /// The configuration as it stands in its files, joined, as JSON.
    pub fn written_json(&self) -> Option<serde_json::Value> {
        self.written.as_ref().map(effective::to_json)
    }

    /// Where it says that state is kept, as far as that can be read.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// The configuration with every default filled in, as YAML that says where each value came
    /// from.
    pub fn effective_yaml(&self) -> Option<String> {
        let node = self.document.as_ref()?.encode()?;
        Some(effective::to_yaml(&node, &self.report.sources))
    }

    /// The configuration with every default filled in, as JSON.
    pub fn effective_json(&self) -> Option<serde_json::Value> {
        let node = self.document.as_ref()?.encode()?;
        Some(effective::to_json(&node))
    }
}

/// Reads, checks and compiles the configuration in a file.
pub fn check_file(path: &Path, environment: &dyn Environment) -> Checked {
    check_loaded(load::load(path, environment), Keep::Everything)
}

/// The same for somebody who wants the plan and the report alone: `written` and `document` are
/// `None`. They take more memory than the plan.
pub fn plan_file(path: &Path, environment: &dyn Environment) -> Checked {
    check_loaded(load::load(path, environment), Keep::Plan)
}

/// Reads, checks and compiles a configuration that is not in a file. Relative paths in it belong to
/// the current folder.
pub fn check_text(name: &str, text: String, environment: &dyn Environment) -> Checked {
    let loaded = load::load_text(name, Path::new(""), text, environment);
    check_loaded(loaded, Keep::Everything)
}

/// Checks and compiles a configuration from texts that were kept, the main one first. Like
/// [`plan_file`], for somebody who wants the plan alone.
pub fn plan_saved(saved: &[SavedSource], environment: &dyn Environment) -> Checked {
    check_loaded(load::load_saved(saved, environment), Keep::Plan)
}

/// What is wanted besides the plan and the report.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Everything,
    Plan,
}

fn check_loaded(loaded: Loaded, keep: Keep) -> Checked {
    let Loaded {
        mut sources,
        mut root,
        diagnostics,
        watch,
        inputs,
    } = loaded;
    let mut hidden = source::Hidden::default();
    if let Some(root) = &mut root {
        hidden.in_tree(root);
    }
    if !diagnostics.is_empty() {
        // Of a text that could not be read, there is no tree.
        sources.iter().for_each(|source| hidden.in_text(source));
    }
    sources.hidden = Arc::new(hidden);
    let mut reader = Reader {
        diagnostics,
        ..Reader::default()
    };
    let written = (keep == Keep::Everything).then(|| root.clone()).flatten();
    if let Some(root) = &root {
        routes_lead_somewhere(root, &mut reader);
    }
    let named = root.as_ref().map(named);
    let document = root.and_then(|mut root| {
        reader.legacies = defaults::inherit(&mut root);
        Document::decode(&root, &mut reader).or_else(|| readable(root, &reader.legacies))
    });
    let mut found = reader.diagnostics;
    let sound = |found: &[Diagnostic]| {
        found
            .iter()
            .all(|d| d.severity == diagnostic::Severity::Warning)
    };
    let mut plan = None;
    let document = document.map(|mut document| {
        complete::complete(&mut document);
        // A value that could not be read leaves a hole, and what a check says about a hole (a
        // split without the member whose weight was bad) would be wrong.
        let whole = found.iter().all(|d| {
            d.severity == diagnostic::Severity::Warning
                || matches!(d.code, Code::DuplicateKey | Code::NotAvailableYet)
        });
        // Where everything with a name could be read, a name that nothing has is one.
        let names_whole = named == Some(named_in(&document));
        let holds =
            |code| whole || holds_anyway(code) || (names_whole && code == Code::UnknownName);
        let said = judge(&document);
        found.extend(said.into_iter().filter(|d| holds(d.code)));
        if sound(&found) {
            match compile::compile(&document, &sources) {
                Ok(compiled) => plan = Some(Arc::new(compiled)),
                Err(more) => found.extend(more),
            }
        }
        document
    });
    let state_dir = document.as_ref().map_or_else(
        || sources.resolve(Origin::Default, Path::new("./state")),
        |document| sources.resolve(document.state_dir.origin, &document.state_dir.value),
    );
    Checked {
        report: Report::new(sources, found),
        written,
        document: document.filter(|_| keep == Keep::Everything),
        state_dir,
        plan,
        watch,
        inputs,
    }
}

/// Everything that is wrong, or suspicious, about a document that could be read.
fn judge(document: &Document) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let names = resolve::check(document, &mut found);
    let unresolved = found
        .iter()
        .any(|d| matches!(d.code, Code::UnknownName | Code::Cycle));
    check::check(document, &names, unresolved, &mut found);
    if !unresolved {
        verify::verify(document, &names, &mut found);
    }
    found
}

/// Complains about routes that say neither where requests go nor where clients are sent. Of what was
/// written and cannot be read, enough is said where it is read.
fn routes_lead_somewhere(root: &Node, reader: &mut Reader) {
    let Some(Value::List(routes)) = root.get("routes").map(|routes| &routes.value) else {
        return;
    };
    for route in routes {
        if let Value::Map(_) = route.value
            && route.get("to").is_none()
            && route.get("redirect").is_none()
        {
            reader.report(
                Diagnostic::error(Code::MissingKey, route.origin, "a route needs `to`").help(
                    "write where its requests go, or a `redirect` that sends clients elsewhere",
                ),
            );
        }
    }
}

/// The document without those of its sections that cannot be read, which has been said, so that the
/// others are checked in the same run.
fn readable(mut root: Node, legacies: &InheritedDefaults) -> Option<Document> {
    let origin = root.origin;
    let Value::Map(sections) = &mut root.value else {
        return None;
    };
    let read = |sections: Vec<Entry>| {
        let mut reader = Reader {
            legacies: legacies.clone(),
            ..Reader::default()
        };
        Document::decode(&Node::map(sections, origin), &mut reader)
    };
    let mut lost = Vec::new();
    sections.retain(|section| {
        let readable = read(vec![section.clone()]).is_some();
        if !readable {
            lost.push(section.key.value.clone());
        }
        readable
    });
    // What is judged by a section that is lost cannot be judged.
    for (by, judged) in [
        ("shutdown_timeout", "lame_duck"),
        ("geoip", "routes"),
        ("geoip", "services"),
    ] {
        if lost.iter().any(|key| key == by) {
            sections.retain(|section| section.key.value != judged);
        }
    }
    read(std::mem::take(sections))
}

/// How many things a tree gives names to, as far as can be seen before it is read: none of them may
/// have been lost when it has been. A key of the file that nobody knows may have been meant for any
/// of them, and counts as lost.
fn named(root: &Node) -> usize {
    let Value::Map(sections) = &root.value else {
        return 0;
    };
    let members = |node: &Node| match &node.value {
        Value::Map(entries) => entries.len(),
        Value::List(items) => items.len(),
        Value::Null | Value::Scalar(_) => 0,
    };
    let endpoints = |pools: &Node| -> usize {
        let Value::Map(pools) = &pools.value else {
            return 0;
        };
        let keys = pools.iter().filter_map(|pool| match &pool.value.value {
            Value::Map(keys) => Some(keys),
            _ => None,
        });
        keys.flatten()
            .filter(|entry| entry.key.value == "endpoints")
            .map(|entry| members(&entry.value))
            .sum()
    };
    sections
        .iter()
        .map(|section| match section.key.value.as_str() {
            "pools" => members(&section.value) + endpoints(&section.value),
            "services" | "routes" => members(&section.value),
            key => usize::from(!Document::KEYS.contains(&key)),
        })
        .sum()
}

/// How many of them were read.
fn named_in(document: &Document) -> usize {
    let endpoints = document.pools.iter().map(|(_, pool)| pool.endpoints.len());
    endpoints.sum::<usize>()
        + document.pools.0.len()
        + document.services.0.len()
        + document.routes.len()
}

/// Whether what a check found is true even if other parts of the document could not be read.
fn holds_anyway(code: Code) -> bool {
    !matches!(
        code,
        Code::UnusedPool
            | Code::UnusedService
            | Code::UnknownName
            | Code::UselessTier
            | Code::ZeroWeights
            | Code::GeoCatchAll
            | Code::MinHealthy
            | Code::MissingKey
            | Code::NothingToServe
            | Code::NoCoordinates
            | Code::NoCapacity
    )
}
