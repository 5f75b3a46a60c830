//! Drains by command and by API: nothing is lost, and everything ends by itself.

use std::net::SocketAddr;

use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::harness::client::{Answer, Connection};
use crate::harness::config::{LISTENER, PROBES, pools};
use crate::harness::portolan::{command, replace, stderr, stdout};
use crate::harness::tools::need;
use crate::harness::{Ask, Load, Origin, Portolan, eventually, fetch, soon};

const OPERATOR: &str = "operator-operator";
const VIEWER: &str = "viewer-viewer-viewer";

const TOKENS: &str = "admin: { bind: \"127.0.0.1:0\", tokens: [ \
    { name: oncall, role: operator, token: operator-operator }, \
    { name: screen, role: viewer, token: viewer-viewer-viewer } ] }\n";

fn config(a: &[&Origin], b: &[&Origin]) -> String {
    [
        LISTENER,
        PROBES,
        &pools(&[("a", a, ""), ("b", b, "")]),
        "routes: [ { to: { split: { a: 50, b: 50 } } } ]\n",
    ]
    .concat()
}

/// Changes something by the API.
async fn change(portolan: &Portolan, method: Method, path: &str, body: Value) -> Answer {
    Ask::new(method, &format!("/api/v1{path}"))
        .header("content-type", "application/json")
        .body(if body.is_null() {
            String::new()
        } else {
            body.to_string()
        })
        .to(portolan.admin())
        .await
        .unwrap()
}

