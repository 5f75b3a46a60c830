//! Who is believed to serve: probes of every kind, verdicts, the start, and traffic that follows
//! health.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::certificates::{Authority, Identity};
use crate::harness::config::{LISTENER, PROBES, pool, pools};
use crate::harness::grpc::{GrpcHealth, Serving};
use crate::harness::names::{NameServer, Reply};
use crate::harness::portolan::Builder;
use crate::harness::rogue::{BlackHole, nobody};
use crate::harness::{Load, Origin, Portolan, Rogue, RogueEndpoint, eventually, fetch, get};

// === Probes, one verdict each ===

/// Pools of one endpoint each, and what has to be believed of it after its first probe.
#[derive(Default)]
struct Cases {
    pools: String,
    /// By pool: `None` is healthy, otherwise the reason has to contain these words.
    expected: BTreeMap<String, Option<&'static str>>,
    rogues: Vec<RogueEndpoint>,
}

impl Cases {
    /// A pool of this endpoint; `rest` is what the pool has besides, each after a comma.
    fn add(&mut self, address: SocketAddr, rest: &str, expected: Option<&'static str>) {
        let name = format!("case-{}", self.expected.len());
        self.pools += &pool(&name, &[address], rest);
        self.expected.insert(name, expected);
    }

    /// A pool whose endpoint answers every request with these bytes.
    async fn saying(&mut self, bytes: &[u8], health: &str, expected: Option<&'static str>) {
        self.rogue(Rogue::Say(bytes.to_vec()), health, expected)
            .await;
    }

    async fn rogue(&mut self, rogue: Rogue, health: &str, expected: Option<&'static str>) {
        let rogue = RogueEndpoint::start(rogue).await;
        self.add(rogue.address, &format!(", health: {health}"), expected);
        self.rogues.push(rogue);
    }

