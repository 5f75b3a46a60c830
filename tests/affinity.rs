//! Affinity: clients stay where they were, through reloads, failures and restarts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;

use http_body_util::Full;
use hyper::body::Bytes;

use crate::harness::certificates::Authority;
use crate::harness::client::{Answer, Connection, Connection2};
use crate::harness::config::{LISTENER, PROBES, TRUSTING, pools};
use crate::harness::portolan::{command, stdout};
use crate::harness::{Ask, Origin, Portolan, eventually, fetch};

/// A client that keeps its cookie.
struct Browser {
    address: SocketAddr,
    cookie: String,
}

impl Browser {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            cookie: String::new(),
        }
    }

    async fn ask(&mut self, path: &str) -> Answer {
        let mut ask = Ask::get(path);
        if !self.cookie.is_empty() {
            ask = ask.header("cookie", &format!("theme=dark; {}", self.cookie));
        }
        let answer = ask.to(self.address).await.unwrap();
        assert_eq!(answer.status, 200);
        if let Some(pair) = pair(&answer) {
            self.cookie = pair;
        }
        answer
    }

    /// Who serves it.
    async fn origin(&mut self) -> String {
        self.ask("/").await.origin().to_owned()
    }
}

/// The cookie that an answer sets, as it is sent back.
fn pair(answer: &Answer) -> Option<String> {
    let set = answer.header("set-cookie");
    Some(set.split(';').next()?.to_owned()).filter(|pair| !pair.is_empty())
}

async fn browsers(address: SocketAddr, count: usize) -> Vec<(Browser, String)> {
    let mut all = Vec::new();
    for _ in 0..count {
        let mut browser = Browser::new(address);
        let origin = browser.origin().await;
        all.push((browser, origin));
    }
    all
}

fn count(browsers: &[(Browser, String)]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for (_, origin) in browsers {
        *counts.entry(origin.as_str()).or_default() += 1;
    }
    counts
}

fn config(a: &[&Origin], b: &[&Origin], rest: &str) -> String {
    [
        LISTENER,
        PROBES,
        TRUSTING,
        &pools(&[("a", a, ""), ("b", b, "")]),
        rest,
    ]
    .concat()
}

