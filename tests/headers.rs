//! What browsers are told: to use https alone, to be careful, and which other sites may ask.

use std::net::SocketAddr;

use http::Method;

use crate::harness::certificates::Authority;
use crate::harness::client::{Answer, Connection};
use crate::harness::config::{LISTENER, TRUSTING, pool};
use crate::harness::{Ask, Origin, Portolan, RogueEndpoint};

const APP: &str = "https://app.example.com";

/// An endpoint with an opinion of its own.
const OPINION: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-frame-options: DENY\r\n\
    access-control-allow-origin: *\r\naccess-control-allow-credentials: true\r\n\
    strict-transport-security: max-age=1\r\nvary: accept\r\n\r\n";

async fn start(endpoint: SocketAddr, routes: &str) -> Portolan {
    let config = [
        LISTENER,
        TRUSTING,
        "defaults: { health: off }\npools:\n",
        &pool("a", &[endpoint], ""),
        "routes:\n",
        routes,
    ]
    .concat();
    Portolan::start(&config).await
}

/// All values of a header, in the order in which they came.
fn all<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    let values = answer.headers.get_all(name);
    values.iter().map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_are_told_to_use_https_over_tls_alone() {
    let authority = Authority::new();
    let identity = authority.sign(&["www.example.com"]);
    let endpoint = RogueEndpoint::saying(OPINION).await;
    let config = [
        "listeners:\n  - bind: \"127.0.0.1:0\"\n  - { bind: \"127.0.0.1:0\", tls: { certificates: [ { cert: www.pem, key: www.key } ] } }\n",
        TRUSTING,
        "defaults: { health: off }\npools:\n",
        &pool("a", &[endpoint.address], ""),
        "routes:\n",
        "  - { path: /, to: a, hsts: { max_age: 730d, include_subdomains: true, preload: true } }\n",
        "  - { path: /none, to: a, allow: { cidrs: [ 192.0.2.1 ] }, hsts: { max_age: 1d } }\n",
    ]
    .concat();
    let portolan = Portolan::with(&config)
        .file("www.pem", &identity.certificate)
        .file("www.key", &identity.key)
        .start()
        .await;
    let addresses = portolan.addresses().await;
    let name = "strict-transport-security";
    let plain = Ask::get("/").to(addresses[0]).await.unwrap();
    assert_eq!(all(&plain, name), [""; 0], "not over plain text");
    let in_front = Ask::get("/").header("x-forwarded-proto", "https");
    let in_front = in_front.to(addresses[0]).await.unwrap();
    let two_years = "max-age=63072000; includeSubDomains; preload";
    assert_eq!(all(&in_front, name), [two_years], "TLS ends before us");
    for (path, status, expected) in [("/", 200, two_years), ("/none", 403, "max-age=86400")] {
        let stream = authority.connect(addresses[1], "www.example.com", &[]);
        let mut connection = Connection::over(stream.await.unwrap(), "www.example.com")
            .await
            .unwrap();
        let answer = connection.ask(Ask::get(path)).await.unwrap();
        assert_eq!(answer.status, status);
        assert_eq!(all(&answer, name), [expected], "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_are_told_to_be_careful_unless_the_endpoint_knows_better() {
    let endpoint = RogueEndpoint::saying(OPINION).await;
    let portolan = start(
        endpoint.address,
        "  - { path: /, to: a, security_headers: true }
  - { path: /ours, to: a, security_headers: { overwrite: true, referrer_policy: no-referrer } }
  - { path: /none, to: a, security_headers: { frame_options: deny }, deny: { cidrs: [ 127.0.0.0/8 ] } }
  - { path: /off, to: a }
",
    )
    .await;
    let address = portolan.address().await;
    for (path, frame, sniff, referrer) in [
        ("/", "DENY", "nosniff", "strict-origin-when-cross-origin"),
        ("/ours", "SAMEORIGIN", "nosniff", "no-referrer"),
        (
            "/none",
            "DENY",
            "nosniff",
            "strict-origin-when-cross-origin",
        ),
        ("/off", "DENY", "", ""),
    ] {
        let answer = Ask::get(path).to(address).await.unwrap();
        assert_eq!(all(&answer, "x-frame-options"), [frame], "{path}");
        assert_eq!(answer.header("x-content-type-options"), sniff, "{path}");
        assert_eq!(answer.header("referrer-policy"), referrer, "{path}");
    }
}

const CORS: &str = "  - path: /
    methods: [ GET, PUT ]
    to: a
    cors:
      origins: [ https://app.example.com, \"https://*.partner.example\" ]
      methods: [ GET, PUT ]
      headers: [ x-token ]
      expose: [ x-total ]
      credentials: true
      max_age: 1h
  - { path: /public, to: a, cors: { origins: [ \"*\" ] } }
  - { path: /limited, to: a, cors: { origins: [ https://app.example.com ] }, rate_limit: { requests: 1, per: 1h } }
  - { path: /inside, to: a, cors: { origins: [ \"*\" ] }, allow: { cidrs: [ 192.0.2.1 ] } }
  - { path: /own, to: a }
";

#[tokio::test(flavor = "multi_thread")]
async fn preflights_are_answered_here() {
    let origin = Origin::start("a").await;
    let portolan = start(origin.address, CORS).await;
    let address = portolan.address().await;
    let preflight = async |path: &str, from: &str, method: &str| {
        Ask::new(Method::OPTIONS, path)
            .header("origin", from)
            .header("access-control-request-method", method)
            .to(address)
            .await
            .unwrap()
    };
    for site in [APP, "https://a.partner.example"] {
        let answer = preflight("/x", site, "PUT").await;
        assert_eq!(answer.status, 204);
        assert_eq!(all(&answer, "access-control-allow-origin"), [site]);
        assert_eq!(answer.header("access-control-allow-methods"), "GET, PUT");
        assert_eq!(answer.header("access-control-allow-headers"), "x-token");
        assert_eq!(answer.header("access-control-allow-credentials"), "true");
        assert_eq!(answer.header("access-control-max-age"), "3600");
        assert!(all(&answer, "vary").contains(&"origin"));
    }
    let stranger = preflight("/x", "https://evil.example", "PUT").await;
    assert_eq!(stranger.status, 204);
    assert_eq!(stranger.header("access-control-allow-origin"), "");
    assert!(all(&stranger, "vary").contains(&"origin"));
    let public = preflight("/public", "https://evil.example", "GET").await;
    assert_eq!(public.header("access-control-allow-origin"), "*");
    assert_eq!(preflight("/inside", APP, "GET").await.status, 403);
    assert_eq!(origin.hits(), 0, "none reached the endpoint");
    // Where nothing is said about it, endpoints answer; and so they do what is no preflight.
    assert_eq!(preflight("/own", APP, "GET").await.status, 200);
    let plain = Ask::new(Method::OPTIONS, "/public")
        .to(address)
        .await
        .unwrap();
    assert_eq!(plain.status, 200);
    assert_eq!(origin.hits(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_sites_may_read_what_they_may_ask_for() {
    let endpoint = RogueEndpoint::saying(OPINION).await;
    let portolan = start(endpoint.address, CORS).await;
    let address = portolan.address().await;
    let ask = async |path: &str, from: Option<&str>| {
        let mut ask = Ask::get(path);
        if let Some(from) = from {
            ask = ask.header("origin", from);
        }
        ask.to(address).await.unwrap()
    };
    let allowed = ask("/", Some(APP)).await;
    assert_eq!(all(&allowed, "access-control-allow-origin"), [APP]);
    assert_eq!(all(&allowed, "access-control-allow-credentials"), ["true"]);
    assert_eq!(allowed.header("access-control-expose-headers"), "x-total");
    assert_eq!(all(&allowed, "vary"), ["accept", "origin"]);
    // The endpoint's own word is not the route's.
    for from in [None, Some("https://evil.example"), Some("null")] {
        let answer = ask("/", from).await;
        assert_eq!(answer.status, 200);
        assert_eq!(
            all(&answer, "access-control-allow-origin"),
            [""; 0],
            "{from:?}"
        );
        assert_eq!(all(&answer, "access-control-allow-credentials"), [""; 0]);
        assert_eq!(all(&answer, "vary"), ["accept", "origin"]);
    }
    let public = ask("/public", Some("https://evil.example")).await;
    assert_eq!(all(&public, "access-control-allow-origin"), ["*"]);
    assert_eq!(all(&public, "access-control-allow-credentials"), [""; 0]);
    assert_eq!(all(&public, "vary"), ["accept"]);
    let own = ask("/own", Some(APP)).await;
    assert_eq!(all(&own, "access-control-allow-origin"), ["*"]);
    // A script can read why it was refused.
    assert_eq!(ask("/limited", Some(APP)).await.status, 200);
    let refused = ask("/limited", Some(APP)).await;
    assert_eq!(refused.status, 429);
    assert_eq!(all(&refused, "access-control-allow-origin"), [APP]);
}
