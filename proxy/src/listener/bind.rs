//! Takes an address, without accepting anybody yet.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

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
        let address = SockRef::from(&self.socket).local_addr()?;
        let address = address.as_socket();
        address.ok_or_else(|| io::Error::other("a socket without an IP address"))
    }
}

/// Whether clients of one address come to another as well, when nobody listens at the one: `0.0.0.0` has
/// all of IPv4, `[::]` of IPv6 as well.
pub(crate) fn covers(wide: SocketAddr, narrow: SocketAddr) -> bool {
    let all_of_it = match (wide.ip(), narrow.ip()) {
        (IpAddr::V4(all), IpAddr::V4(_)) => all.is_unspecified(),
        (IpAddr::V6(all), _) => all.is_unspecified(),
        (IpAddr::V4(_), IpAddr::V6(_)) => false,
    };
    wide.port() == narrow.port() && (all_of_it || wide == narrow)
}

/// Whether two addresses have clients in common.
pub(crate) fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    covers(one, other) || covers(other, one)
}

/// As long as there is one, other sockets of this process may be bound beside these, though they have
/// clients in common (`SO_REUSEPORT`): the system prefers the narrower address.
///
/// Not for longer than needed: other processes of the same user may then bind there, too.
#[derive(Debug, Default)]
pub(crate) struct Shared(Vec<OwnedFd>);

impl Shared {
    /// Shares the address of one more socket.
    ///
    /// # Errors
    /// When the system does not let it.
    pub(crate) fn add(&mut self, socket: impl AsFd) -> io::Result<()> {
        let socket = socket.as_fd().try_clone_to_owned()?;
        SockRef::from(&socket).set_reuse_port(true)?;
        self.0.push(socket);
        Ok(())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for socket in &self.0 {
            let _ = SockRef::from(socket).set_reuse_port(false);
        }
    }
}

/// A taken address. Nobody can connect before [`Bound::listen`].
#[derive(Debug)]
pub(crate) struct Bound {
    socket: Socket,
    address: SocketAddr,
}

impl Bound {
    /// Takes an address, beside those that are `shared`, if there are any. `[::]` takes IPv4 as well.
    ///
    /// # Errors
    /// When it is taken, or not ours.
    pub(crate) fn new(address: SocketAddr, shared: Option<&mut Shared>) -> io::Result<Self> {
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
        if let Some(shared) = shared {
            shared.add(&socket)?;
        }
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

    /// Takes over a socket of this process, beside whoever has it as well.
    pub(crate) fn again(socket: OwnedFd, address: SocketAddr) -> Self {
        let socket = Socket::from(socket);
        Self { socket, address }
    }

    /// The socket once more.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
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

impl AsFd for Bound {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wider_addresses_cover_narrower_ones_of_the_same_port() {
        let address = |text: &str| -> SocketAddr { text.parse().unwrap() };
        for (wide, narrow) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "127.0.0.1:80"),
            ("[::]:80", "0.0.0.0:80"),
            ("[::]:80", "[::1]:80"),
            ("127.0.0.1:80", "127.0.0.1:80"),
        ] {
            let (wide, narrow) = (address(wide), address(narrow));
            assert!(covers(wide, narrow) && overlap(narrow, wide));
            assert_eq!(covers(narrow, wide), narrow == wide);
        }
        for (one, other) in [
            ("0.0.0.0:80", "127.0.0.1:81"),
            ("127.0.0.1:80", "127.0.0.2:80"),
            ("0.0.0.0:80", "[::1]:80"),
            ("127.0.0.1:80", "[::1]:80"),
        ] {
            assert!(!overlap(address(one), address(other)), "{one} {other}");
        }
    }

    /// Which of them a client of this address comes to.
    fn comes_to(address: SocketAddr, all: &[&std::net::TcpListener]) -> usize {
        let _client = std::net::TcpStream::connect(address).unwrap();
        loop {
            if let Some(at) = all.iter().position(|one| one.accept().is_ok()) {
                return at;
            }
        }
    }

    #[test]
    fn a_port_is_handed_from_address_to_address_while_it_listens() {
        let narrow = Bound::new("127.0.0.1:0".parse().unwrap(), None).unwrap();
        let address = narrow.address();
        let narrow = narrow.listen().unwrap();
        let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), address.port());
        assert!(
            Bound::new(at("0.0.0.0"), None).is_err(),
            "without being shared"
        );
        let mut shared = Shared::default();
        shared.add(&narrow).unwrap();
        let wide = Bound::new(at("0.0.0.0"), Some(&mut shared)).unwrap();
        let widest = Bound::new(at("::"), Some(&mut shared)).unwrap();
        let (wide, widest) = (wide.listen().unwrap(), widest.listen().unwrap());
        drop(shared);
        for socket in [&narrow, &wide, &widest] {
            assert!(!SockRef::from(socket).reuse_port().unwrap());
        }
        assert_eq!(comes_to(address, &[&narrow, &wide, &widest]), 0);
        assert_eq!(comes_to(at("127.0.0.2"), &[&narrow, &wide, &widest]), 1);
        assert_eq!(comes_to(at("::1"), &[&narrow, &wide, &widest]), 2);
        drop(narrow);
        assert_eq!(comes_to(address, &[&wide, &widest]), 0);
        drop(wide);
        assert_eq!(comes_to(address, &[&widest]), 0);
    }

    #[test]
    fn an_address_that_is_not_needed_after_all_is_let_go_of() {
        let narrow = Bound::new("127.0.0.1:0".parse().unwrap(), None).unwrap();
        let address = narrow.address();
        let narrow = narrow.listen().unwrap();
        let mut shared = Shared::default();
        shared.add(&narrow).unwrap();
        let mut wide = address;
        wide.set_ip("0.0.0.0".parse().unwrap());
        let bound = Bound::new(wide, Some(&mut shared)).unwrap();
        drop((bound, shared));
        assert!(!SockRef::from(&narrow).reuse_port().unwrap());
        assert_eq!(comes_to(address, &[&narrow]), 0);
        let elsewhere = SocketAddr::new("127.0.0.2".parse().unwrap(), address.port());
        assert!(std::net::TcpStream::connect(elsewhere).is_err());
    }
}
