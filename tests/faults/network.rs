//! The edge's own network is cut: nobody can be reached, and that is nobody else's fault.
//!
//! The test runs itself again in a network of its own, where it is root: the process and its clients
//! on one side, the endpoints on the other, with a cable between them that can be pulled.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use http::Method;
use nix::sched::CloneFlags;
use nix::unistd::gettid;
use tokio::sync::oneshot;

use crate::harness::client::send_exactly;
use crate::harness::config::{LISTENER, PROBES, pools};
use crate::harness::{Ask, Origin, Portolan, eventually, soon};

/// Set in a test that runs in a network of its own.
pub(super) const INSIDE: &str = "PORTOLAN_TEST_INSIDE_A_NETWORK";
const NEAR: &str = "10.99.0.1/24";
const FAR: &str = "10.99.0.2/24";

#[tokio::test(flavor = "multi_thread")]
async fn the_edges_own_network_is_cut() {
    if std::env::var_os(INSIDE).is_some() {
        return inside().await;
    }
    alone("faults::network::the_edges_own_network_is_cut").await;
}

/// Runs this test again, in a network of its own, where it is root.
pub(super) async fn alone(this: &str) {
    let mut command = tokio::process::Command::new("unshare");
    if !rustix::process::getuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let output = command
        .args(["--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", this, "--nocapture"])
        .env(INSIDE, "1")
        .kill_on_drop(true)
        .output();
    let output = output.await.expect("`unshare` of util-linux is needed");
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    let [stdout, stderr] = &said;
    assert!(
        output.status.success() && stdout.contains("1 passed"),
        "a network of its own is needed, as root or with user namespaces:\n{stdout}\n{stderr}"
    );
}

/// Runs `ip` in the network of this thread.
pub(super) fn ip(args: &str) {
    let output = Command::new("ip").args(args.split(' ')).output();
    let output = output.expect("`ip` of iproute2 is needed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {args}: {said}");
}

/// The endpoints, behind the cable, until told to end.
fn far_side() -> (Vec<Arc<Origin>>, oneshot::Sender<()>) {
    let (there, here) = std::sync::mpsc::channel();
    let (end, ended) = oneshot::channel::<()>();
    let (plugged, plug) = std::sync::mpsc::channel();
    let (tell, origins) = std::sync::mpsc::channel();
    // What this thread opens is in its own network.
    std::thread::spawn(move || {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET).unwrap();
        there.send(gettid()).unwrap();
        plug.recv().unwrap();
        ip("link set lo up");
        ip(&format!("addr add {FAR} dev far"));
        ip("link set far up");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut all = Vec::new();
            for name in ["aws", "azure"] {
                let address: SocketAddr = "10.99.0.2:0".parse().unwrap();
                all.push(Arc::new(Origin::start_at(name, address, None).await));
            }
            tell.send(all).unwrap();
            let _ = ended.await;
        });
    });
    let far = here.recv().unwrap();
    ip("link set lo up");
    ip("link add near type veth peer name far");
    ip(&format!("link set far netns {far}"));
    ip(&format!("addr add {NEAR} dev near"));
    ip("link set near up");
    plugged.send(()).unwrap();
    (origins.recv().unwrap(), end)
}

async fn inside() {
    let (origins, end) = tokio::task::spawn_blocking(far_side).await.unwrap();
    let rest = ", timeouts: { connect: 500ms, first_byte: 500ms }";
    let config = [
        LISTENER,
        PROBES,
        &pools(&[
            ("aws", &[&origins[0]], rest),
            ("azure", &[&origins[1]], rest),
        ]),
        "services: { api: { split: { aws: 70, azure: 30 } } }\n",
        "routes: [ { to: api, when_all_down: { respond: { status: 599 } } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    let post = || Ask::new(Method::POST, "/").body("once");
    for pool in ["aws", "azure"] {
        portolan.wait_for_pool(pool, true).await;
    }
    send_exactly(address, 100, 4, |_| Ask::get("/"))
        .await
        .assert_flawless();
    for _ in 0..2 {
        let before: Vec<u64> = origins.iter().map(|origin| origin.hits()).collect();
        ip("link set near down");
        portolan
            .wait_for_metric("portolan_self_suspicion", &[], 1.0)
            .await;
        // Whoever asks is told that nobody was reached: the distribution is held, and
        // `when_all_down` is for when the clouds are down.
        for ask in [Ask::get("/"), post()] {
            let answer = soon("an answer", ask.to(address)).await.unwrap();
            assert!([502, 504].contains(&answer.status), "{}", answer.text());
        }
        // When no connection from before is left, a new one fails at once.
        eventually("nobody can be reached", async || {
            let answer = soon("an answer", post().to(address)).await.unwrap();
            (answer.status == 502).then_some(())
        })
        .await;
        let services = portolan.api("/services").await;
        assert_eq!(services[0]["classes"][0]["basis"], "held", "{services}");
        let tries = ["connect_failed"];
        assert!(
            portolan
                .metric("portolan_upstream_tries_total", &tries)
                .await
                > 0.0
        );

        ip("link set near up");
        portolan
            .wait_for_metric("portolan_self_suspicion", &[], 0.0)
            .await;
        eventually("everybody has their share again", async || {
            let tally = send_exactly(address, 100, 4, move |_| post()).await;
            let shares = (tally.from("aws"), tally.from("azure"));
            (tally.statuses.get(&200) == Some(&100) && shares == (70, 30)).then_some(())
        })
        .await;
        for (origin, before) in origins.iter().zip(before) {
            assert!(origin.hits() > before);
        }
    }
    portolan.stop().await;
    let _ = end.send(());
}
