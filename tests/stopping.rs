//! Being told to stop: what is under way finishes, nobody new comes, and the process ends.

use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::BodyExt as _;
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::client::{Connection, get};
use crate::harness::config::{PROBES, pool, pools};
use crate::harness::{Ask, Load, Origin, Portolan, eventually, fetch, soon, websocket};

const LISTENER: &str = "listeners: [ { bind: '127.0.0.1:0' } ]\n";

fn config(settings: &str, origin: &Origin) -> String {
    let pools = pools(&[("a", &[origin], "")]);
    format!("{LISTENER}{settings}{PROBES}{pools}routes: [ {{ to: a }} ]\n")
}

async fn wait_for_requests(portolan: &Portolan, count: f64) {
    eventually("requests are under way", async || {
        let under_way = portolan.metric("portolan_in_flight", &[]).await;
        (under_way >= count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_finishes_and_then_the_process_ends() {
    let origin = Origin::start("a").await;
    let chat = websocket::endpoint().await;
    let config = [
        LISTENER,
        PROBES,
        &pools(&[("a", &[&origin], "")]),
        &pool("chat", &[chat], ", health: off"),
        "routes: [ { path: /chat, to: chat }, { to: a } ]\n",
    ]
    .concat();
    let mut portolan = Portolan::start(&config).await;
    let address = portolan.address().await;

    let mut idle = Connection::open(address).await.unwrap();
    assert_eq!(idle.ask(Ask::get("/")).await.unwrap().status, 200);
    portolan
        .wait_for_metric("portolan_in_flight", &[], 0.0)
        .await;
    let slow = tokio::spawn(Ask::get("/sleep?ms=1500").to(address));
    let mut events = Connection::open(address).await.unwrap();
    let mut events = events
        .begin(Ask::get("/events?count=20&ms=100"))
        .await
        .into_body();
    let stream = TcpStream::connect(address).await.unwrap();
    let url = format!("ws://{address}/chat");
    let (mut socket, _) = soon(
        "the handshake",
        tokio_tungstenite::client_async(url, stream),
    )
    .await
    .unwrap();
    let h2 = tokio::spawn(frames(address, "/sleep?ms=1500"));
    wait_for_requests(&portolan, 4.0).await;

    portolan.signal(Signal::SIGTERM);
    eventually("readiness says no", async || {
        let answer = get(portolan.admin(), "/readyz").await.ok()?;
        (answer.status == 503 && answer.text() == "stopping\n").then_some(())
    })
    .await;
    eventually("nobody new is accepted", async || {
        TcpStream::connect(address).await.is_err().then_some(())
    })
    .await;

    let slow = slow.await.unwrap().unwrap();
    assert_eq!((slow.status, slow.header("connection")), (200, "close"));
    let mut received = String::new();
    while let Some(frame) = soon("an event", events.frame()).await {
        received += std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap();
    }
    assert!(received.ends_with("data: 19\n\n"), "{received}");
    eventually("the idle client is gone", async || {
        idle.is_closed().then_some(())
    })
    .await;
    let kinds = h2.await.unwrap();
    let place = |kind| kinds.iter().position(|it| *it == kind);
    let (away, headers) = (place(GOAWAY), place(HEADERS));
    assert!(
        away.is_some() && away < headers && place(RST_STREAM).is_none(),
        "told to go away, and answered all the same: {kinds:?}"
    );

    // Only the chat is left.
    for word in ["still", "there?"] {
        socket.send(Message::text(word)).await.unwrap();
        let echo = soon("an echo", socket.next()).await.unwrap().unwrap();
        assert_eq!(echo, Message::text(word));
    }
    assert!(portolan.is_running());
    socket.close(None).await.unwrap();
    assert_eq!(portolan.ended().await.code(), Some(0));
    assert!(!portolan.log().contains("in time"), "{}", portolan.log());
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;

/// Asks for something over HTTP/2, and tells the types of the frames that come until the connection
/// is closed.
async fn frames(address: std::net::SocketAddr, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // GET, http, the path and the authority, none of them compressed (RFC 7541).
    let authority = address.to_string();
    let mut headers = vec![0x82, 0x86, 0x04, path.len() as u8];
    headers.extend(path.as_bytes());
    headers.extend([0x01, authority.len() as u8]);
    headers.extend(authority.as_bytes());
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    // The end of the stream, and of its headers.
    bytes.extend(frame(HEADERS, 0x5, 1, &headers));
    stream.write_all(&bytes).await.unwrap();
    let mut kinds = Vec::new();
    loop {
        let mut head = [0; 9];
        let reading = soon("a frame, or the end", stream.read_exact(&mut head));
        if reading.await.is_err() {
            return kinds;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        kinds.push(kind);
        let answer = match kind {
            SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => frame(PING, ACK, 0, &body),
            _ => continue,
        };
        // It may be closed by now.
        let _ = stream.write_all(&answer).await;
    }
}

fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let mut frame = (body.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(body);
    frame
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lame_duck_serves_as_ever() {
    let origin = Origin::start("a").await;
    let settings = "lame_duck: 5m\nshutdown_timeout: 10m\n";
    let mut portolan = Portolan::start(&config(settings, &origin)).await;
    let address = portolan.address().await;
    let kept = Load::plain(address, 4);
    let new = Load::start(address, 2, || Ask::get("/").header("connection", "close"));
    kept.more(50).await;
    portolan.signal(Signal::SIGTERM);
    eventually("readiness says no", async || {
        let answer = get(portolan.admin(), "/readyz").await.ok()?;
        (answer.status == 503).then_some(())
    })
    .await;
    kept.more(300).await;
    new.more(100).await;
    let kept = kept.stop().await;
    kept.assert_flawless();
    assert_eq!(kept.connections, 4, "nobody is sent away yet");
    new.stop().await.assert_flawless();
    assert_eq!(fetch(address, "/").await.status, 200);
    portolan.signal(Signal::SIGTERM);
    assert_eq!(portolan.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_keep_their_connection_are_told_before_it_is_closed() {
    let origin = Origin::start("a").await;
    let settings = "lame_duck: 200ms\n";
    let mut portolan = Portolan::start(&config(settings, &origin)).await;
    let address = portolan.address().await;
    let mut clients = Vec::new();
    for _ in 0..16 {
        clients.push(tokio::spawn(async move {
            let mut connection = Connection::open(address).await.unwrap();
            let mut answers = 0_u64;
            loop {
                let answer = connection.ask(Ask::get("/")).await.unwrap();
                assert_eq!(answer.status, 200);
                answers += 1;
                if answer.header("connection") == "close" {
                    return answers;
                }
            }
        }));
    }
    eventually("all of them are at it", async || {
        (origin.hits() > 200).then_some(())
    })
    .await;
    portolan.signal(Signal::SIGTERM);
    for client in clients {
        assert!(soon("told to close", client).await.unwrap() > 0);
    }
    assert_eq!(portolan.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_ends_is_cut_when_the_time_is_over() {
    let origin = Origin::start("a").await;
    let settings = "shutdown_timeout: 1s\n";
    let mut portolan = Portolan::start(&config(settings, &origin)).await;
    let address = portolan.address().await;
    let endless = tokio::spawn(Ask::get("/sleep?ms=600000").to(address));
    wait_for_requests(&portolan, 1.0).await;
    portolan.signal(Signal::SIGTERM);
    assert_eq!(portolan.ended().await.code(), Some(0));
    assert!(endless.await.unwrap().is_err());
    let log = portolan.log();
    assert!(log.contains("1 requests did not finish in time"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn told_twice_it_ends_at_once() {
    let origin = Origin::start("a").await;
    let settings = "shutdown_timeout: 10m\n";
    for (first, second) in [
        (Signal::SIGTERM, Some(Signal::SIGTERM)),
        (Signal::SIGTERM, Some(Signal::SIGINT)),
        (Signal::SIGINT, None),
    ] {
        let mut portolan = Portolan::start(&config(settings, &origin)).await;
        let address = portolan.address().await;
        let endless = tokio::spawn(Ask::get("/sleep?ms=600000").to(address));
        wait_for_requests(&portolan, 1.0).await;
        portolan.signal(first);
        if let Some(second) = second {
            portolan.wait_for_log("stopping gracefully").await;
            assert!(portolan.is_running());
            portolan.signal(second);
        }
        assert_eq!(portolan.ended().await.code(), Some(0));
        assert!(endless.await.unwrap().is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_to_be_accepted_is_not_turned_away() {
    let origin = Origin::start("a").await;
    let config =
        config("", &origin).replace("'127.0.0.1:0'", "'127.0.0.1:0', limits: { connections: 1 }");
    let mut portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    // There is room for one, so the others wait in the system's queue.
    let first = tokio::spawn(Ask::get("/sleep?ms=1000").to(address));
    wait_for_requests(&portolan, 1.0).await;
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let connection = Connection::open(address).await.unwrap();
        waiting.push(tokio::spawn(async move {
            let mut connection = connection;
            connection.ask(Ask::get("/")).await
        }));
    }
    portolan.signal(Signal::SIGTERM);
    for waiting in waiting {
        let answer = soon("an answer", waiting).await.unwrap().unwrap();
        assert_eq!(answer.status, 200);
    }
    assert_eq!(first.await.unwrap().unwrap().status, 200);
    assert_eq!(portolan.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_does_not_keep_it() {
    let origin = Origin::start("a").await;
    let settings = "shutdown_timeout: 10m\n";
    let mut portolan = Portolan::start(&config(settings, &origin)).await;
    let silent = TcpStream::connect(portolan.address().await).await.unwrap();
    portolan
        .wait_for_metric("portolan_connections", &[], 1.0)
        .await;
    portolan.signal(Signal::SIGTERM);
    assert_eq!(portolan.ended().await.code(), Some(0));
    drop(silent);
}
