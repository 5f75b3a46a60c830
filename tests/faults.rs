//! Endpoints that fail requests, in every way, and requests that get through all the same.

use std::net::SocketAddr;

use http::Method;
use tokio::net::TcpListener;

use crate::harness::client::{Connection, Failure, send_exactly};
use crate::harness::config::{LISTENER, pool, pools};
use crate::harness::rogue::nobody;
use crate::harness::{Ask, Load, Origin, Portolan, Rogue, RogueEndpoint, eventually, soon};

/// Two tiers, the first one bad: only requests find out, and nobody is left out for it.
async fn behind(bad: SocketAddr, good: &Origin, pool_rest: &str, route_rest: &str) -> Portolan {
    let config = [
        LISTENER,
        "defaults: { health: off, outlier: off }\npools:\n",
        &pool("bad", &[bad], pool_rest),
        &pool("good", &[good.address], ""),
        &format!(
            "routes: [ {{ name: all, to: {{ tiers: [ bad, good ] }}, expose: true{route_rest} }} ]\n"
        ),
    ]
    .concat();
    Portolan::start(&config).await
}

/// What becomes of a request that may be repeated, of one that may not, and of one with a key.
async fn fates(address: SocketAddr) -> [(u16, String); 3] {
    let asks = [
        Ask::get("/"),
        Ask::new(Method::POST, "/").body("once"),
        Ask::new(Method::POST, "/")
            .header("idempotency-key", "7")
            .body("once"),
    ];
    let mut fates = Vec::new();
    for ask in asks {
        let answer = soon("an answer", ask.to(address)).await.unwrap();
        fates.push((answer.status, answer.origin().to_owned()));
    }
    fates.try_into().unwrap()
}

