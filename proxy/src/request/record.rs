//! The end of a request: what is counted, and its line in the access log. Every request has one,
//! with as much as is known of it.

use pingora::{Error, ErrorSource};
use portolan_control::refusal::Refusal;
use portolan_control::telemetry::ledger::{Answered, Gone, Outcome};

use crate::connection::entry::LedgerEntry;
use crate::downstream::Downstream;
use crate::record::line::Line;
use crate::record::recorder::Recorder;
use crate::request::context::Served;

impl Recorder {
    /// A request is over. `error`: what cut it short, if anything did.
    pub(crate) fn request(
        &self,
        downstream: &Downstream,
        error: Option<&Error>,
        ctx: &mut Served<'_>,
    ) {
        let written = downstream.written().map(|status| status.as_u16());
        let outcome = outcome(ctx.refusal, ctx.redirected, written, error);
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
    pub(crate) fn dropped(&self, ctx: &mut Served<'_>) {
        let outcome = match ctx.answered {
            Some(_) => Outcome::Answered(Answered::CutShort),
            None => LedgerEntry::abandoned(),
        };
        self.end(ctx, outcome, 0, None);
    }

    fn end(
        &self,
        ctx: &mut Served<'_>,
        outcome: Outcome,
        status: u16,
        downstream: Option<&Downstream>,
    ) {
        let Some(entry) = ctx.entry.take() else {
            return;
        };
        let snapshot = ctx.snapshot();
        let took = self.clock.now().since(ctx.received.began);
        let served_by = ctx.current.as_ref().map(|current| current.pool);
        if let Some(route) = ctx.route() {
            let stats = snapshot.routes[route.id.index()].stats(served_by);
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
            line.duration = took;
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

    /// A line with what is known about a request beside its head.
    fn of_context<'a>(
        &self,
        entry: &'a LedgerEntry,
        ctx: &'a Served<'_>,
        outcome: Outcome,
        status: u16,
    ) -> Line<'a> {
        let snapshot = ctx.snapshot();
        let current = ctx.current.as_ref();
        Line {
            request_id: &ctx.received.id,
            client: Some(ctx.received.client),
            country: snapshot.plan.locations.country_label(ctx.found().place),
            route: ctx.route().map(|route| &*route.name),
            pool: current.map(|this| snapshot.plan.pools[this.pool.index()].name.as_str()),
            endpoint: current.map(|this| this.live.endpoint().key.address),
            tries: ctx.tries,
            bytes_in: ctx.bytes_in,
            bytes_out: ctx.bytes_out,
            upstream: ctx
                .answered
                .zip(current)
                .map(|(at, this)| at.since(this.began)),
            why: ctx.why.as_deref(),
            config: snapshot.plan.hash.as_str(),
            ..self.line(entry, outcome, status)
        }
    }
}

/// How a request ended, of which is known that it has.
fn outcome(
    refusal: Option<Refusal>,
    redirected: bool,
    written: Option<u16>,
    error: Option<&Error>,
) -> Outcome {
    if let Some(refusal) = refusal {
        return Outcome::Refused(refusal);
    }
    // An upgrade (101) is an answer; other interim answers are not.
    let begun = written.is_some_and(|status| status == 101 || status >= 200);
    let by_client = error.is_some_and(|error| *error.esource() == ErrorSource::Downstream);
    match (begun, error.is_some()) {
        (true, false) if redirected => Outcome::Answered(Answered::Redirected),
        (true, false) => Outcome::Answered(Answered::Whole),
        (true, true) if by_client => Outcome::ClientGone(Gone::InAnswer),
        (true, true) => Outcome::Answered(Answered::CutShort),
        (false, _) if by_client => Outcome::ClientGone(Gone::BeforeAnswer),
        // Whatever else has no answer was refused above.
        (false, _) => Outcome::Refused(Refusal::Internal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pingora::ErrorType;

    #[test]
    fn every_end_has_one_outcome() {
        let client = || Error::explain(ErrorType::ReadError, "gone").into_down();
        let endpoint = || Error::explain(ErrorType::ReadError, "gone").into_up();
        let of = |refusal, written, error: Option<Box<Error>>| {
            outcome(refusal, false, written, error.as_deref())
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
