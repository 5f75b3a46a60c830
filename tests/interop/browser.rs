//! Chromium, with a page that does what pages do. It asks for everything from Portolan, over HTTP/1.1 and
//! over HTTP/2 by TLS.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::process::Command;

use super::peers::{Peer, Running};
use crate::harness::certificates::Authority;
use crate::harness::config::{LISTENER, PROBES, pool};
use crate::harness::{Portolan, Wire, eventually, tools};

/// Its program, and Debian's package.
pub(super) const CHROMIUM: &str = "chromium";

const TLS_LISTENER: &str = "listeners: [ { bind: \"127.0.0.1:0\", tls: { certificates: [ { cert: tls.pem, key: tls.key } ] } } ]\n";

/// What became of everything that the page tried.
async fn browse(tls: bool) -> Value {
    tools::need(CHROMIUM, CHROMIUM).await;
    let identity = Authority::new().sign(&[Wire::NAME]);
    let server = Running::behind(
        Peer::Node,
        Wire::Http1,
        &identity,
        "127.0.0.1:1".parse().unwrap(),
    )
    .await;
    let folder = server.folder();
    std::fs::write(folder.join("page.html"), include_str!("page.html")).unwrap();
    let config = [
        if tls { TLS_LISTENER } else { LISTENER },
        PROBES,
        "pools:\n",
        &pool("a", &[server.address], Wire::Http1.pool()),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::with(&config)
        .file("tls.pem", &identity.certificate)
        .file("tls.key", &identity.key)
        .start()
        .await;
    portolan
        .wait_for_health("a", server.address, "healthy")
        .await;
    let port = portolan.address().await.port();
    let scheme = if tls { "https" } else { "http" };
    let profile = tempfile::tempdir().unwrap();
    let mut browser = Command::new(CHROMIUM)
        .args(["--headless", "--no-sandbox", "--disable-gpu"])
        .args(["--disable-dev-shm-usage", "--disable-background-networking"])
        .args(["--no-first-run", "--disable-component-update"])
        // Nobody knows the authority that signed for this test, nor the name.
        .arg("--ignore-certificate-errors")
        .arg(format!(
            "--host-resolver-rules=MAP {} 127.0.0.1",
            Wire::NAME
        ))
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--remote-debugging-port=0"])
        .arg(format!("{scheme}://{}:{port}/page", Wire::NAME))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let result = eventually("the page is done", async || {
        if let Some(status) = browser.try_wait().unwrap() {
            panic!("the browser ended: {status}");
        }
        let said = std::fs::read(server.folder().join("result.json")).ok()?;
        Some(serde_json::from_slice::<Value>(&said).unwrap())
    })
    .await;
    super::peers::end(&mut browser).await;
    // Nothing was tried twice, and the endpoint was never at fault.
    assert!(portolan.metric("portolan_retries_total", &[]).await < 0.5);
    let entry = portolan.endpoint("a", server.address).await;
    assert_eq!(entry["health"], "healthy");
    portolan.stop().await;
    result
}

fn assert_flawless(result: &Value, protocol: &str) {
    assert!(result["tried"].as_u64().unwrap() > 240, "{result}");
    assert_eq!(result["failures"], json!([]), "{result}");
    assert_eq!(result["protocols"], json!([protocol]), "{result}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_gets_what_it_asks_for() {
    assert_flawless(&browse(false).await, "http/1.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_gets_what_it_asks_for_over_http2() {
    assert_flawless(&browse(true).await, "h2");
}
