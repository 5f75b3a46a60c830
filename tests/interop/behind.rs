//! Other people's servers behind Portolan.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use http::Method;

use super::peers::{IDLE, Peer, Running};
use super::{Client, converse, say_it_in_pieces};
use crate::harness::certificates::{Authority, Identity};
use crate::harness::client::send_exactly;
use crate::harness::config::{LISTENER, pool};
use crate::harness::{Ask, Load, Origin, Portolan, Wire, soon};

struct Papers {
    authority: Authority,
    identity: Identity,
}

impl Papers {
    fn new() -> Self {
        let authority = Authority::new();
        let identity = authority.sign(&[Wire::NAME]);
        Self {
            authority,
            identity,
        }
    }

    /// Portolan with one pool of these endpoints, that speak this; `health`: how it knows of them.
    async fn before(&self, endpoints: &[SocketAddr], wire: Wire, health: &str) -> Portolan {
        let config = [
            LISTENER,
            "defaults: { ",
            health,
            " }\npools:\n",
            &pool("a", endpoints, wire.pool()),
            "routes: [ { to: a } ]\n",
        ]
        .concat();
        let builder = Portolan::with(&config).file("ca.pem", self.authority.pem());
        builder.start().await
    }
}

/// How many tries there were, by how they ended: a line for each that is not none.
async fn tries(portolan: &Portolan) -> Vec<(String, f64)> {
    let page = portolan.metrics().await;
    let lines = page.lines();
    let tries = lines.filter_map(|line| {
        let rest = line.strip_prefix("portolan_upstream_tries_total{")?;
        let (labels, count) = rest.split_once("} ")?;
        let (_, outcome) = labels.split_once("outcome=\"")?;
        let count: f64 = count.parse().ok()?;
        (count > 0.0).then(|| (outcome.trim_end_matches('"').to_owned(), count))
    });
    tries.collect()
}

/// Everything that is said to this peer, over this, and heard from it.
async fn everything_arrives(peer: Peer, wire: Wire) {
    let what = format!("{peer:?} over {wire:?}");
    let papers = Papers::new();
    let origin = Origin::start("origin").await;
    let running = Running::behind(peer, wire, &papers.identity, origin.address).await;
    // Its probes have to pass, too.
    let health = "health: { http: /health, every: 100ms }";
    let portolan = papers.before(&[running.address], wire, health).await;
    let address = portolan.address().await;
    portolan
        .wait_for_health("a", running.address, "healthy")
        .await;
    let mut sent = 0;
    for client in Client::BOTH {
        sent += converse(address, client, &what).await;
    }
    sent += say_it_in_pieces(address, &what).await;
    let tally = send_exactly(address, 400, 16, |number| match number % 2 {
        0 => Ask::get("/"),
        _ => Ask::new(Method::POST, "/").body("once"),
    })
    .await;
    tally.assert_flawless();
    sent += 400;
    // Each was asked once, and each was answered; a 500 is an answer of its own kind.
    let label = [&*format!("endpoint=\"{}\"", running.address)];
    portolan
        .wait_for_metric("portolan_upstream_tries_total", &label, sent as f64)
        .await;
    let tries = tries(&portolan).await;
    let outcomes: Vec<&str> = tries.iter().map(|(outcome, _)| outcome.as_str()).collect();
    assert_eq!(outcomes, ["answered", "server_error"], "{what}: {tries:?}");
    assert_eq!(tries[1].1, Client::BOTH.len() as f64, "{what}: {tries:?}");
    let entry = portolan.endpoint("a", running.address).await;
    assert_eq!(entry["health"], "healthy", "{what}");
    portolan.stop().await;
}

