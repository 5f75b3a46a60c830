//! The proxies that Portolan is measured beside, each set up for the same task as its own manual
//! would have it.
//!
//! A task is a [`Task`]: clouds, their shares, and what an operator wants when one of them fails.
//! Every proxy has one worker thread, the same limit for a single try, and probes at the same pace.
//! Connections to servers are kept, nothing is logged, and servers are told whom they serve.
//! One that is not installed, and cannot be, is left out with a message.
//!
//! What a benchmark compares them with, Portolan above all, it sets up itself.

#[path = "peers/envoy.rs"]
pub(crate) mod envoy;
#[path = "peers/haproxy.rs"]
pub(crate) mod haproxy;
#[path = "peers/nginx.rs"]
pub(crate) mod nginx;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sched::CpuSet;

use crate::process::Process;
use crate::report;

/// How long a proxy may take to serve its first request.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a proxy is to do.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// Where clients come.
    pub(crate) listen: SocketAddr,
    /// Where they speak TLS, and the folder with `cert.pem`, `key.pem`, and both in `both.pem`.
    pub(crate) tls: Option<(SocketAddr, PathBuf)>,
    pub(crate) clouds: Vec<Cloud>,
    /// Hosts, and the one cloud that each of them leads to; all others lead to the first. With
    /// none, every request may go to any cloud, by their shares.
    pub(crate) hosts: Vec<(String, usize)>,
    /// How often endpoints are probed, by everybody who knows such a thing.
    pub(crate) probes: Option<Duration>,
    /// How long a server may be silent before a request is tried elsewhere.
    pub(crate) limit: Duration,
    /// Whether bodies are large, and passed on as they come.
    pub(crate) streams: bool,
    /// Every answer says this number in `x-generation`: which configuration it was made by.
    pub(crate) generation: Option<u32>,
    /// Whether servers speak HTTP/2, in clear text and with prior knowledge, instead of HTTP/1.1.
    pub(crate) h2c: bool,
}

/// Endpoints that stand and fall together.
#[derive(Clone, Debug)]
pub(crate) struct Cloud {
    pub(crate) name: String,
    pub(crate) endpoints: Vec<SocketAddr>,
    /// Its share, of a hundred. With 0 it takes over when no other cloud can serve.
    pub(crate) weight: u32,
}

/// How long a probe may take.
pub(crate) const PROBE_LIMIT: Duration = Duration::from_millis(500);

