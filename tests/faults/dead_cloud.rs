//! A cloud that is dead as a whole, whatever its size: refused, silent, cold and warm, and what becomes
//! of requests that wait for it.

use std::net::SocketAddr;

use futures_util::future::join_all;
use http::Method;

use crate::harness::client::{Answer, send_exactly};
use crate::harness::config::{LISTENER, pools};
use crate::harness::{Ask, Load, Origin, Portolan, eventually, soon};

/// Probes that come once, and not again while a test runs.
const ONCE: &str = "defaults: { health: { http: /health, every: 1h, fast_every: 1h } }\n";

/// Probes that find out soon that nothing answers.
const SOON: &str = "defaults: { health: { http: /health, every: 200ms, timeout: 200ms, down_after: 2, up_after: 2 } }\n";

/// Requests of every kind, in turn.
fn every_kind(number: u64) -> Ask {
    match number % 4 {
        0 => Ask::new(Method::POST, "/").body("once"),
        1 => Ask::new(Method::DELETE, "/"),
        2 => Ask::new(Method::PUT, "/").body("once"),
        _ => Ask::get("/"),
    }
}

/// Two clouds, the first of so many endpoints.
struct Clouds {
    first: Vec<Origin>,
    second: Origin,
    portolan: Portolan,
    address: SocketAddr,
}

impl Clouds {
    async fn start(size: usize, defaults: &str, first: &str, target: &str) -> Self {
        let origins = Origin::start_several("a", size).await;
        let second = Origin::start("b").await;
        let all: Vec<&Origin> = origins.iter().collect();
        let config = [
            LISTENER,
            defaults,
            &pools(&[("a", &all, first), ("b", &[&second], "")]),
            &format!("routes: [ {{ name: all, to: {target} }} ]\n"),
        ]
        .concat();
        let portolan = Portolan::start(&config).await;
        Self {
            address: portolan.address().await,
            first: origins,
            second,
            portolan,
        }
    }

    async fn warm(&self, requests: u64) {
        if requests == 0 {
            return;
        }
        let tally = send_exactly(self.address, requests, 8, |_| Ask::get("/")).await;
        tally.assert_flawless();
    }

    fn freeze(&self, frozen: bool) {
        for origin in &self.first {
            origin.freeze(frozen);
        }
    }

    /// Sends these at the same time; their answers come later.
    fn begin(&self, asks: impl IntoIterator<Item = Ask>) -> Vec<tokio::task::JoinHandle<Answer>> {
        let address = self.address;
        let asks = asks.into_iter();
        asks.map(|ask| tokio::spawn(async move { ask.to(address).await.unwrap() }))
            .collect()
    }

    fn hits_of_first(&self) -> u64 {
        self.first.iter().map(Origin::hits).sum()
    }
}

async fn all(answers: Vec<tokio::task::JoinHandle<Answer>>) -> Vec<(u16, String)> {
    let answers = soon("answers", join_all(answers)).await;
    answers
        .into_iter()
        .map(|answer| answer.unwrap())
        .map(|answer| (answer.status, answer.origin().to_owned()))
        .collect()
}

