//! Connections to endpoints, new ones and kept ones.
//!
//! They are kept by the engine's pools, under the peer's identity: a connection is never shared
//! between pools or between TLS identities (see [`crate::peer`]).

use std::time::Duration;

use pingora::Result;
use pingora::connectors::http::v2;
use pingora::connectors::{ConnectorOptions, TransportConnector};
use pingora::protocols::Stream;
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::http::v2::client::Http2Session;
use pingora::upstreams::peer::{HttpPeer, Peer as _};
use pingora::{Error, ErrorType};

/// Connections to endpoints.
pub(crate) struct Upstream {
    one: TransportConnector,
    two: v2::Connector,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Upstream")
    }
}

/// A connection, or a stream of one, for a request.
pub(super) enum Connected {
    One(Stream),
    Two(Box<Http2Session>),
}

impl Upstream {
    /// Keeps so many idle connections, in all.
    pub(crate) fn new(kept: usize) -> Self {
        Self {
            one: TransportConnector::new(Some(ConnectorOptions::new(kept))),
            two: v2::Connector::new(Some(ConnectorOptions::new(kept))),
        }
    }

    /// Connects, and says whether the connection was there already.
    pub(super) async fn connect(&self, peer: &HttpPeer) -> Result<(Connected, bool)> {
        if peer.options.alpn.get_max_http_version() == 1 {
            let (stream, kept) = self.one.get_stream(peer).await?;
            return Ok((Connected::One(stream), kept));
        }
        if let Some(session) = self.two.reused_http_session(peer).await? {
            return Ok((Connected::Two(Box::new(session)), true));
        }
        // Whoever may speak both may have chosen HTTP/1.1 before.
        if peer.options.alpn.get_min_http_version() == 1
            && let Some(stream) = self.one.reused_stream(peer).await
        {
            return Ok((Connected::One(stream), true));
        }
        match self.two.new_http_session::<_, ()>(peer).await? {
            HttpSession::H1(session) => Ok((Connected::One(session.into_inner()), false)),
            HttpSession::H2(session) => Ok((Connected::Two(Box::new(session)), false)),
            HttpSession::Custom(()) => {
                Error::e_explain(ErrorType::InternalError, "no such protocol")
            }
        }
    }

    /// Closes one idle connection of this peer, or ends one stream of it for good. Whether there was one.
    pub(super) async fn take_idle(&self, peer: &HttpPeer) -> bool {
        // Dropped, it is closed.
        if self.one.reused_stream(peer).await.is_some() {
            return true;
        }
        match self.two.reused_http_session(peer).await {
            Ok(Some(session)) => {
                // With nothing else under way on it, it is closed at once.
                self.two
                    .release_http_session(session, peer, Some(Duration::ZERO));
                true
            }
            Ok(None) => false,
            // One that was broken is out of the way.
            Err(_) => true,
        }
    }

    /// Keeps a connection for the next request.
    pub(super) fn keep_one(&self, stream: Stream, peer: &HttpPeer) {
        self.one
            .release_stream(stream, peer.reuse_hash(), peer.options.idle_timeout);
    }

    /// Ends a stream, and keeps its connection.
    pub(super) fn keep_two(&self, session: Http2Session, peer: &HttpPeer) {
        self.two
            .release_http_session(session, peer, peer.options.idle_timeout);
    }
}
