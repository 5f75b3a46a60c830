//! What clients get: certificates by the keys they can verify, versions and ciphers, staples.

use rcgen::KeyPair;

use super::{NAME, beside, config, prepare, with_one};
use crate::harness::certificates::{Authority, rsa_key};
use crate::harness::client::raw;
use crate::harness::openssl::{client, openssl};
use crate::harness::{Origin, Portolan, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn old_clients_get_the_rsa_certificate_and_all_others_ecdsa() {
    let authority = Authority::new();
    let origin = Origin::start("a").await;
    let config = config("certificates: [ { directory: certs } ]", &origin);
    let builder = Portolan::with(&config).file("ca.pem", authority.pem());
    let rsa = rsa_key(builder.folder()).await;
    let rsa = authority.sign_with(&[NAME], &rsa, |_| {});
    // In the order of their names the RSA one is first.
    let builder = beside(builder, "certs/1-rsa", &rsa);
    let builder = beside(builder, "certs/2-ecdsa", &authority.sign(&[NAME]));
    let portolan = builder.start().await;
    let address = portolan.address().await;
    for (args, kind) in [
        ("-tls1_3", "ecdsa"),
        ("-tls1_2", "ecdsa"),
        ("-tls1_3 -sigalgs rsa_pss_rsae_sha256", "rsa"),
        ("-tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256", "rsa"),
        ("-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256", "ecdsa"),
    ] {
        let session = client(portolan.folder(), address, NAME, args).await;
        assert!(session.answered, "{args}: {}", session.said);
        let signed = session.value("Peer signature type").to_lowercase();
        assert!(signed.starts_with(kind), "{args}: {signed}");
        // Whichever it got, it has it for this host: no 421 on what follows.
    }
    let listed = portolan.api("/certificates").await;
    let kinds: Vec<&str> = listed["certificates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|certificate| certificate["key"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["RSA", "ECDSA P-256"]);
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_ciphers_are_those_of_the_profile() {
    let authority = Authority::new();
    let origin = Origin::start("a").await;
    let portolan = prepare(&with_one("", &origin), &authority).start().await;
    let folder = portolan.folder().to_path_buf();
    let speaks = async |args: &str| {
        let address = portolan.address().await;
        client(&folder, address, NAME, args).await.answered
    };
    assert!(speaks("-tls1_2").await && speaks("-tls1_3").await);
    // Old versions, though the client lets itself be talked into them.
    assert!(!speaks("-tls1_1 -cipher ALL:@SECLEVEL=0").await);
    assert!(!speaks("-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA256").await);
    assert!(!speaks("-tls1_2 -cipher AES128-GCM-SHA256").await);
    assert!(!speaks("-tls1_3 -curves secp521r1").await);
    for curve in ["X25519", "P-256", "P-384"] {
        assert!(speaks(&format!("-tls1_3 -curves {curve}")).await, "{curve}");
    }
    for rest in [", profile: modern", ", min_version: \"1.3\""] {
        portolan.change(&with_one(rest, &origin)).await;
        assert!(
            !speaks("-tls1_2").await && speaks("-tls1_3").await,
            "{rest}"
        );
    }
    let page = portolan.metrics().await;
    let counted = |labels: &[&str]| {
        crate::harness::portolan::sum(&page, "portolan_tls_handshakes_total", labels)
    };
    assert_eq!(counted(&["version=\"1.2\"", "outcome=\"done\""]), 1.0);
    assert_eq!(counted(&["outcome=\"nothing_in_common\""]), 6.0, "{page}");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ca_s_word_is_shown_as_long_as_it_is_about_this_certificate() {
    let authority = Authority::new();
    let origin = Origin::start("a").await;
    let key = KeyPair::generate().unwrap();
    let identity = authority.sign_with(&[NAME], &key, |params| {
        params.serial_number = Some(4711_u64.into());
    });
    let other = authority.sign_with(&[NAME], &key, |params| {
        params.serial_number = Some(4712_u64.into());
    });
    let builder = prepare(&with_one("", &origin), &authority).file("ca.key", authority.key());
    let builder = beside(builder, "api", &identity);
    let builder = beside(builder, "other", &other);
    // 0x1267 and 0x1268, both good as far as the CA knows.
    let index =
        "V\t491231235959Z\t\t1267\tunknown\t/CN=a\nV\t491231235959Z\t\t1268\tunknown\t/CN=b\n";
    let builder = builder.file("index.txt", index);
    let folder = builder.folder().to_path_buf();
    for name in ["api", "other"] {
        let request = format!("ocsp -issuer ca.pem -cert {name}.pem -reqout {name}.req");
        openssl(&folder, &request).await;
        let answer = format!(
            "ocsp -index index.txt -CA ca.pem -rsigner ca.pem -rkey ca.key -ndays 7 \
             -reqin {name}.req -respout {name}.der"
        );
        openssl(&folder, &answer).await;
    }
    std::fs::copy(folder.join("api.der"), folder.join("api.ocsp")).unwrap();
    let portolan = builder.start().await;
    let stapled = async || {
        let address = portolan.address().await;
        let session = client(&folder, address, NAME, "-status").await;
        assert!(session.answered, "{}", session.said);
        session.said.contains("OCSP Response Status: successful")
    };
    assert!(stapled().await);
    let listed = portolan.api("/certificates").await;
    assert_eq!(listed["certificates"][0]["stapled"], true, "{listed}");
    // About another certificate: not sent, and said; the certificate is served without.
    std::fs::copy(folder.join("other.der"), folder.join("api.ocsp")).unwrap();
    portolan
        .wait_for_log("it is about another certificate")
        .await;
    assert!(!stapled().await);
    assert_eq!(
        portolan.api("/certificates").await["faults"][0]["reason"],
        "unusable"
    );
    // Mended.
    std::fs::copy(folder.join("api.der"), folder.join("new")).unwrap();
    std::fs::rename(folder.join("new"), folder.join("api.ocsp")).unwrap();
    eventually("it is shown again", async || {
        let listed = portolan.api("/certificates").await;
        (listed["faults"].as_array()?.is_empty()).then_some(())
    })
    .await;
    assert!(stapled().await);
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_tls_1_2_the_servers_order_of_ciphers_counts_and_in_1_3_the_clients() {
    let authority = Authority::new();
    let origin = Origin::start("a").await;
    let builder = Portolan::with(&with_one("", &origin)).file("ca.pem", authority.pem());
    let rsa = rsa_key(builder.folder()).await;
    let rsa = authority.sign_with(&[NAME], &rsa, |_| {});
    let portolan = beside(builder, "api", &rsa).start().await;
    let address = portolan.address().await;
    let chosen = async |args: &str| {
        let session = client(portolan.folder(), address, NAME, args).await;
        assert!(session.answered, "{args}: {}", session.said);
        let line = session
            .said
            .lines()
            .find(|line| line.starts_with("New, TLS"));
        let line = line.unwrap_or_else(|| panic!("{}", session.said));
        line.rsplit("Cipher is ").next().unwrap().trim().to_owned()
    };
    // As Mozilla lists them.
    let ours = [
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-RSA-CHACHA20-POLY1305",
    ];
    let mut theirs = ours.to_vec();
    for (first, _) in ours.iter().enumerate() {
        // Each in front once, the others turned round.
        theirs.reverse();
        theirs.rotate_left(first);
        let offered = format!("-tls1_2 -cipher {}", theirs.join(":"));
        assert_eq!(chosen(&offered).await, ours[0], "{offered}");
    }
    let without = format!("-tls1_2 -cipher {}:{}", ours[2], ours[1]);
    assert_eq!(chosen(&without).await, ours[1]);
    for first in [
        "TLS_CHACHA20_POLY1305_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_AES_128_GCM_SHA256",
    ] {
        let all = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";
        let offered = format!("-tls1_3 -ciphersuites {first}:{all}");
        assert_eq!(chosen(&offered).await, first, "{offered}");
    }
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_where_tls_is_spoken_is_told_so_in_words() {
    let authority = Authority::new();
    let origin = Origin::start("a").await;
    let portolan = prepare(&with_one("", &origin), &authority).start().await;
    let address = portolan.address().await;
    let requests = [
        "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
        "POST /x HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello",
        "get",
    ];
    for request in requests {
        let said = raw(address, request.as_bytes()).await;
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{said}");
        assert!(
            head.contains("\r\nContent-Type: application/problem+json\r\n"),
            "{said}"
        );
        assert!(head.contains("\r\nConnection: close"), "{said}");
        let told: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(told["detail"].as_str().unwrap().contains("HTTPS"), "{said}");
    }
    // What is no HTTP either is answered as TLS answers.
    for other in ["SSH-2.0-x\r\n", "\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}"] {
        assert!(!raw(address, other.as_bytes()).await.contains("HTTP"));
    }
    let not_tls = ["outcome=\"not_tls\""];
    portolan
        .wait_for_metric("portolan_tls_handshakes_total", &not_tls, 5.0)
        .await;
    let reason = ["reason=\"plain_http\""];
    let refused = portolan.metric("portolan_refused_connections_total", &reason);
    assert_eq!(refused.await, requests.len() as f64);
    assert_eq!(origin.hits(), 0);
    // A handshake that comes in pieces is one.
    let session = client(
        portolan.folder(),
        address,
        NAME,
        "-tls1_3 -max_send_frag 512",
    )
    .await;
    assert!(session.answered, "{}", session.said);
    portolan.stop().await;
}
