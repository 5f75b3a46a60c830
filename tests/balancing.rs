//! Who of a pool gets the next request.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use http::Method;

use crate::harness::client::{Connection, send_exactly};
use crate::harness::config::{LISTENER, PROBES, TRUSTING, pools};
use crate::harness::{Ask, Load, Origin, Portolan, eventually, fetch, get};

/// A process with one pool.
async fn one_pool(origins: &[Origin], weights: &[u32], rest: &str) -> Portolan {
    Portolan::start(&config(origins, weights, rest)).await
}

/// One pool of these origins, with these weights; `rest` is what the pool has besides, each after a
/// comma.
fn config(origins: &[Origin], weights: &[u32], rest: &str) -> String {
    let endpoints: Vec<String> = origins
        .iter()
        .zip(weights)
        .map(|(origin, weight)| format!("{{ address: \"{}\", weight: {weight} }}", origin.address))
        .collect();
    let endpoints = endpoints.join(", ");
    [
        LISTENER,
        PROBES,
        TRUSTING,
        &format!("pools: {{ a: {{ endpoints: [ {endpoints} ]{rest} }} }}\n"),
        "routes: [ { to: a } ]\n",
    ]
    .concat()
}

async fn wait_until_all_are_healthy(portolan: &Portolan, count: usize) {
    eventually("every endpoint is healthy", async || {
        (portolan.api("/pools/a").await["healthy"] == count).then_some(())
    })
    .await;
}

/// Who answers requests one after the other.
async fn turns(address: SocketAddr, count: usize) -> Vec<String> {
    let mut connection = Connection::open(address).await.unwrap();
    let mut turns = Vec::new();
    for _ in 0..count {
        let answer = connection.ask(Ask::get("/")).await.unwrap();
        turns.push(answer.origin().to_owned());
    }
    turns
}

