//! The end of a request: what is counted, and its line in the access log.

use std::sync::Arc;

use pingora::proxy::Session;
use portolan_control::access_log::AccessLog;
use portolan_control::clock::Clock;
use portolan_control::stats::Totals;
use serde::Serialize;

use crate::context::RequestContext;
use crate::refusal::Refusal;

/// Writes down what became of requests.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    pub(crate) clock: Clock,
    pub(crate) totals: Arc<Totals>,
    pub(crate) access_log: AccessLog,
}

/// One line of the access log.
#[derive(Debug, Serialize)]
struct Line<'a> {
    time: String,
    request_id: &'a str,
    client: Option<String>,
    country: &'a str,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    protocol: &'a str,
    tls: Option<&'a str>,
    route: Option<&'a str>,
    pool: Option<&'a str>,
    endpoint: Option<String>,
    tries: u32,
    status: u16,
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
    /// A request is over.
    pub(crate) fn request(&self, session: &Session, ctx: &RequestContext) {
        let now = self.clock.now();
        // 0: the client went away before there was an answer.
        let status = session
            .response_written()
            .map_or(0, |response| response.status.as_u16());
        self.totals.requests.one(status);
        if let Some(refusal) = ctx.refusal {
            self.totals.refused.one(refusal.reason());
        }
        let Some(snapshot) = &ctx.snapshot else {
            return;
        };
        let took = now.since(ctx.began);
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
        let error = status == 0 || status >= 500 || ctx.refusal.is_some();
        if self.access_log.wants(fastrand::u32(..), error) {
            self.access_log
                .write(self.line(session, ctx, status, took.as_secs_f64() * 1000.0));
        }
    }

    /// A request was refused before the engine saw it.
    pub(crate) fn refused_early(&self, refusal: Refusal) {
        self.totals.requests.one(refusal.status().as_u16());
        self.totals.refused.one(refusal.reason());
    }

    fn line(&self, session: &Session, ctx: &RequestContext, status: u16, took: f64) -> Vec<u8> {
        let snapshot = ctx.snapshot();
        let request = session.req_header();
        let host = crate::edge::host(request).unwrap_or("-");
        let milliseconds = |value: f64| (value * 1000.0).round() / 1000.0;
        let line = Line {
            time: timestamp(&self.clock),
            request_id: &ctx.id,
            client: ctx.client.map(|client| client.to_string()),
            country: snapshot.plan.locations.country_label(ctx.found.place),
            method: request.method.as_str(),
            host,
            path: request
                .uri
                .path_and_query()
                .map_or("/", http::uri::PathAndQuery::as_str),
            protocol: match request.version {
                http::Version::HTTP_2 => "HTTP/2",
                http::Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            tls: ctx
                .connection
                .as_ref()
                .and_then(|c| c.tls.as_ref())
                .map(|tls| tls.version),
            route: ctx
                .route
                .map(|route| &*snapshot.plan.routes[route.index()].name),
            pool: ctx
                .current
                .as_ref()
                .map(|c| snapshot.plan.pools[c.pool.index()].name.as_str()),
            endpoint: ctx
                .current
                .as_ref()
                .map(|current| current.live.endpoint().key.address.to_string()),
            tries: ctx.tries,
            status,
            refused: ctx.refusal.map(|refusal| refusal.reason()),
            bytes_in: ctx.bytes_in,
            bytes_out: ctx.bytes_out,
            duration_ms: milliseconds(took),
            upstream_ms: ctx
                .answered
                .zip(ctx.current.as_ref())
                .map(|(at, current)| milliseconds(at.since(current.began).as_secs_f64() * 1000.0)),
            why: ctx.why.as_deref(),
            config: snapshot.plan.hash.as_str(),
        };
        let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

/// Now, by the calendar, to the millisecond (RFC 3339).
fn timestamp(clock: &Clock) -> String {
    let milliseconds = i64::try_from(clock.wall().as_millis()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(milliseconds)
        .map_or_else(|_| "-".to_owned(), |time| format!("{time:.3}"))
}
