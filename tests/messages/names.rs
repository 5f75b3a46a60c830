//! How names of headers are written.

use super::in_front_of;
use crate::harness::client::{Connection2, raw};
use crate::harness::config::{LISTENER, pool};
use crate::harness::recorder::Recorder;
use crate::harness::{Origin, Portolan, RogueEndpoint};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhOST: x.example\r\nSOAPAction: a\r\nx-lower-case: b\r\n\
    X-B3-TraceId: c\r\nsec-CH-UA: d\r\nConnection: close\r\n\r\n";

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nETag: \"a\"\r\nx-lower-case: b\r\nX-XSS-Protection: 0\r\n\
    CONTENT-length: 2\r\nWWW-Authenticate: x\r\n\r\nok";

#[tokio::test(flavor = "multi_thread")]
async fn names_are_written_as_they_came() {
    let recorder = Recorder::start().await;
    let portolan = in_front_of(recorder.address, "", "").await;
    raw(portolan.address().await, REQUEST).await;
    let seen = recorder.take();
    let head = &seen[0].head;
    for line in [
        "\r\nhOST: x.example\r\n",
        "\r\nSOAPAction: a\r\n",
        "\r\nx-lower-case: b\r\n",
        "\r\nX-B3-TraceId: c\r\n",
        "\r\nsec-CH-UA: d\r\n",
        // And what Portolan says itself, as in the standards.
        "\r\nX-Forwarded-For: 127.0.0.1\r\n",
        "\r\nX-Forwarded-Host: x.example\r\n",
        "\r\nVia: 1.1 portolan\r\n",
        "\r\nX-Request-Id: ",
        "\r\nTraceparent: ",
    ] {
        assert!(head.contains(line), "{line:?}: {head}");
    }
    portolan.stop().await;
    let endpoint = RogueEndpoint::saying(ANSWER).await;
    let portolan = in_front_of(endpoint.address, "", "").await;
    let said = raw(portolan.address().await, REQUEST).await;
    for line in [
        "\r\nETag: \"a\"\r\n",
        "\r\nx-lower-case: b\r\n",
        "\r\nX-XSS-Protection: 0\r\n",
        "\r\nCONTENT-length: 2\r\n",
        "\r\nWWW-Authenticate: x\r\n",
        "\r\nDate: ",
        "\r\nConnection: close\r\n",
    ] {
        assert!(said.contains(line), "{line:?}: {said}");
    }
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_nobody_has_spelled_are_written_as_in_the_standards() {
    // They came over HTTP/2, where there are no capitals.
    let recorder = Recorder::start().await;
    let portolan = in_front_of(recorder.address, "", "").await;
    let mut two = Connection2::open(portolan.address().await).await.unwrap();
    assert_eq!(two.get("http://x.example/").await.unwrap().status, 200);
    let seen = recorder.take();
    assert!(
        seen[0].head.contains("\r\nHost: x.example\r\n"),
        "{}",
        seen[0].head
    );
    portolan.stop().await;
    let origin = Origin::start("a").await;
    let portolan = in_front_of(origin.address, ", protocol: h2c", "").await;
    let said = raw(portolan.address().await, REQUEST).await;
    for line in [
        "\r\nX-Origin: a\r\n",
        "\r\nDate: ",
        "\r\nConnection: close\r\n",
    ] {
        assert!(said.contains(line), "{line:?}: {said}");
    }
    portolan.stop().await;
}

/// The names of a head that have capitals.
fn capitals(head: &str) -> Vec<&str> {
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let names = lines.map(|(name, _)| name);
    names
        .filter(|name| name.bytes().any(|byte| byte.is_ascii_uppercase()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_written_in_small_letters_where_that_is_wanted() {
    let recorder = Recorder::start().await;
    let endpoint = RogueEndpoint::saying(ANSWER).await;
    let config = |more: &str| {
        [
            LISTENER,
            more,
            "pools:\n",
            &pool("a", &[recorder.address], ", health: off"),
            &pool("b", &[endpoint.address], ", health: off"),
            "routes:\n",
            "  - { to: a, request_headers: { set: { X-Edge: fra1 } } }\n",
            "  - { path: /b, to: b, response_headers: { add: { X-Edge: fra1 } } }\n",
            "  - { path: /none, to: b, deny: { cidrs: [ 127.0.0.1 ] } }\n",
        ]
        .concat()
    };
    let portolan = Portolan::start(&config("")).await;
    let address = portolan.address().await;
    raw(address, REQUEST).await;
    assert!(!capitals(&recorder.take()[0].head).is_empty());
    // From the next request on.
    portolan.change(&config("header_case: lower\n")).await;
    raw(address, REQUEST).await;
    let seen = recorder.take();
    assert_eq!(capitals(&seen[0].head), [""; 0]);
    assert!(seen[0].head.contains("\r\nsoapaction: a\r\n"));
    let broken = b"GET / HTTP/1.1\r\nHost : x\r\n\r\n".to_vec();
    let ask = |path: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").into_bytes()
    };
    for (request, status) in [(ask("/b"), 200), (ask("/none"), 403), (broken, 400)] {
        let said = raw(address, &request).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
        let head = said.split("\r\n\r\n").next().unwrap();
        assert_eq!(capitals(head), [""; 0], "{said}");
    }
    portolan.stop().await;
}
