//! The engine's hooks: each phase of a request in a few lines that hand on to the room that does it.
//!
//! `early_request_filter` → `request_filter` (guard, route, decide, then the
//! [`crate::exchange`] with an endpoint) → `logging` (record). `fail_to_proxy` answers
//! when no endpoint did. The engine's own loop over endpoints is not used.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use http::header;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::http::HttpTask;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};
use portolan_certs::acme::Answers;
use portolan_config::plan::{RequestHead, RoutePlan, normal_host};
use portolan_control::affinity::SecretKeeper;
use portolan_control::decide::{Fate, decide};
use portolan_control::engine::{Messenger, Published};
use portolan_control::retry;
use portolan_control::stats::Gauge;

use crate::access;
use crate::affinity;
use crate::auth;
use crate::browser;
use crate::client_address::client_address;
use crate::context::{ConnectionContext, RequestContext, UnderWay};
use crate::exchange::{self, Upstream};
use crate::expose;
use crate::fault;
use crate::forward;
use crate::grpc;
use crate::guard;
use crate::ledger;
use crate::record::Recorder;
use crate::redirect;
use crate::refusal::Refusal;
use crate::reply::Reply;

/// How long a client may take to take its answer, byte by byte.
const CLIENT_WRITE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);

/// The hooks, and what they look at.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) published: Published,
    pub(crate) messenger: Messenger,
    /// Connections to endpoints.
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) recorder: Arc<Recorder>,
    /// What affinity cookies are made with.
    pub(crate) affinity: Arc<SecretKeeper>,
    /// What is answered to certificate authorities.
    pub(crate) answers: Arc<Answers>,
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
            Refusal::Malformed
                | Refusal::AmbiguousLength
                | Refusal::BadHost
                | Refusal::BadPath
                | Refusal::UriTooLong
                | Refusal::BodyTooLarge
                | Refusal::MethodNotAllowed
        );
        let reply = Self::reply(refusal, session, ctx, retry_after);
        reply.write(session, close).await?;
        Ok(true)
    }

    /// Answers a request whose route sends clients elsewhere.
    async fn send_elsewhere(
        &self,
        session: &mut Session,
        ctx: &mut RequestContext,
    ) -> Result<bool> {
        let request = session.req_header();
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
            return self.refuse(session, ctx, Refusal::BadHost, None).await;
        };
        ctx.redirected = true;
        reply.write(session, false).await?;
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
                .filter(|_| !connection.listener.is_leaving() && !connection.is_at_its_end())
                .map(|_| idle.as_secs().max(1));
            session.set_keepalive(keepalive);
            session.set_read_timeout(Some(idle));
            session.set_write_timeout(Some(CLIENT_WRITE_TIMEOUT));
            session.set_total_drain_timeout(Some(idle));
        }
        ctx.id = fastrand_scope(|random| {
            forward::request_id(&session.req_header().headers, ctx.peer_trusted, random)
        });
        ctx.wants_upgrade = exchange::wants_upgrade(session.req_header());
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
        // Before everything else: an authority asks for a name that may not be served yet.
        if let Some(answer) = self.answers.over_http(session.req_header().uri.path()) {
            Reply::challenge(&answer).write(session, true).await?;
            return Ok(true);
        }
        let paths = ctx.snapshot().plan.paths;
        if let Err(refusal) = guard::normalise(session.req_header_mut(), &paths) {
            return self.refuse(session, ctx, refusal, None).await;
        }
        let mut steered = self.admit(session, ctx);
        if steered.is_ok() {
            steered = auth::check(session.req_header(), ctx).await;
        }
        if steered.is_ok() && Self::route(ctx).is_some_and(|route| route.redirect.is_some()) {
            return self.send_elsewhere(session, ctx).await;
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
                exchange::exchange(self, session, ctx).await?;
                Ok(true)
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

    /// Nobody comes here: every request is answered by the [`exchange`](exchange::exchange).
    async fn upstream_peer(
        &self,
        _: &mut Session,
        _: &mut RequestContext,
    ) -> Result<Box<HttpPeer>> {
        Error::e_explain(ErrorType::InternalError, "a request that nobody answered")
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
                    let mut trailers = grpc::trailers(code, refusal.detail());
                    // As with a whole answer: so that whoever complains can say what about.
                    if let Ok(id) = http::HeaderValue::from_str(&ctx.id) {
                        trailers.insert(forward::X_REQUEST_ID, id);
                    }
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
}

/// Chance from this thread's own generator.
pub(crate) fn fastrand_scope<T>(with: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
    with(&mut fastrand::Rng::with_seed(fastrand::u64(..)))
}
