//! The ledger: every accepted request ends in exactly one counted outcome, however it ends, and has
//! one line in the access log.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use http::{Method, Request};
use hyper::body::Bytes;
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::certificates::Authority;
use crate::harness::client::{Connection, Connection2, raw};
use crate::harness::config::{pool, pools};
use crate::harness::rogue::nobody;
use crate::harness::{
    Ask, Origin, PATIENCE, Portolan, Rogue, RogueEndpoint, eventually, fetch, soon, websocket,
};

/// An outcome and its reason.
type End = (&'static str, &'static str);

const WHOLE: End = ("answered", "whole");
const CUT_SHORT: End = ("answered", "cut_short");
const REDIRECTED: End = ("answered", "redirected");
const IN_HEAD: End = ("client_gone", "in_head");
const BEFORE_ANSWER: End = ("client_gone", "before_answer");
const IN_ANSWER: End = ("client_gone", "in_answer");
const MALFORMED: End = ("refused", "malformed");

/// How many requests ended how.
type Ends = BTreeMap<(String, String), u64>;

/// What the process counted: accepted, and ends.
async fn counted(portolan: &Portolan) -> (u64, Ends) {
    let page = portolan.metrics().await;
    let mut accepted = 0;
    let mut ends = Ends::new();
    for line in page.lines() {
        let number = || line.rsplit(' ').next().unwrap().parse().unwrap();
        if line.starts_with("portolan_accepted_requests_total ") {
            accepted = number();
        } else if let Some(labels) = line.strip_prefix("portolan_request_outcomes_total{") {
            let label = |name: &str| {
                let (_, rest) = labels.split_once(&format!("{name}=\"")).unwrap();
                rest.split('"').next().unwrap().to_owned()
            };
            ends.insert((label("outcome"), label("reason")), number());
        }
    }
    (accepted, ends)
}

fn sum(ends: &[End]) -> Ends {
    let mut sum = Ends::new();
    for (outcome, reason) in ends {
        let key = ((*outcome).to_owned(), (*reason).to_owned());
        *sum.entry(key).or_default() += 1;
    }
    sum
}

/// Waits until exactly these are counted, and nothing is under way.
async fn assert_counted(portolan: &Portolan, expected: &[End], what: &str) {
    let expected = sum(expected);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (accepted, ends) = counted(portolan).await;
        let balanced = accepted == ends.values().sum::<u64>();
        if balanced && ends == expected {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{what}: {accepted} accepted; {}",
            difference(&ends, &expected)
        );
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// Where two sums differ, in words.
fn difference(found: &Ends, expected: &Ends) -> String {
    let names: std::collections::BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    let number = |ends: &Ends, name| ends.get(name).copied().unwrap_or_default();
    let differ = names
        .into_iter()
        .map(|name| (name, number(found, name), number(expected, name)))
        .filter(|(_, found, expected)| found != expected)
        .map(|((outcome, reason), found, expected)| {
            format!("{found} {outcome}/{reason} instead of {expected}")
        });
    differ.collect::<Vec<_>>().join(", ")
}

/// The log has exactly these.
#[track_caller]
fn assert_logged(log: &Path, expected: &[End], what: &str) {
    let (found, expected) = (logged(log), sum(expected));
    assert!(
        found == expected,
        "{what}: {}",
        difference(&found, &expected)
    );
}

/// The lines of the access log, by how their requests ended.
fn logged(path: &Path) -> Ends {
    let mut ends = Ends::new();
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| line[key].as_str().unwrap().to_owned();
        let (outcome, reason) = (text("outcome"), text("reason"));
        let refused = (outcome == "refused").then_some(reason.as_str());
        assert_eq!(line["refused"].as_str(), refused, "{line}");
        assert!(!text("client").is_empty(), "{line}");
        *ends.entry((outcome, reason)).or_default() += 1;
    }
    ends
}

/// A process with a listener and an endpoint for everything that can go wrong.
struct World {
    portolan: Portolan,
    authority: Authority,
    plain: SocketAddr,
    tls: SocketAddr,
    redirect: SocketAddr,
    /// Waits for heads no longer than 300 ms.
    hasty: SocketAddr,
    log: PathBuf,
    _logs: TempDir,
    _origins: Vec<Origin>,
    _rogues: Vec<RogueEndpoint>,
}

