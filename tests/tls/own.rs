//! Certificates that nobody has signed but they themselves, made by `openssl`, and named as the `ca` of
//! who shows them.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::certificates::Authority;
use crate::harness::client::Connection;
use crate::harness::config::{LISTENER, pool};
use crate::harness::openssl::openssl;
use crate::harness::portolan::{command_in, stderr, stdout};
use crate::harness::{Ask, Origin, Portolan, eventually, fetch};

/// Made with `openssl x509 -req -signkey` of OpenSSL 3.0: others make none of version 1 any more.
const VERSION_1: &str = "\
-----BEGIN CERTIFICATE-----
MIIBFDCBuwIUWQyYBlDBgLv1/QqCraaKH93tuVkwCgYIKoZIzj0EAwIwDDEKMAgG
A1UEAwwBeDAgFw0yNjEyMDEwNjAyMzJaGA8yMTI2MTEwNzA2MDIzMlowDDEKMAgG
A1UEAwwBeDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABPyHcLSo1EhD0K/vjeuA
rGjQn3HMbjYQklRTjSj9GfyB793eKOUOOlAxj/gZIrAzrgNOfcaMP/gvd30dCqZw
5iswCgYIKoZIzj0EAwIDSAAwRQIgOKiBslFy8L27PEm1V/CtS3NeSMbNSdBbJA2A
YgNu+4gCIQC8HlgKnCTvwtJnc3TGq7INXavpPyAaTcXyJxeo0yPohA==
-----END CERTIFICATE-----
";

/// A server that shows this certificate, and speaks both versions.
fn server(folder: &std::path::Path, name: &str) -> ServerConfig {
    let at = |ending: &str| folder.join(format!("{name}.{ending}"));
    let chain = vec![CertificateDer::from_pem_file(at("pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(at("key")).unwrap();
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

async fn make(folder: &std::path::Path, name: &str, args: &str) {
    openssl(
        folder,
        &format!("req -x509 -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.pem -subj /CN=api.internal {args}"),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_that_openssl_makes_is_trusted_when_it_is_the_one_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let names = "-days 30 -addext subjectAltName=DNS:api.internal";
    for (name, args) in [
        ("plain", "-days 30"),
        ("named", names),
        (
            "leaf",
            &format!("{names} -addext basicConstraints=critical,CA:FALSE"),
        ),
        ("other", names),
    ] {
        make(folder.path(), name, args).await;
    }
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let mut origins = Vec::new();
    let mut text = format!("{LISTENER}pools:\n");
    let mut routes = String::from("routes:\n");
    // Who shows what, who is trusted, and what comes of it.
    let cases = [
        ("a", "plain", "plain", None),
        ("b", "named", "named", None),
        ("c", "leaf", "leaf", None),
        ("d", "named", "other", Some("is one of a CA")),
        ("f", "plain", "both", None),
        ("g", "leaf", "other", Some("another CA of the same name")),
    ];
    let both = read("other.pem") + &read("plain.pem");
    for protocol in ["http1", "h2", "auto"] {
        for (name, shows, trusts, _) in &cases {
            let origin = Origin::start_tls(name, server(folder.path(), shows)).await;
            let name = format!("{name}-{protocol}");
            text += &pool(
                &name,
                &[origin.address],
                &format!(
                    ", outlier: off, protocol: {protocol}, health: {{ http: /health, every: 200ms, timeout: 5s, down_after: 1, up_after: 1 }}, tls: {{ server_name: api.internal, ca: {trusts}.pem }}"
                ),
            );
            routes += &format!(
                "  - {{ path: /{name}, to: {name}, retry: {{ tries: 1 }}, rewrite: {{ strip_prefix: /{name} }} }}\n"
            );
            origins.push(origin);
        }
    }
    let mut builder = Portolan::with(&(text + &routes)).file("both.pem", &both);
    for name in ["plain", "named", "leaf", "other"] {
        builder = builder.file(&format!("{name}.pem"), read(&format!("{name}.pem")));
    }
    let portolan = builder.start().await;
    let address = portolan.address().await;
    for protocol in ["http1", "h2", "auto"] {
        for (name, _, _, wrong) in &cases {
            let pool = format!("{name}-{protocol}");
            portolan.wait_for_pool(&pool, wrong.is_none()).await;
            let answer = fetch(address, &format!("/{pool}/echo")).await;
            match wrong {
                None => assert_eq!(answer.status, 200, "{pool}: {}", answer.text()),
                Some(why) => {
                    assert_ne!(answer.status, 200, "{pool}");
                    let told = portolan.api(&format!("/pools/{pool}")).await.to_string();
                    assert!(told.contains(why), "{pool}: {told}");
                }
            }
        }
    }
    portolan.stop().await;
}

/// One of version 1 has no names, and no library verifies it: that is told by `check`, with what to do.
#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_be_verified_is_told_by_check() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    openssl(
        path,
        "req -new -newkey rsa:2048 -nodes -keyout v1.key -out v1.csr -subj /CN=x",
    )
    .await;
    std::fs::write(path.join("v1.pem"), VERSION_1).unwrap();
    let text = |ca: &str| {
        format!(
            "{LISTENER}pools:\n{}routes: [ {{ to: a }} ]\n",
            pool(
                "a",
                &["127.0.0.1:9".parse().unwrap()],
                &format!(", tls: {{ ca: {ca} }}")
            )
        )
    };
    for (ca, words) in [
        ("v1.pem", "version 1"),
        ("v1.csr", "a certificate request"),
        ("v1.key", "a private key"),
    ] {
        std::fs::write(path.join("c.yaml"), text(ca)).unwrap();
        let output = command_in(path, &["check", "--config", "c.yaml"]).await;
        let said = stdout(&output) + &stderr(&output);
        // As a CA it can be trusted, and only as that.
        let code = if ca == "v1.pem" { 0 } else { 1 };
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(words), "{ca}: {said}");
    }
}

/// The same towards clients: one that shows the very certificate that `client_ca` names.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_s_own_certificate_is_trusted_when_it_is_the_one_that_is_named() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    for name in ["me", "you"] {
        make(folder.path(), name, "-days 30").await;
    }
    let origin = Origin::start("a").await;
    let config = super::with_one(", client_ca: me.pem", &origin);
    let portolan = super::prepare(&config, &authority)
        .file(
            "me.pem",
            std::fs::read(folder.path().join("me.pem")).unwrap(),
        )
        .start()
        .await;
    let address = portolan.address().await;
    let come = async |name: &str| {
        let at = |ending: &str| folder.path().join(format!("{name}.{ending}"));
        let client = ClientConfig::builder()
            .with_root_certificates(authority.roots())
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(at("pem")).unwrap()],
                PrivateKeyDer::from_pem_file(at("key")).unwrap(),
            )
            .unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let server = rustls::pki_types::ServerName::try_from(super::NAME).unwrap();
        let stream = TlsConnector::from(Arc::new(client))
            .connect(server, stream)
            .await
            .ok()?;
        let mut connection = Connection::over(stream, super::NAME).await.ok()?;
        let answer = connection.ask(Ask::get("/echo")).await.ok()?;
        Some(answer.status)
    };
    assert_eq!(come("me").await, Some(200));
    assert_eq!(come("you").await, None);
    eventually("it is counted", async || {
        let refused = ["outcome=\"client_certificate_invalid\""];
        let count = portolan
            .metric("portolan_tls_handshakes_total", &refused)
            .await;
        (count == 1.0).then_some(())
    })
    .await;
    portolan.stop().await;
}

