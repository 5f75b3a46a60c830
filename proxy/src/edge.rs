//! The engine's hooks: each phase of a request in a few lines that hand on to the room that does it.
//!
//! `early_request_filter` → `request_filter` (guard, route, decide) → per try: `upstream_peer`
//! (endpoint), `upstream_request_filter` (headers) → `upstream_response_filter`, `response_filter`
//! → `logging` (record). `fail_to_connect` and `error_while_proxy` say whether there is another
//! try; `fail_to_proxy` answers when there is none.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use http::header;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::http::HttpTask;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result, RetryType};
use portolan_config::plan::{RequestHead, RoutePlan, normal_host};
use portolan_control::affinity::SecretKeeper;
use portolan_control::decide::{Fate, decide};
use portolan_control::engine::{Messenger, Published};
use portolan_control::retry::{self, Fault, Sent};
use portolan_control::stats::{Gauge, TryOutcome};

use crate::access;
use crate::affinity;
use crate::auth;
use crate::browser;
use crate::choose;
use crate::client_address::client_address;
use crate::context::{ConnectionContext, RequestContext, UnderWay};
use crate::exchange::{self, Upstream};
use crate::expose;
use crate::fault;
use crate::forward::{self, Origin};
use crate::grpc;
use crate::guard;
use crate::ledger;
use crate::record::Recorder;
use crate::refusal::Refusal;
use crate::reply::Reply;

/// How often the engine may come back for another try: our own count, and the pooled connections
/// that are found closed beside it.
pub(crate) const MOST_ENGINE_TRIES: usize = 16;

/// How long a client may take to take its answer, byte by byte.
const CLIENT_WRITE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);

/// The hooks, and what they look at.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) published: Published,
    pub(crate) messenger: Messenger,
    /// Connections to endpoints for direct exchanges.
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) recorder: Arc<Recorder>,
    /// What affinity cookies are made with.
    pub(crate) affinity: Arc<SecretKeeper>,
    /// Requests under way: the process ends when there are none.
    pub(crate) under_way: Arc<Gauge>,
}

/// The host a client asks for, as it wrote it.
pub(crate) fn host(request: &RequestHeader) -> Option<&str> {
    // Over HTTP/2 (and in absolute form) it stands in the URI.
    request
        .uri
        .authority()
        .map(http::uri::Authority::as_str)
        .or_else(|| request.headers.get(header::HOST)?.to_str().ok())
}

impl Edge {
    /// Answers a request that is not passed on.
    async fn refuse(
        &self,
        session: &mut Session,
        ctx: &mut RequestContext,
        refusal: Refusal,
        retry_after: Option<std::time::Duration>,
    ) -> Result<bool> {
        ctx.refusal = Some(refusal);
        // What was not read of the request would be taken for the next one.
        let close = matches!(
            refusal,
            Refusal::Malformed | Refusal::BodyTooLarge | Refusal::MethodNotAllowed
        );
        let reply = Self::reply(refusal, session, ctx, retry_after);
        reply.write(session, close).await?;
        Ok(true)
    }

    /// What a request is answered that is not passed on, with all that its route says to clients.
    fn reply(
        refusal: Refusal,
        session: &Session,
        ctx: &RequestContext,
        retry_after: Option<std::time::Duration>,
    ) -> Reply {
        let request = session.req_header();
        let mut reply = Reply::refusal(refusal, &ctx.id, Some(&request.headers), retry_after);
        if let Some(told) = &ctx.allowance {
            reply.more.extend(told.fields());
        }
        if let Some(route) = Self::route(ctx) {
            reply
                .more
                .extend(browser::own(&route.browser, request, ctx));
            if let (Refusal::Unauthenticated, Some(auth)) = (refusal, &route.auth) {
                let challenge = auth.basic.challenge.clone();
                reply.more.push((header::WWW_AUTHENTICATE, challenge));
            }
        }
        reply
    }

