//! What this process, or its machine, has run out of: descriptors, local ports, memory for sockets.
//!
//! A connection that cannot be made for such a reason says nothing about the endpoint: it is no
//! verdict, and nobody is ejected for it. Operators are told once when it begins and once when it is
//! over, with what to raise.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::{fmt, io};

use rustix::io::Errno;
use tokio::sync::Notify;

use crate::counters::Counter;

/// What there is not enough of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// This process may open no more files and sockets (`EMFILE`).
    Files,
    /// Nobody on this machine may (`ENFILE`).
    SystemFiles,
    /// No local port is free for one more connection to this endpoint (`EADDRNOTAVAIL`; `EAGAIN` while
    /// connecting).
    Ports,
    /// No memory for sockets (`ENOBUFS`, `ENOMEM`).
    Memory,
}

impl Shortage {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Files, Self::SystemFiles, Self::Ports, Self::Memory];

    /// What an error while connecting or accepting says about this machine, if it does: errors of
    /// `connect(2)`, `socket(2)` and `accept(2)`.
    pub fn of(error: &io::Error) -> Option<Self> {
        match Errno::from_io_error(error)? {
            Errno::MFILE => Some(Self::Files),
            Errno::NFILE => Some(Self::SystemFiles),
            Errno::ADDRNOTAVAIL | Errno::AGAIN => Some(Self::Ports),
            Errno::NOBUFS | Errno::NOMEM => Some(Self::Memory),
            _ => None,
        }
    }

    /// The label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::SystemFiles => "system_files",
            Self::Ports => "local_ports",
            Self::Memory => "memory",
        }
    }

    /// Whether no endpoint can be connected to. Local ports are counted for each address and port that
    /// is connected to: another endpoint may have some left.
    pub fn is_everybodys(self) -> bool {
        self != Self::Ports
    }

    /// What to raise.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Files => {
                "raise `LimitNOFILE=` of the unit, or `ulimit -n`; or lower `limits.connections`"
            }
            Self::SystemFiles => "raise the sysctl `fs.file-max`",
            Self::Ports => {
                "widen the sysctl `net.ipv4.ip_local_port_range`, give the pool more endpoints or \
                 addresses, or let it speak HTTP/2"
            }
            Self::Memory => "raise the sysctl `net.ipv4.tcp_mem`, or give the machine more memory",
        }
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Files => "this process may open no more files and sockets",
            Self::SystemFiles => "this machine has no file descriptors left",
            Self::Ports => "no local ports are left for connections to an endpoint",
            Self::Memory => "this machine has no memory left for sockets",
        })
    }
}

/// What is known about shortages of the process.
#[derive(Debug)]
pub struct Shortages {
    counts: [Counter; Shortage::ALL.len()],
    /// Signs of each, counted or not.
    signs: [AtomicU64; Shortage::ALL.len()],
    /// Descriptors were short just now.
    files: AtomicBool,
    /// Local ports were.
    ports: AtomicBool,
    /// Rings with each sign.
    pub(crate) alarm: Notify,
}

/// Those of this process: like descriptors, they are shared by all that it does.
pub static SHORTAGES: Shortages = Shortages::new();

impl Shortages {
    /// Nothing is short.
    pub const fn new() -> Self {
        Self {
            counts: [const { Counter::new() }; Shortage::ALL.len()],
            signs: [const { AtomicU64::new(0) }; Shortage::ALL.len()],
            files: AtomicBool::new(false),
            ports: AtomicBool::new(false),
            alarm: Notify::const_new(),
        }
    }

    /// An endpoint could not be connected to.
    pub fn one(&self, what: Shortage) {
        self.counts[what as usize].one();
        match what {
            Shortage::Files | Shortage::SystemFiles => self.files.store(true, Ordering::Relaxed),
            Shortage::Ports => self.ports.store(true, Ordering::Relaxed),
            Shortage::Memory => {}
        }
        self.persists(what);
    }

    /// Clients are not let in from now on.
    pub fn clients_wait(&self, what: Shortage) {
        self.counts[what as usize].one();
        self.persists(what);
    }

    /// Nobody else went without, but it is not over, either.
    pub fn persists(&self, what: Shortage) {
        self.signs[what as usize].fetch_add(1, Ordering::Relaxed);
        self.alarm.notify_one();
    }

    /// How often somebody went without.
    pub fn count(&self, what: Shortage) -> u64 {
        self.counts[what as usize].get()
    }

    /// Whether endpoints could not be connected to just now because descriptors are short: nobody keeps
    /// more of them than they need.
    pub fn files_are_short(&self) -> bool {
        self.files.load(Ordering::Relaxed)
    }

    /// The same for local ports: connections that are not in use hold some.
    pub fn ports_are_short(&self) -> bool {
        self.ports.load(Ordering::Relaxed)
    }

    /// Whoever fails again says so.
    pub(crate) fn begin_anew(&self) {
        self.files.store(false, Ordering::Relaxed);
        self.ports.store(false, Ordering::Relaxed);
    }

    /// Signs of each so far.
    pub(crate) fn signs(&self) -> [u64; Shortage::ALL.len()] {
        std::array::from_fn(|at| self.signs[at].load(Ordering::Relaxed))
    }
}

impl Default for Shortages {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_understood() {
        for (errno, what) in [
            (Errno::MFILE, Some(Shortage::Files)),
            (Errno::NFILE, Some(Shortage::SystemFiles)),
            (Errno::ADDRNOTAVAIL, Some(Shortage::Ports)),
            (Errno::AGAIN, Some(Shortage::Ports)),
            (Errno::NOBUFS, Some(Shortage::Memory)),
            (Errno::NOMEM, Some(Shortage::Memory)),
            (Errno::CONNREFUSED, None),
            (Errno::HOSTUNREACH, None),
            (Errno::TIMEDOUT, None),
        ] {
            assert_eq!(Shortage::of(&errno.into()), what, "{errno}");
        }
        assert_eq!(Shortage::of(&io::Error::other("made up")), None);
        assert!(Shortage::Files.is_everybodys() && !Shortage::Ports.is_everybodys());
    }
}
