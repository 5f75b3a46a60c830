//! Where requests go: splits, tiers, geography, distance, speed, load.

use serde_json::json;

use crate::harness::client::{Connection, send_exactly};
use crate::harness::config::{LISTENER, PROBES, TRUSTING, pools};
use crate::harness::{Ask, Load, Origin, Portolan, eventually, fetch};

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_requests_are_split_exactly() {
    let aws = Origin::start_several("aws", 2).await;
    let azure = Origin::start_several("azure", 2).await;
    let config = [
        LISTENER,
        PROBES,
        &pools(&[
            ("aws", &[&aws[0], &aws[1]], ""),
            ("azure", &[&azure[0], &azure[1]], ""),
        ]),
        "routes: [ { to: { split: { aws: 70, azure: 30 } } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let tally = send_exactly(portolan.address().await, 100_000, 16, |_| Ask::get("/")).await;
    tally.assert_flawless();
    let share = tally.from("aws") as f64 / 100_000.0;
    assert!((share - 0.70).abs() <= 0.001, "{:?}", tally.origins);
    // Within a pool the endpoints share alike, too.
    for endpoint in ["aws-1", "aws-2"] {
        let share = tally.origins[endpoint] as f64 / tally.from("aws") as f64;
        assert!((share - 0.5).abs() < 0.05, "{:?}", tally.origins);
    }
    portolan
        .wait_for_metric("portolan_requests_total", &["2xx"], 100_000.0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_thousand_requests_in_a_row_are_split_exactly() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let config = [
        LISTENER,
        PROBES,
        &pools(&[("a", &[&a], ""), ("b", &[&b], "")]),
        "routes: [ { to: { split: { a: 70, b: 30 } } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    // One after another, so that the order of answers is the order of draws; connections change
    // worker threads.
    let mut from_a = Vec::new();
    for _ in 0..40 {
        let mut connection = Connection::open(address).await.unwrap();
        for _ in 0..50 {
            let answer = connection.ask(Ask::get("/")).await.unwrap();
            from_a.push(answer.origin() == "a");
        }
    }
    for window in from_a.windows(1_000) {
        let share = window.iter().filter(|is_a| **is_a).count();
        assert!((690..=710).contains(&share), "{share} of 1000");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pool_of_a_tier_dies_and_comes_back_under_load() {
    let first = Origin::start_several("first", 2).await;
    let second = Origin::start_several("second", 2).await;
    let last = Origin::start_several("last", 2).await;
    let config = [
        LISTENER,
        "defaults: { health: { http: /health, every: 100ms, timeout: 500ms, down_after: 2, up_after: 2 } }\n",
        &pools(&[("first", &[&first[0], &first[1]], ""), ("second", &[&second[0], &second[1]], ""), ("last", &[&last[0], &last[1]], "")]),
        "services: { front: { split: { first: 50, second: 50 } } }\n",
        "routes: [ { to: { tiers: [ front, last ] } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let load = Load::plain(portolan.address().await, 8);
    load.more(500).await;

    // One pool of the tier: its peers take its share, the next tier gets nothing.
    for origin in &first {
        origin.kill().await;
    }
    portolan.wait_for_pool("first", false).await;
    let (before, left_over) = (
        first[0].hits() + first[1].hits(),
        last[0].hits() + last[1].hits(),
    );
    load.more(500).await;
    assert_eq!(first[0].hits() + first[1].hits(), before, "dead means dead");

    // The whole tier: the next one takes everything.
    for origin in &second {
        origin.kill().await;
    }
    portolan.wait_for_pool("second", false).await;
    load.more(500).await;
    assert!(last[0].hits() + last[1].hits() >= left_over + 400);

    // And back again.
    for origin in first.iter().chain(&second) {
        origin.revive().await;
    }
    portolan.wait_for_pool("first", true).await;
    portolan.wait_for_pool("second", true).await;
    eventually("every endpoint is healthy again", async || {
        let pools = portolan.api("/pools").await;
        pools
            .as_array()?
            .iter()
            .all(|pool| pool["availability"] == 1.0)
            .then_some(())
    })
    .await;
    load.more(50).await;
    let left_over = last[0].hits() + last[1].hits();
    let (a, b) = (
        first[0].hits() + first[1].hits(),
        second[0].hits() + second[1].hits(),
    );
    load.more(1_000).await;
    assert_eq!(last[0].hits() + last[1].hits(), left_over, "nothing spills");
    let (a, b) = (
        first[0].hits() + first[1].hits() - a,
        second[0].hits() + second[1].hits() - b,
    );
    assert!(a.abs_diff(b) < (a + b) / 20, "{a} and {b}");

    let tally = load.stop().await;
    tally.assert_flawless();
    let page = portolan.api("/services").await;
    assert_eq!(page[0]["name"], "front", "{page}");
    let shares = page[0]["classes"][0]["pools"].as_array().unwrap();
    assert_eq!(shares.len(), 2, "{page}");
    for share in shares {
        assert_eq!(
            (share["asked"].as_f64(), share["effective"].as_f64()),
            (Some(0.5), Some(0.5))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tier_cannot_carry_goes_to_the_next() {
    let first = Origin::start_several("first", 2).await;
    let last = Origin::start("last").await;
    let config = [
        LISTENER,
        "defaults: { health: { http: /health, every: 100ms, timeout: 500ms, down_after: 1 } }\n",
        &pools(&[
            ("first", &[&first[0], &first[1]], ""),
            ("last", &[&last], ""),
        ]),
        "routes: [ { to: { tiers: [ first, last ] } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    first[0].set_health(503);
    portolan
        .wait_for_health("first", first[0].address, "unhealthy")
        .await;
    // Half of the endpoints, over-provisioned by 1.4, carry 70%.
    let tally = send_exactly(address, 2_000, 4, |_| Ask::get("/")).await;
    tally.assert_flawless();
    let share = tally.from("last") as f64 / 2_000.0;
    assert!((share - 0.30).abs() <= 0.01, "{:?}", tally.origins);
    assert!(
        !tally.origins.contains_key("first-1"),
        "{:?}",
        tally.origins
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_of_dead_members_are_shed_or_spilled_as_asked() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let spare = Origin::start("spare").await;
    let config = [
        LISTENER,
        "defaults: { health: { http: /health, every: 100ms, timeout: 500ms, down_after: 1 } }\n",
        &pools(&[
            ("a", &[&a], ""),
            ("b", &[&b], ""),
            ("spare", &[&spare], ""),
        ]),
        "
routes:
  - path: /shed
    to: { split: [ { to: a, weight: 70, if_down: shed }, { to: b, weight: 30, if_down: shed } ] }
  - path: /next
    to: { tiers: [ { split: [ { to: a, weight: 70, if_down: next }, { to: b, weight: 30 } ] }, spare ] }
",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    a.kill().await;
    portolan.wait_for_pool("a", false).await;
    let tally = send_exactly(address, 1_000, 4, |_| Ask::get("/shed")).await;
    assert!(tally.failures.is_empty());
    let refused = tally.statuses[&503] as f64 / 1_000.0;
    assert!((refused - 0.70).abs() <= 0.01, "{:?}", tally.statuses);
    let answer = eventually("a request is shed", async || {
        let answer = fetch(address, "/shed").await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert!(!answer.header("retry-after").is_empty());
    assert_eq!(answer.header("content-type"), "application/problem+json");

    let tally = send_exactly(address, 1_000, 4, |_| Ask::get("/next")).await;
    tally.assert_flawless();
    let spilled = tally.from("spare") as f64 / 1_000.0;
    assert!((spilled - 0.70).abs() <= 0.01, "{:?}", tally.origins);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_are_down_they_are_tried_or_the_configured_answer_is_given() {
    let a = Origin::start("a").await;
    a.set_health(503);
    let config = [
        LISTENER,
        PROBES,
        &pools(&[("a", &[&a], "")]),
        "
routes:
  - { path: /try, to: a }
  - { path: /answer, to: a, when_all_down: { respond: { status: 599, retry_after: 7s } } }
",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    portolan.wait_for_pool("a", false).await;
    let address = portolan.address().await;
    let tried = fetch(address, "/try").await;
    assert_eq!(
        (tried.status, tried.origin()),
        (200, "a"),
        "probes can be wrong"
    );
    let answered = fetch(address, "/answer").await;
    assert_eq!((answered.status, answered.origin()), (599, ""));
    assert_eq!(answered.header("retry-after"), "7");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nearest_pool_serves_and_distance_is_from_the_client() {
    let (us, eu, asia) = (
        Origin::start("us").await,
        Origin::start("eu").await,
        Origin::start("asia").await,
    );
    let config = [
        LISTENER,
        PROBES,
        TRUSTING,
        &pools(&[
            ("us", &[&us], ", cloud: aws, region: us-east-1"),
            ("eu", &[&eu], ", cloud: azure, region: westeurope"),
            ("asia", &[&asia], ", cloud: gcp, region: asia-northeast1"),
        ]),
        "routes: [ { to: { nearest: [ us, eu, asia ] } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    let from = async |client: &str| {
        let ask = Ask::get("/").header("x-forwarded-for", client);
        ask.to(address).await.unwrap().origin().to_owned()
    };
    assert_eq!(from("85.214.132.117").await, "eu", "Germany");
    assert_eq!(from("133.11.0.1").await, "asia", "Japan");
    assert_eq!(from("8.8.8.8").await, "us", "the United States");
    assert_eq!(from("10.1.2.3").await, "us", "unknown: the order written");
    asia.kill().await;
    portolan.wait_for_pool("asia", false).await;
    assert_ne!(from("133.11.0.1").await, "asia", "the next nearest");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fastest_pools_share_and_the_slow_one_gets_nothing() {
    let (quick, slow) = (Origin::start("quick").await, Origin::start("slow").await);
    slow.set_latency(150);
    let config = [
        LISTENER,
        "defaults: { health: { http: /health, every: 100ms, timeout: 2s } }\n",
        &pools(&[("slow", &[&slow], ""), ("quick", &[&quick], "")]),
        "routes: [ { to: { fastest: [ slow, quick ] } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    eventually("latencies are known", async || {
        (fetch(address, "/").await.origin() == "quick").then_some(())
    })
    .await;
    let tally = send_exactly(address, 200, 2, |_| Ask::get("/")).await;
    assert_eq!(tally.from("quick"), 200, "{:?}", tally.origins);
    // They change places.
    slow.set_latency(0);
    quick.set_latency(400);
    eventually("the other one is faster now", async || {
        (fetch(address, "/").await.origin() == "slow").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn free_capacity_takes_what_is_busy_elsewhere() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let config = [
        LISTENER,
        PROBES,
        &pools(&[
            ("a", &[&a], ", capacity: { in_flight: 20 }"),
            ("b", &[&b], ", capacity: { in_flight: 20 }"),
        ]),
        "
routes:
  - { path: /sleep, to: a }
  - { to: { least_loaded: [ a, b ] } }
",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    let load = Load::start(address, 16, || Ask::get("/sleep?ms=200"));
    eventually(
        "the busy pool has 4 of 20 free, the idle one 20",
        async || {
            let tally = send_exactly(address, 120, 1, |_| Ask::get("/")).await;
            (tally.from("b") > 90 && tally.from("a") > 0).then_some(())
        },
    )
    .await;
    load.stop().await.assert_flawless();
    eventually("both are idle: half each", async || {
        let tally = send_exactly(address, 100, 1, |_| Ask::get("/")).await;
        (tally.from("a").abs_diff(50) <= 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_what_the_data_plane_does() {
    let (eu, us) = (Origin::start("eu").await, Origin::start("us").await);
    let config = [
        LISTENER,
        PROBES,
        TRUSTING,
        &pools(&[("eu", &[&eu], ""), ("us", &[&us], "")]),
        "
routes:
  - name: canary
    headers: { x-canary: always }
    to: us
    expose: true
  - name: everything
    to:
      geo:
        - clients: { countries: [ DE ] }
          to: { tiers: [ eu, us ] }
        - to: us
    expose: true
",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    let cases = [
        (
            json!({ "client_ip": "85.214.132.117", "url": "http://x/" }),
            "everything",
            "eu",
        ),
        (
            json!({ "client_ip": "8.8.8.8", "url": "http://x/" }),
            "everything",
            "us",
        ),
        (
            json!({ "client_ip": "85.214.132.117", "url": "http://x/", "headers": { "X-Canary": "always" } }),
            "canary",
            "us",
        ),
    ];
    for (question, route, pool) in cases {
        let ask = Ask::new(http::Method::POST, "/api/v1/explain")
            .header("content-type", "application/json")
            .body(question.to_string());
        let explained = ask.to(portolan.admin()).await.unwrap();
        assert_eq!(explained.status, 200, "{}", explained.text());
        let explained = explained.json();
        assert_eq!(explained["route"], route, "{explained}");
        assert_eq!(explained["pools"][0]["pool"], pool, "{explained}");

        let mut ask =
            Ask::get("/").header("x-forwarded-for", question["client_ip"].as_str().unwrap());
        if question.get("headers").is_some() {
            ask = ask.header("x-canary", "always");
        }
        let answer = ask.to(address).await.unwrap();
        assert_eq!(answer.origin(), pool);
        assert_eq!(answer.header("x-portolan-pool"), pool);
        assert_eq!(
            answer.header("x-portolan-why"),
            explained["pools"][0]["why"].as_str().unwrap()
        );
    }
}
