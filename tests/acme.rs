//! Certificates that look after themselves, against a real authority.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portolan_certs::acme::account;
use portolan_certs::acme::directory::{Client, Schemes};
use portolan_config::{Machine, check_text};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::advisor::Advisor;
use crate::harness::certificates::Authority;
use crate::harness::client::{Ask, Connection};
use crate::harness::config::{PROBES, pools};
use crate::harness::pebble::{Manners, Pebble, Ports, leads_to};
use crate::harness::portolan::Builder;
use crate::harness::{Origin, Portolan, eventually, fetch};

/// Portolan beside an authority that is not there yet.
struct Scene {
    ports: Ports,
    authority: Option<Authority>,
    origin: Origin,
    folder: TempDir,
    config: String,
}

/// The state of what a client is shown for a name.
enum Shown {
    /// A certificate of the authority: its DER.
    Issued(Vec<u8>),
    /// One that nobody trusts.
    NotYet,
}

impl Scene {
    /// `issuer`: more settings of the issuer, each before a comma. `names`: a list.
    async fn new(issuer: &str, names: &str) -> Self {
        let ports = Ports::new();
        let authority = Authority::new();
        let origin = Origin::start("aws").await;
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        let config = format!(
            "
state_dir: {state}
acme:
  pebble:
    directory: {directory}
    ca: {ca}
    email: ops@example.com
    terms_agreed: true
    retry: {{ min: 100ms, max: 500ms }}
    {issuer}
listeners:
  - {{ bind: \"127.0.0.1:0\", redirect_to_https: true }}
  - bind: \"127.0.0.1:0\"
    tls: {{ certificates: [ {{ acme: pebble, names: {names} }} ] }}
routes: [ {{ to: aws }} ]
{PROBES}{pools}",
            state = folder.path().join("state").display(),
            directory = ports.directory(),
            ca = folder.path().join("ca.pem").display(),
            pools = pools(&[("aws", &[&origin], "")]),
        );
        Self {
            ports,
            authority: Some(authority),
            origin,
            folder,
            config,
        }
    }

    fn portolan(&self) -> Builder {
        Portolan::with(&self.config)
    }

    /// The authority, which looks for answers at this Portolan.
    async fn pebble(&mut self, portolan: &Portolan, manners: Manners) -> Pebble {
        let authority = self.authority.take().unwrap();
        let (http, tls) = (listener(portolan, 0).await, listener(portolan, 1).await);
        Pebble::start(&self.ports, authority, manners, http.port(), tls.port()).await
    }

    /// Every file below `state_dir/acme` with this name.
    fn files(&self, name: &str) -> Vec<PathBuf> {
        fn walk(folder: &Path, name: &str, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, name, found);
                } else if path.file_name().unwrap() == name {
                    found.push(path);
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.folder.path().join("state/acme"), name, &mut found);
        found
    }
}

/// The address of a listener.
async fn listener(portolan: &Portolan, at: usize) -> SocketAddr {
    let status = portolan.api("/status").await;
    let bound = status["listeners"][at]["address"].as_str().unwrap();
    bound.parse().unwrap()
}

/// Takes any certificate.
#[derive(Debug)]
struct Anything;

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
        ]
    }
}

async fn connect(
    address: SocketAddr,
    name: &str,
    config: ClientConfig,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// What a client is shown that trusts these roots.
async fn shown(address: SocketAddr, name: &str, roots: &RootCertStore) -> Option<Shown> {
    let trusting = ClientConfig::builder()
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    if let Ok(stream) = connect(address, name, trusting).await {
        return Some(Shown::Issued(leaf(&stream)));
    }
    let credulous = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything))
        .with_no_client_auth();
    let stream = connect(address, name, credulous).await.ok()?;
    let words = b"Portolan: not yet issued";
    leaf(&stream)
        .windows(words.len())
        .any(|window| window == words)
        .then_some(Shown::NotYet)
}

