//! A socket on which a listener's clients come in. A listener has one, or several while its address
//! is moved: a narrower address that it had before goes on letting clients in.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use tokio::sync::watch;

use super::bind::Bound;

/// Whether clients are let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// They are.
    Open,
    /// For another moment: clients whose connection is being made are on their way here, and new ones
    /// come by another socket.
    Lingering,
    /// Only those who are connected already, and wait to be accepted.
    Closed,
    /// Whoever waits here is let in by somebody else who has the same socket.
    Taken,
}

/// A socket of a listener.
#[derive(Debug)]
pub(crate) struct ListenSocket {
    /// The address it really has.
    pub(crate) address: SocketAddr,
    /// The socket once more: as long as anybody has it, clients can connect.
    socket: OwnedFd,
    opening: watch::Sender<Opening>,
}

impl ListenSocket {
    /// A socket at this socket.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(crate) fn new(bound: &Bound) -> io::Result<Self> {
        Ok(Self {
            address: bound.address(),
            socket: bound.duplicate()?,
            opening: watch::channel(Opening::Open).0,
        })
    }

    /// The socket once more.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// What is to be heard by whoever accepts here.
    pub(crate) fn opening(&self) -> watch::Receiver<Opening> {
        self.opening.subscribe()
    }

    /// Lets nobody in any more, or not for long.
    pub(crate) fn close(self, how: Opening) {
        self.opening.send_replace(how);
    }
}
