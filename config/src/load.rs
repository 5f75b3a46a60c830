//! From files to one tree: the main file, what it includes, and how they are joined.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::decode::reader::nothing_given;
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
    pub(crate) watch: WatchedFiles,
    /// What was found there.
    pub(crate) inputs: Inputs,
}

/// What a configuration depends on outside itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchedFiles {
    /// Files.
    pub files: BTreeSet<PathBuf>,
    /// Folders in which new files may appear that an `include` pattern would match.
    pub folders: BTreeSet<PathBuf>,
    /// What such files are called: the last parts of the patterns. Without any, every file in one of the
    /// folders counts.
    pub patterns: BTreeSet<String>,
}

impl WatchedFiles {
    /// Whether a file of this name in one of the folders may be meant.
    pub fn may_mean(&self, name: &std::ffi::OsStr) -> bool {
        let name = name.to_string_lossy();
        let means = |pattern: &String| {
            *pattern == name
                || glob::Pattern::new(pattern)
                    .is_ok_and(|pattern| pattern.matches_with(&name, MATCHING))
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
    patterns: Vec<(FilePattern, Vec<PathBuf>)>,
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
            && self
                .patterns
                .iter()
                .all(|(pattern, before)| pattern.files().is_ok_and(|found| found == *before))
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

/// Names that begin with a dot are meant only where a dot is written, as in a shell: editors and version
/// control keep things under such names, and Kubernetes the folders (`..data`) that its links lead to.
const MATCHING: glob::MatchOptions = glob::MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// How files are looked for. The library leaves out every name with a dot where it is told to mind them,
/// also those that a pattern with a dot means: such a pattern decides by itself.
fn looking(pattern: &Path) -> glob::MatchOptions {
    let means_dots = pattern.components().any(|step| {
        let step = Path::new(step.as_os_str());
        has_wildcard(step) && step.to_string_lossy().starts_with('.')
    });
    glob::MatchOptions {
        require_literal_leading_dot: !means_dots,
        ..MATCHING
    }
}

/// A pattern of an `include`, and where it belongs. Only what was written in the file is a pattern: the
/// folder around the file may be called whatever it likes.
#[derive(Clone, Debug)]
struct FilePattern {
    /// The folder of the file in which it stands. Without meaning for an absolute pattern.
    folder: PathBuf,
    /// As written.
    pattern: PathBuf,
}

impl FilePattern {
    /// The files that it names, in the order of their names, each once, under whatever name comes first.
    fn files(&self) -> Result<Vec<PathBuf>, glob::PatternError> {
        let literal = self.folder.join(&self.pattern);
        let found = glob::glob_with(
            &pattern_in(&self.folder, &self.pattern),
            looking(&self.pattern),
        );
        if literal.is_file() {
            return Ok(vec![literal]);
        }
        let mut seen = BTreeSet::new();
        let is_new = |path: &PathBuf| match std::fs::canonicalize(path) {
            Ok(real) => seen.insert(real),
            Err(_) => true,
        };
        let found = found?.flatten().filter(|path| may_be_meant(path));
        Ok(found.filter(is_new).take(MOST_FILES + 1).collect())
    }

    /// The folders in which files or folders may appear that it would match: the deepest that has no
    /// wildcard in its name, and those that are there already for the rest of the pattern.
    fn folders(&self) -> Vec<PathBuf> {
        let mut folder = self.folder.clone();
        let mut folders = Vec::new();
        let parent = self.pattern.parent().unwrap_or_else(|| Path::new(""));
        let mut steps = parent.components();
        for step in steps.by_ref() {
            let step = Path::new(step.as_os_str());
            if has_wildcard(step) && !folder.join(step).is_dir() {
                let mut upto = PathBuf::from(pattern_in(&folder, step));
                loop {
                    let found =
                        glob::glob_with(&upto.to_string_lossy(), looking(&self.pattern)).ok();
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
}

/// Whether something that a pattern matches may be meant by it: files are, and what is there and is no
/// folder (a named pipe, say) is complained about when it is read.
fn may_be_meant(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| !found.is_dir())
}

fn has_wildcard(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '['])
}

/// A pattern that is relative to a folder, as one text.
fn pattern_in(folder: &Path, pattern: &Path) -> String {
    let folder = PathBuf::from(glob::Pattern::escape(&folder.to_string_lossy()));
    folder.join(pattern).to_string_lossy().into_owned()
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
    watch: WatchedFiles,
    inputs: Inputs,
    /// The files between the main one and the one being read, whatever they are called.
    within: Vec<(u64, u64)>,
    /// How many files were read, each as often as it was.
    reads: usize,
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
        let identity = read.as_ref().map(|(_, stamp)| stamp.file).ok();
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
        // The same file may have many names: through links, and by ways that lead back.
        let identity = identity.unwrap_or_default();
        if self.within.contains(&identity) {
            self.diagnostics.push(Diagnostic::error(
                Code::Include,
                included_at,
                format!("`{}` includes itself", path.display()),
            ));
            return None;
        }
        let folder = path.parent().unwrap_or_else(|| Path::new("")).to_path_buf();
        let id = self.sources.add(path.display().to_string(), folder, text);
        self.within.push(identity);
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
        let full = FilePattern {
            folder: self.sources.resolve(origin, Path::new("")),
            pattern: PathBuf::from(pattern),
        };
        self.watch.folders.extend(full.folders());
        if let Some(name) = full.pattern.file_name() {
            let name = name.to_string_lossy().into_owned();
            self.watch.patterns.insert(name);
        }
        let paths = match full.files() {
            Ok(paths) => paths,
            Err(error) => {
                self.diagnostics.push(Diagnostic::error(
                    Code::Include,
                    origin,
                    format!("`{pattern}` is not a file pattern: {}", error.msg),
                ));
                return Vec::new();
            }
        };
        self.inputs.patterns.push((full, paths.clone()));
        if paths.is_empty() {
            self.diagnostics.push(Diagnostic::error(
                Code::Include,
                origin,
                format!("`{pattern}` matches no file"),
            ));
        }
        // Counted as often as they are read: files that include each other twice are many.
        self.reads += paths.len();
        if self.reads > MOST_FILES {
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

    /// A folder with files in it, of which links are written as `name -> target`.
    fn folder_of(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let (name, target) = match name.split_once(" -> ") {
                Some((name, target)) => (name, Some(target)),
                None => (*name, None),
            };
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            match target {
                Some(target) => std::os::unix::fs::symlink(target, path).unwrap(),
                None => std::fs::write(path, content).unwrap(),
            }
        }
        folder
    }

    /// The files that a main file in this folder is made of, and what was wrong.
    fn made_of(folder: &Path, main: &str) -> (Vec<String>, Vec<String>) {
        let loaded = load(&folder.join(main), &Machine::default());
        let root = folder.parent().unwrap().to_path_buf();
        let name = |source: &crate::source::Source| {
            let path = Path::new(&source.name);
            path.strip_prefix(&root)
                .unwrap_or(path)
                .display()
                .to_string()
        };
        let read = loaded.sources.iter().skip(1).map(name).collect();
        let wrong = loaded.diagnostics.into_iter().map(|it| it.message);
        (read, wrong.collect())
    }

    #[test]
    fn only_what_is_written_is_a_pattern() {
        for odd in ["a[1]", "a*b", "what?", "[", "]", "{a}", "a b"] {
            let outer = folder_of(&[
                (&format!("{odd}/main.yaml"), "include: [ 'conf.d/*.yaml' ]"),
                (&format!("{odd}/conf.d/b.yaml"), "pools: {}"),
                // What the folder's name would match if it were a pattern.
                ("a1/conf.d/c.yaml", "pools: {}"),
                ("aXb/conf.d/c.yaml", "pools: {}"),
                ("whatX/conf.d/c.yaml", "pools: {}"),
            ]);
            let folder = outer.path().join(odd);
            let (read, wrong) = made_of(&folder, "main.yaml");
            assert_eq!(read, [format!("{odd}/conf.d/b.yaml")], "{wrong:?}");
            let loaded = load(&folder.join("main.yaml"), &Machine::default());
            assert!(loaded.watch.folders.contains(&folder.join("conf.d")));
            assert!(loaded.inputs.are_unchanged());
            std::fs::write(folder.join("conf.d/d.yaml"), "services: {}").unwrap();
            assert!(!loaded.inputs.are_unchanged());
        }
    }

    #[test]
    fn a_file_that_is_there_is_meant_by_its_name() {
        let folder = folder_of(&[
            ("main.yaml", "include: [ 'a[1].yaml', 'b[1]/*.yaml' ]"),
            ("a[1].yaml", "pools: {}"),
            ("a1.yaml", "pools: {}"),
            ("b1/c.yaml", "services: {}"),
        ]);
        let (read, wrong) = made_of(folder.path(), "main.yaml");
        let names: Vec<_> = read
            .iter()
            .map(|it| it.split_once('/').unwrap().1)
            .collect();
        assert_eq!(names, ["a[1].yaml", "b1/c.yaml"], "{wrong:?}");
    }

    #[test]
    fn what_begins_with_a_dot_is_only_meant_where_a_dot_is_written() {
        let folder = folder_of(&[
            (
                "main.yaml",
                "include: [ 'conf.d/*.yaml', 'conf.d/*/*.yaml', '.more/.*.yaml' ]",
            ),
            ("conf.d/a.yaml", "pools: {}"),
            ("conf.d/.a.yaml.swp", "["),
            ("conf.d/.#a.yaml", "["),
            ("conf.d/.b.yaml", "["),
            ("conf.d/.git/c.yaml", "["),
            ("conf.d/in/d.yaml", "services: {}"),
            (".more/.e.yaml", "routes: []"),
        ]);
        let (read, wrong) = made_of(folder.path(), "main.yaml");
        let names: Vec<_> = read
            .iter()
            .map(|it| it.split_once('/').unwrap().1)
            .collect();
        let expected = ["conf.d/a.yaml", "conf.d/in/d.yaml", ".more/.e.yaml"];
        assert_eq!(names, expected, "{wrong:?}");
        let watch = load(&folder.path().join("main.yaml"), &Machine::default()).watch;
        for (name, meant) in [("x.yaml", true), (".x.yaml", true), ("x.yml", false)] {
            assert_eq!(watch.may_mean(name.as_ref()), meant, "{name}");
        }
        let plain = WatchedFiles {
            patterns: BTreeSet::from(["*.yaml".to_owned()]),
            ..WatchedFiles::default()
        };
        assert!(!plain.may_mean(".#x.yaml".as_ref()) && plain.may_mean("x.yaml".as_ref()));
    }

    #[test]
    fn a_folder_of_kubernetes_is_read_once_through_its_links() {
        let folder = folder_of(&[
            ("main.yaml", "include: [ 'map/**/*.yaml' ]"),
            ("map/..2026_12_01/a.yaml", "pools: {}"),
            ("map/..2026_12_01/b.yaml", "services: {}"),
            ("map/..data -> ..2026_12_01", ""),
            ("map/a.yaml -> ..data/a.yaml", ""),
            ("map/b.yaml -> ..data/b.yaml", ""),
        ]);
        let (read, wrong) = made_of(folder.path(), "main.yaml");
        let names: Vec<_> = read
            .iter()
            .map(|it| it.split_once('/').unwrap().1)
            .collect();
        assert_eq!(names, ["map/a.yaml", "map/b.yaml"], "{wrong:?}");
        assert_eq!(wrong, [""; 0]);
    }

    #[test]
    fn a_circle_is_seen_under_every_spelling() {
        for (include, more) in [
            ("main.yaml", vec![]),
            ("./main.yaml", vec![]),
            ("in/../main.yaml", vec![("in/x", "")]),
            ("in/../in/../main.yaml", vec![("in/x", "")]),
            ("link.yaml", vec![("link.yaml -> main.yaml", "")]),
            ("self/main.yaml", vec![("self -> .", "")]),
            ("m*.yaml", vec![]),
            (
                "b.yaml",
                vec![("b.yaml", "include: [ './in/../main.yaml' ]"), ("in/x", "")],
            ),
        ] {
            let main = format!("include: [ '{include}' ]");
            let mut files = vec![("main.yaml", main.as_str())];
            files.extend(more);
            let folder = folder_of(&files);
            let (read, wrong) = made_of(folder.path(), "main.yaml");
            assert!(read.len() <= 1, "{include}: {read:?}");
            assert_eq!(wrong.len(), 1, "{include}: {wrong:?}");
            assert!(wrong[0].ends_with("includes itself"), "{wrong:?}");
        }
        // The same file through two links is no circle, and is read once.
        let folder = folder_of(&[
            ("main.yaml", "include: [ '*.part' ]"),
            ("a.part", "pools: {}"),
            ("b.part -> a.part", ""),
        ]);
        let (read, wrong) = made_of(folder.path(), "main.yaml");
        assert_eq!((read.len(), wrong.len()), (1, 0), "{wrong:?}");
    }

    #[test]
    fn files_that_include_each_other_again_and_again_come_to_an_end() {
        let mut files = vec![("main.yaml".to_owned(), "include: [ 0.yaml ]".to_owned())];
        files.extend((0..40).map(|at| {
            let next = format!("{}.yaml", at + 1);
            (
                format!("{at}.yaml"),
                format!("include: [ {next}, ./{next} ]"),
            )
        }));
        files.push(("40.yaml".to_owned(), "{}".to_owned()));
        let files: Vec<_> = files
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect();
        let folder = folder_of(&files);
        let (read, wrong) = made_of(folder.path(), "main.yaml");
        assert!(read.len() <= MOST_FILES);
        assert!(
            wrong.iter().any(|it| it.contains("more than 10000")),
            "{wrong:?}"
        );
    }

    #[test]
    fn what_is_no_file_is_refused_wherever_it_is_named() {
        let folder = folder_of(&[(
            "main.yaml",
            "include: [ '*.part' ]\nstate_dir: '${file:secret}'",
        )]);
        for name in ["pipe", "a.part", "secret"] {
            let made = std::process::Command::new("mkfifo")
                .arg(folder.path().join(name))
                .status();
            assert!(made.unwrap().success());
        }
        let (_, wrong) = made_of(folder.path(), "main.yaml");
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        for message in wrong {
            assert!(
                message.ends_with("it is a named pipe, not a file"),
                "{message}"
            );
        }
        let (_, wrong) = made_of(folder.path(), "pipe");
        assert!(
            wrong[0].ends_with("it is a named pipe, not a file"),
            "{wrong:?}"
        );
        let (_, wrong) = made_of(folder.path(), ".");
        assert!(
            wrong[0].ends_with("it is a folder, not a file"),
            "{wrong:?}"
        );
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
