//! Buckets one by one, under random arrivals, under a flood, and from many threads.

use std::collections::HashMap;
use std::sync::Arc;

use super::*;

fn plan(requests: u32, per: Duration, burst: u32, clients: usize) -> RateLimitPlan {
    RateLimitPlan {
        name: "limit".into(),
        requests,
        per,
        burst,
        on: LimitKeyPlan::ClientIp,
        headers: false,
        clients,
    }
}

fn at(milliseconds: u64) -> Tick {
    Tick::after(Duration::from_millis(milliseconds))
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_full_bucket_has_its_burst_and_fills_at_its_rate() {
    let limiter = Limiter::new(plan(10, SECOND, 3, 64));
    let take = |now| limiter.take(7, at(now));
    assert_eq!(take(0).left, 2);
    assert_eq!(take(0).left, 1);
    let last = take(0);
    assert!(!last.refused && last.left == 0);
    assert_eq!(last.reset, Duration::from_millis(300), "until it is full");
    let refused = take(0);
    assert!(refused.refused);
    assert_eq!(refused.reset, Duration::from_millis(100), "until the next");
    assert!(take(99).refused, "a hair too early");
    assert!(!take(100).refused);
    assert!(take(100).refused);
    // Never more than a whole bucket, however long nobody came.
    assert_eq!((0..10).filter(|_| !take(100_000).refused).count(), 3);
    assert_eq!(limiter.refused.get(), 3 + 7);
}

#[test]
fn those_who_are_refused_do_not_lose_what_comes_back() {
    let limiter = Limiter::new(plan(1, SECOND, 1, 64));
    assert!(!limiter.take(1, at(0)).refused);
    let admitted = (1..=10_000).filter(|now| !limiter.take(1, at(*now)).refused);
    assert_eq!(admitted.count(), 10, "one each second, however often asked");
}

#[test]
fn clients_are_told_apart_by_what_the_limit_says() {
    let of = |on: LimitKeyPlan| {
        Limiter::new(RateLimitPlan {
            on,
            ..plan(1, SECOND, 1, 64)
        })
    };
    let none = Fields::new();
    let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
    let by_ip = of(LimitKeyPlan::ClientIp);
    let key = |text: &str| by_ip.key(&none, None, ip(text));
    assert_eq!(
        key("2001:db8:0:1::1"),
        key("2001:db8:0:1:ffff::2"),
        "one /64"
    );
    assert_ne!(key("2001:db8:0:1::1"), key("2001:db8:0:2::1"));
    assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
    assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    let by_header = of(LimitKeyPlan::Header(http::HeaderName::from_static("x-key")));
    let with = |name: &'static str, value: &'static str| {
        Fields::from_iter([(
            http::HeaderName::from_static(name),
            http::HeaderValue::from_static(value),
        )])
    };
    let a = by_header.key(&with("x-key", "a"), None, ip("192.0.2.1"));
    assert_eq!(a, by_header.key(&with("x-key", "a"), None, ip("192.0.2.2")));
    assert_ne!(a, by_header.key(&with("x-key", "b"), None, ip("192.0.2.1")));
    assert_ne!(
        by_header.key(&none, None, ip("192.0.2.1")),
        by_header.key(&none, None, ip("192.0.2.2")),
        "without the header, the address"
    );
    let by_cookie = of(LimitKeyPlan::Cookie("session".into()));
    let a = by_cookie.key(&with("cookie", "x=1; session=a"), None, None);
    assert_eq!(
        a,
        by_cookie.key(&with("cookie", "session=a; y=2"), None, None)
    );
    assert_ne!(a, by_cookie.key(&with("cookie", "session=b"), None, None));
    let by_claim = of(LimitKeyPlan::JwtClaim("sub".into()));
    let says = |claims: serde_json::Value| claims.as_object().unwrap().clone();
    let (alice, bob) = (
        says(serde_json::json!({ "sub": "alice" })),
        says(serde_json::json!({ "sub": 7 })),
    );
    let a = by_claim.key(&none, Some(&alice), ip("192.0.2.1"));
    assert_eq!(a, by_claim.key(&none, Some(&alice), ip("192.0.2.2")));
    assert_ne!(a, by_claim.key(&none, Some(&bob), ip("192.0.2.1")));
    assert_ne!(
        by_claim.key(&none, None, ip("192.0.2.1")),
        by_claim.key(&none, None, ip("192.0.2.2")),
        "without the claim, the address"
    );
    let other = of(LimitKeyPlan::ClientIp);
    assert_ne!(
        other.key(&none, None, ip("192.0.2.1")),
        key("192.0.2.1"),
        "every limit has a seed of its own"
    );
}

/// Random limits and random arrivals, checked against what the promise says: at no time more than
/// the burst and what came back since.
#[test]
fn never_more_than_the_burst_and_what_came_back() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let requests = random.u32(1..2_000);
        let per = Duration::from_millis(random.u64(1..100_000));
        let burst = random.u32(1..200);
        let limiter = Limiter::new(plan(requests, per, burst, 1 << 14));
        let rate = Rate::new(requests, per, burst);
        let mut now = Duration::from_secs(random.u64(0..1_000_000));
        // For every client, when each admitted request came.
        let mut admitted: HashMap<u64, Vec<Duration>> = HashMap::new();
        let pause = per.as_nanos() as u64 / u64::from(requests) * 4 + 2;
        for _ in 0..3_000 {
            now += Duration::from_nanos(random.u64(0..pause));
            let client = random.u64(0..8).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let said = limiter.take(client, Tick::after(now));
            let times = admitted.entry(client).or_default();
            if said.refused {
                // And it is not refused for nothing: one token later there is one.
                assert!(said.reset <= rate.time(UNITS), "seed {seed}: {said:?}");
                continue;
            }
            times.push(now);
            // Every window that ends here, in the limit's own arithmetic.
            for (since, first) in times.iter().rev().enumerate() {
                let came_back = (now - *first).as_nanos() * u128::from(requests);
                let most = u128::from(burst) * per.as_nanos() + came_back;
                // A unit of time is lost between two readings.
                let taken = (since as u128 + 1) * per.as_nanos();
                let unit = per.as_nanos() / u128::from(UNITS) + 1;
                assert!(taken <= most + unit, "seed {seed}");
            }
        }
        assert_eq!(limiter.forgotten.get(), 0, "there is room for all");
    }
}

