//! What is spoken to an endpoint: HTTP/1.1 or HTTP/2, in clear text or by TLS.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Origin;
use super::certificates::Identity;

/// What an endpoint speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// HTTP/1.1.
    Http1,
    /// HTTP/1.1 by TLS.
    Tls1,
    /// HTTP/2 with prior knowledge.
    H2c,
    /// HTTP/2 by TLS.
    Tls2,
}

impl Wire {
    pub(crate) const ALL: [Self; 4] = [Self::Http1, Self::Tls1, Self::H2c, Self::Tls2];

    /// Whom the certificate is for.
    pub(crate) const NAME: &'static str = "api.internal";

    pub(crate) fn is_tls(self) -> bool {
        matches!(self, Self::Tls1 | Self::Tls2)
    }

    pub(crate) fn is_http2(self) -> bool {
        matches!(self, Self::H2c | Self::Tls2)
    }

    /// What a pool says about it, after a comma. The authority's certificate is `ca.pem`.
    pub(crate) fn pool(self) -> &'static str {
        match self {
            Self::Http1 => ", protocol: http1",
            Self::Tls1 => ", protocol: http1, tls: { server_name: api.internal, ca: ca.pem }",
            Self::H2c => ", protocol: h2c",
            Self::Tls2 => ", protocol: h2, tls: { server_name: api.internal, ca: ca.pem }",
        }
    }

    /// Accepts TLS, if this is spoken by TLS.
    pub(crate) fn acceptor(self, identity: &Identity) -> Option<TlsAcceptor> {
        let alpn = if self.is_http2() { "h2" } else { "http/1.1" };
        self.is_tls()
            .then(|| TlsAcceptor::from(Arc::new(identity.server_config(&[alpn]))))
    }

    /// An endpoint that behaves, and speaks this.
    pub(crate) async fn origin(self, name: &str, identity: &Identity) -> Origin {
        let any = "127.0.0.1:0".parse().unwrap();
        Origin::start_at(name, any, self.acceptor(identity)).await
    }
}

/// One connection of it.
pub(crate) trait Line: AsyncRead + AsyncWrite + Unpin + Send {
    /// Ends it with a reset.
    fn reset(self: Box<Self>);
}

impl Line for TcpStream {
    fn reset(self: Box<Self>) {
        self.set_zero_linger().unwrap();
    }
}

impl Line for TlsStream<TcpStream> {
    fn reset(self: Box<Self>) {
        self.get_ref().0.set_zero_linger().unwrap();
    }
}