/// Requests that cannot be repeated, with pauses as long as this peer keeps idle connections.
async fn no_post_is_lost_while_it_closes_connections(peer: Peer, wire: Wire) {
    let what = format!("{peer:?} over {wire:?}");
    let papers = Papers::new();
    let origin = Origin::start("origin").await;
    let running = Running::behind(peer, wire, &papers.identity, origin.address).await;
    let health = "health: off, outlier: off";
    let portolan = papers.before(&[running.address], wire, health).await;
    let address = portolan.address().await;
    let pause = match peer {
        // It says five seconds, and closes after six.
        Peer::Node => Duration::from_secs(6),
        _ => Duration::from_secs(IDLE),
    };
    let client = async |number: u32| {
        let mut lost = 0;
        for round in 0..3 {
            if round > 0 {
                // Some a little sooner than that, and some a little later.
                let jitter = Duration::from_millis(200) * number / 40;
                tokio::time::sleep(pause - Duration::from_millis(100) + jitter).await;
            }
            let post = Ask::new(Method::POST, "/").body("once").to(address);
            let answer = soon("an answer", post).await.unwrap();
            lost += u32::from(answer.status != 200);
        }
        lost
    };
    let lost: u32 = join_all((0..40).map(client)).await.into_iter().sum();
    assert_eq!(lost, 0, "{what}");
    portolan.stop().await;
}

/// Clients at the same time.
const CLIENTS: usize = 4;

/// It is killed and comes back, again and again, while another one serves.
async fn nobody_is_lost_when_it_dies(peer: Peer, wire: Wire) {
    let papers = Papers::new();
    let origin = Origin::start("origin").await;
    let mut one = Running::behind(peer, wire, &papers.identity, origin.address).await;
    let other = Running::behind(peer, wire, &papers.identity, origin.address).await;
    let health = "health: { http: /health, every: 100ms, down_after: 2, up_after: 2 }";
    let endpoints = [one.address, other.address];
    let portolan = papers.before(&endpoints, wire, health).await;
    for running in [&one, &other] {
        portolan
            .wait_for_health("a", running.address, "healthy")
            .await;
    }
    let load = Load::plain(portolan.address().await, CLIENTS);
    for _ in 0..2 {
        one.kill().await;
        portolan
            .wait_for_health("a", one.address, "unhealthy")
            .await;
        load.more(100).await;
        one.revive().await;
        portolan.wait_for_health("a", one.address, "healthy").await;
        load.more(100).await;
    }
    let mut tally = load.stop().await;
    // What was on its way to a client when it died has to end, and visibly so: at most one for each client.
    let before = tally.failures.len();
    tally
        .failures
        .retain(|why| !why.starts_with("error reading a body from connection"));
    assert!(before - tally.failures.len() <= 2 * CLIENTS, "{before}");
    tally.assert_flawless();
    portolan.stop().await;
}

/// It hands its listener over to a new process while requests come.
async fn nobody_is_lost_when_it_reloads(peer: Peer, wire: Wire) {
    let papers = Papers::new();
    let origin = Origin::start("origin").await;
    let running = Running::behind(peer, wire, &papers.identity, origin.address).await;
    let portolan = papers.before(&[running.address], wire, "health: off").await;
    let load = Load::plain(portolan.address().await, 4);
    load.more(100).await;
    for _ in 0..5 {
        running.reload();
        load.more(500).await;
    }
    load.stop().await.assert_flawless();
    portolan.stop().await;
}

macro_rules! tried_behind {
    ($($name:ident: $peer:ident;)*) => { $(
        mod $name {
            use super::*;

            fn wires() -> &'static [Wire] {
                let mut all = Peer::BEHIND.iter();
                all.find(|(peer, _)| *peer == Peer::$peer).unwrap().1
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn everything_arrives_both_ways() {
                for wire in wires() {
                    everything_arrives(Peer::$peer, *wire).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn no_post_is_lost_while_connections_are_closed() {
                let all = wires().iter();
                join_all(all.map(|wire| no_post_is_lost_while_it_closes_connections(Peer::$peer, *wire)))
                    .await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn nobody_is_lost_when_one_dies_and_comes_back() {
                for wire in wires() {
                    nobody_is_lost_when_it_dies(Peer::$peer, *wire).await;
                }
            }
        }
    )* };
}

tried_behind! {
    nginx: Nginx;
    haproxy: HaProxy;
    envoy: Envoy;
    node: Node;
    python: Python;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_lost_when_nginx_or_haproxy_reloads() {
    for peer in [Peer::Nginx, Peer::HaProxy] {
        for wire in Wire::ALL {
            nobody_is_lost_when_it_reloads(peer, wire).await;
        }
    }
}