fn served() -> (u16, String) {
    (200, "good".to_owned())
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
async fn deadlines_end_what_waits() {
    let good = Origin::start("good").await;
    let stalling = RogueEndpoint::start(Rogue::Stall).await;
    // One try's time: the next one is elsewhere.
    let rest = ", retry: { per_try: 200ms }";
    let portolan = behind(stalling.address, &good, "", rest).await;
    let [get, post, keyed] = fates(portolan.address().await).await;
    assert_eq!((get, post.0, keyed), (served(), 504, served()));
    portolan.stop().await;
    // The whole time: there is no next one.
    let rest = ", timeout: 300ms";
    let portolan = behind(stalling.address, &good, "", rest).await;
    let answers = fates(portolan.address().await).await;
    assert!(
        answers.iter().all(|(status, _)| *status == 504),
        "{answers:?}"
    );
    portolan.stop().await;
    // No retries: what is, is.
    let rest = ", retry: { tries: 1 }";
    let portolan = behind(nobody().await, &good, "", rest).await;
    let answers = fates(portolan.address().await).await;
    assert!(
        answers.iter().all(|(status, _)| *status == 502),
        "{answers:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_has_begun_is_never_begun_again() {
    let good = Origin::start("good").await;
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_vec();
    let rogue = RogueEndpoint::start(Rogue::Say(half)).await;
    let portolan = behind(rogue.address, &good, "", "").await;
    let address = portolan.address().await;
    let mut connection = Connection::open(address).await.unwrap();
    let cut: Result<_, Failure> = connection.ask(Ask::get("/")).await;
    assert!(cut.is_err(), "{cut:?}");
    assert_eq!(good.hits(), 0);
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
    // With bodies that are there as a whole, and with bodies that flow.
    for rest in ["", ", retry: { max_body: 1B }"] {
        let portolan = behind(refusing, &good, ", protocol: h2c", rest).await;
        let fates = fates(portolan.address().await).await;
        assert_eq!(fates, [served(), served(), served()], "{rest}");
        portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_goes_silent_keeps_nobody_waiting_who_may_be_repeated() {
    let (aws, azure) = (Origin::start("aws").await, Origin::start("azure").await);
    let config = [
        LISTENER,
        "defaults: { health: off, outlier: off }\n",
        &pools(&[("aws", &[&aws], ""), ("azure", &[&azure], "")]),
        "routes: [ { to: { split: { aws: 70, azure: 30 } } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    // Its history is known.
    send_exactly(address, 1_000, 8, |_| Ask::get("/"))
        .await
        .assert_flawless();
    let load = Load::plain(address, 8);
    load.more(100).await;
    aws.freeze(true);
    eventually("it is suspect", async || {
        let endpoint = portolan.endpoint("aws", aws.address).await;
        (endpoint["suspect"] == true).then_some(())
    })
    .await;
    // Nobody probes and no deadline is near: only its silence tells.
    load.more(2_000).await;
    let silent = load.stop().await;
    silent.assert_flawless();
    assert!(portolan.log().contains("is suspect"), "{}", portolan.log());
    let beside = ["reason=\"beside\""];
    assert!(portolan.metric("portolan_retries_total", &beside).await > 0.0);
    // What may not be repeated goes elsewhere from the beginning.
    let tally = send_exactly(address, 100, 4, |_| Ask::new(Method::POST, "/")).await;
    tally.assert_flawless();
    assert_eq!(tally.from("azure"), 100);
    // It was only slow, says its first word.
    aws.freeze(false);
    portolan.wait_for_log("was heard again").await;
    eventually("it has its share again", async || {
        let tally = send_exactly(address, 100, 4, |_| Ask::get("/")).await;
        (tally.from("aws") == 70).then_some(())
    })
    .await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_be_repeated_waits_and_is_answered() {
    let (aws, azure) = (Origin::start("aws").await, Origin::start("azure").await);
    let config = [
        LISTENER,
        "defaults: { health: off, outlier: off }\n",
        &pools(&[("aws", &[&aws], ""), ("azure", &[&azure], "")]),
        "routes: [ { to: { tiers: [ aws, azure ] } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    send_exactly(address, 500, 8, |_| Ask::get("/"))
        .await
        .assert_flawless();
    aws.freeze(true);
    let mut posts = Vec::new();
    for _ in 0..3 {
        posts.push(tokio::spawn(async move {
            let ask = Ask::new(Method::POST, "/").body("once");
            ask.to(address).await.unwrap()
        }));
    }
    portolan.wait_for_log("is suspect").await;
    aws.freeze(false);
    for post in posts {
        let answer = soon("an answer", post).await.unwrap();
        assert_eq!(answer.status, 200);
    }
    assert_eq!(aws.hits() + azure.hits(), 503, "each of them once");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_answers_among_fast_ones_lose_nobody_and_accuse_nobody() {
    let origin = Origin::start("a").await;
    let other = Origin::start("b").await;
    let config = [
        LISTENER,
        "defaults: { health: off }\n",
        &pools(&[("a", &[&origin], ""), ("b", &[&other], "")]),
        "routes: [ { to: { tiers: [ a, b ] } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    // The slow ones among its history, as they are by nature.
    let asks = |number: u64| match number % 20 {
        0 => Ask::get("/sleep?ms=500"),
        _ => Ask::get("/"),
    };
    let tally = send_exactly(address, 2_000, 16, asks).await;
    tally.assert_flawless();
    assert_eq!(tally.from("a"), 2_000, "{:?}", tally.origins);
    assert!(!portolan.log().contains("ejected"), "{}", portolan.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_try_beside_a_slow_one_is_answered_first() {
    let (slow, fast) = (Origin::start("slow").await, Origin::start("fast").await);
    slow.set_latency(2_000);
    let config = |hedge: &str| {
        [
            LISTENER,
            "defaults: { health: off }\n",
            &pools(&[("a", &[&slow, &fast], ", balance: round_robin")]),
            &format!("routes: [ {{ to: a{hedge} }} ]\n"),
        ]
        .concat()
    };
    let portolan = Portolan::start(&config(", hedge: { after: 50ms, budget: 100% }")).await;
    let address = portolan.address().await;
    let tally = send_exactly(address, 10, 2, |_| Ask::get("/")).await;
    tally.assert_flawless();
    assert_eq!(tally.from("fast"), 10, "{:?}", tally.origins);
    let beside = ["reason=\"beside\""];
    assert_eq!(
        portolan.metric("portolan_retries_total", &beside).await,
        5.0
    );
    // Who may not be repeated waits.
    let tally = send_exactly(address, 4, 4, |_| Ask::new(Method::POST, "/")).await;
    tally.assert_flawless();
    assert_eq!(tally.from("slow"), 2, "{:?}", tally.origins);
    portolan.stop().await;
}
