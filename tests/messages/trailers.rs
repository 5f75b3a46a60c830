//! What comes behind a body, from every version to every other.

use std::convert::Infallible;
use std::net::SocketAddr;

use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::client::raw;
use crate::harness::config::{LISTENER, pool};
use crate::harness::{Portolan, RogueEndpoint, Wire, soon};

/// An endpoint of either version that says what it got, and something behind that. Over HTTP/1.1 it does
/// so for those alone who ask for it.
async fn endpoint() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service_fn(answer))
                    .await;
            });
        }
    });
    address
}

async fn answer(
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let texts = |headers: &HeaderMap| {
        let pairs = headers.iter();
        pairs
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()))
            .collect::<serde_json::Map<String, Value>>()
    };
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap();
    let behind = body.trailers().map(texts);
    let said = json!({
        "headers": texts(&parts.headers),
        "trailers": behind,
        "body": body.to_bytes().len(),
    });
    let mut trailers = HeaderMap::new();
    for (name, value) in [("x-sum", "42"), ("grpc-status", "0"), ("x-secret", "1")] {
        trailers.insert(name, HeaderValue::from_static(value));
    }
    let frames = [
        Ok(Frame::data(Bytes::from(said.to_string()))),
        Ok(Frame::trailers(trailers)),
    ];
    let response = Response::builder()
        .header("content-type", "application/grpc")
        .header("trailer", "x-sum, grpc-status, x-secret")
        .body(StreamBody::new(stream::iter(frames)).boxed())
        .unwrap();
    Ok(response)
}

async fn in_front_of(endpoint: SocketAddr, wire: Wire) -> Portolan {
    let config = [
        LISTENER,
        "pools:\n",
        &pool("a", &[endpoint], &format!("{}, health: off", wire.pool())),
        "routes:\n",
        "  - to: a\n",
        "    request_headers: { set: { x-edge: fra1 }, remove: [ x-internal ] }\n",
        "    response_headers: { remove: [ x-secret ] }\n",
    ]
    .concat();
    Portolan::start(&config).await
}

/// What is said behind the request: one that passes, and some that Portolan would not let the head say.
const BEHIND: [(&str, &str); 5] = [
    ("x-checksum", "7"),
    ("x-forwarded-for", "6.6.6.6"),
    ("x_internal", "1"),
    ("x-edge", "evil"),
    ("x-hop", "1"),
];

#[track_caller]
fn assert_passed(said: &Value, what: &str) {
    assert_eq!(
        said["trailers"],
        json!({ "x-checksum": "7" }),
        "{what}: {said}"
    );
    assert_eq!(said["body"], 5, "{what}: {said}");
    assert_eq!(said["headers"]["x-edge"], "fra1", "{what}: {said}");
}