async fn drain(portolan: &Portolan, path: &str, lease: &str) {
    let body = json!({ "for": lease, "reason": "a test" });
    let answer = change(portolan, Method::PUT, path, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

async fn undrain(portolan: &Portolan, path: &str) {
    let answer = change(portolan, Method::DELETE, path, Value::Null).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn endpoint(pool: &str, address: SocketAddr) -> String {
    format!("/pools/{pool}/endpoints/{address}/drain")
}

/// Waits until an endpoint answers nobody any more.
async fn idle(portolan: &Portolan, pool: &str, address: SocketAddr) {
    eventually("those under way are done", async || {
        let entry = portolan.endpoint(pool, address).await;
        (entry["in_flight"] == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_and_endpoints_are_drained_under_load_and_nothing_is_lost() {
    let a = Origin::start_several("a", 2).await;
    let b = Origin::start("b").await;
    let portolan = Portolan::start(&config(&[&a[0], &a[1]], &[&b])).await;
    let address = portolan.address().await;
    let load = Load::plain(address, 8);
    load.more(200).await;

    // From the answer on, new requests go elsewhere; one that had been decided before may still
    // arrive.
    drain(&portolan, &endpoint("a", a[0].address), "1h").await;
    load.more(50).await;
    idle(&portolan, "a", a[0].address).await;
    let before = a[0].hits();
    load.more(300).await;
    assert_eq!(a[0].hits(), before, "drained");
    let pool = portolan.api("/pools/a").await;
    assert_eq!(
        (&pool["availability"], &pool["counted"], &pool["drained"]),
        (&json!(1.0), &json!(1), &json!(false)),
        "its weight is that of nobody: the other one is the whole pool"
    );
    let entry = portolan.endpoint("a", a[0].address).await;
    assert_eq!(
        (&entry["health"], &entry["weight"]),
        (&json!("healthy"), &json!(1))
    );
    assert_eq!(entry["drain"]["reason"], "a test");
    assert_eq!(entry["drain"]["by"], "local");

    drain(&portolan, "/pools/a/drain", "1h").await;
    load.more(50).await;
    idle(&portolan, "a", a[1].address).await;
    let before = a[1].hits();
    load.more(300).await;
    assert_eq!(a[1].hits(), before, "drained");
    let pool = portolan.api("/pools/a").await;
    assert_eq!(
        (&pool["drained"], &pool["up"]),
        (&json!(true), &json!(false))
    );
    let overrides = portolan.api("/overrides").await;
    assert_eq!(overrides.as_array().unwrap().len(), 2, "{overrides}");
    // The status tells the same.
    let status = portolan.api("/status").await;
    for (told, entry) in status["overrides"]
        .as_array()
        .unwrap()
        .iter()
        .zip(overrides.as_array().unwrap())
    {
        for key in [
            "kind", "pool", "endpoint", "by", "reason", "since", "until", "idle",
        ] {
            assert_eq!(told[key], entry[key]);
        }
    }
    assert_eq!(status["overrides"].as_array().unwrap().len(), 2);

    undrain(&portolan, "/pools/a/drain").await;
    undrain(&portolan, &endpoint("a", a[0].address)).await;
    let before = (a[0].hits(), a[1].hits());
    load.more(300).await;
    assert!(
        a[0].hits() > before.0 && a[1].hits() > before.1,
        "they are back"
    );
    assert_eq!(portolan.api("/overrides").await, json!([]));
    let tally = load.stop().await;
    tally.assert_flawless();
    assert_eq!(tally.connections, 8, "no client had to connect again");
    portolan
        .wait_for_log("pool a is drained for 3600 s by local: a test")
        .await;
    portolan
        .wait_for_log("pool a is no longer drained: ended by local")
        .await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_finishes() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let text = [
        LISTENER,
        PROBES,
        &pools(&[("a", &[&a], ""), ("b", &[&b], "")]),
        "routes: [ { to: { tiers: [ a, b ] } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&text).await;
    let address = portolan.address().await;
    let mut streaming = Connection::open(address).await.unwrap();
    let mut events = streaming.begin(Ask::get("/events?count=40&ms=25")).await;
    let mut download = Connection::open(address).await.unwrap();
    let mut bytes = download.begin(Ask::get("/bytes?count=268435456")).await;
    bytes.frame().await.unwrap().unwrap();
    let mut kept = Connection::open(address).await.unwrap();
    assert_eq!(kept.ask(Ask::get("/")).await.unwrap().origin(), "a");

    drain(&portolan, "/pools/a/drain", "1h").await;
    assert_eq!(kept.ask(Ask::get("/")).await.unwrap().origin(), "b");
    let body = soon("every event", events.body_mut().collect())
        .await
        .unwrap();
    let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
    assert_eq!(text.matches("data:").count(), 40);
    let mut length = 0;
    while let Some(frame) = soon("a piece", bytes.frame()).await {
        length += frame.unwrap().data_ref().map_or(0, |data| data.len());
    }
    assert!(length > 200 << 20 && length <= 256 << 20, "{length}");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_by_itself() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let portolan = Portolan::start(&config(&[&a], &[&b])).await;
    drain(&portolan, "/pools/a/drain", "500ms").await;
    drain(&portolan, &endpoint("b", b.address), "1h").await;
    eventually("the lease ends", async || {
        let overrides = portolan.api("/overrides").await;
        (overrides.as_array()?.len() == 1).then_some(())
    })
    .await;
    portolan
        .wait_for_log("pool a is no longer drained: the lease of local is over (a test)")
        .await;
    portolan.wait_for_pool("a", true).await;
    assert_eq!(fetch(portolan.address().await, "/").await.origin(), "a");
    // A drain again, with another lease, replaces the first one.
    drain(&portolan, &endpoint("b", b.address), "500ms").await;
    eventually("that one ends, too", async || {
        (portolan.api("/overrides").await == json!([])).then_some(())
    })
    .await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_survives_reload_and_restart() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let text = config(&[&a], &[&b]);
    let portolan = Portolan::start(&text).await;
    let address = portolan.address().await;
    drain(&portolan, "/pools/a/drain", "1h").await;
    let only_b = async |address| {
        for _ in 0..20 {
            assert_eq!(fetch(address, "/").await.origin(), "b");
        }
    };
    only_b(address).await;
    let other = text.replace("a: 50, b: 50", "a: 90, b: 10");
    portolan.change(&other).await;
    only_b(address).await;

    // Its pool goes, and the override waits for it.
    let without = [
        LISTENER,
        PROBES,
        &pools(&[("b", &[&b], "")]),
        "routes: [ { to: b } ]\n",
    ]
    .concat();
    portolan.change(&without).await;
    let overrides = portolan.api("/overrides").await;
    assert_eq!(
        (&overrides[0]["pool"], &overrides[0]["idle"]),
        (&json!("a"), &json!(true))
    );
    portolan.change(&text).await;
    assert_eq!(portolan.api("/overrides").await[0]["idle"], false);
    only_b(address).await;

    // Another process with the same state.
    use std::os::unix::fs::PermissionsExt as _;
    let file = portolan.folder().join("state/overrides.json");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let kept = std::fs::read_to_string(&file).unwrap();
    let before = portolan.api("/overrides").await;
    portolan.stop().await;
    let portolan = Portolan::with(&text)
        .file("state/overrides.json", &kept)
        .start()
        .await;
    let after = portolan.api("/overrides").await;
    assert_eq!(
        (&after[0]["until"], &after[0]["by"]),
        (&before[0]["until"], &before[0]["by"])
    );
    only_b(portolan.address().await).await;
    undrain(&portolan, "/pools/a/drain").await;
    portolan.stop().await;

    // The machine was off until the lease was over.
    let mut over: Value = serde_json::from_str(&kept).unwrap();
    over["drains"][0]["until"] = json!(over["drains"][0]["since"].as_u64().unwrap() + 1);
    let portolan = Portolan::with(&text)
        .file("state/overrides.json", over.to_string())
        .start()
        .await;
    portolan.wait_for_log("the lease of local is over").await;
    assert_eq!(portolan.api("/overrides").await, json!([]));
    assert_eq!(portolan.api("/audit").await[0]["action"], "lease_ended");
    assert_eq!(portolan.api("/pools/a").await["up"], true);
    portolan.stop().await;

    // What cannot be understood is set aside, and said.
    let portolan = Portolan::with(&text)
        .file("state/overrides.json", "{ half")
        .start()
        .await;
    assert!(
        portolan.log().contains("cannot be understood"),
        "{}",
        portolan.log()
    );
    assert!(
        portolan
            .folder()
            .join("state/overrides.json.unreadable")
            .exists()
    );
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_drains_and_says_what_it_did() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let text = [TOKENS, &config(&[&a], &[&b])].concat();
    let portolan = Portolan::with(&text).start().await;
    let admin = format!("http://{}", portolan.admin());
    let run = async |args: &[&str]| {
        let mut all = args.to_vec();
        all.extend(["--admin", &admin]);
        command(&all).await
    };
    let with = |token| ["--token", token];
    let drained = run(&[
        &["drain", "a", "--for", "30m", "--reason", "rack move"][..],
        &with(OPERATOR),
    ]
    .concat())
    .await;
    assert!(drained.status.success(), "{}", stderr(&drained));
    let said = stdout(&drained);
    assert!(
        said.starts_with("pool a is drained until ")
            && said.ends_with(" (30m 0s) by oncall: rack move\n"),
        "{said}"
    );
    let one = format!("b/{}", b.address);
    let drained = run(&[
        &["drain", &one, "--reason", "reboot", "--json"][..],
        &with(OPERATOR),
    ]
    .concat())
    .await;
    let entry: Value = serde_json::from_str(&stdout(&drained)).unwrap();
    assert_eq!(entry["endpoint"], b.address.to_string());
    assert_eq!(
        entry["until"].as_u64().unwrap() - entry["since"].as_u64().unwrap(),
        3600
    );

    let status = stdout(&run(&[&["status"][..], &with(VIEWER)].concat()).await);
    assert!(status.contains("by oncall: rack move"), "{status}");
    let listed = stdout(&run(&[&["pools"][..], &with(VIEWER)].concat()).await);
    assert_eq!(listed.matches("drained").count(), 4, "{listed}");

    let undrained = run(&[&["undrain", "a"][..], &with(OPERATOR)].concat()).await;
    assert_eq!(stdout(&undrained), "a is no longer drained\n");
    let again = run(&[&["undrain", "a"][..], &with(OPERATOR)].concat()).await;
    assert_eq!(again.status.code(), Some(1));
    assert!(
        stderr(&again).contains("there is no drain of pool a"),
        "{}",
        stderr(&again)
    );
    let done = run(&[
        &["undrain", &one, "--reason", "rebooted"][..],
        &with(OPERATOR),
    ]
    .concat())
    .await;
    assert!(done.status.success());
    portolan.wait_for_log("ended by oncall: rebooted").await;
    let audit = Ask::get("/api/v1/audit")
        .header("authorization", &format!("Bearer {VIEWER}"))
        .to(portolan.admin())
        .await
        .unwrap()
        .json();
    let told: Vec<(&str, &str, &str)> = audit
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let text = |name: &str| entry[name].as_str().unwrap_or("-");
            (text("action"), text("pool"), text("reason"))
        })
        .collect();
    assert_eq!(
        told,
        [
            ("drain", "a", "rack move"),
            ("drain", "b", "reboot"),
            ("undrain", "a", "-"),
            ("undrain", "b", "rebooted"),
        ]
    );
    assert_eq!(audit[2]["before"]["reason"], "rack move");
    assert_eq!(audit[2]["after"], Value::Null);
    assert!(
        audit
            .as_array()
            .unwrap()
            .iter()
            .all(|e| e["by"] == "oncall")
    );

    // What must not be, and what is said wrong.
    for (args, code, words) in [
        (
            vec!["drain", "a", "--reason", "x", "--token", VIEWER],
            1,
            "`screen` may look, not change",
        ),
        (vec!["drain", "a", "--reason", "x"], 1, "Token needed"),
        (
            vec!["drain", "nowhere", "--reason", "x", "--token", OPERATOR],
            1,
            "there is no pool nowhere",
        ),
        (
            vec![
                "drain",
                "a/10.9.9.9:80",
                "--reason",
                "x",
                "--token",
                OPERATOR,
            ],
            1,
            "there is no endpoint a/10.9.9.9:80",
        ),
        (vec!["drain", "a", "--token", OPERATOR], 2, "--reason"),
        (
            vec!["drain", "a", "--reason", " ", "--token", OPERATOR],
            2,
            "needs a reason",
        ),
        (
            vec![
                "drain", "a", "--reason", "x", "--for", "30", "--token", OPERATOR,
            ],
            2,
            "unit",
        ),
        (
            vec!["drain", "--reason", "x", "--token", OPERATOR],
            2,
            "POOL",
        ),
    ] {
        let output = run(&args).await;
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(words),
            "{args:?}: {}",
            stderr(&output)
        );
    }
    assert!(
        !portolan.log().contains(OPERATOR),
        "no token is ever logged"
    );
    let mut portolan = portolan;
    portolan.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(portolan.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_refuses_what_makes_no_sense() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let text = [
        LISTENER,
        PROBES,
        &pools(&[("a", &[&a], ""), ("b", &[&b], ", drain: true")]),
        "routes: [ { to: { tiers: [ a, b ] } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&text).await;
    let fine = json!({ "reason": "x" });
    for (method, path, body, status, words) in [
        (
            Method::PUT,
            "/pools/nowhere/drain",
            fine.clone(),
            404,
            "no pool nowhere",
        ),
        (
            Method::PUT,
            "/pools/a%20b/drain",
            fine.clone(),
            404,
            "no pool a b",
        ),
        (
            Method::PUT,
            "/pools/a/endpoints/10.9.9.9:80/drain",
            fine.clone(),
            404,
            "no endpoint",
        ),
        (
            Method::PUT,
            "/pools/a/endpoints/x/drain",
            fine,
            404,
            "no endpoint a/x",
        ),
        (
            Method::PUT,
            "/pools/a/drain",
            json!({}),
            400,
            "needs a reason",
        ),
        (
            Method::PUT,
            "/pools/a/drain",
            json!({ "reason": "" }),
            400,
            "needs a reason",
        ),
        (
            Method::PUT,
            "/pools/a/drain",
            json!({ "reason": "a\nb" }),
            400,
            "one line",
        ),
        (
            Method::PUT,
            "/pools/a/drain",
            json!({ "reason": "x", "for": "5" }),
            400,
            "`for`",
        ),
        (
            Method::PUT,
            "/pools/a/drain",
            json!({ "reason": "x", "for": "0s" }),
            400,
            "`for`",
        ),
        (
            Method::PUT,
            "/pools/a/drain",
            json!({ "reason": "x", "for": "365d" }),
            400,
            "30 days",
        ),
        (
            Method::PUT,
            "/pools/a/drain",
            json!({ "reason": "x", "until": 5 }),
            400,
            "until",
        ),
        (Method::PUT, "/pools/a/drain", Value::Null, 400, "body"),
        (
            Method::DELETE,
            "/pools/a/drain",
            Value::Null,
            404,
            "no drain of pool a",
        ),
        (
            Method::DELETE,
            "/pools/nowhere/drain",
            Value::Null,
            404,
            "no pool nowhere",
        ),
        (
            Method::DELETE,
            "/pools/b/drain",
            Value::Null,
            409,
            "drain: true",
        ),
        (Method::POST, "/pools/a/drain", Value::Null, 405, "method"),
    ] {
        let answer = change(&portolan, method.clone(), path, body).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        assert!(
            answer.text().contains(words),
            "{method} {path}: {}",
            answer.text()
        );
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    assert_eq!(portolan.api("/overrides").await, json!([]));
    assert_eq!(portolan.api("/pools/a").await["up"], true);
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_cannot_be_kept_is_refused() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let portolan = Portolan::with(&config(&[&a], &[&b]))
        // A file where a folder should be.
        .file("state", "")
        .start()
        .await;
    let body = json!({ "reason": "x" });
    let answer = change(&portolan, Method::PUT, "/pools/a/drain", body).await;
    assert_eq!(answer.status, 500, "{}", answer.text());
    assert!(answer.text().contains("Nothing was changed"));
    assert_eq!(portolan.api("/pools/a").await["up"], true);
    assert_eq!(portolan.api("/overrides").await, json!([]));
    portolan.stop().await;
}

/// The process's clock is set while it runs, by a library that stands between it and the system's.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_lasts_as_long_as_it_was_to_when_the_clock_is_set() {
    need("faketime", "faketime").await;
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    let set = |by: &str| replace(&clock, by);
    set("+0");
    let libraries = std::fs::read_dir("/usr/lib").unwrap();
    let library = libraries
        .map(|entry| entry.unwrap().path().join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.exists());
    let portolan = Portolan::with(&config(&[&a], &[&b]))
        .env("LD_PRELOAD", library.unwrap().to_str().unwrap())
        .env("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap())
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        .start()
        .await;
    let drain = |lease: &str| json!({ "for": lease, "reason": "x" });
    let event = async |kind: &str| {
        eventually(kind, async || {
            let events = portolan.api("/events").await;
            let mut events = events.as_array().unwrap().iter().rev();
            events.find(|event| event["kind"] == kind)?["at"].as_u64()
        })
        .await
    };

    // Set back by an hour: a short one is over soon all the same.
    let drained = change(&portolan, Method::PUT, "/pools/a/drain", drain("3s")).await;
    assert_eq!(drained.status, 200);
    set("-3600");
    let began = event("drain").await;
    let ended = event("lease_ended").await;
    assert!(ended < began, "the clock was not set: {began} {ended}");

    // Set ahead by two hours: one of an hour is not over, and it ends when people read that it does.
    let drained = change(&portolan, Method::PUT, "/pools/a/drain", drain("1h")).await;
    assert_eq!(drained.status, 200);
    set("+7200");
    let other = change(&portolan, Method::PUT, "/pools/b/drain", drain("1h")).await;
    let other = other.json();
    let overrides = portolan.api("/overrides").await;
    let first = &overrides[0];
    assert_eq!(first["pool"], "a");
    let left = first["remaining_seconds"].as_f64().unwrap();
    assert!((3_000.0..=3_600.0).contains(&left), "{left}");
    let until = |it: &Value| it["until"].as_u64().unwrap();
    assert!(
        until(&other).abs_diff(until(first)) < 600,
        "{overrides} {other}"
    );
    portolan.stop().await;
}
