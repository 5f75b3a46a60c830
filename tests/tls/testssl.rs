//! What testssl.sh finds: nothing that matters.

use std::path::Path;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::Value;
use tokio::process::Command;

use super::{NAME, beside, with_one};
use crate::harness::certificates::Authority;
use crate::harness::{Origin, Portolan, tools};

/// Protocols, ciphers, forward secrecy, what the server prefers and shows, and every vulnerability it
/// knows, each by its own handshakes.
const ALL: [&str; 6] = ["-p", "-s", "-f", "-P", "-S", "-U"];

/// What a profile decides.
const PROFILE: [&str; 2] = ["-p", "-s"];

/// What is no fault, and why.
const EXPLAINED: [&str; 3] = [
    // What a test's own certificate authority has not got: somewhere to ask whether a certificate is
    // revoked.
    "cert_revocation",
    // About the scanner's own OpenSSL, which knows no Russian ciphers.
    "engine_problem",
    // Records in the public DNS.
    "DNS_CAArecord",
];

fn short(params: &mut CertificateParams) {
    let day = std::time::Duration::from_secs(86_400);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    params.not_before = date_time_ymd(1970, 1, 1) + (now - day);
    params.not_after = date_time_ymd(1970, 1, 1) + (now + day * 79);
}

/// What is found, each as severity, what it is about, and words.
async fn scan(portolan: &Portolan, name: &str, checks: &[&str]) -> Vec<(String, String, String)> {
    let address = portolan.address().await;
    let out = portolan.folder().join(format!("{name}.json"));
    let scanning = Command::new("testssl")
        .args([
            "--quiet",
            "--color",
            "0",
            "--warnings",
            "batch",
            "--nodns",
            "none",
        ])
        .args(["--ip", &address.ip().to_string()])
        .arg("--add-ca")
        .arg(portolan.folder().join("ca.pem"))
        .arg("--jsonfile")
        .arg(&out)
        .args(checks)
        .arg(format!("{NAME}:{}", address.port()))
        .kill_on_drop(true)
        .output();
    let output = soon_or_later(scanning).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(out.exists(), "{said}");
    found(&out, &said)
}

/// A scan all of whose checks were made: on a busy machine the scanner gives one up now and then
/// (`connect problem`), which says nothing about whom it scans. Then it scans again.
async fn scan_through(
    portolan: &Portolan,
    name: &str,
    checks: &[&str],
) -> Vec<(String, String, String)> {
    const MOST: usize = 3;
    for again in 1..MOST {
        let found = scan(portolan, &format!("{name}-{again}"), checks).await;
        let gave_up = |(severity, _, words): &(String, String, String)| {
            severity == "WARN" && words.contains("because of connect problem")
        };
        if !found.iter().any(gave_up) {
            return found;
        }
    }
    scan(portolan, name, checks).await
}

/// It shakes hands some hundred times: that takes longer than anything else here.
async fn soon_or_later<T>(scanning: impl Future<Output = std::io::Result<T>>) -> T {
    let patience = std::time::Duration::from_secs(120);
    let scanned = tokio::time::timeout(patience, scanning).await;
    scanned.expect("a scan ends").unwrap()
}

fn found(path: &Path, said: &str) -> Vec<(String, String, String)> {
    let text = std::fs::read_to_string(path).unwrap();
    let findings: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text}\n{said}");
    });
    let word = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    findings
        .iter()
        .map(|finding| ["severity", "id", "finding"].map(|key| word(finding, key)))
        .map(|[severity, id, words]| (severity, id, words))
        .collect()
}

/// What of it is worse than `LOW`, or says that the scan itself went wrong.
fn bad(found: &[(String, String, String)]) -> Vec<&(String, String, String)> {
    let harmless = |severity: &str| matches!(severity, "OK" | "INFO" | "LOW" | "DEBUG");
    found
        .iter()
        .filter(|(severity, id, _)| {
            !harmless(severity) && !EXPLAINED.iter().any(|known| id.starts_with(known))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn testssl_finds_nothing_that_matters() {
    tools::need("testssl", "testssl.sh").await;
    let authority = Authority::new();
    let origin = Origin::start("a").await;
    let identity = authority.sign_with(&[NAME], &KeyPair::generate().unwrap(), short);
    let builder = Portolan::with(&with_one("", &origin)).file("ca.pem", authority.pem());
    let portolan = beside(builder, "api", &identity).start().await;
    let default = scan_through(&portolan, "default", &ALL).await;
    assert!(bad(&default).is_empty(), "{:#?}", bad(&default));
    let absent = |found: &[(String, String, String)], id: &str| {
        let line = found.iter().find(|(_, of, _)| of == id);
        line.unwrap_or_else(|| panic!("nothing about {id}: {found:#?}"))
            .2
            .contains("not offered")
    };
    assert!(absent(&default, "TLS1") && absent(&default, "TLS1_1"));
    assert!(!absent(&default, "TLS1_2") && !absent(&default, "TLS1_3"));
    portolan
        .change(&with_one(", profile: modern", &origin))
        .await;
    let modern = scan_through(&portolan, "modern", &PROFILE).await;
    assert!(bad(&modern).is_empty(), "{:#?}", bad(&modern));
    assert!(absent(&modern, "TLS1_2") && !absent(&modern, "TLS1_3"));
    portolan.stop().await;
}