    /// Whether a request may pass, and which route it takes, as far as its sender need not be known.
    /// `Err`: it goes nowhere, and why.
    fn admit(&self, session: &Session, ctx: &mut RequestContext) -> Result<(), Stop> {
        let request = session.req_header();
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
            path: request.uri.path(),
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
        access::rate(
            &snapshot,
            route,
            &request.headers,
            ctx,
            self.recorder.clock.now(),
        )
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
    pub(crate) fn to_client(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        if response.status == 101 {
            affinity::answer(&self.affinity, session.req_header(), response, ctx)?;
            if let Some(connection) = &ctx.connection {
                connection.upgraded.store(true, Ordering::Relaxed);
            }
            return Ok(());
        }
        if response.status.is_informational() {
            return Ok(());
        }
        guard::strip_hop_by_hop(response);
        // Every hop speaks for itself (RFC 9112, section 2.3).
        if response.version == http::Version::HTTP_10 {
            response.set_version(http::Version::HTTP_11);
        }
        affinity::answer(&self.affinity, session.req_header(), response, ctx)?;
        if let Some(told) = &ctx.allowance {
            // Beside what the endpoint says about limits of its own.
            for (name, value) in told.fields() {
                response.append_header(name, value)?;
            }
        }
        if let Some(route) = Self::route(ctx) {
            browser::edit(&route.browser, session.req_header(), response, ctx)?;
            forward::edit_response(response, &route.response_headers)?;
            if route.expose {
                expose::add(response, ctx)?;
            }
        }
        if ctx
            .connection
            .as_ref()
            .is_some_and(|connection| connection.listener.is_leaving())
        {
            session.set_keepalive(None);
        }
        Ok(())
    }

    /// The try under way has ended.
    fn ended(&self, ctx: &mut RequestContext, outcome: TryOutcome) {
        if let Some(current) = &mut ctx.current {
            current.live.ended(outcome);
            current.retrying = None;
        }
    }

    /// The route of a request that has one.
    fn route(ctx: &RequestContext) -> Option<&RoutePlan> {
        Some(&ctx.snapshot().plan.routes[ctx.route?.index()])
    }
}

/// Why a request goes nowhere.
#[derive(Debug)]
pub(crate) enum Stop {
    Refused(Refusal, Option<std::time::Duration>),
    Redirect,
    /// A browser asks whether it may ask, and the route has the answer.
    Preflight,
}

#[async_trait]
impl ProxyHttp for Edge {
    type CTX = RequestContext;

    fn new_ctx(&self) -> RequestContext {
        let mut ctx = RequestContext::new(self.recorder.clock.now());
        ctx.entry = ledger::take();
        ctx
    }

    /// The engine would compress answers by default; they pass as they are.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn early_request_filter(
        &self,
        session: &mut Session,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        let connection = session
            .digest()
            .and_then(|digest| digest.proxy_digest.as_ref())
            .and_then(|digest| digest.user_data.as_ref())
            .and_then(|data| data.downcast_ref::<Arc<ConnectionContext>>())
            .cloned();
        let snapshot = self.published.load_full();
        let headers = &session.req_header().headers;
        if let Some(connection) = &connection {
            let peer = connection.peer.ip().to_canonical();
            ctx.peer_trusted = snapshot.plan.client_ip.trusts(peer);
            ctx.client = Some(client_address(peer, headers, &snapshot.plan.client_ip));
            let limits = connection.listener.limits();
            // Every timeout of the engine is none, or a minute, unless it is set.
            let idle = limits.idle_timeout;
            // HTTP/1.0 clients that did not ask for it wait for the connection to close.
            let keepalive = session
                .get_keepalive()
                .filter(|_| !connection.listener.is_leaving())
                .map(|_| idle.as_secs().max(1));
            session.set_keepalive(keepalive);
            session.set_read_timeout(Some(idle));
            session.set_write_timeout(Some(CLIENT_WRITE_TIMEOUT));
            session.set_total_drain_timeout(Some(idle));
        }
        ctx.id = fastrand_scope(|random| {
            forward::request_id(&session.req_header().headers, ctx.peer_trusted, random)
        });
        ctx.wants_upgrade = session.is_upgrade_req();
        let request = session.req_header();
        ctx.chances.idempotent = retry::is_idempotent(&request.method, &request.headers);
        ctx.connection = connection;
        ctx.snapshot = Some(snapshot);
        ctx.under_way = Some(UnderWay::new(&self.under_way));
        Ok(())
    }

