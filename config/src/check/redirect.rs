//! Routes that lead to endpoints, and routes that send clients elsewhere: one or the other, and the
//! latter somewhere else.

use crate::decode::reader::Decode;
use crate::decode::reader::Reader;
use crate::diagnostic::{Code, Diagnostic};
use crate::document::{Document, HeaderEdits, PathMatch, Redirect, Route, WhenAllDown};
use crate::node::Node;
use crate::scalar::FromScalar as _;
use crate::source::Origin;

pub(super) fn check(document: &Document, found: &mut Vec<Diagnostic>) {
    for route in &document.routes {
        match (&route.to, &route.redirect) {
            // Of neither, enough was said when the file was read.
            (_, None) => {}
            (Some(to), Some(redirect)) => found.push(
                Diagnostic::error(
                    Code::BadValue,
                    to.origin,
                    "a route has `to` or `redirect`, not both",
                )
                .related(redirect.origin, "clients are sent elsewhere"),
            ),
            (None, Some(redirect)) => {
                useless(route, redirect, found);
                address(route, redirect, found);
            }
        }
    }
}

/// Keys that say what is done with an endpoint, where there is none. What is inherited is meant for
/// others, and what is said by default says nothing.
fn useless(route: &Route, redirect: &Redirect, found: &mut Vec<Diagnostic>) {
    let down = match &*route.when_all_down {
        WhenAllDown::Word(_) => Origin::Default,
        WhenAllDown::Respond(respond) => respond.origin,
    };
    let retry = (!is_default(&route.retry)).then_some(route.retry.origin);
    let edits = |edits: &HeaderEdits| (!is_default(edits)).then_some(edits.origin);
    let written = [
        ("retry", origin(retry)),
        (
            "hedge",
            origin(route.hedge.as_ref().map(|hedge| hedge.origin)),
        ),
        ("rto", origin(route.rto.as_ref().map(|rto| rto.origin))),
        ("when_all_down", down),
        (
            "affinity",
            origin(route.affinity.on().map(|affinity| affinity.origin)),
        ),
        (
            "expose",
            origin(route.expose.value.then_some(route.expose.origin)),
        ),
        ("request_headers", origin(edits(&route.request_headers))),
        ("response_headers", origin(edits(&route.response_headers))),
        (
            "rewrite",
            origin(route.rewrite.as_ref().map(|rewrite| rewrite.origin)),
        ),
    ];
    for (key, origin) in written {
        if matches!(origin, Origin::File(_)) {
            found.push(
                Diagnostic::warning(
                    Code::NoEffect,
                    origin,
                    format!("`{key}` says nothing where clients are sent elsewhere"),
                )
                .related(redirect.origin, "here")
                .help("leave it out"),
            );
        }
    }
}

/// Whether something is as it is when nobody writes it.
fn is_default<T: Decode + PartialEq>(written: &T) -> bool {
    let default = T::decode(&Node::from_default("{}"), &mut Reader::default());
    default.as_ref() == Some(written)
}

fn origin(written: Option<Origin>) -> Origin {
    written.unwrap_or(Origin::Default)
}

/// Whether the new address is one, and another one than before.
fn address(route: &Route, redirect: &Redirect, found: &mut Vec<Diagnostic>) {
    if let (Some(_), Some(prefix)) = (&redirect.path, &redirect.prefix) {
        found.push(Diagnostic::error(
            Code::BadValue,
            prefix.origin,
            "a redirect has `path` or `prefix`, not both",
        ));
    }
    if let Some(prefix) = &redirect.prefix
        && matches!(route.path, Some(PathMatch::Exact(_) | PathMatch::Regex(_)))
    {
        found.push(
            Diagnostic::error(
                Code::BadValue,
                prefix.origin,
                "there is no prefix to replace: the route's `path` is not one",
            )
            .help("write the whole `path`"),
        );
    }
    for path in redirect.path.iter().chain(&redirect.prefix) {
        if path
            .value
            .as_str()
            .parse::<http::uri::PathAndQuery>()
            .is_err()
            || http::HeaderValue::from_str(path.value.as_str()).is_err()
            || !path.value.as_str().is_ascii()
        {
            found.push(
                Diagnostic::error(
                    Code::BadValue,
                    path.origin,
                    format!(
                        "`{}` is not a path that an address can have",
                        path.value.as_str()
                    ),
                )
                .help("escape what is not a plain character: `%20`"),
            );
        }
    }
    let hosts: Vec<String> = route
        .host
        .iter()
        .chain(&route.hosts)
        .map(|host| host.value.show())
        .collect();
    let same_host = redirect
        .host
        .as_ref()
        .is_none_or(|host| hosts.iter().any(|own| own == host.value.as_str()));
    let moved = redirect.scheme.is_some()
        || !same_host
        || redirect.path.is_some()
        || redirect.prefix.is_some()
        || redirect.strip_query.value;
    let back = match (&redirect.path, &redirect.prefix, &route.path) {
        (Some(to), None, Some(PathMatch::Exact(from))) => to.value == from.value,
        (Some(to), None, Some(PathMatch::Prefix(from))) => {
            below(from.value.as_str(), to.value.as_str())
        }
        (Some(_), None, None) => true,
        (None, Some(to), Some(PathMatch::Prefix(from))) => {
            below(from.value.as_str(), to.value.as_str())
        }
        (None, Some(_), None) => true,
        _ => false,
    };
    let stays = redirect.scheme.is_none() && same_host && !redirect.strip_query.value;
    let narrow = !route.headers.0.is_empty() || !route.methods.is_empty();
    if !moved {
        found.push(
            Diagnostic::error(
                Code::BadValue,
                redirect.origin,
                "the redirect leads to where the client is: it would go round in a circle",
            )
            .help("write a `scheme`, a `host`, a `path` or a `prefix`"),
        );
    } else if back && stays && !narrow {
        found.push(Diagnostic::error(
            Code::BadValue,
            redirect.origin,
            "the new address is one of this route: it would go round in a circle",
        ));
    }
}

/// Whether a path is this prefix or below it, by whole segments.
fn below(prefix: &str, path: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
