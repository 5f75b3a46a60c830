//! gRPC, with a client and servers of somebody else's: calls of every kind, how they end, streams
//! that outlive configurations, the health service, and endpoints that are gone.

use std::net::SocketAddr;

use http::{Method, Request};
use http_body_util::Full;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::certificates::Authority;
use crate::harness::client::Connection2;
use crate::harness::config::LISTENER;
use crate::harness::python::{Python, Talker};
use crate::harness::rogue::nobody;
use crate::harness::{Ask, Portolan, eventually, soon};

async fn python() -> Python {
    Python::with("grpc", include_str!("grpc/requirements.txt")).await
}

/// A server, and where it listens.
struct Server {
    talker: Talker,
    address: SocketAddr,
}

impl Server {
    async fn start(python: &Python, args: &[&str]) -> Self {
        let mut talker = python.start("grpc/server.py", args);
        let port = talker.hear().await.as_u64().unwrap();
        let address = format!("127.0.0.1:{port}").parse().unwrap();
        Self { talker, address }
    }

    /// What its health service says from now on.
    async fn set_serving(&mut self, status: &str) {
        let command = json!({ "serving": { "talk.Talk": status } });
        assert_eq!(self.talker.ask(command).await, true);
    }

    /// Calls that were cancelled so far.
    async fn cancelled(&mut self) -> u64 {
        let cancelled = self.talker.ask(json!({ "cancelled": null })).await;
        cancelled.as_u64().unwrap()
    }
}

fn client(python: &Python, address: SocketAddr) -> Talker {
    python.start("grpc/client.py", &[&address.to_string()])
}

/// What every call gets from the server besides messages has arrived as it was sent.
#[track_caller]
fn assert_metadata(answer: &Value) {
    assert_eq!(answer["first"]["x-first-bin"], "00ff01", "{answer}");
    assert_eq!(answer["last"]["x-last"], "the end", "{answer}");
    assert_eq!(answer["last"]["x-last-bin"], "fe00fd", "{answer}");
}

