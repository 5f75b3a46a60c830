//! No secret is ever said, however its file is damaged and wherever it was put by mistake: every output
//! of every command and of a running process is searched for any 16 characters in a row, and for its
//! bytes as decimal numbers or in hexadecimal.

use std::fmt::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::Method;
use rcgen::KeyPair;

use crate::harness::certificates::{Authority, Identity};
use crate::harness::portolan::{Builder, command_with};
use crate::harness::{Ask, Portolan, eventually};

/// So many characters, or bytes, of a secret in a row are too many.
const WINDOW: usize = 16;

/// A token as somebody makes one.
const TOKEN: &str = "Zk7-hR2mQ9_xT4vB8nW1cY6pL3sD5gJ0";

/// What must not be found anywhere.
struct Secret {
    /// As characters.
    texts: Vec<String>,
    /// As bytes, each written in three ways.
    bytes: Vec<String>,
}

impl Secret {
    /// A text, and what it stands for if it is base64.
    fn new(text: &str) -> Self {
        let mut secret = Self {
            texts: Vec::new(),
            bytes: Vec::new(),
        };
        for line in text.lines().map(str::trim) {
            // Markers say what something is, and nothing about it.
            if line.starts_with("-----") || line.len() < WINDOW {
                continue;
            }
            secret.texts.push(line.to_owned());
            secret.add(line.as_bytes());
        }
        let body: String = (text.lines().filter(|line| !line.starts_with("-----")))
            .map(str::trim)
            .collect();
        if let Ok(der) = BASE64_STANDARD.decode(body) {
            secret.add(&der);
        }
        assert!(!secret.texts.is_empty(), "nothing to look for");
        secret
    }

    fn add(&mut self, bytes: &[u8]) {
        let written = |one: &dyn Fn(&u8) -> String, between: &str| {
            let all: Vec<String> = bytes.iter().map(one).collect();
            all.join(between)
        };
        self.bytes.extend([
            written(&|byte| byte.to_string(), ", "),
            written(&|byte| format!("{byte:02x}"), ""),
            written(&|byte| format!("{byte:02X}"), ""),
        ]);
    }

    /// The first part of it that stands in a text.
    fn found_in(&self, said: &str) -> Option<String> {
        let part = |secret: &String, window: usize| {
            let secret: Vec<char> = secret.chars().collect();
            (secret.windows(window))
                .map(|part| part.iter().collect::<String>())
                .find(|part| said.contains(part.as_str()))
        };
        let texts = self.texts.iter().find_map(|text| part(text, WINDOW));
        // Eight bytes in decimal, or sixteen in hexadecimal.
        texts.or_else(|| self.bytes.iter().find_map(|text| part(text, 2 * WINDOW)))
    }
}

#[test]
fn whatever_is_said_of_a_secret_is_found() {
    let secret = Secret::new("-----BEGIN X-----\nMIGHAgEAMBMGByqGSM49AgEG\n-----END X-----\n");
    let text = "MIGHAgEAMBMGByqGSM49AgEG";
    let der = BASE64_STANDARD.decode(text).unwrap();
    let hex: String = der.iter().map(|byte| format!("{byte:02x}")).collect();
    for said in [
        format!("it is `{}`", &text[3..3 + WINDOW]),
        format!("{:?}", &text.as_bytes()[2..14]),
        format!("{:?}", &der[2..14]),
        hex.to_uppercase(),
        hex,
    ] {
        assert!(secret.found_in(&said).is_some(), "{said}");
    }
    assert_eq!(secret.found_in("-----BEGIN X-----"), None);
    assert_eq!(secret.found_in("MIGHAgEAMBMGByq, and no more"), None);
}

/// A secret that was damaged, or put where it does not belong.
struct Shape {
    what: String,
    config: String,
    files: Vec<(String, Vec<u8>)>,
    secret: Secret,
}

