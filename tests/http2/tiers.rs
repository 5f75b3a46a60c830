//! Two tiers of Portolan: what some clients of the outer one do ends no request of others.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, Request};
use tokio::net::TcpSocket;

use crate::harness::config::{LISTENER, pool, pools};
use crate::harness::{Ask, Origin, Portolan, eventually, fetch, soon};

/// Clients that take requests back, and how many each: no more than one may.
const FICKLE: u8 = 20;
const TAKEN_BACK: usize = 150;

/// Asks over HTTP/2 from an address of its own, and takes every request back once it is under way.
async fn take_back(number: u8, address: SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind(SocketAddr::from(([127, 0, 1, number], 0)))
        .unwrap();
    let stream = socket.connect(address).await.unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..TAKEN_BACK {
        let request = Request::get("http://a/sleep?ms=2000").body(()).unwrap();
        let mut requests = soon("a stream", requests.clone().ready()).await.unwrap();
        let (answer, _) = requests.send_request(request, true).unwrap();
        // Nobody answers so soon.
        let _ = tokio::time::timeout(Duration::from_millis(5), answer).await;
    }
}

/// An inner tier that believes some peers about their clients.
async fn tiers(trusted: &str) -> (Portolan, Portolan, Origin) {
    let origin = Origin::start("a").await;
    let inner = [
        LISTENER,
        &format!("client_ip: {{ header: X-Forwarded-For, trusted: [ {trusted} ] }}\n"),
        &pools(&[("a", &[&origin], ", health: off")]),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let inner = Portolan::start(&inner).await;
    let outer = [
        LISTENER,
        "pools:\n",
        &pool(
            "inner",
            &[inner.address().await],
            ", protocol: h2c, health: off",
        ),
        "routes: [ { to: inner, expose: true } ]\n",
    ]
    .concat();
    (Portolan::start(&outer).await, inner, origin)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_take_requests_back_end_no_request_of_others() {
    // One that is not believed counts as one client: then it has to be careful.
    for trusted in ["127.0.0.1", "192.0.2.1"] {
        let (outer, inner, origin) = tiers(trusted).await;
        let address = outer.address().await;
        assert_eq!(fetch(address, "/").await.status, 200);
        let before = origin.hits();
        let strangers = (0..40).map(|_| {
            Ask::new(Method::POST, "/sleep?ms=4000")
                .body("once")
                .to(address)
        });
        let strangers = tokio::spawn(futures_util::future::join_all(strangers));
        eventually("they are under way", async || {
            (origin.hits() >= before + 40).then_some(())
        })
        .await;
        let fickle = (0..FICKLE).map(|number| take_back(number + 1, address));
        soon(
            "all of it is taken back",
            futures_util::future::join_all(fickle),
        )
        .await;
        for answer in soon("every answer", strangers).await.unwrap() {
            assert_eq!(answer.unwrap().status, 200, "{trusted}");
        }
        let refused = "portolan_refused_connections_total";
        assert_eq!(
            inner.metric(refused, &["reason=\"h2_"]).await,
            0.0,
            "{trusted}"
        );
        assert_eq!(outer.metric("portolan_ejections_total", &[]).await, 0.0);
        // All of them are over in the end.
        eventually("nothing is under way any more", async || {
            let inner = inner.metric("portolan_in_flight", &[]).await;
            (inner + outer.metric("portolan_in_flight", &[]).await == 0.0).then_some(())
        })
        .await;
        assert_eq!(fetch(address, "/").await.status, 200);
        outer.stop().await;
        inner.stop().await;
    }
}
