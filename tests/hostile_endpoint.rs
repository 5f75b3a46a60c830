//! Endpoints whose answers could be read in more than one way: none of them gets to a client, and
//! none of them does harm to the next request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::client::Connection;
use crate::harness::config::{LISTENER, pool};
use crate::harness::{Ask, Portolan, fetch, soon};

/// An endpoint that answers every request with the same bytes, broken in two at a place, and then
/// waits for the next one.
struct Hostile {
    address: SocketAddr,
    says: Arc<Mutex<(Vec<u8>, usize)>>,
    connections: Arc<AtomicU64>,
}

impl Hostile {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let this = Self {
            address: listener.local_addr().unwrap(),
            says: Arc::default(),
            connections: Arc::default(),
        };
        let (says, connections) = (this.says.clone(), this.connections.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(answer(stream, says.clone()));
            }
        });
        this
    }

    fn say(&self, text: &[u8], broken_at: usize) {
        *self.says.lock().unwrap() = (text.to_vec(), broken_at);
    }
}

async fn answer(mut stream: TcpStream, says: Arc<Mutex<(Vec<u8>, usize)>>) {
    let mut seen = Vec::new();
    loop {
        match stream.read_buf(&mut seen).await {
            Ok(0) | Err(_) => return,
            Ok(_) if seen.ends_with(b"\r\n\r\n") => seen.clear(),
            Ok(_) => continue,
        }
        let (text, at) = says.lock().unwrap().clone();
        let (one, two) = text.split_at(at.min(text.len()));
        if stream.write_all(one).await.is_err() {
            return;
        }
        // The second piece on its own way.
        tokio::task::yield_now().await;
        if stream.write_all(two).await.is_err() {
            return;
        }
    }
}

async fn in_front_of(hostile: &Hostile) -> Portolan {
    let config = [
        LISTENER,
        "defaults: { health: off, outlier: off }\npools:\n",
        &pool("a", &[hostile.address], ""),
        "routes: [ { to: a, retry: { tries: 1 } } ]\n",
    ]
    .concat();
    Portolan::start(&config).await
}

const REFUSED: [&str; 26] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhello",
    "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nX: a\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nX\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 999 OK\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/2 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "<html>hello</html>",
    "\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\nhello",
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello",
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\nhello",
    "HTTP/1.1 101 Switching Protocols\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_could_be_read_in_two_ways_is_refused_wherever_it_breaks() {
    let hostile = Hostile::start().await;
    let portolan = in_front_of(&hostile).await;
    let mut connection = Connection::open(portolan.address().await).await.unwrap();
    let mut asked = 0;
    for text in REFUSED {
        for at in (0..text.len()).step_by(7).chain([text.len()]) {
            hostile.say(text.as_bytes(), at);
            if connection.is_closed() {
                connection = Connection::open(portolan.address().await).await.unwrap();
            }
            let answer = soon("an answer", connection.ask(Ask::get("/")))
                .await
                .unwrap();
            assert_eq!(answer.status, 502, "{text:?} at {at}: {}", answer.text());
            assert!(!answer.text().contains("hello"), "{text:?} at {at}");
            connection = Connection::open(portolan.address().await).await.unwrap();
            asked += 1;
        }
    }
    // Each of them is the endpoint's failure, and its connection was never used again.
    let broken = ["pool=\"a\"", "outcome=\"broken\""];
    portolan
        .wait_for_metric("portolan_upstream_tries_total", &broken, asked as f64)
        .await;
    assert_eq!(hostile.connections.load(Ordering::Relaxed), asked);
    hostile.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 20);
    assert_eq!(fetch(portolan.address().await, "/").await.text(), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_behind_an_answer_is_nobodys() {
    let hostile = Hostile::start().await;
    let portolan = in_front_of(&hostile).await;
    let second = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let mut before = 0;
    for (first, status, body) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood",
            200,
            "good",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n",
            200,
            "good",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;a=b\r\ngood\r\n0\r\nX: 1\r\n\r\n",
            200,
            "good",
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
        (
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n",
            304,
            "",
        ),
    ] {
        let text = format!("{first}{second}");
        // All but between the two: what has not come yet cannot be seen.
        for at in (0..text.len()).filter(|at| *at != first.len()) {
            hostile.say(text.as_bytes(), at);
            let answer = fetch(portolan.address().await, "/").await;
            assert_eq!(
                (answer.status, &*answer.text()),
                (status, body),
                "{text:?} at {at}"
            );
            before += 1;
        }
    }
    assert_eq!(hostile.connections.load(Ordering::Relaxed), before);
}