fn leaf(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// Waits for a certificate that is good for a name, and is not this one.
async fn issued(address: SocketAddr, name: &str, roots: &RootCertStore, not: &[u8]) -> Vec<u8> {
    eventually(
        &format!("a new certificate for {name}"),
        async || match shown(address, name, roots).await {
            Some(Shown::Issued(leaf)) if leaf != not => Some(leaf),
            _ => None,
        },
    )
    .await
}

/// A connection that trusts these roots, for requests.
async fn client(address: SocketAddr, name: &str, roots: &RootCertStore) -> Connection {
    let trusting = ClientConfig::builder()
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    let stream = connect(address, name, trusting).await.unwrap();
    Connection::over(stream, name).await.unwrap()
}

/// What the API says about the one certificate.
async fn managed(portolan: &Portolan) -> Value {
    portolan.api("/certificates").await["managed"][0].clone()
}

async fn orders(portolan: &Portolan, outcome: &str) -> f64 {
    let outcome = format!("outcome=\"{outcome}\"");
    let labels = ["issuer=\"pebble\"", outcome.as_str()];
    portolan.metric("portolan_acme_orders_total", &labels).await
}

#[tokio::test]
async fn a_certificate_is_issued_by_http_and_found_again_after_a_restart() {
    let mut scene = Scene::new("", "[ a.example.com, b.example.com ]").await;
    // The authority is not there: everything else is.
    let portolan = scene.portolan().start().await;
    let address = listener(&portolan, 1).await;
    let nobody = RootCertStore::empty();
    let before = shown(address, "a.example.com", &nobody).await;
    assert!(matches!(before, Some(Shown::NotYet)));
    portolan
        .wait_for_log("no new certificate for a.example.com, b.example.com")
        .await;
    assert_eq!(managed(&portolan).await["state"], "urgent");

    // It refuses good nonces now and then, as authorities do.
    let manners = Manners {
        refuse_nonces: 15,
        ..Manners::default()
    };
    let pebble = scene.pebble(&portolan, manners).await;
    let roots = pebble.roots().await;
    let leaf = issued(address, "a.example.com", &roots, &[]).await;
    assert_eq!(issued(address, "b.example.com", &roots, &[]).await, leaf);
    let answer = client(address, "a.example.com", &roots)
        .await
        .ask(Ask::get("/x"))
        .await;
    assert_eq!(answer.unwrap().origin(), "aws");
    portolan
        .wait_for_log("pebble issued a certificate for a.example.com, b.example.com")
        .await;
    assert_eq!(orders(&portolan, "issued").await, 1.0);
    assert!(orders(&portolan, "unreachable").await >= 1.0);
    let state = eventually("the API knows", async || {
        let managed = managed(&portolan).await;
        (managed["state"] == "fine").then_some(managed)
    })
    .await;
    assert_eq!(state["failures"], 0);
    assert_eq!(state["error"], Value::Null);
    assert!(state["not_after"].as_u64() > state["next_order"].as_u64());

    // Tokens that nobody knows are requests like any other: here, redirected.
    let plain = listener(&portolan, 0).await;
    let answer = fetch(plain, "/.well-known/acme-challenge/unknown").await;
    assert_eq!(answer.status, 308);

    for name in ["account.json", "certificate.pem"] {
        let files = scene.files(name);
        assert_eq!(files.len(), 1, "{files:?}");
        let mode = std::fs::metadata(&files[0]).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert!(!portolan.log().contains("PRIVATE"));
    portolan.stop().await;
    drop(pebble);

    // The authority is gone, and not needed.
    let portolan = scene.portolan().start().await;
    let address = listener(&portolan, 1).await;
    match shown(address, "a.example.com", &roots).await {
        Some(Shown::Issued(again)) => assert_eq!(again, leaf),
        _ => panic!("the certificate was not found again"),
    }
    assert_eq!(orders(&portolan, "unreachable").await, 0.0);
    portolan.stop().await;
    drop(scene.origin);
}

#[tokio::test]
async fn a_certificate_is_issued_by_tls_alpn() {
    let mut scene = Scene::new("challenge: tls-alpn-01", "[ a.example.com ]").await;
    let portolan = scene.portolan().start().await;
    let pebble = scene.pebble(&portolan, Manners::default()).await;
    let address = listener(&portolan, 1).await;
    let roots = pebble.roots().await;
    issued(address, "a.example.com", &roots, &[]).await;
    // Whoever speaks the authority's protocol without being asked for anything gets nothing.
    let mut asking = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    asking.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    assert!(connect(address, "a.example.com", asking).await.is_err());
    portolan.stop().await;
}

#[tokio::test]
async fn a_wildcard_is_issued_by_records_that_a_program_writes() {
    let mut scene = Scene::new(
        "challenge: dns-01\n    dns: { exec: [ /bin/sh, HOOK ], wait: 0s }",
        "[ example.com, \"*.example.com\" ]",
    )
    .await;
    let hook = scene.folder.path().join("hook");
    let calls = scene.folder.path().join("calls");
    let script = format!(
        "set -e
echo \"$@\" >> {calls}
python3 - \"$@\" <<'END'
import json, sys, urllib.request
action, name, value = sys.argv[1:]
path = {{'present': 'set-txt', 'cleanup': 'clear-txt'}}[action]
body = json.dumps({{'host': name + '.', 'value': value}}).encode()
urllib.request.urlopen('http://127.0.0.1:{names}/' + path, body, 20)
END
",
        calls = calls.display(),
        names = scene.ports.names,
    );
    std::fs::write(&hook, script).unwrap();
    scene.config = scene.config.replace("HOOK", &hook.display().to_string());
    let portolan = scene.portolan().start().await;
    let pebble = scene.pebble(&portolan, Manners::default()).await;
    let address = listener(&portolan, 1).await;
    let roots = pebble.roots().await;
    let leaf = issued(address, "any.example.com", &roots, &[]).await;
    assert_eq!(issued(address, "example.com", &roots, &[]).await, leaf);
    // Before the authority was there, nothing was written; whatever was is taken away.
    let calls = std::fs::read_to_string(&calls).unwrap();
    let of = |action: &str| -> BTreeSet<String> {
        let lines = calls.lines().filter_map(|line| line.strip_prefix(action));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(of("present").len(), 2, "{calls}");
    assert_eq!(of("present"), of("cleanup"));
    assert!(calls.contains("present _acme-challenge.example.com "));
    portolan.stop().await;
}

#[tokio::test]
async fn certificates_are_renewed_while_they_are_in_use() {
    let mut scene = Scene::new("renew_after: 5%", "[ a.example.com ]").await;
    let portolan = scene.portolan().start().await;
    let manners = Manners {
        valid_for: 60,
        ..Manners::default()
    };
    let pebble = scene.pebble(&portolan, manners).await;
    let address = listener(&portolan, 1).await;
    let roots = pebble.roots().await;
    let first = issued(address, "a.example.com", &roots, &[]).await;
    let mut early = client(address, "a.example.com", &roots).await;
    let key = |path: &Path| {
        let text = std::fs::read_to_string(path).unwrap();
        text.split("-----END PRIVATE KEY-----")
            .next()
            .unwrap()
            .to_owned()
    };
    let file = scene.files("certificate.pem").remove(0);
    let first_key = key(&file);
    let second = issued(address, "a.example.com", &roots, &first).await;
    assert_ne!(
        key(&file),
        first_key,
        "every certificate has a key of its own"
    );
    issued(address, "a.example.com", &roots, &second).await;
    // Who was connected before is still served.
    let answer = early.ask(Ask::get("/x")).await.unwrap();
    assert_eq!(answer.origin(), "aws");
    assert_eq!(scene.files("account.json").len(), 1);
    assert!(orders(&portolan, "issued").await >= 3.0);
    portolan.stop().await;
}

#[tokio::test]
async fn a_failed_renewal_is_told_and_tried_again_and_the_old_one_stays() {
    let mut scene = Scene::new("renew_after: 5%", "[ a.example.com ]").await;
    let portolan = scene.portolan().start().await;
    let manners = Manners {
        valid_for: 60,
        ..Manners::default()
    };
    let pebble = scene.pebble(&portolan, manners).await;
    let address = listener(&portolan, 1).await;
    let roots = pebble.roots().await;
    issued(address, "a.example.com", &roots, &[]).await;

    // From now on, the name leads to where nobody answers.
    leads_to(&scene.ports, "a.example.com", "127.0.0.9").await;
    eventually("orders fail, again and again", async || {
        (orders(&portolan, "challenge_failed").await >= 2.0).then_some(())
    })
    .await;
    let state = managed(&portolan).await;
    assert!(
        ["failing", "urgent"].contains(&state["state"].as_str().unwrap()),
        "{state}"
    );
    assert!(state["failures"].as_u64() >= Some(2), "{state}");
    let said = "from pebble: the authority was not convinced: a.example.com: ";
    portolan.wait_for_log(said).await;
    let status = portolan.api("/status").await.to_string();
    assert!(status.contains("was not convinced"), "{status}");
    let labels = ["issuer=\"pebble\"", "state=\"fine\""];
    assert_eq!(
        portolan.metric("portolan_acme_certificates", &labels).await,
        0.0
    );
    let Some(Shown::Issued(old)) = shown(address, "a.example.com", &roots).await else {
        panic!("the old certificate is gone");
    };

    leads_to(&scene.ports, "a.example.com", "127.0.0.1").await;
    issued(address, "a.example.com", &roots, &old).await;
    portolan.stop().await;
}

#[tokio::test]
async fn an_account_that_the_authority_forgot_is_made_again_and_one_that_is_closed_is_told() {
    let mut scene = Scene::new("renew_after: 5%", "[ a.example.com ]").await;
    let portolan = scene.portolan().start().await;
    let manners = Manners {
        valid_for: 120,
        ..Manners::default()
    };
    let pebble = scene.pebble(&portolan, manners).await;
    let address = listener(&portolan, 1).await;
    let roots = pebble.roots().await;
    issued(address, "a.example.com", &roots, &[]).await;

    // Somebody closes the account: with its key, as only its owner can.
    let checked = check_text("portolan.yaml", scene.config.clone(), &Machine::default());
    let plan = checked.plan.unwrap();
    let issuer = &plan.acme[0];
    let ca = issuer.ca.as_ref().map(|ca| ca.value.as_path());
    let asking = Client::new(ca, Schemes::Https).unwrap();
    let account = account::existing(issuer, &asking).await.unwrap().unwrap();
    account.deactivate().await.unwrap();
    eventually("orders are refused", async || {
        (orders(&portolan, "refused").await >= 2.0).then_some(())
    })
    .await;
    let state = managed(&portolan).await;
    assert_eq!(state["state"], "failing", "{state}");
    assert!(
        state["error"]
            .as_str()
            .unwrap()
            .to_lowercase()
            .contains("account"),
        "{state}"
    );
    assert!(matches!(
        shown(address, "a.example.com", &roots).await,
        Some(Shown::Issued(_))
    ));

    // Without its file, there is a new one.
    std::fs::remove_file(&scene.files("account.json")[0]).unwrap();
    let issued_before = orders(&portolan, "issued").await;
    eventually("orders go well again", async || {
        (orders(&portolan, "issued").await > issued_before).then_some(())
    })
    .await;
    portolan.stop().await;
}

#[tokio::test]
async fn an_external_account_is_told_and_its_key_is_not() {
    const KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let mut scene = Scene::new(
        "external_account: { key_id: kid-1, hmac_key: \"${file:KEYFILE}\" }",
        "[ a.example.com ]",
    )
    .await;
    let key = scene.folder.path().join("hmac");
    std::fs::write(&key, KEY).unwrap();
    scene.config = scene.config.replace("KEYFILE", &key.display().to_string());
    let portolan = scene.portolan().start().await;
    let manners = Manners {
        external: Some(("kid-1", KEY)),
        ..Manners::default()
    };
    let pebble = scene.pebble(&portolan, manners).await;
    let address = listener(&portolan, 1).await;
    let roots = pebble.roots().await;
    issued(address, "a.example.com", &roots, &[]).await;
    assert!(!portolan.log().contains(KEY));
    portolan.stop().await;
}

#[tokio::test]
async fn an_authority_that_says_when_to_renew_is_obeyed() {
    let mut scene = Scene::new("", "[ a.example.com ]").await;
    let authority = scene.authority.as_ref().unwrap();
    let advisor = Advisor::start(authority, scene.ports.acme).await;
    let directory = format!("https://{}/dir", advisor.address);
    scene.config = scene.config.replace(&scene.ports.directory(), &directory);
    let portolan = scene.portolan().start().await;
    let pebble = scene.pebble(&portolan, Manners::default()).await;
    let address = listener(&portolan, 1).await;
    let roots = pebble.roots().await;
    let first = issued(address, "a.example.com", &roots, &[]).await;
    // Years before its time, because the authority says so.
    issued(address, "a.example.com", &roots, &first).await;
    let asked = eventually("the authority is asked about the second", async || {
        let asked = advisor.asked();
        (asked.len() >= 2).then_some(asked)
    })
    .await;
    assert_ne!(asked[0], asked[1]);
    assert_eq!(advisor.replaced(), [asked[0].clone()]);
    // That one is to be renewed in a hundred years: it has to be, before its end.
    let state = eventually("the advice is taken", async || {
        let managed = managed(&portolan).await;
        let (next, end) = (
            managed["next_order"].as_f64()?,
            managed["not_after"].as_f64()?,
        );
        // Without advice it would be two thirds of the way.
        let now = portolan_certs::now() as f64;
        (next - now > 0.9 * (end - now)).then_some(managed)
    })
    .await;
    assert_eq!(state["state"], "fine");
    assert_eq!(orders(&portolan, "issued").await, 2.0);
    portolan.stop().await;
}
