//! From files to one tree: the main file, what it includes, and how they are joined.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::decode::nothing_given;
use crate::diagnostic::{Code, Diagnostic};
use crate::expand::{Environment, LONGEST_FILE, expand};
use crate::node::{Entry, Node, Value};
use crate::parse::parse;
use crate::source::{At, Origin, SourceId, Sources};
use crate::stamp::{Stamp, read_stamped, read_text};

/// The largest configuration file that is read.
const LARGEST_FILE: u64 = 64 << 20;

/// The most files one configuration is made of.
const MOST_FILES: usize = 10_000;

/// The machine that Portolan runs on.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    variables: std::collections::BTreeMap<String, String>,
}

impl Machine {
    /// A machine with these environment variables.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self {
            variables: variables.into_iter().collect(),
        }
    }
}

impl Environment for Machine {
    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    fn file(&self, path: &Path) -> std::io::Result<String> {
        read_text(path, LONGEST_FILE)
    }

    fn stamped_file(&self, path: &Path) -> std::io::Result<(String, Stamp)> {
        read_stamped(path, LONGEST_FILE)
    }
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The texts.
    pub(crate) sources: Sources,
    /// All of them as one tree, unless the main file could not be read at all.
    pub(crate) root: Option<Node>,
    /// What was wrong so far.
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// The files that were read, and the folders in which `include` looked: what to watch.
    pub(crate) watch: Watch,
    /// What was found there.
    pub(crate) inputs: Inputs,
}

/// What a configuration depends on outside itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// Files.
    pub files: BTreeSet<PathBuf>,
    /// Folders in which new files may appear that an `include` pattern would match.
    pub folders: BTreeSet<PathBuf>,
    /// What such files are called: the last parts of the patterns. Without any, every file in one of the
    /// folders counts.
    pub patterns: BTreeSet<String>,
}

impl Watch {
    /// Whether a file of this name in one of the folders may be meant.
    pub fn may_mean(&self, name: &std::ffi::OsStr) -> bool {
        let name = name.to_string_lossy();
        let means = |pattern: &String| {
            glob::Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(&name))
        };
        self.patterns.is_empty() || self.patterns.iter().any(means)
    }
}

/// What was found in the files that a configuration was read from: enough to tell whether reading
/// them again would give the same.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Every text.
    texts: Vec<Input>,
    /// Every pattern of an `include`, and the files that it named.
    patterns: Vec<(String, Vec<PathBuf>)>,
    /// Something was read that is not among these, or could not be read.
    unsure: bool,
}

/// A file that was read.
#[derive(Clone, Debug)]
struct Input {
    path: PathBuf,
    /// The most that is read of it.
    limit: u64,
    /// A hash of what was there.
    hash: u64,
    stamp: Stamp,
}

impl Inputs {
    /// Whether the same is found there now.
    pub fn are_unchanged(&self) -> bool {
        let same = |input: &Input| {
            read_text(&input.path, input.limit).is_ok_and(|text| hash(&text) == input.hash)
        };
        !self.unsure
            && !self.texts.is_empty()
            && self.patterns.iter().all(|(pattern, before)| {
                glob::glob(pattern).is_ok_and(|found| files_of(found) == *before)
            })
            && self.texts.iter().all(same)
    }

    /// Every file that was read, and what it was like.
    pub fn stamps(&self) -> impl Iterator<Item = (&Path, Stamp)> {
        let texts = self.texts.iter();
        texts.map(|input| (input.path.as_path(), input.stamp))
    }

    /// A file that was written while it was read, however often that was tried.
    pub fn unsteady(&self) -> Option<&Path> {
        let mut stamps = self.stamps();
        let (path, _) = stamps.find(|(_, stamp)| stamp.unsteady)?;
        Some(path)
    }

    /// Adds what was read of a file, and gives its text back.
    fn add(
        &mut self,
        path: &Path,
        limit: u64,
        read: std::io::Result<(String, Stamp)>,
    ) -> std::io::Result<String> {
        match read {
            Ok((text, stamp)) => {
                self.texts.push(Input {
                    path: path.to_path_buf(),
                    limit,
                    hash: hash(&text),
                    stamp,
                });
                Ok(text)
            }
            Err(error) => {
                self.unsure = true;
                Err(error)
            }
        }
    }
}

