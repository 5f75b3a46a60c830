//! TRACE and OPTIONS, which count over how many hops they go.

use http::{Method, Request};
use http_body_util::Full;
use hyper::body::Bytes;

use super::in_front_of;
use crate::harness::client::{Connection2, raw};
use crate::harness::recorder::Recorder;

fn asking(method: &str, left: &str) -> Vec<u8> {
    format!(
        "{method} /a?b=c HTTP/1.1\r\nHost: x.example\r\nCookie: session=secret\r\n\
         Authorization: Bearer secret\r\nX-Api-Key: secret\r\nUser-Agent: a test\r\n\
         Max-Forwards: {left}\r\nConnection: close\r\n\r\n"
    )
    .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_may_go_no_further_are_answered_here() {
    let recorder = Recorder::start().await;
    let portolan = in_front_of(recorder.address, "", "").await;
    let address = portolan.address().await;
    let traced = raw(address, &asking("TRACE", "0")).await;
    let (head, body) = traced.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{traced}");
    assert!(
        head.contains("\r\nContent-Type: message/http\r\n"),
        "{traced}"
    );
    assert!(body.starts_with("TRACE /a?b=c HTTP/1.1\r\n"), "{traced}");
    assert!(body.contains("\r\nuser-agent: a test\r\n"), "{traced}");
    assert!(!body.contains("secret"), "a script could read it: {traced}");
    let options = raw(address, &asking("OPTIONS", "0")).await;
    assert!(options.starts_with("HTTP/1.1 204 "), "{options}");
    assert!(options.contains("\r\nAllow: GET, "), "{options}");
    let mut two = Connection2::open(address).await.unwrap();
    for (method, status) in [(Method::TRACE, 200), (Method::OPTIONS, 204)] {
        let request = Request::builder()
            .method(method)
            .uri("http://x.example/a")
            .header("max-forwards", "0")
            .body(Full::new(Bytes::new()))
            .unwrap();
        assert_eq!(two.send(request).await.unwrap().status, status);
    }
    assert!(recorder.take().is_empty(), "nobody behind has heard of it");
    portolan
        .wait_for_metric(
            "portolan_request_outcomes_total",
            &["outcome=\"answered\"", "reason=\"whole\""],
            4.0,
        )
        .await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_may_go_further_have_one_hop_less() {
    let recorder = Recorder::start().await;
    let portolan = in_front_of(recorder.address, "", "").await;
    let address = portolan.address().await;
    for (method, left, passed) in [
        ("TRACE", "1", "0"),
        ("OPTIONS", "10", "9"),
        ("OPTIONS", "99999999999", "4294967294"),
        // Others do not count.
        ("GET", "0", "0"),
        ("GET", "x", "x"),
    ] {
        let said = raw(address, &asking(method, left)).await;
        assert!(said.starts_with("HTTP/1.1 200 "), "{method} {left}: {said}");
        let seen = recorder.take();
        assert_eq!(seen[0].values("max-forwards"), [passed], "{method} {left}");
    }
    portolan.stop().await;
}