    /// One process probes them all, each once: the next probe is an hour away.
    async fn check(self, prepare: impl Fn(Builder) -> Builder) {
        let config = [
            LISTENER,
            "startup_grace: 30s\n",
            "defaults: { health: { every: 1h, fast_every: 1h, timeout: 20s } }\n",
            "pools:\n",
            &self.pools,
            "routes: [ { to: case-0 } ]\n",
        ]
        .concat();
        let portolan = prepare(Portolan::with(&config)).start().await;
        let entries = portolan.api("/pools").await;
        let entries = entries.as_array().unwrap();
        assert_eq!(entries.len(), self.expected.len());
        let mut wrong = Vec::new();
        for entry in entries {
            let endpoint = &entry["endpoints"][0];
            let (health, because) = (
                endpoint["health"].as_str().unwrap(),
                endpoint["because"].as_str().unwrap(),
            );
            let line = self
                .pools
                .lines()
                .find(|line| line.contains(&format!(" {}:", entry["name"].as_str().unwrap())));
            let fine = match self.expected[entry["name"].as_str().unwrap()] {
                None => health == "healthy" && because == "the first probe succeeded",
                Some(words) => {
                    let reason = because.strip_prefix("the first probe failed: ");
                    health == "unhealthy" && reason.is_some_and(|reason| reason.contains(words))
                }
            };
            if !fine {
                wrong.push(format!("{}\n    {health}: {because}", line.unwrap()));
            }
            assert_eq!(entry["up"], health == "healthy", "{entry}");
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        portolan.stop().await;
    }
}

/// An HTTP/1.1 answer with these header lines and this body.
fn answer(status: u16, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} Some Reason\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

const SICK: &str = r#"{ "status": "ailing", "checks": [ { "ok": false } ], "n": 3, "a/b": null }"#;

#[tokio::test(flavor = "multi_thread")]
async fn http_probes_expect_statuses_headers_bodies_and_json() {
    let mut cases = Cases::default();
    // Statuses: 200-299, unless it says otherwise. A redirect is an answer like others.
    let plain = "{ http: /health }";
    cases.saying(&answer(200, "", ""), plain, None).await;
    cases.saying(&answer(299, "", ""), plain, None).await;
    let found = "Location: /elsewhere\r\n";
    cases
        .saying(&answer(302, found, ""), plain, Some("answer: status 302"))
        .await;
    cases
        .saying(&answer(503, "", "ok"), plain, Some("answer: status 503"))
        .await;
    let listed = "{ http: /health, expect: { status: [ 204, 301-302 ] } }";
    cases
        .saying(b"HTTP/1.1 204 No Content\r\n\r\n", listed, None)
        .await;
    cases.saying(&answer(302, found, ""), listed, None).await;
    cases
        .saying(&answer(200, "", ""), listed, Some("answer: status 200"))
        .await;

    // Headers: one of several with the name is enough; the value has to be the same.
    let role = "{ http: /health, expect: { headers: { x-role: primary } } }";
    let missing = Some("no header x-role: primary");
    let both = "X-Role: other\r\nX-Role: primary\r\n";
    cases
        .saying(&answer(200, "X-Role: primary\r\n", ""), role, None)
        .await;
    cases.saying(&answer(200, both, ""), role, None).await;
    cases
        .saying(&answer(200, "X-Role: replica\r\n", ""), role, missing)
        .await;
    cases.saying(&answer(200, "", ""), role, missing).await;

    // Bodies.
    let ready = "{ http: /health, expect: { body_contains: ready } }";
    let lacking = Some("the body does not contain `ready`");
    cases
        .saying(&answer(200, "", "I am ready!"), ready, None)
        .await;
    cases
        .saying(&answer(200, "", "not yet"), ready, lacking)
        .await;
    cases.saying(&answer(200, "", ""), ready, lacking).await;

    // JSON, by pointer: texts, truths, numbers, deep inside, with a slash in the name.
    let well = SICK.replace("ailing", "healthy").replace("false", "true");
    let pointers = r#"{ http: /health, expect: { json: { "/status": healthy, "/checks/0/ok": true, "/n": 3, "/a~1b": "null" } } }"#;
    cases.saying(&answer(200, "", &well), pointers, None).await;
    let ill = Some(r#"/status is "ailing", not healthy"#);
    cases.saying(&answer(200, "", SICK), pointers, ill).await;
    let lost = Some("/checks/0/ok is nothing, not true");
    cases
        .saying(
            &answer(200, "", &well.replace("checks", "czechs")),
            pointers,
            lost,
        )
        .await;
    let text = Some("the body is not JSON");
    cases
        .saying(&answer(200, "", "healthy"), pointers, text)
        .await;
    let whole = r#"{ http: /health, expect: { json: { "": fine } } }"#;
    cases
        .saying(&answer(200, "", "\"fine\""), whole, None)
        .await;

    // All of it must hold.
    let all = r#"{ http: /health, expect: { status: 203, headers: { x-role: primary }, body_contains: checks, json: { "/n": 3 } } }"#;
    let primary = "X-Role: primary\r\n";
    cases.saying(&answer(203, primary, SICK), all, None).await;
    cases
        .saying(&answer(200, primary, SICK), all, Some("status 200"))
        .await;
    cases.saying(&answer(203, "", SICK), all, missing).await;
    let body = r#"{ "n": 3 }"#;
    cases
        .saying(
            &answer(203, primary, body),
            all,
            Some("does not contain `checks`"),
        )
        .await;
    let other = SICK.replace('3', "4");
    cases
        .saying(&answer(203, primary, &other), all, Some("/n is 4, not 3"))
        .await;
    cases.check(|builder| builder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_probes_ask_for_the_path_host_and_port_that_they_should() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let mut cases = Cases::default();
    let checked = |rest: &str, host: &str, health: &str| {
        format!(
            ", {rest} health: {{ http: \"/health?deep=1\", {health} expect: {{ headers: {{ x-checked-host: \"{host}\" }} }} }}"
        )
    };
    // The Host: the endpoint's address, else the pool's, else the probe's own.
    cases.add(a.address, &checked("", &a.address.to_string(), ""), None);
    let pools_own = "host: api.internal,";
    cases.add(a.address, &checked(pools_own, "api.internal", ""), None);
    let probes_own = "host: probe.internal,";
    cases.add(
        a.address,
        &checked(pools_own, "probe.internal", probes_own),
        None,
    );
    // HTTP/2 says it elsewhere, and means the same.
    cases.add(
        a.address,
        &checked("protocol: h2c, host: api.internal,", "api.internal", ""),
        None,
    );
    assert_eq!(b.probes(), 0);
    // The port: what is asked there decides.
    b.set_health(500);
    let port = format!(", health: {{ http: /health, port: {} }}", b.address.port());
    cases.add(a.address, &port, Some("status 500"));
    // Another path is another question.
    let path = ", health: { http: /ready, expect: { headers: { x-checked-host: any } } }";
    cases.add(a.address, path, Some("no header x-checked-host"));
    cases.check(|builder| builder).await;
    assert_eq!((a.probes(), b.probes()), (4, 1));
    assert_eq!(a.hits(), 1, "the one for /ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_probes_believe_nobody_who_misbehaves() {
    let mut cases = Cases::default();
    let plain = "{ http: /health }";
    let hurried = "{ http: /health, timeout: 300ms }";
    let late = Some("no answer within 300 ms");

    let nowhere = format!(", health: {plain}");
    let refused = Some("cannot connect: connection refused");
    cases.add(nobody().await, &nowhere, refused);
    let hole = BlackHole::start().await;
    cases.add(hole.address, &format!(", health: {hurried}"), late);

    let broken = Some("broken answer: ");
    // Too late for the connection, or just in time for it.
    cases.rogue(Rogue::ResetAtOnce, plain, Some("")).await;
    cases.rogue(Rogue::ResetAfterRequest, plain, broken).await;
    cases.rogue(Rogue::CloseAfterRequest, plain, broken).await;
    cases.rogue(Rogue::Stall, hurried, late).await;

    // Not HTTP.
    for garbage in [
        &b"\x16\x03\x01 garbage \x00\xff\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 banana OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
    ] {
        cases.saying(garbage, plain, broken).await;
    }

    // What could be read in two ways is none, as when a request is answered so.
    for ambiguous in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
        b"HTTP/1.1 200 OK\r\nX-Folded: a\r\n b\r\nContent-Length: 5\r\n\r\nhello",
    ] {
        cases.saying(ambiguous, plain, broken).await;
    }

    // Half an answer is no answer, however good it looks.
    for half in [
        &b"HTTP/1.1 200 OK\r\nContent-Le"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
    ] {
        cases.saying(half, plain, broken).await;
    }
    for half in [
        &b"HTTP/1.1 200 O"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ] {
        cases
            .rogue(Rogue::SayAndStall(half.to_vec()), hurried, late)
            .await;
    }
    let slowly = Rogue::Drip(answer(200, "", "hello"), Duration::from_millis(100));
    cases.rogue(slowly, hurried, late).await;

    // Too much of an answer.
    let huge = answer(200, "", &"a".repeat((1 << 20) + 1));
    cases
        .saying(&huge, plain, Some("an answer of more than 1 MiB"))
        .await;

    // Odd, but whole.
    let drip = Rogue::Drip(answer(200, "", "hello"), Duration::from_millis(5));
    cases.rogue(drip, plain, None).await;
    for whole in [
        &b"HTTP/1.0 200 OK\r\n\r\nuntil the end"[..],
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        cases.saying(whole, plain, None).await;
    }
    cases.check(|builder| builder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_probes_want_a_connection() {
    let mut cases = Cases::default();
    cases.rogue(Rogue::Stall, "{ tcp: true }", None).await;
    let hurried = ", health: { tcp: true, timeout: 300ms }";
    cases.add(
        nobody().await,
        hurried,
        Some("cannot connect: connection refused"),
    );
    let hole = BlackHole::start().await;
    cases.add(hole.address, hurried, Some("no answer within 300 ms"));
    // What a probe is when nothing says how.
    let any = Origin::start("any").await;
    cases.add(any.address, "", None);
    let port = nobody().await.port();
    let elsewhere = format!(", health: {{ tcp: true, port: {port} }}");
    cases.add(any.address, &elsewhere, Some("connection refused"));
    cases.check(|builder| builder).await;
    assert_eq!((any.probes(), any.hits(), any.connections()), (0, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn https_probes_use_the_tls_of_requests() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let ready = |identity: &Identity| identity.server_config(&["h2", "http/1.1"]);
    let identity = ours.sign(&["api.internal", "127.0.0.1"]);
    let good = Origin::start_tls("good", ready(&identity)).await;
    let sick = Origin::start_tls("sick", ready(&identity)).await;
    sick.set_health(503);
    let foreign = Origin::start_tls("foreign", ready(&theirs.sign(&["api.internal"]))).await;
    let asking = Origin::start_tls("asking", identity.server_config_asking(&ours)).await;
    let plain = Origin::start("plain").await;
    let silent = RogueEndpoint::start(Rogue::Stall).await;

    let mut cases = Cases::default();
    let tls = |more: &str, health: &str| {
        format!(", tls: {{ server_name: api.internal, ca: ours.pem{more} }}, health: {health}")
    };
    let http = "{ http: /health, expect: { json: { \"/status\": healthy } } }";
    cases.add(good.address, &tls("", http), None);
    // Both versions, by ALPN.
    for protocol in ["http1", "h2"] {
        let rest = format!("{}, protocol: {protocol}", tls("", http));
        cases.add(good.address, &rest, None);
    }
    cases.add(sick.address, &tls("", http), Some("status 503"));
    // By address, if nothing says a name.
    let unnamed = format!(", tls: {{ ca: ours.pem }}, health: {http}");
    cases.add(good.address, &unnamed, None);
    // Certificates that are not trusted, not theirs, or not shown.
    let failed = Some("cannot connect: ");
    cases.add(
        foreign.address,
        &tls("", http),
        Some("cannot connect: TLS handshake failed: a signature in its chain of certificates does not hold"),
    );
    let other_name =
        format!(", tls: {{ server_name: other.internal, ca: ours.pem }}, health: {http}");
    cases.add(
        good.address,
        &other_name,
        Some("its certificate is for `api.internal`, and not for `other.internal`"),
    );
    let insecure = format!(", tls: {{ insecure: true }}, health: {http}");
    cases.add(foreign.address, &insecure, None);
    let shown = ", client_cert: edge.pem, client_key: edge.key";
    cases.add(asking.address, &tls(shown, http), None);
    cases.add(asking.address, &tls("", http), Some("ertificate"));
    // One side speaks TLS, the other does not.
    cases.add(plain.address, &tls("", http), failed);
    cases.add(
        good.address,
        &format!(", health: {http}"),
        Some("broken answer"),
    );
    let hurried = "{ http: /health, timeout: 300ms }";
    cases.add(
        silent.address,
        &tls("", hurried),
        Some("no answer within 300 ms"),
    );
    // A TCP probe finishes the handshake, and nothing more.
    cases.add(sick.address, &tls("", "{ tcp: true }"), None);
    cases.add(
        foreign.address,
        &tls("", "{ tcp: true }"),
        Some("does not hold"),
    );
    cases.add(plain.address, &tls("", "{ tcp: true }"), failed);
    let edge = ours.sign(&["edge.internal"]);
    cases
        .check(|builder| {
            builder
                .file("ours.pem", ours.pem())
                .file("edge.pem", &edge.certificate)
                .file("edge.key", &edge.key)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_probes_ask_the_health_service() {
    let authority = Authority::new();
    let identity = authority.sign(&["grpc.internal"]);
    let plain = GrpcHealth::start().await;
    let tls = GrpcHealth::start_tls(identity.server_config(&["h2"])).await;
    let long = "x".repeat(100);
    let said = [
        ("", Serving::Status(1), None),
        ("shop.Cart", Serving::Status(1), None),
        (&*long, Serving::Status(1), None),
        (
            "down",
            Serving::Status(2),
            Some("unexpected answer: NOT_SERVING"),
        ),
        (
            "odd",
            Serving::Status(3),
            Some("unexpected answer: SERVICE_UNKNOWN"),
        ),
        (
            "dunno",
            Serving::Status(0),
            Some("unexpected answer: UNKNOWN"),
        ),
        (
            "lost",
            Serving::Error(5, "unknown service"),
            Some("unexpected answer: grpc-status 5 (NOT_FOUND)"),
        ),
        (
            "never",
            Serving::Error(12, "no health here"),
            Some("unexpected answer: grpc-status 12 (UNIMPLEMENTED)"),
        ),
        (
            "late",
            Serving::ButThen(14),
            Some("unexpected answer: grpc-status 14 (UNAVAILABLE)"),
        ),
        (
            "cut",
            Serving::NoStatus,
            Some("broken answer: no grpc-status"),
        ),
        (
            "empty",
            Serving::NoMessage,
            Some("unexpected answer: UNKNOWN"),
        ),
        (
            "web",
            Serving::Http(404),
            Some("unexpected answer: status 404"),
        ),
    ];
    let mut cases = Cases::default();
    for (service, serving, expected) in said {
        plain.set(service, serving.clone());
        tls.set(service, serving);
        let health = format!(", health: {{ grpc: \"{service}\" }}");
        cases.add(plain.address, &health, expected);
        let over_tls =
            format!(", tls: {{ server_name: grpc.internal, ca: ca.pem }}, protocol: h2{health}");
        cases.add(tls.address, &over_tls, expected);
    }
    // A service that nobody registered.
    let unheard = ", health: { grpc: shop.Unheard }";
    cases.add(plain.address, unheard, Some("grpc-status 5 (NOT_FOUND)"));
    // An HTTP server that knows nothing of gRPC, and others that know nothing at all.
    let web = Origin::start("web").await;
    cases.add(
        web.address,
        ", health: { grpc: \"\" }",
        Some("broken answer: no grpc-status"),
    );
    cases
        .saying(
            &answer(200, "", "hello"),
            "{ grpc: \"\" }",
            Some("broken answer: "),
        )
        .await;
    cases
        .rogue(
            Rogue::Stall,
            "{ grpc: \"\", timeout: 300ms }",
            Some("no answer within 300 ms"),
        )
        .await;
    cases
        .rogue(Rogue::ResetAtOnce, "{ grpc: \"\" }", Some(""))
        .await;
    cases.add(
        nobody().await,
        ", health: { grpc: \"\" }",
        Some("cannot connect: connection refused"),
    );
    cases
        .check(|builder| builder.file("ca.pem", authority.pem()))
        .await;
}

// === Verdicts ===

/// What the log says about an endpoint's verdicts, in order: the words after its address.
fn verdicts(portolan: &Portolan, pool: &str, address: SocketAddr) -> Vec<String> {
    let start = format!("endpoint {pool}/{address} is ");
    let log = portolan.log();
    let said = log.lines().filter_map(|line| line.split_once(&start));
    said.map(|(_, words)| words.to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn verdicts_change_after_as_many_results_in_a_row_as_configured() {
    let a = Origin::start("a").await;
    let eager = Origin::start("eager").await;
    // Two failures are not three; a success starts the count again, and so does a failure.
    let story = [
        200, 503, 503, 200, 503, 503, 503, 200, 503, 200, 503, 503, 200, 200, 503, 503,
    ];
    a.script_health(story);
    eager.script_health([503, 200, 503]);
    let config = [
        LISTENER,
        "defaults: { health: { http: /health, every: 20ms, timeout: 10s } }\n",
        &pools(&[
            ("a", &[&a], ", health: { down_after: 3, up_after: 2 }"),
            (
                "eager",
                &[&eager],
                ", health: { down_after: 1, up_after: 1 }",
            ),
        ]),
        "routes: [ { to: { split: { a: 50, eager: 50 } } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    eventually("the story is told, and some more", async || {
        (a.probes() > story.len() as u64 + 5).then_some(())
    })
    .await;
    let failed = "3 probes in a row failed, the last: unexpected answer: status 503";
    assert_eq!(
        verdicts(&portolan, "a", a.address),
        [
            "healthy: the first probe succeeded".to_owned(),
            format!("unhealthy: {failed}"),
            "healthy: 2 probes in a row succeeded".to_owned(),
        ]
    );
    assert_eq!(
        verdicts(&portolan, "eager", eager.address),
        [
            "unhealthy: the first probe failed: unexpected answer: status 503",
            "healthy: 1 probes in a row succeeded",
            "unhealthy: 1 probes in a row failed, the last: unexpected answer: status 503",
            "healthy: 1 probes in a row succeeded",
        ]
    );
    let labels = |pool: &str| format!("pool=\"{pool}\"");
    for pool in ["a", "eager"] {
        assert_eq!(
            portolan
                .metric("portolan_endpoint_up", &[&labels(pool)])
                .await,
            1.0
        );
    }
    a.set_health(500);
    portolan.wait_for_health("a", a.address, "unhealthy").await;
    portolan
        .wait_for_metric("portolan_endpoint_up", &[&labels("a")], 0.0)
        .await;
    portolan
        .wait_for_metric("portolan_pool_up", &[&labels("a")], 0.0)
        .await;
    let endpoint = portolan.endpoint("a", a.address).await;
    assert_eq!(
        endpoint["because"],
        "3 probes in a row failed, the last: unexpected answer: status 500"
    );
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_faster_while_the_verdict_is_changing() {
    let (fast, steady) = (Origin::start("fast").await, Origin::start("steady").await);
    let config = [
        LISTENER,
        "defaults: { health: { http: /health, every: 400ms, timeout: 350ms, down_after: 8, up_after: 8 } }\n",
        &pools(&[
            ("fast", &[&fast], ", health: { fast_every: 20ms }"),
            ("steady", &[&steady], ", health: { fast_every: 400ms }"),
        ]),
        "routes: [ { to: { split: { fast: 50, steady: 50 } } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    // Both ways: the one that is asked faster is through when the other has hardly begun.
    for (status, verdict) in [(503, "unhealthy"), (200, "healthy")] {
        let (before, before_steady) = (fast.probes(), steady.probes());
        fast.set_health(status);
        steady.set_health(status);
        portolan
            .wait_for_health("fast", fast.address, verdict)
            .await;
        assert!(fast.probes() >= before + 8);
        assert!(
            steady.probes() < before_steady + 8,
            "{} probes",
            steady.probes() - before_steady
        );
        let other = portolan.endpoint("steady", steady.address).await;
        assert_ne!(other["health"], verdict);
        // Once it is certain, nobody hurries any more: the slow one takes eight steps meanwhile.
        let settled = fast.probes();
        portolan
            .wait_for_health("steady", steady.address, verdict)
            .await;
        assert!(fast.probes() - settled < 16, "{}", fast.probes() - settled);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_of_many_endpoints_spread_and_none_is_neglected() {
    let origins = Origin::start_several("o", 40).await;
    let all: Vec<&Origin> = origins.iter().collect();
    let began = Instant::now();
    let config = [
        LISTENER,
        "defaults: { health: { http: /health, every: 20ms, timeout: 10s } }\n",
        &pools(&[("many", &all, "")]),
        "routes: [ { to: many } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    // In lockstep, nobody is ever two probes ahead of anybody.
    let counts = eventually("they have drifted apart", async || {
        let counts: Vec<u64> = origins.iter().map(Origin::probes).collect();
        let (least, most) = (*counts.iter().min()?, *counts.iter().max()?);
        (least > 0 && most >= least + 3).then_some(counts)
    })
    .await;
    let elapsed = began.elapsed();
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    // Never sooner than a tenth before the time, whatever the machine does.
    let at_most = elapsed.as_secs_f64() / (0.020 * 0.9) + 2.0;
    assert!((*most as f64) <= at_most, "{most} in {elapsed:?}");
    // And the least lucky one is not much behind the luckiest.
    assert!(*least as f64 >= 0.8 * *most as f64, "{counts:?}");
    let entry = portolan.api("/pools/many").await;
    assert_eq!(entry["healthy"], 40, "{entry}");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_probes_endpoints_are_healthy_at_once() {
    let origin = Origin::start("a").await;
    let dead = nobody().await;
    let config = [
        LISTENER,
        "pools:\n",
        &pool("a", &[origin.address, dead], ", outlier: off, health: off"),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    for address in [origin.address, dead] {
        let endpoint = portolan.endpoint("a", address).await;
        assert_eq!(
            (&endpoint["health"], &endpoint["because"]),
            (&"healthy".into(), &"probes are off".into())
        );
    }
    let address = portolan.address().await;
    for _ in 0..20 {
        assert_eq!(fetch(address, "/").await.status, 200);
    }
    assert_eq!(origin.probes(), 0);
    // Switched on, the verdict stays until probes say otherwise; switched off again, it is good.
    let on = ", health: { http: /health, every: 20ms, timeout: 10s, down_after: 4 }";
    portolan.change(&config.replace(", health: off", on)).await;
    portolan.wait_for_health("a", dead, "unhealthy").await;
    assert_eq!(
        verdicts(&portolan, "a", dead),
        ["unhealthy: 4 probes in a row failed, the last: cannot connect: connection refused"]
    );
    let endpoint = portolan.endpoint("a", origin.address).await;
    assert_eq!(endpoint["because"], "probes are off");
    portolan.change(&config).await;
    let endpoint = portolan.endpoint("a", dead).await;
    assert_eq!(endpoint["health"], "healthy", "{endpoint}");
    portolan.stop().await;
}

// === The start ===

#[tokio::test(flavor = "multi_thread")]
async fn clients_wait_for_the_first_verdict_of_every_pool() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let slow = Origin::start("slow").await;
    b.set_health(503);
    slow.hold_probes(true);
    let config = [
        LISTENER,
        "startup_grace: 10m\n",
        "defaults: { health: { http: /health, every: 1h, fast_every: 1h, timeout: 20m } }\n",
        &pools(&[("a", &[&a], ""), ("b", &[&b], ""), ("slow", &[&slow], "")]),
        "routes: [ { to: { tiers: [ slow, a, b ] } } ]\n",
    ]
    .concat();
    let portolan = Portolan::with(&config).start_without_waiting().await;
    portolan.wait_for_health("a", a.address, "healthy").await;
    portolan.wait_for_health("b", b.address, "unhealthy").await;
    eventually("the slow one is asked", async || {
        (slow.probes() == 1).then_some(())
    })
    .await;
    // Two pools are judged, the third is not: nobody gets in.
    let endpoint = portolan.endpoint("slow", slow.address).await;
    assert_eq!(
        (&endpoint["health"], &endpoint["because"]),
        (&"unknown".into(), &"not probed yet".into())
    );
    assert_eq!(portolan.api("/status").await["state"], "warming");
    let ready = get(portolan.admin(), "/readyz").await.unwrap();
    assert_eq!(ready.status, 503, "{}", ready.text());
    let alive = get(portolan.admin(), "/healthz").await.unwrap();
    assert_eq!(alive.status, 200, "{}", alive.text());
    let address = portolan.address().await;
    assert!(get(address, "/").await.is_err(), "nobody listens yet");

    slow.hold_probes(false);
    portolan.wait_until_ready().await;
    assert_eq!(portolan.api("/status").await["state"], "ready");
    assert_eq!(fetch(address, "/").await.origin(), "slow");
    assert_eq!((slow.probes(), slow.hits()), (1, 1));
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_grace_nobody_waits_and_the_unknown_get_nothing() {
    let (known, slow) = (Origin::start("known").await, Origin::start("slow").await);
    slow.hold_probes(true);
    let config = [
        LISTENER,
        "startup_grace: 50ms\n",
        "defaults: { health: { http: /health, every: 1h, fast_every: 1h, timeout: 20m } }\n",
        &pools(&[("known", &[&known], ""), ("slow", &[&slow], "")]),
        "
routes:
  - { path: /alone, to: slow }
  - { path: /refused, to: slow, when_all_down: { respond: { status: 503, retry_after: 5s } } }
  - { to: { tiers: [ slow, known ] } }
",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    portolan
        .wait_for_log("opening the listeners although not every pool has answered yet")
        .await;
    portolan
        .wait_for_health("known", known.address, "healthy")
        .await;
    let address = portolan.address().await;
    for _ in 0..20 {
        assert_eq!(fetch(address, "/").await.origin(), "known");
    }
    assert_eq!(slow.hits(), 0);
    assert_eq!(fetch(address, "/refused").await.status, 503);
    // Only where there is nobody else, what is not known to be dead is tried.
    assert_eq!(fetch(address, "/alone").await.origin(), "slow");
    slow.hold_probes(false);
    portolan
        .wait_for_health("slow", slow.address, "healthy")
        .await;
    assert_eq!(fetch(address, "/").await.origin(), "slow");
    portolan.stop().await;
}

// === Traffic follows health ===

/// Waits until all of these pools can take all of their traffic.
async fn wait_until_whole(portolan: &Portolan, pools: &[&str]) {
    eventually("every endpoint is healthy", async || {
        for pool in pools {
            let entry = portolan.api(&format!("/pools/{pool}")).await;
            let endpoints = entry["endpoints"].as_array()?;
            let whole = entry["healthy"].as_u64()? as usize == endpoints.len();
            // Not on trial any more, either.
            if !whole || endpoints.iter().any(|endpoint| endpoint["part"] != 1.0) {
                return None;
            }
        }
        Some(())
    })
    .await;
}

fn hits(origins: &[Origin]) -> u64 {
    origins.iter().map(Origin::hits).sum()
}

/// How a pool can die.
#[derive(Clone, Copy, Debug)]
enum Death {
    /// Connections are refused.
    Refusing,
    /// Probes get a bad answer.
    Ailing,
    /// Probes get no answer.
    Silent,
}

impl Death {
    async fn strike(self, origins: &[Origin]) {
        for origin in origins {
            match self {
                Self::Refusing => origin.kill().await,
                Self::Ailing => origin.set_health(503),
                Self::Silent => origin.hold_probes(true),
            }
        }
    }

    async fn lift(self, origins: &[Origin]) {
        for origin in origins {
            match self {
                Self::Refusing => origin.revive().await,
                Self::Ailing => origin.set_health(200),
                Self::Silent => origin.hold_probes(false),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_die_in_every_way_alone_and_together_and_nobody_notices() {
    const TIER: [&str; 3] = ["aws", "azure", "gcp"];
    let mut tier = Vec::new();
    for name in TIER {
        tier.push(Origin::start_several(name, 2).await);
    }
    let last = Origin::start_several("last", 2).await;
    let config = [
        LISTENER,
        "defaults: { health: { http: /health, every: 50ms, timeout: 250ms, down_after: 2, up_after: 2 } }\n",
        &pools(&[
            (TIER[0], &[&tier[0][0], &tier[0][1]], ""),
            (TIER[1], &[&tier[1][0], &tier[1][1]], ""),
            (TIER[2], &[&tier[2][0], &tier[2][1]], ""),
            ("last", &[&last[0], &last[1]], ""),
        ]),
        "
services: { front: { split: { aws: 40, azure: 30, gcp: 30 } } }
routes:
  - { path: /answer, to: { tiers: [ front, last ] }, when_all_down: { respond: { status: 503, retry_after: 5s } } }
  - { to: { tiers: [ front, last ] } }
",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    wait_until_whole(&portolan, &[TIER[0], TIER[1], TIER[2], "last"]).await;
    let load = Load::plain(address, 6);
    load.more(500).await;

    // One after the other, each in every way.
    for death in [Death::Refusing, Death::Ailing, Death::Silent] {
        for (pool, origins) in TIER.into_iter().zip(&tier) {
            let (spilled, what) = (hits(&last), format!("{pool} is {death:?}"));
            death.strike(origins).await;
            portolan.wait_for_pool(pool, false).await;
            load.more(20).await;
            let before = hits(origins);
            load.more(200).await;
            assert_eq!(hits(origins), before, "{what}: dead means dead");
            death.lift(origins).await;
            wait_until_whole(&portolan, &[pool]).await;
            let before = hits(origins);
            load.more(200).await;
            assert!(hits(origins) > before + 20, "{what}: it is back");
            assert_eq!(hits(&last), spilled, "{what}: its peers took its share");
        }
    }

    // All together: the next tier serves, until they are back. More dead endpoints at once than a
    // request has tries are only survived by verdicts, so nobody asks while those are reached.
    let mut load = Some(load);
    for death in [Death::Ailing, Death::Silent, Death::Refusing] {
        if matches!(death, Death::Refusing)
            && let Some(load) = load.take()
        {
            load.stop().await.assert_flawless();
        }
        for origins in &tier {
            death.strike(origins).await;
        }
        for pool in TIER {
            portolan.wait_for_pool(pool, false).await;
        }
        let under_load = load.unwrap_or_else(|| Load::plain(address, 6));
        under_load.more(20).await;
        let before = hits(&last);
        let served: u64 = tier.iter().map(|origins| hits(origins)).sum();
        under_load.more(200).await;
        assert!(hits(&last) >= before + 150, "{death:?}");
        let still: u64 = tier.iter().map(|origins| hits(origins)).sum();
        assert_eq!(served, still, "{death:?}");
        for origins in &tier {
            death.lift(origins).await;
        }
        wait_until_whole(&portolan, &TIER).await;
        under_load.more(20).await;
        let before = hits(&last);
        under_load.more(200).await;
        assert_eq!(hits(&last), before, "{death:?}: nothing spills");
        load = Some(under_load);
    }
    if let Some(load) = load.take() {
        load.stop().await.assert_flawless();
    }

    // Nobody left at all. They are tried, for probes can be wrong, unless the route says otherwise.
    let everybody = || tier.iter().chain([&last]);
    for origins in everybody() {
        Death::Ailing.strike(origins).await;
    }
    for pool in [TIER[0], TIER[1], TIER[2], "last"] {
        portolan.wait_for_pool(pool, false).await;
    }
    assert_eq!(fetch(address, "/").await.status, 200);
    // All of them at once, and by probes alone: it is more likely that we cannot see.
    assert_eq!(fetch(address, "/answer").await.status, 200);
    for origins in everybody() {
        Death::Refusing.strike(origins).await;
    }
    let unreachable = fetch(address, "/").await;
    assert_eq!(
        (unreachable.status, unreachable.header("content-type")),
        (502, "application/problem+json")
    );
    for origins in everybody() {
        Death::Ailing.lift(origins).await;
        Death::Refusing.lift(origins).await;
    }
    wait_until_whole(&portolan, &[TIER[0], TIER[1], TIER[2], "last"]).await;
    let load = Load::plain(address, 6);
    load.more(300).await;
    let tally = load.stop().await;
    tally.assert_flawless();
    assert_eq!(tally.from("last"), 0, "{:?}", tally.origins);
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_tier_dies_at_once_and_not_one_request_is_lost() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let last = Origin::start("last").await;
    let config = [
        LISTENER,
        PROBES,
        &pools(&[("a", &[&a], ""), ("b", &[&b], ""), ("last", &[&last], "")]),
        "routes: [ { to: { tiers: [ { split: { a: 50, b: 50 } }, last ] } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let load = Load::plain(portolan.address().await, 4);
    for round in 0..3 {
        load.more(300).await;
        let before = last.hits();
        // Long before any probe notices, requests find the next tier by themselves.
        tokio::join!(a.kill(), b.kill());
        load.more(300).await;
        assert!(last.hits() > before, "{round}");
        portolan.wait_for_pool("a", false).await;
        portolan.wait_for_pool("b", false).await;
        load.more(100).await;
        tokio::join!(a.revive(), b.revive());
        wait_until_whole(&portolan, &["a", "b"]).await;
        load.more(20).await;
        let before = (a.hits(), b.hits(), last.hits());
        load.more(200).await;
        assert!(a.hits() > before.0 && b.hits() > before.1, "{round}");
        assert_eq!(last.hits(), before.2, "{round}");
    }
    let tally = load.stop().await;
    tally.assert_flawless();
    portolan.stop().await;
}

// === Reloads ===

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_its_pool_and_address_keeps_its_health() {
    let (well, sick) = (Origin::start("well").await, Origin::start("sick").await);
    let added = Origin::start("added").await;
    sick.set_health(503);
    let config = |extra: &str, rest: &str| {
        format!(
            "{LISTENER}defaults: {{ health: {{ http: /health, every: 1h, fast_every: 1h, timeout: 20m }} }}
pools:
  a:
    endpoints: [ \"{}\", {{ address: \"{}\", weight: 2 }}{extra} ]
{rest}
routes: [ {{ to: a }} ]
",
            well.address, sick.address
        )
    };
    let portolan = Portolan::start(&config("", "")).await;
    portolan
        .wait_for_health("a", sick.address, "unhealthy")
        .await;
    let address = portolan.address().await;
    fetch(address, "/").await;
    let load = Load::plain(address, 2);
    let states = async || {
        let mut states = Vec::new();
        for origin in [&well, &sick] {
            let endpoint = portolan.endpoint("a", origin.address).await;
            states.push((endpoint["health"].clone(), endpoint["because"].clone()));
        }
        states
    };
    let before = states().await;
    let requests = portolan.endpoint("a", well.address).await["requests"].clone();
    for (generation, rest) in [
        "    balance: round_robin",
        "    timeouts: { connect: 3s }",
        "    min_healthy: 1",
        "    host: api.internal",
        "    health: { http: /health?other=1 }",
        "    health: { down_after: 1, up_after: 1, timeout: 10m }",
        "    overprovision: 2.0",
        "    cloud: aws",
        "    capacity: { in_flight: 100 }",
        "    health: { tcp: true }",
    ]
    .into_iter()
    .enumerate()
    {
        portolan.change(&config("", rest)).await;
        assert_eq!(states().await, before, "{rest}");
        let ready = get(portolan.admin(), "/readyz").await.unwrap();
        assert_eq!(ready.status, 200, "{generation}: {rest}");
    }
    let now = portolan.endpoint("a", well.address).await;
    assert!(now["requests"].as_u64() >= requests.as_u64(), "{now}");
    load.more(50).await;
    load.stop().await.assert_flawless();
    assert_eq!(sick.hits(), 0);
    // The next probe was an hour away and still is, and each verdict was reached once.
    assert_eq!((well.probes(), sick.probes()), (1, 1));
    for origin in [&well, &sick] {
        assert_eq!(verdicts(&portolan, "a", origin.address).len(), 1);
    }

    // What is new begins unknown and gets nothing until it is judged.
    added.hold_probes(true);
    let extra = format!(", \"{}\"", added.address);
    portolan.change(&config(&extra, "")).await;
    let endpoint = portolan.endpoint("a", added.address).await;
    assert_eq!(endpoint["health"], "unknown", "{endpoint}");
    for _ in 0..20 {
        assert_eq!(fetch(address, "/").await.origin(), "well");
    }
    added.hold_probes(false);
    portolan
        .wait_for_health("a", added.address, "healthy")
        .await;
    assert_eq!(added.probes(), 1);

    // Removed and added anew, it is new; what stayed is not.
    portolan.change(&config("", "")).await;
    added.hold_probes(true);
    portolan.change(&config(&extra, "")).await;
    let endpoint = portolan.endpoint("a", added.address).await;
    assert_eq!(
        (&endpoint["health"], &endpoint["because"]),
        (&"unknown".into(), &"not probed yet".into())
    );
    assert_eq!(states().await, before);
    assert_eq!((well.probes(), sick.probes()), (1, 1));

    // The same address in another pool is another endpoint.
    let renamed = config("", "")
        .replace("  a:", "  b:")
        .replace("to: a", "to: b");
    portolan.change(&renamed).await;
    portolan.wait_for_health("b", well.address, "healthy").await;
    assert_eq!(well.probes(), 2);
    added.hold_probes(false);
    portolan.stop().await;
}

// === Names ===

fn loopback(last: &[u8]) -> Vec<std::net::IpAddr> {
    last.iter()
        .map(|last| std::net::Ipv4Addr::new(127, 0, 0, *last).into())
        .collect()
}

fn resolver(server: &NameServer, rest: &str) -> String {
    format!(
        "resolver: {{ servers: [ \"{}\" ]{rest} }}\n",
        server.address
    )
}

/// The endpoints of a pool: address → health.
async fn members(portolan: &Portolan, pool: &str) -> BTreeMap<String, String> {
    let entry = portolan.api(&format!("/pools/{pool}")).await;
    let endpoints = entry["endpoints"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    endpoints
        .iter()
        .map(|endpoint| (text(&endpoint["address"]), text(&endpoint["health"])))
        .collect()
}

/// Waits until a pool has exactly these endpoints, all healthy.
async fn wait_for_members(portolan: &Portolan, pool: &str, origins: &[&Origin]) {
    let wanted: BTreeMap<String, String> = origins
        .iter()
        .map(|origin| (origin.address.to_string(), "healthy".to_owned()))
        .collect();
    eventually("the pool has the addresses of its name", async || {
        (members(portolan, pool).await == wanted).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_asked_again_and_traffic_follows_their_addresses() {
    let names = NameServer::start().await;
    let mut addresses = loopback(&[1, 2, 3]);
    addresses.push(std::net::Ipv6Addr::LOCALHOST.into());
    let origins = Origin::start_at_each(&addresses).await;
    let port = origins[0].address.port();
    names.set("api.internal", Reply::Addresses(addresses[..2].to_vec(), 0));
    let config = [
        LISTENER,
        PROBES,
        &resolver(&names, ", min_ttl: 50ms"),
        &format!(
            "pools: {{ a: {{ balance: round_robin, endpoints: [ {{ dns: \"api.internal:{port}\", weight: 3 }} ] }} }}\n"
        ),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    wait_for_members(&portolan, "a", &[&origins[0], &origins[1]]).await;
    let endpoint = portolan.endpoint("a", origins[0].address).await;
    assert_eq!(
        (&endpoint["name"], &endpoint["weight"]),
        (&"api.internal".into(), &3.into())
    );
    let load = Load::plain(address, 4);
    load.more(200).await;
    assert!(origins[0].hits() > 50 && origins[1].hits() > 50);

    // More addresses, of both kinds: each begins unknown and then gets its share.
    origins[2].hold_probes(true);
    names.set("api.internal", Reply::Addresses(addresses.clone(), 0));
    eventually("the third is there, and unknown", async || {
        let members = members(&portolan, "a").await;
        (members.get(&origins[2].address.to_string())? == "unknown").then_some(())
    })
    .await;
    load.more(100).await;
    assert_eq!(origins[2].hits(), 0);
    origins[2].hold_probes(false);
    let all: Vec<&Origin> = origins.iter().collect();
    wait_for_members(&portolan, "a", &all).await;
    load.more(50).await;
    let before: Vec<u64> = origins.iter().map(Origin::hits).collect();
    load.more(400).await;
    for (origin, before) in origins.iter().zip(before) {
        assert!(origin.hits() > before + 50, "{}", origin.address);
    }

    // Fewer: what is gone gets nothing more, and what stays keeps what is known of it.
    names.set(
        "api.internal",
        Reply::Addresses(addresses[1..2].to_vec(), 0),
    );
    wait_for_members(&portolan, "a", &[&origins[1]]).await;
    load.more(20).await;
    let before = origins[1].hits();
    let gone = hits(&origins) - before;
    load.more(200).await;
    assert_eq!(hits(&origins) - origins[1].hits(), gone);
    assert_eq!(verdicts(&portolan, "a", origins[1].address).len(), 1);

    // Back again it is new: unknown until it is judged.
    origins[0].hold_probes(true);
    names.set("api.internal", Reply::Addresses(addresses[..2].to_vec(), 0));
    eventually("the first is back, and unknown", async || {
        let members = members(&portolan, "a").await;
        (members.get(&origins[0].address.to_string())? == "unknown").then_some(())
    })
    .await;
    origins[0].hold_probes(false);
    wait_for_members(&portolan, "a", &[&origins[0], &origins[1]]).await;
    assert_eq!(verdicts(&portolan, "a", origins[0].address).len(), 2);
    load.stop().await.assert_flawless();

    // A dead address of a name is like any other.
    origins[0].kill().await;
    portolan
        .wait_for_health("a", origins[0].address, "unhealthy")
        .await;
    assert_eq!(fetch(address, "/").await.origin(), "127.0.0.2");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_resolver_takes_nothing_away() {
    let names = NameServer::start().await;
    let addresses = loopback(&[1, 2]);
    let origins = Origin::start_at_each(&addresses).await;
    let port = origins[0].address.port();
    names.set("api.internal", Reply::Addresses(addresses[..1].to_vec(), 0));
    let config = [
        LISTENER,
        PROBES,
        &resolver(&names, ", min_ttl: 50ms, timeout: 200ms"),
        &format!("pools: {{ a: {{ endpoints: [ {{ dns: \"api.internal:{port}\" }} ] }} }}\n"),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let load = Load::plain(portolan.address().await, 2);
    let words = "cannot resolve api.internal: ";
    for (outage, failure) in [
        Reply::ServerFailure,
        Reply::StallDetector,
        Reply::NoSuchName,
    ]
    .into_iter()
    .enumerate()
    {
        names.set("api.internal", failure.clone());
        eventually("the failure is told", async || {
            (portolan.log().matches(words).count() > outage).then_some(())
        })
        .await;
        let asked = names.questions();
        eventually("it is asked again, in vain", async || {
            (names.questions() >= asked + 2).then_some(())
        })
        .await;
        load.more(100).await;
        wait_for_members(&portolan, "a", &[&origins[0]]).await;
        assert_eq!(
            portolan.log().matches(words).count(),
            outage + 1,
            "{failure:?}: told once"
        );
        // The next good answer counts at once.
        names.set("api.internal", Reply::Addresses(addresses.clone(), 0));
        wait_for_members(&portolan, "a", &[&origins[0], &origins[1]]).await;
        names.set("api.internal", Reply::Addresses(addresses[..1].to_vec(), 0));
        wait_for_members(&portolan, "a", &[&origins[0]]).await;
    }
    load.stop().await.assert_flawless();
    assert_eq!(verdicts(&portolan, "a", origins[0].address).len(), 1);
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_nobody_knows_yet_hold_nobody_up() {
    let names = NameServer::start().await;
    let origins = Origin::start_at_each(&loopback(&[1])).await;
    let port = origins[0].address.port();
    let other = Origin::start("other").await;
    let config = [
        LISTENER,
        "startup_grace: 10m\n",
        PROBES,
        &resolver(&names, ", timeout: 200ms"),
        "pools:\n",
        &format!("  late: {{ endpoints: [ {{ dns: \"late.internal:{port}\" }} ] }}\n"),
        &pool("other", &[other.address], ""),
        "
routes:
  - { path: /alone, to: late }
  - { to: { tiers: [ late, other ] } }
",
    ]
    .concat();
    // No such name: that is an answer, and the pool is down.
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    assert!(members(&portolan, "late").await.is_empty());
    assert_eq!(fetch(address, "/").await.origin(), "other");
    let alone = fetch(address, "/alone").await;
    assert_eq!(
        (alone.status, alone.header("content-type")),
        (503, "application/problem+json")
    );
    assert!(!alone.header("retry-after").is_empty());
    names.set("late.internal", Reply::Addresses(loopback(&[1]), 60));
    wait_for_members(&portolan, "late", &[&origins[0]]).await;
    assert_eq!(fetch(address, "/").await.origin(), "127.0.0.1");
    assert_eq!(fetch(address, "/alone").await.status, 200);
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_hold_as_long_as_they_say_within_bounds() {
    let origins = Origin::start_at_each(&loopback(&[1])).await;
    let port = origins[0].address.port();
    let (long, short) = (NameServer::start().await, NameServer::start().await);
    let address = loopback(&[1]);
    long.set("a.internal", Reply::Addresses(address.clone(), 3600));
    short.set("a.internal", Reply::Addresses(address, 0));
    let config = |server: &NameServer, rest: &str| {
        [
            LISTENER,
            PROBES,
            &resolver(server, rest),
            &format!("pools: {{ a: {{ endpoints: [ {{ dns: \"a.internal:{port}\" }} ] }} }}\n"),
            "routes: [ { to: a } ]\n",
        ]
        .concat()
    };
    // An hour is an hour, and no time at all is `min_ttl`: one is asked once (for either kind of
    // address), the other again and again.
    let patient = Portolan::start(&config(&long, ", max_ttl: 1h, min_ttl: 20ms")).await;
    let eager = Portolan::start(&config(&short, ", min_ttl: 20ms")).await;
    eventually("the short one is asked again and again", async || {
        (short.questions() >= 20).then_some(())
    })
    .await;
    assert_eq!(long.questions(), 2);
    wait_for_members(&patient, "a", &[&origins[0]]).await;
    // Unless `max_ttl` says that an hour is too long.
    let bounded = Portolan::start(&config(&long, ", max_ttl: 20ms, min_ttl: 20ms")).await;
    eventually("the long one is asked again and again", async || {
        (long.questions() >= 20).then_some(())
    })
    .await;
    for portolan in [patient, eager, bounded] {
        assert_eq!(fetch(portolan.address().await, "/").await.status, 200);
        portolan.stop().await;
    }
}