const TIERS: &str = "{ tiers: [ a, b ] }";
const SPLIT: &str = "{ split: { a: 70, b: 30 } }";
const NESTED: &str =
    "{ split: [ { to: { tiers: [ a, b ] }, weight: 70 }, { to: b, weight: 30 } ] }";

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_refuses_costs_no_request_whatever_its_size() {
    for (size, target, warm) in [
        (1, TIERS, 0),
        (2, TIERS, 0),
        (3, TIERS, 0),
        (8, TIERS, 0),
        (64, TIERS, 0),
        (3, SPLIT, 0),
        (8, NESTED, 0),
        (3, TIERS, 200),
        (5, SPLIT, 200),
        (8, NESTED, 200),
    ] {
        let clouds = Clouds::start(size, ONCE, "", target).await;
        clouds.warm(warm).await;
        for origin in &clouds.first {
            origin.kill().await;
        }
        // Of warm connections nobody knows yet that they are closed: what may not be repeated is not
        // sent over them.
        let tally = send_exactly(clouds.address, 200, 4, every_kind).await;
        tally.assert_flawless();
        assert_eq!(tally.from("b"), 200, "{size} {target} {warm}");
        clouds.portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_a_pool_that_refuses_costs_no_request_and_nothing_leaves_the_pool() {
    for size in [2, 4, 16] {
        // What is left can carry all of it.
        let clouds = Clouds::start(size, ONCE, ", overprovision: 10.0", TIERS).await;
        for origin in clouds.first.iter().step_by(2) {
            origin.kill().await;
        }
        let tally = send_exactly(clouds.address, 200, 4, every_kind).await;
        tally.assert_flawless();
        assert!(tally.from("a") >= 190, "{size}: {:?}", tally.origins);
        clouds.portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_cloud_releases_who_waits_when_its_probes_say_so() {
    for (size, warm) in [(1, 0), (2, 0), (4, 0), (2, 20), (3, 1_000)] {
        // Nothing but probes and silence: no deadline is near.
        let clouds = Clouds::start(size, SOON, ", timeouts: { first_byte: 10m }", TIERS).await;
        clouds.warm(warm).await;
        let before = clouds.hits_of_first();
        clouds.freeze(true);
        let gets = clouds.begin((0..40).map(|_| Ask::get("/")));
        let deletes = clouds.begin((0..4).map(|_| Ask::new(Method::DELETE, "/")));
        let keyed = clouds.begin((0..4).map(|number| {
            let ask = Ask::new(Method::POST, "/").body("once");
            ask.header("idempotency-key", &number.to_string())
        }));
        for answer in all(gets).await {
            assert_eq!(answer, (200, "b".to_owned()), "{size} {warm}");
        }
        for answer in all(deletes).await.into_iter().chain(all(keyed).await) {
            assert_eq!(answer, (200, "b".to_owned()), "{size} {warm}");
        }
        clouds.portolan.wait_for_pool("a", false).await;
        // Nothing of it was answered twice: what was given up there is not run any more.
        assert_eq!(clouds.hits_of_first(), before);
        clouds.portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_repeated_is_told_when_its_endpoint_is_found_dead_or_waits() {
    let post = || Ask::new(Method::POST, "/").body("once");
    // Only a and b know: this is sent before anything is known about a.
    let clouds = Clouds::start(2, SOON, "", TIERS).await;
    clouds.freeze(true);
    let posts = clouds.begin((0..4).map(|_| post()));
    for (status, _) in all(posts).await {
        assert_eq!(status, 504);
    }
    assert_eq!(clouds.second.hits(), 0, "it may have run there");
    clouds.portolan.stop().await;

    let clouds = Clouds::start(2, SOON, ", on_down: wait", TIERS).await;
    clouds.freeze(true);
    let posts = clouds.begin((0..4).map(|_| post()));
    clouds.portolan.wait_for_pool("a", false).await;
    let gets = clouds.begin((0..4).map(|_| Ask::get("/")));
    for (status, origin) in all(gets).await {
        assert_eq!((status, &*origin), (200, "b"));
    }
    clouds.freeze(false);
    for (status, origin) in all(posts).await {
        assert_eq!((status, origin.starts_with('a')), (200, true));
    }
    assert_eq!(clouds.hits_of_first(), 4, "each of them once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_finishes_before_it_stops_is_left_alone() {
    let clouds = Clouds::start(2, SOON, "", TIERS).await;
    for origin in &clouds.first {
        origin.stick(true);
    }
    let posts = clouds.begin((0..4).map(|_| Ask::new(Method::POST, "/").body("once")));
    eventually("they are there", async || {
        (clouds.hits_of_first() == 4).then_some(())
    })
    .await;
    // Its probes say that it is about to go.
    for origin in &clouds.first {
        origin.set_health(503);
    }
    clouds.portolan.wait_for_pool("a", false).await;
    let tally = send_exactly(clouds.address, 20, 4, |_| Ask::get("/")).await;
    assert_eq!(tally.from("b"), 20);
    for origin in &clouds.first {
        origin.stick(false);
    }
    for (status, origin) in all(posts).await {
        assert_eq!((status, origin.starts_with('a')), (200, true));
    }
    assert_eq!(clouds.hits_of_first(), 4, "each of them once");
}

#[tokio::test(flavor = "multi_thread")]
async fn stuck_workers_behind_a_health_check_that_works_keep_no_get() {
    let clouds = Clouds::start(2, SOON, ", timeouts: { first_byte: 10m }", TIERS).await;
    clouds.warm(200).await;
    for origin in &clouds.first {
        origin.stick(true);
    }
    let load = Load::plain(clouds.address, 8);
    load.more(2_000).await;
    load.stop().await.assert_flawless();
    for origin in &clouds.first {
        let endpoint = clouds.portolan.endpoint("a", origin.address).await;
        assert_eq!(endpoint["health"], "healthy", "its probes are answered");
        assert_eq!(endpoint["suspect"], true, "a probe takes nothing back");
        origin.stick(false);
    }
    eventually("the first cloud has its traffic again", async || {
        let tally = send_exactly(clouds.address, 50, 4, |_| Ask::get("/")).await;
        (tally.from("a") == 50).then_some(())
    })
    .await;
    // One event for each, and its end.
    eventually("it is told that they were heard", async || {
        let events = clouds.portolan.api("/events").await;
        let count = |kind: &str| {
            let events = events.as_array().unwrap().iter();
            events.filter(|event| event["kind"] == kind).count()
        };
        let (suspect, cleared) = (count("endpoint_suspect"), count("endpoint_cleared"));
        assert!(suspect <= 2, "{events}");
        (cleared == suspect && suspect > 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_on_trial_is_not_freed_by_silence() {
    let clouds = Clouds::start(
        2,
        "defaults: { health: { http: /health, every: 100ms }, outlier: { eject_for: 300ms } }\n",
        ", timeouts: { first_byte: 1s }",
        "a",
    )
    .await;
    let [bad, good] = &clouds.first[..] else {
        unreachable!("two of them");
    };
    bad.stick(true);
    let load = Load::start(clouds.address, 4, || {
        Ask::new(Method::POST, "/").body("once")
    });
    let standing = async || {
        let endpoint = clouds.portolan.endpoint("a", bad.address).await;
        endpoint["health"].as_str().unwrap().to_owned()
    };
    eventually("it is ejected", async || {
        (standing().await == "ejected").then_some(())
    })
    .await;
    let before = bad.hits();
    load.more(500).await;
    let asked = bad.hits() - before;
    // A twentieth of them at most, and each of those has to wait for the one before.
    assert!(asked <= 25, "{asked} of 500 were sent to it");
    let tally = load.stop().await;
    let lost = tally.statuses.get(&504).copied().unwrap_or(0);
    assert!(lost <= 3 + 25 + 4, "{:?}", tally.statuses);
    assert!(good.hits() >= 450);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_merely_slow_runs_once() {
    let clouds = Clouds::start(1, SOON, "", "{ tiers: [ a, b ] }").await;
    clouds.warm(100).await;
    let before = clouds.hits_of_first();
    for method in [Method::DELETE, Method::PUT, Method::POST, Method::GET] {
        let slow = Ask::new(method.clone(), "/sleep?ms=3000");
        let answer = soon("an answer", slow.to(clouds.address)).await.unwrap();
        assert_eq!((answer.status, answer.origin()), (200, "a-1"), "{method}");
    }
    assert_eq!(clouds.hits_of_first() - before, 4);
    assert_eq!(clouds.second.hits(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_400_or_above_beside_the_first_try_does_not_count_while_that_is_open() {
    let first = Origin::start("first").await;
    let other = Origin::start("other").await;
    let config = [
        LISTENER,
        "defaults: { health: off, outlier: off }\n",
        &pools(&[("a", &[&first], ""), ("b", &[&other], "")]),
        "routes: [ { to: { tiers: [ a, b ] }, hedge: { after: 50ms, budget: 100% }, affinity: { cookie: c } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    first.stick(true);
    other.set_status(404);
    let asked = tokio::spawn(Ask::get("/").to(address));
    eventually("the other one has answered", async || {
        let beside = portolan
            .metric("portolan_upstream_tries_total", &["pool=\"b\""])
            .await;
        (beside == 1.0).then_some(())
    })
    .await;
    first.stick(false);
    let answer = soon("an answer", asked).await.unwrap().unwrap();
    assert_eq!((answer.status, answer.origin()), (200, "first"));
    // A good answer counts, but its client stays where it is.
    first.stick(true);
    other.set_status(200);
    let answer = soon("an answer", Ask::get("/").to(address)).await.unwrap();
    assert_eq!((answer.status, answer.origin()), (200, "other"));
    assert_eq!(answer.header("set-cookie"), "");
    // Once the first has failed, the other's word is all there is.
    other.set_status(404);
    let asked = tokio::spawn(Ask::get("/").to(address));
    eventually("the other one has answered", async || {
        let beside = portolan
            .metric("portolan_upstream_tries_total", &["pool=\"b\""])
            .await;
        (beside == 3.0).then_some(())
    })
    .await;
    first.kill().await;
    let answer = soon("an answer", asked).await.unwrap().unwrap();
    assert_eq!((answer.status, answer.origin()), (404, "other"));
}
