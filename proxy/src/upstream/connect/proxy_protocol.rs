//! Connections to endpoints that begin with a PROXY protocol header (`send_proxy`).
//!
//! The header says which client a connection is for, so such a connection is only ever used for
//! that client's requests: the client's address is part of what it is known by.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, OrErr as _, Result};
use portolan_config::document::ProxyVersion;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};

use crate::proxy_protocol::Addresses;
use crate::{descriptors, proxy_protocol};

/// Has connections to this peer begin with a header; without addresses, on our own behalf.
pub(crate) fn announce(peer: &mut HttpPeer, version: ProxyVersion, who: Option<Addresses>) {
    peer.options.custom_l4 = Some(Arc::new(Announcing {
        header: proxy_protocol::write(version, who),
        timeout: peer.options.connection_timeout,
        last: who.is_none(),
    }));
}

/// Connects, and writes the header.
#[derive(Debug)]
struct Announcing {
    header: Vec<u8>,
    timeout: Option<Duration>,
    /// It may use the last descriptors.
    last: bool,
}

impl Announcing {
    async fn open(&self, address: &SocketAddr) -> Result<Stream> {
        let Some(address) = address.as_inet() else {
            return Error::e_explain(ErrorType::ConnectError, "not an address of the internet");
        };
        let mut stream = connect(*address, self.last)
            .await
            .map_err(|error| Error::because(kind(&error), "cannot connect", error))?;
        stream
            .write_all(&self.header)
            .await
            .or_err(ErrorType::ConnectError, "cannot write the PROXY header")?;
        Ok(stream.into())
    }
}

/// Connects to an endpoint; unless it may use the `last` descriptors, not when only those are left that
/// are kept back from requests.
pub(crate) async fn connect(address: std::net::SocketAddr, last: bool) -> io::Result<TcpStream> {
    let socket = match address {
        std::net::SocketAddr::V4(_) => TcpSocket::new_v4()?,
        std::net::SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if !last {
        descriptors::for_endpoint(&socket)?;
    }
    socket.connect(address).await
}

/// What the engine calls a failure to connect.
pub(crate) fn kind(error: &io::Error) -> ErrorType {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
        io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            ErrorType::ConnectNoRoute
        }
        _ => ErrorType::ConnectError,
    }
}

#[async_trait]
impl L4Connect for Announcing {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let opening = self.open(address);
        let Some(timeout) = self.timeout else {
            return opening.await;
        };
        match tokio::time::timeout(timeout, opening).await {
            Ok(opened) => opened,
            Err(_) => Error::e_explain(ErrorType::ConnectTimedout, "connecting took too long"),
        }
    }
}
