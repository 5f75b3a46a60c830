//! Clients that do as little as they can: a request, its answer, and the next one.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use portolan_control::clock::Clock;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

use crate::origin::{self, LARGE, LARGE_PATH, SMALL};

/// The host that clients ask for.
pub(crate) const HOST: &str = "bench.test";

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
}

impl Kind {
    const ALL: [(&'static str, Self); 3] = [
        ("small", Self::Small),
        ("down", Self::Down),
        ("up", Self::Up),
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
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    pub(crate) to: SocketAddr,
    pub(crate) connections: usize,
    pub(crate) warm_up: Duration,
    pub(crate) measure: Duration,
}

/// What was seen while it was measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// How long every answer took.
    pub(crate) took: Vec<Duration>,
}

/// Sends requests, and says `measuring` when it is warm and what it saw when it is done.
pub(crate) async fn run(plan: Plan) {
    let clock = Clock::start();
    let seen: Rc<RefCell<Seen>> = Rc::default();
    let measuring = async {
        tokio::time::sleep(plan.warm_up).await;
        say("measuring");
        let began = clock.now();
        *seen.borrow_mut() = Seen::default();
        tokio::time::sleep(plan.measure).await;
        (clock.now().since(began), seen.take())
    };
    let local = LocalSet::new();
    let mut clients = JoinSet::new();
    for seed in 0..plan.connections {
        clients.spawn_local_on(client(plan, seed as u64, clock, seen.clone()), &local);
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
    say(&told(seen, span).to_string());
}

/// What whoever started this reads.
pub(crate) fn told(mut seen: Seen, span: Duration) -> Value {
    let took = &mut seen.took;
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
pub(crate) fn requests(kind: Kind, seed: u64) -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let (method, path, length) = match kind {
        Kind::Small => ("GET", "/v1/items", ""),
        Kind::Down => ("GET", LARGE_PATH, ""),
        Kind::Up => ("POST", "/v1/items", "content-length: 1048576\r\n"),
    };
    (0..REQUESTS)
        .map(|_| {
            let item = random.u16(..);
            // Clients from all over the world.
            let from = Ipv4Addr::from_bits(random.u32(0x0100_0000..0xE000_0000));
            format!(
                "{method} {path}/{item} HTTP/1.1\r\nhost: {HOST}\r\nuser-agent: load\r\n\
                 accept: */*\r\nx-forwarded-for: {from}\r\n{length}\r\n"
            )
            .into_bytes()
        })
        .collect()
}

/// One client, until nobody waits for it any more. Ends only by a panic.
async fn client(plan: Plan, seed: u64, clock: Clock, seen: Rc<RefCell<Seen>>) {
    let requests = requests(plan.kind, seed);
    let mut exchange = Exchange::of(plan.kind);
    let stream = TcpStream::connect(plan.to).await.expect("a connection");
    stream.set_nodelay(true).expect("an open connection");
    let mut stream = stream;
    for request in requests.iter().cycle() {
        let began = clock.now();
        exchange.run(&mut stream, request).await;
        seen.borrow_mut().took.push(clock.now().since(began));
    }
}

/// A request and its answer.
struct Exchange {
    /// What follows the head of a request.
    body: Vec<u8>,
    /// Bytes of the answer's body.
    expected: usize,
    read: Vec<u8>,
}

impl Exchange {
    fn of(kind: Kind) -> Self {
        let (body, expected) = match kind {
            Kind::Small => (0, SMALL),
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
    async fn run<S: AsyncRead + AsyncWrite + Unpin>(&mut self, stream: &mut S, request: &[u8]) {
        stream.write_all(request).await.expect("a request is taken");
        stream.write_all(&self.body).await.expect("a body is taken");
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
