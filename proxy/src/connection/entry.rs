//! An entry in the ledger: opened when a request is accepted, closed with exactly one outcome.
//!
//! Whoever holds an entry closes it. If nobody does, because a future was dropped, it closes itself
//! with the outcome that stands for that.

use std::sync::Arc;
use std::time::Duration;

use portolan_control::clock::Tick;
use portolan_control::refusal::Refusal;
use portolan_control::telemetry::ledger::Outcome;

use crate::connection::context::ConnectionContext;
use crate::record::line::{Line, Timestamp};
use crate::record::recorder::Recorder;

/// A request that was accepted and has not ended.
#[derive(Debug)]
pub(crate) struct LedgerEntry {
    /// Whose request it is.
    pub(crate) connection: Arc<ConnectionContext>,
    /// When it was accepted.
    pub(crate) began: Tick,
    /// `HTTP/1.1` or `HTTP/2`.
    pub(crate) protocol: &'static str,
    closed: bool,
}

impl LedgerEntry {
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

impl Recorder {
    /// A request has ended before its head was known.
    pub(crate) fn early(&self, entry: &LedgerEntry, outcome: Outcome, status: u16, id: &str) {
        if !self.access_log.wants(fastrand::u32(..), true) {
            return;
        }
        let snapshot = self.published.load();
        let line = Line {
            request_id: id,
            client: Some(entry.connection.peer.ip().to_canonical()),
            config: snapshot.plan.hash.as_str(),
            duration: self.clock.now().since(entry.began),
            ..self.line(entry, outcome, status)
        };
        self.write(&line);
    }

    /// A line with what is known about any request.
    pub(crate) fn line<'a>(
        &self,
        entry: &'a LedgerEntry,
        outcome: Outcome,
        status: u16,
    ) -> Line<'a> {
        Line {
            time: Timestamp::now(&self.clock),
            request_id: "-",
            client: None,
            country: "-",
            method: "-",
            host: "-",
            path: "-",
            protocol: entry.protocol,
            tls: entry.connection.tls.as_ref().map(|tls| tls.version),
            route: None,
            pool: None,
            endpoint: None,
            tries: 0,
            status,
            outcome: outcome.as_str(),
            reason: outcome.reason(),
            refused: outcome.refusal().map(Refusal::reason),
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::ZERO,
            upstream: None,
            why: None,
            config: "-",
        }
    }

    /// Writes a line, if there is anybody to write it to.
    pub(crate) fn write(&self, line: &Line<'_>) {
        self.access_log.write(|out| line.put(out));
    }
}

impl Drop for LedgerEntry {
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        let (outcome, status) = (Self::abandoned(), 0);
        self.count(outcome, status);
        self.connection.recorder.early(self, outcome, status, "-");
    }
}
