//! The edge itself has run out of something: descriptors, or local ports. That is nobody else's fault:
//! clients wait or are told to come again, no endpoint is blamed for it, operators are answered and told
//! what to raise, and it ends by itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Papers, Wire};
use crate::harness::client::{Connection, Connection2};
use crate::harness::config::{LISTENER, PROBES, pool};
use crate::harness::namespace::{ip, is_inside};
use crate::harness::{Ask, Origin, Portolan, eventually, fetch, soon};

/// Waits until this was told.
async fn told(portolan: &Portolan, kind: &str) -> String {
    eventually(kind, async || {
        let events = portolan.api("/events").await;
        let events = events.as_array().unwrap().iter();
        let mut found = events.filter(|event| event["kind"] == kind);
        found
            .next()
            .map(|event| event["message"].as_str().unwrap().to_owned())
    })
    .await
}

/// Nothing that happened was laid at an endpoint's door.
async fn nobody_is_blamed(portolan: &Portolan) {
    let events = portolan.api("/events").await;
    for event in events.as_array().unwrap() {
        let kind = event["kind"].as_str().unwrap();
        let blames = ["endpoint_down", "endpoint_ejected", "pool_down"];
        assert!(!blames.contains(&kind), "{event}");
    }
    for pool in portolan.api("/pools").await.as_array().unwrap() {
        for endpoint in pool["endpoints"].as_array().unwrap() {
            assert_eq!(endpoint["health"], "healthy", "{endpoint}");
        }
    }
    let tries = "portolan_upstream_tries_total";
    for outcome in ["connect_failed", "broken", "timed_out"] {
        assert_eq!(portolan.metric(tries, &[outcome]).await, 0.0, "{outcome}");
    }
}

/// What became of requests, by status.
async fn statuses(mut asking: JoinSet<u16>) -> BTreeMap<u16, usize> {
    let mut statuses = BTreeMap::new();
    while let Some(status) = soon("an answer", asking.join_next()).await {
        *statuses.entry(status.unwrap()).or_default() += 1;
    }
    statuses
}

