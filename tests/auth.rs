//! Who somebody is: names and passwords, proved before a request goes anywhere.

use std::net::SocketAddr;

use serde_json::Value;

use crate::harness::client::Answer;
use crate::harness::config::{LISTENER, pools};
use crate::harness::{Ask, Origin, Portolan, eventually};

/// `wonderland`, by bcrypt with few rounds.
const ALICE: &str = "$2b$05$abcdefghijklmnopqrstuuA0vov2GDneHB3.8.cv9UF9g.RdvScIW";
/// `builder`, by Argon2 with little memory.
const BOB: &str =
    "$argon2id$v=19$m=64,t=2,p=1$c2FsdHNhbHRzYWx0$ak3Fm63+CLgKNJMpq4hUA2nRHp1k8Xr5nJ0x8F5/meA";

/// `name:password` as the header says it.
const AS_ALICE: &str = "Basic YWxpY2U6d29uZGVybGFuZA==";
const AS_BOB: &str = "Basic Ym9iOmJ1aWxkZXI=";
const AS_ALICE_BUT_WRONG: &str = "Basic YWxpY2U6YnVpbGRlcg==";
const AS_NOBODY: &str = "Basic bm9ib2R5OndvbmRlcmxhbmQ=";

fn config(origin: &Origin) -> String {
    [
        LISTENER,
        "defaults: { health: off }\naccess_log: { to: access.log }\n",
        &pools(&[("a", &[origin], "")]),
        &format!(
            "routes:
  - path: /
    to: a
    auth: {{ basic: {{ users: [ {{ name: alice, password: \"{ALICE}\" }} ], htpasswd: \"${{file:more.htpasswd}}\", realm: staff }}, user_header: X-User }}
    rate_limit: {{ requests: 1000, per: 1h }}
  - {{ path: /both, to: a, rewrite: {{ strip_prefix: /both }}, auth: {{ basic: {{ users: [ {{ name: alice, password: \"{ALICE}\" }} ] }}, forward_authorization: true }} }}
  - {{ path: /open, to: a }}
"
        ),
    ]
    .concat()
}

async fn start(origin: &Origin) -> Portolan {
    Portolan::with(&config(origin))
        .file("more.htpasswd", format!("# staff\nbob:{BOB}\n"))
        .start()
        .await
}

async fn ask(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut ask = Ask::get(path);
    for (name, value) in headers {
        ask = ask.header(name, value);
    }
    ask.to(address).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_passwords_are_asked_for_and_checked() {
    let origin = Origin::start("a").await;
    let portolan = start(&origin).await;
    let address = portolan.address().await;
    for said in [
        &[][..],
        &[("authorization", AS_ALICE_BUT_WRONG)],
        &[("authorization", AS_NOBODY)],
        &[("authorization", "Bearer abc")],
        &[("authorization", "Basic !")],
        &[("authorization", AS_ALICE), ("authorization", AS_BOB)],
    ] {
        let answer = ask(address, "/", said).await;
        assert_eq!(answer.status, 401, "{said:?}");
        assert_eq!(
            answer.header("www-authenticate"),
            "Basic realm=\"staff\", charset=\"UTF-8\""
        );
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    assert_eq!(origin.hits(), 0);
    for (said, name) in [(AS_ALICE, "alice"), (AS_BOB, "bob"), (AS_ALICE, "alice")] {
        let headers = [
            ("authorization", said),
            ("x-user", "root"),
            ("x_user", "root"),
        ];
        let answer = ask(address, "/echo", &headers).await;
        assert_eq!(answer.status, 200, "{name}");
        let seen = &answer.json()["headers"];
        assert_eq!(seen["x-user"], name, "and not what the client says");
        assert_eq!(seen["x_user"], Value::Null);
        assert_eq!(seen["authorization"], Value::Null, "it ends here");
    }
    // Once right is not right for ever after with another password.
    let wrong = [("authorization", AS_ALICE_BUT_WRONG)];
    assert_eq!(ask(address, "/", &wrong).await.status, 401);
    assert_eq!(ask(address, "/open", &[]).await.status, 200);
    let refused = "portolan_refused_requests_total";
    let reason = ["reason=\"unauthenticated\""];
    portolan.wait_for_metric(refused, &reason, 7.0).await;
    let text = eventually("the access log says why", async || {
        let text = std::fs::read_to_string(portolan.folder().join("access.log")).ok()?;
        (text.lines().count() == 11).then_some(text)
    })
    .await;
    assert!(text.contains("the route does not know this name and password"));
    for secret in ["wonderland", "d29uZGVybGFuZA", ALICE, BOB] {
        assert!(!text.contains(secret) && !portolan.log().contains(secret));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authorization_is_sent_on_where_asked() {
    let origin = Origin::start("a").await;
    let portolan = start(&origin).await;
    let address = portolan.address().await;
    let answer = ask(address, "/both/echo", &[("authorization", AS_ALICE)]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["headers"]["authorization"], AS_ALICE);
    let answer = ask(address, "/both/echo", &[("authorization", AS_BOB)]).await;
    assert_eq!(answer.status, 401, "bob is no user of this route");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_password_counts_at_once() {
    let origin = Origin::start("a").await;
    let portolan = start(&origin).await;
    let address = portolan.address().await;
    let as_bob = [("authorization", AS_BOB)];
    assert_eq!(ask(address, "/", &as_bob).await.status, 200);
    // Alice's password is bob's now.
    let file = portolan.folder().join("more.htpasswd");
    crate::harness::portolan::replace(&file, &format!("bob:{ALICE}\n"));
    eventually("the old password is worth nothing", async || {
        (ask(address, "/", &as_bob).await.status == 401).then_some(())
    })
    .await;
    let anew = [("authorization", "Basic Ym9iOndvbmRlcmxhbmQ=")];
    assert_eq!(ask(address, "/", &anew).await.status, 200);
}
