//! Connections that are kept for later: of an endpoint that was ejected or unhealthy, none of before
//! is used again, for it may be dead without a word.

use futures_util::future::join_all;
use http::Method;

use super::Papers;
use crate::harness::config::{LISTENER, pool};
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
