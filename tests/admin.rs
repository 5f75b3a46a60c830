//! The admin API: what it answers, to whom, and that what it counts is what happened.

mod description;
mod metrics;
mod promtool;

use std::net::SocketAddr;

use http::Method;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::client::{Answer, raw};
use crate::harness::config::{LISTENER, PROBES, pool, pools};
use crate::harness::names::{NameServer, Reply};
use crate::harness::portolan::{command_in, port, stderr, stdout};
use crate::harness::{Ask, Origin, Portolan, eventually, fetch, get};

const ROUTE: &str = "routes: [ { name: all, to: a } ]\n";

/// A process with one healthy endpoint.
async fn serving(more: &str) -> (Portolan, Origin) {
    let origin = Origin::start("a").await;
    let config = [
        LISTENER,
        PROBES,
        more,
        &pools(&[("a", &[&origin], "")]),
        ROUTE,
    ]
    .concat();
    (Portolan::start(&config).await, origin)
}

#[track_caller]
fn assert_problem(answer: &Answer, status: u16) -> Value {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("content-type"), "application/problem+json");
    let problem = answer.json();
    assert_eq!(problem["status"], status);
    for member in ["type", "title", "detail"] {
        assert!(problem[member].is_string(), "{member}: {problem}");
    }
    problem
}

// === Liveness and readiness ===

