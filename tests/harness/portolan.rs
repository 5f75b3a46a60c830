//! The real process, started with a configuration in a folder of its own, ended by its pid.

use std::fmt::Write as _;
use std::io;
use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::client;
use super::client::Answer;
use super::deadline::{PATIENCE, eventually};

const PORTOLAN: &str = env!("CARGO_BIN_EXE_portolan");

/// Every configuration gets this, unless it says otherwise: ports of the system's choice.
const USUAL: &str = "\
admin: { bind: \"127.0.0.1:0\" }
access_log: off
";

/// A process that serves.
pub(crate) struct Portolan {
    child: Child,
    /// Processes that took over, one after the other.
    successors: Vec<u32>,
    folder: TempDir,
    log: Log,
    admin: SocketAddr,
}

/// What a process said, as far as it has.
#[derive(Clone, Default)]
pub(crate) struct Log {
    said: Arc<Mutex<String>>,
    /// There is nothing more to come.
    whole: Arc<AtomicBool>,
    /// Nobody reads it for now.
    held: Arc<AtomicBool>,
}

impl Log {
    /// Reads to the end, in a thread: nobody has to wait for it.
    fn follow(from: impl Read + Send + 'static) -> Self {
        let log = Self::default();
        let Self { said, whole, held } = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                while held.load(Ordering::Acquire) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                let mut said = said.lock().unwrap();
                said.push_str(&line);
                said.push('\n');
            }
            whole.store(true, Ordering::Release);
        });
        log
    }

    pub(crate) fn text(&self) -> String {
        self.said.lock().unwrap().clone()
    }
}

/// How a process is to be started.
pub(crate) struct Builder {
    folder: TempDir,
    config: String,
    command: Command,
    /// Standard input and output are not used for anything else.
    streams: bool,
}

impl Builder {
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn arg(mut self, arg: &str) -> Self {
        self.command.arg(arg);
        self
    }

    /// Puts a file beside the configuration.
    pub(crate) fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts another binary.
    pub(crate) fn binary(mut self, path: &Path) -> Self {
        self.command = run(path);
        self
    }

    /// Starts it with two more sockets, as systemd does: by number, with its own process id in the
    /// environment. Nothing but a shell knows that id in time.
    pub(crate) fn activated(
        mut self,
        first: std::net::TcpListener,
        second: std::net::TcpListener,
    ) -> Self {
        let script = "exec 3<&0 4<&1 </dev/null >/dev/null; \
                      LISTEN_FDS=2 LISTEN_PID=$$ exec \"$0\" run \"$@\"";
        self.command = Command::new("/bin/sh");
        self.command.args(["-c", script, PORTOLAN]);
        settings(&mut self.command)
            .stdin(std::os::fd::OwnedFd::from(first))
            .stdout(std::os::fd::OwnedFd::from(second));
        self.streams = false;
        self
    }

    /// Starts it with so many descriptors, and lets it have more of them, up to the second number.
    pub(crate) fn open_files(mut self, soft: u32, hard: u32) -> Self {
        let script =
            format!("ulimit -S -n {soft} && ulimit -H -n {hard} && exec \"$0\" run \"$@\"");
        self.command = Command::new("/bin/sh");
        self.command.args(["-c", &script, PORTOLAN]);
        settings(&mut self.command);
        self
    }

    fn spawn(mut self) -> (Child, TempDir, Log, Log) {
        let path = self.folder.path().join("portolan.yaml");
        if !self.config.is_empty() {
            std::fs::write(&path, with_usual(&self.config)).unwrap();
        }
        if self.streams {
            self.command.stdin(Stdio::null()).stdout(Stdio::piped());
        }
        let mut child = self
            .command
            .arg("--config")
            .arg(&path)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = child.stdout.take().map(Log::follow).unwrap_or_default();
        let err = Log::follow(child.stderr.take().unwrap());
        (child, self.folder, out, err)
    }

    /// Starts it and waits until its admin API answers, ready or not.
    pub(crate) async fn start_without_waiting(self) -> Portolan {
        let (child, folder, _, log) = self.spawn();
        // From the first moment, so that it ends with the test, whatever becomes of that.
        let mut portolan = Portolan {
            child,
            successors: Vec::new(),
            folder,
            log,
            admin: SocketAddr::from(([0, 0, 0, 0], 0)),
        };
        portolan.admin = eventually("the admin API has an address", async || {
            if let Some(status) = portolan.child.try_wait().unwrap() {
                panic!("it ended with {status}:\n{}", portolan.log());
            }
            let text = portolan.log();
            let (_, rest) = text.split_once("admin API on http://")?;
            rest.split(['\n', '"']).next()?.parse::<SocketAddr>().ok()
        })
        .await;
        portolan
    }

