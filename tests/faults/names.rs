//! Name servers that know nothing any more: the last good answer stays.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::Method;

use crate::harness::client::send_exactly;
use crate::harness::config::{LISTENER, PROBES, pool};
use crate::harness::names::{NameServer, Reply};
use crate::harness::{Ask, Load, Origin, Portolan, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_name_server_that_answers_nothing_costs_no_request() {
    let names = NameServer::start().await;
    let addresses: Vec<IpAddr> = (1..=2)
        .map(|last| Ipv4Addr::new(127, 0, 0, last).into())
        .collect();
    let origins = Origin::start_at_each(&addresses).await;
    let port = origins[0].address.port();
    let first = || Reply::Addresses(addresses[..1].to_vec(), 0);
    let both = || Reply::Addresses(addresses.clone(), 0);
    names.set("api.internal", first());
    let config = [
        LISTENER,
        PROBES,
        &format!(
            "resolver: {{ servers: [ \"{}\" ], min_ttl: 50ms, timeout: 200ms }}\n",
            names.address
        ),
        &format!("pools: {{ a: {{ endpoints: [ {{ dns: \"api.internal:{port}\" }} ] }} }}\n"),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    let load = Load::start(address, 2, || Ask::new(Method::POST, "/").body("once"));
    let endpoints = async || {
        let pool = portolan.api("/pools/a").await;
        pool["endpoints"].as_array().unwrap().len()
    };
    for nothing in [
        Reply::NoSuchName,
        Reply::Addresses(Vec::new(), 0),
        Reply::StallDetector,
        Reply::ServerFailure,
    ] {
        names.set("api.internal", nothing.clone());
        let asked = names.questions();
        eventually(
            &format!("{nothing:?}: it is asked again and again"),
            async || (names.questions() >= asked + 4).then_some(()),
        )
        .await;
        load.more(50).await;
        assert_eq!(
            endpoints().await,
            1,
            "{nothing:?}: the last good answer stays"
        );
        let tally = send_exactly(address, 20, 2, |_| Ask::get("/")).await;
        tally.assert_flawless();
        // It comes back with more than it had, and with as much.
        for (reply, count) in [(both(), 2), (first(), 1)] {
            names.set("api.internal", reply);
            eventually(&format!("{nothing:?}: {count} again"), async || {
                (endpoints().await == count).then_some(())
            })
            .await;
        }
    }
    load.stop().await.assert_flawless();
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_rotate_cost_no_request_and_send_nobody_to_another_pool() {
    let names = NameServer::start().await;
    let addresses: Vec<IpAddr> = (1..=4)
        .map(|last| Ipv4Addr::new(127, 0, 0, last).into())
        .collect();
    let origins = Origin::start_at_each(&addresses).await;
    let port = origins[0].address.port();
    let spare = Origin::start("spare").await;
    let say = |these: &[IpAddr]| {
        names.set("api.internal", Reply::Addresses(these.to_vec(), 0));
    };
    say(&addresses[..1]);
    // The first verdict on a new address takes a while.
    let config = [
        LISTENER,
        &format!(
            "resolver: {{ servers: [ \"{}\" ], min_ttl: 50ms, timeout: 200ms }}\npools:\n  \
             a: {{ endpoints: [ {{ dns: \"api.internal:{port}\" }} ], \
             health: {{ http: \"/sleep?ms=300\", every: 2s, fast_every: 500ms, timeout: 1s }} }}\n",
            names.address
        ),
        &pool("spare", &[spare.address], ", health: off"),
        "routes: [ { to: { tiers: [ a, spare ] } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    portolan.wait_for_pool("a", true).await;
    let address = portolan.address().await;
    let load = Load::start(address, 2, || Ask::new(Method::POST, "/").body("once"));
    let endpoints = async || {
        let pool = portolan.api("/pools/a").await;
        assert_eq!(pool["availability"], 1.0, "{pool}");
        let endpoints = pool["endpoints"].as_array().unwrap().clone();
        let told = endpoints.iter().map(|endpoint| {
            let address = endpoint["address"].as_str().unwrap().to_owned();
            (address, endpoint["leaving"].as_bool().unwrap())
        });
        told.collect::<Vec<(String, bool)>>()
    };
    for turn in [1..3, 3..4, 0..1, 2..4, 1..2] {
        let before = endpoints().await;
        let new = &addresses[turn.clone()];
        say(new);
        let mut overlap = false;
        eventually(&format!("{turn:?} serve alone"), async || {
            let now = endpoints().await;
            overlap |= now.iter().any(|(address, leaving)| {
                *leaving && before.iter().any(|(other, _)| other == address)
            });
            let alone = now.len() == new.len() && now.iter().all(|(_, leaving)| !leaving);
            let wanted = now.iter().all(|(address, _)| {
                let address: SocketAddr = address.parse().unwrap();
                new.contains(&address.ip())
            });
            (alone && wanted).then_some(())
        })
        .await;
        assert!(overlap, "{turn:?}: the old ones stay until then");
        let hits = origins[turn.start].hits();
        load.more(20).await;
        eventually("the new one is asked", async || {
            (origins[turn.start].hits() > hits).then_some(())
        })
        .await;
    }
    // Where nobody listens, the last one that was good goes on.
    say(&[Ipv4Addr::new(127, 0, 0, 9).into()]);
    eventually("the new one is there, and dead", async || {
        let now = endpoints().await;
        let pool = portolan.api("/pools/a").await;
        let dead = pool["endpoints"][0]["health"] == "unhealthy";
        (dead && now.len() == 2 && now[1].1).then_some(())
    })
    .await;
    load.more(50).await;
    load.stop().await.assert_flawless();
    assert_eq!(spare.hits(), 0, "nobody was sent elsewhere");
    portolan.stop().await;
}
