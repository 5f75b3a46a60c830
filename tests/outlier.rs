//! What requests themselves tell: endpoints that fail them are ejected and come back, pools that
//! come back begin slowly, and when everything fails at once, nothing changes.

use http::Method;
use serde_json::Value;

use crate::harness::client::{raw, send_exactly};
use crate::harness::config::{LISTENER, PROBES, pool, pools};
use crate::harness::rogue::nobody;
use crate::harness::{Ask, Load, Origin, Portolan, Rogue, RogueEndpoint, eventually, fetch, soon};

/// The shares of the first service, by pool.
async fn shares(portolan: &Portolan) -> Vec<(String, f64)> {
    let services = portolan.api("/services").await;
    let pools = services[0]["classes"][0]["pools"].as_array().unwrap();
    pools
        .iter()
        .map(|share| {
            let effective = share["effective"].as_f64().unwrap();
            (share["pool"].as_str().unwrap().to_owned(), effective)
        })
        .collect()
}

/// By which health the shares of the first service are given.
async fn basis(portolan: &Portolan) -> Value {
    portolan.api("/services").await[0]["classes"][0]["basis"].clone()
}

async fn wait_for_basis(portolan: &Portolan, wanted: &str) {
    eventually(&format!("the basis is {wanted}"), async || {
        (basis(portolan).await == wanted).then_some(())
    })
    .await;
}