impl World {
    async fn start(settings: &str) -> Self {
        let authority = Authority::new();
        let (one, two) = (
            authority.sign(&["first.example"]),
            authority.sign(&["second.example"]),
        );
        let logs = TempDir::new().unwrap();
        let log = logs.path().join("access.log");
        let origins = vec![Origin::start("good").await, Origin::start("sleeper").await];
        let stalls = RogueEndpoint::start(Rogue::Stall).await;
        let broken = RogueEndpoint::saying(b"what?\r\n\r\n").await;
        let cut =
            RogueEndpoint::saying(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello").await;
        let chat = websocket::endpoint().await;
        let off = ", health: off, outlier: off";
        let config = [
            settings,
            &format!("access_log: {{ to: \"{}\" }}\n", log.display()),
            "listeners:\n",
            "  - { bind: \"127.0.0.1:0\", limits: { header_bytes: 2KiB, body_bytes: 100KiB } }\n",
            "  - bind: \"127.0.0.1:0\"\n",
            "    tls: { certificates: [ { cert: one.pem, key: one.key }, { cert: two.pem, key: two.key } ] }\n",
            "  - { bind: \"127.0.0.1:0\", redirect_to_https: true }\n",
            "  - { bind: \"127.0.0.1:0\", limits: { header_timeout: 300ms } }\n",
            &pools(&[("good", &[&origins[0]], off), ("sleeper", &[&origins[1]], off)]),
            &pool("stalls", &[stalls.address], &format!("{off}, timeouts: {{ first_byte: 200ms }}")),
            &pool("broken", &[broken.address], off),
            &pool("cut", &[cut.address], off),
            &pool("chat", &[chat], off),
            &pool("unreachable", &[nobody().await], off),
            &pool("drained", &[origins[0].address], ", health: off, drain: true"),
            "routes:\n",
            "  - { path: /good, to: good }\n",
            "  - { path: /bytes, to: good }\n",
            "  - { path: /echo, to: good }\n",
            "  - { path: /sleep, to: sleeper, timeout: 10m }\n",
            "  - { path: /events, to: sleeper }\n",
            "  - { path: /stalls, to: stalls, retry: { tries: 1 } }\n",
            "  - { path: /broken, to: broken }\n",
            "  - { path: /cut, to: cut }\n",
            "  - { path: /chat, to: chat }\n",
            "  - { path: /unreachable, to: unreachable }\n",
            "  - { path: /nobody, to: drained }\n",
            "  - { path: /down, to: drained, when_all_down: { respond: { status: 503, retry_after: 5s } } }\n",
            "  - { path: /shed, to: { split: [ { to: drained, weight: 50, if_down: shed }, { to: good, weight: 50, if_down: shed } ] } }\n",
        ]
        .concat();
        let portolan = Portolan::with(&config)
            .file("one.pem", &one.certificate)
            .file("one.key", &one.key)
            .file("two.pem", &two.certificate)
            .file("two.key", &two.key)
            .start()
            .await;
        let addresses = portolan.addresses().await;
        Self {
            authority,
            plain: addresses[0],
            tls: addresses[1],
            redirect: addresses[2],
            hasty: addresses[3],
            portolan,
            log,
            _logs: logs,
            _origins: origins,
            _rogues: vec![stalls, broken, cut],
        }
    }

    /// Ends one request, or a few, in this way. How, as far as the client can know.
    async fn end(&self, how: How) -> Vec<End> {
        match how {
            How::Served => {
                assert_eq!(fetch(self.plain, "/good").await.status, 200);
                vec![WHOLE]
            }
            How::ServedOverHttp2 => {
                let mut connection = Connection2::open(self.plain).await.unwrap();
                for _ in 0..2 {
                    let answer = connection.get("http://x.example/good").await.unwrap();
                    assert_eq!(answer.status, 200);
                }
                vec![WHOLE; 2]
            }
            How::KeptAndClosed => {
                let mut connection = Connection::open(self.plain).await.unwrap();
                for _ in 0..3 {
                    assert_eq!(connection.ask(Ask::get("/good")).await.unwrap().status, 200);
                }
                vec![WHOLE; 3]
            }
            How::Pipelined => {
                let two = "GET /good HTTP/1.1\r\nHost: x\r\n\r\n\
                           GET /good HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
                let said = raw(self.plain, two.as_bytes()).await;
                assert_eq!(said.matches("HTTP/1.1 200").count(), 2, "{said}");
                vec![WHOLE; 2]
            }
            How::Uploaded => {
                let ask = Ask::new(Method::POST, "/echo").body(vec![b'x'; 90 << 10]);
                assert_eq!(ask.to(self.plain).await.unwrap().status, 200);
                vec![WHOLE]
            }
            How::WebSocket => self.talk().await,
            How::Redirected => {
                assert_eq!(fetch(self.redirect, "/good").await.status, 308);
                vec![REDIRECTED]
            }
            How::Nothing => {
                drop(TcpStream::connect(self.plain).await.unwrap());
                drop(self.say(b"\r\n\r\n").await);
                // A handshake that is none.
                raw(self.tls, b"GET /good HTTP/1.1\r\nHost: x\r\n\r\n").await;
                // HTTP/2 without a request, half and whole.
                drop(self.say(b"PRI * HTTP/2").await);
                let (_, connection) = http2(self.plain).await;
                connection.abort();
                vec![]
            }
            How::Refused(path, status, reason) => {
                assert_eq!(fetch(self.plain, path).await.status, status, "{path}");
                vec![("refused", reason)]
            }
            How::Shed => {
                let status = fetch(self.plain, "/shed").await.status;
                assert!(matches!(status, 200 | 503), "{status}");
                vec![if status == 200 {
                    WHOLE
                } else {
                    ("refused", "shed")
                }]
            }
            How::Raw(bytes, status, reason) => {
                let said = raw(self.plain, bytes.as_bytes()).await;
                assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
                vec![("refused", reason)]
            }
            How::HeadTooLarge => {
                let head = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(3 << 10));
                let said = raw(self.plain, head.as_bytes()).await;
                assert!(said.starts_with("HTTP/1.1 431 "), "{said}");
                vec![("refused", "headers_too_large")]
            }
            How::BodyTooLarge => {
                let body = "x".repeat(110 << 10);
                let chunked = format!(
                    "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                    body.len()
                );
                let said = raw(self.plain, chunked.as_bytes()).await;
                assert!(said.starts_with("HTTP/1.1 413 "), "{said}");
                vec![("refused", "body_too_large")]
            }
            How::HeadTooSlow(beginning) => {
                let said = raw(self.hasty, beginning.as_bytes()).await;
                assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
                vec![("refused", "headers_too_slow")]
            }
            How::WrongCertificate => {
                let connecting = self.authority.connect(self.tls, "second.example", &[]);
                let mut connection = Connection::over(connecting.await.unwrap(), "first.example")
                    .await
                    .unwrap();
                assert_eq!(connection.ask(Ask::get("/good")).await.unwrap().status, 421);
                vec![("refused", "wrong_certificate")]
            }
            How::MalformedStream => {
                let (mut send, connection) = http2(self.plain).await;
                let request = Request::get("http://x.example/good").header("host", "y.example");
                let (response, _) = send.send_request(request.body(()).unwrap(), true).unwrap();
                assert_eq!(soon("an answer", response).await.unwrap().status(), 400);
                // Its neighbours are not harmed.
                assert_eq!(good(&mut send).await, WHOLE);
                connection.abort();
                vec![MALFORMED, WHOLE]
            }
            How::CutShort => {
                let said = raw(self.plain, b"GET /cut HTTP/1.1\r\nHost: x\r\n\r\n").await;
                assert!(said.starts_with("HTTP/1.1 200 "), "{said:?}");
                assert!(said.ends_with("hello"), "{said:?}");
                vec![CUT_SHORT]
            }
            How::CutShortOverHttp2 => {
                let mut connection = Connection2::open(self.plain).await.unwrap();
                assert!(connection.get("http://x.example/cut").await.is_err());
                vec![CUT_SHORT]
            }
            How::GoneInHead(beginning) => {
                drop(self.say(beginning.as_bytes()).await);
                vec![IN_HEAD]
            }
            How::GoneWaiting => {
                drop(
                    self.say(b"GET /sleep?ms=600000 HTTP/1.1\r\nHost: x\r\n\r\n")
                        .await,
                );
                vec![BEFORE_ANSWER]
            }
            How::GoneInBody(framing) => {
                let head = format!("POST /echo HTTP/1.1\r\nHost: x\r\n{framing}");
                drop(self.say(head.as_bytes()).await);
                vec![BEFORE_ANSWER]
            }
            How::GoneInAnswer(path) => {
                let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
                let mut stream = self.say(head.as_bytes()).await;
                let mut piece = [0; 1024];
                let read = soon("the answer begins", stream.read(&mut piece)).await;
                assert!(piece[..read.unwrap()].starts_with(b"HTTP/1.1 200 "));
                vec![IN_ANSWER]
            }
            How::ResetBeforeAnswer => {
                let (mut send, connection) = http2(self.plain).await;
                let request = Request::get("http://x.example/sleep?ms=600000");
                let (_response, mut stream) =
                    send.send_request(request.body(()).unwrap(), true).unwrap();
                stream.send_reset(h2::Reason::CANCEL);
                let neighbour = good(&mut send).await;
                connection.abort();
                vec![BEFORE_ANSWER, neighbour]
            }
            How::ResetInBody => {
                let (mut send, connection) = http2(self.plain).await;
                let request = Request::post("http://x.example/echo");
                let (_response, mut stream) =
                    send.send_request(request.body(()).unwrap(), false).unwrap();
                stream
                    .send_data(Bytes::from_static(b"half"), false)
                    .unwrap();
                let between = good(&mut send).await;
                stream.send_reset(h2::Reason::CANCEL);
                let after = good(&mut send).await;
                connection.abort();
                vec![BEFORE_ANSWER, between, after]
            }
            How::ResetInAnswer => {
                let (mut send, connection) = http2(self.plain).await;
                let request = Request::get("http://x.example/events?count=1000000&ms=10");
                let (response, mut stream) =
                    send.send_request(request.body(()).unwrap(), true).unwrap();
                let mut body = soon("the answer begins", response)
                    .await
                    .unwrap()
                    .into_body();
                assert!(soon("a piece of it", body.data()).await.unwrap().is_ok());
                stream.send_reset(h2::Reason::CANCEL);
                let neighbour = good(&mut send).await;
                connection.abort();
                vec![IN_ANSWER, neighbour]
            }
            How::AllGoneAtOnce => {
                let (mut send, connection) = http2(self.plain).await;
                let mut waiting = Vec::new();
                for _ in 0..3 {
                    let request = Request::get("http://x.example/sleep?ms=600000");
                    waiting.push(send.send_request(request.body(()).unwrap(), true).unwrap());
                }
                let neighbour = good(&mut send).await;
                connection.abort();
                vec![BEFORE_ANSWER, BEFORE_ANSWER, BEFORE_ANSWER, neighbour]
            }
        }
    }

