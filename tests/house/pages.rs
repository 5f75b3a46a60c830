//! The pages about the code say what the code says: every file has its place in `docs/ARCHITECTURE.md`, and
//! what pages name exists.

use std::collections::BTreeSet;

use pulldown_cmark::{Event, Parser};

use super::circles::{CRATES, Crate};
use super::{read, root};

/// The pages that lead through the code.
const PAGES: [&str; 3] = [
    "docs/ARCHITECTURE.md",
    "docs/life-of-a-request.md",
    "docs/life-of-a-change.md",
];

/// What stands in a page as code.
fn code_of(markdown: &str) -> Vec<String> {
    Parser::new_ext(markdown, pulldown_cmark::Options::ENABLE_TABLES)
        .filter_map(|event| match event {
            Event::Code(code) => Some(code.into_string()),
            _ => None,
        })
        .collect()
}

/// The part of the page about the architecture that is about a crate.
fn section<'a>(page: &'a str, name: &str) -> &'a str {
    let head = format!("\n### {name}:");
    let from = page
        .find(&head)
        .unwrap_or_else(|| panic!("no section about {name}"));
    let rest = &page[from + head.len()..];
    &rest[..rest.find("\n##").unwrap_or(rest.len())]
}

#[test]
fn every_file_has_its_place_in_the_architecture() {
    let page = read(&root().join(PAGES[0]));
    for (name, file) in ["config", "certs", "control", "proxy"]
        .into_iter()
        .zip(CRATES)
    {
        let named: BTreeSet<String> = code_of(section(&page, name)).into_iter().collect();
        let folder = root().join(name).join("src");
        for path in &named {
            if path.contains(' ') || path.starts_with("../") || path.contains("/src/") {
                continue;
            }
            if let Some(inside) = path.strip_suffix("/*") {
                assert!(
                    folder.join(inside).is_dir(),
                    "{name}: there is no folder `{inside}`"
                );
            }
        }
        let mut missing = Vec::new();
        for module in &Crate::load(file).0 {
            let path = module.path.join("/");
            if path.is_empty() {
                continue;
            }
            let folders = module.path.iter().scan(String::new(), |so_far, part| {
                *so_far = format!("{so_far}{part}/");
                Some(format!("{so_far}*"))
            });
            let placed = named.contains(&format!("{path}.rs"))
                || folders
                    .take(module.path.len() - 1)
                    .any(|folder| named.contains(&folder));
            if !placed {
                missing.push(path);
            }
        }
        assert!(missing.is_empty(), "{name}: without a place: {missing:?}");
    }
}

#[test]
fn files_that_pages_name_exist() {
    let mut looked_at = 0;
    for page in PAGES {
        let text = read(&root().join(page));
        for code in code_of(&text) {
            let Some(path) = code.strip_suffix(".rs") else {
                continue;
            };
            if path.contains(['*', ' ', '<']) {
                continue;
            }
            let crates = [
                "",
                "config/src/",
                "certs/src/",
                "control/src/",
                "proxy/src/",
                "src/",
            ];
            let found = crates
                .iter()
                .any(|of| root().join(format!("{of}{code}")).is_file())
                || anywhere(&code);
            assert!(found, "{page} names `{code}`, which is not there");
            looked_at += 1;
        }
    }
    assert!(looked_at > 100, "is this test blind?");
}

/// Whether a file of some room is named by the end of its path.
fn anywhere(name: &str) -> bool {
    let end = format!("/{name}");
    super::files(root(), "rs")
        .iter()
        .any(|path| path.to_str().unwrap().ends_with(&end))
}

#[test]
fn functions_that_pages_name_exist() {
    let crates: Vec<Crate> = CRATES.iter().map(|file| Crate::load(file)).collect();
    let (mut looked_at, mut missing) = (0, Vec::new());
    for page in PAGES {
        for code in code_of(&read(&root().join(page))) {
            let parts: Vec<&str> = code.split("::").collect();
            let is_path = parts.len() > 1
                && parts.iter().all(|part| {
                    !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_')
                });
            if !is_path {
                continue;
            }
            let (owner, name) = (parts[parts.len() - 2], parts[parts.len() - 1]);
            let modules = || crates.iter().flat_map(|one| &one.0);
            let is_type = owner.starts_with(char::is_uppercase);
            let found = if is_type {
                modules().any(|module| module.defined.contains(owner))
                    && modules().any(|module| module.words.contains(name))
            } else {
                modules().any(|module| {
                    module.path.last().is_some_and(|last| last == owner)
                        && module.defined.contains(name)
                })
            };
            if !found {
                missing.push(format!("{page}: `{code}`"));
            }
            looked_at += 1;
        }
    }
    assert!(missing.is_empty(), "not there: {missing:#?}");
    assert!(looked_at > 40, "is this test blind?");
}

#[test]
fn questions_of_newcomers_have_one_answer_each() {
    let page = read(&root().join(PAGES[0]));
    let from = page
        .find("\n## Ten questions")
        .expect("the section of the ten questions");
    let rest = &page[from + 1..];
    let section = &rest[..rest[3..].find("\n## ").map_or(rest.len(), |end| end + 3)];
    let rows: Vec<&str> = section
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(2)
        .collect();
    assert_eq!(rows.len(), 10, "{rows:?}");
    for row in rows {
        let code = code_of(row);
        assert_eq!(code.len(), 1, "one path: {row}");
        assert!(root().join(&code[0]).exists(), "{row}: it is not there");
    }
}
