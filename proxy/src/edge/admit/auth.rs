//! Who somebody is: asked before anybody decides where a request goes, and after the limits that
//! hold for anybody.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::{HeaderName, HeaderValue, header};
use pingora::{ErrorType, OrErr as _, Result};
use portolan_certs::token_keys::Doubt;
use portolan_config::plan::{RoutePlan, TokenPlacePlan};
use portolan_control::auth::basic::{Basic, Credentials};
use portolan_control::auth::cookie::{cookies, is_cookie};
use portolan_control::auth::jwt;
use portolan_control::auth::jwt::{Believed, Gate, Objection};
use portolan_control::refusal::Refusal;
use portolan_control::snapshot::Proof;
use tokio::sync::Semaphore;

use crate::edge::admit::forward_auth;
use crate::edge::admit::stop::Stop;
use crate::http::field_names::is_alike;
use crate::http::head::RequestHeader;
use crate::request::context::Served;
use crate::request::proof::{Proved, told_names};
use crate::upstream::exchange_context::ExchangeContext;

/// Passwords that are checked at the same time: each keeps a core busy, and serving needs some too.
static CHECKS: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Semaphore::new((cores / 2).max(1))
});

/// Requests that wait for that.
static WAITING: Semaphore = Semaphore::const_new(256);

/// How long one waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// Requests that wait for keys that may verify their tokens. Those beyond are refused at once.
static WAITING_FOR_KEYS: Semaphore = Semaphore::const_new(256);

/// How long one waits for that at most.
const PATIENCE_FOR_KEYS: Duration = Duration::from_secs(5);

/// Whether a request may take its route, as far as that depends on who sends it. Its route asks.
///
/// # Errors
/// When it may not.
pub(crate) async fn check(
    with: &ExchangeContext,
    request: &RequestHeader,
    route: &RoutePlan,
    ctx: &mut Served<'_>,
) -> Result<(), Stop> {
    let proved = match &ctx.snapshot().routes[route.id.index()].proof {
        None => return Ok(()),
        Some(Proof::Basic(basic)) => password(basic, request, ctx).await?,
        Some(Proof::Jwt(gate)) => token(with, gate, request, ctx).await?,
        Some(Proof::Forward(authority)) => {
            forward_auth::check(with, authority, request, ctx).await?
        }
    };
    ctx.proved = Some(Box::new(proved));
    Ok(())
}

async fn password(
    basic: &Arc<Basic>,
    request: &RequestHeader,
    ctx: &mut Served<'_>,
) -> Result<Proved, Stop> {
    let mut refused = |why: &str| {
        ctx.why = Some(why.into());
        ctx.challenge = Some(basic.plan.challenge.clone());
        Stop::Refused(Refusal::Unauthenticated, None)
    };
    let Some(credentials) = Credentials::of(&request.headers) else {
        return Err(refused("the route asks for a name and a password"));
    };
    if !basic.recall(&credentials) && !prove(basic, &credentials).await? {
        return Err(refused("the route does not know this name and password"));
    }
    Ok(Proved {
        user: Some(credentials.name().into()),
        ..Proved::default()
    })
}

async fn token(
    with: &ExchangeContext,
    gate: &Gate,
    request: &RequestHeader,
    ctx: &mut Served<'_>,
) -> Result<Proved, Stop> {
    let clock = &with.clock;
    let mut judged = gate.judge(&request.headers, clock.wall());
    if judged == Err(Objection::Doubted(Doubt::UnknownKey)) && new_keys(gate).await {
        judged = gate.judge(&request.headers, clock.wall());
    }
    match judged {
        Ok(Believed { claims, at }) => {
            let subject = claims.get("sub").and_then(jwt::text);
            Ok(Proved {
                user: subject.map(|subject| subject.into()),
                told: jwt::told(&gate.plan, &claims),
                claims: Some(claims),
                cookie: at,
            })
        }
        Err(objection) => {
            ctx.why = Some(objection.words().into());
            ctx.challenge = objection.challenge(&gate.plan);
            Err(Stop::Refused(objection.refusal(), None))
        }
    }
}

