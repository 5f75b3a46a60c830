//! What is counted about the process, and how it is written down.

pub mod access_log;
pub mod handshakes;
pub mod ledger;
pub mod lines;
pub mod listener_status;
pub(crate) mod managed_certificates;
pub mod metrics;
pub mod totals;
