//! The command, as people and scripts use it: what it prints where, and with which exit status.

use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::config::{LISTENER, PROBES, pools};
use crate::harness::portolan::{command, command_in, command_with, stderr, stdout};
use crate::harness::{Origin, Portolan, eventually, fetch, soon};

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

/// Runs a command in a folder with these files.
async fn run(files: &[(&str, &str)], args: &[&str]) -> Output {
    command_in(folder(files).path(), args).await
}

#[track_caller]
fn assert_exit(output: &Output, code: i32) {
    let said = (stdout(output), stderr(output));
    assert_eq!(output.status.code(), Some(code), "{said:?}");
}

/// The only document that a command printed.
#[track_caller]
fn json(output: &Output) -> Value {
    let text = stdout(output);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

const GOOD: &str = "\
listeners: [ { bind: '127.0.0.1:0' } ]
admin: { bind: '127.0.0.1:0' }
client_ip: { trusted: [ 127.0.0.1 ] }
pools:
  us: { cloud: aws, region: us-east-1, endpoints: [ '127.0.0.1:1' ] }
  eu: { cloud: gcp, region: europe-west1, endpoints: [ '127.0.0.1:2' ] }
services:
  everywhere: { split: { us: 70, eu: 30 } }
routes:
  - name: europeans
    host: api.example.com
    to: { geo: [ { clients: { continents: [ EU ] }, to: eu }, { to: everywhere } ] }
  - { name: orders, host: api.example.com, path: /orders, methods: [ POST ], to: us }
  - { name: testers, host: api.example.com, headers: { x-test: 'yes' }, to: eu }
tests:
  - { name: everybody else is split, request: { host: api.example.com }, expect: { share: { us: 70 } } }
  - { name: Germans stay, client: { country: DE }, request: { host: api.example.com }, expect: { only: [ eu ] } }
";

// === check ===

#[tokio::test]
async fn what_is_no_file_is_refused_and_never_waited_for() {
    let folder = folder(&[
        ("portolan.yaml", GOOD),
        ("secret.txt", "long enough to be one"),
    ]);
    let at = |name: &str| folder.path().join(name);
    let pipe = |name: &str| {
        let made = std::process::Command::new("mkfifo").arg(at(name)).status();
        assert!(made.unwrap().success());
    };
    pipe("pipe");
    pipe("geo.mmdb");
    std::fs::create_dir(at("folder")).unwrap();
    let write = |name: &str, line: &str| {
        std::fs::write(at(name), format!("{line}\n{GOOD}")).unwrap();
    };
    write("include.yaml", "include: [ pipe ]");
    write("value.yaml", "state_dir: '${file:pipe}'");
    write("database.yaml", "geoip: { database: geo.mmdb }");
    for (config, named, what) in [
        ("pipe", "pipe", "a named pipe"),
        ("folder", "folder", "a folder"),
        ("/dev/zero", "/dev/zero", "a device"),
        ("include.yaml", "pipe", "a named pipe"),
        ("value.yaml", "pipe", "a named pipe"),
        ("database.yaml", "geo.mmdb", "a named pipe"),
    ] {
        let args = ["check", "--config", config];
        let output = soon("an answer", command_in(folder.path(), &args)).await;
        assert_ne!(output.status.code(), Some(0), "{config}");
        let said = format!("{}{}", stdout(&output), stderr(&output));
        assert!(said.contains(named), "{said}");
        assert!(
            said.contains(&format!("it is {what}, not a file")),
            "{said}"
        );
    }
}

#[tokio::test]
async fn an_explanation_says_by_what_the_place_of_a_client_is_known() {
    let patched = format!("{GOOD}geoip: {{ patch: {{ 10.0.0.0/8: DE }} }}\n");
    let folder = folder(&[("portolan.yaml", &patched)]);
    for (client, says) in [
        ("10.1.2.3", "DE (geoip.patch 10.0.0.0/8)"),
        ("192.168.1.1", "- (the address is private: in no country)"),
        ("133.11.0.1", "JP (database: built in)"),
        (
            "64:ff9b::133.11.0.1",
            "JP (database: built in, for 133.11.0.1)",
        ),
    ] {
        let args = [
            "explain",
            "--config",
            "portolan.yaml",
            "--client-ip",
            client,
            "http://api.example.com/",
        ];
        let output = command_in(folder.path(), &args).await;
        assert_exit(&output, 0);
        assert!(stdout(&output).contains(says), "{}", stdout(&output));
    }
}

#[tokio::test]
async fn a_good_file_is_fine() {
    let output = run(
        &[("portolan.yaml", GOOD)],
        &["check", "--config", "portolan.yaml"],
    )
    .await;
    assert_exit(&output, 0);
    let said = stdout(&output);
    let mut lines = said.lines();
    assert_eq!(
        lines.next(),
        Some("portolan.yaml: fine, and its 2 tests hold")
    );
    // The bound of an endpoint that is asked every 5s for at most 2s, and believed dead after 3
    // failures, the last two of them after 1s each: and a little, for telling everybody.
    let bound = lines.next().unwrap();
    assert!(
        bound.starts_with("a dead endpoint is left within 13."),
        "{said}"
    );
    assert!(bound.ends_with(": us, eu"), "{said}");
    assert_eq!(lines.next(), None, "{said}");
    assert_eq!(stderr(&output), "");
    for format in [&["--format", "json"][..], &["--json"][..]] {
        let args = [&["check", "--config", "portolan.yaml"], format].concat();
        let output = run(&[("portolan.yaml", GOOD)], &args).await;
        assert_exit(&output, 0);
        let report = json(&output);
        assert_eq!(report["errors"], 0);
        assert_eq!(report["diagnostics"], Value::Array(Vec::new()));
        let bound = report["failover_bounds_ms"]["us"].as_u64().unwrap();
        assert!((13_000..14_000).contains(&bound), "{report}");
    }
}

/// Problems of every stage and in several files.
const BAD: [(&str, &str); 3] = [
    (
        "portolan.yaml",
        "\
include: [ 'teams/*.yaml' ]
listeners: [ { bind: '127.0.0.1:0', tls: { certificates: [ { cert: none.pem, key: none.key } ] } } ]
geoip: { database: none.mmdb }
shutdown_timeout: 30
routes: [ { to: shop } ]
",
    ),
    (
        "teams/a.yaml",
        "\
pools:
  shops: { endpoints: [ '127.0.0.1:1' ], balanse: random }
",
    ),
    (
        "teams/b.yaml",
        "\
pools:
  books: { endpoints: [ '127.0.0.1:99999' ] }
  music: { cloud: aws, region: us-esat-1, endpoints: [ '127.0.0.1:2' ] }
routes: [ { path: /books, to: music } ]
releases: {}
",
    ),
];

#[tokio::test]
async fn every_problem_is_found_in_one_run_with_its_place() {
    let output = run(&BAD, &["check", "--config", "portolan.yaml"]).await;
    assert_exit(&output, 1);
    let said = stderr(&output);
    for place in [
        "portolan.yaml:4:19",
        "teams/a.yaml:2:42",
        "teams/b.yaml:2:25",
        "teams/b.yaml:3:32",
        "teams/b.yaml:5:1",
    ] {
        assert!(said.contains(&format!("--> {place}\n")), "{place}: {said}");
    }
    for words in [
        "error[bad-unit]: `30` has no unit",
        "did you mean `30s`?",
        "error[unknown-key]: a pool has no key `balanse`",
        "did you mean `balance`?",
        "error[bad-value]: `127.0.0.1:99999` has a port above 65535",
        "error[unknown-region]: `us-esat-1` is not a region of aws",
        "did you mean `us-east-1`?",
        "error[not-available-yet]: `releases` is not available yet",
        "  |     ^^^^^",
    ] {
        let words = words.trim_start_matches(['|', ' ']);
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(
        !said.contains('\x1b'),
        "colours are for terminals: {said:?}"
    );
    assert_eq!(stdout(&output), "portolan.yaml: 5 errors\n");

    let output = run(&BAD, &["check", "--config", "portolan.yaml", "--json"]).await;
    assert_exit(&output, 1);
    assert_eq!(stderr(&output), "");
    let report = json(&output);
    assert_eq!(
        (&report["errors"], &report["warnings"]),
        (&5.into(), &0.into())
    );
    let found = report["diagnostics"].as_array().unwrap();
    let region = found
        .iter()
        .find(|d| d["code"] == "unknown-region")
        .unwrap();
    let place = &region["place"];
    assert_eq!(place["file"], "teams/b.yaml");
    assert_eq!((&place["line"], &place["column"]), (&3.into(), &32.into()));
    assert_eq!(
        (&place["end_line"], &place["end_column"]),
        (&3.into(), &41.into())
    );
    assert_eq!(region["help"], "did you mean `us-east-1`?");
    assert_eq!(region["severity"], "error");
}

#[tokio::test]
async fn a_misspelt_key_does_not_hide_a_misspelt_name() {
    let config = "\
listeners: [ { bind: '127.0.0.1:0' } ]
pools: { shop: { endpoints: [ '127.0.0.1:1' ], balanse: random } }
routes: [ { to: shpo } ]
";
    let output = run(&[("portolan.yaml", config)], &["check"]).await;
    assert_exit(&output, 1);
    let said = stderr(&output);
    assert!(said.contains("did you mean `balance`?"), "{said}");
    assert!(said.contains("did you mean `shop`?"), "{said}");
    // Here `shop` may be the very pool that could not be read: nothing is said about the name.
    let lost = config.replace("balanse: random", "balance: [ random ]");
    let output = run(
        &[("portolan.yaml", &lost.replace("shpo", "shop"))],
        &["check"],
    )
    .await;
    assert_eq!(
        stdout(&output),
        "portolan.yaml: 1 error\n",
        "{}",
        stderr(&output)
    );
    // And here every pool.
    let lost = config
        .replace("pools:", "poolz:")
        .replace("balanse", "balance");
    let output = run(
        &[("portolan.yaml", &lost.replace("shpo", "shop"))],
        &["check"],
    )
    .await;
    assert_eq!(
        stdout(&output),
        "portolan.yaml: 1 error\n",
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn what_a_file_names_must_be_there() {
    let config = "\
listeners: [ { bind: '127.0.0.1:0', tls: { certificates: [ { cert: none.pem, key: none.key } ] } } ]
geoip: { database: none.mmdb }
pools: { a: { endpoints: [ '127.0.0.1:1' ] } }
routes: [ { to: { geo: [ { clients: { countries: [ DE ] }, to: a }, { to: a } ] } } ]
";
    let output = run(&[("portolan.yaml", config)], &["check"]).await;
    assert_exit(&output, 1);
    let said = stderr(&output);
    assert!(said.contains("error[certificate]"), "{said}");
    assert!(said.contains("error[geo-database]"), "{said}");
    assert!(
        said.contains("none.pem") && said.contains("none.mmdb"),
        "{said}"
    );
}

#[tokio::test]
async fn warnings_are_said_and_are_no_failure() {
    let config = GOOD.replace(
        "services:",
        "  idle: { endpoints: [ '127.0.0.1:3' ] }\nservices:",
    );
    let files = [("portolan.yaml", config.as_str())];
    let output = run(&files, &["check"]).await;
    assert_exit(&output, 0);
    assert!(
        stdout(&output).starts_with("portolan.yaml: 1 warning\n"),
        "{}",
        stdout(&output)
    );
    assert!(
        stderr(&output).contains("warning[unused-pool]"),
        "{}",
        stderr(&output)
    );
    let report = json(&run(&files, &["check", "--json"]).await);
    assert_eq!(report["diagnostics"][0]["severity"], "warning");
}

#[tokio::test]
async fn a_test_of_the_file_that_fails_is_an_error() {
    let config = GOOD.replace("only: [ eu ]", "only: [ us ]");
    let output = run(&[("portolan.yaml", &config)], &["check"]).await;
    assert_exit(&output, 1);
    let said = stderr(&output);
    assert!(
        said.contains("error[test-failed]") && said.contains("Germans stay"),
        "{said}"
    );
}

#[tokio::test]
async fn files_are_looked_for_where_they_are_said_to_be() {
    let output = run(&[], &["check", "--config", "none.yaml"]).await;
    assert_exit(&output, 1);
    assert!(
        stderr(&output).contains("cannot read `none.yaml`"),
        "{}",
        stderr(&output)
    );
    // Without --config, ./portolan.yaml: /etc is somebody else's on a test machine.
    if !Path::new("/etc/portolan/portolan.yaml").exists() {
        let output = run(&[], &["check"]).await;
        assert_exit(&output, 1);
        let said = stderr(&output);
        assert!(said.contains("./portolan.yaml"), "{said}");
        assert!(said.contains("/etc/portolan/portolan.yaml"), "{said}");
        assert!(said.contains("--config"), "{said}");
    }
    let output = run(&[("portolan.yaml", GOOD)], &["check"]).await;
    assert_exit(&output, 0);
    let output = run(&[("deep/er.yaml", GOOD)], &["check", "-c", "deep/er.yaml"]).await;
    assert_exit(&output, 0);
}

#[tokio::test]
async fn wrong_usage_is_2() {
    for args in [
        &["check", "--bogus"][..],
        &["chekc"],
        &[],
        &["explain"],
        &["explain", "--client-ip", "somewhere", "http://a/"],
        &["check", "--json", "--format", "text"],
        &["check", "--format", "xml"],
        &["demo", "--port", "99999"],
    ] {
        let output = command(args).await;
        assert_exit(&output, 2);
        assert!(
            stderr(&output).contains("--help"),
            "{args:?}: {}",
            stderr(&output)
        );
        assert_eq!(stdout(&output), "", "{args:?}");
    }
    let output = command(&["--version"]).await;
    assert_exit(&output, 0);
    assert_eq!(
        stdout(&output),
        format!("portolan {}\n", env!("CARGO_PKG_VERSION"))
    );
}

// === show, schema ===

#[tokio::test]
async fn show_says_what_is_written_and_what_that_means() {
    let files = [
        (
            "portolan.yaml",
            "include: [ pools.yaml ]\ndefaults: { health: { every: 7s } }\nroutes: [ { to: a } ]\nlisteners: [ { bind: '127.0.0.1:0' } ]\n",
        ),
        (
            "pools.yaml",
            "pools: { a: { endpoints: [ '127.0.0.1:1' ] } }\n",
        ),
    ];
    let written = stdout(&run(&files, &["show"]).await);
    assert!(written.contains("to: a"), "{written}");
    assert!(written.contains("# portolan.yaml:3:17"), "{written}");
    assert!(written.contains("# pools.yaml:1:28"), "{written}");
    assert!(!written.contains("# default"), "{written}");

    let effective = run(&files, &["show", "--effective"]).await;
    assert_exit(&effective, 0);
    let effective = stdout(&effective);
    for (value, from) in [
        ("every: 7s", "# portolan.yaml:2:30 (defaults)"),
        ("timeout: 2s", "# default"),
        ("startup_grace: 3s", "# default"),
        ("bind: 127.0.0.1:9470", "# default"),
        ("- address: 127.0.0.1:1", "# pools.yaml:1:28"),
    ] {
        let said = effective.lines().any(|line| {
            line.trim_start().starts_with(value) && line.ends_with(&format!(" {from}"))
        });
        assert!(said, "{value} {from}: {effective}");
    }
    // What is shown is a configuration, and the same one.
    let again = run(&[("portolan.yaml", &effective)], &["show", "--effective"]).await;
    assert_exit(&again, 0);
    let values = |text: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.split("  #").next());
        lines.map(|line| line.trim_end().to_owned()).collect()
    };
    assert_eq!(values(&stdout(&again)), values(&effective));

    let document = json(&run(&files, &["show", "--effective", "--json"]).await);
    assert_eq!(document["pools"]["a"]["health"]["every"], "7s");
    assert_eq!(document["services"], Value::Object(Default::default()));
    let document = json(&run(&files, &["show", "--json"]).await);
    assert_eq!(document["routes"][0]["to"], "a");
    assert_eq!(document["pools"]["a"].as_object().unwrap().len(), 1);
}

#[tokio::test]
async fn secrets_are_never_printed() {
    const SECRETS: [&str; 3] = [
        "hidden-in-the-file-itself",
        "hidden-in-the-environment",
        "hidden-in-a-secret-file",
    ];
    let config = format!(
        "\
admin:
  tokens:
    - {{ name: a, role: viewer, token: {} }}
    - {{ name: b, role: viewer, token: '${{env:TOKEN}}' }}
    - {{ name: c, role: viewer, token: '${{file:token}}' }}
listeners: [ {{ bind: '127.0.0.1:0' }} ]
pools: {{ a: {{ cloud: '${{file:token}}', endpoints: [ '127.0.0.1:1' ] }} }}
routes: [ {{ to: a }} ]
",
        SECRETS[0]
    );
    let folder = folder(&[("portolan.yaml", &config), ("token", SECRETS[2])]);
    // Broken beside the secret: the picture of the line shows it.
    let broken = config.replace("role: viewer", "role: king");
    std::fs::write(folder.path().join("broken.yaml"), broken).unwrap();
    for args in [
        &["show"][..],
        &["show", "--json"],
        &["show", "--effective"],
        &["show", "--effective", "--json"],
        &["check"],
        &["check", "--json"],
        &["check", "--config", "broken.yaml"],
        &["check", "--config", "broken.yaml", "--json"],
    ] {
        let output = command_with(folder.path(), &[("TOKEN", SECRETS[1])], args).await;
        let all = stdout(&output) + &stderr(&output);
        assert!(all.len() > 10, "{args:?}: {all}");
        for secret in SECRETS {
            assert!(!all.contains(secret), "{args:?} prints {secret}:\n{all}");
        }
        if args[0] == "show" {
            assert_exit(&output, 0);
            assert!(all.contains("•••"), "{args:?}: {all}");
        }
    }
}

#[tokio::test]
async fn show_of_a_broken_file_shows_what_is_broken() {
    let output = run(&BAD, &["show"]).await;
    assert_exit(&output, 1);
    assert_eq!(stdout(&output), "");
    assert!(
        stderr(&output).contains("error[unknown-region]"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn the_schema_is_printed() {
    let output = command(&["schema"]).await;
    assert_exit(&output, 0);
    assert_eq!(json(&output), portolan_config::json_schema());
}

#[tokio::test]
async fn variables_of_the_environment_are_filled_in() {
    let config = GOOD.replace("'127.0.0.1:1'", "'127.0.0.1:${env:PORT}'");
    let folder = folder(&[("portolan.yaml", &config)]);
    let output = command_with(folder.path(), &[("PORT", "4711")], &["show", "--json"]).await;
    assert_eq!(
        json(&output)["pools"]["us"]["endpoints"][0],
        "127.0.0.1:4711"
    );
    let output = command_in(folder.path(), &["check"]).await;
    assert_exit(&output, 1);
    let said = stderr(&output);
    assert!(
        said.contains("error[expansion]") && said.contains("`PORT`"),
        "{said}"
    );
}

// === explain ===

/// What was asked, and what comes of it: the route, the pools with their shares, the client's place.
type Explained = (
    &'static [&'static str],
    &'static str,
    &'static [(&'static str, f64)],
    &'static str,
);

#[tokio::test]
async fn a_file_explains_where_requests_go() {
    const URL: &str = "https://api.example.com/orders";
    const GERMAN: &str = "85.214.132.117";
    let cases: [Explained; 6] = [
        (&[URL], "europeans", &[("us", 0.7), ("eu", 0.3)], "-"),
        (
            &["--client-ip", "8.8.8.8", URL],
            "europeans",
            &[("us", 0.7), ("eu", 0.3)],
            "US",
        ),
        (
            &["--client-ip", GERMAN, URL],
            "europeans",
            &[("eu", 1.0)],
            "DE",
        ),
        (
            &["--client-ip", GERMAN, "--method", "POST", URL],
            "orders",
            &[("us", 1.0)],
            "DE",
        ),
        (
            &["-X", "POST", "https://api.example.com/orders/7?x=y"],
            "orders",
            &[("us", 1.0)],
            "-",
        ),
        (
            &[
                "-H",
                "X-Test: yes",
                "-H",
                "x-other: no",
                "https://api.example.com/",
            ],
            "testers",
            &[("eu", 1.0)],
            "-",
        ),
    ];
    let folder = folder(&[("portolan.yaml", GOOD)]);
    let explain = &["explain", "--config", "portolan.yaml"][..];
    for (args, route, shares, client) in cases {
        let output = command_in(folder.path(), &[explain, args, &["--json"]].concat()).await;
        assert_exit(&output, 0);
        let said = json(&output);
        assert_eq!(
            (&said["route"], &said["client"]),
            (&route.into(), &client.into()),
            "{args:?}"
        );
        let pools = said["pools"].as_array().unwrap();
        assert_eq!(pools.len(), shares.len(), "{said}");
        for (pool, (name, share)) in pools.iter().zip(shares) {
            assert_eq!(pool["pool"], *name, "{said}");
            assert!(
                (pool["share"].as_f64().unwrap() - share).abs() < 1e-9,
                "{said}"
            );
            assert!(!pool["why"].as_str().unwrap().is_empty(), "{said}");
        }
    }

    let words = command_in(
        folder.path(),
        &[explain, &["--client-ip", GERMAN, URL]].concat(),
    )
    .await;
    let words = stdout(&words);
    for part in ["europeans", "DE", "100.0%", "eu"] {
        assert!(words.contains(part), "{words}");
    }
    let nobody = command_in(
        folder.path(),
        &[explain, &["https://example.org/"]].concat(),
    )
    .await;
    assert_exit(&nobody, 0);
    assert!(stdout(&nobody).contains("404"), "{}", stdout(&nobody));
}

#[tokio::test]
async fn explain_says_what_it_cannot_understand() {
    let folder = folder(&[("portolan.yaml", GOOD), ("bad.yaml", BAD[0].1)]);
    for (args, words) in [
        (&["portolan.yaml", "/orders"][..], "not a URL"),
        (&["portolan.yaml", "http://"], "not a URL"),
        (
            &["portolan.yaml", "-H", "x-test", "http://a/"],
            "not a header",
        ),
        (
            &["portolan.yaml", "-H", "x y: z", "http://a/"],
            "not a header name",
        ),
        (&["portolan.yaml", "-X", "G T", "http://a/"], "not a method"),
        (&["bad.yaml", "http://a/"], "error[bad-unit]"),
        (&["none.yaml", "http://a/"], "cannot read `none.yaml`"),
    ] {
        let output = command_in(folder.path(), &[&["explain", "--config"], args].concat()).await;
        assert_exit(&output, 1);
        let said = stderr(&output);
        assert!(said.contains(words), "{args:?}: {said}");
        assert_eq!(stdout(&output), "", "{args:?}");
    }
}

// === status, pools, reload, explain: a running instance ===

const TOKENS: &str = "\
admin:
  bind: '127.0.0.1:0'
  tokens:
    - { name: oncall, role: operator, token: operator-operator }
    - { name: watcher, role: viewer, token: viewer-viewer-viewer }
";

#[tokio::test(flavor = "multi_thread")]
async fn a_running_instance_is_asked() {
    let [up, down] = [Origin::start("up").await, Origin::start("down").await];
    down.set_health(503);
    let config = [
        LISTENER,
        PROBES,
        &pools(&[("good", &[&up], ", cloud: aws"), ("bad", &[&down], "")]),
        "routes: [ { name: all, to: { tiers: [ bad, good ] } } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    portolan.wait_for_pool("bad", false).await;
    assert_eq!(fetch(portolan.address().await, "/").await.status, 200);
    portolan
        .wait_for_metric("portolan_requests_total", &["route=\"all\""], 1.0)
        .await;
    let admin = format!("http://{}", portolan.admin());
    let here = Path::new(".");
    let ask = async |args: &[&str]| {
        let output = command_with(here, &[("PORTOLAN_ADMIN", &admin)], args).await;
        assert_exit(&output, 0);
        assert_eq!(stderr(&output), "", "{args:?}");
        output
    };

    let status = stdout(&ask(&["status"]).await);
    for part in [
        env!("CARGO_PKG_VERSION"),
        "ready",
        "generation",
        "1 of 2 up",
        "1, 1 of them 2xx",
        &portolan.address().await.to_string(),
    ] {
        assert!(status.contains(part), "{part}: {status}");
    }
    let status = json(&ask(&["status", "--json"]).await);
    assert_eq!(status["state"], "ready");
    assert_eq!(status["requests"]["total"], 1);

    let words = stdout(&ask(&["pools"]).await);
    let row = |text: &str, start: &str| {
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with(start));
        line.unwrap_or_else(|| panic!("no {start}: {text}"))
            .to_owned()
    };
    assert!(row(&words, "good").contains("up 100%"), "{words}");
    assert!(row(&words, "bad").contains("down 0%"), "{words}");
    assert!(
        row(&words, &up.address.to_string()).contains("healthy"),
        "{words}"
    );
    let failing = row(&words, &down.address.to_string());
    assert!(
        failing.contains("unhealthy") && failing.contains("503"),
        "{words}"
    );
    let pools = json(&ask(&["pools", "--json"]).await);
    assert_eq!(
        (&pools[0]["name"], &pools[0]["cloud"]),
        (&"good".into(), &"aws".into())
    );
    assert_eq!(pools[1]["up"], false);

    // Live: the second tier, because the first is down. By the file, everything is healthy.
    let live = json(&ask(&["explain", "--json", "http://a/"]).await);
    assert_eq!(live["pools"][0]["pool"], "good");
    let path = portolan.config_path();
    let offline = [
        "explain",
        "--json",
        "--config",
        path.to_str().unwrap(),
        "http://a/",
    ];
    assert_eq!(json(&ask(&offline).await)["pools"][0]["pool"], "bad");

    let before = portolan.generation().await;
    let reloaded = json(&ask(&["reload", "--json"]).await);
    assert_eq!(reloaded["outcome"], "applied");
    assert!(
        reloaded["generation"].as_u64().unwrap() > before,
        "{reloaded}"
    );
    let words = stdout(&ask(&["reload"]).await);
    assert_eq!(
        words,
        format!("applied {}\n", reloaded["hash"].as_str().unwrap())
    );
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_reload_says_why() {
    let config = [
        LISTENER,
        "pools: { a: { endpoints: [ '127.0.0.1:1' ] } }\nroutes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    portolan
        .change_refused(&config.replace("to: a", "to: b"))
        .await;
    let admin = format!("http://{}", portolan.admin());
    let output = command(&["reload", "--admin", &admin]).await;
    assert_exit(&output, 1);
    let said = stderr(&output);
    assert!(said.contains("error[unknown-name]"), "{said}");
    assert!(said.contains("portolan.yaml:"), "{said}");
    assert!(said.contains("refused"), "{said}");
    assert_eq!(stdout(&output), "");
    let output = command(&["reload", "--admin", &admin, "--json"]).await;
    assert_exit(&output, 1);
    let problem = json(&output);
    assert_eq!(problem["status"], 422);
    assert_eq!(problem["report"]["diagnostics"][0]["code"], "unknown-name");
    // Status knows it, too.
    let status = stdout(&command(&["status", "--admin", &admin]).await);
    // As an address stands in the configuration, too.
    let bare = admin.strip_prefix("http://").unwrap();
    assert_exit(&command(&["status", "--admin", bare]).await, 0);
    assert!(
        status.contains("refused") && status.contains("unknown-name"),
        "{status}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_shown_where_they_are_needed() {
    let config = [
        LISTENER,
        TOKENS,
        "pools: { a: { endpoints: [ '127.0.0.1:1' ] } }\nroutes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let admin = format!("http://{}", portolan.admin());
    let ask = async |token: Option<&str>, args: &[&str]| {
        let mut env = vec![("PORTOLAN_ADMIN", admin.as_str())];
        env.extend(token.map(|token| ("PORTOLAN_TOKEN", token)));
        command_with(Path::new("."), &env, args).await
    };
    for args in [
        &["status"][..],
        &["pools"],
        &["reload"],
        &["explain", "http://a/"],
    ] {
        for token in [None, Some("wrong-wrong-wrong-wrong")] {
            let output = ask(token, args).await;
            assert_exit(&output, 1);
            let said = stderr(&output);
            assert!(said.contains("PORTOLAN_TOKEN"), "{args:?}: {said}");
            assert!(!said.contains("wrong-wrong"), "{said}");
        }
        assert_exit(&ask(Some("operator-operator"), args).await, 0);
        let viewer = ask(Some("viewer-viewer-viewer"), args).await;
        if args == ["reload"] {
            assert_exit(&viewer, 1);
            let said = stderr(&viewer);
            assert!(said.contains("`watcher` may look, not change"), "{said}");
        } else {
            assert_exit(&viewer, 0);
        }
    }
    assert_exit(
        &ask(None, &["status", "--token", "viewer-viewer-viewer"]).await,
        0,
    );
}

#[tokio::test]
async fn nobody_there_is_said_plainly() {
    // Bound and closed again: for the moment, nobody's.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let admin = format!("http://{address}");
    for args in [
        &["status"][..],
        &["pools"],
        &["reload"],
        &["explain", "http://a/"],
        &["status", "--json"],
    ] {
        let output = command(&[args, &["--admin", &admin]].concat()).await;
        assert_exit(&output, 1);
        let said = stderr(&output);
        assert!(
            said.contains(&format!("no instance answers at {admin}")),
            "{said}"
        );
        assert!(said.contains("--admin"), "{said}");
        assert_eq!(stdout(&output), "");
    }
    // Somebody, but nobody who speaks the language.
    let origin = Origin::start("other").await;
    let output = command(&["status", "--admin", &format!("http://{}", origin.address)]).await;
    assert_exit(&output, 1);
    assert!(
        stderr(&output).contains("cannot be read"),
        "{}",
        stderr(&output)
    );
    let output = command(&["status", "--admin", "not a url"]).await;
    assert_exit(&output, 1);
}

#[tokio::test]
async fn output_that_cannot_be_written_is_a_failure() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_portolan"))
        .arg("schema")
        .stdout(full.unwrap())
        .stderr(std::process::Stdio::piped())
        .spawn();
    let output = output.unwrap().wait_with_output().await.unwrap();
    assert_exit(&output, 1);
    assert!(stderr(&output).contains("cannot write the output"));
    for flag in ["--help", "--version"] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
        let status = tokio::process::Command::new(env!("CARGO_BIN_EXE_portolan"))
            .arg(flag)
            .stdout(full.unwrap())
            .stderr(std::process::Stdio::null())
            .status();
        assert_eq!(status.await.unwrap().code(), Some(1), "{flag}");
    }
    // A reader that has seen enough is no failure.
    let enough = tokio::process::Command::new("bash")
        .args([
            "-c",
            "\"$0\" schema | head -c 1 >/dev/null; exit ${PIPESTATUS[0]}",
        ])
        .arg(env!("CARGO_BIN_EXE_portolan"))
        .output();
    assert_exit(&enough.await.unwrap(), 0);
}

// === run ===

#[tokio::test]
async fn a_broken_configuration_does_not_start() {
    let output = run(&BAD, &["run", "--config", "portolan.yaml"]).await;
    assert_exit(&output, 1);
    let said = stderr(&output);
    for place in [
        "portolan.yaml:4:19",
        "teams/a.yaml:2:42",
        "teams/b.yaml:5:1",
    ] {
        assert!(said.contains(place), "{place}: {said}");
    }
    assert!(
        said.contains("the configuration cannot be used: 5 errors"),
        "{said}"
    );
    assert_eq!(stdout(&output), "");
    let failing = GOOD.replace("only: [ eu ]", "only: [ us ]");
    let output = run(&[("portolan.yaml", &failing)], &["run"]).await;
    assert_exit(&output, 1);
    assert!(
        stderr(&output).contains("error[test-failed]"),
        "{}",
        stderr(&output)
    );
    let output = run(&[], &["run", "--config", "none.yaml"]).await;
    assert_exit(&output, 1);
    assert!(
        stderr(&output).contains("cannot read `none.yaml`"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let listener = GOOD.replacen("127.0.0.1:0", &address, 1);
    let output = run(&[("portolan.yaml", &listener)], &["run"]).await;
    assert_exit(&output, 1);
    let said = stderr(&output);
    assert!(
        said.contains("error[cannot-bind]") && said.contains(&address),
        "{said}"
    );
    assert!(said.contains("portolan.yaml:1:"), "{said}");
    let admin = GOOD.replace(
        "admin: { bind: '127.0.0.1:0' }",
        &format!("admin: {{ bind: '{address}' }}"),
    );
    let output = run(&[("portolan.yaml", &admin)], &["run"]).await;
    assert_exit(&output, 1);
    let said = stderr(&output);
    assert!(said.contains("admin") && said.contains(&address), "{said}");
}

#[tokio::test]
async fn a_bad_number_of_workers_is_refused() {
    let folder = folder(&[("portolan.yaml", GOOD)]);
    for bad in ["0", "many", "1025"] {
        let output = command_with(folder.path(), &[("PORTOLAN_WORKERS", bad)], &["run"]).await;
        assert_exit(&output, 1);
        let said = stderr(&output);
        assert!(
            said.contains("PORTOLAN_WORKERS") && said.contains(bad),
            "{said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_configuration_that_ran_can_be_started_with() {
    let origin = Origin::start("kept").await;
    let config = [
        LISTENER,
        PROBES,
        "include: [ pools.yaml ]\nadmin: { bind: \"127.0.0.1:0\" }\naccess_log: off\nstate_dir: state\n",
        "routes: [ { to: a, request_headers: { set: { x-secret: \"${env:SECRET}\" } } } ]\n",
    ]
    .concat();
    let included = pools(&[("a", &[&origin], "")]);
    let builder = Portolan::with(&config)
        .file("pools.yaml", &included)
        .env("SECRET", "not to be kept");
    let mut first = builder.start().await;
    let hash = first.api("/status").await["config"]["hash"].clone();
    let kept = first.folder().join("state/last-known-good.json");
    let text = eventually("it is kept", async || std::fs::read_to_string(&kept).ok()).await;
    assert!(
        text.contains("${env:SECRET}") && !text.contains("not to be kept"),
        "{text}"
    );
    first.signal(Signal::SIGTERM);
    assert!(first.ended().await.success());

    // The same folder, with a file that cannot be used: not without being told.
    let broken = config.replace("to: a", "to: nobody");
    std::fs::write(first.config_path(), &broken).unwrap();
    let env = [("SECRET", "not to be kept")];
    let output = command_with(first.folder(), &env, &["run"]).await;
    assert_exit(&output, 1);
    let output = command_with(
        Path::new("/"),
        &env,
        &["run", "--last-known-good", "--config", "/none.yaml"],
    )
    .await;
    assert_exit(&output, 1);
    assert!(
        stderr(&output).contains("no last known good one"),
        "{}",
        stderr(&output)
    );

    let again = Portolan::with(&broken)
        .file("pools.yaml", &included)
        .file("state/last-known-good.json", &text)
        .env("SECRET", "not to be kept")
        .arg("--last-known-good")
        .start()
        .await;
    again
        .wait_for_log("starting with the last known good one")
        .await;
    assert!(
        again.log().contains("error[unknown-name]"),
        "{}",
        again.log()
    );
    let status = again.api("/status").await;
    assert_eq!(status["config"]["last_known_good"], true);
    assert_eq!(status["config"]["hash"], hash);
    let echo = fetch(again.address().await, "/echo").await.json();
    assert_eq!(echo["headers"]["x-secret"], "not to be kept");
    let words = command(&["status", "--admin", &format!("http://{}", again.admin())]).await;
    assert!(
        stdout(&words).contains("the last known good one"),
        "{}",
        stdout(&words)
    );

    // Once the file is mended, it is used.
    again.write(&config.replace("x-secret", "x-mended"));
    eventually("the mended file is used", async || {
        let status = again.api("/status").await;
        (status["config"]["last_known_good"] == false).then_some(())
    })
    .await;
    let echo = fetch(again.address().await, "/echo").await.json();
    assert_eq!(echo["headers"]["x-mended"], "not to be kept");
    again.stop().await;
}
