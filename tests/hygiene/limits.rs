//! How much one client may have.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::frames::{Client, DATA, END_HEADERS, HEADERS, Outcome, block, frame};
use super::guarding;
use crate::harness::client::Connection;
use crate::harness::{Ask, eventually, soon};

/// Connects from another address of this machine.
pub(super) async fn connect_from(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind(SocketAddr::new(from.parse().unwrap(), 0))
        .unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_cannot_take_every_connection() {
    let (portolan, _recorder) = guarding(", limits: { connections_per_client: 3 }", "").await;
    let address = portolan.address().await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let stream = connect_from("127.0.0.5", address).await;
        let mut connection = Connection::over(stream, "a").await.unwrap();
        assert_eq!(connection.ask(Ask::get("/")).await.unwrap().status, 200);
        open.push(connection);
    }
    let mut beyond = connect_from("127.0.0.5", address).await;
    let mut nothing = Vec::new();
    // Closed at once, with a reset if something was on its way.
    let _ = soon("it is closed", beyond.read_to_end(&mut nothing)).await;
    assert!(nothing.is_empty());
    portolan
        .wait_for_metric(
            "portolan_refused_connections_total",
            &["reason=\"connections_per_client\""],
            1.0,
        )
        .await;
    // Somebody else is served, and so is this one when it has less.
    let other = connect_from("127.0.0.6", address).await;
    let mut other = Connection::over(other, "a").await.unwrap();
    assert_eq!(other.ask(Ask::get("/")).await.unwrap().status, 200);
    open.pop();
    eventually("there is room again", async || {
        let stream = connect_from("127.0.0.5", address).await;
        let mut connection = Connection::over(stream, "a").await.ok()?;
        let answer = connection.ask(Ask::get("/")).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_drip_are_cut_off() {
    // So much that nobody can send it a byte at a time, and so little that a body in one piece
    // never waits for it.
    let (portolan, recorder) = guarding(", limits: { min_body_rate: 10KiB }", "").await;
    let address = portolan.address().await;
    let dripping = |head: &'static str| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let drip = tokio::spawn(async move {
            while write.write_all(b"1\r\na\r\n").await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
        });
        let mut answer = Vec::new();
        let _ = soon("an answer", read.read_to_end(&mut answer)).await;
        drip.abort();
        String::from_utf8_lossy(&answer).into_owned()
    };
    let two = async {
        let mut client = Client::connect(address, &[]).await;
        let head = block(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/"),
            ("content-length", "1000"),
        ]);
        client.send(&frame(HEADERS, END_HEADERS, 1, &head)).await;
        client.send(&frame(DATA, 0, 1, b"a")).await;
        client.outcomes(&[1]).await[&1]
    };
    let (length, chunked, two) = tokio::join!(
        dripping("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"),
        dripping("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
        two,
    );
    assert!(length.starts_with("HTTP/1.1 408 "), "{length}");
    assert!(chunked.starts_with("HTTP/1.1 408 "), "{chunked}");
    assert_eq!(two, Outcome::Status(408));
    assert!(recorder.take().is_empty());
    portolan
        .wait_for_metric(
            "portolan_refused_requests_total",
            &["reason=\"body_too_slow\""],
            3.0,
        )
        .await;
    portolan.stop().await;
}