fn count(turns: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for turn in turns {
        *counts.entry(turn.as_str()).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn round_robin_is_exact_by_weight() {
    let origins = Origin::start_several("o", 4).await;
    let config = config(&origins, &[5, 1, 2, 0], ", balance: round_robin");
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    wait_until_all_are_healthy(&portolan, 3).await;

    // Every eight in a row are five, one and two; a weight of 0 is nobody.
    let seen = turns(address, 80).await;
    for round in seen.windows(8) {
        let expected = [("o-1", 5), ("o-2", 1), ("o-3", 2)];
        assert_eq!(count(round), BTreeMap::from(expected), "{round:?}");
    }
    // However many ask at once.
    let before: Vec<u64> = origins.iter().map(Origin::hits).collect();
    send_exactly(address, 8_000, 16, |_| Ask::get("/"))
        .await
        .assert_flawless();
    let counts: Vec<u64> = origins
        .iter()
        .zip(before)
        .map(|(origin, before)| origin.hits() - before)
        .collect();
    assert_eq!(counts, [5_000, 1_000, 2_000, 0]);

    // Equal weights take turns in the order written.
    let equal = config
        .replace("weight: 5", "weight: 1")
        .replace("weight: 2", "weight: 1");
    portolan.change(&equal).await;
    let seen = turns(address, 30).await;
    for pair in seen.windows(3) {
        let order: String = pair.iter().map(|name| &name[2..]).collect();
        assert!(["123", "231", "312"].contains(&order.as_str()), "{seen:?}");
    }

    // Who dies is left out, and the others still take turns.
    origins[1].kill().await;
    portolan
        .wait_for_health("a", origins[1].address, "unhealthy")
        .await;
    let seen = turns(address, 20).await;
    for pair in seen.windows(2) {
        assert_ne!(pair[0], pair[1], "{seen:?}");
    }
    assert_eq!(count(&seen), BTreeMap::from([("o-1", 10), ("o-3", 10)]));
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_is_by_weight_and_without_a_pattern() {
    let origins = Origin::start_several("o", 3).await;
    let portolan = one_pool(&origins, &[3, 1, 0], ", balance: random").await;
    let address = portolan.address().await;
    wait_until_all_are_healthy(&portolan, 2).await;
    let tally = send_exactly(address, 8_000, 8, |_| Ask::get("/")).await;
    tally.assert_flawless();
    // Ten standard deviations are 387.
    assert!(
        tally.origins["o-1"].abs_diff(6_000) < 400,
        "{:?}",
        tally.origins
    );
    assert!(!tally.origins.contains_key("o-3"));
    // Unlike turns, draws of chance repeat: four in a row of the light one come once in 256.
    let seen = turns(address, 4_000).await;
    assert!(
        seen.windows(3)
            .any(|row| row.iter().all(|name| name == "o-2")),
        "no pattern keeps them apart"
    );
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn least_requests_avoids_who_is_busy() {
    let origins = Origin::start_several("o", 3).await;
    // It is what a pool does when nothing is said.
    let portolan = one_pool(&origins, &[1, 1, 1], "").await;
    let address = portolan.address().await;
    wait_until_all_are_healthy(&portolan, 3).await;
    let tally = send_exactly(address, 3_000, 6, |_| Ask::get("/")).await;
    tally.assert_flawless();
    for origin in &origins {
        assert!(origin.hits() > 600, "{:?}", tally.origins);
    }
    // One gets slow: it holds more requests, so it is given fewer.
    origins[0].set_latency(30);
    let slow = origins[0].hits();
    let load = Load::plain(address, 6);
    load.more(1_500).await;
    let tally = load.stop().await;
    tally.assert_flawless();
    let given = origins[0].hits() - slow;
    assert!(given * 10 < tally.answers(), "{:?}", tally.origins);
    assert!(given > 0, "{:?}", tally.origins);
    // Quick again, it is not held against it.
    origins[0].set_latency(0);
    eventually("it has its share again", async || {
        let tally = send_exactly(address, 300, 6, |_| Ask::get("/")).await;
        (tally.from("o-1") > 60).then_some(())
    })
    .await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn least_requests_bears_load_by_weight() {
    let origins = Origin::start_several("o", 2).await;
    for origin in &origins {
        origin.set_latency(20);
    }
    let portolan = one_pool(&origins, &[3, 1], ", balance: least_requests").await;
    wait_until_all_are_healthy(&portolan, 2).await;
    let tally = send_exactly(portolan.address().await, 2_000, 16, |_| Ask::get("/")).await;
    tally.assert_flawless();
    // Equally quick, each has requests in flight by its weight, and so answers by its weight.
    let share = tally.from("o-1") as f64 / 2_000.0;
    assert!((0.68..=0.82).contains(&share), "{:?}", tally.origins);
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fastest_prefers_who_answers_faster() {
    let origins = Origin::start_several("o", 2).await;
    let portolan = one_pool(&origins, &[1, 1], ", balance: fastest").await;
    let address = portolan.address().await;
    wait_until_all_are_healthy(&portolan, 2).await;
    for (slow, quick) in [(0, 1), (1, 0)] {
        origins[slow].set_latency(300);
        origins[quick].set_latency(0);
        // One at a time, so that nothing but the time of answers can tell.
        eventually("the quick one has nearly everything", async || {
            let seen = turns(address, 40).await;
            let name = format!("o-{}", quick + 1);
            (count(&seen).get(name.as_str()).copied() >= Some(36)).then_some(())
        })
        .await;
    }
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_hold_for_one_request_at_a_time() {
    for weights in [&[10, 9][..], &[4, 2, 1], &[1, 1]] {
        // What a pool does when nothing is said.
        let origins = Origin::start_several("o", weights.len()).await;
        let portolan = one_pool(&origins, weights, "").await;
        let address = portolan.address().await;
        wait_until_all_are_healthy(&portolan, weights.len()).await;
        let seen = turns(address, 500).await;
        let total: u32 = weights.iter().sum();
        for (at, weight) in weights.iter().enumerate() {
            let expected = 500 * *weight as usize / total as usize;
            let name = format!("o-{}", at + 1);
            let given = count(&seen).get(name.as_str()).copied().unwrap_or(0);
            // Two points.
            assert!(
                given.abs_diff(expected) <= 10,
                "{weights:?}: {:?}",
                count(&seen)
            );
        }
        portolan.stop().await;
    }
    // Of endpoints that are as fast as each other nobody starves either.
    let origins = Origin::start_several("o", 2).await;
    for origin in &origins {
        origin.set_latency(20);
    }
    let portolan = one_pool(&origins, &[10, 9], ", balance: fastest").await;
    let address = portolan.address().await;
    wait_until_all_are_healthy(&portolan, 2).await;
    let seen = turns(address, 200).await;
    assert!(count(&seen)["o-2"] >= 60, "{:?}", count(&seen));
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_start_gives_its_part_when_there_is_little_to_do() {
    let origins = Origin::start_several("o", 2).await;
    let portolan = one_pool(&origins, &[1, 1], ", slow_start: 10m").await;
    let address = portolan.address().await;
    wait_until_all_are_healthy(&portolan, 2).await;
    origins[1].kill().await;
    portolan
        .wait_for_health("a", origins[1].address, "unhealthy")
        .await;
    origins[1].revive().await;
    wait_until_all_are_healthy(&portolan, 2).await;
    // A tenth of its weight for the first half minute: one of eleven.
    let seen = turns(address, 220).await;
    let given = count(&seen).get("o-2").copied().unwrap_or(0);
    assert!((15..=25).contains(&given), "{:?}", count(&seen));
    portolan.stop().await;
}

/// The request of a client.
type Asking = fn(u32) -> Ask;

/// Who answers each of so many clients, told apart by the property that counts.
async fn homes(portolan: &Portolan, ask: impl Fn(u32) -> Ask) -> Vec<String> {
    // A request that is just over still counts as load, which would move the next one.
    portolan
        .wait_for_metric("portolan_in_flight", &[], 0.0)
        .await;
    let address = portolan.address().await;
    let mut connection = Connection::open(address).await.unwrap();
    let mut homes = Vec::new();
    for client in 0..400 {
        let answer = connection.ask(ask(client)).await.unwrap();
        assert_eq!(answer.status, 200);
        homes.push(answer.origin().to_owned());
    }
    homes
}

#[tokio::test(flavor = "multi_thread")]
async fn hashing_keeps_clients_and_moves_only_those_it_must() {
    let origins = Origin::start_several("o", 5).await;
    let by: [(&str, Asking); 4] = [
        ("client_ip", |client| {
            let address = std::net::Ipv4Addr::from(0xC633_6400 + client);
            Ask::get("/").header("x-forwarded-for", &address.to_string())
        }),
        ("path", |client| {
            Ask::get(&format!("/files/{client}?any={client}"))
        }),
        ("{ header: x-session }", |client| {
            Ask::get("/").header("x-session", &client.to_string())
        }),
        ("{ cookie: session }", |client| {
            Ask::get("/").header("cookie", &format!("a=b; session={client}"))
        }),
    ];
    for (on, ask) in by {
        let rest = format!(", balance: {{ hash: {{ on: {on} }} }}");
        let portolan = one_pool(&origins, &[1, 1, 1, 1, 2], &rest).await;
        wait_until_all_are_healthy(&portolan, 5).await;
        let before = homes(&portolan, ask).await;
        assert_eq!(homes(&portolan, ask).await, before, "{on}");
        // Shares are by weight: 400 clients over six parts are 67 each.
        let counts = count(&before);
        for light in ["o-1", "o-2", "o-3", "o-4"] {
            assert!((25..=115).contains(&counts[light]), "{on}: {counts:?}");
        }
        assert!((75..=190).contains(&counts["o-5"]), "{on}: {counts:?}");

        // One dies: its clients move, to all the others, and nobody else does.
        origins[2].kill().await;
        portolan
            .wait_for_health("a", origins[2].address, "unhealthy")
            .await;
        let during = homes(&portolan, ask).await;
        let mut heirs = Vec::new();
        for (home, now) in before.iter().zip(&during) {
            if home == "o-3" {
                heirs.push(now.clone());
            } else {
                assert_eq!(home, now, "{on}");
            }
        }
        let heirs = count(&heirs);
        assert_eq!(heirs.len(), 4, "{on}: {heirs:?}");
        // It comes back, and so do they.
        origins[2].revive().await;
        wait_until_all_are_healthy(&portolan, 5).await;
        assert_eq!(homes(&portolan, ask).await, before, "{on}");
        portolan.stop().await;
        // Another process agrees: several edges send a client to the same place.
        let other = one_pool(&origins, &[1, 1, 1, 1, 2], &rest).await;
        wait_until_all_are_healthy(&other, 5).await;
        assert_eq!(homes(&other, ask).await, before, "{on}");
        other.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hashing_spreads_what_has_nothing_to_hash_and_what_is_too_much_for_one() {
    let origins = Origin::start_several("o", 4).await;
    let rest = ", balance: { hash: { on: { header: x-session } } }";
    let portolan = one_pool(&origins, &[1, 1, 1, 1], rest).await;
    let address = portolan.address().await;
    wait_until_all_are_healthy(&portolan, 4).await;
    // Without the header anybody may have it.
    assert_eq!(count(&turns(address, 200).await).len(), 4);
    // All in one session, one at a time: one endpoint. Many at once: those above its bound of a
    // quarter above its share go elsewhere.
    portolan
        .wait_for_metric("portolan_in_flight", &[], 0.0)
        .await;
    let session = |path: &'static str| Ask::get(path).header("x-session", "the-same");
    let alone = send_exactly(address, 50, 1, move |_| session("/")).await;
    assert_eq!(alone.origins.len(), 1, "{:?}", alone.origins);
    let crowd = send_exactly(address, 200, 20, move |_| session("/sleep?ms=30")).await;
    crowd.assert_flawless();
    assert!(crowd.origins.len() >= 3, "{:?}", crowd.origins);
    let most = crowd.origins.values().max().unwrap();
    assert!(*most < 120, "{:?}", crowd.origins);
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_serve_only_when_nobody_else_can() {
    let primaries = Origin::start_several("primary", 2).await;
    let backups = Origin::start_several("backup", 2).await;
    let entry = |origin: &Origin| format!("{{ address: \"{}\", backup: true }}", origin.address);
    for balance in [
        "least_requests",
        "round_robin",
        "random",
        "fastest",
        "{ hash: { on: path } }",
    ] {
        let config = [
            LISTENER,
            PROBES,
            &format!(
                "pools: {{ a: {{ endpoints: [ \"{}\", {}, \"{}\", {} ], balance: {balance} }} }}\n",
                primaries[0].address,
                entry(&backups[0]),
                primaries[1].address,
                entry(&backups[1]),
            ),
            "routes: [ { to: a } ]\n",
        ]
        .concat();
        let portolan = Portolan::start(&config).await;
        let address = portolan.address().await;
        let healthy = async |count: usize| {
            eventually("so many are healthy", async || {
                let entry = portolan.api("/pools/a").await;
                let all = entry["endpoints"].as_array()?.iter();
                (all.filter(|one| one["health"] == "healthy").count() == count).then_some(())
            })
            .await;
        };
        healthy(4).await;
        let ask = |number: u64| Ask::get(&format!("/{number}"));
        let reserve = |tally: &crate::harness::client::Tally| tally.from("backup");
        let tally = send_exactly(address, 100, 4, ask).await;
        assert_eq!(reserve(&tally), 0, "{balance}: {:?}", tally.origins);

        // One primary left is enough.
        primaries[0].kill().await;
        healthy(3).await;
        let tally = send_exactly(address, 100, 4, ask).await;
        tally.assert_flawless();
        assert_eq!(tally.from("primary-2"), 100, "{balance}");

        // None left: the backups take all of it, both of them.
        primaries[1].kill().await;
        healthy(2).await;
        let tally = send_exactly(address, 100, 4, ask).await;
        tally.assert_flawless();
        assert_eq!(reserve(&tally), 100, "{balance}: {:?}", tally.origins);
        assert_eq!(tally.origins.len(), 2, "{balance}: {:?}", tally.origins);
        let entry = portolan.api("/pools/a").await;
        assert_eq!(entry["up"], true, "{entry}");

        // And they step back.
        primaries[0].revive().await;
        healthy(3).await;
        let tally = send_exactly(address, 100, 4, ask).await;
        assert_eq!(tally.from("primary-1"), 100, "{balance}");
        primaries[1].revive().await;
        portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_balancer_passes_over_who_refuses() {
    let origins = Origin::start_several("o", 3).await;
    for balance in [
        "least_requests",
        "round_robin",
        "random",
        "fastest",
        "{ hash: { on: path } }",
    ] {
        // Nobody probes: each request has to find the living by itself.
        let all: Vec<&Origin> = origins.iter().collect();
        let config = [
            LISTENER,
            "defaults: { health: off }\n",
            &pools(&[("a", &all, &format!(", balance: {balance}"))]),
            "routes: [ { to: a } ]\n",
        ]
        .concat();
        let portolan = Portolan::start(&config).await;
        let address = portolan.address().await;
        // Before the first request: none may find a connection that was open until just now.
        origins[0].kill().await;
        origins[1].kill().await;
        assert_eq!(fetch(address, "/").await.status, 200);
        let tally = send_exactly(address, 60, 3, |number| {
            Ask::new(Method::POST, &format!("/{number}")).body("not idempotent")
        })
        .await;
        tally.assert_flawless();
        assert_eq!(tally.from("o-3"), 60, "{balance}");
        origins[2].kill().await;
        assert_eq!(get(address, "/").await.unwrap().status, 502, "{balance}");
        for origin in &origins {
            origin.revive().await;
        }
        portolan.stop().await;
    }
}
