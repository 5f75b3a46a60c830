//! Configurations that are being written: whoever writes them and however, no request ever sees a
//! state in between, and what was written last is what runs.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::task::JoinHandle;

use crate::harness::client::Connection;
use crate::harness::config::pools;
use crate::harness::portolan::{a_while, command, replace, stderr};
use crate::harness::{Ask, Origin, Portolan, eventually, fetch};

/// `wonderland`, by bcrypt with few rounds.
const ALICE: &str = "$2b$05$abcdefghijklmnopqrstuuA0vov2GDneHB3.8.cv9UF9g.RdvScIW";

/// A configuration of so many routes, all of them protected but the first and the last. Its number
/// stands in an answer's header.
fn config(origin: &Origin, number: usize, routes: usize) -> String {
    let mut text = format!(
        "# {}\nadmin: {{ bind: \"127.0.0.1:0\" }}\naccess_log: off\nlisteners: [ {{ bind: \"127.0.0.1:0\" }} ]\n\
         defaults: {{ health: off }}\n{}routes:\n  - path: /number\n    to: a\n    \
         response_headers:\n      set:\n        x-number: \"{number}\"\n",
        // What was another text from its first byte on looks like no part of the one before.
        "x".repeat(number % 7 + 1),
        pools(&[("a", &[origin], "")])
    );
    for at in 0..routes {
        let _ = write!(
            text,
            "  - path: /secret/{at}\n    to: a\n    auth:\n      basic:\n        users:\n          \
             - name: alice\n            password: \"{ALICE}\"\n    rate_limit:\n      \
             requests: 1000000\n      per: 1h\n"
        );
    }
    text += "  - path: /last\n    to: a\ntests:\n  - name: the last one is there\n    \
             request: { host: example.com, path: /last }\n    expect: { only: [ a ] }\n";
    text
}

/// A client who asks without end, and knows what it must be told.
struct Watchman {
    stop: Arc<AtomicBool>,
    asks: JoinHandle<usize>,
}

