//! Tests that run in a network of their own, where they are root: they run themselves again there.

use std::process::Command;

const INSIDE: &str = "PORTOLAN_TEST_INSIDE_A_NETWORK";

/// Whether this process is in a network of its own already. If not, the test of this name runs there,
/// and when this returns it has passed.
///
/// # Panics
/// When it has not, or there is no such network to be had.
pub(crate) async fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut command = tokio::process::Command::new("unshare");
    if !rustix::process::getuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let output = command
        .args(["--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
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
    false
}

/// Runs `ip` in the network of this thread.
pub(crate) fn ip(args: &str) {
    let output = Command::new("ip").args(args.split(' ')).output();
    let output = output.expect("`ip` of iproute2 is needed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {args}: {said}");
}