/// Two hundred clients, and a hundred descriptors.
async fn without_descriptors(wire: Wire) {
    let papers = Papers::new();
    let origin = wire.origin("a", &papers.identity).await;
    let config = [
        LISTENER,
        PROBES,
        "pools:\n",
        &pool("a", &[origin.address], wire.pool()),
        "routes: [ { to: a, timeout: 20s } ]\n",
    ]
    .concat();
    let portolan = papers.portolan(&config).open_files(64, 100).start().await;
    let limits = format!("/proc/{}/limits", portolan.main_pid());
    let limits = std::fs::read_to_string(limits).unwrap();
    let limits = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let numbers: Vec<&str> = limits.unwrap().split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers, ["100", "100"], "raised to all that there is");
    let address = portolan.address().await;
    // Some who were there before.
    let mut regulars = Vec::new();
    for _ in 0..4 {
        let mut connection = Connection::open(address).await.unwrap();
        assert_eq!(connection.ask(Ask::get("/")).await.unwrap().status, 200);
        regulars.push(connection);
    }
    // And those who come and say nothing.
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(TcpStream::connect(address).await.unwrap());
    }
    let said = told(&portolan, "edge_exhausted").await;
    assert!(said.contains("LimitNOFILE"), "{said}");
    // They are let in as far as there is room for those who are inside.
    let inside = eventually("no more are let in", async || {
        let before = portolan.metric("portolan_connections", &[]).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        (portolan.metric("portolan_connections", &[]).await == before).then_some(before)
    })
    .await;
    assert!((5.0..70.0).contains(&inside), "{inside} are inside");
    for _ in 0..20 {
        for connection in &mut regulars {
            assert_eq!(connection.ask(Ask::get("/")).await.unwrap().status, 200);
        }
    }
    nobody_is_blamed(&portolan).await;
    drop(crowd);

    // All of them ask at the same time, and each holds a connection to the endpoint for a while, over
    // HTTP/1.1.
    let mut asking = JoinSet::new();
    for _ in 0..200 {
        asking.spawn(async move {
            let mut connection = Connection::open(address).await.unwrap();
            let answer = connection.ask(Ask::get("/sleep?ms=100")).await.unwrap();
            if answer.status == 503 {
                assert!(!answer.header("retry-after").is_empty());
            }
            answer.status
        });
    }
    let watching = async {
        loop {
            nobody_is_blamed(&portolan).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let statuses = tokio::select! {
        statuses = statuses(asking) => statuses,
        () = watching => unreachable!("it watches without end"),
    };
    let served = statuses.get(&200).copied().unwrap_or(0);
    let refused = statuses.get(&503).copied().unwrap_or(0);
    assert_eq!(served + refused, 200, "{statuses:?}");
    assert!(served > 20, "{statuses:?}");
    portolan
        .wait_for_metric(
            "portolan_refused_requests_total",
            &["edge_exhausted"],
            refused as f64,
        )
        .await;
    told(&portolan, "edge_recovered").await;
    for connection in &mut regulars {
        assert_eq!(connection.ask(Ask::get("/")).await.unwrap().status, 200);
    }
    assert_eq!(fetch(address, "/").await.status, 200);
    nobody_is_blamed(&portolan).await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_descriptors_are_no_endpoints_fault() {
    without_descriptors(Wire::Http1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_descriptors_are_no_endpoints_fault_by_tls() {
    without_descriptors(Wire::Tls1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_descriptors_are_no_endpoints_fault_over_http2() {
    without_descriptors(Wire::Tls2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_local_ports_are_no_endpoints_fault() {
    if !is_inside("faults::edge::few_local_ports_are_no_endpoints_fault").await {
        return;
    }
    ip("link set lo up");
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40039").unwrap();
    let papers = Papers::new();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let first = Origin::start_at("first", any, None).await;
    let second = Origin::start_at("second", any, None).await;
    let third = Wire::Tls1.origin("third", &papers.identity).await;
    // Every probe needs a port of its own.
    let config = [
        LISTENER,
        "defaults: { health: { tcp: true, every: 100ms, timeout: 1s, down_after: 2, up_after: 2 } }\npools:\n",
        &pool("one", &[first.address], ""),
        &pool("two", &[first.address, second.address], ""),
        &pool("tls", &[third.address], Wire::Tls1.pool()),
        "routes:\n  - { path: /one, to: one, rewrite: { strip_prefix: /one } }\n  \
         - { path: /two, to: two, rewrite: { strip_prefix: /two } }\n  \
         - { path: /tls, to: tls, rewrite: { strip_prefix: /tls } }\n",
    ]
    .concat();
    let portolan = papers.portolan(&config).start().await;
    let address = portolan.address().await;
    for pool in ["one", "two", "tls"] {
        portolan.wait_for_pool(pool, true).await;
    }
    // All over one connection: clients need ports as well.
    let client = Connection2::open(address).await.unwrap();
    let ask = |path: &'static str| {
        let mut client = client.clone();
        async move {
            let url = format!("http://portolan.example{path}/sleep?ms=400");
            client.get(&url).await.unwrap().status
        }
    };
    for path in ["/one", "/tls"] {
        let mut asking = JoinSet::new();
        for _ in 0..80 {
            asking.spawn(ask(path));
        }
        let statuses = statuses(asking).await;
        let served = statuses.get(&200).copied().unwrap_or(0);
        let refused = statuses.get(&503).copied().unwrap_or(0);
        assert_eq!(served + refused, 80, "{path}: {statuses:?}");
        assert!(served > 10 && refused > 10, "{path}: {statuses:?}");
        nobody_is_blamed(&portolan).await;
        let said = told(&portolan, "edge_exhausted").await;
        assert!(said.contains("ip_local_port_range"), "{said}");
    }
    // Another endpoint has ports of its own.
    let mut asking = JoinSet::new();
    for _ in 0..40 {
        asking.spawn(ask("/two"));
    }
    let both = statuses(asking).await;
    assert_eq!(both.get(&200), Some(&40), "{both:?}");
    nobody_is_blamed(&portolan).await;
    let exhausted = portolan.metric("portolan_edge_exhausted_total", &["local_ports"]);
    assert!(exhausted.await > 20.0);
    let tries = portolan.metric("portolan_upstream_tries_total", &["edge_exhausted"]);
    assert!(tries.await > 20.0);
    told(&portolan, "edge_recovered").await;
    for path in ["/one", "/two", "/tls"] {
        assert_eq!(ask(path).await, 200);
    }
    portolan.stop().await;
}

/// A machine without IPv6 cannot reach an endpoint that has nothing else: that is no shortage, though the
/// system has one word for both.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_without_a_way_to_it_is_unhealthy() {
    if !is_inside("faults::edge::an_endpoint_without_a_way_to_it_is_unhealthy").await {
        return;
    }
    ip("link set lo up");
    std::fs::write("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "1").unwrap();
    let origin = Origin::start("a").await;
    let six: SocketAddr = "[::1]:8080".parse().unwrap();
    let config = [
        LISTENER,
        PROBES,
        "pools:\n",
        &pool("six", &[six], ""),
        &pool("a", &[origin.address], ""),
        "routes: [ { to: { tiers: [ six, a ] } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    portolan.wait_for_health("six", six, "unhealthy").await;
    let answer = fetch(portolan.address().await, "/").await;
    assert_eq!(answer.origin(), "a");
    let events = portolan.api("/events").await;
    let mut kinds = events
        .as_array()
        .unwrap()
        .iter()
        .map(|event| &event["kind"]);
    assert!(kinds.all(|kind| kind != "edge_exhausted"), "{events}");
    portolan.stop().await;
}
