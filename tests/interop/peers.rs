//! Programs of others, started with a configuration in a folder of their own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::harness::certificates::Identity;
use crate::harness::python::Python;
use crate::harness::{Wire, eventually, tools};

/// What others use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Nginx,
    HaProxy,
    Envoy,
    Node,
    Python,
}

/// Seconds that an idle connection is kept by those that can be told.
pub(super) const IDLE: u64 = 3;

impl Peer {
    /// Those that are tried behind Portolan, and what they speak there.
    pub(super) const BEHIND: [(Self, &'static [Wire]); 5] = [
        (Self::Nginx, &Wire::ALL),
        (Self::HaProxy, &Wire::ALL),
        (Self::Envoy, &Wire::ALL),
        (Self::Node, &Wire::ALL),
        (Self::Python, &[Wire::Http1, Wire::Tls1]),
    ];

    /// Its binary, installed if it was missing.
    pub(super) async fn program(self) -> PathBuf {
        let program = match self {
            Self::Envoy => return envoy().await,
            Self::Nginx => "nginx",
            Self::HaProxy => "haproxy",
            Self::Node => "node",
            Self::Python => "python3",
        };
        let package = match self {
            Self::Node => "nodejs",
            _ => program,
        };
        tools::need(program, package).await;
        program.into()
    }

    /// What it says of its version.
    pub(super) async fn version(self) -> String {
        let flag = match self {
            Self::Nginx | Self::HaProxy => "-v",
            _ => "--version",
        };
        let output = Command::new(self.program().await).arg(flag).output().await;
        let output = output.unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }
}

/// The binary itself, from the Python package that carries it.
async fn envoy() -> PathBuf {
    let python = Python::with("envoy", include_str!("envoy.txt")).await;
    let lib = python.folder().join("lib");
    let versions = std::fs::read_dir(lib).unwrap();
    let mut binaries = versions
        .flatten()
        .map(|version| version.path().join("site-packages/envoy/_bin/envoy"));
    binaries.find(|binary| binary.exists()).unwrap()
}

/// A program that runs, at an address that stays its own while it does not.
pub(super) struct Running {
    pub(super) address: SocketAddr,
    peer: Peer,
    command: Box<dyn Fn() -> Command + Send + Sync>,
    child: Child,
    folder: TempDir,
    _kept: Socket,
}

impl Running {
    /// An endpoint that speaks this. Those that are proxies have `origin` behind them.
    pub(super) async fn behind(
        peer: Peer,
        wire: Wire,
        identity: &Identity,
        origin: SocketAddr,
    ) -> Self {
        let (kept, address) = keep();
        let folder = files(identity);
        let at = folder.path().to_owned();
        let program = peer.program().await;
        match peer {
            Peer::Nginx => write(&at, "nginx.conf", &nginx_behind(wire, address, origin)),
            Peer::HaProxy => write(&at, "haproxy.cfg", &haproxy_behind(wire, address, origin)),
            Peer::Envoy => {
                let tls = wire
                    .is_tls()
                    .then_some(if wire.is_http2() { "h2" } else { "http/1.1" });
                let config = envoy_config(address, tls, origin, false);
                write(&at, "envoy.json", &config.to_string());
            }
            Peer::Node | Peer::Python => {}
        }
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop");
        let port = address.port().to_string();
        let command = move || {
            let mut command = Command::new(&program);
            command.current_dir(&at);
            let tls = ["c.pem", "k.pem"];
            match peer {
                Peer::Node => {
                    let word = format!("{wire:?}").to_lowercase();
                    command
                        .arg(tests.join("endpoint.js"))
                        .args([&word, &port])
                        .args(tls);
                }
                Peer::Python => {
                    command.arg(tests.join("endpoint.py")).arg(&port);
                    command.arg(IDLE.to_string());
                    if wire.is_tls() {
                        command.args(tls);
                    }
                }
                _ => {
                    proxy_arguments(peer, &mut command, &at);
                }
            }
            command
        };
        Self::start(peer, address, folder, kept, Box::new(command)).await
    }

