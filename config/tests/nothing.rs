//! A key with nothing behind it is an error, whichever key it is: a file that is cut off ends like
//! that, and must not mean less than it was going to say.

use std::path::Path;

use portolan_config::diagnostic::Code;
use portolan_config::{Machine, check_text};
use serde_json::Value;

/// The tree once for every value in it, with nothing in that one's place; and where that is.
fn emptied(tree: &Value, place: &str, found: &mut Vec<(String, Value)>) {
    let mut replace = |name: String, of: &Value, put: &dyn Fn(Value) -> Value| {
        let place = format!("{place}/{name}");
        found.push((place.clone(), put(Value::Null)));
        let mut deeper = Vec::new();
        emptied(of, &place, &mut deeper);
        found.extend(deeper.into_iter().map(|(place, value)| (place, put(value))));
    };
    match tree {
        Value::Object(entries) => {
            for (key, value) in entries {
                replace(key.clone(), value, &|new| {
                    let mut entries = entries.clone();
                    entries.insert(key.clone(), new);
                    Value::Object(entries)
                });
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                replace(at.to_string(), item, &|new| {
                    let mut items = items.clone();
                    items[at] = new;
                    Value::Array(items)
                });
            }
        }
        _ => {}
    }
}

#[test]
fn nothing_is_never_taken_for_something() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let machine = Machine::new([("HOME_REGION".to_owned(), "us-east-1".to_owned())]);
    let check = |text: String| check_text("portolan.yaml", text, &machine);
    let mut keys = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let (input, _) = text.split_once("\n--------\n").unwrap();
        let checked = check(input.to_owned());
        if checked.report.has_errors() {
            continue;
        }
        let mut found = Vec::new();
        emptied(&checked.written_json().unwrap(), "", &mut found);
        for (place, tree) in found {
            keys += 1;
            let checked = check(tree.to_string());
            let report = &checked.report;
            assert!(checked.plan.is_none(), "{}: {place}", path.display());
            assert!(
                report
                    .diagnostics
                    .iter()
                    .any(|found| found.code == Code::NothingGiven),
                "{}: {place}: {:?}",
                path.display(),
                report.first_error()
            );
        }
    }
    assert!(keys > 500, "only {keys} keys were tried");
}