fn hash(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    hasher.write(text.as_bytes());
    hasher.finish()
}

/// The files among what a pattern matches, in the order of their names.
fn files_of(found: glob::Paths) -> Vec<PathBuf> {
    found.flatten().filter(|path| path.is_file()).collect()
}

/// Reads a configuration from its main file.
pub(crate) fn load(path: &Path, environment: &dyn Environment) -> Loaded {
    let mut loading = Loading::default();
    let root = loading.file(path, Origin::Default);
    loading.finish(root, environment)
}

/// Reads a configuration from a text that is not in a file. Relative paths in it belong to
/// `folder`.
pub(crate) fn load_text(
    name: &str,
    folder: &Path,
    text: String,
    environment: &dyn Environment,
) -> Loaded {
    let mut loading = Loading::default();
    let id = loading.sources.add(name, folder, text);
    let root = loading.source(id);
    loading.finish(root, environment)
}

/// A text that a configuration was read from, kept for later: with it the configuration can be read
/// again when the files are gone or broken.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SavedSource {
    /// What the user calls it.
    pub name: String,
    /// The folder that relative paths in it are relative to.
    pub folder: PathBuf,
    /// The text, with its references, not with what they stand for.
    pub text: String,
}

/// Reads a configuration from texts that were kept, the main one first. What they include is among
/// them already.
pub(crate) fn load_saved(saved: &[SavedSource], environment: &dyn Environment) -> Loaded {
    let mut loading = Loading::default();
    // What was kept says nothing about files.
    loading.inputs.unsure = true;
    let mut root: Option<Node> = None;
    for source in saved {
        let id = loading
            .sources
            .add(&source.name, &source.folder, source.text.clone());
        let Some(mut node) = parse(&loading.sources, id, &mut loading.diagnostics) else {
            continue;
        };
        if let Value::Null = node.value {
            node.value = Value::Map(Vec::new());
        }
        forget_includes(&mut node);
        match &mut root {
            None => root = Some(node),
            Some(root) => loading.join(root, node),
        }
    }
    loading.finish(root, environment)
}

#[derive(Default)]
struct Loading {
    sources: Sources,
    diagnostics: Vec<Diagnostic>,
    watch: Watch,
    inputs: Inputs,
    /// The files between the main one and the one being read.
    within: Vec<PathBuf>,
}

/// Takes out what was included: it stands in the tree now, and whoever prints the tree prints it.
/// What is no pattern stays, to be complained about.
fn forget_includes(node: &mut Node) {
    let Value::Map(entries) = &mut node.value else {
        return;
    };
    for entry in entries {
        if entry.key.value == "include"
            && let Value::List(items) = &mut entry.value.value
        {
            items.retain(|item| !matches!(item.value, Value::Scalar(_)));
        }
    }
}

/// Notes which files are asked for: what stands in them is part of the configuration, even if they
/// cannot be read yet.
struct Noting<'a> {
    environment: &'a dyn Environment,
    files: RefCell<BTreeSet<PathBuf>>,
    inputs: RefCell<Inputs>,
}

impl Environment for Noting<'_> {
    fn variable(&self, name: &str) -> Option<String> {
        self.environment.variable(name)
    }

    fn file(&self, path: &Path) -> std::io::Result<String> {
        self.files.borrow_mut().insert(path.to_path_buf());
        let read = self.environment.stamped_file(path);
        self.inputs.borrow_mut().add(path, LONGEST_FILE, read)
    }
}

impl Loading {
    fn finish(mut self, root: Option<Node>, environment: &dyn Environment) -> Loaded {
        let root = root.map(|mut root| {
            let noting = Noting {
                environment,
                files: RefCell::default(),
                inputs: RefCell::new(std::mem::take(&mut self.inputs)),
            };
            expand(&mut root, &self.sources, &noting, &mut self.diagnostics);
            self.watch.files.extend(noting.files.into_inner());
            self.inputs = noting.inputs.into_inner();
            root
        });
        Loaded {
            sources: self.sources,
            root,
            diagnostics: self.diagnostics,
            watch: self.watch,
            inputs: self.inputs,
        }
    }

