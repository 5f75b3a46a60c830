//! Who moves, and who does not.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use http::header;
use portolan_config::plan::Plan;
use portolan_config::{Machine, check_text};
use proptest::prelude::*;

use super::*;
use crate::auth::cookie::cookie;
use crate::decision::decide;
use crate::decision::explain::hypothetical;
use crate::geo::{Locator, Whereabouts};
use crate::steering::Draw;

const POOLS: &str = "
  a: { endpoints: [ '10.0.0.1:80', '10.0.0.2:80', '10.0.0.3:80' ] }
  b: { endpoints: [ '10.0.1.1:80', '10.0.1.2:80', { address: '10.0.1.3:80', weight: 2 } ] }
  c: { endpoints: [ '10.0.2.1:80' ] }
  d: { endpoints: [ '10.0.3.1:80' ] }
";

/// A plan of these pools and routes.
fn plan_of(pools: &str, routes: &str) -> Arc<Plan> {
    let text =
        format!("listeners: [ {{ bind: '127.0.0.1:0' }} ]\npools: {pools}\nroutes: {routes}\n");
    let checked = check_text("t.yaml", text, &Machine::default());
    checked
        .plan
        .unwrap_or_else(|| panic!("{routes}: {:?}", checked.report.first_error()))
}

/// A plan with one route to this target.
fn plan(target: &str, rest: &str) -> Arc<Plan> {
    plan_of(POOLS, &format!("[ {{ to: {target}{rest} }} ]"))
}

/// A world in which these are down: pools by name, endpoints by address.
fn world(plan: &Arc<Plan>, down: &[&str]) -> Snapshot {
    let pool = |name: &str| plan.pools.iter().find(|pool| pool.name.as_str() == name);
    let pools: Vec<PoolId> = down
        .iter()
        .filter_map(|name| pool(name))
        .map(|p| p.id)
        .collect();
    let endpoints: Vec<(PoolId, SocketAddr)> = down
        .iter()
        .filter_map(|address| address.parse().ok())
        .flat_map(|address| plan.pools.iter().map(move |pool| (pool.id, address)))
        .collect();
    hypothetical(plan, &Arc::new(Locator::default()), &pools, &endpoints)
}

fn tables(snapshot: &Snapshot, route: &RoutePlan) -> ClassTables {
    snapshot.tables_without(route.target, None, &Whereabouts::UNKNOWN, &[])
}

fn name(snapshot: &Snapshot, pool: PoolId) -> String {
    snapshot.plan.pools[pool.index()].name.to_string()
}

/// Where so many clients are at home: the pool's name, or `-` for those who are refused.
fn homes(snapshot: &Snapshot, clients: u64) -> Vec<String> {
    let route = &snapshot.plan.routes[0];
    let tables = tables(snapshot, route);
    (0..clients)
        .map(|client| {
            let tie = ClientAffinity::Key(key(format!("session-{client}").as_bytes()));
            match tie.decide(snapshot, &tables, route.when_all_down) {
                Some(Decision::Pool { pool, .. }) => name(snapshot, pool),
                Some(Decision::Shed) => "-".to_owned(),
                other => panic!("{other:?}"),
            }
        })
        .collect()
}

fn count(homes: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for home in homes {
        *counts.entry(home.as_str()).or_default() += 1;
    }
    counts
}

/// Who moved, as `from>to`.
fn moves(before: &[String], after: &[String]) -> BTreeMap<String, usize> {
    let mut moves = BTreeMap::new();
    for (from, to) in before.iter().zip(after).filter(|(from, to)| from != to) {
        *moves.entry(format!("{from}>{to}")).or_default() += 1;
    }
    moves
}

// === By a key ===

#[test]
fn a_share_that_grows_by_five_percent_moves_those_five_percent_and_nobody_else() {
    const CLIENTS: u64 = 100_000;
    for (before, after) in [
        ("{ split: { a: 95, b: 5 } }", "{ split: { a: 90, b: 10 } }"),
        // 5% → 10%, between two others that keep their proportion.
        (
            "{ split: { a: 627, b: 50, c: 323 } }",
            "{ split: { a: 594, b: 100, c: 306 } }",
        ),
    ] {
        let before = homes(&world(&plan(before, ""), &[]), CLIENTS);
        let after = homes(&world(&plan(after, ""), &[]), CLIENTS);
        let moved = moves(&before, &after);
        assert!(moved.keys().all(|m| m.ends_with(">b")), "{moved:?}");
        let share = moved.values().sum::<usize>() as f64 / CLIENTS as f64;
        assert!((share - 0.05).abs() < 0.005, "{share}");
        let grown = count(&after)["b"] as f64 / CLIENTS as f64;
        assert!((grown - 0.10).abs() < 0.005, "{grown}");
    }
}

