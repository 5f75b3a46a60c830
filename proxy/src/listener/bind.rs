//! Takes an address, without accepting anybody yet.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// A listening socket on its way from one process to another.
#[derive(Debug)]
pub struct HandedSocket {
    /// The address in the configuration: port 0 is a wish for any.
    pub configured: SocketAddr,
    /// The socket.
    pub socket: OwnedFd,
}

impl HandedSocket {
    /// The address it really has.
    ///
    /// # Errors
    /// When it is not a socket with an IP address.
    pub fn bound(&self) -> io::Result<SocketAddr> {
        let address = socket2::SockRef::from(&self.socket).local_addr()?;
        let address = address.as_socket();
        address.ok_or_else(|| io::Error::other("a socket without an IP address"))
    }
}

/// A taken address. Nobody can connect before [`Bound::listen`].
#[derive(Debug)]
pub(crate) struct Bound {
    socket: Socket,
    address: SocketAddr,
}

impl Bound {
    /// Takes an address. `[::]` takes IPv4 as well.
    ///
    /// # Errors
    /// When it is taken, or not ours.
    pub(crate) fn new(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        // Connections of a process before us that are not quite over do not keep the address.
        socket.set_reuse_address(true)?;
        if let SocketAddr::V6(v6) = address {
            socket.set_only_v6(!v6.ip().is_unspecified())?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        let bound = socket.local_addr()?.as_socket();
        Ok(Self {
            socket,
            address: bound.unwrap_or(address),
        })
    }

    /// Takes over an address from whoever bound it before.
    ///
    /// # Errors
    /// When it is not a socket with an address.
    pub(crate) fn inherit(handed: HandedSocket) -> io::Result<Self> {
        let address = handed.bound()?;
        let socket = Socket::from(handed.socket);
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address })
    }

    /// The socket once more.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned()
    }

    /// The address it really is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Opens it: clients can connect from now on.
    ///
    /// # Errors
    /// When somebody else has taken the address for listening since.
    pub(crate) fn listen(self) -> io::Result<std::net::TcpListener> {
        self.socket.listen(BACKLOG)?;
        Ok(self.socket.into())
    }
}
