//! Clients that do as little as they can: a request, its answer, and the next one.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use portolan_control::clock::Clock;
use rustls::HandshakeKind;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

use crate::h2;
use crate::origin::{self, LARGE, LARGE_PATH, SMALL};
use crate::tls::Connector;

/// The host that clients ask for.
pub(crate) const HOST: &str = "bench.test";

/// One of the hosts that have routes of their own.
pub(crate) fn host(number: usize) -> String {
    format!("h{number}.example.com")
}

/// Paths and clients that a connection asks for, in turn.
const REQUESTS: usize = 512;

/// What is read at once.
const BUFFER: usize = 256 * 1024;

/// What clients do, by the name that it has on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One request after another on a connection that is kept.
    Small,
    /// The same with answers of 1 MiB.
    Down,
    /// The same with requests of 1 MiB.
    Up,
    /// A connection, and a full handshake, for every request.
    Handshakes,
    /// The same, coming back to the session of the one before.
    Resumed,
    /// Ten requests at once on every connection, by HTTP/2.
    H2,
}

impl Kind {
    const ALL: [(&'static str, Self); 6] = [
        ("small", Self::Small),
        ("down", Self::Down),
        ("up", Self::Up),
        ("handshakes", Self::Handshakes),
        ("resumed", Self::Resumed),
        ("h2", Self::H2),
    ];

    pub(crate) fn name(self) -> &'static str {
        let mut all = Self::ALL.iter();
        let named = all.find(|(_, kind)| *kind == self);
        named.expect("every kind has a name").0
    }

    pub(crate) fn of_name(name: &str) -> Self {
        let mut all = Self::ALL.iter();
        let named = all.find(|(its, _)| *its == name);
        named.expect("a kind of load").1
    }
}

/// What a load is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    /// The hosts with routes of their own that clients ask for, or [`HOST`] if there are none.
    pub(crate) hosts: Range<usize>,
    pub(crate) to: SocketAddr,
    pub(crate) tls: bool,
    pub(crate) connections: usize,
    pub(crate) warm_up: Duration,
    pub(crate) measure: Duration,
}

/// What is seen while it is measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally(Rc<RefCell<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    /// How long every answer took.
    took: Vec<Duration>,
    /// Sessions that were gone on with.
    resumed: usize,
}

impl Tally {
    pub(crate) fn add(&self, took: Duration) {
        self.0.borrow_mut().took.push(took);
    }
}

/// Sends requests, and says `measuring` when it is warm and what it saw when it is done.
pub(crate) async fn run(plan: Plan) {
    let clock = Clock::start();
    let tally = Tally::default();
    let measuring = async {
        tokio::time::sleep(plan.warm_up).await;
        say("measuring");
        let began = clock.now();
        tally.0.take();
        tokio::time::sleep(plan.measure).await;
        (clock.now().since(began), tally.0.take())
    };
    let local = LocalSet::new();
    let mut clients = JoinSet::new();
    for seed in 0..plan.connections {
        let client = client(plan.clone(), seed as u64, clock, tally.clone());
        clients.spawn_local_on(client, &local);
    }
    let (span, seen) = local
        .run_until(async {
            tokio::select! {
                measured = measuring => measured,
                // Fewer clients than asked for would measure something else.
                ended = clients.join_next() => panic!("a client has ended: {ended:?}"),
            }
        })
        .await;
    let mut line = told(seen.took, span);
    line["resumed"] = json!(seen.resumed);
    say(&line.to_string());
}

/// What whoever started this reads.
pub(crate) fn told(mut took: Vec<Duration>, span: Duration) -> Value {
    took.sort_unstable();
    let quantile = |of_thousand: usize| {
        let at = took.len() * of_thousand / 1000;
        took.get(at).map_or(0.0, |took| took.as_secs_f64() * 1e3)
    };
    json!({
        "requests": took.len(),
        "seconds": span.as_secs_f64(),
        "p50_ms": quantile(500),
        "p99_ms": quantile(990),
        "p999_ms": quantile(999),
    })
}

#[expect(clippy::print_stdout, reason = "whoever started this waits for it")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