    async fn request_filter(
        &self,
        session: &mut Session,
        ctx: &mut RequestContext,
    ) -> Result<bool> {
        let mut steered = self.admit(session, ctx);
        if steered.is_ok() {
            steered = auth::check(session.req_header(), ctx).await;
        }
        if steered.is_ok() {
            steered = self.steer(session.req_header(), ctx);
        }
        match steered {
            Ok(()) => {
                let plan = ctx.snapshot().plan.clone();
                if let Some(id) = ctx.route {
                    auth::edit(session.req_header_mut(), &plan.routes[id.index()], ctx)?;
                }
                let direct = ctx
                    .route
                    .is_some_and(|id| exchange::is_direct(session, ctx, &plan.routes[id.index()]));
                if direct {
                    exchange::exchange(self, session, ctx).await?;
                }
                Ok(direct)
            }
            Err(Stop::Redirect) => {
                let to = guard::https_location(session.req_header());
                match to {
                    Some(to) => {
                        ctx.redirected = true;
                        Reply::redirect(to).write(session, false).await?;
                        Ok(true)
                    }
                    None => self.refuse(session, ctx, Refusal::Malformed, None).await,
                }
            }
            Err(Stop::Preflight) => {
                let request = session.req_header();
                let cors = Self::route(ctx).and_then(|route| route.browser.cors.as_ref());
                let mut head = match cors {
                    Some(cors) => browser::answer(cors, request)?,
                    None => return self.refuse(session, ctx, Refusal::Internal, None).await,
                };
                head.insert_header(forward::X_REQUEST_ID, ctx.id.as_str())?;
                session.write_response_header(Box::new(head), true).await?;
                Ok(true)
            }
            Err(Stop::Refused(refusal, retry_after)) => {
                self.refuse(session, ctx, refusal, retry_after).await
            }
        }
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut RequestContext,
    ) -> Result<Box<HttpPeer>> {
        choose::next_try(ctx, session.req_header(), self.recorder.clock.now())
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _: &HttpPeer,
        ctx: &mut RequestContext,
        mut error: Box<Error>,
    ) -> Box<Error> {
        // Nothing of the request was sent: whatever its method, another endpoint may have it.
        self.ended(ctx, fault::outcome(&error));
        let now = self.recorder.clock.now();
        let again = choose::failed(
            ctx,
            session.req_header(),
            (Fault::Connect, Sent::Nothing),
            now,
        );
        error.set_retry(again);
        error
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut RequestContext,
        reused: bool,
    ) -> Box<Error> {
        if ctx.next.is_some() {
            // Decided already: an answer that is tried again.
            error.set_retry(true);
            return error;
        }
        let begun = session
            .response_written()
            .is_some_and(|response| !response.status.is_informational());
        if begun || *error.esource() == ErrorSource::Downstream {
            self.ended(ctx, fault::outcome(&error));
            error.set_retry(false);
            return error;
        }
        let (fault, sent) = exchange::classify(&error);
        ctx.chances.body_kept = !session.as_ref().retry_buffer_truncated();
        // A pooled connection that the endpoint had closed says nothing about the endpoint: the
        // request gets a fresh one, if it may be sent twice.
        let stale = reused && matches!(error.retry, RetryType::ReusedOnly);
        let harmless = stale && ctx.chances.idempotent && ctx.chances.body_kept;
        if harmless && choose::replace_connection(ctx) {
            error.set_retry(true);
            return error;
        }
        // Nor does a body that the client never finished.
        if (stale || !session.as_mut().is_body_done())
            && let Some(current) = &mut ctx.current
        {
            current.live.excused(fault::outcome(&error));
        }
        self.ended(ctx, fault::outcome(&error));
        let now = self.recorder.clock.now();
        let again = choose::failed(ctx, session.req_header(), (fault, sent), now)
            // Nobody else has it, but who refused it because it restarts may have it after all.
            || (sent == Sent::Nothing
                && ctx.chances.body_kept
                && choose::replace_connection(ctx));
        error.set_retry(again);
        error
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        let (Some(connection), Some(route), Some(current)) =
            (&ctx.connection, Self::route(ctx), &ctx.current)
        else {
            return Error::e_explain(ErrorType::InternalError, "a try without a route");
        };
        let downstream = session.req_header();
        let origin = Origin {
            peer: connection.peer.ip(),
            trusted: ctx.peer_trusted,
            tls: connection.tls.is_some(),
            host: host(downstream).unwrap_or_default(),
            id: &ctx.id,
            version: downstream.version,
        };
        let pool = &ctx.snapshot().plan.pools[current.pool.index()];
        fastrand_scope(|random| forward::to_endpoint(request, &origin, route, pool, random))
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        _: bool,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        ctx.bytes_in += body.as_ref().map_or(0, |part| part.len() as u64);
        let limit = ctx
            .connection
            .as_ref()
            .and_then(|c| c.listener.limits().body_bytes);
        if limit.is_some_and(|limit| ctx.bytes_in > limit) {
            return Err(Error::explain(ErrorType::HTTPStatus(413), "body too large").into_down());
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        if response.status.is_informational() && response.status != 101 {
            return Ok(());
        }
        let now = self.recorder.clock.now();
        let status = response.status.as_u16();
        if let Some(current) = &mut ctx.current {
            let took = now.since(current.began);
            current.live.answered(status, took, now, &self.messenger);
            current.retrying = None;
        }
        let retried = Self::route(ctx).is_some_and(|r| r.retry.on_statuses.contains(&status));
        ctx.chances.body_kept = !session.as_ref().retry_buffer_truncated();
        let fault = (Fault::Status(status), Sent::Perhaps);
        if retried && choose::failed(ctx, session.req_header(), fault, now) {
            let error = Error::explain(ErrorType::HTTPStatus(status), "tried again elsewhere");
            return Err(error.into_up());
        }
        ctx.answered = Some(now);
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        self.to_client(session, response, ctx)
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        _: bool,
        ctx: &mut RequestContext,
    ) -> Result<Option<std::time::Duration>> {
        ctx.bytes_out += body.as_ref().map_or(0, |part| part.len() as u64);
        Ok(None)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut RequestContext,
    ) -> FailToProxy {
        let refusal = ctx.refusal.or_else(|| fault::refusal(error));
        let written = session
            .response_written()
            .is_some_and(|r| r.status == 101 || !r.status.is_informational());
        let code = match refusal {
            Some(refusal) if !written => {
                ctx.refusal = Some(refusal);
                let reply = Self::reply(refusal, session, ctx, None);
                // Only what is certain to be read to its end leaves the connection usable.
                let _ = reply.write(session, true).await;
                refusal.status().as_u16()
            }
            // The answer has begun: the client sees it end too early, and that is the truth.
            Some(refusal) => {
                if *error.esource() == ErrorSource::Downstream {
                    // It was the request that could not go on.
                    ctx.refusal = Some(refusal);
                }
                if let Some(code) = grpc::code(refusal.status())
                    && grpc::is_call(session.req_header())
                {
                    let trailers = grpc::trailers(code, refusal.detail());
                    let end = HttpTask::Trailer(Some(Box::new(trailers)));
                    // If the client is gone, nobody misses it.
                    let _ = session.write_response_tasks(vec![end]).await;
                }
                0
            }
            None => 0,
        };
        FailToProxy {
            error_code: code,
            can_reuse_downstream: false,
        }
    }

    async fn logging(
        &self,
        session: &mut Session,
        error: Option<&Error>,
        ctx: &mut RequestContext,
    ) {
        self.recorder.request(session, error, ctx);
        // Dropped here and not with the context, so that "under way" ends with the last byte.
        ctx.current = None;
        ctx.under_way = None;
    }

    fn suppress_error_log(&self, session: &Session, ctx: &RequestContext, error: &Error) -> bool {
        tracing::debug!(
            id = ctx.id,
            method = %session.req_header().method,
            tries = ctx.tries,
            "request failed: {error}"
        );
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        ctx: &RequestContext,
        error: &Error,
        _: ProxyWarnLogContext,
    ) -> bool {
        tracing::debug!(id = ctx.id, tries = ctx.tries, "try failed: {error}");
        true
    }
}

/// Chance from this thread's own generator.
pub(crate) fn fastrand_scope<T>(with: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
    with(&mut fastrand::Rng::with_seed(fastrand::u64(..)))
}
