//! Is the configuration sound? Each check looks at the document as written and adds what it finds;
//! none touches the network, the file system or the clock.

mod access;
mod acme;
mod admin;
mod auth;
mod browser;
mod clients;
mod listeners;
mod pools;
mod redirect;
mod references;
mod routes;
mod rto;
mod targets;
mod tests;
mod token;

pub(crate) use references::{Definition, Names};

use crate::diagnostic::{Code, Diagnostic};
use crate::document::Document;
use crate::source::{At, Origin};

/// Every name of a document that has passed the checks.
pub(crate) fn names(document: &Document) -> Names<'_> {
    references::check(document, &mut Vec::new())
}

/// A name is shown everywhere, and what comes from a file is a secret: one of the two is a mistake.
fn shown<T>(name: &At<T>, found: &mut Vec<Diagnostic>) {
    if name.secret {
        found.push(
            Diagnostic::error(
                Code::BadValue,
                name.origin,
                "a name is shown everywhere, and what comes from `${file:…}` is never shown",
            )
            .help("write the name itself, or `${env:…}`"),
        );
    }
}

/// Everything that is wrong, or suspicious, about a document that could be read.
pub(crate) fn check(document: &Document) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let names = references::check(document, &mut found);
    let unresolved = found
        .iter()
        .any(|d| matches!(d.code, Code::UnknownName | Code::Cycle));
    listeners::check(document, &mut found);
    acme::check(document, &mut found);
    admin::check(document, &mut found);
    pools::check(document, &mut found);
    targets::check(document, &names, unresolved, &mut found);
    routes::check(document, &mut found);
    redirect::check(document, &mut found);
    access::check(document, &mut found);
    clients::check_patch(document, &mut found);
    auth::check(document, &mut found);
    browser::check(document, &mut found);
    if !unresolved {
        rto::check(document, &names, &mut found);
    }
    tests::check(document, &names, &mut found);
    // With a misspelt name, what it was meant for looks unused.
    if !unresolved {
        references::check_use(document, &names, &mut found);
    }
    process(document, &mut found);
    found
}

/// What concerns the process as a whole.
fn process(document: &Document, found: &mut Vec<Diagnostic>) {
    // Errors, because a file that is only half written must never replace one that serves.
    if document.listeners.is_empty() {
        found.push(Diagnostic::error(
            Code::NothingToServe,
            Origin::Default,
            "there are no `listeners`: nobody could reach Portolan",
        ));
    }
    if document.routes.is_empty() {
        found.push(Diagnostic::error(
            Code::NothingToServe,
            Origin::Default,
            "there are no `routes`: every request would be answered with 404",
        ));
    }
    if document.lame_duck.value > document.shutdown_timeout.value {
        found.push(
            Diagnostic::error(
                Code::BadValue,
                document.lame_duck.origin,
                format!(
                    "`lame_duck` ({}) is part of `shutdown_timeout` ({}) and cannot be longer",
                    document.lame_duck, document.shutdown_timeout
                ),
            )
            .help("make `shutdown_timeout` longer by as much"),
        );
    }
    if document.client_ip.header.value == http::header::FORWARDED {
        found.push(
            Diagnostic::error(
                Code::BadValue,
                document.client_ip.header.origin,
                "the header `Forwarded` (RFC 7239) is not read",
            )
            .help(
                "use `X-Forwarded-For`, which every proxy can write, or a header with one address",
            ),
        );
    }
    if document.resolver.min_ttl.value > document.resolver.max_ttl.value {
        found.push(Diagnostic::error(
            Code::BadValue,
            document.resolver.min_ttl.origin,
            "`min_ttl` is longer than `max_ttl`",
        ));
    }
    if let Some(workers) = &document.workers {
        const MOST_WORKERS: u32 = 1024;
        if workers.value.get() > MOST_WORKERS {
            found.push(Diagnostic::error(
                Code::BadValue,
                workers.origin,
                format!("more than {MOST_WORKERS} workers"),
            ));
        }
    }
}
