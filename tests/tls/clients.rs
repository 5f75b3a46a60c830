//! Mutual TLS: who may come, and what endpoints are told about them.

use rcgen::{DistinguishedName, DnType, KeyPair, date_time_ymd};

use super::{NAME, beside, fingerprint, prepare, with_one};
use crate::harness::certificates::Authority;
use crate::harness::client::{Connection, Connection2};
use crate::harness::config::LISTENER;
use crate::harness::openssl::client;
use crate::harness::portolan::replace;
use crate::harness::{Ask, Origin, Portolan, eventually};

/// What a client may say about itself.
const CLAIMS: [&str; 6] = [
    "Client-Cert",
    "Client-Cert-Chain",
    "X-Client-Cert-Subject",
    "X-Client-Cert-Verified",
    "X_Client_Cert_Subject",
    "x-client_cert-fingerprint",
];

#[tokio::test(flavor = "multi_thread")]
async fn only_known_clients_come_in_and_endpoints_are_told_who_they_are() {
    let authority = Authority::new();
    let partners = Authority::new();
    let origin = Origin::start("a").await;
    let config = with_one(", client_ca: partners.pem", &origin);
    let named = |authority: &Authority, serial: u64, until: i32| {
        authority.sign_with(&[], &KeyPair::generate().unwrap(), |params| {
            params.serial_number = Some(serial.into());
            params.not_after = date_time_ymd(until, 1, 1);
            params.distinguished_name = DistinguishedName::new();
            params
                .distinguished_name
                .push(DnType::OrganizationName, "Acme, CN=admin");
            params
                .distinguished_name
                .push(DnType::CommonName, "partner");
        })
    };
    let partner = named(&partners, 0xabc, 2090);
    let builder = prepare(&config, &authority).file("partners.pem", partners.pem());
    let builder = beside(builder, "partner", &partner);
    let builder = beside(builder, "stranger", &named(&authority, 1, 2090));
    let builder = beside(builder, "expired", &named(&partners, 2, 2020));
    let portolan: Portolan = builder.start().await;
    let folder = portolan.folder();
    let address = portolan.address().await;
    for version in ["-tls1_2", "-tls1_3"] {
        let come = async |who: &str| {
            let args = format!("{version} -cert {who}.pem -key {who}.key");
            client(folder, address, NAME, &args).await
        };
        assert!(!client(folder, address, NAME, version).await.answered);
        assert!(!come("stranger").await.answered);
        assert!(!come("expired").await.answered);
        let partner_came = come("partner").await;
        assert!(partner_came.answered, "{}", partner_came.said);
        let (_, seen) = partner_came.said.split_once("\r\n\r\n{").unwrap();
        assert!(seen.contains(&fingerprint(&partner)), "{seen}");
    }
    let page = portolan.metrics().await;
    for reason in ["missing", "invalid", "expired"] {
        let outcome = format!("outcome=\"client_certificate_{reason}\"");
        let handshakes = "portolan_tls_handshakes_total";
        let counted = crate::harness::portolan::sum(&page, handshakes, &[&outcome]);
        assert_eq!(counted, 2.0, "{reason}: {page}");
    }

    // What clients say about themselves never gets through, whether or not they have a certificate.
    portolan
        .change(&with_one(
            ", client_ca: partners.pem, client_auth: optional",
            &origin,
        ))
        .await;
    let claim = |ask: Ask| {
        CLAIMS
            .into_iter()
            .fold(ask, |ask, name| ask.header(name, "CN=admin"))
    };
    let told = async |identity| {
        let stream = authority.connect_as(identity, address, NAME).await.unwrap();
        let mut connection = Connection::over(stream, NAME).await.unwrap();
        // Nor can they have taken off what is said about them.
        let ask = claim(Ask::get("/echo")).header("Connection", "X-Client-Cert-Subject, close");
        let headers = connection.ask(ask).await.unwrap().json()["headers"].clone();
        let headers = headers.as_object().unwrap().clone();
        let ours = |name: &String| name.replace('_', "-").contains("client-cert");
        headers
            .into_iter()
            .filter(|(name, _)| ours(name))
            .collect::<Vec<_>>()
    };
    let nobody = told(None).await;
    assert_eq!(
        nobody,
        [("x-client-cert-verified".to_owned(), "NONE".into())]
    );
    let known = told(Some(&partner)).await;
    let value = |name: &str| {
        let (_, value) = known.iter().find(|(known, _)| known == name).unwrap();
        value.as_str().unwrap().to_owned()
    };
    assert_eq!(known.len(), 5, "{known:?}");
    assert_eq!(value("x-client-cert-verified"), "SUCCESS");
    assert_eq!(
        value("x-client-cert-subject"),
        "CN=partner,O=Acme\\, CN\\=admin"
    );
    assert_eq!(value("x-client-cert-fingerprint"), fingerprint(&partner));
    assert_eq!(value("x-client-cert-serial"), "0abc");
    let body: String = partner
        .certificate
        .lines()
        .filter(|line| !line.contains("--"))
        .collect();
    assert_eq!(value("client-cert"), format!(":{body}:"));
    // A certificate that nobody can verify is no better than a wrong word.
    let stranger = authority.sign(&["stranger"]);
    let stream = authority.connect_as(Some(&stranger), address, NAME).await;
    if let Ok(stream) = stream {
        // With TLS 1.3 the client hears of it when it reads.
        let mut connection = Connection::over(stream, NAME).await.unwrap();
        assert!(connection.ask(Ask::get("/echo")).await.is_err());
    }

    // The same on a listener that asks nobody.
    for listener in [with_one("", &origin), config_without_tls(&origin)] {
        portolan.change(&listener).await;
        let address = portolan.address().await;
        let answer = if listener.contains("tls:") {
            let stream = authority.connect(address, NAME, &["h2"]).await.unwrap();
            let mut two = Connection2::over(stream).await.unwrap();
            let request = CLAIMS.into_iter().fold(
                http::Request::get(format!("https://{NAME}/echo")),
                |request, name| request.header(name, "CN=admin"),
            );
            two.send(request.body(http_body_util::Full::default()).unwrap())
                .await
                .unwrap()
        } else {
            claim(Ask::get("/echo")).to(address).await.unwrap()
        };
        let headers = answer.json()["headers"].to_string();
        assert!(!headers.contains("admin"), "{headers}");
    }
    portolan.stop().await;
}