/// What is damaged in a PEM file, and how.
fn damaged(pem: &str, more: &str) -> Vec<(&'static str, Vec<u8>)> {
    let lines: Vec<&str> = pem.lines().collect();
    let body = lines[1..lines.len() - 1].join("\n");
    let (first, last) = (lines[0], lines[lines.len() - 1]);
    let glued = |text: String| text.replace("-----\n-----", "----------");
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    vec![
        ("without line breaks", pem.replace('\n', "").into_bytes()),
        (
            "with spaces for line breaks",
            pem.replace('\n', " ").into_bytes(),
        ),
        (
            "with written line breaks",
            pem.replace('\n', "\\n").into_bytes(),
        ),
        ("without its end", format!("{first}\n{body}\n").into_bytes()),
        (
            "without its beginning",
            format!("{body}\n{last}\n").into_bytes(),
        ),
        ("without both", body.clone().into_bytes()),
        ("cut off", pem.as_bytes()[..pem.len() / 2].to_vec()),
        (
            "with a bad character",
            format!("{first}\n*{body}\n{last}\n").into_bytes(),
        ),
        (
            "with a character less",
            format!("{first}\n{}\n{last}\n", &body[1..]).into_bytes(),
        ),
        (
            "with a line less",
            pem.replacen(lines[1], "", 1).into_bytes(),
        ),
        (
            "with padding within",
            format!("{first}\nAA==\n{body}\n{last}\n").into_bytes(),
        ),
        (
            "with a line twice",
            pem.replacen(lines[1], &[lines[1]; 2].concat(), 1)
                .into_bytes(),
        ),
        (
            "glued to another",
            glued(format!("{pem}{more}")).into_bytes(),
        ),
        (
            "with its end on the last line",
            pem.replace("\n-----END", "-----END").into_bytes(),
        ),
        (
            "with its content on the first line",
            pem.replacen("-----\n", "-----", 1).into_bytes(),
        ),
        (
            "with four dashes",
            pem.replacen("-----BEGIN", "----BEGIN", 1).into_bytes(),
        ),
        (
            "with another end",
            pem.replacen("-----END ", "-----END X", 1).into_bytes(),
        ),
        (
            "as YAML",
            format!("key: |\n  {}", pem.replace('\n', "\n  ")).into_bytes(),
        ),
        ("in quotes", format!("\"{pem}\"").into_bytes()),
        ("in UTF-16", utf16(pem)),
        (
            "of another kind",
            pem.replace("PRIVATE", "PUBLIC").into_bytes(),
        ),
        (
            "as a certificate",
            pem.replace("PRIVATE KEY", "CERTIFICATE").into_bytes(),
        ),
        (
            "as an RSA key",
            pem.replace("PRIVATE", "RSA PRIVATE").into_bytes(),
        ),
        (
            "as an EC key",
            pem.replace("PRIVATE", "EC PRIVATE").into_bytes(),
        ),
        (
            "encrypted",
            pem.replace("PRIVATE", "ENCRYPTED PRIVATE").into_bytes(),
        ),
        (
            "as a list",
            pem.replace("PRIVATE KEY", "X509 CRL").into_bytes(),
        ),
        (
            "under a label of its own",
            pem.replace("PRIVATE KEY", TOKEN).into_bytes(),
        ),
        (
            "in DER",
            BASE64_STANDARD
                .decode(body.replace('\n', ""))
                .unwrap_or_default(),
        ),
    ]
}

const HEAD: &str = "log: { level: debug }\nadmin: { bind: \"127.0.0.1:0\" }\naccess_log: off\n";