/// The requests of one client, each a path and an address of its own.
pub(crate) fn requests(kind: Kind, hosts: &Range<usize>, seed: u64) -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let (method, path, length) = match kind {
        Kind::Small | Kind::Handshakes | Kind::Resumed | Kind::H2 => ("GET", "/v1/items", ""),
        Kind::Down => ("GET", LARGE_PATH, ""),
        Kind::Up => ("POST", "/v1/items", "content-length: 1048576\r\n"),
    };
    (0..REQUESTS)
        .map(|_| {
            let item = random.u16(..);
            let host = match hosts.is_empty() {
                true => HOST.to_owned(),
                false => host(random.usize(hosts.clone())),
            };
            // Clients from all over the world.
            let from = Ipv4Addr::from_bits(random.u32(0x0100_0000..0xE000_0000));
            format!(
                "{method} {path}/{item} HTTP/1.1\r\nhost: {host}\r\nuser-agent: load\r\n\
                 accept: */*\r\nx-forwarded-for: {from}\r\n{length}\r\n"
            )
            .into_bytes()
        })
        .collect()
}

/// One client, until nobody waits for it any more. Ends only by a panic.
async fn client(plan: Plan, seed: u64, clock: Clock, tally: Tally) {
    let requests = requests(plan.kind, &plan.hosts, seed);
    let mut exchange = Exchange::of(plan.kind);
    match plan.kind {
        Kind::H2 => {
            let stream = connect(plan.to).await;
            let stream = Connector::new(b"h2", false).connect(stream).await;
            h2::converse(stream.expect("a handshake"), seed, clock, &tally).await;
        }
        Kind::Handshakes | Kind::Resumed => {
            let connector = Connector::new(b"http/1.1", plan.kind == Kind::Resumed);
            for request in requests.iter().cycle() {
                let began = clock.now();
                let stream = connector.connect(connect(plan.to).await).await;
                let mut stream = stream.expect("a handshake");
                exchange.run(&mut stream, request).await;
                let kind = stream.get_ref().1.handshake_kind();
                tally.add(clock.now().since(began));
                tally.0.borrow_mut().resumed += usize::from(kind == Some(HandshakeKind::Resumed));
            }
        }
        Kind::Small | Kind::Down | Kind::Up if plan.tls => {
            let stream = connect(plan.to).await;
            let stream = Connector::new(b"http/1.1", false).connect(stream).await;
            let mut stream = stream.expect("a handshake");
            keep_asking(&mut stream, &mut exchange, &requests, clock, &tally).await;
        }
        Kind::Small | Kind::Down | Kind::Up => {
            let mut stream = connect(plan.to).await;
            keep_asking(&mut stream, &mut exchange, &requests, clock, &tally).await;
        }
    }
}

pub(crate) async fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).await.expect("a connection");
    stream.set_nodelay(true).expect("an open connection");
    stream
}

async fn keep_asking<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    exchange: &mut Exchange,
    requests: &[Vec<u8>],
    clock: Clock,
    tally: &Tally,
) {
    for request in requests.iter().cycle() {
        let began = clock.now();
        exchange.run(stream, request).await;
        tally.add(clock.now().since(began));
    }
}

/// A request and its answer.
pub(crate) struct Exchange {
    /// What follows the head of a request.
    body: Vec<u8>,
    /// Bytes of the answer's body.
    expected: usize,
    read: Vec<u8>,
}

impl Exchange {
    pub(crate) fn of(kind: Kind) -> Self {
        let (body, expected) = match kind {
            Kind::Small | Kind::Handshakes | Kind::Resumed | Kind::H2 => (0, SMALL),
            Kind::Down => (0, LARGE),
            Kind::Up => (LARGE, SMALL),
        };
        Self {
            body: vec![b'x'; body],
            expected,
            read: Vec::with_capacity(BUFFER.min(expected + 4096)),
        }
    }

    /// # Panics
    /// When it is not the answer that the endpoints give.
    pub(crate) async fn run<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        request: &[u8],
    ) {
        stream.write_all(request).await.expect("a request is taken");
        stream.write_all(&self.body).await.expect("a body is taken");
        stream.flush().await.expect("a request is taken");
        self.read.clear();
        let head = loop {
            let read = stream.read_buf(&mut self.read).await.expect("an answer");
            assert!(read > 0, "closed in the middle of an answer");
            if let Some(end) = origin::end_of_head(&self.read) {
                break end;
            }
        };
        assert!(
            self.read.starts_with(b"HTTP/1.1 200 "),
            "another answer: {}",
            String::from_utf8_lossy(&self.read[..head])
        );
        let mut body = self.read.len() - head;
        while body < self.expected {
            self.read.clear();
            let read = stream.read_buf(&mut self.read).await.expect("an answer");
            assert!(read > 0, "closed in the middle of an answer");
            body += read;
        }
        assert!(body == self.expected, "more than the answer");
    }
}