    /// A proxy in front of this address, which it speaks this to. Clients speak either version to it.
    pub(super) async fn in_front(
        peer: Peer,
        wire: Wire,
        of: SocketAddr,
        identity: &Identity,
    ) -> Self {
        let (kept, address) = keep();
        let folder = files(identity);
        let at = folder.path().to_owned();
        let program = peer.program().await;
        match peer {
            Peer::Nginx => write(&at, "nginx.conf", &nginx_in_front(address, of)),
            Peer::HaProxy => write(&at, "haproxy.cfg", &haproxy_in_front(wire, address, of)),
            Peer::Envoy => {
                let config = envoy_config(address, None, of, wire.is_http2());
                write(&at, "envoy.json", &config.to_string());
            }
            Peer::Node | Peer::Python => unreachable!("no proxies"),
        }
        let command = move || {
            let mut command = Command::new(&program);
            command.current_dir(&at);
            proxy_arguments(peer, &mut command, &at);
            command
        };
        Self::start(peer, address, folder, kept, Box::new(command)).await
    }

    async fn start(
        peer: Peer,
        address: SocketAddr,
        folder: TempDir,
        kept: Socket,
        command: Box<dyn Fn() -> Command + Send + Sync>,
    ) -> Self {
        let child = spawn(command(), address, peer).await;
        Self {
            address,
            peer,
            command,
            child,
            folder,
            _kept: kept,
        }
    }

    /// Where it was started.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends it, without a word to anybody.
    pub(super) async fn kill(&mut self) {
        end(&mut self.child).await;
    }

    /// Starts it again.
    pub(super) async fn revive(&mut self) {
        self.child = spawn((self.command)(), self.address, self.peer).await;
    }

    /// Has it read its configuration again, for those that do that by a signal: others take over, and
    /// whoever served until now leaves.
    pub(super) fn reload(&self) {
        let signal = match self.peer {
            Peer::Nginx => Signal::SIGHUP,
            Peer::HaProxy => Signal::SIGUSR2,
            other => unreachable!("{other:?} knows no such thing"),
        };
        let pid = self.child.id().unwrap();
        kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
    }
}

async fn spawn(mut command: Command, address: SocketAddr, peer: Peer) -> Child {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        // All that it begins ends with it.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    eventually(&format!("{peer:?} serves"), async || {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("{peer:?} ended: {status}");
        }
        TcpStream::connect(address).await.ok()
    })
    .await;
    child
}

/// Ends a program and its workers.
pub(super) async fn end(child: &mut Child) {
    if let Some(pid) = child.id() {
        // It may have ended by itself.
        let _ = nix::sys::signal::killpg(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        child.wait().await.unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) = self.child.id() {
            let _ = nix::sys::signal::killpg(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }
}

/// An address that nobody else gets while this is kept: it is bound, and never listened on.
fn keep() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

fn files(identity: &Identity) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let both = format!("{}{}", identity.certificate, identity.key);
    for (name, text) in [
        ("c.pem", &identity.certificate),
        ("k.pem", &identity.key),
        ("both.pem", &both),
    ] {
        write(folder.path(), name, text);
    }
    folder
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}

fn proxy_arguments(peer: Peer, command: &mut Command, folder: &Path) {
    match peer {
        Peer::Nginx => {
            command.arg("-p").arg(folder).args(["-e", "stderr"]);
            command.arg("-c").arg(folder.join("nginx.conf"));
        }
        Peer::HaProxy => {
            command.args(["-W", "-db", "-f", "haproxy.cfg"]);
        }
        Peer::Envoy => {
            command.args(["-c", "envoy.json", "--concurrency", "1"]);
            command.args(["--disable-hot-restart", "-l", "error"]);
        }
        Peer::Node | Peer::Python => unreachable!("no proxies"),
    }
}

fn nginx(server: &str, location: &str) -> String {
    // Workers would become another user's, who may not come into this folder.
    let user = if rustix::process::getuid().is_root() {
        "user root;"
    } else {
        ""
    };
    format!(
        "{user}
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path client;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    client_max_body_size 0;
    server {{
{server}
        location / {{
            proxy_request_buffering off;
            proxy_buffering off;
{location}
        }}
    }}
}}
"
    )
}

