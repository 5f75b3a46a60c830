//! The head of the answer was passed on: nothing is tried again, and the client sees either the whole
//! answer or a clean end of what it cannot have.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use http::{Method, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{Papers, behind};
use crate::harness::client::{Connection, Connection2, Failure};
use crate::harness::config::{LISTENER, pool};
use crate::harness::saboteur::{HALF, Rest, Sabotage, Saboteur, WHOLE};
use crate::harness::{Ask, Origin, Portolan, Rogue, RogueEndpoint, Wire, soon};

struct Case {
    /// Its pool, its path and its route.
    name: &'static str,
    rest: Rest,
    /// What its pool says besides.
    pool: &'static str,
    /// The body that the client gets, or nothing: it is cut off.
    whole: Option<&'static str>,
}

fn cases(wire: Wire) -> Vec<Case> {
    let cut = |name, rest| Case {
        name,
        rest,
        pool: "",
        whole: None,
    };
    let mut cases = vec![
        cut("close", Rest::Close),
        cut("reset", Rest::Reset),
        Case {
            pool: ", timeouts: { idle: 400ms }",
            ..cut("nothing", Rest::Nothing)
        },
        // Slower in all than `idle`, but never silent for so long.
        Case {
            pool: ", timeouts: { idle: 1s }",
            whole: Some(WHOLE),
            ..cut("drip", Rest::Drip(Duration::from_millis(250)))
        },
        Case {
            // HTTP/1.1 has no way to tell: what was announced is the answer, and what follows is
            // nobody's.
            whole: (!wire.is_http2()).then_some(HALF),
            ..cut("too-much", Rest::TooMuch)
        },
    ];
    if wire.is_http2() {
        cases.push(cut("end", Rest::End));
        cases.push(cut("cancel", Rest::Cancel));
    }
    cases
}

/// A client of either version.
enum Client {
    One(Connection),
    Two(Connection2),
}

impl Client {
    async fn begin(&mut self, ask: Ask) -> Response<Incoming> {
        match self {
            Self::One(one) => one.begin(ask).await,
            Self::Two(two) => two.begin(ask).await,
        }
    }
}

