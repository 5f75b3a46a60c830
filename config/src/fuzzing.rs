//! What must hold for whatever stands in a configuration file: the target `config` of `tests/fuzz`.
//! The unit test below replays its corpus.

use std::io;
use std::path::Path;

use crate::diagnostic::{Code, Colours, Severity};
use crate::{Checked, Environment, check_text};

/// A machine without files, so that an input means the same everywhere.
struct Nowhere;

impl Environment for Nowhere {
    fn variable(&self, name: &str) -> Option<String> {
        (name == "NAME").then(|| "value".to_owned())
    }

    fn file(&self, _: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// A configuration file, all the way to a plan: a plan or errors, each with a place that exists; and
/// what `show --effective` prints means the same as what it was made of.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let checked = check(text);
    let report = &checked.report;
    assert_eq!(
        checked.plan.is_none(),
        report.has_errors(),
        "a plan, or errors"
    );
    for diagnostic in &report.diagnostics {
        // What is missing altogether stands nowhere.
        if diagnostic.severity == Severity::Error && diagnostic.code != Code::NothingToServe {
            let span = diagnostic.origin.span();
            let span = span.unwrap_or_else(|| panic!("no place: {}", diagnostic.message));
            assert!(span.start <= span.end, "{}", diagnostic.message);
            let place = report.sources.place(span).to_string();
            assert!(place.starts_with("fuzz.yaml:"), "{place}");
        }
        assert!(!diagnostic.message.is_empty());
    }
    report.render(Colours::On);
    report.render(Colours::Off);
    report.to_json();
    let _ = (checked.written_yaml(), checked.written_json());
    let (Some(shown), Some(json)) = (checked.effective_yaml(), checked.effective_json()) else {
        return;
    };
    // Secrets are dots, and stand for nothing.
    if checked.plan.is_none() || shown.contains('•') {
        return;
    }
    let again = check(&shown);
    assert!(
        again.plan.is_some(),
        "{}\n{shown}",
        again.report.render(Colours::Off)
    );
    assert_eq!(again.effective_json(), Some(json), "{shown}");
}

fn check(text: &str) -> Checked {
    check_text("fuzz.yaml", text.to_owned(), &Nowhere)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_holds() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut seeds = 0;
        for entry in std::fs::read_dir(root.join("../tests/fuzz/corpus/config")).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            config(&std::fs::read(path).unwrap());
            seeds += 1;
        }
        assert!(seeds > 0);
        // The golden cases are seeds as well: what stands above the dashes.
        for entry in std::fs::read_dir(root.join("tests/cases")).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            let case = std::fs::read_to_string(path).unwrap();
            let input = case.split("\n--------").next().unwrap_or_default();
            config(input.as_bytes());
        }
    }
}
