//! A service that says who may pass: what it is asked, what its word means, and what is done without
//! it.

use std::net::SocketAddr;

use http::Method;
use serde_json::Value;

use crate::harness::client::Answer;
use crate::harness::config::{LISTENER, pool};
use crate::harness::issuer::{Does, Service};
use crate::harness::{Ask, Origin, Portolan, eventually, soon};

fn config(origin: &Origin, services: &[SocketAddr]) -> String {
    [
        LISTENER,
        "defaults: { health: off, retry: { tries: 1 } }\n",
        "pools:\n",
        &pool("a", &[origin.address], ""),
        &pool("authority", services, ", timeouts: { connect: 1s }"),
        "routes:
  - { path: /, to: a, auth: { forward_auth: { to: authority, path: /verify, copy_headers: [ X-User, X-Groups ], timeout: 20s, max_body: 16KiB } } }
  - { path: /quick, to: a, auth: { forward_auth: { to: authority, copy_headers: [ X-User ], timeout: 300ms } } }
  - { path: /open, to: a, rewrite: { strip_prefix: /open }, auth: { forward_auth: { to: authority, copy_headers: [ X-User ], timeout: 300ms, fail_open: true } } }
  - { path: /one, to: a, auth: { forward_auth: { to: authority, at_once: 1, timeout: 20s, fail_open: true } } }
  - { path: /some, to: a, auth: { forward_auth: { to: authority, send_headers: [ Cookie ] }, forward_authorization: true } }
",
    ]
    .concat()
}

async fn ask(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut ask = Ask::get(path);
    for (name, value) in headers {
        ask = ask.header(name, value);
    }
    ask.to(address).await.unwrap()
}

fn allowing() -> Does {
    let headers = [
        ("x-user", "alice"),
        ("x-groups", "a"),
        ("x-groups", "b"),
        ("x-other", "c"),
    ];
    Does::answer(200, &headers, "welcome")
}

