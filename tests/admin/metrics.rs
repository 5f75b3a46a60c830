//! The metrics page: its names are the contract's, Prometheus' own tool finds nothing wrong with it,
//! and its numbers are what happened.

use std::collections::BTreeSet;

use http::Method;
use portolan_control::telemetry::metrics::family;

use super::promtool;
use crate::harness::certificates::Authority;
use crate::harness::config::{PROBES, pools};
use crate::harness::portolan::sum;
use crate::harness::{Ask, Origin, Portolan, eventually, fetch};

/// Names that users build dashboards and alerts on.
const CONTRACT: [(&str, &[&str]); 16] = [
    ("portolan_requests_total", &["route", "pool", "code_class"]),
    ("portolan_request_duration_seconds", &["route", "pool"]),
    (
        "portolan_upstream_tries_total",
        &["pool", "endpoint", "outcome"],
    ),
    ("portolan_retries_total", &["route", "reason"]),
    ("portolan_in_flight", &["pool"]),
    ("portolan_endpoint_up", &["pool", "endpoint"]),
    ("portolan_pool_up", &["pool"]),
    ("portolan_pool_availability", &["pool"]),
    ("portolan_share", &["service", "pool", "kind"]),
    ("portolan_probe_duration_seconds", &["pool", "endpoint"]),
    ("portolan_bytes_total", &["pool", "direction"]),
    ("portolan_config_reloads_total", &["outcome"]),
    ("portolan_config_last_success_timestamp_seconds", &[]),
    ("portolan_config_info", &["hash"]),
    (
        "portolan_tls_certificate_expiry_timestamp_seconds",
        &["name"],
    ),
    ("portolan_connections", &["listener"]),
];