impl Watchman {
    fn new(address: SocketAddr, routes: usize) -> Self {
        let stop: Arc<AtomicBool> = Arc::default();
        let stopped = stop.clone();
        let asks = tokio::spawn(async move {
            let mut connection = Connection::open(address).await.unwrap();
            let mut asked = 0;
            let last = format!("/secret/{}", routes - 1);
            while !stopped.load(Ordering::Relaxed) {
                for (path, status) in [("/secret/0", 401), (&last, 401), ("/last", 200)] {
                    let answer = connection.ask(Ask::get(path)).await.unwrap();
                    assert_eq!(answer.status, status, "{path}, after {asked}");
                    asked += 1;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            asked
        });
        Self { stop, asks }
    }

    async fn relieve(self) {
        self.stop.store(true, Ordering::Relaxed);
        assert!(self.asks.await.unwrap() > 0);
    }
}

/// Waits until the configuration of this number runs.
async fn runs(address: SocketAddr, number: usize) {
    eventually(&format!("number {number} runs"), async || {
        let answer = fetch(address, "/number").await;
        (answer.header("x-number") == number.to_string()).then_some(())
    })
    .await;
}

/// Sleeps in the middle of writing.
fn pause(random: &mut fastrand::Rng, longest: u64) {
    std::thread::sleep(Duration::from_millis(random.u64(0..=longest)));
}

/// Writes a text in pieces, cut anywhere.
fn in_pieces(mut file: &File, text: &str, pieces: usize, longest: u64, random: &mut fastrand::Rng) {
    let mut cuts: Vec<usize> = (1..pieces).map(|_| random.usize(0..text.len())).collect();
    cuts.sort_unstable();
    cuts.push(text.len());
    let mut from = 0;
    for cut in cuts {
        file.write_all(&text.as_bytes()[from..cut]).unwrap();
        from = cut;
        if cut < text.len() {
            pause(random, longest);
        }
    }
}

type Writer = fn(&Path, &str, &mut fastrand::Rng);

/// Everybody who writes a file in place.
const IN_PLACE: [(&str, Writer); 6] = [
    ("at once", |path, text, _| {
        std::fs::write(path, text).unwrap();
    }),
    ("in pieces", |path, text, random| {
        in_pieces(&File::create(path).unwrap(), text, 12, 60, random);
    }),
    ("in pieces, slowly", |path, text, random| {
        in_pieces(&File::create(path).unwrap(), text, 5, 200, random);
    }),
    ("deleted, and in pieces", |path, text, random| {
        std::fs::remove_file(path).unwrap();
        in_pieces(&File::create_new(path).unwrap(), text, 12, 30, random);
    }),
    ("the old one kept as a backup", |path, text, random| {
        std::fs::rename(path, path.with_extension("yaml~")).unwrap();
        in_pieces(&File::create_new(path).unwrap(), text, 8, 30, random);
    }),
    (
        "over the old one, and cut to its length",
        |path, text, random| {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            in_pieces(&file, text, 8, 40, random);
            file.set_len(text.len() as u64).unwrap();
        },
    ),
];

/// Everybody who puts it there as a whole.
const AS_A_WHOLE: [(&str, Writer); 2] = [
    ("a new file renamed", |path, text, _| replace(path, text)),
    (
        "a new file written in pieces, and renamed",
        |path, text, random| {
            let new = path.with_extension("yaml.tmp");
            in_pieces(&File::create(&new).unwrap(), text, 8, 30, random);
            std::fs::rename(new, path).unwrap();
        },
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn no_request_sees_a_configuration_that_is_half_written() {
    const ROUTES: usize = 40;
    let origin = Origin::start("a").await;
    let portolan = Portolan::start(&config(&origin, 0, ROUTES)).await;
    let address = portolan.address().await;
    let watchman = Watchman::new(address, ROUTES);
    let path = portolan.config_path();
    let mut number = 0;
    for seed in 0..3 {
        for (name, write) in IN_PLACE.into_iter().chain(AS_A_WHOLE) {
            number += 1;
            let text = config(&origin, number, ROUTES);
            let path = path.clone();
            let writing = tokio::task::spawn_blocking(move || {
                write(&path, &text, &mut fastrand::Rng::with_seed(seed));
            });
            writing.await.unwrap();
            assert!(!watchman.asks.is_finished(), "{name}, with seed {seed}");
            runs(address, number).await;
        }
    }
    watchman.relieve().await;
    let refused = portolan.metric("portolan_config_reloads_total", &["refused"]);
    assert_eq!(refused.await, 0.0, "{}", portolan.log());
    portolan.stop().await;
}

/// A program that dumps what it has into an open file: full buffers, cut anywhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_dump_into_an_open_file_is_waited_for() {
    const ROUTES: usize = 3_000;
    let origin = Origin::start("a").await;
    let portolan = Portolan::start(&config(&origin, 0, ROUTES)).await;
    let address = portolan.address().await;
    let watchman = Watchman::new(address, ROUTES);
    for number in 1..=3 {
        let text = config(&origin, number, ROUTES);
        assert!(text.len() > 600_000);
        let mut random = fastrand::Rng::with_seed(number as u64);
        let path = portolan.config_path();
        let writing = tokio::task::spawn_blocking(move || {
            let mut file = File::create(path).unwrap();
            for buffer in text.as_bytes().chunks(8192) {
                file.write_all(buffer).unwrap();
                pause(&mut random, 15);
            }
        });
        writing.await.unwrap();
        runs(address, number).await;
    }
    watchman.relieve().await;
    portolan.stop().await;
}

/// A script that opens the file anew for everything that it adds: nothing tells when it is done.
#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_adds_line_by_line_is_waited_for() {
    const ROUTES: usize = 12;
    let origin = Origin::start("a").await;
    let portolan = Portolan::start(&config(&origin, 0, ROUTES)).await;
    let address = portolan.address().await;
    let watchman = Watchman::new(address, ROUTES);
    for number in 1..=3 {
        let text = config(&origin, number, ROUTES);
        let mut random = fastrand::Rng::with_seed(number as u64);
        let path = portolan.config_path();
        let writing = tokio::task::spawn_blocking(move || {
            File::create(&path).unwrap();
            for line in text.split_inclusive('\n') {
                let mut file = OpenOptions::new().append(true).open(&path).unwrap();
                file.write_all(line.as_bytes()).unwrap();
                drop(file);
                pause(&mut random, 45);
            }
        });
        writing.await.unwrap();
        runs(address, number).await;
    }
    watchman.relieve().await;
    let events = portolan.api("/events").await;
    let kinds: Vec<&str> = events
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|event| event["kind"].as_str())
        .collect();
    assert!(kinds.contains(&"reload_waits"), "{events}");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_people_edit_with_are_followed() {
    const ROUTES: usize = 20;
    let origin = Origin::start("a").await;
    // As Kubernetes mounts it: a link into a folder that is a link.
    let builder = Portolan::with("");
    let folder = builder.folder().to_owned();
    let publish = |number: usize| {
        let version = format!("..{number}");
        let real = folder.join(&version);
        std::fs::create_dir(&real).unwrap();
        let text = config(&origin, number, ROUTES);
        // The folder is written slowly, and nobody sees it.
        let file = File::create(real.join("portolan.yaml")).unwrap();
        in_pieces(&file, &text, 5, 30, &mut fastrand::Rng::with_seed(1));
        std::os::unix::fs::symlink(version, folder.join("..data_tmp")).unwrap();
        std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    };
    publish(0);
    let link = folder.join("portolan.yaml");
    std::os::unix::fs::symlink("..data/portolan.yaml", &link).unwrap();
    let portolan = builder.start().await;
    let address = portolan.address().await;
    let watchman = Watchman::new(address, ROUTES);
    for number in 1..=4 {
        tokio::task::block_in_place(|| publish(number));
        runs(address, number).await;
    }
    // What the link leads to is written in place, shorter than it was.
    let real = folder.join("..data/portolan.yaml");
    let text = config(&origin, 5, ROUTES);
    tokio::task::block_in_place(|| {
        let file = File::create(&real).unwrap();
        in_pieces(&file, &text, 5, 60, &mut fastrand::Rng::with_seed(2));
    });
    runs(address, 5).await;
    // `sed -i` writes another file and renames it, over the link.
    let status = Command::new("sed")
        .args(["-i", "s/x-number: \"5\"/x-number: \"6\"/"])
        .arg(&link)
        .status();
    assert!(status.unwrap().success());
    runs(address, 6).await;
    // An editor that keeps the file open is not waited for for ever.
    let text = config(&origin, 7, ROUTES);
    let open = tokio::task::block_in_place(|| {
        let file = File::create(&link).unwrap();
        in_pieces(&file, &text, 5, 60, &mut fastrand::Rng::with_seed(3));
        file
    });
    runs(address, 7).await;
    eventually("there is nothing more to wait for", async || {
        let status = portolan.api("/status").await;
        status["config"]["waiting"].is_null().then_some(())
    })
    .await;
    // And then goes on.
    let text = config(&origin, 8, ROUTES);
    open.set_len(0).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&open, text.as_bytes(), 0).unwrap();
    drop(open);
    runs(address, 8).await;
    watchman.relieve().await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_files_that_change_together_are_applied_together() {
    let origin = Origin::start("a").await;
    let main = |number: usize| {
        config(&origin, number, 20).replacen(
            "listeners:",
            "include: [ \"conf.d/*.yaml\" ]\nlisteners:",
            1,
        )
    };
    // Whoever sees one of them without the other sees a route without a password.
    let part = |number: usize| {
        format!(
            "services:\n  both-{number}:\n    tiers: [ a ]\nroutes:\n  - path: /{}\n    to: both-{number}\n    auth:\n      \
             basic:\n        users:\n          - name: alice\n            password: \"{ALICE}\"\n{}",
            "part",
            "# a comment that is quite long\n".repeat(20)
        )
    };
    let uses = |number: usize| {
        main(number).replacen(
            "routes:\n",
            &format!("routes:\n  - path: /uses\n    to: both-{number}\n"),
            1,
        )
    };
    let portolan = Portolan::with(&uses(0))
        .file("conf.d/part.yaml", part(0))
        .start()
        .await;
    let address = portolan.address().await;
    let watchman = Watchman::new(address, 20);
    let paths: [PathBuf; 2] = [
        portolan.config_path(),
        portolan.folder().join("conf.d/part.yaml"),
    ];
    for number in 1..=6 {
        let texts = [uses(number), part(number)];
        let mut random = fastrand::Rng::with_seed(number as u64);
        tokio::task::block_in_place(|| {
            if number % 2 == 0 {
                for (path, text) in paths.iter().zip(&texts) {
                    replace(path, text);
                }
                return;
            }
            // Both are open at the same time, and written by turns.
            let files = paths.each_ref().map(|path| File::create(path).unwrap());
            for (file, text) in files.iter().zip(&texts).cycle().take(8) {
                let at = file.metadata().unwrap().len() as usize;
                let upto = (at + text.len() / 3).min(text.len());
                let mut file = file;
                file.write_all(&text.as_bytes()[at..upto]).unwrap();
                pause(&mut random, 60);
            }
        });
        runs(address, number).await;
        assert_eq!(fetch(address, "/uses").await.status, 200);
        assert_eq!(fetch(address, "/part").await.status, 401);
    }
    let refused = portolan.metric("portolan_config_reloads_total", &["refused"]);
    assert_eq!(refused.await, 0.0, "{}", portolan.log());

    // A file that is there for the first time, too.
    let new = "routes:\n  - path: /new\n    to: a\n    auth:\n      basic:\n        users:\n          \
               - name: alice\n            password: ";
    let new = format!("{new}\"{ALICE}\"\n");
    let asking = {
        let stop: Arc<AtomicBool> = Arc::default();
        let stopped = stop.clone();
        let asks = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let status = fetch(address, "/new").await.status;
                assert!([401, 404].contains(&status), "{status}");
            }
        });
        (stop, asks)
    };
    let path = portolan.folder().join("conf.d/new.yaml");
    tokio::task::block_in_place(|| {
        let file = File::create_new(path).unwrap();
        in_pieces(&file, &new, 12, 60, &mut fastrand::Rng::with_seed(9));
    });
    eventually("the new one is there", async || {
        (fetch(address, "/new").await.status == 401).then_some(())
    })
    .await;
    asking.0.store(true, Ordering::Relaxed);
    asking.1.await.unwrap();
    watchman.relieve().await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_to_read_what_is_being_written_is_refused_and_said_so() {
    let origin = Origin::start("a").await;
    let mut portolan = Portolan::start(&config(&origin, 0, 5)).await;
    let address = portolan.address().await;
    let admin = format!("http://{}", portolan.admin());
    let text = config(&origin, 1, 5);
    let (first, rest) = text.split_at(text.len() - 300);
    let mut open = File::create(portolan.config_path()).unwrap();
    open.write_all(first.as_bytes()).unwrap();
    let waiting = eventually("it is told", async || {
        let status = portolan.api("/status").await;
        let waiting = status["config"]["waiting"].clone();
        (!waiting.is_null()).then_some(waiting)
    })
    .await;
    assert!(
        waiting["file"].as_str().unwrap().ends_with("portolan.yaml"),
        "{waiting}"
    );
    assert_eq!(waiting["reason"], "it is being written");
    // So that it goes on being written, as far as anybody can tell.
    open.write_all(&rest.as_bytes()[..1]).unwrap();
    let reload = command(&["reload", "--admin", &admin]).await;
    assert_eq!(reload.status.code(), Some(1));
    assert!(
        stderr(&reload).contains("is being written"),
        "{}",
        stderr(&reload)
    );
    open.write_all(&rest.as_bytes()[1..2]).unwrap();
    let upgrade = portolan.ask_for_upgrade(&[]).await;
    assert_eq!(upgrade.status.code(), Some(1));
    assert!(
        stderr(&upgrade).contains("is being written"),
        "{}",
        stderr(&upgrade)
    );
    assert_eq!(fetch(address, "/number").await.header("x-number"), "0");
    open.write_all(&rest.as_bytes()[2..]).unwrap();
    drop(open);
    runs(address, 1).await;
    eventually("there is nothing more to wait for", async || {
        let status = portolan.api("/status").await;
        status["config"]["waiting"].is_null().then_some(())
    })
    .await;
    // What is closed is read by order, however it looks.
    let part = text.replace("  - path: /secret/4\n", "  - path: /other\n");
    let cut = part.find("tests:").unwrap();
    std::fs::write(portolan.config_path(), &part[..cut]).unwrap();
    let reload = command(&["reload", "--admin", &admin]).await;
    assert!(reload.status.success(), "{}", stderr(&reload));
    eventually("the other one is there", async || {
        (fetch(address, "/other").await.status == 401).then_some(())
    })
    .await;
    portolan.upgrade().await;
    assert_eq!(fetch(address, "/other").await.status, 401);
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_at_the_end_of_a_file_is_waited_for_and_believed() {
    let origin = Origin::start("a").await;
    let marked = |number, routes| format!("{}...\n", config(&origin, number, routes));
    let portolan = Portolan::start(&marked(0, 20)).await;
    let address = portolan.address().await;
    let watchman = Watchman::new(address, 5);
    // Much shorter, and whole: that is plain to see.
    let before = portolan.api("/status").await["config"]["waiting"].is_null();
    assert!(before);
    std::fs::write(portolan.config_path(), marked(1, 5)).unwrap();
    runs(address, 1).await;
    // Without the mark, nothing that the system tells is enough.
    std::fs::write(portolan.config_path(), config(&origin, 2, 5)).unwrap();
    let event = eventually("it is told", async || {
        let status = portolan.api("/status").await;
        status["config"]["waiting"]["reason"]
            .as_str()
            .map(str::to_owned)
    })
    .await;
    assert!(event.contains("`...`"), "{event}");
    a_while().await;
    assert_eq!(fetch(address, "/number").await.header("x-number"), "1");
    // An order is one.
    portolan.signal(Signal::SIGHUP);
    runs(address, 2).await;
    // Nobody has a mark to wait for any more.
    std::fs::write(portolan.config_path(), config(&origin, 3, 5)).unwrap();
    runs(address, 3).await;
    watchman.relieve().await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_was_cut_off_takes_nobody_out() {
    let origin = Origin::start("a").await;
    let text = config(&origin, 0, 1).replacen(
        "  - path: /last\n    to: a\n",
        "  - path: /last\n    to: a\n  - path: /staff\n    to: a\n    auth: { basic: { htpasswd: \"${file:staff}\" } }\n",
        1,
    );
    let users = |count: usize| -> String {
        (0..count)
            .map(|at| format!("user{at}:{ALICE}\n"))
            .chain([format!("alice:{ALICE}\n")])
            .collect()
    };
    let portolan = Portolan::with(&text).file("staff", users(5)).start().await;
    let address = portolan.address().await;
    let stop: Arc<AtomicBool> = Arc::default();
    let stopped = stop.clone();
    // `alice:wonderland`
    let ask = || Ask::get("/staff").header("authorization", "Basic YWxpY2U6d29uZGVybGFuZA==");
    let asks = tokio::spawn(async move {
        while !stopped.load(Ordering::Relaxed) {
            assert_eq!(ask().to(address).await.unwrap().status, 200);
        }
    });
    for count in [5, 3, 0, 7] {
        let text = users(count);
        let path = portolan.folder().join("staff");
        tokio::task::block_in_place(|| {
            File::create(&path).unwrap();
            for line in text.split_inclusive('\n') {
                let mut file = OpenOptions::new().append(true).open(&path).unwrap();
                file.write_all(line.as_bytes()).unwrap();
                drop(file);
                std::thread::sleep(Duration::from_millis(40));
            }
        });
        assert!(!asks.is_finished());
    }
    // `user6:wonderland`
    let last = || Ask::get("/staff").header("authorization", "Basic dXNlcjY6d29uZGVybGFuZA==");
    eventually("the last one is there", async || {
        (last().to(address).await.unwrap().status == 200).then_some(())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    asks.await.unwrap();
    portolan.stop().await;
}
