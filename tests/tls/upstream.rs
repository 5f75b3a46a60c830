//! TLS towards endpoints: identities that never mix, replaced while they are in use.

use super::{beside, renew};
use crate::harness::certificates::Authority;
use crate::harness::config::{LISTENER, pool};
use crate::harness::portolan::{command_in, replace, stderr, stdout};
use crate::harness::{Origin, Portolan, eventually, fetch};

/// A route to every pool, by its name.
fn routes(names: &[&str]) -> String {
    let route = |name: &&str| {
        format!(
            "  - {{ path: /{name}, to: {name}, retry: {{ tries: 1 }}, rewrite: {{ strip_prefix: /{name} }} }}\n"
        )
    };
    format!("routes:\n{}", names.iter().map(route).collect::<String>())
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_never_shared_between_identities() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let server = authority.sign(&["api.internal"]);
    let origin = Origin::start_tls("a", server.server_config_asking(&authority)).await;
    let show = ", client_cert: me.pem, client_key: me.key";
    let good = format!("server_name: api.internal, ca: ca.pem{show}");
    // All at one address, with one thing different in each.
    let pools = [
        ("good", good.clone()),
        ("other-ca", good.replace("ca.pem", "stranger.pem")),
        ("other-name", good.replace("api.internal", "other.internal")),
        ("nobody", "server_name: api.internal, ca: ca.pem".to_owned()),
        ("other-me", good.replace("me.", "other.")),
    ];
    let config = [
        LISTENER,
        "pools:\n",
        &pools
            .iter()
            .map(|(name, tls)| {
                pool(
                    name,
                    &[origin.address],
                    &format!(", health: off, outlier: off, tls: {{ {tls} }}"),
                )
            })
            .collect::<String>(),
        &routes(&pools.each_ref().map(|(name, _)| *name)),
    ]
    .concat();
    let builder = Portolan::with(&config)
        .file("ca.pem", authority.pem())
        .file("stranger.pem", stranger.pem());
    let builder = beside(builder, "me", &authority.sign(&["portolan"]));
    let builder = beside(builder, "other", &stranger.sign(&["portolan"]));
    let portolan = builder.start().await;
    let address = portolan.address().await;
    for round in 0..5 {
        // Leaves a connection behind that any of the others could take.
        assert_eq!(fetch(address, "/good/echo").await.status, 200, "{round}");
        for name in ["other-ca", "other-name", "nobody", "other-me"] {
            let answer = fetch(address, &format!("/{name}/echo")).await;
            assert_eq!(answer.status, 502, "{name}: {}", answer.text());
        }
    }
    assert_eq!(origin.hits(), 5);
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_identity_is_used_at_once_and_the_old_one_s_connections_no_more() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let server = authority.sign(&["api.internal"]);
    let origin = Origin::start_tls("a", server.server_config_asking(&stranger)).await;
    let tls = "server_name: api.internal, ca: ca.pem, client_cert: me.pem, client_key: me.key";
    let config = [
        LISTENER,
        "pools:\n",
        &pool(
            "a",
            &[origin.address],
            &format!(", outlier: off, health: {{ http: /health, every: 100ms, timeout: 1s, down_after: 1, up_after: 1 }}, tls: {{ {tls} }}"),
        ),
        "routes: [ { to: a, retry: { tries: 1 } } ]\n",
    ]
    .concat();
    let builder = Portolan::with(&config).file("ca.pem", authority.pem());
    let wrong = authority.sign(&["portolan"]);
    let portolan = beside(builder, "me", &wrong).start().await;
    let address = portolan.address().await;
    let folder = portolan.folder();
    // Probes show the same certificate, and it is not the right one.
    portolan.wait_for_pool("a", false).await;
    renew(folder, "me", &stranger.sign(&["portolan"]));
    portolan.wait_for_pool("a", true).await;
    assert_eq!(fetch(address, "/echo").await.status, 200);
    // Bad files change nothing.
    let key = std::fs::read_to_string(folder.join("me.key")).unwrap();
    replace(&folder.join("me.key"), &wrong.key);
    portolan.wait_for_log("does not belong").await;
    eventually("it is told", async || {
        let faults = portolan.api("/certificates").await["faults"].clone();
        (faults[0]["of"] == "pool a").then_some(())
    })
    .await;
    assert_eq!(fetch(address, "/echo").await.status, 200);
    replace(&folder.join("me.key"), &key);
    eventually("it is mended", async || {
        let listed = portolan.api("/certificates").await;
        listed["faults"].as_array()?.is_empty().then_some(())
    })
    .await;
    // Another CA: the endpoint is not known any more, however many connections to it lie idle.
    assert_eq!(fetch(address, "/echo").await.status, 200);
    let hits = origin.hits();
    replace(&folder.join("ca.pem"), &stranger.pem());
    portolan.wait_for_pool("a", false).await;
    let answer = fetch(address, "/echo").await;
    assert_ne!(answer.status, 200, "{}", answer.text());
    assert_eq!(origin.hits(), hits);
    replace(&folder.join("ca.pem"), &authority.pem());
    portolan.wait_for_pool("a", true).await;
    assert_eq!(fetch(address, "/echo").await.status, 200);
    // None of it was a new configuration.
    assert_eq!(
        portolan
            .metric("portolan_config_reloads_total", &["applied"])
            .await,
        0.0
    );
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_verify_is_told_again_and_again() {
    let server = Authority::new().sign(&["api.internal"]);
    let origin = Origin::start_tls("a", server.server_config(&["h2", "http/1.1"])).await;
    let tls = ", tls: { server_name: other.internal, insecure: true }";
    let config = [
        LISTENER,
        "pools:\n",
        &pool("a", &[origin.address], tls),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let words = "the certificates of the pool `a` are not verified";
    let portolan = Portolan::start(&config).await;
    assert!(portolan.log().contains(words), "{}", portolan.log());
    assert_eq!(fetch(portolan.address().await, "/echo").await.status, 200);
    let status = portolan.api("/status").await;
    assert!(status["warnings"].to_string().contains(words), "{status}");
    let checked = command_in(portolan.folder(), &["check", "--config", "portolan.yaml"]).await;
    let said = stdout(&checked) + &stderr(&checked);
    assert!(
        said.contains("warning[insecure]") && said.contains(words),
        "{said}"
    );
    portolan.stop().await;
}
