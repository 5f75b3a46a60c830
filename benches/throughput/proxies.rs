//! The proxies that are measured.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sched::CpuSet;

use crate::estate::{self, Estate};
use crate::process::Process;
use crate::report;

/// Routes of the large configuration; clients ask for the hosts of all of them, whoever serves.
pub(crate) const ROUTES: usize = 10_000;

/// Few enough that every endpoint of every pool has its connections: this is about the proxy.
const POOLS: usize = 20;

/// How long a proxy may take to serve its first request.
const PATIENCE: Duration = Duration::from_secs(30);

/// A proxy, and how it is set up.
pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    setup: Setup,
}

#[derive(Clone, Copy, PartialEq)]
enum Setup {
    /// The engine, and endpoints in turn.
    Bare,
    /// The same with Portolan.
    Plain,
    /// And with a line in the access log for every request.
    Logged,
    /// The large configuration, and clients from everywhere.
    Steered,
}

/// All of them, the one that the others are compared with first.
pub(crate) const PROXIES: [Proxy; 4] = [
    Proxy {
        name: "bare pingora",
        setup: Setup::Bare,
    },
    Proxy {
        name: "Portolan, one pool",
        setup: Setup::Plain,
    },
    Proxy {
        name: "Portolan, one pool, access log",
        setup: Setup::Logged,
    },
    Proxy {
        name: "Portolan, 10,000 routes by geography",
        setup: Setup::Steered,
    },
];

impl Proxy {
    /// Starts it, and waits until it serves.
    pub(crate) async fn start(
        &self,
        endpoints: &[String; 2],
        cores: &CpuSet,
    ) -> (Process, SocketAddr) {
        let listen = free_address();
        let portolan = Path::new(env!("CARGO_BIN_EXE_portolan"));
        let mut command = if self.setup == Setup::Bare {
            let bare = portolan.with_file_name("examples/bare_round_robin");
            let mut command = Command::new(bare);
            command.arg(listen.to_string()).args(endpoints);
            command
        } else {
            let folder = report::folder();
            // Hundreds of megabytes by the end; it need not have been there.
            let _ = std::fs::remove_file(access_log(&folder));
            let config = folder.join("portolan.yaml");
            let text = self.config(listen, endpoints, &folder);
            std::fs::write(&config, text).expect("a file for the configuration");
            let mut command = Command::new(portolan);
            command.arg("run").arg("--config").arg(config);
            command
        };
        let process = Process::start(&mut command, cores);
        let serving = async {
            while !serves(listen) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, serving).await;
        assert!(waited.is_ok(), "{} does not serve", self.name);
        (process, listen)
    }

    fn config(&self, listen: SocketAddr, endpoints: &[String; 2], folder: &Path) -> String {
        let log = match self.setup {
            Setup::Logged => format!("{{ to: {:?} }}", access_log(folder)),
            _ => "off".to_owned(),
        };
        let traffic = match self.setup {
            Setup::Steered => {
                let estate = Estate {
                    routes: ROUTES,
                    pools: POOLS,
                    endpoints_per_pool: endpoints.len(),
                    probes: true,
                };
                let trusted = "client_ip: { trusted: [ 127.0.0.0/8 ] }";
                format!("{trusted}\n{}", estate.yaml(endpoints))
            }
            _ => format!(
                "pools: {{ all: {{ endpoints: [ {} ], balance: round_robin }} }}\n\
                 routes: [ {{ to: all }} ]\n",
                endpoints.join(", ")
            ),
        };
        format!(
            "listeners: [ {{ bind: '{listen}' }} ]\n\
             admin: {{ bind: '127.0.0.1:0' }}\n\
             workers: 1\n\
             state_dir: {:?}\n\
             log: {{ level: error }}\n\
             access_log: {log}\n\
             {traffic}",
            folder.join("state")
        )
    }
}

fn access_log(folder: &Path) -> PathBuf {
    folder.join("log/access.log")
}

/// An address that nobody listens on. Somebody might before the proxy does; then it does not serve,
/// and the run ends.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("it is bound")
}

/// Whether a request gets an answer from an endpoint.
fn serves(listen: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(listen)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        let host = estate::host(0);
        write!(
            stream,
            "GET /v1/ready HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
        )?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(&status == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}
