//! What is counted about the process.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::counters::{Amount, ByClass, Counter, Refused};
use crate::telemetry::ledger::Ledger;
use crate::telemetry::lines::Loss;

/// What is counted about the process.
#[derive(Debug, Default)]
pub struct Totals {
    /// Requests that have ended, by the first digit of the status, whatever their route.
    pub requests: ByClass,
    /// Requests that were accepted, and what became of them.
    pub ledger: Ledger,
    /// HTTP/2 streams that the engine refused by itself, by reason.
    pub refused_streams: Refused,
    /// Connections that were closed for what they were or did, by reason.
    pub refused_connections: Refused,
    /// What is held of bodies over HTTP/2, in bytes: it has come, and nobody has taken it yet.
    pub held: Arc<Amount>,
    /// Lines of the access log that were lost.
    pub access_log: Arc<Loss>,
    /// Lines of the process's own log that were lost.
    pub process_log: Arc<Loss>,
    /// Panics of the control plane's tasks, by task.
    pub task_failures: Refused,
    /// Reloads that were applied.
    pub reloads_applied: Counter,
    /// Reloads that found nothing changed.
    pub reloads_unchanged: Counter,
    /// Reloads that were refused.
    pub reloads_refused: Counter,
    /// Certificates that look after themselves.
    pub acme: crate::background::acme::Ledger,
    /// Files of certificates that could not be used where something good was in use, by reason.
    pub certificate_faults: Refused,
    /// Upgrades that led to this process, one after the other.
    pub upgrades_done: Counter,
    /// Upgrades that failed, and left the process before them serving.
    pub upgrades_failed: Counter,
    /// When the running configuration was applied, in milliseconds since 1970.
    pub last_reload_success: AtomicU64,
}