const HALVES: &str =
    "routes: [ { name: r, to: { split: { a: 50, b: 50 } }, affinity: { cookie: portolan } } ]\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_keeps_its_client_through_reload_failure_and_restart() {
    let a = Origin::start_several("a", 2).await;
    let b = Origin::start_several("b", 2).await;
    let (all_a, all_b) = ([&a[0], &a[1]], [&b[0], &b[1]]);
    let text = config(&all_a, &all_b, HALVES);
    let portolan = Portolan::start(&text).await;
    let address = portolan.address().await;
    let mut clients = browsers(address, 40).await;
    let counts = count(&clients);
    // New clients are drawn: as many here as there, give or take the one that is next.
    let in_a = counts["a-1"] + counts["a-2"];
    assert!((19..=21).contains(&in_a), "{counts:?}");
    for (browser, origin) in &mut clients {
        let answer = browser.ask("/").await;
        assert_eq!(answer.origin(), origin);
        assert_eq!(answer.header("set-cookie"), "", "it has one");
    }

    // Another order, other weights, another name of the route: everybody stays.
    let fewer =
        "routes: [ { name: s, to: { split: { b: 99, a: 1 } }, affinity: { cookie: portolan } } ]\n";
    portolan
        .change(&config(&[&a[1], &a[0]], &all_b, fewer))
        .await;
    for (browser, origin) in &mut clients {
        assert_eq!(browser.origin().await, *origin);
    }
    portolan.change(&text).await;

    // An endpoint dies: its clients go to the other one of its pool, and stay there when it is back.
    a[0].kill().await;
    portolan
        .wait_for_health("a", a[0].address, "unhealthy")
        .await;
    for (browser, origin) in &mut clients {
        let now = browser.origin().await;
        if origin == "a-1" {
            assert_eq!(now, "a-2");
        } else {
            assert_eq!(now, *origin);
        }
        *origin = now;
    }
    a[0].revive().await;
    portolan.wait_for_health("a", a[0].address, "healthy").await;
    for (browser, origin) in &mut clients {
        assert_eq!(browser.origin().await, *origin, "nobody goes back");
    }

    // A pool dies: its clients go to the other one, and stay.
    for origin in &b {
        origin.kill().await;
    }
    portolan.wait_for_pool("b", false).await;
    for (browser, origin) in &mut clients {
        let now = browser.origin().await;
        assert!(now.starts_with('a'), "{now}");
        if origin.starts_with('a') {
            assert_eq!(now, *origin, "those who were there stay where they were");
        }
        *origin = now;
    }
    for origin in &b {
        origin.revive().await;
    }
    portolan.wait_for_pool("b", true).await;
    for (browser, origin) in &mut clients {
        assert_eq!(browser.origin().await, *origin);
    }

    // Another process with the same state: everybody stays. Its secret is nobody else's.
    let key = portolan.folder().join("state/affinity.key");
    let mode = std::fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let secret = std::fs::read(&key).unwrap();
    portolan.stop().await;
    let portolan = Portolan::with(&text)
        .file("state/affinity.key", secret)
        .start()
        .await;
    let address = portolan.address().await;
    for (browser, origin) in &mut clients {
        browser.address = address;
        assert_eq!(browser.origin().await, *origin);
    }
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_drained_pool_move_and_those_of_a_second_tier_return() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let tiers = |drain: &str| {
        [
            LISTENER,
            PROBES,
            &pools(&[("a", &[&a], drain), ("b", &[&b], "")]),
            "routes: [ { to: { tiers: [ a, b ] }, affinity: { cookie: portolan } } ]\n",
        ]
        .concat()
    };
    let portolan = Portolan::start(&tiers("")).await;
    let mut browser = Browser::new(portolan.address().await);
    assert_eq!(browser.origin().await, "a");
    portolan.change(&tiers(", drain: true")).await;
    assert_eq!(browser.origin().await, "b");
    portolan.change(&tiers("")).await;
    // The second tier has no share any more.
    assert_eq!(browser.origin().await, "a");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookie_says_nothing_and_cannot_be_made_up() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let authority = Authority::new();
    let identity = authority.sign(&["shop.example"]);
    let text = [
        "listeners:\n  - bind: \"127.0.0.1:0\"\n",
        "  - { bind: \"127.0.0.1:0\", tls: { certificates: [ { cert: c.pem, key: k.pem } ] } }\n",
        PROBES,
        TRUSTING,
        &pools(&[("a", &[&a], ""), ("b", &[&b], "")]),
        HALVES,
    ]
    .concat();
    let portolan = Portolan::with(&text)
        .file("c.pem", &identity.certificate)
        .file("k.pem", &identity.key)
        .start()
        .await;
    let addresses = portolan.addresses().await;
    let plain = fetch(addresses[0], "/").await;
    let set = plain.header("set-cookie");
    let (value, attributes) = set
        .strip_prefix("portolan=")
        .unwrap()
        .split_once("; ")
        .unwrap();
    // No lifetime: it ends with the browser's session.
    assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax");
    assert_eq!(value.len(), 32);
    assert!(value.bytes().all(|b| b.is_ascii_hexdigit()), "{value}");
    let behind_tls = Ask::get("/")
        .header("x-forwarded-proto", "https")
        .to(addresses[0])
        .await
        .unwrap();
    let set = behind_tls.header("set-cookie");
    assert!(set.ends_with("SameSite=Lax; Secure"), "{set}");

    for alpn in ["http/1.1", "h2"] {
        let stream = authority
            .connect(addresses[1], "shop.example", &[alpn])
            .await
            .unwrap();
        let answer = if alpn == "h2" {
            let mut connection = Connection2::over(stream).await.unwrap();
            connection.get("https://shop.example/").await.unwrap()
        } else {
            let mut connection = Connection::over(stream, "shop.example").await.unwrap();
            connection.ask(Ask::get("/")).await.unwrap()
        };
        let set = answer.header("set-cookie");
        assert!(
            set.ends_with("; Path=/; HttpOnly; SameSite=Lax; Secure"),
            "{alpn}: {set}"
        );
    }

    // What is made up is drawn like a new client, and replaced.
    let mut origins = BTreeMap::new();
    for made_up in ["", "a", "a/127.0.0.1:80", &"0".repeat(32), "\"x\"", "%00"] {
        for _ in 0..4 {
            let answer = Ask::get("/")
                .header("cookie", &format!("portolan={made_up}"))
                .to(addresses[0])
                .await
                .unwrap();
            assert_eq!(answer.status, 200);
            let cookie = pair(&answer).unwrap_or_else(|| panic!("{made_up} is kept"));
            assert_eq!(cookie.len(), "portolan=".len() + 32, "{cookie}");
            *origins.entry(answer.origin().to_owned()).or_insert(0) += 1;
        }
    }
    assert!((11..=13).contains(&origins["a"]), "{origins:?}");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http2_a_cookie_may_come_in_pieces_and_not_first() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let portolan = Portolan::start(&config(&[&a], &[&b], HALVES)).await;
    let address = portolan.address().await;
    let mut connection = Connection2::open(address).await.unwrap();
    let url = format!("http://{address}/");
    for _ in 0..6 {
        let first = connection.get(&url).await.unwrap();
        let cookie = pair(&first).unwrap();
        for _ in 0..6 {
            let request = http::Request::get(&url)
                .header("cookie", "theme=dark")
                .header("cookie", &cookie)
                .body(Full::new(Bytes::new()))
                .unwrap();
            let again = connection.send(request).await.unwrap();
            assert_eq!(again.origin(), first.origin());
            assert_eq!(again.header("set-cookie"), "");
        }
    }
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_fails_moves_the_cookie_to_who_answered() {
    // Nobody probes: the dead one counts as healthy, and each request has to find out.
    let a = Origin::start_several("a", 2).await;
    let text = [
        LISTENER,
        "defaults: { health: off }\n",
        &pools(&[("a", &[&a[0], &a[1]], "")]),
        "routes: [ { to: a, affinity: { cookie: portolan } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&text).await;
    let mut browser = Browser::new(portolan.address().await);
    let first = browser.origin().await;
    let (dead, alive) = if first == "a-1" {
        (0, "a-2")
    } else {
        (1, "a-1")
    };
    a[dead].kill().await;
    assert_eq!(browser.origin().await, alive);
    a[dead].revive().await;
    assert_eq!(browser.origin().await, alive, "the cookie names it now");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_or_an_address_needs_no_memory() {
    let a = Origin::start_several("a", 2).await;
    let b = Origin::start_several("b", 2).await;
    let (all_a, all_b) = ([&a[0], &a[1]], [&b[0], &b[1]]);
    let routes = |a: u32, b: u32| {
        format!(
            "routes:
  - {{ name: h, path: /h, to: {{ split: {{ a: {a}, b: {b} }} }}, affinity: {{ header: x-session }} }}
  - {{ name: c, path: /c, to: {{ split: {{ a: {a}, b: {b} }} }}, affinity: {{ client_ip: true }}, expose: true }}
"
        )
    };
    let text = config(&all_a, &all_b, &routes(50, 50));
    let ask = async |address: SocketAddr, number: usize, by: &str| {
        let ask = match by {
            "h" => Ask::get("/h").header("x-session", &format!("s-{number}")),
            _ => Ask::get("/c").header("x-forwarded-for", &format!("192.0.2.{number}")),
        };
        let answer = ask.to(address).await.unwrap();
        assert_eq!((answer.status, answer.header("set-cookie")), (200, ""));
        answer.origin().to_owned()
    };
    let everybody = async |address: SocketAddr| {
        let mut homes = Vec::new();
        for by in ["h", "c"] {
            for number in 0..60 {
                homes.push(ask(address, number, by).await);
            }
        }
        homes
    };
    let portolan = Portolan::start(&text).await;
    let address = portolan.address().await;
    let homes = everybody(address).await;
    assert_eq!(everybody(address).await, homes);
    let in_a = homes.iter().filter(|home| home.starts_with('a')).count();
    assert!((30..=90).contains(&in_a), "{homes:?}");

    // The command knows, with the file alone and from the process.
    let file = portolan.config_path();
    for asked in [
        vec!["--config", file.to_str().unwrap()],
        vec!["--admin", &format!("http://{}", portolan.admin())],
    ] {
        for (number, home) in homes.iter().enumerate().take(8) {
            let header = format!("x-session: s-{number}");
            let mut args = vec!["explain", "--json", "-H", &header];
            args.extend(&asked);
            args.push("http://shop.example/h");
            let output = command(&args).await;
            assert!(output.status.success());
            let said: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
            assert_eq!(said["affinity"]["by"], "header x-session");
            assert_eq!(said["affinity"]["pool"], home[..1]);
            let endpoint = said["affinity"]["endpoint"].as_str().unwrap();
            let origins = [&a[0], &a[1], &b[0], &b[1]];
            let names = ["a-1", "a-2", "b-1", "b-2"];
            let at = origins
                .iter()
                .position(|o| o.address.to_string() == endpoint);
            assert_eq!(names[at.unwrap()], home);
            // Shares are still those of everybody together.
            assert_eq!(said["pools"][0]["share"], 0.5);
        }
    }
    let answer = Ask::get("/c").to(address).await.unwrap();
    let why = answer.header("x-portolan-why");
    assert!(why.starts_with("affinity > "), "{why}");

    // An endpoint dies: its clients move, the others do not; and they are all back with it.
    b[1].kill().await;
    portolan
        .wait_for_health("b", b[1].address, "unhealthy")
        .await;
    let ill = everybody(address).await;
    for (before, after) in homes.iter().zip(&ill) {
        if before == "b-2" {
            assert_ne!(after, before);
        } else {
            // What a half dead pool cannot carry goes elsewhere, and nobody comes to it.
            assert!(after == before || (before == "b-1" && after.starts_with('a')));
        }
    }
    b[1].revive().await;
    portolan.wait_for_health("b", b[1].address, "healthy").await;
    eventually("the pool has its share again", async || {
        let pool = portolan.api("/pools/b").await;
        (pool["availability"] == 1.0).then_some(())
    })
    .await;
    assert_eq!(everybody(address).await, homes);

    // A share that grows takes clients for itself, and moves nobody else.
    portolan
        .change(&config(&all_a, &all_b, &routes(70, 30)))
        .await;
    for (before, after) in homes.iter().zip(&everybody(address).await) {
        assert!(before == after || (before.starts_with('b') && after.starts_with('a')));
    }
    portolan.stop().await;

    // Another process, which has never seen them.
    let portolan = Portolan::start(&text).await;
    assert_eq!(everybody(portolan.address().await).await, homes);
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_clients_are_split_exactly_while_others_stay() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let routes =
        "routes: [ { to: { split: { a: 70, b: 30 } }, affinity: { cookie: portolan } } ]\n";
    let portolan = Portolan::start(&config(&[&a], &[&b], routes)).await;
    let address = portolan.address().await;
    let mut old = Browser::new(address);
    let home = old.origin().await;
    let mut from_a = 0;
    for _ in 0..1_000 {
        from_a += u32::from(fetch(address, "/").await.origin() == "a");
        assert_eq!(old.origin().await, home);
    }
    assert!((690..=710).contains(&from_a), "{from_a}");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_says_that_it_was_affinity() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let text = format!(
        "access_log: {{ to: access.log }}\n{}",
        config(&[&a], &[&b], HALVES)
    );
    let portolan = Portolan::start(&text).await;
    let lines = async |count: usize| {
        eventually("the lines are written", async || {
            let text = std::fs::read_to_string(portolan.folder().join("access.log")).ok()?;
            let lines: Vec<serde_json::Value> = text
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            (lines.len() == count).then_some(lines)
        })
        .await
    };
    let mut browser = Browser::new(portolan.address().await);
    browser.origin().await;
    // Another connection may be another worker's, which gathers lines of its own.
    lines(1).await;
    browser.origin().await;
    let lines = lines(2).await;
    let why = |at: usize| lines[at]["why"].as_str().unwrap();
    assert!(!why(0).contains("affinity"), "{}", why(0));
    assert!(why(1).starts_with("affinity > "), "{}", why(1));
    portolan.stop().await;
}

/// Browsers send all cookies of a name that fit, in an order that says nothing: one may be out of date,
/// or another application's.
#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_counts_wherever_it_stands_among_others_of_its_name() {
    let a = Origin::start_several("a", 3).await;
    let b = Origin::start_several("b", 3).await;
    let text = config(&[&a[0], &a[1], &a[2]], &[&b[0], &b[1], &b[2]], HALVES);
    let portolan = Portolan::start(&text).await;
    let address = portolan.address().await;
    let stale = "portolan=00112233445566778899aabbccddeeff";
    for (browser, origin) in browsers(address, 12).await {
        let good = browser.cookie;
        for cookie in [
            format!("{stale}; {good}"),
            format!("{good}; {stale}"),
            format!("portolan=; portolan=x; {stale}; theme=dark; {good}"),
        ] {
            let answer = Ask::get("/").header("cookie", &cookie).to(address).await;
            let answer = answer.unwrap();
            assert_eq!(answer.origin(), origin, "{cookie}");
            assert_eq!(answer.header("set-cookie"), "", "it has one: {cookie}");
        }
        // The same over HTTP/2, where each may have a line of its own.
        let request = http::Request::get("http://x.example/")
            .header("cookie", stale)
            .header("cookie", &good)
            .body(Full::new(Bytes::new()))
            .unwrap();
        let mut two = Connection2::open(address).await.unwrap();
        let answer = two.send(request).await.unwrap();
        assert_eq!(answer.origin(), origin);
        assert_eq!(answer.header("set-cookie"), "");
    }
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_is_on_disk_before_a_request_needs_it() {
    let a = Origin::start("a").await;
    let without = config(&[&a], &[&a], "routes: [ { to: a } ]\n");
    let portolan = Portolan::start(&without).await;
    let key = portolan.folder().join("state/affinity.key");
    assert!(!key.exists(), "no route needs it");
    portolan.change(&config(&[&a], &[&a], HALVES)).await;
    assert!(key.exists());
    let written = std::fs::read(&key).unwrap();
    let cookie = pair(&fetch(portolan.address().await, "/").await);
    assert!(cookie.is_some());
    assert_eq!(std::fs::read(&key).unwrap(), written);
    portolan.stop().await;
    let portolan = Portolan::start(&config(&[&a], &[&a], HALVES)).await;
    assert!(portolan.folder().join("state/affinity.key").exists());
    portolan.stop().await;
}
