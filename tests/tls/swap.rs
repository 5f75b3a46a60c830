//! Certificates replaced while they are in use, and those that must not be.

use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rcgen::{KeyPair, date_time_ymd};

use super::{NAME, beside, config, fingerprint, prepare, renew, wait_for, with_one};
use crate::harness::certificates::{Authority, Identity};
use crate::harness::client::Connection;
use crate::harness::portolan::{command_in, replace, stderr, stdout};
use crate::harness::{Ask, Origin, Portolan, eventually};

fn until(authority: &Authority, from: i32, to: i32) -> Identity {
    authority.sign_with(&[NAME], &KeyPair::generate().unwrap(), |params| {
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn no_handshake_fails_while_certificates_are_replaced() {
    let authority = Arc::new(Authority::new());
    let origin = Origin::start("a").await;
    let portolan = prepare(&with_one("", &origin), &authority).start().await;
    let address = portolan.address().await;
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (authority, stop, done) = (authority.clone(), stop.clone(), done.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let stream = authority
                        .connect(address, NAME, &["http/1.1"])
                        .await
                        .unwrap();
                    let mut connection = Connection::over(stream, NAME).await.unwrap();
                    let answer = connection.ask(Ask::get("/")).await.unwrap();
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..15 {
        let before = done.load(Ordering::Relaxed);
        let next = authority.sign(&[NAME]);
        renew(portolan.folder(), "api", &next);
        wait_for(&portolan, &[&next]).await;
        eventually("more clients came", async || {
            (done.load(Ordering::Relaxed) > before + 4).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    // Nothing of the configuration was touched.
    assert_eq!(portolan.generation().await, 1);
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_bad_never_replaces_what_is_good() {
    let authority = Authority::new();
    let origin = Origin::start("a").await;
    let config = with_one("", &origin);
    let good = authority.sign(&[NAME]);
    let builder = beside(prepare(&config, &authority), "api", &good);
    let portolan = builder.start().await;
    let address = portolan.address().await;
    let folder = portolan.folder();
    let other = authority.sign(&[NAME]);
    let expired = until(&authority, 2019, 2020);
    let early = until(&authority, 2090, 2091);
    let cases: [(&str, &str, &str); 6] = [
        (&other.certificate, &good.key, "mismatch"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &good.key,
            "malformed",
        ),
        ("", &good.key, "incomplete"),
        (&good.certificate, "", "incomplete"),
        (&expired.certificate, &expired.key, "not_valid"),
        (&early.certificate, &early.key, "not_valid"),
    ];
    let failures = "portolan_certificate_reload_failures_total";
    for (certificate, key, reason) in cases {
        let label = format!("reason=\"{reason}\"");
        let before = portolan.metric(failures, &[&label]).await;
        replace(&folder.join("api.key"), key);
        replace(&folder.join("api.pem"), certificate);
        eventually(&format!("{reason} is told"), async || {
            let listed = portolan.api("/certificates").await;
            (listed["faults"][0]["reason"] == reason).then_some(())
        })
        .await;
        assert!(
            portolan.metric(failures, &[&label]).await > before,
            "{reason}"
        );
        let status = portolan.api("/status").await;
        let warnings = status["warnings"].to_string();
        assert!(
            warnings.contains("api.pem") || warnings.contains("api.key"),
            "{reason}: {status}"
        );
        assert_eq!(status["certificates"]["faults"], 1);
        wait_for(&portolan, &[&good]).await;
        authority.connect(address, NAME, &[]).await.unwrap();
        renew(folder, "api", &good);
        eventually("it is mended", async || {
            (portolan.metric("portolan_certificate_faults", &[]).await == 0.0).then_some(())
        })
        .await;
    }
    // A file that is gone.
    std::fs::remove_file(folder.join("api.key")).unwrap();
    portolan.wait_for_log("cannot read").await;
    authority.connect(address, NAME, &[]).await.unwrap();
    assert!(!portolan.log().contains("PRIVATE KEY"));
    // A configuration that names what cannot be used is refused as a whole.
    let why = portolan
        .change_refused(&config.replace("to: a", "name: r, to: a"))
        .await;
    assert!(why.contains("api.key"), "{why}");
    renew(folder, "api", &other);
    wait_for(&portolan, &[&other]).await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_is_served_if_there_is_nothing_else_and_said_aloud() {
    let authority = Authority::new();
    let origin = Origin::start("a").await;
    let config = with_one("", &origin);
    let expired = until(&authority, 2019, 2020);
    let builder = beside(prepare(&config, &authority), "api", &expired);
    let portolan = builder.start().await;
    portolan.wait_for_log("has expired").await;
    wait_for(&portolan, &[&expired]).await;
    let checked = command_in(portolan.folder(), &["check", "--config", "portolan.yaml"]).await;
    let said = stdout(&checked) + &stderr(&checked);
    assert!(checked.status.success(), "{said}");
    assert!(
        said.contains("warning[certificate-expiry]") && said.contains("has expired"),
        "{said}"
    );
    let admin = format!("http://{}", portolan.admin());
    let status = command_in(portolan.folder(), &["status", "--admin", &admin]).await;
    let words = stdout(&status);
    assert!(
        words.contains("has expired") && words.contains("certificates"),
        "{words}"
    );
    // Even one that is as old: there is nothing to lose.
    let another = until(&authority, 2018, 2021);
    renew(portolan.folder(), "api", &another);
    wait_for(&portolan, &[&another]).await;
    let good = authority.sign(&[NAME]);
    renew(portolan.folder(), "api", &good);
    wait_for(&portolan, &[&good]).await;
    let status = portolan.api("/status").await;
    assert!(
        !status["warnings"].to_string().contains("expired"),
        "{status}"
    );
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_are_watched_with_all_that_is_in_them() {
    let authority = Authority::new();
    let origin = Origin::start("a").await;
    let config = config("certificates: [ { directory: certs } ]", &origin);
    let one = authority.sign(&["one.example"]);
    let builder = beside(Portolan::with(&config), "certs/one", &one);
    let portolan = builder.file("certs/README", "pairs").start().await;
    let address = portolan.address().await;
    let certs = portolan.folder().join("certs");
    wait_for(&portolan, &[&one]).await;

    // Another pair; then as certbot does it: links into an archive.
    let two = authority.sign(&["two.example"]);
    renew(&certs, "two", &two);
    wait_for(&portolan, &[&one, &two]).await;
    let archive = portolan.folder().join("archive");
    let live = certs.join("three.example");
    std::fs::create_dir_all(&archive).unwrap();
    std::fs::create_dir_all(&live).unwrap();
    let link = |number: u8, identity: &Identity| {
        for (name, text) in [
            ("fullchain", &identity.certificate),
            ("privkey", &identity.key),
        ] {
            let file = archive.join(format!("{name}{number}.pem"));
            std::fs::write(&file, text).unwrap();
            let _ = std::fs::remove_file(live.join(format!("{name}.pem")));
            symlink(&file, live.join(format!("{name}.pem"))).unwrap();
        }
    };
    let three = authority.sign(&["three.example"]);
    link(1, &three);
    wait_for(&portolan, &[&one, &two, &three]).await;
    let renewed = authority.sign(&["three.example"]);
    link(2, &renewed);
    wait_for(&portolan, &[&one, &two, &renewed]).await;
    authority
        .connect(address, "three.example", &[])
        .await
        .unwrap();

    // A pair that is taken away is gone; a folder that is emptied keeps what it had.
    std::fs::remove_dir_all(&live).unwrap();
    wait_for(&portolan, &[&one, &two]).await;
    for name in ["two.pem", "two.key", "one.pem", "one.key"] {
        std::fs::remove_file(certs.join(name)).unwrap();
    }
    portolan
        .wait_for_log("holds no certificate with its key")
        .await;
    authority
        .connect(address, "one.example", &[])
        .await
        .unwrap();
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_are_followed_where_kubernetes_swaps_them() {
    let authority = Authority::new();
    let origin = Origin::start("a").await;
    let config = config(
        "certificates: [ { cert: mounted/tls.crt, key: mounted/tls.key } ]",
        &origin,
    );
    let first = authority.sign(&[NAME]);
    let builder = Portolan::with(&config)
        .file("mounted/..one/tls.crt", &first.certificate)
        .file("mounted/..one/tls.key", &first.key);
    let mounted = builder.folder().join("mounted");
    symlink("..one", mounted.join("..data")).unwrap();
    symlink("..data/tls.crt", mounted.join("tls.crt")).unwrap();
    symlink("..data/tls.key", mounted.join("tls.key")).unwrap();
    let portolan = builder.start().await;
    wait_for(&portolan, &[&first]).await;
    for name in ["..two", "..three"] {
        let next = authority.sign(&[NAME]);
        std::fs::create_dir(mounted.join(name)).unwrap();
        std::fs::write(mounted.join(name).join("tls.crt"), &next.certificate).unwrap();
        std::fs::write(mounted.join(name).join("tls.key"), &next.key).unwrap();
        symlink(name, mounted.join("..data_tmp")).unwrap();
        std::fs::rename(mounted.join("..data_tmp"), mounted.join("..data")).unwrap();
        wait_for(&portolan, &[&next]).await;
    }
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_announced_long_before_it_comes() {
    let authority = Authority::new();
    let origin = Origin::start("a").await;
    let soon = authority.sign_with(&[NAME], &KeyPair::generate().unwrap(), |params| {
        // Ten days and a bit.
        params.not_after = date_time_ymd(1970, 1, 1)
            + std::time::Duration::from_secs(
                std::time::SystemTime::UNIX_EPOCH
                    .elapsed()
                    .unwrap()
                    .as_secs()
                    + 10 * 86_400
                    + 600,
            );
    });
    let builder = beside(prepare(&with_one("", &origin), &authority), "api", &soon);
    let portolan = builder.start().await;
    portolan.wait_for_log("ends in 10 days").await;
    let status = portolan.api("/status").await;
    assert!(
        status["warnings"]
            .to_string()
            .contains("expires in 10 days"),
        "{status}"
    );
    let listed = portolan.api("/certificates").await;
    let entry = &listed["certificates"][0];
    assert_eq!(entry["fingerprint"], fingerprint(&soon));
    assert_eq!(
        (&entry["state"], &entry["names"][0]),
        (&"valid".into(), &NAME.into())
    );
    let expiry = "portolan_tls_certificate_expiry_timestamp_seconds";
    let label = format!("name=\"{NAME}\"");
    assert_eq!(
        portolan.metric(expiry, &[&label]).await,
        entry["not_after"].as_f64().unwrap()
    );
    portolan.stop().await;
}
