//! Connections of old cohorts: nobody asks for them any more, so they are closed here.
//!
//! An endpoint that was ejected or unhealthy may have died without a word, and connections from
//! before would keep requests waiting for nothing. Requests ask for connections by cohort, and after
//! such a time for those of a new one. The engine closes what is idle for too long, but it does not
//! count an HTTP/2 connection as idle when its last stream was given up.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::l4::Connect;
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};

use super::Upstream;

/// Connections that are looked at in one go.
const AT_ONCE: usize = 64;

/// How long to wait for a stream on a connection that may be dead.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long until streams that are under way are looked at again.
const AGAIN: Duration = Duration::from_secs(50);

/// Connects to nobody: only what is there already is found.
#[derive(Debug)]
struct Nobody;

#[async_trait]
impl Connect for Nobody {
    async fn connect(&self, _: &SocketAddr) -> Result<Stream> {
        Error::e_explain(ErrorType::ConnectNoRoute, "only what is there already")
    }
}

impl Upstream {
    /// Closes the connections of this peer, each as soon as nothing is under way on it.
    pub(super) fn close(self: &Arc<Self>, mut peer: HttpPeer) {
        peer.options.custom_l4 = Some(Arc::new(Nobody));
        let upstream = self.clone();
        tokio::spawn(async move {
            while upstream.close_idle(&peer).await {
                tokio::time::sleep(AGAIN).await;
            }
        });
    }

    /// Closes what is idle. Whether there may be more.
    async fn close_idle(&self, peer: &HttpPeer) -> bool {
        let mut more = false;
        for _ in 0..AT_ONCE {
            let taking = self.connector.get_http_session(peer);
            match tokio::time::timeout(PATIENCE, taking).await {
                Ok(Ok((session @ HttpSession::H2(_), _))) => {
                    more = true;
                    // With nothing else under way on it, it is closed at once.
                    self.connector
                        .release_http_session(session, peer, Some(Duration::ZERO))
                        .await;
                    tokio::task::yield_now().await;
                }
                // Dropped, it is closed.
                Ok(Ok(_)) => more = true,
                Ok(Err(error)) if *error.etype() == ErrorType::ConnectNoRoute => return more,
                // One that was broken is out of the way.
                Ok(Err(_)) | Err(_) => more = true,
            }
        }
        more
    }
}
