//! What this process, or its machine, has run out of: descriptors, local ports, memory for sockets.
//!
//! A connection that cannot be made for such a reason says nothing about the endpoint: it is no
//! verdict, and nobody is ejected for it. Operators are told once when it begins and once when it is
//! over, with what to raise.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use tokio::sync::Notify;

use crate::clock::{Clock, Tick};
use crate::journal::Journal;
use crate::notice::Notice;
use crate::stats::Counter;

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
    alarm: Notify,
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

    fn signs(&self) -> [u64; Shortage::ALL.len()] {
        std::array::from_fn(|at| self.signs[at].load(Ordering::Relaxed))
    }
}

impl Default for Shortages {
    fn default() -> Self {
        Self::new()
    }
}

/// A shortage is over when there was no sign of it for so long.
const CALM: Duration = Duration::from_secs(10);

/// How often it is looked while there is one.
const LOOK: Duration = Duration::from_secs(1);

/// Which shortages there are, as far as was told.
#[derive(Debug, Default)]
struct Watch {
    signs: [u64; Shortage::ALL.len()],
    /// When there was a sign last, of those that were told.
    last: [Option<Tick>; Shortage::ALL.len()],
}

impl Watch {
    /// What is to be told when there have been so many signs of each until `now`: what has begun
    /// (true), and what is over.
    fn look(&mut self, signs: [u64; Shortage::ALL.len()], now: Tick) -> Vec<(Shortage, bool)> {
        let mut told = Vec::new();
        for (at, what) in Shortage::ALL.into_iter().enumerate() {
            let news = signs[at] != self.signs[at];
            match self.last[at] {
                None if news => told.push((what, true)),
                Some(last) if !news && now.since(last) >= CALM => {
                    self.last[at] = None;
                    told.push((what, false));
                }
                _ => {}
            }
            if news {
                self.last[at] = Some(now);
            }
        }
        self.signs = signs;
        told
    }

    fn is_calm(&self) -> bool {
        self.last.iter().all(Option::is_none)
    }
}

/// Tells what is short, once when it begins and once when it is over, for as long as the process lives.
/// While nothing is, it sleeps.
pub async fn keep_telling(shortages: &Shortages, journal: Arc<Journal>, clock: Clock) {
    let mut watch = Watch::default();
    loop {
        shortages.alarm.notified().await;
        loop {
            for (what, began) in watch.look(shortages.signs(), clock.now()) {
                journal.tell(&Notice::Shortage { what, began });
            }
            if watch.is_calm() {
                break;
            }
            tokio::time::sleep(LOOK).await;
            // Whoever fails again says so.
            shortages.files.store(false, Ordering::Relaxed);
            shortages.ports.store(false, Ordering::Relaxed);
        }
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

    #[test]
    fn a_shortage_is_told_once_and_so_is_its_end() {
        let shortages = Shortages::new();
        let mut watch = Watch::default();
        let at = |seconds| Tick::after(Duration::from_secs(seconds));
        assert_eq!(watch.look(shortages.signs(), at(0)), []);
        shortages.one(Shortage::Files);
        assert!(shortages.files_are_short());
        assert_eq!(
            watch.look(shortages.signs(), at(1)),
            [(Shortage::Files, true)]
        );
        for second in 2..30 {
            shortages.persists(Shortage::Files);
            assert_eq!(watch.look(shortages.signs(), at(second)), []);
        }
        assert_eq!(shortages.count(Shortage::Files), 1);
        shortages.one(Shortage::Ports);
        assert_eq!(
            watch.look(shortages.signs(), at(35)),
            [(Shortage::Ports, true)]
        );
        assert_eq!(
            watch.look(shortages.signs(), at(39)),
            [(Shortage::Files, false)]
        );
        assert!(!watch.is_calm());
        assert_eq!(
            watch.look(shortages.signs(), at(45)),
            [(Shortage::Ports, false)]
        );
        assert!(watch.is_calm());
        // And begins anew.
        shortages.one(Shortage::Files);
        assert_eq!(
            watch.look(shortages.signs(), at(46)),
            [(Shortage::Files, true)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_tells_is_woken_and_sleeps_again() {
        static SHORT: Shortages = Shortages::new();
        let clock = Clock::start();
        let journal = Journal::new(clock);
        let kinds = || -> Vec<String> {
            let entries = journal.recent();
            entries.iter().map(|entry| entry.kind.clone()).collect()
        };
        let telling = tokio::spawn(keep_telling(&SHORT, journal.clone(), clock));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(kinds().is_empty());
        SHORT.one(Shortage::SystemFiles);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(kinds(), ["edge_exhausted"]);
        assert!(!SHORT.files_are_short(), "that was two seconds ago");
        SHORT.clients_wait(Shortage::Files);
        assert!(!SHORT.files_are_short(), "which is about endpoints alone");
        telling.abort();
    }
}
