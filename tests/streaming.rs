//! Requests and answers that are under way at the same time: uploads, conversations, early answers,
//! trailers, and what happens to them when something breaks.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};

use crate::harness::config::{LISTENER, pool};
use crate::harness::rogue::nobody;
use crate::harness::{Origin, Portolan, Rogue, RogueEndpoint, eventually, soon};

/// An endpoint that does with every connection what it is told.
async fn endpoint<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let _ = stream.set_nodelay(true);
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// An endpoint of either version that says back whatever it is told, while it is told.
async fn echo() -> SocketAddr {
    endpoint(|stream| async move {
        let service = service_fn(|request: Request<Incoming>| async move {
            Ok::<_, Infallible>(Response::new(request.into_body()))
        });
        let _ = auto::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    })
    .await
}

async fn serving(pools: &[String], route: &str) -> Portolan {
    let config = [
        LISTENER,
        "defaults: { health: off, outlier: off }\npools:\n",
        &pools.concat(),
        &format!("routes: [ {{ name: all, expose: true, {route} }} ]\n"),
    ]
    .concat();
    Portolan::start(&config).await
}

type Body = StreamBody<stream::BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

/// A body that is said piece by piece.
fn said() -> (mpsc::Sender<Bytes>, Body) {
    let (say, heard) = mpsc::channel::<Bytes>(1);
    let frames = stream::unfold(heard, |mut heard| async move {
        let piece = heard.recv().await?;
        Some((Ok(Frame::data(piece)), heard))
    });
    (say, StreamBody::new(frames.boxed()))
}

/// A client's connection, of either version.
enum Client {
    One(hyper::client::conn::http1::SendRequest<Body>),
    Two(hyper::client::conn::http2::SendRequest<Body>),
}

impl Client {
    async fn connect(address: SocketAddr, two: bool) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let io = TokioIo::new(stream);
        if two {
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                    .await
                    .unwrap();
            tokio::spawn(connection);
            Self::Two(sender)
        } else {
            let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            Self::One(sender)
        }
    }

    async fn send(&mut self, method: Method, body: Body) -> hyper::Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .header("host", "x.example");
        match self {
            Self::One(sender) => {
                let request = request.uri("/").body(body).unwrap();
                sender.send_request(request).await
            }
            Self::Two(sender) => {
                let request = request.uri("http://x.example/").body(body).unwrap();
                sender.send_request(request).await
            }
        }
    }
}

