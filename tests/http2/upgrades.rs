//! WebSocket to endpoints that speak HTTP/2 alone: by extended CONNECT where they offer it (RFC 8441),
//! and otherwise not at all, and nobody's fault.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use http::{Method, Request, Response};
use hyper::body::Bytes;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{Papers, TWO};
use crate::harness::{Ask, Endpoint2, Nginx, Wire, fetch, soon};

type Socket = tokio_tungstenite::WebSocketStream<TcpStream>;

async fn upgrade(
    address: SocketAddr,
    url: &str,
) -> Result<(Socket, Response<Option<Vec<u8>>>), tokio_tungstenite::tungstenite::Error> {
    let stream = TcpStream::connect(address).await.unwrap();
    let mut request = url.into_client_request().unwrap();
    let chat = "chat".parse().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", chat);
    tokio_tungstenite::client_async(request, stream).await
}

fn offering() -> Builder {
    let mut builder = Builder::new();
    builder.enable_connect_protocol();
    builder
}

/// Echoes messages, and says in its answer how it was asked.
async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let asked = request.extensions().get::<h2::ext::Protocol>().cloned();
    let Some(protocol) = asked.filter(|_| request.method() == Method::CONNECT) else {
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data(Bytes::from_static(b"ok"), true).unwrap();
        return;
    };
    if request.uri().path() == "/no" {
        let no = Response::builder().status(403).body(()).unwrap();
        respond.send_response(no, true).unwrap();
        return;
    }
    let keys = request.headers().contains_key("sec-websocket-key");
    let answer = Response::builder()
        .header("x-protocol", protocol.as_str())
        .header("x-target", request.uri().to_string())
        .header("x-key", keys.to_string())
        .header("sec-websocket-protocol", "chat")
        .body(())
        .unwrap();
    let mut out = respond.send_response(answer, false).unwrap();
    let mut incoming = request.into_body();
    // Bytes both ways, as a socket would have them.
    let (near, far) = tokio::io::duplex(64 << 10);
    let (mut read, mut write) = tokio::io::split(far);
    let taking = async move {
        while let Some(Ok(part)) = incoming.data().await {
            let _ = incoming.flow_control().release_capacity(part.len());
            if tokio::io::AsyncWriteExt::write_all(&mut write, &part)
                .await
                .is_err()
            {
                return;
            }
        }
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
    };
    let giving = async move {
        let mut piece = vec![0; 16 << 10];
        while let Ok(count @ 1..) = tokio::io::AsyncReadExt::read(&mut read, &mut piece).await {
            out.send_data(Bytes::copy_from_slice(&piece[..count]), false)
                .unwrap();
        }
        let _ = out.send_data(Bytes::new(), true);
    };
    let talking = async move {
        let mut socket =
            tokio_tungstenite::WebSocketStream::from_raw_socket(near, Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await.unwrap();
            }
        }
    };
    tokio::join!(taking, giving, talking);
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket_goes_by_extended_connect_where_it_is_offered() {
    let papers = Papers::new();
    for wire in TWO {
        let endpoint = Endpoint2::start(wire, &papers.identity, offering(), echo).await;
        let portolan = papers.in_front_of(wire, endpoint.address, "").await;
        let address = portolan.address().await;
        assert_eq!(fetch(address, "/").await.status, 200);
        let url = format!("ws://{address}/chat?room=1");
        let (mut socket, answer) = soon("an upgrade", upgrade(address, &url)).await.unwrap();
        assert_eq!(answer.status(), 101);
        let said = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(
            (said("x-protocol"), said("x-key")),
            ("websocket".into(), "false".into())
        );
        let scheme = if wire.is_tls() { "https" } else { "http" };
        assert_eq!(
            said("x-target"),
            format!("{scheme}://{address}/chat?room=1")
        );
        assert_eq!(said("sec-websocket-protocol"), "chat");
        for size in [1, 1_000, 300_000] {
            let text = "y".repeat(size);
            socket.send(Message::text(&text)).await.unwrap();
            let back = soon("an echo", socket.next()).await.unwrap().unwrap();
            assert_eq!(back.into_text().unwrap(), text.as_str());
        }
        socket.close(None).await.unwrap();
        while let Some(Ok(_)) = soon("the end", socket.next()).await {}
        // An endpoint may still say no.
        let refused = upgrade(address, &format!("ws://{address}/no")).await;
        let Err(tokio_tungstenite::tungstenite::Error::Http(answer)) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(answer.status(), 403);
        // Others are served on the same connections.
        assert_eq!(fetch(address, "/").await.status, 200);
        portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_tls_agrees_on_nothing_but_http2_an_upgrade_finds_that_out() {
    let papers = Papers::new();
    let endpoint = Endpoint2::start(Wire::Tls2, &papers.identity, offering(), echo).await;
    let rest = ", tls: { server_name: api.internal, ca: ca.pem }, protocol: auto";
    let config = [
        crate::harness::config::LISTENER,
        "pools:\n",
        &crate::harness::config::pool("a", &[endpoint.address], &format!("{rest}, health: off")),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = crate::harness::Portolan::with(&config).file("ca.pem", papers.authority.pem());
    let portolan = portolan.start().await;
    let address = portolan.address().await;
    let url = format!("ws://{address}/chat");
    let (mut socket, _) = soon("an upgrade", upgrade(address, &url)).await.unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    let back = soon("an echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(back.into_text().unwrap(), "hello");
    drop(socket);
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_nobody_offers_is_refused_and_nobody_is_to_blame() {
    let papers = Papers::new();
    for wire in TWO {
        let nginx = Nginx::start(2, Some(&papers.identity), |_, address| {
            let tls = match wire {
                Wire::Tls2 => "ssl http2; ssl_certificate tls.pem; ssl_certificate_key tls.key",
                _ => "http2",
            };
            format!("listen {address} {tls}; location / {{ return 200 ok; }}")
        })
        .await;
        let (portolan, good) = papers.before(wire, nginx.addresses[0], "").await;
        let address = portolan.address().await;
        for _ in 0..8 {
            let ask = Ask::get("/chat")
                .header("connection", "Upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
            let answer = soon("an answer", ask.to(address)).await.unwrap();
            assert_eq!(answer.status, 501, "{wire:?}: {}", answer.text());
            assert_eq!(answer.header("content-type"), "application/problem+json");
        }
        let refused = "portolan_refused_requests_total";
        let reason = "reason=\"upgrade_not_offered\"";
        portolan.wait_for_metric(refused, &[reason], 8.0).await;
        assert_eq!(portolan.metric("portolan_ejections_total", &[]).await, 0.0);
        assert_eq!(portolan.metric("portolan_retries_total", &[]).await, 0.0);
        assert_eq!(fetch(address, "/").await.header("server"), "nginx/1.22.1");
        assert_eq!(good.hits(), 0);
        portolan.stop().await;
    }
}
