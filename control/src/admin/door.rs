//! Where the API's clients come in: a door that can be closed while those inside are served.

use std::net::SocketAddr;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A client's address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

impl Connected<IncomingStream<'_, Door>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// Accepts clients until it is closed, and then nobody any more.
pub(super) struct Door {
    address: SocketAddr,
    listener: Option<TcpListener>,
    closed: watch::Receiver<bool>,
}

impl Door {
    /// A door that is closed when this becomes true, or when nobody can make it true any more.
    pub(super) fn new(
        listener: TcpListener,
        closed: watch::Receiver<bool>,
    ) -> std::io::Result<Self> {
        Ok(Self {
            address: listener.local_addr()?,
            listener: Some(listener),
            closed,
        })
    }
}

impl axum::serve::Listener for Door {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        if let Some(listener) = &mut self.listener {
            let closed = &mut self.closed;
            tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => {}
                client = axum::serve::Listener::accept(listener) => return client,
            }
        }
        self.listener = None;
        std::future::pending().await
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}
