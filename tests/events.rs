//! What happened, told to whoever asks: as a list, as a stream, and by the command.

use std::collections::BTreeSet;
use std::process::Stdio;

use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;

use crate::harness::client::Connection;
use crate::harness::config::{LISTENER, PROBES, pools};
use crate::harness::portolan::{command, stderr, stdout};
use crate::harness::{Ask, Origin, Portolan, eventually, get, soon};

fn config(a: &Origin, b: &Origin) -> String {
    [
        LISTENER,
        PROBES,
        &pools(&[("a", &[a], ""), ("b", &[b], "")]),
        "services: { api: { split: { a: 50, b: 50 } } }\n",
        "routes: [ { to: api } ]\n",
    ]
    .concat()
}

async fn put(portolan: &Portolan, path: &str, body: Value) {
    let answer = Ask::new(Method::PUT, &format!("/api/v1{path}"))
        .body(body.to_string())
        .to(portolan.admin())
        .await
        .unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Somebody who follows.
struct Stream {
    body: Incoming,
    read: String,
    _connection: Connection,
}

impl Stream {
    async fn open(portolan: &Portolan, last: Option<u64>) -> Self {
        let connection = Connection::open(portolan.admin()).await.unwrap();
        Self::over(connection, last).await
    }

    async fn over(mut connection: Connection, last: Option<u64>) -> Self {
        let mut ask = Ask::get("/api/v1/events?follow=true");
        if let Some(last) = last {
            ask = ask.header("last-event-id", &last.to_string());
        }
        let response = connection.begin(ask).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            body: response.into_body(),
            read: String::new(),
            _connection: connection,
        }
    }

    /// The next event: its name and its data. Nothing at the end of the stream.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.read.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.read = rest;
                if event.starts_with(':') {
                    continue;
                }
                let field = |name: &str| {
                    let mut lines = event.lines();
                    lines
                        .find_map(|line| line.strip_prefix(name))
                        .map(str::to_owned)
                };
                let data: Value = serde_json::from_str(&field("data: ").unwrap()).unwrap();
                if let Some(id) = field("id: ") {
                    assert_eq!(id, data["id"].to_string());
                }
                return Some((field("event: ").unwrap(), data));
            }
            let frame = soon("a piece of the stream", self.body.frame()).await?;
            let bytes = frame.ok()?.into_data().unwrap();
            self.read += std::str::from_utf8(&bytes).unwrap();
        }
    }

    /// Reads until an event of this kind.
    async fn until(&mut self, kind: &str) -> Value {
        loop {
            let (event, data) = self.next().await.unwrap();
            if event == kind {
                assert_eq!(data["kind"], kind);
                return data;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_an_event_in_the_order_in_which_it_happened() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let text = config(&a, &b);
    let portolan = Portolan::start(&text).await;
    let mut stream = Stream::open(&portolan, None).await;
    stream.until("endpoint_up").await;
    stream.until("pool_up").await;
    let opened = stream.until("listener_opened").await;
    let address = portolan.address().await;
    assert_eq!(opened["subject"], format!("listener {address}"));
    stream.until("ready").await;

    a.set_health(500);
    let down = stream.until("endpoint_down").await;
    assert_eq!(down["subject"], format!("endpoint a/{}", a.address));
    assert!(
        down["reason"]
            .as_str()
            .unwrap()
            .contains("2 probes in a row failed"),
        "{down}"
    );
    let down = stream.until("pool_down").await;
    assert_eq!(down["message"], "pool a is down: 0 of 1 endpoints healthy");
    a.set_health(200);
    stream.until("pool_up").await;

    let lease = json!({ "for": "300ms", "reason": "a test" });
    put(&portolan, "/pools/a/drain", lease).await;
    let drained = stream.until("drain").await;
    assert_eq!(
        (&drained["subject"], &drained["reason"]),
        (&json!("pool a"), &json!("a test"))
    );
    stream.until("lease_ended").await;
    let weights = json!({ "weights": { "a": 1, "b": 2 }, "reason": "another" });
    put(&portolan, "/services/api/weights", weights).await;
    let weighed = stream.until("weights").await;
    assert_eq!(weighed["subject"], "service api");

    let two = "listeners: [ { bind: '127.0.0.1:0' }, { bind: '[::1]:0' } ]\n";
    portolan.change(&text.replace(LISTENER, two)).await;
    let opened = stream.until("listener_opened").await;
    assert!(
        opened["subject"]
            .as_str()
            .unwrap()
            .starts_with("listener [::1]:"),
        "{opened}"
    );
    let applied = stream.until("reload_applied").await;
    assert_eq!(applied["reason"], "a file changed");
    portolan.change(&text).await;
    stream.until("listener_closed").await;
    portolan.change_refused("listeners: 5\n").await;
    let refused = stream.until("reload_refused").await;
    assert!(
        refused["reason"]
            .as_str()
            .unwrap()
            .contains("portolan.yaml:"),
        "{refused}"
    );

    // Requests that fail, by an endpoint whose probes pass.
    b.set_status(503);
    let ejected = async {
        loop {
            let _ = get(address, "/").await;
            let events = portolan.api("/events").await;
            let kinds: BTreeSet<&str> = events
                .as_array()
                .unwrap()
                .iter()
                .map(|it| it["kind"].as_str().unwrap())
                .collect();
            if kinds.contains("endpoint_ejected") {
                return;
            }
        }
    };
    soon("b is ejected", ejected).await;
    let ejected = stream.until("endpoint_ejected").await;
    assert_eq!(ejected["subject"], format!("endpoint b/{}", b.address));
    assert!(
        ejected["reason"]
            .as_str()
            .unwrap()
            .contains("502, 503 or 504"),
        "{ejected}"
    );
    b.set_status(200);
    stream.until("endpoint_on_trial").await;
    stream.until("endpoint_freed").await;

    // The list says the same as the stream.
    let list = portolan.api("/events").await;
    let ids: Vec<u64> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["id"].as_u64().unwrap())
        .collect();
    assert!(ids.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{ids:?}");
    let mut again = Stream::open(&portolan, None).await;
    for event in list.as_array().unwrap() {
        assert_eq!(again.next().await.unwrap().1, *event);
    }
    // Whoever was away goes on from where they were.
    let mut resumed = Stream::open(&portolan, Some(ids[3])).await;
    assert_eq!(resumed.next().await.unwrap().1, list[4]);
    // And whoever comes from another life is told.
    let mut stranger = Stream::open(&portolan, Some(5)).await;
    let missed = ("missed".to_owned(), json!({ "missed": null }));
    assert_eq!(stranger.next().await.unwrap(), missed);
    assert_eq!(stranger.next().await.unwrap().1, list[0]);
    portolan.stop().await;
}

/// A connection on which little waits to be read.
async fn narrow(portolan: &Portolan) -> Connection {
    let admin = portolan.admin();
    let socket = Socket::new(Domain::for_address(admin), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.connect(&admin.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let stream = TcpStream::from_std(socket.into()).unwrap();
    Connection::over(stream, &admin.to_string()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_holds_up_nobody_and_hears_what_they_missed() {
    const CHANGES: u64 = 6_000;
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let portolan = Portolan::start(&config(&a, &b)).await;
    let mut slow = Stream::over(narrow(&portolan).await, None).await;
    let mut quick = Stream::open(&portolan, None).await;
    // More than is kept, and than all buffers on the way take: nobody reads, and everything goes on.
    let reason = "x".repeat(490);
    let mut admin = Connection::open(portolan.admin()).await.unwrap();
    for number in 0..CHANGES {
        let body = json!({ "reason": format!("{number} {reason}") });
        let ask = Ask::new(Method::PUT, "/api/v1/pools/a/drain").body(body.to_string());
        let answer = soon("an answer", admin.ask(ask)).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let told = quick.until("drain").await;
        let expected = format!("{number} ");
        assert!(
            told["reason"].as_str().unwrap().starts_with(&expected),
            "{told}"
        );
    }
    let list = portolan.api("/events").await;
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 1_000, "as many as are kept");
    // What it sees and what it is told that it missed is everything, in order.
    let last = list.last().unwrap()["id"].as_u64().unwrap();
    let (mut seen, mut missed) = (None, 0);
    while seen < Some(last) {
        let (event, data) = slow.next().await.unwrap();
        if event == "missed" {
            let count = data["missed"].as_u64().unwrap();
            missed += count;
            seen = seen.map(|id| id + count);
        } else {
            let id = data["id"].as_u64().unwrap();
            assert!(seen.is_none_or(|before| id == before + 1), "{seen:?} {id}");
            seen = Some(id);
        }
    }
    assert!(missed > 0 && missed < CHANGES, "{missed}");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_lists_and_follows_through_an_upgrade() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let mut portolan = Portolan::start(&config(&a, &b)).await;
    let admin = format!("http://{}", portolan.admin());
    let listed = command(&["events", "--admin", &admin]).await;
    let said = stdout(&listed);
    assert!(
        said.lines()
            .any(|line| line.contains("  pool_up ") && line.contains("pool a is up")),
        "{said}"
    );
    let listed = command(&["events", "--admin", &admin, "--json"]).await;
    let list: Value = serde_json::from_str(&stdout(&listed)).unwrap();
    assert!(
        list.as_array()
            .unwrap()
            .iter()
            .any(|it| it["kind"] == "ready")
    );

    let mut following = tokio::process::Command::new(env!("CARGO_BIN_EXE_portolan"))
        .args(["events", "--follow", "--format", "json", "--admin", &admin])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut until = async |kind: &str| loop {
        let line = soon("a line", lines.next_line()).await.unwrap();
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        if event["kind"] == kind {
            return event;
        }
    };
    until("ready").await;
    put(&portolan, "/pools/a/drain", json!({ "reason": "before" })).await;
    assert_eq!(until("drain").await["reason"], "before");
    let pid = portolan.upgrade().await;
    // The stream of the old process ends, and the command goes on with the new one's.
    until("taken_over").await;
    eventually("the new one answers", async || {
        let status = get(portolan.admin(), "/api/v1/status").await.ok()?.json();
        (status["pid"] == pid).then_some(())
    })
    .await;
    put(&portolan, "/pools/b/drain", json!({ "reason": "after" })).await;
    assert_eq!(until("drain").await["reason"], "after");
    portolan.stop().await;
    // Nobody tells any more.
    let output = soon("it ends", following.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let nobody = command(&["events", "-f", "--admin", &admin]).await;
    assert_eq!(nobody.status.code(), Some(1));
    assert!(
        stderr(&nobody).contains("no instance answers"),
        "{}",
        stderr(&nobody)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_may_look_and_what_is_asked_wrong_is_refused() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let tokens = "admin: { bind: \"127.0.0.1:0\", tokens: [ { name: screen, role: viewer, token: viewer-viewer-viewer } ] }\n";
    let mut portolan = Portolan::with(&[tokens, &config(&a, &b)].concat())
        .start()
        .await;
    for (path, header, token, status) in [
        ("/events", ("x-any", "x"), true, 200),
        ("/events", ("x-any", "x"), false, 401),
        ("/events?follow=true", ("x-any", "x"), false, 401),
        ("/events?follow=maybe", ("x-any", "x"), true, 400),
        ("/events?after=5", ("x-any", "x"), true, 400),
        ("/events?follow=true", ("last-event-id", "x"), true, 400),
        ("/openapi.json", ("x-any", "x"), true, 200),
    ] {
        let mut ask = Ask::get(&format!("/api/v1{path}")).header(header.0, header.1);
        if token {
            ask = ask.header("authorization", "Bearer viewer-viewer-viewer");
        }
        let answer = ask.to(portolan.admin()).await.unwrap();
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
    }
    portolan.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(portolan.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_what_the_api_says_of_itself() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let portolan = Portolan::start(&config(&a, &b)).await;
    put(&portolan, "/pools/a/drain", json!({ "reason": "x" })).await;
    let weights = json!({ "weights": { "a": 1, "b": 2 }, "reason": "x" });
    put(&portolan, "/services/api/weights", weights).await;
    let document = portolan.api("/openapi.json").await;
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    let mut asked = 0;
    for (path, methods) in paths {
        let content = &methods["get"]["responses"]["200"]["content"];
        let Some(schema) = content.get("application/json").map(|it| &it["schema"]) else {
            continue;
        };
        // The schema with everything that it refers to.
        let mut whole = schema.clone();
        whole["components"] = document["components"].clone();
        let validator = jsonschema::draft202012::new(&whole).unwrap();
        let real = path.replace("{pool}", "a");
        let answer = get(portolan.admin(), &real).await.unwrap();
        assert_eq!(answer.status, 200, "{real}");
        let answer = answer.json();
        let wrong: Vec<String> = validator
            .iter_errors(&answer)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(wrong.is_empty(), "{path}: {wrong:#?}");
        // It is not one that takes anything.
        if path != "/api/v1/openapi.json" {
            assert!(!validator.is_valid(&json!({ "nonsense": 1 })), "{path}");
        }
        asked += 1;
    }
    assert!(asked >= 8, "{asked}");
    // A problem is what it says, too.
    let mut problem = document["components"]["schemas"]["Problem"].clone();
    problem["components"] = document["components"].clone();
    let validator = jsonschema::draft202012::new(&problem).unwrap();
    let answer = get(portolan.admin(), "/api/v1/pools/nowhere")
        .await
        .unwrap();
    assert_eq!(answer.status, 404);
    assert!(validator.is_valid(&answer.json()));
    portolan.stop().await;
}