#[test]
fn a_dead_pool_spreads_its_clients_alone_and_has_them_back() {
    let plan = plan("{ split: { a: 50, b: 30, c: 20 } }", "");
    let well = homes(&world(&plan, &[]), 20_000);
    let shares = count(&well);
    for (pool, share) in [("a", 0.5), ("b", 0.3), ("c", 0.2)] {
        let seen = shares[pool] as f64 / 20_000.0;
        assert!((seen - share).abs() < 0.015, "{shares:?}");
    }
    let ill = homes(&world(&plan, &["a"]), 20_000);
    let moved = moves(&well, &ill);
    assert!(moved.keys().all(|m| m.starts_with("a>")), "{moved:?}");
    assert_eq!(moved.values().sum::<usize>(), shares["a"]);
    // Its peers take them in proportion to their own shares.
    let to_b = moved["a>b"] as f64 / shares["a"] as f64;
    assert!((to_b - 0.6).abs() < 0.02, "{moved:?}");
    assert_eq!(homes(&world(&plan, &[]), 20_000), well, "all are back");
}

#[test]
fn refused_clients_are_always_the_same() {
    let shed = |weight: u32| {
        format!(
            "{{ split: [ {{ to: a, weight: {weight}, if_down: shed }}, {{ to: b, weight: 50 }} ] }}"
        )
    };
    let plan = plan(&shed(50), "");
    let well = homes(&world(&plan, &[]), 5_000);
    let ill = homes(&world(&plan, &["a"]), 5_000);
    let refused = count(&ill)["-"] as f64 / 5_000.0;
    assert!((refused - 0.5).abs() < 0.03, "{refused}");
    assert_eq!(homes(&world(&plan, &["a"]), 5_000), ill);
    assert!(!count(&well).contains_key("-"));
}

#[test]
fn a_dead_endpoint_moves_its_own_clients_alone_and_weights_count() {
    let plan = plan("b", "");
    let at = |snapshot: &Snapshot, client: u64, excluded: &[usize]| {
        let view = &snapshot.pools[1];
        let tie = ClientAffinity::Key(key(&client.to_be_bytes()));
        tie.endpoint(view, Basis::Health, excluded).unwrap()
    };
    let well = world(&plan, &[]);
    let ill = world(&plan, &["10.0.1.2:80"]);
    let mut counts = [0; 3];
    for client in 0..20_000 {
        let home = at(&well, client, &[]);
        counts[home] += 1;
        let now = at(&ill, client, &[]);
        assert_ne!(now, 1);
        if home == 1 {
            // The next try after a failure finds the same place as everybody will.
            assert_eq!(at(&well, client, &[1]), now);
        } else {
            assert_eq!(now, home);
        }
    }
    for (seen, share) in counts.into_iter().zip([0.25, 0.25, 0.5]) {
        let seen = f64::from(seen) / 20_000.0;
        assert!((seen - share).abs() < 0.015, "{counts:?}");
    }
}

proptest! {
    /// The best that is possible for whoever remembers nothing: a change of shares by δ moves at
    /// most 2δ ÷ (1 + δ) of the clients (Bavarian et al., "Optimality of Correlated Sampling
    /// Strategies"), and none to where a share shrank alone.
    #[test]
    fn a_change_of_shares_moves_no_more_than_it_must(
        before in proptest::array::uniform4(1u32..100),
        after in proptest::array::uniform4(1u32..100),
    ) {
        const CLIENTS: u64 = 4_000;
        let target = |w: [u32; 4]| {
            format!("{{ split: {{ a: {}, b: {}, c: {}, d: {} }} }}", w[0], w[1], w[2], w[3])
        };
        let shares = |w: [u32; 4]| w.map(|x| f64::from(x) / f64::from(w.iter().sum::<u32>()));
        let change: f64 = shares(before)
            .iter()
            .zip(shares(after))
            .map(|(a, b)| (b - a).max(0.0))
            .sum();
        let old = homes(&world(&plan(&target(before), ""), &[]), CLIENTS);
        let new = homes(&world(&plan(&target(after), ""), &[]), CLIENTS);
        let moved = moves(&old, &new).values().sum::<usize>() as f64 / CLIENTS as f64;
        let most = 2.0 * change / (1.0 + change);
        // Five standard deviations of so many clients.
        let chance = 5.0 * (most * (1.0 - most) / CLIENTS as f64).sqrt() + 1e-9;
        prop_assert!(moved <= most + chance, "{moved} moved, at most {most} should");
    }
}