async fn next(body: &mut Incoming) -> Option<Bytes> {
    let frame = soon("a piece", body.frame()).await?;
    Some(frame.unwrap().into_data().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_may_speak_at_the_same_time() {
    let endpoint = echo().await;
    for protocol in ["http1", "h2c"] {
        let rest = format!(", protocol: {protocol}");
        let portolan = serving(&[pool("a", &[endpoint], &rest)], "to: a").await;
        let address = portolan.address().await;
        for two in [false, true] {
            let (say, body) = said();
            let mut client = Client::connect(address, two).await;
            say.send("first".into()).await.unwrap();
            let answer = soon("an answer", client.send(Method::POST, body))
                .await
                .unwrap();
            assert_eq!(answer.status(), 200);
            let mut body = answer.into_body();
            assert_eq!(next(&mut body).await.unwrap(), "first", "{protocol} {two}");
            // Each is heard before the next one is said.
            for word in 0..20 {
                let word = Bytes::from(format!("word {word}"));
                say.send(word.clone()).await.unwrap();
                assert_eq!(next(&mut body).await.unwrap(), word, "{protocol} {two}");
            }
            // Much at once, in both directions.
            let mut saying = tokio::spawn(async move {
                for _ in 0..64 {
                    say.send(vec![7; 64 << 10].into()).await.unwrap();
                }
            });
            let mut heard = 0;
            while let Some(piece) = next(&mut body).await {
                heard += piece.len();
            }
            soon("all was said", &mut saying).await.unwrap();
            assert_eq!(heard, 64 * (64 << 10), "{protocol} {two}");
        }
        portolan
            .wait_for_metric("portolan_in_flight", &[], 0.0)
            .await;
        portolan.stop().await;
    }
}

/// Reads a request's head, and says what came behind it.
async fn read_head(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut seen = Vec::new();
    loop {
        if let Some(end) = seen.windows(4).position(|end| end == b"\r\n\r\n") {
            let behind = seen.split_off(end + 4);
            return Some((String::from_utf8(seen).unwrap().to_lowercase(), behind));
        }
        if stream.read_buf(&mut seen).await.ok()? == 0 {
            return None;
        }
    }
}

/// Reads until the other side is gone.
async fn read_on(mut stream: TcpStream) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(1..) = stream.read(&mut piece).await {}
}

#[tokio::test(flavor = "multi_thread")]
async fn who_uploads_hears_an_early_answer() {
    let connections = Arc::new(AtomicU64::new(0));
    let counted = connections.clone();
    let address = endpoint(move |mut stream| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            read_head(&mut stream).await.unwrap();
            let answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 7\r\n\r\nno more";
            stream.write_all(answer).await.unwrap();
            read_on(stream).await;
        }
    })
    .await;
    let portolan = serving(&[pool("a", &[address], "")], "to: a").await;
    for (number, two) in [false, true, false].into_iter().enumerate() {
        let (say, body) = said();
        let mut client = Client::connect(portolan.address().await, two).await;
        // As much as is taken, without an end.
        let saying =
            tokio::spawn(async move { while say.send(vec![1; 64 << 10].into()).await.is_ok() {} });
        let answer = soon("an answer", client.send(Method::POST, body))
            .await
            .unwrap();
        assert_eq!(answer.status(), 413, "{two}");
        let text = soon("its body", answer.into_body().collect())
            .await
            .unwrap();
        assert_eq!(text.to_bytes(), "no more");
        saying.abort();
        // A connection on which a request was cut is not used again.
        assert_eq!(connections.load(Ordering::Relaxed), number as u64 + 1);
    }
    let refused = ["route=\"all\"", "4xx"];
    portolan
        .wait_for_metric("portolan_requests_total", &refused, 3.0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_come_behind_the_answer() {
    let one = endpoint(|mut stream| async move {
        while read_head(&mut stream).await.is_some() {
            let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
                2\r\nhi\r\n0\r\nX-Sum: 42\r\nContent-Length: 9\r\n\r\n";
            stream.write_all(answer).await.unwrap();
        }
    })
    .await;
    let two = endpoint(|stream| async move {
        let service = service_fn(|_: Request<Incoming>| async move {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "42".parse().unwrap());
            let frames = [
                Ok(Frame::data(Bytes::from("hi"))),
                Ok(Frame::trailers(trailers)),
            ];
            Ok::<_, Infallible>(Response::new(Body::new(stream::iter(frames).boxed())))
        });
        let _ = auto::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    })
    .await;
    for (address, protocol) in [(one, "http1"), (two, "h2c")] {
        let rest = format!(", protocol: {protocol}");
        let portolan = serving(&[pool("a", &[address], &rest)], "to: a").await;
        let mut client = Client::connect(portolan.address().await, true).await;
        for _ in 0..3 {
            let (_, body) = said();
            let answer = soon("an answer", client.send(Method::GET, body))
                .await
                .unwrap();
            let whole = soon("its body", answer.into_body().collect())
                .await
                .unwrap();
            let trailers = whole.trailers().unwrap().clone();
            assert_eq!(whole.to_bytes(), "hi");
            assert_eq!(trailers["x-sum"], "42", "{protocol}");
            assert_eq!(trailers.len(), 1, "{protocol}: {trailers:?}");
        }
        portolan.stop().await;
    }
}

