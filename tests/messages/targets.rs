//! Targets, as browsers and other clients write them.

use http::{Method, Request};
use http_body_util::Full;
use hyper::body::Bytes;

use super::{echoed, echoing, in_front_of};
use crate::harness::client::{Connection2, raw};
use crate::harness::config::{LISTENER, pool};
use crate::harness::recorder::Recorder;
use crate::harness::{Origin, Portolan, Wire};

/// Whatever WHATWG URL parsers leave in a query as it is, but for what also RFC 3986 allows.
const BROWSERS: &str = "a=`\\{|}^&b=[]%&c=%zz";

/// What other clients leave there besides.
const OTHERS: &str = "a=\"<b>\"'";

fn asking(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: x.example\r\nConnection: close\r\n\r\n").into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_browsers_leave_in_queries_passes_unchanged_whatever_is_spoken() {
    for wire in [Wire::Http1, Wire::H2c] {
        let (_origin, portolan) = echoing(wire, "").await;
        let address = portolan.address().await;
        let target = format!("/echo?{BROWSERS}");
        let seen = echoed(address, &asking(&target)).await;
        assert_eq!(seen["target"], target, "{wire:?}");
        let mut two = Connection2::open(address).await.unwrap();
        let url = format!("http://x.example{target}");
        let seen = two.get(&url).await.unwrap().json();
        assert_eq!(seen["target"], target, "HTTP/2 and {wire:?}");
        portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_other_clients_leave_in_queries_passes_as_far_as_it_can_be_said() {
    // Over HTTP/1.1 as it is, also where the path changes.
    let recorder = Recorder::start().await;
    let config = [
        LISTENER,
        "pools:\n",
        &pool("a", &[recorder.address], ", health: off"),
        "routes: [ { path: /v1, to: a, rewrite: { strip_prefix: /v1 } }, { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    for (path, forwarded) in [("/x", "/x"), ("/v1//%61/./b", "/a/b")] {
        let target = format!("{path}?{OTHERS}");
        let said = raw(portolan.address().await, &asking(&target)).await;
        assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
        let seen = recorder.take();
        assert_eq!(seen[0].line(), format!("GET {forwarded}?{OTHERS}"));
    }
    portolan.stop().await;
    // Over HTTP/2 escaped, which is the same to whoever reads it.
    let (_origin, portolan) = echoing(Wire::H2c, "").await;
    let target = format!("/echo?{OTHERS}");
    let seen = echoed(portolan.address().await, &asking(&target)).await;
    assert_eq!(seen["target"], "/echo?a=%22%3Cb%3E%22'");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slash_in_a_name_is_part_of_its_segment() {
    for wire in [Wire::Http1, Wire::H2c] {
        let origin = Origin::start("a").await;
        let config = [
            LISTENER,
            "pools:\n",
            &pool("a", &[origin.address], &format!("{}, health: off", wire.pool())),
            "routes:\n",
            "  - { name: one, path: /echo, expose: true, to: a }\n",
            "  - { name: two, path: \"/echo%2Fx\", expose: true, to: a, response_headers: { set: { x-route: two } } }\n",
            "  - { name: rest, to: a, response_headers: { set: { x-route: rest } } }\n",
        ]
        .concat();
        let portolan = Portolan::start(&config).await;
        let address = portolan.address().await;
        let route = async |path: &str| {
            let said = raw(address, &asking(path)).await.to_lowercase();
            let found = ["two", "rest"].map(|name| said.contains(&format!("x-route: {name}\r\n")));
            match found {
                [true, _] => "two",
                [_, true] => "rest",
                _ => "one",
            }
        };
        for (path, expected) in [
            ("/echo/x", "one"),
            ("/echo%2Fx", "two"),
            ("/echo%2fx/y", "two"),
            ("/echo%2Fxy", "rest"),
            ("/ech%6f%2Fx", "two"),
        ] {
            assert_eq!(route(path).await, expected, "{path}");
        }
        let mut two = Connection2::open(address).await.unwrap();
        let answer = two.get("http://x.example/echo%2fx").await.unwrap();
        assert_eq!(answer.header("x-route"), "two");
        portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_as_a_whole_is_asked_where_its_root_is() {
    let recorder = Recorder::start().await;
    let config = [
        LISTENER,
        "pools:\n",
        &pool("a", &[recorder.address], ", health: off"),
        &pool("b", &[recorder.address], ", health: off, host: b.internal"),
        "routes:\n",
        "  - { host: a.example, path: /, to: a }\n",
        "  - { host: b.example, path: /, to: b, rewrite: { strip_prefix: / } }\n",
        "  - { host: c.example, path: /v1, to: a }\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    for (target, host, seen_host) in [
        ("*", "a.example", Some("a.example")),
        ("http://a.example", "a.example", Some("a.example")),
        ("*", "b.example", Some("b.internal")),
        ("*", "c.example", None),
        ("*", "d.example", None),
    ] {
        let bytes =
            format!("OPTIONS {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let said = raw(address, bytes.as_bytes()).await;
        let seen = recorder.take();
        match seen_host {
            Some(expected) => {
                assert!(said.starts_with("HTTP/1.1 200 "), "{target} {host}: {said}");
                assert_eq!(seen[0].line(), "OPTIONS *");
                assert_eq!(seen[0].values("host"), [expected]);
            }
            None => {
                assert!(said.starts_with("HTTP/1.1 404 "), "{target} {host}: {said}");
                assert!(seen.is_empty());
            }
        }
    }
    let mut two = Connection2::open(address).await.unwrap();
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    parts.authority = Some("a.example".parse().unwrap());
    parts.path_and_query = Some("*".parse().unwrap());
    let whole = Request::builder()
        .method(Method::OPTIONS)
        .uri(http::Uri::from_parts(parts).unwrap())
        .body(Full::new(Bytes::new()))
        .unwrap();
    assert_eq!(two.send(whole).await.unwrap().status, 200);
    assert_eq!(recorder.take()[0].line(), "OPTIONS *");
    portolan.stop().await;
    // And so it goes on over HTTP/2.
    let origin = Origin::start("a").await;
    let portolan = in_front_of(origin.address, ", protocol: h2c", "").await;
    let bytes = b"OPTIONS * HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
    let said = raw(portolan.address().await, bytes).await;
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    portolan.stop().await;
}
