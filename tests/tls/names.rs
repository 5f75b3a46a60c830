//! Clients that say no name, or say it in another way, or come for an address: each gets the certificate
//! it can use, and is never sent away for what it cannot say.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::Request;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{beside, prepare};
use crate::harness::certificates::{Authority, sha256};
use crate::harness::client::{Connection, Connection2};
use crate::harness::config::{PROBES, pools};
use crate::harness::openssl::openssl_with;
use crate::harness::{Ask, Origin};

/// Shakes hands without a name, as clients do that come for an address.
async fn without_a_name(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    expects: IpAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(config.clone())
        .connect(ServerName::from(expects), stream)
        .await
}

fn client(authority: &Authority, alpn: &str) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder()
        .with_root_certificates(authority.roots())
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    Arc::new(config)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_come_for_an_address_get_its_certificate_and_are_served() {
    let authority = Authority::new();
    let origin = Origin::start("a").await;
    let listener = |bind: &str| {
        format!(
            "  - {{ bind: \"{bind}\", tls: {{ certificates: [ {{ cert: api.pem, key: api.key }}, {{ cert: two.pem, key: two.key }}, {{ cert: four.pem, key: four.key }}, {{ cert: six.pem, key: six.key }} ] }} }}\n"
        )
    };
    let config = [
        "listeners:\n",
        &listener("127.0.0.1:0"),
        &listener("[::]:0"),
        PROBES,
        &pools(&[("a", &[&origin], "")]),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let builder = prepare(&config, &authority);
    let four = authority.sign(&["127.0.0.1"]);
    let six = authority.sign(&["::1"]);
    let builder = beside(builder, "two", &authority.sign(&["two.example"]));
    let builder = beside(beside(builder, "four", &four), "six", &six);
    let portolan = builder.start().await;
    let ports: Vec<u16> = (portolan.addresses().await.iter())
        .map(SocketAddr::port)
        .collect();
    for (port, ip) in [
        (ports[0], "127.0.0.1"),
        (ports[1], "127.0.0.1"),
        (ports[1], "::1"),
    ] {
        let ip: IpAddr = ip.parse().unwrap();
        let address = SocketAddr::new(ip, port);
        let host = address.to_string();
        for alpn in ["http/1.1", "h2"] {
            let client = client(&authority, alpn);
            // Twice: the second one goes on with the session of the first.
            for round in 0..2 {
                // It is only believed if it has the address.
                let stream = without_a_name(&client, address, ip).await.unwrap();
                let session = stream.get_ref().1;
                let shown = sha256(&session.peer_certificates().unwrap()[0]);
                let wanted = if ip.is_ipv4() { &four } else { &six };
                assert_eq!(
                    shown,
                    super::fingerprint(wanted),
                    "{address} {alpn} {round}"
                );
                // Whatever host it then asks for: there is no better connection for it.
                for host in [host.as_str(), "two.example", "nobody.example", "[::1]"] {
                    let ask = async |stream| match alpn {
                        "h2" => {
                            let mut connection = Connection2::over(stream).await.unwrap();
                            let url = format!("https://{host}/echo");
                            let request = Request::get(url).body(Default::default()).unwrap();
                            connection.send(request).await.unwrap().status
                        }
                        _ => {
                            let mut connection = Connection::over(stream, host).await.unwrap();
                            connection.ask(Ask::get("/echo")).await.unwrap().status
                        }
                    };
                    let stream = without_a_name(&client, address, ip).await.unwrap();
                    assert_eq!(ask(stream).await, 200, "{address} {alpn} {host}");
                }
            }
        }
    }
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_with_its_dot_or_in_capitals_is_the_same_name() {
    let authority = Authority::new();
    let origin = Origin::start("a").await;
    let certificates =
        "certificates: [ { cert: api.pem, key: api.key }, { cert: two.pem, key: two.key } ]";
    let builder = prepare(&super::config(certificates, &origin), &authority);
    let builder = beside(builder, "two", &authority.sign(&["two.example"]));
    let portolan = builder.start().await;
    let address = portolan.address().await;
    for (name, host) in [
        ("two.example.", "two.example"),
        ("two.example", "two.example."),
        ("TWO.example", "two.Example"),
        ("Two.Example.", "two.example."),
    ] {
        let args = format!(
            "s_client -connect {address} -servername {name} -CAfile ca.pem -verify_hostname two.example -verify_return_error -ign_eof"
        );
        let request = format!("GET /echo HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let said = openssl_with(portolan.folder(), &args, &request).await;
        assert!(said.contains("HTTP/1.1 200"), "{name} {host}: {said}");
    }
    portolan.stop().await;
}

/// A stranger who knocks with a name that is none must not fill the log, and is counted.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_none_are_counted_and_not_logged() {
    let authority = Authority::new();
    let origin = Origin::start("a").await;
    let portolan = prepare(&super::with_one("", &origin), &authority)
        .start()
        .await;
    let address = portolan.address().await;
    let before = portolan.log().lines().count();
    for name in ["127.0.0.1", "_", "-a.example", "a..example", "a b", "%00"] {
        let args = format!("s_client -connect {address} -CAfile ca.pem -servername");
        let mut args: Vec<&str> = args.split(' ').collect();
        args.push(name);
        crate::harness::openssl::try_openssl(portolan.folder(), &args).await;
    }
    portolan
        .wait_for_metric(
            "portolan_tls_handshakes_total",
            &["outcome=\"malformed\""],
            4.0,
        )
        .await;
    assert_eq!(portolan.log().lines().count(), before, "{}", portolan.log());
    portolan.stop().await;
}
