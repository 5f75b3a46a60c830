//! A real process that is stopped: the system goes on accepting connections for it.

use http::Method;
use nix::sys::signal::Signal;

use super::Papers;
use crate::harness::config::{LISTENER, pool};
use crate::harness::{Ask, Origin, Portolan, Wire, eventually, fetch, soon};

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_process_keeps_nobody_who_may_be_repeated() {
    let papers = Papers::new();
    let (behind, good) = (Origin::start("behind").await, Origin::start("good").await);
    // What will be stopped: whatever listens, as any server would.
    let config = [
        "listeners:\n",
        "  - { bind: \"127.0.0.1:0\" }\n",
        "  - { bind: \"127.0.0.1:0\", tls: { certificates: [ { cert: c.pem, key: k.pem } ] } }\n",
        "defaults: { health: off }\npools:\n",
        &pool("behind", &[behind.address], ""),
        "routes: [ { to: behind } ]\n",
    ]
    .concat();
    let server = Portolan::with(&config)
        .file("c.pem", &papers.identity.certificate)
        .file("k.pem", &papers.identity.key)
        .start()
        .await;
    let addresses = server.addresses().await;
    // Each way to speak to it twice: over a connection from before, and over a new one.
    let mut pools = String::new();
    let mut routes = String::new();
    let mut cases = Vec::new();
    for wire in Wire::ALL {
        let address = addresses[usize::from(wire.is_tls())];
        for kept in [true, false] {
            let name = format!("{wire:?}-{kept}").to_lowercase();
            // A busy machine may take its time to connect, and that is told apart from silence here.
            let rest = ", timeouts: { connect: 2s, first_byte: 500ms }";
            pools += &pool(&name, &[address], &format!("{}{rest}", wire.pool()));
            routes += &format!("  - {{ path: /{name}, to: {{ tiers: [ {name}, good ] }} }}\n");
            cases.push((wire, kept, name));
        }
    }
    let config = [
        LISTENER,
        "defaults: { health: off, outlier: off }\npools:\n",
        &pools,
        &pool("good", &[good.address], ""),
        "routes:\n",
        &routes,
    ]
    .concat();
    // Each worker keeps connections for itself: what one request leaves is there for the next.
    let builder = papers.portolan(&config).env("PORTOLAN_WORKERS", "1");
    let portolan = builder.start().await;
    let address = portolan.address().await;
    for (_, _, name) in cases.iter().filter(|(_, kept, _)| *kept) {
        assert_eq!(fetch(address, &format!("/{name}")).await.origin(), "behind");
    }
    server.freeze().await;
    for (wire, kept, name) in &cases {
        let path = format!("/{name}");
        let post = Ask::new(Method::POST, &path).body("once");
        let post = soon("an answer", post.to(address)).await.unwrap();
        let get = fetch(address, &path).await;
        assert_eq!((get.status, get.origin()), (200, "good"), "{name}");
        // Over HTTP/1.1 a POST uses no connection that was kept for more than a second, as these were
        // by now: those before have waited for their deadlines.
        let new = !kept || !wire.is_http2();
        let outcome = if wire.is_tls() && new {
            // It stops in the handshake: nothing was sent.
            assert_eq!((post.status, post.origin()), (200, "good"), "{name}");
            "connect_failed"
        } else {
            assert_eq!(post.status, 504, "{name}");
            "timed_out"
        };
        let labels = [&*format!("pool=\"{name}\""), &*format!("\"{outcome}\"")];
        let tries = "portolan_upstream_tries_total";
        eventually(&format!("{name}: tries are {outcome}"), async || {
            (portolan.metric(tries, &labels).await >= 1.0).then_some(())
        })
        .await;
    }
    server.signal(Signal::SIGCONT);
    for (_, _, name) in &cases {
        let path = format!("/{name}");
        eventually(&format!("{name}: it serves again"), async || {
            let answer = fetch(address, &path).await;
            assert_eq!(answer.status, 200, "{name}");
            (answer.origin() == "behind").then_some(())
        })
        .await;
    }
    portolan.stop().await;
    server.stop().await;
}
