//! Name servers that know nothing any more: the last good answer stays.

use std::net::{IpAddr, Ipv4Addr};

use http::Method;

use crate::harness::client::send_exactly;
use crate::harness::config::{LISTENER, PROBES};
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
        Reply::Silence,
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
