//! No answer yet: whoever may be repeated is, and what was not sent always is.

use std::net::SocketAddr;

use futures_util::future::join_all;
use http::Method;
use tokio::net::TcpListener;

use super::{Papers, behind, fates, served};
use crate::harness::config::{LISTENER, pool};
use crate::harness::rogue::nobody;
use crate::harness::saboteur::{Sabotage, Saboteur};
use crate::harness::{Ask, Origin, Rogue, RogueEndpoint, Wire, soon};

/// What becomes of a request that may not be repeated.
#[derive(Clone, Copy, Debug)]
enum Post {
    /// Nothing of it was sent, so another endpoint serves it.
    Served,
    /// It may have been done, and the client is told so.
    Refused(u16),
    /// Whether anything was sent is a matter of chance: one of both.
    Either(u16),
}

struct Case {
    /// Its pool, its path and its route.
    name: &'static str,
    /// Nothing: nobody listens.
    how: Option<Sabotage>,
    /// What its pool says besides.
    rest: &'static str,
    post: Post,
    /// How tries end.
    outcome: &'static str,
    /// What retries are counted as.
    reason: &'static str,
}

fn cases(wire: Wire) -> Vec<Case> {
    let case = |name, how: Sabotage, post, outcome, reason| Case {
        name,
        how: Some(how),
        rest: "",
        post,
        outcome,
        reason,
    };
    let broken = |name, how| case(name, how, Post::Refused(502), "broken", "reset");
    let mut cases = vec![
        Case {
            how: None,
            ..case(
                "refused",
                Sabotage::ResetAtOnce,
                Post::Served,
                "connect_failed",
                "connect",
            )
        },
        broken("reset-after-request", Sabotage::ResetAfterRequest),
        broken("close-after-request", Sabotage::CloseAfterRequest),
        broken("garbage", Sabotage::Garbage),
        Case {
            rest: ", timeouts: { first_byte: 300ms }",
            ..case(
                "stall",
                Sabotage::Stall,
                Post::Refused(504),
                "timed_out",
                "timeout",
            )
        },
    ];
    if wire.is_http2() {
        cases.push(broken("cancel-after-request", Sabotage::CancelAfterRequest));
    }
    let at_once = if wire.is_tls() {
        // The handshake comes before the request.
        cases.push(Case {
            rest: ", timeouts: { connect: 300ms }",
            ..case(
                "deaf-at-once",
                Sabotage::DeafAtOnce,
                Post::Served,
                "connect_failed",
                "connect",
            )
        });
        case(
            "reset-at-once",
            Sabotage::ResetAtOnce,
            Post::Served,
            "connect_failed",
            "connect",
        )
    } else {
        // The reset may come before anything was sent, or after.
        case(
            "reset-at-once",
            Sabotage::ResetAtOnce,
            Post::Either(502),
            "",
            "",
        )
    };
    cases.push(at_once);
    cases
}

