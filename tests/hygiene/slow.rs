//! Clients that take their time, by the tool that made them famous; and many that do not.

use std::process::Output;

use tokio::process::Command;

use crate::harness::client::Load;
use crate::harness::config::{LISTENER, PROBES, pools};
use crate::harness::{Origin, Portolan, eventually, soon, tools};

async fn run(program: &str, args: &[&str]) -> Output {
    let running = Command::new(program).args(args).kill_on_drop(true).output();
    soon(program, running).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_no_trouble_for_others() {
    tools::need("slowhttptest", "slowhttptest").await;
    let origin = Origin::start("a").await;
    let config = [
        "listeners: [ { bind: \"127.0.0.1:0\", limits: { header_timeout: 2s } } ]\n",
        PROBES,
        &pools(&[("a", &[&origin], "")]),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    let before = super::resident(portolan.pid());
    let page = format!("http://{address}/bytes?count=200000");
    for mode in [
        // Headers, bodies, and answers that are read slowly.
        &["-H", "-i", "1"][..],
        &["-B", "-i", "1", "-s", "8192"],
        &["-X", "-w", "1", "-y", "10", "-n", "1", "-z", "8"],
    ] {
        let load = Load::plain(address, 2);
        let args = [
            mode,
            &["-c", "300", "-r", "150", "-l", "8", "-p", "3", "-u", &page],
        ]
        .concat();
        let output = run("slowhttptest", &args).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("service available:"), "{said}");
        assert!(
            !said.contains("service available:   NO"),
            "{mode:?}: {said}"
        );
        load.stop().await.assert_flawless();
        let grown = super::resident(portolan.pid()).saturating_sub(before);
        assert!(grown < 128 << 20, "{mode:?}: {grown} bytes more");
    }
    eventually("nobody of them is left", async || {
        let open = portolan.metric("portolan_connections", &[]);
        (open.await == 0.0).then_some(())
    })
    .await;
    let label = ["reason=\"headers_too_slow\""];
    assert!(
        portolan
            .metric("portolan_refused_requests_total", &label)
            .await
            > 0.0
    );
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fast_clients_are_not_taken_for_abuse() {
    tools::need("h2load", "nghttp2-client").await;
    let origin = Origin::start("a").await;
    let config = [
        LISTENER,
        PROBES,
        &pools(&[("a", &[&origin], "")]),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    for (path, count, each) in [("/", "20000", "100"), ("/bytes?count=300000", "400", "20")] {
        let url = format!("http://{address}{path}");
        // A small window has clients say often that they have read.
        let args = [
            "-n", count, "-c", "4", "-m", each, "-w", "16", "-W", "16", &url,
        ];
        let output = run("h2load", &args).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let all = format!("{count} succeeded, 0 failed, 0 errored");
        assert!(said.contains(&all), "{said}");
        assert!(said.contains(&format!("{count} 2xx")), "{said}");
    }
    assert_eq!(
        portolan
            .metric("portolan_refused_connections_total", &[])
            .await,
        0.0
    );
    portolan.stop().await;
}
