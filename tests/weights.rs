//! Weights by command and by API: shares are exact at once, and everything ends by itself.

use http::Method;
use serde_json::{Value, json};

use crate::harness::client::{Answer, Connection};
use crate::harness::config::{LISTENER, PROBES, pools};
use crate::harness::portolan::{command, stderr, stdout};
use crate::harness::{Ask, Origin, Portolan, eventually};

const OPERATOR: &str = "operator-operator";
const VIEWER: &str = "viewer-viewer-viewer";

const TOKENS: &str = "admin: { bind: \"127.0.0.1:0\", tokens: [ \
    { name: oncall, role: operator, token: operator-operator }, \
    { name: screen, role: viewer, token: viewer-viewer-viewer } ] }\n";

const SPLIT: &str = "services: { api: { split: { a: 70, b: 30, c: 0 } } }\n";

/// Three pools, and a service over them.
fn config(origins: &[Origin; 3], services: &str) -> String {
    let [a, b, c] = origins;
    [
        LISTENER,
        PROBES,
        &pools(&[("a", &[a], ""), ("b", &[b], ""), ("c", &[c], "")]),
        services,
        "routes: [ { to: api } ]\n",
    ]
    .concat()
}

async fn origins() -> [Origin; 3] {
    [
        Origin::start("a").await,
        Origin::start("b").await,
        Origin::start("c").await,
    ]
}