const EXPECTING: &[u8] =
    b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 100000\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_sent_when_the_endpoint_wants_it() {
    let (asked, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (heard, wait) = (asked.clone(), go.clone());
    let address = endpoint(move |mut stream| {
        let (heard, wait) = (heard.clone(), wait.clone());
        async move {
            let (head, body) = read_head(&mut stream).await.unwrap();
            assert!(head.contains("expect: 100-continue"), "{head}");
            assert!(body.is_empty());
            heard.notify_one();
            wait.notified().await;
            stream
                .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
                .await
                .unwrap();
            let mut body = vec![0; 100_000];
            stream.read_exact(&mut body).await.unwrap();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";
            stream.write_all(answer).await.unwrap();
            read_on(stream).await;
        }
    })
    .await;
    let portolan = serving(&[pool("a", &[address], "")], "to: a").await;
    let mut client = TcpStream::connect(portolan.address().await).await.unwrap();
    client.write_all(EXPECTING).await.unwrap();
    soon("the endpoint is asked", asked.notified()).await;
    go.notify_one();
    let (head, _) = soon("a word", read_head(&mut client)).await.unwrap();
    assert!(head.starts_with("http/1.1 100 "), "{head}");
    client.write_all(&vec![b'x'; 100_000]).await.unwrap();
    let (head, _) = soon("an answer", read_head(&mut client)).await.unwrap();
    assert!(head.starts_with("http/1.1 200 "), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_not_wanted_is_never_sent() {
    let address = endpoint(|mut stream| async move {
        let (_, body) = read_head(&mut stream).await.unwrap();
        assert!(body.is_empty());
        let answer = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno";
        stream.write_all(answer).await.unwrap();
        let mut more = Vec::new();
        let _ = stream.read_to_end(&mut more).await;
        assert!(more.is_empty());
    })
    .await;
    let portolan = serving(&[pool("a", &[address], "")], "to: a").await;
    let mut client = TcpStream::connect(portolan.address().await).await.unwrap();
    client.write_all(EXPECTING).await.unwrap();
    let mut answer = String::new();
    soon("the end", client.read_to_string(&mut answer))
        .await
        .unwrap();
    let answer = answer.to_lowercase();
    assert!(answer.starts_with("http/1.1 401 "), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(answer.ends_with("no"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_knows_no_expectations_gets_the_body_all_the_same() {
    let address = endpoint(|mut stream| async move {
        let (_, body) = read_head(&mut stream).await.unwrap();
        let mut rest = vec![0; 100_000 - body.len()];
        stream.read_exact(&mut rest).await.unwrap();
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";
        stream.write_all(answer).await.unwrap();
        read_on(stream).await;
    })
    .await;
    let portolan = serving(&[pool("a", &[address], "")], "to: a").await;
    let mut client = TcpStream::connect(portolan.address().await).await.unwrap();
    client.write_all(EXPECTING).await.unwrap();
    let (head, _) = soon("a word", read_head(&mut client)).await.unwrap();
    assert!(head.starts_with("http/1.1 100 "), "{head}");
    client.write_all(&vec![b'x'; 100_000]).await.unwrap();
    let (head, _) = soon("an answer", read_head(&mut client)).await.unwrap();
    assert!(head.starts_with("http/1.1 200 "), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_answers_pass() {
    let hints =
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x-own\r\nX-Own: 1\r\n\r\n\
        HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    let rogue = RogueEndpoint::start(Rogue::Say(hints.to_vec())).await;
    let portolan = serving(&[pool("a", &[rogue.address], "")], "to: a").await;
    let mut client = TcpStream::connect(portolan.address().await).await.unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let (head, rest) = soon("hints", read_head(&mut client)).await.unwrap();
    assert!(head.starts_with("http/1.1 103 "), "{head}");
    assert!(
        head.contains("link: </a.css>") && !head.contains("x-own"),
        "{head}"
    );
    let mut rest = rest;
    while !String::from_utf8_lossy(&rest).ends_with("\r\n\r\nhi") {
        assert_ne!(
            soon("the answer", client.read_buf(&mut rest))
                .await
                .unwrap(),
            0
        );
    }
    let rest = String::from_utf8_lossy(&rest);
    assert!(rest.starts_with("HTTP/1.1 200 OK\r\n"), "{rest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_length_is_bounded_as_well() {
    let endpoint = echo().await;
    let config = [
        "listeners: [ { bind: \"127.0.0.1:0\", limits: { body_bytes: 100KiB } } ]\n",
        "defaults: { health: off, outlier: off }\npools:\n",
        &pool("a", &[endpoint], ""),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let mut client = TcpStream::connect(portolan.address().await).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.write_all(head).await.unwrap();
    // The endpoint would answer at once if it got anything; nobody lets it have all of this.
    let mut chunk = b"20000\r\n".to_vec();
    chunk.extend_from_slice(&vec![b'x'; 0x20000]);
    chunk.extend_from_slice(b"\r\n0\r\n\r\n");
    let _ = client.write_all(&chunk).await;
    let mut answer = Vec::new();
    let _ = soon("the end", client.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer);
    // Told, or cut if the echo had begun: never passed on as a whole.
    assert!(
        answer.starts_with("HTTP/1.1 413 ") || !answer.ends_with("0\r\n\r\n"),
        "{} bytes",
        answer.len()
    );
    assert!(answer.len() < 0x20000, "{} bytes", answer.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_a_stream_is_sent_again() {
    let good = Origin::start("good").await;
    for rogue in [
        Rogue::ResetAfterRequest,
        Rogue::CloseAfterRequest,
        Rogue::Stall,
    ] {
        let bad = RogueEndpoint::start(rogue.clone()).await;
        let pools = [
            pool("bad", &[bad.address], ""),
            pool("good", &[good.address], ""),
        ];
        let route = "to: { tiers: [ bad, good ] }, retry: { per_try: 300ms }";
        let portolan = serving(&pools, route).await;
        let address = portolan.address().await;
        for two in [false, true] {
            let before = good.hits();
            let frames = (0..5).map(|_| Ok(Frame::data(Bytes::from(vec![1; 5_000]))));
            let body = Body::new(stream::iter(frames).boxed());
            let mut client = Client::connect(address, two).await;
            let answer = soon("an answer", client.send(Method::PUT, body))
                .await
                .unwrap();
            assert_eq!(answer.status(), 200, "{rogue:?} {two}");
            assert_eq!(answer.headers()["x-origin"], "good");
            assert_eq!(good.hits(), before + 1);
            // Whoever may not be repeated is not.
            let frames = [Ok(Frame::data(Bytes::from("once")))];
            let body = Body::new(stream::iter(frames).boxed());
            let mut client = Client::connect(address, two).await;
            let answer = soon("an answer", client.send(Method::POST, body))
                .await
                .unwrap();
            assert!(
                [502, 504].contains(&answer.status().as_u16()),
                "{rogue:?} {two}"
            );
            assert_eq!(good.hits(), before + 1);
        }
        portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_finds_nobody_goes_elsewhere_as_a_whole() {
    let good = echo().await;
    for protocol in ["http1", "h2c"] {
        let rest = format!(", protocol: {protocol}");
        let pools = [
            pool("bad", &[nobody().await], ""),
            pool("good", &[good], &rest),
        ];
        let portolan = serving(&pools, "to: { tiers: [ bad, good ] }").await;
        for two in [false, true] {
            let frames =
                (0..200_u8).map(|number| Ok(Frame::data(Bytes::from(vec![number; 5_000]))));
            let body = Body::new(stream::iter(frames).boxed());
            let mut client = Client::connect(portolan.address().await, two).await;
            let answer = soon("an answer", client.send(Method::POST, body))
                .await
                .unwrap();
            assert_eq!(answer.headers()["x-portolan-tries"], "2");
            let whole = soon("its body", answer.into_body().collect())
                .await
                .unwrap();
            let whole = whole.to_bytes();
            assert_eq!(whole.len(), 1_000_000);
            let right = whole
                .iter()
                .enumerate()
                .all(|(at, byte)| *byte as usize == at / 5_000);
            assert!(right, "{protocol} {two}");
        }
        portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_is_told_to_the_endpoint() {
    // Over HTTP/1.1 the connection ends.
    let (come, gone) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let counters = (come.clone(), gone.clone());
    let one = endpoint(move |mut stream| {
        let (come, gone) = counters.clone();
        async move {
            read_head(&mut stream).await.unwrap();
            come.fetch_add(1, Ordering::Relaxed);
            read_on(stream).await;
            gone.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await;
    // Over HTTP/2 the stream does, and the connection stays.
    let counters = (come.clone(), gone.clone());
    let two = endpoint(move |stream| {
        let (come, resets) = counters.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                come.fetch_add(1, Ordering::Relaxed);
                let resets = resets.clone();
                tokio::spawn(async move {
                    let _request = request;
                    let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                    assert_eq!(reason.unwrap(), h2::Reason::CANCEL);
                    resets.fetch_add(1, Ordering::Relaxed);
                });
            }
        }
    })
    .await;
    let mut goal = 0;
    for (address, protocol) in [(one, "http1"), (two, "h2c")] {
        let rest = format!(", protocol: {protocol}");
        let portolan = serving(&[pool("a", &[address], &rest)], "to: a").await;
        for two in [false, true] {
            let (say, body) = said();
            say.send("some of it".into()).await.unwrap();
            let mut client = Client::connect(portolan.address().await, two).await;
            let asking =
                tokio::spawn(async move { client.send(Method::POST, body).await.map(drop) });
            goal += 1;
            eventually("the endpoint is asked", async || {
                (come.load(Ordering::Relaxed) == goal).then_some(())
            })
            .await;
            asking.abort();
            drop(say);
            let _ = asking.await;
            eventually("the endpoint is told", async || {
                (gone.load(Ordering::Relaxed) == goal).then_some(())
            })
            .await;
            portolan
                .wait_for_metric("portolan_in_flight", &[], 0.0)
                .await;
        }
        portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_cut_short_is_never_passed_off_as_whole() {
    for text in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX : 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
    ] {
        let rogue = RogueEndpoint::saying(text.as_bytes()).await;
        let portolan = serving(&[pool("a", &[rogue.address], "")], "to: a").await;
        for two in [false, true] {
            let (_, body) = said();
            let mut client = Client::connect(portolan.address().await, two).await;
            let answer = soon("an answer", client.send(Method::GET, body))
                .await
                .unwrap();
            assert_eq!(answer.status(), 200);
            let body = soon("its end", answer.into_body().collect()).await;
            assert!(body.is_err(), "{two} {text:?}");
        }
        portolan.stop().await;
    }
}
