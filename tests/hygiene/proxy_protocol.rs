//! The PROXY protocol, from load balancers in front and to endpoints behind: by hand, and with
//! HAProxy on the other side.

use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::limits::connect_from;
use crate::harness::certificates::Authority;
use crate::harness::client::Connection;
use crate::harness::config::{LISTENER, PROBES, pool, pools};
use crate::harness::haproxy::{HaProxy, free};
use crate::harness::{Ask, Origin, Portolan, eventually, soon};

const LISTENERS: &str = "listeners: [ { bind: \"127.0.0.1:0\", proxy_protocol: true, limits: { header_timeout: 500ms } } ]
client_ip: { trusted: [ \"127.0.0.1\" ] }
";

fn in_front_of(origin: &Origin) -> String {
    [
        LISTENERS,
        PROBES,
        &pools(&[("a", &[origin], "")]),
        "routes: [ { to: a } ]\n",
    ]
    .concat()
}

/// Sends a header and a request, and reads to the end.
async fn say(address: SocketAddr, header: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let _ = stream.write_all(&[header, request].concat()).await;
    let mut answer = Vec::new();
    let _ = soon("an end", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([command, family]);
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend(body);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn the_header_is_mandatory_and_says_who_the_client_is() {
    let origin = Origin::start("a").await;
    let portolan = Portolan::start(&in_front_of(&origin)).await;
    let address = portolan.address().await;
    let four = [192, 0, 2, 7, 198, 51, 100, 2, 0x12, 0x34, 1, 0xbb];
    let extra = [&four[..], &[4, 0, 3, 1, 2, 3]].concat();
    let six = [&[0x20, 1, 0xd, 0xb8][..], &[0; 28], &[0, 1, 1, 0xbb]].concat();
    for (header, client) in [
        (
            b"PROXY TCP4 192.0.2.7 198.51.100.2 4660 443\r\n".to_vec(),
            "192.0.2.7",
        ),
        (
            b"PROXY TCP6 2001:db8::7 2001:db8::1 4660 443\r\n".to_vec(),
            "2001:db8::7",
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (binary(0x21, 0x11, &four), "192.0.2.7"),
        (binary(0x21, 0x11, &extra), "192.0.2.7"),
        (binary(0x21, 0x21, &six), "2001:db8::"),
        (binary(0x20, 0x00, &[]), "127.0.0.1"),
        (binary(0x20, 0x11, &four), "127.0.0.1"),
        (binary(0x21, 0x31, &[0; 216]), "127.0.0.1"),
    ] {
        let answer = say(address, &header).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{header:?}: {answer}");
        let seen: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(seen["headers"]["x-forwarded-for"], client, "{header:?}");
    }
    let served = origin.hits();
    let broken_sum = [&four[..], &[3, 0, 4, 1, 2, 3, 4]].concat();
    for header in [
        b"".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.2 4660\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.2 4660 443\n".to_vec(),
        binary(0x21, 0x11, &broken_sum),
        binary(0x21, 0x12, &four),
    ] {
        assert_eq!(say(address, &header).await, "", "{header:?}");
    }
    let reason = |reason| format!("reason=\"proxy_header_{reason}\"");
    let refused = "portolan_refused_connections_total";
    portolan
        .wait_for_metric(refused, &[&reason("malformed")], 5.0)
        .await;
    // Who is not trusted cannot say so, and who says nothing is not waited for.
    let mut stranger = connect_from("127.0.0.9", address).await;
    let _ = stranger
        .write_all(b"PROXY TCP4 192.0.2.7 198.51.100.2 1 2\r\n")
        .await;
    let mut nothing = Vec::new();
    let _ = soon("it is closed", stranger.read_to_end(&mut nothing)).await;
    portolan
        .wait_for_metric(refused, &[&reason("untrusted")], 1.0)
        .await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    silent.write_all(b"PROXY TC").await.unwrap();
    soon("it is closed", silent.read_to_end(&mut nothing))
        .await
        .unwrap();
    assert!(nothing.is_empty());
    portolan
        .wait_for_metric(refused, &[&reason("too_slow")], 1.0)
        .await;
    assert_eq!(origin.hits(), served);
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_header_stands_before_tls() {
    let authority = Authority::new();
    let identity = authority.sign(&["a.example"]);
    let origin = Origin::start("a").await;
    let config = in_front_of(&origin).replace(
        "proxy_protocol: true",
        "proxy_protocol: true, tls: { certificates: [ { cert: a.pem, key: a.key } ] }",
    );
    let portolan = Portolan::with(&config)
        .file("a.pem", &identity.certificate)
        .file("a.key", &identity.key)
        .start()
        .await;
    let mut stream = TcpStream::connect(portolan.address().await).await.unwrap();
    let header = b"PROXY TCP4 192.0.2.7 198.51.100.2 4660 443\r\n";
    stream.write_all(header).await.unwrap();
    let stream = authority
        .over(stream, "a.example", &["http/1.1"])
        .await
        .unwrap();
    let mut connection = Connection::over(stream, "a.example").await.unwrap();
    let seen = connection.ask(Ask::get("/echo")).await.unwrap().json();
    assert_eq!(seen["headers"]["x-forwarded-for"], "192.0.2.7");
    assert_eq!(seen["headers"]["x-forwarded-proto"], "https");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_in_front_says_who_the_client_is() {
    let origin = Origin::start("a").await;
    let portolan = Portolan::start(&in_front_of(&origin)).await;
    let behind = portolan.address().await;
    for version in [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2 proxy-v2-options crc32c",
    ] {
        let front = free().await;
        let _haproxy = HaProxy::start(
            None,
            &format!("listen l\n  mode tcp\n  bind {front}\n  server s {behind} {version}\n"),
        )
        .await;
        let seen = eventually("an answer through HAProxy", async || {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.5:0".parse().unwrap()).unwrap();
            let stream = socket.connect(front).await.ok()?;
            let mut connection = Connection::over(stream, "a").await.ok()?;
            let answer = connection.ask(Ask::get("/echo")).await.ok()?;
            Some(answer.json())
        })
        .await;
        assert_eq!(seen["headers"]["x-forwarded-for"], "127.0.0.5", "{version}");
    }
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_behind_is_told_who_the_client_is() {
    for version in ["v1", "v2"] {
        let endpoint = free().await;
        let _haproxy = HaProxy::start(None, &format!(
            "frontend f\n  mode http\n  bind {endpoint} accept-proxy\n  \
             http-request return status 200 content-type text/plain lf-string \"%[src] %[src_port] %[path]\"\n"
        ))
        .await;
        let config = [
            LISTENER,
            PROBES,
            "pools:\n",
            &pool("a", &[endpoint], &format!(", send_proxy: {version}")),
            "routes: [ { to: a } ]\n",
        ]
        .concat();
        let portolan = Portolan::start(&config).await;
        // Probes bring a header as well, or HAProxy would not answer them.
        portolan.wait_for_pool("a", true).await;
        let address = portolan.address().await;
        // Connections are kept, and never used for another client.
        let mut clients = Vec::new();
        for from in ["127.0.0.5", "127.0.0.6", "127.0.0.5"] {
            let stream = connect_from(from, address).await;
            let port = stream.local_addr().unwrap().port();
            clients.push((from, port, Connection::over(stream, "a").await.unwrap()));
        }
        for _ in 0..3 {
            for (from, port, client) in &mut clients {
                let answer = client.ask(Ask::get("/x")).await.unwrap();
                assert_eq!(answer.text(), format!("{from} {port} /x"), "{version}");
            }
        }
        portolan.stop().await;
    }
}
