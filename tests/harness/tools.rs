//! Programs of others that Debian has: installed when they are missing.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::python::Python;

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

/// A package of npm of this version, unpacked: the folder of what is in it.
///
/// # Panics
/// When it cannot be had: what it shows would otherwise be shown by nobody.
pub(crate) async fn npm_package(name: &'static str, version: &'static str) -> PathBuf {
    need("npm", "npm").await;
    let getting = tokio::task::spawn_blocking(move || {
        let short = name.rsplit('/').next().unwrap();
        unpacked(&format!("{short}-{version}"), |folder| {
            let mut npm = Command::new("npm");
            npm.args(["pack", "--silent", &format!("{name}@{version}")]);
            npm.current_dir(folder);
            npm
        })
        .join("package")
    });
    getting.await.unwrap()
}

/// What one archive holds that `fetch` puts into the folder it is given. Kept for the next time.
fn unpacked(name: &str, fetch: impl FnOnce(&Path) -> Command) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let tools = target.join("test-tools");
    std::fs::create_dir_all(&tools).unwrap();
    let lock = File::create(tools.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    let folder = tools.join(name);
    // Written last, so that what was begun and not finished is made anew.
    let stamp = folder.join("complete.txt");
    if stamp.exists() {
        return folder;
    }
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    std::fs::create_dir_all(&folder).unwrap();
    run(&mut fetch(&folder));
    let mut found = std::fs::read_dir(&folder).unwrap();
    let archive = found.next().unwrap().unwrap().path();
    run(Command::new("tar")
        .arg("xzf")
        .arg(&archive)
        .arg("-C")
        .arg(&folder));
    std::fs::remove_file(&archive).unwrap();
    std::fs::write(&stamp, "").unwrap();
    folder
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The source of a package of PyPI of this version, unpacked, with the files that its own tests use.
///
/// # Panics
/// When it cannot be had.
pub(crate) async fn python_source(name: &'static str, version: &'static str) -> PathBuf {
    let python = Python::with("python-sources", "setuptools==80.9.0\nwheel==0.45.1\n").await;
    let getting = tokio::task::spawn_blocking(move || {
        let whole = format!("{name}-{version}");
        unpacked(&whole, |folder| {
            let mut pip = Command::new(python.folder().join("bin/python"));
            pip.args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--disable-pip-version-check",
            ]);
            pip.args(["--no-deps", "--no-build-isolation", "--no-binary", name]);
            pip.arg("--dest")
                .arg(folder)
                .arg(format!("{name}=={version}"));
            pip
        })
        .join(&whole)
    });
    getting.await.unwrap()
}