    /// Sends bytes over a connection of its own.
    async fn say(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.plain).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }

    /// A WebSocket that is closed as it should be.
    async fn talk(&self) -> Vec<End> {
        let stream = TcpStream::connect(self.plain).await.unwrap();
        let url = format!("ws://{}/chat", self.plain);
        let (mut socket, _) = soon(
            "the handshake",
            tokio_tungstenite::client_async(url, stream),
        )
        .await
        .unwrap();
        socket.send(Message::text("hello")).await.unwrap();
        let echo = soon("the echo", socket.next()).await.unwrap().unwrap();
        assert_eq!(echo, Message::text("hello"));
        socket.close(None).await.unwrap();
        while let Some(Ok(_)) = soon("the end", socket.next()).await {}
        vec![WHOLE]
    }
}

/// The ways for a request to end.
#[derive(Clone, Copy, Debug)]
enum How {
    Served,
    ServedOverHttp2,
    KeptAndClosed,
    Pipelined,
    Uploaded,
    WebSocket,
    Redirected,
    /// Connections without a request.
    Nothing,
    /// By a path that gets this status, for this reason.
    Refused(&'static str, u16, &'static str),
    Shed,
    /// By bytes that get this status, for this reason.
    Raw(&'static str, u16, &'static str),
    HeadTooLarge,
    BodyTooLarge,
    HeadTooSlow(&'static str),
    WrongCertificate,
    MalformedStream,
    CutShort,
    CutShortOverHttp2,
    GoneInHead(&'static str),
    GoneWaiting,
    GoneInBody(&'static str),
    GoneInAnswer(&'static str),
    ResetBeforeAnswer,
    ResetInBody,
    ResetInAnswer,
    AllGoneAtOnce,
}

const ALL: &[How] = &[
    How::Served,
    How::ServedOverHttp2,
    How::KeptAndClosed,
    How::Pipelined,
    How::Uploaded,
    How::WebSocket,
    How::Redirected,
    How::Nothing,
    How::Refused("/nowhere", 404, "no_route"),
    How::Refused("/nobody", 503, "nobody_can_serve"),
    How::Refused("/down", 503, "all_down"),
    How::Refused("/unreachable", 502, "unreachable"),
    How::Refused("/broken", 502, "broken"),
    How::Refused("/stalls", 504, "too_slow"),
    How::Shed,
    How::Raw(
        "GET /good HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
        400,
        "bad_host",
    ),
    How::Raw("GET /good HTTP/1.1\r\n\r\n", 400, "bad_host"),
    How::Raw("\u{16}\u{3}\u{1}", 400, "malformed"),
    How::Raw(
        "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        400,
        "malformed",
    ),
    How::Raw(
        "CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n",
        405,
        "method_not_allowed",
    ),
    How::Raw(
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n",
        413,
        "body_too_large",
    ),
    How::HeadTooLarge,
    How::BodyTooLarge,
    How::HeadTooSlow("GET /go"),
    // For all one knows, this becomes HTTP/2 or a POST.
    How::HeadTooSlow("P"),
    How::WrongCertificate,
    How::MalformedStream,
    How::CutShort,
    How::CutShortOverHttp2,
    How::GoneInHead("GET /good HTTP/1.1\r\nHost:"),
    How::GoneInHead("PR"),
    How::GoneWaiting,
    How::GoneInBody("Content-Length: 100\r\n\r\nhello"),
    How::GoneInBody("Content-Length: 90000\r\n\r\nhello"),
    How::GoneInBody("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
    How::GoneInAnswer("/events?count=1000000&ms=10"),
    How::GoneInAnswer("/bytes?count=100000000"),
    How::ResetBeforeAnswer,
    How::ResetInBody,
    How::ResetInAnswer,
    How::AllGoneAtOnce,
];

/// An HTTP/2 connection whose frames the test has in hand.
async fn http2(address: SocketAddr) -> (h2::client::SendRequest<Bytes>, JoinHandle<()>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (send, connection) = soon("the handshake", h2::client::handshake(stream))
        .await
        .unwrap();
    let task = tokio::spawn(async move {
        // How it ends is the test's affair.
        let _ = connection.await;
    });
    (send, task)
}

/// A request that is served, behind everything that was sent before it.
async fn good(send: &mut h2::client::SendRequest<Bytes>) -> End {
    let request = Request::get("http://x.example/good").body(()).unwrap();
    let (response, _) = send.send_request(request, true).unwrap();
    let response = soon("an answer", response).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    while let Some(piece) = soon("the rest", body.data()).await {
        let length = piece.unwrap().len();
        body.flow_control().release_capacity(length).unwrap();
    }
    WHOLE
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_end_is_counted_once_and_written_down_once() {
    let mut world = World::start("").await;
    let mut ends = Vec::new();
    for how in ALL {
        ends.extend(world.end(*how).await);
        assert_counted(&world.portolan, &ends, &format!("{how:?}")).await;
    }
    let status = world.portolan.api("/status").await;
    let requests = &status["requests"];
    assert_eq!(requests["accepted"], ends.len(), "{requests}");
    assert_eq!(requests["total"], ends.len(), "{requests}");
    for outcome in ["answered", "client_gone", "refused"] {
        let expected = ends.iter().filter(|end| end.0 == outcome).count();
        assert_eq!(requests["outcomes"][outcome], expected, "{requests}");
    }

    // What is under way when the process is told to stop is answered, and written down.
    let slow = tokio::spawn(Ask::get("/sleep?ms=700").to(world.plain));
    eventually("it is under way", async || {
        let (accepted, ends) = counted(&world.portolan).await;
        (accepted > ends.values().sum()).then_some(())
    })
    .await;
    world.portolan.signal(Signal::SIGTERM);
    assert_eq!(slow.await.unwrap().unwrap().status, 200);
    ends.push(WHOLE);
    assert!(world.portolan.ended().await.success());
    assert_logged(&world.log, &ends, "at the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_mixture_of_them_adds_up() {
    const REQUESTS: usize = 400;
    const CLIENTS: usize = 16;
    let seed = std::env::var("SEED").map_or_else(|_| 20_261_121, |seed| seed.parse().unwrap());
    let world = Arc::new(World::start("").await);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut shares: Vec<Vec<How>> = vec![Vec::new(); CLIENTS];
    for number in 0..REQUESTS {
        let how = ALL[random.usize(..ALL.len())];
        shares[number % CLIENTS].push(how);
    }
    let mut clients = JoinSet::new();
    for share in shares {
        let world = world.clone();
        clients.spawn(async move {
            let mut ends = Vec::new();
            for how in share {
                ends.extend(world.end(how).await);
            }
            ends
        });
    }
    let mut ends = Vec::new();
    while let Some(more) = clients.join_next().await {
        ends.extend(more.unwrap_or_else(|error| panic!("SEED={seed}: {error}")));
    }
    assert_counted(&world.portolan, &ends, &format!("SEED={seed}")).await;
    let mut world = Arc::into_inner(world).unwrap();
    world.portolan.signal(Signal::SIGTERM);
    assert!(world.portolan.ended().await.success());
    assert_logged(&world.log, &ends, &format!("SEED={seed}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cut_when_the_process_ends_is_written_down() {
    for (settings, signal) in [
        ("shutdown_timeout: 300ms\n", Signal::SIGTERM),
        ("", Signal::SIGINT),
    ] {
        let mut world = World::start(settings).await;
        let _waiting = world
            .say(b"GET /sleep?ms=600000 HTTP/1.1\r\nHost: x\r\n\r\n")
            .await;
        let _half = world.say(b"GET /good HTTP/1.1\r\nHost:").await;
        let (mut send, connection) = http2(world.plain).await;
        let request = Request::get("http://x.example/sleep?ms=600000");
        let _stream = send.send_request(request.body(()).unwrap(), true).unwrap();
        let mut events = world
            .say(b"GET /events?count=1000000&ms=10 HTTP/1.1\r\nHost: x\r\n\r\n")
            .await;
        soon("the answer begins", events.readable()).await.unwrap();
        eventually("all are under way", async || {
            (counted(&world.portolan).await.0 == 4).then_some(())
        })
        .await;
        world.portolan.signal(signal);
        let mut rest = Vec::new();
        // A reset is an end, too.
        let _ = soon("it is cut", events.read_to_end(&mut rest)).await;
        assert!(world.portolan.ended().await.success());
        connection.abort();
        let stopped = ("refused", "stopped");
        let expected = [stopped, stopped, stopped, CUT_SHORT];
        assert_logged(&world.log, &expected, &format!("{signal}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_never_were_requests_have_a_line_all_the_same() {
    let mut world = World::start("").await;
    let said = raw(
        world.plain,
        b"GET / HTTP/1.1\r\nA: 1\r\nHost: x\r\nHost: y\r\n\r\n",
    )
    .await;
    let (_, body) = said.split_once("\r\n\r\n").unwrap();
    let told: serde_json::Value = serde_json::from_str(body).unwrap();
    drop(world.say(b"GET / HT").await);
    assert_counted(&world.portolan, &[("refused", "bad_host"), IN_HEAD], "both").await;
    world.portolan.signal(Signal::SIGTERM);
    assert!(world.portolan.ended().await.success());
    let text = std::fs::read_to_string(&world.log).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |status: u16| lines.iter().find(|line| line["status"] == status).unwrap();
    let refused = of(400);
    assert_eq!(refused["request_id"], told["request_id"], "{refused}");
    assert_eq!(refused["client"], "127.0.0.1");
    assert_eq!(refused["refused"], "bad_host");
    assert_eq!(refused["protocol"], "HTTP/1.1");
    let gone = of(0);
    assert_eq!(
        (&gone["outcome"], &gone["reason"], &gone["refused"]),
        (
            &"client_gone".into(),
            &"in_head".into(),
            &serde_json::Value::Null
        )
    );
    assert_eq!(gone["config"], refused["config"]);
    assert_ne!(gone["config"], "-");
}
