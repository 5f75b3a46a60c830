//! The clouds, and what befalls them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

use crate::peers::{self, Task};
use crate::process::{Cores, Process};
use crate::role;

/// How often endpoints are probed: the same for everybody who knows such a thing.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// How long a single try may take: the same for everybody who knows such a thing.
const PER_TRY: Duration = Duration::from_millis(500);

/// What proxies do for two clouds.
pub(crate) fn task(listen: SocketAddr, clouds: [peers::Cloud; 2], generation: u32) -> Task {
    Task {
        listen,
        tls: None,
        clouds: clouds.into(),
        hosts: Vec::new(),
        probes: Some(PROBE_EVERY),
        limit: PER_TRY,
        streams: false,
        generation: Some(generation),
        h2c: false,
    }
}

/// One cloud serves, and the other one when it cannot. A try may take a second, where that has to be
/// said.
pub(crate) fn tiers(first: peers::Cloud, second: peers::Cloud) -> Task {
    Task {
        limit: Duration::from_secs(1),
        generation: None,
        ..task(peers::free_address(), [first, second], 0)
    }
}

/// What happens to all endpoints of a cloud at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process is killed: connections break, new ones are refused.
    Killed,
    /// The process is stopped: connections are accepted, and nothing ever comes.
    Stopped,
    /// Every answer is 503, to probes as well.
    Unavailable,
    /// Every answer is 503, but to probes.
    Erring,
}

/// A cloud that runs, at addresses that stay its own while it does not.
pub(crate) struct Cloud {
    name: &'static str,
    /// What its process is.
    role: &'static str,
    kept: Vec<Socket>,
    process: Process,
}

impl Cloud {
    pub(crate) fn start(name: &'static str, cores: &Cores) -> Self {
        Self::of(name, 2, cores)
    }

    /// One of so many endpoints, in one process.
    pub(crate) fn of(name: &'static str, endpoints: usize, cores: &Cores) -> Self {
        Self::playing("origin", name, endpoints, cores)
    }

    /// One of two endpoints that speak HTTP/2, too.
    pub(crate) fn speaking_http2(name: &'static str, cores: &Cores) -> Self {
        Self::playing("origin2", name, 2, cores)
    }

    fn playing(role: &'static str, name: &'static str, endpoints: usize, cores: &Cores) -> Self {
        // And a place for WebSocket.
        let kept: Vec<Socket> = (0..=endpoints).map(|_| keep()).collect();
        let process = start(role, name, &kept, cores);
        Self {
            name,
            role,
            kept,
            process,
        }
    }

    /// As a proxy is told of it.
    pub(crate) fn described(&self, weight: u32) -> peers::Cloud {
        peers::Cloud {
            name: self.name.to_owned(),
            endpoints: self.endpoints().collect(),
            weight,
        }
    }

    fn endpoints(&self) -> impl Iterator<Item = SocketAddr> {
        self.kept[..self.kept.len() - 1].iter().map(address)
    }

    /// Where it speaks WebSocket.
    pub(crate) fn chat(&self) -> SocketAddr {
        address(&self.kept[self.kept.len() - 1])
    }

    /// Requests that it had so far, other than probes and GETs, by method and number.
    pub(crate) fn numbers(&self) -> Vec<String> {
        let endpoint = self.endpoints().next().expect("there is one");
        let said = ask(endpoint, "/numbers");
        said.lines().map(str::to_owned).collect()
    }

    /// How many requests it had so far, other than probes.
    pub(crate) fn count(&self) -> u64 {
        let endpoint = self.endpoints().next().expect("there is one");
        ask(endpoint, "/count").trim().parse().expect("a number")
    }

    /// Its endpoints fail.
    pub(crate) fn fail(&mut self, fault: Fault) {
        match fault {
            Fault::Killed => {
                self.signal(Signal::SIGKILL);
                self.process.child.wait().expect("it ends");
            }
            Fault::Stopped => self.signal(Signal::SIGSTOP),
            Fault::Unavailable => {
                self.signal(Signal::SIGUSR1);
                assert_eq!(self.process.line(), "failing");
            }
            Fault::Erring => {
                self.signal(Signal::SIGHUP);
                assert_eq!(self.process.line(), "erring");
            }
        }
    }

    /// They are well again.
    pub(crate) fn heal(&mut self, fault: Fault, cores: &Cores) {
        match fault {
            Fault::Killed => self.process = start(self.role, self.name, &self.kept, cores),
            Fault::Stopped => self.signal(Signal::SIGCONT),
            Fault::Unavailable | Fault::Erring => {
                self.signal(Signal::SIGUSR2);
                assert_eq!(self.process.line(), "serving");
            }
        }
    }

    /// Connections that it had so far.
    pub(crate) fn connections(&self) -> u64 {
        let endpoint = self.endpoints().next().expect("there is one");
        ask(endpoint, "/connections")
            .trim()
            .parse()
            .expect("a number")
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.child.id().cast_signed());
        kill(pid, signal).expect("it runs");
    }
}

fn start(playing: &str, name: &str, kept: &[Socket], cores: &Cores) -> Process {
    let mut command = role(playing);
    command.arg(name);
    command.args(kept.iter().map(|socket| address(socket).to_string()));
    let mut process = Process::start(&mut command, cores.others());
    assert_eq!(process.line(), "serving");
    process
}

/// An address that is bound, and never listened on: while the cloud is gone, nobody else gets it, and
/// who connects is refused.
fn keep() -> Socket {
    let keeping = || -> std::io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        Ok(socket)
    };
    keeping().expect("a port")
}

fn address(socket: &Socket) -> SocketAddr {
    let bound = socket.local_addr().expect("it is bound");
    bound.as_socket().expect("an address of the internet")
}

/// A cloud whose endpoints can fail one by one: each has a process of its own.
pub(crate) struct Pool(pub(crate) Vec<Cloud>);

impl Pool {
    pub(crate) fn start(name: &'static str, endpoints: usize, cores: &Cores) -> Self {
        Self((0..endpoints).map(|_| Cloud::of(name, 1, cores)).collect())
    }

    /// As a proxy is told of it.
    pub(crate) fn described(&self, weight: u32) -> peers::Cloud {
        let each = self.0.iter().map(|cloud| cloud.described(weight));
        let mut all: Vec<peers::Cloud> = each.collect();
        let mut first = all.remove(0);
        first
            .endpoints
            .extend(all.into_iter().flat_map(|cloud| cloud.endpoints));
        first
    }

    /// See [`Cloud::numbers`].
    pub(crate) fn numbers(&self) -> Vec<String> {
        self.0.iter().flat_map(Cloud::numbers).collect()
    }
}

/// Asks an endpoint itself, without a proxy.
fn ask(endpoint: SocketAddr, path: &str) -> String {
    let asking = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(endpoint)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nconnection: close\r\n\r\n")?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    };
    let said = asking().expect("an endpoint that serves");
    let (_, body) = said.split_once("\r\n\r\n").expect("an answer");
    body.to_owned()
}