async fn whoever_may_be_repeated_is(wire: Wire) {
    let papers = Papers::new();
    let good = Origin::start("good").await;
    let cases = cases(wire);
    let mut kept = Vec::new();
    let mut pools = String::new();
    let mut routes = String::new();
    for case in &cases {
        let address = match case.how {
            None => nobody().await,
            Some(how) => {
                let saboteur = Saboteur::start(wire, how, &papers.identity).await;
                let address = saboteur.address;
                kept.push(saboteur);
                address
            }
        };
        let name = case.name;
        pools += &pool(name, &[address], &format!("{}{}", wire.pool(), case.rest));
        routes +=
            &format!("  - {{ name: {name}, path: /{name}, to: {{ tiers: [ {name}, good ] }} }}\n");
    }
    let config = [
        LISTENER,
        "defaults: { health: off, outlier: off }\npools:\n",
        &pools,
        &pool("good", &[good.address], ""),
        "routes:\n",
        &routes,
    ]
    .concat();
    let portolan = papers.portolan(&config).start().await;
    let address = portolan.address().await;
    let fates = join_all(cases.iter().map(async |case| {
        let ask = |method| Ask::new(method, &format!("/{}", case.name)).body("once");
        let asks = [
            Ask::get(&format!("/{}", case.name)),
            ask(Method::POST).header("idempotency-key", "7"),
            ask(Method::POST),
        ];
        let mut fates = Vec::new();
        for ask in asks {
            let answer = soon("an answer", ask.to(address)).await.unwrap();
            fates.push((answer.status, answer.origin().to_owned()));
        }
        fates
    }))
    .await;
    let mut reached = 0;
    for (case, fates) in cases.iter().zip(fates) {
        let what = format!("{wire:?}, {}", case.name);
        assert_eq!(fates[..2], [served(), served()], "{what}");
        let lost = |status| (status, String::new());
        match case.post {
            Post::Served => assert_eq!(fates[2], served(), "{what}"),
            Post::Refused(status) => assert_eq!(fates[2], lost(status), "{what}"),
            Post::Either(status) => {
                assert!(
                    [served(), lost(status)].contains(&fates[2]),
                    "{what}: {:?}",
                    fates[2]
                );
            }
        }
        let retries = 2 + u64::from(fates[2] == served());
        reached += retries;
        let labels = |name: &str, value: &str| {
            if value.is_empty() {
                String::new()
            } else {
                format!("{name}=\"{value}\"")
            }
        };
        let route = labels("route", case.name);
        let reason = labels("reason", case.reason);
        portolan
            .wait_for_metric("portolan_retries_total", &[&route, &reason], retries as f64)
            .await;
        let pool = labels("pool", case.name);
        let outcome = labels("outcome", case.outcome);
        portolan
            .wait_for_metric("portolan_upstream_tries_total", &[&pool, &outcome], 3.0)
            .await;
    }
    assert_eq!(good.hits(), reached, "{wire:?}: nothing is done twice");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_be_repeated_is_over_http1() {
    whoever_may_be_repeated_is(Wire::Http1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_be_repeated_is_over_http1_by_tls() {
    whoever_may_be_repeated_is(Wire::Tls1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_be_repeated_is_over_http2() {
    whoever_may_be_repeated_is(Wire::H2c).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_be_repeated_is_over_http2_by_tls() {
    whoever_may_be_repeated_is(Wire::Tls2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_is_survived_by_whoever_may_be_repeated() {
    let good = Origin::start("good").await;
    let failing = Origin::start("bad").await;
    failing.set_status(503);
    let rogues = [
        (Rogue::ResetAfterRequest, 502, "reset"),
        (Rogue::CloseAfterRequest, 502, "reset"),
        (Rogue::Say(b"SSH-2.0-x\r\n\r\n".to_vec()), 502, "reset"),
        (
            Rogue::Say(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n".to_vec()),
            502,
            "reset",
        ),
        (Rogue::Stall, 504, "timeout"),
        (
            Rogue::SayAndStall(b"HTTP/1.1 200 O".to_vec()),
            504,
            "timeout",
        ),
    ];
    let mut endpoints = Vec::new();
    for (rogue, status, reason) in rogues {
        let endpoint = RogueEndpoint::start(rogue).await;
        endpoints.push((endpoint.address, status, reason, Some(endpoint)));
    }
    endpoints.push((failing.address, 503, "status", None));
    for (address, status, reason, _kept) in endpoints {
        let portolan = behind(address, &good, ", timeouts: { first_byte: 300ms }", "").await;
        let before = good.hits();
        let [get, post, keyed] = fates(portolan.address().await).await;
        assert_eq!((get, keyed), (served(), served()), "{reason}");
        assert_eq!(
            post.0, status,
            "{reason}: what may have been done is not done twice"
        );
        assert_eq!(good.hits(), before + 2, "{reason}: each of them once");
        let label = format!("reason=\"{reason}\"");
        portolan
            .wait_for_metric("portolan_retries_total", &["route=\"all\"", &label], 2.0)
            .await;
        portolan.stop().await;
    }
    // A reset as it was accepted: it may come before anything was sent, or after.
    let rogue = RogueEndpoint::start(Rogue::ResetAtOnce).await;
    let portolan = behind(rogue.address, &good, "", "").await;
    let [get, _, keyed] = fates(portolan.address().await).await;
    assert_eq!((get, keyed), (served(), served()));
    portolan.stop().await;
    // Nothing was sent: anything goes.
    let portolan = behind(nobody().await, &good, "", "").await;
    let fates = fates(portolan.address().await).await;
    assert_eq!(fates, [served(), served(), served()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_not_kept_are_not_sent_twice() {
    let good = Origin::start("good").await;
    let rogue = RogueEndpoint::start(Rogue::ResetAfterRequest).await;
    let portolan = behind(rogue.address, &good, "", "").await;
    let address = portolan.address().await;
    let put = |size: usize| Ask::new(Method::PUT, "/echo").body(vec![b'x'; size]);
    let answer = soon("an answer", put(60_000).to(address)).await.unwrap();
    assert_eq!((answer.status, answer.origin()), (200, "good"));
    assert_eq!(answer.json()["body_bytes"], 60_000);
    let answer = soon("an answer", put(2_000_000).to(address)).await;
    // Cut while it was sent, or told afterwards.
    assert!(answer.is_err() || answer.unwrap().status == 502);
    assert_eq!(good.hits(), 1);
}

/// An HTTP/2 server that takes no request: as one that restarts.
async fn refusing_streams() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else {
                    return;
                };
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_stream_was_not_processed_whatever_the_method() {
    let good = Origin::start("good").await;
    let refusing = refusing_streams().await;
    // By the direct exchange, and (nothing is kept) by the engine's loop.
    for rest in ["", ", retry: { max_body: 1B }"] {
        let portolan = behind(refusing, &good, ", protocol: h2c", rest).await;
        let fates = fates(portolan.address().await).await;
        assert_eq!(fates, [served(), served(), served()], "{rest}");
        portolan.stop().await;
    }
}
