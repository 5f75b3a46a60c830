//! A request, phase by phase, each in a few lines that hand on to the room that does it.
//!
//! [`Edge::serve`]: begin (whose request is it?), then guard, route and decide, then the
//! [`crate::upstream::exchange`] with an endpoint; or the answer that says why not. In the end it is
//! recorded.

pub(crate) mod admit;
pub(crate) mod affinity;
pub(crate) mod answer;

use std::sync::Arc;

use bytes::Bytes;
use http::header;
use pingora::{Error, ErrorSource, Result};
use portolan_certs::acme::Answers;
use portolan_config::document::HeaderCase;
use portolan_config::plan::{RequestHead, RoutePlan, normal_host};
use portolan_control::counters::Gauge;
use portolan_control::decision::affinity::SecretKeeper;
use portolan_control::decision::decide::decide;
use portolan_control::decision::fate::Fate;
use portolan_control::engine::Published;
use portolan_control::health::retry;
use portolan_control::refusal::{Refusal, grpc_status};

use crate::connection::context::ConnectionContext;
use crate::connection::entry::Entry;
use crate::downstream::Downstream;
use crate::edge::admit::client_address::client_address;
use crate::edge::admit::stop::Stop;
use crate::edge::admit::{access, auth, guard};
use crate::edge::answer::reply::Reply;
use crate::edge::answer::{browser, expose, last_hop, redirect};
use crate::http::grpc;
use crate::http::head::{RequestHeader, ResponseHeader};
use crate::random::fastrand_scope;
use crate::record::recorder::Recorder;
use crate::request::context::{RequestContext, UnderWay};
use crate::upstream::exchange::relay;
use crate::upstream::exchange::request::{hops_left, wants_upgrade};
use crate::upstream::exchange_context::ExchangeContext;
use crate::upstream::{exchange, fault};

pub(crate) use crate::http::host::host;

