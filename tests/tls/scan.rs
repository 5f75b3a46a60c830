//! What a scanner finds: nothing.

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::json;

use super::{NAME, beside, with_one};
use crate::harness::certificates::{Authority, rsa_key};
use crate::harness::python::Python;
use crate::harness::{Origin, Portolan};

/// The scanner itself is only there as source.
const REQUIREMENTS: &str = "--no-binary sslyze\nsslyze==6.3.1\n";

/// Valid for eighty days, as Mozilla would have it, and with what the scanner's strict verifier
/// insists on.
fn short(params: &mut CertificateParams) {
    params.use_authority_key_identifier_extension = true;
    let day = std::time::Duration::from_secs(86_400);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    params.not_before = date_time_ymd(1970, 1, 1) + (now - day);
    params.not_after = date_time_ymd(1970, 1, 1) + (now + day * 79);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scanner_finds_what_mozilla_recommends_and_nothing_else() {
    let python = Python::with("sslyze", REQUIREMENTS).await;
    let authority = Authority::new();
    let origin = Origin::start("a").await;
    let config = with_one("", &origin);
    let certificates = "certificates: [ { cert: api.pem, key: api.key }";
    let both = config.replace(
        certificates,
        &format!("{certificates}, {{ directory: certs }}"),
    );
    let builder = Portolan::with(&both).file("ca.pem", authority.pem());
    let ecdsa = authority.sign_with(&[NAME], &KeyPair::generate().unwrap(), short);
    let rsa = rsa_key(builder.folder()).await;
    let builder = beside(
        builder,
        "certs/rsa",
        &authority.sign_with(&[NAME], &rsa, short),
    );
    let portolan = beside(builder, "api", &ecdsa).start().await;
    let scan = async |profile: &str| {
        let address = portolan.address().await;
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let ca = portolan.folder().join("ca.pem");
        let args = [&ip, &port, NAME, ca.to_str().unwrap(), profile];
        python.start("tls/scan.py", &args).hear().await
    };
    assert_eq!(scan("intermediate").await, json!({}));
    // The scanner can tell the difference.
    let found = scan("modern").await;
    assert!(found.get("tls_versions").is_some(), "{found}");
    portolan
        .change(&with_one(", profile: modern", &origin))
        .await;
    assert_eq!(scan("modern").await, json!({}));
    portolan.stop().await;
}
