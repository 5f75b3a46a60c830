//! Many endpoints at once: half of them, all of a cloud, all clouds, and one that comes and goes.

use futures_util::future::join_all;
use http::Method;

use super::Papers;
use crate::harness::client::send_exactly;
use crate::harness::config::{LISTENER, PROBES, pools};
use crate::harness::{Ask, Load, Origin, Portolan, Wire, eventually, soon};

fn post() -> Ask {
    Ask::new(Method::POST, "/").body("once")
}

/// Two clouds of two endpoints each, 70 to 30, and what the pools say besides.
async fn two_clouds(
    papers: &Papers,
    wire: Wire,
    defaults: &str,
    rest: &str,
) -> (Portolan, [Vec<Origin>; 2]) {
    let mut clouds = [Vec::new(), Vec::new()];
    for (cloud, name) in clouds.iter_mut().zip(["aws", "azure"]) {
        for number in 1..=2 {
            let name = format!("{name}-{number}");
            cloud.push(wire.origin(&name, &papers.identity).await);
        }
    }
    let [aws, azure] = &clouds;
    let rest = format!("{}{rest}", wire.pool());
    let config = [
        LISTENER,
        defaults,
        &pools(&[
            ("aws", &aws.iter().collect::<Vec<_>>(), &rest),
            ("azure", &azure.iter().collect::<Vec<_>>(), &rest),
        ]),
        "routes: [ { name: all, to: { split: { aws: 70, azure: 30 } } } ]\n",
    ]
    .concat();
    (papers.portolan(&config).start().await, clouds)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_answers_503_costs_no_request_that_may_be_repeated() {
    let papers = Papers::new();
    join_all(Wire::ALL.map(async |wire| {
        // Its probes are fine: only requests tell.
        let (portolan, [aws, azure]) = two_clouds(&papers, wire, PROBES, "").await;
        let address = portolan.address().await;
        let load = Load::plain(address, 4);
        load.more(100).await;
        for origin in &aws {
            origin.set_status(503);
        }
        // What may not be repeated gets the endpoint's own answer, until it is left out.
        let tally = send_exactly(address, 100, 2, |_| post()).await;
        assert!(tally.failures.is_empty(), "{wire:?}: {:?}", tally.failures);
        let lost = tally.statuses.get(&503).copied().unwrap_or(0);
        assert_eq!(tally.from("aws"), lost, "{wire:?}");
        assert_eq!(tally.statuses.get(&200), Some(&(100 - lost)), "{wire:?}");
        for origin in &aws {
            portolan
                .wait_for_metric(
                    "portolan_endpoint_up",
                    &[&format!("\"{}\"", origin.address)],
                    0.0,
                )
                .await;
        }
        load.more(100).await;
        assert!(
            portolan
                .metric("portolan_retries_total", &["\"status\""])
                .await
                > 0.0
        );
        for origin in &aws {
            origin.set_status(200);
        }
        eventually(&format!("{wire:?}: it has its share again"), async || {
            let tally = send_exactly(address, 100, 2, |_| post()).await;
            (tally.from("aws") == 70).then_some(())
        })
        .await;
        load.stop().await.assert_flawless();
        assert!(azure.iter().all(|origin| origin.hits() > 0));
        portolan.stop().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_comes_and_goes_costs_no_request_that_may_be_repeated() {
    let papers = Papers::new();
    join_all(Wire::ALL.map(async |wire| {
        let (portolan, [aws, _azure]) = two_clouds(&papers, wire, PROBES, "").await;
        let load = Load::plain(portolan.address().await, 4);
        for period in 0..6 {
            load.more(60).await;
            match period % 2 {
                0 => aws[0].set_status(503),
                _ => aws[0].kill().await,
            }
            load.more(60).await;
            match period % 2 {
                0 => aws[0].set_status(200),
                _ => aws[0].revive().await,
            }
        }
        load.stop().await.assert_flawless();
        portolan.stop().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_the_endpoints_dead_costs_no_request() {
    let papers = Papers::new();
    join_all(Wire::ALL.map(async |wire| {
        // Nobody probes, nobody judges: every request finds out for itself.
        let off = "defaults: { health: off, outlier: off }\n";
        let (portolan, [aws, azure]) = two_clouds(&papers, wire, off, "").await;
        let address = portolan.address().await;
        let load = Load::plain(address, 2);
        load.more(50).await;
        aws[0].kill().await;
        azure[0].kill().await;
        // A connection that is refused has seen nothing of a request.
        send_exactly(address, 100, 2, |_| post())
            .await
            .assert_flawless();
        load.stop().await.assert_flawless();
        let refused = ["reason=\"connect\""];
        assert!(portolan.metric("portolan_retries_total", &refused).await >= 25.0);
        portolan.stop().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_clouds_dead_or_stalled_at_once_are_told_as_what_they_are() {
    let papers = Papers::new();
    join_all(Wire::ALL.map(async |wire| {
        let rest = ", timeouts: { first_byte: 500ms }";
        let (portolan, clouds) = two_clouds(&papers, wire, PROBES, rest).await;
        let address = portolan.address().await;
        let everybody = || clouds.iter().flatten();
        let told = async |status: u16, ask: fn() -> Ask| {
            let answer = soon("an answer", ask().to(address)).await.unwrap();
            assert_eq!(answer.status, status, "{wire:?}: {}", answer.text());
        };
        let all_is_well = async || {
            eventually(&format!("{wire:?}: all is well"), async || {
                let well = send_exactly(address, 20, 2, |_| post()).await;
                let aws = well.statuses.get(&200) == Some(&20) && well.from("aws") == 14;
                aws.then_some(())
            })
            .await;
        };
        all_is_well().await;
        for origin in everybody() {
            origin.kill().await;
        }
        for ask in [|| Ask::get("/"), post] {
            told(502, ask).await;
        }
        portolan
            .wait_for_metric("portolan_self_suspicion", &[], 1.0)
            .await;
        for ask in [|| Ask::get("/"), post] {
            told(502, ask).await;
        }
        for origin in everybody() {
            origin.revive().await;
        }
        all_is_well().await;
        for origin in everybody() {
            origin.freeze(true);
        }
        for ask in [|| Ask::get("/"), post] {
            told(504, ask).await;
        }
        for origin in everybody() {
            origin.freeze(false);
        }
        all_is_well().await;
        portolan.stop().await;
    }))
    .await;
}
