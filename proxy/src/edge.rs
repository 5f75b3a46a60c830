//! A request, phase by phase, each in a few lines that hand on to the room that does it.
//!
//! [`Edge::serve`]: begin (whose request is it?), then guard, route and decide, then the
//! [`crate::upstream::exchange`] with an endpoint; or the answer that says why not. In the end it is
//! recorded.

pub(crate) mod admit;
pub(crate) mod affinity;
pub(crate) mod answer;

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use http::header;
use pingora::{Error, ErrorSource, Result};
use portolan_certs::acme::Answers;
use portolan_config::document::HeaderCase;
use portolan_config::plan::{CorsPlan, RedirectPlan, RequestHead, RoutePlan, normal_host};
use portolan_control::counters::Gauge;
use portolan_control::decision::Decision;
use portolan_control::decision::affinity::AffinitySecret;
use portolan_control::decision::decide::decide;
use portolan_control::engine::Published;
use portolan_control::health::retry;
use portolan_control::refusal::{Refusal, grpc_status};

use crate::connection::context::ConnectionContext;
use crate::connection::entry::LedgerEntry;
use crate::downstream::Downstream;
use crate::edge::admit::client_address::client_address;
use crate::edge::admit::stop::Stop;
use crate::edge::admit::{access, auth, guard};
use crate::edge::answer::reply::Reply;
use crate::edge::answer::{browser, expose, last_hop, redirect};
use crate::http::grpc;
use crate::http::head::{RequestHeader, ResponseHeader};
use crate::http::hop_by_hop::strip_hop_by_hop;
use crate::http::request_id::{X_REQUEST_ID, request_id};
use crate::random::fastrand_scope;
use crate::record::recorder::Recorder;
use crate::request::context::{Admitted, Received, Routed, Served, UnderWay};
use crate::upstream::exchange::relay;
use crate::upstream::exchange::request::{hops_left, wants_upgrade};
use crate::upstream::exchange_context::ExchangeContext;
use crate::upstream::{exchange, fault};

pub(crate) use crate::http::host::host;

/// What becomes of a request that may pass.
#[derive(Debug)]
enum Way<'a> {
    /// An endpoint gets it.
    Onwards(Admitted<'a>),
    /// It is for us: TRACE or OPTIONS that may go no further.
    NoFurther,
    /// Its client is sent elsewhere, as its route says.
    Elsewhere(&'a RedirectPlan, &'a RoutePlan),
    /// Its client is sent to the same address over https, as the listener says.
    Https,
    /// A browser asks whether it may ask, and the route has the answer.
    Preflight(&'a CorsPlan),
}

/// What serves requests, and what it looks at.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) published: Published,
    /// What exchanges with endpoints are made with.
    pub(crate) exchange_context: ExchangeContext,
    pub(crate) recorder: Arc<Recorder>,
    /// What affinity cookies are made with.
    pub(crate) affinity: Arc<AffinitySecret>,
    /// What is answered to certificate authorities.
    pub(crate) answers: Arc<Answers>,
    /// Requests under way: the process ends when there are none.
    pub(crate) under_way: Arc<Gauge>,
}

impl Edge {
    /// Answers a request that is not passed on.
    async fn refuse(
        &self,
        downstream: &mut Downstream,
        ctx: &mut Served<'_>,
        refusal: Refusal,
        retry_after: Option<std::time::Duration>,
    ) -> Result<()> {
        ctx.refusal = Some(refusal);
        let reply = Self::reply(refusal, downstream, ctx, retry_after);
        reply.write(downstream, refusal.closes_connection()).await
    }

    /// Answers a request whose route sends clients elsewhere.
    async fn send_elsewhere(
        &self,
        downstream: &mut Downstream,
        ctx: &mut Served<'_>,
        redirect: &RedirectPlan,
        route: &RoutePlan,
    ) -> Result<()> {
        let request = downstream.request();
        let reply = redirect::reply(redirect, request, ctx).map(|mut reply| {
            if let Some(told) = &ctx.allowance {
                reply.more.extend(told.fields());
            }
            reply
                .more
                .extend(browser::own(&route.browser, request, ctx));
            reply
        });
        let Some(reply) = reply else {
            return self.refuse(downstream, ctx, Refusal::BadHost, None).await;
        };
        ctx.redirected = true;
        reply.write(downstream, false).await
    }

