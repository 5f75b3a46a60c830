//! What exchanges with endpoints are made with.

use std::sync::Arc;

use portolan_control::clock::Clock;
use portolan_control::engine::EngineHandle;

use crate::upstream::connect::pool::Upstream;

/// What exchanges with endpoints are made with.
#[derive(Debug)]
pub(crate) struct ExchangeContext {
    pub(crate) clock: Clock,
    /// Connections to endpoints.
    pub(crate) upstream: Arc<Upstream>,
    /// Tells the engine what it should look at.
    pub(crate) messenger: EngineHandle,
}
