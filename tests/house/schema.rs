//! The JSON Schema, asked by a validator that knows nothing of Portolan: what `check` accepts, it
//! accepts, and what is wrong in a way that a schema can say, it refuses.

use jsonschema::Validator;
use portolan_config::{Machine, check_text};
use serde_json::Value;

use super::{files, read, root, shown};

fn validator() -> Validator {
    jsonschema::draft202012::new(&portolan_config::json_schema()).unwrap()
}

/// A configuration as the validator sees it.
fn as_json(text: &str) -> Value {
    let checked = check_text("portolan.yaml", text.to_owned(), &Machine::default());
    checked
        .written_json()
        .unwrap_or_else(|| panic!("not YAML: {text}"))
}

/// Where it is wrong, as JSON pointers.
fn wrong(validator: &Validator, document: &Value) -> Vec<String> {
    let errors = validator.iter_errors(document);
    errors
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

#[test]
fn the_schema_is_a_schema() {
    let schema = portolan_config::json_schema();
    assert!(jsonschema::meta::is_valid(&schema));
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
}

#[test]
fn what_check_accepts_the_schema_accepts() {
    let validator = validator();
    let machine = Machine::new([("HOME_REGION".to_owned(), "us-east-1".to_owned())]);
    let mut accepted = 0;
    for path in files(&root().join("config/tests/cases"), "case") {
        let text = read(&path);
        let input = text.split("\n--------\n").next().unwrap();
        let checked = check_text("portolan.yaml", input.to_owned(), &machine);
        if checked.report.has_errors() {
            continue;
        }
        accepted += 1;
        for document in [checked.written_json(), checked.effective_json()] {
            let wrong = wrong(&validator, &document.unwrap());
            assert!(wrong.is_empty(), "{}: {wrong:#?}", shown(&path));
        }
    }
    assert!(
        accepted >= 3,
        "only {accepted} good cases: is this test blind?"
    );
    for path in files(&root().join("examples"), "yaml") {
        let wrong = wrong(&validator, &as_json(&read(&path)));
        assert!(wrong.is_empty(), "{}: {wrong:#?}", shown(&path));
    }
}

#[test]
fn what_is_plainly_wrong_the_schema_refuses() {
    let validator = validator();
    let cases = [
        ("listener: []", ""),
        (
            "pools: { a: { endpoints: [ '10.0.0.1:80' ], balancing: random } }",
            "/pools/a",
        ),
        (
            "pools: { a: { endpoints: [ '10.0.0.1:80' ], balance: rnd } }",
            "/pools/a/balance",
        ),
        (
            "pools: { a: { endpoints: '10.0.0.1:80' } }",
            "/pools/a/endpoints",
        ),
        (
            "pools: { a: { endpoints: [ '10.0.0.1:80' ], health: { every: 5 } } }",
            "/pools/a/health",
        ),
        (
            "pools: { 'a b': { endpoints: [ '10.0.0.1:80' ] } }",
            "/pools",
        ),
        ("shutdown_timeout: 30 seconds", "/shutdown_timeout"),
        ("listeners: [ {} ]", "/listeners/0"),
        (
            "listeners: [ { bind: '0.0.0.0:80', limits: { headers: many } } ]",
            "/listeners/0/limits",
        ),
        ("services: { s: { split: {} } }", "/services/s"),
        (
            "services: { s: { split: { a: 1 }, tiers: [ a ] } }",
            "/services/s",
        ),
        ("services: { s: { nearby: [ a ] } }", "/services/s"),
        ("routes: [ { path: /v1 } ]", "/routes/0"),
        ("routes: [ { redirect: { status: 304 } } ]", "/routes/0"),
        ("routes: [ { to: a, path: v1 } ]", "/routes/0/path"),
        ("routes: [ { to: a, rate_limit: { by: c } } ]", "/routes/0"),
        ("routes: [ { to: a, auth: ~ } ]", "/routes/0/auth"),
        ("routes: [ { to: a, rate_limit: ~ } ]", "/routes/0"),
        ("routes: [ { to: a, redirect: ~ } ]", "/routes/0/redirect"),
        ("routes: [ ~ ]", "/routes/0"),
        ("tests: ~", "/tests"),
        ("workers: ~", "/workers"),
        (
            "listeners: [ { bind: '[::]:80', deny: ~ } ]",
            "/listeners/0/deny",
        ),
        (
            "admin: { tokens: [ { name: a, role: root, token: x } ] }",
            "/admin/tokens/0/role",
        ),
        (
            "routes: [ { to: { geo: [ { clients: { continents: [ XX ] }, to: a } ] } } ]",
            "/routes/0/to",
        ),
    ];
    for (text, place) in cases {
        let wrong = wrong(&validator, &as_json(text));
        let told = wrong.iter().any(|wrong| wrong.starts_with(place));
        assert!(!wrong.is_empty() && told, "{text}: {wrong:#?}");
    }
}
