//! The end of a request: what is counted, and its line in the access log. Every request has one,
//! with as much as is known of it.

use std::cell::Cell;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use pingora::{Error, ErrorSource};
use portolan_control::access_log::AccessLog;
use portolan_control::clock::{Clock, Tick};
use portolan_control::engine::Published;
use portolan_control::ledger::{Answered, Gone, Outcome};
use portolan_control::stats::Totals;
use serde::{Serialize, Serializer};

use crate::context::RequestContext;
use crate::downstream::Downstream;
use crate::ledger::Entry;
use crate::refusal::Refusal;

/// Writes down what became of requests.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) clock: Clock,
    pub(crate) totals: Arc<Totals>,
    pub(crate) access_log: AccessLog,
    pub(crate) published: Published,
}

/// Room for a line: most are shorter.
const LINE: usize = 768;

/// One line of the access log.
#[derive(Debug, Serialize)]
struct Line<'a> {
    time: Timestamp,
    request_id: &'a str,
    client: Option<IpAddr>,
    country: &'a str,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    protocol: &'a str,
    tls: Option<&'a str>,
    route: Option<&'a str>,
    pool: Option<&'a str>,
    endpoint: Option<SocketAddr>,
    tries: u32,
    status: u16,
    outcome: &'a str,
    reason: &'a str,
    /// Why Portolan answered itself, if it did.
    refused: Option<&'a str>,
    bytes_in: u64,
    bytes_out: u64,
    duration_ms: f64,
    /// To response headers, from the beginning of the last try.
    upstream_ms: Option<f64>,
    why: Option<&'a str>,
    config: &'a str,
}

impl Recorder {
    /// A request is over. `error`: what cut it short, if anything did.
    pub(crate) fn request(
        &self,
        downstream: &Downstream,
        error: Option<&Error>,
        ctx: &mut RequestContext,
    ) {
        let written = downstream.written().map(|status| status.as_u16());
        let outcome = outcome(ctx, written, error);
        let status = match (outcome, written) {
            // 0: the client went away before there was an answer.
            (_, None) => 0,
            // A gRPC client reads its status elsewhere, and gets 200 here.
            (Outcome::Refused(refusal), Some(_)) => refusal.status().as_u16(),
            (_, Some(status)) => status,
        };
        self.end(ctx, outcome, status, Some(downstream));
    }

    /// A request is dropped: nobody will say how it ended.
    pub(crate) fn dropped(&self, ctx: &mut RequestContext) {
        let outcome = match ctx.answered {
            Some(_) => Outcome::Answered(Answered::CutShort),
            None => Entry::abandoned(),
        };
        self.end(ctx, outcome, 0, None);
    }

    /// A request has ended before its head was known.
    pub(crate) fn early(&self, entry: &Entry, outcome: Outcome, status: u16, id: &str) {
        if !self.access_log.wants(fastrand::u32(..), true) {
            return;
        }
        let snapshot = self.published.load();
        let line = Line {
            request_id: id,
            client: Some(entry.connection.peer.ip().to_canonical()),
            config: snapshot.plan.hash.as_str(),
            duration_ms: milliseconds(since(&self.clock, entry.began)),
            ..self.line(entry, outcome, status)
        };
        self.write(&line);
    }

    fn end(
        &self,
        ctx: &mut RequestContext,
        outcome: Outcome,
        status: u16,
        downstream: Option<&Downstream>,
    ) {
        let Some(entry) = ctx.entry.take() else {
            return;
        };
        let Some(snapshot) = ctx.snapshot.clone() else {
            entry.close_early(outcome, status, &ctx.id);
            return;
        };
        let took = self.clock.now().since(ctx.began);
        let served_by = ctx.current.as_ref().map(|current| current.pool);
        if let Some(route) = ctx.route {
            let stats = snapshot.routes[route.index()].stats(served_by);
            stats.requests.one(status);
            stats.duration.observe(took);
        }
        if let Some(pool) = served_by {
            let stats = &snapshot.pool_stats[pool.index()];
            stats.bytes_to.add(ctx.bytes_in);
            stats.bytes_from.add(ctx.bytes_out);
        }
        let good = matches!(
            outcome,
            Outcome::Answered(Answered::Whole | Answered::Redirected)
        );
        let error = !good || status >= 500;
        if self.access_log.wants(fastrand::u32(..), error) {
            let mut line = self.of_context(&entry, ctx, outcome, status);
            line.duration_ms = milliseconds(took.as_secs_f64());
            if let Some(downstream) = downstream {
                let request = downstream.request();
                line.method = request.method.as_str();
                line.host = crate::edge::host(request).unwrap_or("-");
                line.path = request
                    .uri
                    .path_and_query()
                    .map_or("/", http::uri::PathAndQuery::as_str);
                if request.version == http::Version::HTTP_10 {
                    line.protocol = "HTTP/1.0";
                }
            }
            self.write(&line);
        }
        entry.close(outcome, status);
    }