#[tokio::test(flavor = "multi_thread")]
async fn ready_is_said_when_health_is_known() {
    let names = NameServer::start().await;
    names.set("a.test", Reply::StallDetector);
    let origin = Origin::start("a").await;
    let config = [
        LISTENER,
        PROBES,
        "startup_grace: 1h\n",
        &format!(
            "resolver: {{ servers: [ \"{}\" ], timeout: 200ms }}\n",
            names.address
        ),
        &format!(
            "pools: {{ a: {{ endpoints: [ {{ dns: \"a.test:{}\" }} ] }} }}\n",
            origin.address.port()
        ),
        ROUTE,
    ]
    .concat();
    let portolan = Portolan::with(&config).start_without_waiting().await;
    eventually("it has asked", async || {
        (names.questions() > 0).then_some(())
    })
    .await;
    let live = fetch(portolan.admin(), "/healthz").await;
    assert_eq!((live.status, live.text().as_str()), (200, "ok\n"));
    let ready = fetch(portolan.admin(), "/readyz").await;
    assert_eq!((ready.status, ready.text().as_str()), (503, "warming\n"));
    assert_eq!(portolan.api("/status").await["state"], "warming");
    assert!(
        !portolan.log().contains("listening on"),
        "{}",
        portolan.log()
    );

    names.set(
        "a.test",
        Reply::Addresses(vec!["127.0.0.1".parse().unwrap()], 60),
    );
    portolan.wait_until_ready().await;
    assert_eq!(fetch(portolan.admin(), "/readyz").await.text(), "ready\n");
    assert_eq!(portolan.api("/status").await["state"], "ready");
    assert_eq!(fetch(portolan.address().await, "/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_that_are_down_do_not_make_it_unready() {
    let origin = Origin::start("a").await;
    origin.set_health(500);
    let config = [LISTENER, PROBES, &pools(&[("a", &[&origin], "")]), ROUTE].concat();
    let portolan = Portolan::start(&config).await;
    portolan.wait_for_pool("a", false).await;
    assert_eq!(fetch(portolan.admin(), "/readyz").await.status, 200);
    assert_eq!(fetch(portolan.admin(), "/healthz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lame_duck_is_alive_and_serves_and_is_not_ready() {
    let (mut portolan, _origin) = serving("lame_duck: 1h\nshutdown_timeout: 2h\n").await;
    let address = portolan.address().await;
    portolan.signal(Signal::SIGTERM);
    eventually("it is unready", async || {
        let ready = get(portolan.admin(), "/readyz").await.ok()?;
        (ready.status == 503 && ready.text() == "stopping\n").then_some(())
    })
    .await;
    assert_eq!(fetch(portolan.admin(), "/healthz").await.status, 200);
    assert_eq!(portolan.api("/status").await["state"], "stopping");
    assert_eq!(fetch(address, "/").await.status, 200);
    // Told again: now.
    portolan.signal(Signal::SIGTERM);
    assert!(portolan.ended().await.success());
}

// === What it says ===

#[tokio::test(flavor = "multi_thread")]
async fn status_says_what_runs() {
    let (portolan, _origin) = serving("").await;
    let address = portolan.address().await;
    assert_eq!(fetch(address, "/").await.status, 200);
    assert_eq!(
        Ask::get("/status?code=404")
            .to(address)
            .await
            .unwrap()
            .status,
        404
    );
    portolan
        .wait_for_metric("portolan_requests_total", &["route=\"all\""], 2.0)
        .await;
    let status = portolan.api("/status").await;
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    let hash = status["config"]["hash"].as_str().unwrap();
    assert!(
        hash.len() >= 12 && hash.bytes().all(|b| b.is_ascii_hexdigit()),
        "{hash}"
    );
    assert_eq!(status["config"]["last_known_good"], false);
    assert_eq!(status["config"]["last_reload"], Value::Null);
    assert!(status["config"]["applied"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(status["listeners"][0]["configured"], "127.0.0.1:0");
    assert_eq!(status["listeners"][0]["tls"], false);
    assert_eq!(
        status["requests"],
        json!({
            "accepted": 2,
            "total": 2,
            "by_class": { "2xx": 1, "4xx": 1 },
            "outcomes": { "answered": 2, "client_gone": 0, "refused": 0 },
        })
    );
    assert_eq!(status["pools"], json!({ "up": 1, "total": 1 }));
    // No route asks where clients are, so no database is open.
    assert_eq!(status["geo"], json!([]));
    let warning = status["warnings"][0].as_str().unwrap();
    assert!(
        warning.contains("portolan.yaml:4:61: a probe may take 1s"),
        "{warning}"
    );

    let before = portolan.generation().await;
    let config = std::fs::read_to_string(portolan.config_path()).unwrap();
    portolan
        .change(&config.replace("name: all", "name: everything"))
        .await;
    // What became of it is told a moment after it is in effect.
    let status = eventually("the reload is told", async || {
        let status = portolan.api("/status").await;
        (!status["config"]["last_reload"].is_null()).then_some(status)
    })
    .await;
    assert!(status["config"]["generation"].as_u64().unwrap() > before);
    assert_ne!(status["config"]["hash"], hash);
    let reload = &status["config"]["last_reload"];
    assert_eq!(
        (&reload["outcome"], &reload["trigger"]),
        (&"applied".into(), &"a file changed".into())
    );
    assert_eq!(reload["error"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_date_of_the_built_in_database_is_told() {
    let origin = Origin::start("a").await;
    let config = [
        LISTENER,
        &pools(&[("a", &[&origin], "")]),
        "routes: [ { to: { geo: [ { clients: { countries: [ DE ] }, to: a }, { to: a } ] } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let status = portolan.api("/status").await;
    let geo = &status["geo"][0];
    assert_eq!(geo["name"], "built in");
    let built = geo["built"].as_u64().unwrap();
    assert!(built > 1_750_000_000, "{geo}");
    let metric = portolan
        .metric(
            "portolan_geo_database_build_timestamp_seconds",
            &["database=\"built in\""],
        )
        .await;
    assert_eq!(metric, built as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_services_and_routes_are_told_live() {
    let origins = [
        Origin::start("big-1").await,
        Origin::start("big-2").await,
        Origin::start("small").await,
        Origin::start("spare").await,
    ];
    let [first, second, small, spare] = &origins;
    let config = [
        LISTENER,
        PROBES,
        "pools:\n",
        &format!(
            "  big: {{ cloud: aws, region: us-east-1, endpoints: [ {{ address: \"{}\", weight: 3 }}, {{ address: \"{}\", backup: true }} ] }}\n",
            first.address, second.address
        ),
        &pool("small", &[small.address], ""),
        &pool("spare", &[spare.address], ", drain: true"),
        "services: { shop: { tiers: [ { split: { big: 70, small: 30 } }, spare ] } }\n",
        "routes: [ { name: to-shop, host: shop.example, to: shop }, { name: rest, to: small } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    portolan
        .wait_for_health("big", second.address, "healthy")
        .await;

    let all = portolan.api("/pools").await;
    let names: Vec<&str> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|pool| pool["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["big", "small", "spare"]);
    let big = &all[0];
    assert_eq!(
        (&big["cloud"], &big["region"]),
        (&"aws".into(), &"us-east-1".into())
    );
    assert_eq!(
        (&big["up"], &big["availability"]),
        (&true.into(), &1.0.into())
    );
    // The backup does not count while a primary serves.
    assert_eq!((&big["healthy"], &big["counted"]), (&1.into(), &1.into()));
    let endpoints = big["endpoints"].as_array().unwrap();
    assert_eq!(endpoints[0]["weight"], 3);
    assert_eq!(
        (&endpoints[0]["backup"], &endpoints[1]["backup"]),
        (&false.into(), &true.into())
    );
    assert!(endpoints[0]["probe_ms"].as_f64().unwrap() > 0.0, "{big}");
    assert_eq!(endpoints[0]["because"], "the first probe succeeded");
    assert_eq!(
        (&all[2]["drained"], &all[2]["up"]),
        (&true.into(), &false.into())
    );

    let services = portolan.api("/services").await;
    assert_eq!(services[0]["name"], "shop");
    let shares = |class: &Value, kind: &str| -> Vec<(String, i64)> {
        let pools = class["pools"].as_array().unwrap();
        pools
            .iter()
            .map(|pool| {
                let share = pool[kind].as_f64().unwrap();
                (
                    pool["pool"].as_str().unwrap().to_owned(),
                    (share * 1000.0).round() as i64,
                )
            })
            .collect()
    };
    let expected = [("big".to_owned(), 700), ("small".to_owned(), 300)];
    let class = &services[0]["classes"][0];
    for kind in ["asked", "effective"] {
        let shares: Vec<_> = shares(class, kind)
            .into_iter()
            .filter(|(_, share)| *share > 0)
            .collect();
        assert_eq!(shares, expected, "{kind}: {class}");
    }
    assert_eq!(
        (&class["refused"], &class["basis"]),
        (&0.0.into(), &"health".into())
    );

    // Big dies: asked stays, effective follows.
    first.kill().await;
    second.kill().await;
    portolan.wait_for_pool("big", false).await;
    let class = &portolan.api("/services").await[0]["classes"][0];
    let share = |kind: &str, pool: &str| {
        let all = shares(class, kind);
        all.iter()
            .find(|(name, _)| name == pool)
            .map(|(_, share)| *share)
    };
    assert_eq!(
        (share("asked", "big"), share("effective", "big")),
        (Some(700), Some(0))
    );
    assert_eq!(
        (share("asked", "small"), share("effective", "small")),
        (Some(300), Some(1000))
    );

    let ask = Ask::get("/").header("host", "shop.example");
    assert_eq!(ask.to(portolan.address().await).await.unwrap().status, 200);
    portolan
        .wait_for_metric("portolan_requests_total", &["route=\"to-shop\""], 1.0)
        .await;
    let routes = portolan.api("/routes").await;
    assert_eq!(
        (&routes[0]["name"], &routes[1]["name"]),
        (&"to-shop".into(), &"rest".into())
    );
    assert_eq!(routes[0]["pools"], json!(["big", "small", "spare"]));
    assert_eq!(routes[0]["requests"], json!({ "2xx": 1 }));
    assert_eq!(routes[1]["requests"], json!({}));
    assert_eq!(
        shares(&routes[1]["classes"][0], "effective"),
        [("small".to_owned(), 1000)]
    );

    let one = portolan.api("/pools/small").await;
    assert_eq!(one["name"], "small");
    assert_eq!(one["endpoints"][0]["requests"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn explaining_uses_live_health() {
    let origins = [Origin::start("a").await, Origin::start("b").await];
    let config = [
        LISTENER,
        PROBES,
        &pools(&[("a", &[&origins[0]], ""), ("b", &[&origins[1]], "")]),
        "routes: [ { name: posts, methods: [ POST ], headers: { x-y: z }, to: b }, { name: all, to: { tiers: [ a, b ] } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let explain = async |body: Value| {
        let ask =
            Ask::new(Method::POST, "/api/v1/explain").header("content-type", "application/json");
        ask.body(body.to_string())
            .to(portolan.admin())
            .await
            .unwrap()
    };
    let pools = async || explain(json!({ "url": "http://x/" })).await.json()["pools"].clone();
    assert_eq!(pools().await[0]["pool"], "a");
    origins[0].kill().await;
    portolan.wait_for_pool("a", false).await;
    assert_eq!(pools().await[0]["pool"], "b");
    let posts = json!({ "url": "http://x/", "method": "POST", "headers": { "X-Y": "z" }, "client_ip": "8.8.8.8" });
    assert_eq!(explain(posts).await.json()["route"], "posts");
    // The question is nobody's request.
    assert_eq!(portolan.api("/status").await["requests"]["total"], 0);

    for (body, words) in [
        (json!({}), "url"),
        (json!({ "url": "/x" }), "not a URL"),
        (json!({ "url": "http://x/", "verb": "GET" }), "verb"),
        (json!({ "url": "http://x/", "client_ip": "nowhere" }), "IP"),
        (json!({ "url": "http://x/", "method": "" }), "method"),
        (
            json!({ "url": "http://x/", "headers": { "a b": "c" } }),
            "header",
        ),
    ] {
        let problem = assert_problem(&explain(body.clone()).await, 400);
        assert!(
            problem["detail"].as_str().unwrap().contains(words),
            "{body}: {problem}"
        );
    }
    let ask = || Ask::new(Method::POST, "/api/v1/explain");
    let answer = ask()
        .header("content-type", "application/json")
        .body("{")
        .to(portolan.admin());
    assert_problem(&answer.await.unwrap(), 400);
    let answer = ask().body("{}").to(portolan.admin());
    assert_problem(&answer.await.unwrap(), 400);
    // One byte too many: all of it has gone before the answer comes.
    let question = "{ \"url\": \"http://x/\" }";
    let large = question.to_owned() + &" ".repeat((2 << 20) + 1 - question.len());
    let answer = ask()
        .header("content-type", "application/json")
        .body(large)
        .to(portolan.admin());
    assert_problem(&answer.await.unwrap(), 413);
    assert_eq!(fetch(portolan.admin(), "/healthz").await.status, 200);
}

/// What a listener says to a request, `explain` says as well: asked of the file, of the instance, and by
/// the request itself.
#[tokio::test(flavor = "multi_thread")]
async fn explaining_says_what_a_listener_says() {
    let origin = Origin::start("a").await;
    let [open, denying, redirecting, small] = [port(), port(), port(), port()];
    let config = format!(
        "listeners:
  - {{ bind: '127.0.0.1:{open}' }}
  - {{ bind: '127.0.0.1:{denying}', deny: {{ cidrs: [ 127.0.0.0/8 ] }} }}
  - {{ bind: '127.0.0.1:{redirecting}', redirect_to_https: true }}
  - {{ bind: '127.0.0.1:{small}', limits: {{ uri_bytes: 64B, headers: 5, header_bytes: 512B, body_bytes: 10B }} }}
{PROBES}{}{ROUTE}",
        pools(&[("a", &[&origin], "")])
    );
    let portolan = Portolan::start(&config).await;
    let admin = format!("http://{}", portolan.admin());
    let file = portolan.config_path();
    let file = file.to_str().unwrap();
    let long = format!("/{}", "x".repeat(80));
    let large = "x".repeat(600);
    let many: Vec<(String, &str)> = (0..6).map(|at| (format!("x-{at}"), "y")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (&**name, *value)).collect();
    for (port, path, headers, status) in [
        (open, "/", &[][..], 200),
        (open, &*long, &many[..], 200),
        (open, "/%00", &[], 400),
        (denying, "/", &[], 403),
        (redirecting, "/", &[], 308),
        (small, "/", &[], 200),
        (small, &*long, &[], 414),
        (small, "/", &many, 431),
        (small, "/", &[("x-large", &large)], 431),
    ] {
        let mut ask = Ask::get(path);
        let mut args = vec!["--client-ip", "127.0.0.1"];
        let lines: Vec<String> = headers.iter().map(|(n, v)| format!("{n}: {v}")).collect();
        for ((name, value), line) in headers.iter().zip(&lines) {
            ask = ask.header(name, value);
            args.extend(["-H", line]);
        }
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let got = ask.to(address).await.unwrap();
        assert_eq!(got.status, status, "{port} {path}");
        let url = format!("http://127.0.0.1:{port}{path}");
        for asked in [["--admin", &admin], ["--config", file]] {
            let mut all = vec!["explain", "--json"];
            all.extend(asked);
            all.extend(&args);
            all.push(&url);
            let output = command_in(portolan.folder(), &all).await;
            let said: Value = serde_json::from_str(&stdout(&output)).unwrap();
            let wanted = (status != 200).then_some(status);
            assert_eq!(said["status"], json!(wanted), "{asked:?} {path}: {said}");
            assert_eq!(said["listener"], format!("127.0.0.1:{port}"), "{said}");
        }
    }
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reloading_over_the_api_is_answered_with_what_became_of_it() {
    let (portolan, _origin) = serving("").await;
    let reload = async || {
        let ask = Ask::new(Method::POST, "/api/v1/reload");
        ask.to(portolan.admin()).await.unwrap()
    };
    let answer = reload().await;
    assert_eq!(answer.status, 200);
    let said = answer.json();
    assert_eq!(said["outcome"], "applied");
    let status = portolan.api("/status").await;
    assert_eq!(said["hash"], status["config"]["hash"]);
    assert_eq!(status["config"]["last_reload"]["trigger"], "the admin API");

    let config = std::fs::read_to_string(portolan.config_path()).unwrap();
    portolan
        .change_refused(&config.replace("to: a", "to: b"))
        .await;
    let problem = assert_problem(&reload().await, 422);
    assert_eq!(problem["title"], "Configuration refused");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("[unknown-name]"),
        "{problem}"
    );
    assert_eq!(problem["report"]["errors"], 1);
    assert!(problem["text"].as_str().unwrap().contains("^"), "{problem}");
    let after = portolan.api("/status").await;
    assert_eq!(after["config"]["hash"], status["config"]["hash"]);
    assert_eq!(after["config"]["last_reload"]["outcome"], "refused");
    assert_eq!(fetch(portolan.address().await, "/").await.status, 200);
}

// === To whom ===

const LOOKING: [&str; 5] = ["/status", "/pools", "/pools/a", "/services", "/routes"];

#[tokio::test(flavor = "multi_thread")]
async fn tokens_open_what_their_role_allows() {
    let tokens = "\
admin:
  bind: \"127.0.0.1:0\"
  tokens:
    - { name: watcher, role: viewer, token: viewer-viewer-viewer }
    - { name: oncall, role: operator, token: \"${file:token}\" }
";
    let origin = Origin::start("a").await;
    let config = [
        LISTENER,
        PROBES,
        tokens,
        &pools(&[("a", &[&origin], "")]),
        ROUTE,
    ]
    .concat();
    let builder = Portolan::with(&config).file("token", "operator-operator\n");
    let portolan = builder.start().await;
    let admin = portolan.admin();
    let ask = async |method: Method, path: &str, token: &str| {
        let mut ask = Ask::new(method, path).header("content-type", "application/json");
        if !token.is_empty() {
            ask = ask.header("authorization", token);
        }
        ask.body("{\"url\":\"http://x/\"}").to(admin).await.unwrap()
    };
    let paths: Vec<(Method, String)> = LOOKING
        .iter()
        .map(|path| (Method::GET, format!("/api/v1{path}")))
        .chain([
            (Method::POST, "/api/v1/explain".to_owned()),
            (Method::POST, "/api/v1/reload".to_owned()),
        ])
        .collect();
    for (method, path) in &paths {
        for nobody in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer wrong-wrong-wrong-wrong",
            "Bearer viewer-viewer-viewe",
            "Bearer viewer-viewer-viewer2",
            "Basic viewer-viewer-viewer",
            "viewer-viewer-viewer",
        ] {
            let answer = ask(method.clone(), path, nobody).await;
            assert_problem(&answer, 401);
            assert!(
                answer.header("www-authenticate").starts_with("Bearer"),
                "{path} {nobody}"
            );
        }
        let viewer = ask(method.clone(), path, "Bearer viewer-viewer-viewer").await;
        if path.ends_with("reload") {
            let problem = assert_problem(&viewer, 403);
            assert!(
                problem["detail"].as_str().unwrap().contains("`watcher`"),
                "{problem}"
            );
        } else {
            assert_eq!(viewer.status, 200, "{path}: {}", viewer.text());
        }
        for bearer in ["Bearer", "bearer"] {
            let operator = ask(method.clone(), path, &format!("{bearer} operator-operator")).await;
            assert_eq!(operator.status, 200, "{path}: {}", operator.text());
        }
    }
    // What is not there is nobody's business either.
    let answer = ask(Method::GET, "/api/v1/nothing", "").await;
    assert_problem(&answer, 401);
    // These look at nobody's token, here.
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(ask(Method::GET, path, "").await.status, 200, "{path}");
        assert_eq!(
            ask(Method::GET, path, "Bearer wrong").await.status,
            200,
            "{path}"
        );
    }
    assert!(
        !portolan.log().contains("operator-operator"),
        "{}",
        portolan.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_change_while_it_runs() {
    let with = |token: &str| {
        format!(
            "admin: {{ bind: \"127.0.0.1:0\", tokens: [ {{ name: t, role: operator, token: {token} }} ] }}\n"
        )
    };
    let (portolan, _origin) = serving(&with("first-first-first-first")).await;
    let status = async |token: &str| {
        let ask = Ask::get("/api/v1/status").header("authorization", &format!("Bearer {token}"));
        ask.to(portolan.admin()).await.unwrap().status
    };
    assert_eq!(status("first-first-first-first").await, 200);
    let config = std::fs::read_to_string(portolan.config_path()).unwrap();
    portolan.write(&config.replace("first-first-first-first", "second-second-second"));
    eventually("the new token opens", async || {
        (status("second-second-second").await == 200).then_some(())
    })
    .await;
    assert_eq!(status("first-first-first-first").await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tokens_foreign_pages_are_refused() {
    let (portolan, _origin) = serving("").await;
    let admin = portolan.admin();
    let ask = async |method: Method, path: &str, headers: &[(&str, &str)]| {
        let mut ask = Ask::new(method, path);
        for (name, value) in headers {
            ask = ask.header(name, value);
        }
        ask.to(admin).await.unwrap()
    };
    // A name that leads here, but is not this machine's.
    let rebound = [("host", "rebound.example:9470")];
    for path in LOOKING {
        assert_problem(
            &ask(Method::GET, &format!("/api/v1{path}"), &rebound).await,
            403,
        );
    }
    let reload = "/api/v1/reload";
    assert_problem(&ask(Method::POST, reload, &rebound).await, 403);
    assert_problem(
        &ask(Method::POST, reload, &[("origin", "https://evil.example")]).await,
        403,
    );
    let own = format!("http://{admin}");
    assert_eq!(
        ask(Method::POST, reload, &[("origin", &own)]).await.status,
        200
    );
    let local = format!("localhost:{}", admin.port());
    assert_eq!(
        ask(Method::GET, "/api/v1/status", &[("host", &local)])
            .await
            .status,
        200
    );
    for path in ["/healthz", "/readyz"] {
        assert_eq!(ask(Method::GET, path, &rebound).await.status, 200, "{path}");
    }
    assert_problem(&ask(Method::GET, "/metrics", &rebound).await, 403);
    assert_eq!(
        ask(Method::GET, "/metrics", &[("host", &local)])
            .await
            .status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_a_problem() {
    let (portolan, _origin) = serving("").await;
    let admin = portolan.admin();
    for path in [
        "/",
        "/api",
        "/api/v1",
        "/api/v1/",
        "/api/v2/status",
        "/api/v1/nothing",
        "/api/v1/pools/none",
        "/api/v1/pools/a/b",
        "/favicon.ico",
    ] {
        let problem = assert_problem(&fetch(admin, path).await, 404);
        assert_eq!(problem["title"], "Not found", "{path}");
    }
    for (method, path, allowed) in [
        (Method::POST, "/api/v1/status", "GET"),
        (Method::DELETE, "/api/v1/pools/a", "GET"),
        (Method::GET, "/api/v1/reload", "POST"),
        (Method::GET, "/api/v1/explain", "POST"),
        (Method::PUT, "/healthz", "GET"),
        (Method::POST, "/readyz", "GET"),
        (Method::POST, "/metrics", "GET"),
    ] {
        let answer = Ask::new(method.clone(), path).to(admin).await.unwrap();
        assert_problem(&answer, 405);
        assert!(
            answer.header("allow").contains(allowed),
            "{method} {path}: {:?}",
            answer.headers
        );
    }
    let head = Ask::new(Method::HEAD, "/healthz").to(admin).await.unwrap();
    assert_eq!((head.status, head.body.len()), (200, 0));
    // What is no HTTP at all ends the connection, and nothing else.
    assert!(
        !raw(admin, b"\x16\x03\x01\x02\x00garbage\r\n\r\n")
            .await
            .contains("200 OK")
    );
    assert_eq!(fetch(admin, "/healthz").await.status, 200);
}

// === Where ===

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_its_port_when_it_moves() {
    let port = port();
    let token = "operator-operator-operator";
    let admin = |ip: &str| {
        format!(
            "admin: {{ bind: '{ip}:{port}', tokens: [ {{ name: ops, role: operator, token: {token} }} ] }}\n"
        )
    };
    let (portolan, _origin) = serving(&admin("127.0.0.1")).await;
    let config = std::fs::read_to_string(portolan.config_path()).unwrap();
    let here: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    let elsewhere: SocketAddr = format!("127.0.0.2:{port}").parse().unwrap();
    for (ip, reached) in [("0.0.0.0", true), ("127.0.0.1", false), ("[::]", true)] {
        portolan.write(&config.replace(&admin("127.0.0.1"), &admin(ip)));
        eventually(
            &format!("{elsewhere} answers: {reached}, at {ip}"),
            async || {
                let answered = get(elsewhere, "/healthz").await.is_ok();
                (answered == reached).then_some(())
            },
        )
        .await;
        assert_eq!(fetch(here, "/healthz").await.status, 200);
    }
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_moves_while_it_runs() {
    let (portolan, _origin) = serving("admin: { bind: \"127.0.0.1:0\" }\n").await;
    let before = portolan.admin();
    let address = portolan.address().await;
    let config = std::fs::read_to_string(portolan.config_path()).unwrap();
    // Another address of this machine, so that the port can be of the system's choice again.
    portolan.write(&config.replace(
        "admin: { bind: \"127.0.0.1:0\" }",
        "admin: { bind: \"127.0.0.2:0\" }",
    ));
    let moved: SocketAddr = eventually("it has moved", async || {
        let log = portolan.log();
        let (_, rest) = log.split_once("the admin API moves to ")?;
        rest.lines().next()?.parse().ok()
    })
    .await;
    assert_ne!(moved, before);
    let status = eventually("the new address answers", async || {
        get(moved, "/api/v1/status").await.ok()
    })
    .await;
    assert_eq!(status.json()["config"]["last_reload"]["outcome"], "applied");
    eventually("the old address is closed", async || {
        get(before, "/healthz").await.is_err().then_some(())
    })
    .await;
    assert_eq!(fetch(address, "/").await.status, 200);

    // An address that cannot be had: it stays where it is, and says so.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let elsewhere = taken.local_addr().unwrap().to_string();
    portolan.write(&config.replace(
        "admin: { bind: \"127.0.0.1:0\" }",
        &format!("admin: {{ bind: \"{elsewhere}\" }}"),
    ));
    portolan
        .wait_for_log(&format!(
            "the admin API stays where it is: cannot bind {elsewhere}"
        ))
        .await;
    assert_eq!(fetch(moved, "/healthz").await.status, 200);
    drop(taken);
}

#[tokio::test]
async fn it_is_on_loopback_unless_tokens_guard_it() {
    let folder = tempfile::TempDir::new().unwrap();
    let check = async |admin: &str, args: &[&str]| {
        let text = format!(
            "{LISTENER}{admin}pools: {{ a: {{ endpoints: [ \"127.0.0.1:1\" ] }} }}\n{ROUTE}"
        );
        std::fs::write(folder.path().join("portolan.yaml"), text).unwrap();
        command_in(folder.path(), args).await
    };
    let shown = check("", &["show", "--effective", "--json"]).await;
    let shown: Value = serde_json::from_str(&stdout(&shown)).unwrap();
    assert_eq!(shown["admin"]["bind"], "127.0.0.1:9470");
    for open in ["0.0.0.0:9470", "[::]:9470", "192.0.2.1:9470"] {
        let output = check(&format!("admin: {{ bind: \"{open}\" }}\n"), &["check"]).await;
        assert_eq!(output.status.code(), Some(1), "{open}");
        assert!(
            stderr(&output).contains("error[admin-exposed]"),
            "{}",
            stderr(&output)
        );
        let guarded = format!(
            "admin: {{ bind: \"{open}\", tokens: [ {{ name: t, role: viewer, token: long-enough-a-token }} ] }}\n"
        );
        let output = check(&guarded, &["check"]).await;
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    let short = "admin: { tokens: [ { name: t, role: viewer, token: short } ] }\n";
    let output = check(short, &["check"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("shorter than 16"),
        "{}",
        stderr(&output)
    );
}
