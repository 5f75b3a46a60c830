//! Golden cases: a configuration, and what `check` says about it.
//!
//! Every `tests/cases/*.case` holds an input, a line of dashes, and what must come out: the
//! report as a user sees it, and, when nothing is wrong, the configuration with every default
//! filled in. Adding a case is adding a file with an empty second half and running
//! `UPDATE_GOLDEN=1 cargo test -p portolan-config --test cases`; look at what it wrote.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use portolan_config::diagnostic::Colours;
use portolan_config::{Machine, check_text};

const SEPARATOR: &str = "\n--------\n";

/// What a user would see.
fn outcome(input: &str) -> String {
    let machine = Machine::new([("HOME_REGION".to_owned(), "us-east-1".to_owned())]);
    let checked = check_text("portolan.yaml", input.to_owned(), &machine);
    let mut out = checked.report.render(Colours::Off);
    let _ = writeln!(
        out,
        "{}",
        match checked.report.summary() {
            summary if summary.is_empty() => "fine".to_owned(),
            summary => summary,
        }
    );
    if input.contains("# show: effective") {
        let _ = write!(out, "\n{}", checked.effective_yaml().unwrap_or_default());
    }
    out
}

#[test]
fn every_case_says_what_it_said() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "case"))
        .collect();
    paths.sort();
    assert!(paths.len() > 20, "the cases are in {}", folder.display());
    let update = std::env::vars().any(|(name, value)| name == "UPDATE_GOLDEN" && value == "1");
    let mut wrong = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let (input, expected) = text.split_once(SEPARATOR).unwrap_or((&text, ""));
        let said = outcome(input);
        if said == expected {
            continue;
        }
        if update {
            std::fs::write(&path, format!("{input}{SEPARATOR}{said}")).unwrap();
        } else {
            wrong.push(format!(
                "=== {}\n--- expected\n{expected}\n--- said\n{said}",
                path.display()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