    fn file(&mut self, path: &Path, included_at: Origin) -> Option<Node> {
        self.watch.files.insert(path.to_path_buf());
        let read = read_stamped(path, LARGEST_FILE);
        let text = match self.inputs.add(path, LARGEST_FILE, read) {
            Ok(text) => text,
            Err(error) => {
                let error = match error.kind() {
                    std::io::ErrorKind::InvalidData => "it is not UTF-8 text".to_owned(),
                    _ => error.to_string(),
                };
                self.diagnostics.push(Diagnostic::error(
                    Code::Unreadable,
                    included_at,
                    format!("cannot read `{}`: {error}", path.display()),
                ));
                return None;
            }
        };
        let folder = path.parent().unwrap_or_else(|| Path::new("")).to_path_buf();
        let id = self.sources.add(path.display().to_string(), folder, text);
        self.within.push(path.to_path_buf());
        let node = self.source(id);
        self.within.pop();
        node
    }

    /// One text and everything it includes.
    fn source(&mut self, id: SourceId) -> Option<Node> {
        let mut node = parse(&self.sources, id, &mut self.diagnostics)?;
        if let Value::Null = node.value {
            node.value = Value::Map(Vec::new());
        }
        let includes: Vec<(String, Origin)> = match node.get("include").map(|n| &n.value) {
            Some(Value::List(items)) => items
                .iter()
                .filter_map(|item| match &item.value {
                    Value::Scalar(scalar) => Some((scalar.text.clone(), item.origin)),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        };
        for (pattern, origin) in includes {
            for path in self.matches(&pattern, origin) {
                if let Some(included) = self.file(&path, origin) {
                    self.join(&mut node, included);
                }
            }
        }
        forget_includes(&mut node);
        Some(node)
    }

    /// The files a pattern names, in the order of their names.
    fn matches(&mut self, pattern: &str, origin: Origin) -> Vec<PathBuf> {
        let full = self.sources.resolve(origin, Path::new(pattern));
        self.watch.folders.extend(folders_of_pattern(&full));
        if let Some(name) = full.file_name() {
            let name = name.to_string_lossy().into_owned();
            self.watch.patterns.insert(name);
        }
        let full = full.display().to_string();
        let found = match glob::glob(&full) {
            Ok(found) => found,
            Err(error) => {
                self.diagnostics.push(Diagnostic::error(
                    Code::Include,
                    origin,
                    format!("`{pattern}` is not a file pattern: {}", error.msg),
                ));
                return Vec::new();
            }
        };
        let paths = files_of(found);
        self.inputs.patterns.push((full, paths.clone()));
        if paths.is_empty() {
            self.diagnostics.push(Diagnostic::error(
                Code::Include,
                origin,
                format!("`{pattern}` matches no file"),
            ));
        }
        if let Some(again) = paths.iter().find(|path| self.within.contains(path)) {
            self.diagnostics.push(Diagnostic::error(
                Code::Include,
                origin,
                format!("`{}` includes itself", again.display()),
            ));
            return Vec::new();
        }
        if self.watch.files.len() + paths.len() > MOST_FILES {
            self.diagnostics.push(Diagnostic::error(
                Code::Include,
                origin,
                format!("more than {MOST_FILES} files"),
            ));
            return Vec::new();
        }
        paths
    }

    /// Joins an included file's sections to what is there already.
    fn join(&mut self, node: &mut Node, included: Node) {
        let Value::Map(entries) = &mut node.value else {
            return;
        };
        let Value::Map(more) = included.value else {
            self.diagnostics.push(Diagnostic::error(
                Code::WrongType,
                included.origin,
                "a configuration file is a mapping",
            ));
            return;
        };
        for new in more {
            if new.key.value == "include" {
                continue;
            }
            match entries
                .iter_mut()
                .find(|entry| entry.key.value == new.key.value)
            {
                None => entries.push(new),
                Some(old) => join_section(old, new, &mut self.diagnostics),
            }
        }
    }
}

/// Joins one section that stands in two files.
fn join_section(old: &mut Entry, new: Entry, diagnostics: &mut Vec<Diagnostic>) {
    let key = old.key.value.as_str();
    match (&mut old.value.value, new.value.value) {
        (_, Value::Null) => diagnostics.push(empty_section(&new.key)),
        (slot @ Value::Null, value) => {
            *slot = value;
            diagnostics.push(empty_section(&old.key));
        }
        (Value::List(items), Value::List(more))
            if matches!(key, "listeners" | "routes" | "tests") =>
        {
            items.extend(more);
        }
        (Value::Map(entries), Value::Map(more)) if matches!(key, "pools" | "services") => {
            for entry in more {
                match entries
                    .iter()
                    .find(|there| there.key.value == entry.key.value)
                {
                    None => entries.push(entry),
                    Some(there) => diagnostics.push(defined_twice(&entry.key, there.key.origin)),
                }
            }
        }
        _ => diagnostics.push(
            Diagnostic::error(
                Code::DuplicateKey,
                new.key.origin,
                format!("`{key}` stands in another file already"),
            )
            .related(old.key.origin, "there"),
        ),
    }
}

/// The complaint about a section with nothing in it, which stands in another file as well.
fn empty_section(key: &At<String>) -> Diagnostic {
    nothing_given(key).help("write what belongs there, or leave the key out of this file")
}

/// The complaint about a name that two files define.
fn defined_twice(key: &At<String>, first: Origin) -> Diagnostic {
    Diagnostic::error(
        Code::DuplicateName,
        key.origin,
        format!("`{key}` is defined twice"),
    )
    .related(first, "first here")
}

/// The folders in which files or folders may appear that a pattern would match: the deepest that has no
/// wildcard in its name, and those that are there already for the rest of the pattern.
fn folders_of_pattern(pattern: &Path) -> Vec<PathBuf> {
    let mut folder = PathBuf::new();
    let mut folders = Vec::new();
    let parent = pattern.parent().unwrap_or_else(|| Path::new(""));
    let mut steps = parent.components();
    for step in steps.by_ref() {
        if step.as_os_str().to_string_lossy().contains(['*', '?', '[']) {
            let mut upto = folder.join(step);
            loop {
                let found = glob::glob(&upto.to_string_lossy()).ok();
                let found = found.into_iter().flatten().flatten();
                folders.extend(found.filter(|path| path.is_dir()).take(MOST_FILES));
                match steps.next() {
                    Some(step) => upto.push(step),
                    None => break,
                }
            }
            break;
        }
        folder.push(step);
    }
    folders.push(folder);
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_again_is_unchanged_until_anything_changes() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| std::fs::write(at(name), text).unwrap();
        write("secret", "one");
        write("a.part.yaml", "pools: {}");
        let main = "include: [ '*.part.yaml' ]\nstate_dir: '${file:secret}'\n";
        write("main.yaml", main);
        let inputs = || load(&at("main.yaml"), &Machine::default()).inputs;
        for (name, text) in [
            ("main.yaml", "include: [ '*.part.yaml' ]\n"),
            ("secret", "two"),
            ("a.part.yaml", "pools: { }"),
            ("b.part.yaml", "services: {}"),
        ] {
            let before = std::fs::read_to_string(at(name)).ok();
            let found = inputs();
            assert!(found.are_unchanged());
            write(name, text);
            assert!(!found.are_unchanged(), "{name}");
            match before {
                Some(before) => write(name, &before),
                None => std::fs::remove_file(at(name)).unwrap(),
            }
            assert!(found.are_unchanged(), "{name} as before");
        }
    }

    #[test]
    fn what_did_not_come_from_files_is_never_known_to_be_unchanged() {
        assert!(!Inputs::default().are_unchanged());
        let missing = load(Path::new("/nowhere.yaml"), &Machine::default());
        assert!(!missing.inputs.are_unchanged());
        let folder = Path::new("");
        let text = load_text("a", folder, "pools: {}".to_owned(), &Machine::default());
        assert!(!text.inputs.are_unchanged());
    }
}