/// A process about which every family has something to say.
async fn eventful() -> (Portolan, Vec<Origin>) {
    let authority = Authority::new();
    let identity = authority.sign(&["edge.example"]);
    let origins = vec![Origin::start("a").await, Origin::start("b").await];
    // Refuses connections, and is never probed: tries find out.
    let dead = Origin::start("dead").await;
    dead.kill().await;
    let config = [
        "listeners:\n",
        "  - { bind: \"127.0.0.1:0\" }\n",
        "  - { bind: \"127.0.0.1:0\", tls: { certificates: [ { cert: edge.pem, key: edge.key } ] } }\n",
        PROBES,
        &pools(&[
            ("a", &[&origins[0]], ""),
            ("b", &[&origins[1]], ""),
            ("shaky", &[&dead, &origins[0]], ", health: off, balance: round_robin"),
        ]),
        "services: { both: { split: { a: 70, b: 30 } } }\n",
        "routes:\n",
        "  - { name: shaky, host: shaky.example, to: shaky }\n",
        "  - { name: both, host: both.example, to: { geo: [ { clients: { countries: [ DE ] }, to: a }, { to: both } ] } }\n",
    ]
    .concat();
    let builder = Portolan::with(&config)
        .file("edge.pem", &identity.certificate)
        .file("edge.key", &identity.key);
    let portolan = builder.start().await;
    let address = portolan.addresses().await[0];
    for host in ["shaky.example", "shaky.example", "both.example"] {
        let answer = Ask::get("/")
            .header("host", host)
            .to(address)
            .await
            .unwrap();
        assert_eq!(answer.status, 200, "{host}");
    }
    assert_eq!(fetch(address, "/").await.status, 404);
    portolan
        .wait_for_metric("portolan_requests_total", &[], 3.0)
        .await;
    portolan
        .wait_for_metric("portolan_refused_requests_total", &[], 1.0)
        .await;
    (portolan, origins)
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_labels_are_those_of_the_contract_and_prometheus_likes_them() {
    for (name, labels) in CONTRACT {
        let declared = family::ALL.iter().find(|family| family.name == name);
        let declared = declared.unwrap_or_else(|| panic!("{name} is gone"));
        assert_eq!(declared.labels, labels, "{name}");
    }
    let (portolan, _origins) = eventful().await;
    let page = portolan.metrics().await;
    let seen: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    let mut declared: BTreeSet<&str> = family::ALL.iter().map(|family| family.name).collect();
    // Nobody was ejected: tests/outlier.rs sees that one move.
    declared.remove(family::EJECTIONS.name);
    // Nor was anybody sent away, or came too often, or was asked who it is; nobody shook hands, and no
    // certificate was asked for or replaced: other tests see these.
    for elsewhere in [
        &family::REFUSED_CONNECTIONS,
        &family::REFUSED_STREAMS,
        &family::FORWARD_AUTH,
        &family::TOKEN_KEYS,
        &family::TOKEN_KEYS_LAST_SUCCESS,
        &family::TOKEN_KEY_LOOKS,
        &family::RATE_LIMITED,
        &family::RATE_LIMIT_FORGOTTEN,
        &family::TLS_HANDSHAKES,
        &family::CERTIFICATE_RELOAD_FAILURES,
        &family::ACME_ORDERS,
        &family::ACME_CERTIFICATES,
        &family::TASK_FAILURES,
    ] {
        declared.remove(elsewhere.name);
    }
    assert_eq!(seen, declared);
    assert_eq!(promtool::complaints(&page), "", "{page}");
    let answer = fetch(portolan.admin(), "/metrics").await;
    assert!(
        answer
            .header("content-type")
            .starts_with("text/plain; version=0.0.4"),
        "{:?}",
        answer.headers
    );
}

#[test]
fn the_tool_does_complain() {
    let bad =
        "# TYPE things counter\nthings 1\n# TYPE wait_milliseconds gauge\nwait_milliseconds 1\n";
    let said = promtool::complaints(bad);
    assert!(
        said.contains("_total") && said.contains("no help text"),
        "{said}"
    );
    assert!(said.contains("wait_milliseconds"), "{said}");
    assert_ne!(promtool::complaints("not a page at all\n"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_what_happened() {
    let (portolan, origins) = eventful().await;
    let address = portolan.addresses().await[0];
    let page = portolan.metrics().await;
    let number = |name: &str, labels: &[&str]| sum(&page, name, labels);
    assert_eq!(
        number(
            "portolan_requests_total",
            &["route=\"shaky\"", "pool=\"shaky\"", "code_class=\"2xx\""]
        ),
        2.0
    );
    assert_eq!(number("portolan_requests_total", &["route=\"both\""]), 1.0);
    assert_eq!(number("portolan_refused_requests_total", &[]), 1.0);
    // Two requests in turn over a dead and a living endpoint: one of them needed a second try.
    assert_eq!(
        number(
            "portolan_retries_total",
            &["route=\"shaky\"", "reason=\"connect\""]
        ),
        1.0
    );
    assert_eq!(
        number(
            "portolan_upstream_tries_total",
            &["pool=\"shaky\"", "outcome=\"connect_failed\""]
        ),
        1.0
    );
    assert_eq!(
        number(
            "portolan_upstream_tries_total",
            &["pool=\"shaky\"", "outcome=\"answered\""]
        ),
        2.0
    );
    assert_eq!(
        number(
            "portolan_request_duration_seconds_count",
            &["route=\"shaky\""]
        ),
        2.0
    );
    assert_eq!(
        number(
            "portolan_request_duration_seconds_bucket",
            &["route=\"shaky\"", "le=\"+Inf\""]
        ),
        2.0
    );
    assert!(
        number(
            "portolan_request_duration_seconds_sum",
            &["route=\"shaky\""]
        ) > 0.0
    );
    assert_eq!(number("portolan_in_flight", &[]), 0.0);
    let share = |pool: &str, kind: &str| {
        number(
            "portolan_share",
            &[&format!("pool=\"{pool}\""), &format!("kind=\"{kind}\"")],
        )
    };
    assert_eq!((share("a", "asked"), share("b", "effective")), (0.7, 0.3));
    assert!(number("portolan_probe_duration_seconds", &["pool=\"a\""]) > 0.0);
    let expiry = number(
        "portolan_tls_certificate_expiry_timestamp_seconds",
        &["name=\"edge.example\""],
    );
    assert!(
        expiry > number("portolan_config_last_success_timestamp_seconds", &[]),
        "{page}"
    );
    let hash = portolan.api("/status").await["config"]["hash"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        number("portolan_config_info", &[&format!("hash=\"{hash}\"")]),
        1.0
    );
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert_eq!(number("portolan_build_info", &[&version]), 1.0);

    // Bytes, both ways.
    let ask = Ask::new(Method::POST, "/bytes?count=3000").header("host", "shaky.example");
    assert_eq!(
        ask.body(vec![b'x'; 2000])
            .to(address)
            .await
            .unwrap()
            .body
            .len(),
        3000
    );
    portolan
        .wait_for_metric("portolan_requests_total", &["route=\"shaky\""], 3.0)
        .await;
    let bytes = async |direction: &str| {
        portolan
            .metric("portolan_bytes_total", &["pool=\"shaky\"", direction])
            .await
    };
    assert_eq!(bytes("direction=\"up\"").await, 2000.0);
    assert!(bytes("direction=\"down\"").await >= 3000.0);

    // A request that hangs is in flight, and its client's connection is open.
    let hanging = tokio::spawn(
        Ask::get("/sleep?ms=3600000")
            .header("host", "both.example")
            .to(address),
    );
    eventually("one is in flight", async || {
        let in_flight = portolan.metric("portolan_in_flight", &[]).await;
        let listener = format!("listener=\"{address}\"");
        let connections = portolan.metric("portolan_connections", &[&listener]).await;
        (in_flight == 1.0 && connections >= 1.0).then_some(())
    })
    .await;
    hanging.abort();
    portolan
        .wait_for_metric("portolan_in_flight", &[], 0.0)
        .await;
    portolan
        .wait_for_metric(
            "portolan_requests_total",
            &["route=\"both\"", "code_class=\"0xx\""],
            1.0,
        )
        .await;
    portolan
        .wait_for_metric("portolan_connections", &[], 0.0)
        .await;

    // Health.
    origins[1].kill().await;
    portolan
        .wait_for_metric("portolan_pool_up", &["pool=\"b\""], 0.0)
        .await;
    let page = portolan.metrics().await;
    let number = |name: &str, labels: &[&str]| sum(&page, name, labels);
    assert_eq!(number("portolan_endpoint_up", &["pool=\"b\""]), 0.0);
    assert_eq!(number("portolan_endpoint_up", &["pool=\"a\""]), 1.0);
    assert_eq!(number("portolan_pool_availability", &["pool=\"b\""]), 0.0);
    assert_eq!(
        number("portolan_share", &["pool=\"a\"", "kind=\"effective\""]),
        1.0
    );
    assert_eq!(
        number("portolan_share", &["pool=\"b\"", "kind=\"asked\""]),
        0.3
    );

    // Reloads, which reset nothing.
    let applied = sum(&page, "portolan_config_reloads_total", &["applied"]);
    let success = sum(&page, "portolan_config_last_success_timestamp_seconds", &[]);
    let config = std::fs::read_to_string(portolan.config_path()).unwrap();
    portolan
        .change(&config.replace("a: 70, b: 30", "a: 60, b: 40"))
        .await;
    portolan
        .wait_for_metric("portolan_config_reloads_total", &["applied"], applied + 1.0)
        .await;
    assert_eq!(
        portolan
            .metric("portolan_share", &["pool=\"b\"", "kind=\"asked\""])
            .await,
        0.4
    );
    assert_eq!(
        portolan
            .metric("portolan_requests_total", &["route=\"shaky\""])
            .await,
        3.0
    );
    let changed = portolan
        .metric("portolan_config_last_success_timestamp_seconds", &[])
        .await;
    assert!(changed > success, "{changed} {success}");
    portolan.change_refused("pools: 7\n").await;
    assert_eq!(
        portolan
            .metric("portolan_config_reloads_total", &["applied"])
            .await,
        applied + 1.0
    );
    assert_eq!(
        portolan
            .metric("portolan_config_last_success_timestamp_seconds", &[])
            .await,
        changed
    );
    // A route that is gone takes its numbers with it.
    portolan.write(&config.replace("name: shaky", "name: calm"));
    eventually("the old name is gone", async || {
        (!portolan.metrics().await.contains("route=\"shaky\"")).then_some(())
    })
    .await;
}
