//! Requests over HTTP/1.1, byte by byte: what is answered, and what an endpoint gets of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use futures_util::{StreamExt as _, stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{eventually, soon};

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// It is refused with this status, counted under this reason, and the connection is closed.
    Refused(u16, &'static str),
    /// The endpoint gets this.
    Passed(&'static str),
}

use Fate::{Passed, Refused};

const LENGTH: Fate = Refused(400, "ambiguous_length");
const MALFORMED: Fate = Refused(400, "malformed");
const HOST: Fate = Refused(400, "bad_host");
const PATH: Fate = Refused(400, "bad_path");

/// What a smuggler wants the endpoint to take for a request of its own. It stands behind every
/// request that is refused.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// Requests, without the empty line when the head ends with a header.
const CASES: &[(&str, Fate)] = &[
    // How long is the body?
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        LENGTH,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        LENGTH,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n",
        LENGTH,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        LENGTH,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 0\r\n\r\n",
        LENGTH,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n",
        LENGTH,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\n",
        LENGTH,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n",
        LENGTH,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        LENGTH,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +0\r\n\r\n",
        LENGTH,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x0\r\n\r\n",
        LENGTH,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0 0\r\n\r\n",
        LENGTH,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
        LENGTH,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        LENGTH,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        LENGTH,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        LENGTH,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
        LENGTH,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        LENGTH,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
        LENGTH,
    ),
    (
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        LENGTH,
    ),
    // Is that a header?
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        MALFORMED,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\n",
        MALFORMED,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        MALFORMED,
    ),
    ("GET / HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n", MALFORMED),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n\tc\r\n\r\n",
        MALFORMED,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        MALFORMED,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        MALFORMED,
    ),
    ("GET / HTTP/1.1\nHost: a\n\n", MALFORMED),
    ("GET / HTTP/1.1\r\nHost: a\n\r\n\r\n", MALFORMED),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", MALFORMED),
    ("GET / HTTP/1.1\r\nHost: a\r\nX\0: a\r\n\r\n", MALFORMED),
    ("GET / HTTP/1.1\r\nHost: a\r\nX(y): a\r\n\r\n", MALFORMED),
    ("GET / HTTP/1.1\r\nHost: a\r\nX y: a\r\n\r\n", MALFORMED),
    ("GET / HTTP/1.1\r\nHost: a\r\n: a\r\n\r\n", MALFORMED),
    ("GET / HTTP/1.1\r\nHost: a\r\nnothing\r\n\r\n", MALFORMED),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", MALFORMED),
    ("G@T / HTTP/1.1\r\nHost: a\r\n\r\n", MALFORMED),
    ("GET(x) / HTTP/1.1\r\nHost: a\r\n\r\n", MALFORMED),
    ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", MALFORMED),
    ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", MALFORMED),
    ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", MALFORMED),
    ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", MALFORMED),
    ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", MALFORMED),
    ("GET / HTTP/1.12\r\nHost: a\r\n\r\n", MALFORMED),
    ("GET / HTPP/1.1\r\nHost: a\r\n\r\n", MALFORMED),
    ("GET /\r\n\r\n", MALFORMED),
    (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", MALFORMED),
    // Whose request is it?
    ("GET / HTTP/1.1\r\n\r\n", HOST),
    ("GET / HTTP/1.1\r\nHost:\r\n\r\n", HOST),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", HOST),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", HOST),
    ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", HOST),
    ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", HOST),
    ("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", HOST),
    ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", HOST),
    ("GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", HOST),
    ("GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", HOST),
    ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", HOST),
    ("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", HOST),
    ("GET http://user@a/ HTTP/1.1\r\nHost: a\r\n\r\n", HOST),
    ("GET http://user@a/ HTTP/1.1\r\nHost: user@a\r\n\r\n", HOST),
    ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", HOST),
    ("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", HOST),
    ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", HOST),
    ("GET ?a HTTP/1.1\r\nHost: a\r\n\r\n", HOST),
    ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", HOST),
    ("CONNECT a:1 HTTP/1.1\r\nHost: b:1\r\n\r\n", HOST),
    (
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        Refused(405, "method_not_allowed"),
    ),
    // Which path is it?
    ("GET /../x HTTP/1.1\r\nHost: a\r\n\r\n", PATH),
    ("GET /a/%2e%2e/%2e%2e/x HTTP/1.1\r\nHost: a\r\n\r\n", PATH),
    ("GET /a/..;/x HTTP/1.1\r\nHost: a\r\n\r\n", PATH),
    ("GET /a%2f..%2fb HTTP/1.1\r\nHost: a\r\n\r\n", PATH),
    ("GET /..%5Cb HTTP/1.1\r\nHost: a\r\n\r\n", PATH),
    ("GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", PATH),
    ("GET /a`b HTTP/1.1\r\nHost: a\r\n\r\n", PATH),
    ("GET /<a> HTTP/1.1\r\nHost: a\r\n\r\n", PATH),
    ("GET /a\\b?c HTTP/1.1\r\nHost: a\r\n\r\n", PATH),
    ("GET /a?b#c HTTP/1.1\r\nHost: a\r\n\r\n", PATH),
    ("GET /a?\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", PATH),
    ("GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n", PATH),
    ("GET /a%zz HTTP/1.1\r\nHost: a\r\n\r\n", PATH),
    ("GET /a% HTTP/1.1\r\nHost: a\r\n\r\n", PATH),
    ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", PATH),
    ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", PATH),
    ("GET http://a/..%2f HTTP/1.1\r\nHost: a\r\n\r\n", PATH),
    // How far may it go?
    (
        "TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: x\r\n\r\n",
        MALFORMED,
    ),
    (
        "OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: -1\r\n\r\n",
        MALFORMED,
    ),
    (
        "OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 1\r\nMax-Forwards: 1\r\n\r\n",
        MALFORMED,
    ),
    // What is a chunk?
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        MALFORMED,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        MALFORMED,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
        MALFORMED,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n",
        MALFORMED,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n 1\r\na\r\n0\r\n\r\n",
        MALFORMED,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\na\n0\n\n",
        MALFORMED,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        MALFORMED,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\naXX0\r\n\r\n",
        MALFORMED,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000001\r\na\r\n0\r\n\r\n",
        MALFORMED,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nb\r\na\r\n0\r\n\r\n",
        MALFORMED,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: b\r\n\r\n",
        MALFORMED,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n",
        MALFORMED,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTransfer-Encoding: x\r\n\r\n",
        MALFORMED,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX : 1\r\n\r\n",
        MALFORMED,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\rX",
        MALFORMED,
    ),
    // And what passes, in the one form it has from here on.
    (
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        Passed("GET /"),
    ),
    (
        "\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        Passed("GET /"),
    ),
    (
        "get / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        Passed("get /"),
    ),
    (
        "GET /a/../b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        Passed("GET /b"),
    ),
    (
        "GET /a/%2E%2e/b/. HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        Passed("GET /b/"),
    ),
    (
        "GET //a///b?c=//d/../%2f HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        Passed("GET /a/b?c=//d/../%2f"),
    ),
    (
        "GET /%61%c3%a9?%zz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        Passed("GET /a%C3%A9?%zz"),
    ),
    (
        "GET http://a/x//y HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        Passed("GET /x/y"),
    ),
    (
        "GET http://a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        Passed("GET /"),
    ),
    (
        "GET /a%2fb%5cc HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        Passed("GET /a%2Fb%5Cc"),
    ),
    (
        "GET /a?`\\\"<>{|}^'[] HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        Passed("GET /a?`\\\"<>{|}^'[]"),
    ),
    (
        "GET http://a//b?c=\"`<? HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        Passed("GET /b?c=\"`<?"),
    ),
    (
        "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        Passed("OPTIONS *"),
    ),
    (
        "OPTIONS http://a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        Passed("OPTIONS *"),
    ),
    ("GET http://a/x HTTP/1.0\r\n\r\n", Passed("GET /x")),
    ("GET /x HTTP/1.0\r\nHost: a\r\n\r\n", Passed("GET /x")),
    (
        "POST /p HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: Chunked\r\n\r\n1;x=\"y\"\r\na\r\n0\r\nX-Sum: 1\r\n\r\n",
        Passed("POST /p"),
    ),
];