#[test]
fn a_flood_of_addresses_takes_no_memory_and_frees_nobody_who_is_limited() {
    let limiter = Limiter::new(plan(10, SECOND, 10, 4096));
    let hot: Vec<u64> = (1..=20_u64)
        .map(|n| n.wrapping_mul(0xd1b5_4a32_d192_ed03))
        .collect();
    let mut random = fastrand::Rng::with_seed(5);
    let mut admitted = vec![0_u64; hot.len()];
    // Ten million clients in ten seconds, and those who hammer all the time.
    const FLOOD: u64 = 10_000_000;
    for n in 0..FLOOD {
        let now = Tick::after(Duration::from_micros(n));
        limiter.take(random.u64(..), now);
        if n % 1000 == 0 {
            for (key, admitted) in hot.iter().zip(&mut admitted) {
                *admitted += u64::from(!limiter.take(*key, now).refused);
            }
        }
    }
    assert_eq!(limiter.bytes(), 4096 * 8, "as much as before");
    assert!(limiter.forgotten.get() > FLOOD / 2, "most came once");
    for admitted in admitted {
        // Ten at once and ten each second; the last moment may have brought one more.
        assert!((100..=111).contains(&admitted), "{admitted}");
    }
}

#[test]
fn many_threads_get_no_more_than_one() {
    let limiter = Arc::new(Limiter::new(plan(1, Duration::from_secs(3600), 1000, 64)));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let limiter = limiter.clone();
            std::thread::spawn(move || {
                let takes = (0..2_000).map(|_| limiter.take(42, at(1)));
                takes.filter(|said| !said.refused).count()
            })
        })
        .collect();
    let admitted: usize = threads.into_iter().map(|t| t.join().unwrap()).sum();
    assert_eq!(admitted, 1000);
}

#[test]
fn a_moment_of_another_thread_is_no_moment_of_long_ago() {
    let limiter = Limiter::new(plan(1_000_000, SECOND, 1, 8));
    // One thread read the clock, was held up, and comes after another one that read it later.
    assert!(!limiter.take(1, at(2_000)).refused);
    assert!(limiter.take(1, at(1_000)).refused);
    // What nobody used for very long is a full bucket again, however the clock's digits turn.
    for days in 1..400 {
        let now = Tick::after(Duration::from_secs(86_400 * days + days));
        assert!(!limiter.take(1, now).refused, "after {days} days");
    }
}
