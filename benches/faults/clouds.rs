//! The clouds, and what befalls them.

use std::net::SocketAddr;
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
}

/// A cloud that runs, at addresses that stay its own while it does not.
pub(crate) struct Cloud {
    name: &'static str,
    kept: Vec<Socket>,
    process: Process,
}

impl Cloud {
    pub(crate) fn start(name: &'static str, cores: &Cores) -> Self {
        let kept: Vec<Socket> = (0..3).map(|_| keep()).collect();
        let process = start(name, &kept, cores);
        Self {
            name,
            kept,
            process,
        }
    }

    /// As a proxy is told of it.
    pub(crate) fn described(&self, weight: u32) -> peers::Cloud {
        peers::Cloud {
            name: self.name.to_owned(),
            endpoints: [address(&self.kept[0]), address(&self.kept[1])],
            weight,
        }
    }

    /// Where it speaks WebSocket.
    pub(crate) fn chat(&self) -> SocketAddr {
        address(&self.kept[2])
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
        }
    }

    /// They are well again.
    pub(crate) fn heal(&mut self, fault: Fault, cores: &Cores) {
        match fault {
            Fault::Killed => self.process = start(self.name, &self.kept, cores),
            Fault::Stopped => self.signal(Signal::SIGCONT),
            Fault::Unavailable => {
                self.signal(Signal::SIGUSR2);
                assert_eq!(self.process.line(), "serving");
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.child.id().cast_signed());
        kill(pid, signal).expect("it runs");
    }
}

fn start(name: &str, kept: &[Socket], cores: &Cores) -> Process {
    let mut command = role("origin");
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
