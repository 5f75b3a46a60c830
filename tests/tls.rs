//! TLS towards clients and towards endpoints, as clients, endpoints and scanners of others see it.

mod choice;
mod clients;
mod names;
mod own;
mod scan;
mod sessions;
mod swap;
mod testssl;
mod upstream;

use std::path::Path;

use crate::harness::certificates::{Authority, Identity};
use crate::harness::config::{PROBES, pools};
use crate::harness::portolan::Builder;
use crate::harness::{Origin, Portolan};

/// The names that most of these tests use.
const NAME: &str = "api.example.com";

/// A listener with this TLS, in front of one pool.
fn config(tls: &str, origin: &Origin) -> String {
    [
        &format!("listeners: [ {{ bind: \"127.0.0.1:0\", tls: {{ {tls} }} }} ]\n"),
        PROBES,
        &pools(&[("a", &[origin], "")]),
        "routes: [ { to: a } ]\n",
    ]
    .concat()
}

/// The same with one certificate, and what else TLS has, each after a comma.
fn with_one(rest: &str, origin: &Origin) -> String {
    config(
        &format!("certificates: [ {{ cert: api.pem, key: api.key }} ]{rest}"),
        origin,
    )
}

/// A process with this configuration, and beside it the CA and one identity.
fn prepare(config: &str, authority: &Authority) -> Builder {
    let builder = Portolan::with(config).file("ca.pem", authority.pem());
    beside(builder, "api", &authority.sign(&[NAME]))
}

/// Puts an identity beside the configuration.
fn beside(builder: Builder, name: &str, identity: &Identity) -> Builder {
    builder
        .file(&format!("{name}.pem"), &identity.certificate)
        .file(&format!("{name}.key"), &identity.key)
}

/// Replaces an identity: first the key, as nobody should.
fn renew(folder: &Path, name: &str, identity: &Identity) {
    for (ending, text) in [("key", &identity.key), ("pem", &identity.certificate)] {
        let path = folder.join(format!("{name}.{ending}"));
        let new = folder.join(format!("{name}.{ending}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &path).unwrap();
    }
}

/// The SHA-256 of a certificate as the admin API writes it.
fn fingerprint(identity: &Identity) -> String {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let der = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
    crate::harness::certificates::sha256(&der)
}

/// Waits until exactly these certificates are in use.
async fn wait_for(portolan: &Portolan, identities: &[&Identity]) {
    let mut wanted: Vec<String> = identities
        .iter()
        .map(|identity| fingerprint(identity))
        .collect();
    wanted.sort();
    crate::harness::eventually("the certificates are in use", async || {
        let listed = portolan.api("/certificates").await;
        let entries = listed["certificates"].as_array()?.clone();
        let mut used: Vec<String> = entries
            .iter()
            .map(|entry| entry["fingerprint"].as_str().unwrap().to_owned())
            .collect();
        used.sort();
        (used == wanted).then_some(())
    })
    .await;
}
