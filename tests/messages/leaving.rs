//! Clients that half-close their connection, and clients that are gone.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::in_front_of;
use crate::harness::certificates::Authority;
use crate::harness::config::{LISTENER, pool};
use crate::harness::recorder::Recorder;
use crate::harness::{Origin, Portolan, Rogue, RogueEndpoint, eventually, soon};

/// Sends this, half-closes the connection, and reads the answer to its end.
async fn say_all(mut stream: impl AsyncRead + AsyncWrite + Unpin, words: &str) -> String {
    let talking = async {
        stream.write_all(words.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // A client of TLS may miss the last word of a server that was told to close.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    soon("the connection is closed", talking).await
}

const REQUESTS: [(&str, usize); 6] = [
    ("GET /sleep?ms=300 HTTP/1.1\r\nHost: x\r\n\r\n", 1),
    ("GET /sleep?ms=300 HTTP/1.0\r\n\r\n", 1),
    (
        "POST /sleep?ms=300 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
        1,
    ),
    (
        "POST /sleep?ms=300 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        1,
    ),
    // Two, one behind the other.
    (
        "GET /sleep?ms=300 HTTP/1.1\r\nHost: x\r\n\r\nGET /sleep?ms=300 HTTP/1.1\r\nHost: x\r\n\r\n",
        2,
    ),
    // One that is answered bit by bit.
    ("GET /events?count=5&ms=100 HTTP/1.1\r\nHost: x\r\n\r\n", 1),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_half_closes_after_a_whole_request_gets_its_answer() {
    let authority = Authority::new();
    let identity = authority.sign(&["x.example"]);
    let origin = Origin::start("a").await;
    let config = [
        "listeners:\n  - bind: \"127.0.0.1:0\"\n",
        "  - { bind: \"127.0.0.1:0\", tls: { certificates: [ { cert: x.pem, key: x.key } ] } }\n",
        "pools:\n",
        &pool("a", &[origin.address], ", health: off"),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::with(&config)
        .file("x.pem", &identity.certificate)
        .file("x.key", &identity.key)
        .start()
        .await;
    let addresses = portolan.addresses().await;
    for (request, answers) in REQUESTS {
        let plain = TcpStream::connect(addresses[0]).await.unwrap();
        let tls = authority.connect(addresses[1], "x.example", &[]).await;
        let (plain, tls) = tokio::join!(say_all(plain, request), say_all(tls.unwrap(), request));
        for (said, how) in [(plain, "plain"), (tls, "TLS")] {
            assert!(
                said.starts_with("HTTP/1.1 200 "),
                "{how} {request:?}: {said}"
            );
            assert_eq!(
                said.matches("HTTP/1.1 200 ").count(),
                answers,
                "{how}: {said}"
            );
            let end = if request.contains("events") {
                "data: 4\n\n\r\n0\r\n\r\n"
            } else {
                "\r\n\r\na"
            };
            assert!(said.ends_with(end), "{how} {request:?}: {said}");
        }
    }
    let whole = REQUESTS.iter().map(|(_, answers)| answers).sum::<usize>() * 2;
    let outcome = ["outcome=\"answered\"", "reason=\"whole\""];
    portolan
        .wait_for_metric("portolan_request_outcomes_total", &outcome, whole as f64)
        .await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_half_closes_in_the_middle_of_a_request_is_gone() {
    let recorder = Recorder::start().await;
    let portolan = in_front_of(recorder.address, "", "").await;
    let address = portolan.address().await;
    for request in [
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhell",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nhell",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n",
    ] {
        let stream = TcpStream::connect(address).await.unwrap();
        assert_eq!(say_all(stream, request).await, "", "{request:?}");
    }
    let gone = ["outcome=\"client_gone\""];
    portolan
        .wait_for_metric("portolan_request_outcomes_total", &gone, 4.0)
        .await;
    assert!(recorder.take().is_empty(), "nothing whole came");
    portolan.stop().await;
}

async fn gone_before_answer(portolan: &Portolan, count: f64) {
    let gone = ["outcome=\"client_gone\"", "reason=\"before_answer\""];
    portolan
        .wait_for_metric("portolan_request_outcomes_total", &gone, count)
        .await;
    portolan
        .wait_for_metric("portolan_in_flight", &[], 0.0)
        .await;
}

/// No try counts as the endpoint's failure.
async fn assert_no_failures(portolan: &Portolan) {
    for outcome in ["broken", "timed_out", "connect_failed"] {
        let label = format!("outcome=\"{outcome}\"");
        let tries = "portolan_upstream_tries_total";
        assert_eq!(portolan.metric(tries, &[&label]).await, 0.0, "{outcome}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_gone_is_not_waited_for() {
    let stalls = RogueEndpoint::start(Rogue::Stall).await;
    let portolan = in_front_of(stalls.address, ", timeouts: { first_byte: 10m }", "").await;
    let address = portolan.address().await;
    let request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let waiting = async |half: bool| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        if half {
            stream.shutdown().await.unwrap();
        }
        eventually("it is under way", async || {
            let in_flight = portolan.metric("portolan_in_flight", &[]).await;
            (in_flight == 1.0).then_some(())
        })
        .await;
        stream
    };
    // Reset, before the client has half-closed the connection and after.
    for (number, half) in [false, true].into_iter().enumerate() {
        let stream = waiting(half).await;
        stream.set_zero_linger().unwrap();
        drop(stream);
        gone_before_answer(&portolan, number as f64 + 1.0).await;
    }
    // Closed as a whole: that only shows when the client is sent something.
    for number in [3.0, 4.0] {
        drop(waiting(number == 4.0).await);
        gone_before_answer(&portolan, number).await;
    }
    // A client that has only half-closed goes on waiting, and is sent what it may ignore.
    let mut patient = waiting(true).await;
    let mut said = [0; 25];
    soon("a word", patient.read_exact(&mut said)).await.unwrap();
    assert_eq!(&said, b"HTTP/1.1 100 Continue\r\n\r\n");
    let in_flight = portolan.metric("portolan_in_flight", &[]).await;
    assert_eq!(in_flight, 1.0, "it is waited for");
    drop(patient);
    assert_no_failures(&portolan).await;
}

/// An endpoint that reads a request's head and nothing else.
async fn stuck() -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 << 10).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener: TcpListener = socket.listen(16).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 16];
            let _ = stream.read_exact(&mut head).await;
            kept.push(stream);
        }
    });
    address
}

