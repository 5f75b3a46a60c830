//! Sessions that go on where they were: with tickets that survive reloads and new certificates, and
//! that open no door that was closed to their client.

use super::{NAME, beside, prepare, renew, wait_for, with_one};
use crate::harness::certificates::Authority;
use crate::harness::config::{PROBES, pools};
use crate::harness::openssl::client;
use crate::harness::portolan::sum;
use crate::harness::{Origin, Portolan};

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_resumed_over_reloads_and_new_certificates() {
    let authority = Authority::new();
    let origin = Origin::start("a").await;
    let config = with_one("", &origin);
    let portolan = prepare(&config, &authority).start().await;
    let folder = portolan.folder();
    for version in ["-tls1_2", "-tls1_3"] {
        let address = portolan.address().await;
        let first = client(folder, address, NAME, &format!("{version} -sess_out s.pem")).await;
        assert!(
            first.answered && first.said.contains("New, TLSv1"),
            "{}",
            first.said
        );
        let again = async || {
            let session = client(folder, address, NAME, &format!("{version} -sess_in s.pem")).await;
            assert!(session.answered, "{}", session.said);
            assert!(
                session.said.contains("Reused, TLSv1"),
                "{version}: {}",
                session.said
            );
            // Never early data: it can be replayed.
            assert!(!session.said.contains("Early data was accepted"));
        };
        again().await;
        let changed = config.replace("routes: [ {", "routes: [ { name: r,");
        portolan.change(&changed).await;
        again().await;
        portolan.change(&config).await;
        let next = authority.sign(&[NAME]);
        renew(folder, "api", &next);
        wait_for(&portolan, &[&next]).await;
        again().await;
        // A session belongs to a name.
        let args = format!("{version} -sess_in s.pem");
        let other = client(folder, address, "other.example", &args).await;
        assert!(other.said.contains("New, TLSv1"), "{}", other.said);
    }
    let page = portolan.metrics().await;
    let resumed = ["resumed=\"true\"", "outcome=\"done\""];
    assert_eq!(
        sum(&page, "portolan_tls_handshakes_total", &resumed),
        6.0,
        "{page}"
    );
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_nobody_opens_no_door_that_asks_who_comes() {
    let authority = Authority::new();
    let origin = Origin::start("a").await;
    let certificates = "certificates: [ { cert: api.pem, key: api.key } ]";
    let listener =
        |rest: &str| format!("  - {{ bind: \"127.0.0.1:0\", tls: {{ {certificates}{rest} }} }}\n");
    let config = [
        "listeners:\n",
        &listener(""),
        &listener(", client_ca: ca.pem, client_crl: crl.pem"),
        PROBES,
        &pools(&[("a", &[&origin], "")]),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let key = rcgen::KeyPair::generate().unwrap();
    let me = authority.sign_with(&["me"], &key, |params| {
        params.serial_number = Some(7_u64.into());
    });
    let builder = prepare(&config, &authority).file("crl.pem", authority.revoke(&[], 2090));
    let portolan: Portolan = beside(builder, "me", &me).start().await;
    let folder = portolan.folder();
    let addresses = portolan.addresses().await;
    let (open, closed) = (addresses[0], addresses[1]);
    for version in ["-tls1_2", "-tls1_3"] {
        let ask = |address, rest: &str| {
            let args = format!("{version} {rest}");
            async move { client(folder, address, NAME, &args).await }
        };
        assert!(ask(open, "-sess_out open.pem").await.answered);
        assert!(ask(open, "-sess_in open.pem").await.said.contains("Reused"));
        let intruder = ask(closed, "-sess_in open.pem").await;
        assert!(!intruder.answered, "{}", intruder.said);
        let known = "-cert me.pem -key me.key";
        assert!(
            ask(closed, &format!("{known} -sess_out mine.pem"))
                .await
                .answered
        );
        let resumed = ask(closed, "-sess_in mine.pem").await;
        assert!(
            resumed.answered && resumed.said.contains("Reused"),
            "{}",
            resumed.said
        );
        assert!(
            resumed.said.contains("\"x-client-cert-subject\""),
            "{}",
            resumed.said
        );
        // Revoked in the meantime: the session is worth nothing any more.
        let crl = folder.join("crl.pem");
        crate::harness::portolan::replace(&crl, &authority.revoke(&[7], 2090));
        crate::harness::eventually("it is refused", async || {
            let args = format!("{version} {known}");
            let session = client(folder, closed, NAME, &args).await;
            (!session.answered).then_some(())
        })
        .await;
        let resumed = ask(closed, &format!("{known} -sess_in mine.pem")).await;
        assert!(!resumed.answered, "{}", resumed.said);
        crate::harness::portolan::replace(&crl, &authority.revoke(&[], 2090));
        crate::harness::eventually("it is served again", async || {
            let args = format!("{version} {known}");
            client(folder, closed, NAME, &args)
                .await
                .answered
                .then_some(())
        })
        .await;
    }
    portolan.stop().await;
}
