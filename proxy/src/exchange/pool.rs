//! Connections to endpoints, new ones and kept ones.
//!
//! A connection is never shared between pools or between TLS identities (see [`crate::peer`]). Those
//! over HTTP/1.1 are kept by each worker ([`super::kept`]), those over HTTP/2 by the engine.

use std::time::Duration;

use pingora::connectors::http::v2;
use pingora::connectors::{ConnectorOptions, TransportConnector};
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::http::v2::client::Http2Session;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};

use super::kept;
use super::stream::EndpointStream;
use crate::descriptors;
use crate::peer::Target;

/// Connections to endpoints.
pub(crate) struct Upstream {
    one: TransportConnector,
    two: v2::Connector,
    /// Idle connections over HTTP/1.1 that each worker keeps.
    most: usize,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Upstream")
    }
}

/// A connection, or a stream of one, for a request.
pub(super) enum Connected {
    One(EndpointStream),
    Two(Box<Http2Session>),
}

/// The engine's word for a connection that there is no descriptor for.
fn no_descriptor(error: std::io::Error) -> Box<Error> {
    Error::because(ErrorType::SocketError, "no descriptor for an endpoint", error)
}

impl Upstream {
    /// Keeps so many idle connections, in all.
    pub(crate) fn new(kept: usize, workers: usize) -> Self {
        Self {
            // It only connects.
            one: TransportConnector::new(Some(ConnectorOptions::new(1))),
            two: v2::Connector::new(Some(ConnectorOptions::new(kept))),
            most: (kept / workers).max(1),
        }
    }

    /// A connection that is there already and speaks HTTP/1.1, where nothing else is spoken.
    pub(super) fn kept(&self, target: &Target) -> Option<Connected> {
        if target.speaks_http2() {
            return None;
        }
        kept::take(target).map(Connected::One)
    }

    /// Connects, and says whether the connection was there already.
    pub(super) async fn connect(&self, target: &Target) -> Result<(Connected, bool)> {
        if let Some(connected) = self.kept(target) {
            return Ok((connected, true));
        }
        if let Some(address) = target.plain() {
            let stream = EndpointStream::open(target, address).await?;
            return Ok((Connected::One(stream), false));
        }
        let peer = target.peer();
        if !target.speaks_http2() {
            descriptors::one_for_endpoint().map_err(no_descriptor)?;
            let stream = self.one.new_stream(&peer).await?;
            return Ok((Connected::One(EndpointStream::Engine(stream)), false));
        }
        if let Some(session) = self.two.reused_http_session(&peer).await? {
            return Ok((Connected::Two(Box::new(session)), true));
        }
        // Whoever may speak both may have chosen HTTP/1.1 before.
        if target.speaks_http1()
            && let Some(stream) = kept::take(target)
        {
            return Ok((Connected::One(stream), true));
        }
        descriptors::one_for_endpoint().map_err(no_descriptor)?;
        match self.two.new_http_session::<_, ()>(&peer).await? {
            HttpSession::H1(session) => {
                let stream = EndpointStream::Engine(session.into_inner());
                Ok((Connected::One(stream), false))
            }
            HttpSession::H2(session) => Ok((Connected::Two(Box::new(session)), false)),
            HttpSession::Custom(()) => {
                Error::e_explain(ErrorType::InternalError, "no such protocol")
            }
        }
    }

    /// Ends one stream of an HTTP/2 connection to this peer for good: with nothing else under way on
    /// it, it is closed. Whether there was one.
    pub(super) async fn take_idle(&self, peer: &HttpPeer) -> bool {
        match self.two.reused_http_session(peer).await {
            Ok(Some(session)) => {
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
    pub(super) fn keep_one(&self, stream: EndpointStream, target: Target) {
        kept::keep(stream, target, self.most);
    }

    /// Ends a stream, and keeps its connection.
    pub(super) fn keep_two(&self, session: Http2Session, target: &Target) {
        let peer = target.peer();
        self.two
            .release_http_session(session, &peer, peer.options.idle_timeout);
    }
}
