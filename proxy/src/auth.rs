//! Who somebody is: asked before a request takes a token of a rate limit, and before anybody decides
//! where it goes.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::{HeaderName, HeaderValue, header};
use pingora::Result;
use pingora::http::RequestHeader;
use portolan_config::plan::RoutePlan;
use portolan_control::auth::{Basic, Credentials};
use smallvec::SmallVec;
use tokio::sync::Semaphore;

use crate::context::RequestContext;
use crate::edge::Stop;
use crate::refusal::Refusal;

/// Passwords that are checked at the same time: each keeps a core busy, and serving needs some too.
static CHECKS: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Semaphore::new((cores / 2).max(1))
});

/// Requests that wait for that.
static WAITING: Semaphore = Semaphore::const_new(256);

/// How long one waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether a request may take its route, as far as that depends on who sends it.
///
/// # Errors
/// When it may not.
pub(crate) async fn check(request: &RequestHeader, ctx: &mut RequestContext) -> Result<(), Stop> {
    let Some(id) = ctx.route else {
        return Ok(());
    };
    let snapshot = ctx.snapshot().clone();
    if snapshot.plan.routes[id.index()].auth.is_none() {
        return Ok(());
    }
    // Without its users a route is for nobody.
    let Some(basic) = &snapshot.routes[id.index()].basic else {
        return Err(Stop::Refused(Refusal::Internal, None));
    };
    let Some(credentials) = Credentials::of(&request.headers) else {
        ctx.why = Some("the route asks for a name and a password".into());
        return Err(Stop::Refused(Refusal::Unauthenticated, None));
    };
    if !basic.recall(&credentials) && !prove(basic, &credentials).await? {
        ctx.why = Some("the route does not know this name and password".into());
        return Err(Stop::Refused(Refusal::Unauthenticated, None));
    }
    ctx.user = Some(credentials.name().into());
    Ok(())
}

/// Checks a password, away from the threads that serve.
async fn prove(basic: &Arc<Basic>, credentials: &Credentials) -> Result<bool, Stop> {
    let busy = || Stop::Refused(Refusal::AuthBusy, None);
    let waiting = WAITING.try_acquire().map_err(|_| busy())?;
    let turn = tokio::time::timeout(PATIENCE, CHECKS.acquire());
    let turn = turn.await.map_err(|_| busy())?.map_err(|_| busy())?;
    drop(waiting);
    // Somebody may have proved it meanwhile.
    if basic.recall(credentials) {
        return Ok(true);
    }
    let (basic, credentials) = (basic.clone(), credentials.clone());
    tokio::task::spawn_blocking(move || {
        // Held until it is checked, even if the client does not wait.
        let _turn = turn;
        basic.check(&credentials)
    })
    .await
    .map_err(|_| Stop::Refused(Refusal::Internal, None))
}

/// Changes a request as its route says: endpoints learn who it is, and not by what it was proved.
pub(crate) fn edit(
    request: &mut RequestHeader,
    route: &RoutePlan,
    ctx: &RequestContext,
) -> Result<()> {
    let Some(auth) = &route.auth else {
        return Ok(());
    };
    if !auth.forward_authorization {
        request.remove_header(&header::AUTHORIZATION);
    }
    if let Some(name) = &auth.user_header {
        // Also as those endpoints would read it that take `_` for `-`.
        let alike: SmallVec<[HeaderName; 1]> = request
            .headers
            .keys()
            .filter(|sent| {
                let bytes = |b: u8| if b == b'_' { b'-' } else { b };
                let sent = sent.as_str().bytes().map(bytes);
                sent.eq(name.as_str().bytes().map(bytes))
            })
            .cloned()
            .collect();
        for sent in &alike {
            request.remove_header(sent);
        }
        let user = ctx.user.as_deref().unwrap_or_default();
        // What no header can say is not said at all.
        if let Ok(user) = HeaderValue::from_bytes(user.as_bytes()) {
            request.insert_header(name.clone(), user)?;
        }
    }
    Ok(())
}
