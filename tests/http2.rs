//! HTTP/2 with endpoints and with clients, where many requests share a connection: none is lost
//! because the connection ends, none waits for another, and none is answered for what another does.

mod connections;
mod heads;
mod interim;
mod probes;
mod tiers;
mod trailers;
mod upgrades;
mod windows;

use std::net::SocketAddr;

use crate::harness::certificates::{Authority, Identity};
use crate::harness::config::{LISTENER, pool};
use crate::harness::{Origin, Portolan, Wire};

/// Who signs the certificates of a test's endpoints, and what they show.
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

    /// A process in front of one endpoint that nobody probes. What its pool says more, each after a
    /// comma.
    async fn in_front_of(&self, wire: Wire, endpoint: SocketAddr, rest: &str) -> Portolan {
        let pools = pool(
            "a",
            &[endpoint],
            &format!("{}, health: off{rest}", wire.pool()),
        );
        let config = [
            LISTENER,
            "pools:\n",
            &pools,
            "routes: [ { name: all, to: a, expose: true } ]\n",
        ]
        .concat();
        let portolan = Portolan::with(&config).file("ca.pem", self.authority.pem());
        portolan.start().await
    }

    /// The same with another pool behind it, that serves what the first cannot.
    async fn before(&self, wire: Wire, endpoint: SocketAddr, rest: &str) -> (Portolan, Origin) {
        let good = Origin::start("good").await;
        let config = [
            LISTENER,
            "pools:\n",
            &pool(
                "a",
                &[endpoint],
                &format!("{}, health: off{rest}", wire.pool()),
            ),
            &pool("good", &[good.address], ", health: off"),
            "routes: [ { name: all, to: { tiers: [ a, good ] }, expose: true } ]\n",
        ]
        .concat();
        let portolan = Portolan::with(&config).file("ca.pem", self.authority.pem());
        (portolan.start().await, good)
    }
}

/// What is spoken over HTTP/2.
const TWO: [Wire; 2] = [Wire::H2c, Wire::Tls2];

/// Nobody was blamed, and no request had more than one try.
async fn nobody_is_blamed(portolan: &Portolan, requests: f64) {
    let tries = "portolan_upstream_tries_total";
    portolan
        .wait_for_metric(tries, &["outcome=\"answered\""], requests)
        .await;
    assert_eq!(portolan.metric(tries, &[]).await, requests);
    assert_eq!(portolan.metric("portolan_ejections_total", &[]).await, 0.0);
}