fn nginx_behind(wire: Wire, address: SocketAddr, origin: SocketAddr) -> String {
    let tls = if wire.is_tls() { " ssl" } else { "" };
    let two = if wire.is_http2() { " http2" } else { "" };
    nginx(
        &format!(
            "        listen {address}{tls}{two};
        keepalive_timeout {IDLE}s;
        ssl_certificate c.pem;
        ssl_certificate_key k.pem;"
        ),
        &format!(
            "            proxy_pass http://{origin};
            proxy_http_version 1.1;
            proxy_set_header Connection '';"
        ),
    )
}

/// As Debian's examples have it: HTTP/1.0 towards what is behind, and no word about Host.
fn nginx_in_front(address: SocketAddr, of: SocketAddr) -> String {
    nginx(
        &format!("        listen {address};"),
        &format!("            proxy_pass http://{of};"),
    )
}

fn haproxy(listen: &str, server: &str, more: &str) -> String {
    format!(
        "global
    maxconn 1000
defaults
    mode http
    timeout client 30s
    timeout server 30s
    timeout connect 5s
    timeout http-keep-alive {IDLE}s
frontend clients
    bind {listen}
    default_backend servers
backend servers
{more}    server one {server}
"
    )
}

fn haproxy_behind(wire: Wire, address: SocketAddr, origin: SocketAddr) -> String {
    let speaks = match wire {
        Wire::Http1 => "",
        Wire::H2c => " proto h2",
        Wire::Tls1 => " ssl crt both.pem alpn http/1.1",
        Wire::Tls2 => " ssl crt both.pem alpn h2",
    };
    haproxy(&format!("{address}{speaks}"), &origin.to_string(), "")
}

fn haproxy_in_front(wire: Wire, address: SocketAddr, of: SocketAddr) -> String {
    let proto = if wire.is_http2() { " proto h2" } else { "" };
    // Plain checks, as they come: HTTP/1.0 and no Host.
    let server = format!("{of} check inter 100ms{proto} check-proto h1");
    haproxy(&address.to_string(), &server, "    option httpchk\n")
}

/// Envoy: clients speak to it what they like; with `tls` that protocol over TLS.
fn envoy_config(address: SocketAddr, tls: Option<&str>, to: SocketAddr, h2c: bool) -> Value {
    let kind = |name: &str| format!("type.googleapis.com/envoy.{name}");
    let at = |at: SocketAddr| json!({ "socket_address": { "address": at.ip(), "port_value": at.port() } });
    let manager = json!({
        "@type": kind("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "clients",
        "common_http_protocol_options": { "idle_timeout": format!("{IDLE}s") },
        "route_config": { "virtual_hosts": [ {
            "name": "all",
            "domains": [ "*" ],
            "routes": [ { "match": { "prefix": "/" }, "route": { "cluster": "to", "timeout": "0s" } } ],
        } ] },
        "http_filters": [ {
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": kind("extensions.filters.http.router.v3.Router") },
        } ],
    });
    let mut chain = json!({ "filters": [ {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": manager,
    } ] });
    if let Some(protocol) = tls {
        chain["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": kind("extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
                "common_tls_context": {
                    "alpn_protocols": [ protocol ],
                    "tls_certificates": [ {
                        "certificate_chain": { "filename": "c.pem" },
                        "private_key": { "filename": "k.pem" },
                    } ],
                },
            },
        });
    }
    let mut cluster = json!({
        "name": "to",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "to",
            "endpoints": [ { "lb_endpoints": [ { "endpoint": { "address": at(to) } } ] } ],
        },
    });
    if h2c {
        let options = "extensions.upstreams.http.v3.HttpProtocolOptions";
        cluster["typed_extension_protocol_options"] = json!({ format!("envoy.{options}"): {
            "@type": kind(options),
            "explicit_http_config": { "http2_protocol_options": {} },
        } });
    }
    json!({ "static_resources": {
        "listeners": [ { "name": "clients", "address": at(address), "filter_chains": [ chain ] } ],
        "clusters": [ cluster ],
    } })
}