/// A token names a key that nobody knows: has the keys looked for, and waits for what comes of it if
/// that is done at once. Whether it was done.
async fn new_keys(gate: &Gate) -> bool {
    let Some(mut looks) = gate.keys.want() else {
        return false;
    };
    let Ok(_waiting) = WAITING_FOR_KEYS.try_acquire() else {
        return false;
    };
    let patience = gate.plan.keys.timeout.min(PATIENCE_FOR_KEYS);
    tokio::time::timeout(patience, looks.changed())
        .await
        .is_ok()
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
pub(crate) fn edit(request: &mut RequestHeader, route: &RoutePlan, ctx: &Served<'_>) -> Result<()> {
    let Some(auth) = &route.auth else {
        return Ok(());
    };
    let place = auth.jwt().map(|jwt| &jwt.place);
    if !auth.forward_authorization {
        match place {
            Some(TokenPlacePlan::Header(name)) => drop_alike(request, name),
            Some(TokenPlacePlan::Cookie(name)) => drop_cookies(request, name, None)?,
            Some(TokenPlacePlan::Bearer) | None => {
                request.remove_header(&header::AUTHORIZATION);
            }
        }
    } else if let (Some(TokenPlacePlan::Cookie(name)), Some(proved)) = (place, &ctx.proved) {
        // Endpoints shall not take another one for the one that was believed.
        drop_cookies(request, name, Some(proved.cookie))?;
    }
    for name in told_names(auth) {
        drop_alike(request, name);
    }
    let Some(proved) = &ctx.proved else {
        return Ok(());
    };
    for (name, value) in &proved.told {
        request.append_header(name.clone(), value.clone())?;
    }
    if let (Some(name), Some(user)) = (&auth.user_header, &proved.user)
        // What no header can say is not said at all.
        && let Ok(user) = HeaderValue::from_bytes(user.as_bytes())
    {
        request.insert_header(name.clone(), user)?;
    }
    Ok(())
}

/// Takes off all headers of this name, also as those endpoints would read it that take `_` for `-`.
fn drop_alike(request: &mut RequestHeader, name: &HeaderName) {
    request.headers.retain(|sent| !is_alike(sent, name));
}

/// Takes all cookies of a name off, but for the one at this place among them, and leaves the others.
fn drop_cookies(request: &mut RequestHeader, name: &str, but: Option<usize>) -> Result<()> {
    let all = cookies(&request.headers, name).count();
    if all == 0 || (all == 1 && but == Some(0)) {
        return Ok(());
    }
    let mut seen = 0;
    let mut lines: Vec<HeaderValue> = Vec::new();
    for line in request.headers.get_all(header::COOKIE) {
        let pairs = line.as_bytes().split(|byte| *byte == b';');
        let kept = pairs.filter(|pair| {
            let is_it = is_cookie(pair, name).is_some();
            let at = seen;
            seen += usize::from(is_it);
            !is_it || Some(at) == but
        });
        let kept: Vec<&[u8]> = kept.map(<[u8]>::trim_ascii).collect();
        if !kept.is_empty() {
            let line = HeaderValue::from_bytes(&kept.join(&b"; "[..]));
            lines.push(line.or_err(ErrorType::InvalidHTTPHeader, "in Cookie")?);
        }
    }
    request.remove_header(&header::COOKIE);
    for line in lines {
        request.append_header(header::COOKIE, line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_of_a_name_are_taken_off_and_others_stay() {
        let left = |lines: &[&[u8]], but| {
            let mut request = RequestHeader::build("GET", b"/", 0).unwrap();
            for line in lines {
                request.append_header("cookie", *line).unwrap();
            }
            drop_cookies(&mut request, "session", but).unwrap();
            let left = request.headers.get_all("cookie");
            let left = left.map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned());
            left.collect::<Vec<_>>()
        };
        let three: [&[u8]; 3] = [b"a=1; session=x.y.z; b=2", b"session=again", b"c=3"];
        assert_eq!(left(&three, None), ["a=1; b=2", "c=3"]);
        assert_eq!(left(&three, Some(0)), ["a=1; session=x.y.z; b=2", "c=3"]);
        assert_eq!(left(&three, Some(1)), ["a=1; b=2", "session=again", "c=3"]);
        assert_eq!(
            left(&[b"session=x;a=1"], Some(0)),
            ["session=x;a=1"],
            "as it was"
        );
        // Whatever else its line holds.
        let odd: &[u8] = b"n=z\xfcrich; session=x";
        assert_eq!(left(&[odd], None), ["n=z\u{fffd}rich"]);
    }
}