    /// Starts it and waits until it is ready.
    pub(crate) async fn start(self) -> Portolan {
        let portolan = self.start_without_waiting().await;
        portolan.wait_until_ready().await;
        portolan
    }

    /// Runs it to its end, which has to come soon: its exit status, and what it said.
    pub(crate) async fn run_to_end(self) -> (ExitStatus, String) {
        let (mut child, _folder, _, log) = self.spawn();
        let status = eventually("it ends", async || child.try_wait().unwrap()).await;
        // Its last words are read by another thread.
        let text = eventually("its last words", async || {
            log.whole.load(Ordering::Acquire).then(|| log.text())
        })
        .await;
        (status, text)
    }
}

fn run(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    settings(command.arg("run"));
    command
}

fn settings(command: &mut Command) -> &mut Command {
    command
        .env_remove("RUST_LOG")
        .env_remove("PORTOLAN_ADMIN")
        .env_remove("NOTIFY_SOCKET")
        .env("PORTOLAN_WORKERS", "2")
        .env("RUST_BACKTRACE", "1")
}

fn with_usual(config: &str) -> String {
    let mut text = String::new();
    for line in USUAL.lines() {
        let key = line.split(':').next().unwrap();
        if !config.lines().any(|line| line.starts_with(key)) {
            writeln!(text, "{line}").unwrap();
        }
    }
    text + config
}

impl Portolan {
    /// A process with this configuration, to be started.
    pub(crate) fn with(config: &str) -> Builder {
        Builder {
            folder: TempDir::new().unwrap(),
            config: config.to_owned(),
            command: run(Path::new(PORTOLAN)),
            streams: true,
        }
    }

    /// A process with this configuration, serving.
    pub(crate) async fn start(config: &str) -> Self {
        Self::with(config).start().await
    }

