//! The API's description against what the API does: a program of somebody else's reads it, makes up
//! requests that fit it and some that do not, and says what is otherwise than described.

use std::process::Stdio;

use crate::harness::Portolan;
use crate::harness::config::LISTENER;
use crate::harness::python::Python;

/// What makes up the requests.
const SCHEMATHESIS: &str = "schemathesis==4.32.5\n";

const POOLS: &str = "\
defaults: { health: off }
pools: { a: { endpoints: [ \"127.0.0.1:1\" ] }, b: { endpoints: [ \"127.0.0.1:2\" ] } }
routes: [ { to: { split: { a: 70, b: 30 } } } ]
";

#[tokio::test(flavor = "multi_thread")]
async fn the_api_does_what_its_description_says() {
    let python = Python::with("schemathesis", SCHEMATHESIS).await;
    let token = "operator-operator-operator";
    let tokens = format!(
        "admin: {{ bind: \"127.0.0.1:0\", tokens: [ {{ name: a, role: operator, token: {token} }} ] }}\n"
    );
    for tokens in [String::new(), tokens] {
        let portolan = Portolan::with(&[LISTENER, &tokens, POOLS].concat());
        let portolan = portolan.start_without_waiting().await;
        let document = format!("http://{}/api/v1/openapi.json", portolan.admin());
        let header = format!("Authorization: Bearer {token}");
        let mut command = tokio::process::Command::new(python.folder().join("bin/schemathesis"));
        command
            .args(["run", &document, "--max-examples", "10", "--seed", "1"])
            .args(["--no-color", "--request-timeout", "20"])
            // A stream that is followed does not end.
            .args(["--exclude-path", "/api/v1/events"]);
        if !tokens.is_empty() {
            command.args(["--header", &header]);
        }
        let output = command
            .current_dir(portolan.folder())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = output.await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
        portolan.stop().await;
    }
}