/// Changes something by the API.
async fn change(portolan: &Portolan, method: Method, path: &str, body: &Value) -> Answer {
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

async fn weigh(portolan: &Portolan, weights: Value, lease: &str) -> Value {
    let body = json!({ "weights": weights, "for": lease, "reason": "a test" });
    let answer = change(portolan, Method::PUT, "/services/api/weights", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// How many of so many requests in a row each pool got, in percent.
async fn shares(portolan: &Portolan, requests: u32) -> [f64; 3] {
    let mut connection = Connection::open(portolan.address().await).await.unwrap();
    let mut counts = [0.0; 3];
    for _ in 0..requests {
        let answer = connection.ask(Ask::get("/")).await.unwrap();
        let at = ["a", "b", "c"].iter().position(|it| *it == answer.origin());
        counts[at.unwrap()] += 100.0 / f64::from(requests);
    }
    counts
}

#[track_caller]
fn assert_close(seen: [f64; 3], expected: [f64; 3]) {
    for (seen, expected) in seen.iter().zip(expected) {
        assert!((seen - expected).abs() <= 1.0, "{seen} for {expected}");
        assert!(expected > 0.0 || *seen == 0.0, "{seen} for nothing");
    }
}

/// A service's shares: asked and effective, by pool.
fn told(service: &Value) -> Vec<(String, f64, f64)> {
    let pools = service["classes"][0]["pools"].as_array().unwrap();
    let number = |value: &Value| (value.as_f64().unwrap() * 1000.0).round() / 10.0;
    pools
        .iter()
        .map(|pool| {
            let name = pool["pool"].as_str().unwrap().to_owned();
            (name, number(&pool["asked"]), number(&pool["effective"]))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn other_weights_are_exact_from_the_answer_on() {
    let origins = origins().await;
    let portolan = Portolan::start(&config(&origins, SPLIT)).await;
    assert_close(shares(&portolan, 500).await, [70.0, 30.0, 0.0]);
    let generation = portolan.generation().await;

    let entry = weigh(&portolan, json!({ "a": 50, "b": 0, "c": 50 }), "1h").await;
    assert_eq!(
        (&entry["kind"], &entry["service"], &entry["idle"]),
        (&json!("weights"), &json!("api"), &json!(false))
    );
    assert_eq!(entry["weights"], json!({ "a": 50, "b": 0, "c": 50 }));
    assert_close(shares(&portolan, 500).await, [50.0, 0.0, 50.0]);
    assert_eq!(
        portolan.generation().await,
        generation,
        "nothing was reloaded"
    );

    let services = portolan.api("/services").await;
    let expected = [("a".to_owned(), 50.0, 50.0), ("c".to_owned(), 50.0, 50.0)];
    assert_eq!(told(&services[0]), expected);
    assert_eq!(services[0]["override"]["reason"], "a test");
    assert_eq!(
        services[0]["members"],
        json!([
            { "to": "a", "configured": 70, "weight": 50 },
            { "to": "b", "configured": 30, "weight": 0 },
            { "to": "c", "configured": 0, "weight": 50 },
        ])
    );
    for (pool, share) in [("a", 0.5), ("b", 0.0), ("c", 0.5)] {
        for kind in ["asked", "effective"] {
            let labels = [
                "service=\"api\"".to_owned(),
                format!("pool=\"{pool}\""),
                format!("kind=\"{kind}\""),
            ];
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            let seen = portolan.metric("portolan_share", &labels).await;
            assert!((seen - share).abs() < 1e-9, "{pool} {kind}: {seen}");
        }
    }
    let asked = json!({ "url": "http://x/" });
    let explained = change(&portolan, Method::POST, "/explain", &asked).await;
    let why = explained.json()["pools"][0]["why"].to_string();
    assert!(
        why.contains("service api (weights overridden) > split 50 of 100"),
        "{why}"
    );
    let status = portolan.api("/status").await;
    assert_eq!(status["overrides"][0]["service"], "api");

    // Again, and then an end before its time.
    weigh(&portolan, json!({ "a": 1, "b": 1, "c": 2 }), "1h").await;
    assert_close(shares(&portolan, 500).await, [25.0, 25.0, 50.0]);
    let ended = change(
        &portolan,
        Method::DELETE,
        "/services/api/weights",
        &Value::Null,
    )
    .await;
    assert_eq!(
        (ended.status, ended.json()),
        (200, json!({ "service": "api" }))
    );
    assert_close(shares(&portolan, 500).await, [70.0, 30.0, 0.0]);
    assert_eq!(portolan.api("/overrides").await, json!([]));

    let audit = portolan.api("/audit").await;
    let actions: Vec<&str> = audit
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["action"].as_str().unwrap())
        .collect();
    assert_eq!(actions, ["weights", "weights", "weights_cleared"]);
    assert_eq!(
        audit[1]["before"]["weights"],
        json!({ "a": 50, "b": 0, "c": 50 })
    );
    assert_eq!(
        audit[1]["after"]["weights"],
        json!({ "a": 1, "b": 1, "c": 2 })
    );
    assert_eq!(
        (&audit[2]["service"], &audit[2]["pool"]),
        (&json!("api"), &Value::Null)
    );
    portolan
        .wait_for_log("service api has other weights, a=50 b=0 c=50, for 3600 s by local: a test")
        .await;
    portolan
        .wait_for_log("service api has the weights of the configuration again: ended by local")
        .await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_weights_change_and_only_in_that_service() {
    let origins = origins().await;
    let services = "services:
  api: { tiers: [ { split: [ { to: a, weight: 70, if_down: next }, { to: b, weight: 30 } ] }, c ] }
  twin: { split: { a: 70, b: 30 } }
  other: { split: { a: 70, b: 30 } }
";
    let portolan = Portolan::start(&config(&origins, services)).await;
    let body = json!({ "weights": { "a": 40, "b": 60 }, "reason": "x" });
    let twin = change(&portolan, Method::PUT, "/services/twin/weights", &body).await;
    assert_eq!(twin.status, 200, "{}", twin.text());
    weigh(&portolan, json!({ "a": 20, "b": 80 }), "1h").await;
    let services = portolan.api("/services").await;
    let of = |share: f64| {
        [
            ("a".to_owned(), share, share),
            ("b".to_owned(), 100.0 - share, 100.0 - share),
        ]
    };
    for (at, share) in [(0, 20.0), (1, 40.0), (2, 70.0)] {
        assert_eq!(told(&services[at]), of(share), "{}", services[at]);
    }
    // `if_down` is the configuration's: what a leaves goes to the next tier and not to b.
    origins[0].kill().await;
    portolan.wait_for_pool("a", false).await;
    let services = portolan.api("/services").await;
    let told = told(&services[0]);
    assert!(told.contains(&("c".to_owned(), 0.0, 20.0)), "{told:?}");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_survive_reload_and_restart_and_wait_for_a_configuration_that_fits() {
    let origins = origins().await;
    let text = config(&origins, SPLIT);
    let portolan = Portolan::start(&text).await;
    weigh(&portolan, json!({ "a": 0, "b": 0, "c": 1 }), "1h").await;
    let only_c = [0.0, 0.0, 100.0];
    portolan
        .change(&text.replace("a: 70, b: 30", "a: 10, b: 90"))
        .await;
    assert_close(shares(&portolan, 50).await, only_c);

    // The split loses a member: the override waits, and says why.
    let other = text.replace("a: 70, b: 30, c: 0", "a: 70, b: 30");
    portolan.change(&other).await;
    assert_close(shares(&portolan, 500).await, [70.0, 30.0, 0.0]);
    let entry = &portolan.api("/overrides").await[0];
    assert_eq!(entry["idle"], true);
    let because = entry["because"].as_str().unwrap();
    assert!(
        because.contains("`c` is no member of the split of service api"),
        "{because}"
    );
    let why = "the overridden weights of service api are not applied, because `c` is no member";
    portolan.wait_for_log(why).await;
    let events = portolan.api("/events").await;
    let events = events.as_array().unwrap();
    let idle = events.iter().find(|event| event["kind"] == "weights_idle");
    assert_eq!(idle.unwrap()["subject"], "service api");
    let admin = format!("http://{}", portolan.admin());
    let status = stdout(&command(&["status", "--admin", &admin]).await);
    assert!(
        status.contains("not applied, because `c` is no member"),
        "{status}"
    );
    // It gains one.
    let more = text
        .replace("services: {", "services: { d: a,")
        .replace("c: 0", "c: 0, d: 5");
    portolan.change(&more).await;
    let because = portolan.api("/overrides").await[0]["because"].to_string();
    assert!(because.contains("has `d`, too"), "{because}");
    // The service goes.
    let without = text.replace(SPLIT, "").replace("to: api", "to: a");
    portolan.change(&without).await;
    let because = portolan.api("/overrides").await[0]["because"].to_string();
    assert!(because.contains("there is no service api"), "{because}");
    portolan.change(&text).await;
    assert_eq!(portolan.api("/overrides").await[0]["idle"], false);
    assert_close(shares(&portolan, 50).await, only_c);
    portolan
        .wait_for_log("weights of service api are applied again")
        .await;

    // Another process with the same state.
    let file = portolan.folder().join("state/overrides.json");
    let kept = std::fs::read_to_string(&file).unwrap();
    let before = portolan.api("/overrides").await;
    portolan.stop().await;
    let portolan = Portolan::with(&text)
        .file("state/overrides.json", &kept)
        .start()
        .await;
    let after = portolan.api("/overrides").await;
    for key in ["until", "by", "weights", "idle"] {
        assert_eq!(after[0][key], before[0][key]);
    }
    assert_close(shares(&portolan, 50).await, only_c);

    // And it ends by itself.
    weigh(&portolan, json!({ "a": 0, "b": 1, "c": 0 }), "300ms").await;
    eventually("the lease ends", async || {
        (portolan.api("/overrides").await == json!([])).then_some(())
    })
    .await;
    assert_close(shares(&portolan, 500).await, [70.0, 30.0, 0.0]);
    portolan
        .wait_for_log("configuration again: the lease of local is over")
        .await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_with_the_nearest_name() {
    let origins = origins().await;
    let services = "services:
  api: { split: { a: 70, b: 30, c: 0 } }
  plain: a
  far: { tiers: [ near, c ] }
  near: { split: { a: 1, b: 1 } }
  odd: { split: [ { to: { tiers: [ a, b ] }, weight: 1 }, { to: c, weight: 1 } ] }
";
    let portolan = Portolan::start(&config(&origins, services)).await;
    let good = json!({ "a": 1, "b": 1, "c": 1 });
    let put = |weights: Value| json!({ "weights": weights, "reason": "x" });
    for (service, body, status, words) in [
        ("apis", put(good.clone()), 404, "did you mean `api`?"),
        (
            "nowhere",
            put(good.clone()),
            404,
            "there is no service nowhere",
        ),
        ("a", put(good.clone()), 404, "`a` is a pool"),
        ("a%20b", put(good.clone()), 404, "there is no service a b"),
        ("plain", put(json!({ "a": 1 })), 409, "is no split"),
        (
            "far",
            put(json!({ "a": 1 })),
            409,
            "override the weights of that one",
        ),
        (
            "odd",
            put(json!({ "c": 1 })),
            409,
            "member 1 of the split of service odd has no name",
        ),
        (
            "api",
            put(json!({ "a": 1, "B": 1, "c": 1 })),
            400,
            "did you mean `b`?",
        ),
        ("api", put(json!({ "a": 1 })), 400, "has `b`, `c`, too"),
        ("api", put(json!({})), 400, "names nobody"),
        (
            "api",
            put(json!({ "a": 0, "b": 0, "c": 0 })),
            400,
            "every weight is 0",
        ),
        ("api", put(json!({ "a": -1, "b": 0, "c": 0 })), 400, "body"),
        ("api", put(json!({ "a": 1.5, "b": 0, "c": 0 })), 400, "body"),
        (
            "api",
            put(json!({ "a": 1000001, "b": 0, "c": 0 })),
            400,
            "from 0 to 1000000",
        ),
        ("api", json!({ "weights": good }), 400, "needs a reason"),
        ("api", json!({ "reason": "x" }), 400, "weights"),
        (
            "api",
            json!({ "weights": good, "reason": "x", "for": "1" }),
            400,
            "`for`",
        ),
        (
            "api",
            json!({ "weights": good, "reason": "x", "until": 1 }),
            400,
            "until",
        ),
        ("api", Value::Null, 400, "body"),
    ] {
        let path = format!("/services/{service}/weights");
        let answer = change(&portolan, Method::PUT, &path, &body).await;
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.text());
        assert!(
            answer.text().contains(words),
            "{path} {body}: {}",
            answer.text()
        );
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    for (service, status, words) in [
        ("api", 404, "no override of the weights of service api"),
        ("nowhere", 404, "there is no service nowhere"),
    ] {
        let path = format!("/services/{service}/weights");
        let answer = change(&portolan, Method::DELETE, &path, &Value::Null).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert!(answer.text().contains(words), "{}", answer.text());
    }
    assert_eq!(portolan.api("/overrides").await, json!([]));
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_weighs_and_says_what_it_did() {
    let origins = origins().await;
    let text = [TOKENS, &config(&origins, SPLIT)].concat();
    let mut portolan = Portolan::with(&text).start().await;
    let admin = format!("http://{}", portolan.admin());
    let run = async |args: &[&str], token: &str| {
        let mut all = args.to_vec();
        all.extend(["--admin", &admin, "--token", token]);
        command(&all).await
    };
    let all = ["weights", "api", "a=60", "b=40", "c=0"];
    let set = run(
        &[&all[..], &["--for", "30m", "--reason", "b is slow"]].concat(),
        OPERATOR,
    )
    .await;
    assert!(set.status.success(), "{}", stderr(&set));
    let said = stdout(&set);
    assert!(
        said.starts_with("service api has the weights a=60 b=40 c=0 until ")
            && said.ends_with(" (30m 0s) by oncall: b is slow\n"),
        "{said}"
    );
    let status = stdout(&run(&["status"], VIEWER).await);
    assert!(
        status.contains("service api has the weights a=60 b=40 c=0"),
        "{status}"
    );
    let again = run(&[&all[..], &["--reason", "x", "--json"]].concat(), OPERATOR).await;
    let entry: Value = serde_json::from_str(&stdout(&again)).unwrap();
    assert_eq!(entry["weights"], json!({ "a": 60, "b": 40, "c": 0 }));
    let cleared = run(&["weights", "api", "--clear"], OPERATOR).await;
    assert_eq!(
        stdout(&cleared),
        "service api has the weights of the configuration again\n"
    );
    for (args, token, code, words) in [
        (
            &["weights", "api", "--clear"][..],
            OPERATOR,
            1,
            "no override of the weights",
        ),
        (
            &["weights", "api", "a=1", "--reason", "x"],
            OPERATOR,
            1,
            "name every member",
        ),
        (
            &["weights", "apj", "a=1", "--reason", "x"],
            OPERATOR,
            1,
            "did you mean `api`?",
        ),
        (
            &["weights", "api", "a=1", "a=2", "--reason", "x"],
            OPERATOR,
            1,
            "`a` stands twice",
        ),
        (
            &["weights", "api", "a=1", "--reason", "x"],
            VIEWER,
            1,
            "may look, not change",
        ),
        (&["weights", "api", "a=1"], OPERATOR, 2, "--reason"),
        (
            &["weights", "api", "--reason", "x"],
            OPERATOR,
            2,
            "MEMBER=WEIGHT",
        ),
        (
            &["weights", "api", "a:1", "--reason", "x"],
            OPERATOR,
            2,
            "MEMBER=WEIGHT",
        ),
        (
            &["weights", "api", "a=6%", "--reason", "x"],
            OPERATOR,
            2,
            "no percent sign",
        ),
        (
            &["weights", "api", "a=1", "--clear"],
            OPERATOR,
            2,
            "--clear",
        ),
    ] {
        let output = run(args, token).await;
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
    }
    portolan.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(portolan.ended().await.success());
}