    pub(crate) async fn wait_until_ready(&self) {
        eventually("it is ready", async || {
            let answer = client::get(self.admin, "/readyz").await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The process that was started. Others may have taken over since.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process that serves now.
    pub(crate) fn main_pid(&self) -> u32 {
        self.successors.last().copied().unwrap_or(self.pid())
    }

    /// Asks for an upgrade, which may fail.
    pub(crate) async fn ask_for_upgrade(&self, args: &[&str]) -> Output {
        let admin = format!("http://{}", self.admin);
        let mut all = vec!["upgrade", "--admin", &admin];
        all.extend(args);
        command(&all).await
    }

    /// Upgrades it. The new process.
    pub(crate) async fn upgrade(&mut self) -> u32 {
        // Processes that were started by one that has ended are ours to wait for.
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let output = self.ask_for_upgrade(&["--json"]).await;
        self.upgraded(&output)
    }

    /// What an upgrade that was asked for as JSON said: the new process.
    pub(crate) fn upgraded(&mut self, output: &Output) -> u32 {
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let before = self.main_pid();
        let said = stderr(output);
        assert!(output.status.success(), "{said}\n{}", self.log());
        let answer: Value = serde_json::from_str(&stdout(output)).unwrap();
        assert_eq!(answer["before"], before);
        let pid = answer["pid"].as_u64().unwrap() as u32;
        assert_ne!(pid, before);
        self.successors.push(pid);
        pid
    }

    /// How a process that took over has ended, if it has. When the process that started it has not,
    /// that one alone knows how: then it counts as well.
    pub(crate) fn successor_ended(&self, pid: u32) -> Option<i32> {
        match waitpid(Pid::from_raw(pid as i32), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => Some(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => panic!("{pid}: {signal}: {}", self.log()),
            // Not ours to wait for, because whoever started it is still there.
            Err(_) if !Path::new(&format!("/proc/{pid}")).exists() => Some(0),
            _ => None,
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Stops reading what it says, or reads on.
    pub(crate) fn read_log(&self, read: bool) {
        self.log.held.store(!read, Ordering::Release);
    }

    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    /// Waits until the log contains this.
    pub(crate) async fn wait_for_log(&self, words: &str) {
        eventually(&format!("the log says `{words}`"), async || {
            self.log().contains(words).then_some(())
        })
        .await;
    }

    /// The configuration file.
    pub(crate) fn config_path(&self) -> PathBuf {
        self.folder.path().join("portolan.yaml")
    }

    async fn ask_admin(&self, path: &str) -> Answer {
        eventually("a local port for this test", async || {
            match client::get(self.admin, path).await {
                Ok(answer) => Some(answer),
                // In a network with few of them, those of earlier questions are not free at once.
                Err(error) if is_without_a_port(&*error) => None,
                Err(error) => panic!("{path}: {error}"),
            }
        })
        .await
    }

    /// Asks the admin API.
    pub(crate) async fn api(&self, path: &str) -> Value {
        let answer = self.ask_admin(&format!("/api/v1{path}")).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    /// The metrics page.
    pub(crate) async fn metrics(&self) -> String {
        let answer = self.ask_admin("/metrics").await;
        assert_eq!(answer.status, 200);
        answer.text()
    }

    /// The sum of all samples of a metric whose labels contain all of these.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        sum(&self.metrics().await, name, labels)
    }

    /// Waits until a metric has a value: what a request was is counted after its answer has gone.
    pub(crate) async fn wait_for_metric(&self, name: &str, labels: &[&str], value: f64) {
        let what = format!("{name}{labels:?} is {value}");
        eventually(&what, async || {
            (self.metric(name, labels).await == value).then_some(())
        })
        .await;
    }

    /// The address of the only listener.
    pub(crate) async fn address(&self) -> SocketAddr {
        let addresses = self.addresses().await;
        assert_eq!(addresses.len(), 1, "{addresses:?}");
        addresses[0]
    }

    /// The addresses of the listeners, in the order of the configuration.
    pub(crate) async fn addresses(&self) -> Vec<SocketAddr> {
        let status = self.api("/status").await;
        let listeners = status["listeners"].as_array().unwrap();
        listeners
            .iter()
            .map(|listener| listener["address"].as_str().unwrap().parse().unwrap())
            .collect()
    }

    /// Replaces the configuration file as an editor does, and does not wait.
    pub(crate) fn write(&self, config: &str) {
        replace(&self.config_path(), &with_usual(config));
    }

    pub(crate) async fn generation(&self) -> u64 {
        self.api("/status").await["config"]["generation"]
            .as_u64()
            .unwrap()
    }

    /// Replaces the configuration file and waits until it is the running one.
    pub(crate) async fn change(&self, config: &str) {
        let before = self.generation().await;
        let refused = "portolan_config_reloads_total";
        let refused_before = self.metric(refused, &["refused"]).await;
        self.write(config);
        eventually("the change is applied", async || {
            let status = self.api("/status").await;
            let config = &status["config"];
            if self.metric(refused, &["refused"]).await > refused_before {
                panic!("the change was refused: {}", config["last_reload"]);
            }
            (config["generation"].as_u64()? > before).then_some(())
        })
        .await;
    }

    /// Replaces the configuration file, waits until it is refused, and returns why.
    pub(crate) async fn change_refused(&self, config: &str) -> String {
        let refused = self.metric("portolan_config_reloads_total", &["refused"]);
        let before = refused.await;
        self.write(config);
        eventually("the change is refused", async || {
            let refused = self.metric("portolan_config_reloads_total", &["refused"]);
            (refused.await > before).then_some(())
        })
        .await;
        let status = self.api("/status").await;
        let error = &status["config"]["last_reload"]["error"];
        error.as_str().unwrap().to_owned()
    }

    /// The pool's endpoint of this address, as the admin API knows it.
    pub(crate) async fn endpoint(&self, pool: &str, address: SocketAddr) -> Value {
        let entry = self.api(&format!("/pools/{pool}")).await;
        let endpoints = entry["endpoints"].as_array().unwrap();
        let wanted = address.to_string();
        endpoints
            .iter()
            .find(|endpoint| endpoint["address"] == wanted)
            .unwrap_or_else(|| panic!("{pool} has no {address}: {entry}"))
            .clone()
    }

    /// Waits until the pool's endpoint of this address is in this state.
    pub(crate) async fn wait_for_health(&self, pool: &str, address: SocketAddr, health: &str) {
        eventually(&format!("{pool}/{address} is {health}"), async || {
            (self.endpoint(pool, address).await["health"] == health).then_some(())
        })
        .await;
    }

    /// Waits until a pool is up, or down.
    pub(crate) async fn wait_for_pool(&self, pool: &str, up: bool) {
        eventually(&format!("{pool} is up: {up}"), async || {
            (self.api(&format!("/pools/{pool}")).await["up"] == up).then_some(())
        })
        .await;
    }

    /// Sends a signal to the process that serves now.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.main_pid() as i32), signal).unwrap();
    }

    /// Stops it, and waits until every thread of it is stopped: on a busy machine that takes a while.
    pub(crate) async fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        let tasks = format!("/proc/{}/task", self.main_pid());
        let is_stopped = |task: io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat"));
            // The state stands behind the name, which is in parentheses. A thread that ends meanwhile is
            // gone.
            stat.is_ok_and(|stat| {
                stat.rsplit(") ")
                    .next()
                    .is_some_and(|rest| rest.starts_with('T'))
            })
        };
        eventually("all of it is stopped", async || {
            let mut tasks = std::fs::read_dir(&tasks).unwrap();
            tasks.all(is_stopped).then_some(())
        })
        .await;
    }

    /// Waits for the end of the process that was started.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        eventually("it ends", async || self.child.try_wait().unwrap()).await
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Stops it gracefully and checks that it went well.
    pub(crate) async fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.ended().await;
        assert!(status.success(), "{status}: {}", self.log());
        for pid in std::mem::take(&mut self.successors) {
            let code = eventually("it ends", async || self.successor_ended(pid)).await;
            assert_eq!(code, 0, "{}", self.log());
        }
        assert!(!self.log().contains("panicked"), "{}", self.log());
    }
}

impl Drop for Portolan {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in &self.successors {
            let pid = Pid::from_raw(*pid as i32);
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
        }
        let log = self.log.text();
        if std::thread::panicking() {
            eprintln!("=== the process said:\n{log}");
        } else {
            assert!(!log.contains("panicked at"), "{log}");
        }
    }
}

/// A port that nobody has, at any address. Not one of those that the system gives to whoever connects.
pub(crate) fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed) + (std::process::id() % 997) as u16 * 11;
        let port = 20_000 + turn % 12_000;
        let free = std::net::TcpListener::bind(("::", port)).is_ok();
        if free {
            return port;
        }
    }
}

