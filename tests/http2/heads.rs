//! Heads: what is too large for an endpoint is answered for its own client alone, what is in pieces is
//! put together, what is malformed is refused.

use std::time::Duration;

use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, Response};
use hyper::body::Bytes;
use tokio::net::TcpStream;

use super::{Papers, TWO};
use crate::harness::client::Connection2;
use crate::harness::config::{LISTENER, pools};
use crate::harness::{Ask, Endpoint2, Nginx, Origin, Portolan, Wire, eventually, fetch, soon};

/// A cookie of so many bytes, none of which is written in fewer.
fn cookie(bytes: usize) -> String {
    // In HPACK each of these takes eight bits.
    "X&Z*".chars().cycle().take(bytes).collect()
}

fn with_cookie(method: Method, bytes: usize) -> Ask {
    Ask::new(method, "/").header("cookie", &cookie(bytes))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_that_nginx_finds_too_large_is_its_own_clients_affair() {
    let papers = Papers::new();
    let origin = Origin::start("behind").await;
    let behind = origin.address;
    for wire in TWO {
        let nginx = Nginx::start(1, Some(&papers.identity), |_, address| {
            let tls = match wire {
                Wire::Tls2 => "ssl http2; ssl_certificate tls.pem; ssl_certificate_key tls.key",
                _ => "http2",
            };
            format!("listen {address} {tls}; location / {{ proxy_pass http://{behind}; }}")
        })
        .await;
        let (portolan, _good) = papers.before(wire, nginx.addresses[0], "").await;
        let address = portolan.address().await;
        let before = origin.hits();
        // Strangers, whose requests are not to be repeated.
        let slow = (0..8).map(|_| {
            Ask::new(Method::POST, "/sleep?ms=1000")
                .body("once")
                .to(address)
        });
        let slow = tokio::spawn(futures_util::future::join_all(slow));
        eventually("they are under way", async || {
            (origin.hits() >= before + 8).then_some(())
        })
        .await;
        for bytes in [12_000, 20_000, 40_000] {
            for method in [Method::GET, Method::POST] {
                let answer = soon("an answer", with_cookie(method, bytes).to(address)).await;
                assert_eq!(answer.unwrap().status, 431, "{wire:?}, {bytes}");
            }
        }
        // What is rare in heads takes up to four times its room.
        let rare = "\u{7f}~`^".replace('\u{7f}', "|").repeat(1_500);
        let rare = Ask::get("/").header("x-rare", &rare).to(address);
        assert_eq!(soon("an answer", rare).await.unwrap().status, 431);
        for answer in soon("every answer", slow).await.unwrap() {
            let answer = answer.unwrap();
            assert_eq!((answer.status, answer.origin()), (200, "behind"));
        }
        for bytes in [10, 3_000, 7_000] {
            let answer = soon("an answer", with_cookie(Method::GET, bytes).to(address)).await;
            let answer = answer.unwrap();
            assert_eq!((answer.status, answer.origin()), (200, "behind"), "{bytes}");
        }
        assert!(
            nginx.log().contains("too large header field"),
            "{}",
            nginx.log()
        );
        let tries = "portolan_upstream_tries_total";
        portolan.wait_for_metric(tries, &["abandoned"], 7.0).await;
        assert_eq!(portolan.metric(tries, &[]).await, 18.0);
        assert_eq!(portolan.metric("portolan_ejections_total", &[]).await, 0.0);
        portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_larger_than_the_endpoint_says_is_not_sent() {
    let papers = Papers::new();
    for wire in TWO {
        let mut builder = h2::server::Builder::new();
        builder.max_header_list_size(4_000);
        let endpoint = Endpoint2::start(
            wire,
            &papers.identity,
            builder,
            |_, mut respond| async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                body.send_data(Bytes::from_static(b"ok"), true).unwrap();
            },
        )
        .await;
        let portolan = papers.in_front_of(wire, endpoint.address, "").await;
        let address = portolan.address().await;
        // So that it is known what it says.
        assert_eq!(fetch(address, "/").await.status, 200);
        let small = (0..10).map(|_| with_cookie(Method::POST, 1_000).body("once").to(address));
        let small = tokio::spawn(futures_util::future::join_all(small));
        for bytes in [4_000, 7_000, 20_000] {
            let answer = soon("an answer", with_cookie(Method::GET, bytes).to(address)).await;
            assert_eq!(answer.unwrap().status, 431, "{wire:?}, {bytes}");
        }
        for answer in soon("every answer", small).await.unwrap() {
            assert_eq!(answer.unwrap().status, 200);
        }
        let refused = "portolan_refused_requests_total";
        let reason = "reason=\"headers_too_large\"";
        portolan.wait_for_metric(refused, &[reason], 3.0).await;
        portolan.stop().await;
    }
}

async fn client(portolan: &Portolan) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(portolan.address().await).await.unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    requests
}

async fn in_front_of(origin: &Origin) -> Portolan {
    let config = [
        LISTENER,
        &pools(&[("a", &[origin], ", health: off")]),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    Portolan::start(&config).await
}

#[tokio::test(flavor = "multi_thread")]
async fn crumbs_of_cookies_are_one_cookie_over_http1() {
    let origin = Origin::start("a").await;
    let portolan = in_front_of(&origin).await;
    let mut two = Connection2::open(portolan.address().await).await.unwrap();
    let request = Request::get("http://a/echo")
        .header("cookie", "a=1")
        .header("x-other", "y")
        .header("cookie", "b=2")
        .header("cookie", "c=3")
        .body(http_body_util::Full::new(Bytes::new()))
        .unwrap();
    let seen = soon("an answer", two.send(request)).await.unwrap().json();
    // Several fields would be joined with a comma by the endpoint.
    assert_eq!(seen["headers"]["cookie"], "a=1; b=2; c=3");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_begin_or_end_with_blanks_are_malformed() {
    let origin = Origin::start("a").await;
    let portolan = in_front_of(&origin).await;
    let mut requests = client(&portolan).await;
    for (value, status) in [
        ("plain", 200),
        ("in between", 200),
        ("", 200),
        (" before", 400),
        ("behind ", 400),
        ("\tbefore", 400),
        ("behind\t", 400),
        (" ", 400),
    ] {
        let request = Request::get("http://a/")
            .header("x-value", value)
            .body(())
            .unwrap();
        let (answer, _) = requests.send_request(request, true).unwrap();
        let answer = soon("an answer", answer).await.unwrap();
        assert_eq!(answer.status(), status, "{value:?}");
    }
    // Behind a body as well.
    for (value, status) in [("plain", 200), (" before", 400), ("behind ", 400)] {
        let request = Request::post("http://a/").body(()).unwrap();
        let (answer, mut body) = requests.send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(b"once"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-value", value.parse().unwrap());
        body.send_trailers(trailers).unwrap();
        let answer = soon("an answer", answer).await.unwrap();
        assert_eq!(answer.status(), status, "{value:?} behind a body");
    }
    let refused = "portolan_refused_requests_total";
    portolan
        .wait_for_metric(refused, &["reason=\"malformed\""], 7.0)
        .await;
    portolan.stop().await;
}