async fn nothing_is_begun_again(wire: Wire) {
    let papers = Papers::new();
    let good = Origin::start("good").await;
    let mut saboteurs = Vec::new();
    let mut pools = String::new();
    let mut routes = String::new();
    for case in cases(wire) {
        let how = Sabotage::Half(case.rest);
        let saboteur = Saboteur::start(wire, how, &papers.identity).await;
        let name = case.name;
        pools += &pool(
            name,
            &[saboteur.address],
            &format!("{}{}", wire.pool(), case.pool),
        );
        routes +=
            &format!("  - {{ name: {name}, path: /{name}, to: {{ tiers: [ {name}, good ] }} }}\n");
        saboteurs.push((case, saboteur));
    }
    let config = [
        LISTENER,
        "defaults: { health: off, outlier: off }\npools:\n",
        &pools,
        &pool("good", &[good.address], ""),
        "routes:\n",
        &routes,
        "  - { to: good }\n",
    ]
    .concat();
    let portolan = papers.portolan(&config).start().await;
    let address = portolan.address().await;
    join_all(saboteurs.iter().map(async |(case, saboteur)| {
        for method in [Method::GET, Method::POST] {
            for version in [1, 2] {
                let what = format!("{wire:?}, {}: {method} by HTTP/{version}", case.name);
                let ask = Ask::new(method.clone(), &format!("/{}", case.name));
                let ask = match method {
                    Method::GET => ask,
                    _ => ask.body("once"),
                };
                let mut client = match version {
                    1 => Client::One(Connection::open(address).await.unwrap()),
                    _ => Client::Two(Connection2::open(address).await.unwrap()),
                };
                let answer = soon(&what, client.begin(ask)).await;
                assert_eq!(answer.status(), 200, "{what}");
                assert_eq!(answer.headers()["x-origin"], "bad", "{what}");
                saboteur.go_on();
                let body = soon(&what, answer.into_body().collect()).await;
                match (case.whole, body) {
                    (Some(whole), Ok(body)) => assert_eq!(body.to_bytes(), whole, "{what}"),
                    (None, Err(_)) => {}
                    (_, body) => panic!("{what}: {body:?}"),
                }
                // Others on the same connection are not touched by it.
                if version == 2 || case.whole.is_some() {
                    let next = soon(&what, client.begin(Ask::get("/"))).await;
                    assert_eq!(next.headers()["x-origin"], "good", "{what}");
                    let body = soon(&what, next.into_body().collect()).await.unwrap();
                    assert_eq!(body.to_bytes(), "good", "{what}");
                }
            }
        }
    }))
    .await;
    let mut others = 0.0;
    for (case, _) in &saboteurs {
        let what = format!("{wire:?}, {}", case.name);
        let pool = format!("pool=\"{}\"", case.name);
        // The try was answered; that the answer broke off counts against the endpoint besides.
        let tries = "portolan_upstream_tries_total";
        portolan.wait_for_metric(tries, &[&pool], 4.0).await;
        let answered = portolan.metric(tries, &[&pool, "answered"]).await;
        assert_eq!(answered, 4.0, "{what}");
        let route = format!("route=\"{}\"", case.name);
        let retries = portolan.metric("portolan_retries_total", &[&route]).await;
        assert_eq!(retries, 0.0, "{what}");
        others += if case.whole.is_some() { 4.0 } else { 2.0 };
    }
    assert_eq!(good.hits() as f64, others, "{wire:?}");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_begun_again_over_http1() {
    nothing_is_begun_again(Wire::Http1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_begun_again_over_http1_by_tls() {
    nothing_is_begun_again(Wire::Tls1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_begun_again_over_http2() {
    nothing_is_begun_again(Wire::H2c).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_begun_again_over_http2_by_tls() {
    nothing_is_begun_again(Wire::Tls2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_has_begun_is_never_begun_again() {
    let good = Origin::start("good").await;
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_vec();
    let rogue = RogueEndpoint::start(Rogue::Say(half)).await;
    let portolan = behind(rogue.address, &good, "", "").await;
    let address = portolan.address().await;
    let mut connection = Connection::open(address).await.unwrap();
    let cut: Result<_, Failure> = connection.ask(Ask::get("/")).await;
    assert!(cut.is_err(), "{cut:?}");
    assert_eq!(good.hits(), 0);
}

/// Says the head and half of an answer, and is gone: both may be there before anybody has read the first.
async fn half_and_gone(resets: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    if stream.read_buf(&mut asked).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let half = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345";
                let _ = stream.write_all(half).await;
                if resets {
                    let _ = stream.set_zero_linger();
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_answered_in_part_sees_that_part() {
    for resets in [false, true] {
        let config = [
            LISTENER,
            "defaults: { health: off, outlier: off }\npools:\n",
            &pool("half", &[half_and_gone(resets).await], ""),
            "routes: [ { to: half } ]\n",
        ]
        .concat();
        let portolan = Portolan::start(&config).await;
        let address = portolan.address().await;
        let ask = async |_| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = b"GET / HTTP/1.1\r\nhost: x.example\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut answer = Vec::new();
            // It ends too early, one way or the other.
            let _ = stream.read_to_end(&mut answer).await;
            answer
        };
        for _ in 0..40 {
            for answer in soon("answers", join_all((0..16).map(ask))).await {
                let answer = String::from_utf8_lossy(&answer);
                // The system takes back what a connection has brought that was reset.
                let refused = answer.starts_with("HTTP/1.1 502 ") && resets;
                let begun = answer.starts_with("HTTP/1.1 200 ") && !answer.ends_with("1234567890");
                assert!(begun || refused, "{resets}: {answer:?}");
            }
        }
        portolan.stop().await;
    }
}