fn config_without_tls(origin: &Origin) -> String {
    let with = with_one("", origin);
    let (_, rest) = with.split_once('\n').unwrap();
    format!("{LISTENER}{rest}")
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_clients_are_refused_from_the_moment_the_list_says_so() {
    let authority = Authority::new();
    let origin = Origin::start("a").await;
    let config = with_one(", client_ca: ca.pem, client_crl: crl.pem", &origin);
    let me = authority.sign_with(&["me"], &KeyPair::generate().unwrap(), |params| {
        params.serial_number = Some(7_u64.into());
    });
    let builder = beside(prepare(&config, &authority), "me", &me);
    let portolan: Portolan = builder
        .file("crl.pem", authority.revoke(&[], 2090))
        .start()
        .await;
    let folder = portolan.folder();
    let address = portolan.address().await;
    let come = async || {
        client(folder, address, NAME, "-cert me.pem -key me.key")
            .await
            .answered
    };
    let turns = async |wanted: bool| {
        eventually("the list is in use", async || {
            (come().await == wanted).then_some(())
        })
        .await;
    };
    assert!(come().await);
    let list = folder.join("crl.pem");
    replace(&list, &authority.revoke(&[7], 2090));
    turns(false).await;
    assert!(
        portolan
            .metric("portolan_tls_handshakes_total", &["revoked"])
            .await
            > 0.0
    );
    replace(&list, &authority.revoke(&[8], 2090));
    turns(true).await;
    // What is no list changes nothing; a list that is out of date says nothing about anybody.
    replace(&list, "nothing");
    portolan
        .wait_for_log("holds no list of revoked certificates")
        .await;
    assert!(come().await);
    replace(&list, &authority.revoke(&[], 2025));
    turns(false).await;
    portolan.wait_for_log("out of date").await;
    replace(&list, &authority.revoke(&[], 2090));
    turns(true).await;
    // A list of another CA leaves those of this one unknown.
    replace(&list, &Authority::new().revoke(&[], 2090));
    turns(false).await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_serves_all_hosts_of_its_certificate_and_no_others() {
    let authority = Authority::new();
    let origin = Origin::start("a").await;
    let certificates =
        "certificates: [ { cert: api.pem, key: api.key }, { cert: two.pem, key: two.key } ]";
    let config = super::config(certificates, &origin);
    let both = authority.sign(&["shop.example", "*.shop.example"]);
    let builder = beside(prepare(&config, &authority), "two", &both);
    let portolan = builder.start().await;
    let address = portolan.address().await;
    let stream = authority
        .connect(address, "shop.example", &["h2"])
        .await
        .unwrap();
    let mut two = Connection2::over(stream).await.unwrap();
    let mut status = async |host: &str| two.get(&format!("https://{host}/")).await.unwrap().status;
    assert_eq!(status("shop.example").await, 200);
    assert_eq!(status("www.shop.example").await, 200);
    assert_eq!(status("SHOP.example:443").await, 200);
    assert_eq!(status(NAME).await, 421);
    assert_eq!(status("nobody.example").await, 421);
    // A renewal does not change what this connection is good for.
    let renewed = authority.sign(&["shop.example", "*.shop.example"]);
    super::renew(portolan.folder(), "two", &renewed);
    eventually("the new one is in use", async || {
        let listed = portolan.api("/certificates").await.to_string();
        listed.contains(&fingerprint(&renewed)).then_some(())
    })
    .await;
    assert_eq!(status("www.shop.example").await, 200);
    assert_eq!(status(NAME).await, 421);
    portolan.stop().await;
}
