//! Pieces of configurations.

use std::net::SocketAddr;

use super::origin::Origin;

/// One listener, on a port of the system's choice.
pub(crate) const LISTENER: &str = "listeners: [ { bind: \"127.0.0.1:0\" } ]\n";

/// Probes often enough for a test.
pub(crate) const PROBES: &str = "defaults: { health: { http: /health, every: 100ms, timeout: 1s, down_after: 2, up_after: 2 } }\n";

/// Whose word about the client counts: everybody's on this machine.
pub(crate) const TRUSTING: &str =
    "client_ip: { header: X-Forwarded-For, trusted: [ 127.0.0.0/8 ] }\n";

/// A pool of these endpoints, to stand below `pools:`; `rest` is what else it has, each after a comma.
pub(crate) fn pool(name: &str, endpoints: &[SocketAddr], rest: &str) -> String {
    let endpoints: Vec<String> = endpoints
        .iter()
        .map(|address| format!("\"{address}\""))
        .collect();
    let endpoints = endpoints.join(", ");
    format!("  {name}: {{ endpoints: [ {endpoints} ]{rest} }}\n")
}

/// All pools: for each its name, its origins, and what else it has.
pub(crate) fn pools(pools: &[(&str, &[&Origin], &str)]) -> String {
    let mut text = String::from("pools:\n");
    for (name, origins, rest) in pools {
        let addresses: Vec<SocketAddr> = origins.iter().map(|origin| origin.address).collect();
        text += &pool(name, &addresses, rest);
    }
    text
}
