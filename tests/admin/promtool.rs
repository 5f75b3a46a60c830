//! Prometheus' own tool, which says what is wrong with a metrics page. Taken from Debian's package,
//! unpacked beside the build, once for everybody.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What `promtool check metrics` says about a page: nothing, if it is right.
pub(super) fn complaints(page: &str) -> String {
    let mut child = Command::new(installed())
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(page.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    if output.status.success() || !said.is_empty() {
        said
    } else {
        format!("{}", output.status)
    }
}

/// The tool; fetched if it is not there yet.
fn installed() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let tools = target.join("test-tools");
    let folder = tools.join("prometheus");
    let tool = folder.join("usr/bin/promtool");
    std::fs::create_dir_all(&tools).unwrap();
    // Every test is a process of its own: one fetches, the others wait.
    let lock = File::create(tools.join("prometheus.lock")).unwrap();
    lock.lock().unwrap();
    if !tool.exists() {
        fetch(&tools, &folder);
    }
    assert!(tool.exists(), "the package has no {}", tool.display());
    tool
}

fn fetch(tools: &Path, folder: &Path) {
    let download = tempfile::tempdir_in(tools).unwrap();
    let apt = |args: &[&str]| {
        Command::new("apt-get")
            .args(args)
            .current_dir(download.path())
            .output()
            .unwrap_or_else(|error| panic!("apt-get {args:?}: {error}"))
    };
    let mut fetched = apt(&["download", "prometheus"]);
    if !fetched.status.success() {
        // A machine that was never asked for a package has no list of them.
        apt(&["update"]);
        fetched = apt(&["download", "prometheus"]);
    }
    let said = String::from_utf8_lossy(&fetched.stderr);
    assert!(
        fetched.status.success(),
        "apt-get download prometheus: {said}"
    );
    let package = std::fs::read_dir(download.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .expect("a package was downloaded");
    let unpacked = download.path().join("unpacked");
    let dpkg = Command::new("dpkg")
        .arg("-x")
        .arg(package)
        .arg(&unpacked)
        .output()
        .unwrap();
    assert!(
        dpkg.status.success(),
        "{}",
        String::from_utf8_lossy(&dpkg.stderr)
    );
    // In one step: what is there is whole.
    std::fs::rename(unpacked, folder).unwrap();
}