    /// What a request is answered that is not passed on, with all that its route says to clients.
    fn reply(
        refusal: Refusal,
        downstream: &Downstream,
        ctx: &Served<'_>,
        retry_after: Option<std::time::Duration>,
    ) -> Reply {
        let request = downstream.request();
        let mut reply = Reply::refusal(
            refusal,
            &ctx.received.id,
            Some(&request.headers),
            retry_after,
        );
        if let Some(told) = &ctx.allowance {
            reply.more.extend(told.fields());
        }
        if let Some(route) = ctx.route() {
            reply
                .more
                .extend(browser::own(&route.browser, request, ctx));
        }
        if let Some(challenge) = &ctx.challenge {
            reply
                .more
                .push((header::WWW_AUTHENTICATE, challenge.clone()));
        }
        reply
    }

    /// Whether a request may pass, and which route it takes, as far as its sender need not be known.
    /// `Err`: it goes nowhere, and why.
    fn admit<'a>(
        request: &RequestHeader,
        ctx: &mut Served<'a>,
    ) -> Result<ControlFlow<Way<'a>, Routed<'a>>, Stop> {
        let received = ctx.received;
        let (connection, snapshot) = (&*received.connection, ctx.snapshot());
        let limits = connection.listener.limits();
        guard::check(request, connection, &limits)
            .map_err(|refusal| Stop::Refused(refusal, None))?;
        access::listener(connection, snapshot, ctx)?;
        if connection.listener.redirects() {
            return Ok(ControlFlow::Break(Way::Https));
        }
        let written = host(request).unwrap_or_default();
        let head = RequestHead {
            host: &normal_host(written),
            path: guard::routed_path(request),
            method: &request.method,
            headers: &request.headers,
        };
        let routed = |route: &'a RoutePlan| Routed {
            route,
            found: snapshot.locate(route, received.client),
        };
        if let Some((route, cors)) = browser::preflight_route(snapshot, &head, request) {
            let routed = routed(route);
            ctx.routed = Some(routed);
            access::route(routed, ctx)?;
            return Ok(ControlFlow::Break(Way::Preflight(cors)));
        }
        let route = snapshot
            .route(&head)
            .ok_or(Stop::Refused(Refusal::NoRoute, None))?;
        let routed = routed(route);
        ctx.routed = Some(routed);
        access::route(routed, ctx)?;
        access::rate(route, &request.headers, ctx, false, received.began)?;
        Ok(ControlFlow::Continue(routed))
    }

    /// Whether a request may pass, as far as that depends on who sends it.
    async fn prove(
        &self,
        request: &RequestHeader,
        route: &RoutePlan,
        ctx: &mut Served<'_>,
    ) -> Result<(), Stop> {
        if route.auth.is_none() {
            return Ok(());
        }
        auth::check(&self.exchange_context, request, route, ctx).await?;
        let now = self.recorder.clock.now();
        access::rate(route, &request.headers, ctx, true, now)
    }

    /// Decides where a request of this route goes. `Err`: nowhere, and why.
    fn steer<'a>(
        &self,
        request: &RequestHeader,
        routed: Routed<'a>,
        ctx: &mut Served<'_>,
    ) -> Result<Admitted<'a>, Stop> {
        let Routed { route, found } = routed;
        let (snapshot, client) = (ctx.snapshot(), ctx.received.client);
        let tie = affinity::tie(&self.affinity, snapshot, route, request, client);
        match decide(snapshot, route, Some(client), &found, &tie) {
            Decision::Pool { pool, basis, why } => {
                ctx.basis = basis;
                ctx.why = Some(why);
                Ok(Admitted {
                    route,
                    found,
                    pool,
                    basis,
                    tie,
                })
            }
            Decision::AllDown {
                status,
                retry_after,
            } => Err(Stop::Refused(Refusal::AllDown(status), Some(retry_after))),
            Decision::Shed => Err(Stop::Refused(Refusal::Shed, None)),
            Decision::Nobody => Err(Stop::Refused(Refusal::NobodyCanServe, None)),
        }
    }

    /// What is done to an answer's head on its way to the client.
    fn to_client(
        &self,
        downstream: &mut Downstream,
        response: &mut ResponseHeader,
        ctx: &Served<'_>,
        admitted: &Admitted<'_>,
    ) -> Result<()> {
        let route = admitted.route;
        if response.status == 101 {
            return affinity::answer(
                &self.affinity,
                downstream.request(),
                response,
                ctx,
                admitted,
            );
        }
        if response.status.is_informational() {
            return Ok(());
        }
        strip_hop_by_hop(response, downstream.takes_trailers());
        // Every hop speaks for itself (RFC 9112, section 2.3).
        if response.version == http::Version::HTTP_10 {
            response.version = http::Version::HTTP_11;
        }
        affinity::answer(
            &self.affinity,
            downstream.request(),
            response,
            ctx,
            admitted,
        )?;
        if let Some(told) = &ctx.allowance {
            // Hedged what the endpoint says about limits of its own.
            for (name, value) in told.fields() {
                response.append_header(name, value)?;
            }
        }
        browser::edit(&route.browser, downstream.request(), response, ctx)?;
        route.response_headers.apply(&mut response.headers);
        if route.expose {
            expose::add(response, ctx)?;
        }
        if ctx.received.connection.listener.is_leaving() {
            downstream.close_after();
        }
        Ok(())
    }
}