/// Two certificates whose markers share a line: half of them would be dropped, and nobody told.
#[tokio::test(flavor = "multi_thread")]
async fn glued_certificates_are_refused_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let authority = Authority::new();
    let own = authority.sign(&["a.example"]);
    let glued = (own.certificate.clone() + &authority.pem()).replace("-----\n-----", "----------");
    let line = glued
        .lines()
        .position(|line| line.starts_with("-----END CERTIFICATE-----"))
        .unwrap()
        + 1;
    for (name, text) in [
        ("own.key", &own.key),
        ("good.pem", &own.certificate),
        ("glued.pem", &glued),
    ] {
        std::fs::write(path.join(name), text).unwrap();
    }
    for (tls, pool_tls) in [
        (
            "certificates: [ { cert: glued.pem, key: own.key } ]",
            "tls: true",
        ),
        (
            "certificates: [ { cert: good.pem, key: own.key } ], client_ca: glued.pem",
            "tls: true",
        ),
        (
            "certificates: [ { cert: good.pem, key: own.key } ]",
            "tls: { ca: glued.pem }",
        ),
    ] {
        let config = format!(
            "listeners: [ {{ bind: \"127.0.0.1:0\", tls: {{ {tls} }} }} ]\npools:\n{}routes: [ {{ to: a }} ]\n",
            pool(
                "a",
                &["127.0.0.1:9".parse().unwrap()],
                &format!(", {pool_tls}")
            )
        );
        std::fs::write(path.join("c.yaml"), config).unwrap();
        let output = command_in(path, &["check", "--format", "json", "--config", "c.yaml"]).await;
        let said: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        let message = said["diagnostics"][0]["message"].as_str().unwrap();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(
            message.contains(&format!("glued.pem`, line {line}: two markers")),
            "{message}"
        );
    }
}