/// Replaces a file in one step.
pub(crate) fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

/// The sum of all samples of a metric on a page whose labels contain all of these.
pub(crate) fn sum(page: &str, name: &str, labels: &[&str]) -> f64 {
    page.lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with(['{', ' ']))
        .filter(|rest| labels.iter().all(|label| rest.contains(label)))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// Runs a command to its end.
pub(crate) async fn command(args: &[&str]) -> Output {
    command_in(Path::new("."), args).await
}

/// Runs a command to its end, in a folder.
pub(crate) async fn command_in(folder: &Path, args: &[&str]) -> Output {
    command_with(folder, &[], args).await
}

/// Runs a command to its end, in a folder, with environment variables of its own.
pub(crate) async fn command_with(folder: &Path, env: &[(&str, &str)], args: &[&str]) -> Output {
    let running = tokio::process::Command::new(PORTOLAN)
        .args(args)
        .current_dir(folder)
        .env_remove("RUST_LOG")
        .env_remove("PORTOLAN_ADMIN")
        .env_remove("PORTOLAN_TOKEN")
        .env_remove("PORTOLAN_WORKERS")
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    tokio::time::timeout(PATIENCE, running)
        .await
        .unwrap_or_else(|_| panic!("{args:?} did not end"))
        .unwrap()
}

/// What a command printed as its result.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn is_without_a_port(error: &(dyn std::error::Error + 'static)) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|io| io.kind() == io::ErrorKind::AddrNotAvailable)
}

/// What a command said besides.
/// What a command said besides its result, but for what depends on the machine.
pub(crate) fn stderr(output: &Output) -> String {
    let all = std::str::from_utf8(&output.stderr).unwrap();
    let lines = all.split_inclusive('\n');
    lines
        .filter(|line| !line.starts_with("note: on this machine, "))
        .collect()
}

/// A demo, started like a process that serves.
pub(crate) fn spawn(args: &[&str]) -> (Child, Log, Log) {
    let mut child = Command::new(PORTOLAN)
        .args(args)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let out = Log::follow(child.stdout.take().unwrap());
    let err = Log::follow(child.stderr.take().unwrap());
    (child, out, err)
}

/// Some time, where a test has to see that nothing happens.
pub(crate) async fn a_while() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}