async fn ejections(portolan: &Portolan, reason: &str) -> f64 {
    let reason = format!("reason=\"{reason}\"");
    portolan
        .metric("portolan_ejections_total", &[&reason])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_fails_requests_while_its_probes_pass_is_left_out() {
    let origins = Origin::start_several("a", 3).await;
    let config = |weight: u32, outlier: &str| {
        [
            LISTENER,
            PROBES,
            &format!(
                "pools: {{ a: {{ endpoints: [ {{ address: \"{}\", weight: {weight} }}, \"{}\", \"{}\" ], balance: round_robin, outlier: {outlier} }} }}\n",
                origins[0].address, origins[1].address, origins[2].address
            ),
            "routes: [ { to: a, expose: true, retry: { tries: 1 } } ]\n",
        ]
        .concat()
    };
    let long = "{ eject_for: 1h }";
    let portolan = Portolan::start(&config(1, long)).await;
    let address = portolan.address().await;
    send_exactly(address, 60, 2, |_| Ask::get("/"))
        .await
        .assert_flawless();

    // Not the endpoint's fault: statuses that the request may have caused, and clients that go away.
    origins[0].set_status(500);
    let tally = send_exactly(address, 60, 2, |_| Ask::get("/")).await;
    assert_eq!(tally.statuses[&500], 20);
    let sick = origins[0].address;
    assert_eq!(portolan.endpoint("a", sick).await["health"], "healthy");

    origins[0].set_status(503);
    let tally = send_exactly(address, 60, 1, |_| Ask::get("/")).await;
    let failed = tally.statuses[&503];
    assert!((3..=6).contains(&failed), "{:?}", tally.statuses);
    let endpoint = portolan.endpoint("a", sick).await;
    assert_eq!(endpoint["health"], "ejected", "{endpoint}");
    let because = endpoint["because"].as_str().unwrap();
    assert!(
        because.ends_with("requests in a row failed, the last: status 502, 503 or 504"),
        "{because}"
    );
    assert_eq!(ejections(&portolan, "consecutive").await, 1.0);
    let up = portolan
        .metric("portolan_endpoint_up", &[&sick.to_string()])
        .await;
    assert_eq!(up, 0.0);
    portolan.wait_for_log("is ejected for 3600000 ms").await;
    let entry = portolan.api("/pools/a").await;
    assert_eq!((&entry["ejected"], &entry["up"]), (&1.into(), &true.into()));

    // Its probes go on and pass, and nobody else asks it.
    let (hits, probes) = (origins[0].hits(), origins[0].probes());
    eventually("more probes", async || {
        (origins[0].probes() > probes + 3).then_some(())
    })
    .await;
    send_exactly(address, 100, 4, |_| Ask::get("/"))
        .await
        .assert_flawless();
    assert_eq!(origins[0].hits(), hits);

    // A reload forgets nothing, unless it says that traffic decides nothing.
    origins[0].set_status(200);
    portolan.change(&config(2, long)).await;
    assert_eq!(portolan.endpoint("a", sick).await["health"], "ejected");
    portolan.change(&config(2, "off")).await;
    assert_eq!(portolan.endpoint("a", sick).await["health"], "healthy");
    origins[0].set_status(503);
    let tally = send_exactly(address, 100, 1, |_| Ask::get("/")).await;
    assert_eq!(tally.statuses[&503], 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_time_the_first_answer_decides() {
    const CLIENTS: u64 = 4;
    let origins = Origin::start_several("a", 2).await;
    let config = [
        LISTENER,
        PROBES,
        &pools(&[(
            "a",
            &[&origins[0], &origins[1]],
            ", balance: round_robin, outlier: { eject_for: 200ms }",
        )]),
        "routes: [ { to: a, retry: { tries: 1 } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let load = Load::plain(portolan.address().await, CLIENTS as usize);
    load.more(200).await;
    let sick = origins[0].address;

    // A square wave: every time it is sick it is left out, and tried again now and then.
    for _ in 0..2 {
        let before = ejections(&portolan, "trial").await;
        origins[0].set_status(503);
        portolan.wait_for_health("a", sick, "ejected").await;
        eventually("two trials fail", async || {
            (ejections(&portolan, "trial").await >= before + 2.0).then_some(())
        })
        .await;
        origins[0].set_status(200);
        eventually("it is back", async || {
            let endpoint = portolan.endpoint("a", sick).await;
            (endpoint["health"] == "healthy" && endpoint["part"] == 1.0).then_some(())
        })
        .await;
        let hits = origins[0].hits();
        load.more(100).await;
        assert!(origins[0].hits() > hits + 20, "it has its share again");
    }
    let tally = load.stop().await;
    assert!(tally.failures.is_empty());
    // Each time costs a run and what was under way, and not more.
    let runs = ejections(&portolan, "consecutive").await;
    let all = runs + ejections(&portolan, "trial").await;
    let failed = tally.statuses[&503];
    assert!(
        failed <= all as u64 * (3 + CLIENTS),
        "{failed} failed, {all} ejections"
    );
    portolan.wait_for_log("is no longer ejected").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_of_one_endpoint_is_left_when_another_can_serve() {
    let (aws, azure) = (Origin::start("aws").await, Origin::start("azure").await);
    let config = [
        LISTENER,
        PROBES,
        &pools(&[
            ("aws", &[&aws], ", outlier: { eject_for: 1h }"),
            ("azure", &[&azure], ", outlier: { eject_for: 1h }"),
        ]),
        "services: { api: { split: { aws: 70, azure: 30 } } }\n",
        "routes: [ { path: /alone, to: aws, when_all_down: { respond: { status: 599 } } }, { to: api, retry: { tries: 1 }, when_all_down: { respond: { status: 599 } } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    send_exactly(address, 100, 2, |_| Ask::get("/"))
        .await
        .assert_flawless();
    aws.set_status(503);
    let tally = send_exactly(address, 100, 1, |_| Ask::get("/")).await;
    assert!((3..=6).contains(&tally.statuses[&503]), "{tally:?}");
    portolan.wait_for_pool("aws", false).await;
    assert_eq!(
        shares(&portolan).await,
        [("aws".to_owned(), 0.0), ("azure".to_owned(), 1.0)]
    );
    send_exactly(address, 100, 4, |_| Ask::get("/"))
        .await
        .assert_flawless();
    // Where there is nobody else, an ejected endpoint still serves: its probes say that it can.
    let answer = fetch(address, "/alone").await;
    assert_eq!((answer.status, answer.origin()), (503, "aws"));

    // Nobody is left: probes decide alone, and both serve again by their shares.
    azure.set_status(503);
    send_exactly(address, 10, 1, |_| Ask::get("/")).await;
    wait_for_basis(&portolan, "probed").await;
    let tally = send_exactly(address, 100, 1, |_| Ask::get("/")).await;
    assert_eq!((tally.from("aws"), tally.from("azure")), (70, 30));
    aws.set_status(200);
    azure.set_status(200);
    send_exactly(address, 100, 4, |_| Ask::get("/"))
        .await
        .assert_flawless();
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_the_endpoints_are_dead_and_nobody_probes() {
    let living = Origin::start_several("living", 2).await;
    let dead = [nobody().await, nobody().await];
    let config = [
        LISTENER,
        "pools:\n",
        &pool(
            "a",
            &[dead[0], living[0].address, dead[1], living[1].address],
            ", health: off, balance: round_robin, outlier: { eject_for: 1h }",
        ),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    send_exactly(address, 50, 2, |_| Ask::get("/"))
        .await
        .assert_flawless();
    for address in dead {
        portolan.wait_for_health("a", address, "ejected").await;
    }
    let retries = portolan.metric("portolan_retries_total", &[]).await;
    assert!(retries >= 6.0, "three for each: {retries}");
    send_exactly(address, 200, 4, |_| Ask::get("/"))
        .await
        .assert_flawless();
    let tries = "portolan_upstream_tries_total";
    portolan.wait_for_metric(tries, &["answered"], 250.0).await;
    assert_eq!(
        portolan.metric("portolan_retries_total", &[]).await,
        retries,
        "nobody is sent there any more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_an_endpoint_counts_and_none_of_a_client() {
    let living = Origin::start("living").await;
    let faults = [
        (Rogue::ResetAtOnce, "a broken connection"),
        (Rogue::ResetAfterRequest, "a broken connection"),
        (
            Rogue::Say(b"HTTP/1.1 banana OK\r\n\r\n".to_vec()),
            "a broken connection",
        ),
        (Rogue::Stall, "no answer in time"),
    ];
    let mut rogues = Vec::new();
    let mut config = ["listeners: [ { bind: \"127.0.0.1:0\", limits: { idle_timeout: 1s } } ]\n", "defaults: { health: off, timeouts: { first_byte: 300ms, idle: 300ms }, outlier: { eject_for: 1h } }\npools:\n", &pool("living", &[living.address], "")].concat();
    let mut routes = String::from("routes:\n");
    for (number, (rogue, _)) in faults.iter().enumerate() {
        let rogue = RogueEndpoint::start(rogue.clone()).await;
        config += &pool(&format!("rogue-{number}"), &[rogue.address], "");
        routes +=
            &format!("  - {{ path: /{number}, to: {{ tiers: [ rogue-{number}, living ] }} }}\n");
        rogues.push(rogue);
    }
    let portolan = Portolan::start(&(config + &routes)).await;
    let address = portolan.address().await;

    // Uploads that their clients do not finish say nothing about who waits for them.
    let stalling = rogues.last().unwrap().address;
    for _ in 0..5 {
        let head = "POST /3 HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nonly a part";
        let answer = raw(address, head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    assert_eq!(
        portolan.endpoint("rogue-3", stalling).await["health"],
        "healthy"
    );

    for (number, (_, words)) in faults.iter().enumerate() {
        let ask = |_| Ask::new(Method::POST, &format!("/{number}")).body("some body");
        // Three of the endpoint's failures, whether they were retried or not.
        for at in 0..3 {
            soon("an answer", ask(at).to(address)).await.unwrap();
        }
        let pool = format!("rogue-{number}");
        let rogue = rogues[number].address;
        portolan.wait_for_health(&pool, rogue, "ejected").await;
        let answer = soon("an answer", ask(3).to(address)).await.unwrap();
        assert_eq!(answer.origin(), "living", "{words}");
        let endpoint = portolan.endpoint(&pool, rogue).await;
        let because = endpoint["because"].as_str().unwrap();
        assert!(because.contains(" requests in a row failed"), "{because}");
        assert!(
            because.ends_with(words) || because.ends_with("no connection"),
            "{because}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_passes_ends_an_ejection_that_it_would_have_prevented() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let config = [
        LISTENER,
        // Probes so slow that requests notice first.
        "defaults: { health: { http: /health, every: 300ms, timeout: 200ms, down_after: 100, up_after: 1 }, outlier: { eject_for: 1h } }\n",
        &pools(&[("p", &[&a, &b], ", balance: round_robin")]),
        "routes: [ { to: p } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let load = Load::plain(portolan.address().await, 2);
    load.more(100).await;
    a.kill().await;
    portolan.wait_for_health("p", a.address, "ejected").await;
    let endpoint = portolan.endpoint("p", a.address).await;
    assert!(
        endpoint["because"]
            .as_str()
            .unwrap()
            .ends_with("no connection"),
        "{endpoint}"
    );
    a.revive().await;
    portolan.wait_for_health("p", a.address, "healthy").await;
    eventually("it is free", async || {
        (portolan.endpoint("p", a.address).await["part"] == 1.0).then_some(())
    })
    .await;
    let tally = load.stop().await;
    // Connections that break in the middle of an answer are the price of killing it.
    assert!(tally.answers() > 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_clouds_fail_at_once_the_distribution_is_held() {
    let (aws, azure) = (Origin::start("aws").await, Origin::start("azure").await);
    let backup = Origin::start("backup").await;
    let config = [
        LISTENER,
        PROBES,
        &pools(&[
            ("aws", &[&aws], ""),
            ("azure", &[&azure], ""),
            ("backup", &[&backup], ""),
        ]),
        "services: { api: { tiers: [ { split: { aws: 70, azure: 30 } }, backup ] } }\n",
        "routes: [ { to: api, expose: true, when_all_down: { respond: { status: 599 } } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    send_exactly(address, 100, 2, |_| Ask::get("/"))
        .await
        .assert_flawless();
    let before = shares(&portolan).await;
    let all = [&aws, &azure, &backup];
    for origin in all {
        origin.kill().await;
    }
    wait_for_basis(&portolan, "held").await;
    assert_eq!(shares(&portolan).await, before);
    let status = portolan.api("/status").await;
    assert!(status["self_suspicion_seconds"].is_number(), "{status}");
    let warned = status["warnings"].to_string();
    assert!(warned.contains("own network"), "{warned}");
    assert_eq!(portolan.metric("portolan_self_suspicion", &[]).await, 1.0);
    portolan
        .wait_for_log("aws, azure, backup failed at the same time")
        .await;
    // It fails as a connection fails, not as `when_all_down` says.
    let answer = fetch(address, "/").await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    // A reload holds on to it, too.
    portolan.change(&format!("{config}lame_duck: 1s\n")).await;
    assert_eq!(basis(&portolan).await, "held");
    assert_eq!(shares(&portolan).await, before);

    for origin in all {
        origin.revive().await;
    }
    portolan
        .wait_for_metric("portolan_self_suspicion", &[], 0.0)
        .await;
    wait_for_basis(&portolan, "health").await;
    assert_eq!(shares(&portolan).await, before);
    portolan.wait_for_log("no longer suspects").await;
    let tally = send_exactly(address, 100, 4, |_| Ask::get("/")).await;
    tally.assert_flawless();
    assert_eq!((tally.from("aws"), tally.from("azure")), (70, 30));
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_that_fall_one_after_the_other_are_judged() {
    let (aws, azure) = (Origin::start("aws").await, Origin::start("azure").await);
    let config = [
        LISTENER,
        "defaults: { health: { http: /health, every: 50ms, timeout: 40ms, down_after: 1, up_after: 1 } }\n",
        &pools(&[("aws", &[&aws], ""), ("azure", &[&azure], "")]),
        "services: { api: { tiers: [ aws, azure ] } }\n",
        "routes: [ { to: api, when_all_down: { respond: { status: 599 } } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    aws.set_health(500);
    portolan.wait_for_pool("aws", false).await;
    // Longer than the window: the time that probes may need, and a second.
    eventually("aws has been down for a while", async || {
        let endpoint = portolan.endpoint("aws", aws.address).await;
        (endpoint["for_seconds"].as_f64()? > 1.5).then_some(())
    })
    .await;
    azure.set_health(500);
    portolan.wait_for_pool("azure", false).await;
    assert_eq!(fetch(portolan.address().await, "/").await.status, 599);
    assert_eq!(portolan.metric("portolan_self_suspicion", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_begins_slowly() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let later = Origin::start("later").await;
    let config = |with: &[&Origin]| {
        [
            LISTENER,
            PROBES,
            &pools(&[("a", with, ", slow_start: 4s"), ("b", &[&b], "")]),
            "services: { api: { split: { a: 50, b: 50 } } }\n",
            "routes: [ { to: api } ]\n",
        ]
        .concat()
    };
    let portolan = Portolan::start(&config(&[&a])).await;
    let half = [("a".to_owned(), 0.5), ("b".to_owned(), 0.5)];
    assert_eq!(shares(&portolan).await, half, "not at the start");
    a.kill().await;
    portolan.wait_for_pool("a", false).await;
    a.revive().await;
    let mut seen = vec![0.0];
    eventually("it has its share again", async || {
        let share = shares(&portolan).await[0].1;
        if seen.last() != Some(&share) {
            seen.push(share);
        }
        (share == 0.5).then_some(())
    })
    .await;
    assert!(seen.is_sorted(), "{seen:?}");
    assert!(seen.len() >= 4, "no steps between: {seen:?}");
    assert!(seen[1] < 0.3, "it begins with little: {seen:?}");

    // An endpoint that is added while the pool serves.
    portolan.change(&config(&[&a, &later])).await;
    let mut parts = Vec::new();
    eventually("it has its whole weight", async || {
        let endpoint = portolan.endpoint("a", later.address).await;
        if endpoint["health"] != "healthy" {
            return None;
        }
        let part = endpoint["part"].as_f64()?;
        if parts.last() != Some(&part) {
            parts.push(part);
        }
        (part == 1.0).then_some(())
    })
    .await;
    assert!(parts.is_sorted() && parts.len() >= 4, "{parts:?}");
    assert!(parts[0] < 0.5, "{parts:?}");
    assert_eq!(shares(&portolan).await, half);
}
