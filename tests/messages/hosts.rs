//! Requests that name no host, as HTTP/1.0 allows.

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::net::TcpListener;
use tokio::process::Command;

use super::{echoed, echoing};
use crate::harness::client::{Connection2, get};
use crate::harness::config::{LISTENER, PROBES, TRUSTING, pools};
use crate::harness::{Origin, Portolan, Wire, eventually, tools};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_host_is_forwarded_for_the_endpoints_own_name() {
    for wire in [Wire::Http1, Wire::H2c] {
        for trusting in ["", TRUSTING] {
            let (origin, portolan) = echoing(wire, trusting).await;
            let address = portolan.address().await;
            for request in [
                "GET /echo HTTP/1.0\r\n\r\n",
                "GET /echo HTTP/1.0\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n",
                "POST /echo HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi",
            ] {
                let seen = echoed(address, request.as_bytes()).await;
                assert_eq!(seen["host"], origin.address.to_string(), "{wire:?}: {seen}");
                let headers = seen["headers"].as_object().unwrap();
                for name in ["x-forwarded-host", "forwarded"] {
                    assert!(!headers.contains_key(name), "{wire:?}: {seen}");
                }
                let proto = &headers["x-forwarded-proto"];
                assert_eq!(proto, "http", "{wire:?}: {seen}");
                assert!(
                    headers.values().all(|value| value != ""),
                    "{wire:?}: {seen}"
                );
            }
            portolan.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_host_is_forwarded_for_the_pools_host() {
    for protocol in ["http1", "h2c"] {
        let origin = Origin::start("a").await;
        let rest = format!(", health: off, host: api.internal, protocol: {protocol}");
        let config = [
            LISTENER,
            &pools(&[("a", &[&origin], &rest)]),
            "routes: [ { host: named.example, to: a }, { to: a } ]\n",
        ]
        .concat();
        let portolan = Portolan::start(&config).await;
        let address = portolan.address().await;
        let seen = echoed(address, b"GET /echo HTTP/1.0\r\n\r\n").await;
        assert_eq!(seen["host"], "api.internal", "{protocol}");
        assert!(seen["headers"].get("x-forwarded-host").is_none(), "{seen}");
        // A host that is named is told, whatever endpoints get.
        let named = b"GET /echo HTTP/1.0\r\nHost: named.example\r\n\r\n";
        let seen = echoed(address, named).await;
        assert_eq!(seen["headers"]["x-forwarded-host"], "named.example");
        portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_came_over_http2_stays_when_the_path_changes() {
    for protocol in ["http1", "h2c"] {
        let origin = Origin::start("a").await;
        let rest = format!(", health: off, protocol: {protocol}");
        let config = [
            LISTENER,
            &pools(&[("a", &[&origin], &rest)]),
            "routes: [ { path: /v1, to: a, rewrite: { strip_prefix: /v1 } } ]\n",
        ]
        .concat();
        let portolan = Portolan::start(&config).await;
        let mut two = Connection2::open(portolan.address().await).await.unwrap();
        let seen = two.get("http://x.example/v1/./echo?a=b").await.unwrap();
        let seen = seen.json();
        assert_eq!(seen["host"], "x.example", "{protocol}: {seen}");
        assert_eq!(seen["target"], "/echo?a=b", "{protocol}: {seen}");
        portolan.stop().await;
    }
}

/// A port that was free a moment ago.
async fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// `option httpchk` alone asks `OPTIONS / HTTP/1.0`, without a host.
#[tokio::test(flavor = "multi_thread")]
async fn haproxy_in_front_finds_portolan_up_by_its_plainest_check() {
    tools::need("haproxy", "haproxy").await;
    for protocol in ["http1", "h2c"] {
        let origin = Origin::start("a").await;
        let rest = format!(", protocol: {protocol}");
        let config = [
            LISTENER,
            PROBES,
            &pools(&[("a", &[&origin], &rest)]),
            "routes: [ { to: a } ]\n",
        ]
        .concat();
        let portolan = Portolan::start(&config).await;
        let behind = portolan.address().await;
        let (front, stats) = (free().await, free().await);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(
            &file,
            format!(
                "defaults
  mode http
  timeout connect 10s
  timeout client 30s
  timeout server 30s
listen stats
  bind {stats}
  stats enable
  stats uri /
listen l
  bind {front}
  option httpchk
  server s {behind} check inter 100ms rise 2 fall 1
"
            ),
        )
        .unwrap();
        let _haproxy = Command::new("haproxy")
            .arg("-db")
            .arg("-f")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        // In the order of its columns: 17 is the state, 36 the state of the check, 37 its code.
        let checked = eventually("HAProxy has checked", async || {
            let page = get(stats, "/;csv").await.ok()?.text();
            let line = page.lines().find(|line| line.starts_with("l,s,"))?;
            let columns: Vec<String> = line.split(',').map(str::to_owned).collect();
            // Before it is over, the check before it is told, with a star.
            (!columns[36].is_empty() && !columns[36].ends_with("INI")).then_some(columns)
        })
        .await;
        assert_eq!(checked[36].trim_start_matches("* "), "L7OK", "{checked:?}");
        assert_eq!(checked[37], "200", "{checked:?}");
        assert!(checked[17].starts_with("UP"), "{checked:?}");
        let answer = eventually("an answer through HAProxy", async || {
            get(front, "/echo").await.ok()
        })
        .await;
        assert_eq!(answer.status, 200);
        assert!(origin.hits() > 1, "checks have reached it");
        portolan.stop().await;
    }
}
