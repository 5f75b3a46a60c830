//! What messages may look like: requests without a host, targets, how names of headers are written,
//! trailers, methods that count hops, and clients that leave.

mod hops;
mod hosts;
mod leaving;
mod names;
mod targets;
mod trailers;

use std::net::SocketAddr;

use serde_json::Value;

use crate::harness::client::raw;
use crate::harness::config::{LISTENER, pool};
use crate::harness::{Origin, Portolan, Wire};

/// A process in front of one pool without probes; `more` stands before it.
async fn in_front_of(endpoint: SocketAddr, rest: &str, more: &str) -> Portolan {
    let config = [
        LISTENER,
        more,
        "pools:\n",
        &pool("a", &[endpoint], &format!(", health: off{rest}")),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    Portolan::start(&config).await
}

/// What an endpoint saw that echoes it, asked by bytes.
async fn echoed(address: SocketAddr, bytes: &[u8]) -> Value {
    let answer = raw(address, bytes).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
    serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"))
}

/// An endpoint that echoes, and a process in front of it that speaks this with it.
async fn echoing(wire: Wire, more: &str) -> (Origin, Portolan) {
    assert!(!wire.is_tls(), "no certificate here");
    let origin = Origin::start("a").await;
    let portolan = in_front_of(origin.address, wire.pool(), more).await;
    (origin, portolan)
}
