//! The file's own tests: about things that exist, and not contradicting themselves.

use std::net::SocketAddr;

use crate::diagnostic::{Code, Diagnostic};
use crate::document::{Document, EndpointPlace, Test};
use crate::resolve::{Definition, Names};
use crate::source::At;

pub(super) fn check(document: &Document, names: &Names<'_>, found: &mut Vec<Diagnostic>) {
    for test in &document.tests {
        crate::check::shown::shown(&test.name, found);
        for down in &test.down {
            check_down(document, names, down, found);
        }
        let expected = test.expect.share.iter().map(|(pool, _)| pool);
        for pool in test.expect.only.iter().chain(expected) {
            if !matches!(names.get(&pool.value), Some(Definition::Pool(_))) {
                found.push(unknown_pool(pool, &pool.value, names));
            }
        }
        if let Some(route) = &test.expect.route {
            let routes = || {
                document
                    .routes
                    .iter()
                    .filter_map(|route| route.name.as_ref())
            };
            if !routes().any(|name| name.value == route.value) {
                found.push(
                    Diagnostic::error(
                        Code::UnknownName,
                        route.origin,
                        format!("there is no route named `{route}`"),
                    )
                    .suggest(&route.value, routes().map(|name| name.value.as_str())),
                );
            }
        }
        shape(test, found);
    }
}

fn check_down(
    document: &Document,
    names: &Names<'_>,
    down: &At<String>,
    found: &mut Vec<Diagnostic>,
) {
    let (pool, endpoint) = match down.value.split_once('/') {
        Some((pool, endpoint)) => (pool, Some(endpoint)),
        None => (down.value.as_str(), None),
    };
    let Some(Definition::Pool(at)) = names.get(pool) else {
        found.push(unknown_pool(down, pool, names));
        return;
    };
    let Some(endpoint) = endpoint else {
        return;
    };
    let addresses = || {
        document.pools.0[at]
            .1
            .endpoints
            .iter()
            .filter_map(|endpoint| match &endpoint.place {
                EndpointPlace::Address(address) => Some(address.value),
                EndpointPlace::Dns(_) => None,
            })
    };
    let known = endpoint
        .parse::<SocketAddr>()
        .is_ok_and(|wanted| addresses().any(|address| address == wanted));
    if !known {
        let all: Vec<String> = addresses().map(|address| address.to_string()).collect();
        found.push(
            Diagnostic::error(
                Code::UnknownName,
                down.origin,
                format!("the pool `{pool}` has no endpoint `{endpoint}`"),
            )
            .suggest(endpoint, all.iter().map(String::as_str)),
        );
    }
}

fn unknown_pool(place: &At<String>, name: &str, names: &Names<'_>) -> Diagnostic {
    Diagnostic::error(
        Code::UnknownName,
        place.origin,
        format!("there is no pool named `{name}`"),
    )
    .suggest(name, names.iter(true))
}

fn shape(test: &Test, found: &mut Vec<Diagnostic>) {
    let expect = &test.expect;
    if expect.only.is_empty()
        && expect.share.iter().next().is_none()
        && expect.status.is_none()
        && expect.route.is_none()
    {
        found.push(
            Diagnostic::error(
                Code::MissingKey,
                expect.origin,
                format!("the test `{}` expects nothing and cannot fail", test.name),
            )
            .help("give it `only`, `share`, `status` or `route`"),
        );
    }
    let sum: f64 = expect
        .share
        .iter()
        .map(|(_, share)| share.value.fraction())
        .sum();
    if sum > 1.0 + 1e-9 {
        found.push(Diagnostic::error(
            Code::BadValue,
            expect.origin,
            format!(
                "the shares of the test `{}` add up to more than 100%",
                test.name
            ),
        ));
    }
    if !test.request.path.value.starts_with('/') {
        found.push(Diagnostic::error(
            Code::BadValue,
            test.request.path.origin,
            "the path does not begin with a slash",
        ));
    }
    let client = &test.client;
    if let (Some(country), Some(subdivision)) = (&client.country, &client.subdivision)
        && country.value.id() != subdivision.value.country()
    {
        found.push(Diagnostic::error(
            Code::BadValue,
            subdivision.origin,
            format!("`{}` is not a part of `{}`", subdivision.value.code(), {
                use crate::scalar::FromScalar as _;
                country.value.show()
            }),
        ));
    }
}