/// Calls of every kind, and every way to end.
async fn converse(client: &mut Talker, server: &mut Server, expected_host: &str) {
    // One message each way, with metadata in all three places, and a deadline that is passed on.
    let answer = client
        .ask(json!({
            "call": "Say", "send": ["hello, wörld"], "deadline": 20,
            "metadata": [["x-tenant", "acme"], ["x-token-bin", "00ff7f"]],
        }))
        .await;
    assert_eq!(answer["code"], "OK", "{answer}");
    assert_eq!(answer["messages"], json!(["hello, wörld"]));
    assert_metadata(&answer);
    let seen: Value = serde_json::from_str(answer["first"]["x-seen"].as_str().unwrap()).unwrap();
    assert_eq!(seen["x-tenant"], "acme", "{seen}");
    assert_eq!(seen["x-token-bin"], "00ff7f", "{seen}");
    assert_eq!(seen["deadline"], true, "{seen}");
    assert_eq!(seen["x-forwarded-host"], expected_host, "{seen}");
    let free = client.ask(json!({ "call": "Say", "send": [""] })).await;
    assert_eq!(free["messages"], json!([""]), "an empty message is one");
    let seen: Value = serde_json::from_str(free["first"]["x-seen"].as_str().unwrap()).unwrap();
    assert_eq!(
        seen["deadline"], false,
        "nobody sets one that was not asked for"
    );

    // Many messages, one way and the other, and both ways.
    let answer = client
        .ask(json!({ "call": "Count", "send": ["1000"], "deadline": 20 }))
        .await;
    let numbers: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
    assert_eq!(
        (&answer["code"], &answer["messages"]),
        (&"OK".into(), &json!(numbers))
    );
    assert_metadata(&answer);
    let answer = client
        .ask(json!({ "call": "Total", "send": numbers, "deadline": 20 }))
        .await;
    assert_eq!(answer["code"], "OK", "{answer}");
    let total: Value = serde_json::from_str(answer["messages"][0].as_str().unwrap()).unwrap();
    assert_eq!(total, json!({ "messages": 1000, "bytes": 2890 }));
    assert_metadata(&answer);
    let answer = client
        .ask(json!({ "call": "Chat", "send": ["a", "b", "c"], "deadline": 20 }))
        .await;
    assert_eq!(answer["code"], "OK", "{answer}");
    let heard = answer["messages"].as_array().unwrap();
    assert_eq!(heard.len(), 3);
    assert!(heard[2].as_str().unwrap().ends_with("heard c"), "{answer}");
    assert_metadata(&answer);

    // Large messages: one of 3 MiB is larger than any window.
    let large = "x".repeat(3 << 20);
    let answer = client
        .ask(json!({ "call": "Say", "send": [large], "deadline": 20 }))
        .await;
    assert_eq!(answer["code"], "OK", "{}", answer["details"]);
    assert_eq!(answer["messages"][0].as_str().unwrap().len(), large.len());

    // Failures, with and without messages before them: codes, details and trailers.
    for (code, details) in [
        ("NOT_FOUND", "no such thing: 100% of ‘ü’"),
        ("PERMISSION_DENIED", ""),
        ("RESOURCE_EXHAUSTED", "come back later"),
        ("UNAVAILABLE", "not today"),
        ("INTERNAL", "two\nlines"),
    ] {
        for call in ["Fail", "FailLate"] {
            let send = format!("{code} {details}");
            let answer = client
                .ask(json!({ "call": call, "send": [send], "deadline": 20 }))
                .await;
            assert_eq!(answer["code"], code, "{answer}");
            assert_eq!(answer["details"], details, "{answer}");
            assert_metadata(&answer);
            let before = if call == "Fail" {
                json!([])
            } else {
                json!(["one", "two"])
            };
            assert_eq!(answer["messages"], before, "{answer}");
        }
    }
    let answer = client
        .ask(json!({ "call": "Nothing", "deadline": 20 }))
        .await;
    assert_eq!(answer["code"], "UNIMPLEMENTED", "{answer}");
    assert_eq!(
        answer["details"], "Method not found!",
        "the server's own words"
    );

    // A deadline runs out: the client gives up, and the server is told.
    let before = server.cancelled().await;
    let answer = client.ask(json!({ "call": "Hang", "deadline": 0.2 })).await;
    assert_eq!(answer["code"], "DEADLINE_EXCEEDED", "{answer}");
    eventually("the server knows that nobody waits any more", async || {
        (server.cancelled().await > before).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_every_kind_pass_untouched_without_tls() {
    let python = python().await;
    let mut server = Server::start(&python, &["plain"]).await;
    let config = [
        LISTENER,
        &format!(
            "pools: {{ a: {{ endpoints: [ \"{}\" ], protocol: h2c, health: {{ grpc: talk.Talk }} }} }}\n",
            server.address
        ),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    let mut client = client(&python, address);
    converse(&mut client, &mut server, &address.to_string()).await;
    portolan
        .wait_for_metric("portolan_in_flight", &[], 0.0)
        .await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_every_kind_pass_untouched_over_tls() {
    let python = python().await;
    let authority = Authority::new();
    let (edge, inside) = (
        authority.sign(&["api.example.com"]),
        authority.sign(&["grpc.internal"]),
    );
    let config = |server: SocketAddr, protocol: &str| {
        format!(
            "
listeners:
  - bind: \"127.0.0.1:0\"
    tls: {{ certificates: [ {{ cert: edge.pem, key: edge.key }} ] }}
pools:
  a:
    endpoints: [ \"{server}\" ]
    protocol: {protocol}
    tls: {{ server_name: grpc.internal, ca: ca.pem }}
    health: {{ grpc: talk.Talk }}
routes: [ {{ host: api.example.com, to: a }} ]
"
        )
    };
    let files = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let certificate = write("inside.pem", &inside.certificate);
    let key = write("inside.key", &inside.key);
    let ca = write("ca.pem", &authority.pem());
    let mut server = Server::start(&python, &["secret", &certificate, &key]).await;
    for protocol in ["h2", "auto"] {
        let portolan = Portolan::with(&config(server.address, protocol))
            .file("edge.pem", &edge.certificate)
            .file("edge.key", &edge.key)
            .file("ca.pem", authority.pem())
            .start()
            .await;
        let address = portolan.address().await.to_string();
        let args = [address.as_str(), &ca, "api.example.com"];
        let mut client = python.start("grpc/client.py", &args);
        converse(&mut client, &mut server, "api.example.com").await;
        portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_streams_speak_when_they_have_something_to_say() {
    let python = python().await;
    let server = Server::start(&python, &["a"]).await;
    // A rate that no message reaches: what counts is the silence that it allows everybody else,
    // which is five seconds.
    let config = [
        "listeners: [ { bind: \"127.0.0.1:0\", limits: { min_body_rate: 100MiB } } ]\n",
        "pools:\n",
        &format!(
            "  a: {{ endpoints: [ \"{}\" ], protocol: h2c, health: off }}\n",
            server.address
        ),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    let mut client = client(&python, address);
    client.ask(json!({ "open": "chat", "call": "Chat" })).await;
    let say = async |client: &mut Talker, text: &str| {
        client.ask(json!({ "on": "chat", "send": text })).await
    };
    let first = say(&mut client, "one").await;
    // The same silence in a body that is no conversation, beside it.
    let mut upload = TcpStream::connect(address).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\none";
    upload.write_all(head).await.unwrap();
    let mut refused = String::new();
    soon("a refusal", upload.read_to_string(&mut refused))
        .await
        .unwrap();
    assert!(refused.starts_with("HTTP/1.1 408"), "{refused}");
    // By then the stream has been silent for longer.
    let second = say(&mut client, "two").await;
    assert_ne!(first, second);
    let closed = client.ask(json!({ "on": "chat", "close": true })).await;
    assert_eq!(closed["code"], "OK", "{first} {second} {closed}");
    assert_eq!(
        portolan
            .metric("portolan_refused_requests_total", &["body_too_slow"])
            .await,
        1.0
    );
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_outlive_configurations() {
    let python = python().await;
    let old = Server::start(&python, &["old"]).await;
    let new = Server::start(&python, &["new"]).await;
    let config = |pool: &str, rest: &str| {
        [
            LISTENER,
            "defaults: { health: { grpc: talk.Talk, every: 100ms, timeout: 5s } }\npools:\n",
            &format!(
                "  old: {{ endpoints: [ \"{}\" ], protocol: h2c{rest} }}\n",
                old.address
            ),
            &format!(
                "  new: {{ endpoints: [ \"{}\" ], protocol: h2c{rest} }}\n",
                new.address
            ),
            &format!("routes: [ {{ to: {pool} }} ]\n"),
        ]
        .concat()
    };
    let portolan = Portolan::start(&config("old", "")).await;
    let mut client = client(&python, portolan.address().await);
    client.ask(json!({ "open": "chat", "call": "Chat" })).await;
    client.ask(json!({ "open": "tick", "call": "Tick" })).await;
    let mut ticked = 0;
    for round in 0..20 {
        // A different pool for the next calls, and another detail of both pools, each time.
        let pool = if round % 2 == 0 { "new" } else { "old" };
        let rest = format!(", timeouts: {{ connect: {}ms }}", 900 + round);
        portolan.change(&config(pool, &rest)).await;
        // The streams go on where they were.
        let text = format!("round {round}");
        let heard = client.ask(json!({ "on": "chat", "send": text })).await;
        assert_eq!(heard, json!([format!("old heard {text}")]));
        let ticks = client.ask(json!({ "on": "tick", "receive": 3 })).await;
        let expected: Vec<String> = (ticked..ticked + 3).map(|n: u32| n.to_string()).collect();
        assert_eq!(ticks, json!(expected));
        ticked += 3;
        // And what is new goes where it should, on the same connection.
        let answer = client.ask(json!({ "call": "Say", "deadline": 20 })).await;
        assert_eq!(answer["first"]["x-server"], pool, "{answer}");
    }
    // Even when nothing of the old pool is left.
    let alone = config("new", "");
    let alone: Vec<&str> = alone
        .lines()
        .filter(|line| !line.contains(" old:"))
        .collect();
    portolan.change(&(alone.join("\n") + "\n")).await;
    let heard = client
        .ask(json!({ "on": "chat", "send": "still there?" }))
        .await;
    assert_eq!(heard, json!(["old heard still there?"]));
    let ended = client.ask(json!({ "on": "chat", "close": true })).await;
    assert_eq!(
        (&ended["code"], &ended["messages"]),
        (&"OK".into(), &json!([]))
    );
    assert_metadata(&ended);
    client.ask(json!({ "on": "tick", "cancel": true })).await;
    portolan
        .wait_for_metric("portolan_in_flight", &[], 0.0)
        .await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_service_takes_servers_out_and_in() {
    let python = python().await;
    let mut one = Server::start(&python, &["one"]).await;
    let mut two = Server::start(&python, &["two"]).await;
    let config = [
        LISTENER,
        "defaults: { health: { grpc: talk.Talk, every: 50ms, timeout: 5s } }\n",
        &format!(
            "pools: {{ a: {{ endpoints: [ \"{}\", \"{}\" ], protocol: h2c, balance: round_robin }} }}\n",
            one.address, two.address
        ),
        "routes: [ { to: a, when_all_down: { respond: { status: 503, retry_after: 5s } } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    portolan.wait_for_health("a", one.address, "healthy").await;
    portolan.wait_for_health("a", two.address, "healthy").await;
    let mut client = client(&python, portolan.address().await);
    let mut who = async || {
        let mut who = Vec::new();
        for _ in 0..8 {
            let answer = client.ask(json!({ "call": "Say", "deadline": 20 })).await;
            let name = answer["first"]["x-server"].as_str();
            who.push(name.map_or_else(|| answer["code"].to_string(), str::to_owned));
        }
        who.sort();
        who.dedup();
        who
    };
    assert_eq!(who().await, ["one", "two"]);
    // It says that it does not serve, and still would.
    one.set_serving("NOT_SERVING").await;
    portolan
        .wait_for_health("a", one.address, "unhealthy")
        .await;
    let endpoint = portolan.endpoint("a", one.address).await;
    assert_eq!(
        endpoint["because"],
        "3 probes in a row failed, the last: unexpected answer: NOT_SERVING"
    );
    assert_eq!(who().await, ["two"]);
    two.set_serving("NOT_SERVING").await;
    portolan.wait_for_pool("a", false).await;
    assert_eq!(who().await, ["\"UNAVAILABLE\""]);
    one.set_serving("SERVING").await;
    portolan.wait_for_health("a", one.address, "healthy").await;
    assert_eq!(who().await, ["one"]);
    two.set_serving("SERVING").await;
    portolan.wait_for_health("a", two.address, "healthy").await;
    assert_eq!(who().await, ["one", "two"]);
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_in_their_own_words_when_nobody_answers() {
    let python = python().await;
    let mut server = Server::start(&python, &["mortal"]).await;
    let config = [
        LISTENER,
        &format!(
            "pools: {{ a: {{ endpoints: [ \"{}\" ], protocol: h2c, health: off }} }}\n",
            server.address
        ),
        "routes: [ { path: /talk.Talk, to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    let mut client = client(&python, address);
    let say = json!({ "call": "Say", "send": ["hello"], "deadline": 20 });
    assert_eq!(client.ask(say.clone()).await["code"], "OK");
    client.ask(json!({ "open": "chat", "call": "Chat" })).await;
    let heard = client
        .ask(json!({ "on": "chat", "send": "you there?" }))
        .await;
    assert_eq!(heard, json!(["mortal heard you there?"]));

    soon("the server is gone", server.talker.kill()).await;
    // A stream that was under way breaks, and is not taken for one that has ended well.
    let broken = client.ask(json!({ "on": "chat", "receive": 1 })).await;
    assert_eq!(broken["code"], "UNAVAILABLE", "{broken}");
    assert_eq!(broken["details"], "The service's answer was broken.");
    for _ in 0..3 {
        let answer = client.ask(say.clone()).await;
        assert_eq!(answer["code"], "UNAVAILABLE", "{answer}");
        assert_eq!(answer["messages"], json!([]));
    }
    // Where no route leads, nothing is implemented.
    portolan
        .change(&config.replace("/talk.Talk", "/other"))
        .await;
    let answer = client.ask(say.clone()).await;
    assert_eq!(answer["code"], "UNIMPLEMENTED", "{answer}");
    // The client's connection to Portolan has seen all of this and still serves.
    let again = Server::start(&python, &["again"]).await;
    let moved = config.replace(&server.address.to_string(), &again.address.to_string());
    portolan.change(&moved).await;
    let answer = client.ask(say).await;
    assert_eq!(
        (&answer["code"], &answer["first"]["x-server"]),
        (&"OK".into(), &"again".into())
    );
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_its_grpc_status() {
    let python = python().await;
    let mut server = Server::start(&python, &["one"]).await;
    let mortal = Server::start(&python, &["mortal"]).await;
    let gone = nobody().await;
    let logs = tempfile::tempdir().unwrap();
    let log = logs.path().join("access.log");
    let config = [
        &format!("access_log: {{ to: \"{}\" }}\n", log.display()),
        "listeners: [ { bind: \"127.0.0.1:0\", limits: { body_bytes: 1KiB } } ]\n",
        "pools:\n",
        &format!("  one: {{ endpoints: [ \"{}\" ], protocol: h2c, health: off, timeouts: {{ first_byte: 300ms, idle: 300ms }} }}\n", server.address),
        &format!("  gone: {{ endpoints: [ \"{gone}\" ], protocol: h2c, health: off, outlier: off }}\n"),
        &format!("  away: {{ endpoints: [ \"{}\" ], protocol: h2c, health: off, drain: true }}\n", mortal.address),
        "routes:\n",
        "  - { headers: { x-to: nobody }, to: away }\n",
        "  - { headers: { x-to: later }, to: away, when_all_down: { respond: { status: 503, retry_after: 7s } } }\n",
        "  - { headers: { x-to: busy }, to: away, when_all_down: { respond: { status: 429, retry_after: 1s } } }\n",
        "  - { headers: { x-to: gone }, to: gone }\n",
        "  - { headers: { x-to: one }, to: one }\n",
    ]
    .concat();
    let mut portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    let mut client = client(&python, address);
    let large = "x".repeat(4 << 10);
    let cannot = "The service cannot take the request now.";
    let cases = [
        (
            "nobody",
            "hello",
            "UNAVAILABLE",
            cannot,
            Some("5000"),
            "nobody_can_serve",
            503,
        ),
        (
            "later",
            "hello",
            "UNAVAILABLE",
            cannot,
            Some("7000"),
            "all_down",
            503,
        ),
        (
            "busy",
            "hello",
            "RESOURCE_EXHAUSTED",
            cannot,
            Some("1000"),
            "all_down",
            429,
        ),
        (
            "gone",
            "hello",
            "UNAVAILABLE",
            "The service could not be reached.",
            None,
            "unreachable",
            502,
        ),
        (
            "nowhere",
            "hello",
            "UNIMPLEMENTED",
            "Nothing is served under this address.",
            None,
            "no_route",
            404,
        ),
        (
            "one",
            large.as_str(),
            "RESOURCE_EXHAUSTED",
            "The request's body is too large.",
            None,
            "body_too_large",
            413,
        ),
    ];
    let mut expected = Vec::new();
    for (to, text, code, details, pushback, reason, status) in cases {
        // One message, many from the server, many from the client, and both.
        for call in ["Say", "Count", "Total", "Chat"] {
            let answer = client
                .ask(json!({
                    "call": call, "send": [text], "deadline": 20, "metadata": [["x-to", to]],
                }))
                .await;
            let context = format!("{to} {call}: {answer}");
            assert_eq!(answer["code"], code, "{context}");
            assert_eq!(answer["details"], details, "{context}");
            assert_eq!(answer["messages"], json!([]), "{context}");
            let wait = &answer["last"]["grpc-retry-pushback-ms"];
            assert_eq!(wait.as_str(), pushback, "{context}");
            let id = answer["last"]["x-request-id"].as_str();
            assert!(id.is_some_and(|id| id.len() == 32), "{context}");
            expected.push((reason.to_owned(), status));
        }
    }
    // An endpoint that says nothing: not the caller's own deadline, which is far away.
    let answer = client
        .ask(json!({ "call": "Hang", "deadline": 60, "metadata": [["x-to", "one"]] }))
        .await;
    assert_eq!(answer["code"], "DEADLINE_EXCEEDED", "{answer}");
    assert_eq!(answer["details"], "The service took too long to answer.");
    expected.push(("too_slow".to_owned(), 504));
    eventually("the endpoint is told", async || {
        (server.cancelled().await == 1).then_some(())
    })
    .await;

    // Others get HTTP's own words: gRPC over HTTP/1.1 is none, and gRPC-Web has its own.
    let answer = Ask::new(Method::POST, "/talk.Talk/Say")
        .header("content-type", "application/grpc")
        .to(address)
        .await
        .unwrap();
    assert_eq!((answer.status, answer.header("grpc-status")), (404, ""));
    expected.push(("no_route".to_owned(), 404));
    let mut two = Connection2::open(address).await.unwrap();
    for (kind, status, grpc) in [
        ("application/grpc-web+proto", 404, ""),
        ("application/grpc+json", 200, "12"),
        ("application/grpc", 200, "12"),
    ] {
        let request = Request::post("http://x.example/talk.Talk/Say").header("content-type", kind);
        let answer = two
            .send(request.body(Full::default()).unwrap())
            .await
            .unwrap();
        assert_eq!(
            (answer.status, answer.header("grpc-status")),
            (status, grpc),
            "{kind}"
        );
        if status == 200 {
            assert_eq!(answer.header("content-type"), "application/grpc");
            assert_eq!(answer.body.len(), 0);
        }
        expected.push(("no_route".to_owned(), 404));
    }

    // Metrics and log say what Portolan means, not the 200 around it.
    portolan
        .wait_for_metric("portolan_requests_total", &["2xx"], 0.0)
        .await;
    let refused = portolan
        .metric("portolan_refused_requests_total", &[])
        .await;
    assert_eq!(refused, expected.len() as f64);
    portolan.signal(Signal::SIGTERM);
    assert!(portolan.ended().await.success());
    let mut logged: Vec<(String, u64)> = std::fs::read_to_string(&log)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| {
            let reason = line["refused"].as_str().unwrap().to_owned();
            (reason, line["status"].as_u64().unwrap())
        })
        .collect();
    logged.sort();
    expected.sort();
    assert_eq!(logged, expected);
}
