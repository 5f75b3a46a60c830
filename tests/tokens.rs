//! Tokens: who is believed, what endpoints learn of it, and what becomes of it when keys change or
//! cannot be had.

use std::net::SocketAddr;

use http::Method;
use serde_json::{Value, json};

use crate::harness::certificates::Authority;
use crate::harness::client::Answer;
use crate::harness::config::{LISTENER, pools};
use crate::harness::issuer::{Does, Issuer, Service, base64, now};
use crate::harness::portolan::{command, replace, stdout};
use crate::harness::{Ask, Origin, Portolan, eventually};

fn config(origin: &Origin, keys: &str, routes: &str) -> String {
    let jwt = format!("keys: {keys}, issuer: joe, audience: [ api, web ]");
    [
        LISTENER,
        "defaults: { health: off }\naccess_log: { to: access.log }\n",
        &pools(&[("a", &[origin], "")]),
        &format!(
            "routes:
  - name: whole
    to: a
    auth: {{ jwt: {{ {jwt}, headers: {{ tenant: X-Tenant, /realm/roles: X-Roles }} }}, user_header: X-User }}
"
        ),
        &routes.replace("JWT", &jwt),
    ]
    .concat()
}

async fn with_file(origin: &Origin, issuer: &Issuer, routes: &str) -> Portolan {
    Portolan::with(&config(origin, "{ file: keys.json }", routes))
        .file("keys.json", issuer.keys().to_string())
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

async fn with_token(address: SocketAddr, path: &str, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    ask(address, path, &[("authorization", &bearer)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_verified_and_endpoints_learn_what_they_say() {
    let origin = Origin::start("a").await;
    let issuer = Issuer::new("k").await;
    let portolan = with_file(&origin, &issuer, "").await;
    let address = portolan.address().await;
    for header in [
        json!({ "alg": "RS256", "kid": "k-rsa", "typ": "at+jwt" }),
        json!({ "alg": "PS256", "kid": "k-rsa" }),
        json!({ "alg": "ES256", "kid": "k-curve" }),
        json!({ "alg": "EdDSA", "kid": "k-ed" }),
        json!({ "alg": "EdDSA" }),
    ] {
        let claims = json!({ "sub": "alice", "tenant": 7, "realm": { "roles": ["x", "y"] } });
        let token = issuer.sign(&header, &issuer.claims(&claims));
        let bearer = format!("Bearer {token}");
        let said = [
            ("authorization", bearer.as_str()),
            ("x-user", "root"),
            ("x_user", "root"),
            ("x-tenant", "all"),
            ("x-roles", "admin"),
        ];
        let answer = ask(address, "/echo", &said).await;
        assert_eq!(answer.status, 200, "{header}: {}", answer.text());
        let seen = &answer.json()["headers"];
        assert_eq!(seen["x-user"], "alice", "and not what the client says");
        assert_eq!(seen["x-tenant"], "7");
        assert_eq!(seen["x-roles"], "x,y");
        assert_eq!(seen["x_user"], Value::Null);
        assert_eq!(seen["authorization"], Value::Null, "it ends here");
    }
    // A claim that is not there is told by nobody, and nobody has what is told taken off.
    let token = issuer.token(&json!({ "sub": "bob" }));
    let bearer = format!("Bearer {token}");
    let said = [("authorization", bearer.as_str()), ("x-tenant", "all")];
    let answer = ask(address, "/echo", &said).await;
    assert_eq!(answer.json()["headers"]["x-tenant"], Value::Null);
    let hits = origin.hits();
    let said = [("authorization", bearer.as_str()), ("connection", "x-user")];
    assert_eq!(ask(address, "/echo", &said).await.status, 400);
    assert_eq!(origin.hits(), hits);
    let keys = portolan.api("/status").await["token_keys"].clone();
    assert_eq!(
        (&keys[0]["keys"], &keys[0]["routes"]),
        (&json!(3), &json!(["whole"]))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_lie_get_nowhere() {
    let origin = Origin::start("a").await;
    let issuer = Issuer::new("k").await;
    let stranger = Issuer::new("k").await;
    let portolan = with_file(&origin, &issuer, "").await;
    let address = portolan.address().await;
    let none = ask(address, "/", &[]).await;
    assert_eq!(none.status, 401);
    assert_eq!(
        none.header("www-authenticate"),
        "Bearer realm=\"restricted\""
    );
    assert_eq!(none.header("content-type"), "application/problem+json");

    let good = issuer.claims(&json!({ "sub": "alice" }));
    let with = |more: Value| issuer.claims(&more);
    let curve = json!({ "alg": "ES256", "kid": "k-curve" });
    let rsa = |alg: &str| json!({ "alg": alg, "kid": "k-rsa" });
    let of = |header: &Value, claims: &Value| issuer.sign(header, claims);
    let token = of(&curve, &good);
    let parts: Vec<&str> = token.split('.').collect();
    let forged = base64(with(json!({ "sub": "root" })).to_string());
    let unknown = "the token is signed with a key that is not known";
    let signature = "the signature of the token does not hold";
    let malformed = "the token is malformed";
    let lies = [
        (of(&json!({ "alg": "none" }), &good), malformed),
        (of(&json!({ "alg": "NONE" }), &good), malformed),
        (
            of(&rsa("HS256"), &good),
            "the token is not signed in a way that is allowed",
        ),
        (stranger.sign(&curve, &good), signature),
        (stranger.sign(&rsa("RS256"), &good), signature),
        (
            of(&json!({ "alg": "ES256", "kid": "other" }), &good),
            unknown,
        ),
        (
            of(&json!({ "alg": "ES256", "kid": "k-rsa" }), &good),
            unknown,
        ),
        (
            of(&curve, &with(json!({ "exp": now() - 61 }))),
            "the token has expired",
        ),
        (of(&curve, &with(json!({ "exp": null }))), malformed),
        (
            of(&curve, &with(json!({ "nbf": now() + 600 }))),
            "the token is not valid yet",
        ),
        (
            of(&curve, &with(json!({ "iss": "eve" }))),
            "the token was issued by somebody else",
        ),
        (
            of(&curve, &with(json!({ "aud": "other" }))),
            "the token is for somebody else",
        ),
        (
            of(&curve, &with(json!({ "aud": null }))),
            "the token is for somebody else",
        ),
        (format!("{}.{forged}.{}", parts[0], parts[2]), signature),
        (format!("{}.{}.", parts[0], parts[1]), signature),
        (format!("{}.{}", parts[0], parts[1]), malformed),
        ("a.b.c".to_owned(), malformed),
        ("x".repeat(20_000), "the token is too long"),
    ];
    for (token, why) in &lies {
        let answer = with_token(address, "/", token).await;
        assert_eq!(
            answer.status,
            401,
            "{why}: {}",
            &token[..token.len().min(200)]
        );
        assert_eq!(
            answer.header("www-authenticate"),
            format!(
                "Bearer realm=\"restricted\", error=\"invalid_token\", error_description=\"{why}\""
            )
        );
    }
    // Two tokens are none.
    let bearer = format!("Bearer {token}");
    let twice = [
        ("authorization", bearer.as_str()),
        ("authorization", bearer.as_str()),
    ];
    assert_eq!(ask(address, "/", &twice).await.status, 401);
    assert_eq!(origin.hits(), 0);
    assert_eq!(with_token(address, "/", &token).await.status, 200);
    let refused = "portolan_refused_requests_total";
    let reason = ["reason=\"invalid_token\""];
    portolan
        .wait_for_metric(refused, &reason, lies.len() as f64)
        .await;
    let reason = ["reason=\"unauthenticated\""];
    portolan.wait_for_metric(refused, &reason, 2.0).await;
    let log = eventually("the access log says why", async || {
        let text = std::fs::read_to_string(portolan.folder().join("access.log")).ok()?;
        text.contains("the token has expired").then_some(text)
    })
    .await;
    assert!(!log.contains(parts[1]) && !portolan.log().contains(parts[1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_and_claims_are_asked_for_and_limits_go_by_claims() {
    let origin = Origin::start("a").await;
    let issuer = Issuer::new("k").await;
    let portolan = with_file(
        &origin,
        &issuer,
        "  - { path: /orders, to: a, auth: { jwt: { JWT, scopes: [ read, write ], claims: { tenant: [ acme, other ] } } } }
  - { path: /each, to: a, auth: { jwt: { JWT } }, rate_limit: { requests: 2, per: 1h, on: { jwt_claim: sub }, headers: true } }
  - { path: /few, to: a, auth: { jwt: { JWT } }, rate_limit: [ { name: few, requests: 2, per: 1h }, { name: who, requests: 1, per: 1h, on: { jwt_claim: sub } } ] }
",
    )
    .await;
    let address = portolan.address().await;
    for (claims, status, challenge) in [
        (json!({ "scope": "read write", "tenant": "acme" }), 200, ""),
        (
            json!({ "scp": ["write", "read"], "tenant": ["x", "other"] }),
            200,
            "",
        ),
        (
            json!({ "scope": "read", "tenant": "acme" }),
            403,
            "Bearer realm=\"restricted\", error=\"insufficient_scope\", scope=\"read write\"",
        ),
        (
            json!({ "scope": "read write", "tenant": "eve" }),
            403,
            "Bearer realm=\"restricted\", error=\"insufficient_scope\", error_description=\"the token lacks a claim\"",
        ),
    ] {
        let answer = with_token(address, "/orders", &issuer.token(&claims)).await;
        assert_eq!(answer.status, status, "{claims}");
        if status == 403 {
            assert_eq!(answer.header("www-authenticate"), challenge);
        }
    }
    let (alice, bob) = (json!({ "sub": "alice" }), json!({ "sub": "bob" }));
    let each = async |who: &Value| with_token(address, "/each", &issuer.token(who)).await;
    assert_eq!(
        each(&alice).await.header("ratelimit"),
        "\"limit\";r=1;t=1800"
    );
    // What is not believed takes nobody's token of the limit.
    let bearer = format!("{}x", issuer.token(&alice));
    assert_eq!(with_token(address, "/each", &bearer).await.status, 401);
    assert_eq!(each(&alice).await.status, 200);
    assert_eq!(
        each(&alice).await.status,
        429,
        "however many tokens she has"
    );
    assert_eq!(each(&bob).await.status, 200);
    // Limits by address come before anybody is asked who it is.
    let statuses = [
        ask(address, "/few", &[]).await.status,
        with_token(address, "/few", &issuer.token(&alice))
            .await
            .status,
        ask(address, "/few", &[]).await.status,
    ];
    assert_eq!(statuses, [401, 200, 429]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_stand_where_the_route_says_and_end_there() {
    let origin = Origin::start("a").await;
    let issuer = Issuer::new("k").await;
    let portolan = with_file(
        &origin,
        &issuer,
        "  - { path: /header, to: a, rewrite: { strip_prefix: /header }, auth: { jwt: { JWT, from: { header: X-Token } } } }
  - { path: /cookie, to: a, rewrite: { strip_prefix: /cookie }, auth: { jwt: { JWT, from: { cookie: session } } } }
  - { path: /sent, to: a, rewrite: { strip_prefix: /sent }, auth: { jwt: { JWT }, forward_authorization: true } }
",
    )
    .await;
    let address = portolan.address().await;
    let token = issuer.token(&json!({}));
    let (cookie, bearer) = (
        format!("a=1; session={token}; b=2"),
        format!("Bearer {token}"),
    );
    let seen = async |path: &str, said: &[(&str, &str)]| {
        let answer = ask(address, path, said).await;
        assert_eq!(answer.status, 200, "{path}");
        answer.json()["headers"].clone()
    };
    let headers = seen(
        "/header/echo",
        &[("x-token", &token), ("authorization", "mine")],
    )
    .await;
    assert_eq!(headers["x-token"], Value::Null);
    assert_eq!(headers["authorization"], "mine", "that was not asked for");
    let headers = seen("/cookie/echo", &[("cookie", &cookie)]).await;
    assert_eq!(headers["cookie"], "a=1; b=2");
    let headers = seen("/sent/echo", &[("authorization", &bearer)]).await;
    assert_eq!(headers["authorization"], bearer.as_str());
    for (path, said) in [
        ("/header", ("authorization", &bearer)),
        ("/cookie", ("x-token", &token)),
    ] {
        assert_eq!(ask(address, path, &[(said.0, said.1)]).await.status, 401);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_keys_is_swapped_while_it_is_used() {
    let origin = Origin::start("a").await;
    let (old, new) = (Issuer::new("old").await, Issuer::new("new").await);
    let portolan = with_file(&origin, &old, "").await;
    let address = portolan.address().await;
    let status = async |issuer: &Issuer| {
        let token = issuer.token(&json!({}));
        with_token(address, "/", &token).await.status
    };
    assert_eq!((status(&old).await, status(&new).await), (200, 401));
    let file = portolan.folder().join("keys.json");
    let generation = portolan.generation().await;
    new.publish(&file);
    eventually("the new keys count", async || {
        (status(&new).await == 200).then_some(())
    })
    .await;
    assert_eq!(status(&old).await, 401);
    portolan.wait_for_log("3 keys of tokens from").await;
    // What cannot be used changes nothing, and is said.
    for bad in ["{ \"keys\": [", "{}", "{ \"keys\": [] }"] {
        replace(&file, bad);
        eventually("the bad file is seen", async || {
            let keys = portolan.api("/status").await["token_keys"][0].clone();
            keys["error"].as_str().map(str::to_owned)
        })
        .await;
        assert_eq!(status(&new).await, 200, "{bad}");
        new.publish(&file);
        eventually("the good file is seen", async || {
            portolan.api("/status").await["token_keys"][0]["error"]
                .is_null()
                .then_some(())
        })
        .await;
    }
    portolan.wait_for_log("those of before go on").await;
    assert_eq!(
        portolan.generation().await,
        generation,
        "the configuration is the same"
    );
    // A configuration whose keys were never good is refused as a whole.
    let other = config(&origin, "{ file: other.json }", "");
    std::fs::write(portolan.folder().join("other.json"), "[]").unwrap();
    let error = portolan.change_refused(&other).await;
    assert!(error.contains("other.json"), "{error}");
    assert_eq!(status(&new).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_url_go_on_whatever_becomes_of_it() {
    let origin = Origin::start("a").await;
    let (old, new) = (Issuer::new("old").await, Issuer::new("new").await);
    let publisher = Service::start(Does::answer(500, &[], "")).await;
    let url = format!("http://{}/keys?client=secret", publisher.address);
    let keys = format!("{{ url: \"{url}\", refresh: 1s, timeout: 500ms }}");
    let portolan = Portolan::start(&config(&origin, &keys, "")).await;
    let address = portolan.address().await;
    let token = |issuer: &Issuer| issuer.token(&json!({}));
    let answer = with_token(address, "/", &token(&old)).await;
    assert_eq!(answer.status, 503, "nobody can say");
    assert_eq!(answer.header("retry-after"), "5");
    assert_eq!(
        ask(address, "/", &[]).await.status,
        401,
        "and this was no question of keys"
    );
    let status = portolan.api("/status").await;
    assert_eq!(status["token_keys"][0]["keys"], 0);
    let warned = status["warnings"].to_string();
    assert!(
        warned.contains("so requests are refused") && !warned.contains("secret"),
        "{warned}"
    );
    portolan
        .wait_for_metric(
            "portolan_refused_requests_total",
            &["reason=\"no_keys\""],
            1.0,
        )
        .await;

    let publish = |issuer: &Issuer| {
        let body = issuer.keys().to_string();
        publisher.now(Does::answer(
            200,
            &[("content-type", "application/json")],
            &body,
        ));
    };
    publish(&old);
    eventually("there are keys", async || {
        (with_token(address, "/", &token(&old)).await.status == 200).then_some(())
    })
    .await;
    let failures = async || {
        let labels = ["outcome=\"failed\""];
        portolan
            .metric("portolan_token_key_looks_total", &labels)
            .await
    };
    let endless = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n".to_owned();
    for bad in [
        Does::answer(500, &[], ""),
        Does::answer(200, &[], "<html>"),
        Does::answer(200, &[], "{ \"keys\": [] }"),
        Does::answer(302, &[("location", "/elsewhere")], ""),
        Does::Says("SSH-2.0-OpenSSH\r\n".to_owned()),
        Does::HangsUp,
        Does::Drips(endless, " ".to_owned()),
        Does::Stalls,
    ] {
        publisher.now(bad.clone());
        let before = failures().await;
        eventually("it was asked once more", async || {
            (failures().await > before).then_some(())
        })
        .await;
        let answer = with_token(address, "/", &token(&old)).await;
        assert_eq!(answer.status, 200, "{bad:?}");
    }
    portolan.wait_for_log("no newer ones can be had").await;
    publish(&new);
    eventually("the other keys count", async || {
        (with_token(address, "/", &token(&new)).await.status == 200).then_some(())
    })
    .await;
    let events = portolan.api("/events").await.to_string();
    for kind in ["token_keys_failed", "token_keys_old", "token_keys_replaced"] {
        assert!(events.contains(kind), "{kind}: {events}");
    }
    assert!(
        !portolan.log().contains("secret"),
        "a URL's query is nobody's"
    );
}

/// RFC 7517, section 5: a key that cannot be used is left out, and the others count. A key that is not
/// there any more is not believed any more, whatever odd keys stand in its place.
#[tokio::test(flavor = "multi_thread")]
async fn odd_keys_are_left_out_and_withdrawn_ones_are_gone() {
    let origin = Origin::start("a").await;
    let (old, new) = (Issuer::new("old").await, Issuer::new("new").await);
    let publisher = Service::start(Does::answer(200, &[], &old.keys().to_string())).await;
    let url = format!("http://{}/keys", publisher.address);
    let keys = format!("{{ url: \"{url}\", refresh: 1s, timeout: 1s }}");
    let portolan = Portolan::start(&config(&origin, &keys, "")).await;
    let address = portolan.address().await;
    let status = async |issuer: &Issuer| {
        let token = issuer.token(&json!({}));
        with_token(address, "/echo", &token).await.status
    };
    assert_eq!((status(&old).await, status(&new).await), (200, 401));
    let odd = json!([
        { "kty": "EC", "crv": "P-256", "kid": "odd", "x": "AAAA" },
        { "kty": "RSA", "n": "!", "e": "AQAB" },
        { "kid": "odd" },
        7,
        { "kty": "EC", "crv": "P-521", "x": "AAAA", "y": "AAAA" },
    ]);
    let mut set = new.keys();
    let list = set["keys"].as_array_mut().unwrap();
    list.splice(0..0, odd.as_array().unwrap().clone());
    publisher.now(Does::answer(200, &[], &set.to_string()));
    eventually("the new keys are in use", async || {
        (status(&new).await == 200).then_some(())
    })
    .await;
    assert_eq!(status(&old).await, 401, "it was withdrawn");
    let entry = portolan.api("/status").await["token_keys"][0].clone();
    assert_eq!(
        (&entry["keys"], &entry["ignored"]),
        (&json!(3), &json!(1)),
        "{entry}"
    );
    assert_eq!(entry["faults"].as_array().unwrap().len(), 4, "{entry}");
    let events = portolan.api("/events").await;
    let told = events["events"]
        .as_array()
        .unwrap_or_else(|| events.as_array().unwrap());
    let told = told.iter().any(|event| {
        event["kind"] == "token_keys_replaced"
            && event["reason"]
                .as_str()
                .is_some_and(|why| why.contains("key 1 is left out"))
    });
    assert!(told, "{events}");
    // Nothing that could be used is left: what was withdrawn is not believed for all that.
    let unusable = json!({ "keys": [odd[4]] }).to_string();
    publisher.now(Does::answer(200, &[], &unusable));
    eventually("nobody is believed", async || {
        (status(&new).await == 401).then_some(())
    })
    .await;
    publisher.now(Does::answer(200, &[], &new.keys().to_string()));
    eventually("the new keys are back", async || {
        (status(&new).await == 200).then_some(())
    })
    .await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_nobody_knows_is_asked_for_before_its_time_but_not_too_often() {
    let origin = Origin::start("a").await;
    let (old, new) = (Issuer::new("old").await, Issuer::new("new").await);
    let good = |issuer: &Issuer| Does::answer(200, &[], &issuer.keys().to_string());
    let authority = Authority::new();
    let identity = authority.sign(&["localhost"]);
    let publisher = Service::start_tls(good(&old), identity.server_config(&[])).await;
    let port = publisher.address.port();
    let keys = format!("{{ url: \"https://localhost:{port}/keys\", ca: ca.pem, refresh: 1h }}");
    let portolan = Portolan::with(&config(&origin, &keys, ""))
        .file("ca.pem", authority.pem())
        .start()
        .await;
    let address = portolan.address().await;
    let token = old.token(&json!({}));
    assert_eq!(
        with_token(address, "/", &token).await.status,
        200,
        "from the first request on"
    );
    assert_eq!(publisher.asked(), 1);
    publisher.now(good(&new));
    let token = new.token(&json!({}));
    // It was asked just now: these are refused at once, and remembered.
    let answer = with_token(address, "/", &token).await;
    assert_eq!((answer.status, publisher.asked()), (401, 1));
    eventually(
        "the new keys are had, an hour before their time",
        async || (with_token(address, "/", &token).await.status == 200).then_some(()),
    )
    .await;
    assert_eq!(publisher.asked(), 2, "however many asked");
    assert!(publisher.heard()[0].starts_with("GET /keys HTTP/1.1\r\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_only_believed_of_whom_the_authority_vouches_for() {
    let origin = Origin::start("a").await;
    let issuer = Issuer::new("k").await;
    let identity = Authority::new().sign(&["localhost"]);
    let good = Does::answer(200, &[], &issuer.keys().to_string());
    let publisher = Service::start_tls(good, identity.server_config(&[])).await;
    let port = publisher.address.port();
    let keys = format!("{{ url: \"https://localhost:{port}/keys\", ca: ca.pem }}");
    let portolan = Portolan::with(&config(&origin, &keys, ""))
        .file("ca.pem", Authority::new().pem())
        .start()
        .await;
    let address = portolan.address().await;
    let token = issuer.token(&json!({}));
    assert_eq!(with_token(address, "/", &token).await.status, 503);
    let error = portolan.api("/status").await["token_keys"][0]["error"].to_string();
    assert!(error.contains("certificate"), "{error}");
    assert_eq!(publisher.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_a_token_is_explained() {
    let origin = Origin::start("a").await;
    let issuer = Issuer::new("k").await;
    let portolan = with_file(&origin, &issuer, "").await;
    let explain = async |headers: Value| {
        let body = json!({ "url": "http://x/", "headers": headers });
        Ask::new(Method::POST, "/api/v1/explain")
            .header("content-type", "application/json")
            .body(body.to_string())
            .to(portolan.admin())
            .await
            .unwrap()
            .json()["auth"]
            .clone()
    };
    let bearer = |token: &str| json!({ "authorization": format!("Bearer {token}") });
    assert_eq!(explain(json!({})).await["status"], 401);
    let good = issuer.token(&json!({ "sub": "alice" }));
    let said = explain(bearer(&good)).await;
    assert_eq!(
        said,
        json!({ "by": "jwt", "says": "passes as `alice`", "status": null })
    );
    let old = issuer.token(&json!({ "exp": 7 }));
    let said = explain(bearer(&old)).await;
    assert_eq!(
        (&said["says"], &said["status"]),
        (&json!("the token has expired"), &json!(401))
    );
    assert_eq!(origin.hits(), 0);
    // By the file alone, without the keys.
    let config = portolan.config_path();
    let header = format!("Authorization: Bearer {good}");
    let arguments = [
        "explain",
        "--config",
        config.to_str().unwrap(),
        "--header",
        &header,
        "http://x/",
    ];
    let output = command(&arguments).await;
    assert!(
        stdout(&output).contains("only a running instance can"),
        "{}",
        stdout(&output)
    );
}

/// A cookie that is out of date stands before the one that counts, or behind it.
#[tokio::test(flavor = "multi_thread")]
async fn of_several_cookies_the_first_token_that_is_believed_counts() {
    let origin = Origin::start("a").await;
    let issuer = Issuer::new("k").await;
    let stranger = Issuer::new("k").await;
    let routes = "  - { path: /cookie, to: a, rewrite: { strip_prefix: /cookie }, auth: { jwt: { JWT, from: { cookie: session }, scopes: [ read ] }, user_header: X-User } }
  - { path: /kept, to: a, rewrite: { strip_prefix: /kept }, auth: { jwt: { JWT, from: { cookie: session }, scopes: [ read ] }, user_header: X-User, forward_authorization: true } }
";
    let portolan = with_file(&origin, &issuer, routes).await;
    let address = portolan.address().await;
    let good = issuer.token(&json!({ "sub": "alice", "scope": "read" }));
    let forged = stranger.token(&json!({ "sub": "root", "scope": "read" }));
    let weak = issuer.token(&json!({ "sub": "alice" }));
    for bad in [forged.as_str(), weak.as_str(), "", "x.y.z"] {
        for cookie in [
            format!("session={bad}; session={good}"),
            format!("session={good}; session={bad}"),
            format!("a=1; session={bad}; b=2; session={bad}; session={good}; session={bad}"),
        ] {
            let answer = ask(address, "/cookie/echo", &[("cookie", &cookie)]).await;
            assert_eq!(answer.status, 200, "{cookie}: {}", answer.text());
            let seen = answer.json()["headers"].clone();
            assert_eq!(seen["x-user"], "alice");
            let left = seen["cookie"].as_str().unwrap_or_default().to_owned();
            assert!(
                !left.contains("session"),
                "none of them is passed on: {left}"
            );
            // An endpoint that gets the token gets the one that was believed, and no other.
            let answer = ask(address, "/kept/echo", &[("cookie", &cookie)]).await;
            let seen = answer.json()["headers"]["cookie"].clone();
            let seen = seen.as_str().unwrap();
            assert_eq!(seen.matches("session=").count(), 1, "{seen}");
            assert!(seen.contains(&format!("session={good}")), "{seen}");
        }
    }
    // None of them: what is objected to the one that came furthest.
    for (cookie, status) in [
        (format!("session={forged}; session={weak}"), 403),
        (format!("session={weak}; session={forged}"), 403),
        (format!("session={forged}; session=x"), 401),
        ("session=; a=1".to_owned(), 401),
    ] {
        let answer = ask(address, "/cookie/echo", &[("cookie", &cookie)]).await;
        assert_eq!(answer.status, status, "{cookie}");
    }
    portolan.stop().await;
}
