//! Programs of others that Debian has: installed when they are missing.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

/// Makes sure that a program can be run.
///
/// # Panics
/// When it cannot be had: what it shows would otherwise be shown by nobody.
pub(crate) async fn need(program: &'static str, package: &'static str) {
    let installing = tokio::task::spawn_blocking(move || install(program, package));
    installing.await.unwrap();
}

fn install(program: &str, package: &str) {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    std::fs::create_dir_all(target.join("test-tools")).unwrap();
    // One at a time, and whoever waited finds it there.
    let lock = File::create(target.join("test-tools/packages.lock")).unwrap();
    lock.lock().unwrap();
    if is_there(program) {
        return;
    }
    for args in [&["update"][..], &["install", "--yes", package]] {
        let done = Command::new("apt-get").args(args).output();
        let done = done.unwrap_or_else(|error| panic!("install {package} by hand: {error}"));
        assert!(
            done.status.success(),
            "install {package} by hand: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
    assert!(is_there(program), "{package} has no {program}");
}

fn is_there(program: &str) -> bool {
    Command::new("sh")
        .args(["-c", "command -v \"$0\"", program])
        .stdout(Stdio::null())
        .status()
        .unwrap()
        .success()
}