    /// A line with what is known about any request.
    fn line<'a>(&self, entry: &'a Entry, outcome: Outcome, status: u16) -> Line<'a> {
        Line {
            time: timestamp(&self.clock),
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
            duration_ms: 0.0,
            upstream_ms: None,
            why: None,
            config: "-",
        }
    }

    /// A line with what is known about a request beside its head.
    fn of_context<'a>(
        &self,
        entry: &'a Entry,
        ctx: &'a RequestContext,
        outcome: Outcome,
        status: u16,
    ) -> Line<'a> {
        let snapshot = ctx.snapshot();
        let current = ctx.current.as_ref();
        Line {
            request_id: &ctx.id,
            client: ctx.client,
            country: snapshot.plan.locations.country_label(ctx.found.place),
            route: ctx
                .route
                .map(|route| &*snapshot.plan.routes[route.index()].name),
            pool: current.map(|this| snapshot.plan.pools[this.pool.index()].name.as_str()),
            endpoint: current.map(|this| this.live.endpoint().key.address),
            tries: ctx.tries,
            bytes_in: ctx.bytes_in,
            bytes_out: ctx.bytes_out,
            upstream_ms: ctx
                .answered
                .zip(current)
                .map(|(at, this)| milliseconds(at.since(this.began).as_secs_f64())),
            why: ctx.why.as_deref(),
            config: snapshot.plan.hash.as_str(),
            ..self.line(entry, outcome, status)
        }
    }

    fn write(&self, line: &Line<'_>) {
        let mut bytes = Vec::with_capacity(LINE);
        if serde_json::to_writer(&mut bytes, line).is_ok() {
            bytes.push(b'\n');
            self.access_log.write(bytes);
        }
    }
}

/// How a request ended, of which is known that it has.
fn outcome(ctx: &RequestContext, written: Option<u16>, error: Option<&Error>) -> Outcome {
    if let Some(refusal) = ctx.refusal {
        return Outcome::Refused(refusal);
    }
    // An upgrade (101) is an answer; other interim answers are not.
    let begun = written.is_some_and(|status| status == 101 || status >= 200);
    let by_client = error.is_some_and(|error| *error.esource() == ErrorSource::Downstream);
    match (begun, error.is_some()) {
        (true, false) if ctx.redirected => Outcome::Answered(Answered::Redirected),
        (true, false) => Outcome::Answered(Answered::Whole),
        (true, true) if by_client => Outcome::ClientGone(Gone::InAnswer),
        (true, true) => Outcome::Answered(Answered::CutShort),
        (false, _) if by_client => Outcome::ClientGone(Gone::BeforeAnswer),
        // Whatever else has no answer was refused above.
        (false, _) => Outcome::Refused(Refusal::Internal),
    }
}

fn milliseconds(seconds: f64) -> f64 {
    (seconds * 1_000_000.0).round() / 1000.0
}

fn since(clock: &Clock, began: Tick) -> f64 {
    clock.now().since(began).as_secs_f64()
}

/// A time by the calendar, to the millisecond (RFC 3339).
#[derive(Clone, Copy, Debug)]
struct Timestamp {
    milliseconds: i64,
    text: [u8; Self::LENGTH],
}

impl Timestamp {
    /// As in `2001-02-03T04:05:06.789Z`.
    const LENGTH: usize = 24;

    fn new(milliseconds: i64) -> Self {
        let mut text = [b'-'; Self::LENGTH];
        if let Ok(time) = jiff::Timestamp::from_millisecond(milliseconds) {
            // What has no room is no year that anybody lives in.
            let _ = write!(&mut text[..], "{time:.3}");
        }
        Self { milliseconds, text }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(&self.text).unwrap_or("-"))
    }
}

thread_local! {
    /// The last one: many lines are of the same millisecond.
    static LAST: Cell<Timestamp> = Cell::new(Timestamp::new(0));
}

fn timestamp(clock: &Clock) -> Timestamp {
    let now = i64::try_from(clock.wall().as_millis()).unwrap_or(i64::MAX);
    let last = LAST.get();
    if last.milliseconds == now {
        return last;
    }
    let new = Timestamp::new(now);
    LAST.set(new);
    new
}

#[cfg(test)]
mod tests {
    use super::*;
    use pingora::ErrorType;

    #[test]
    fn times_are_written_as_everybody_writes_them() {
        let text = |milliseconds| {
            let time = Timestamp::new(milliseconds);
            serde_json::to_string(&time).unwrap()
        };
        assert_eq!(text(981_173_106_789), "\"2001-02-03T04:05:06.789Z\"");
        assert_eq!(text(0), "\"1970-01-01T00:00:00.000Z\"");
        assert_eq!(text(i64::MAX), format!("\"{}\"", "-".repeat(24)));
    }

    #[test]
    fn every_end_has_one_outcome() {
        let client = || Error::explain(ErrorType::ReadError, "gone").into_down();
        let endpoint = || Error::explain(ErrorType::ReadError, "gone").into_up();
        let of = |refusal, written, error: Option<Box<Error>>| {
            let mut ctx = RequestContext::new(Tick::default());
            ctx.refusal = refusal;
            outcome(&ctx, written, error.as_deref())
        };
        let whole = Outcome::Answered(Answered::Whole);
        let short = Outcome::Answered(Answered::CutShort);
        assert_eq!(of(None, Some(200), None), whole);
        assert_eq!(of(None, Some(101), None), whole);
        assert_eq!(of(None, Some(200), Some(endpoint())), short);
        assert_eq!(of(None, Some(101), Some(endpoint())), short);
        for (written, gone) in [
            (Some(200), Gone::InAnswer),
            (Some(101), Gone::InAnswer),
            (Some(103), Gone::BeforeAnswer),
            (None, Gone::BeforeAnswer),
        ] {
            assert_eq!(
                of(None, written, Some(client())),
                Outcome::ClientGone(gone),
                "{written:?}"
            );
        }
        // What Portolan refused it has refused, whether or not anybody stayed to hear it.
        for written in [None, Some(200), Some(502)] {
            assert_eq!(
                of(Some(Refusal::Broken), written, Some(client())),
                Outcome::Refused(Refusal::Broken)
            );
        }
        assert_eq!(
            of(None, None, None),
            Outcome::Refused(Refusal::Internal),
            "nobody ends without a word"
        );
    }
}