/// Sends as much of a body as is taken, until nothing more is for a while.
async fn upload(mut stream: impl AsyncWrite + Unpin, head: &str) -> usize {
    stream.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![b'x'; 64 << 10];
    let mut sent = 0;
    let pause = std::time::Duration::from_millis(300);
    while let Ok(written) = tokio::time::timeout(pause, stream.write(&piece)).await {
        sent += written.unwrap();
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_a_stalled_upload_is_gone_and_the_endpoint_is_not_blamed() {
    let endpoint = stuck().await;
    let config = [
        LISTENER,
        "pools:\n",
        &pool(
            "a",
            &[endpoint],
            ", health: off, timeouts: { idle: 10m, first_byte: 10m }",
        ),
        "routes: [ { to: a, timeout: 10m } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    let length = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n";
    let mut count = 0.0;
    for reset in [true, false] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let sent = upload(&mut stream, length).await;
        assert!(sent < 900_000_000, "it does not go on");
        if reset {
            stream.set_zero_linger().unwrap();
        }
        drop(stream);
        count += 1.0;
        gone_before_answer(&portolan, count).await;
    }
    // One stream of HTTP/2, and all of a connection.
    for reset in [true, false] {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = http::Request::post("http://x.example/").body(()).unwrap();
        let (_response, mut body) = send.send_request(request, false).unwrap();
        body.reserve_capacity(1 << 30);
        let pause = std::time::Duration::from_millis(300);
        loop {
            let room = std::future::poll_fn(|cx| body.poll_capacity(cx));
            let Ok(Some(Ok(room))) = tokio::time::timeout(pause, room).await else {
                break;
            };
            body.send_data(vec![b'x'; room].into(), false).unwrap();
            body.reserve_capacity(1 << 30);
        }
        if reset {
            body.send_reset(h2::Reason::CANCEL);
        } else {
            connection.abort();
        }
        count += 1.0;
        gone_before_answer(&portolan, count).await;
    }
    assert_no_failures(&portolan).await;
}
