//! What connections are served with.

use std::sync::Arc;
use std::time::Duration;

use portolan_control::engine::Published;
use tokio_util::task::TaskTracker;

use crate::edge::Edge;
use crate::record::recorder::Recorder;
use crate::workers::Dispatch;

/// How long an idle connection may still begin a request after it was asked to leave: the client
/// may be sending one just now.
pub(crate) const LEAVE_GRACE: Duration = Duration::from_millis(500);

/// What every connection needs.
#[derive(Clone)]
pub(crate) struct Service {
    /// Who serves requests: one for all listeners, so that connections to endpoints are shared.
    pub(crate) edge: Arc<Edge>,
    pub(crate) recorder: Arc<Recorder>,
    /// The configuration that runs, among other things.
    pub(crate) published: Published,
    /// Every connection, so that the process can wait for them.
    pub(crate) tasks: TaskTracker,
    /// Which thread serves the next one.
    pub(crate) dispatch: Dispatch,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Service")
    }
}
