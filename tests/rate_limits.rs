//! How often one client may come: what is refused, what is told, and what survives.

use std::net::SocketAddr;

use serde_json::Value;

use crate::harness::client::Answer;
use crate::harness::config::{LISTENER, PROBES, TRUSTING, pools};
use crate::harness::{Ask, Origin, Portolan, eventually};

/// A limit that nothing comes back of while a test runs.
const THREE: &str = "requests: 3, per: 1h";

async fn start(origin: &Origin, limit: &str) -> (Portolan, String) {
    let config = [
        LISTENER,
        PROBES,
        TRUSTING,
        "access_log: { to: access.log }\n",
        &pools(&[("a", &[origin], "")]),
        &format!("routes: [ {{ name: api, to: a, rate_limit: {limit} }} ]\n"),
    ]
    .concat();
    (Portolan::start(&config).await, config)
}

async fn ask(address: SocketAddr, client: &str, headers: &[(&str, &str)]) -> Answer {
    let mut ask = Ask::get("/").header("x-forwarded-for", client);
    for (name, value) in headers {
        ask = ask.header(name, value);
    }
    ask.to(address).await.unwrap()
}

/// How many of ten requests pass.
async fn passed(address: SocketAddr, client: &str, headers: &[(&str, &str)]) -> usize {
    let mut passed = 0;
    for _ in 0..10 {
        let status = ask(address, client, headers).await.status;
        assert!(status == 200 || status == 429, "{status}");
        passed += usize::from(status == 200);
    }
    passed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_too_often_is_told_when_it_may_come_again() {
    let origin = Origin::start("a").await;
    let (portolan, _) = start(&origin, &format!("{{ name: each, {THREE} }}")).await;
    let address = portolan.address().await;
    assert_eq!(passed(address, "192.0.2.1", &[]).await, 3);
    assert_eq!(origin.hits(), 3, "what is refused never arrives");
    let answer = ask(address, "192.0.2.1", &[]).await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    let wait: u64 = answer.header("retry-after").parse().unwrap();
    assert!(
        (1..=1200).contains(&wait),
        "a token in twenty minutes: {wait}"
    );
    let told = answer.header("ratelimit");
    assert!(told.starts_with("\"each\";r=0;t="), "{told}");
    assert_eq!(answer.header("ratelimit-policy"), "\"each\";q=3;w=3600");
    // Others are not concerned, and are not told unless asked.
    let other = ask(address, "192.0.2.2", &[]).await;
    assert_eq!(other.status, 200);
    assert_eq!(other.header("ratelimit"), "");
    let refused = "portolan_refused_requests_total";
    let reason = ["reason=\"rate_limited\""];
    portolan.wait_for_metric(refused, &reason, 8.0).await;
    let limited = "portolan_rate_limited_requests_total";
    let limit = ["route=\"api\"", "limit=\"each\""];
    portolan.wait_for_metric(limited, &limit, 8.0).await;
    let line = eventually("the access log says by what", async || {
        let text = std::fs::read_to_string(portolan.folder().join("access.log")).ok()?;
        let mut lines = text
            .lines()
            .filter_map(|l| serde_json::from_str::<Value>(l).ok());
        lines.find(|line| line["refused"] == "rate_limited")
    })
    .await;
    assert_eq!(line["why"], "the rate limit `each` of the route");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_come_back() {
    let origin = Origin::start("a").await;
    let (portolan, _) = start(&origin, "{ requests: 5, per: 1s, burst: 1 }").await;
    let address = portolan.address().await;
    assert_eq!(ask(address, "192.0.2.1", &[]).await.status, 200);
    eventually("there is a token again", async || {
        (ask(address, "192.0.2.1", &[]).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_clients_are_one_by_their_64() {
    let origin = Origin::start("a").await;
    let (portolan, _) = start(&origin, &format!("{{ {THREE} }}")).await;
    let address = portolan.address().await;
    assert_eq!(passed(address, "2001:db8:0:1::1", &[]).await, 3);
    assert_eq!(passed(address, "2001:db8:0:1:ffff::2", &[]).await, 0);
    assert_eq!(passed(address, "2001:db8:0:2::1", &[]).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_apart_by_headers_and_cookies() {
    let origin = Origin::start("a").await;
    let by_header = format!("{{ {THREE}, on: {{ header: X-Api-Key }} }}");
    let (portolan, _) = start(&origin, &by_header).await;
    let address = portolan.address().await;
    let key = |value| [("x-api-key", value)];
    assert_eq!(passed(address, "192.0.2.1", &key("one")).await, 3);
    assert_eq!(passed(address, "192.0.2.2", &key("one")).await, 0);
    assert_eq!(passed(address, "192.0.2.1", &key("two")).await, 3);
    // Leaving it out is no way around.
    assert_eq!(passed(address, "192.0.2.1", &[]).await, 3);
    assert_eq!(passed(address, "192.0.2.1", &[]).await, 0);

    let by_cookie = format!("{{ {THREE}, on: {{ cookie: session }} }}");
    let (portolan, _) = start(&origin, &by_cookie).await;
    let address = portolan.address().await;
    let one = [("cookie", "a=b; session=one")];
    assert_eq!(passed(address, "192.0.2.1", &one).await, 3);
    assert_eq!(
        passed(address, "192.0.2.2", &[("cookie", "session=one")]).await,
        0
    );
    assert_eq!(
        passed(address, "192.0.2.1", &[("cookie", "session=two")]).await,
        3
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn all_limits_hold_and_tell_what_is_left() {
    let origin = Origin::start("a").await;
    let limits = "[ { name: short, requests: 2, per: 1h, headers: true }, { name: long, requests: 100, per: 24h, burst: 10, headers: true } ]";
    let (portolan, _) = start(&origin, limits).await;
    let address = portolan.address().await;
    let first = ask(address, "192.0.2.1", &[]).await;
    assert_eq!(first.status, 200);
    assert_eq!(
        first.header("ratelimit"),
        "\"short\";r=1;t=1800, \"long\";r=9;t=864"
    );
    assert_eq!(
        first.header("ratelimit-policy"),
        "\"short\";q=2;w=3600, \"long\";q=100;w=86400"
    );
    assert_eq!(passed(address, "192.0.2.1", &[]).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_survives_reloads_that_leave_the_limit_alone() {
    let origin = Origin::start("a").await;
    let (portolan, config) = start(&origin, &format!("{{ {THREE} }}")).await;
    let address = portolan.address().await;
    assert_eq!(passed(address, "192.0.2.1", &[]).await, 3);
    portolan
        .change(&config.replace("name: api", "expose: true, name: api"))
        .await;
    let other = ask(address, "192.0.2.2", &[]).await;
    assert_eq!(
        other.header("x-portolan-pool"),
        "a",
        "the new configuration serves"
    );
    assert_eq!(passed(address, "192.0.2.1", &[]).await, 0, "still limited");
    portolan
        .change(&config.replace("requests: 3", "requests: 4"))
        .await;
    assert_eq!(
        passed(address, "192.0.2.1", &[]).await,
        4,
        "another limit begins anew"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_with_room_for_too_few_clients_says_so() {
    let origin = Origin::start("a").await;
    let limit = "{ name: small, requests: 3, per: 1h, clients: 8 }";
    let (portolan, _) = start(&origin, limit).await;
    let address = portolan.address().await;
    for client in 1..=20 {
        let answer = ask(address, &format!("192.0.2.{client}"), &[]).await;
        assert_eq!(answer.status, 200);
    }
    // Eight are kept; all others made room before they had all their tokens again.
    let forgotten = "portolan_rate_limit_forgotten_clients_total";
    let labels = ["route=\"api\"", "limit=\"small\""];
    portolan.wait_for_metric(forgotten, &labels, 12.0).await;
}
