//! What becomes of a request: routes, headers in both directions, and the answers that Portolan
//! gives itself.

use http::Method;
use serde_json::Value;

use crate::harness::client::{Connection, raw};
use crate::harness::config::{LISTENER, PROBES, TRUSTING, pool, pools};
use crate::harness::{Ask, Origin, Portolan, RogueEndpoint, fetch};

/// A process with one endpoint, and routes of the test's choice.
async fn serving(routes: &str, more: &str) -> (Portolan, Origin) {
    let origin = Origin::start("a").await;
    let config = [
        LISTENER,
        PROBES,
        TRUSTING,
        more,
        &pools(&[("a", &[&origin], "")]),
        routes,
    ]
    .concat();
    (Portolan::start(&config).await, origin)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_most_specific_route_takes_a_request() {
    let routes = "
routes:
  - { name: everything, expose: true, to: a }
  - { name: wildcard, host: \"*.example.com\", expose: true, to: a }
  - { name: host, host: api.example.com, expose: true, to: a }
  - { name: prefix, host: api.example.com, path: /v1, expose: true, to: a }
  - { name: longer, host: api.example.com, path: /v1/users, expose: true, to: a }
  - { name: exact, host: api.example.com, path: { exact: /v1/users }, expose: true, to: a }
  - { name: regex, host: api.example.com, path: { regex: \"/v[0-9]+/orders\" }, expose: true, to: a }
  - { name: posted, host: api.example.com, path: /v1, methods: [ POST ], expose: true, to: a }
  - { name: tenant, host: api.example.com, path: /v1, headers: { x-tenant: acme }, expose: true, to: a }
";
    let (portolan, _origin) = serving(routes, "").await;
    let address = portolan.address().await;
    type Case<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, &'a str)], &'a str);
    let cases: [Case<'_>; 17] = [
        ("GET", "other.org", "/", &[], "everything"),
        ("GET", "www.example.com", "/v1", &[], "wildcard"),
        ("GET", "example.com", "/v1", &[], "everything"),
        ("GET", "api.example.com", "/", &[], "host"),
        ("GET", "API.Example.com:8443", "/", &[], "host"),
        ("GET", "api.example.com.", "/", &[], "host"),
        ("GET", "api.example.com", "/v1", &[], "prefix"),
        ("GET", "api.example.com", "/v1/", &[], "prefix"),
        ("GET", "api.example.com", "/v1/x?y=z", &[], "prefix"),
        ("GET", "api.example.com", "/v10", &[], "host"),
        ("GET", "api.example.com", "/v1/users", &[], "exact"),
        ("GET", "api.example.com", "/v1/users/7", &[], "longer"),
        ("GET", "api.example.com", "/v2/orders", &[], "regex"),
        ("POST", "api.example.com", "/v1", &[], "posted"),
        (
            "GET",
            "api.example.com",
            "/v1",
            &[("x-tenant", "acme")],
            "tenant",
        ),
        (
            "GET",
            "api.example.com",
            "/v1",
            &[("x-tenant", "other")],
            "prefix",
        ),
        ("GET", "api.example.com", "/V1", &[], "host"),
    ];
    for (method, host, path, headers, route) in cases {
        let mut ask = Ask::new(method.parse().unwrap(), path).header("host", host);
        for (name, value) in headers {
            ask = ask.header(name, value);
        }
        assert_eq!(ask.to(address).await.unwrap().status, 200);
        let label = format!("route=\"{route}\"");
        let what = format!("{method} {host} {path} → {route}");
        crate::harness::eventually(&what, async || {
            let counted = portolan.metric("portolan_requests_total", &[&label]).await;
            (counted > 0.0).then_some(())
        })
        .await;
    }
    let counted = async |route: &str| {
        portolan
            .metric("portolan_requests_total", &[&format!("route=\"{route}\"")])
            .await
    };
    for (route, expected) in [
        ("everything", 2.0),
        ("wildcard", 1.0),
        ("host", 5.0),
        ("prefix", 4.0),
        ("longer", 1.0),
        ("exact", 1.0),
        ("regex", 1.0),
        ("posted", 1.0),
        ("tenant", 1.0),
    ] {
        assert_eq!(counted(route).await, expected, "{route}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobodys_requests_get_a_problem() {
    let (portolan, origin) = serving("routes: [ { host: known.example, to: a } ]\n", "").await;
    let address = portolan.address().await;
    let answer = Ask::get("/x")
        .header("host", "unknown.example")
        .to(address)
        .await
        .unwrap();
    assert_eq!(answer.status, 404);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    let problem = answer.json();
    assert_eq!(problem["status"], 404);
    assert!(problem["title"].is_string(), "{problem}");
    let id = problem["request_id"].as_str().unwrap();
    assert_eq!(answer.header("x-request-id"), id);
    assert!(!answer.text().contains("127.0.0.1"), "{}", answer.text());

    let text = Ask::get("/x")
        .header("host", "unknown.example")
        .header("accept", "text/html, text/plain;q=0.5");
    let text = text.to(address).await.unwrap();
    assert_eq!(
        (text.status, text.header("content-type")),
        (404, "text/plain; charset=utf-8")
    );

    let head = Ask::new(Method::HEAD, "/x")
        .header("host", "unknown.example")
        .to(address)
        .await
        .unwrap();
    assert_eq!((head.status, head.body.len()), (404, 0));
    assert_eq!(origin.hits(), 0);
    // The connection goes on after an error.
    let mut connection = Connection::open(address).await.unwrap();
    let first = connection
        .ask(Ask::get("/").header("host", "unknown.example"))
        .await
        .unwrap();
    let second = connection
        .ask(Ask::get("/").header("host", "known.example"))
        .await
        .unwrap();
    assert_eq!((first.status, second.status), (404, 200));
}

async fn echo(ask: Ask, portolan: &Portolan) -> Value {
    let answer = ask.to(portolan.address().await).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_told_who_asks() {
    let (portolan, _origin) = serving("routes: [ { to: a } ]\n", "").await;
    let ask = Ask::get("/echo?a=1%20b&c=/../d")
        .header("host", "api.example.com")
        .header("x-forwarded-for", "192.0.2.7, 127.0.0.3")
        .header("x-forwarded-proto", "https")
        .header("x-request-id", "given-by-a-trusted-peer")
        .header(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        .header("tracestate", "vendor=1");
    let seen = echo(ask, &portolan).await;
    let header = |name: &str| {
        seen["headers"][name]
            .as_str()
            .unwrap_or("(none)")
            .to_owned()
    };
    assert_eq!(seen["host"], "api.example.com");
    assert_eq!(seen["target"], "/echo?a=1%20b&c=/../d", "byte by byte");
    assert_eq!(header("x-forwarded-for"), "192.0.2.7, 127.0.0.3, 127.0.0.1");
    assert_eq!(header("x-forwarded-proto"), "https", "from a trusted peer");
    assert_eq!(header("x-forwarded-host"), "api.example.com");
    assert_eq!(header("x-request-id"), "given-by-a-trusted-peer");
    assert_eq!(header("via"), "1.1 portolan");
    assert_eq!(header("tracestate"), "vendor=1");
    let traceparent = header("traceparent");
    let parts: Vec<&str> = traceparent.split('-').collect();
    assert_eq!(
        (parts[0], parts[1], parts[3]),
        ("00", "0af7651916cd43dd8448eb211c80319c", "01")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_cannot_say_who_they_are() {
    let origin = Origin::start("a").await;
    let config = [
        LISTENER,
        PROBES,
        &pools(&[("a", &[&origin], "")]),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let ask = Ask::get("/echo")
        .header("x-forwarded-for", "192.0.2.7")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-host", "bank.example")
        .header("x-request-id", "chosen-by-a-stranger")
        .header("forwarded", "for=192.0.2.7")
        .header("host", "api.example.com");
    let seen = echo(ask, &portolan).await;
    let header = |name: &str| {
        seen["headers"][name]
            .as_str()
            .unwrap_or("(none)")
            .to_owned()
    };
    assert_eq!(header("x-forwarded-for"), "127.0.0.1");
    assert_eq!(header("x-forwarded-proto"), "http");
    assert_eq!(header("x-forwarded-host"), "api.example.com");
    assert_ne!(header("x-request-id"), "chosen-by-a-stranger");
    assert!(header("x-request-id").len() >= 16);
    assert_eq!(header("forwarded"), "(none)");
    assert!(header("traceparent").starts_with("00-"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_one_hop_stays_there() {
    let (portolan, _origin) = serving("routes: [ { to: a } ]\n", "").await;
    let address = portolan.address().await;
    let ask = Ask::get("/echo")
        .header("connection", "keep-alive, X-Secret")
        .header("x-secret", "for the proxy alone")
        .header("keep-alive", "timeout=5")
        .header("proxy-connection", "keep-alive")
        .header("proxy-authorization", "Basic abc")
        .header("te", "trailers")
        .header("upgrade", "h2c")
        .header("x-kept", "yes");
    let seen = echo(ask, &portolan).await;
    for name in [
        "x-secret",
        "keep-alive",
        "proxy-connection",
        "upgrade",
        "te",
    ] {
        assert!(seen["headers"].get(name).is_none(), "{name}: {seen}");
    }
    assert_eq!(seen["headers"]["x-kept"], "yes");

    let answer = fetch(address, "/hop").await;
    assert_eq!(answer.header("x-internal"), "");
    assert_eq!(answer.header("keep-alive"), "");
    assert_eq!(
        answer.header("server"),
        "origin/1.0",
        "the endpoint's word, unless removed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_and_paths_change_as_configured() {
    let routes = "
routes:
  - path: /v1
    to: a
    rewrite: { strip_prefix: /v1 }
    request_headers: { set: { x-edge: fra1 }, remove: [ x-internal ] }
    response_headers: { set: { x-served-by: portolan }, remove: [ x-origin ] }
";
    let origin = Origin::start("a").await;
    let config = [
        LISTENER,
        PROBES,
        &pools(&[("a", &[&origin], ", host: api.internal")]),
        routes,
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let ask = Ask::get("/v1/echo?q=1")
        .header("x-internal", "1")
        .header("x-edge", "spoofed")
        .header("host", "api.example.com");
    let answer = ask.to(portolan.address().await).await.unwrap();
    assert_eq!(answer.header("x-origin"), "");
    assert_eq!(answer.header("x-served-by"), "portolan");
    let seen = answer.json();
    assert_eq!(seen["target"], "/echo?q=1");
    assert_eq!(seen["host"], "api.internal");
    assert_eq!(seen["headers"]["x-forwarded-host"], "api.example.com");
    assert_eq!(seen["headers"]["x-edge"], "fra1");
    assert!(seen["headers"].get("x-internal").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_say_where_they_come_from_where_that_is_wanted() {
    let routes = "
routes:
  - { path: /open, to: a, expose: true }
  - { to: a }
";
    let (portolan, origin) = serving(routes, "").await;
    let address = portolan.address().await;
    let answer = fetch(address, "/open").await;
    assert_eq!(answer.header("x-portolan-pool"), "a");
    assert_eq!(
        answer.header("x-portolan-endpoint"),
        origin.address.to_string()
    );
    assert_eq!(answer.header("x-portolan-tries"), "1");
    assert_eq!(answer.header("x-portolan-client"), "-");
    assert!(answer.header("x-portolan-why").contains("pool a"));
    let hash = portolan.api("/status").await["config"]["hash"].clone();
    assert_eq!(hash, answer.header("x-portolan-config"));
    let answer = fetch(address, "/").await;
    assert!(
        !answer
            .headers
            .keys()
            .any(|name| name.as_str().starts_with("x-portolan"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn http_is_sent_to_https_where_asked() {
    let origin = Origin::start("a").await;
    let config = [
        "listeners: [ { bind: \"127.0.0.1:0\", redirect_to_https: true } ]\n",
        PROBES,
        &pools(&[("a", &[&origin], "")]),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let ask = Ask::get("/a/b?c=d").header("host", "www.example.com:8080");
    let answer = ask.to(portolan.address().await).await.unwrap();
    assert_eq!(answer.status, 308);
    assert_eq!(answer.header("location"), "https://www.example.com/a/b?c=d");
    assert_eq!(origin.hits(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_and_oversized_requests_get_the_right_status() {
    let origin = Origin::start("a").await;
    let config = [
        "listeners: [ { bind: \"127.0.0.1:0\", limits: { header_bytes: 4KiB, headers: 20, header_timeout: 500ms, body_bytes: 1KiB } } ]\n",
        PROBES,
        &pools(&[("a", &[&origin], "")]),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    let status = async |bytes: &str| {
        let answer = raw(address, bytes.as_bytes()).await;
        let line = answer.lines().next().unwrap_or_default().to_owned();
        line.split(' ').nth(1).unwrap_or("closed").to_owned()
    };
    let end = "Connection: close\r\n\r\n";
    let host = "Host: x\r\n";
    // A plain good one first, so that the others fail for their own reasons.
    assert_eq!(
        status(&format!("GET / HTTP/1.1\r\n{host}{end}")).await,
        "200"
    );
    for bad in [
        "GARBAGE\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\n{end}"),
        format!("GET / HTTP/9.9\r\n{host}{end}"),
        format!("GET / HTTP/1.1\r\n{host}bad header\r\n{end}"),
        format!("GET / HTTP/1.1\r\n{host}x: a\r\n folded\r\n{end}"),
        format!("GET / HTTP/1.1\r\n{host}x : space before the colon\r\n{end}"),
        format!("GET / HTTP/1.1\r\n{host}Host: y\r\n{end}"),
        format!("POST / HTTP/1.1\r\n{host}Content-Length: abc\r\n{end}"),
        format!("POST / HTTP/1.1\r\n{host}Content-Length: 1\r\nContent-Length: 2\r\n{end}ab"),
        format!(
            "POST / HTTP/1.1\r\n{host}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n{end}0\r\n\r\n"
        ),
        format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked, gzip\r\n{end}0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n{end}zz\r\n\r\n"),
    ] {
        assert_eq!(status(&bad).await, "400", "{bad:?}");
    }
    let long = "a".repeat(5_000);
    assert_eq!(
        status(&format!("GET / HTTP/1.1\r\n{host}x: {long}\r\n{end}")).await,
        "431"
    );
    let many = "x: y\r\n".repeat(30);
    assert_eq!(
        status(&format!("GET / HTTP/1.1\r\n{host}{many}{end}")).await,
        "431"
    );
    let body = "b".repeat(2_000);
    assert_eq!(
        status(&format!(
            "POST / HTTP/1.1\r\n{host}Content-Length: 2000\r\n{end}{body}"
        ))
        .await,
        "413"
    );
    assert_eq!(
        status(&format!(
            "POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n{end}7d0\r\n{body}\r\n0\r\n\r\n"
        ))
        .await,
        "413"
    );
    // Half a request, and then nothing.
    assert_eq!(status("GET / HTTP/1.1\r\nHos").await, "408");
    crate::harness::eventually("refusals are counted", async || {
        let refused = portolan.metric("portolan_refused_requests_total", &[]);
        (refused.await > 0.0).then_some(())
    })
    .await;
    // A body in chunks is passed on as it comes: that it is too large shows later.
    assert!(origin.hits() <= 3, "the rest never reached the endpoint");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_a_pipeline_are_answered_in_order() {
    let (portolan, _origin) = serving("routes: [ { to: a } ]\n", "").await;
    let request = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n");
    let all = [
        request("/status?code=201", ""),
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
        "POST /status?code=202 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_owned(),
        request("/status?code=203", "Connection: close\r\n"),
    ]
    .concat();
    let answer = raw(portolan.address().await, all.as_bytes()).await;
    let statuses: Vec<&str> = answer
        .lines()
        .filter_map(|line| line.split("HTTP/1.1 ").nth(1)?.get(..3))
        .collect();
    assert_eq!(statuses, ["201", "200", "202", "203"], "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn expectations_are_met_before_a_body_is_sent() {
    let (portolan, _origin) = serving("routes: [ { to: a } ]\n", "").await;
    let request = "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    let answer = raw(portolan.address().await, request.as_bytes()).await;
    assert!(answer.contains("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("\"body_bytes\":5"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_one_line_in_the_access_log_and_one_count() {
    let origin = Origin::start("a").await;
    let refusing = RogueEndpoint::saying(b"not http at all\r\n\r\n").await;
    let config = [
        LISTENER,
        PROBES,
        TRUSTING,
        "access_log: { to: access.log }\n",
        &pools(&[("a", &[&origin], "")]),
        &pool("garbage", &[refusing.address], ", health: off"),
        "
routes:
  - { name: everything, to: { geo: [ { clients: { countries: [ DE ] }, to: a }, { to: a } ] } }
  - { name: garbage, path: /garbage, to: garbage }
  - { name: nowhere, host: h, path: /x, methods: [ PUT ], to: a }
",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    let ask = Ask::new(Method::POST, "/echo?secret=1")
        .header("x-forwarded-for", "85.214.132.117")
        .header("x-request-id", "abc-123")
        .body("hello");
    let path = portolan.folder().join("access.log");
    let written = async |count: usize| -> Vec<Value> {
        crate::harness::eventually("a line for each", async || {
            let text = std::fs::read_to_string(&path).ok()?;
            let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
            let lines: Vec<Value> = lines.collect();
            (lines.len() == count).then_some(lines)
        })
        .await
    };
    // One after the other: a line is written when its answer is sent, and each connection may have
    // a worker of its own.
    assert_eq!(ask.to(address).await.unwrap().status, 200);
    written(1).await;
    assert_eq!(fetch(address, "/status?code=404").await.status, 404);
    written(2).await;
    assert_eq!(fetch(address, "/garbage").await.status, 502);
    let lines = written(3).await;
    let line = &lines[0];
    for (name, value) in [
        ("request_id", "abc-123"),
        ("client", "85.214.132.117"),
        ("country", "DE"),
        ("route", "everything"),
        ("pool", "a"),
        ("method", "POST"),
        ("protocol", "HTTP/1.1"),
    ] {
        assert_eq!(line[name], value, "{name}: {line}");
    }
    assert_eq!(line["endpoint"], origin.address.to_string(), "{line}");
    assert_eq!(line["status"], 200);
    assert_eq!(line["tries"], 1);
    assert!(line["why"].as_str().unwrap().contains("DE"), "{line}");
    assert!(line["duration_ms"].as_f64().unwrap() > 0.0, "{line}");
    assert!(line["bytes_out"].as_u64().unwrap() > 0, "{line}");
    assert_eq!(lines[2]["status"], 502, "{}", lines[2]);
    let page = portolan.metrics().await;
    let count =
        |labels: &[&str]| crate::harness::portolan::sum(&page, "portolan_requests_total", labels);
    assert_eq!(count(&[]), 3.0, "{page}");
    assert_eq!(count(&["pool=\"a\"", "2xx"]), 1.0);
    assert_eq!(count(&["pool=\"a\"", "4xx"]), 1.0);
    assert_eq!(count(&["route=\"garbage\"", "5xx"]), 1.0);
    assert_eq!(portolan.metric("portolan_in_flight", &[]).await, 0.0);
    portolan.stop().await;
}
