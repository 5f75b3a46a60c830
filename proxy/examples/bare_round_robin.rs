//! The least that a proxy on pingora can be: endpoints in turn over HTTP/1.1, and nothing else.
//! `benches/throughput` measures Portolan beside it.
//!
//! ```text
//! bare_round_robin LISTEN [--tls LISTEN FOLDER] ENDPOINT...
//! ```
//!
//! The folder has `cert.pem` and `key.pem`; there, clients may speak HTTP/2 as well.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use pingora::Result;
use pingora::listeners::tls::TlsSettings;
use pingora::modules::http::HttpModules;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;

/// Who is next.
struct RoundRobin {
    endpoints: Vec<SocketAddr>,
    turn: AtomicUsize,
}

#[async_trait]
impl ProxyHttp for RoundRobin {
    type CTX = ();

    fn new_ctx(&self) {}

    /// The engine would look at every answer for compression; this one does less.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.endpoints.len();
        Ok(Box::new(HttpPeer::new(
            self.endpoints[turn],
            false,
            String::new(),
        )))
    }
}

fn main() -> std::result::Result<(), String> {
    let mut arguments = std::env::args().skip(1).peekable();
    let listen = arguments
        .next()
        .ok_or("an address to listen on is missing")?;
    let tls = arguments
        .next_if(|argument| argument == "--tls")
        .map(|_| arguments.next().zip(arguments.next()))
        .map(|both| both.ok_or("--tls needs an address and a folder"))
        .transpose()?;
    let endpoints = arguments
        .map(|endpoint| {
            endpoint
                .parse()
                .map_err(|_| format!("not an address: {endpoint}"))
        })
        .collect::<std::result::Result<Vec<SocketAddr>, _>>()?;
    if endpoints.is_empty() {
        return Err("an endpoint is missing".to_owned());
    }
    // One worker thread, and as many idle connections to endpoints as Portolan keeps.
    let conf = ServerConf {
        threads: 1,
        upstream_keepalive_pool_size: 4096,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let proxy = RoundRobin {
        endpoints,
        turn: AtomicUsize::new(0),
    };
    let mut service = http_proxy_service(&Arc::clone(&server.configuration), proxy);
    service.add_tcp(&listen);
    if let Some((listen, folder)) = tls {
        let file = |name: &str| format!("{folder}/{name}");
        let mut settings = TlsSettings::intermediate(&file("cert.pem"), &file("key.pem"))
            .map_err(|error| error.to_string())?;
        settings.enable_h2();
        service.add_tls_with_settings(&listen, None, settings);
    }
    server.add_service(service);
    server.run_forever()
}