/// What serves requests, and what it looks at.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) published: Published,
    /// What exchanges with endpoints are made with.
    pub(crate) exchange_context: ExchangeContext,
    pub(crate) recorder: Arc<Recorder>,
    /// What affinity cookies are made with.
    pub(crate) affinity: Arc<SecretKeeper>,
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
        ctx: &mut RequestContext,
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
        ctx: &mut RequestContext,
    ) -> Result<()> {
        let request = downstream.request();
        let route = Self::route(ctx);
        let reply = route.and_then(|route| {
            let mut reply = redirect::reply(route.redirect.as_ref()?, request, ctx)?;
            if let Some(told) = &ctx.allowance {
                reply.more.extend(told.fields());
            }
            reply
                .more
                .extend(browser::own(&route.browser, request, ctx));
            Some(reply)
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
        ctx: &RequestContext,
        retry_after: Option<std::time::Duration>,
    ) -> Reply {
        let request = downstream.request();
        let mut reply = Reply::refusal(refusal, &ctx.id, Some(&request.headers), retry_after);
        if let Some(told) = &ctx.allowance {
            reply.more.extend(told.fields());
        }
        if let Some(route) = Self::route(ctx) {
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
    fn admit(&self, downstream: &Downstream, ctx: &mut RequestContext) -> Result<(), Stop> {
        let request = downstream.request();
        let connection = ctx
            .connection
            .clone()
            .ok_or(Stop::Refused(Refusal::Internal, None))?;
        let limits = connection.listener.limits();
        guard::check(request, &connection, &limits)
            .map_err(|refusal| Stop::Refused(refusal, None))?;
        let snapshot = ctx.snapshot().clone();
        access::listener(&connection, &snapshot, ctx)?;
        if connection.listener.redirects() {
            return Err(Stop::Redirect);
        }
        let written = host(request).unwrap_or_default();
        let head = RequestHead {
            host: &normal_host(written),
            path: guard::routed_path(request),
            method: &request.method,
            headers: &request.headers,
        };
        if let Some(route) = browser::preflight_route(&snapshot, &head, request) {
            ctx.route = Some(route.id);
            if let Some(client) = ctx.client {
                ctx.found = snapshot.locate(route, client);
            }
            access::route(route, ctx)?;
            return Err(Stop::Preflight);
        }
        let route = snapshot
            .route(&head)
            .ok_or(Stop::Refused(Refusal::NoRoute, None))?;
        ctx.route = Some(route.id);
        if let Some(client) = ctx.client {
            ctx.found = snapshot.locate(route, client);
        }
        access::route(route, ctx)?;
        let now = ctx.began;
        access::rate(&snapshot, route, &request.headers, ctx, false, now)
    }

    /// Whether a request may pass, as far as that depends on who sends it.
    async fn prove(&self, request: &RequestHeader, ctx: &mut RequestContext) -> Result<(), Stop> {
        let snapshot = ctx.snapshot().clone();
        let id = ctx.route.ok_or(Stop::Refused(Refusal::Internal, None))?;
        let route = &snapshot.plan.routes[id.index()];
        if route.auth.is_none() {
            return Ok(());
        }
        auth::check(&self.exchange_context, request, ctx).await?;
        let now = self.recorder.clock.now();
        access::rate(&snapshot, route, &request.headers, ctx, true, now)
    }

    /// Decides where a request of this route goes. `Err`: nowhere, and why.
    fn steer(&self, request: &RequestHeader, ctx: &mut RequestContext) -> Result<(), Stop> {
        let snapshot = ctx.snapshot().clone();
        let id = ctx.route.ok_or(Stop::Refused(Refusal::Internal, None))?;
        let route = &snapshot.plan.routes[id.index()];
        let client = ctx.client;
        ctx.tie = affinity::tie(&self.affinity, &snapshot, route, request, client);
        match decide(&snapshot, route, client, &ctx.found, &ctx.tie) {
            Fate::Pool { pool, basis, why } => {
                ctx.pool = Some(pool);
                ctx.basis = basis;
                ctx.why = Some(why);
                Ok(())
            }
            Fate::AllDown {
                status,
                retry_after,
            } => Err(Stop::Refused(Refusal::AllDown(status), Some(retry_after))),
            Fate::Shed => Err(Stop::Refused(Refusal::Shed, None)),
            Fate::Nobody => Err(Stop::Refused(Refusal::NobodyCanServe, None)),
        }
    }

    /// What is done to an answer's head on its way to the client.
    fn to_client(
        &self,
        downstream: &mut Downstream,
        response: &mut ResponseHeader,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        if response.status == 101 {
            return affinity::answer(&self.affinity, downstream.request(), response, ctx);
        }
        if response.status.is_informational() {
            return Ok(());
        }
        crate::http::hop_by_hop::strip_hop_by_hop(response, downstream.takes_trailers());
        // Every hop speaks for itself (RFC 9112, section 2.3).
        if response.version == http::Version::HTTP_10 {
            response.version = http::Version::HTTP_11;
        }
        affinity::answer(&self.affinity, downstream.request(), response, ctx)?;
        if let Some(told) = &ctx.allowance {
            // Beside what the endpoint says about limits of its own.
            for (name, value) in told.fields() {
                response.append_header(name, value)?;
            }
        }
        if let Some(route) = Self::route(ctx) {
            browser::edit(&route.browser, downstream.request(), response, ctx)?;
            route.response_headers.apply(&mut response.headers);
            if route.expose {
                expose::add(response, ctx)?;
            }
        }
        if ctx
            .connection
            .as_ref()
            .is_some_and(|connection| connection.listener.is_leaving())
        {
            downstream.close_after();
        }
        Ok(())
    }

    /// The route of a request that has one.
    fn route(ctx: &RequestContext) -> Option<&RoutePlan> {
        Some(&ctx.snapshot().plan.routes[ctx.route?.index()])
    }
}

impl Edge {
    /// A request, from its head to the end of its answer.
    pub(crate) async fn serve(
        &self,
        connection: Arc<ConnectionContext>,
        downstream: &mut Downstream,
        entry: Entry,
    ) {
        let mut ctx = RequestContext::new(self.recorder.clock.now());
        ctx.entry = Some(entry);
        self.begin(connection, downstream, &mut ctx);
        let outcome = self.answer(downstream, &mut ctx).await;
        if let Err(error) = &outcome {
            tracing::debug!(
                id = ctx.id,
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
    fn begin(
        &self,
        connection: Arc<ConnectionContext>,
        downstream: &mut Downstream,
        ctx: &mut RequestContext,
    ) {
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
        ctx.peer_trusted = snapshot.plan.client_ip.trusts(peer);
        let client = client_address(peer, headers, &snapshot.plan.client_ip);
        if ctx.peer_trusted && downstream.is_http2() {
            connection.carried.note(client);
        }
        ctx.client = Some(client);
        ctx.id = fastrand_scope(|random| {
            crate::http::request_id::request_id(headers, ctx.peer_trusted, random)
        });
        ctx.wants_upgrade = wants_upgrade(request);
        ctx.idempotent = retry::is_idempotent(&request.method, headers);
        ctx.connection = Some(connection);
        ctx.snapshot = Some(snapshot);
        ctx.under_way = Some(UnderWay::new(&self.under_way));
    }

    /// Answers it, or has an endpoint answer.
    async fn answer(&self, downstream: &mut Downstream, ctx: &mut RequestContext) -> Result<()> {
        // Before everything else: an authority asks for a name that may not be served yet.
        if let Some(answer) = self.answers.over_http(downstream.request().uri.path()) {
            Reply::challenge(&answer).write(downstream, true).await?;
            return Ok(());
        }
        let paths = ctx.snapshot().plan.paths;
        if let Err(refusal) = guard::normalise(downstream.request_mut(), &paths) {
            return self.refuse(downstream, ctx, refusal, None).await;
        }
        let mut steered = self.admit(downstream, ctx);
        if steered.is_ok() {
            steered = self.prove(downstream.request(), ctx).await;
        }
        if steered.is_ok() && hops_left(downstream.request()) == Some(0) {
            return last_hop::answer(downstream, ctx).await;
        }
        if steered.is_ok() && Self::route(ctx).is_some_and(|route| route.redirect.is_some()) {
            return self.send_elsewhere(downstream, ctx).await;
        }
        if steered.is_ok() {
            steered = self.steer(downstream.request(), ctx);
        }
        match steered {
            Ok(()) => {
                let plan = ctx.snapshot().plan.clone();
                if let Some(id) = ctx.route {
                    auth::edit(downstream.request_mut(), &plan.routes[id.index()], ctx)?;
                }
                let (answer, upload) =
                    exchange::exchange(&self.exchange_context, downstream, ctx).await?;
                let edit = |downstream: &mut Downstream, head: &mut _, ctx: &mut _| {
                    self.to_client(downstream, head, ctx)
                };
                relay::relay(
                    &self.exchange_context,
                    downstream,
                    ctx,
                    answer,
                    upload,
                    edit,
                )
                .await
            }
            Err(Stop::Redirect) => {
                let to = guard::https_location(downstream.request());
                match to {
                    Some(to) => {
                        ctx.redirected = true;
                        Reply::redirect(to).write(downstream, false).await
                    }
                    None => self.refuse(downstream, ctx, Refusal::Malformed, None).await,
                }
            }
            Err(Stop::Preflight) => {
                let request = downstream.request();
                let cors = Self::route(ctx).and_then(|route| route.browser.cors.as_ref());
                let mut head = match cors {
                    Some(cors) => browser::answer(cors, request)?,
                    None => return self.refuse(downstream, ctx, Refusal::Internal, None).await,
                };
                head.insert_header(&crate::http::request_id::X_REQUEST_ID, ctx.id.as_str())?;
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

    /// Says what became of a request that could not be answered, as far as there is anybody to be
    /// told.
    async fn fail(&self, downstream: &mut Downstream, error: &Error, ctx: &mut RequestContext) {
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
                    if let Ok(id) = http::HeaderValue::from_str(&ctx.id) {
                        trailers.insert(&crate::http::request_id::X_REQUEST_ID, id);
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
