//! Connections that are kept for later: of an endpoint that was ejected or unhealthy, none of before
//! is used again, for it may be dead without a word. And no request is lost with one that its endpoint
//! closes in that moment.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use http::Method;

use super::Papers;
use crate::harness::client::{Answer, Connection};
use crate::harness::config::{LISTENER, pool};
use crate::harness::keeper::{Habits, Keeper};
use crate::harness::relay::Relay;
use crate::harness::{Ask, Load, Origin, Portolan, Wire, eventually, soon};

/// How requests get there.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// By the direct exchange.
    Direct,
    /// Nothing of them is kept for another try, so by the engine's loop.
    Loop,
}

impl Way {
    fn ask(self, path: &str) -> Ask {
        match self {
            Self::Direct => Ask::get(path),
            Self::Loop => Ask::new(Method::PUT, path).body("once"),
        }
    }

    /// What its route says, after a comma.
    fn route(self) -> &'static str {
        match self {
            Self::Direct => "",
            Self::Loop => ", retry: { max_body: 1B }",
        }
    }
}

/// An endpoint behind a relay, with connections that are kept.
async fn with_kept_connections(
    papers: &Papers,
    wire: Wire,
    way: Way,
    rest: &str,
) -> (Portolan, Origin, Origin, Relay) {
    let origin = wire.origin("a", &papers.identity).await;
    let other = Origin::start("b").await;
    let relay = Relay::start(origin.address).await;
    let config = [
        LISTENER,
        "pools:\n",
        &pool("a", &[relay.address], &format!("{}{rest}", wire.pool())),
        &pool("b", &[other.address], ", health: off"),
        &format!(
            "routes: [ {{ to: {{ tiers: [ a, b ] }}, expose: true{} }} ]\n",
            way.route()
        ),
    ]
    .concat();
    let portolan = papers.portolan(&config).start().await;
    let address = portolan.address().await;
    let asking = (0..8).map(|_| way.ask("/sleep?ms=200").to(address));
    for answer in join_all(asking).await {
        assert_eq!(answer.unwrap().origin(), "a");
    }
    let kept = if wire.is_http2() { 1 } else { 8 };
    assert!(relay.passing() >= kept, "{} are kept", relay.passing());
    (portolan, origin, other, relay)
}

