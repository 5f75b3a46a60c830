//! Routes that send clients elsewhere instead of serving them.

use http::Method;

use crate::harness::certificates::Authority;
use crate::harness::client::{Connection, Connection2, raw};
use crate::harness::config::{PROBES, pools};
use crate::harness::{Ask, Origin, Portolan};

const ROUTES: &str = "
routes:
  - { name: api, to: a }
  - { name: moved, host: old.example, redirect: { host: new.example } }
  - { name: docs, host: old.example, path: /docs, redirect: { host: \"docs.example:8443\", scheme: https, prefix: /v2, status: 301 } }
  - { name: root, host: old.example, path: /root, redirect: { prefix: /, status: 308 } }
  - { name: page, host: old.example, path: { exact: /page }, redirect: { path: /other/page, status: 303, strip_query: true } }
  - { name: secure, host: clear.example, redirect: { scheme: https, status: 302 } }
  - { name: guarded, host: guarded.example, redirect: { host: new.example }, deny: { cidrs: [ 192.0.2.0/24 ] }, security_headers: true, rate_limit: { requests: 2, per: 1h } }
";

async fn start(origin: &Origin) -> Portolan {
    let config = [
        "listeners: [ { bind: \"127.0.0.1:0\" } ]\n",
        "client_ip: { trusted: [ 127.0.0.1/32 ] }\npaths: { repeated_slashes: keep }\n",
        PROBES,
        &pools(&[("a", &[origin], "")]),
        ROUTES,
    ]
    .concat();
    Portolan::start(&config).await
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_sent_elsewhere_with_what_they_asked_for() {
    let origin = Origin::start("a").await;
    let portolan = start(&origin).await;
    let address = portolan.address().await;
    for (host, path, status, location) in [
        ("old.example", "/x/y?q=1", 307, "http://new.example/x/y?q=1"),
        ("OLD.example:80", "/", 307, "http://new.example/"),
        (
            "old.example",
            "/docs/a%20b?x",
            301,
            "https://docs.example:8443/v2/a%20b?x",
        ),
        ("old.example", "/docs", 301, "https://docs.example:8443/v2"),
        // Not a whole segment of the prefix.
        ("old.example", "/docsy", 307, "http://new.example/docsy"),
        ("old.example:81", "/root/x", 308, "http://old.example:81/x"),
        ("old.example", "/root", 308, "http://old.example/"),
        (
            "old.example",
            "/page?secret=1",
            303,
            "http://old.example/other/page",
        ),
        // Another scheme has another port.
        (
            "clear.example:8080",
            "/a?b",
            302,
            "https://clear.example/a?b",
        ),
        // What looks like another host stays a path, as it was matched.
        (
            "old.example",
            "//evil.example/x",
            307,
            "http://new.example//evil.example/x",
        ),
        (
            "old.example",
            "/root//evil.example",
            308,
            "http://old.example//evil.example",
        ),
        ("old.example", "/docs/../%2e%2e", 400, ""),
        (
            "old.example",
            "/a?//evil.example",
            307,
            "http://new.example/a?//evil.example",
        ),
        (
            "old.example",
            "/%0d%0aset-cookie:x",
            307,
            "http://new.example/%0D%0Aset-cookie:x",
        ),
    ] {
        let answer = Ask::get(path)
            .header("host", host)
            .to(address)
            .await
            .unwrap();
        assert_eq!(answer.status, status, "{host}{path}");
        assert_eq!(answer.header("location"), location, "{host}{path}");
        assert_eq!(answer.header("set-cookie"), "");
        assert_eq!(answer.header("x-request-id").len(), 32);
    }
    // A proxy in front that speaks TLS says so.
    let behind = Ask::get("/x").header("host", "old.example");
    let behind = behind.header("x-forwarded-proto", "https");
    let answer = behind.to(address).await.unwrap();
    assert_eq!(answer.header("location"), "https://new.example/x");
    // Nobody knows from where: HTTP/1.0 needs no host, and then no route of one takes it.
    let old = raw(address, b"GET /x HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.1 200"), "{old}");
    // In absolute form, the target's host is the one.
    let absolute = raw(
        address,
        b"GET http://old.example/root/x HTTP/1.1\r\nHost: old.example\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(
        absolute
            .to_lowercase()
            .contains("location: http://old.example/x\r\n"),
        "{absolute}"
    );
    assert_eq!(origin.hits(), 1, "nothing else was sent on");
    let labels = ["route=\"moved\"", "pool=\"-\"", "code_class=\"3xx\""];
    portolan
        .wait_for_metric("portolan_requests_total", &labels, 7.0)
        .await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_for_those_who_may_use_the_route() {
    let origin = Origin::start("a").await;
    let portolan = start(&origin).await;
    let address = portolan.address().await;
    let ask = async |client: &str| {
        let ask = Ask::get("/").header("host", "guarded.example");
        ask.header("x-forwarded-for", client)
            .to(address)
            .await
            .unwrap()
    };
    let denied = ask("192.0.2.1").await;
    assert_eq!((denied.status, denied.header("location")), (403, ""));
    for _ in 0..2 {
        let answer = ask("198.51.100.1").await;
        assert_eq!(answer.status, 307);
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
    let limited = ask("198.51.100.1").await;
    assert_eq!((limited.status, limited.header("location")), (429, ""));
    // What would become of a request says so too.
    let question = serde_json::json!({ "url": "http://old.example/docs/x" });
    let ask = Ask::new(Method::POST, "/api/v1/explain").header("content-type", "application/json");
    let ask = ask.body(question.to_string());
    let said = ask.to(portolan.admin()).await.unwrap().json();
    assert_eq!(
        (&said["route"], &said["status"]),
        (&"docs".into(), &301.into()),
        "{said}"
    );
    assert_eq!(said["refused"], 0.0);
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_clients_stay_with_tls() {
    let origin = Origin::start("a").await;
    let authority = Authority::new();
    let identity = authority.sign(&["old.example"]);
    let config = [
        "listeners: [ { bind: \"127.0.0.1:0\", tls: { certificates: [ { cert: edge.pem, key: edge.key } ] } } ]\n",
        PROBES,
        &pools(&[("a", &[&origin], "")]),
        ROUTES,
    ]
    .concat();
    let builder = Portolan::with(&config)
        .file("edge.pem", &identity.certificate)
        .file("edge.key", &identity.key);
    let portolan = builder.start().await;
    let address = portolan.address().await;
    let connect = async |alpn| authority.connect(address, "old.example", &[alpn]).await;
    let stream = connect("http/1.1").await.unwrap();
    let mut one = Connection::over(stream, "old.example").await.unwrap();
    let mut two = Connection2::over(connect("h2").await.unwrap())
        .await
        .unwrap();
    for answer in [
        one.ask(Ask::get("/x?y")).await.unwrap(),
        two.get("https://old.example/x?y").await.unwrap(),
    ] {
        assert_eq!(answer.status, 307);
        assert_eq!(answer.header("location"), "https://new.example/x?y");
    }
    portolan.stop().await;
}
