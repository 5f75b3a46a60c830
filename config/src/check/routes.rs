//! Routes: told apart from each other, with edits that cannot break a request.

use std::collections::HashMap;
use std::slice;

use http::HeaderName;

use crate::check::headers::PROTECTED;
use crate::diagnostic::{Code, Diagnostic};
use crate::document::{Affinity, Document, HeaderEdits, HedgeAfter, PathMatch, Route, WhenAllDown};
use crate::names::HostPattern;
use crate::plan::PathsPlan;
use crate::source::{At, Origin};

pub(super) fn check(document: &Document, found: &mut Vec<Diagnostic>) {
    let mut names: HashMap<&str, Origin> = HashMap::with_capacity(document.routes.len());
    let mut matches = HashMap::with_capacity(document.routes.len());
    for route in &document.routes {
        if let Some(name) = &route.name {
            crate::check::shown::shown(name, found);
        }
        if let Some(name) = &route.name
            && let Some(first) = names.insert(name.value.as_str(), name.origin)
        {
            found.push(
                Diagnostic::error(
                    Code::DuplicateName,
                    name.origin,
                    format!("two routes are named `{name}`"),
                )
                .related(first, "the other one"),
            );
        }
        if let (Some(host), false) = (&route.host, route.hosts.is_empty()) {
            found.push(Diagnostic::error(
                Code::BadValue,
                host.origin,
                "a route has `host` or `hosts`, not both",
            ));
        }
        duplicates(route, &mut matches, found);
        written_as_matched(route, document, found);
        edits(&route.request_headers, found);
        edits(&route.response_headers, found);
        rewrite(route, found);
        if let Some(affinity) = route.affinity.on() {
            check_affinity(affinity, found);
        }
        if let WhenAllDown::Respond(respond) = &*route.when_all_down
            && !(400..=599).contains(&respond.status.value)
        {
            found.push(Diagnostic::error(
                Code::BadValue,
                respond.status.origin,
                format!("`{}` is not a status from 400 to 599", respond.status),
            ));
        }
        retries(route, found);
    }
}

/// Limits of what is held back for another try.
fn retries(route: &Route, found: &mut Vec<Diagnostic>) {
    const MOST_TRIES: u32 = 10;
    const LARGEST_BODY: u64 = 1 << 20;
    let tries = &route.retry.tries;
    if tries.value.get() > MOST_TRIES {
        found.push(Diagnostic::error(
            Code::BadValue,
            tries.origin,
            format!("more than {MOST_TRIES} tries of one request"),
        ));
    }
    let body = &route.retry.max_body;
    if body.value.bytes() > LARGEST_BODY {
        found.push(
            Diagnostic::error(
                Code::BadValue,
                body.origin,
                format!("`{body}` of every request would be held in memory"),
            )
            .help("the most is 1MiB; larger bodies are sent on as they come"),
        );
    }
    for (name, limit) in [
        ("timeout", Some(&route.timeout)),
        ("per_try", route.retry.per_try.as_ref()),
    ] {
        if let Some(limit) = limit
            && limit.value.duration().is_zero()
        {
            found.push(Diagnostic::error(
                Code::BadValue,
                limit.origin,
                format!("with `{name}: 0s` no request could ever be answered"),
            ));
        }
    }
    if let Some(hedge) = &route.hedge
        && let Some(written) = &hedge.after
        && let HedgeAfter::Time(after) = written.value
        && after.duration() >= route.timeout.value.duration()
    {
        found.push(Diagnostic::error(
            Code::BadValue,
            written.origin,
            "the second try would begin after the route's `timeout`",
        ));
    }
}

