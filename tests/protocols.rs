//! What is spoken on both sides: HTTP/1.1 and HTTP/2, with TLS and without, WebSocket, events,
//! large bodies.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::Method;
use http_body_util::BodyExt as _;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::certificates::Authority;
use crate::harness::client::{Connection, Connection2, raw};
use crate::harness::config::{LISTENER, PROBES, TRUSTING, pool, pools};
use crate::harness::origin::is_pattern;
use crate::harness::{Ask, Origin, Portolan, Rogue, RogueEndpoint, fetch, soon, websocket};

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_listener_speaks_both_versions() {
    let origin = Origin::start("a").await;
    let config = [
        LISTENER,
        PROBES,
        &pools(&[("a", &[&origin], "")]),
        "routes: [ { host: api.example.com, to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    let mut two = Connection2::open(address).await.unwrap();
    for _ in 0..3 {
        let answer = two.get("http://api.example.com/echo").await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let seen = answer.json();
        assert_eq!(
            (&seen["host"], &seen["version"]),
            (&"api.example.com".into(), &"1.1".into())
        );
        assert_eq!(seen["headers"]["via"], "2 portolan");
    }
    let lost = two.get("http://elsewhere.example/").await.unwrap();
    assert_eq!(
        (lost.status, lost.header("content-type")),
        (404, "application/problem+json")
    );
    // Many at once, over one connection.
    let asking = (0..50).map(|_| async {
        let mut two = Connection2::open(address).await.unwrap();
        two.get("http://api.example.com/sleep?ms=50")
            .await
            .unwrap()
            .status
    });
    let statuses = futures_util::future::join_all(asking).await;
    assert!(statuses.iter().all(|status| *status == 200));
    // A preface that never ends is cut off.
    let config = config.replace(
        "bind: \"127.0.0.1:0\"",
        "bind: \"127.0.0.1:0\", limits: { header_timeout: 300ms }",
    );
    portolan.change(&config).await;
    assert_eq!(raw(address, b"PRI * HTTP/2").await, "");
}

fn write_identity(
    builder: crate::harness::portolan::Builder,
    name: &str,
    authority: &Authority,
    names: &[&str],
) -> crate::harness::portolan::Builder {
    let identity = authority.sign(names);
    builder
        .file(&format!("{name}.pem"), &identity.certificate)
        .file(&format!("{name}.key"), &identity.key)
}

const TLS_LISTENER: &str = "listeners:
  - bind: \"127.0.0.1:0\"
    tls:
      certificates:
        - { cert: first.pem, key: first.key }
        - { cert: second.pem, key: second.key }
        - { cert: wild.pem, key: wild.key }
";

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_listener_chooses_certificates_by_name_and_versions_by_alpn() {
    let authority = Authority::new();
    let origin = Origin::start("a").await;
    let config = [
        TLS_LISTENER,
        PROBES,
        &pools(&[("a", &[&origin], "")]),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let builder = Portolan::with(&config);
    let builder = write_identity(
        builder,
        "first",
        &authority,
        &["first.example", "unknown.example"],
    );
    let builder = write_identity(builder, "second", &authority, &["second.example"]);
    let builder = write_identity(builder, "wild", &authority, &["*.wild.example"]);
    let portolan = builder.start().await;
    let address = portolan.address().await;
    for name in [
        "first.example",
        "second.example",
        "deep.wild.example",
        "unknown.example",
    ] {
        let stream = authority
            .connect(address, name, &["http/1.1"])
            .await
            .unwrap();
        assert_eq!(
            stream.get_ref().1.alpn_protocol(),
            Some(b"http/1.1".as_slice())
        );
        let mut connection = Connection::over(stream, name).await.unwrap();
        let seen = connection.ask(Ask::get("/echo")).await.unwrap().json();
        assert_eq!(seen["headers"]["x-forwarded-proto"], "https", "{name}");
        assert_eq!(seen["host"], name);
    }
    // Only one label.
    assert!(
        authority
            .connect(address, "a.b.wild.example", &[])
            .await
            .is_err()
    );

    let stream = authority
        .connect(address, "second.example", &["h2", "http/1.1"])
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let mut two = Connection2::over(stream).await.unwrap();
    let answer = two.get("https://second.example/echo").await.unwrap();
    assert_eq!(answer.json()["headers"]["x-forwarded-proto"], "https");
    // This connection was made for another certificate's host.
    assert_eq!(two.get("https://first.example/").await.unwrap().status, 421);
    assert_eq!(
        two.get("https://deep.wild.example/").await.unwrap().status,
        421
    );
    // A host that no certificate names counts as the default, whose certificate this is not.
    assert_eq!(
        two.get("https://nobody.example/").await.unwrap().status,
        421
    );
    let stream = authority
        .connect(address, "first.example", &["h2"])
        .await
        .unwrap();
    let mut two = Connection2::over(stream).await.unwrap();
    assert_eq!(
        two.get("https://nobody.example/").await.unwrap().status,
        200
    );
    // Plain HTTP on a TLS listener is nobody's request.
    assert!(
        !raw(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .contains("200")
    );
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_cannot_serve_are_errors_at_the_start() {
    let authority = Authority::new();
    let config = [
        TLS_LISTENER,
        "pools: { a: { endpoints: [ \"127.0.0.1:1\" ] } }\nroutes: [ { to: a } ]\n",
    ]
    .concat();
    let builder = Portolan::with(&config);
    let builder = write_identity(builder, "first", &authority, &["first.example"]);
    let builder = write_identity(builder, "second", &authority, &["second.example"]);
    let other = authority.sign(&["first.example"]);
    let builder = builder.file("second.key", &other.key);
    let (status, said) = builder.run_to_end().await;
    assert_eq!(status.code(), Some(1));
    assert!(
        said.contains("second.key") && said.contains("wild.pem"),
        "both are told: {said}"
    );
    assert!(!said.contains("PRIVATE KEY"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_spoken_to_as_configured() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let identity = authority.sign(&["api.internal"]);
    let plain = Origin::start("plain").await;
    let both = Origin::start_tls("both", identity.server_config(&["h2", "http/1.1"])).await;
    let one = Origin::start_tls("one", identity.server_config(&["http/1.1"])).await;
    let asking = Origin::start_tls("asking", identity.server_config_asking(&authority)).await;
    let client = authority.sign(&["portolan"]);
    let tls = |more: &str| format!(", tls: {{ server_name: api.internal, ca: ca.pem{more} }}");
    let config = [
        LISTENER,
        PROBES,
        "pools:\n",
        &pool("h1", &[plain.address], ", protocol: http1"),
        &pool("h2c", &[plain.address], ", protocol: h2c"),
        &pool("auto", &[both.address], &tls("")),
        &pool("auto1", &[one.address], &tls("")),
        &pool("h2", &[both.address], &format!("{}, protocol: h2", tls(""))),
        &pool(
            "mutual",
            &[asking.address],
            &tls(", client_cert: client.pem, client_key: client.key"),
        ),
        &pool("anonymous", &[asking.address], &tls("")),
        &pool(
            "wrong-name",
            &[both.address],
            ", tls: { server_name: other.internal, ca: ca.pem }",
        ),
        &pool(
            "wrong-ca",
            &[both.address],
            ", tls: { server_name: api.internal, ca: stranger.pem }",
        ),
        "routes:\n",
        &[
            "h1",
            "h2c",
            "auto",
            "auto1",
            "h2",
            "mutual",
            "anonymous",
            "wrong-name",
            "wrong-ca",
        ]
        .map(|name| {
            format!("  - {{ path: /{name}, to: {name}, rewrite: {{ strip_prefix: /{name} }} }}\n")
        })
        .concat(),
    ]
    .concat();
    let portolan = Portolan::with(&config)
        .file("ca.pem", authority.pem())
        .file("stranger.pem", stranger.pem())
        .file("client.pem", &client.certificate)
        .file("client.key", &client.key)
        .start()
        .await;
    let address = portolan.address().await;
    for (name, origin, version) in [
        ("h1", "plain", "1.1"),
        ("h2c", "plain", "2"),
        ("auto", "both", "2"),
        ("auto1", "one", "1.1"),
        ("h2", "both", "2"),
        ("mutual", "asking", "1.1"),
    ] {
        portolan.wait_for_pool(name, true).await;
        for _ in 0..3 {
            let answer = fetch(address, &format!("/{name}/echo")).await;
            assert_eq!(answer.status, 200, "{name}: {}", answer.text());
            let seen = answer.json();
            assert_eq!(
                (&seen["origin"], &seen["version"]),
                (&origin.into(), &version.into()),
                "{name}"
            );
        }
        // Bodies in both directions.
        let ask = Ask::new(Method::POST, &format!("/{name}/echo")).body(vec![b'x'; 300_000]);
        assert_eq!(
            ask.to(address).await.unwrap().json()["body_bytes"],
            300_000,
            "{name}"
        );
        let answer = fetch(address, &format!("/{name}/bytes?count=300000")).await;
        assert!(
            answer.body.len() == 300_000 && is_pattern(0, &answer.body),
            "{name}"
        );
    }
    for name in ["anonymous", "wrong-name", "wrong-ca"] {
        portolan.wait_for_pool(name, false).await;
        let answer = fetch(address, &format!("/{name}/echo")).await;
        assert_eq!(answer.status, 502, "{name}: {}", answer.text());
    }
    let why = portolan.endpoint("wrong-name", both.address).await["because"].to_string();
    assert!(why.to_lowercase().contains("certificate"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_pass_through_for_as_long_as_they_like() {
    let endpoint = websocket::endpoint().await;
    let config = [
        LISTENER,
        "pools:\n",
        &pool(
            "chat",
            &[endpoint],
            ", health: off, timeouts: { idle: 200ms, upgrade_idle: 30s }",
        ),
        "routes: [ { name: chat, to: chat } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut socket, answer) = soon(
        "the handshake",
        tokio_tungstenite::client_async(format!("ws://{address}/chat"), stream),
    )
    .await
    .unwrap();
    assert_eq!(answer.status(), 101);
    for size in [1, 125, 126, 70_000, 1_000_000] {
        let message = Message::binary(vec![7_u8; size]);
        socket.send(message.clone()).await.unwrap();
        assert_eq!(
            soon("an echo", socket.next()).await.unwrap().unwrap(),
            message
        );
    }
    // StallDetector beyond the idle time of ordinary requests.
    tokio::time::sleep(Duration::from_millis(600)).await;
    socket.send(Message::text("still there?")).await.unwrap();
    assert_eq!(
        soon("an echo", socket.next()).await.unwrap().unwrap(),
        Message::text("still there?")
    );
    assert_eq!(portolan.metric("portolan_in_flight", &[]).await, 1.0);
    socket.close(None).await.unwrap();
    portolan
        .wait_for_metric("portolan_requests_total", &["route=\"chat\"", "1xx"], 1.0)
        .await;
    portolan
        .wait_for_metric("portolan_in_flight", &[], 0.0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upgraded_connections_last_as_long_as_they_may_however_lively() {
    let endpoint = websocket::endpoint().await;
    let config = [
        LISTENER,
        "pools:\n",
        &pool(
            "chat",
            &[endpoint],
            ", health: off, timeouts: { upgrade_lifetime: 1s }",
        ),
        "routes: [ { name: chat, to: chat } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    let open = async || {
        let stream = TcpStream::connect(address).await.unwrap();
        let (socket, _) = soon(
            "the handshake",
            tokio_tungstenite::client_async(format!("ws://{address}/chat"), stream),
        )
        .await
        .unwrap();
        socket
    };
    let (mut lively, mut silent) = (open().await, open().await);
    // One never falls silent, one never says anything: both end, and not before they have begun.
    let mut echoes = 0;
    let talking = async {
        loop {
            if lively.send(Message::text("and another")).await.is_err() {
                break;
            }
            match lively.next().await {
                Some(Ok(_)) => echoes += 1,
                Some(Err(_)) | None => break,
            }
        }
    };
    soon("the end of a conversation", talking).await;
    assert!(echoes > 0);
    let end = soon("the end of silence", silent.next()).await;
    assert!(!matches!(end, Some(Ok(_))), "{end:?}");
    let expired = "portolan_upgraded_connections_expired_total";
    portolan
        .wait_for_metric(expired, &["pool=\"chat\""], 2.0)
        .await;
    portolan
        .wait_for_metric("portolan_in_flight", &[], 0.0)
        .await;
    // It was nobody's fault: the endpoint is as good as before, and clients come again.
    let tries = "portolan_upstream_tries_total";
    assert_eq!(portolan.metric(tries, &["outcome=\"answered\""]).await, 2.0);
    assert_eq!(portolan.metric(tries, &[]).await, 2.0);
    let mut again = open().await;
    again.send(Message::text("back")).await.unwrap();
    let echo = soon("an echo", again.next()).await.unwrap().unwrap();
    assert_eq!(echo, Message::text("back"));
    drop(again);
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_one_by_one() {
    let origin = Origin::start("a").await;
    let config = [
        LISTENER,
        PROBES,
        &pools(&[("a", &[&origin], "")]),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let mut connection = Connection::open(portolan.address().await).await.unwrap();
    let answer = connection.begin(Ask::get("/events?count=4&ms=150")).await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut body = answer.into_body();
    let mut arrivals = Vec::new();
    while let Some(frame) = soon("an event", body.frame()).await {
        let data = frame.unwrap().into_data().unwrap();
        arrivals.push((
            tokio::time::Instant::now(),
            String::from_utf8(data.to_vec()).unwrap(),
        ));
    }
    let events: Vec<&str> = arrivals.iter().map(|(_, event)| event.as_str()).collect();
    assert_eq!(
        events,
        ["data: 0\n\n", "data: 1\n\n", "data: 2\n\n", "data: 3\n\n"],
        "each alone"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_pass_in_both_directions() {
    let origin = Origin::start("a").await;
    let config = [
        LISTENER,
        PROBES,
        &pools(&[("a", &[&origin], "")]),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    const SIZE: u64 = 64 << 20;
    let answer = fetch(address, &format!("/bytes?count={SIZE}")).await;
    assert_eq!(answer.body.len() as u64, SIZE);
    assert!(is_pattern(0, &answer.body));
    let ask = Ask::new(Method::PUT, "/echo").body(answer.body);
    let seen = soon("an answer", ask.to(address)).await.unwrap().json();
    assert_eq!(seen["body_bytes"], SIZE);
    let up = "direction=\"up\"";
    portolan
        .wait_for_metric("portolan_bytes_total", &[up], SIZE as f64)
        .await;
    let down = "direction=\"down\"";
    let down = portolan.metric("portolan_bytes_total", &[down]).await;
    assert_eq!(down as u64 / SIZE, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_and_odd_requests_pass_as_they_are() {
    let origin = Origin::start("a").await;
    let config = [
        LISTENER,
        PROBES,
        TRUSTING,
        &pools(&[("a", &[&origin], "")]),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    for method in [
        "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND",
    ] {
        let ask = Ask::new(method.parse().unwrap(), "/echo");
        assert_eq!(ask.to(address).await.unwrap().json()["method"], method);
    }
    let head = Ask::new(Method::HEAD, "/bytes?count=1000")
        .to(address)
        .await
        .unwrap();
    assert_eq!(
        (head.status, head.header("content-length"), head.body.len()),
        (200, "1000", 0)
    );
    assert_eq!(fetch(address, "/status?code=304").await.status, 304);
    assert_eq!(fetch(address, "/status?code=418").await.status, 418);
    let connect = raw(address, b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n").await;
    assert!(connect.starts_with("HTTP/1.1 405"), "{connect}");
    let absolute = raw(address, b"GET http://other.example/echo HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n").await;
    assert!(
        absolute.contains("\"host\":\"other.example\""),
        "{absolute}"
    );
    let old = raw(address, b"GET /echo HTTP/1.0\r\nHost: x\r\n\r\n").await;
    assert!(old.contains("200"), "{old}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_answered_in_their_own_version_whatever_the_endpoint_speaks() {
    let old = b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi".to_vec();
    let endpoint = RogueEndpoint::start(Rogue::Say(old)).await;
    let config = [
        LISTENER,
        "pools:\n",
        &pool("old", &[endpoint.address], ", health: off"),
        "routes: [ { to: old } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let answer = raw(
        portolan.address().await,
        b"GET / HTTP/1.1\r\nHost: x.example\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nhi"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_an_address_is_found_in_every_spelling() {
    let (six, rest) = (Origin::start("six").await, Origin::start("rest").await);
    let config = [
        LISTENER,
        PROBES,
        &pools(&[("six", &[&six], ""), ("rest", &[&rest], "")]),
        "routes: [ { hosts: [ '2001:DB8:0:0::1', '[::ffff:192.0.2.1]' ], to: six }, { to: rest } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    let mut two = Connection2::open(address).await.unwrap();
    for (host, origin) in [
        ("[2001:db8::1]", "six"),
        ("[2001:DB8::1]:8080", "six"),
        ("[2001:0db8:0000:0000:0000:0000:0000:0001]", "six"),
        ("[2001:db8::0.0.0.1]:80", "six"),
        ("[::ffff:192.0.2.1]", "six"),
        ("[::FFFF:C000:0201]:443", "six"),
        ("[2001:db8::2]", "rest"),
        ("192.0.2.1", "rest"),
    ] {
        let answer = Ask::get("/")
            .header("host", host)
            .to(address)
            .await
            .unwrap();
        assert_eq!(answer.origin(), origin, "HTTP/1.1, {host}");
        let answer = two.get(&format!("http://{host}/")).await.unwrap();
        assert_eq!(answer.origin(), origin, "HTTP/2, {host}");
    }
    portolan.stop().await;
}