/// It is back: requests get there, and none of them waits for a connection from before. (One that
/// may be repeated would be rescued; one that may not would be lost.)
async fn nobody_waits(portolan: &Portolan, relay: &Relay, wire: Wire, way: Way, what: &str) {
    let address = portolan.address().await;
    let before = relay.swallowed();
    let mut served = 0;
    eventually(&format!("{what}: it serves"), async || {
        for ask in [Ask::get("/"), Ask::new(Method::POST, "/").body("once")] {
            let post = soon(what, ask.to(address)).await.unwrap();
            assert_eq!(post.status, 200, "{what}");
            served += u64::from(post.origin() == "a");
        }
        (served >= 20).then_some(())
    })
    .await;
    if !wire.is_http2() {
        assert_eq!(relay.swallowed(), before, "{what}: sent into the dark");
    }
    if way == Way::Direct {
        eventually(&format!("{what}: what was kept is closed"), async || {
            (relay.swallowing() == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unhealthy_endpoint_comes_back_with_new_connections() {
    let papers = Papers::new();
    let all = Wire::ALL.map(|wire| [(wire, Way::Direct), (wire, Way::Loop)]);
    join_all(all.into_iter().flatten().map(async |(wire, way)| {
        let what = format!("{wire:?}, {way:?}");
        let rest = ", outlier: off, health: { http: /health, every: 100ms, timeout: 500ms, down_after: 2, up_after: 2 }";
        let (portolan, _origin, _other, relay) =
            with_kept_connections(&papers, wire, way, rest).await;
        portolan.wait_for_health("a", relay.address, "healthy").await;
        relay.nightfall();
        portolan.wait_for_health("a", relay.address, "unhealthy").await;
        assert!(relay.swallowing() > 0, "{what}: some are kept");
        relay.dawn();
        portolan.wait_for_health("a", relay.address, "healthy").await;
        nobody_waits(&portolan, &relay, wire, way, &what).await;
        portolan.stop().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ejected_endpoint_comes_back_with_new_connections() {
    let papers = Papers::new();
    let all = Wire::ALL.map(|wire| [(wire, Way::Direct), (wire, Way::Loop)]);
    join_all(all.into_iter().flatten().map(async |(wire, way)| {
        let what = format!("{wire:?}, {way:?}");
        // `first_byte` is the direct exchange's, `idle` the loop's.
        let rest = ", health: off, outlier: { consecutive_failures: 3, eject_for: 1s, max_ejected: 100% }, timeouts: { first_byte: 2s, idle: 2s }";
        let (portolan, _origin, _other, relay) =
            with_kept_connections(&papers, wire, way, rest).await;
        relay.nightfall();
        let load = Load::start(portolan.address().await, 3, move || way.ask("/"));
        portolan.wait_for_health("a", relay.address, "ejected").await;
        let tally = load.stop().await;
        assert!(tally.failures.is_empty(), "{what}: {:?}", tally.failures);
        relay.dawn();
        nobody_waits(&portolan, &relay, wire, way, &what).await;
        portolan.stop().await;
    }))
    .await;
}

/// What is spoken to endpoints that close connections.
const ONE: [Wire; 2] = [Wire::Http1, Wire::Tls1];

/// A pool of this endpoint; `rest` is what else it has, each after a comma.
async fn in_front_of(papers: &Papers, wire: Wire, endpoint: SocketAddr, rest: &str) -> Portolan {
    let config = [
        LISTENER,
        "defaults: { health: off, outlier: off }\npools:\n",
        &pool("a", &[endpoint], &format!("{}{rest}", wire.pool())),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    papers.portolan(&config).start().await
}

async fn ask(portolan: &Portolan, ask: Ask) -> Answer {
    let address = portolan.address().await;
    let answer = soon("an answer", ask.to(address)).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer
}

/// Over which of the endpoint's connections this is answered.
async fn connection(portolan: &Portolan, request: Ask) -> String {
    ask(portolan, request)
        .await
        .header("x-connection")
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_when_its_time_is_over() {
    let papers = Papers::new();
    let says = |says: &str| Some(says.to_owned());
    for (said, rest) in [
        (None, ", timeouts: { keep_alive: 2s }"),
        // As Node.js says it, and Apache.
        (says("timeout=4"), ""),
        (says("max=99, timeout=3"), ""),
        // The shorter one counts.
        (says("timeout=3600"), ", timeouts: { keep_alive: 2s }"),
        (says("timeout=4"), ", timeouts: { keep_alive: 1h }"),
    ] {
        join_all(ONE.map(async |wire| {
            let what = format!("{wire:?}, {said:?}{rest}");
            let habits = Habits {
                says: said.clone(),
                ..Habits::default()
            };
            let keeper = Keeper::start(wire, &papers.identity, habits).await;
            let portolan = in_front_of(&papers, wire, keeper.address, rest).await;
            for way in [Way::Direct, Way::Loop] {
                ask(&portolan, way.ask("/")).await;
            }
            eventually(&format!("{what}: all are closed"), async || {
                (keeper.left() == keeper.accepted()).then_some(())
            })
            .await;
            assert_eq!(ask(&portolan, Ask::get("/")).await.status, 200, "{what}");
            portolan.stop().await;
        }))
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_kept_at_all_is_closed_at_once() {
    let papers = Papers::new();
    for (says, rest) in [
        (Some("timeout=0"), ""),
        (Some("timeout=1"), ""),
        (None, ", timeouts: { keep_alive: 0s }"),
    ] {
        join_all(ONE.map(async |wire| {
            let habits = Habits {
                says: says.map(str::to_owned),
                ..Habits::default()
            };
            let keeper = Keeper::start(wire, &papers.identity, habits).await;
            let portolan = in_front_of(&papers, wire, keeper.address, rest).await;
            for request in 0..4 {
                let over = connection(&portolan, Ask::get("/")).await;
                assert_eq!(over, request.to_string(), "{wire:?} {says:?}{rest}");
            }
            portolan.stop().await;
        }))
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_repeated_has_a_connection_that_was_used_a_moment_ago() {
    let papers = Papers::new();
    join_all(ONE.map(async |wire| {
        let keeper = Keeper::start(wire, &papers.identity, Habits::default()).await;
        let portolan = in_front_of(&papers, wire, keeper.address, "").await;
        // Each worker keeps its own connections, and one client stays with one worker.
        let client = Connection::open(portolan.address().await).await.unwrap();
        let client = tokio::sync::Mutex::new(client);
        let over = async |request: Ask| {
            let mut client = client.lock().await;
            let answer = soon("an answer", client.ask(request)).await.unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
            answer.header("x-connection").to_owned()
        };
        let post = || Ask::new(Method::POST, "/").body("once");
        let aged = async || tokio::time::sleep(Duration::from_millis(1_100)).await;
        assert_eq!(over(Ask::get("/")).await, "0");
        let unsafe_ones = [
            post(),
            Ask::new(Method::PATCH, "/").body("once"),
            Ask::new(Method::POST, "/"),
        ];
        for (count, request) in unsafe_ones.into_iter().enumerate() {
            // Those that are there may be closed by now, for all that is known.
            aged().await;
            assert_eq!(over(request).await, (count + 1).to_string(), "{wire:?}");
        }
        for safe in [
            Ask::get("/"),
            Ask::new(Method::DELETE, "/"),
            post().header("idempotency-key", "7"),
        ] {
            // What can be repeated takes the one that was used last.
            aged().await;
            assert_eq!(over(safe).await, "3", "{wire:?}");
        }
        assert_eq!(keeper.left(), 0, "none is closed for it");
        // One right after the other they share a connection.
        eventually("a POST follows a POST over one connection", async || {
            let first = over(post()).await;
            (over(post()).await == first).then_some(())
        })
        .await;
        portolan.stop().await;
    }))
    .await;
}

/// So many clients each send a request, wait for about so long, and send the next one.
async fn now_and_then(
    address: SocketAddr,
    clients: u32,
    rounds: u32,
    pause: Duration,
    ask: impl Fn() -> Ask + Copy,
) -> Vec<u16> {
    let client = async |number: u32| {
        let mut statuses = Vec::new();
        for round in 0..=rounds {
            if round > 0 {
                // Some a little sooner than that, and some a little later.
                let jitter = Duration::from_millis(400) * number / clients;
                tokio::time::sleep(pause - Duration::from_millis(200) + jitter).await;
            }
            let answer = soon("an answer", ask().to(address)).await.unwrap();
            statuses.push(answer.status);
        }
        statuses
    };
    join_all((0..clients).map(client)).await.concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_with_a_connection_that_its_endpoint_closes() {
    let papers = Papers::new();
    let limit = Duration::from_secs(3);
    let cases = ONE.map(|wire| [None, Some("timeout=3")].map(|says| (wire, says)));
    join_all(cases.into_iter().flatten().map(async |(wire, says)| {
        let habits = Habits {
            says: says.map(str::to_owned),
            closes_after: Some(limit),
            pieces: None,
        };
        let keeper = Keeper::start(wire, &papers.identity, habits).await;
        // What is on its way does not know yet that the connection has ended.
        let relay = Relay::over_a_way(keeper.address, Duration::from_millis(30)).await;
        let portolan = in_front_of(&papers, wire, relay.address, "").await;
        let address = portolan.address().await;
        let post = || Ask::new(Method::POST, "/").body("once");
        let statuses = now_and_then(address, 100, 3, limit, post).await;
        let lost = statuses.iter().filter(|status| **status != 200).count();
        assert_eq!(lost, 0, "{wire:?} {says:?}: of {}", statuses.len());
        portolan.stop().await;
    }))
    .await;
}
