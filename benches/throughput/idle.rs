//! Connections that do nothing, and connections that do nearly nothing: what each of them keeps, and
//! what others notice of them.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::Either;
use portolan_control::clock::Clock;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::task::{JoinSet, LocalSet};

use crate::contest::{self, Endpoints, Runs, SETTLE, turns};
use crate::load::{self, Exchange, HOST, Kind};
use crate::peers::{Peer, Serving};
use crate::process::{Cores, Process};
use crate::tls::Connector;
use crate::{rate, report, role};

/// Connections that are held, each after one request.
const HELD: usize = 10_000;

/// Connections that send a byte now and then: one half in the middle of a head, the other one in the
/// middle of a body.
const SLOW: usize = 5_000;
const DRIP_EVERY: Duration = Duration::from_secs(1);

/// Requests a second that come beside them.
const BESIDE: u32 = 500;

/// How long they are measured. The others would be cut off after ten seconds.
const MEASURE: Duration = Duration::from_secs(4);

/// As many as a proxy needs to make whatever it makes only once.
const WARMING: usize = 64;

/// So many connections are opened at once.
const AT_ONCE: usize = 64;

/// Memory of connections that are held, over TCP and over TLS.
pub(crate) async fn compare_held(
    peers: &[&'static dyn Peer],
    rounds: usize,
    cores: &Cores,
) -> String {
    let names: Vec<&'static str> = peers.iter().map(|peer| peer.name()).collect();
    let mut runs = Runs::create("idle", &names);
    for round in 0..rounds {
        for at in turns(round, names.len()) {
            let plain = held(peers[at], false, cores).await;
            let tls = held(peers[at], true, cores).await;
            runs.add(
                at,
                json!({ "proxy": names[at], "round": round, "plain_kib": plain, "tls_kib": tls }),
            );
        }
    }
    let rows: Vec<[String; 3]> = (0..names.len())
        .map(|at| {
            [
                names[at].to_owned(),
                runs.show(at, "plain_kib", 1),
                runs.show(at, "tls_kib", 1),
            ]
        })
        .collect();
    report::table(
        [
            "proxy",
            "KiB per idle connection",
            "KiB per idle connection with TLS",
        ],
        &rows,
    )
}

/// KiB for each connection.
async fn held(peer: &'static dyn Peer, tls: bool, cores: &Cores) -> f64 {
    let endpoints = Endpoints::start(cores);
    let task = contest::task(&endpoints, tls, false);
    let serving = Serving::start(peer, &task, cores.proxy()).await;
    let to = contest::front(&task);
    let warmed = start("hold", to, WARMING, tls, cores);
    drop(warmed);
    tokio::time::sleep(SETTLE).await;
    let before = serving.process.memory();
    let _clients = start("hold", to, HELD, tls, cores);
    tokio::time::sleep(SETTLE).await;
    (serving.process.memory() - before) * 1024.0 / HELD as f64
}

/// Slow connections, and what requests beside them notice.
pub(crate) async fn compare_slow(
    peers: &[&'static dyn Peer],
    rounds: usize,
    cores: &Cores,
) -> String {
    let names: Vec<&'static str> = peers.iter().map(|peer| peer.name()).collect();
    let mut runs = Runs::create("slow", &names);
    for round in 0..rounds {
        for at in turns(round, names.len()) {
            let mut line = slow(peers[at], cores).await;
            line["proxy"] = json!(names[at]);
            line["round"] = json!(round);
            runs.add(at, line);
        }
    }
    let rows: Vec<[String; 6]> = (0..names.len())
        .map(|at| {
            [
                names[at].to_owned(),
                runs.show(at, "kib", 1),
                runs.show(at, "lost", 0),
                runs.show(at, "p50_ms", 2),
                runs.show(at, "p99_ms", 2),
                runs.show(at, "core_busy", 3),
            ]
        })
        .collect();
    report::table(
        [
            "proxy",
            "KiB per slow connection",
            "failed beside them",
            "p50 ms",
            "p99 ms",
            "core busy",
        ],
        &rows,
    )
}

async fn slow(peer: &'static dyn Peer, cores: &Cores) -> Value {
    let endpoints = Endpoints::start(cores);
    let task = contest::task(&endpoints, false, true);
    let serving = Serving::start(peer, &task, cores.proxy()).await;
    drop(start("hold", task.listen, WARMING, false, cores));
    tokio::time::sleep(SETTLE).await;
    let memory = serving.process.memory();
    let _dripping = start("drip", task.listen, SLOW, false, cores);
    let mut beside = rate::start(task.listen, BESIDE, DRIP_EVERY, MEASURE, cores);
    beside.line();
    let (clock, cpu) = (Clock::start(), serving.process.cpu());
    let mut line: Value = serde_json::from_str(&beside.line()).expect("what they saw");
    let seconds = clock.now().since_start().as_secs_f64();
    line["core_busy"] = json!((serving.process.cpu() - cpu) / seconds);
    line["kib"] = json!((serving.process.memory() - memory) * 1024.0 / SLOW as f64);
    line
}

/// Starts clients, and waits until they have all their connections.
fn start(name: &str, to: SocketAddr, count: usize, tls: bool, cores: &Cores) -> Process {
    let mut clients = Process::start(
        role(name).args([to.to_string(), count.to_string(), tls.to_string()]),
        cores.others(),
    );
    assert_eq!(clients.line(), "open");
    clients
}

/// Opens connections, asks for something on each of them, and holds them.
pub(crate) async fn hold(to: SocketAddr, count: usize, tls: bool) {
    let request = &load::requests(Kind::Small, &(0..0), 1)[0];
    let connector = Connector::new(b"http/1.1", false);
    let opening = async |_| {
        let mut exchange = Exchange::of(Kind::Small);
        let mut stream = load::connect(to).await;
        if !tls {
            exchange.run(&mut stream, request).await;
            return Either::Left(stream);
        }
        let stream = connector.connect(stream).await;
        let mut stream = stream.expect("a handshake");
        exchange.run(&mut stream, request).await;
        Either::Right(stream)
    };
    let opened = futures_util::stream::iter(0..count).map(opening);
    let _held: Vec<_> = opened.buffer_unordered(AT_ONCE).collect().await;
    load::say("open");
    std::future::pending::<()>().await;
}

/// Opens connections, begins a request on each of them, and goes on with it byte by byte.
pub(crate) async fn drip(to: SocketAddr, count: usize) {
    let local = LocalSet::new();
    let mut clients = JoinSet::new();
    for number in 0..count {
        clients.spawn_local_on(drop_by_drop(to, number), &local);
    }
    let all = async {
        // They are open before the first drop falls, or the machine is too slow for any of this.
        tokio::time::sleep(DRIP_EVERY).await;
        load::say("open");
        std::future::pending::<()>().await;
    };
    local.run_until(all).await;
}

/// One of them, until the proxy has enough of it.
async fn drop_by_drop(to: SocketAddr, number: usize) {
    let mut stream = load::connect(to).await;
    let begin = if number.is_multiple_of(2) {
        format!("GET /v1/items HTTP/1.1\r\nhost: {HOST}\r\nx-slow: ")
    } else {
        format!("POST /v1/items HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 10000\r\n\r\n")
    };
    let mut sent = stream.write_all(begin.as_bytes()).await;
    while sent.is_ok() {
        tokio::time::sleep(DRIP_EVERY).await;
        sent = stream.write_all(b"x").await;
    }
}