#[test]
fn keys_are_the_same_in_every_release() {
    // Changing these numbers moves every client once.
    assert_eq!(key(b"alice"), 0x2bd8_06c9_7f0e_00af);
    assert_eq!(seed(b"aws-virginia"), seed(b"aws-virginia"));
    assert_eq!(seed(b""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(seed(b"a"), 0xaf63_dc4c_8601_ec8c);
    let mapped: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
    assert_eq!(
        key_of_address(mapped),
        key_of_address("192.0.2.7".parse().unwrap())
    );
}

#[test]
fn a_request_without_the_header_is_free() {
    let plan = plan("a", ", affinity: { header: x-session }");
    let snapshot = world(&plan, &[]);
    let tie = |value: Option<&str>| {
        let mut headers = Fields::new();
        if let Some(value) = value {
            headers.insert(
                http::HeaderName::from_static("x-session"),
                value.parse().unwrap(),
            );
        }
        ClientAffinity::of(&snapshot, &plan.routes[0], &headers, None, || None)
    };
    assert_eq!(tie(None), ClientAffinity::Free);
    assert_eq!(tie(Some("")), ClientAffinity::Free);
    assert_eq!(tie(Some("alice")), ClientAffinity::Key(key(b"alice")));
}

// === By a cookie ===

const COOKIE: &str = ", affinity: { cookie: portolan }";

fn secret() -> Secret {
    Secret::new(&[7; SECRET_BYTES])
}

fn with_cookie(value: &str) -> Fields {
    let mut headers = Fields::new();
    if !value.is_empty() {
        let pair = format!("other=1; portolan={value}");
        headers.insert(header::COOKIE, pair.parse().unwrap());
    }
    headers
}

/// One request of a client who keeps its cookie: the pool and the address that serve it.
fn visit(snapshot: &Snapshot, route: usize, cookie: &mut String, draw: Draw) -> String {
    let secret = secret();
    let route = &snapshot.plan.routes[route];
    let headers = with_cookie(cookie);
    let tie = ClientAffinity::of(snapshot, route, &headers, None, || Some(&secret));
    let tables = tables(snapshot, route);
    let decision = tie
        .decide(snapshot, &tables, route.when_all_down)
        .unwrap_or_else(|| decide::look_up(&tables, route.when_all_down, draw));
    let Decision::Pool { pool, basis, .. } = decision else {
        return format!("{decision:?}");
    };
    let view = &snapshot.pools[pool.index()];
    let endpoint = tie.endpoint(view, basis, &[]).unwrap_or_else(|| {
        let able: Vec<usize> = (0..view.endpoints.len())
            .filter(|at| view.serves(basis, *at))
            .collect();
        able[(draw.0 >> 32) as usize % able.len()]
    });
    let served = EndpointIndex { pool, endpoint };
    if let Some(value) = next_cookie(snapshot, route, &headers, &tie, served, &secret) {
        *cookie = value;
    }
    let address = view.endpoints[endpoint].live.key.address;
    format!("{}/{address}", view.plan.name)
}

#[test]
fn a_client_stays_while_it_can_and_stays_where_it_had_to_go() {
    let split = plan("{ split: { a: 50, b: 50 } }", COOKIE);
    let well = world(&split, &[]);
    let mut cookie = String::new();
    // The first draw of the sequence is a's.
    let first = visit(&well, 0, &mut cookie, Draw::nth(0));
    assert!(first.starts_with("a/"), "{first}");
    let kept = cookie.clone();
    for n in 1..100 {
        assert_eq!(visit(&well, 0, &mut cookie, Draw::nth(n)), first);
    }
    assert_eq!(cookie, kept, "it has that one");
    // Its share shrinks: it stays. Another configuration, another order of pools: it stays.
    let shrunk = plan_of(
        "{ zz: { endpoints: [ '10.9.9.9:80' ] }, b: { endpoints: [ '10.0.1.1:80' ] }, \
         a: { endpoints: [ '10.0.0.3:80', '10.0.0.2:80', '10.0.0.1:80' ] } }",
        "[ { to: { split: { a: 1, b: 98, zz: 1 } }, affinity: { cookie: portolan } } ]",
    );
    for n in 0..100 {
        assert_eq!(
            visit(&world(&shrunk, &[]), 0, &mut cookie, Draw::nth(n)),
            first
        );
    }
    // Its endpoint dies: another of the same pool, and it stays there when the first is back.
    let address = first.strip_prefix("a/").unwrap();
    let second = visit(&world(&split, &[address]), 0, &mut cookie, Draw::nth(7));
    assert!(second.starts_with("a/") && second != first, "{second}");
    assert_ne!(cookie, kept);
    assert_eq!(visit(&well, 0, &mut cookie, Draw::nth(1)), second);
    // Its pool dies: another pool, and it stays there when the first is back.
    let third = visit(&world(&split, &["a"]), 0, &mut cookie, Draw::nth(0));
    assert!(third.starts_with("b/"), "{third}");
    for n in 0..100 {
        assert_eq!(visit(&well, 0, &mut cookie, Draw::nth(n)), third);
    }
    // Its pool has no share any more: back to where there is one.
    let without = plan("{ split: { a: 100, b: 0 } }", COOKIE);
    let last = visit(&world(&without, &[]), 0, &mut cookie, Draw::nth(3));
    assert!(last.starts_with("a/"), "{last}");
}

#[test]
fn a_client_returns_from_the_second_tier() {
    let plan = plan("{ tiers: [ a, b ] }", COOKIE);
    let mut cookie = String::new();
    let away = visit(&world(&plan, &["a"]), 0, &mut cookie, Draw::nth(5));
    assert!(away.starts_with("b/"), "{away}");
    let back = visit(&world(&plan, &[]), 0, &mut cookie, Draw::nth(5));
    assert!(back.starts_with("a/"), "{back}");
}

#[test]
fn when_all_is_dead_it_tries_where_it_was() {
    let plan = plan("{ split: { a: 50, b: 50 } }", COOKIE);
    let mut cookie = String::new();
    let before = visit(&world(&plan, &[]), 0, &mut cookie, Draw::nth(1));
    for n in 0..20 {
        let now = visit(&world(&plan, &["a", "b"]), 0, &mut cookie, Draw::nth(n));
        assert_eq!(now, before);
    }
}

#[test]
fn routes_that_share_a_cookie_do_not_push_each_other_out() {
    let plan = plan_of(
        POOLS,
        "[ { path: /1, to: { split: { a: 50, b: 50 } }, affinity: { cookie: portolan } }, \
           { path: /2, to: { split: { c: 50, d: 50 } }, affinity: { cookie: portolan } } ]",
    );
    let well = world(&plan, &[]);
    let mut cookie = String::new();
    let first = visit(&well, 0, &mut cookie, Draw::nth(0));
    let second = visit(&well, 1, &mut cookie, Draw::nth(0));
    let kept = cookie.clone();
    assert_eq!(kept.split(char::from(BETWEEN)).count(), 2, "{kept}");
    for n in 0..50 {
        assert_eq!(visit(&well, 0, &mut cookie, Draw::nth(n)), first);
        assert_eq!(visit(&well, 1, &mut cookie, Draw::nth(n)), second);
    }
    assert_eq!(cookie, kept);
    // One of them moves; the other's tag stays.
    visit(&world(&plan, &["a"]), 0, &mut cookie, Draw::nth(0));
    assert_eq!(cookie.split(char::from(BETWEEN)).count(), 2, "{cookie}");
    assert_eq!(visit(&well, 1, &mut cookie, Draw::nth(9)), second);
}

#[test]
fn what_a_client_makes_up_is_nothing_and_is_replaced() {
    let plan = plan("{ split: { a: 50, b: 50 } }", COOKIE);
    let snapshot = world(&plan, &[]);
    let secret = secret();
    let mut real = String::new();
    visit(&snapshot, 0, &mut real, Draw::nth(0));
    let other = Secret::new(&[8; SECRET_BYTES]);
    let foreign = Tag(other.number(&snapshot.pools[0].endpoints[0].live.key)).to_string();
    let made_up = [
        "",
        "x",
        "a/10.0.0.1:80",
        "10.0.0.1:80",
        "+0000000000000000000000000000001",
        &"0".repeat(32),
        &"f".repeat(4_000),
        &real[..31],
        &real.to_uppercase(),
        &foreign,
        "....",
    ];
    for value in made_up {
        let headers = with_cookie(value);
        let tie = ClientAffinity::of(&snapshot, &plan.routes[0], &headers, None, || Some(&secret));
        assert_eq!(tie, ClientAffinity::Places(SmallVec::new()), "{value}");
        let mut cookie = value.to_owned();
        let served = visit(&snapshot, 0, &mut cookie, Draw::nth(0));
        assert_eq!(cookie.len(), 32, "{value} became {cookie}");
        assert_eq!(visit(&snapshot, 0, &mut cookie, Draw::nth(1)), served);
    }
    // Never more than so many are looked at.
    let many = [&*foreign; 9].join(".") + "." + &real;
    let tie = ClientAffinity::of(
        &snapshot,
        &plan.routes[0],
        &with_cookie(&many),
        None,
        || Some(&secret),
    );
    assert_eq!(tie, ClientAffinity::Places(SmallVec::new()));
}

/// As a browser sends them that has one of its own for another path or domain.
#[test]
fn a_cookie_that_is_out_of_date_is_passed_over_wherever_it_stands() {
    let plan = plan("{ split: { a: 50, b: 50 } }", COOKIE);
    let snapshot = world(&plan, &[]);
    let secret = secret();
    let mut good = String::new();
    visit(&snapshot, 0, &mut good, Draw::nth(0));
    let tie = |lines: &[&str]| {
        let mut headers = Fields::new();
        for line in lines {
            headers.append(
                header::COOKIE,
                http::HeaderValue::from_bytes(line.as_bytes()).unwrap(),
            );
        }
        let tie = ClientAffinity::of(&snapshot, &plan.routes[0], &headers, None, || Some(&secret));
        let ClientAffinity::Places(places) = &tie else {
            panic!("{tie:?}");
        };
        let served = places.first().copied();
        let next = served
            .map(|served| next_cookie(&snapshot, &plan.routes[0], &headers, &tie, served, &secret));
        // Where it was it has its cookie already.
        assert!(next.is_none_or(|next| next.is_none()), "{lines:?}");
        served
    };
    let home = tie(&[&format!("portolan={good}")]);
    assert!(home.is_some());
    let old = "f".repeat(32);
    for lines in [
        vec![format!("portolan={old}; portolan={good}")],
        vec![format!("portolan={good}; portolan={old}")],
        vec![format!("portolan={old}"), format!("a=b; portolan={good}")],
        vec![format!(
            "portolan=; portolan=x; portolan={old}.{old};portolan={good}; c=d"
        )],
        // Hedged what is no text in one of its neighbours.
        vec![format!("n=z\u{fc}rich; portolan={good}")],
        vec![format!(
            "{}portolan={good}",
            format!("portolan={old}; ").repeat(MOST_COOKIES - 1)
        )],
    ] {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert_eq!(tie(&lines), home, "{lines:?}");
    }
    // Never more than so many are looked at.
    let many = format!(
        "{}portolan={good}",
        format!("portolan={old}; ").repeat(MOST_COOKIES)
    );
    assert_eq!(tie(&[&many]), None);
    for other in ["Portolan=", "xportolan=", "portolan =", "portolan"] {
        assert_eq!(tie(&[&format!("{other}{good}")]), None, "{other}");
    }
}

#[test]
fn a_property_that_nobody_can_verify_is_the_same_in_whatever_order_its_cookies_come() {
    let of = |line: &str| {
        let mut headers = Fields::new();
        headers.append(header::COOKIE, line.parse().unwrap());
        cookie(&headers, "id").map(|value| String::from_utf8(value.to_vec()).unwrap())
    };
    assert_eq!(of("id=b; x=0; id=a").as_deref(), Some("a"));
    assert_eq!(of("id=a; id=b").as_deref(), Some("a"));
    assert_eq!(of("id=b").as_deref(), Some("b"));
    assert_eq!(of("x=1"), None);
}

#[test]
fn tags_tell_nothing_and_differ() {
    let snapshot = world(&plan("{ split: { a: 1, b: 1, c: 1 } }", COOKIE), &[]);
    let secret = secret();
    let mut seen = std::collections::BTreeSet::new();
    for view in &snapshot.pools {
        for endpoint in &view.endpoints {
            let tag = secret.tag(&endpoint.live).to_string();
            assert!(Tag::parse(tag.as_bytes()).is_some() && !tag.contains("10.0"));
            assert!(seen.insert(tag));
        }
    }
}

/// Thousands of clients, pools and endpoints that come and go, in one line of chance.
#[test]
fn clients_move_only_when_they_must() {
    for seed in 0..30 {
        let mut random = fastrand::Rng::with_seed(seed);
        let targets = [
            "{ split: { a: 70, b: 20, c: 10 } }",
            "{ split: { a: 10, b: 45, c: 45 } }",
            "{ tiers: [ a, { split: { b: 50, c: 50 } } ] }",
            "{ split: { b: 50, c: 50 } }",
        ];
        let plans = targets.map(|target| plan(target, COOKIE));
        let down = [
            "a",
            "b",
            "c",
            "10.0.0.1:80",
            "10.0.0.2:80",
            "10.0.1.1:80",
            "10.0.1.2:80",
        ];
        let mut clients: Vec<(String, String)> = vec![Default::default(); 50];
        for step in 0..20 {
            let plan = &plans[random.usize(..plans.len())];
            let dead: Vec<&str> = down.into_iter().filter(|_| random.u8(..4) == 0).collect();
            let snapshot = world(plan, &dead);
            let tables = tables(&snapshot, &plan.routes[0]);
            let table = tables.when_all_down.as_ref().unwrap_or(&tables.main);
            for (cookie, was) in &mut clients {
                let draw = Draw(random.u64(..));
                let now = visit(&snapshot, 0, cookie, draw);
                let context = format!("seed {seed}, step {step}, dead {dead:?}: {was} to {now}");
                let (pool, _) = now.split_once('/').unwrap();
                let view = |name: &str| {
                    let found = snapshot.pools.iter().find(|v| v.plan.name.as_str() == name);
                    found.unwrap()
                };
                assert!(table.share(view(pool).plan.id) > 0.0, "{context}");
                if let Some((home, address)) = was.split_once('/') {
                    let home = view(home);
                    let index = home
                        .endpoints
                        .iter()
                        .position(|endpoint| endpoint.live.key.address.to_string() == address);
                    let shared = table.share(home.plan.id) > 0.0;
                    let able = home.serves(table.basis, index.unwrap());
                    assert_eq!(now == *was, shared && able, "{context}");
                    // Only the endpoint is gone: the pool stays.
                    assert!(!shared || pool == home.plan.name.as_str(), "{context}");
                }
                *was = now;
            }
        }
    }
}

// === The secret ===

#[test]
fn the_secret_is_made_once_and_is_its_owners() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let plan = plan("a", COOKIE);
    let tag = |keeper: &AffinitySecret| {
        let snapshot = world(&plan, &[]);
        keeper.secret().tag(&snapshot.pools[0].endpoints[0].live)
    };
    let keeper = AffinitySecret::new(state.clone());
    assert!(!state.exists(), "not before it is needed");
    let first = tag(&keeper);
    assert_eq!(tag(&AffinitySecret::new(state.clone())), first, "a restart");
    let path = state.join(FILE);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Another machine's.
    assert_ne!(
        tag(&AffinitySecret::new(folder.path().join("other"))),
        first
    );
    // A damaged one is left alone, for somebody to look at.
    std::fs::write(&path, "garbage").unwrap();
    assert_ne!(tag(&AffinitySecret::new(state)), first);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "garbage");
}

#[test]
fn secrets_are_read_whole() {
    let text = "00ff".repeat(16);
    assert_eq!(parse_secret(&format!("{text}\n")).unwrap()[..2], [0, 255]);
    for bad in ["", "00", &"0".repeat(63), &"g".repeat(64), &"0".repeat(65)] {
        assert!(parse_secret(bad).is_err(), "{bad}");
    }
}
