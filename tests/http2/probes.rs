//! Probes over HTTP/2: they are requests like any other, to the endpoints of others as well.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};
use hyper::body::Bytes;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{Papers, TWO};
use crate::harness::config::{LISTENER, pool};
use crate::harness::haproxy::{HaProxy, free};
use crate::harness::{Endpoint2, Nginx, Portolan, Wire, eventually, fetch, soon, tools};

/// How a pool is probed, after a comma.
fn probed(wire: Wire, more: &str) -> String {
    let every = "every: 100ms, timeout: 2s, down_after: 2, up_after: 1";
    let wire = wire.pool();
    format!("{wire}, host: checked.example, health: {{ http: \"/health?deep=1\", {every}{more} }}")
}

/// A process in front of one endpoint that it probes like this.
async fn probing(papers: &Papers, endpoint: SocketAddr, rest: &str) -> Portolan {
    let config = [
        LISTENER,
        "pools:\n",
        &pool("a", &[endpoint], rest),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::with(&config).file("ca.pem", papers.authority.pem());
    portolan.start().await
}

/// It is healthy, and serves.
async fn is_up(portolan: &Portolan, what: &str) {
    eventually(&format!("{what} is healthy"), async || {
        let pool = portolan.api("/pools/a").await;
        (pool["endpoints"][0]["health"] == "healthy").then_some(())
    })
    .await;
    let answer = fetch(portolan.address().await, "/").await;
    assert_eq!(answer.status, 200, "{what}: {}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_takes_them_for_what_they_are() {
    let papers = Papers::new();
    for wire in TWO {
        let nginx = Nginx::start(2, Some(&papers.identity), |number, address| {
            let tls = match wire {
                Wire::Tls2 => "ssl http2; ssl_certificate tls.pem; ssl_certificate_key tls.key",
                _ => "http2",
            };
            // Only what was asked as it should be is healthy; on another port, for some.
            let health = match number {
                0 => "if ($args != deep=1) { return 404; } if ($host != checked.example) { return 421; } return 200 fine;",
                _ => "return 503;",
            };
            format!("listen {address} {tls}; location / {{ return 200 ok; }} location /health {{ {health} }}")
        })
        .await;
        let [here, elsewhere] = nginx.addresses[..] else {
            panic!("two addresses");
        };
        let portolan = probing(&papers, here, &probed(wire, "")).await;
        is_up(&portolan, &format!("nginx over {wire:?}")).await;
        portolan.stop().await;
        // By ALPN.
        let auto = probed(wire, "").replace("protocol: h2,", "protocol: auto,");
        let portolan = probing(&papers, here, &auto).await;
        is_up(&portolan, &format!("nginx, which chooses {wire:?}")).await;
        portolan.stop().await;
        // On a port of their own.
        let port = format!(", port: {}", elsewhere.port());
        let portolan = probing(&papers, here, &probed(wire, &port)).await;
        portolan.wait_for_health("a", here, "unhealthy").await;
        let why = portolan.endpoint("a", here).await["because"].to_string();
        assert!(why.contains("status 503"), "{why}");
        portolan.stop().await;
    }
}

/// A server of node's.
struct Node {
    address: SocketAddr,
    _folder: TempDir,
    _child: Child,
}

const SERVER: &str = r"
const http2 = require('http2'), fs = require('fs');
const tls = process.argv[2] === 'tls';
const server = tls
  ? http2.createSecureServer({ cert: fs.readFileSync('tls.pem'), key: fs.readFileSync('tls.key') })
  : http2.createServer();
server.on('stream', (stream, headers) => {
  const fine = headers[':path'] !== '/health?deep=1' ||
    (headers[':authority'] === 'checked.example' && headers.host === undefined &&
     headers[':scheme'] === (tls ? 'https' : 'http'));
  stream.respond({ ':status': fine ? 200 : 400 });
  stream.end('ok');
});
server.listen(0, '127.0.0.1', () => {
  fs.writeFileSync('port.new', String(server.address().port));
  fs.renameSync('port.new', 'port');
});
";

impl Node {
    async fn start(papers: &Papers, wire: Wire) -> Self {
        tools::need("node", "nodejs").await;
        let folder = tempfile::tempdir().unwrap();
        let identity = &papers.identity;
        for (name, content) in [
            ("server.js", SERVER),
            ("tls.pem", &identity.certificate),
            ("tls.key", &identity.key),
        ] {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        let child = Command::new("node")
            .arg("server.js")
            .arg(if wire.is_tls() { "tls" } else { "plain" })
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let port = eventually("node listens", async || {
            let port = std::fs::read_to_string(folder.path().join("port")).ok()?;
            port.parse().ok()
        })
        .await;
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            _folder: folder,
            _child: child,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_and_haproxy_take_them_for_what_they_are() {
    let papers = Papers::new();
    for wire in TWO {
        let node = Node::start(&papers, wire).await;
        let portolan = probing(&papers, node.address, &probed(wire, "")).await;
        is_up(&portolan, &format!("node over {wire:?}")).await;
        portolan.stop().await;
        for (accept, announce) in [("", ""), (" accept-proxy", ", send_proxy: v2")] {
            let address = free().await;
            let tls = match wire {
                Wire::Tls2 => "ssl crt tls.pem alpn h2",
                _ => "proto h2",
            };
            let sections = format!(
                "frontend f\n  mode http\n  bind {address} {tls}{accept}\n  \
                 http-request return status 503 unless {{ path / }} or {{ req.hdr(host) checked.example }} {{ query deep=1 }}\n  \
                 http-request return status 200 content-type text/plain string ok\n"
            );
            let _haproxy = HaProxy::start(Some(&papers.identity), &sections).await;
            let rest = probed(wire, "") + announce;
            let portolan = probing(&papers, address, &rest).await;
            is_up(&portolan, &format!("HAProxy over {wire:?}{accept}")).await;
            portolan.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn they_have_connections_of_their_own_and_none_on_which_one_failed() {
    let papers = Papers::new();
    for wire in TWO {
        let failing = Arc::new(AtomicU64::new(200));
        let asked = Arc::new(AtomicU64::new(0));
        let (status, counted) = (failing.clone(), asked.clone());
        let serve = move |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
            let status = match request.uri().path() {
                "/health" => {
                    counted.fetch_add(1, Ordering::Relaxed);
                    status.load(Ordering::Relaxed) as u16
                }
                _ => 200,
            };
            async move {
                let answer = Response::builder().status(status).body(()).unwrap();
                respond.send_response(answer, true).unwrap();
            }
        };
        let builder = h2::server::Builder::new();
        let endpoint = Endpoint2::start(wire, &papers.identity, builder, serve).await;
        let portolan = probing(&papers, endpoint.address, &probed(wire, "")).await;
        portolan
            .wait_for_health("a", endpoint.address, "healthy")
            .await;
        eventually("ten probes", async || {
            (asked.load(Ordering::Relaxed) >= 10).then_some(())
        })
        .await;
        assert_eq!(endpoint.connections(), 1, "{wire:?}: one is kept");
        assert_eq!(fetch(portolan.address().await, "/").await.status, 200);
        assert_eq!(
            endpoint.connections(),
            2,
            "{wire:?}: another one for requests"
        );
        // Each that fails has the next one connect anew.
        failing.store(500, Ordering::Relaxed);
        portolan
            .wait_for_health("a", endpoint.address, "unhealthy")
            .await;
        let before = endpoint.connections();
        let more = eventually("more connections", async || {
            let more = endpoint.connections() - before;
            (more >= 5).then_some(more)
        });
        assert!(soon("they come", more).await >= 5);
        portolan.stop().await;
    }
}
