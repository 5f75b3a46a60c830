//! No circles between files, none between rooms: whoever reads a journey through the code goes downwards.
//!
//! Which file names which is read from the code itself. A path is followed through imports and
//! re-exports to the file where the thing stands, so a re-export in a parent is no arrow to the parent.
//! Tests may name anything.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

use super::{read, root};

/// The crates, by the file that each begins with.
pub(super) const CRATES: [&str; 5] = [
    "config/src/lib.rs",
    "certs/src/lib.rs",
    "control/src/lib.rs",
    "proxy/src/lib.rs",
    "src/main.rs",
];

/// How many rooms may stand side by side in a folder.
const SIDE_BY_SIDE: usize = 24;

/// What a file consists of, as far as paths go.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    PathSeparator,
    Open(char),
    Close(char),
    Other(char),
}

impl Token {
    fn is(&self, word: &str) -> bool {
        matches!(self, Self::Word(it) if it == word)
    }
}

fn flatten(stream: TokenStream, into: &mut Vec<Token>) {
    let mut trees = stream.into_iter().peekable();
    while let Some(tree) = trees.next() {
        match tree {
            TokenTree::Ident(word) => into.push(Token::Word(word.to_string())),
            TokenTree::Literal(_) => into.push(Token::Other('"')),
            TokenTree::Punct(punct) => {
                let doubled = punct.as_char() == ':' && punct.spacing() == Spacing::Joint;
                let next = matches!(trees.peek(), Some(TokenTree::Punct(p)) if p.as_char() == ':');
                if doubled && next {
                    trees.next();
                    into.push(Token::PathSeparator);
                } else {
                    into.push(Token::Other(punct.as_char()));
                }
            }
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Brace => ('{', '}'),
                    Delimiter::Bracket => ('[', ']'),
                    Delimiter::Parenthesis => ('(', ')'),
                    Delimiter::None => (' ', ' '),
                };
                into.push(Token::Open(open));
                flatten(group.stream(), into);
                into.push(Token::Close(close));
            }
        }
    }
}

/// Where the group that opens here is closed.
fn closed(tokens: &[Token], from: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(from) {
        match token {
            Token::Open(_) => depth += 1,
            Token::Close(_) => {
                depth -= 1;
                if depth == 0 {
                    return at;
                }
            }
            _ => {}
        }
    }
    panic!("a group that is never closed");
}

/// Without what is only there for tests.
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let attribute =
            tokens[at] == Token::Other('#') && tokens.get(at + 1) == Some(&Token::Open('['));
        if !attribute {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let end = closed(tokens, at + 1);
        let words = &tokens[at + 2..end];
        let for_tests = words.first().is_some_and(|word| word.is("cfg"))
            && words.iter().any(|word| word.is("test"))
            && !words.iter().any(|word| word.is("not"));
        if for_tests {
            at = behind_item(tokens, end + 1);
        } else {
            kept.extend_from_slice(&tokens[at..=end]);
            at = end + 1;
        }
    }
    kept
}

/// Where the item ends that begins here, with its attributes.
fn behind_item(tokens: &[Token], mut at: usize) -> usize {
    while at < tokens.len() {
        match &tokens[at] {
            Token::Open('{') => {
                let end = closed(tokens, at);
                let more = tokens.get(end + 1) == Some(&Token::Other(';'));
                return end + 1 + usize::from(more);
            }
            Token::Open(_) => at = closed(tokens, at) + 1,
            Token::Other(';' | ',') => return at + 1,
            _ => at += 1,
        }
    }
    at
}

/// A file of a crate.
#[derive(Debug, Default)]
pub(super) struct Module {
    pub(super) path: Vec<String>,
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
    /// What stands in it.
    pub(super) defined: BTreeSet<String>,
    /// Every word in it.
    pub(super) words: BTreeSet<String>,
    /// What it imports or re-exports: name → path.
    imported: HashMap<String, Vec<String>>,
    globs: Vec<Vec<String>>,
    /// Every path that it names.
    named: Vec<Vec<String>>,
}

/// All files of a crate; the first one is its root.
#[derive(Debug)]
pub(super) struct Crate(pub(super) Vec<Module>);

impl Crate {
    pub(super) fn load(file: &str) -> Self {
        let mut all = Self(Vec::new());
        all.add(Vec::new(), &root().join(file), None);
        all
    }