impl Edge {
    /// A request, from its head to the end of its answer.
    pub(crate) async fn serve(
        &self,
        connection: Arc<ConnectionContext>,
        downstream: &mut Downstream,
        entry: LedgerEntry,
    ) {
        let received = self.receive(connection, downstream);
        let mut ctx = Served::new(&received, entry);
        let outcome = self.answer(downstream, &mut ctx).await;
        if let Err(error) = &outcome {
            tracing::debug!(
                id = ctx.received.id,
                method = %downstream.request().method,
                tries = ctx.tries,
                "request failed: {error}"
            );
            self.fail(downstream, error, &mut ctx).await;
        }
        let error = outcome.as_ref().err().map(Box::as_ref);
        self.recorder.request(downstream, error, &mut ctx);
    }

    /// Whose request it is, and the world that it sees.
    fn receive(&self, connection: Arc<ConnectionContext>, downstream: &mut Downstream) -> Received {
        let began = self.recorder.clock.now();
        let snapshot = self.published.load_full();
        if connection.listener.is_leaving() || connection.is_at_its_end() {
            downstream.close_after();
        }
        if snapshot.plan.header_case == HeaderCase::Lower {
            downstream.write_lower();
        }
        let request = downstream.request();
        let headers = &request.headers;
        let peer = connection.peer.ip().to_canonical();
        let peer_trusted = snapshot.plan.client_ip.trusts(peer);
        let client = client_address(peer, headers, &snapshot.plan.client_ip);
        if peer_trusted && downstream.is_http2() {
            connection.carried.note(client);
        }
        Received {
            began,
            id: fastrand_scope(|random| request_id(headers, peer_trusted, random)),
            client,
            peer_trusted,
            wants_upgrade: wants_upgrade(request),
            idempotent: retry::is_idempotent(&request.method, headers),
            _under_way: UnderWay::new(&self.under_way),
            connection,
            snapshot,
        }
    }

