//! Other people's proxies and clients in front of Portolan.

use std::path::Path;

use serde_json::Value;
use tokio::process::Command;

use super::peers::{Peer, Running};
use super::{Client, converse, say_it_in_pieces};
use crate::harness::certificates::Authority;
use crate::harness::config::{LISTENER, PROBES, pools};
use crate::harness::{Origin, Portolan, Wire, soon};

async fn portolan(origin: &Origin) -> Portolan {
    let config = [
        LISTENER,
        PROBES,
        &pools(&[("a", &[origin], "")]),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    Portolan::start(&config).await
}

/// Everything that passes through this proxy, on its way to Portolan and back.
async fn everything_passes(peer: Peer, wire: Wire) {
    let what = format!("{peer:?} in front, over {wire:?}");
    let identity = Authority::new().sign(&[Wire::NAME]);
    let origin = Origin::start("origin").await;
    let portolan = portolan(&origin).await;
    let running = Running::in_front(peer, wire, portolan.address().await, &identity).await;
    converse(running.address, Client::One, &what).await;
    say_it_in_pieces(running.address, &what).await;
    if peer == Peer::Envoy {
        // The others want to be told beforehand what their clients speak.
        converse(running.address, Client::Two, &what).await;
    }
    // Nothing was refused, and nothing tried twice.
    let refused = portolan.metric("portolan_retries_total", &[]).await;
    assert!(refused < 0.5, "{what}: {refused} retries");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_passes_through_nginx() {
    everything_passes(Peer::Nginx, Wire::Http1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_passes_through_haproxy() {
    for wire in [Wire::Http1, Wire::H2c] {
        everything_passes(Peer::HaProxy, wire).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_passes_through_envoy() {
    for wire in [Wire::Http1, Wire::H2c] {
        everything_passes(Peer::Envoy, wire).await;
    }
}

/// A client says what went wrong.
async fn nothing_goes_wrong(peer: Peer, script: &str, arguments: &[String]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/interop")
        .join(script);
    let running = Command::new(peer.program().await)
        .arg(script)
        .args(arguments)
        .kill_on_drop(true)
        .output();
    let output = soon("the client is done", running).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}{errors}"));
    assert!(report["tried"].as_u64().unwrap() > 50, "{report}");
    assert_eq!(report["failures"], Value::Array(Vec::new()), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_clients_get_what_they_ask_for() {
    let origin = Origin::start("origin").await;
    let portolan = portolan(&origin).await;
    let url = format!("http://{}", portolan.address().await);
    nothing_goes_wrong(Peer::Node, "client.js", &[url]).await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pythons_clients_get_what_they_ask_for() {
    let origin = Origin::start("origin").await;
    let portolan = portolan(&origin).await;
    let address = portolan.address().await;
    let arguments = [address.ip().to_string(), address.port().to_string()];
    nothing_goes_wrong(Peer::Python, "client.py", &arguments).await;
    portolan.stop().await;
}
