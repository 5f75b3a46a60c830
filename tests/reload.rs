//! Changing the configuration while it serves: nothing is lost, nothing is forgotten, and what
//! cannot run changes nothing.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{SinkExt as _, StreamExt as _};
use http::Method;
use http_body_util::BodyExt as _;
use nix::sys::signal::Signal;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::client::Connection;
use crate::harness::config::{LISTENER, PROBES, pool, pools};
use crate::harness::origin::is_pattern;
use crate::harness::portolan::{a_while, command, replace, stderr};
use crate::harness::rogue::nobody;
use crate::harness::{Ask, Load, Origin, Portolan, eventually, fetch, soon, websocket};

/// One pool, and every request goes there.
fn one(origin: &Origin) -> String {
    [
        LISTENER,
        PROBES,
        &pools(&[("a", &[origin], "")]),
        "routes: [ { to: a } ]\n",
    ]
    .concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_edits_under_load_lose_no_request_and_forget_no_health() {
    let aws = Origin::start_several("aws", 2).await;
    let azure = Origin::start_several("azure", 2).await;
    let dead = nobody().await;
    let addresses = |origins: &[Origin]| -> Vec<SocketAddr> {
        origins.iter().map(|origin| origin.address).collect()
    };
    let edit = |number: u64| {
        let share = number * 37 % 101;
        let mut text = [LISTENER, PROBES, "pools:\n"].concat();
        let timeout = if number.is_multiple_of(2) {
            "30s"
        } else {
            "20s"
        };
        let balance = ["round_robin", "least_requests", "random"][(number % 3) as usize];
        let rest = format!(", balance: {balance}, timeouts: {{ idle: {timeout} }}");
        text += &pool("aws", &addresses(&aws), &rest);
        text += &pool("azure", &addresses(&azure), "");
        text += &pool("dead", &[dead], "");
        text += "services:\n  main:\n    tiers:\n      - dead\n      - split:\n";
        text += &format!("          - {{ to: aws, weight: {share} }}\n");
        text += &format!("          - {{ to: azure, weight: {} }}\n", 101 - share);
        text += "routes:\n";
        for extra in 0..number % 4 {
            text += &format!("  - {{ host: h{extra}.example, to: aws }}\n");
        }
        text += &format!("  - {{ name: r{}, to: main }}\n", number % 5);
        text
    };
    let portolan = Portolan::start(&edit(0)).await;
    let address = portolan.address().await;
    portolan.wait_for_health("dead", dead, "unhealthy").await;
    let health = async || {
        let mut seen = Vec::new();
        for pool in portolan.api("/pools").await.as_array().unwrap() {
            for endpoint in pool["endpoints"].as_array().unwrap() {
                seen.push((
                    endpoint["address"].as_str().unwrap().to_owned(),
                    endpoint["health"].as_str().unwrap().to_owned(),
                    endpoint["for_seconds"].as_f64().unwrap(),
                ));
            }
        }
        seen
    };
    let mut before = health().await;
    assert_eq!(before.len(), 5);
    let load = Load::plain(address, 8);
    load.more(100).await;
    for number in 1..=200 {
        portolan.change(&edit(number)).await;
        let now = health().await;
        for (old, new) in before.iter().zip(&now) {
            assert_eq!((&old.0, &old.1), (&new.0, &new.1), "edit {number}");
            assert!(new.2 >= old.2, "edit {number}: {old:?} {new:?}");
        }
        before = now;
    }
    load.more(100).await;
    let tally = load.stop().await;
    tally.assert_flawless();
    assert_eq!(tally.connections, 8, "no client had to connect again");
    assert_eq!(portolan.generation().await, 201);
    // What was edited last is what serves.
    portolan.change(&edit(0)).await;
    let load = Load::plain(address, 2);
    load.more(200).await;
    let tally = load.stop().await;
    assert_eq!(tally.from("azure"), tally.answers(), "{:?}", tally.origins);
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_outlives_the_pool_it_was_sent_to() {
    const GIBIBYTE: u64 = 1 << 30;
    let origin = Origin::start("a").await;
    let other = Origin::start("b").await;
    let chat = websocket::endpoint().await;
    let config = |here: bool, number: u64| {
        let mut text = [LISTENER, "defaults: { health: off }\n", "pools:\n"].concat();
        if here {
            text += &pool("chat", &[chat], "");
            text += &pool("a", &[origin.address], "");
        }
        text += &pool("b", &[other.address], "");
        text += "routes:\n";
        if here {
            text += "  - { path: /chat, to: chat }\n  - { path: /events, to: a }\n";
            text += "  - { path: /bytes, to: a }\n  - { path: /echo, to: a }\n  - { path: /sleep, to: a }\n";
        }
        text += &format!("  - {{ name: r{number}, to: b }}\n");
        text
    };
    let portolan = Portolan::start(&config(true, 0)).await;
    let address = portolan.address().await;

    let stream = TcpStream::connect(address).await.unwrap();
    let url = format!("ws://{address}/chat");
    let (mut socket, _) = soon(
        "the handshake",
        tokio_tungstenite::client_async(url, stream),
    )
    .await
    .unwrap();
    let mut events = Connection::open(address).await.unwrap();
    let events = events.begin(Ask::get("/events?count=600&ms=10")).await;
    let events = tokio::spawn(async move {
        let mut body = events.into_body();
        let mut seen = 0;
        while let Some(frame) = soon("an event", body.frame()).await {
            let data = frame.unwrap().into_data().unwrap();
            seen += String::from_utf8_lossy(&data).matches("data: ").count();
        }
        seen
    });
    let mut down = Connection::open(address).await.unwrap();
    let path = format!("/bytes?count={GIBIBYTE}");
    let down = down.begin(Ask::get(&path)).await;
    let reloaded = Arc::new(AtomicBool::new(false));
    let wait_for = reloaded.clone();
    let down = tokio::spawn(async move {
        let mut body = down.into_body();
        let mut at = 0;
        while let Some(frame) = soon("more of the body", body.frame()).await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(is_pattern(at, &data), "at {at}");
            at += data.len() as u64;
            // Half of it waits until the pool is gone, however fast this machine is.
            while at > GIBIBYTE / 2 && !wait_for.load(Ordering::Relaxed) {
                tokio::task::yield_now().await;
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
        at
    });
    let slow = tokio::spawn(async move { Ask::get("/sleep?ms=2000").to(address).await.unwrap() });
    let up = tokio::spawn(async move {
        let body = vec![b'x'; 256 << 20];
        let ask = Ask::new(Method::PUT, "/echo").body(body);
        ask.to(address).await.unwrap()
    });
    portolan
        .wait_for_metric("portolan_in_flight", &[], 5.0)
        .await;

    for number in 1..=20 {
        portolan.change(&config(number % 2 == 0, number)).await;
        let message = Message::text(format!("after edit {number}"));
        socket.send(message.clone()).await.unwrap();
        let echo = soon("an echo", socket.next()).await.unwrap().unwrap();
        assert_eq!(echo, message);
    }
    portolan.change(&config(false, 21)).await;
    assert_eq!(fetch(address, "/sleep?ms=0").await.origin(), "b");
    reloaded.store(true, Ordering::Relaxed);

    assert_eq!(slow.await.unwrap().origin(), "a");
    let up = up.await.unwrap();
    assert_eq!((up.status, up.origin()), (200, "a"));
    assert_eq!(up.json()["body_bytes"], 256 << 20);
    assert_eq!(down.await.unwrap(), GIBIBYTE);
    assert_eq!(events.await.unwrap(), 600);
    let message = Message::text("still here");
    socket.send(message.clone()).await.unwrap();
    let echo = soon("an echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(echo, message);
    socket.close(None).await.unwrap();
    portolan
        .wait_for_metric("portolan_in_flight", &[], 0.0)
        .await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_of_saving_the_file_is_noticed() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let portolan = Portolan::start(&one(&a)).await;
    let address = portolan.address().await;
    let path = portolan.config_path();
    let admin = "admin: { bind: \"127.0.0.1:0\" }\naccess_log: off\n";
    let texts = [&b, &a].map(|origin| format!("{admin}{}", one(origin)));
    let serves = async |name: &str| {
        eventually(&format!("{name} serves"), async || {
            (fetch(address, "/").await.origin() == name).then_some(())
        })
        .await;
    };
    type Save = fn(&Path, &str);
    let ways: [(&str, Save); 5] = [
        ("written in place", |path, text| {
            std::fs::write(path, text).unwrap();
        }),
        ("a new file renamed", replace),
        ("the old one kept as a backup", |path, text| {
            std::fs::rename(path, path.with_extension("yaml~")).unwrap();
            std::fs::write(path, text).unwrap();
        }),
        ("deleted and written anew", |path, text| {
            std::fs::remove_file(path).unwrap();
            std::fs::write(path, text).unwrap();
        }),
        ("written bit by bit", |path, text| {
            use std::io::Write as _;
            let mut file = std::fs::File::create(path).unwrap();
            for piece in text.as_bytes().chunks(40) {
                file.write_all(piece).unwrap();
                file.flush().unwrap();
            }
        }),
    ];
    for (name, save) in ways {
        for (text, expected) in texts.iter().zip(["b", "a"]) {
            save(&path, text);
            serves(expected).await;
        }
        assert_eq!(fetch(address, "/").await.status, 200, "{name}");
    }
    // The file gone is no configuration: the old one goes on.
    std::fs::remove_file(&path).unwrap();
    portolan.wait_for_log("configuration refused").await;
    serves("a").await;
    std::fs::write(&path, &texts[0]).unwrap();
    serves("b").await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swapped_symlink_is_noticed_as_kubernetes_does_it() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    // ..data → ..2026_01, portolan.yaml → ..data/portolan.yaml
    let builder = Portolan::with("");
    let folder = builder.folder().to_owned();
    let admin = "admin: { bind: \"127.0.0.1:0\" }\naccess_log: off\n";
    let publish = |version: &str, origin: &Origin| {
        let real = folder.join(version);
        std::fs::create_dir(&real).unwrap();
        let text = format!("{admin}{}", one(origin));
        std::fs::write(real.join("portolan.yaml"), text).unwrap();
        symlink(version, folder.join("..data_tmp")).unwrap();
        std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    };
    publish("..2026_01", &a);
    symlink("..data/portolan.yaml", folder.join("portolan.yaml")).unwrap();
    let portolan = builder.start().await;
    let address = portolan.address().await;
    assert_eq!(fetch(address, "/").await.origin(), "a");
    for (number, (origin, name)) in [(&b, "b"), (&a, "a"), (&b, "b")].iter().enumerate() {
        let old = std::fs::read_link(folder.join("..data")).unwrap();
        publish(&format!("..2026_02_{number}"), origin);
        std::fs::remove_dir_all(folder.join(old)).unwrap();
        eventually(&format!("{name} serves"), async || {
            (fetch(address, "/").await.origin() == *name).then_some(())
        })
        .await;
    }
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn included_files_are_watched_also_those_that_appear_later() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let config = [
        "include: [ \"conf.d/*.yaml\" ]\n",
        LISTENER,
        PROBES,
        "pools:\n",
        &pool("b", &[b.address], ""),
        "routes: [ { path: /b, to: b } ]\n",
    ]
    .concat();
    let service =
        |target: &str, path: &str| format!("routes: [ {{ path: {path}, to: {target} }} ]\n");
    let first = format!("pools:\n{}", pool("a", &[a.address], ""));
    let portolan = Portolan::with(&config)
        .file("conf.d/pools.yaml", &first)
        .file("conf.d/routes.yaml", service("a", "/x"))
        .start()
        .await;
    let address = portolan.address().await;
    let folder = portolan.folder().join("conf.d");
    let serves = async |path: &str, name: &str| {
        eventually(&format!("{name} serves {path}"), async || {
            let answer = fetch(address, path).await;
            (answer.origin() == name).then_some(())
        })
        .await;
    };
    serves("/x", "a").await;
    serves("/b", "b").await;
    replace(&folder.join("routes.yaml"), &service("b", "/x"));
    serves("/x", "b").await;
    std::fs::write(folder.join("more.yaml"), service("a", "/more")).unwrap();
    serves("/more", "a").await;
    std::fs::remove_file(folder.join("more.yaml")).unwrap();
    serves("/more", "").await;
    // A broken one is named, and so is its line.
    std::fs::write(folder.join("zz.yaml"), "routes:\n  - { to: nowhere }\n").unwrap();
    portolan.wait_for_log("configuration refused").await;
    let log = portolan.log();
    assert!(log.contains("zz.yaml:2:"), "{log}");
    serves("/x", "b").await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn included_files_of_a_kubernetes_config_map_are_read_once_and_again_when_they_change() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let config = [
        // Also of the folders inside, which is where the names with dots lie.
        "include: [ \"map[[]1]/**/*.yaml\" ]\n",
        LISTENER,
        PROBES,
        &pools(&[("a", &[&a], ""), ("b", &[&b], "")]),
    ]
    .concat();
    let service =
        |target: &str, path: &str| format!("routes: [ {{ path: {path}, to: {target} }} ]\n");
    let builder = Portolan::with(&config)
        .file("map[1]/..one/first.yaml", service("a", "/x"))
        .file("map[1]/..two/first.yaml", service("b", "/x"))
        .file("map[1]/..two/second.yaml", service("a", "/y"));
    let folder = builder.folder().join("map[1]");
    let link = |target: &str, name: &str| {
        symlink(target, folder.join(name)).unwrap();
    };
    link("..one", "..data");
    link("..data/first.yaml", "first.yaml");
    let portolan = builder.start().await;
    let address = portolan.address().await;
    let serves = async |path: &str, name: &str| {
        eventually(&format!("{name} serves {path}"), async || {
            let answer = fetch(address, path).await;
            (answer.origin() == name).then_some(())
        })
        .await;
    };
    serves("/x", "a").await;
    serves("/y", "").await;
    // As the kubelet does it: another folder, the link to it exchanged, then links to what is new.
    link("..two", "..data_tmp");
    std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    link("..data/second.yaml", "second.yaml");
    serves("/x", "b").await;
    serves("/y", "a").await;
    let refused = portolan.metric("portolan_config_reloads_total", &["refused"]);
    assert_eq!(refused.await, 0.0);
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_change_changes_nothing_and_is_told_everywhere() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let portolan = Portolan::start(&one(&a)).await;
    let address = portolan.address().await;
    let hash = portolan.api("/status").await["config"]["hash"].clone();
    let broken = [
        (one(&b).replace("to: a", "to: aa"), "aa"),
        (one(&b) + "colour: red\n", "colour"),
        (one(&b) + "routes: {", "routes"),
        ("\u{0}\u{1}".to_owned(), ""),
        (String::new(), ""),
        (
            one(&b).replace("127.0.0.1:0\" }", "127.0.0.1:99999\" }"),
            "99999",
        ),
    ];
    for (number, (text, word)) in broken.iter().enumerate() {
        let error = portolan.change_refused(text).await;
        assert!(error.contains(word), "{error}");
        assert_eq!(fetch(address, "/").await.origin(), "a", "{text}");
        let status = portolan.api("/status").await;
        assert_eq!(status["config"]["hash"], hash);
        assert_eq!(status["config"]["generation"], 1);
        let attempt = &status["config"]["last_reload"];
        assert_eq!(attempt["trigger"], "a file changed");
        assert!(attempt["report"].is_object(), "{attempt}");
        assert!(
            portolan.log().matches("configuration refused").count() > number,
            "{}",
            portolan.log()
        );
        let admin = portolan.admin().to_string();
        let output = command(&["status", "--admin", &format!("http://{admin}")]).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("refused"), "{text}{}", stderr(&output));
    }
    assert_eq!(
        portolan
            .metric("portolan_config_reloads_total", &["applied"])
            .await,
        0.0
    );
    // Put back as it was: nothing is wrong any more.
    portolan.write(&one(&a));
    eventually("the refusal is history", async || {
        let status = portolan.api("/status").await;
        (status["config"]["last_reload"]["outcome"] == "unchanged").then_some(())
    })
    .await;
    portolan.change(&one(&b)).await;
    assert_eq!(fetch(address, "/").await.origin(), "b");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_breaks_the_files_own_tests_is_refused() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let config = |first: &str, second: &str| {
        let head = [
            LISTENER,
            PROBES,
            &pools(&[("a", &[&a], ""), ("b", &[&b], "")]),
        ]
        .concat();
        format!(
            "{head}routes: [ {{ to: {{ tiers: [ {first}, {second} ] }} }} ]\n\
             tests:\n  - {{ name: a is first, request: {{ host: x.example, path: / }}, expect: {{ only: [ a ] }} }}\n"
        )
    };
    let portolan = Portolan::start(&config("a", "b")).await;
    let address = portolan.address().await;
    let error = portolan.change_refused(&config("b", "a")).await;
    assert!(error.contains("a is first"), "{error}");
    assert_eq!(fetch(address, "/").await.origin(), "a");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signal_api_and_command_reload_at_once() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let portolan = Portolan::start(&one(&a)).await;
    let address = portolan.address().await;
    let admin = format!("http://{}", portolan.admin());
    // What is asked for is done even if the file is the same.
    for number in 2..=4 {
        portolan.signal(Signal::SIGHUP);
        eventually("the signal is obeyed", async || {
            (portolan.generation().await == number).then_some(())
        })
        .await;
    }
    let answer = Ask::new(Method::POST, "/api/v1/reload")
        .to(portolan.admin())
        .await
        .unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["outcome"], "applied", "{}", answer.text());
    let output = command(&["reload", "--admin", &admin]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(portolan.generation().await, 6);
    // A broken one: the answer says what is wrong.
    portolan.change_refused("pools: 7\n").await;
    let answer = Ask::new(Method::POST, "/api/v1/reload")
        .to(portolan.admin())
        .await
        .unwrap();
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert!(answer.text().contains("pools"), "{}", answer.text());
    let output = command(&["reload", "--admin", &admin]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("pools"), "{}", stderr(&output));
    portolan.change(&one(&b)).await;
    assert_eq!(fetch(address, "/").await.origin(), "b");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_change_is_not_applied() {
    let a = Origin::start("a").await;
    let portolan = Portolan::start(&one(&a)).await;
    portolan.write(&one(&a));
    portolan.write(&format!("# a comment\n{}", one(&a)));
    std::fs::write(portolan.folder().join("other.yaml"), "not: ours").unwrap();
    a_while().await;
    assert_eq!(portolan.generation().await, 1);
    let reloads = portolan.metric("portolan_config_reloads_total", &["applied"]);
    assert_eq!(reloads.await, 0.0);
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_broken_file_can_use_the_last_one_that_ran() {
    let a = Origin::start("a").await;
    let portolan = Portolan::start(&one(&a)).await;
    let folder = portolan.folder().to_owned();
    let kept = folder.join("state/last-known-good.json");
    assert!(kept.exists());
    let kept = std::fs::read(kept).unwrap();
    portolan.stop().await;
    let broken = one(&a).replace("to: a", "to: nowhere");
    let again = Portolan::with(&broken)
        .file("state/last-known-good.json", &kept)
        .arg("--last-known-good")
        .start()
        .await;
    let address = again.address().await;
    assert_eq!(fetch(address, "/").await.origin(), "a");
    let status = again.api("/status").await;
    assert_eq!(status["config"]["last_known_good"], true);
    assert!(again.log().contains("nowhere"), "{}", again.log());
    // Mended, the file is used again.
    again.write(&one(&a));
    eventually("the file is used", async || {
        let status = again.api("/status").await;
        (status["config"]["last_known_good"] == false).then_some(())
    })
    .await;
    again.stop().await;
    // Not asked for, it is not used.
    let (status, said) = Portolan::with(&broken)
        .file("state/last-known-good.json", &kept)
        .run_to_end()
        .await;
    assert_eq!(status.code(), Some(1), "{said}");
}