/// A listener with this TLS, a pool with that, and what else there is.
fn config(listener: &str, pool: &str, route: &str, rest: &str) -> String {
    format!(
        "{HEAD}listeners: [ {{ bind: \"127.0.0.1:0\"{listener} }} ]
pools: {{ a: {{ endpoints: [ \"127.0.0.1:9\" ], health: off{pool} }} }}
routes: [ {{ name: r, to: a{route} }} ]
{rest}"
    )
}

const LISTENER: &str = ", tls: { certificates: [ { cert: good.pem, key: key.pem } ] }";
const POOL: &str = ", tls: { ca: good.pem, client_cert: good.pem, client_key: key.pem }";

/// Files with private keys, in every place that reads one.
fn keys(good: &Identity) -> Vec<Shape> {
    let mut shapes = Vec::new();
    let places = [
        ("a listener's key", config(LISTENER, "", "", "")),
        ("an endpoint's key", config("", POOL, "", "")),
    ];
    for (place, config) in &places {
        for (damage, content) in damaged(&good.key, &good.certificate) {
            let mut secret = Secret::new(&good.key);
            secret.texts.push(TOKEN.to_owned());
            shapes.push(Shape {
                what: format!("{place} {damage}"),
                config: config.clone(),
                files: vec![("key.pem".to_owned(), content)],
                secret,
            });
        }
    }
    // A key where something public belongs.
    let tls = "tls: { certificates: [ { cert: good.pem, key: good.key } ]";
    let wrong = [
        ("cert", config(", tls: { certificates: [ { cert: key.pem, key: good.key } ] }", "", "", "")),
        ("client_ca", config(&format!(", {tls}, client_ca: key.pem }}"), "", "", "")),
        ("client_crl", config(&format!(", {tls}, client_ca: good.pem, client_crl: key.pem }}"), "", "", "")),
        ("ocsp", config(", tls: { certificates: [ { cert: good.pem, key: good.key, ocsp: key.pem } ] }", "", "", "")),
        ("directory", config(", tls: { certificates: [ { directory: . } ] }", "", "", "")),
        ("an endpoint's ca", config("", ", tls: { ca: key.pem }", "", "")),
        ("keys of tokens", config("", "", ", auth: { jwt: { keys: { file: key.pem }, issuer: x, audience: y } }", "")),
        ("the CA of keys", config("", "", ", auth: { jwt: { keys: { url: \"https://127.0.0.1:9/x\", ca: key.pem }, issuer: x, audience: y } }", "")),
        ("geoip", config("", "", "", "geoip: { database: key.pem }\n")),
        ("include", config("", "", "", "include: [ key.pem ]\n")),
        ("a token", config("", "", "", "admin: { bind: \"127.0.0.1:0\", tokens: [ { name: a, role: nobody, token: \"${file:key.pem}\" } ] }\n").replacen("admin: { bind: \"127.0.0.1:0\" }\n", "", 1)),
        ("a name", config("", "", "", "").replace("name: r", "name: \"${file:key.pem}\"")),
        ("a target", config("", "", "", "").replace("to: a", "to: \"${file:key.pem}\"")),
        ("a host", config("", "", ", host: \"${file:key.pem}\"", "")),
        ("a time", config("", "", ", timeout: \"${file:key.pem}\"", "")),
        ("a header", config("", "", ", request_headers: { set: { x-key: \"${file:key.pem}\" } }", "")),
        ("a list", config("", "", ", methods: \"${file:key.pem}\"", "")),
        ("users", config("", "", ", auth: { basic: { htpasswd: \"${file:key.pem}\" } }", "")),
    ];
    for (what, config) in wrong {
        shapes.push(Shape {
            what: format!("a key as {what}"),
            config,
            files: vec![("key.pem".to_owned(), good.key.clone().into_bytes())],
            secret: Secret::new(&good.key),
        });
    }
    shapes
}

/// Tokens and passwords, written and read and put in the wrong places.
fn words() -> Vec<Shape> {
    let admin = |inside: &str| {
        config("", "", "", "").replacen(
            "admin: { bind: \"127.0.0.1:0\" }",
            &format!(
                "admin:\n  bind: \"127.0.0.1:0\"\n  {}",
                inside.replace('\n', "\n  ")
            ),
            1,
        )
    };
    let basic = |inside: &str| config("", "", &format!(", auth: {{ basic: {{ {inside} }} }}"), "");
    let issuer = |inside: &str| {
        config(
            ", tls: { certificates: [ { acme: x, names: [ a.example ] } ] }",
            "",
            "",
            &format!(
                "acme: {{ x: {{ directory: \"https://127.0.0.1:9/d\", terms_agreed: true, {inside} }} }}\n"
            ),
        )
    };
    let hash = format!(
        "$2y$05$abcdefghijklmnopqrstuu{}",
        &TOKEN.replace(['-', '_'], "x")[..31]
    );
    let mut shapes = Vec::new();
    let mut add = |what: &str, config: String, file: &str| {
        let mut secret = Secret::new(TOKEN);
        secret.texts.push(hash[..50].to_owned());
        shapes.push(Shape {
            what: what.to_owned(),
            config,
            files: vec![("secret".to_owned(), file.as_bytes().to_vec())],
            secret,
        });
    };
    for (what, inside) in [
        ("tokens as a text", format!("tokens: {TOKEN}")),
        ("tokens as texts", format!("tokens: [ {TOKEN} ]")),
        ("a token that is a list", format!("tokens: [ {{ name: a, role: viewer, token: [ {TOKEN} ] }} ]")),
        ("a token that is a mapping", format!("tokens: [ {{ name: a, role: viewer, token: {{ {TOKEN}: x }} }} ]")),
        ("a token of many lines", format!("tokens:\n  - name: a\n    role: nobody\n    token: |\n      {TOKEN}\n")),
        ("a token below its key", format!("tokens:\n  - name: a\n    role: nobody\n    token:\n      {TOKEN}\n")),
        ("a token in quotes with quotes", format!("tokens: [ {{ name: a, role: nobody, token: \"x\\\"{TOKEN}\" }} ]")),
        ("a misspelt token", format!("tokens: [ {{ name: a, role: viewer, tokn: {TOKEN} }} ]")),
        ("a token in capitals", format!("tokens: [ {{ name: a, role: viewer, Token: {TOKEN} }} ]")),
        ("a token twice", format!("tokens: [ {{ name: a, role: viewer, token: {TOKEN}, token: {TOKEN} }} ]")),
        ("a token without its end", format!("tokens: [ {{ name: a, role: viewer, token: \"{TOKEN} }} ]")),
        ("a token with a tab", format!("tokens:\n\t- token: {TOKEN}")),
        ("a token beside a mistake", format!("tokens: [ {{ name: a, role: nobody, token: {TOKEN} }} ]")),
        ("an unknown key", format!("api_token: {TOKEN}")),
        ("tokens by their names", format!("tokens: {{ oncall: {TOKEN} }}")),
        ("tokens by their names, on lines", format!("tokens:\n  oncall: {TOKEN}\n")),
        ("a token under a wrong key", format!("tokens:\n  - {{ name: x, role: operator, value: {TOKEN} }}\n")),
        ("a token as a key", format!("tokens:\n  - {TOKEN}: operator\n")),
        ("a token that YAML cannot read", format!("tokens:\n  - @{TOKEN}\n")),
        ("a token with something behind it", format!("tokens:\n  - \"{TOKEN}\" x\n")),
        ("a token behind an anchor", format!("x: &t {TOKEN}\ntokens: [ {{ name: a, role: nobody, token: *t }} ]")),
        ("a token that is a name as well", format!("tokens: [ {{ name: {TOKEN}, role: nobody, token: {TOKEN} }} ]")),
        ("a name and a token exchanged", "tokens: [ { name: \"${file:secret}\", role: viewer, token: a }, { name: \"${file:secret}\", role: viewer, token: b } ]".to_owned()),
        ("a role from a file", "tokens: [ { name: a, role: \"${file:secret}\", token: x } ]".to_owned()),
        ("an address from a file", "tokens: []\nbind2: \"${file:secret}\"".to_owned()),
        ("a token from the environment, too short with spaces", "tokens: [ { name: a, role: nobody, token: \"${env:PORTOLAN_TEST_SECRET}\" } ]".to_owned()),
        ("tokens from the environment", "tokens: \"${env:PORTOLAN_TEST_SECRET}\"".to_owned()),
    ] {
        add(what, admin(&inside), TOKEN);
    }
    for (what, inside, file) in [
        (
            "a password as it is",
            format!("users: [ {{ name: a, password: {TOKEN} }} ]"),
            "",
        ),
        ("users as lines", format!("users: [ \"a:{TOKEN}\" ]"), ""),
        ("users as a text", format!("users: \"a:{TOKEN}\""), ""),
        (
            "users by their names",
            format!("users: {{ alice: {TOKEN} }}"),
            "",
        ),
        (
            "a user that is a mapping",
            format!("users: [ alice: {TOKEN} ]"),
            "",
        ),
        (
            "a hash that is cut off",
            format!("users: [ {{ name: a, password: \"{}\" }} ]", &hash[..50]),
            "",
        ),
        (
            "a misspelt password",
            format!("users: [ {{ name: a, pasword: {TOKEN} }} ]"),
            "",
        ),
        (
            "lines with passwords",
            "htpasswd: \"${file:secret}\"".to_owned(),
            &*format!("a:{TOKEN}\n"),
        ),
        (
            "lines without colons",
            "htpasswd: \"${file:secret}\"".to_owned(),
            TOKEN,
        ),
        (
            "lines the wrong way round",
            "htpasswd: \"${file:secret}\"".to_owned(),
            &*format!("{TOKEN}:{hash}\n{TOKEN}:{hash}\n"),
        ),
        (
            "a file as a user",
            "users: [ { name: \"${file:secret}\", password: x } ]".to_owned(),
            TOKEN,
        ),
        (
            "a file as a realm",
            "realm: \"${file:secret}\"".to_owned(),
            &*format!("{TOKEN}\""),
        ),
    ] {
        add(what, basic(&inside), file);
    }
    for (what, inside, file) in [
        ("an external key that is none", "external_account: { key_id: k, hmac_key: \"${file:secret}\" }".to_owned(), &*format!("{TOKEN}*{TOKEN}")),
        ("an external key as it is, beside a mistake", format!("external_account: {{ key_id: [], hmac_key: {TOKEN} }}"), ""),
        ("a misspelt external key", format!("external_account: {{ key_id: k, hmac-key: {TOKEN} }}"), ""),
        ("the token of a webhook in two lines", "challenge: dns-01, dns: { webhook: \"http://127.0.0.1:9/\", token: \"${file:secret}\" }".to_owned(), &*format!("{TOKEN}\n{TOKEN}")),
    ] {
        add(what, issuer(&inside), file);
    }
    shapes
}

/// Sets of keys with private parts, damaged.
fn sets() -> Vec<Shape> {
    let config = config(
        "",
        "",
        ", auth: { jwt: { keys: { file: keys.json }, issuer: x, audience: y } }",
        "",
    );
    let d = "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE";
    let one =
        format!("{{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"{d}\",\"y\":\"{d}\",\"d\":\"{d}\"}}");
    [
        ("one key", one.clone()),
        ("cut off", format!("{{\"keys\":[{}", &one[..one.len() - 4])),
        ("with a bad escape", format!("{{\"keys\":[\"\\q{d}\"]}}")),
        ("that is a text", format!("{{\"keys\":\"{d}\"}}")),
        ("of texts", format!("{{\"keys\":[\"{d}\"]}}")),
        (
            "of a shared secret",
            format!("{{\"keys\":[{{\"kty\":\"oct\",\"k\":\"{d}\"}}]}}"),
        ),
        (
            "with a secret for a kind",
            format!("{{\"keys\":[{{\"kty\":\"{d}\"}}]}}"),
        ),
        (
            "with a secret for a curve",
            format!("{{\"keys\":[{{\"kty\":\"EC\",\"crv\":\"{d}\"}}]}}"),
        ),
        ("with a private part", format!("{{\"keys\":[{one}]}}")),
        (
            "with a private RSA key",
            format!(
                "{{\"keys\":[{{\"kty\":\"RSA\",\"n\":\"{d}\",\"e\":\"AQAB\",\"d\":\"{d}\"}}]}}"
            ),
        ),
        ("that is no JSON", d.to_owned()),
    ]
    .into_iter()
    .map(|(damage, content)| Shape {
        what: format!("a set of keys {damage}"),
        config: config.clone(),
        files: vec![("keys.json".to_owned(), content.into_bytes())],
        secret: Secret::new(d),
    })
    .collect()
}

fn all(good: &Identity) -> Vec<Shape> {
    let shapes: Vec<Shape> = [keys(good), words(), sets()]
        .into_iter()
        .flatten()
        .collect();
    assert!(shapes.len() >= 100, "{}", shapes.len());
    shapes
}

fn lay_out(folder: &Path, files: &[(String, Vec<u8>)]) {
    for (name, content) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let new = folder.join(format!("{name}.new"));
        std::fs::write(&new, content).unwrap();
        std::fs::rename(&new, &path).unwrap();
    }
}

/// The key in PKCS #8, and a certificate for it.
fn good() -> Identity {
    let key = KeyPair::generate().unwrap();
    Authority::new().sign_with(&["a.example"], &key, |_| {})
}

#[tokio::test]
async fn no_command_says_a_secret() {
    let good = good();
    let mut leaks = String::new();
    for shape in all(&good) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::write(path.join("good.pem"), &good.certificate).unwrap();
        std::fs::write(path.join("good.key"), &good.key).unwrap();
        std::fs::write(path.join("c.yaml"), &shape.config).unwrap();
        lay_out(path, &shape.files);
        let mut all = String::new();
        for args in [
            &["check", "--config", "c.yaml"][..],
            &["check", "--format", "json", "--config", "c.yaml"],
            &["show", "--config", "c.yaml"],
            &["show", "--effective", "--config", "c.yaml"],
            &[
                "show",
                "--effective",
                "--format",
                "json",
                "--config",
                "c.yaml",
            ],
            &[
                "explain",
                "--config",
                "c.yaml",
                "--client-ip",
                "192.0.2.1",
                "http://a/",
            ],
        ] {
            let env = [("PORTOLAN_TEST_SECRET", TOKEN)];
            let output = command_with(path, &env, args).await;
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            assert!(
                !said.contains("panicked"),
                "{}: {args:?}: {said}",
                shape.what
            );
            if let Some(part) = shape.secret.found_in(&said) {
                writeln!(leaks, "{}: {args:?} says {part}:\n{said}", shape.what).unwrap();
            }
            all += &said;
        }
        assert!(!all.is_empty(), "{}", shape.what);
    }
    assert!(leaks.is_empty(), "{leaks}");
}

/// Everything that a running process says anywhere.
async fn everything(portolan: &Portolan) -> String {
    let admin = portolan.admin();
    let mut all = portolan.log();
    for path in [
        "status",
        "events",
        "certificates",
        "pools",
        "routes",
        "config",
    ] {
        let ask = Ask::get(&format!("/api/v1/{path}"));
        all += &ask.to(admin).await.unwrap().text();
    }
    all += &portolan.metrics().await;
    let url = format!("http://{admin}");
    for command in ["status", "events", "metrics"] {
        let output = command_with(portolan.folder(), &[], &[command, "--admin", &url]).await;
        all += &String::from_utf8_lossy(&[output.stdout, output.stderr].concat());
    }
    let kept = portolan.folder().join("state/last-known-good.json");
    all + &std::fs::read_to_string(kept).unwrap_or_default()
}

/// With files that are good, in which everything is used.
fn in_use(good: &Identity) -> Builder {
    Portolan::with(&config("", "", "", ""))
        .env("PORTOLAN_TEST_SECRET", TOKEN)
        .file("good.pem", &good.certificate)
        .file("good.key", &good.key)
}

#[tokio::test]
async fn no_reload_says_a_secret() {
    let good = good();
    let portolan = in_use(&good).start().await;
    let shapes = all(&good);
    let mut answers = String::new();
    for shape in &shapes {
        lay_out(portolan.folder(), &shape.files);
        // The address of the admin API cannot change; a mistake in it is a mistake.
        portolan.write(&shape.config);
        let ask = Ask::new(Method::POST, "/api/v1/reload");
        let answer = ask.to(portolan.admin()).await.unwrap();
        writeln!(
            answers,
            "{}: {}: {}",
            shape.what,
            answer.status,
            answer.text()
        )
        .unwrap();
        answers += &portolan.api("/status").await.to_string();
    }
    let said = answers + &everything(&portolan).await;
    for shape in &shapes {
        if let Some(part) = shape.secret.found_in(&said) {
            let at = said.find(&part).unwrap();
            let around: String = said[at.saturating_sub(400)..].chars().take(800).collect();
            panic!("{}: {part} is said: {around}", shape.what);
        }
    }
    portolan.stop().await;
}

#[tokio::test]
async fn no_file_that_is_damaged_while_it_is_in_use_is_said() {
    let good = good();
    let tls = config(LISTENER, POOL, "", "");
    let portolan = in_use(&good).file("key.pem", &good.key).start().await;
    portolan.change(&tls).await;
    let secret = Secret::new(&good.key);
    let failures = "portolan_certificate_reload_failures_total";
    for (damage, content) in damaged(&good.key, &good.certificate) {
        lay_out(portolan.folder(), &[("key.pem".to_owned(), content)]);
        eventually("it is found", async || {
            let faults = portolan.api("/certificates").await["faults"].clone();
            let mended = damage.starts_with("as YAML") && faults.as_array()?.is_empty();
            (mended || !faults.as_array()?.is_empty()).then_some(())
        })
        .await;
        let said = everything(&portolan).await;
        if let Some(part) = secret.found_in(&said) {
            panic!("{damage}: {part} is said");
        }
    }
    assert!(portolan.metric(failures, &[]).await > 0.0);
    portolan.stop().await;
}

/// What Portolan keeps itself: accounts and certificates of authorities, the key of cookies.
#[tokio::test]
async fn nothing_that_portolan_keeps_is_said_when_it_is_damaged() {
    let good = good();
    let state = tempfile::tempdir().unwrap();
    let text = format!(
        "state_dir: {}
acme: {{ x: {{ directory: \"https://127.0.0.1:9/d\", ca: good.pem, terms_agreed: true, retry: {{ min: 100ms, max: 200ms }} }} }}
",
        state.path().display()
    );
    let listener = ", tls: { certificates: [ { acme: x, names: [ a.example ] } ] }";
    let text = config(listener, "", ", affinity: { cookie: c }", &text);
    let begin = || {
        Portolan::with(&text)
            .file("good.pem", &good.certificate)
            .start()
    };
    let folder = |below: &Path| {
        let mut found = std::fs::read_dir(below).ok()?;
        let path = found.find_map(|entry| Some(entry.ok()?.path()).filter(|path| path.is_dir()))?;
        Some(path)
    };
    let portolan = begin().await;
    let (issuer, certificate) = eventually("there are folders", async || {
        let issuer = folder(&state.path().join("acme"))?;
        Some((issuer.clone(), folder(&issuer)?))
    })
    .await;
    portolan.stop().await;
    let secret = Secret::new(&good.key);
    let both = format!("{}{}", good.key, good.certificate);
    let key: String = (good.key.lines().filter(|line| !line.starts_with('-'))).collect();
    let accounts = [
        format!("{{\"contact\": \"{key}\"}}"),
        format!("{{\"contact\": [], \"credentials\": \"{key}\"}}"),
        format!(
            "{{\"contact\": [], \"credentials\": {{\"id\": \"x\", \"key_pkcs8\": \"*{key}\", \"directory\": \"https://127.0.0.1:9/d\"}}}}"
        ),
        format!(
            "{{\"contact\": [], \"credentials\": {{\"id\": \"x\", \"key_pkcs8\": [\"{key}\"], \"directory\": 7}}}}"
        ),
        format!("{{\"contact\": [], \"{key}\": 7"),
        key.clone(),
    ];
    let mut stored = damaged(&both, &both);
    stored.retain(|(damage, _)| !damage.starts_with("in DER"));
    for (at, account) in accounts.iter().cycle().take(12).enumerate() {
        std::fs::write(issuer.join("account.json"), account).unwrap();
        std::fs::write(certificate.join("certificate.pem"), &stored[at * 2].1).unwrap();
        std::fs::write(state.path().join("affinity.key"), &key).unwrap();
        let portolan = begin().await;
        eventually("an order has failed", async || {
            let failed = portolan.metric("portolan_acme_orders_total", &[]).await;
            (failed > 0.0).then_some(())
        })
        .await;
        let said = everything(&portolan).await;
        if let Some(part) = secret.found_in(&said) {
            let at = said.find(&part).unwrap();
            let around: String = said[at.saturating_sub(300)..].chars().take(600).collect();
            panic!("{account}: {part} is said: {around}");
        }
        portolan.stop().await;
    }
}
