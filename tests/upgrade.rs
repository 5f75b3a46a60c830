//! `portolan upgrade`: a new process takes over, and nobody notices; or it does not, and nobody
//! notices either.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{SinkExt as _, StreamExt as _};
use http::Method;
use http_body_util::BodyExt as _;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::client::{Connection, Connection2};
use crate::harness::config::{PROBES, pool, pools};
use crate::harness::portolan::{stderr, stdout};
use crate::harness::{Ask, Load, Origin, Portolan, eventually, fetch, get, soon, websocket};

const LISTENER: &str = "listeners: [ { bind: '127.0.0.1:0' } ]\n";

fn config(listeners: &str, origin: &Origin) -> String {
    let pools = pools(&[("a", &[origin], "")]);
    format!("{listeners}{PROBES}{pools}routes: [ {{ to: a }} ]\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn five_upgrades_under_load_lose_nothing() {
    let origin = Origin::start("a").await;
    let listeners = "listeners: [ { bind: '127.0.0.1:0' }, { bind: '127.0.0.1:0' } ]\n";
    let mut portolan = Portolan::start(&config(listeners, &origin)).await;
    let addresses = portolan.addresses().await;
    let kept = Load::plain(addresses[0], 4);
    let new = Load::start(addresses[0], 2, || {
        Ask::get("/").header("connection", "close")
    });
    let other = Load::plain(addresses[1], 2);
    let stop = Arc::new(AtomicBool::new(false));
    let h2: Vec<_> = (0..2)
        .map(|_| tokio::spawn(over_http2(addresses[0], stop.clone())))
        .collect();
    let operators = Load::start(portolan.admin(), 1, || Ask::get("/readyz"));
    kept.more(100).await;
    for number in 1..=5 {
        let pid = portolan.upgrade().await;
        eventually("the new one answers operators", async || {
            (portolan.api("/status").await["pid"] == pid).then_some(())
        })
        .await;
        assert_eq!(portolan.addresses().await, addresses);
        portolan
            .wait_for_metric("portolan_upgrades_total", &["done"], f64::from(number))
            .await;
        kept.more(100).await;
        new.more(50).await;
        other.more(50).await;
        operators.more(10).await;
    }
    let (kept, new, other) = (kept.stop().await, new.stop().await, other.stop().await);
    kept.assert_flawless();
    new.assert_flawless();
    other.assert_flawless();
    operators.stop().await.assert_flawless();
    assert!(kept.connections >= 4 * 6, "{}", kept.connections);
    stop.store(true, Ordering::Relaxed);
    for client in h2 {
        let (answers, connections) = soon("the client ends", client).await.unwrap();
        assert!(answers > 50 && connections >= 6, "{answers} {connections}");
    }
    // The first one had nothing left to do.
    assert_eq!(portolan.ended().await.code(), Some(0));
    // And the last one is a process like any other.
    let b = Origin::start("b").await;
    portolan.change(&config(listeners, &b)).await;
    assert_eq!(fetch(addresses[0], "/").await.origin(), "b");
    portolan.stop().await;
}

/// Asks again and again over HTTP/2, and connects again when told to go away. How many answers there
/// were, over how many connections.
async fn over_http2(address: SocketAddr, stop: Arc<AtomicBool>) -> (u64, u64) {
    let url = format!("http://{address}/");
    let (mut answers, mut connections) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let mut connection = Connection2::open(address).await.unwrap();
        connections += 1;
        while let Some(answer) = connection.get_unless_gone(&url).await.unwrap() {
            assert_eq!(answer.status, 200);
            answers += 1;
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    (answers, connections)
}

#[tokio::test(flavor = "multi_thread")]
async fn long_conversations_go_on_where_they_began() {
    let origin = Origin::start("a").await;
    let chat = websocket::endpoint().await;
    let config = [
        LISTENER,
        "shutdown_timeout: 1s\n",
        PROBES,
        &pools(&[("a", &[&origin], "")]),
        &pool("chat", &[chat], ", health: off"),
        "routes: [ { path: /chat, to: chat }, { to: a } ]\n",
    ]
    .concat();
    let mut portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    let url = format!("ws://{address}/chat");
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut socket, _) = soon(
        "the handshake",
        tokio_tungstenite::client_async(url, stream),
    )
    .await
    .unwrap();
    let mut connection = Connection::open(address).await.unwrap();
    let mut download = connection
        .begin(Ask::get("/events?count=30&ms=100"))
        .await
        .into_body();

    let mut echo = async |word: &str| {
        socket.send(Message::text(word)).await.unwrap();
        let echo = soon("an echo", socket.next()).await.unwrap().unwrap();
        assert_eq!(echo, Message::text(word));
    };
    echo("before").await;
    let second = portolan.upgrade().await;
    echo("after the first upgrade").await;
    let third = portolan.upgrade().await;
    echo("after the second").await;

    let mut received = String::new();
    while let Some(frame) = soon("an event", download.frame()).await {
        received += std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap();
    }
    assert!(received.ends_with("data: 29\n\n"), "{received}");
    // The second process had no clients: its end does not end the first.
    portolan
        .wait_for_log(&format!("taken over from process {second}"))
        .await;
    eventually("the second one has ended", async || {
        is_gone(second).then_some(())
    })
    .await;
    echo("after its end").await;
    assert!(portolan.is_running(), "the first one still has the chat");
    // When the one that serves stops, those before it stop, too.
    portolan.signal(Signal::SIGTERM);
    assert_eq!(portolan.ended().await.code(), Some(0));
    let log = portolan.log();
    assert!(log.contains("1 requests did not finish in time"), "{log}");
    assert_eq!(third, portolan.main_pid());
    let code = eventually("the third one ends", async || {
        portolan.successor_ended(third)
    });
    assert_eq!(code.await, 0);
}

/// Whether a process has ended, waited for or not.
fn is_gone(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat
            .rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('Z')),
        Err(_) => true,
    }
}

fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_fails_leaves_everything_as_it_is() {
    let origin = Origin::start("a").await;
    let good = config(LISTENER, &origin);
    let mut portolan = Portolan::start(&good).await;
    let (address, pid) = (portolan.address().await, portolan.pid());
    let load = Load::plain(address, 2);
    let folder = portolan.folder().to_owned();
    let ends = script(&folder, "ends", "exit 3");
    let hangs = script(&folder, "hangs", "exec sleep 600");
    let closes = script(&folder, "closes", "exec sleep 600 </dev/null");
    let missing = folder.join("missing");
    let plain = folder.join("portolan.yaml");
    let mut failed = 0.0;
    for (binary, timeout, why) in [
        (&ends, "60s", "ended before it was ready: exit status: 3"),
        (&hangs, "1s", "was not ready within 1 s"),
        (&closes, "60s", "closed its standard input"),
        (&missing, "60s", "No such file"),
        (&plain, "60s", "Permission denied"),
    ] {
        let name = binary.to_str().unwrap();
        let output = portolan
            .ask_for_upgrade(&["--binary", name, "--timeout", timeout])
            .await;
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(why) && said.contains(name), "{why}: {said}");
        assert!(said.contains(&format!("process {pid} goes on")), "{said}");
        failed += 1.0;
        let counted = portolan.metric("portolan_upgrades_total", &["failed"]);
        assert_eq!(counted.await, failed);
        portolan.wait_for_log(why).await;
    }

    // The new process reads the file, and the file is broken meanwhile.
    portolan
        .change_refused(&good.replace("to: a", "to: nowhere"))
        .await;
    let output = portolan.ask_for_upgrade(&["--json"]).await;
    assert_eq!(output.status.code(), Some(1));
    let answer: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(answer["outcome"], "failed");
    let error = answer["error"].as_str().unwrap();
    assert!(
        error.contains("portolan.yaml:") && error.contains("nowhere"),
        "{error}"
    );

    // An address of the new file that somebody else has.
    let held = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = held.local_addr().unwrap().to_string();
    let both = format!("listeners: [ {{ bind: '127.0.0.1:0' }}, {{ bind: '{taken}' }} ]\n");
    portolan.change_refused(&config(&both, &origin)).await;
    let output = portolan.ask_for_upgrade(&[]).await;
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&taken) && said.contains("in use"), "{said}");

    // It was never anybody else who served.
    let status = portolan.api("/status").await;
    assert_eq!(
        (&status["pid"], &status["state"]),
        (&pid.into(), &"ready".into())
    );
    load.more(50).await;
    let tally = load.stop().await;
    tally.assert_flawless();
    assert_eq!(tally.connections, 2, "nobody noticed anything");

    // And when everything is right again, it works.
    portolan.write(&good);
    portolan.upgrade().await;
    assert_eq!(fetch(address, "/").await.origin(), "a");
    assert_eq!(portolan.ended().await.code(), Some(0));
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_at_the_path_now_is_what_is_started() {
    let origin = Origin::start("a").await;
    let folder = tempfile::tempdir().unwrap();
    let installed = folder.path().join("portolan");
    let new = folder.path().join("new");
    let original = Path::new(env!("CARGO_BIN_EXE_portolan"));
    std::fs::copy(original, &installed).unwrap();
    let mut portolan = Portolan::with(&config(LISTENER, &origin))
        .binary(&installed)
        .start()
        .await;
    // As a package manager does it: the running one's file is gone.
    std::fs::copy(original, &new).unwrap();
    std::fs::rename(&new, &installed).unwrap();
    let exe = |pid: u32| std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    assert!(exe(portolan.pid()).to_string_lossy().contains("deleted"));
    let pid = portolan.upgrade().await;
    assert_eq!(exe(pid), installed.canonicalize().unwrap());
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_of_the_old_process_is_gone_when_the_new_one_has_none() {
    let (origin, other) = (Origin::start("a").await, Origin::start("b").await);
    let two = "listeners: [ { bind: '127.0.0.1:0' }, { bind: '[::1]:0' } ]\n";
    let mut portolan = Portolan::start(&config(two, &origin)).await;
    let addresses = portolan.addresses().await;
    // A change on the way: whichever process reads it, it is in effect afterwards.
    portolan.write(&config(LISTENER, &other));
    portolan.upgrade().await;
    eventually("the second listener is gone", async || {
        let closed = TcpStream::connect(addresses[1]).await.is_err();
        closed.then_some(())
    })
    .await;
    assert_eq!(portolan.addresses().await, addresses[..1]);
    assert_eq!(fetch(addresses[0], "/").await.origin(), "b");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_during_an_upgrade_stops_both() {
    let origin = Origin::start("a").await;
    let mut portolan = Portolan::start(&config(LISTENER, &origin)).await;
    let told = portolan.folder().join("pid");
    let text = format!("echo $$ > {}; exec sleep 600", told.display());
    let hangs = script(portolan.folder(), "hangs", &text);
    let admin = format!("http://{}", portolan.admin());
    let name = hangs.to_str().unwrap().to_owned();
    let asking = tokio::spawn(async move {
        let args = ["upgrade", "--admin", &admin, "--binary", &name];
        crate::harness::portolan::command(&args).await
    });
    let candidate: u32 = eventually("it has begun", async || {
        std::fs::read_to_string(&told).ok()?.trim().parse().ok()
    })
    .await;
    let second = portolan.ask_for_upgrade(&[]).await;
    assert!(stderr(&second).contains("an upgrade is under way"));
    portolan.signal(Signal::SIGTERM);
    assert_eq!(portolan.ended().await.code(), Some(0));
    assert_eq!(asking.await.unwrap().status.code(), Some(1));
    eventually("the new one is gone", async || {
        is_gone(candidate).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_socket_cannot_be_upgraded() {
    let origin = Origin::start("a").await;
    // A file stands where the folder should be.
    let text = format!("state_dir: ./state\n{}", config(LISTENER, &origin));
    let portolan = Portolan::with(&text).file("state", "").start().await;
    portolan.wait_for_log("cannot be upgraded").await;
    let output = portolan.ask_for_upgrade(&[]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("state_dir"), "{said}");
    let answer = get(portolan.admin(), "/readyz").await.unwrap();
    assert_eq!(answer.status, 200);
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn state_that_would_be_left_behind_is_a_reason_to_refuse() {
    let origin = Origin::start("a").await;
    let text = config(LISTENER, &origin);
    let portolan = Portolan::start(&text).await;
    let drain = Ask::new(Method::PUT, "/api/v1/pools/a/drain")
        .body(json!({ "for": "1h", "reason": "x" }).to_string());
    assert_eq!(drain.to(portolan.admin()).await.unwrap().status, 200);
    let elsewhere = format!("state_dir: ./elsewhere\n{text}");
    let refused = portolan.change_refused(&elsewhere).await;
    assert!(
        refused.contains("`state_dir` cannot be changed"),
        "{refused}"
    );
    let output = portolan.ask_for_upgrade(&[]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("move the folder"), "{said}");
    // Nothing of it is used, and nothing is lost.
    assert!(!portolan.folder().join("elsewhere").exists());
    assert_eq!(portolan.api("/overrides").await[0]["pool"], "a");
    portolan.change(&format!("lame_duck: 1ms\n{text}")).await;
    assert_eq!(portolan.api("/overrides").await[0]["pool"], "a");
    portolan.stop().await;
}

/// Starts what is in a folder with another name, as a binary that takes its time does: it waits for a
/// file, then is Portolan.
fn slow_binary(folder: &Path) -> (PathBuf, PathBuf, PathBuf) {
    let (begun, go) = (folder.join("begun"), folder.join("go"));
    let text = format!(
        "echo $$ > {}; while [ ! -e {} ]; do sleep 0.05; done; exec {} \"$@\"",
        begun.display(),
        go.display(),
        env!("CARGO_BIN_EXE_portolan"),
    );
    (script(folder, "slow", &text), begun, go)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_new_process_knows_what_the_old_one_knew_of_endpoints() {
    let (good, bad) = (Origin::start("good").await, Origin::start("bad").await);
    let config = [
        LISTENER,
        // A process that has to find out itself would not be ready before this test gives up.
        "defaults: { health: { http: /health, every: 100ms, timeout: 60s, down_after: 2, up_after: 2 } }\n",
        &pools(&[("a", &[&good, &bad], ""), ("b", &[&good], "")]),
        "routes: [ { path: /b, to: b }, { to: a } ]\n",
    ]
    .concat();
    let mut portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    bad.set_health(500);
    portolan
        .wait_for_health("a", bad.address, "unhealthy")
        .await;
    let why = portolan.endpoint("a", bad.address).await["because"].clone();
    let load = Load::plain(address, 2);
    load.more(50).await;
    // From now on no probe is answered: what is known, is known from the old process.
    good.hold_probes(true);
    bad.hold_probes(true);
    let before = bad.hits();
    let pid = portolan.upgrade().await;
    eventually("the new one answers operators", async || {
        (portolan.api("/status").await["pid"] == pid).then_some(())
    })
    .await;
    load.more(100).await;
    let entry = portolan.endpoint("a", bad.address).await;
    assert_eq!(
        (&entry["health"], &entry["because"]),
        (&"unhealthy".into(), &why)
    );
    assert!(entry["probe_ms"].is_number(), "{entry}");
    let entry = portolan.endpoint("a", good.address).await;
    assert_eq!(entry["health"], "healthy");
    assert_eq!(portolan.api("/pools/b").await["up"], true);
    let tally = load.stop().await;
    tally.assert_flawless();
    assert_eq!(bad.hits(), before, "it was kept out all the time");
    // And it judges by itself from there.
    good.hold_probes(false);
    bad.hold_probes(false);
    bad.set_health(200);
    portolan.wait_for_health("a", bad.address, "healthy").await;
    let uptime = portolan.api("/status").await["uptime_seconds"].as_u64();
    assert!(uptime.is_some());
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_overridden_during_an_upgrade_is_not_lost() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let config = [
        LISTENER,
        PROBES,
        &pools(&[("a", &[&a], ""), ("b", &[&b], "")]),
        "services: { api: { split: { a: 50, b: 50 } } }\nroutes: [ { to: api } ]\n",
    ]
    .concat();
    let mut portolan = Portolan::start(&config).await;
    let change = async |portolan: &Portolan, method: Method, path: &str, body: Value| {
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        let ask = Ask::new(method, &format!("/api/v1{path}")).body(body);
        let answer = ask.to(portolan.admin()).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    };
    let reason = json!({ "reason": "x" });
    change(&portolan, Method::PUT, "/pools/a/drain", reason.clone()).await;
    let (slow, begun, go) = slow_binary(portolan.folder());
    let (admin, name) = (
        format!("http://{}", portolan.admin()),
        slow.display().to_string(),
    );
    let asking = tokio::spawn(async move {
        let args = ["upgrade", "--admin", &admin, "--binary", &name, "--json"];
        crate::harness::portolan::command(&args).await
    });
    eventually("it has begun", async || begun.exists().then_some(())).await;
    // The old process still answers operators, and does what they say.
    change(&portolan, Method::DELETE, "/pools/a/drain", Value::Null).await;
    let weights = json!({ "weights": { "a": 1, "b": 0 }, "reason": "x" });
    change(&portolan, Method::PUT, "/services/api/weights", weights).await;
    let short = json!({ "reason": "short", "for": "200ms" });
    change(&portolan, Method::PUT, "/pools/b/drain", short).await;
    std::fs::write(&go, "").unwrap();
    let pid = portolan.upgraded(&asking.await.unwrap());
    eventually("the new one answers operators", async || {
        (portolan.api("/status").await["pid"] == pid).then_some(())
    })
    .await;
    eventually("the short drain is over", async || {
        (portolan.api("/overrides").await.as_array()?.len() == 1).then_some(())
    })
    .await;
    let overrides = portolan.api("/overrides").await;
    assert_eq!(
        (&overrides[0]["service"], &overrides[0]["idle"]),
        (&"api".into(), &false.into())
    );
    let address = portolan.address().await;
    for _ in 0..20 {
        assert_eq!(fetch(address, "/").await.origin(), "a");
    }
    // Every change was written down, each once.
    let audit = portolan.api("/audit").await;
    let actions: Vec<&str> = audit
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        actions,
        ["drain", "undrain", "weights", "drain", "lease_ended"]
    );
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drains_set_again_and_again_through_upgrades_all_arrive() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let config = [
        LISTENER,
        PROBES,
        &pools(&[("a", &[&a], ""), ("b", &[&b], "")]),
        "routes: [ { to: { split: { a: 50, b: 50 } } } ]\n",
    ]
    .concat();
    let mut portolan = Portolan::start(&config).await;
    let admin = format!("http://{}", portolan.admin());
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let operator = tokio::spawn(async move {
        let mut count = 0u32;
        while !stopped.load(Ordering::Relaxed) {
            count += 1;
            let reason = format!("number {count}");
            let args = ["drain", "a", "--reason", &reason, "--admin", &admin];
            let output = crate::harness::portolan::command(&args).await;
            assert!(output.status.success(), "{}", stderr(&output));
        }
        count
    });
    for _ in 0..3 {
        let pid = portolan.upgrade().await;
        eventually("the new one answers operators", async || {
            (portolan.api("/status").await["pid"] == pid).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    let count = operator.await.unwrap();
    let told = portolan.api("/overrides").await[0]["reason"].clone();
    assert_eq!(told, format!("number {count}"));
    let audit = portolan.api("/audit").await;
    let reasons: Vec<&str> = audit
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["reason"].as_str().unwrap())
        .collect();
    let expected: Vec<String> = (1..=count)
        .map(|number| format!("number {number}"))
        .collect();
    assert_eq!(reasons, expected);
    portolan.stop().await;
}
