//! No stream starves another: answers that nobody reads, and uploads that nobody takes, beside one that
//! goes on; with endpoints and with clients.

use std::net::SocketAddr;
use std::time::Duration;

use h2::client::SendRequest;
use http::{Request, Response};
use hyper::body::Bytes;
use tokio::net::TcpStream;

use super::{Papers, TWO};
use crate::harness::config::{LISTENER, pool};
use crate::harness::{Ask, Endpoint2, Origin, Portolan, Wire, eventually, get, soon};

/// Streams on which nothing goes on.
const STUCK: usize = 100;

/// What is on each: more than any window.
const LARGE: usize = 8 << 20;

/// An answer's pieces: what a server writes at a time, and what one writes that streams events.
const PIECES: [usize; 2] = [64 << 10, 64];

/// An endpoint whose answers are as long as the path says, in pieces of so many bytes.
async fn talkative(papers: &Papers, wire: Wire, piece: usize) -> Endpoint2 {
    let builder = h2::server::Builder::new();
    Endpoint2::start(
        wire,
        &papers.identity,
        builder,
        move |request, mut respond| async move {
            let mut left: usize = request.uri().path()[1..].parse().unwrap();
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            let words = Bytes::from(vec![b'x'; piece]);
            while left > 0 {
                let now = left.min(piece);
                body.reserve_capacity(now);
                if body.capacity() == 0 {
                    let more = std::future::poll_fn(|cx| body.poll_capacity(cx)).await;
                    if !matches!(more, Some(Ok(_))) {
                        return;
                    }
                    continue;
                }
                let now = now.min(body.capacity());
                left -= now;
                if body.send_data(words.slice(..now), left == 0).is_err() {
                    return;
                }
            }
        },
    )
    .await
}

/// Asks for an answer and does not read it: the connection, while it is kept.
async fn ask_and_do_not_read(address: SocketAddr, bytes: usize) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    // Little is kept by the system.
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let request = format!("GET /{bytes} HTTP/1.1\r\nHost: a\r\n\r\n");
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes())
        .await
        .unwrap();
    let mut first = [0; 12];
    let reading = tokio::io::AsyncReadExt::read_exact(&mut stream, &mut first);
    soon("the head of an answer", reading).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_hold_up_no_other() {
    let papers = Papers::new();
    for (wire, piece) in TWO
        .into_iter()
        .flat_map(|wire| PIECES.map(|piece| (wire, piece)))
    {
        let endpoint = talkative(&papers, wire, piece).await;
        let portolan = papers.in_front_of(wire, endpoint.address, "").await;
        let address = portolan.address().await;
        let mut stuck = Vec::new();
        for _ in 0..STUCK {
            stuck.push(ask_and_do_not_read(address, LARGE).await);
        }
        let shared = endpoint.connections();
        assert!(
            shared <= 4,
            "{shared} connections, so that streams share them"
        );
        for bytes in [2, 2, 1 << 20, 2] {
            let what = format!("{bytes} bytes over {wire:?}, in pieces of {piece}");
            let answer = soon(&what, get(address, &format!("/{bytes}")))
                .await
                .unwrap();
            assert_eq!((answer.status, answer.body.len()), (200, bytes), "{what}");
        }
        holds_no_more(&portolan, 96 << 20).await;
        drop(stuck);
        portolan.wait_for_metric(HELD, &[], 0.0).await;
        portolan.stop().await;
    }
}

const HELD: &str = "portolan_http2_held_bytes";

/// What is held is bounded: by what one connection may hold before windows are narrow, and what has
/// been on its way by then.
async fn holds_no_more(portolan: &Portolan, most: u64) {
    let held = portolan.metric(HELD, &[]).await;
    assert!(held > 0.0 && held <= most as f64, "{held} bytes are held");
}

