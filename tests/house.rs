//! The structure of the project itself: which crate may know which, references that say what the
//! code says, links that lead somewhere.

mod circles;
mod links;
mod pages;
mod reference;
mod schema;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The crates, each of which may only know those before it.
const LAYERS: [&str; 5] = [
    "portolan-config",
    "portolan-certs",
    "portolan-control",
    "portolan-proxy",
    "portolan",
];

/// Folders that hold no sources of ours.
const NOT_OURS: [&str; 3] = ["target", ".git", ".tools"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder whose names end like this, in order.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", shown(&folder)));
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                if !NOT_OURS.contains(&name) {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A path as seen from the root.
fn shown(path: &Path) -> String {
    let path = path.strip_prefix(root()).unwrap_or(path);
    path.display().to_string()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", shown(path)))
}

/// What cargo knows about the crates of the workspace.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// What a crate needs, for its code and for its tests.
fn needs(package: &Value) -> Vec<&str> {
    let dependencies = package["dependencies"].as_array().unwrap();
    dependencies
        .iter()
        .map(|dependency| dependency["name"].as_str().unwrap())
        .collect()
}

/// The crates that need another one whose name begins like this.
fn who_needs(prefix: &str) -> Vec<String> {
    let mut who: Vec<String> = packages()
        .iter()
        .filter(|package| needs(package).iter().any(|name| name.starts_with(prefix)))
        .map(|package| package["name"].as_str().unwrap().to_owned())
        .collect();
    who.sort_unstable();
    who
}

#[test]
fn crates_know_only_those_to_their_left() {
    let layer = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    let packages = packages();
    assert_eq!(packages.len(), LAYERS.len(), "a crate without a layer");
    for package in &packages {
        let name = package["name"].as_str().unwrap();
        let own = layer(name).unwrap_or_else(|| panic!("{name} has no layer"));
        for needed in needs(package) {
            if let Some(theirs) = layer(needed) {
                assert!(theirs < own, "{name} must not know {needed}");
            }
        }
    }
}

#[test]
fn the_engine_and_the_yaml_reader_have_one_user_each() {
    assert_eq!(who_needs("pingora"), ["portolan-proxy"]);
    assert_eq!(who_needs("serde-saphyr"), ["portolan-config"]);
    let mut engine = 0;
    let mut yaml = Vec::new();
    for path in files(root(), "rs") {
        let place = shown(&path);
        if place.starts_with("tests/house") {
            continue;
        }
        let text = read(&path);
        if text.contains("pingora::") || text.contains("use pingora") {
            assert!(place.starts_with("proxy/"), "{place} names the engine");
            engine += 1;
        }
        if text.contains("serde_yaml") || text.contains("serde_saphyr") {
            yaml.push(place);
        }
    }
    assert!(engine > 0, "nobody names the engine: is this test blind?");
    assert_eq!(yaml, ["config/src/parse.rs"]);
}

#[test]
fn there_is_one_cryptography_and_it_needs_no_other_build_system() {
    let lock = read(&root().join("Cargo.lock"));
    let locked = |name: &str| lock.contains(&format!("\nname = \"{name}\"\n"));
    assert!(locked("rustls") && locked("ring"), "is this test blind?");
    for unwanted in [
        "openssl",
        "openssl-sys",
        "native-tls",
        "aws-lc-rs",
        "aws-lc-sys",
    ] {
        assert!(!locked(unwanted), "{unwanted} came in with something");
    }
}

#[test]
fn every_crate_follows_the_lints_of_the_workspace() {
    for package in packages() {
        let manifest = package["manifest_path"].as_str().unwrap();
        let text = read(Path::new(manifest));
        assert!(text.contains("[lints]\nworkspace = true"), "{manifest}");
    }
}

#[test]
fn every_source_file_begins_with_what_it_is_for() {
    let sources = files(root(), "rs");
    assert!(sources.len() > 100, "{sources:?}");
    for path in sources {
        let text = read(&path);
        let place = shown(&path);
        let first = text.lines().next().unwrap_or_default();
        let words = first.strip_prefix("//! ").unwrap_or_else(|| {
            panic!("{place} does not begin with a `//!` line that says what it is for")
        });
        assert!(words.split_whitespace().count() >= 2, "{place}: `{words}`");
    }
}