    fn add(&mut self, path: Vec<String>, file: &Path, parent: Option<usize>) -> usize {
        let stream: TokenStream = read(file).parse().unwrap();
        let mut tokens = Vec::new();
        flatten(stream, &mut tokens);
        let tokens = without_tests(&tokens);
        let this = self.0.len();
        let mut module = Module {
            path: path.clone(),
            parent,
            ..Module::default()
        };
        scan(&tokens, &mut module);
        self.0.push(module);
        for pair in tokens.windows(3) {
            let [keyword, Token::Word(name), Token::Other(';')] = pair else {
                continue;
            };
            if keyword.is("mod") {
                let mut inner = path.clone();
                inner.push(name.clone());
                let child = self.add(
                    inner,
                    &folder_of(file).join(format!("{name}.rs")),
                    Some(this),
                );
                self.0[this].children.insert(name.clone(), child);
            }
        }
        this
    }

    /// The file in which that stands which a path names, seen from this file.
    fn find(&self, from: usize, path: &[String], depth: usize) -> Option<usize> {
        let first = path.first()?;
        if depth > 16 {
            return None;
        }
        let module = &self.0[from];
        let (mut at, mut rest) = match first.as_str() {
            "crate" => (0, &path[1..]),
            "self" => (from, &path[1..]),
            "super" => {
                let ups = path.iter().take_while(|word| *word == "super").count();
                let up = |at: usize| self.0[at].parent.unwrap_or(at);
                ((0..ups).fold(from, |at, _| up(at)), &path[ups..])
            }
            name if module.children.contains_key(name) => (module.children[name], &path[1..]),
            name => {
                let imported = module.imported.get(name)?;
                if imported.first() == Some(first) && imported.len() == 1 {
                    return None;
                }
                let whole = [imported, &path[1..]].concat();
                return self.find(from, &whole, depth + 1);
            }
        };
        while let Some(child) = rest.first().and_then(|name| self.0[at].children.get(name)) {
            (at, rest) = (*child, &rest[1..]);
        }
        let Some(name) = rest.first() else {
            return None; // The room itself: what is taken from it is named elsewhere.
        };
        let found = &self.0[at];
        if found.defined.contains(name) || at == from {
            return Some(at);
        }
        if let Some(elsewhere) = found.imported.get(name) {
            let whole = [elsewhere, &rest[1..]].concat();
            return self.find(at, &whole, depth + 1).or(Some(at));
        }
        let mut globs = found.globs.iter();
        let of_glob = globs.find_map(|glob| {
            let whole = [glob.as_slice(), rest].concat();
            let there = self.find(at, &whole, depth + 1)?;
            self.0[there].defined.contains(name).then_some(there)
        });
        of_glob.or(Some(at))
    }

    /// Which file names which.
    fn arrows(&self) -> BTreeSet<(usize, usize)> {
        let mut arrows = BTreeSet::new();
        for (from, module) in self.0.iter().enumerate() {
            for path in &module.named {
                if let Some(to) = self.find(from, path, 0)
                    && to != from
                {
                    arrows.insert((from, to));
                }
            }
        }
        arrows
    }

    fn shown(&self, at: usize) -> String {
        let path = self.0[at].path.join("/");
        if path.is_empty() {
            "the root".to_owned()
        } else {
            path
        }
    }
}

/// The folder of a file's modules.
fn folder_of(file: &Path) -> PathBuf {
    let stem = file.file_stem().unwrap();
    if stem == "lib" || stem == "main" {
        file.parent().unwrap().to_owned()
    } else {
        file.with_extension("")
    }
}

/// Finds what a file defines, imports and names.
fn scan(tokens: &[Token], module: &mut Module) {
    const ITEMS: [&str; 9] = [
        "fn",
        "struct",
        "enum",
        "trait",
        "type",
        "const",
        "static",
        "union",
        "macro_rules",
    ];
    let mut at = 0;
    while at < tokens.len() {
        let Token::Word(word) = &tokens[at] else {
            at += 1;
            continue;
        };
        module.words.insert(word.clone());
        if ITEMS.contains(&word.as_str()) {
            let name = usize::from(word == "macro_rules") + at + 1;
            if let Some(Token::Word(name)) = tokens.get(name) {
                module.defined.insert(name.clone());
            }
        }
        if word == "use" {
            at = imports(tokens, at + 1, &[], module);
            continue;
        }
        let begins = at == 0 || tokens[at - 1] != Token::PathSeparator;
        let mut path = vec![word.clone()];
        let mut next = at + 1;
        while let (Some(Token::PathSeparator), Some(Token::Word(word))) =
            (tokens.get(next), tokens.get(next + 1))
        {
            path.push(word.clone());
            next += 2;
        }
        if begins && path.len() > 1 {
            module.named.push(path);
        }
        at = next;
    }
}

