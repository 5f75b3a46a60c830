//! What becomes of requests is written down by this.

use std::sync::Arc;

use portolan_control::clock::Clock;
use portolan_control::engine::Published;
use portolan_control::telemetry::access_log::AccessLog;
use portolan_control::telemetry::totals::Totals;

/// Writes down what became of requests.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) clock: Clock,
    pub(crate) totals: Arc<Totals>,
    pub(crate) access_log: AccessLog,
    pub(crate) published: Published,
}
