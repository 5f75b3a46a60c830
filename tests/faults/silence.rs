//! StallDetector as evidence: who waits for an endpoint that says nothing, and who does not.
use http::Method;

use crate::harness::client::send_exactly;
use crate::harness::config::{LISTENER, pools};
use crate::harness::{Ask, Load, Origin, Portolan, eventually, soon};

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
    let rescues = ["reason=\"rescue\""];
    assert!(portolan.metric("portolan_retries_total", &rescues).await > 0.0);
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