    /// Answers it, or has an endpoint answer.
    async fn answer(&self, downstream: &mut Downstream, ctx: &mut Served<'_>) -> Result<()> {
        // Before everything else: an authority asks for a name that may not be served yet.
        if let Some(answer) = self.answers.over_http(downstream.request().uri.path()) {
            Reply::challenge(&answer).write(downstream, true).await?;
            return Ok(());
        }
        let paths = ctx.snapshot().plan.paths;
        if let Err(refusal) = guard::normalise(downstream.request_mut(), &paths) {
            return self.refuse(downstream, ctx, refusal, None).await;
        }
        match self.admit_and_steer(downstream.request(), ctx).await {
            Ok(Way::Onwards(admitted)) => {
                auth::edit(downstream.request_mut(), admitted.route, ctx)?;
                let with = &self.exchange_context;
                let (answer, upload) = exchange::exchange(with, downstream, ctx, &admitted).await?;
                let edit =
                    |downstream: &mut Downstream, head: &mut ResponseHeader, ctx: &Served<'_>| {
                        self.to_client(downstream, head, ctx, &admitted)
                    };
                relay::relay(with, downstream, ctx, &admitted, answer, upload, edit).await
            }
            Ok(Way::NoFurther) => last_hop::answer(downstream, ctx).await,
            Ok(Way::Elsewhere(redirect, route)) => {
                self.send_elsewhere(downstream, ctx, redirect, route).await
            }
            Ok(Way::Https) => {
                let to = guard::https_location(downstream.request());
                match to {
                    Some(to) => {
                        ctx.redirected = true;
                        Reply::redirect(to).write(downstream, false).await
                    }
                    None => self.refuse(downstream, ctx, Refusal::Malformed, None).await,
                }
            }
            Ok(Way::Preflight(cors)) => {
                let mut head = browser::answer(cors, downstream.request())?;
                head.insert_header(&X_REQUEST_ID, ctx.received.id.as_str())?;
                downstream.answer(head, Bytes::new()).await
            }
            Err(Stop::Denied(denial)) => {
                let refusal = Refusal::AuthDenied(denial.status.as_u16());
                if grpc::is_call(downstream.request()) {
                    return self.refuse(downstream, ctx, refusal, None).await;
                }
                ctx.refusal = Some(refusal);
                let more = Self::reply(refusal, downstream, ctx, None).more;
                denial.write(downstream, ctx, more).await
            }
            Err(Stop::Refused(refusal, retry_after)) => {
                self.refuse(downstream, ctx, refusal, retry_after).await
            }
        }
    }

    /// Whether it may pass, and where it goes then. `Err`: it goes nowhere, and why.
    async fn admit_and_steer<'a>(
        &self,
        request: &RequestHeader,
        ctx: &mut Served<'a>,
    ) -> Result<Way<'a>, Stop> {
        let routed = match Self::admit(request, ctx)? {
            ControlFlow::Continue(routed) => routed,
            ControlFlow::Break(way) => return Ok(way),
        };
        let route = routed.route;
        self.prove(request, route, ctx).await?;
        if hops_left(request) == Some(0) {
            return Ok(Way::NoFurther);
        }
        if let Some(redirect) = &route.redirect {
            return Ok(Way::Elsewhere(redirect, route));
        }
        self.steer(request, routed, ctx).map(Way::Onwards)
    }

    /// Says what became of a request that could not be answered, as far as there is anybody to be
    /// told.
    async fn fail(&self, downstream: &mut Downstream, error: &Error, ctx: &mut Served<'_>) {
        let refusal = ctx.refusal.or_else(|| fault::refusal(error));
        match refusal {
            Some(refusal) if !downstream.is_answered() => {
                ctx.refusal = Some(refusal);
                let reply = Self::reply(refusal, downstream, ctx, None);
                // Only what is certain to be read to its end leaves the connection usable.
                let _ = reply.write(downstream, true).await;
            }
            // The answer has begun: the client sees it end too early, and that is the truth.
            Some(refusal) => {
                if *error.esource() == ErrorSource::Downstream {
                    // It was the request that could not go on.
                    ctx.refusal = Some(refusal);
                }
                // Without trailers its end must not look like that of a whole answer.
                if let Some(code) = grpc_status(refusal.status())
                    && grpc::is_call(downstream.request())
                    && downstream.takes_trailers()
                {
                    let mut trailers = grpc::trailers(code, refusal.detail());
                    // As with a whole answer: so that whoever complains can say what about.
                    if let Ok(id) = http::HeaderValue::from_str(&ctx.received.id) {
                        trailers.insert(&X_REQUEST_ID, id);
                    }
                    downstream.put_end(Some(trailers));
                    // If the client is gone, nobody misses it.
                    let _ = downstream.send().await;
                }
            }
            None => {}
        }
    }
}
