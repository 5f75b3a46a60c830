//! Requests that fail everywhere, and failures that are bound to one client or URL: nobody else pays for
//! them. And retries when everything fails: no more than the budget allows.

use http::Method;

use crate::harness::client::send_exactly;
use crate::harness::config::{LISTENER, TRUSTING, pools};
use crate::harness::{Ask, Origin, Portolan};

const PROBES: &str = "defaults: { health: { http: /health, every: 200ms } }\n";

/// Two clouds of so many endpoints each.
async fn two_clouds(
    sizes: [usize; 2],
    defaults: &str,
    route: &str,
) -> (Portolan, [Vec<Origin>; 2]) {
    let a = Origin::start_several("a", sizes[0]).await;
    let b = Origin::start_several("b", sizes[1]).await;
    let config = [
        LISTENER,
        TRUSTING,
        defaults,
        &pools(&[
            ("a", &a.iter().collect::<Vec<_>>(), ""),
            ("b", &b.iter().collect::<Vec<_>>(), ""),
        ]),
        &format!("routes: [ {{ name: all, to: {{ tiers: [ a, b ] }}{route} }} ]\n"),
    ]
    .concat();
    (Portolan::start(&config).await, [a, b])
}

async fn ejections(portolan: &Portolan) -> f64 {
    portolan.metric("portolan_ejections_total", &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_says_503_by_design_moves_and_ejects_nobody() {
    for sizes in [[1, 1], [2, 2], [3, 1]] {
        let (portolan, [a, _b]) = two_clouds(sizes, PROBES, "").await;
        let address = portolan.address().await;
        // Polled one after the other, beside others' good requests.
        for number in 0..60_u64 {
            let bad = Ask::get("/status?code=503").header("x-forwarded-for", "192.0.2.1");
            assert_eq!(bad.to(address).await.unwrap().status, 503);
            if number % 3 == 0 {
                let good = Ask::get("/").header("x-forwarded-for", "198.51.100.7");
                let answer = good.to(address).await.unwrap();
                let origin = answer.origin();
                if !origin.starts_with('a') {
                    panic!("{origin}: {sizes:?} {:#}", portolan.api("/events").await);
                }
            }
        }
        assert_eq!(ejections(&portolan).await, 0.0, "{sizes:?}");
        assert!(a.iter().all(|origin| origin.hits() > 0));
        portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_for_one_client_or_path_alone_does_not_count() {
    // Not repeated, so nobody knows that it would fail elsewhere, too.
    let post = |path: &str, client: &str| {
        Ask::new(Method::POST, path)
            .header("x-forwarded-for", client)
            .body("once")
    };
    let (portolan, _clouds) = two_clouds([1, 1], PROBES, "").await;
    let address = portolan.address().await;
    for number in 0..40 {
        if number % 4 == 0 {
            let good = post("/", "198.51.100.7").to(address).await.unwrap();
            assert_eq!((good.status, good.origin()), (200, "a-1"), "{number}");
        }
        let bad = post("/status?code=503", "192.0.2.1");
        assert_eq!(bad.to(address).await.unwrap().status, 503);
    }
    assert_eq!(ejections(&portolan).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_fails_everybody_is_still_ejected() {
    let (portolan, [a, _b]) = two_clouds([1, 1], PROBES, "").await;
    let address = portolan.address().await;
    let ask = |number: u64| {
        Ask::new(Method::POST, "/").header("x-forwarded-for", &format!("192.0.2.{}", number % 200))
    };
    send_exactly(address, 40, 2, ask).await.assert_flawless();
    a[0].set_status(503);
    let tally = send_exactly(address, 40, 1, |number| {
        Ask::new(Method::POST, "/").header("x-forwarded-for", &format!("192.0.2.{number}"))
    })
    .await;
    assert_eq!(ejections(&portolan).await, 1.0);
    assert!(tally.from("b") >= 30, "{:?}", tally.origins);
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_stay_within_their_budget_when_everything_fails() {
    for (route, share) in [("", 0.2), (", retry: { budget: 0% }", 0.0)] {
        let defaults = "defaults: { health: off, outlier: off }\n";
        let (portolan, clouds) = two_clouds([2, 2], defaults, route).await;
        let address = portolan.address().await;
        for origin in clouds.iter().flatten() {
            origin.set_status(503);
        }
        let began = tokio::time::Instant::now();
        let tally = send_exactly(address, 3_000, 8, |_| Ask::get("/")).await;
        assert_eq!(tally.statuses.get(&503), Some(&3_000));
        let seconds = began.elapsed().as_secs_f64();
        let tries: u64 = clouds.iter().flatten().map(Origin::hits).sum();
        // Ten a second, twenty at once, and what a second of traffic has put by.
        let floor = 10.0 * seconds + 20.0 + 3_000.0 * share / seconds.max(1.0);
        let most = 3_000.0 * (1.0 + share) + floor;
        assert!(
            tries as f64 <= most,
            "{tries} tries of 3000 requests in {seconds:.1} s{route}"
        );
        portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_never_answers_ejects_nobody() {
    let route = ", timeout: 600ms";
    let (portolan, [a, _b]) = two_clouds([2, 2], PROBES, route).await;
    let address = portolan.address().await;
    for number in 0..30_u64 {
        let hang = Ask::get("/sleep?ms=20000").header("x-forwarded-for", "192.0.2.1");
        assert_eq!(hang.to(address).await.unwrap().status, 504);
        for other in 0..4 {
            let client = format!("198.51.100.{}", number % 20 + other);
            let good = Ask::get("/").header("x-forwarded-for", &client);
            let answer = good.to(address).await.unwrap();
            let origin = answer.origin();
            if answer.status != 200 || !origin.starts_with('a') {
                panic!("{origin}: {:#}", portolan.api("/events").await);
            }
        }
    }
    let events = portolan.api("/events").await;
    assert_eq!(ejections(&portolan).await, 0.0, "{events:#}");
    assert!(a.iter().all(|origin| origin.hits() > 0));
    portolan.stop().await;
}
