//! Endpoints that misbehave: what the client gets, and what the next client gets.

use std::net::SocketAddr;
use std::time::Duration;

use http::Method;

use crate::harness::client::send_exactly;
use crate::harness::config::{LISTENER, PROBES, pool, pools};
use crate::harness::rogue::{BlackHole, nobody};
use crate::harness::{Ask, Origin, Portolan, Rogue, RogueEndpoint, fetch, get, soon};

/// A process with one endpoint that nobody probes.
async fn in_front_of(address: SocketAddr) -> Portolan {
    let config = [
        LISTENER,
        "pools:\n",
        &pool(
            "a",
            &[address],
            ", health: off, timeouts: { connect: 500ms, first_byte: 1s, idle: 1s }",
        ),
        "routes: [ { to: a, expose: true } ]\n",
    ]
    .concat();
    Portolan::start(&config).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_or_understood_is_a_bad_gateway() {
    let refused = nobody().await;
    let portolan = in_front_of(refused).await;
    let answer = fetch(portolan.address().await, "/").await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert!(
        !answer.text().contains(&refused.to_string()),
        "{}",
        answer.text()
    );

    let rogues = [
        Rogue::ResetAtOnce,
        Rogue::ResetAfterRequest,
        Rogue::CloseAfterRequest,
        Rogue::Say(b"\x16\x03\x01 garbage \x00\xff\r\n\r\n".to_vec()),
        Rogue::Say(b"HTTP/1.1 banana OK\r\n\r\n".to_vec()),
        Rogue::Say(b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n".to_vec()),
        Rogue::Say(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()),
        Rogue::Say(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nabc".to_vec()),
        Rogue::Say(
            [
                b"HTTP/1.1 200 OK\r\nx: ".to_vec(),
                vec![b'a'; 2 << 20],
                b"\r\n\r\n".to_vec(),
            ]
            .concat(),
        ),
        Rogue::Say(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
    ];
    for rogue in rogues {
        let name: String = format!("{rogue:?}").chars().take(80).collect();
        let endpoint = RogueEndpoint::start(rogue).await;
        let portolan = in_front_of(endpoint.address).await;
        let address = portolan.address().await;
        for _ in 0..2 {
            let answer = soon(&name, get(address, "/")).await.unwrap();
            assert_eq!(answer.status, 502, "{name}: {}", answer.text());
            assert_eq!(
                answer.header("content-type"),
                "application/problem+json",
                "{name}"
            );
        }
        portolan
            .wait_for_metric("portolan_requests_total", &["5xx"], 2.0)
            .await;
        portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_answers_too_late_is_a_gateway_timeout() {
    for rogue in [Rogue::Stall, Rogue::SayAndStall(b"HTTP/1.1 200 O".to_vec())] {
        let endpoint = RogueEndpoint::start(rogue.clone()).await;
        let portolan = in_front_of(endpoint.address).await;
        let answer = fetch(portolan.address().await, "/").await;
        assert_eq!(answer.status, 504, "{rogue:?}: {}", answer.text());
    }
    let hole = BlackHole::start().await;
    let portolan = in_front_of(hole.address).await;
    let answer = fetch(portolan.address().await, "/").await;
    assert_eq!(answer.status, 504, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_early_is_never_passed_off_as_whole() {
    let halves: [(&[u8], &str); 3] = [
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
            "too short",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "no last chunk",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
            "a bad chunk",
        ),
    ];
    for (bytes, name) in halves {
        let endpoint = RogueEndpoint::saying(bytes).await;
        let portolan = in_front_of(endpoint.address).await;
        let got = soon(name, get(portolan.address().await, "/")).await;
        assert!(got.is_err(), "{name}: {got:?}");
    }
    // And what stops in the middle is cut off, too.
    let endpoint = RogueEndpoint::start(Rogue::SayAndStall(
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this".to_vec(),
    ))
    .await;
    let portolan = in_front_of(endpoint.address).await;
    assert!(
        soon("idle is over", get(portolan.address().await, "/"))
            .await
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_drip_is_still_an_answer() {
    let endpoint = RogueEndpoint::start(Rogue::Drip(
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec(),
        Duration::from_millis(10),
    ))
    .await;
    let portolan = in_front_of(endpoint.address).await;
    let answer = fetch(portolan.address().await, "/").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
}

#[tokio::test(flavor = "multi_thread")]
async fn until_close_and_without_a_body_are_answers_like_others() {
    let endpoint = RogueEndpoint::saying(b"HTTP/1.0 200 OK\r\n\r\nuntil the end").await;
    let portolan = in_front_of(endpoint.address).await;
    let answer = fetch(portolan.address().await, "/").await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (200, "until the end")
    );

    let endpoint =
        RogueEndpoint::saying(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
    let portolan = in_front_of(endpoint.address).await;
    assert_eq!(fetch(portolan.address().await, "/").await.status, 204);
    // Hints come before the answer, and are not it.
    let endpoint = RogueEndpoint::saying(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let portolan = in_front_of(endpoint.address).await;
    let answer = fetch(portolan.address().await, "/").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_endpoint_costs_nobody_a_request() {
    // Nobody probes: only the tries themselves tell. Every method may go elsewhere, for nothing of
    // the request was sent.
    let living = Origin::start("living").await;
    let resetting = RogueEndpoint::start(Rogue::ResetAtOnce).await;
    let hole = BlackHole::start().await;
    let config = [
        LISTENER,
        "pools:\n",
        &pool(
            "mixed",
            &[nobody().await, hole.address, living.address],
            ", health: off, balance: round_robin, timeouts: { connect: 200ms }",
        ),
        &pool("dead", &[nobody().await], ", health: off"),
        &pool("living", &[living.address], ", health: off"),
        &pool(
            "resetting",
            &[resetting.address, living.address],
            ", health: off, balance: round_robin",
        ),
        "
routes:
  - { path: /pools, to: { tiers: [ dead, living ] }, expose: true }
  - { path: /split, to: { split: { dead: 50, living: 50 } } }
  - { path: /reset, to: resetting }
  - { to: mixed, expose: true }
",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
        for _ in 0..6 {
            let ask = Ask::new(method.clone(), "/").body("some body");
            let answer = soon("an answer", ask.to(address)).await.unwrap();
            assert_eq!(
                (answer.status, answer.origin()),
                (200, "living"),
                "{method}"
            );
        }
    }
    assert!(
        portolan
            .metric("portolan_retries_total", &["connect"])
            .await
            >= 12.0
    );
    // From one pool to the next, by tier or by share.
    let answer = fetch(address, "/pools").await;
    assert_eq!((answer.status, answer.origin()), (200, "living"));
    assert_eq!(answer.header("x-portolan-pool"), "living");
    assert_eq!(answer.header("x-portolan-tries"), "2");
    send_exactly(address, 100, 4, |_| Ask::get("/split"))
        .await
        .assert_flawless();
    // Reset before a byte of the request could be sent, or just after: both are gone.
    let tally = send_exactly(address, 50, 1, |_| Ask::get("/reset")).await;
    assert!(tally.failures.is_empty());
    assert!(tally.from("living") >= 25, "{:?}", tally.statuses);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_endpoints_are_kept_and_replaced_when_they_are_closed() {
    let origin = Origin::start("a").await;
    let config = [
        LISTENER,
        "defaults: { health: off }\n",
        &pools(&[("a", &[&origin], "")]),
        "routes: [ { to: a, expose: true } ]\n",
    ]
    .concat();
    let portolan = Portolan::with(&config)
        .env("PORTOLAN_WORKERS", "1")
        .start()
        .await;
    let address = portolan.address().await;
    send_exactly(address, 200, 1, |_| Ask::get("/"))
        .await
        .assert_flawless();
    assert_eq!(
        origin.connections(),
        1,
        "one client at a time needs one connection"
    );
    // All kept connections die; the requests that find them dead do not notice, and it is no try.
    for _ in 0..5 {
        origin.kill().await;
        origin.revive().await;
        let ask = Ask::new(Method::POST, "/").body("not idempotent");
        let answer = ask.to(address).await.unwrap();
        assert_eq!(
            (answer.status, answer.header("x-portolan-tries")),
            (200, "1")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_go_away_free_what_they_held() {
    let origin = Origin::start("a").await;
    let config = [
        LISTENER,
        PROBES,
        &pools(&[("a", &[&origin], "")]),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    {
        use tokio::io::AsyncWriteExt as _;
        let mut streams = Vec::new();
        for _ in 0..20 {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            stream
                .write_all(b"GET /bytes?count=100000000 HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .unwrap();
            streams.push(stream);
        }
        crate::harness::eventually("they are all under way", async || {
            (portolan.metric("portolan_in_flight", &[]).await == 20.0).then_some(())
        })
        .await;
    }
    portolan
        .wait_for_metric("portolan_in_flight", &[], 0.0)
        .await;
    portolan
        .wait_for_metric("portolan_connections", &[], 0.0)
        .await;
}