/// RFC 9112, section 6.3: these end with their head, whatever it says may follow. What does follow does
/// no harm, whether or not it is there already.
#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_body_end_with_their_head_and_nobody_is_blamed() {
    let hostile = Hostile::start().await;
    let portolan = in_front_of(&hostile).await;
    let mut connection = Connection::open(portolan.address().await).await.unwrap();
    let mut asked = 0;
    for framing in [
        "Content-Length: 5\r\n\r\n",
        "Content-Length: 5\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: gzip, chunked\r\nContent-Length: 5, 5\r\n\r\n",
    ] {
        for status in ["204 No Content", "304 Not Modified"] {
            // That it may have a length is no reason to send so much.
            if status.starts_with("304") && framing.contains("\r\n\r\n0") {
                continue;
            }
            if status.starts_with("304") && framing.ends_with("hello") {
                continue;
            }
            let text = format!("HTTP/1.1 {status}\r\nX-Kept: 1\r\n{framing}");
            for at in 0..=text.len() {
                hostile.say(text.as_bytes(), at);
                let answer = soon("an answer", connection.ask(Ask::get("/"))).await;
                let answer = answer.unwrap();
                let number: u16 = status[..3].parse().unwrap();
                assert_eq!(answer.status, number, "{text:?} at {at}");
                assert_eq!(answer.text(), "", "{text:?} at {at}");
                assert_eq!(answer.header("x-kept"), "1");
                assert_eq!(answer.header("transfer-encoding"), "");
                if number == 204 {
                    assert_eq!(answer.header("content-length"), "");
                }
                asked += 1;
            }
        }
    }
    // The same of those that come before the answer.
    let early = "HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n";
    let text = format!("{early}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood");
    for at in 0..=text.len() {
        hostile.say(text.as_bytes(), at);
        let answer = soon("an answer", connection.ask(Ask::get("/"))).await;
        assert_eq!(answer.unwrap().text(), "good", "at {at}");
        asked += 1;
    }
    let answered = ["pool=\"a\"", "outcome=\"answered\""];
    portolan
        .wait_for_metric("portolan_upstream_tries_total", &answered, asked.into())
        .await;
    let tries = portolan.metric("portolan_upstream_tries_total", &[]).await;
    assert_eq!(tries, f64::from(asked), "nobody is blamed");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_may_have_many_headers_and_long_ones() {
    let hostile = Hostile::start().await;
    let portolan = in_front_of(&hostile).await;
    let many: String = (0..254).map(|n| format!("X-{n}: {n}\r\n")).collect();
    let long = format!("X-Long: {}\r\n", "x".repeat(250 << 10));
    for headers in [many, long] {
        let text = format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: 2\r\n\r\nok");
        hostile.say(text.as_bytes(), 1000);
        let raw = crate::harness::client::raw(
            portolan.address().await,
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        )
        .await;
        assert!(raw.starts_with("HTTP/1.1 200 OK\r\n"), "{raw:.100}");
        assert!(raw.contains(&headers) && raw.ends_with("\r\n\r\nok"));
    }
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn good_answers_come_through_wherever_they_break_over_one_connection() {
    let hostile = Hostile::start().await;
    let portolan = in_front_of(&hostile).await;
    let mut connection = Connection::open(portolan.address().await).await.unwrap();
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood",
        "HTTP/1.1 200\r\ncontent-length:4\r\n\r\ngood",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\ngo\r\n2;x=y\r\nod\r\n0\r\nX: 1\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\ngood",
        "HTTP/1.1 200 OK\r\nConnection: x-mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 4\r\n\r\ngood",
    ] {
        for at in 0..=text.len() {
            hostile.say(text.as_bytes(), at);
            let answer = soon("an answer", connection.ask(Ask::get("/")))
                .await
                .unwrap();
            assert_eq!(
                (answer.status, &*answer.text()),
                (200, "good"),
                "{text:?} at {at}"
            );
            assert_eq!(answer.header("x-mine"), "", "{text:?}");
            assert_eq!(answer.header("keep-alive"), "", "{text:?}");
        }
    }
    assert_eq!(hostile.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_ends_is_bounded() {
    let hostile = Hostile::start().await;
    let portolan = in_front_of(&hostile).await;
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1_000);
    let headers = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: 1\r\n".repeat(1_000));
    let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(1 << 20));
    for text in [interim, headers, long] {
        hostile.say(text.as_bytes(), 10);
        let answer = crate::harness::client::raw(
            portolan.address().await,
            b"GET / HTTP/1.0\r\nHost: x\r\n\r\n",
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer:.100}");
    }
    // Chunk extensions and trailers: the answer has begun, and is cut.
    let extensions = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        format!("1;{}\r\nx\r\n", "y".repeat(1_000)).repeat(1_000)
    );
    let trailers = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n{}\r\n",
        "X: 1\r\n".repeat(10_000)
    );
    for text in [extensions, trailers] {
        hostile.say(text.as_bytes(), 10);
        let answer = soon("the end", Ask::get("/").to(portolan.address().await)).await;
        assert!(
            answer.is_err(),
            "{:?}",
            answer.map(|answer| answer.body.len())
        );
    }
}
