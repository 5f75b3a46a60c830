//! Deadlines: of one try, of the whole request.
use http::Method;

use super::{behind, fates, served};
use crate::harness::config::{LISTENER, PROBES, pool, pools};
use crate::harness::rogue::nobody;
use crate::harness::{Ask, Origin, Portolan, Rogue, RogueEndpoint, soon};

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
    // Half of the whole time, unless the pool says otherwise.
    let rest = ", timeout: 1s";
    let portolan = behind(stalling.address, &good, "", rest).await;
    let [get, post, keyed] = fates(portolan.address().await).await;
    assert_eq!((get, post.0, keyed), (served(), 504, served()));
    portolan.stop().await;
    // The whole time: there is no next one.
    let (pool, rest) = (", timeouts: { first_byte: 1m }", ", timeout: 300ms");
    let portolan = behind(stalling.address, &good, pool, rest).await;
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
async fn what_is_not_tried_again_has_all_of_its_time() {
    let origin = Origin::start("a").await;
    let slow = "/sleep?ms=3000";
    for (method, rest) in [
        (Method::POST, ""),
        // There is no other endpoint.
        (Method::GET, ""),
        (Method::DELETE, ", retry: { tries: 5 }"),
        (Method::GET, ", retry: { tries: 1 }"),
        (Method::GET, ", retry: { on: [ connect, reset ] }"),
    ] {
        let config = [
            LISTENER,
            &pools(&[("a", &[&origin], ", health: off")]),
            &format!("routes: [ {{ to: a, timeout: 5s{rest} }} ]\n"),
        ]
        .concat();
        let portolan = Portolan::start(&config).await;
        let ask = Ask::new(method.clone(), slow);
        let answer = soon("an answer", ask.to(portolan.address().await)).await;
        assert_eq!(answer.unwrap().status, 200, "{method} {rest}");
        portolan.stop().await;
    }
}

/// The others are known to be down: who waits for the one that serves is not sent to them.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_nowhere_else_to_go_has_all_of_its_time() {
    let (slow, dead) = (Origin::start("slow").await, nobody().await);
    let config = [
        LISTENER,
        PROBES,
        "pools:\n",
        &pool("a", &[slow.address, dead], ""),
        &pool("b", &[nobody().await], ""),
        "routes: [ { to: { tiers: [ a, b ] }, timeout: 5s } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    portolan.wait_for_health("a", slow.address, "healthy").await;
    portolan.wait_for_health("a", dead, "unhealthy").await;
    portolan.wait_for_pool("b", false).await;
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let ask = Ask::new(method.clone(), "/sleep?ms=3000");
        let answer = soon("an answer", ask.to(portolan.address().await)).await;
        assert_eq!(answer.unwrap().status, 200, "{method}");
    }
    assert_eq!(portolan.metric("portolan_retries_total", &[]).await, 0.0);
    portolan.stop().await;
}
