//! Connections of old cohorts: nobody asks for them any more, so they are closed here.
//!
//! An endpoint that was ejected or unhealthy may have died without a word, and connections from
//! before would keep requests waiting for nothing. Requests ask for connections by cohort, and after
//! such a time for those of a new one. Over HTTP/1.1 each worker closes its own ([`super::kept`]). The
//! engine closes HTTP/2 connections that are idle for too long, but it does not count one as idle when
//! its last stream was given up.

use std::sync::Arc;
use std::time::Duration;

use pingora::upstreams::peer::HttpPeer;

use super::Upstream;

/// Connections that are looked at in one go.
const AT_ONCE: usize = 64;

/// Nothing was found so often in a row: nothing is there. Once is not enough, for the engine also finds
/// nothing when whoever watched a connection has not let go of it yet (it is closed then, too).
const MISSES: u32 = 4;

/// How long to wait for a stream on a connection that may be dead.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long until streams that are under way are looked at again.
const AGAIN: Duration = Duration::from_secs(50);

impl Upstream {
    /// Closes the connections of this peer, each as soon as nothing is under way on it.
    pub(super) fn close(self: &Arc<Self>, peer: HttpPeer) {
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
        let mut misses = 0;
        for _ in 0..AT_ONCE {
            let taking = self.take_idle(peer);
            // Who does not give a stream in time is not idle, or broken and out of the way.
            let found = tokio::time::timeout(PATIENCE, taking).await.unwrap_or(true);
            if found {
                more = true;
                misses = 0;
            } else {
                misses += 1;
                if misses == MISSES {
                    break;
                }
            }
            tokio::task::yield_now().await;
        }
        more
    }
}