/// Reads one tree of a `use`; answers where it ends.
fn imports(tokens: &[Token], mut at: usize, before: &[String], module: &mut Module) -> usize {
    let mut path = before.to_vec();
    loop {
        match tokens.get(at) {
            Some(Token::PathSeparator) => at += 1,
            Some(Token::Open('{')) => {
                let end = closed(tokens, at);
                at += 1;
                while at < end {
                    at = imports(tokens, at, &path, module);
                    at += usize::from(tokens[at] == Token::Other(','));
                }
                return end + 1;
            }
            Some(Token::Other('*')) => {
                module.globs.push(path);
                return at + 1;
            }
            Some(Token::Word(word)) => {
                let is_self = word == "self" && !path.is_empty();
                if !is_self {
                    path.push(word.clone());
                }
                at += 1;
                if tokens.get(at) == Some(&Token::PathSeparator) {
                    continue;
                }
                let mut name = path.last().unwrap().clone();
                if tokens.get(at).is_some_and(|word| word.is("as")) {
                    if let Some(Token::Word(word)) = tokens.get(at + 1) {
                        name.clone_from(word);
                    }
                    at += 2;
                }
                module.named.push(path.clone());
                module.imported.insert(name, path);
                return at;
            }
            _ => return at + 1,
        }
    }
}

/// Groups of things that lead to each other.
fn circles<N: Ord + Clone>(arrows: &BTreeSet<(N, N)>) -> Vec<Vec<N>> {
    let reaches = |from: &N| {
        let mut reached = BTreeSet::new();
        let mut open = vec![from.clone()];
        while let Some(at) = open.pop() {
            for (_, to) in arrows.iter().filter(|(from, _)| *from == at) {
                if reached.insert(to.clone()) {
                    open.push(to.clone());
                }
            }
        }
        reached
    };
    let nodes: BTreeSet<&N> = arrows.iter().flat_map(|(a, b)| [a, b]).collect();
    let reached: BTreeMap<&N, BTreeSet<N>> =
        nodes.iter().map(|node| (*node, reaches(node))).collect();
    let mut found: Vec<Vec<N>> = Vec::new();
    for node in nodes {
        if !reached[node].contains(node) || found.iter().any(|circle| circle.contains(node)) {
            continue;
        }
        let back = |other: &&N| reached[*other].contains(node);
        let circle = reached[node].iter().filter(back).cloned().collect();
        found.push(circle);
    }
    found
}

#[test]
fn files_never_name_each_other_in_a_circle() {
    let mut found = Vec::new();
    for file in CRATES {
        let all = Crate::load(file);
        let arrows = all.arrows();
        assert!(
            all.0.len() > 10 && arrows.len() > 10,
            "is this test blind to {file}?"
        );
        for circle in circles(&arrows) {
            let inside = arrows
                .iter()
                .filter(|(from, to)| circle.contains(from) && circle.contains(to))
                .map(|(from, to)| format!("  {} → {}\n", all.shown(*from), all.shown(*to)));
            found.push(format!("{file}:\n{}", inside.collect::<String>()));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn rooms_side_by_side_never_name_each_other_in_a_circle() {
    let mut found = Vec::new();
    for file in CRATES {
        let all = Crate::load(file);
        // By the folder in which two files part: the rooms there that they are in.
        let mut folders: BTreeMap<&[String], BTreeSet<(&String, &String)>> = BTreeMap::new();
        for (from, to) in all.arrows() {
            let (from, to) = (&all.0[from].path, &all.0[to].path);
            let same = from.iter().zip(to).take_while(|(a, b)| a == b).count();
            if let (Some(a), Some(b)) = (from.get(same), to.get(same)) {
                folders.entry(&from[..same]).or_default().insert((a, b));
            }
        }
        for (folder, arrows) in folders {
            for circle in circles(&arrows) {
                found.push(format!("{file}, {}: {circle:?}", folder.join("/")));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn few_rooms_stand_side_by_side() {
    for file in CRATES {
        for module in Crate::load(file).0 {
            let rooms = module.children.len();
            let place = module.path.join("/");
            assert!(
                rooms <= SIDE_BY_SIDE,
                "{file}, {place}: {rooms} rooms side by side"
            );
        }
    }
}

#[test]
fn a_circle_is_found() {
    let arrows = BTreeSet::from([(1, 2), (2, 3), (3, 1), (3, 4), (5, 1)]);
    assert_eq!(circles(&arrows), [[1, 2, 3]]);
    assert!(circles(&BTreeSet::from([(1, 2), (2, 3), (1, 3)])).is_empty());
}