/// Sends bytes in two pieces and reads to the end. The status of the first answer, and how many there
/// were.
async fn send(address: SocketAddr, first: &[u8], second: &[u8]) -> (u16, usize) {
    let talking = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(first).await.unwrap();
        tokio::task::yield_now().await;
        // The first piece may have been refused already.
        let _ = stream.write_all(second).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let answer = soon("the connection is closed", talking).await;
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    (status.unwrap_or(0), answer.matches("HTTP/1.1 ").count())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_ambiguous_is_ever_forwarded() {
    let (portolan, recorder) = super::guarding("", "").await;
    let address = portolan.address().await;
    let mut reasons: BTreeMap<&str, f64> = BTreeMap::new();
    for (request, fate) in CASES {
        let mut bytes = request.as_bytes().to_vec();
        if let Refused(..) = fate {
            bytes.extend(SMUGGLED.as_bytes());
        }
        let bytes = &bytes[..];
        // However the request is cut.
        let cuts = if request.len() <= 120 {
            request.len()
        } else {
            1
        };
        let sent: Vec<_> = stream::iter(0..cuts)
            .map(|cut| send(address, &bytes[..cut], &bytes[cut..]))
            .buffer_unordered(16)
            .collect()
            .await;
        let forwarded = recorder.take();
        let expected = match fate {
            Refused(status, reason) => {
                *reasons.entry(reason).or_default() += cuts as f64;
                assert!(forwarded.is_empty(), "{request:?}: {forwarded:?}");
                *status
            }
            Passed(line) => {
                assert_eq!(forwarded.len(), cuts, "{request:?}");
                for request in &forwarded {
                    assert_eq!(request.line(), *line);
                    assert_eq!(request.values("host"), ["a"], "{}", request.head);
                }
                200
            }
        };
        for outcome in sent {
            assert_eq!(outcome, (expected, 1), "{request:?}");
        }
    }
    for (reason, count) in reasons {
        let label = format!("reason=\"{reason}\"");
        portolan
            .wait_for_metric("portolan_refused_requests_total", &[&label], count)
            .await;
    }
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_is_as_many_requests_as_it_has() {
    let (portolan, recorder) = super::guarding("", "").await;
    let address = portolan.address().await;
    let body = "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\n";
    let chunked = "POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n23\r\n";
    let last = "GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let all = format!("{body}{SMUGGLED}{chunked}{SMUGGLED}\r\n0\r\n\r\n{last}{SMUGGLED}");
    assert_eq!(SMUGGLED.len(), 35);
    assert_eq!(send(address, all.as_bytes(), b"").await, (200, 3));
    let seen = recorder.take();
    let lines: Vec<&str> = seen.iter().map(|request| request.line()).collect();
    assert_eq!(lines, ["POST /1", "POST /2", "GET /3"]);
    assert_eq!(seen[0].body, SMUGGLED.as_bytes());
    assert_eq!(seen[1].body, SMUGGLED.as_bytes());
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_have_bounds_of_their_own() {
    let limits = ", limits: { header_bytes: 8KiB, headers: 20, uri_bytes: 1KiB, body_bytes: 1KiB }";
    let (portolan, recorder) = super::guarding(limits, "").await;
    let address = portolan.address().await;
    let head = "HTTP/1.1\r\nHost: a\r\nConnection: close\r\n";
    let body = "b".repeat(1025);
    let extension = "x".repeat(9_000);
    for (request, status, reason) in [
        (
            format!("GET /{} {head}\r\n", "a".repeat(1024)),
            414,
            "uri_too_long",
        ),
        (
            format!("GET / {head}X: {}\r\n\r\n", "a".repeat(8192)),
            431,
            "headers_too_large",
        ),
        (
            format!("GET / {head}{}\r\n", "X: y\r\n".repeat(19)),
            431,
            "headers_too_large",
        ),
        (
            format!("GET / {head}X: {}", "a".repeat(10_000)),
            431,
            "headers_too_large",
        ),
        (
            format!("POST / {head}Content-Length: 1025\r\n\r\n{body}"),
            413,
            "body_too_large",
        ),
        (
            format!("POST / {head}Transfer-Encoding: chunked\r\n\r\n401\r\n{body}\r\n0\r\n\r\n"),
            413,
            "body_too_large",
        ),
        (
            format!(
                "POST / {head}Transfer-Encoding: chunked\r\n\r\n1;{extension}\r\na\r\n0\r\n\r\n"
            ),
            400,
            "malformed",
        ),
    ] {
        let label = format!("reason=\"{reason}\"");
        let count = async || {
            portolan
                .metric("portolan_refused_requests_total", &[&label])
                .await
        };
        let before = count().await;
        assert_eq!(
            send(address, request.as_bytes(), b"").await,
            (status, 1),
            "{reason}"
        );
        eventually("it is counted", async || {
            (count().await == before + 1.0).then_some(())
        })
        .await;
        assert!(recorder.take().is_empty(), "{reason}");
    }
    let largest = format!(
        "POST /{} {head}Content-Length: 1024\r\n\r\n{}",
        "a".repeat(1023),
        &body[..1024]
    );
    assert_eq!(send(address, largest.as_bytes(), b"").await, (200, 1));
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_decide_about_paths_and_explain_knows() {
    let paths = "paths: { repeated_slashes: keep, encoded_slash: keep, dot_segments: refuse }\n";
    let (portolan, recorder) = super::guarding("", paths).await;
    let address = portolan.address().await;
    for (path, forwarded) in [
        ("/bucket//key", Some("GET /bucket//key")),
        ("/group%2fproject", Some("GET /group%2Fproject")),
        ("/a/../b", None),
        ("/a%2f..%2fb", None),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let status = if forwarded.is_some() { 200 } else { 400 };
        assert_eq!(
            send(address, request.as_bytes(), b"").await,
            (status, 1),
            "{path}"
        );
        let seen = recorder.take();
        assert_eq!(
            seen.first().map(|request| request.line()),
            forwarded,
            "{path}"
        );
    }
    let config = portolan.config_path();
    let config = config.to_str().unwrap();
    let explain = async |path: &str| {
        let url = format!("http://a{path}");
        let args = ["explain", "--format", "json", "--config", config, &url];
        let output = crate::harness::portolan::command(&args).await;
        let said = crate::harness::portolan::stdout(&output);
        serde_json::from_str::<serde_json::Value>(&said).unwrap()
    };
    assert_eq!(explain("/a/../b").await["status"], 400);
    assert_eq!(explain("/a//b").await["pools"][0]["pool"], "a");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_decide_what_a_slash_in_a_name_is() {
    for (decision, forwarded) in [
        ("keep", Some("GET /group%2Fproject")),
        ("decode", Some("GET /group/project")),
        ("refuse", None),
    ] {
        let paths = format!("paths: {{ encoded_slash: {decision} }}\n");
        let (portolan, recorder) = super::guarding("", &paths).await;
        let request = "GET /group%2fproject HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let status = if forwarded.is_some() { 200 } else { 400 };
        let sent = send(portolan.address().await, request.as_bytes(), b"").await;
        assert_eq!(sent, (status, 1), "{decision}");
        let seen = recorder.take();
        let line = seen.first().map(|request| request.line());
        assert_eq!(line, forwarded, "{decision}");
        portolan.stop().await;
    }
}