/// A request over HTTP/1.1 with trailers: what the endpoint saw, and what came behind its answer.
async fn over_http1(address: SocketAddr, more: &str) -> (Value, String) {
    let behind = BEHIND
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .concat();
    let request = format!(
        "POST /a.B/C HTTP/1.1\r\nHost: x.example\r\nContent-Type: application/grpc\r\n\
         Transfer-Encoding: chunked\r\nTrailer: x-checksum\r\n{more}\r\n5\r\nhello\r\n0\r\n{behind}\r\n"
    );
    let answer = raw(address, request.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
    let told = head.to_lowercase().contains("\r\ntrailer: x-sum");
    assert_eq!(told, more.contains("TE: trailers"), "{answer}");
    // One chunk, and the last one.
    let (size, rest) = body.split_once("\r\n").unwrap();
    let size = usize::from_str_radix(size, 16).unwrap();
    let said = serde_json::from_str(&rest[..size]).unwrap();
    (
        said,
        rest[size..].strip_prefix("\r\n0\r\n").unwrap().to_owned(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_from_http1_in_both_directions() {
    let endpoint = endpoint().await;
    for wire in [Wire::Http1, Wire::H2c] {
        let portolan = in_front_of(endpoint, wire).await;
        let address = portolan.address().await;
        let asking = "TE: trailers\r\nConnection: TE, X-Hop, close\r\n";
        let (said, behind) = over_http1(address, asking).await;
        assert_passed(&said, &format!("{wire:?}"));
        assert_eq!(said["headers"]["te"], "trailers", "{wire:?}: {said}");
        assert_eq!(said["headers"]["trailer"], "x-checksum", "{wire:?}: {said}");
        let mut lines: Vec<&str> = behind.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["", "Grpc-Status: 0", "X-Sum: 42"], "{wire:?}");
        // Who does not ask for them gets none, and an answer that is whole; over HTTP/1.1 an endpoint
        // may not know of them either.
        let (said, behind) = over_http1(address, "Connection: X-Hop, close\r\n").await;
        if wire == Wire::H2c {
            assert_passed(&said, &format!("{wire:?}"));
        } else {
            assert_eq!(said["trailers"], Value::Null, "{said}");
            assert!(said["headers"].get("trailer").is_none(), "{said}");
        }
        assert!(said["headers"].get("te").is_none(), "{wire:?}: {said}");
        assert_eq!(behind, "\r\n", "{wire:?}");
        // Who takes them without asking whoever it is connected to gets what comes all the same.
        let (said, behind) =
            over_http1(address, "TE: trailers\r\nConnection: X-Hop, close\r\n").await;
        assert_passed(&said, &format!("{wire:?}"));
        let asked = said["headers"].get("te").is_some();
        assert_eq!(asked, wire == Wire::H2c, "{wire:?}: {said}");
        assert_eq!(behind.contains("X-Sum: 42"), asked, "{wire:?}: {behind}");
        portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_from_http2_in_both_directions() {
    let endpoint = endpoint().await;
    for wire in [Wire::Http1, Wire::H2c] {
        let portolan = in_front_of(endpoint, wire).await;
        let stream = TcpStream::connect(portolan.address().await).await.unwrap();
        let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        for length in [false, true] {
            let mut request = Request::post("http://x.example/a.B/C")
                .header("content-type", "application/grpc")
                .header("te", "trailers");
            if length {
                request = request.header("content-length", 5);
            }
            let request = request.body(()).unwrap();
            let (response, mut body) = send.send_request(request, false).unwrap();
            body.send_data(Bytes::from_static(b"hello"), false).unwrap();
            let mut trailers = HeaderMap::new();
            for (name, value) in &BEHIND[..4] {
                trailers.insert(*name, HeaderValue::from_static(value));
            }
            body.send_trailers(trailers).unwrap();
            let response = soon("an answer", response).await.unwrap();
            assert_eq!(response.status(), 200);
            let mut body = response.into_body();
            let mut said = Vec::new();
            while let Some(piece) = soon("a piece", body.data()).await {
                let piece = piece.unwrap();
                body.flow_control().release_capacity(piece.len()).unwrap();
                said.extend_from_slice(&piece);
            }
            let said: Value = serde_json::from_slice(&said).unwrap();
            let what = format!("{wire:?}, length: {length}");
            assert_eq!(said["headers"]["te"], "trailers", "{what}: {said}");
            if length && wire == Wire::Http1 {
                // Behind a body whose length is told there is no place for them.
                assert_eq!(said["trailers"], Value::Null, "{what}: {said}");
            } else {
                assert_passed(&said, &what);
            }
            let behind = soon("what comes behind", body.trailers()).await;
            let behind = behind.unwrap().unwrap();
            assert_eq!(behind["x-sum"], "42", "{what}");
            assert_eq!(behind["grpc-status"], "0", "{what}");
            assert_eq!(behind.len(), 2, "{what}: {behind:?}");
        }
        portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_breaks_off_says_so_where_it_can_and_never_looks_whole() {
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n";
    let cut = format!("{head}\r\n5\r\nhello\r\n");
    let endpoint = RogueEndpoint::saying(cut.as_bytes()).await;
    let portolan = in_front_of(endpoint.address, Wire::Http1).await;
    let ask = async |more: &str| {
        let request = format!(
            "POST /a.B/C HTTP/1.1\r\nHost: x\r\nContent-Type: application/grpc\r\n\
             Connection: close\r\nContent-Length: 0\r\n{more}\r\n"
        );
        raw(portolan.address().await, request.as_bytes()).await
    };
    let told = ask("TE: trailers\r\n").await;
    let (_, behind) = told.split_once("hello\r\n0\r\n").unwrap();
    assert!(behind.contains("Grpc-Status: 14\r\n"), "{told}");
    assert!(behind.ends_with("\r\n\r\n"), "{told}");
    let untold = ask("").await;
    assert!(
        untold.contains("hello") && !untold.contains("0\r\n\r\n"),
        "{untold}"
    );
    portolan.stop().await;
}