async fn ruled(portolan: &Portolan, route: &str, outcome: &str, count: f64) {
    let labels = [
        format!("route=\"*{route}\""),
        format!("outcome=\"{outcome}\""),
    ];
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    portolan
        .wait_for_metric("portolan_forward_auth_total", &labels, count)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_is_asked_and_endpoints_learn_what_it_says() {
    let origin = Origin::start("a").await;
    let service = Service::start(allowing()).await;
    let portolan = Portolan::start(&config(&origin, &[service.address])).await;
    let address = portolan.address().await;
    let answer = Ask::new(Method::POST, "/echo?x=1")
        .header("host", "shop.example.com")
        .header("cookie", "session=7")
        .header("content-type", "text/plain")
        .header("if-none-match", "\"a\"")
        .header("authorization", "Bearer abc")
        .header("x-user", "root")
        .header("x_groups", "root")
        .header("x-forwarded-uri", "/public")
        .header("x_forwarded_method", "GET")
        .header("x-forwarded-for", "10.0.0.1")
        .body("a body")
        .to(address)
        .await
        .unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = &answer.json()["headers"];
    assert_eq!(seen["x-user"], "alice", "and not what the client says");
    assert_eq!(seen["x-groups"], "a, b");
    assert_eq!(seen["x_groups"], Value::Null);
    assert_eq!(seen["x-other"], Value::Null, "nobody asked for it");
    assert_eq!(seen["cookie"], "session=7");
    assert_eq!(seen["authorization"], Value::Null);
    let heard = service.heard()[0].to_ascii_lowercase();
    let lines: Vec<&str> = heard.lines().collect();
    assert_eq!(lines[0], "get /verify http/1.1");
    for line in [
        "host: shop.example.com",
        "x-forwarded-method: post",
        "x-forwarded-uri: /echo?x=1",
        "x-forwarded-host: shop.example.com",
        "x-forwarded-proto: http",
        "x-forwarded-for: 127.0.0.1",
        "cookie: session=7",
        "authorization: bearer abc",
    ] {
        assert_eq!(
            lines.iter().filter(|said| **said == line).count(),
            1,
            "{line}: {heard}"
        );
    }
    for name in [
        "content-",
        "transfer-encoding",
        "if-none-match",
        "/public",
        "x_forwarded",
    ] {
        assert!(!heard.contains(name), "{name}: {heard}");
    }
    // Only what it is to be told, and over the same connection.
    let said = [
        ("cookie", "a=b"),
        ("x-more", "c"),
        ("authorization", "Basic x"),
    ];
    let answer = ask(address, "/some/echo", &said).await;
    assert_eq!(answer.status, 200);
    let heard = service.heard()[1].to_ascii_lowercase();
    assert!(heard.contains("cookie: a=b") && heard.contains("x-forwarded-uri: /some/echo"));
    assert!(
        !heard.contains("x-more") && !heard.contains("authorization"),
        "{heard}"
    );
    // Nobody has taken off what it says.
    let hits = origin.hits();
    let answer = ask(address, "/echo", &[("connection", "x-user")]).await;
    assert_eq!((answer.status, origin.hits()), (400, hits));
    ruled(&portolan, "/", "allowed", 2.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_refuses_is_answered_in_its_words() {
    let origin = Origin::start("a").await;
    let service = Service::start(Does::HangsUp).await;
    let portolan = Portolan::start(&config(&origin, &[service.address])).await;
    let address = portolan.address().await;
    let headers = [
        ("www-authenticate", "Custom realm=\"x\""),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("location", "https://login.example.com/?back=/"),
        ("content-type", "text/html"),
        ("x-internal", "10.1.2.3"),
        ("server", "authority"),
    ];
    for status in [401, 403, 302, 307, 404, 429] {
        service.now(Does::answer(status, &headers, "<p>Log in</p>"));
        let answer = ask(address, "/", &[]).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.text(), "<p>Log in</p>");
        assert_eq!(answer.header("www-authenticate"), "Custom realm=\"x\"");
        assert_eq!(
            answer.header("location"),
            "https://login.example.com/?back=/"
        );
        assert_eq!(answer.header("content-type"), "text/html");
        assert_eq!(answer.header("cache-control"), "no-store");
        let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1", "b=2"]);
        for name in ["x-internal", "server"] {
            assert!(!answer.headers.contains_key(name), "{name}");
        }
    }
    let answer = Ask::new(Method::HEAD, "/").to(address).await.unwrap();
    assert_eq!((answer.status, answer.text().len()), (429, 0));
    // Of a long answer, a part.
    service.now(Does::answer(403, &[], &"x".repeat(100_000)));
    let answer = ask(address, "/", &[]).await;
    assert_eq!((answer.status, answer.body.len()), (403, 16 << 10));
    assert_eq!(origin.hits(), 0);
    let labels = ["reason=\"auth_denied\""];
    portolan
        .wait_for_metric("portolan_refused_requests_total", &labels, 8.0)
        .await;
    ruled(&portolan, "/", "denied", 8.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_word_nobody_passes_unless_that_was_said() {
    let origin = Origin::start("a").await;
    let service = Service::start(Does::Stalls).await;
    let portolan = Portolan::start(&config(&origin, &[service.address])).await;
    let address = portolan.address().await;
    let endless = "HTTP/1.1 200 OK\r\nx-user: eve\r\n\r\n".to_owned();
    let bad = [
        Does::Stalls,
        Does::HangsUp,
        Does::Drips("HTTP/1.1 2".to_owned(), "0".to_owned()),
        Does::Drips(endless, "x".to_owned()),
        Does::answer(500, &[], "internal"),
        Does::answer(503, &[], "internal"),
        Does::answer(304, &[], ""),
        Does::Says("nonsense\r\n\r\n".to_owned()),
        Does::Says(
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef".to_owned(),
        ),
    ];
    for (at, does) in bad.iter().enumerate() {
        service.now(does.clone());
        let answer = ask(address, "/quick", &[]).await;
        assert_eq!(answer.status, 503, "{does:?}");
        assert!(!answer.text().contains("internal"));
        assert_eq!(origin.hits(), at as u64);
        let answer = ask(address, "/open/echo", &[("x-user", "root")]).await;
        assert_eq!(answer.status, 200, "{does:?}");
        assert_eq!(
            answer.json()["headers"]["x-user"],
            Value::Null,
            "nobody proved it"
        );
    }
    let labels = ["reason=\"auth_unavailable\""];
    let count = bad.len() as f64;
    portolan
        .wait_for_metric("portolan_refused_requests_total", &labels, count)
        .await;
    ruled(&portolan, "/quick", "failed", count).await;
    ruled(&portolan, "/open", "failed_open", count).await;
    service.now(allowing());
    assert_eq!(
        ask(address, "/quick", &[]).await.status,
        200,
        "as soon as it is back"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_endpoint_is_asked_when_one_is_dead() {
    let origin = Origin::start("a").await;
    let service = Service::start(allowing()).await;
    let dead = Origin::start("dead").await;
    dead.kill().await;
    let portolan = Portolan::start(&config(&origin, &[dead.address, service.address])).await;
    let address = portolan.address().await;
    for _ in 0..20 {
        assert_eq!(ask(address, "/", &[]).await.status, 200);
    }
    assert_eq!(service.asked(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_under_way_are_bounded_and_hold_up_nobody_else() {
    let origin = Origin::start("a").await;
    let service = Service::start(Does::Stalls).await;
    let text = config(&origin, &[service.address]) + "  - { path: /free, to: a }\n";
    let portolan = Portolan::start(&text).await;
    let address = portolan.address().await;
    let first = tokio::spawn(async move { ask(address, "/one", &[]).await.status });
    eventually("the first is asked about", async || {
        (service.asked() == 1).then_some(())
    })
    .await;
    // Not even where it may fail open: numbers open nothing.
    assert_eq!(ask(address, "/one", &[]).await.status, 503);
    let labels = ["reason=\"auth_busy\""];
    portolan
        .wait_for_metric("portolan_refused_requests_total", &labels, 1.0)
        .await;
    // More wait than there are workers, and others are served all the same.
    let waiting: Vec<_> = (0..64)
        .map(|_| tokio::spawn(async move { ask(address, "/", &[]).await.status }))
        .collect();
    eventually("all of them are asked about", async || {
        (service.asked() == 65).then_some(())
    })
    .await;
    assert_eq!(ask(address, "/free", &[]).await.status, 200);
    service.now(allowing());
    assert_eq!(soon("the first is answered", first).await.unwrap(), 200);
    for one in waiting {
        assert_eq!(soon("it is answered", one).await.unwrap(), 200);
    }
}