/// A configuration: names of files, and what they say.
pub(crate) type Files = Vec<(&'static str, String)>;

/// One of the proxies.
pub(crate) trait Peer: Sync {
    fn name(&self) -> &'static str;

    /// Its version, installed if it was missing; or why it cannot be had.
    fn version(&self) -> Result<String, String>;

    /// Whether it knows what such a task needs.
    fn can(&self, _: &Task) -> bool {
        true
    }

    /// Its configuration. It is run in the folder.
    fn files(&self, task: &Task, folder: &Path) -> Files;

    /// How it is started in that folder, to stay in the foreground.
    fn command(&self, folder: &Path) -> Command;

    /// Has it read its configuration anew, if it does not by itself.
    fn reload(&self, process: &Process);
}

/// Those that can be had here, with their versions printed; a message for each of the others.
#[expect(clippy::print_stdout, reason = "what was measured is the output")]
pub(crate) fn present(peers: &[&'static dyn Peer]) -> Vec<&'static dyn Peer> {
    let mut present = Vec::new();
    for peer in peers.iter().copied() {
        match peer.version() {
            Ok(version) => {
                println!("{}: {version}", peer.name());
                present.push(peer);
            }
            Err(why) => println!("{} is left out: {why}", peer.name()),
        }
    }
    println!();
    present
}

/// A proxy that serves.
pub(crate) struct Serving {
    peer: &'static dyn Peer,
    /// Where its configuration and its log are.
    pub(crate) folder: PathBuf,
    pub(crate) process: Process,
}

impl Serving {
    /// Starts it, and waits until it serves.
    ///
    /// # Panics
    /// When it does not: it said why in its folder.
    pub(crate) async fn start(peer: &'static dyn Peer, task: &Task, cores: &CpuSet) -> Self {
        assert!(peer.can(task), "{} cannot do that", peer.name());
        let folder = empty_folder(peer);
        Self::begin(peer, peer.files(task, &folder), folder, task.listen, cores).await
    }

    /// The same with a configuration of one's own.
    pub(crate) async fn begin(
        peer: &'static dyn Peer,
        files: Files,
        folder: PathBuf,
        listen: SocketAddr,
        cores: &CpuSet,
    ) -> Self {
        for (name, text) in files {
            std::fs::write(folder.join(name), text).expect("a file");
        }
        let log = File::create(folder.join("log")).expect("a file for what it says");
        let mut command = peer.command(&folder);
        let process = Process::start(command.current_dir(&folder).stderr(log), cores);
        let serving = async {
            while !serves(listen) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, serving).await;
        assert!(
            waited.is_ok(),
            "{} does not serve: see {}",
            peer.name(),
            folder.display()
        );
        Self {
            peer,
            folder,
            process,
        }
    }

    /// Writes another configuration beside the one that it has.
    pub(crate) fn prepare(&self, files: Files) -> Change<'_> {
        for (name, text) in &files {
            std::fs::write(self.folder.join(format!(".{name}.new")), text).expect("a file");
        }
        Change {
            serving: self,
            files,
        }
    }

    /// The files of its configuration for a task.
    pub(crate) fn files(&self, task: &Task) -> Files {
        self.peer.files(task, &self.folder)
    }
}

/// A folder for a proxy's files.
pub(crate) fn empty_folder(peer: &dyn Peer) -> PathBuf {
    let folder = report::folder().join(peer.name().to_lowercase());
    // What an earlier run left might be taken for this one's.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder for its files");
    folder
}

/// A configuration that is written, but not in its place yet.
pub(crate) struct Change<'a> {
    serving: &'a Serving,
    files: Files,
}

impl Change<'_> {
    /// Moves it there, and has the proxy read it.
    pub(crate) fn apply(self) {
        let Serving {
            peer,
            folder,
            process,
        } = self.serving;
        for (name, _) in &self.files {
            let new = folder.join(format!(".{name}.new"));
            std::fs::rename(new, folder.join(name)).expect("a file is moved");
        }
        peer.reload(process);
    }
}

/// An address that nobody listens on. Somebody might before the proxy does; then it does not serve,
/// and the run ends.
pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("it is bound")
}

/// Whether a request gets an answer from an endpoint.
fn serves(listen: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(listen)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: ready.test\r\nconnection: close\r\n\r\n")?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(&status == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

/// The first line that a program says of itself.
pub(crate) fn first_line(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().map(str::trim).find(|line| !line.is_empty());
    line.map(str::to_owned)
        .ok_or_else(|| "it does not say its version".to_owned())
}

/// A program of a package of Debian's, installed if it is missing and this user may.
pub(crate) fn debian(program: &str, version: &str) -> Result<String, String> {
    let ask = || first_line(Command::new(program).arg(version));
    ask().or_else(|missing| {
        if !rustix::process::geteuid().is_root() {
            return Err(format!("{missing}; apt-get install {program}"));
        }
        let mut install = Command::new("apt-get");
        // Installed, not started: nobody asked for a server on port 80.
        install
            .args(["install", "--yes", "--no-install-recommends", program])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("RUNLEVEL", "1");
        quietly(&mut install)?;
        ask()
    })
}

/// Runs a command to its end; what it says matters only if it fails.
fn quietly(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{}: {error}", name.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or_default().to_owned();
    Err(format!("{}: {}: {last}", name.display(), output.status))
}