/// What tells routes apart.
#[derive(PartialEq, Eq, Hash)]
struct Matched<'a> {
    host: Option<&'a HostPattern>,
    path: PathKey<'a>,
    /// The methods and headers, if there are any.
    rest: Option<Box<Rest<'a>>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Rest<'a> {
    methods: Vec<&'a str>,
    headers: Vec<(&'a str, &'a str)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum PathKey<'a> {
    Prefix(&'a str),
    Exact(&'a str),
    Regex(&'a str),
}

/// Complains about a route that the same requests would match as another before it.
fn duplicates<'a>(
    route: &'a Route,
    seen: &mut HashMap<Matched<'a>, Origin>,
    found: &mut Vec<Diagnostic>,
) {
    let path = match &route.path {
        None => PathKey::Prefix(""),
        Some(PathMatch::Prefix(path)) => PathKey::Prefix(path.value.as_str().trim_end_matches('/')),
        Some(PathMatch::Exact(path)) => PathKey::Exact(path.value.as_str()),
        Some(PathMatch::Regex(pattern)) => PathKey::Regex(pattern.value.regex().as_str()),
    };
    let mut methods: Vec<_> = route.methods.iter().map(|m| m.value.as_str()).collect();
    methods.sort_unstable();
    methods.dedup();
    let mut headers: Vec<_> = route
        .headers
        .iter()
        .map(|(name, value)| (name.value.as_str(), value.value.as_str()))
        .collect();
    headers.sort_unstable();
    let some = !methods.is_empty() || !headers.is_empty();
    let rest = some.then(|| Box::new(Rest { methods, headers }));
    let every_host = route.host.is_none() && route.hosts.is_empty();
    let hosts = route.host.as_ref().map_or(&*route.hosts, slice::from_ref);
    let hosts = hosts.iter().map(|host| Some(&host.value));
    for host in hosts.chain(every_host.then_some(None)) {
        let key = Matched {
            host,
            path,
            rest: rest.clone(),
        };
        if let Some(first) = seen.insert(key, route.origin) {
            let shown = host.map_or_else(|| "any host".to_owned(), ToString::to_string);
            let twice = first == route.origin;
            let message = if twice {
                format!("`{shown}` stands in this route twice")
            } else {
                format!("the same requests to {shown} match an earlier route")
            };
            let mut diagnostic = Diagnostic::error(Code::DuplicateRoute, route.origin, message);
            if !twice {
                diagnostic = diagnostic.related(first, "this one");
            }
            found.push(diagnostic);
            return;
        }
    }
}

/// A client is known by one thing.
fn check_affinity(affinity: &Affinity, found: &mut Vec<Diagnostic>) {
    let named = [
        affinity.cookie.is_some(),
        affinity.header.is_some(),
        affinity.client_ip.is_some(),
    ];
    if named.into_iter().filter(|named| *named).count() != 1 {
        found.push(Diagnostic::error(
            Code::BadValue,
            affinity.origin,
            "`affinity` needs `cookie`, `header` or `client_ip`, one of them",
        ));
    }
    if let Some(off) = affinity.client_ip.as_ref().filter(|on| !on.value) {
        found.push(
            Diagnostic::error(
                Code::BadValue,
                off.origin,
                "`client_ip: false` means nothing",
            )
            .help("write `affinity: off`"),
        );
    }
}

fn edits(edits: &HeaderEdits, found: &mut Vec<Diagnostic>) {
    let mut check = |name: &At<HeaderName>| {
        if PROTECTED.contains(&name.value.as_str()) {
            let diagnostic = Diagnostic::error(
                Code::BadValue,
                name.origin,
                format!("`{}` belongs to Portolan and cannot be edited", name.value),
            );
            found.push(if name.value == http::header::HOST {
                diagnostic.help("the pool's `host` says what endpoints get")
            } else {
                diagnostic
            });
        }
    };
    edits.remove.iter().for_each(&mut check);
    edits.set.iter().for_each(|(name, _)| check(name));
    edits.add.iter().for_each(|(name, _)| check(name));
}

/// A path that no request can have once `paths` is through with it would never be matched.
fn written_as_matched(route: &Route, document: &Document, found: &mut Vec<Diagnostic>) {
    let Some(PathMatch::Prefix(path) | PathMatch::Exact(path)) = &route.path else {
        return;
    };
    let written = path.value.as_str();
    let help = match PathsPlan::of(&document.paths).normal(written) {
        Ok(normal) if normal == written => return,
        Ok(normal) => format!("requests for it are matched as `{normal}`: write that"),
        Err(fault) => format!("requests for it are refused: the path {fault} (see `paths`)"),
    };
    found.push(
        Diagnostic::error(
            Code::BadValue,
            path.origin,
            format!("no request is ever matched with the path `{written}`"),
        )
        .help(help),
    );
}

fn rewrite(route: &Route, found: &mut Vec<Diagnostic>) {
    let Some(rewrite) = &route.rewrite else {
        return;
    };
    let strip = rewrite.strip_prefix.value.as_str().trim_end_matches('/');
    let path = match &route.path {
        Some(PathMatch::Prefix(path) | PathMatch::Exact(path)) => path.value.as_str(),
        Some(PathMatch::Regex(_)) => return,
        None => "/",
    };
    let inside = path
        .strip_prefix(strip)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if !inside {
        found.push(
            Diagnostic::warning(
                Code::Unreachable,
                rewrite.strip_prefix.origin,
                format!(
                    "paths of this route need not begin with `{}`",
                    rewrite.strip_prefix.value.as_str()
                ),
            )
            .help("those that do not are sent on unchanged"),
        );
    }
}
