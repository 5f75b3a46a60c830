//! The `openssl` program: a client and a CA that are not ours.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;

use super::deadline::soon;

/// Runs it in a folder with this input; what it said on both streams, and whether all was well.
///
/// # Panics
/// When there is none: what it shows would otherwise be shown by nobody.
async fn run(folder: &Path, args: &[&OsStr], input: &str) -> (bool, String) {
    let mut child = tokio::process::Command::new("openssl")
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("openssl: {error}; install the package `openssl`"));
    let mut stdin = child.stdin.take().unwrap();
    // It may have ended by now: then its last words say why.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = soon("openssl ends", child.wait_with_output())
        .await
        .unwrap();
    let said = [output.stdout, output.stderr].map(|out| String::from_utf8_lossy(&out).into_owned());
    (output.status.success(), said.concat())
}

/// Runs it to its end, which must be a good one. The arguments are separated by spaces.
pub(crate) async fn openssl(folder: &Path, args: &str) -> String {
    let args: Vec<&OsStr> = args.split_whitespace().map(OsStr::new).collect();
    let (good, said) = run(folder, &args, "").await;
    assert!(good, "openssl {args:?}: {said}");
    said
}

/// The same with something to read, whatever comes of it: what it said.
pub(crate) async fn openssl_with(folder: &Path, args: &str, input: &str) -> String {
    let args: Vec<&OsStr> = args.split_whitespace().map(OsStr::new).collect();
    run(folder, &args, input).await.1
}

/// The same with arguments as they are.
pub(crate) async fn try_openssl(folder: &Path, args: &[&str]) -> String {
    let args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
    run(folder, &args, "").await.1
}

/// What became of a connection.
pub(crate) struct Session {
    /// Hands were shaken, and a request was answered.
    pub(crate) answered: bool,
    /// Everything the client said.
    pub(crate) said: String,
}

impl Session {
    /// What stands behind a word, on its line.
    pub(crate) fn value(&self, of: &str) -> &str {
        let line = self
            .said
            .lines()
            .find(|line| line.trim_start().starts_with(of));
        line.and_then(|line| line.split_once(of))
            .unwrap_or_else(|| panic!("no `{of}`: {}", self.said))
            .1
            .trim_matches([':', ' '])
    }
}

/// Connects as a client, asks for `/echo`, and reads to the end of the connection.
pub(crate) async fn client(folder: &Path, address: SocketAddr, name: &str, args: &str) -> Session {
    let address = address.to_string();
    let mut all = vec![
        "s_client",
        "-connect",
        &address,
        "-servername",
        name,
        "-ign_eof",
    ];
    all.extend(["-CAfile", "ca.pem", "-verify_return_error"]);
    all.extend(args.split_whitespace());
    let all: Vec<&OsStr> = all.into_iter().map(OsStr::new).collect();
    let request = format!("GET /echo HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    let (_, said) = run(folder, &all, &request).await;
    Session {
        answered: said.contains("HTTP/1.1 200"),
        said,
    }
}
