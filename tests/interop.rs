//! Programs of others, behind Portolan and in front of it: what they are sent and what they send back
//! has to arrive as it was, over everything that they speak. `docs/interop.md` lists them.

mod behind;
mod browser;
mod in_front;
mod page;
mod peers;

use std::net::SocketAddr;

use http::{Method, Request};
use http_body_util::Full;
use hyper::body::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::client::{Answer, Connection, Connection2};
use crate::harness::origin::is_pattern;
use crate::harness::{Ask, soon};

/// Methods of RFC 9110 and RFC 5789, but CONNECT and TRACE.
const METHODS: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::OPTIONS,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
];

/// Sizes of bodies: none, a byte, a small one, more than is kept for another try, more than any window.
const SIZES: [usize; 5] = [0, 1, 1_000, 70_000, 1 << 20];

/// Statuses that are passed on as they are, with and without bodies.
const STATUSES: [u16; 5] = [204, 304, 404, 418, 500];

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    One,
    Two,
}

impl Client {
    const BOTH: [Self; 2] = [Self::One, Self::Two];
}

/// A connection of either kind.
enum Line {
    One(Connection),
    Two(Connection2, SocketAddr),
}

impl Line {
    async fn open(client: Client, address: SocketAddr) -> Self {
        match client {
            Client::One => Self::One(Connection::open(address).await.unwrap()),
            Client::Two => Self::Two(Connection2::open(address).await.unwrap(), address),
        }
    }

    async fn ask(&mut self, method: &Method, path: &str, body: usize) -> Answer {
        let bytes = Bytes::from(vec![b'x'; body]);
        let what = format!("{method} {path} with {body} bytes");
        let asking = async {
            match self {
                Self::One(one) => one.ask(Ask::new(method.clone(), path).body(bytes)).await,
                Self::Two(two, address) => {
                    let request = Request::builder()
                        .method(method)
                        .uri(format!("http://{address}{path}"))
                        .body(Full::new(bytes));
                    two.send(request.unwrap()).await
                }
            }
        };
        let answer = soon(&what, asking).await;
        answer.unwrap_or_else(|error| panic!("{what}: {error}"))
    }
}

/// Messages of every kind, one after the other over one connection; `what` they are about. So many
/// they were.
async fn converse(address: SocketAddr, client: Client, what: &str) -> u64 {
    let mut line = Line::open(client, address).await;
    let mut sent = 0;
    for method in METHODS {
        let may_have_a_body = [Method::POST, Method::PUT, Method::PATCH].contains(&method);
        let sizes = if may_have_a_body { &SIZES[..] } else { &[0] };
        for size in sizes {
            let answer = line.ask(&method, "/echo?a=b&c=%20d", *size).await;
            sent += 1;
            let what = format!("{what}: {method} with {size} bytes: {}", answer.status);
            assert_eq!(answer.status, 200, "{what}");
            if method == Method::HEAD {
                assert!(answer.body.is_empty(), "{what}");
                continue;
            }
            let seen = answer.json();
            assert_eq!(seen["method"], method.as_str(), "{what}");
            assert_eq!(seen["target"], "/echo?a=b&c=%20d", "{what}");
            assert_eq!(seen["body_bytes"], *size, "{what}");
        }
    }
    for size in SIZES {
        let path = format!("/bytes?count={size}");
        for method in [Method::GET, Method::HEAD] {
            let answer = line.ask(&method, &path, 0).await;
            sent += 1;
            let what = format!("{what}: {method} {path}: {}", answer.status);
            assert_eq!(answer.status, 200, "{what}");
            assert_eq!(answer.header("content-length"), size.to_string(), "{what}");
            let expected = if method == Method::HEAD { 0 } else { size };
            assert_eq!(answer.body.len(), expected, "{what}");
            assert!(is_pattern(0, &answer.body), "{what}");
        }
    }
    for code in STATUSES {
        let answer = line
            .ask(&Method::GET, &format!("/status?code={code}"), 0)
            .await;
        sent += 1;
        assert_eq!(answer.status, code, "{what}");
        assert!(answer.body.is_empty(), "{what}: {code}");
    }
    let answer = line.ask(&Method::GET, "/events?count=5&ms=5", 0).await;
    sent += 1;
    let events: String = (0..5).map(|number| format!("data: {number}\n\n")).collect();
    assert_eq!((answer.status, answer.text()), (200, events), "{what}");
    sent
}

/// What a client over HTTP/1.1 can say besides: a body in chunks, one byte at a time, and one that waits
/// to be wanted. So many requests they were.
async fn say_it_in_pieces(address: SocketAddr, what: &str) -> u64 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "POST /echo HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    for byte in format!("{head}5;ext=1\r\nwhole\r\n3\r\n...\r\n0\r\n\r\n").bytes() {
        stream.write_all(&[byte]).await.unwrap();
    }
    let answer = read_answer(&mut stream).await;
    assert!(answer.contains("\"body_bytes\":8"), "{what}: {answer}");

    // Over another one: what still comes on this one (the end of a body in chunks) is no part of that.
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head =
        "PUT /echo HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    // Some write a reason, and some do not.
    let mut said = String::new();
    while !said.ends_with("\r\n\r\n") {
        let byte = soon("the body is wanted", stream.read_u8()).await.unwrap();
        said.push(char::from(byte));
    }
    assert!(said.starts_with("HTTP/1.1 100 "), "{what}: {said}");
    stream.write_all(b"whole").await.unwrap();
    let answer = read_answer(&mut stream).await;
    assert!(answer.contains("\"body_bytes\":5"), "{what}: {answer}");
    2
}

/// Reads until a JSON object has ended, without the blanks that some write into it.
async fn read_answer(stream: &mut TcpStream) -> String {
    let mut seen = String::new();
    let mut piece = [0; 4096];
    loop {
        let read = soon("an answer", stream.read(&mut piece)).await.unwrap();
        assert!(read > 0, "it ended: {seen}");
        seen += &String::from_utf8_lossy(&piece[..read]);
        let open = seen.matches('{').count();
        if open > 0 && open == seen.matches('}').count() {
            return seen.replace(": ", ":");
        }
    }
}
