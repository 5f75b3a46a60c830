//! The examples: every one is a good file with tests of its own that hold, starts, and serves every
//! route that it has, once its addresses are those of this machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use http::Method;
use serde_json::{Map, Value, json};

use crate::harness::issuer::{Does, Issuer, Service};
use crate::harness::portolan::{command_in, stderr, stdout};
use crate::harness::{Ask, Origin, Portolan};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

/// Every example: `examples/NAME.yaml`, or `examples/NAME/portolan.yaml` with what it needs beside it.
fn examples() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder())
        .expect("there is a folder with examples")
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            if path.is_dir() {
                path.join("portolan.yaml")
            } else {
                path
            }
        })
        .filter(|path| path.is_file() && path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "there are no examples");
    found
}

/// An example as the command sees it: its files joined.
async fn written(path: &Path) -> Map<String, Value> {
    let output = command_in(
        path.parent().unwrap(),
        &["show", "--json", "--config", path.to_str().unwrap()],
    )
    .await;
    assert!(
        output.status.success(),
        "{}: {}",
        path.display(),
        stderr(&output)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn every_example_is_fine_and_its_tests_hold() {
    for path in examples() {
        let name = path.strip_prefix(folder()).unwrap().display().to_string();
        let output = command_in(&folder(), &["check", "--config", &name]).await;
        assert_eq!(stderr(&output), "", "{name}");
        let tests = match written(&path).await["tests"].as_array().map_or(0, Vec::len) {
            0 => panic!("{name} has no tests"),
            1 => "its test holds".to_owned(),
            tests => format!("its {tests} tests hold"),
        };
        let said = stdout(&output);
        assert_eq!(
            said.lines().next(),
            Some(&*format!("{name}: fine, and {tests}"))
        );
        assert!(output.status.success(), "{name}");
    }
}

#[test]
fn every_example_is_listed() {
    let list = std::fs::read_to_string(folder().join("README.md")).unwrap();
    for path in examples() {
        let name = path.strip_prefix(folder()).unwrap().display().to_string();
        assert!(
            list.contains(&name),
            "examples/README.md does not name {name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_starts_and_serves_every_route() {
    for path in examples() {
        let name = path.display();
        let mut config = written(&path).await;
        let origins = move_here(&mut config).await;
        let issuer = Issuer::new("k").await;
        let publisher = Service::start(Does::answer(200, &[], &issuer.keys().to_string())).await;
        publish_here(&mut config, &publisher);
        assert!(!origins.is_empty(), "{name} has no endpoints");
        let routes = config["routes"].as_array().unwrap().clone();
        assert!(!routes.is_empty(), "{name} has no routes");

        let portolan = Portolan::start(&as_yaml(&config)).await;
        let total = portolan.api("/status").await["pools"]["total"]
            .as_u64()
            .unwrap();
        for pool in portolan.api("/pools").await.as_array().unwrap() {
            let drained = pool["drained"] == true;
            portolan
                .wait_for_pool(pool["name"].as_str().unwrap(), !drained)
                .await;
        }
        assert_eq!(
            total,
            config["pools"].as_object().unwrap().len() as u64,
            "{name}"
        );
        let address = portolan.addresses().await[0];
        let known = portolan.api("/routes").await;
        for (route, known) in routes.iter().zip(known.as_array().unwrap()) {
            let label = known["name"].as_str().unwrap();
            let answer = sign_in(request(route), route, &issuer);
            let answer = answer.to(address).await.unwrap();
            assert_eq!(answer.status, 200, "{name}, {label}: {}", answer.text());
            assert!(
                origins.contains_key(answer.origin()),
                "{name}, {label}: {:?}",
                answer.headers
            );
            let label = format!("route=\"{label}\"");
            portolan
                .wait_for_metric("portolan_requests_total", &[&label], 1.0)
                .await;
        }
        portolan.stop().await;
    }
}

/// Rewrites what belongs to the machine that an example was meant for: addresses, and how often
/// endpoints are probed. The endpoints that take the place of its own, by their addresses there.
async fn move_here(config: &mut Map<String, Value>) -> BTreeMap<String, Origin> {
    let mut origins = BTreeMap::new();
    let pools = config["pools"].as_object_mut().unwrap();
    for pool in pools.values_mut() {
        for endpoint in pool["endpoints"].as_array_mut().unwrap() {
            let place = match endpoint.as_str() {
                Some(place) => place,
                None => ["address", "dns"]
                    .iter()
                    .find_map(|key| endpoint[key].as_str())
                    .unwrap(),
            };
            let place = place.to_owned();
            if !origins.contains_key(&place) {
                origins.insert(place.clone(), Origin::start(&place).await);
            }
            let here = json!(origins[&place].address.to_string());
            match endpoint.as_object_mut() {
                Some(long) => {
                    long.remove("dns");
                    long.insert("address".to_owned(), here);
                }
                None => *endpoint = here,
            }
        }
        let pool = pool.as_object_mut().unwrap();
        pool.remove("tls");
        probe_often(pool);
    }
    if let Some(defaults) = config.get_mut("defaults").and_then(Value::as_object_mut) {
        defaults.remove("tls");
        probe_often(defaults);
    }
    for listener in config["listeners"].as_array_mut().unwrap() {
        *listener = json!({ "bind": "127.0.0.1:0" });
    }
    for (key, value) in [
        ("admin", json!({ "bind": "127.0.0.1:0" })),
        ("access_log", json!("off")),
        ("state_dir", json!("state")),
    ] {
        config.insert(key.to_owned(), value);
    }
    // Tests name endpoints by where they were.
    for test in config
        .get_mut("tests")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        for down in test
            .get_mut("down")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some((pool, place)) = down.as_str().unwrap().split_once('/') {
                *down = json!(format!("{pool}/{}", origins[place].address));
            }
        }
    }
    origins
}

/// Has the keys of tokens published on this machine.
fn publish_here(config: &mut Map<String, Value>, publisher: &Service) {
    for route in config["routes"].as_array_mut().unwrap() {
        if let Some(jwt) = route.pointer_mut("/auth/jwt") {
            jwt["keys"] = json!({ "url": format!("http://{}/keys", publisher.address) });
        }
    }
}

/// Gives a request the token that its route asks for, if it does.
fn sign_in(ask: Ask, route: &Value, issuer: &Issuer) -> Ask {
    let Some(jwt) = route.pointer("/auth/jwt") else {
        return ask;
    };
    let first = |value: &Value| match value {
        Value::Array(several) => several[0].clone(),
        one => one.clone(),
    };
    let scopes: Vec<&str> = jwt["scopes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|scope| scope.as_str().unwrap())
        .collect();
    let mut claims = json!({
        "iss": first(&jwt["issuer"]),
        "aud": first(&jwt["audience"]),
        "scope": scopes.join(" "),
        "sub": "somebody",
    });
    for (name, values) in jwt["claims"].as_object().into_iter().flatten() {
        claims[name] = first(values);
    }
    ask.header(
        "authorization",
        &format!("Bearer {}", issuer.token(&claims)),
    )
}

/// As often as a test wants to wait, and with what the endpoints of tests say when they are well.
fn probe_often(of: &mut Map<String, Value>) {
    let Some(health) = of.get_mut("health").and_then(Value::as_object_mut) else {
        return;
    };
    health.insert("every".to_owned(), json!("100ms"));
    health.remove("fast_every");
    health.remove("port");
    if health.contains_key("http") {
        health.insert("http".to_owned(), json!("/health"));
    }
    if let Some(values) = health
        .get_mut("expect")
        .and_then(|expect| expect.get_mut("json"))
    {
        *values = json!({ "/status": "healthy" });
    }
    if let Some(expect) = health.get_mut("expect").and_then(Value::as_object_mut) {
        expect.remove("headers");
        expect.remove("body_contains");
    }
}

/// The same configuration as YAML: every section on a line of its own.
fn as_yaml(config: &Map<String, Value>) -> String {
    let sections = config
        .iter()
        .map(|(key, value)| format!("{key}: {value}\n"));
    sections.collect()
}

/// A request that a route takes.
fn request(route: &Value) -> Ask {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let host = text(&route["host"]).or_else(|| text(&route["hosts"][0]));
    let host = host.map_or("any.example".to_owned(), |host| host.replace('*', "any"));
    let path = match &route["path"] {
        Value::Null => "/".to_owned(),
        Value::String(prefix) => format!("{}/x", prefix.trim_end_matches('/')),
        long => match (text(&long["exact"]), text(&long["prefix"])) {
            (Some(path), _) | (None, Some(path)) => path,
            (None, None) => panic!("which path matches this? {long}"),
        },
    };
    let method = text(&route["methods"][0]).map_or(Method::GET, |method| method.parse().unwrap());
    let mut ask = Ask::new(method, &path).header("host", &host);
    for (name, value) in route["headers"].as_object().into_iter().flatten() {
        ask = ask.header(name, &text(value).unwrap_or_else(|| value.to_string()));
    }
    ask
}
