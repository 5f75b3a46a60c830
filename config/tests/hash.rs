//! What a configuration is known by: the same for the same values, however they are written, and
//! another for any other value.

use portolan_config::diagnostic::Colours;
use portolan_config::{Checked, Machine, check_text};

const WRITTEN: &str = "
listeners: [ { bind: '127.0.0.1:8080' } ]
pools:
  aws: { cloud: aws, region: us-east-1, endpoints: [ '10.0.0.1:80', '10.0.0.2:80' ] }
  spare: { endpoints: [ '10.2.0.1:80' ] }
  gcp:
    cloud: gcp
    region: europe-west3
    endpoints: [ { address: '10.1.0.1:80', weight: 2 } ]
    balance: { hash: { on: client_ip } }
    outlier: off
services:
  web: { tiers: [ { split: { aws: 70, gcp: 30 } }, spare ] }
routes:
  - { host: a.example.com, path: /v1, to: web }
  - { host: b.example.com, path: { exact: /x }, to: aws, retry: { tries: 3 } }
  - { to: { nearest: [ aws, gcp ] }, affinity: { cookie: c } }
";

fn checked(text: &str) -> Checked {
    let checked = check_text("t.yaml", text.to_owned(), &Machine::default());
    assert!(
        checked.plan.is_some(),
        "{}\n{text}",
        checked.report.render(Colours::Off)
    );
    checked
}

fn hash(text: &str) -> String {
    let plan = checked(text).plan.expect("it is sound");
    plan.hash.to_string()
}

#[test]
fn defaults_may_be_written_or_left_out() {
    let effective = checked(WRITTEN).effective_yaml().expect("it was read");
    assert!(effective.contains("overprovision: 1.4"), "{effective}");
    assert_eq!(hash(&effective), hash(WRITTEN));
    let spelled_out = WRITTEN
        .replace(
            "to: web }",
            "to: web, affinity: off, cors: off, timeout: 1m, request_headers: {}, headers: {} }",
        )
        .replace(
            "'10.0.0.1:80'",
            "{ address: '10.0.0.1:80', weight: 1, backup: false }",
        )
        .replace(
            "region: us-east-1,",
            "region: us-east-1, balance: least_requests,",
        );
    assert_ne!(spelled_out, WRITTEN);
    assert_eq!(hash(&spelled_out), hash(WRITTEN));
}

#[test]
fn the_layout_does_not_matter() {
    let laid_out = WRITTEN
        .replace(
            "{ host: a.example.com, path: /v1, to: web }",
            "# said\n    to: web\n    path: '/v1'\n    host: &anchor \"a.example.com\"",
        )
        .replace("weight: 2", "'weight': \"2\"");
    assert_eq!(hash(&laid_out), hash(WRITTEN));
}

#[test]
fn every_value_matters() {
    let mut seen = vec![hash(WRITTEN)];
    for (text, other) in [
        ("127.0.0.1:8080", "127.0.0.1:8081"),
        ("us-east-1", "us-east-2"),
        ("10.0.0.2:80", "10.0.0.3:80"),
        ("weight: 2", "weight: 3"),
        ("client_ip", "path"),
        ("outlier: off", "outlier: {}"),
        ("aws: 70", "aws: 71"),
        ("aws: 70, gcp: 30", "gcp: 70, aws: 30"),
        ("a.example.com", "c.example.com"),
        ("exact:", "prefix:"),
        ("tries: 3", "tries: 4"),
        ("nearest:", "fastest:"),
        ("cookie: c", "cookie: d"),
        ("cookie: c", "header: c"),
        ("affinity: { cookie: c }", "timeout: 59s"),
        (
            "host: a.example.com, ",
            "host: a.example.com, methods: [ GET ], ",
        ),
    ] {
        let changed = WRITTEN.replacen(text, other, 1);
        assert_ne!(changed, WRITTEN, "{text}");
        let hash = hash(&changed);
        assert!(!seen.contains(&hash), "{text} → {other}");
        seen.push(hash);
    }
}
