//! Who may use a route, and how often: limits that can be kept.

use std::collections::HashMap;

use super::clients;
use crate::diagnostic::{Code, Diagnostic};
use crate::document::{Document, LimitKey, RateLimit};
use crate::source::Origin;

/// Faster than this no single client can be told from a slightly slower one.
const MOST_PER_SECOND: u128 = 1_000_000;
/// More tokens than this in a bucket.
const LARGEST_BURST: u32 = 10_000_000;
/// The longest time for tokens to come back.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(366 * 86_400);
/// 8 bytes for each of them.
const MOST_CLIENTS: u32 = 1 << 26;

pub(super) fn check(document: &Document, found: &mut Vec<Diagnostic>) {
    let of_listeners = document.listeners.iter().map(|l| (&l.allow, &l.deny));
    let of_routes = document.routes.iter().map(|r| (&r.allow, &r.deny));
    for (allow, deny) in of_listeners.chain(of_routes) {
        for (key, set) in [("allow", allow), ("deny", deny)] {
            if let Some(set) = set {
                clients::check(set, key, document, found);
            }
        }
    }
    for route in &document.routes {
        let limits = route.rate_limit.iter().flat_map(|limits| &limits.0);
        let mut names: HashMap<&str, Origin> = HashMap::new();
        for limit in limits {
            if let Some(name) = &limit.name
                && let Some(first) = names.insert(name.value.as_str(), name.origin)
            {
                found.push(
                    Diagnostic::error(
                        Code::DuplicateName,
                        name.origin,
                        format!("two limits of this route are named `{name}`"),
                    )
                    .related(first, "the other one"),
                );
            }
            if let LimitKey::JwtClaim(claim) = &limit.on
                && route.auth.on().is_none_or(|auth| auth.jwt.is_none())
            {
                found.push(
                    Diagnostic::error(
                        Code::Unreachable,
                        claim.origin,
                        "the route asks for no token that could have claims",
                    )
                    .help("ask for one with `auth: { jwt: … }`, or limit by something else"),
                );
            }
            rate_limit(limit, found);
        }
    }
}

fn rate_limit(limit: &RateLimit, found: &mut Vec<Diagnostic>) {
    let mut bad = |origin: Origin, message: String, help: &str| {
        found.push(Diagnostic::error(Code::BadValue, origin, message).help(help));
    };
    let per = limit.per.value.duration();
    let requests = limit.requests.value.get();
    if per.is_zero() || per > LONGEST {
        bad(
            limit.per.origin,
            format!("`per: {}` is no time to count in", limit.per),
            "it lies between 1ms and 366d",
        );
    } else if u128::from(requests) * 1_000_000_000 > MOST_PER_SECOND * per.as_nanos() {
        bad(
            limit.requests.origin,
            "more than a million requests each second".to_owned(),
            "limits are for single clients: leave out what nobody reaches",
        );
    }
    let burst = limit.burst.as_ref().unwrap_or(&limit.requests);
    if burst.value.get() > LARGEST_BURST {
        bad(
            burst.origin,
            format!("a burst of `{}` requests", burst.value.get()),
            "the most is 10000000",
        );
    }
    if limit.clients.value.get() > MOST_CLIENTS {
        bad(
            limit.clients.origin,
            format!(
                "`{}` clients would take too much memory",
                limit.clients.value.get()
            ),
            "the most is 67108864, which take 512MiB",
        );
    }
}
