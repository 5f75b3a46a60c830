//! An entry in the ledger: opened when a request is accepted, closed with exactly one outcome.
//!
//! Whoever holds an entry closes it. If nobody does, because a future was dropped, it closes itself
//! with the outcome that stands for that.

use std::sync::Arc;

use portolan_control::clock::Tick;
use portolan_control::telemetry::ledger::Outcome;

use crate::context::ConnectionContext;
use crate::refusal::Refusal;

/// A request that was accepted and has not ended.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Whose request it is.
    pub(crate) connection: Arc<ConnectionContext>,
    /// When it was accepted.
    pub(crate) began: Tick,
    /// `HTTP/1.1` or `HTTP/2`.
    pub(crate) protocol: &'static str,
    closed: bool,
}

impl Entry {
    /// A request is accepted.
    pub(crate) fn open(connection: Arc<ConnectionContext>, protocol: &'static str) -> Self {
        let recorder = &connection.recorder;
        recorder.totals.ledger.accept();
        Self {
            began: recorder.clock.now(),
            connection,
            protocol,
            closed: false,
        }
    }

    /// Counts how it ended. `status`: as Portolan means it, 0 without an answer.
    pub(crate) fn close(mut self, outcome: Outcome, status: u16) {
        self.count(outcome, status);
    }

    /// It ended before its head was known: counted, and written down. `id`: what the client was told
    /// that it is known by.
    pub(crate) fn close_early(mut self, outcome: Outcome, status: u16, id: &str) {
        self.count(outcome, status);
        self.connection.recorder.early(&self, outcome, status, id);
    }

    /// The outcome of a request that nobody has closed.
    pub(crate) fn abandoned() -> Outcome {
        Outcome::Refused(if std::thread::panicking() {
            Refusal::Internal
        } else {
            // Nothing but the end of the process drops what is under way.
            Refusal::Stopped
        })
    }

    fn count(&mut self, outcome: Outcome, status: u16) {
        self.closed = true;
        let totals = &self.connection.recorder.totals;
        totals.requests.one(status);
        totals.ledger.close(outcome);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        let (outcome, status) = (Self::abandoned(), 0);
        self.count(outcome, status);
        self.connection.recorder.early(self, outcome, status, "-");
    }
}
