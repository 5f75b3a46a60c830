//! Clients that do as little as they can: a request, its answer, and the next one.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use portolan_control::clock::Clock;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

use crate::estate;
use crate::origin::BODY;
use crate::proxies::ROUTES;

/// Hosts and clients that a connection asks for, in turn.
const REQUESTS: usize = 512;

/// Sends requests, and says `measuring` when it is warm and what it saw when it is done.
pub(crate) async fn run(
    listen: SocketAddr,
    connections: u64,
    warm_up: Duration,
    measure: Duration,
) {
    let clock = Clock::start();
    let took: Rc<RefCell<Vec<Duration>>> = Rc::default();
    let measuring = async {
        tokio::time::sleep(warm_up).await;
        println!("measuring");
        let began = clock.now();
        took.borrow_mut().clear();
        tokio::time::sleep(measure).await;
        (clock.now().since(began), took.take())
    };
    let local = LocalSet::new();
    let mut clients = JoinSet::new();
    for seed in 0..connections {
        clients.spawn_local_on(client(listen, seed, clock, took.clone()), &local);
    }
    let (span, mut took) = local
        .run_until(async {
            tokio::select! {
                measured = measuring => measured,
                // Fewer clients than asked for would measure something else.
                ended = clients.join_next() => panic!("a client has ended: {ended:?}"),
            }
        })
        .await;
    took.sort_unstable();
    let quantile = |of_thousand: usize| {
        let at = took.len() * of_thousand / 1000;
        took.get(at).map_or(0.0, |took| took.as_secs_f64() * 1e3)
    };
    println!(
        "{}",
        json!({
            "requests": took.len(),
            "seconds": span.as_secs_f64(),
            "p50_ms": quantile(500),
            "p99_ms": quantile(990),
        })
    );
}

/// One client, until nobody waits for it any more. Ends only by a panic.
async fn client(listen: SocketAddr, seed: u64, clock: Clock, took: Rc<RefCell<Vec<Duration>>>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let requests: Vec<Vec<u8>> = (0..REQUESTS)
        .map(|_| {
            format!(
                "GET /v1/items/{} HTTP/1.1\r\nhost: {}\r\nuser-agent: load\r\naccept: */*\r\n\
                 x-forwarded-for: {}\r\n\r\n",
                random.u16(..),
                estate::host(random.usize(..ROUTES)),
                Ipv4Addr::from_bits(random.u32(0x0100_0000..0xE000_0000)),
            )
            .into_bytes()
        })
        .collect();
    let mut stream = TcpStream::connect(listen).await.expect("a connection");
    stream.set_nodelay(true).expect("an open connection");
    let mut answer = Vec::with_capacity(4096);
    for request in requests.iter().cycle() {
        let began = clock.now();
        stream.write_all(request).await.expect("a request is taken");
        answer.clear();
        while !is_whole(&answer) {
            let read = stream.read_buf(&mut answer).await.expect("an answer");
            assert!(read > 0, "closed in the middle of an answer");
        }
        took.borrow_mut().push(clock.now().since(began));
    }
}

/// Whether this is all of an answer.
///
/// # Panics
/// When it is not the answer that the endpoints give.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return false;
    };
    assert!(
        answer.starts_with(b"HTTP/1.1 200 "),
        "another answer: {}",
        String::from_utf8_lossy(answer)
    );
    let body = answer.len() - end - 4;
    assert!(body <= BODY, "more than the answer");
    body == BODY
}
