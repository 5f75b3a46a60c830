//! The connection to an endpoint over HTTP/1.1.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pingora::protocols::Stream;
use pingora::{Error, ErrorType, Result};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::upstream::connect::peer::Target;
use crate::upstream::connect::proxy_protocol::connect;

/// A connection to an endpoint.
pub(crate) enum EndpointStream {
    /// The socket as it is.
    Plain(TcpStream),
    /// What the engine has made of it: TLS, or what begins with a PROXY protocol header.
    Engine(Stream),
}

impl std::fmt::Debug for EndpointStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EndpointStream")
    }
}

impl EndpointStream {
    /// Connects to an endpoint without TLS. `last`: it may use the last descriptors.
    pub(crate) async fn open(target: &Target, address: SocketAddr, last: bool) -> Result<Self> {
        let connecting = connect(address, last);
        let connected = match target.connect_timeout() {
            None => connecting.await,
            Some(limit) => match tokio::time::timeout(limit, connecting).await {
                Ok(connected) => connected,
                Err(_) => {
                    return Error::e_explain(
                        ErrorType::ConnectTimedout,
                        format!("connecting to {address} took longer than {limit:?}"),
                    );
                }
            },
        };
        let stream = connected.and_then(|stream| {
            stream.set_nodelay(true)?;
            let keepalive = TcpKeepalive::new()
                .with_time(crate::upstream::connect::peer::KEEPALIVE_IDLE)
                .with_interval(crate::upstream::connect::peer::KEEPALIVE_INTERVAL)
                .with_retries(crate::upstream::connect::peer::KEEPALIVE_COUNT);
            SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            Ok(stream)
        });
        stream.map(Self::Plain).map_err(|error| {
            Error::because(
                crate::upstream::connect::proxy_protocol::kind(&error),
                format!("cannot connect to {address}"),
                error,
            )
        })
    }
}

impl EndpointStream {
    /// Its end waits for nothing that is still on its way, so that its port is free at once.
    pub(crate) fn cut_short(&self) {
        match self {
            // What cannot be set costs nothing but a port for a while.
            Self::Plain(stream) => {
                let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            }
            // The engine keeps its sockets to itself.
            Self::Engine(_) => {}
        }
    }

    /// Acknowledges at once what has come, instead of waiting for something to send with it.
    ///
    /// An endpoint that writes an answer in several small pieces, and lets its system collect them
    /// (Nagle's algorithm, RFC 9293, section 3.7.4), sends the first one and then waits for that one to be
    /// acknowledged. The acknowledgement is delayed (section 3.8.6.3; 40 ms on Linux), since answers to what
    /// comes usually follow soon: but here nothing follows, for it is we who wait.
    pub(crate) fn acknowledge(&self) {
        match self {
            // What cannot be set costs nothing but time.
            #[cfg(target_os = "linux")]
            Self::Plain(stream) => {
                let _ = SockRef::from(stream).set_tcp_quickack(true);
            }
            // The engine keeps its sockets to itself.
            _ => {}
        }
    }
}

impl AsyncRead for EndpointStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, out),
            Self::Engine(stream) => Pin::new(stream).poll_read(cx, out),
        }
    }
}

impl AsyncWrite for EndpointStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Engine(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Engine(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Engine(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Engine(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Engine(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
