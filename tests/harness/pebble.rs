//! A real certificate authority: Pebble, with a name server that says what a test wants it to say.
//! Both come with the package `pebble`.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use tempfile::TempDir;

use super::certificates::Authority;
use super::client::{Ask, Connection, get};
use super::deadline::eventually;

/// Where everything will be, before any of it runs.
pub(crate) struct Ports {
    pub(crate) acme: u16,
    management: u16,
    dns: u16,
    pub(crate) names: u16,
}

/// A port that nobody had a moment ago.
fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

impl Ports {
    pub(crate) fn new() -> Self {
        Self {
            acme: free_port(),
            management: free_port(),
            dns: free_port(),
            names: free_port(),
        }
    }

    /// The URL of the authority's directory.
    pub(crate) fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.acme)
    }
}

/// How Pebble is to be.
#[derive(Default)]
pub(crate) struct Manners {
    /// So many of 100 good nonces are refused.
    pub(crate) refuse_nonces: u8,
    /// How long certificates are valid, in seconds; 0: years.
    pub(crate) valid_for: u64,
    /// The external accounts it knows, and insists on: name and key.
    pub(crate) external: Option<(&'static str, &'static str)>,
}

/// The authority, until it is dropped.
pub(crate) struct Pebble {
    pebble: Child,
    _names: Names,
    _folder: TempDir,
    management: SocketAddr,
    authority: Authority,
}

/// The name server, until it is dropped.
struct Names(Child);

impl Drop for Names {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        let _ = self.pebble.kill();
        let _ = self.pebble.wait();
    }
}

fn start(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let started = command.stderr(Stdio::null()).spawn();
    started.unwrap_or_else(|error| {
        panic!("{command:?}: {error}: install the package `pebble`; tests/run does")
    })
}

impl Pebble {
    /// Starts it. It looks for HTTP answers and TLS answers at these ports of this machine.
    /// `authority` has signed what it shows itself.
    pub(crate) async fn start(
        ports: &Ports,
        authority: Authority,
        manners: Manners,
        http: u16,
        tls: u16,
    ) -> Self {
        let names = start(
            Command::new("pebble-challtestsrv")
                .args(["-dns01", &format!("127.0.0.1:{}", ports.dns)])
                .args(["-management", &format!("127.0.0.1:{}", ports.names)])
                .args(["-http01", "", "-https01", "", "-tlsalpn01", ""])
                .args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""]),
        );
        let names = Names(names);
        let folder = TempDir::new().unwrap();
        let identity = authority.sign(&["127.0.0.1"]);
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("cert.pem"), &identity.certificate).unwrap();
        std::fs::write(at("key.pem"), &identity.key).unwrap();
        let mut config = json!({
            "listenAddress": format!("127.0.0.1:{}", ports.acme),
            "managementListenAddress": format!("127.0.0.1:{}", ports.management),
            "certificate": at("cert.pem"),
            "privateKey": at("key.pem"),
            "httpPort": http,
            "tlsPort": tls,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": manners.external.is_some(),
        });
        if manners.valid_for > 0 {
            config["certificateValidityPeriod"] = manners.valid_for.into();
        }
        if let Some((id, key)) = manners.external {
            config["externalAccountMACKeys"] = json!({ id: key });
        }
        let mut file = std::fs::File::create(at("pebble.json")).unwrap();
        write!(file, "{}", json!({ "pebble": config })).unwrap();
        let pebble = start(
            Command::new("pebble")
                .arg("-config")
                .arg(at("pebble.json"))
                .args(["-dnsserver", &format!("127.0.0.1:{}", ports.dns)])
                .env("PEBBLE_VA_NOSLEEP", "1")
                .env("PEBBLE_AUTHZREUSE", "0")
                .env("PEBBLE_WFE_NONCEREJECT", manners.refuse_nonces.to_string()),
        );
        let pebble = Self {
            pebble,
            _names: names,
            _folder: folder,
            management: SocketAddr::from(([127, 0, 0, 1], ports.management)),
            authority,
        };
        eventually("the authority answers", async || {
            pebble.get("/roots/0").await
        })
        .await;
        let names = SocketAddr::from(([127, 0, 0, 1], ports.names));
        eventually("the name server answers", async || {
            get(names, "/").await.ok()
        })
        .await;
        pebble
    }

    /// Asks its management interface.
    async fn get(&self, path: &str) -> Option<String> {
        let stream = self.authority.connect(self.management, "127.0.0.1", &[]);
        let mut connection = Connection::over(stream.await.ok()?, "127.0.0.1")
            .await
            .ok()?;
        let answer = connection.ask(Ask::get(path)).await.ok()?;
        (answer.status == 200).then(|| answer.text())
    }

    /// What clients have to trust: it has another root every time it is started.
    pub(crate) async fn roots(&self) -> RootCertStore {
        let pem = self.get("/roots/0").await.unwrap();
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        roots.add(root).unwrap();
        roots
    }
}

/// Tells the name server where a name leads.
pub(crate) async fn leads_to(ports: &Ports, name: &str, address: &str) {
    let names = SocketAddr::from(([127, 0, 0, 1], ports.names));
    let clear = json!({ "host": name }).to_string();
    let add = json!({ "host": name, "addresses": [ address ] }).to_string();
    for (path, body) in [("/clear-a", clear), ("/add-a", add)] {
        let ask = Ask::new(http::Method::POST, path).body(body);
        let answer = ask.to(names).await.unwrap();
        assert_eq!(answer.status, 200, "{path}");
    }
}