/// A client's connection over HTTP/2.
async fn client(papers: &Papers, address: SocketAddr, tls: bool) -> SendRequest<Bytes> {
    if tls {
        let stream = papers.authority.connect(address, Wire::NAME, &["h2"]);
        let (requests, connection) = h2::client::handshake(stream.await.unwrap()).await.unwrap();
        tokio::spawn(connection);
        requests
    } else {
        let stream = TcpStream::connect(address).await.unwrap();
        let (requests, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        requests
    }
}

/// Sends as much of a body as is taken, until nothing has been for a while: how much that was.
async fn fill(requests: &SendRequest<Bytes>, path: &str, piece: usize) -> Stream {
    let request = Request::post(format!("http://a{path}")).body(()).unwrap();
    let mut requests = requests.clone().ready().await.unwrap();
    let (answer, mut body) = requests.send_request(request, false).unwrap();
    let words = Bytes::from(vec![b'x'; piece]);
    let mut sent = 0;
    while sent < LARGE {
        body.reserve_capacity(piece);
        let more = std::future::poll_fn(|cx| body.poll_capacity(cx));
        match tokio::time::timeout(Duration::from_millis(200), more).await {
            Ok(Some(Ok(room))) => {
                let room = room.min(piece);
                body.send_data(words.slice(..room), false).unwrap();
                sent += room;
            }
            Ok(over) => panic!(
                "the stream is over after {sent}: {over:?}, {:?}",
                answer.await
            ),
            Err(_) => break,
        }
    }
    (sent, (answer, body))
}

type Stream = (usize, (h2::client::ResponseFuture, h2::SendStream<Bytes>));

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_nobody_takes_hold_up_no_other() {
    let papers = Papers::new();
    // Accepts, and never reads.
    let deaf = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = Origin::start("good").await;
    for (tls, piece) in [(false, 16 << 10), (true, 16 << 10), (false, 64)] {
        let listener = match tls {
            false => LISTENER.to_owned(),
            true => "listeners: [ { bind: \"127.0.0.1:0\", tls: { certificates: [ { cert: tls.pem, key: tls.key } ] } } ]\n".to_owned(),
        };
        let config = [
            &listener,
            "pools:\n",
            // Whoever works hard may be late to connect.
            &pool(
                "deaf",
                &[deaf.local_addr().unwrap()],
                ", health: off, outlier: off, timeouts: { connect: 20s }",
            ),
            &pool("good", &[good.address], ", health: off"),
            "routes: [ { path: /deaf, to: deaf }, { to: good, expose: true } ]\n",
        ]
        .concat();
        let portolan = Portolan::with(&config)
            .file("tls.pem", &papers.identity.certificate)
            .file("tls.key", &papers.identity.key)
            .start()
            .await;
        let address = portolan.address().await;
        let requests = client(&papers, address, tls).await;
        // Of small frames no more than the library remembers for one connection, however late it is heard
        // that they are too many.
        let streams = if piece < 256 { 8 } else { STUCK };
        let filling = (0..streams).map(|_| fill(&requests, "/deaf", piece));
        let stuck = futures_util::future::join_all(filling).await;
        assert!(
            stuck.iter().all(|(sent, _)| *sent < LARGE),
            "all of them are stuck"
        );
        for bytes in [2, 1 << 20, 2] {
            let request = Request::post("http://a/echo").body(()).unwrap();
            let mut requests = requests.clone().ready().await.unwrap();
            let (answer, mut body) = requests.send_request(request, false).unwrap();
            body.send_data(vec![b'x'; bytes].into(), true).unwrap();
            let answer = soon("an answer", answer).await.unwrap();
            assert_eq!(answer.status(), 200, "tls: {tls}, {piece}");
            let mut answer = answer.into_body();
            let mut text = Vec::new();
            while let Some(part) = soon("its body", answer.data()).await {
                text.extend_from_slice(&part.unwrap());
            }
            let seen: serde_json::Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(seen["body_bytes"], bytes);
        }
        holds_no_more(&portolan, 64 << 20).await;
        drop((stuck, requests));
        portolan.wait_for_metric(HELD, &[], 0.0).await;
        portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_an_endpoint_does_not_take_hold_up_no_other() {
    let papers = Papers::new();
    for wire in TWO {
        // As large as windows are unless somebody says otherwise: one upload fills it.
        let builder = h2::server::Builder::new();
        let endpoint = Endpoint2::start(
            wire,
            &papers.identity,
            builder,
            |request, mut respond| async move {
                if request.uri().path() == "/deaf" {
                    let _request = request;
                    return std::future::pending().await;
                }
                let mut body = request.into_body();
                let mut length = 0;
                while let Some(Ok(part)) = body.data().await {
                    length += part.len();
                    let _ = body.flow_control().release_capacity(part.len());
                }
                let mut answer = respond.send_response(Response::new(()), false).unwrap();
                answer.send_data(length.to_string().into(), true).unwrap();
            },
        )
        .await;
        let portolan = papers.in_front_of(wire, endpoint.address, "").await;
        let address = portolan.address().await;
        let mut stuck = Vec::new();
        for _ in 0..20 {
            stuck.push(tokio::spawn(
                Ask::new(http::Method::POST, "/deaf")
                    .body(vec![b'x'; 1 << 20])
                    .to(address),
            ));
        }
        eventually("all of them have got there", async || {
            let pool = portolan.endpoint("a", endpoint.address).await;
            (pool["in_flight"] == 20).then_some(())
        })
        .await;
        for bytes in [0, 10, 1 << 20, 10, 10] {
            let ask = Ask::new(http::Method::POST, "/live").body(vec![b'x'; bytes]);
            let answer = soon("an answer", ask.to(address)).await.unwrap();
            assert_eq!(
                (answer.status, answer.text()),
                (200, bytes.to_string()),
                "{wire:?}"
            );
        }
        // With it end those that wait for it.
        drop(endpoint);
        for stuck in stuck {
            let _ = soon("an end", stuck).await.unwrap();
        }
        portolan.stop().await;
    }
}
