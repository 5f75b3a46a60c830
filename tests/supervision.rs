//! The control plane when something goes wrong within: nobody reads its log, the disk is full, one of
//! its tasks panics. Health, reloads and the admin API go on.

use std::path::Path;

use http::Method;
use serde_json::{Value, json};

use crate::harness::config::{LISTENER, PROBES, pools};
use crate::harness::{Ask, Origin, Portolan, eventually, fetch};

const ROUTE: &str = "routes: [ { to: { tiers: [ a, b ] } } ]\n";

async fn two_clouds() -> (Origin, Origin) {
    (Origin::start("a").await, Origin::start("b").await)
}

fn config(a: &Origin, b: &Origin) -> String {
    let pools = pools(&[("a", &[a], ""), ("b", &[b], "")]);
    [LISTENER, PROBES, &pools, ROUTE].concat()
}

/// How many events there were of a kind.
async fn events(portolan: &Portolan, kind: &str) -> usize {
    let events = portolan.api("/events").await;
    let all = events.as_array().unwrap().iter();
    all.filter(|event| event["kind"] == kind).count()
}

async fn wait_for_event(portolan: &Portolan, kind: &str) {
    eventually(kind, async || {
        (events(portolan, kind).await > 0).then_some(())
    })
    .await;
}

async fn ask_admin(portolan: &Portolan, method: Method, path: &str, body: Option<Value>) -> u16 {
    let mut ask = Ask::new(method, path);
    if let Some(body) = body {
        ask = ask.body(body.to_string());
    }
    ask.to(portolan.admin()).await.unwrap().status
}

/// Traffic goes where `origin` says, before long.
async fn goes_to(portolan: &Portolan, origin: &str) {
    let address = portolan.address().await;
    eventually(&format!("traffic goes to {origin}"), async || {
        let answer = fetch(address, "/").await;
        (answer.status == 200 && answer.origin() == origin).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_reader_of_the_log_that_has_stopped_reading() {
    let (a, b) = two_clouds().await;
    let config = config(&a, &b);
    let portolan = Portolan::start(&config).await;
    portolan.read_log(false);
    // Much is told, until the pipe and the queue are full.
    let drain = json!({ "for": "1h", "reason": "x".repeat(200) });
    eventually("lines are lost", async || {
        for _ in 0..50 {
            let body = Some(drain.clone());
            assert_eq!(
                ask_admin(&portolan, Method::PUT, "/api/v1/pools/b/drain", body).await,
                200
            );
        }
        (portolan.metric("portolan_log_dropped_total", &[]).await > 0.0).then_some(())
    })
    .await;
    let undrained = ask_admin(&portolan, Method::DELETE, "/api/v1/pools/b/drain", None).await;
    assert_eq!(undrained, 200);
    // Endpoints are judged, files are read, operators are answered.
    goes_to(&portolan, "a").await;
    a.kill().await;
    portolan.wait_for_pool("a", false).await;
    goes_to(&portolan, "b").await;
    let generation = portolan.generation().await;
    portolan.change(&format!("{config}lame_duck: 1ms\n")).await;
    assert!(portolan.generation().await > generation);
    wait_for_event(&portolan, "log_lines_lost").await;
    assert_eq!(events(&portolan, "log_lines_lost").await, 1, "told once");
    assert_eq!(events(&portolan, "log_lines_written").await, 0);
    // Somebody reads again: that is told, too.
    portolan.read_log(true);
    a.revive().await;
    portolan.wait_for_pool("a", true).await;
    wait_for_event(&portolan, "log_lines_written").await;
    // And the end of the process waits for nobody.
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_ends_although_nobody_reads_its_log() {
    let (a, b) = two_clouds().await;
    let mut portolan = Portolan::start(&config(&a, &b)).await;
    portolan.read_log(false);
    let drain = json!({ "for": "1h", "reason": "x".repeat(200) });
    eventually("lines are lost", async || {
        for _ in 0..50 {
            let body = Some(drain.clone());
            ask_admin(&portolan, Method::PUT, "/api/v1/pools/b/drain", body).await;
        }
        (portolan.metric("portolan_log_dropped_total", &[]).await > 0.0).then_some(())
    })
    .await;
    portolan.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(portolan.ended().await.success());
}

/// Has a task panic, and waits until it has.
async fn panics(portolan: &Portolan, folder: &Path, task: &'static str) {
    let labels = [("task", task)].map(|(name, value)| format!("{name}=\"{value}\""));
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let before = portolan
        .metric("portolan_task_failures_total", &labels)
        .await;
    std::fs::write(folder.join(task), "").unwrap();
    portolan
        .wait_for_metric("portolan_task_failures_total", &labels, before + 1.0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_panic_begin_again() {
    let (a, b) = two_clouds().await;
    let config = config(&a, &b);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let portolan = Portolan::with(&config)
        .env("PORTOLAN_TEST_PANICS", folder.to_str().unwrap())
        .start()
        .await;
    let drain = json!({ "for": "3s", "reason": "a test" });
    let drained = ask_admin(&portolan, Method::PUT, "/api/v1/pools/b/drain", Some(drain)).await;
    assert_eq!(drained, 200);
    for task in [
        "engine",
        "files",
        "certificates",
        "leases",
        "admin",
        "loss_watch",
    ] {
        panics(&portolan, folder, task).await;
    }
    assert_eq!(events(&portolan, "task_failed").await, 6);
    // The lease ends, endpoints are judged, and what changes is read.
    wait_for_event(&portolan, "lease_ended").await;
    goes_to(&portolan, "a").await;
    a.kill().await;
    goes_to(&portolan, "b").await;
    portolan.change(&format!("{config}lame_duck: 1ms\n")).await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_engine_fails_again_and_again_ends() {
    let (a, b) = two_clouds().await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut portolan = Portolan::with(&config(&a, &b))
        .env("PORTOLAN_TEST_PANICS", folder.to_str().unwrap())
        .start()
        .await;
    for _ in 0..5 {
        panics(&portolan, folder, "engine").await;
        goes_to(&portolan, "a").await;
    }
    std::fs::write(folder.join("engine"), "").unwrap();
    assert_eq!(portolan.ended().await.code(), Some(1));
}

/// A disk that is full takes nothing: `/dev/full` is one.
#[tokio::test(flavor = "multi_thread")]
async fn lines_that_a_full_disk_does_not_take_are_counted_and_told() {
    let (a, b) = two_clouds().await;
    let log = "access_log: { to: /dev/full }\n";
    let portolan = Portolan::start(&[log, &config(&a, &b)].concat()).await;
    let address = portolan.address().await;
    for _ in 0..10 {
        assert_eq!(fetch(address, "/").await.status, 200);
    }
    portolan
        .wait_for_metric("portolan_access_log_dropped_total", &[], 10.0)
        .await;
    wait_for_event(&portolan, "log_lines_lost").await;
    let events = portolan.api("/events").await;
    let lost = events.as_array().unwrap().iter();
    let lost: Vec<&Value> = lost.filter(|it| it["kind"] == "log_lines_lost").collect();
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0]["subject"], "access log");
    assert_eq!(
        lost[0]["reason"],
        "they cannot be written: No space left on device"
    );
}
